//! A long job as seen from outside: how far it is, and the wish that it ends.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use crate::VaultError;

/// Shared between the job's threads and who watches it. Counters only grow within a stage.
#[derive(Debug, Default)]
pub struct Job {
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

impl Job {
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
