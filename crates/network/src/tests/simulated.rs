//! Plans against a simulated kernel: any wish is reached from any other, through any crash and any
//! failure, and nothing that belongs to the host is ever lost on the way.

use std::{collections::BTreeMap, io, net::IpAddr};

use futures_util::FutureExt;
use ipnet::IpNet;
use nestling_model::{Switch, SwitchKind};
use proptest::prelude::*;

use super::sample::{self, TAG, external, internal, nat, port, switch};
use crate::{
    Desired, NetworkError, Outcome,
    diff::{Step, diff},
    kernel::StepError,
    reconcile::{Host, reach},
    state::{Address, Link, LinkKind, Route, Rules, State},
    want::{validate, wanted},
};

/// A kernel that does what Linux does where the order of steps depends on it.
#[derive(Clone)]
struct Simulated {
    state: State,
    /// How many more steps succeed; then one fails.
    until_failure: Option<usize>,
    /// Whether what fails is the node itself: then nothing succeeds any more.
    crash: bool,
}

fn net(address: &Address) -> IpNet {
    IpNet::new(address.ip, address.prefix_len).unwrap().trunc()
}

impl Simulated {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        let missing = |name: &str| format!("{name} does not exist");
        let links = &mut self.state.links;
        let name = match step {
            Step::LoadRules { rules } => {
                self.state.rules = rules.clone();
                return Ok(());
            }
            Step::SetForwarding { on } => {
                self.state.forwarding = *on;
                return Ok(());
            }
            Step::CreateBridge { link, .. }
            | Step::CreateTap { link }
            | Step::SetMac { link, .. }
            | Step::SetIpv6 { link, .. }
            | Step::SetUp { link, .. }
            | Step::SetMaster { link, .. }
            | Step::AddAddress { link, .. }
            | Step::RemoveAddress { link, .. }
            | Step::AddRoute { link, .. }
            | Step::RemoveRoute { link, .. }
            | Step::DeleteLink { link } => link,
        };
        if let Step::CreateBridge { mac, .. } = step {
            let new = Link { mac: *mac, ipv6: Some(true), ..Link::new(LinkKind::Bridge) };
            return links.insert(name.clone(), new).map_or(Ok(()), |_| Err(format!("{name} exists")));
        }
        if let Step::CreateTap { .. } = step {
            let new = Link { ipv6: Some(true), ..Link::new(LinkKind::Tap) };
            return links.insert(name.clone(), new).map_or(Ok(()), |_| Err(format!("{name} exists")));
        }
        if let Step::DeleteLink { .. } = step {
            let gone = links.remove(name).ok_or_else(|| missing(name))?;
            assert!(gone.is_ours(), "{name} is the host's own");
            for port in links.values_mut().filter(|l| l.master.as_deref() == Some(name)) {
                port.master = None;
            }
            return Ok(());
        }
        if let Step::SetMaster { master: Some(master), .. } = step
            && links.get(master).is_none_or(|m| m.kind != LinkKind::Bridge)
        {
            return Err(missing(master));
        }
        let link = links.get_mut(name).ok_or_else(|| missing(name))?;
        Self::change(link, step)
    }

    fn change(link: &mut Link, step: &Step) -> Result<(), String> {
        match step {
            Step::SetMac { mac, .. } => link.mac = Some(*mac),
            Step::SetIpv6 { on, .. } => link.ipv6 = Some(*on),
            Step::SetUp { up, .. } => {
                link.up = *up;
                if !up {
                    link.routes.clear();
                }
            }
            Step::SetMaster { master, .. } => {
                link.master.clone_from(master);
            }
            Step::AddAddress { address, .. } => link.addresses.push(*address),
            Step::RemoveAddress { address, .. } => remove_address(link, address),
            Step::AddRoute { route, .. } => {
                let reachable = |gateway: &IpAddr| link.addresses.iter().any(|a| net(a).contains(gateway));
                if !link.up || !route.gateway.iter().all(reachable) {
                    return Err(format!("the network is unreachable: {route}"));
                }
                link.routes.push(*route);
            }
            Step::RemoveRoute { route, .. } => link.routes.retain(|r| r != route),
            _ => unreachable!("handled before"),
        }
        Ok(())
    }

    fn reach(&mut self, wish: &Desired) -> Result<Outcome, NetworkError> {
        validate(TAG, wish).unwrap();
        reach(self, |now| wanted(TAG, wish, now)).now_or_never().unwrap()
    }

    /// The addresses and routes that the host had before any node came.
    fn hosts_own(&self) -> (Vec<IpAddr>, Vec<Route>) {
        let links = self.state.links.values();
        let addresses = links.clone().flat_map(|l| &l.addresses).filter(|a| !a.ours).map(|a| a.ip);
        let mut addresses: Vec<_> = addresses.collect();
        addresses.sort();
        addresses.dedup();
        let mut routes: Vec<Route> = Vec::new();
        for route in links.flat_map(|l| &l.routes) {
            if route.protocol == 4 && !routes.contains(route) {
                routes.push(*route);
            }
        }
        routes.sort_by_key(|r| r.destination);
        (addresses, routes)
    }
}

