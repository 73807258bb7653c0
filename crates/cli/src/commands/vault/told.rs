//! What the vault's errors say, as the contract's object.

use nestling_api::v1::ErrorCode;
use nestling_block::BlockError;
use nestling_vault::{FailureKind, VaultError, storage::StorageError};

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
    match error.kind() {
        FailureKind::Invalid => ErrorCode::Invalid,
        FailureKind::NotFound => ErrorCode::NotFound,
        FailureKind::Exists => ErrorCode::Exists,
        FailureKind::Denied => ErrorCode::Denied,
        FailureKind::InUse => ErrorCode::InUse,
        FailureKind::NoSpace => ErrorCode::Requirement,
        FailureKind::Timeout => ErrorCode::Timeout,
        FailureKind::Failed => ErrorCode::Failed,
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
