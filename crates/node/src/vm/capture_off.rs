//! One instant of a machine that has no engine: its images as they lie, and what is remembered of how they lay.
//!
//! Here an image is changed (bitmaps are added and removed by qemu-img) only in the machine's task, so that no start
//! comes in between, and only after its seal was looked at: a seal is renewed after a change of ours if it fitted
//! before, and never else.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    time::{Duration, Instant},
};

use nestling_hypervisor::{
    Qemu,
    capture::{BitmapName, DiskPlace},
    disk::{self, DiskError, ServedDisk},
};
use nestling_model::{Disk, DiskFormat, EventKind, Operation, VmState, protection::ConsistencyReached};

use super::{
    capture::{CaptureWish, Held, Plan, Seen, SeenDisk, doubt, on_failure_of},
    owner::Owner,
    task::{Asked, Handle},
};
use crate::{
    blocking::at_disks,
    clock::now_ms,
    error::Result,
    home::{remove_file, short},
    protection::{
        basis::{Bitmap, DiskNow},
        description::place_of,
        tracking::{Seal, Tracking},
    },
};

impl Handle {
    /// Makes an image larger that no engine has.
    pub async fn resize_image(&self, image: Disk, bytes: u64) -> Result<()> {
        self.ask(Operation::Modify, move |owner| Box::pin(owner.resize_image(image, bytes))).await
    }
}

impl Owner {
    pub(super) async fn capture_off(&mut self, wish: CaptureWish) -> Result<Seen> {
        let began = Instant::now();
        // Of two readings of one machine a backup is the one that cannot wait.
        self.free_images("the machine is backed up").await;
        let mut warnings = Vec::new();
        let consistency = self.consistency_off(&wish, &mut warnings)?;
        let qemu = self.node.engines.qemu().await?;
        self.drop_touched(&qemu).await?;
        let keeping = self.keeping().await?;
        let mut looked = HashMap::new();
        for disk in &self.vm.disks {
            looked.insert(place_of(disk), look(&qemu, disk, &keeping).await?);
        }
        let plan = self.plan(&wish, |disk| looked.get(&place_of(disk)).cloned()).await?;
        self.note_begun(&wish, plan.number).await?;
        let seen = self.serve_planned(&qemu, plan, began).await;
        if seen.is_err()
            && let Err(error) = self.retire_run(wish.run).await
        {
            tracing::warn!(error = error.message(), "what a backup began could not be taken back");
        }
        seen.map(|seen| Seen { consistency, warnings, ..seen })
    }

    /// What the disks of a machine without an engine are worth.
    fn consistency_off(&self, wish: &CaptureWish, warnings: &mut Vec<String>) -> Result<ConsistencyReached> {
        let why = match (self.vm.state, &self.vm.state_reason) {
            (VmState::Saved, _) => {
                "the machine is saved, and what its memory holds is not part of its disks".to_owned()
            }
            (_, Some(reason)) => format!("the machine was not shut down ({reason})"),
            (_, None) => return Ok(ConsistencyReached::Off),
        };
        if let Some(on_failure) = on_failure_of(&wish.consistency) {
            self.crash_consistent(on_failure, why, warnings)?;
        }
        Ok(ConsistencyReached::Crash)
    }

    async fn serve_planned(&self, qemu: &Qemu, plan: Plan, began: Instant) -> Result<Seen> {
        let taken_at_ms = now_ms();
        for (number, image) in plan.included.iter().enumerate() {
            if let Some(begun) = plan.begin(number) {
                self.change_image(image, async || disk::add_bitmap(qemu, &image.path, begun).await).await?;
            }
        }
        self.node.steps.reached("bitmaps added");
        let mut servers = Vec::new();
        let mut disks = Vec::new();
        for (number, image) in plan.included.iter().enumerate() {
            let since = plan.basis.disks[number];
            let server = self.serve(qemu, image, since.ok()).await?;
            disks.push(SeenDisk {
                disk: image.clone(),
                bytes: plan.now[number].bytes,
                begun: plan.begin(number),
                since,
                socket: server.socket().to_owned(),
                export: server.export().to_owned(),
                context: server.context().map(str::to_owned),
            });
            servers.push(server);
        }
        Ok(Seen {
            held: Held::Images(self.node.protection.readings.hold(self.vm.id, servers)),
            vm: self.vm.clone(),
            taken_at_ms,
            disks,
            left_out: plan.left_out,
            point: plan.basis.point,
            number: plan.number,
            replaced: plan.replaced,
            consistency: ConsistencyReached::Off,
            frozen_for: Duration::ZERO,
            took: began.elapsed(),
            warnings: Vec::new(),
        })
    }

