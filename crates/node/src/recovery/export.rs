//! Disks of a point as they are served to a machine that runs from it.
//!
//! The point is opened when the first byte is asked for. A repository that does not answer is waited for a while; then the
//! read fails, and QEMU stops the guest, which never learns of it (`finish` lets it go on once the repository answers). QEMU
//! itself would not: until a read has ended it can do nothing that needs the disk to be still, and its monitor waits with it.

use std::{
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nestling_block::{BlockError, BlockSource, Extent, check_range};
use nestling_vault::{Job, Point, PointDisk, VaultError};

use super::{instant::InstantBoot, source::Source};
use crate::{NodeError, locked::lock, protection::repositories::Repositories};

const AGAIN_AFTER: Duration = Duration::from_secs(1);
/// For one read to be answered by a repository that is away for a moment.
const PATIENCE: Duration = Duration::from_secs(10);

/// A point that is opened when it is needed.
pub struct Lazy {
    repositories: Arc<Repositories>,
    boot: InstantBoot,
    source: Mutex<Option<Arc<Source>>>,
    stopping: Mutex<bool>,
    stopped: Condvar,
    /// Reads that failed though nothing is lost. What failed before this node came is one.
    failures: AtomicU64,
    /// Something was asked for that is lost for good.
    lost: AtomicBool,
}

impl Lazy {
    pub fn new(repositories: Arc<Repositories>, boot: InstantBoot) -> Self {
        Self {
            repositories,
            boot,
            source: Mutex::default(),
            stopping: Mutex::default(),
            stopped: Condvar::new(),
            failures: AtomicU64::new(1),
            lost: AtomicBool::new(false),
        }
    }

    pub fn failures(&self) -> u64 {
        self.failures.load(Relaxed)
    }

    pub fn is_lost(&self) -> bool {
        self.lost.load(Relaxed)
    }

    /// Whether the repository answers. Blocks.
    pub fn answers(&self) -> bool {
        self.open().is_ok_and(|source| source.vault().snapshot(&source.point.id).is_ok())
    }

    /// Whoever waits for the repository gives up.
    pub fn stop(&self) {
        *lock(&self.stopping) = true;
        self.stopped.notify_all();
    }

    /// Waits a while; `false` when it is to end.
    fn waited(&self) -> bool {
        let stopping = lock(&self.stopping);
        let waited = self.stopped.wait_timeout_while(stopping, AGAIN_AFTER, |stopping| !*stopping);
        let (stopping, _) = waited.unwrap_or_else(PoisonError::into_inner);
        !*stopping
    }

    fn open(&self) -> std::result::Result<Arc<Source>, Trouble> {
        let mut source = lock(&self.source);
        if let Some(open) = source.as_ref() {
            return Ok(Arc::clone(open));
        }
        let away = |error: NodeError| Trouble::Away(error.message());
        let known = self.repositories.find(&self.boot.repository.0.to_string()).map_err(away)?;
        let vault = self.repositories.open_now(&known).map_err(away)?;
        let job = Job::default();
        let points = vault.list_points(None, &job).map_err(|error| away(known.failed(error)))?.points;
        let is = |point: &&Point| point.identity().0 == *self.boot.identity.bytes();
        let Some(point) = points.iter().find(is).cloned() else {
            let gone = VaultError::NoSuchPoint(self.boot.point.to_string());
            return Err(Trouble::Lost(known.failed(gone).message()));
        };
        let id = point.id;
        let opened = Source::read(known, Arc::clone(&vault), point, &job).map_err(|error| match error {
            // A file that is not there may be lost, or everything may be away.
            NodeError::PointDamaged { .. } if vault.snapshot(&id).is_ok() => Trouble::Lost(error.message()),
            error => away(error),
        });
        let open = Arc::new(opened?);
        *source = Some(Arc::clone(&open));
        Ok(open)
    }
}

/// A disk of it.
pub struct LazyDisk {
    lazy: Arc<Lazy>,
    name: String,
    size_bytes: u64,
    disk: OnceLock<PointDisk>,
}

impl LazyDisk {
    pub fn new(lazy: Arc<Lazy>, name: String, size_bytes: u64) -> Self {
        Self { lazy, name, size_bytes, disk: OnceLock::new() }
    }

    fn disk(&self) -> std::result::Result<&PointDisk, Trouble> {
        if let Some(disk) = self.disk.get() {
            return Ok(disk);
        }
        let source = self.lazy.open()?;
        let disk = source.disk(&self.name).map_err(|error| self.trouble(&error))?;
        Ok(self.disk.get_or_init(|| disk))
    }

    /// A file that is not there may be lost, or everything may be away.
    fn trouble(&self, error: &VaultError) -> Trouble {
        if error.is_damage() && self.lazy.answers() {
            Trouble::Lost(error.to_string())
        } else {
            Trouble::Away(error.to_string())
        }
    }

    /// Reads, as soon as the repository lets it.
    fn read(&self, buf: &mut [u8], offset: u64) -> std::result::Result<(), BlockError> {
        let begun = Instant::now();
        loop {
            let read =
                self.disk().and_then(|disk| disk.read(buf, offset).map_err(|error| self.trouble(&error)));
            let why = match read {
                Ok(()) => return Ok(()),
                Err(Trouble::Lost(why)) => {
                    self.lazy.lost.store(true, Relaxed);
                    return Err(BlockError::damaged(&self.name, offset, why));
                }
                Err(Trouble::Away(why)) => why,
            };
            if begun.elapsed() >= PATIENCE || !self.lazy.waited() {
                self.lazy.failures.fetch_add(1, Relaxed);
                let disk = &self.name;
                tracing::warn!(disk, why, "a machine that runs from the vault cannot read its disk");
                return Err(BlockError::io(&self.name, "read", offset, std::io::Error::other(why)));
            }
        }
    }
}

/// Why a disk did not answer.
enum Trouble {
    /// For good.
    Lost(String),
    /// It may another time.
    Away(String),
}

impl BlockSource for LazyDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::result::Result<(), BlockError> {
        check_range(&self.name, self.size_bytes, offset, buf.len() as u64)?;
        self.read(buf, offset)
    }

    fn extents(&self, range: Range<u64>) -> std::result::Result<Vec<Extent>, BlockError> {
        // What is a hole is only said where it is known: everything may be data to who cannot wait.
        let (start, length) = (range.start, range.end.saturating_sub(range.start));
        match self.disk().map(|disk| disk.extents(range)) {
            Ok(Ok(extents)) => Ok(extents),
            _ => Ok(vec![Extent::data(start, length)]),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}
