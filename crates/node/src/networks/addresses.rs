//! The host's network interfaces and addresses, as administrators see them.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
};

use nestling_identity::{Action, Identity};
use nestling_model::{SwitchId, network::HostAddress};
use nestling_network::{AdapterKind, HostAdapter, Ours, Tag};
use nestling_store::Batch;

use super::{Decided, Defined};
use crate::{
    Node, NodeError,
    error::{Object, Result},
    values::{HostAdapterView, HostAddressView, NewAddress},
};

/// As many as an interface sensibly has, few enough to bound a switch's document.
const ADDRESSES_MAX: usize = 64;

impl Node {
    pub async fn host_adapters(&self, who: &Identity) -> Result<Vec<HostAdapterView>> {
        self.authorize(who, Action::ReadNetworks)?;
        let names = switch_interfaces(&self.networks.defined(), self.networks.tag());
        let adapters = self.networks.network.host_adapters().await?;
        Ok(adapters.iter().filter_map(|a| adapter_view(a, &names)).collect())
    }

    pub async fn host_addresses(&self, who: &Identity) -> Result<Vec<HostAddressView>> {
        self.authorize(who, Action::ReadNetworks)?;
        let network = &self.networks.network;
        let defined = self.networks.defined();
        let tag = self.networks.tag();
        let names = switch_interfaces(&defined, tag);
        let routes = network.routes().await?;
        let gateway = |interface: &str| {
            let default = |r: &&nestling_network::InterfaceRoute| {
                r.destination.prefix_len() == 0 && r.interface.as_deref() == Some(interface)
            };
            routes.iter().find(default).and_then(|r| r.gateway)
        };
        let view = |a: nestling_network::InterfaceAddress| HostAddressView {
            address: a.address,
            prefix_len: a.prefix_len,
            adapter: names.get(&a.interface).map_or_else(|| a.interface.clone(), |(_, name)| name.clone()),
            adapter_index: a.index,
            gateway: gateway(&a.interface).filter(|g| g.is_ipv4() == a.address.is_ipv4()),
            managed: a.managed,
        };
        let addresses = network.addresses().await?;
        let shown = addresses.into_iter().filter(|a| tag.owns(&a.interface) != Some(Ours::Tap));
        Ok(shown.map(view).collect())
    }

    pub async fn add_address(&self, who: &Identity, new: NewAddress) -> Result<HostAddressView> {
        self.authorize(who, Action::ChangeHost)?;
        let NewAddress { adapter, address, prefix_len, gateway } = new;
        check_address(address, prefix_len, gateway)?;
        let tag = self.networks.tag();
        let switch = {
            let defined = self.networks.defined();
            let names = switch_interfaces(&defined, tag);
            let found = names.iter().find(|(interface, (_, name))| {
                name.eq_ignore_ascii_case(&adapter)
                    || **interface == adapter
                    || name.to_lowercase() == adapter.to_lowercase()
            });
            found.map(|(_, (id, _))| *id)
        };
        let Some(switch) = switch else { return Err(self.not_a_switchs(&adapter).await?) };
        let there = self.networks.network.addresses().await?;
        if there.iter().any(|a| a.address == IpAddr::V4(address)) {
            return Err(NodeError::Exists { object: Object::HostAddress, name: address.to_string() });
        }
        self.networks
            .change(move |old, _| {
                let mut defined = old.clone();
                let known = defined.switches.iter().flat_map(|s| &s.addresses).any(|a| a.address == address);
                if known {
                    return Err(NodeError::Exists { object: Object::HostAddress, name: address.to_string() });
                }
                let Some(switch) = defined.switches.iter_mut().find(|s| s.id == switch) else {
                    return Err(NodeError::NotFound { object: Object::HostAdapter, name: adapter });
                };
                if switch.addresses.len() >= ADDRESSES_MAX {
                    return Err(NodeError::Invalid(format!(
                        "a switch has at most {ADDRESSES_MAX} addresses"
                    )));
                }
                switch.addresses.push(HostAddress { address, prefix_len, gateway });
                let mut batch = Batch::default();
                batch.put(switch)?;
                Ok(Decided { defined, home: None, batch, answer: () })
            })
            .await?;
        let addresses = self.host_addresses(who).await?;
        addresses
            .into_iter()
            .find(|a| a.address == IpAddr::V4(address))
            .ok_or_else(|| NodeError::Internal(format!("{address} was added, and is not there")))
    }

