//! From one state to another, step by step.
//!
//! The order is chosen so that whatever step fails or is the last before a crash, nothing that only
//! the kernel remembers is lost (an uplink's addresses and routes are on the switch before they leave
//! the uplink), no port works before its rules are loaded, and no private address is forwarded
//! before it is translated. Undo is the same function with the former state as its goal.

use std::fmt;

use crate::state::{Address, Link, LinkKind, Route, Rules, State};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    CreateBridge { link: String, mac: Option<[u8; 6]> },
    CreateTap { link: String },
    SetMac { link: String, mac: [u8; 6] },
    SetIpv6 { link: String, on: bool },
    LoadRules { rules: Rules },
    SetUp { link: String, up: bool },
    SetMaster { link: String, master: Option<String> },
    AddAddress { link: String, address: Address },
    RemoveAddress { link: String, address: Address },
    AddRoute { link: String, route: Route },
    RemoveRoute { link: String, route: Route },
    SetForwarding { on: bool },
    DeleteLink { link: String },
}

/// The steps that make `from` into `to`. Links that are in `from` only are deleted if they are ours
/// and left alone if they are not.
pub(crate) fn diff(from: &State, to: &State) -> Vec<Step> {
    let mut steps = Vec::new();
    let pairs = create(from, to, &mut steps);
    for (name, now, want) in &pairs {
        if let Some(mac) = want.mac.filter(|mac| now.mac != Some(*mac)) {
            steps.push(Step::SetMac { link: (*name).clone(), mac });
        }
        if let (Some(was), Some(on)) = (now.ipv6, want.ipv6)
            && was != on
        {
            steps.push(Step::SetIpv6 { link: (*name).clone(), on });
        }
    }
    if from.rules != to.rules {
        steps.push(Step::LoadRules { rules: to.rules.clone() });
    }
    detach_ports(&pairs, &mut steps);
    switch_on(&pairs, &mut steps, |link| link.kind != LinkKind::Tap);
    add_addresses_and_routes(&pairs, &mut steps);
    attach(&pairs, &mut steps);
    switch_on(&pairs, &mut steps, |link| link.kind == LinkKind::Tap);
    release_uplinks(&pairs, &mut steps);
    remove_routes_and_addresses(&pairs, &mut steps);
    if from.forwarding != to.forwarding {
        steps.push(Step::SetForwarding { on: to.forwarding });
    }
    let gone = from.links.iter().filter(|(name, link)| link.is_ours() && !to.links.contains_key(*name));
    steps.extend(gone.map(|(name, _)| Step::DeleteLink { link: name.clone() }));
    steps
}

type Pair<'a> = (&'a String, Link, &'a Link);

/// Makes what is missing; gives each wanted link with what it will be by then. A foreign link that is
/// not there can't be made and is left out.
fn create<'a>(from: &State, to: &'a State, steps: &mut Vec<Step>) -> Vec<Pair<'a>> {
    let mut pairs = Vec::new();
    for (name, want) in &to.links {
        let now = match (from.links.get(name), want.kind) {
            (Some(now), _) if now.is_ours() == want.is_ours() => now.clone(),
            (None, LinkKind::Foreign { .. }) => continue,
            // Something else of that name makes this fail, as it must: it is not ours.
            (_, kind) => {
                let link = name.clone();
                steps.push(match kind {
                    LinkKind::Bridge => Step::CreateBridge { link, mac: want.mac },
                    _ => Step::CreateTap { link },
                });
                Link { mac: want.mac, ipv6: Some(true), ..Link::new(kind) }
            }
        };
        pairs.push((name, now, want));
    }
    pairs
}

