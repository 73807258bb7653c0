use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum SwitchKind {
    Private,
    Internal,
    External,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Switch {
    pub id: Uuid,
    pub name: String,
    pub kind: SwitchKind,
    pub notes: String,
    /// External: the host's interface that is the uplink.
    #[serde(default)]
    pub uplink: Option<String>,
    /// Whether the host itself uses the network of an External switch.
    pub allow_management_os: bool,
    /// The Linux bridge behind it.
    pub bridge: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewSwitch {
    pub name: String,
    pub kind: SwitchKind,
    #[serde(default)]
    pub notes: String,
    /// External: the name of the host's interface.
    #[serde(default)]
    pub uplink: Option<String>,
    /// External only; true when absent.
    #[serde(default)]
    pub allow_management_os: Option<bool>,
}

/// What to change; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct SwitchChange {
    pub name: Option<String>,
    pub notes: Option<String>,
    pub kind: Option<SwitchKind>,
    pub uplink: Option<String>,
    pub allow_management_os: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Nat {
    pub name: String,
    /// Such as `192.168.100.0/24`.
    pub internal_prefix: String,
    #[serde(default)]
    pub dhcp: Option<Dhcp>,
    pub mappings: Vec<StaticMapping>,
}

/// Leases and names for the machines of a NAT network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Dhcp {
    pub first: String,
    pub last: String,
    /// 3600 when absent.
    #[serde(default)]
    pub lease_seconds: Option<u32>,
    /// Those that the host uses when empty.
    #[serde(default)]
    pub dns_servers: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewNat {
    pub name: String,
    pub internal_prefix: String,
    #[serde(default)]
    pub dhcp: Option<Dhcp>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NatChange {
    /// Offer leases with these settings.
    pub dhcp: Option<Dhcp>,
    /// Stop offering leases.
    pub dhcp_off: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Protocol {
    #[serde(rename = "TCP")]
    Tcp,
    #[serde(rename = "UDP")]
    Udp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct StaticMapping {
    pub id: u32,
    pub protocol: Protocol,
    pub external_address: String,
    pub external_port: u16,
    pub internal_address: String,
    pub internal_port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewMapping {
    pub protocol: Protocol,
    /// `0.0.0.0`: every address of the host.
    pub external_address: String,
    pub external_port: u16,
    pub internal_address: String,
    /// The same as the external port when absent.
    #[serde(default)]
    pub internal_port: Option<u16>,
}