    pub async fn remove_address(&self, who: &Identity, address: Ipv4Addr) -> Result<()> {
        self.authorize(who, Action::ChangeHost)?;
        let others = self.networks.network.addresses().await?;
        self.networks
            .change(move |old, _| {
                let mut defined = old.clone();
                let holder =
                    defined.switches.iter_mut().find(|s| s.addresses.iter().any(|a| a.address == address));
                let Some(switch) = holder else {
                    return Err(match others.iter().find(|a| a.address == IpAddr::V4(address)) {
                        Some(a) => NodeError::Invalid(format!(
                            "{address} belongs to {}, which is no switch of this node; take it away with the host's own tools",
                            a.interface
                        )),
                        None => NodeError::NotFound { object: Object::HostAddress, name: address.to_string() },
                    });
                };
                switch.addresses.retain(|a| a.address != address);
                let mut batch = Batch::default();
                batch.put(switch)?;
                Ok(Decided { defined, home: None, batch, answer: () })
            })
            .await
    }

    async fn not_a_switchs(&self, adapter: &str) -> Result<NodeError> {
        let there = self.networks.network.host_adapters().await?;
        Ok(if there.iter().any(|a| a.interface == adapter) {
            NodeError::Invalid(format!(
                "{adapter} is no switch's interface; addresses of the host's own interfaces are given with its own tools"
            ))
        } else {
            NodeError::NotFound { object: Object::HostAdapter, name: adapter.to_owned() }
        })
    }
}

/// The bridges that the host itself uses: what switch each is, and what administrators call it.
fn switch_interfaces(defined: &Defined, tag: Tag) -> BTreeMap<String, (SwitchId, String)> {
    let of = |s: &nestling_model::Switch| Some((tag.bridge(s.id), (s.id, s.host_interface()?)));
    defined.switches.iter().filter_map(of).collect()
}

/// None for what administrators do not think of as an adapter: machines' ports, switches without the host, loopback.
fn adapter_view(
    adapter: &HostAdapter,
    switches: &BTreeMap<String, (SwitchId, String)>,
) -> Option<HostAdapterView> {
    let switch = switches.get(&adapter.interface);
    if adapter.kind == AdapterKind::Loopback || (adapter.ours.is_some() && switch.is_none()) {
        return None;
    }
    let description = match (&switch, &adapter.kind) {
        (Some(_), _) => "Hyper-V Virtual Ethernet Adapter".to_owned(),
        (None, AdapterKind::Physical) => "Network adapter".to_owned(),
        (None, AdapterKind::Other(kind)) => format!("Linux network interface ({kind})"),
        (None, AdapterKind::Bridge) => "Linux bridge".to_owned(),
        (None, AdapterKind::Tap | AdapterKind::Loopback) => "Linux tap interface".to_owned(),
    };
    let status = match (adapter.up, adapter.carrier || switch.is_some()) {
        (false, _) => "Disabled",
        (true, true) => "Up",
        (true, false) => "Disconnected",
    };
    let speed = match switch {
        // What Hyper-V says of its own.
        Some(_) => Some(10_000),
        None => fs::read_to_string(format!("/sys/class/net/{}/speed", adapter.interface))
            .ok()
            .and_then(|text| text.trim().parse::<i64>().ok())
            .and_then(|speed| u64::try_from(speed).ok()),
    };
    Some(HostAdapterView {
        name: switch.map_or_else(|| adapter.interface.clone(), |(_, name)| name.clone()),
        description,
        index: adapter.index,
        status,
        mac: adapter.mac,
        link_speed_mbps: speed,
        is_virtual: switch.is_some(),
        interface: adapter.interface.clone(),
    })
}

