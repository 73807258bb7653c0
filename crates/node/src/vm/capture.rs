//! One instant of a machine's disks: what its task does for a backup. What is then read is read outside of the task.
//!
//! This file decides with `basis` and speaks to the engine; `capture_off` does the same for a machine without one. In
//! every way out, power off included, the guest is thawed and what was begun is undone: what holds it gives it back
//! when it is dropped.

use std::{
    collections::HashSet,
    fs::File,
    io::Read,
    path::PathBuf,
    time::{Duration, Instant},
};

use nestling_hypervisor::{
    Machine, RunState,
    agent::{FreezeRequest, Frozen, Thawed},
    capture::{
        BitmapName, BitmapReport, Capture, CaptureError, CaptureRequest, DiskBitmaps, DiskPlace, DiskRequest,
        Fleecing, GRANULARITY,
    },
};
use nestling_model::{
    Disk, DiskFormat, EventKind, Vm, VmState,
    protection::{Consistency, ConsistencyReached, DiskSelector, Freeze, NotTracked, OnFailure, RunId},
};
use uuid::Uuid;

use super::owner::Owner;
use crate::{
    NodeError,
    blocking::at_disks,
    clock::now_ms,
    error::Result,
    protection::{
        basis::{self, Basis, Bitmap, DiskNow, DiskThen},
        description::{DiskAt, place_of},
        readings::Reading,
        tracking::{Begun, Purpose, Tracking},
    },
};

/// For a guest to let go of its file systems once the instant has been.
const THAW_WITHIN: Duration = Duration::from_secs(60);
/// What is kept of what a guest overwrites takes at most this part of what is free.
const FLEECING_SHARE: u64 = 2;
const FLEECING_BYTES_MIN: u64 = 16 << 20;

/// What a backup wants of a machine.
#[derive(Debug, Clone)]
pub struct CaptureWish {
    pub run: RunId,
    pub purpose: Purpose,
    /// The machine's points there, newest first, as far as they were read.
    pub points: Vec<Vec<DiskThen>>,
    pub full: bool,
    pub excluded: Vec<DiskSelector>,
    pub consistency: Consistency,
}

/// Who keeps the instant.
#[derive(Debug)]
pub enum Held {
    Engine(Capture),
    Images(Reading),
}

/// One disk of it, as an NBD client finds it.
#[derive(Debug, Clone)]
pub struct SeenDisk {
    pub disk: Disk,
    pub bytes: u64,
    /// The bitmap that began.
    pub begun: Option<BitmapName>,
    /// Whether only what changed is read, or why not.
    pub since: std::result::Result<BitmapName, NotTracked>,
    pub socket: PathBuf,
    pub export: String,
    /// For `qemu:dirty-bitmap:NAME`.
    pub context: Option<String>,
}

/// A machine's disks at one instant.
#[derive(Debug)]
pub struct Seen {
    pub held: Held,
    /// The machine as it was defined then.
    pub vm: Vm,
    pub taken_at_ms: u64,
    pub disks: Vec<SeenDisk>,
    pub left_out: Vec<DiskAt>,
    /// The number of the point that it counts from or is compared with.
    pub point: Option<usize>,
    pub number: BitmapName,
    /// Older bitmaps that are of no use once the point of this instant is durable.
    pub replaced: Vec<(DiskPlace, BitmapName)>,
    pub consistency: ConsistencyReached,
    pub frozen_for: Duration,
    pub took: Duration,
    pub warnings: Vec<String>,
}

/// What is to be captured, decided.
pub struct Plan {
    pub included: Vec<Disk>,
    pub left_out: Vec<DiskAt>,
    pub now: Vec<DiskNow>,
    pub basis: Basis,
    pub number: BitmapName,
    pub replaced: Vec<(DiskPlace, BitmapName)>,
}

impl Plan {
    /// The bitmap to begin on a disk.
    pub fn begin(&self, number: usize) -> Option<BitmapName> {
        self.now[number].tracks.then_some(self.number)
    }
}

impl Owner {
    /// Captures the machine as it is: with its engine, or from its images.
    pub async fn capture(&mut self, wish: CaptureWish) -> Result<Seen> {
        self.check_here()?;
        self.node.recovery.unfinished.check(&self.vm.name, &self.vm.disks).await?;
        match self.vm.state {
            VmState::Off | VmState::Saved => self.capture_off(wish).await,
            _ => self.capture_running(wish).await,
        }
    }

