//! What the host's network looks like to an administrator.

use std::net::IpAddr;

use ipnet::IpNet;
use nestling_model::MacAddress;

use crate::names::Ours;

/// A network interface of the host (Get-NetAdapter).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAdapter {
    /// Linux's name.
    pub interface: String,
    pub index: u32,
    /// None for interfaces without one, such as the loopback.
    pub mac: Option<MacAddress>,
    /// Whether it is switched on.
    pub up: bool,
    /// Whether something is at the other end (a tap: whether QEMU holds it).
    pub carrier: bool,
    pub mtu: u32,
    pub kind: AdapterKind,
    /// The bridge or bond that it is part of.
    pub master: Option<String>,
    /// Whether it is this node's own: the bridge of a switch (compare with [`crate::Tag::bridge`]) or a port.
    pub ours: Option<Ours>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdapterKind {
    Loopback,
    /// A device with no kind of its own in the kernel: a real adapter, or one that a hypervisor gives.
    Physical,
    Bridge,
    Tap,
    /// As the kernel calls it, such as `veth`.
    Other(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceAddress {
    pub interface: String,
    pub index: u32,
    pub address: IpAddr,
    pub prefix_len: u8,
    /// Given by a node (and given again after a reboot).
    pub managed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceRoute {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    pub interface: Option<String>,
    pub metric: u32,
    pub managed: bool,
}

/// What the rules at a machine's port dropped since they were last loaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PortCounters {
    /// Source address not the adapter's own while MAC address spoofing is off.
    pub spoofed_packets: u64,
    pub dhcp_guard_packets: u64,
    pub router_guard_packets: u64,
}

/// A lease that the DHCP server of a NAT network gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub mac: MacAddress,
    pub address: std::net::Ipv4Addr,
    pub host_name: Option<String>,
    /// Seconds since 1970.
    pub expires_unix_seconds: u64,
}