fn check_address(address: Ipv4Addr, prefix_len: u8, gateway: Option<Ipv4Addr>) -> Result<()> {
    let bad = |a: Ipv4Addr| a.is_unspecified() || a.is_multicast() || a.is_broadcast() || a.is_loopback();
    let net = match ipnet::Ipv4Net::new(address, prefix_len) {
        Ok(net) if prefix_len > 0 => net,
        _ => {
            return Err(NodeError::Invalid(format!("{prefix_len} is no length of an IPv4 prefix (1 to 32)")));
        }
    };
    let edge = prefix_len < 31 && (address == net.network() || address == net.broadcast());
    if bad(address) || edge {
        return Err(NodeError::Invalid(format!(
            "{address}/{prefix_len} is no address that an interface can have"
        )));
    }
    match gateway {
        Some(gateway) if bad(gateway) || gateway == address || !net.contains(&gateway) => {
            Err(NodeError::Invalid(format!("the gateway {gateway} is not a neighbour in {}", net.trunc())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_interface_can_have_are_refused() {
        let check = |a: &str, len, gateway: Option<&str>| {
            check_address(a.parse().unwrap(), len, gateway.map(|g| g.parse().unwrap())).is_ok()
        };
        assert!(check("192.168.100.1", 24, None));
        assert!(check("192.168.100.1", 24, Some("192.168.100.254")));
        assert!(check("10.0.0.0", 31, None));
        for (address, len) in [
            ("0.0.0.0", 24),
            ("127.0.0.1", 8),
            ("224.0.0.1", 24),
            ("10.0.0.0", 24),
            ("10.0.0.255", 24),
            ("10.0.0.1", 0),
            ("10.0.0.1", 33),
        ] {
            assert!(!check(address, len, None), "{address}/{len}");
        }
        assert!(!check("10.0.0.1", 24, Some("10.0.1.1")));
        assert!(!check("10.0.0.1", 24, Some("10.0.0.1")));
    }

    #[test]
    fn a_switchs_bridge_is_shown_as_hyper_v_does_and_ports_are_not() {
        let id = SwitchId(uuid::Uuid::from_u128(9));
        let switches = BTreeMap::from([("nb00".to_owned(), (id, "vEthernet (NAT-Switch)".to_owned()))]);
        let adapter = |interface: &str, kind, ours| HostAdapter {
            interface: interface.to_owned(),
            index: 7,
            mac: None,
            up: true,
            carrier: false,
            mtu: 1500,
            kind,
            master: None,
            ours,
            received_bytes: 0,
            sent_bytes: 0,
        };
        let view =
            adapter_view(&adapter("nb00", AdapterKind::Bridge, Some(Ours::Bridge)), &switches).unwrap();
        assert_eq!(
            (
                view.name.as_str(),
                view.description.as_str(),
                view.status,
                view.link_speed_mbps,
                view.is_virtual
            ),
            ("vEthernet (NAT-Switch)", "Hyper-V Virtual Ethernet Adapter", "Up", Some(10_000), true)
        );
        assert_eq!(adapter_view(&adapter("nb01", AdapterKind::Bridge, Some(Ours::Bridge)), &switches), None);
        assert_eq!(adapter_view(&adapter("nt00", AdapterKind::Tap, Some(Ours::Tap)), &switches), None);
        assert_eq!(adapter_view(&adapter("lo", AdapterKind::Loopback, None), &switches), None);
        let veth =
            adapter_view(&adapter("nosuch0", AdapterKind::Other("veth".into()), None), &switches).unwrap();
        assert_eq!(
            (veth.status, veth.description.as_str()),
            ("Disconnected", "Linux network interface (veth)")
        );
    }
}
