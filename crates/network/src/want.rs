//! The state that a wish means on this host, given what is there.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::{IpNet, Ipv4Net};
use nestling_model::{Switch, SwitchId, SwitchKind};

use crate::{
    desired::{Desired, Problem},
    error::NetworkError,
    names::Tag,
    rules,
    state::{Address, GATEWAY_METRIC, Link, LinkKind, PROTOCOL_OURS, Route, Rules, State},
};

/// Refuses a wish that contradicts itself, so that the rest need not look.
pub(crate) fn validate(tag: Tag, desired: &Desired) -> Result<(), NetworkError> {
    let mut names = BTreeSet::new();
    let bridges = desired.switches.iter().map(|s| tag.bridge(s.id));
    for name in bridges.chain(desired.ports.iter().map(|p| tag.tap(p.adapter))) {
        if !names.insert(name.clone()) {
            return Err(NetworkError::Invalid(format!(
                "two switches or two adapters would be called {name}"
            )));
        }
    }
    for address in desired.switches.iter().flat_map(|s| &s.addresses) {
        if !(1..=32).contains(&address.prefix_len) {
            let prefix = address.prefix_len;
            return Err(NetworkError::Invalid(format!("{prefix} is no length of an IPv4 prefix (1 to 32)")));
        }
    }
    Ok(())
}

/// The wanted state and what of the wish it leaves out. Holds the links that are ours and the uplinks.
pub(crate) fn wanted(tag: Tag, desired: &Desired, actual: &State) -> (State, Vec<Problem>) {
    let forwarding = actual.forwarding || !desired.nats.is_empty();
    let mut want = Want {
        tag,
        actual,
        state: State { forwarding, ..State::default() },
        owners: owners(tag, desired, actual),
        returned: BTreeSet::new(),
        problems: Vec::new(),
    };
    want.release_uplinks();
    for switch in &desired.switches {
        want.add_switch(switch);
    }
    let Want { mut state, problems, .. } = want;
    for port in &desired.ports {
        let switch = port.switch.filter(|id| desired.switches.iter().any(|s| s.id == *id));
        let master = switch.map(|id| tag.bridge(id));
        let link = Link { up: master.is_some(), master, ipv6: Some(false), ..Link::new(LinkKind::Tap) };
        state.links.insert(tag.tap(port.adapter), link);
    }
    let text = rules::text(tag, desired, &state);
    state.rules = text.map_or(Rules::Absent, |text| Rules::Loaded(text.into()));
    (state, problems)
}

/// Of several switches that want one uplink, the one that has it keeps it; else the first gets it.
fn owners(tag: Tag, desired: &Desired, actual: &State) -> BTreeMap<String, String> {
    let mut owners = BTreeMap::new();
    for switch in &desired.switches {
        if let SwitchKind::External { uplink, .. } = &switch.kind {
            let bridge = tag.bridge(switch.id);
            let has = actual.links.get(uplink).and_then(|l| l.master.as_ref()) == Some(&bridge);
            if has || !owners.contains_key(uplink) {
                owners.insert(uplink.clone(), bridge);
            }
        }
    }
    owners
}

