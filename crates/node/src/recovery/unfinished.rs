//! Disks that a recovery began to overwrite and has not finished.
//!
//! Half of such a disk is of one time and half of another. It is written down before the first byte, and forgotten when
//! all disks of the recovery are whole; in between no machine starts with it and no backup takes it for good, whoever ended
//! the recovery and however. A file is known by its path and its inode: another one in its place is not this one.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use nestling_model::{Disk, VmId, VmName, protection::PointId};
use nestling_store::{Batch, Document};
use serde::{Deserialize, Serialize};

use crate::{NodeError, blocking::at_disks, error::Result, keeper::Keeper, locked::lock};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfinishedDisk {
    pub path: PathBuf,
    device: u64,
    inode: u64,
    pub point: PointId,
    /// The number of the recovery.
    pub recovery: u64,
}

impl Document for UnfinishedDisk {
    const KIND: &'static str = "unfinished-disk";
    fn id(&self) -> String {
        id_of(&self.path)
    }
}

fn id_of(path: &Path) -> String {
    path.display().to_string()
}

impl UnfinishedDisk {
    /// Blocks.
    fn of(path: &Path, point: PointId, recovery: u64) -> Result<Self> {
        let about = fs::metadata(path).map_err(NodeError::io("look at", path))?;
        Ok(Self { path: path.to_owned(), device: about.dev(), inode: about.ino(), point, recovery })
    }

    /// Whether the file at its path is still this one. Blocks.
    fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|about| (about.dev(), about.ino()) == (self.device, self.inode))
    }
}

/// All of this host, and the machines that are being overwritten now.
pub struct Unfinished {
    keeper: Keeper,
    disks: Mutex<BTreeMap<PathBuf, UnfinishedDisk>>,
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
        let disks = stored.into_iter().map(|disk| (disk.path.clone(), disk)).collect();
        Self { keeper, disks: Mutex::new(disks), held: Mutex::default() }
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
        lock(&self.disks).extend(marked.into_iter().map(|disk| (disk.path.clone(), disk)));
        Ok(())
    }

    /// They are whole, or no more.
    pub async fn forget(&self, paths: &[PathBuf]) -> Result<()> {
        let known: Vec<&PathBuf> = {
            let disks = lock(&self.disks);
            paths.iter().filter(|path| disks.contains_key(*path)).collect()
        };
        if known.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::default();
        known.iter().for_each(|path| batch.delete::<UnfinishedDisk>(id_of(path)));
        self.keeper.apply(batch).await?;
        let mut disks = lock(&self.disks);
        known.into_iter().for_each(|path| drop(disks.remove(path)));
        Ok(())
    }

    /// Refuses disks that are half written.
    pub async fn check(&self, vm: &VmName, of_machine: &[Disk]) -> Result<()> {
        let marked: Vec<UnfinishedDisk> = {
            let disks = lock(&self.disks);
            of_machine.iter().filter_map(|disk| disks.get(&disk.path).cloned()).collect()
        };
        if marked.is_empty() {
            return Ok(());
        }
        let found = at_disks(move |look| {
            let is_there = |disk: &UnfinishedDisk| {
                look.at(&disk.path);
                disk.is_there()
            };
            Ok(marked.into_iter().find(is_there))
        })
        .await?;
        match found {
            None => Ok(()),
            Some(disk) => {
                Err(NodeError::HalfRecovered { vm: vm.clone(), path: disk.path, recovery: disk.recovery })
            }
        }
    }
}

#[cfg(test)]
mod tests {
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
