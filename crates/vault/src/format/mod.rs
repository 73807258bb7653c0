//! What lies in a repository, as bytes: restic's format, version 2 (restic's design document, "Repository Layout").
//!
//! Pure functions between bytes and values: nothing here reads or writes files, asks the clock or the network. What is
//! decoded may come from anyone who can write to the storage, so decoding must never panic, never take more memory
//! than a small multiple of its input or of a limit that the caller gives, and never accept what a writer cannot mean.
//! What is encoded must be what a stock restic reads.

pub mod compress;
pub mod config;
pub mod index;
mod json;
pub mod key;
pub mod lock;
pub mod object;
pub mod pack;
#[cfg(test)]
mod restic;
pub mod snapshot;
#[cfg(test)]
mod speed;
#[cfg(test)]
mod tests;
mod timestamp;
pub mod tree;

pub use timestamp::{InvalidTimestamp, Timestamp};

use crate::crypto::CryptoError;

/// Why bytes are not what they should be, or could not be made.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    #[error(transparent)]
    Crypto(#[from] CryptoError),
    /// JSON that does not parse, or lacks what it must have.
    #[error("the {what} is not readable: {source}")]
    Json { what: &'static str, source: serde_json::Error },
    /// Something is there that no writer makes.
    #[error("the {what} is not valid: {why}")]
    Invalid { what: &'static str, why: String },
    /// More than the limit that protects this machine's memory.
    #[error("the {what} has more than {limit_bytes} bytes, the limit")]
    TooLarge { what: &'static str, limit_bytes: u64 },
    /// zstd refused, or gave another length than was promised.
    #[error("the data could not be {action}: {why}")]
    Compression { action: &'static str, why: String },
}

impl FormatError {
    pub(crate) fn invalid(what: &'static str, why: impl Into<String>) -> Self {
        Self::Invalid { what, why: why.into() }
    }

    pub(crate) fn json(what: &'static str) -> impl FnOnce(serde_json::Error) -> Self {
        move |source| Self::Json { what, source }
    }
}
