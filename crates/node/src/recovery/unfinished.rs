//! Disks that a recovery began to overwrite and has not finished.
//!
//! Half of such a disk is of one time and half of another. It is written down before the first byte, and forgotten when
//! all disks of the recovery are whole; in between no machine starts with it, or with a disk above it, and no backup takes it for
//! good, whoever ended the recovery and however. A file is known by its inode and the time at which that was made, whatever its
//! path is now: another file in its place, or in its inode, is not this one.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Mutex,
    time::UNIX_EPOCH,
};

use nestling_hypervisor::disk;
use nestling_model::{Disk, VmId, VmName, protection::PointId};
use nestling_store::{Batch, Document};
use serde::{Deserialize, Serialize};

use crate::{NodeError, blocking::at_disks, error::Result, keeper::Keeper, locked::lock};

/// Which file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct FileId {
    device: u64,
    inode: u64,
    /// Since 1970; not all file systems know it.
    #[serde(default)]
    born_ns: Option<u64>,
}

impl FileId {
    /// Blocks.
    fn of(path: &Path) -> std::io::Result<Self> {
        let about = fs::metadata(path)?;
        let born = about.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok());
        let born_ns = born.and_then(|born| u64::try_from(born.as_nanos()).ok());
        Ok(Self { device: about.dev(), inode: about.ino(), born_ns })
    }

    fn is(&self, other: &Self) -> bool {
        let is_as_old = match (self.born_ns, other.born_ns) {
            (Some(own), Some(other)) => own == other,
            (None, _) | (_, None) => true,
        };
        (self.device, self.inode) == (other.device, other.inode) && is_as_old
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedDisk {
    /// Where it was.
    pub path: PathBuf,
    #[serde(flatten)]
    file: FileId,
    pub point: PointId,
    /// The number of the recovery.
    pub recovery: u64,
}

impl Document for UnfinishedDisk {
    const KIND: &'static str = "unfinished-disk";
    fn id(&self) -> String {
        let FileId { device, inode, born_ns } = self.file;
        format!("{device}-{inode}-{}", born_ns.unwrap_or(0))
    }
}

impl UnfinishedDisk {
    /// Blocks.
    fn of(path: &Path, point: PointId, recovery: u64) -> Result<Self> {
        let file = FileId::of(path).map_err(NodeError::io("look at", path))?;
        Ok(Self { path: path.to_owned(), file, point, recovery })
    }

    /// Whether a path leads to it. Blocks.
    fn is_at(&self, path: &Path) -> bool {
        FileId::of(path).is_ok_and(|file| file.is(&self.file))
    }
}

/// The mark of a disk, or of one of its parents, and where that is now. Blocks.
fn marked(disk: &Disk, marks: &[UnfinishedDisk]) -> Option<(PathBuf, u64)> {
    // One that is damaged or lacks a parent starts no machine either.
    let parents = disk::parents(&disk.path, disk.format).unwrap_or_default();
    std::iter::once(disk.path.clone()).chain(parents).find_map(|path| {
        let file = FileId::of(&path).ok()?;
        let mark = marks.iter().find(|mark| mark.file.is(&file))?;
        Some((path, mark.recovery))
    })
}

/// All of this host, and the machines that are being overwritten now.
pub struct Unfinished {
    keeper: Keeper,
    disks: Mutex<Vec<UnfinishedDisk>>,
    held: Mutex<BTreeMap<VmId, u64>>,
}

/// A machine that belongs to a recovery. Dropped, it is everybody's again.
pub struct Hold<'a> {
    of: &'a Unfinished,
    vm: VmId,
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        lock(&self.of.held).remove(&self.vm);
    }
}

impl Unfinished {
    pub fn new(keeper: Keeper, stored: Vec<UnfinishedDisk>) -> Self {
        Self { keeper, disks: Mutex::new(stored), held: Mutex::default() }
    }

    /// From now on the machine's task does what this recovery asks, and refuses all else.
    pub fn hold(&self, vm: VmId, name: &VmName, recovery: u64) -> Result<Hold<'_>> {
        let mut held = lock(&self.held);
        if let Some(other) = held.get(&vm) {
            return Err(NodeError::Recovering { vm: name.clone(), recovery: *other });
        }
        held.insert(vm, recovery);
        Ok(Hold { of: self, vm })
    }

    /// The recovery that a machine belongs to now.
    pub fn holder(&self, vm: VmId) -> Option<u64> {
        lock(&self.held).get(&vm).copied()
    }

    /// Written down before the first byte of any of them is.
    pub async fn begin(&self, paths: Vec<PathBuf>, point: PointId, recovery: u64) -> Result<()> {
        let marked = at_disks(move |look| {
            let mark = |path: &PathBuf| {
                look.at(path);
                UnfinishedDisk::of(path, point, recovery)
            };
            paths.iter().map(mark).collect::<Result<Vec<_>>>()
        })
        .await?;
        let mut batch = Batch::default();
        for disk in &marked {
            batch.put(disk)?;
        }
        self.keeper.apply(batch).await?;
        let mut disks = lock(&self.disks);
        disks.retain(|known| !marked.iter().any(|disk| disk.file == known.file));
        disks.extend(marked);
        Ok(())
    }

    fn marks(&self) -> Vec<UnfinishedDisk> {
        lock(&self.disks).clone()
    }

    /// They are whole, or no more. One that is not at its path has another name now, and is known still.
    pub async fn forget(&self, paths: &[PathBuf]) -> Result<()> {
        let (marks, paths) = (self.marks(), paths.to_vec());
        if marks.is_empty() || paths.is_empty() {
            return Ok(());
        }
        let forgotten = at_disks(move |look| {
            let is_one = |mark: &UnfinishedDisk| {
                paths.iter().any(|path| {
                    look.at(path);
                    mark.is_at(path)
                })
            };
            Ok(marks.into_iter().filter(is_one).collect::<Vec<_>>())
        })
        .await?;
        let mut batch = Batch::default();
        forgotten.iter().for_each(|disk| batch.delete::<UnfinishedDisk>(disk.id()));
        self.keeper.apply(batch).await?;
        lock(&self.disks).retain(|known| !forgotten.iter().any(|disk| disk.file == known.file));
        Ok(())
    }

    /// Refuses disks that are half written, and those above them.
    pub async fn check(&self, vm: &VmName, of_machine: &[Disk]) -> Result<()> {
        let (marks, disks) = (self.marks(), of_machine.to_vec());
        if marks.is_empty() {
            return Ok(());
        }
        let found = at_disks(move |look| {
            let is_marked = |disk: &Disk| {
                look.at(&disk.path);
                marked(disk, &marks)
            };
            Ok(disks.iter().find_map(is_marked))
        })
        .await?;
        match found {
            None => Ok(()),
            Some((path, recovery)) => Err(NodeError::HalfRecovered { vm: vm.clone(), path, recovery }),
        }
    }
}

