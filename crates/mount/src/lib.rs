//! A vault as a file system: every point of every machine as folders and files that any program reads.
//!
//! ```text
//! DIR/Lab/Web01/2026-11-26T22:00:22Z-8d93ead8/disk0.raw    a disk, as large as it was, with its holes
//!                                             vm.json      the description it was saved with, if there is one
//!               latest -> 2026-11-26T22:00:22Z-8d93ead8
//! ```
//!
//! Names and folders are pure (`names`, `catalog`), what is read comes through `view`, and `filesystem` translates
//! between that and the kernel. Nothing is ever written to the repository from here: what must be, the lock that keeps a
//! prune from what is read, belongs to whoever mounts ([`Host`]). Damage costs the file that it is in and nothing else.

mod catalog;
mod contents;
mod filesystem;
mod inodes;
mod keeper;
mod mounts;
mod names;
mod session;
mod view;

pub use session::{MountError, Mounted, check_directory};
pub use view::{Host, View};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// What a thread that panicked left is still whole: no guard is held across what could fail.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
