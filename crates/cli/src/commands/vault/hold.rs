//! Points that are read for long: a lock names what they need, so that a prune meanwhile leaves it.

use std::sync::Arc;

use nestling_vault::{
    Identity, Job, Point, PointSelector, Repository, RepositoryLock, VaultError, storage::StorageErrorKind,
};

use crate::{failure::Result, printer::Printer};

/// A lock for a reader. None, and a warning, where nothing can be written: what is there must be readable all the same.
pub fn lock(printer: Printer, repository: &Arc<Repository>) -> Result<Option<RepositoryLock>> {
    use StorageErrorKind::{Denied, NoSpace, ReadOnly};
    match RepositoryLock::shared(repository, &Identity::current()) {
        Ok(lock) => Ok(Some(lock)),
        Err(VaultError::Storage(error)) if matches!(error.kind, Denied | NoSpace | ReadOnly) => {
            printer.warning(&format!("a prune at the same time could take away what is read: {error}"));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

/// The point that is meant, and all that it needs stays. To be called before the index is read.
pub fn select(
    repository: &Repository,
    lock: Option<&RepositoryLock>,
    selector: &PointSelector,
    job: &Job,
) -> std::result::Result<Point, VaultError> {
    let point = repository.select(selector, job)?;
    if let Some(lock) = lock {
        lock.keep(point.snapshot.tree)?;
        // Still there after the lock names it: prune has seen one of the two.
        repository.snapshot(&point.id)?;
    }
    Ok(point)
}