/// The first address of a network takes the later ones of the same network along; the last address of
/// a link takes all its routes.
fn remove_address(link: &mut Link, address: &Address) {
    let Some(at) = link.addresses.iter().position(|a| a.same(address)) else { return };
    let primary = !link.addresses[..at].iter().any(|a| net(a) == net(address));
    link.addresses.remove(at);
    if primary {
        link.addresses.retain(|a| net(a) != net(address));
    }
    if link.addresses.is_empty() {
        link.routes.clear();
    }
}

impl Host for Simulated {
    async fn read(&mut self) -> io::Result<State> {
        Ok(self.state.clone())
    }

    async fn apply(&mut self, step: &Step) -> Result<(), StepError> {
        let failed = |reason: &str| Err(StepError::Kernel(io::Error::other(reason.to_owned())));
        if let Some(left) = &mut self.until_failure {
            if *left == 0 {
                if !self.crash {
                    self.until_failure = None;
                }
                return failed("injected");
            }
            *left -= 1;
        }
        let before = self.hosts_own();
        if let Err(reason) = self.step(step) {
            panic!("{step}: {reason}");
        }
        // The walls of the crate: at no moment is anything of the host's own lost.
        let after = self.hosts_own();
        assert!(before.0.iter().all(|a| after.0.contains(a)), "{step}: lost an address of the host");
        assert!(before.1.iter().all(|r| after.1.contains(r)), "{step}: lost a route of the host");
        Ok(())
    }

    async fn saved_rules(&mut self) -> Result<Rules, StepError> {
        Ok(Rules::Loaded("saved".into()))
    }
}

fn own_address(ip: &str) -> Address {
    Address { ip: ip.parse().unwrap(), prefix_len: 24, broadcast: None, ours: false, valid_seconds: None }
}

fn own_route(to: &str, via: &str) -> Route {
    Route {
        destination: to.parse().unwrap(),
        gateway: Some(via.parse().unwrap()),
        source: None,
        metric: 0,
        protocol: 4,
        scope: 0,
        onlink: false,
    }
}

/// A host with two adapters in use, one unused and one that is someone else's.
fn host() -> Simulated {
    let foreign = |n: u8| Link {
        mac: Some([2, 0xaa, 0, 0, 0, n]),
        up: true,
        ..Link::new(LinkKind::Foreign { unfit: None })
    };
    let mut eth0 = foreign(0);
    eth0.addresses = vec![own_address("10.9.0.5"), own_address("10.9.0.6"), own_address("10.8.0.5")];
    eth0.routes = vec![own_route("0.0.0.0/0", "10.9.0.1"), own_route("10.77.0.0/16", "10.8.0.1")];
    let mut eth1 = foreign(1);
    eth1.addresses = vec![own_address("10.10.0.5")];
    eth1.routes = vec![own_route("10.78.0.0/16", "10.10.0.1")];
    let eth2 = Link { up: false, ..foreign(2) };
    let docker = Link::new(LinkKind::Foreign { unfit: Some("is a bridge itself") });
    let links = BTreeMap::from([
        ("eth0".into(), eth0),
        ("eth1".into(), eth1),
        ("eth2".into(), eth2),
        ("docker0".into(), docker),
    ]);
    Simulated { state: State { links, ..State::default() }, until_failure: None, crash: false }
}

fn a_switch(n: u32) -> impl Strategy<Value = Switch> {
    let uplink = prop::sample::select(vec!["eth0", "eth1", "eth2", "eth9", "docker0"]);
    prop_oneof![
        Just(switch(n, SwitchKind::Private)),
        Just(switch(n, SwitchKind::Internal)),
        (1_u8..4, 1_u8..4).prop_map(move |(third, last)| {
            let mut switch = internal(n, &format!("192.168.{third}.{last}"), 24);
            switch.addresses[0].gateway =
                (last == 1).then(|| format!("192.168.{third}.254").parse().unwrap());
            switch
        }),
        (uplink, any::<bool>()).prop_map(move |(uplink, host)| external(n, uplink, host)),
    ]
}

/// A wish that is shown in one line when a test fails.
#[derive(Clone)]
struct Wish(Desired);

impl std::fmt::Debug for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for s in &self.0.switches {
            let addresses: Vec<_> = s.addresses.iter().map(|a| (a.address, a.gateway)).collect();
            write!(f, "{} {:?} {addresses:?}; ", TAG.bridge(s.id), s.kind)?;
        }
        for p in &self.0.ports {
            let switch = p.switch.map(|id| TAG.bridge(id));
            write!(f, "{} on {switch:?} {}; ", TAG.tap(p.adapter), p.mac_spoofing)?;
        }
        write!(f, "{} NATs", self.0.nats.len())
    }
}

