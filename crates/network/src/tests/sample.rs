//! Wishes to test with.

use std::net::Ipv4Addr;

use nestling_model::{
    AdapterId, Dhcp, Nat, Protocol, StaticMapping, Switch, SwitchId, SwitchKind, network::HostAddress,
};
use uuid::Uuid;

use crate::{Desired, Port, Tag};

pub(super) const TAG: Tag = Tag([0x0a, 0xf1]);

fn id(n: u32) -> Uuid {
    Uuid::from_u128(u128::from(n) << 96 | 7)
}

pub(super) fn switch(n: u32, kind: SwitchKind) -> Switch {
    let name = format!("Switch {n}").parse().unwrap();
    Switch { id: SwitchId(id(n)), name, kind, notes: String::new(), addresses: vec![] }
}

pub(super) fn internal(n: u32, address: &str, prefix_len: u8) -> Switch {
    let address = HostAddress { address: address.parse().unwrap(), prefix_len, gateway: None };
    Switch { addresses: vec![address], ..switch(n, SwitchKind::Internal) }
}

pub(super) fn external(n: u32, uplink: &str, allow_management_os: bool) -> Switch {
    switch(n, SwitchKind::External { uplink: uplink.into(), allow_management_os })
}

pub(super) fn mac(n: u32) -> String {
    format!("00:15:5d:00:00:{n:02x}")
}

pub(super) fn adapter(n: u32) -> AdapterId {
    AdapterId(id(n))
}

pub(super) fn port(n: u32, on: Option<&Switch>) -> Port {
    Port {
        adapter: adapter(n),
        mac: mac(n).parse().unwrap(),
        switch: on.map(|s| s.id),
        mac_spoofing: false,
        dhcp_guard: false,
        router_guard: false,
    }
}

pub(super) fn nat(prefix: &str) -> Nat {
    Nat {
        name: "NAT-net".parse().unwrap(),
        internal_prefix: prefix.parse().unwrap(),
        mappings: vec![],
        dhcp: None,
    }
}

pub(super) fn mapping(external_port: u16, internal: &str, internal_port: u16) -> StaticMapping {
    StaticMapping {
        id: 0,
        protocol: Protocol::Tcp,
        external_address: Ipv4Addr::UNSPECIFIED,
        external_port,
        internal_address: internal.parse().unwrap(),
        internal_port,
    }
}

pub(super) fn dhcp(first: &str, last: &str) -> Dhcp {
    Dhcp {
        first: first.parse().unwrap(),
        last: last.parse().unwrap(),
        lease_seconds: 3600,
        dns_servers: vec!["192.0.2.53".parse().unwrap()],
    }
}

/// The walkthrough's NAT switch with one machine, a private switch with one, and a dead port.
pub(super) fn everything() -> Desired {
    let nat_switch = internal(1, "192.168.100.1", 24);
    let private = switch(2, SwitchKind::Private);
    let mut open = port(12, Some(&private));
    open.mac_spoofing = true;
    open.dhcp_guard = true;
    open.router_guard = true;
    let mut nat = nat("192.168.100.0/24");
    nat.mappings.push(mapping(8080, "192.168.100.10", 80));
    Desired {
        ports: vec![port(11, Some(&nat_switch)), open, port(13, None)],
        switches: vec![nat_switch, private],
        nats: vec![nat],
    }
}
