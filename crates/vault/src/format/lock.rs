//! Locks: who works in a repository, so that a prune and a writer, of ours or stock restic's, keep apart.
//!
//! restic's design document, "Locks". A lock is refreshed every 5 minutes by writing a new one, and stale after 30.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{FormatError, Timestamp, json};
use crate::BlobId;

/// What a lock file says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lock {
    /// When it was written or refreshed.
    pub time: Timestamp,
    /// Whether nobody else may hold one.
    pub exclusive: bool,
    #[serde(default)]
    pub hostname: String,
    #[serde(default)]
    pub username: String,
    pub pid: i64,
    #[serde(default, skip_serializing_if = "json::is_zero")]
    pub uid: u32,
    #[serde(default, skip_serializing_if = "json::is_zero")]
    pub gid: u32,
    /// Ours alone, for restic ignores it: tells two holders in one process apart, and a process from its successor
    /// of the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Ours alone: the boot and the namespace of processes that `pid` counts in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
    /// Ours alone: when the process of `pid` began, by which its number is known from the same one given to another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<String>,
    /// Ours alone: trees that the holder builds on, which prune keeps even when no snapshot names them any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keeps: Vec<BlobId>,
    /// Fields of other writers.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The JSON of a lock, to be sealed as an object.
pub fn encode(lock: &Lock) -> Result<Vec<u8>, FormatError> {
    serde_json::to_vec(lock).map_err(FormatError::json("lock"))
}

/// A lock from its JSON.
pub fn decode(json: &[u8]) -> Result<Lock, FormatError> {
    serde_json::from_slice(json).map_err(FormatError::json("lock"))
}
