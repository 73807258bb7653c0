//! The part of the host's network that a node reads and changes, as values.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use ipnet::IpNet;

/// The mark on the addresses and routes that a node gave (`proto 78`), so that they are told from
/// those of the host when both are on one bridge. A private number, in the range free for such use.
pub(crate) const PROTOCOL_OURS: u8 = 78;

/// The metric of a default route given with an address: after those that the host's own tools set.
pub(crate) const GATEWAY_METRIC: u32 = 600;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub links: BTreeMap<String, Link>,
    pub rules: Rules,
    /// Whether the host forwards IPv4 packets between its interfaces.
    pub forwarding: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub kind: LinkKind,
    /// None where it does not matter (taps) or does not exist.
    pub mac: Option<[u8; 6]>,
    pub up: bool,
    pub master: Option<String>,
    /// Whether the kernel speaks IPv6 on it; None where that is not read or the kernel has no IPv6.
    pub ipv6: Option<bool>,
    /// In the kernel's order, which decides what the primary address of a network is.
    pub addresses: Vec<Address>,
    /// Those that the kernel did not make itself.
    pub routes: Vec<Route>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkKind {
    Bridge,
    Tap,
    /// Not ours; it may be an uplink unless a reason says otherwise.
    Foreign {
        unfit: Option<&'static str>,
    },
}

impl Link {
    pub fn new(kind: LinkKind) -> Self {
        Self { kind, mac: None, up: false, master: None, ipv6: None, addresses: vec![], routes: vec![] }
    }

    pub fn is_ours(&self) -> bool {
        !matches!(self.kind, LinkKind::Foreign { .. })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Address {
    pub ip: IpAddr,
    pub prefix_len: u8,
    pub broadcast: Option<Ipv4Addr>,
    pub ours: bool,
    /// What is left of its life when it was read; None: forever.
    pub valid_seconds: Option<u32>,
}

impl Address {
    /// Whether both are the same to the kernel.
    pub fn same(&self, other: &Self) -> bool {
        self.ip == other.ip && self.prefix_len == other.prefix_len
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub destination: IpNet,
    pub gateway: Option<IpAddr>,
    pub source: Option<IpAddr>,
    pub metric: u32,
    pub protocol: u8,
    pub scope: u8,
    pub onlink: bool,
}

/// Our two nftables tables.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum Rules {
    #[default]
    Absent,
    /// Exactly this is loaded.
    Loaded(Arc<str>),
    /// Something is, or was, loaded and may have been changed since.
    Unknown,
}
