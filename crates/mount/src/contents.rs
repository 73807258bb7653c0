//! What points hold, read when it is asked for and kept up to a bound.
//!
//! The index is read when the first point is looked into. A prune moves chunks and a save adds some, so when something is
//! not where the index says, it is read again before that counts as damage, though not for every chunk that is lost.

use std::{
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nestling_vault::{
    CACHE_BYTES, Index, Job, Point, PointContent, PointDisk, ReadCache, Repository, SnapshotId, VaultError,
};
use quick_cache::{Weighter, sync::Cache};

use crate::locked;

/// Memory for what points say of their disks, and the same again for their descriptions.
const CONTENTS_BYTES: u64 = 32 << 20;
const CONTENTS: usize = 4096;
/// Disks that are held open.
const DISKS: usize = 64;
/// While nothing is new, an index is not read again before.
const RELOAD_AGAIN: Duration = Duration::from_secs(10);

#[derive(Clone)]
struct Bytes;

impl Weighter<SnapshotId, Arc<PointContent>> for Bytes {
    fn weight(&self, _: &SnapshotId, content: &Arc<PointContent>) -> u64 {
        let (disks, lost) = (content.layout.disks.len(), content.layout.lost.len());
        (256 + 512 * disks + 256 * lost) as u64
    }
}

impl Weighter<SnapshotId, Arc<Vec<u8>>> for Bytes {
    fn weight(&self, _: &SnapshotId, description: &Arc<Vec<u8>>) -> u64 {
        description.len() as u64 + 256
    }
}

/// An index, and its number among those that were read.
#[derive(Clone)]
struct Current {
    number: u64,
    index: Arc<Index>,
}

pub(crate) struct Contents {
    repository: Arc<Repository>,
    job: Job,
    current: RwLock<Option<Current>>,
    /// When an index was read last, held while one is.
    loading: Mutex<Option<Instant>>,
    /// Whether there are points that the index may not know.
    is_old: AtomicBool,
    contents: Cache<SnapshotId, Arc<PointContent>, Bytes>,
    descriptions: Cache<SnapshotId, Arc<Vec<u8>>, Bytes>,
    /// By the index that they were opened with, point and place in its list.
    disks: Cache<(u64, SnapshotId, usize), Arc<PointDisk>>,
    chunks: Arc<ReadCache>,
}

impl Contents {
    pub(crate) fn new(repository: &Arc<Repository>) -> Self {
        Self {
            repository: repository.clone(),
            job: Job::default(),
            current: RwLock::new(None),
            loading: Mutex::new(None),
            is_old: AtomicBool::new(false),
            contents: Cache::with_weighter(CONTENTS, CONTENTS_BYTES, Bytes),
            descriptions: Cache::with_weighter(CONTENTS, CONTENTS_BYTES, Bytes),
            disks: Cache::new(DISKS),
            chunks: ReadCache::new(CACHE_BYTES),
        }
    }

    /// There are points that the index may not know.
    pub(crate) fn expect_new(&self) {
        self.is_old.store(true, Relaxed);
    }

    pub(crate) fn content(&self, point: &Point) -> Result<Arc<PointContent>, VaultError> {
        self.contents.get_or_insert_with(&point.id, || {
            self.with_index(|current| self.repository.content(&current.index, point).map(Arc::new))
        })
    }

    /// Empty where there is none.
    pub(crate) fn description(&self, point: &Point) -> Result<Arc<Vec<u8>>, VaultError> {
        self.descriptions.get_or_insert_with(&point.id, || {
            self.with_index(|current| {
                let description = self.repository.description(&current.index, point)?;
                Ok(Arc::new(description.unwrap_or_default()))
            })
        })
    }

    /// Does what reads a disk, which is open then.
    pub(crate) fn on_disk<T>(
        &self,
        point: &Point,
        number: usize,
        work: impl Fn(&PointDisk) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let content = self.content(point)?;
        let name = content.layout.disks.get(number).map(|disk| disk.name.as_str());
        self.with_index(|current| {
            let disk = self.disks.get_or_insert_with(&(current.number, point.id, number), || {
                PointDisk::open(&self.repository, &current.index, point, name, &self.chunks).map(Arc::new)
            })?;
            work(&disk)
        })
    }

    /// Does what reads; where something is not there, once more with a newer index if there can be one.
    fn with_index<T>(&self, work: impl Fn(&Current) -> Result<T, VaultError>) -> Result<T, VaultError> {
        let current = match self.current() {
            Some(current) => current,
            None => self.first()?,
        };
        match work(&current) {
            Err(error) if error.says_missing() => match self.newer(&current)? {
                Some(newer) => work(&newer),
                None => Err(error),
            },
            outcome => outcome,
        }
    }

    fn current(&self) -> Option<Current> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn first(&self) -> Result<Current, VaultError> {
        let mut loaded = locked(&self.loading);
        match self.current() {
            // Another thread was faster.
            Some(current) => Ok(current),
            None => self.load(&mut loaded, 0),
        }
    }

    fn newer(&self, than: &Current) -> Result<Option<Current>, VaultError> {
        let mut loaded = locked(&self.loading);
        if let Some(current) = self.current().filter(|current| current.number != than.number) {
            return Ok(Some(current));
        }
        let is_old = self.is_old.load(Relaxed) || loaded.is_none_or(|at| at.elapsed() >= RELOAD_AGAIN);
        if is_old { self.load(&mut loaded, than.number + 1).map(Some) } else { Ok(None) }
    }

    /// The others go on with the index that was there before.
    fn load(&self, loaded: &mut Option<Instant>, number: u64) -> Result<Current, VaultError> {
        // First, since points may be found while it is read.
        self.is_old.store(false, Relaxed);
        *loaded = Some(Instant::now());
        let current = Current { number, index: Arc::new(self.repository.load_index(&self.job)?) };
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(current.clone());
        // They hold the old one.
        self.disks.clear();
        Ok(current)
    }
}