    async fn capture_running(&mut self, wish: CaptureWish) -> Result<Seen> {
        let machine = self.machine()?.clone();
        if machine.is_captured() {
            return Err(self.not_captured(CaptureError::Busy));
        }
        let began = Instant::now();
        self.drop_doubted(&machine).await?;
        let reports = machine.bitmaps().await.map_err(|e| self.not_captured(e))?;
        let keeping = self.keeping().await?;
        let plan = self.plan(&wish, |disk| running_disk(disk, &reports, &keeping)).await?;
        self.note_begun(&wish, plan.number).await?;
        let seen = self.capture_planned(&machine, &wish, plan, began).await;
        if seen.is_err() {
            self.forget_begun(wish.run).await;
        }
        seen
    }

    async fn capture_planned(
        &self,
        machine: &Machine,
        wish: &CaptureWish,
        plan: Plan,
        began: Instant,
    ) -> Result<Seen> {
        let disks = plan.included.iter().enumerate().map(|(number, disk)| DiskRequest {
            disk: place_of(disk),
            begin: plan.begin(number),
            since: plan.basis.disks[number].ok(),
        });
        let request =
            CaptureRequest { disks: disks.collect(), fleecing: self.fleecing(plan.included.len())? };
        let prepared = machine.prepare_capture(request).await.map_err(|e| self.not_captured(e))?;
        self.node.steps.reached("capture prepared");
        let mut warnings = Vec::new();
        let frozen = self.freeze(machine, &wish.consistency, &mut warnings).await?;
        let taken_at_ms = now_ms();
        let instant = prepared.instant().await;
        let (consistency, frozen_for) = match frozen {
            Some(frozen) => self.thaw(frozen, &wish.consistency, &mut warnings).await?,
            None => (ConsistencyReached::Crash, Duration::ZERO),
        };
        let capture = instant.map_err(|e| self.not_captured(e))?;
        let disks = plan.included.iter().enumerate().map(|(number, disk)| {
            let served = capture.disks().iter().find(|served| served.disk == place_of(disk))?;
            Some(SeenDisk {
                disk: disk.clone(),
                bytes: served.bytes,
                begun: plan.begin(number),
                since: plan.basis.disks[number],
                socket: capture.socket().to_owned(),
                export: served.export.clone(),
                context: served.changed.as_ref().map(|changed| changed.context.clone()),
            })
        });
        let disks: Option<Vec<SeenDisk>> = disks.collect();
        let disks = disks.ok_or_else(|| NodeError::Internal("a captured disk is not served".to_owned()))?;
        Ok(Seen {
            held: Held::Engine(capture),
            vm: self.vm.clone(),
            taken_at_ms,
            disks,
            left_out: plan.left_out,
            point: plan.basis.point,
            number: plan.number,
            replaced: plan.replaced,
            consistency,
            frozen_for,
            took: began.elapsed(),
            warnings,
        })
    }

    /// What is looked at, from where it counts, and what becomes needless. `look` tells what is known of a disk.
    pub async fn plan(&self, wish: &CaptureWish, look: impl Fn(&Disk) -> Option<DiskNow>) -> Result<Plan> {
        let (excluded, included): (Vec<Disk>, Vec<Disk>) =
            self.vm.disks.iter().cloned().partition(|disk| is_excluded(disk, &wish.excluded));
        if included.is_empty() {
            return Err(NodeError::NothingToSave { vm: self.vm.name.clone() });
        }
        let left_out =
            excluded.iter().map(|d| DiskAt { controller: d.controller, location: d.location }).collect();
        let now: Option<Vec<DiskNow>> = included.iter().map(&look).collect();
        let now = now.ok_or_else(|| {
            NodeError::Internal("a disk of the machine is not known to its engine".to_owned())
        })?;
        let basis = basis::choose(&now, &wish.points, wish.full);
        let tracking = self.node.protection.tracking.get(self.vm.id).await;
        let known = |id| self.node.protection.repositories.get(id).is_some();
        let kept = tracking.map(|tracking| tracking.kept_beside(wish.purpose, known)).unwrap_or_default();
        let old = now.iter().flat_map(|disk| disk.bitmaps.iter().map(|bitmap| (disk.place, bitmap.name)));
        let replaced = old.filter(|(_, name)| !kept.contains(name)).collect();
        Ok(Plan { included, left_out, now, basis, number: BitmapName(Uuid::new_v4()), replaced })
    }

    /// The disks whose images can keep bitmaps when no engine has them.
    pub async fn keeping(&self) -> Result<HashSet<DiskPlace>> {
        let disks = self.vm.disks.clone();
        at_disks(move |look| {
            let keeps = |disk: &&Disk| {
                look.at(&disk.path);
                can_keep_bitmaps(disk)
            };
            Ok(disks.iter().filter(keeps).map(place_of).collect())
        })
        .await
    }

