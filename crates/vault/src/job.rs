//! A long job as seen from outside: how far it is, the wish that it ends, and the last word on what was read.

use std::sync::{
    Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use crate::VaultError;

type Confirm = Box<dyn Fn() -> Result<(), VaultError> + Send + Sync>;

/// Shared between the job's threads and who watches it. Counters only grow within a stage.
#[derive(Default)]
pub struct Job {
    confirm: OnceLock<Confirm>,
    cancelled: AtomicBool,
    stage: Mutex<&'static str>,
    total: AtomicU64,
    done: AtomicU64,
    stored: AtomicU64,
    in_bytes: AtomicBool,
}

/// How far a job is. What is counted (bytes of disks, packs, points) depends on the stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobProgress {
    pub stage: &'static str,
    pub total: u64,
    pub done: u64,
    /// Whether `total` and `done` are bytes of disks.
    pub in_bytes: bool,
    /// Bytes written to the repository so far.
    pub stored_bytes: u64,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("progress", &self.progress()).finish_non_exhaustive()
    }
}

impl Job {
    /// Has a save ask, after the last byte was read and before there is a point, whether all those bytes were right: a disk
    /// that may turn out to have given others says so here, and then there is no point. The first one that is given counts.
    pub fn confirm_with(&self, confirm: impl Fn() -> Result<(), VaultError> + Send + Sync + 'static) {
        // Nothing asks before the save has begun.
        let _ = self.confirm.set(Box::new(confirm));
    }

    pub(crate) fn confirm(&self) -> Result<(), VaultError> {
        self.confirm.get().map_or(Ok(()), |confirm| confirm())
    }

    /// Asks the job to end. What it stored until then serves the next run.
    pub fn cancel(&self) {
        self.cancelled.store(true, Relaxed);
    }

    pub fn progress(&self) -> JobProgress {
        JobProgress {
            stage: *self.stage.lock().unwrap_or_else(PoisonError::into_inner),
            total: self.total.load(Relaxed),
            done: self.done.load(Relaxed),
            in_bytes: self.in_bytes.load(Relaxed),
            stored_bytes: self.stored.load(Relaxed),
        }
    }

    /// Fails once the job was asked to end. Called between any two steps that take long.
    pub(crate) fn check(&self) -> Result<(), VaultError> {
        if self.cancelled.load(Relaxed) { Err(VaultError::Cancelled) } else { Ok(()) }
    }

    /// A stage that counts bytes of disks.
    pub(crate) fn begin_bytes(&self, stage: &'static str, total: u64) {
        self.begin(stage, total);
        self.in_bytes.store(true, Relaxed);
    }

    pub(crate) fn begin(&self, stage: &'static str, total: u64) {
        self.in_bytes.store(false, Relaxed);
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
        self.done.store(0, Relaxed);
        self.total.store(total, Relaxed);
    }

    pub(crate) fn advance(&self, done: u64) {
        self.done.fetch_add(done, Relaxed);
    }

    pub(crate) fn stored(&self, bytes: u64) {
        self.stored.fetch_add(bytes, Relaxed);
    }
}
