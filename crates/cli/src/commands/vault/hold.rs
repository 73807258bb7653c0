//! Points that are read for long: a lock names what they need, so that a prune meanwhile leaves it.
//!
//! Reading must never fail because nothing can be written: that is when what is stored is needed most.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nestling_vault::{
    BlobId, Identity, Job, Point, PointSelector, Repository, RepositoryLock, VaultError,
    storage::StorageErrorKind::{Denied, NoSpace, ReadOnly},
};

use crate::{failure::Result, printer::Printer};

/// What a reader holds while it reads.
pub struct Reading {
    printer: Printer,
    repository: Arc<Repository>,
    /// None where nothing can be written.
    lock: Mutex<Option<RepositoryLock>>,
}

impl Reading {
    pub fn begin(printer: Printer, repository: &Arc<Repository>) -> Result<Self> {
        let lock = written(printer, RepositoryLock::shared(repository, &Identity::current()))?;
        Ok(Self { printer, repository: repository.clone(), lock: Mutex::new(lock) })
    }

    fn lock(&self) -> MutexGuard<'_, Option<RepositoryLock>> {
        self.lock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These trees stay, instead of those named before. A lock that was lost meanwhile, as on a machine that slept, is
    /// taken anew.
    pub fn keep_only(&self, trees: &[BlobId]) -> std::result::Result<(), VaultError> {
        let mut held = self.lock();
        let Some(lock) = held.as_ref() else { return Ok(()) };
        let outcome = match lock.keep_only(trees) {
            Err(VaultError::LockLost) => {
                let lock = RepositoryLock::shared(&self.repository, &Identity::current())?;
                let outcome = lock.keep_only(trees);
                *held = Some(lock);
                outcome
            }
            outcome => outcome,
        };
        written(self.printer, outcome).map(drop)
    }

    /// Takes the lock away, for who cannot wait until all that reads has ended.
    pub fn end(&self) {
        drop(self.lock().take());
    }

    /// The point that is meant, and all that it needs stays. To be called before the index is read.
    pub fn select(
        &self,
        repository: &Repository,
        selector: &PointSelector,
        job: &Job,
    ) -> std::result::Result<Point, VaultError> {
        let point = repository.select(selector, job)?;
        if let Some(lock) = self.lock().as_ref() {
            written(self.printer, lock.keep(point.snapshot.tree))?;
            // Still there after the lock names it: prune has seen one of the two.
            repository.snapshot(&point.id)?;
        }
        Ok(point)
    }
}

/// What was written to a lock. None, and a warning, where nothing can be written.
fn written<T>(
    printer: Printer,
    result: std::result::Result<T, VaultError>,
) -> std::result::Result<Option<T>, VaultError> {
    match result {
        Err(VaultError::Storage(error)) if matches!(error.kind, Denied | NoSpace | ReadOnly) => {
            printer.warning(&format!("a prune at the same time could take away what is read: {error}"));
            Ok(None)
        }
        result => result.map(Some),
    }
}
