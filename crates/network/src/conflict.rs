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

#[cfg(test)]
mod tests {
    use super::*;

    const TAG: Tag = Tag([0, 1]);

    fn nat(prefix: &str) -> Nat {
        let (name, internal_prefix) = ("Lab".parse().unwrap(), prefix.parse().unwrap());
        Nat { name, internal_prefix, mappings: vec![], dhcp: None }
    }

    fn switch(kind: SwitchKind) -> Switch {
        let id = nestling_model::SwitchId(uuid::Uuid::from_u128(7));
        Switch { id, name: "S".parse().unwrap(), kind, notes: String::new(), addresses: vec![] }
    }

    fn address(interface: &str, text: &str, managed: bool) -> InterfaceAddress {
        let net: IpNet = text.parse().unwrap();
        let (address, prefix_len) = (net.addr(), net.prefix_len());
        InterfaceAddress { interface: interface.into(), index: 1, address, prefix_len, managed }
    }

    fn route(text: &str, interface: &str) -> InterfaceRoute {
        let (destination, interface) = (text.parse().unwrap(), Some(interface.into()));
        InterfaceRoute { destination, gateway: None, interface, metric: 0, managed: false }
    }

    fn conflict(prefix: &str, others: &[Nat], switches: &[Switch]) -> Option<String> {
        let bridge = TAG.bridge(nestling_model::SwitchId(uuid::Uuid::from_u128(7)));
        let addresses = [
            address("lo", "127.0.0.1/8", false),
            address("eth0", "10.9.0.5/24", false),
            address(&bridge, "192.168.100.1/24", true),
            address("eth0", "fd00::1/64", false),
        ];
        let routes = [
            route("0.0.0.0/0", "eth0"),
            route("10.9.0.0/24", "eth0"),
            route("172.16.0.0/12", "eth0"),
            route("192.168.100.0/24", &bridge),
        ];
        let prefix = prefix.parse().unwrap();
        nat_conflict(TAG, prefix, others, switches, &addresses, &routes).map(|c| c.to_string())
    }

    #[test]
    fn a_free_prefix_and_that_of_an_internal_switch_are_fine() {
        let internal = [switch(SwitchKind::Internal)];
        assert_eq!(conflict("192.168.100.0/24", &[], &internal), None);
        assert_eq!(conflict("192.168.101.0/24", &[nat("192.168.102.0/24")], &internal), None);
        // The same interface on an External switch is the world outside.
        let external = [switch(SwitchKind::External { uplink: "eth0".into(), allow_management_os: true })];
        let said = conflict("192.168.100.0/24", &[], &external).unwrap();
        assert!(said.contains("interface \"nb0001"), "{said}");
    }

    #[test]
    fn every_overlap_has_its_reason() {
        for (prefix, reason) in [
            ("10.0.0.0/8", "10.9.0.0/24, which the host's interface \"eth0\" has"),
            ("10.9.0.128/25", "10.9.0.0/24, which the host's interface"),
            ("172.20.0.0/16", "the host's route to 172.16.0.0/12"),
            ("127.1.0.0/16", "loopback"),
            ("0.0.0.0/0", "this network"),
            ("224.0.0.0/8", "multicast"),
            ("169.254.3.0/24", "link-local"),
            ("192.168.9.0/31", "no room"),
            ("192.168.50.77/24", "NAT network \"Lab\""),
        ] {
            let said = conflict(prefix, &[nat("192.168.0.0/18")], &[]).unwrap();
            assert!(said.contains(reason), "{prefix}: {said}");
        }
    }
}
