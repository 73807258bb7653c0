//! What this node remembers of change tracking: which bitmaps it began for whom, and how images lay when it last had them.
//!
//! A bitmap in an image records only what goes through an engine. Whoever writes to the image beside it (a restore, a
//! copy, a mounted file system) is noticed by the *seal*: device, inode, size and times of the image and of all that is
//! below it, written down when an engine ends and looked at when the next one starts. Part of it is the place that the
//! disk has in its machine: a point knows a disk by that, and disks that change places carry the same numbers. A seal
//! that does not fit means that our bitmaps there are dropped, and the next backup compares. No seal fits where none is
//! known, so a node that died at the wrong moment costs a comparison and never a change.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nestling_hypervisor::{capture::BitmapName, disk};
use nestling_model::{
    Controller, Disk, DiskFormat, VmId,
    protection::{RepositoryId, RunId},
};
use nestling_store::Document;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{blocking::Look, error::Result, keeper::Keeper};

/// A bitmap that began at an instant; there is one of the number in each disk that was tracked then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    pub number: Uuid,
    pub repository: RepositoryId,
    pub run: RunId,
    /// Whether the point of its instant is known to be there. Until then an older bitmap is what counts.
    #[serde(default)]
    pub durable: bool,
    /// Whether the repository is one of the host above, which this node knows nothing else of.
    #[serde(default)]
    pub above: bool,
}

impl Begun {
    pub fn name(&self) -> BitmapName {
        BitmapName(self.number)
    }

    fn purpose(&self) -> Purpose {
        Purpose { repository: self.repository, above: self.above }
    }
}

/// What a bitmap is for: the points in one repository, of this node or of the host above. A bitmap of one purpose is of no
/// use for another, and never goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purpose {
    pub repository: RepositoryId,
    pub above: bool,
}

/// So many repositories of the host above, those that were used last, have bitmaps on a machine: when one is forgotten
/// there, nobody tells.
const ABOVE_MAX: usize = 4;

/// How a file lay. Two that are equal hold the same bytes, unless somebody took pains to hide a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct FileSeal {
    path: PathBuf,
    device: u64,
    inode: u64,
    size: u64,
    /// Nanoseconds since 1970. The times of the content and of the file itself: tools set the first one back.
    modified_ns: i64,
    changed_ns: i64,
}

impl FileSeal {
    fn of(path: &Path) -> std::io::Result<Self> {
        let about = fs::metadata(path)?;
        let ns = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Ok(Self {
            path: path.to_owned(),
            device: about.dev(),
            inode: about.ino(),
            size: about.size(),
            modified_ns: ns(about.mtime(), about.mtime_nsec()),
            changed_ns: ns(about.ctime(), about.ctime_nsec()),
        })
    }
}

/// How an image lay, with all that is below it, and as which disk of its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    controller: Controller,
    location: u8,
    files: Vec<FileSeal>,
}

impl Seal {
    /// Blocks. `None` where it cannot be told: what cannot be told fits nothing.
    pub fn of(image: &Disk, look: &Look) -> Option<Self> {
        look.at(&image.path);
        let below = match image.format {
            DiskFormat::Raw => Vec::new(),
            DiskFormat::Qcow2 => disk::parents(&image.path, image.format).ok()?,
        };
        let files = std::iter::once(image.path.clone()).chain(below);
        let files = files.map(|file| FileSeal::of(&file)).collect::<std::io::Result<_>>().ok()?;
        Some(Self { controller: image.controller, location: image.location, files })
    }

    fn path(&self) -> Option<&Path> {
        self.files.first().map(|file| file.path.as_path())
    }
}

/// All of one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    pub vm: VmId,
    #[serde(default)]
    pub begun: Vec<Begun>,
    /// Those that an older node wrote under the field's own name do not say which disk the image was, and fit nothing.
    #[serde(default, rename = "disk_seals")]
    seals: Vec<Seal>,
    /// Images whose bitmaps are not believed, and could not be removed so far.
    #[serde(default)]
    pub doubted: Vec<PathBuf>,
}

impl Document for Tracking {
    const KIND: &'static str = "tracking";
    fn id(&self) -> String {
        self.vm.0.to_string()
    }
}

impl Tracking {
    fn new(vm: VmId) -> Self {
        Self { vm, begun: Vec::new(), seals: Vec::new(), doubted: Vec::new() }
    }

    /// The bitmaps that are of use to others than this purpose. `known` tells whether this node has a repository.
    pub fn kept_beside(&self, purpose: Purpose, known: impl Fn(RepositoryId) -> bool) -> Vec<BitmapName> {
        let mut above = vec![purpose.repository];
        above.truncate(usize::from(purpose.above));
        for begun in self.begun.iter().rev().filter(|begun| begun.above) {
            if !above.contains(&begun.repository) && above.len() < ABOVE_MAX {
                above.push(begun.repository);
            }
        }
        let is_of_use = |begun: &&Begun| {
            let used = if begun.above { above.contains(&begun.repository) } else { known(begun.repository) };
            begun.purpose() != purpose && used
        };
        self.begun.iter().filter(is_of_use).map(Begun::name).collect()
    }

    /// Whether an image is as its engine left it.
    pub fn fits(&self, seal: Option<&Seal>) -> bool {
        seal.is_some_and(|seal| self.seals.contains(seal))
    }

    /// Takes the seals of images, instead of those known before.
    pub fn set_seals(&mut self, seals: Vec<Seal>) {
        self.seals = seals;
    }

    /// Takes one image's seal. `None`: nothing fits any more.
    pub fn set_seal(&mut self, path: &Path, seal: Option<Seal>) {
        self.seals.retain(|known| known.path() != Some(path));
        self.seals.extend(seal);
    }