    pub(super) async fn serve(
        &self,
        qemu: &Qemu,
        image: &Disk,
        since: Option<BitmapName>,
    ) -> Result<ServedDisk> {
        let name = format!("{}-{}", short(self.vm.id), place_of(image));
        let socket = self.node.home.read().join(name);
        // A node that died left it; the server died with it.
        remove_file(&socket)?;
        Ok(disk::serve(qemu, &image.path, image.format, since, &socket).await?)
    }

    /// Changes an image, and renews its seal if it fitted before.
    async fn change_image(
        &self,
        image: &Disk,
        change: impl AsyncFnOnce() -> std::result::Result<(), DiskError>,
    ) -> Result<()> {
        let book = &self.node.protection.tracking;
        let before = seal_of(image).await?;
        let fitted = book.get(self.vm.id).await.is_some_and(|known| known.fits(before.as_ref()));
        change().await?;
        if fitted {
            let after = seal_of(image).await?;
            book.update(self.vm.id, |tracking| tracking.set_seal(&image.path, after)).await?;
        }
        Ok(())
    }

    /// Removes bitmaps from images.
    pub(super) async fn retire_off(&self, bitmaps: &[(DiskPlace, BitmapName)]) -> Result<()> {
        let qemu = self.node.engines.qemu().await?;
        for image in &self.vm.disks {
            let place = place_of(image);
            let wanted: HashSet<BitmapName> =
                bitmaps.iter().filter(|(of, _)| *of == place).map(|(_, name)| *name).collect();
            if wanted.is_empty() || image.format != DiskFormat::Qcow2 {
                continue;
            }
            let there = disk::bitmaps(&qemu, &image.path).await?;
            for bitmap in there.iter().filter(|bitmap| wanted.contains(&bitmap.name)) {
                self.change_image(image, async || disk::remove_bitmap(&qemu, &image.path, bitmap.name).await)
                    .await?;
            }
        }
        Ok(())
    }

    /// Before an engine gets the images, or a backup looks at them: bitmaps of those that are not as they were left are
    /// dropped. What can't be dropped is doubted, which is as good; a backup must not keep a machine from starting.
    pub(super) async fn drop_touched(&self, qemu: &Qemu) -> Result<()> {
        let tracking = self.node.protection.tracking.get(self.vm.id).await;
        for (image, seal) in self.seals(&self.vm.disks).await? {
            if !tracking.as_ref().is_some_and(|known| known.fits(seal.as_ref())) {
                self.drop_tracking_of(qemu, &image).await?;
            }
        }
        Ok(())
    }

    /// The same for one image that an engine is about to get.
    pub(super) async fn drop_if_touched(&self, image: &Disk) -> Result<()> {
        let Some(tracking) = self.node.protection.tracking.get(self.vm.id).await else { return Ok(()) };
        for (image, seal) in self.seals(std::slice::from_ref(image)).await? {
            if !tracking.fits(seal.as_ref()) {
                self.drop_tracking_of(&self.node.engines.qemu().await?, &image).await?;
            }
        }
        Ok(())
    }

    async fn drop_tracking_of(&self, qemu: &Qemu, image: &Disk) -> Result<()> {
        if self.drop_tracking(qemu, image).await? > 0 {
            self.tell_touched(&image.path);
        }
        Ok(())
    }

    /// Nothing that was tracked on an image is believed from now on. How many bitmaps went.
    pub(super) async fn drop_tracking(&self, qemu: &Qemu, image: &Disk) -> Result<usize> {
        let book = &self.node.protection.tracking;
        let dropped = drop_bitmaps(qemu, image).await;
        let seal = seal_of(image).await?;
        let path = image.path.clone();
        match dropped {
            Ok(count) => {
                book.update(self.vm.id, |tracking| tracking.set_seal(&path, seal)).await?;
                Ok(count)
            }
            Err(error) => {
                tracing::warn!(%error, "change tracking that is not believed could not be dropped");
                let doubt = |tracking: &mut Tracking| {
                    tracking.set_seal(&path, None);
                    if !tracking.doubted.contains(&path) {
                        tracking.doubted.push(path.clone());
                    }
                };
                book.update(self.vm.id, doubt).await?;
                Ok(0)
            }
        }
    }

