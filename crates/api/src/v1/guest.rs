use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a guest says of itself through the guest agent. Everything in it is the guest's claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Guest {
    #[serde(default)]
    pub hostname: Option<String>,
    #[serde(default)]
    pub os: Option<String>,
    #[serde(default)]
    pub kernel: Option<String>,
    pub agent_version: String,
    pub interfaces: Vec<GuestInterface>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestInterface {
    pub name: String,
    #[serde(default)]
    pub mac: Option<String>,
    /// `ADDRESS/PREFIX`
    pub addresses: Vec<String>,
}

/// A program to run in the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Exec {
    pub program: String,
    pub arguments: Vec<String>,
    /// Given to its standard input.
    pub input: String,
    /// How long it may take; 60 when absent, at most 3600.
    pub timeout_seconds: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecResult {
    /// Absent when a signal ended it.
    #[serde(default)]
    pub exit_code: Option<i64>,
    #[serde(default)]
    pub signal: Option<i64>,
    /// Bytes that are no UTF-8 are replaced.
    pub stdout: String,
    pub stderr: String,
    /// Whether the guest agent cut the output.
    pub truncated: bool,
}
