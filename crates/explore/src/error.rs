//! What can go wrong with a file system. Each says on which volume, with what, and why.
//!
//! Names that came from a disk are in messages only as their escaped text (`name.rs`).

use nestling_block::BlockError;

#[derive(Debug, thiserror::Error)]
pub enum ExploreError {
    /// The disk below could not be read.
    #[error("{volume}: cannot read the disk below")]
    Disk { volume: String, source: BlockError },
    #[error("{volume}: there is no {what}")]
    NotFound { volume: String, what: String },
    /// Something is there, but not of the kind that was asked for.
    #[error("{volume}: {what} is not {wanted}")]
    WrongKind { volume: String, what: String, wanted: &'static str },
    /// The file system contradicts itself or its format. What does not touch this place can still be read.
    #[error("{volume}: damaged: {what}")]
    Damaged { volume: String, what: String },
    /// The file system is as it should be, but this program cannot read it, or this part of it.
    #[error("{volume}: {what}")]
    Unsupported { volume: String, what: String },
    /// A file system of no kind that a reader here knows.
    #[error("{volume}: holds {found}, which no reader here reads")]
    Unreadable { volume: String, found: String },
    /// What was asked for would need more than a reader may take.
    #[error("{volume}: {what}: more than the limit of {limit}")]
    Limit { volume: String, what: String, limit: u64 },
    /// A path or pattern that is none.
    #[error("{text:?}: {what}")]
    Invalid { text: String, what: String },
    /// The process that read the file system is gone; another can be started.
    #[error("the reader of {volume} ended: {what}; the disk can be opened again")]
    WorkerDied { volume: String, what: String },
    #[error(
        "the reader of {volume} was asked {action} and did not answer within {seconds} seconds; it was ended"
    )]
    WorkerSilent { volume: String, action: &'static str, seconds: u64 },
    #[error("the reader of {volume} broke the protocol: {what}; it was ended")]
    WorkerProtocol { volume: String, what: String },
    #[error("the reader of {volume} cannot be started: {what}")]
    WorkerStart { volume: String, what: String },
    /// A refusal of a reader in another process, as that process words it.
    #[error("{what}")]
    Told { kind: ErrorKind, what: String },
}

/// What a caller may want to tell apart, also across processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum ErrorKind {
    Disk,
    NotFound,
    WrongKind,
    Damaged,
    Unsupported,
    Limit,
    Invalid,
    /// The reader's process is gone.
    Worker,
}

impl ExploreError {
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Disk { .. } => ErrorKind::Disk,
            Self::NotFound { .. } => ErrorKind::NotFound,
            Self::WrongKind { .. } => ErrorKind::WrongKind,
            Self::Damaged { .. } => ErrorKind::Damaged,
            Self::Unsupported { .. } | Self::Unreadable { .. } => ErrorKind::Unsupported,
            Self::Limit { .. } => ErrorKind::Limit,
            Self::Invalid { .. } => ErrorKind::Invalid,
            Self::WorkerDied { .. }
            | Self::WorkerSilent { .. }
            | Self::WorkerProtocol { .. }
            | Self::WorkerStart { .. } => ErrorKind::Worker,
            Self::Told { kind, .. } => *kind,
        }
    }

    pub(crate) fn invalid(text: &str, what: &str) -> Self {
        Self::Invalid { text: text.to_owned(), what: what.to_owned() }
    }
}

pub type Result<T, E = ExploreError> = std::result::Result<T, E>;