    /// Written down before the instant, so that a node that dies knows what it leaves.
    pub async fn note_begun(&self, wish: &CaptureWish, number: BitmapName) -> Result<()> {
        let Purpose { repository, above } = wish.purpose;
        let begun = Begun { number: number.0, repository, run: wish.run, durable: false, above };
        self.node.protection.tracking.update(self.vm.id, |tracking| tracking.begun.push(begun)).await
    }

    /// What a run began is no more.
    pub async fn forget_begun(&self, run: RunId) {
        let forget =
            |tracking: &mut Tracking| tracking.begun.retain(|begun| begun.run != run || begun.durable);
        if let Err(error) = self.node.protection.tracking.update(self.vm.id, forget).await {
            tracing::warn!(error = error.message(), "what a backup began is not forgotten");
        }
    }

    /// Removes what is not believed and could not be removed while the machine was off. Of a machine that was never
    /// backed up, as far as this node knows, nobody has looked at how its images lay when it started.
    async fn drop_doubted(&self, machine: &Machine) -> Result<()> {
        let tracking = self.node.protection.tracking.get(self.vm.id).await;
        let is_doubted = |disk: &&Disk| tracking.as_ref().is_none_or(|known| known.doubts(disk));
        let doubted: Vec<DiskPlace> = self.vm.disks.iter().filter(is_doubted).map(place_of).collect();
        if doubted.is_empty() {
            return Ok(());
        }
        let reports = machine.bitmaps().await.map_err(|e| self.not_captured(e))?;
        let ours = reports.iter().filter(|report| doubted.contains(&report.disk));
        let ours: Vec<_> = ours.flat_map(|r| r.bitmaps.iter().map(|bitmap| (r.disk, bitmap.name))).collect();
        machine.remove_bitmaps(&ours).await.map_err(|e| self.not_captured(e))?;
        self.node.protection.tracking.update(self.vm.id, |tracking| tracking.doubted.clear()).await
    }

    /// Beside the machine's own files, and never so much that the host has no room left.
    fn fleecing(&self, disks: usize) -> Result<Fleecing> {
        let files = self.files();
        files.make()?;
        let dir = files.dir().to_owned();
        let room = rustix::fs::statvfs(&dir).map_err(|e| NodeError::io("look at", &dir)(e.into()))?;
        let free = room.f_bavail.saturating_mul(room.f_frsize);
        let bytes_max = free / FLEECING_SHARE / (disks.max(1) as u64);
        Ok(Fleecing { dir, bytes_max: bytes_max.max(FLEECING_BYTES_MIN) })
    }

    pub fn not_captured(&self, source: CaptureError) -> NodeError {
        NodeError::Capture { vm: self.vm.name.clone(), source }
    }

    /// Holds the guest's file systems still, if that is wanted. What cannot be done fails or is a warning, as is wanted.
    async fn freeze(
        &self,
        machine: &Machine,
        consistency: &Consistency,
        warnings: &mut Vec<String>,
    ) -> Result<Option<Frozen>> {
        let Some((freeze, on_failure)) = freeze_of(consistency) else { return Ok(None) };
        if !matches!(machine.run_state().await, Ok(RunState::Running)) {
            let why = "it is paused, so its guest cannot write out what it holds";
            return self.crash_consistent(on_failure, why.to_owned(), warnings).map(|()| None);
        }
        let within = Duration::from_secs(freeze.seconds_max.into());
        let mountpoints = (!freeze.mount_points.is_empty()).then(|| freeze.mount_points.clone());
        match machine.agent().freeze(FreezeRequest { mountpoints, within, hold_max: within }).await {
            Ok(frozen) => Ok(Some(frozen)),
            Err(source) if on_failure == OnFailure::Fail => {
                Err(NodeError::Freeze { vm: self.vm.name.clone(), source })
            }
            Err(source) => {
                let failed = NodeError::Freeze { vm: self.vm.name.clone(), source };
                self.crash_consistent(OnFailure::Warn, failed.message(), warnings).map(|()| None)
            }
        }
    }

    /// There is no consistency of file systems: a warning or an error.
    pub fn crash_consistent(
        &self,
        on_failure: OnFailure,
        why: String,
        warnings: &mut Vec<String>,
    ) -> Result<()> {
        if on_failure == OnFailure::Fail {
            return Err(NodeError::BackupEnded { vm: self.vm.name.clone(), why });
        }
        warnings.push(format!("its disks are as after a power cut: {why}"));
        Ok(())
    }

