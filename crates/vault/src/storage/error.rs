//! What can go wrong with a storage: a kind that programs decide by, and one sentence that people act on.

use std::{error::Error, fmt, io, sync::Arc};

use super::FileName;

/// What the kernel says where a symbolic link must not be followed.
const LOOP: i32 = rustix::io::Errno::LOOP.raw_os_error();

/// Why an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StorageErrorKind {
    NotFound,
    AlreadyExists,
    /// What lies there is not what its name says.
    Mismatch,
    InvalidName,
    /// The place was named in a form that is not known.
    InvalidLocation,
    NoSpace,
    ReadOnly,
    Denied,
    Unreachable,
    Timeout,
    /// The storage asks to come back later.
    Busy,
    /// The storage does not want what was asked, for a reason of its own.
    Refused,
    TooLarge,
    UnexpectedEnd,
    /// A link lies where a file or directory of the repository belongs.
    SymbolicLink,
    /// The place cannot do what is needed of it.
    Unsupported,
    Io,
    /// A simulated process has ended: nothing works any more.
    Crashed,
}

impl StorageErrorKind {
    /// Whether the same call may succeed a little later with nothing changed by anyone.
    pub fn is_transient(self) -> bool {
        matches!(self, Self::Unreachable | Self::Timeout | Self::Busy | Self::Io)
    }

    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::NotFound => "it is not there",
            Self::AlreadyExists => "another one is there already",
            Self::Mismatch => "what lies under its name has another length",
            Self::InvalidName => "this cannot be the name of a file in a repository",
            Self::InvalidLocation => "this is no place for a repository",
            Self::NoSpace => "no space is left",
            Self::ReadOnly => "the file system is read-only",
            Self::Denied => "access is denied",
            Self::Unreachable => "the storage cannot be reached",
            Self::Timeout => "the storage did not answer in time",
            Self::Busy => "the storage is too busy or failing",
            Self::Refused => "the storage refused it",
            Self::TooLarge => "it is larger than such a file can be",
            Self::UnexpectedEnd => "it ends too early",
            Self::SymbolicLink => {
                "a symbolic link or a special file is in its place, which is never followed"
            }
            Self::Unsupported => "the storage lacks what is needed for it",
            Self::Io => "input or output failed",
            Self::Crashed => "the simulated process has ended",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::NotFound => "check that this is the right repository, and verify it",
            Self::AlreadyExists => "use the repository that is there, or choose another place",
            Self::Mismatch | Self::TooLarge | Self::UnexpectedEnd => "verify the repository and repair it",
            Self::InvalidName => "use 64 hexadecimal digits, as listings show them",
            Self::InvalidLocation => {
                "give a directory, s3:https://HOST/BUCKET/PREFIX, s3://BUCKET/PREFIX, \
                azure://CONTAINER/PREFIX or gs://BUCKET/PREFIX"
            }
            Self::NoSpace => "free some or add some, then start again: what was stored is kept",
            Self::ReadOnly => {
                "mount it writable; if the kernel made it read-only, see its log and check the disk"
            }
            Self::Denied => "check the owner of the directory, or the credentials and what they allow",
            Self::Unreachable => {
                "check the network and the address, then start again: what was stored is kept"
            }
            Self::Refused => "check the address and the settings for this storage",
            Self::Timeout | Self::Busy => {
                "start again when the storage is less busy: what was stored is kept"
            }
            Self::SymbolicLink => "put the file or directory itself there",
            Self::Unsupported => "choose another place",
            Self::Io => "check the disk and the kernel's log, then verify the repository",
            Self::Crashed => "open the survivors",
        }
    }
}

/// What was to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    Open,
    Name,
    Put,
    Get,
    List,
    Remove,
    Sweep,
}

impl Operation {
    fn participle(self) -> &'static str {
        match self {
            Self::Open => "opened",
            Self::Name => "used",
            Self::Put => "stored",
            Self::Get => "read",
            Self::List => "listed",
            Self::Remove => "removed",
            Self::Sweep => "cleaned",
        }
    }
}

/// What failed, on which file, where, why, and what to do next.
#[derive(Debug, Clone)]
pub struct StorageError {
    pub kind: StorageErrorKind,
    pub operation: Operation,
    pub file: Option<FileName>,
    /// The storage as [`super::Storage::describe`] names it.
    pub place: String,
    /// Said instead of the reason of the kind where more is known.
    pub detail: Option<String>,
    source: Option<Arc<dyn Error + Send + Sync>>,
}

impl StorageError {
    /// Whether it says something about the file, not about how to get there: what was asked for is damaged or lost.
    pub fn says_damaged(&self) -> bool {
        use StorageErrorKind::{Io, Mismatch, NotFound, SymbolicLink, TooLarge, UnexpectedEnd};
        matches!(self.kind, NotFound | Mismatch | UnexpectedEnd | TooLarge | SymbolicLink | Io)
    }

    pub fn new(kind: StorageErrorKind, operation: Operation, place: impl Into<String>) -> Self {
        Self { kind, operation, file: None, place: place.into(), detail: None, source: None }
    }

    #[must_use]
    pub fn on(mut self, file: &FileName) -> Self {
        self.file = Some(file.clone());
        self
    }

    #[must_use]
    pub fn because(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    #[must_use]
    pub fn caused_by(mut self, source: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// An error of the operating system, by its number.
    pub(crate) fn from_io(error: io::Error, operation: Operation, place: &str) -> Self {
        let kind = match error.kind() {
            _ if error.raw_os_error() == Some(LOOP) => StorageErrorKind::SymbolicLink,
            io::ErrorKind::NotFound => StorageErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => StorageErrorKind::AlreadyExists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StorageErrorKind::NoSpace,
            io::ErrorKind::ReadOnlyFilesystem => StorageErrorKind::ReadOnly,
            io::ErrorKind::PermissionDenied => StorageErrorKind::Denied,
            io::ErrorKind::TimedOut => StorageErrorKind::Timeout,
            io::ErrorKind::UnexpectedEof => StorageErrorKind::UnexpectedEnd,
            io::ErrorKind::StaleNetworkFileHandle | io::ErrorKind::HostUnreachable => {
                StorageErrorKind::Unreachable
            }
            io::ErrorKind::Unsupported => StorageErrorKind::Unsupported,
            _ => StorageErrorKind::Io,
        };
        Self::new(kind, operation, place).caused_by(error)
    }
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (place, done) = (&self.place, self.operation.participle());
        match &self.file {
            Some(file) => write!(f, "{file} in {place} could not be {done}: ")?,
            None => write!(f, "{place} could not be {done}: ")?,
        }
        f.write_str(self.detail.as_deref().unwrap_or(self.kind.reason()))?;
        if let Some(source) = &self.source {
            write!(f, " ({source})")?;
        }
        write!(f, "; {}", self.kind.remedy())
    }
}

impl Error for StorageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_ref().map(|source| &**source as &(dyn Error + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FileKind;

    #[test]
    fn an_error_says_what_on_what_why_and_what_next() {
        let file = FileName::new(FileKind::Pack, "ab".repeat(32)).unwrap();
        let error =
            StorageError::from_io(io::Error::from_raw_os_error(28), Operation::Put, "/backup").on(&file);
        assert_eq!(error.kind, StorageErrorKind::NoSpace);
        assert_eq!(
            error.to_string(),
            format!(
                "pack {} in /backup could not be stored: no space is left (No space left on device (os error 28)); \
                 free some or add some, then start again: what was stored is kept",
                file.name
            )
        );
    }
}
