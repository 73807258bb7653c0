//! Real frames through ports, rules and NAT.

use std::{io::Write, path::PathBuf, time::Duration};

use nestling_model::SwitchKind;

use super::{
    live::network,
    namespace::{Machine, eventually, in_namespace, sh, succeeds},
    sample::{self, TAG, adapter, external, internal, mac, mapping, nat, port, switch},
};
use crate::Desired;

/// The machine on port `n` of the switch, with an address.
fn machine(n: u32, address: &str) -> Machine {
    let machine = Machine::on_tap(&format!("nt0af1{n:08x}"), &mac(n));
    machine.sh(&format!("ip addr add {address} dev eth0"));
    machine
}

/// A machine that the host reaches through `eth0`, as the world outside.
fn outside() -> Machine {
    let outside = Machine::on_veth("eth0");
    outside.sh("ip addr add 10.9.0.1/24 dev eth0");
    sh("ip addr add 10.9.0.5/24 dev eth0");
    outside
}

#[test]
fn frames_from_a_foreign_address_pass_only_with_spoofing_on() {
    in_namespace(|| async {
        let (network, _dir) = network(TAG).await;
        let inner = internal(5, "10.99.0.254", 24);
        let mut wish = Desired {
            ports: vec![port(1, Some(&inner)), port(2, Some(&inner))],
            switches: vec![inner],
            nats: vec![],
        };
        network.reconcile(&wish).await.unwrap();
        let (one, two) = (machine(1, "10.99.0.1/24"), machine(2, "10.99.0.2/24"));
        eventually("own address passes", || one.pings("10.99.0.2"));
        assert!(one.pings("10.99.0.254") && two.pings("10.99.0.254"));

        // What an innermost guest behind a bridge in the machine looks like from here.
        one.sh("ip link set eth0 address 02:bb:00:00:00:02");
        assert!(!one.pings("10.99.0.2"));
        let dropped = network.port_counters(&[adapter(1), adapter(2)]).await.unwrap();
        assert!(dropped[&adapter(1)].spoofed_packets > 0, "{dropped:?}");
        assert_eq!(dropped[&adapter(2)].spoofed_packets, 0);
        // Dropped before the bridge learns the address, or it would lead others' frames here.
        assert!(!sh("bridge fdb show").contains("02:bb:00:00:00:02"));

        wish.ports[0].mac_spoofing = true;
        network.reconcile(&wish).await.unwrap();
        eventually("spoofing on", || one.pings("10.99.0.2"));
        wish.ports[0].mac_spoofing = false;
        network.reconcile(&wish).await.unwrap();
        assert!(!one.pings("10.99.0.2"));
    });
}