#[cfg(test)]
mod tests {
    use nestling_model::DiskFormat;
    use nestling_store::Store;

    use super::*;
    use crate::testing::sample_vm;

    #[tokio::test]
    async fn a_disk_stays_refused_until_it_is_whole_or_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2");
        fs::write(&path, "half").unwrap();
        let mut vm = sample_vm("vm");
        vm.disks[0].path.clone_from(&path);
        let keeper = Keeper::new(Store::in_memory());
        let unfinished = Unfinished::new(keeper, Vec::new());
        let check = async || unfinished.check(&vm.name, &vm.disks).await;
        check().await.unwrap();
        let point = PointId::from_bytes([7; 32]);
        unfinished.begin(vec![path.clone()], point, 3).await.unwrap();
        let refused = check().await.unwrap_err();
        assert!(matches!(refused, NodeError::HalfRecovered { recovery: 3, .. }), "{refused}");
        // Another file in its place, while the old one is still there so that its inode is not given again.
        fs::rename(&path, dir.path().join("old")).unwrap();
        fs::write(&path, "another").unwrap();
        check().await.unwrap();
        fs::rename(dir.path().join("old"), &path).unwrap();
        assert!(check().await.is_err());
        unfinished.forget(&[path]).await.unwrap();
        check().await.unwrap();
    }

    #[tokio::test]
    async fn a_disk_is_refused_under_another_name_and_below_another_disk() {
        let dir = tempfile::tempdir().unwrap();
        let [old, new, above] = ["a.raw", "b.raw", "above.qcow2"].map(|name| dir.path().join(name));
        fs::write(&old, vec![0_u8; 1 << 20]).unwrap();
        let unfinished = Unfinished::new(Keeper::new(Store::in_memory()), Vec::new());
        unfinished.begin(vec![old.clone()], PointId::from_bytes([7; 32]), 3).await.unwrap();
        fs::rename(&old, &new).unwrap();
        fs::write(&old, "another").unwrap();
        let mut vm = sample_vm("vm");
        vm.disks.truncate(1);
        (vm.disks[0].path, vm.disks[0].format) = (new.clone(), DiskFormat::Raw);
        let refused = unfinished.check(&vm.name, &vm.disks).await.unwrap_err();
        assert!(matches!(&refused, NodeError::HalfRecovered { path, .. } if *path == new), "{refused}");
        // Whoever puts another file in its place does not make it whole.
        unfinished.forget(&[old]).await.unwrap();
        assert!(unfinished.check(&vm.name, &vm.disks).await.is_err());

        let made = std::process::Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&new, &above])
            .status();
        assert!(made.unwrap().success());
        (vm.disks[0].path, vm.disks[0].format) = (above, DiskFormat::Qcow2);
        let refused = unfinished.check(&vm.name, &vm.disks).await.unwrap_err();
        assert!(matches!(&refused, NodeError::HalfRecovered { path, .. } if *path == new), "{refused}");
        unfinished.forget(&[new]).await.unwrap();
        unfinished.check(&vm.name, &vm.disks).await.unwrap();
    }

    #[test]
    fn a_new_file_with_the_inode_of_an_old_one_is_another_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2");
        fs::write(&path, "half").unwrap();
        let now = FileId::of(&path).unwrap();
        let before = FileId { born_ns: now.born_ns.map(|born| born - 1), ..now };
        assert!(now.is(&now) && (now.born_ns.is_none() || !now.is(&before)));
        assert!(now.is(&FileId { born_ns: None, ..now }), "not all file systems know it");
        let disk = UnfinishedDisk::of(&path, PointId::from_bytes([7; 32]), 3).unwrap();
        let stored = serde_json::to_string(&disk).unwrap();
        assert_eq!(serde_json::from_str::<UnfinishedDisk>(&stored).unwrap(), disk);
    }

    #[tokio::test]
    async fn a_machine_belongs_to_one_recovery_at_a_time() {
        let unfinished = Unfinished::new(Keeper::new(Store::in_memory()), Vec::new());
        let vm = sample_vm("vm");
        let hold = unfinished.hold(vm.id, &vm.name, 1).unwrap();
        assert_eq!(unfinished.holder(vm.id), Some(1));
        assert!(matches!(
            unfinished.hold(vm.id, &vm.name, 2),
            Err(NodeError::Recovering { recovery: 1, .. })
        ));
        drop(hold);
        assert_eq!(unfinished.holder(vm.id), None);
    }
}
