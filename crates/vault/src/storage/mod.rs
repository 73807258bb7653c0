//! Where the files of a repository lie: whole files under validated names, in restic's layout.
//!
//! Everything above names a [`FileName`] and never a path, so one engine serves a directory, a cloud and a test. A
//! storage must never replace what lies under a name, never report a file as stored before it is durable, and never
//! return bytes it did not receive: it fails instead, with a [`StorageError`] that says what to do next.
//!
//! All calls block and may come from any number of threads. What cuts across all places (retries, bandwidth, counting,
//! refusing removal) is a wrapper around a [`Storage`], never a case inside one.

mod access;
mod clock;
pub mod conformance;
mod error;
mod local;
mod location;
mod memory;
mod name;
mod object;
mod random;
mod simulated;
mod wrappers;

use std::{sync::Arc, time::Duration};

pub use access::{Access, settings_of_environment};
pub use clock::{Clock, SystemClock, TestClock};
pub use error::{Operation, StorageError, StorageErrorKind};
pub use local::LocalStorage;
pub use location::{Location, StorageOptions, open};
pub use memory::MemoryStorage;
pub use name::{FileKind, FileName};
pub use object::ObjectStorage;
pub use simulated::{Cut, Fault, Faults, Logged, SimulatedStorage};
pub use wrappers::{AppendOnly, Counting, Counts, Limits, RetryPolicy, Retrying, Throttle, Throttled};

/// A file that a listing found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    pub name: String,
    pub size: u64,
}

/// A place for the files of one repository.
pub trait Storage: Send + Sync {
    /// The place as people name it, for messages. Never holds a secret.
    fn describe(&self) -> String;

    /// Stores a file, which is durable when this returns. Nothing is ever replaced.
    ///
    /// Where a file lies already: a content name ([`FileKind::names_content`]) means it is the same, and the call
    /// succeeds without writing (`Mismatch` if its length differs, for then it is damaged). [`FileKind::Extra`]
    /// succeeds for equal bytes and is `AlreadyExists` for others; [`FileKind::Config`] is always `AlreadyExists`.
    /// After an error the file is there whole or not at all; which of the two is not known.
    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError>;

    /// The whole file. `NotFound`; `TooLarge` above the limit, before memory is spent.
    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError>;

    /// Fills `buf` from `offset`, or fails: `UnexpectedEnd` where the file ends before. An empty `buf` asks for
    /// nothing and may succeed without a look. What `buf` holds after an error means nothing.
    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError>;

    /// All files of a kind, in no order. Foreign names are left out, and so is what is not yet whole.
    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError>;

    /// The same, for who does not ask how long they are: a local directory then needs no look at each file.
    fn names(&self, kind: FileKind) -> Result<Vec<String>, StorageError> {
        Ok(self.list(kind)?.into_iter().map(|listed| listed.name).collect())
    }

    /// Removes a file. Removing what is not there is no error. Durable when it returns, but for packs, locks and
    /// extra files: those may be there again after a power failure.
    fn remove(&self, file: &FileName) -> Result<(), StorageError>;

    /// Removes what killed writers left half-written at least `older_than` ago, and says how many files that were.
    fn sweep_temporary(&self, older_than: Duration) -> Result<u64, StorageError>;
}

impl<S: Storage + ?Sized> Storage for Arc<S> {
    fn describe(&self) -> String {
        (**self).describe()
    }

    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        (**self).put(file, bytes)
    }

    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError> {
        (**self).get(file, limit_bytes)
    }

    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        (**self).get_range(file, offset, buf)
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError> {
        (**self).list(kind)
    }

    fn names(&self, kind: FileKind) -> Result<Vec<String>, StorageError> {
        (**self).names(kind)
    }

    fn remove(&self, file: &FileName) -> Result<(), StorageError> {
        (**self).remove(file)
    }

    fn sweep_temporary(&self, older_than: Duration) -> Result<u64, StorageError> {
        (**self).sweep_temporary(older_than)
    }
}
