//! Snapshots: one per recovery point, naming the tree that it consists of.
//!
//! restic's design document, "Snapshots". When tags are changed, a new snapshot replaces the old one; nothing that
//! another writer put into it may be lost then, so fields that are not known here are kept as they are.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{FormatError, Timestamp, json};
use crate::{BlobId, SnapshotId};

/// What a snapshot file says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// What the recovery point is a point of.
    pub time: Timestamp,
    /// The snapshot that this one was compared with when it was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<SnapshotId>,
    /// The root directory.
    pub tree: BlobId,
    /// What was saved, as absolute paths.
    #[serde(default, deserialize_with = "json::null_as_default")]
    pub paths: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    #[serde(default, skip_serializing_if = "json::is_zero")]
    pub uid: u32,
    #[serde(default, skip_serializing_if = "json::is_zero")]
    pub gid: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "json::null_as_default")]
    pub excludes: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "json::null_as_default")]
    pub tags: Vec<String>,
    /// The first snapshot that this one is a rewrite of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub original: Option<SnapshotId>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub program_version: String,
    /// Statistics of the run, as the writer left them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Value>,
    /// Fields of other writers.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The JSON of a snapshot, to be sealed as an object.
pub fn encode(snapshot: &Snapshot) -> Result<Vec<u8>, FormatError> {
    serde_json::to_vec(snapshot).map_err(FormatError::json("snapshot"))
}

/// A snapshot from its JSON.
pub fn decode(json: &[u8]) -> Result<Snapshot, FormatError> {
    serde_json::from_slice(json).map_err(FormatError::json("snapshot"))
}
