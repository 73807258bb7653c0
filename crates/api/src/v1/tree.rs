use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::vm::VmState;

/// A host and everything below it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Tree {
    pub host: String,
    pub engine: String,
    pub logical_processors: u32,
    pub memory_bytes: u64,
    pub vms: Vec<TreeVm>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TreeVm {
    pub name: String,
    pub state: VmState,
    #[serde(default)]
    pub state_reason: Option<String>,
    pub processor_count: u32,
    pub cpu_usage_percent: u32,
    pub memory_bytes: u64,
    pub addresses: Vec<String>,
    /// The host inside, when this machine is one and answers.
    #[serde(default)]
    #[schema(no_recursion)]
    pub inside: Option<Box<Tree>>,
    /// Why `inside` is absent although there is a host inside.
    #[serde(default)]
    pub inside_error: Option<String>,
}

/// Something that happened on a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    pub sequence: u64,
    pub at_ms: u64,
    /// A stable word, such as `vm-state`.
    pub kind: String,
    pub object: String,
    pub message: String,
    /// The path of the host inside which it happened; absent for this one.
    #[serde(default)]
    pub path: Option<String>,
}
