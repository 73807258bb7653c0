//! What can go wrong with a repository. Each says on which object and what to do next; none ever holds a secret.

use crate::{
    BlobId, Geometry, PackId, SnapshotId,
    crypto::CryptoError,
    format::FormatError,
    storage::{StorageError, StorageErrorKind},
};

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    Block(#[from] nestling_block::BlockError),
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    #[error("{place} has no repository; make one with 'vault init'")]
    NoRepository { place: String },
    #[error("{place} holds a repository already; nothing was changed")]
    AlreadyExists { place: String },
    #[error(
        "{place}: repository version {version} is not known; this program reads versions 1 and 2 and writes version 2"
    )]
    Version { place: String, version: u32 },
    #[error(
        "{place} has no key file; without one nothing in it can be read: put a copy of its 'keys' folder back"
    )]
    NoKey { place: String },
    #[error("{file}: {source}")]
    Key { file: String, source: crate::format::key::KeyError },
    #[error("wrong password for {place}")]
    WrongPassword { place: String },
    #[error("key {0} is the last one, and without a key nothing could be read; add another one first")]
    LastKey(String),
    #[error("key {0} is the one in use; open the repository with another one to remove it")]
    KeyInUse(String),
    #[error("there is no key {0}")]
    NoSuchKey(String),
    /// A file was read whole and is not what it should be.
    #[error(
        "{file} is damaged: {source}; 'vault verify' tells what is concerned, 'vault repair' keeps what is whole"
    )]
    Damaged { file: String, source: FormatError },
    #[error("{file} is damaged: {source}; 'vault rebuild-index' makes the index anew from the packs")]
    IndexDamaged { file: String, source: FormatError },
    #[error("chunk {blob} in pack {pack} is damaged: {why}")]
    BlobDamaged { blob: BlobId, pack: PackId, why: String },
    #[error("chunk {0} is in no index; run 'vault rebuild-index', then 'vault verify'")]
    BlobMissing(BlobId),
    #[error("point {point}: {what}")]
    PointDamaged { point: SnapshotId, what: String },
    /// Nothing is known of what is in it, and nothing is wrong with it.
    #[error(
        "point {point} was written by a newer version of this program (layout {version}); use that one to read it"
    )]
    NewerLayout { point: SnapshotId, version: u64 },
    /// It was lost before, and told then.
    #[error(
        "{disk}: bytes {} to {} were lost to damage of the repository and cannot be read; restore the other ranges, or take \
         another point",
        range.start, range.end
    )]
    Lost { disk: String, range: std::ops::Range<u64> },
    #[error("a disk cannot be cut like this: {0:?}")]
    Geometry(Geometry),
    #[error("{0:?} cannot be the name of a machine or disk in a repository: {1}")]
    Name(String, &'static str),
    #[error("there is no point {0}")]
    NoSuchPoint(String),
    #[error("{0} is not one point but several: {1}; give more digits")]
    AmbiguousPoint(String, String),
    #[error(
        "the newest point of {name} cannot be told, since snapshot {snapshot} may be it and cannot be read ({source}); name a \
         point by its id"
    )]
    NewestUnknown { name: String, snapshot: SnapshotId, source: Box<VaultError> },
    #[error("point {point} of {name} has no disk {disk}; it has {known}")]
    NoSuchDisk { point: SnapshotId, name: String, disk: String, known: String },
    #[error(
        "the repository is locked by {holder}; wait for it to end; if it is gone, `nestling vault unlock` removes its lock"
    )]
    Locked { holder: String },
    #[error(
        "the lock on the repository was lost, so another program may have removed what this one relied on; run it again"
    )]
    LockLost,
    #[error("{path} is there already; nothing was changed")]
    OutputExists { path: String },
    #[error("point {point} is not removed: {why}; take that away first if it is really to go")]
    Protected { point: String, why: String },
    #[error(
        "lock {file} cannot be read ({source}), so somebody may be at work; once nobody is, 'vault unlock --all' removes it"
    )]
    LockUnreadable { file: String, source: Box<VaultError> },
    /// A repair gives nothing up for what may be whole.
    #[error(
        "{0}; nothing was changed, since this may be readable another time. Where it never is, copy all files of the \
         repository that can be read to a sound disk, and repair that"
    )]
    Unsure(String),
    #[error(
        "{place} has {packs} packs of data and neither a point nor another snapshot that needs them, so nothing is removed; if \
         there should be points, put a copy of the 'snapshots' folder back"
    )]
    NoSnapshots { place: String, packs: u64 },
    #[error("cancelled")]
    Cancelled,
    /// Another thread failed; its error is the one to show.
    #[error("stopped because another part of the job failed")]
    Stopped,
    #[error("{0}")]
    Invalid(String),
}