prop_compose! {
    fn a_wish()(
        switches in (a_switch(1), a_switch(2), a_switch(3)),
        present in prop::array::uniform3(any::<bool>()),
        ports in prop::collection::vec((0_usize..4, any::<bool>()), 0..4),
        with_nat in any::<bool>(),
    ) -> Wish {
        let all = [switches.0, switches.1, switches.2];
        let ports = ports.iter().enumerate().map(|(n, (on, spoofing))| {
            let mut port = port(u32::try_from(n).unwrap() + 20, all.get(*on));
            port.mac_spoofing = *spoofing;
            port
        });
        Wish(Desired {
            ports: ports.collect(),
            switches: all.clone().into_iter().zip(present).filter_map(|(s, p)| p.then_some(s)).collect(),
            nats: if with_nat { vec![nat("192.168.1.0/24")] } else { vec![] },
        })
    }
}

fn settled(host: &mut Simulated, wish: &Desired) {
    let (goal, _) = wanted(TAG, wish, &host.state);
    assert_eq!(diff(&host.state, &goal), vec![]);
    assert_eq!(host.reach(wish).unwrap().changes, 0);
    for link in wish.switches.iter().map(|s| TAG.bridge(s.id)) {
        assert!(host.state.links[&link].up);
    }
}

/// Nothing of ours is left, and the host has what it had, where it had it.
fn as_before(host: &Simulated) {
    let mut fresh = self::host().state;
    let mut now = host.state.clone();
    // Stays on, once it was needed.
    now.forwarding = false;
    now.links.get_mut("eth2").unwrap().up = false;
    for state in [&mut fresh, &mut now] {
        for link in state.links.values_mut() {
            link.routes.sort_by_key(|r| r.destination);
            link.addresses.sort_by_key(|a| a.ip);
        }
    }
    assert_eq!(now, fresh);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_wish_is_reached_from_every_other_and_gone_in_the_end(wishes in prop::collection::vec(a_wish(), 1..5)) {
        let mut host = host();
        for Wish(wish) in &wishes {
            host.reach(wish).unwrap();
            settled(&mut host, wish);
        }
        host.reach(&Desired::default()).unwrap();
        as_before(&host);
    }

    #[test]
    fn a_failed_step_leaves_the_former_state(Wish(first) in a_wish(), Wish(second) in a_wish(), at in 0_usize..40) {
        let mut host = host();
        host.reach(&first).unwrap();
        let before = host.state.clone();
        host.until_failure = Some(at);
        if host.reach(&second).is_err() {
            prop_assert_eq!(sorted(&host.state), sorted(&before));
        } else {
            host.until_failure = None;
            settled(&mut host, &second);
        }
    }

    #[test]
    fn after_a_crash_at_any_step_any_wish_is_reached(
        Wish(first) in a_wish(), Wish(second) in a_wish(), Wish(third) in a_wish(), at in 0_usize..40
    ) {
        let mut host = host();
        host.reach(&first).unwrap();
        (host.until_failure, host.crash) = (Some(at), true);
        let _ = host.reach(&second);
        host.until_failure = None;
        host.reach(&third).unwrap();
        settled(&mut host, &third);
        host.reach(&Desired::default()).unwrap();
        as_before(&host);
    }
}

/// The order of routes means nothing to the kernel.
fn sorted(state: &State) -> State {
    let mut state = state.clone();
    for link in state.links.values_mut() {
        link.routes.sort_by_key(|r| (r.destination, r.metric));
        link.addresses.sort_by_key(|a| a.ip);
    }
    state
}

#[test]
fn the_walkthroughs_switch_is_made_in_a_safe_order() {
    let wish = sample::everything();
    let now = State::default();
    let steps: Vec<String> = diff(&now, &wanted(TAG, &wish, &now).0).iter().map(Step::to_string).collect();
    let expected = [
        "create the bridge nb0af100000001",
        "create the bridge nb0af100000002",
        "create the tap nt0af10000000b",
        "create the tap nt0af10000000c",
        "create the tap nt0af10000000d",
        "switch IPv6 off on nb0af100000002",
        "switch IPv6 off on nt0af10000000b",
        "switch IPv6 off on nt0af10000000c",
        "switch IPv6 off on nt0af10000000d",
        "load the rules",
        "switch nb0af100000001 on",
        "switch nb0af100000002 on",
        "give nb0af100000001 the address 192.168.100.1/24",
        "plug nt0af10000000b into nb0af100000001",
        "plug nt0af10000000c into nb0af100000002",
        "switch nt0af10000000b on",
        "switch nt0af10000000c on",
        "switch IPv4 forwarding on",
    ];
    assert_eq!(steps, expected);
}

#[test]
fn equal_states_need_no_step() {
    let mut host = host();
    host.reach(&sample::everything()).unwrap();
    assert_eq!(diff(&host.state, &host.state), vec![]);
}

#[test]
fn a_wish_that_contradicts_itself_is_refused() {
    let mut wish = sample::everything();
    wish.ports.push(wish.ports[0].clone());
    assert!(validate(TAG, &wish).unwrap_err().to_string().contains("nt0af10000000b"));
    let mut wish = sample::everything();
    wish.switches[0].addresses[0].prefix_len = 33;
    assert!(validate(TAG, &wish).unwrap_err().to_string().contains("33"));
}