    fn tell_touched(&self, path: &Path) {
        let message = format!(
            "{} is not known to be as its engine left it, in the place that it had; its change tracking is dropped, and the next backup compares all of it",
            path.display()
        );
        self.node.events.tell(EventKind::Warning, self.vm.name.as_str(), message);
    }

    /// How those images lie that can be tracked.
    pub(super) async fn seals(&self, disks: &[Disk]) -> Result<Vec<(Disk, Option<Seal>)>> {
        let tracked = |d: &&Disk| d.format == DiskFormat::Qcow2 && !d.read_only;
        let images: Vec<Disk> = disks.iter().filter(tracked).cloned().collect();
        at_disks(move |look| {
            let seal = |disk: Disk| {
                let seal = Seal::of(&disk, look);
                (disk, seal)
            };
            Ok(images.into_iter().map(seal).collect())
        })
        .await
    }

    /// An engine of ours has ended and nobody else has had the images since: this is how it left them.
    pub(super) async fn seal_disks(&self) {
        let book = &self.node.protection.tracking;
        if book.get(self.vm.id).await.is_none() {
            return;
        }
        let sealed = match self.seals(&self.vm.disks).await {
            Ok(seals) => {
                let seals = seals.into_iter().filter_map(|(_, seal)| seal).collect();
                book.update(self.vm.id, |tracking| tracking.set_seals(seals)).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = sealed {
            // No seal fits then, which costs the next backup a comparison.
            tracing::warn!(vm = %self.vm.name, error = error.message(), "how its disks lie is not known");
        }
    }

    /// An engine has let go of one image.
    pub(super) async fn seal_image(&self, image: &Disk) -> Result<()> {
        let book = &self.node.protection.tracking;
        if book.get(self.vm.id).await.is_none() {
            return Ok(());
        }
        let seal = seal_of(image).await?;
        book.update(self.vm.id, |tracking| tracking.set_seal(&image.path, seal)).await
    }

    async fn resize_image(&mut self, image: Disk, bytes: u64) -> Result<()> {
        if self.vm.state.has_engine() {
            return Err(Asked::from(Operation::ModifyWhenOff).refuse(&self.vm, self.vm.state));
        }
        self.free_images("its disk was made larger").await;
        let qemu = self.node.engines.qemu().await?;
        if image.format == DiskFormat::Qcow2 {
            // QEMU refuses to resize an image with such a bitmap.
            let there = disk::bitmaps(&qemu, &image.path).await?;
            for bitmap in there.iter().filter(|bitmap| bitmap.inconsistent) {
                self.change_image(&image, async || {
                    disk::remove_bitmap(&qemu, &image.path, bitmap.name).await
                })
                .await?;
            }
        }
        self.change_image(&image, async || disk::resize(&qemu, &image.path, image.format, bytes).await).await
    }

    /// Nobody reads the images any more when this returns.
    pub(super) async fn free_images(&self, why: &str) {
        self.node.protection.readings.interrupt(self.vm.id, why).await;
    }
}

async fn seal_of(image: &Disk) -> Result<Option<Seal>> {
    let image = image.clone();
    at_disks(move |look| Ok(Seal::of(&image, look))).await
}

/// Drops all bitmaps of ours in an image; how many there were.
async fn drop_bitmaps(qemu: &Qemu, image: &Disk) -> std::result::Result<usize, DiskError> {
    let there = disk::bitmaps(qemu, &image.path).await?;
    for bitmap in &there {
        disk::remove_bitmap(qemu, &image.path, bitmap.name).await?;
    }
    Ok(there.len())
}

pub async fn look(qemu: &Qemu, image: &Disk, keeping: &HashSet<DiskPlace>) -> Result<DiskNow> {
    let place = place_of(image);
    let info = disk::info(qemu, &image.path, Some(image.format)).await?;
    let bitmaps = match image.format {
        DiskFormat::Qcow2 => disk::bitmaps(qemu, &image.path).await?,
        DiskFormat::Raw => Vec::new(),
    };
    let bitmap = |bitmap: &disk::StoredBitmap| Bitmap {
        name: bitmap.name,
        doubt: doubt(bitmap.inconsistent, bitmap.recording, bitmap.granularity),
    };
    Ok(DiskNow {
        place,
        bytes: info.virtual_bytes,
        tracks: !image.read_only && keeping.contains(&place),
        keeps: keeping.contains(&place),
        // Whatever was touched has lost its bitmaps by now.
        touched: false,
        bitmaps: bitmaps.iter().map(bitmap).collect(),
    })
}