    async fn thaw(
        &self,
        frozen: Frozen,
        consistency: &Consistency,
        warnings: &mut Vec<String>,
    ) -> Result<(ConsistencyReached, Duration)> {
        let on_failure = freeze_of(consistency).map_or(OnFailure::Warn, |(_, on_failure)| on_failure);
        match frozen.thaw(THAW_WITHIN).await {
            Ok(Thawed { held: true, frozen_for, .. }) => Ok((ConsistencyReached::FileSystem, frozen_for)),
            Ok(Thawed { held: false, frozen_for, .. }) => {
                let why = "the guest did not hold still until the instant was over";
                self.crash_consistent(on_failure, why.to_owned(), warnings)?;
                Ok((ConsistencyReached::Crash, frozen_for))
            }
            Err(source) => {
                // It held for the instant, and still does: the point is as good as its guest is bad off.
                let error = NodeError::Freeze { vm: self.vm.name.clone(), source }.message();
                self.node.events.tell(EventKind::Warning, self.vm.name.as_str(), error.as_str());
                warnings.push(error);
                Ok((ConsistencyReached::FileSystem, THAW_WITHIN))
            }
        }
    }

    /// Removes bitmaps, wherever the disks are by now; those that are not there count as removed.
    pub async fn retire(&mut self, bitmaps: Vec<(DiskPlace, BitmapName)>) -> Result<()> {
        match self.machine().cloned() {
            Ok(machine) => machine.remove_bitmaps(&bitmaps).await.map_err(|e| self.not_captured(e)),
            Err(_) => self.retire_off(&bitmaps).await,
        }
    }

    /// Removes what a run began that came to nothing: on all disks, whichever it was on.
    pub async fn retire_run(&mut self, run: RunId) -> Result<()> {
        let Some(tracking) = self.node.protection.tracking.get(self.vm.id).await else { return Ok(()) };
        let begun = tracking.begun.iter().filter(|begun| begun.run == run && !begun.durable);
        let names: Vec<BitmapName> = begun.map(Begun::name).collect();
        let places: Vec<DiskPlace> = self.vm.disks.iter().filter(|d| !d.read_only).map(place_of).collect();
        let all = places.iter().flat_map(|place| names.iter().map(|name| (*place, *name))).collect();
        self.retire(all).await?;
        self.forget_begun(run).await;
        Ok(())
    }
}

fn freeze_of(consistency: &Consistency) -> Option<(&Freeze, OnFailure)> {
    match consistency {
        Consistency::Crash => None,
        Consistency::FileSystem { freeze, on_failure }
        | Consistency::Application { freeze, on_failure, .. } => Some((freeze, *on_failure)),
    }
}

pub fn on_failure_of(consistency: &Consistency) -> Option<OnFailure> {
    freeze_of(consistency).map(|(_, on_failure)| on_failure)
}

fn is_excluded(disk: &Disk, excluded: &[DiskSelector]) -> bool {
    let file = disk.path.file_name().unwrap_or_default().to_string_lossy();
    excluded.iter().any(|selector| selector.matches(disk.controller, disk.location, &file))
}

pub fn running_disk(disk: &Disk, reports: &[DiskBitmaps], keeping: &HashSet<DiskPlace>) -> Option<DiskNow> {
    let place = place_of(disk);
    let report = reports.iter().find(|report| report.disk == place)?;
    let bitmap = |bitmap: &BitmapReport| Bitmap {
        name: bitmap.name,
        doubt: doubt(bitmap.inconsistent, bitmap.recording, bitmap.granularity),
    };
    // A raw image's bitmap lasts as long as its engine.
    let tracks = !report.read_only && (disk.format == DiskFormat::Raw || keeping.contains(&place));
    Some(DiskNow {
        place,
        bytes: report.bytes,
        tracks,
        keeps: keeping.contains(&place),
        touched: false,
        bitmaps: report.bitmaps.iter().map(bitmap).collect(),
    })
}

pub fn doubt(inconsistent: bool, recording: bool, granularity: u32) -> Option<NotTracked> {
    if inconsistent {
        Some(NotTracked::BitmapInconsistent)
    } else if !recording {
        Some(NotTracked::NotRecording)
    } else if granularity != GRANULARITY {
        Some(NotTracked::GranularityChanged)
    } else {
        None
    }
}

/// Whether an image can keep bitmaps: a qcow2 image from version 3 on.
fn can_keep_bitmaps(disk: &Disk) -> bool {
    let mut head = [0; 8];
    let mut read = || File::open(&disk.path)?.read_exact(&mut head);
    disk.format == DiskFormat::Qcow2
        && read().is_ok()
        && u32::from_be_bytes([head[4], head[5], head[6], head[7]]) >= 3
}
