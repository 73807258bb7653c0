//! Disks of a point as they are served to a machine that runs from it.
//!
//! The point is opened when the first byte is asked for. A repository that does not answer is waited for a while; then the
//! read fails, and QEMU stops the guest, which never learns of it (`finish` lets it go on once the repository answers). QEMU
//! itself would not: until a read has ended it can do nothing that needs the disk to be still, and its monitor waits with it.

use std::{
    ops::Range,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nestling_block::{BlockError, BlockSource, Extent};
use nestling_vault::{Job, Point, PointDisk, VaultError};

use super::{instant::InstantBoot, source::Source};
use crate::{NodeError, error::Result, protection::repositories::Repositories};

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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn open(&self) -> Result<Arc<Source>> {
        let mut source = lock(&self.source);
        if let Some(open) = source.as_ref() {
            return Ok(Arc::clone(open));
        }
        let known = self.repositories.find(&self.boot.repository.0.to_string())?;
        let vault = self.repositories.open_now(&known)?;
        let job = Job::default();
        let points = vault.list_points(None, &job).map_err(|e| known.failed(e))?.points;
        let is = |point: &&Point| point.identity().0 == *self.boot.identity.bytes();
        let point = points
            .iter()
            .find(is)
            .cloned()
            .ok_or_else(|| known.failed(VaultError::NoSuchPoint(self.boot.point.to_string())))?;
        let open = Arc::new(Source::read(known, vault, point, &job)?);
        *source = Some(Arc::clone(&open));
        Ok(open)
    }
}

/// Whether to try again would bring nothing else.
fn is_final(error: &NodeError) -> bool {
    match error {
        NodeError::PointDamaged { .. } => true,
        NodeError::Vault { source, .. } => {
            source.is_damage() || matches!(**source, VaultError::NoSuchPoint(_))
        }
        _ => false,
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

    fn disk(&self) -> Result<&PointDisk> {
        if let Some(disk) = self.disk.get() {
            return Ok(disk);
        }
        let source = self.lazy.open()?;
        let disk = source.disk(&self.name).map_err(|error| source.failed(error))?;
        Ok(self.disk.get_or_init(|| disk))
    }

    /// Does something with the disk, as soon as the repository lets it.
    fn patiently<T>(
        &self,
        offset: u64,
        mut work: impl FnMut(&PointDisk) -> std::result::Result<T, Trouble>,
    ) -> std::result::Result<T, BlockError> {
        let begun = Instant::now();
        loop {
            let failed = match self.disk() {
                Ok(disk) => match work(disk) {
                    Ok(done) => return Ok(done),
                    Err(Trouble::Lost(error)) => return Err(self.lost(error)),
                    Err(Trouble::Away(why)) => why,
                },
                Err(error) if is_final(&error) => {
                    return Err(self.lost(BlockError::damaged(&self.name, offset, error.message())));
                }
                Err(error) => error.message(),
            };
            if begun.elapsed() >= PATIENCE || !self.lazy.waited() {
                self.lazy.failures.fetch_add(1, Relaxed);
                tracing::warn!(
                    disk = self.name,
                    why = failed,
                    "a machine that runs from the vault cannot read its disk"
                );
                let source = std::io::Error::other(failed);
                return Err(BlockError::io(&self.name, "read", offset, source));
            }
        }
    }

    fn lost(&self, error: BlockError) -> BlockError {
        self.lazy.lost.store(true, Relaxed);
        error
    }
}

/// Why a disk did not answer.
enum Trouble {
    /// For good.
    Lost(BlockError),
    /// It may another time.
    Away(String),
}

impl BlockSource for LazyDisk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> std::result::Result<(), BlockError> {
        self.patiently(offset, |disk| {
            disk.read(buf, offset).map_err(|error| match error {
                VaultError::Block(error) => Trouble::Lost(error),
                error if error.is_damage() => {
                    Trouble::Lost(BlockError::damaged(&self.name, offset, error.to_string()))
                }
                error => Trouble::Away(error.to_string()),
            })
        })
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
