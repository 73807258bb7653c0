use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What went wrong: a code for programs, sentences for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub code: ErrorCode,
    /// What failed, on which object, and why. Ready to be shown.
    pub message: String,
    /// What to do next, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The object concerned, such as a machine's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorCode {
    /// A value that can never be (400).
    Invalid,
    /// No such machine, switch, network, disk or image (404).
    NotFound,
    /// A name, address or place that is taken (409).
    Exists,
    /// The object's state does not allow it now (409).
    InvalidState,
    /// Something else uses the object (409).
    InUse,
    /// The caller may not do this (403).
    Denied,
    /// The host lacks something: QEMU, root, memory, disk space, a kernel module (424).
    Requirement,
    /// The guest, its agent or the node inside it does not answer (504).
    GuestAbsent,
    /// It took longer than it may (504).
    Timeout,
    /// The engine or the system refused (500).
    Failed,
    /// No node answers at this address. Said by the client alone, never sent by a node.
    Unreachable,
    /// A code that this version does not know.
    #[serde(other)]
    Unknown,
}
