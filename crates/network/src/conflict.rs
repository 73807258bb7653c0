//! Whether a NAT network's addresses are free on this host.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};
use nestling_model::{Nat, Switch, SwitchKind};

use crate::{
    host::{InterfaceAddress, InterfaceRoute},
    names::Tag,
};

/// Why a prefix can't become a NAT network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NatConflict {
    #[error("{prefix} is reserved ({why}) and can't be used inside a NAT network")]
    Reserved { prefix: Ipv4Net, why: &'static str },
    #[error("{prefix} overlaps {other} of the NAT network \"{name}\"")]
    Nat { prefix: Ipv4Net, other: Ipv4Net, name: String },
    #[error("{prefix} overlaps {other}, which the host's interface \"{interface}\" has")]
    Address { prefix: Ipv4Net, other: Ipv4Net, interface: String },
    #[error("{prefix} overlaps the host's route to {other}")]
    Route { prefix: Ipv4Net, other: Ipv4Net },
}

/// Whether `prefix` overlaps another NAT network, an address or a route of the host. The host's
/// interfaces on this node's Internal switches don't count: a NAT network needs one of them.
pub fn nat_conflict(
    tag: Tag,
    prefix: Ipv4Net,
    others: &[Nat],
    switches: &[Switch],
    addresses: &[InterfaceAddress],
    routes: &[InterfaceRoute],
) -> Option<NatConflict> {
    let prefix = prefix.trunc();
    if let Some(why) = reserved(prefix) {
        return Some(NatConflict::Reserved { prefix, why });
    }
    let internal: Vec<String> =
        switches.iter().filter(|s| s.kind == SwitchKind::Internal).map(|s| tag.bridge(s.id)).collect();
    let ours = |interface: &str| internal.iter().any(|bridge| bridge == interface);
    let overlaps = |other: Ipv4Net| prefix.contains(&other) || other.contains(&prefix);
    if let Some(nat) = others.iter().find(|nat| overlaps(nat.internal_prefix.trunc())) {
        let name = nat.name.as_str().to_owned();
        return Some(NatConflict::Nat { prefix, other: nat.internal_prefix.trunc(), name });
    }
    for a in addresses.iter().filter(|a| !ours(&a.interface)) {
        let IpAddr::V4(address) = a.address else { continue };
        let Ok(net) = Ipv4Net::new(address, a.prefix_len) else { continue };
        if overlaps(net.trunc()) {
            return Some(NatConflict::Address { prefix, other: net.trunc(), interface: a.interface.clone() });
        }
    }
    for route in routes.iter().filter(|r| !r.interface.as_deref().is_some_and(ours)) {
        let IpNet::V4(net) = route.destination else { continue };
        // The default route leads to everything that nothing else leads to.
        if net.prefix_len() > 0 && overlaps(net) {
            return Some(NatConflict::Route { prefix, other: net });
        }
    }
    None
}

fn reserved(prefix: Ipv4Net) -> Option<&'static str> {
    const RESERVED: [([u8; 4], u8, &str); 4] = [
        ([0, 0, 0, 0], 8, "this network"),
        ([127, 0, 0, 0], 8, "loopback"),
        ([169, 254, 0, 0], 16, "link-local"),
        ([224, 0, 0, 0], 3, "multicast and above"),
    ];
    if prefix.prefix_len() > 30 {
        return Some("it has no room for a gateway and a machine");
    }
    RESERVED.into_iter().find_map(|(octets, len, why)| {
        let net = Ipv4Net::new(octets.into(), len).ok()?;
        (net.contains(&prefix) || prefix.contains(&net)).then_some(why)
    })
}
