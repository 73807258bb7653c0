//! What the tests of this crate share: a repository in memory, and disks that cost nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use nestling_block::{BlockTarget, ExtentSet, MemoryDisk};

use crate::{
    BlobId, DiskInput, Identity, Job, Point, PointDisk, ReadCache, Repository, SaveReport, SaveRequest,
    SnapshotId, Tuning, VaultError,
    format::{Timestamp, key::KdfCost, pack::BlobKind, snapshot::Snapshot, tree::Node},
    layout::POINT_FILE,
    packer::{Packer, write},
    save::{dir, encoded, small_file},
    storage::{
        FileKind, FileName, Listed, MemoryStorage, Operation, Storage, StorageError, StorageErrorKind,
        TestClock,
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
        Self::tuned(Tuning::default())
    }

    pub(crate) fn tuned(tuning: Tuning) -> Self {
        let (storage, who) = (Arc::new(MemoryStorage::new()), Identity::current());
        let repository =
            Repository::init(storage.clone(), PASSWORD, &who, KdfCost::Fast).expect("a repository");
        Self { storage, repository: Arc::new(repository.with_tuning(tuning)), who }
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

    /// The same place as a program with another view of the store sees it.
    pub(crate) fn through(&self, repository: Arc<Repository>) -> Self {
        Self { storage: self.storage.clone(), repository, who: self.who.clone() }
    }

    pub(crate) fn points(&self, name: &str) -> Vec<Point> {
        self.repository.points(Some(&name.parse().expect("a name")), &Job::default()).expect("points")
    }

    /// From now on time passes only when somebody waits.
    pub(crate) fn set_clock(&mut self, clock: Arc<TestClock>) {
        let repository = Repository::open(self.storage.clone(), PASSWORD).expect("opened");
        self.repository = Arc::new(self.alike(repository).with_clock(clock));
    }

    fn alike(&self, repository: Repository) -> Repository {
        repository.with_tuning(self.repository.tuning).with_clock(self.repository.clock.clone())
    }

    /// The same repository for a program that asks `before` each operation whether the store fails.
    pub(crate) fn hooked(
        &self,
        before: impl Fn(Operation, &FileName) -> Result<(), StorageErrorKind> + Send + Sync + 'static,
    ) -> Arc<Repository> {
        let armed = Arc::new(AtomicBool::new(false));
        let before = {
            let armed = armed.clone();
            move |operation, file: &FileName| {
                if armed.load(Relaxed) { before(operation, file) } else { Ok(()) }
            }
        };
        let hooked = Hooked { inner: self.storage.clone(), before: Box::new(before) };
        let repository = Repository::open(Arc::new(hooked), PASSWORD).expect("opened");
        armed.store(true, Relaxed);
        Arc::new(self.alike(repository))
    }

    /// The same for a program that ends after `count` changes of the store.
    pub(crate) fn fused(&self, count: u64) -> Arc<Repository> {
        let left = AtomicU64::new(count);
        self.hooked(move |operation, _| match operation {
            Operation::Put | Operation::Remove if !take_one(&left) => Err(StorageErrorKind::Crashed),
            _ => Ok(()),
        })
    }

    /// The same for a program that fails to read `file` so many times.
    pub(crate) fn failing(&self, file: &FileName, count: u64) -> Arc<Repository> {
        let (file, left) = (file.clone(), AtomicU64::new(count));
        self.hooked(move |operation, asked| {
            let fails = operation == Operation::Get && *asked == file && take_one(&left);
            if fails { Err(StorageErrorKind::Io) } else { Ok(()) }
        })
    }

    /// A point of the machine "a" that says `json` of itself and has these disks, whether or not they fit.
    pub(crate) fn hand_made(&self, json: &[u8], disks: &[(&str, BlobId)]) -> SnapshotId {
        let job = Job::default();
        let index = self.repository.load_index(&job).expect("an index");
        let Repository { key, tuning, .. } = self.repository.as_ref();
        let (tree, _) = write(&self.repository, &index, 1, &job, |writer| {
            let mut packer = Packer::new(BlobKind::Data, key, tuning)?;
            let mut nodes: Vec<Node> = disks.iter().map(|(name, tree)| dir(name, *tree)).collect();
            nodes.push(small_file(POINT_FILE, json, &mut packer, writer)?);
            packer.flush(writer)?;
            let folder = writer.tree(&encoded(nodes)?)?;
            writer.tree(&encoded(vec![dir("a", folder)])?)
        })
        .expect("written");
        let like = &self.points("a")[0].snapshot;
        let snapshot = Snapshot { tree, original: None, ..like.clone() };
        self.repository.put_snapshot(&snapshot).expect("put")
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

pub(crate) fn take_one(left: &AtomicU64) -> bool {
    left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok()
}

type Hook = dyn Fn(Operation, &FileName) -> Result<(), StorageErrorKind> + Send + Sync;

/// A store that asks before each operation whether it fails. A listing has no name.
struct Hooked {
    inner: Arc<MemoryStorage>,
    before: Box<Hook>,
}

impl Hooked {
    fn ask(&self, operation: Operation, file: &FileName) -> Result<(), StorageError> {
        (self.before)(operation, file)
            .map_err(|kind| StorageError::new(kind, operation, self.describe()).on(file))
    }
}

impl Storage for Hooked {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        self.ask(Operation::Put, file)?;
        self.inner.put(file, bytes)
    }

    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError> {
        self.ask(Operation::Get, file)?;
        self.inner.get(file, limit_bytes)
    }

    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.ask(Operation::Get, file)?;
        self.inner.get_range(file, offset, buf)
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError> {
        self.ask(Operation::List, &FileName { kind, name: String::new() })?;
        self.inner.list(kind)
    }

    fn remove(&self, file: &FileName) -> Result<(), StorageError> {
        self.ask(Operation::Remove, file)?;
        self.inner.remove(file)
    }

    fn sweep_temporary(&self, older_than: Duration) -> Result<u64, StorageError> {
        self.inner.sweep_temporary(older_than)
    }
}