/// What kind of failure it is, for whoever has codes for kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    Invalid,
    NotFound,
    Exists,
    Denied,
    InUse,
    /// The place is full.
    NoSpace,
    Timeout,
    Failed,
}

impl VaultError {
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::NoRepository { .. }
            | Self::NoSuchPoint(_)
            | Self::NoSuchDisk { .. }
            | Self::NoSuchKey(_)
            | Self::NoSnapshots { .. } => FailureKind::NotFound,
            Self::AlreadyExists { .. } | Self::OutputExists { .. } => FailureKind::Exists,
            Self::WrongPassword { .. } => FailureKind::Denied,
            Self::Locked { .. }
            | Self::LockUnreadable { .. }
            | Self::Protected { .. }
            | Self::LastKey(_)
            | Self::KeyInUse(_) => FailureKind::InUse,
            Self::Geometry(_) | Self::Name(..) | Self::Invalid(_) | Self::AmbiguousPoint(..) => {
                FailureKind::Invalid
            }
            Self::Storage(error) => match error.kind {
                StorageErrorKind::NotFound => FailureKind::NotFound,
                StorageErrorKind::AlreadyExists => FailureKind::Exists,
                StorageErrorKind::InvalidName | StorageErrorKind::InvalidLocation => FailureKind::Invalid,
                StorageErrorKind::NoSpace => FailureKind::NoSpace,
                StorageErrorKind::Denied => FailureKind::Denied,
                StorageErrorKind::Timeout => FailureKind::Timeout,
                _ => FailureKind::Failed,
            },
            Self::Block(nestling_block::BlockError::Io { source, .. }) => match source.kind() {
                std::io::ErrorKind::NotFound => FailureKind::NotFound,
                std::io::ErrorKind::PermissionDenied => FailureKind::Denied,
                _ => FailureKind::Failed,
            },
            _ => FailureKind::Failed,
        }
    }

    /// Whether input or output failed: what lies there may be damaged, and may be read the next time.
    pub(crate) fn is_io(&self) -> bool {
        matches!(self, Self::Storage(error) if error.kind == StorageErrorKind::Io)
    }

    /// Whether the store is full.
    pub(crate) fn is_no_space(&self) -> bool {
        matches!(self, Self::Storage(error) if error.kind == StorageErrorKind::NoSpace)
    }

    /// Whether something is not where the index says. The index may be older than a prune, or than what is looked for.
    pub fn says_missing(&self) -> bool {
        matches!(self, Self::BlobMissing(_)) || crate::repo::is_not_found(self)
    }

    /// Whether it says that something stored is damaged or lost, not that it could not be reached just now.
    pub fn is_damage(&self) -> bool {
        match self {
            Self::Storage(error) => error.says_damaged() && error.kind != StorageErrorKind::Io,
            Self::Damaged { .. }
            | Self::IndexDamaged { .. }
            | Self::BlobDamaged { .. }
            | Self::BlobMissing(_)
            | Self::PointDamaged { .. }
            | Self::Lost { .. }
            | Self::Geometry(_)
            | Self::Name(..) => true,
            _ => false,
        }
    }
}
