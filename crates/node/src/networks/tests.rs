//! Switches, NAT networks and ports in a network namespace of the test's own.

use std::process::Command;

use nestling_model::{Dhcp, Operation, Protocol, SwitchKind, VmState, network::StaticMapping};

use crate::{
    AdapterChange, AdapterStatus, ErrorKind, MacChoice, NatChange, NewAdapter, NewAddress, NewMapping,
    NewNat, NewSwitch, NewVm, Node, NodeError, SwitchChange, SwitchView,
    testing::{ME, TestHome, is_root, reaches, small},
};

fn new_switch(name: &str, kind: SwitchKind) -> NewSwitch {
    NewSwitch { name: name.parse().unwrap(), kind, notes: String::new() }
}

async fn internal(node: &Node, name: &str) -> SwitchView {
    node.create_switch(&ME, new_switch(name, SwitchKind::Internal)).await.unwrap()
}

fn new_nat(name: &str, prefix: &str) -> NewNat {
    NewNat { name: name.parse().unwrap(), internal_prefix: prefix.parse().unwrap(), dhcp: None }
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The interfaces of the namespace, but the loopback.
fn links() -> Vec<String> {
    let lines = output("ip", &["-o", "link"]);
    let names = lines.lines().filter_map(|l| Some(l.split(": ").nth(1)?.split('@').next()?.to_owned()));
    names.filter(|n| n != "lo").collect()
}

/// Steps 5 of the walkthrough, as the cmdlets ask for them; then the host starts anew.
#[test]
fn a_nat_network_is_made_and_comes_back_after_a_reboot() {
    if !is_root() {
        return;
    }
    let home = TestHome::new();
    let bridge = home.life(async |node| {
        let switch = internal(&node, "NAT-Switch").await;
        node.create_nat(&ME, new_nat("NAT-net", "192.168.100.0/24")).await.unwrap();
        let adapters = node.host_adapters(&ME).await.unwrap();
        let adapter = adapters.iter().find(|a| a.name == "vEthernet (NAT-Switch)").unwrap();
        assert_eq!((adapter.interface.as_str(), adapter.status), (switch.bridge.as_str(), "Up"));
        let new = NewAddress {
            adapter: "vethernet (nat-switch)".into(),
            address: "192.168.100.1".parse().unwrap(),
            prefix_len: 24,
            gateway: None,
        };
        let added = node.add_address(&ME, new.clone()).await.unwrap();
        assert_eq!((added.adapter.as_str(), added.managed), ("vEthernet (NAT-Switch)", true));
        assert_eq!(node.add_address(&ME, new).await.unwrap_err().code(), ErrorKind::Exists);
        switch.bridge
    });
    let check = || {
        assert!(output("ip", &["-o", "addr", "show", &bridge]).contains("192.168.100.1/24"));
        assert!(output("nft", &["list", "ruleset"]).contains("masquerade"));
    };
    check();
    // What a reboot leaves of it.
    output("ip", &["link", "del", &bridge]);
    output("nft", &["flush", "ruleset"]);
    home.life(async |node| {
        check();
        node.remove_address(&ME, "192.168.100.1".parse().unwrap()).await.unwrap();
        node.remove_nat(&ME, "nat-NET").await.unwrap();
        node.remove_switch(&ME, "nat-switch").await.unwrap();
    });
    assert_eq!(links(), [] as [&str; 0]);
    assert!(!output("nft", &["list", "ruleset"]).contains("nestling"));
}

#[test]
fn overlapping_nat_networks_are_refused_with_the_reason() {
    if !is_root() {
        return;
    }
    let home = TestHome::new();
    output("ip", &["link", "add", "dummy0", "type", "veth", "peer", "name", "dummy1"]);
    output("ip", &["addr", "add", "10.99.0.1/16", "dev", "dummy0"]);
    output("ip", &["link", "set", "dummy0", "up"]);
    home.life(async |node| {
        node.create_nat(&ME, new_nat("one", "192.168.100.0/24")).await.unwrap();
        node.create_nat(&ME, new_nat("two", "192.168.101.0/24")).await.unwrap();
        for (prefix, reason) in [
            ("192.168.100.128/25", "overlaps 192.168.100.0/24 of the NAT network \"one\""),
            ("192.168.0.0/16", "overlaps"),
            ("10.99.7.0/24", "overlaps 10.99.0.0/16, which the host's interface \"dummy0\" has"),
            ("127.0.0.0/24", "reserved"),
        ] {
            let refused = node.create_nat(&ME, new_nat("three", prefix)).await.unwrap_err();
            let text = refused.message();
            assert!(text.starts_with("The parameter is incorrect.\n") && text.contains(reason), "{text}");
            assert_eq!(refused.code(), ErrorKind::Invalid);
        }
        let inside = node.create_nat(&ME, new_nat("three", "192.168.102.1/24")).await.unwrap_err();
        assert!(inside.message().contains("192.168.102.0/24"), "{inside}");
        let same = node.create_nat(&ME, new_nat("ONE", "192.168.103.0/24")).await.unwrap_err();
        assert_eq!(same.code(), ErrorKind::Exists);
        assert_eq!(node.nats(&ME).await.unwrap().len(), 2);
    });
}

#[test]
fn mappings_have_numbers_that_are_never_used_again() {
    if !is_root() {
        return;
    }
    let home = TestHome::new();
    home.life(async |node| {
        node.create_nat(&ME, new_nat("n", "192.168.100.0/24")).await.unwrap();
        let new = NewMapping {
            protocol: Protocol::Tcp,
            external_address: "0.0.0.0".parse().unwrap(),
            external_port: 8080,
            internal_address: "192.168.100.10".parse().unwrap(),
            internal_port: 80,
        };
        let first: StaticMapping = node.add_mapping(&ME, "n", new).await.unwrap();
        assert_eq!(node.add_mapping(&ME, "n", new).await.unwrap_err().code(), ErrorKind::Exists);
        let outside = NewMapping { internal_address: "10.0.0.1".parse().unwrap(), external_port: 1, ..new };
        assert_eq!(node.add_mapping(&ME, "n", outside).await.unwrap_err().code(), ErrorKind::Invalid);
        node.remove_mapping(&ME, "n", first.id).await.unwrap();
        assert_eq!(node.remove_mapping(&ME, "n", first.id).await.unwrap_err().code(), ErrorKind::NotFound);
        let second = node.add_mapping(&ME, "n", new).await.unwrap();
        assert!(second.id > first.id);
        assert!(output("nft", &["list", "ruleset"]).contains("8080"));
    });
}

#[test]
fn leases_are_offered_and_no_more() {
    if !is_root() {
        return;
    }
    let home = TestHome::new();
    home.life(async |node| {
        internal(&node, "s").await;
        let address = NewAddress {
            adapter: "vEthernet (s)".into(),
            address: "192.168.100.1".parse().unwrap(),
            prefix_len: 24,
            gateway: None,
        };
        node.add_address(&ME, address).await.unwrap();
        node.create_nat(&ME, new_nat("n", "192.168.100.0/24")).await.unwrap();
        let dhcp = Dhcp {
            first: "192.168.100.100".parse().unwrap(),
            last: "192.168.100.200".parse().unwrap(),
            lease_seconds: 3600,
            dns_servers: vec!["192.168.100.1".parse().unwrap()],
        };
        let on = NatChange { dhcp: Some(Some(dhcp.clone())) };
        assert_eq!(node.change_nat(&ME, "n", on).await.unwrap().dhcp, Some(dhcp));
        let off = NatChange { dhcp: Some(None) };
        assert_eq!(node.change_nat(&ME, "n", off).await.unwrap().dhcp, None);
    });
}

#[test]
fn a_machine_is_plugged_in_and_out_while_it_runs() {
    if !is_root() {
        return;
    }
    let home = TestHome::new();
    home.life(async |node| {
        let lan = internal(&node, "lan").await;
        let new = NewVm { switch: Some("LAN".into()), ..small("vm") };
        let created = node.create_vm(&ME, new).await.unwrap();
        let adapter = created.adapters[0].clone();
        assert_eq!(adapter.switch.as_ref().unwrap().as_str(), "lan");
        assert_eq!((adapter.status, links()), (AdapterStatus::None, vec![lan.bridge.clone()]));
        let in_use = node.remove_switch(&ME, "lan").await.unwrap_err();
        assert!(in_use.message().contains("used by virtual machine 'vm'"), "{in_use}");

        node.operate(&ME, "vm", Operation::Start).await.unwrap();
        let tap = node.networks.tag().tap(adapter.adapter.id);
        assert!(output("ip", &["-o", "link", "show", &tap]).contains(&format!("master {}", lan.bridge)));

        let id = adapter.adapter.id;
        let change = async |change| node.change_adapter(&ME, "vm", id, change).await;
        let off = AdapterChange { switch: Some(None), ..AdapterChange::default() };
        assert_eq!(change(off).await.unwrap().status, AdapterStatus::Disconnected);
        assert!(!output("ip", &["-o", "link", "show", &tap]).contains("master"));
        let on = AdapterChange {
            switch: Some(Some("lan".into())),
            mac_spoofing: Some(true),
            ..AdapterChange::default()
        };
        let view = change(on).await.unwrap();
        assert_eq!((view.status, view.adapter.mac_spoofing), (AdapterStatus::Ok, true));
        let mac = AdapterChange { mac: Some(MacChoice::Dynamic), ..AdapterChange::default() };
        assert_eq!(change(mac).await.unwrap_err().code(), ErrorKind::InvalidState);

        let second = NewAdapter { switch: Some("lan".into()), ..NewAdapter::default() };
        let second = node.add_adapter(&ME, "vm", second).await.unwrap();
        assert_eq!(second.status, AdapterStatus::Ok);
        assert_eq!(links().len(), 3);
        let taken = NewAdapter { mac: Some(second.adapter.mac), ..NewAdapter::default() };
        assert_eq!(node.add_adapter(&ME, "vm", taken).await.unwrap_err().code(), ErrorKind::Exists);

        node.operate(&ME, "vm", Operation::TurnOff).await.unwrap();
        assert_eq!(links(), std::slice::from_ref(&lan.bridge));
        node.remove_adapter(&ME, "vm", second.adapter.id).await.unwrap();
        change(AdapterChange { switch: Some(None), ..AdapterChange::default() }).await.unwrap();
        node.remove_switch(&ME, "lan").await.unwrap();
        assert!(links().is_empty());
    });
}

/// All processes of the home killed, interfaces and rules gone, then a node: what a reboot of the host leaves.
#[test]
fn a_reboot_brings_back_switches_and_the_machines_that_ask_for_it() {
    if !is_root() {
        return;
    }
    let home = TestHome::new();
    let bridge = home.life(async |node| {
        let bridge = internal(&node, "lan").await.bridge;
        let new = NewVm { switch: Some("lan".into()), ..small("vm") };
        node.create_vm(&ME, new).await.unwrap();
        node.operate(&ME, "vm", Operation::Start).await.unwrap();
        bridge
    });
    home.kill_engines();
    for link in links() {
        output("ip", &["link", "del", &link]);
    }
    output("nft", &["flush", "ruleset"]);
    home.life(async |node| {
        reaches(&node, "vm", VmState::Running).await;
        let links = links();
        assert!(links.len() == 2 && links.contains(&bridge), "{links:?}");
    });
}

#[test]
fn a_switch_that_cannot_be_leaves_nothing() {
    if !is_root() {
        return;
    }
    let home = TestHome::new();
    home.life(async |node| {
        let external = SwitchKind::External { uplink: "nosuch0".into(), allow_management_os: true };
        let refused = node.create_switch(&ME, new_switch("ext", external)).await.unwrap_err();
        assert!(matches!(refused, NodeError::NetworkProblem(_)), "{refused:?}");
        assert!(refused.message().contains("nosuch0"), "{refused}");
        assert!(node.switches(&ME).await.unwrap().is_empty() && links().is_empty());
        internal(&node, "lan").await;
        let twice = node.create_switch(&ME, new_switch("LAN", SwitchKind::Private)).await.unwrap_err();
        assert_eq!(twice.code(), ErrorKind::Exists);
        let private = SwitchChange { name: Some("p".parse().unwrap()), ..SwitchChange::default() };
        assert_eq!(node.change_switch(&ME, "lan", private).await.unwrap().switch.name.as_str(), "p");
    });
}
