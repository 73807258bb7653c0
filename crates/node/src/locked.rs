//! Values that several threads share, each behind a lock that is held for a moment and over no wait.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a lock keeps is whole after every statement, so that a thread that panicked with it left nothing half done.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
