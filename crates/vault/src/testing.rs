//! What the tests of this crate share: a repository in memory, and disks that cost nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use nestling_block::{BlockTarget, ExtentSet, MemoryDisk};

use crate::{
    DiskInput, Identity, Job, Point, PointDisk, ReadCache, Repository, SaveReport, SaveRequest, SnapshotId,
    VaultError,
    format::{Timestamp, key::KdfCost},
    storage::{
        FileKind, FileName, Listed, MemoryStorage, Operation, Storage, StorageError, StorageErrorKind,
    },
};

pub(crate) const PASSWORD: &[u8] = b"correct horse";
pub(crate) const MIB: u64 = 1 << 20;

pub(crate) struct Place {
    pub(crate) storage: Arc<MemoryStorage>,
    pub(crate) repository: Arc<Repository>,
    pub(crate) who: Identity,
}

/// Bytes that look random and are the same each time.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

impl Place {
    pub(crate) fn new() -> Self {
        let (storage, who) = (Arc::new(MemoryStorage::new()), Identity::current());
        let repository =
            Repository::init(storage.clone(), PASSWORD, &who, KdfCost::Fast).expect("a repository");
        Self { storage, repository: Arc::new(repository), who }
    }

    /// A sparse disk with some data at its start.
    pub(crate) fn disk(&self, size_bytes: u64) -> MemoryDisk {
        let disk = MemoryDisk::new("disk", size_bytes);
        disk.write_at(&noise(size_bytes, 300_000), 1000).expect("data");
        disk
    }

    pub(crate) fn save_at(&self, name: &str, disk: &MemoryDisk, seconds: i64) -> SaveReport {
        self.try_save(name, disk, seconds, None).expect("saved")
    }

    pub(crate) fn try_save(
        &self,
        name: &str,
        disk: &MemoryDisk,
        seconds: i64,
        changed: Option<(&Point, &ExtentSet)>,
    ) -> Result<SaveReport, VaultError> {
        let request = SaveRequest {
            name: &name.parse()?,
            disks: &[DiskInput { name: "disk0", source: disk, changed: changed.map(|(_, set)| set) }],
            description: Some(b"{}"),
            time: Timestamp::from_unix_nanoseconds(seconds * 1_000_000_000),
            tags: &[],
            parent: changed.map(|(parent, _)| parent),
            who: &self.who,
            threads: 1,
        };
        self.repository.save(&request, &Job::default())
    }

    pub(crate) fn points(&self, name: &str) -> Vec<Point> {
        self.repository.points(Some(&name.parse().expect("a name")), &Job::default()).expect("points")
    }

    /// The same repository for a program that ends after `count` changes of the store.
    pub(crate) fn fused(&self, count: u64) -> Arc<Repository> {
        let fuse = Fuse { inner: self.storage.clone(), left: AtomicU64::new(count) };
        Arc::new(Repository::open(Arc::new(fuse), PASSWORD).expect("opened"))
    }

    /// The same repository for a program that fails to read `file` so many times.
    pub(crate) fn failing(&self, file: &FileName, count: u64) -> Arc<Repository> {
        let failing =
            Failing { inner: self.storage.clone(), file: file.clone(), left: AtomicU64::new(count) };
        Arc::new(Repository::open(Arc::new(failing), PASSWORD).expect("opened"))
    }

    pub(crate) fn open(&self, point: &Point) -> Result<PointDisk, VaultError> {
        let index = Arc::new(self.repository.load_index(&Job::default())?);
        PointDisk::open(&self.repository, &index, point, None, &ReadCache::new(1 << 20))
    }

    pub(crate) fn get(&self, kind: FileKind, name: &str) -> (FileName, Vec<u8>) {
        let file = FileName { kind, name: name.to_owned() };
        let bytes = self.storage.get(&file, u64::MAX).expect("a file");
        (file, bytes)
    }

    pub(crate) fn file_of(&self, id: &SnapshotId) -> (FileName, Vec<u8>) {
        self.get(FileKind::Snapshot, &id.to_string())
    }

    /// Puts a file back, whatever lies there.
    pub(crate) fn put(&self, (file, bytes): &(FileName, Vec<u8>)) {
        self.storage.remove(file).expect("removed");
        self.storage.put(file, bytes).expect("put");
    }
}

/// A store whose user ends after so many changes: nothing is changed any more.
struct Fuse {
    inner: Arc<MemoryStorage>,
    left: AtomicU64,
}

impl Fuse {
    fn burn(&self, operation: Operation) -> Result<(), StorageError> {
        let one_less = |left: u64| left.checked_sub(1);
        let error = |_| StorageError::new(StorageErrorKind::Crashed, operation, self.describe());
        self.left.fetch_update(Relaxed, Relaxed, one_less).map(drop).map_err(error)
    }
}

impl Storage for Fuse {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        self.burn(Operation::Put)?;
        self.inner.put(file, bytes)
    }

    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError> {
        self.inner.get(file, limit_bytes)
    }

    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.inner.get_range(file, offset, buf)
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError> {
        self.inner.list(kind)
    }

    fn remove(&self, file: &FileName) -> Result<(), StorageError> {
        self.burn(Operation::Remove)?;
        self.inner.remove(file)
    }

    fn sweep_temporary(&self, older_than: Duration) -> Result<u64, StorageError> {
        self.inner.sweep_temporary(older_than)
    }
}

/// A store that gives an error of input or output for one file, and then is well again.
struct Failing {
    inner: Arc<MemoryStorage>,
    file: FileName,
    left: AtomicU64,
}

impl Failing {
    fn check(&self, file: &FileName) -> Result<(), StorageError> {
        let one_less = |left: u64| left.checked_sub(1);
        if *file == self.file && self.left.fetch_update(Relaxed, Relaxed, one_less).is_ok() {
            return Err(StorageError::new(StorageErrorKind::Io, Operation::Get, self.describe()).on(file));
        }
        Ok(())
    }
}

impl Storage for Failing {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        self.inner.put(file, bytes)
    }

    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError> {
        self.check(file)?;
        self.inner.get(file, limit_bytes)
    }

    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.check(file)?;
        self.inner.get_range(file, offset, buf)
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError> {
        self.inner.list(kind)
    }

    fn remove(&self, file: &FileName) -> Result<(), StorageError> {
        self.inner.remove(file)
    }

    fn sweep_temporary(&self, older_than: Duration) -> Result<u64, StorageError> {
        self.inner.sweep_temporary(older_than)
    }
}