struct Want<'a> {
    tag: Tag,
    actual: &'a State,
    state: State,
    /// The bridge that each uplink belongs to.
    owners: BTreeMap<String, String>,
    /// The bridges whose host addresses went back to an uplink that leaves them.
    returned: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Want<'_> {
    /// Gives every uplink that is on the wrong bridge, or on one that goes away, its addresses back.
    fn release_uplinks(&mut self) {
        let actual = self.actual;
        let on_ours = |link: &Link| link.master.clone().filter(|m| self.tag.owns(m).is_some());
        let ports = actual.links.iter().filter(|(_, l)| !l.is_ours());
        let ports = ports.filter_map(|(name, link)| Some((name, link, on_ours(link)?)));
        let (stay, mut leave): (Vec<_>, Vec<_>) =
            ports.partition(|(name, _, bridge)| self.owners.get(*name) == Some(bridge));
        // Someone may have plugged in more by hand: the uplink is the one whose address the bridge has.
        leave.sort_by_key(|(_, link, bridge)| actual.links.get(bridge).is_none_or(|b| b.mac != link.mac));
        for (name, link, bridge) in leave {
            let mut released = Link { master: None, ..link.clone() };
            let has_uplink = stay.iter().any(|(_, _, other)| *other == bridge);
            if !has_uplink
                && self.returned.insert(bridge.clone())
                && let Some(now) = hosts_only(actual, &bridge, Some(name))
            {
                take_hosts_own(&mut released, &now);
            }
            self.state.links.insert(name.clone(), released);
        }
    }

    fn add_switch(&mut self, switch: &Switch) {
        let name = self.tag.bridge(switch.id);
        let host = switch.host_interface().is_some();
        let mac = Some(bridge_mac(switch.id));
        let mut bridge = Link { mac, up: true, ipv6: Some(host), ..Link::new(LinkKind::Bridge) };
        if host {
            give_managed(&mut bridge, switch);
            if let Some(now) = self.left_on(&name) {
                take_hosts_own(&mut bridge, &now);
            }
        }
        if let SwitchKind::External { uplink, .. } = &switch.kind {
            match self.fit_uplink(switch, uplink) {
                Err(problem) => self.problems.push(problem),
                Ok(link) => {
                    let mut port = Link { master: Some(name.clone()), up: true, ..link };
                    if host {
                        bridge.mac = port.mac;
                        take_hosts_own(&mut bridge, &port);
                        port.addresses.clear();
                        port.routes.clear();
                    } else if let Some(now) = self.left_on(&name) {
                        take_hosts_own(&mut port, &now);
                    }
                    self.state.links.insert(uplink.clone(), port);
                }
            }
        }
        self.state.links.insert(name, bridge);
    }

    /// What a bridge still has of the host's own: nothing once it went back to an uplink.
    fn left_on(&self, bridge: &str) -> Option<Link> {
        if self.returned.contains(bridge) { None } else { hosts_only(self.actual, bridge, None) }
    }

    /// The link that shall be the switch's uplink, as it would be without the switch.
    fn fit_uplink(&self, switch: &Switch, uplink: &str) -> Result<Link, Problem> {
        let refused = |reason: String| {
            let (switch, uplink) = (switch.name.to_string(), uplink.to_owned());
            Err(Problem::UplinkRefused { switch, uplink, reason })
        };
        let Some(link) = self.state.links.get(uplink).or_else(|| self.actual.links.get(uplink)) else {
            let (switch, uplink) = (switch.name.to_string(), uplink.to_owned());
            return Err(Problem::UplinkMissing { switch, uplink });
        };
        // The kernel has an interface of this name; still, it must mean nothing to nft.
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if !uplink.chars().all(plain) {
            return refused("has a name with special characters".into());
        }
        let unfit = match link.kind {
            LinkKind::Bridge | LinkKind::Tap => Some("belongs to this node"),
            LinkKind::Foreign { unfit } => unfit,
        };
        if let Some(why) = unfit {
            return refused(why.into());
        }
        match link.master.as_deref() {
            _ if self.owners.get(uplink) != Some(&self.tag.bridge(switch.id)) => {
                refused("is the uplink of another switch already".into())
            }
            Some(master) if self.tag.owns(master).is_none() => refused(format!("is part of {master}")),
            _ => Ok(link.clone()),
        }
    }
}

/// A bridge without what an interface of the host (other than `except`) has too: after a crash while
/// addresses were being moved, they are on both and belong to the interface.
fn hosts_only(actual: &State, bridge: &str, except: Option<&str>) -> Option<Link> {
    let mut link = actual.links.get(bridge)?.clone();
    let foreign = actual.links.iter().filter(|(name, l)| !l.is_ours() && Some(name.as_str()) != except);
    for (_, other) in foreign {
        link.addresses.retain(|a| !other.addresses.iter().any(|b| b.same(a)));
        link.routes.retain(|r| !other.routes.contains(r));
    }
    Some(link)
}

/// Adds what the host (not we) has on `from`.
fn take_hosts_own(to: &mut Link, from: &Link) {
    for address in from.addresses.iter().filter(|a| !a.ours) {
        if !to.addresses.iter().any(|a| a.same(address)) {
            to.addresses.push(*address);
        }
    }
    for route in from.routes.iter().filter(|r| r.protocol != PROTOCOL_OURS) {
        if !to.routes.contains(route) {
            to.routes.push(*route);
        }
    }
}

fn give_managed(bridge: &mut Link, switch: &Switch) {
    for given in &switch.addresses {
        bridge.addresses.push(Address {
            ip: given.address.into(),
            prefix_len: given.prefix_len,
            broadcast: Ipv4Net::new(given.address, given.prefix_len)
                .ok()
                .filter(|net| net.prefix_len() < 31)
                .map(|net| net.broadcast()),
            ours: true,
            valid_seconds: None,
        });
        if let Some(gateway) = given.gateway {
            bridge.routes.push(Route {
                destination: IpNet::V4(Ipv4Net::default()),
                gateway: Some(gateway.into()),
                source: None,
                metric: GATEWAY_METRIC,
                protocol: PROTOCOL_OURS,
                scope: 0,
                onlink: false,
            });
        }
    }
}

/// A fixed, locally administered address: a bridge without one takes that of a port, and changes it
/// as ports come and go.
fn bridge_mac(id: SwitchId) -> [u8; 6] {
    let b = id.0.as_bytes();
    [0x02, 0x4e, b[0], b[1], b[2], b[3]]
}
