//! Reconciling against the real kernel.

use tempfile::TempDir;

use super::{
    namespace::{Machine, hold_tap, in_namespace, sh, succeeds},
    sample::{self, TAG, everything, external, internal, port},
};
use crate::{
    Desired, Network, NetworkError, Problem, Settings, Tag,
    diff::Step,
    kernel::StepError,
    reconcile::{Host, reach},
    state::{Rules, State},
    want::wanted,
};

pub(super) async fn network(tag: Tag) -> (Network, TempDir) {
    let dir = TempDir::new().unwrap();
    let settings = Settings { tag, state_dir: dir.path().join("network"), tap_owner: None };
    (Network::open(settings).await.unwrap(), dir)
}

/// All that there is, as the system's own tools tell it; without what differs from run to run and what
/// the kernel notices a moment later (carrier).
fn everything_there_is() -> String {
    sh("ip -o link | sed -E 's/^[0-9]+: //; s/@if[0-9]+//; s/link-netnsid [0-9]+//; s/qlen [0-9]+//; s/qdisc [a-z_]+//; s/NO-CARRIER,|,LOWER_UP|state [A-Z]+//g; /^nt/s/link.ether [^ ]*//' | sort;
        ip -o -4 addr | sed -E 's/^[0-9]+: //' | sort; ip -4 route show table all | sed 's/linkdown//; s/ *$//' | sort; ip -6 route show table main proto static;
        nft -s list ruleset; cat /proc/sys/net/ipv4/ip_forward")
}

#[test]
fn a_wish_is_made_kept_restored_and_removed() {
    in_namespace(|| async {
        let before = everything_there_is();
        let (network, _dir) = network(TAG).await;
        let wish = everything();
        let outcome = network.reconcile(&wish).await.unwrap();
        assert!(outcome.changes > 10 && outcome.problems.is_empty(), "{outcome:?}");
        let made = everything_there_is();
        assert!(made.contains("nb0af100000001: <BROADCAST,MULTICAST,UP"), "{made}");
        assert!(made.contains("link/ether 02:4e:00:00:00:01"), "{made}");
        assert!(made.contains("192.168.100.1/24"), "{made}");
        assert!(made.contains("masquerade"), "{made}");
        let details = sh("ip -d link show nb0af100000001");
        assert!(details.contains("forward_delay 0 ") && details.contains("stp_state 0"), "{details}");
        assert!(sh("ip link show nt0af10000000d").contains("DOWN"));
        assert_eq!(sh("cat /proc/sys/net/ipv6/conf/nb0af100000002/disable_ipv6"), "1\n");
        assert_eq!(sh("cat /proc/sys/net/ipv6/conf/nt0af10000000b/disable_ipv6"), "1\n");

        assert_eq!(network.reconcile(&wish).await.unwrap().changes, 0);
        assert_eq!(network.plan(&wish).await.unwrap(), Vec::<String>::new());

        sh("for l in nb0af100000001 nb0af100000002 nt0af10000000b nt0af10000000c nt0af10000000d; do ip link del $l; done
            nft flush ruleset; echo 0 > /proc/sys/net/ipv4/ip_forward");
        assert!(network.reconcile(&wish).await.unwrap().changes > 10);
        assert_eq!(everything_there_is(), made);

        sh("ip addr del 192.168.100.1/24 dev nb0af100000001; ip link set nt0af10000000b nomaster;
            nft add rule inet nestling_0af1 forward drop; ip link set nb0af100000002 address 02:00:00:00:00:01");
        assert!(network.reconcile(&wish).await.unwrap().changes >= 4);
        assert_eq!(everything_there_is(), made);

        network.reconcile(&Desired::default()).await.unwrap();
        sh("echo 0 > /proc/sys/net/ipv4/ip_forward");
        assert_eq!(everything_there_is(), before);
    });
}

#[test]
fn no_program_is_started_when_nothing_changed() {
    in_namespace(|| async {
        let (network, _dir) = network(TAG).await;
        network.reconcile(&everything()).await.unwrap();
        let generation = sh("nft monitor & p=$!; sleep 0.2; kill $p; true");
        // Loading the rules again would be seen as new handles.
        let handles = sh("nft -a list ruleset");
        for _ in 0..3 {
            assert_eq!(network.reconcile(&everything()).await.unwrap().changes, 0);
        }
        assert_eq!(sh("nft -a list ruleset"), handles);
        drop(generation);
        // A change of anyone else's rules makes us load ours again, and theirs stay.
        sh(
            "nft add table ip theirs; nft 'add chain ip theirs f { type filter hook forward priority 0; policy drop; }'",
        );
        assert_eq!(network.reconcile(&everything()).await.unwrap().changes, 1);
        assert!(sh("nft list tables").contains("theirs"));
        let [filter] = &network.foreign_filters().await.unwrap()[..] else { panic!() };
        assert_eq!(filter.table, "theirs");
        assert_eq!(network.reconcile(&everything()).await.unwrap().changes, 0);
    });
}

#[test]
fn two_nodes_do_not_meet() {
    in_namespace(|| async {
        let (one, _dir1) = network(TAG).await;
        let (two, _dir2) = network(Tag([0x0a, 0xf2])).await;
        one.reconcile(&everything()).await.unwrap();
        let first = everything_there_is();
        let other = Desired {
            switches: vec![internal(1, "192.168.101.1", 24)],
            nats: vec![sample::nat("192.168.101.0/24")],
            ports: vec![],
        };
        two.reconcile(&other).await.unwrap();
        assert!(sh("ip link").contains("nb0af200000001"));
        assert!(sh("nft list tables").contains("nestling_0af2"));
        one.reconcile(&everything()).await.unwrap();
        two.reconcile(&Desired::default()).await.unwrap();
        assert_eq!(everything_there_is(), first);
    });
}

/// The real kernel, except that one step fails.
struct Failing<H> {
    host: H,
    /// How many steps still succeed.
    left: usize,
    failed: bool,
}

impl<H: Host> Host for Failing<H> {
    async fn read(&mut self) -> std::io::Result<State> {
        self.host.read().await
    }

    async fn apply(&mut self, step: &Step) -> Result<(), StepError> {
        if self.left == 0 && !self.failed {
            self.failed = true;
            return Err(StepError::Kernel(std::io::Error::other("injected")));
        }
        self.left = self.left.saturating_sub(1);
        self.host.apply(step).await
    }

    async fn saved_rules(&mut self) -> Result<Rules, StepError> {
        self.host.saved_rules().await
    }
}

/// Fails `wish` at every step in turn and compares what is there with what was there.
async fn fails_cleanly_everywhere(network: &Network, wish: &Desired) -> usize {
    let before = everything_there_is();
    for k in 0.. {
        let mut inner = network.inner.lock().await;
        let mut host = Failing { host: network.host(&mut inner.nft), left: k, failed: false };
        let result = reach(&mut host, |now| wanted(TAG, wish, now)).await;
        if !host.failed {
            result.unwrap();
            return k;
        }
        assert!(matches!(result, Err(NetworkError::Step { .. })), "step {k}: {result:?}");
        same(&before, &everything_there_is(), k);
        assert!(k < 200);
    }
    unreachable!()
}

fn same(before: &str, after: &str, k: usize) {
    let lost: Vec<_> = before.lines().filter(|l| !after.contains(l)).collect();
    let new: Vec<_> = after.lines().filter(|l| !before.contains(l)).collect();
    assert!(before == after, "failed at step {k}; lost {lost:#?}, new {new:#?}");
}

#[test]
fn a_failure_at_any_step_leaves_what_was_before() {
    in_namespace(|| async {
        let lan = Machine::on_veth("eth0");
        lan.sh("ip addr add 10.9.0.1/24 dev eth0");
        sh("ip addr add 10.9.0.5/24 dev eth0; ip addr add 10.9.0.6/24 dev eth0; ip route add default via 10.9.0.1;
            ip route add 10.77.0.0/16 via 10.9.0.1 metric 50");
        let (network, _dir) = network(TAG).await;
        let steps = fails_cleanly_everywhere(&network, &everything()).await;
        assert!(steps > 12, "{steps}");

        // Change everything at once: one switch goes, one changes its kind, one gets the uplink.
        let mut second = everything();
        second.switches.remove(1);
        second.switches[0].addresses[0].address = "192.168.100.254".parse().unwrap();
        second.switches.push(external(3, "eth0", true));
        second.ports = vec![port(11, Some(&second.switches[1])), port(13, Some(&second.switches[0]))];
        second.nats[0].mappings.clear();
        let steps = fails_cleanly_everywhere(&network, &second).await;
        assert!(steps > 15, "{steps}");
        assert!(sh("ip route").contains("default via 10.9.0.1 dev nb0af100000003"));

        let steps = fails_cleanly_everywhere(&network, &Desired::default()).await;
        assert!(steps > 5, "{steps}");
        assert!(sh("ip route").contains("default via 10.9.0.1 dev eth0"));
        assert!(lan.pings("10.9.0.6"));
    });
}

#[test]
fn a_node_that_starts_again_keeps_what_is_there() {
    in_namespace(|| async {
        let (first, _dir) = network(TAG).await;
        first.reconcile(&everything()).await.unwrap();
        let held = hold_tap("nt0af10000000b");
        let made = everything_there_is();
        let (second, _dir) = network(TAG).await;
        // The rules are loaded once, since a new node can't know that nobody changed them.
        assert_eq!(second.reconcile(&everything()).await.unwrap().changes, 1);
        assert_eq!(everything_there_is(), made);
        // And a failure in a node that does not know the rules brings them back, too.
        let (third, _dir) = network(TAG).await;
        let mut other = everything();
        other.ports[0].mac_spoofing = true;
        other.switches[0].addresses.clear();
        fails_cleanly_everywhere(&third, &other).await;
        drop(held);
    });
}

#[test]
fn an_external_switch_takes_the_hosts_addresses_and_gives_them_back() {
    in_namespace(|| async {
        let lan = Machine::on_veth("eth0");
        lan.sh("ip addr add 10.9.0.1/24 dev eth0; ip addr add 10.50.0.1/32 dev lo");
        sh("ip link set eth0 address 02:aa:00:00:00:01; ip addr add 10.9.0.5/24 dev eth0;
            ip route add default via 10.9.0.1");
        let before = everything_there_is();
        let (network, _dir) = network(TAG).await;
        let mut wish = Desired { switches: vec![external(3, "eth0", true)], ..Desired::default() };
        network.reconcile(&wish).await.unwrap();
        assert_eq!(network.reconcile(&wish).await.unwrap().changes, 0);
        assert!(sh("ip link show nb0af100000003").contains("02:aa:00:00:00:01"));
        assert!(!sh("ip addr show eth0").contains("10.9.0.5"));
        sh("ping -n -c 1 -W 1 10.50.0.1");
        assert!(lan.pings("10.9.0.5"));

        // What someone plugs in by hand is unplugged, and takes nothing along.
        sh("ip link add by0 type veth peer name by1; ip link set by0 up master nb0af100000003");
        network.reconcile(&wish).await.unwrap();
        assert!(lan.pings("10.9.0.5"));
        assert!(!sh("ip -4 addr show by0; ip link show by0").contains("10.9.0.5"));
        sh("ip link set by0 master nb0af100000003");
        network.reconcile(&Desired::default()).await.unwrap();
        sh("ip link del by0");
        assert_eq!(everything_there_is(), before);
        network.reconcile(&wish).await.unwrap();

        // Without the host: it gets its addresses back on the adapter, which leads nowhere for it.
        wish.switches = vec![external(3, "eth0", false)];
        network.reconcile(&wish).await.unwrap();
        assert_eq!(network.reconcile(&wish).await.unwrap().changes, 0);
        assert!(sh("ip addr show eth0").contains("10.9.0.5/24"));
        assert!(!lan.pings("10.9.0.5"));

        wish.switches = vec![external(3, "eth0", true)];
        network.reconcile(&wish).await.unwrap();
        assert!(lan.pings("10.9.0.5"));
        network.reconcile(&Desired::default()).await.unwrap();
        assert_eq!(everything_there_is(), before);
        assert!(lan.pings("10.9.0.5"));
        sh("ping -n -c 1 -W 1 10.50.0.1");
    });
}

#[test]
fn an_uplink_that_cannot_be_is_a_problem_and_nothing_else_suffers() {
    in_namespace(|| async {
        sh("ip link add br7 type bridge; ip link add v0 type veth peer name v1; ip link set v0 master br7");
        let (network, _dir) = network(TAG).await;
        for (uplink, why) in [
            ("eth9", "no network interface"),
            ("v0", "is part of br7"),
            ("br7", "is a bridge itself"),
            ("lo", "is the loopback"),
        ] {
            let mut wish = everything();
            wish.switches.push(external(3, uplink, true));
            let outcome = network.reconcile(&wish).await.unwrap();
            let [problem] = &outcome.problems[..] else { panic!("{outcome:?}") };
            assert!(problem.to_string().contains(why), "{problem}");
            assert!(sh("ip link").contains("nb0af100000003"));
        }
        let mut wish = everything();
        wish.switches.extend([external(3, "v1", true), external(4, "v1", true)]);
        let outcome = network.reconcile(&wish).await.unwrap();
        assert!(matches!(&outcome.problems[..], [Problem::UplinkRefused { .. }]), "{outcome:?}");
    });
}

#[test]
fn a_tap_in_use_stays_the_machines_own_when_its_port_moves() {
    in_namespace(|| async {
        let (network, _dir) = network(TAG).await;
        let mut wish = everything();
        network.reconcile(&wish).await.unwrap();
        let _held = hold_tap("nt0af10000000b");
        let index =
            sh("cat /sys/class/net/nt0af10000000b/ifindex 2>/dev/null || ip -o link show nt0af10000000b");
        wish.ports[0].switch = Some(wish.switches[1].id);
        network.reconcile(&wish).await.unwrap();
        assert!(sh("ip link show nt0af10000000b").contains("master nb0af100000002"));
        wish.ports[0].switch = None;
        network.reconcile(&wish).await.unwrap();
        assert!(!sh("ip link show nt0af10000000b").contains("master"));
        wish.ports.remove(0);
        network.reconcile(&wish).await.unwrap();
        assert!(!succeeds("ip link show nt0af10000000b"));
        drop(index);
    });
}

#[test]
fn a_busy_tap_name_or_a_foreign_thing_of_our_name_is_an_error_and_stays() {
    in_namespace(|| async {
        sh("ip link add nb0af100000001 type veth peer name x");
        let before = everything_there_is();
        let (network, _dir) = network(TAG).await;
        let error = network.reconcile(&everything()).await.unwrap_err().to_string();
        assert!(error.contains("can't create the bridge nb0af100000001: File exists"), "{error}");
        assert_eq!(everything_there_is(), before);
    });
}

#[test]
fn without_the_right_to_change_the_network_it_says_so() {
    in_namespace(|| async {
        use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
        let (network, _dir) = network(TAG).await;
        network.reconcile(&everything()).await.unwrap();
        let before = everything_there_is();
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::NET_ADMIN);
        set_capabilities(None, sets).unwrap();
        assert!(matches!(Network::permission(), Err(NetworkError::Permission)));
        let (second, _dir) = self::network(TAG).await;
        // Reading needs no right.
        assert!(second.host_adapters().await.unwrap().len() > 3);
        let result = second.reconcile(&Desired::default()).await;
        assert!(matches!(result, Err(NetworkError::Permission)), "{result:?}");
        sets.effective.insert(CapabilitySet::NET_ADMIN);
        set_capabilities(None, sets).unwrap();
        assert_eq!(everything_there_is(), before);
    });
}

#[test]
fn what_the_host_has_is_told() {
    in_namespace(|| async {
        let (network, _dir) = network(TAG).await;
        network.reconcile(&everything()).await.unwrap();
        let _held = hold_tap("nt0af10000000b");
        let adapters = network.host_adapters().await.unwrap();
        let named = |name: &str| adapters.iter().find(|a| a.interface == name).unwrap();
        assert_eq!(named("lo").kind, crate::AdapterKind::Loopback);
        assert_eq!(named("nb0af100000001").ours, Some(crate::Ours::Bridge));
        assert_eq!(named("nt0af10000000b").master.as_deref(), Some("nb0af100000001"));
        assert!(named("nt0af10000000b").carrier && !named("nt0af10000000c").carrier);
        let addresses = network.addresses().await.unwrap();
        let own = addresses.iter().find(|a| a.interface == "nb0af100000001" && a.address.is_ipv4()).unwrap();
        assert!(own.managed && own.prefix_len == 24);
        let routes = network.routes().await.unwrap();
        assert!(routes.iter().any(|r| r.destination.to_string() == "192.168.100.0/24"), "{routes:?}");
        assert!(Network::permission().is_ok());
    });
}

#[test]
fn a_hundred_ports_are_made_and_kept_quickly() {
    in_namespace(|| async {
        let (network, _dir) = network(TAG).await;
        let lan = internal(1, "192.168.100.1", 24);
        let ports = (0..100).map(|n| port(100 + n, Some(&lan))).collect();
        let wish = Desired { ports, switches: vec![lan], nats: vec![] };
        let start = std::time::Instant::now();
        network.reconcile(&wish).await.unwrap();
        let made = start.elapsed();
        let start = std::time::Instant::now();
        assert_eq!(network.reconcile(&wish).await.unwrap().changes, 0);
        println!("made in {made:?}, read in {:?}", start.elapsed());
        assert!(start.elapsed().as_millis() < 500);
    });
}