/// A port is switched off before it leaves its switch: a tap that is on and in no switch would reach
/// the host itself.
fn detach_ports(pairs: &[Pair<'_>], steps: &mut Vec<Step>) {
    for (name, now, want) in pairs.iter().filter(|(_, now, _)| now.is_ours()) {
        let link = (*name).clone();
        if now.up && !want.up {
            steps.push(Step::SetUp { link: link.clone(), up: false });
        }
        if now.master.is_some() && want.master.is_none() {
            steps.push(Step::SetMaster { link, master: None });
        }
    }
}

fn switch_on(pairs: &[Pair<'_>], steps: &mut Vec<Step>, which: impl Fn(&Link) -> bool) {
    for (name, now, want) in pairs.iter().filter(|(_, now, _)| which(now)) {
        if want.up && !now.up {
            steps.push(Step::SetUp { link: (*name).clone(), up: true });
        }
    }
}

/// Routes to neighbours before routes through them.
fn add_addresses_and_routes(pairs: &[Pair<'_>], steps: &mut Vec<Step>) {
    for (name, now, want) in pairs {
        for address in want.addresses.iter().filter(|a| !now.addresses.iter().any(|b| b.same(a))) {
            steps.push(Step::AddAddress { link: (*name).clone(), address: *address });
        }
    }
    for (name, now, want) in pairs {
        let mut new: Vec<_> = want.routes.iter().filter(|r| !now.routes.contains(r)).collect();
        new.sort_by_key(|route| route.gateway.is_some());
        steps.extend(new.into_iter().map(|r| Step::AddRoute { link: (*name).clone(), route: *r }));
    }
}

/// From one switch to another in one step: what an uplink's addresses are on is never in doubt.
fn attach(pairs: &[Pair<'_>], steps: &mut Vec<Step>) {
    for (name, now, want) in pairs {
        if want.master.is_some() && now.master != want.master {
            steps.push(Step::SetMaster { link: (*name).clone(), master: want.master.clone() });
        }
    }
}

/// An uplink leaves its switch once it has its addresses back, and stays on unless it was off before
/// (undo): the host uses it.
fn release_uplinks(pairs: &[Pair<'_>], steps: &mut Vec<Step>) {
    for (name, now, want) in pairs.iter().filter(|(_, now, _)| !now.is_ours()) {
        if now.master.is_some() && want.master.is_none() {
            steps.push(Step::SetMaster { link: (*name).clone(), master: None });
        }
        if now.up && !want.up {
            steps.push(Step::SetUp { link: (*name).clone(), up: false });
        }
    }
}

/// Routes before the addresses that they need; secondary addresses before primary ones, which would
/// take them along.
fn remove_routes_and_addresses(pairs: &[Pair<'_>], steps: &mut Vec<Step>) {
    for (name, now, want) in pairs {
        let mut old: Vec<_> = now.routes.iter().filter(|r| !want.routes.contains(r)).collect();
        old.sort_by_key(|route| route.gateway.is_none());
        steps.extend(old.into_iter().map(|r| Step::RemoveRoute { link: (*name).clone(), route: *r }));
    }
    for (name, now, want) in pairs {
        for address in now.addresses.iter().rev().filter(|a| !want.addresses.iter().any(|b| b.same(a))) {
            steps.push(Step::RemoveAddress { link: (*name).clone(), address: *address });
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateBridge { link, .. } => write!(f, "create the bridge {link}"),
            Self::CreateTap { link } => write!(f, "create the tap {link}"),
            Self::SetMac { link, mac } => {
                write!(f, "give {link} the address {}", mac.map(|o| format!("{o:02x}")).join(":"))
            }
            Self::SetIpv6 { link, on } => write!(f, "switch IPv6 {} on {link}", on_off(*on)),
            Self::LoadRules { rules: Rules::Absent } => f.write_str("remove the rules"),
            Self::LoadRules { .. } => f.write_str("load the rules"),
            Self::SetUp { link, up } => write!(f, "switch {link} {}", on_off(*up)),
            Self::SetMaster { link, master: Some(bridge) } => write!(f, "plug {link} into {bridge}"),
            Self::SetMaster { link, master: None } => write!(f, "unplug {link}"),
            Self::AddAddress { link, address } => {
                write!(f, "give {link} the address {}/{}", address.ip, address.prefix_len)
            }
            Self::RemoveAddress { link, address } => {
                write!(f, "take the address {}/{} from {link}", address.ip, address.prefix_len)
            }
            Self::AddRoute { link, route } => write!(f, "add the route {route} through {link}"),
            Self::RemoveRoute { link, route } => write!(f, "remove the route {route} through {link}"),
            Self::SetForwarding { on } => write!(f, "switch IPv4 forwarding {}", on_off(*on)),
            Self::DeleteLink { link } => write!(f, "delete {link}"),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "to {}", self.destination)?;
        self.gateway.map_or(Ok(()), |gateway| write!(f, " via {gateway}"))
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}
