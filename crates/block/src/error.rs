//! What can go wrong with a disk. Each says which file or export, where in it, and why.

use std::{io, time::Duration};

#[derive(Debug, thiserror::Error)]
pub enum BlockError {
    #[error("{name}: cannot {action} at byte {offset}: {source}")]
    Io { name: String, action: &'static str, offset: u64, source: io::Error },
    #[error("{name}: {length} bytes at byte {offset} are not inside its {size_bytes} bytes")]
    OutOfRange { name: String, offset: u64, length: u64, size_bytes: u64 },
    /// The image contradicts itself or its format.
    #[error("{name}: damaged at byte {offset}: {what}")]
    Damaged { name: String, offset: u64, what: String },
    /// The image is as it should be, but this program cannot read it.
    #[error("{name}: {what}")]
    Unsupported { name: String, what: String },
    #[error("{name}: is read-only")]
    ReadOnly { name: String },
    /// The peer broke the protocol, so that nothing it says can be used any more.
    #[error("{name}: the peer broke the NBD protocol: {what}")]
    Protocol { name: String, what: String },
    /// The peer answered that it could not do it.
    #[error("{name}: the server refused {action} at byte {offset}: {what}")]
    Refused { name: String, action: &'static str, offset: u64, what: String },
    #[error("{name}: the server was asked {action} and was silent for {} seconds", after.as_secs_f32())]
    TimedOut { name: String, action: &'static str, after: Duration },
    /// The connection is gone; another may be made.
    #[error("{name}: the connection is lost: {what}")]
    Disconnected { name: String, what: String },
}

impl BlockError {
    /// An error of the operating system.
    pub fn io(name: &str, action: &'static str, offset: u64, source: impl Into<io::Error>) -> Self {
        Self::Io { name: name.to_owned(), action, offset, source: source.into() }
    }

    pub fn damaged(name: &str, offset: u64, what: impl Into<String>) -> Self {
        Self::Damaged { name: name.to_owned(), offset, what: what.into() }
    }

    pub fn unsupported(name: &str, what: impl Into<String>) -> Self {
        Self::Unsupported { name: name.to_owned(), what: what.into() }
    }
}

/// Why bytes are refused by a parser that knows neither whose they are nor where they lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fault {
    /// At this byte of what was parsed.
    Damaged(u64, String),
    Unsupported(String),
}

impl Fault {
    /// Of the file `name`, in which the bytes began at `base`.
    pub(crate) fn of(self, name: &str, base: u64) -> BlockError {
        match self {
            Self::Damaged(offset, what) => BlockError::damaged(name, base.saturating_add(offset), what),
            Self::Unsupported(what) => BlockError::unsupported(name, what),
        }
    }
}
