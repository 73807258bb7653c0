//! What the tests on simulated stores share: small disks, clients, and what is true.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use nestling_block::{BlockSource, ExtentSet, MemoryDisk};
use nestling_vault::{
    DataCheck, DiskInput, Identity, Index, Job, PointDisk, PointName, PruneOptions, ReadCache, Repository,
    SaveRequest, SnapshotId, Tuning, VaultError,
    format::{Timestamp, key::KdfCost},
    storage::{FileKind, FileName, SimulatedStorage, Storage},
};

pub const PASSWORD: &[u8] = b"test";
/// No process has this number, so that locks of clients that died are stale at once.
const DEAD: u32 = i32::MAX.cast_unsigned();
const CHUNK: usize = 4096;
const CHUNKS: u64 = 24;

/// Small numbers by a seed (xorshift).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % end
    }
}

/// Runs `each` for seeds on all processors: as many as usual, as many as asked for, or the one that is to be replayed.
pub fn seeds(usual: u64, each: impl Fn(u64) + Sync) {
    let number = |name| std::env::var(name).ok().and_then(|text: String| text.parse::<u64>().ok());
    if let Some(seed) = number("NESTLING_VAULT_SEED") {
        return each(seed);
    }
    at_once(number("NESTLING_VAULT_RUNS").unwrap_or(usual), each);
}

/// Runs `each` for 0 to `runs` - 1, several at once.
pub fn at_once(runs: u64, each: impl Fn(u64) + Sync) {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let run = next.fetch_add(1, Relaxed);
                    if run >= runs {
                        return;
                    }
                    each(run);
                }
            });
        }
    });
}

/// A disk of a few chunks, some of them holes, that changes a little from save to save.
#[derive(Clone)]
pub struct Disk {
    bytes: Vec<u8>,
    random: u64,
    changed: ExtentSet,
}

impl Disk {
    pub fn new(seed: u64) -> Self {
        let mut disk =
            Self { bytes: vec![0; CHUNK * CHUNKS as usize - 100], random: seed, changed: ExtentSet::new() };
        for _ in 0..8 {
            disk.change();
        }
        disk
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Writes somewhere: what compresses, what does not, or zeroes.
    pub fn change(&mut self) {
        let mut random = Random::new(self.random);
        self.random = self.random.wrapping_add(0x0123_4567_89ab_cdef);
        for _ in 0..3 {
            let at = usize::try_from(random.below(self.bytes.len() as u64 - CHUNK as u64)).expect("small");
            let length = usize::try_from(random.below(CHUNK as u64)).expect("small") + 1;
            let kind = random.below(4);
            for byte in &mut self.bytes[at..at + length] {
                *byte = match kind {
                    0 => 0,
                    1 => b'x',
                    _ => random.below(256) as u8,
                };
            }
            self.changed.insert(at as u64..(at + length) as u64);
        }
    }

    /// What changed from now on is counted from the point just saved.
    pub fn saved(&mut self) {
        self.changed = ExtentSet::new();
    }
}

/// What was reported: points and the bytes that they must have.
#[derive(Clone, Default)]
pub struct Truth(Vec<(String, SnapshotId, Arc<Vec<u8>>)>);

impl Truth {
    pub fn saved(&mut self, machine: &str, id: SnapshotId, bytes: &[u8]) {
        self.0.push((machine.to_owned(), id, Arc::new(bytes.to_vec())));
    }

    pub fn forget_oldest(&mut self, machine: &str) -> Option<SnapshotId> {
        let at = self.0.iter().position(|(name, ..)| name == machine)?;
        Some(self.0.remove(at).1)
    }
}

/// One process that works on a repository.
pub struct Client {
    pub repository: Arc<Repository>,
    pub who: Identity,
    storage: Arc<SimulatedStorage>,
}

fn who(pid: u32) -> Identity {
    Identity { pid, ..Identity::current() }
}

/// Small chunks and packs, so that little data has many of them.
fn tuned(repository: Repository) -> Arc<Repository> {
    let tuning = Tuning {
        chunk_bytes: CHUNK as u32,
        segment_bytes: 4 * CHUNK as u64,
        group_segments: 2,
        pack_bytes: 6 * CHUNK,
        level: 1,
    };
    Arc::new(repository.with_tuning(tuning))
}

impl Client {
    pub fn init(storage: Arc<SimulatedStorage>) -> Result<(), VaultError> {
        Repository::init(storage, PASSWORD, &who(DEAD), KdfCost::Fast).map(|_| ())
    }