#[test]
fn arp_and_neighbour_discovery_cannot_claim_a_foreign_address() {
    in_namespace(|| async {
        let (network, _dir) = network(TAG).await;
        let inner = internal(5, "10.99.0.254", 24);
        let wish = Desired {
            ports: vec![port(1, Some(&inner)), port(2, Some(&inner))],
            switches: vec![inner],
            nats: vec![],
        };
        network.reconcile(&wish).await.unwrap();
        let (one, two) = (machine(1, "10.99.0.1/24"), machine(2, "10.99.0.2/24"));
        eventually("connected", || one.pings("10.99.0.2"));
        // IPv6 with everyone's own address works, neighbour discovery and all.
        for (machine, address) in [(&one, "fd00::1"), (&two, "fd00::2")] {
            machine.sh(&format!("ip addr add {address}/64 dev eth0"));
        }
        eventually("IPv6", || one.pings("fd00::2"));
        let counted =
            || async { network.port_counters(&[adapter(1)]).await.unwrap()[&adapter(1)].spoofed_packets };
        assert_eq!(counted().await, 0);

        // A frame of the machine's own address that claims another one inside (sent raw).
        let own = mac(1).replace(':', "");
        let liar = "02bb00000002";
        let arp = format!("ffffffffffff{own}08060001080006040002{liar}0a630009{liar}0a630009");
        let lladdr_option = format!("0201{liar}");
        let neighbour = format!(
            "333300000001{own}86dd60000000002{}3aff{}{}8800{}20000000{}{lladdr_option}",
            "0",
            "fd000000000000000000000000000009",
            "ff020000000000000000000000000001",
            "0000",
            "fd000000000000000000000000000009"
        );
        for (n, frame) in [(1, arp), (2, neighbour)] {
            one.sh(&format!(
                "python3 - <<'E'\nimport socket\ns = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
                 s.bind(('eth0', 0))\ns.send(bytes.fromhex('{frame}'))\nE"
            ));
            let end = std::time::Instant::now() + Duration::from_secs(10);
            while counted().await < n {
                assert!(std::time::Instant::now() < end, "frame {n} was not dropped");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    });
}

#[test]
fn guards_stop_offers_and_router_advertisements() {
    in_namespace(|| async {
        let (network, _dir) = network(TAG).await;
        let inner = internal(5, "10.99.0.254", 24);
        let mut guarded = port(1, Some(&inner));
        (guarded.dhcp_guard, guarded.router_guard) = (true, true);
        let wish = Desired { ports: vec![guarded], switches: vec![inner], nats: vec![] };
        network.reconcile(&wish).await.unwrap();
        let one = machine(1, "10.99.0.1/24");
        eventually("connected", || one.pings("10.99.0.254"));
        one.sh("ip route add default via 10.99.0.254; echo offer | socat - udp-sendto:10.99.0.254:68,sourceport=67");
        // A router advertisement in raw: type 134 from a link-local address to all nodes.
        let own = mac(1).replace(':', "");
        let advert = format!(
            "333300000001{own}86dd6000000000103aff{}{}86000000400000000000000000000000",
            "fe800000000000000000000000000001", "ff020000000000000000000000000001"
        );
        one.sh(&format!(
            "python3 - <<'E'\nimport socket\ns = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)\n\
             s.bind(('eth0', 0))\ns.send(bytes.fromhex('{advert}'))\nE"
        ));
        let end = std::time::Instant::now() + Duration::from_secs(10);
        loop {
            let count = network.port_counters(&[adapter(1)]).await.unwrap()[&adapter(1)];
            if count.dhcp_guard_packets == 1 && count.router_guard_packets == 1 {
                break;
            }
            assert!(std::time::Instant::now() < end, "{count:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn machines_behind_nat_reach_the_outside_and_are_reached_by_mappings_only() {
    in_namespace(|| async {
        let outside = outside();
        let (network, _dir) = network(TAG).await;
        let (first, second) = (internal(1, "192.168.100.1", 24), internal(2, "192.168.101.1", 24));
        let mut nat_1 = nat("192.168.100.0/24");
        nat_1.mappings.push(mapping(8080, "192.168.100.10", 80));
        let wish = Desired {
            ports: vec![port(1, Some(&first)), port(2, Some(&second)), port(3, Some(&first))],
            switches: vec![first, second],
            nats: vec![nat_1],
        };
        network.reconcile(&wish).await.unwrap();
        let (one, two) = (machine(1, "192.168.100.10/24"), machine(2, "192.168.101.10/24"));
        let neighbour = machine(3, "192.168.100.11/24");
        one.sh("ip route add default via 192.168.100.1");
        neighbour.sh("ip route add default via 192.168.100.1");
        two.sh("ip route add default via 192.168.101.1");
        eventually("gateway", || one.pings("192.168.100.1") && two.pings("192.168.101.1"));
        // The outside has no route to 192.168.100.0/24: an answer proves the translation.
        assert!(one.pings("10.9.0.1"));

        // The mapping, from the outside, from the host itself and from the machine's own network.
        one.run(|| {
            let server = std::net::TcpListener::bind("0.0.0.0:80").unwrap();
            std::thread::spawn(move || {
                for connection in server.incoming() {
                    connection.unwrap().write_all(b"hello\n").unwrap();
                }
            });
        });
        assert_eq!(outside.sh("socat -T 5 -u tcp:10.9.0.5:8080,connect-timeout=3 -"), "hello\n");
        assert_eq!(sh("socat -T 5 -u tcp:10.9.0.5:8080,connect-timeout=3 -"), "hello\n");
        assert_eq!(neighbour.sh("socat -T 5 -u tcp:10.9.0.5:8080,connect-timeout=3 -"), "hello\n");

        // Not without a mapping, even for someone who knows the way.
        outside.sh("ip route add 192.168.96.0/20 via 10.9.0.5");
        assert!(!outside.pings("192.168.100.10"));
        // A switch without NAT stays alone although the host forwards packets now.
        assert!(!two.pings("10.9.0.1") && !two.pings("192.168.100.10") && !one.pings("192.168.101.10"));
        assert!(!outside.pings("192.168.101.10"));
    });
}

#[test]
fn a_private_switch_joins_its_machines_and_nobody_else() {
    in_namespace(|| async {
        let (network, _dir) = network(TAG).await;
        let private = switch(5, SwitchKind::Private);
        let wish = Desired {
            ports: vec![port(1, Some(&private)), port(2, Some(&private)), port(3, None)],
            switches: vec![private],
            nats: vec![],
        };
        network.reconcile(&wish).await.unwrap();
        sh("ip addr add 10.99.0.254/24 dev lo");
        let (one, _two) = (machine(1, "10.99.0.1/24"), machine(2, "10.99.0.2/24"));
        eventually("one another", || one.pings("10.99.0.2"));
        // The host answers for all its addresses on any interface that lets it.
        assert!(!one.pings("10.99.0.254"));
        let three = machine(3, "10.99.0.3/24");
        assert!(!three.pings("10.99.0.254") && !three.pings("10.99.0.1"));
        assert!(!sh("ip neigh").contains("10.99.0."), "{}", sh("ip neigh"));

        // Plugged in while it runs, and out again.
        let mut plugged = wish.clone();
        plugged.ports[2].switch = plugged.ports[0].switch;
        network.reconcile(&plugged).await.unwrap();
        eventually("plugged in", || three.pings("10.99.0.1"));
        network.reconcile(&wish).await.unwrap();
        assert!(!three.pings("10.99.0.1"));
    });
}

#[test]
fn an_external_switch_puts_machines_on_the_real_network() {
    in_namespace(|| async {
        let outside = outside();
        let (network, _dir) = network(TAG).await;
        let lan = external(1, "eth0", true);
        let wish = Desired { ports: vec![port(1, Some(&lan))], switches: vec![lan], nats: vec![] };
        network.reconcile(&wish).await.unwrap();
        let one = machine(1, "10.9.0.7/24");
        eventually("the machine is on the network", || one.pings("10.9.0.1"));
        assert!(outside.pings("10.9.0.7") && outside.pings("10.9.0.5") && one.pings("10.9.0.5"));
        // The host speaks with the adapter's own address, which a filter one level up expects.
        let own = sh("cat /proc/net/dev >/dev/null; ip -o link show eth0");
        let own = own.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let neighbour = outside.sh("ip neigh show 10.9.0.5");
        assert!(neighbour.contains(&own), "{neighbour} {own}");
    });
}

/// The walkthrough's two levels: a node inside a machine whose port has spoofing off, then on.
#[test]
fn an_inner_external_switch_needs_spoofing_on_the_outer_port_and_the_inner_host_does_not() {
    in_namespace(|| async {
        let (outer, _dir) = network(TAG).await;
        let lan = internal(1, "10.99.0.254", 24);
        let mut wish = Desired { ports: vec![port(1, Some(&lan))], switches: vec![lan], nats: vec![] };
        outer.reconcile(&wish).await.unwrap();
        let level_1 = machine(1, "10.99.0.1/24");
        level_1.sh("ip route add default via 10.99.0.254");
        eventually("level 1", || level_1.pings("10.99.0.254"));

        let inner_tag = crate::Tag([0xbe, 0xef]);
        level_1.run(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (inner, _dir) = network(inner_tag).await;
                let lan = external(9, "eth0", true);
                let wish = Desired { ports: vec![port(9, Some(&lan))], switches: vec![lan], nats: vec![] };
                let outcome = inner.reconcile(&wish).await.unwrap();
                assert_eq!(outcome.problems, vec![]);
            });
        });
        // The inner host's own traffic passes with spoofing off: its bridge has the adapter's address.
        eventually("level 1 through its bridge", || level_1.pings("10.99.0.254"));
        assert_eq!(outer.port_counters(&[adapter(1)]).await.unwrap()[&adapter(1)].spoofed_packets, 0);

        let level_2 = level_1.run(|| Machine::on_tap("ntbeef00000009", &mac(9)));
        level_2.sh("ip addr add 10.99.0.2/24 dev eth0");
        eventually("level 2 reaches level 1", || level_2.pings("10.99.0.1"));
        assert!(!level_2.pings("10.99.0.254"));
        assert!(outer.port_counters(&[adapter(1)]).await.unwrap()[&adapter(1)].spoofed_packets > 0);
        wish.ports[0].mac_spoofing = true;
        outer.reconcile(&wish).await.unwrap();
        eventually("level 2 through spoofing", || level_2.pings("10.99.0.254"));
    });
}

/// Leaves no server behind when a test fails.
struct EndServer(PathBuf);

impl Drop for EndServer {
    fn drop(&mut self) {
        if let Ok(pid) = std::fs::read_to_string(&self.0) {
            succeeds(&format!("kill {pid}"));
        }
    }
}

#[test]
fn a_nat_network_offers_addresses_and_names() {
    in_namespace(|| async {
        if !succeeds("command -v dnsmasq && command -v busybox") {
            println!("SKIPPED: needs dnsmasq and busybox");
            return;
        }
        let (network, dir) = network(TAG).await;
        let inner = internal(1, "192.168.100.1", 24);
        let mut nat = nat("192.168.100.0/24");
        nat.dhcp = Some(sample::dhcp("192.168.100.50", "192.168.100.60"));
        let mut wish =
            Desired { ports: vec![port(1, Some(&inner))], switches: vec![inner], nats: vec![nat.clone()] };
        let pid_file = dir.path().join("network/dhcp-192.168.100.0-24.pid");
        let _end = EndServer(pid_file.clone());
        let outcome = network.reconcile(&wish).await.unwrap();
        assert_eq!(outcome.problems, vec![]);
        assert_eq!(network.reconcile(&wish).await.unwrap().changes, 0);
        let one = Machine::on_tap("nt0af100000001", &mac(1));
        let lease = "busybox udhcpc -f -q -n -t 10 -T 1 -i eth0 -x hostname:pebble -s /bin/true";
        assert!(one.succeeds(lease));
        let leases = network.leases(&nat).await.unwrap();
        assert_eq!(leases.len(), 1, "{leases:?}");
        assert_eq!(leases[0].mac.to_string(), mac(1));
        assert_eq!(leases[0].host_name.as_deref(), Some("pebble"));
        assert!((50..=60).contains(&leases[0].address.octets()[3]));

        // The switch may be made anew under it.
        sh("ip link del nb0af100000001");
        network.reconcile(&wish).await.unwrap();
        assert!(one.succeeds(lease));

        // A server that dies is started again; one that a former node started is taken over.
        let pid = || std::fs::read_to_string(&pid_file).unwrap_or_default();
        let first = pid();
        sh(&format!("kill -9 {first}"));
        let end = std::time::Instant::now() + Duration::from_secs(15);
        while pid() == first || !succeeds(&format!("kill -0 {}", pid().trim())) {
            assert!(std::time::Instant::now() < end, "not started again");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(one.succeeds(lease));
        let second = pid();
        network.shutdown().await;
        assert_eq!(network.reconcile(&wish).await.unwrap().changes, 0);
        assert_eq!(pid(), second);

        wish.nats[0].dhcp = None;
        network.reconcile(&wish).await.unwrap();
        eventually("the server ends", || !succeeds(&format!("kill -0 {}", second.trim())));
        assert!(!pid_file.exists());
    });
}
