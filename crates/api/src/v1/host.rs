use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The node itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    pub version: String,
    pub pid: u32,
    pub home: String,
    pub started_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Host {
    pub name: String,
    pub logical_processors: u32,
    pub memory_bytes: u64,
    pub memory_available_bytes: u64,
    /// Where new disks go.
    pub disk_directory: String,
    /// Where machines' files are.
    pub vm_directory: String,
    pub supported_versions: Vec<String>,
    /// `kvm` or `tcg`; absent until it has been proved.
    #[serde(default)]
    pub engine: Option<String>,
    #[serde(default)]
    pub engine_reason: Option<String>,
}

/// One line of `nestling doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Requirement {
    /// A stable word for programs, such as `kvm`.
    pub id: String,
    pub title: String,
    pub result: CheckResult,
    pub finding: String,
    /// What to do, when it is not `pass`.
    #[serde(default)]
    pub remedy: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CheckResult {
    Pass,
    Warn,
    Fail,
}

/// A role of this host, as Get-WindowsFeature lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Feature {
    /// `Hyper-V`
    pub name: String,
    pub display_name: String,
    pub installed: bool,
}

/// What installing a role did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FeatureInstalled {
    pub feature: Feature,
    /// False when it was there already.
    pub changed: bool,
    /// What was prepared, one sentence each.
    pub steps: Vec<String>,
}

/// A network interface of the host, as Get-NetAdapter lists it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostAdapter {
    /// `vEthernet (NAME)` for a switch's, else Linux's name.
    pub name: String,
    pub description: String,
    pub index: u32,
    /// `Up`, `Disconnected` or `Disabled`.
    pub status: String,
    /// With colons, lower case.
    pub mac: String,
    #[serde(default)]
    pub link_speed_mbps: Option<u64>,
    /// Whether it belongs to a switch of ours.
    pub is_virtual: bool,
    /// Linux's name.
    pub interface: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostAddress {
    pub address: String,
    pub prefix_len: u8,
    /// As in [`HostAdapter::name`].
    pub adapter: String,
    pub adapter_index: u32,
    #[serde(default)]
    pub gateway: Option<String>,
    /// Whether this node keeps it (and gives it again after a reboot).
    pub managed: bool,
}

/// An address for a switch's host interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewAddress {
    /// The adapter's name, as in [`HostAdapter::name`].
    pub adapter: String,
    pub address: String,
    pub prefix_len: u8,
    #[serde(default)]
    pub gateway: Option<String>,
}