    /// A process whose locks are stale once it is gone.
    pub fn open(storage: Arc<SimulatedStorage>) -> Result<Self, VaultError> {
        Self::with(storage, DEAD)
    }

    /// A process whose locks the others respect.
    pub fn open_alive(storage: Arc<SimulatedStorage>) -> Result<Self, VaultError> {
        Self::with(storage, std::process::id())
    }

    fn with(storage: Arc<SimulatedStorage>, pid: u32) -> Result<Self, VaultError> {
        let repository = tuned(Repository::open(storage.clone(), PASSWORD)?);
        Ok(Self { repository, who: who(pid), storage })
    }

    pub fn save(&self, machine: &str, disk: &Disk, tracked: bool) -> Result<SnapshotId, VaultError> {
        let name: PointName = machine.parse()?;
        let source = MemoryDisk::from_bytes("disk", &disk.bytes);
        let job = Job::default();
        let parent = if tracked { self.repository.find_point(&name, None, &job).ok() } else { None };
        // What changed is known from the newest point that was reported; a newer one was cut off before its report.
        let changed = (parent.is_some() && self.newest_is_reported(&parent, disk)).then_some(&disk.changed);
        let request = SaveRequest {
            name: &name,
            disks: &[DiskInput { name: "disk0", source: &source, changed }],
            description: Some(b"{}"),
            time: Timestamp::from(SystemTime::now()),
            tags: &[],
            parent: parent.as_ref(),
            who: &self.who,
            threads: 2,
        };
        Ok(self.repository.save(&request, &job)?.point)
    }

    /// The caller's extents count from the last reported point, so they are of use only against that one.
    fn newest_is_reported(&self, parent: &Option<nestling_vault::Point>, disk: &Disk) -> bool {
        let Some(parent) = parent else { return false };
        let Ok(bytes) = self.read(parent.id, &parent.name.to_string()) else { return false };
        // Outside of what changed it must be the same.
        let mut then = bytes;
        for range in disk.changed.ranges() {
            let range =
                usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small");
            then[range.clone()].copy_from_slice(&disk.bytes[range]);
        }
        then == disk.bytes
    }

    pub fn forget(&self, id: SnapshotId) -> Result<(), VaultError> {
        Ok(self.storage.remove(&FileName { kind: FileKind::Snapshot, name: id.to_string() })?)
    }

    pub fn prune(&self) -> Result<(), VaultError> {
        let job = Job::default();
        let options = PruneOptions { max_unused_percent: 0.0, allow_empty: true };
        let plan = self.repository.prune_plan(options, &self.who, &job)?;
        self.repository.prune(plan, &self.who, &job).map(|_| ())
    }

    pub fn unlock(&self) {
        for listed in self.storage.list(FileKind::Lock).expect("a list") {
            self.storage.remove(&FileName { kind: FileKind::Lock, name: listed.name }).expect("removed");
        }
    }

    pub fn unused_bytes(&self) -> u64 {
        let options = PruneOptions { max_unused_percent: 0.0, allow_empty: true };
        let plan = self.repository.prune_plan(options, &self.who, &Job::default()).expect("a plan");
        plan.summary.unused_bytes
    }

    fn read(&self, id: SnapshotId, machine: &str) -> Result<Vec<u8>, VaultError> {
        let index = Arc::new(self.repository.load_index(&Job::default())?);
        self.read_with(&index, id, machine)
    }

    fn read_with(&self, index: &Arc<Index>, id: SnapshotId, machine: &str) -> Result<Vec<u8>, VaultError> {
        let point = self.repository.find_point(&machine.parse()?, Some(&id.to_string()), &Job::default())?;
        let disk = PointDisk::open(&self.repository, index, &point, None, &ReadCache::new(1 << 20))?;
        let mut bytes = vec![0xee; usize::try_from(disk.size_bytes()).expect("small")];
        disk.read(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Everything reported reads as it was, and nothing in the repository is damaged.
    pub fn check(&self, truth: &Truth, context: &str) {
        let index = self.repository.load_index(&Job::default());
        let index = Arc::new(index.unwrap_or_else(|error| panic!("{context}: the index: {error}")));
        for (machine, id, bytes) in &truth.0 {
            match self.read_with(&index, *id, machine) {
                Ok(read) => assert!(read == **bytes, "{context}: {machine}@{id} has other bytes"),
                Err(error) => panic!("{context}: {machine}@{id}: {error}"),
            }
        }
        let report = self
            .repository
            .verify(DataCheck::All, &self.who, &Job::default())
            .unwrap_or_else(|error| panic!("{context}: verify: {error}"));
        assert!(report.is_clean(), "{context}: {report:?}");
    }
}