    pub fn doubts(&self, disk: &Disk) -> bool {
        self.doubted.contains(&disk.path)
    }
}

/// The tracking of all machines that were ever backed up. A change is durable before it is seen.
pub struct Book {
    keeper: Keeper,
    all: Mutex<HashMap<VmId, Tracking>>,
}

impl Book {
    pub fn new(keeper: Keeper, stored: Vec<Tracking>) -> Self {
        let all = stored.into_iter().map(|tracking| (tracking.vm, tracking)).collect();
        Self { keeper, all: Mutex::new(all) }
    }

    /// `None` for a machine that was never backed up: none of its bitmaps is of use to anybody.
    pub async fn get(&self, vm: VmId) -> Option<Tracking> {
        self.all.lock().await.get(&vm).cloned()
    }

    /// Changes what is known of a machine, from nothing if need be.
    pub async fn update(&self, vm: VmId, change: impl FnOnce(&mut Tracking)) -> Result<()> {
        let mut all = self.all.lock().await;
        let known = all.get(&vm);
        let mut new = known.cloned().unwrap_or_else(|| Tracking::new(vm));
        change(&mut new);
        if known != Some(&new) {
            self.keeper.put(&new).await?;
            all.insert(vm, new);
        }
        Ok(())
    }

    /// Its document is removed by the caller, together with the machine's.
    pub async fn forget(&self, vm: VmId) {
        self.all.lock().await.remove(&vm);
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn disk(path: &Path) -> Disk {
        let (path, format) = (path.to_owned(), DiskFormat::Raw);
        Disk { path, format, controller: Controller::Scsi, location: 0, read_only: false }
    }

    fn seal(path: &Path) -> Option<Seal> {
        Seal::of(&disk(path), &Look::default())
    }

    fn known(path: &Path) -> Tracking {
        let mut tracking = Tracking::new(VmId(Uuid::from_u128(1)));
        tracking.set_seal(path, seal(path));
        tracking
    }

    #[test]
    fn a_write_a_new_file_and_a_restored_time_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.img");
        fs::write(&path, "before").unwrap();
        let tracking = known(&path);
        assert!(tracking.fits(seal(&path).as_ref()));

        // Written to, and its time of change set back, as copying tools do.
        let time = fs::metadata(&path).unwrap().modified().unwrap();
        // The file system's clock ticks every few milliseconds.
        while SystemTime::now().duration_since(time).unwrap_or_default() < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        fs::write(&path, "beside").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(time).unwrap();
        assert!(!tracking.fits(seal(&path).as_ref()));

        let tracking = known(&path);
        let other = dir.path().join("b.img");
        fs::write(&other, "beside").unwrap();
        fs::rename(&other, &path).unwrap();
        assert!(!tracking.fits(seal(&path).as_ref()), "another inode");

        let tracking = known(&path);
        fs::remove_file(&path).unwrap();
        assert!(!tracking.fits(seal(&path).as_ref()) && seal(&path).is_none());
    }

    /// Both of two disks that change places have a bitmap of the same number, and a point would take one for the other.
    #[test]
    fn an_image_in_another_place_does_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.img");
        fs::write(&path, "as it was").unwrap();
        let tracking = known(&path);
        for moved in
            [Disk { location: 1, ..disk(&path) }, Disk { controller: Controller::Ide, ..disk(&path) }]
        {
            assert!(!tracking.fits(Seal::of(&moved, &Look::default()).as_ref()), "{moved:?}");
        }
        // What a node wrote that did not know of places.
        let mut stored = serde_json::to_value(&tracking).unwrap();
        let seals = stored.as_object_mut().unwrap().remove("disk_seals").unwrap();
        stored["seals"] = serde_json::json!([seals[0]["files"]]);
        let stored: Tracking = serde_json::from_value(stored).unwrap();
        assert!(stored.vm == tracking.vm && !stored.fits(seal(&path).as_ref()));
    }

    #[test]
    fn bitmaps_of_the_host_above_and_of_this_node_leave_each_other_alone() {
        let repository = |id| RepositoryId(Uuid::from_u128(id));
        let mut tracking = Tracking::new(VmId(Uuid::from_u128(1)));
        let mut begin = |number: u128, id: u128, above: bool| {
            let (repository, run) = (repository(id), RunId(Uuid::from_u128(number)));
            tracking.begun.push(Begun {
                number: Uuid::from_u128(number),
                repository,
                run,
                durable: true,
                above,
            });
        };
        // The same repository may be used by both: they are two purposes all the same.
        begin(1, 7, false);
        begin(2, 7, true);
        begin(3, 8, false);
        (0..4).for_each(|n| begin(10 + n, 20 + n, true));
        let kept = |id: u128, above: bool| -> Vec<u128> {
            let purpose = Purpose { repository: repository(id), above };
            let known = |id: RepositoryId| id == repository(7);
            tracking.kept_beside(purpose, known).iter().map(|name| name.0.as_u128()).collect()
        };
        assert_eq!(kept(7, false), [10, 11, 12, 13], "the last four of those above; 8 is not known any more");
        assert_eq!(kept(7, true), [1, 11, 12, 13], "its own place is one of the four");
        assert_eq!(kept(9, false), [1, 10, 11, 12, 13]);
        assert_eq!(kept(20, true), [1, 11, 12, 13]);
    }

    #[test]
    fn an_image_that_is_unknown_fits_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::write(&a, "a").unwrap();
        fs::write(&b, "b").unwrap();
        let mut tracking = known(&a);
        assert!(!tracking.fits(seal(&b).as_ref()));
        tracking.set_seal(&a, None);
        assert!(!tracking.fits(seal(&a).as_ref()) && !tracking.fits(None));
    }
}
