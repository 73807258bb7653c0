//! What the vault's errors say, as the contract's object.

use nestling_api::v1::ErrorCode;
use nestling_block::BlockError;
use nestling_vault::{
    VaultError,
    storage::{StorageError, StorageErrorKind},
};

use crate::failure::Failure;

impl From<VaultError> for Failure {
    fn from(error: VaultError) -> Self {
        let failure = Self::new(code(&error), error.to_string());
        match hint(&error) {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        VaultError::from(error).into()
    }
}

fn code(error: &VaultError) -> ErrorCode {
    match error {
        VaultError::NoRepository { .. }
        | VaultError::NoSuchPoint(_)
        | VaultError::NoSuchDisk { .. }
        | VaultError::NoSuchKey(_)
        | VaultError::NoSnapshots { .. } => ErrorCode::NotFound,
        VaultError::AlreadyExists { .. } | VaultError::OutputExists { .. } => ErrorCode::Exists,
        VaultError::WrongPassword { .. } => ErrorCode::Denied,
        VaultError::Locked { .. }
        | VaultError::LockUnreadable { .. }
        | VaultError::Protected { .. }
        | VaultError::LastKey(_)
        | VaultError::KeyInUse(_) => ErrorCode::InUse,
        VaultError::Geometry(_)
        | VaultError::Name(..)
        | VaultError::Invalid(_)
        | VaultError::AmbiguousPoint(..) => ErrorCode::Invalid,
        VaultError::Storage(error) => match error.kind {
            StorageErrorKind::NotFound => ErrorCode::NotFound,
            StorageErrorKind::AlreadyExists => ErrorCode::Exists,
            StorageErrorKind::InvalidName | StorageErrorKind::InvalidLocation => ErrorCode::Invalid,
            StorageErrorKind::NoSpace => ErrorCode::Requirement,
            StorageErrorKind::Denied => ErrorCode::Denied,
            StorageErrorKind::Timeout => ErrorCode::Timeout,
            _ => ErrorCode::Failed,
        },
        VaultError::Block(BlockError::Io { source, .. }) => match source.kind() {
            std::io::ErrorKind::NotFound => ErrorCode::NotFound,
            std::io::ErrorKind::PermissionDenied => ErrorCode::Denied,
            _ => ErrorCode::Failed,
        },
        _ => ErrorCode::Failed,
    }
}

fn hint(error: &VaultError) -> Option<&'static str> {
    match error {
        VaultError::WrongPassword { .. } => {
            Some("it is taken from --password-file, else from NESTLING_VAULT_PASSWORD, else asked for")
        }
        VaultError::NoSuchPoint(_) | VaultError::NewestUnknown { .. } => {
            Some("`nestling vault points` lists them")
        }
        VaultError::NoSnapshots { .. } => Some("--allow-empty removes all of it"),
        VaultError::OutputExists { .. } => {
            Some("--force replaces it, --onto-existing writes only what differs")
        }
        VaultError::Block(BlockError::Unsupported { .. }) => {
            Some("say what the image is with --format; names in it are followed only then")
        }
        _ => None,
    }
}
