//! Switches and NAT networks.

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::name::{NatName, SwitchName};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SwitchId(pub Uuid);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum SwitchKind {
    /// Guests among themselves.
    Private,
    /// Guests and the host, which has the interface `vEthernet (NAME)`.
    Internal,
    /// Guests on the network of one of the host's adapters.
    External {
        /// The Linux interface that becomes the uplink.
        uplink: String,
        /// Whether the host keeps using that network: its addresses and routes move to the switch.
        allow_management_os: bool,
    },
}

impl SwitchKind {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Private => "Private",
            Self::Internal => "Internal",
            Self::External { .. } => "External",
        }
    }
}

/// A virtual switch and what its host interface has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switch {
    pub id: SwitchId,
    pub name: SwitchName,
    pub kind: SwitchKind,
    pub notes: String,
    /// Addresses given to the host's interface of this switch (never on a Private switch).
    pub addresses: Vec<HostAddress>,
}

impl Switch {
    /// The host's interface of this switch as administrators see it, if it has one.
    pub fn host_interface(&self) -> Option<String> {
        match &self.kind {
            SwitchKind::Private => None,
            SwitchKind::External { allow_management_os: false, .. } => None,
            _ => Some(format!("vEthernet ({})", self.name)),
        }
    }
}

/// An IPv4 address on a switch's host interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostAddress {
    pub address: Ipv4Addr,
    /// 1 to 32.
    pub prefix_len: u8,
    pub gateway: Option<Ipv4Addr>,
}

/// A network behind this host's own addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nat {
    pub name: NatName,
    /// The addresses inside, such as 192.168.100.0/24.
    pub internal_prefix: Ipv4Net,
    pub mappings: Vec<StaticMapping>,
    /// DHCP and DNS offered on the switch whose host interface is in `internal_prefix`.
    pub dhcp: Option<Dhcp>,
}

/// Leases and names for a NAT network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dhcp {
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
    pub lease_seconds: u32,
    /// Servers that names are asked of; empty: those that the host itself uses.
    pub dns_servers: Vec<Ipv4Addr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        }
    }
}

/// A port of the host that leads to a port inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StaticMapping {
    /// Counts up within one NAT network; never used again.
    pub id: u32,
    pub protocol: Protocol,
    /// 0.0.0.0: every address of the host.
    pub external_address: Ipv4Addr,
    pub external_port: u16,
    pub internal_address: Ipv4Addr,
    pub internal_port: u16,
}
