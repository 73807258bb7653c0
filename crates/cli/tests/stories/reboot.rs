//! A host that loses power and comes back.

use std::time::Duration;

use crate::nest::{GUEST_DEADLINE, Nest, ROUTER, kill_home};

#[test]
fn after_a_reboot_networks_are_back_and_machines_start() {
    let nest = Nest::new("reboot");
    nest.image("pebble");
    nest.host("ip addr add 10.99.0.2/24 dev lan0").ok();
    nest.ps("New-VMSwitch -Name N -SwitchType Internal | Out-Null
         New-NetIPAddress -InterfaceAlias 'vEthernet (N)' -IPAddress 192.168.60.1 -PrefixLength 24 | Out-Null
         New-NetNat -Name N -InternalIPInterfaceAddressPrefix 192.168.60.0/24 | Out-Null")
        .ok();
    let append = "nestling.ip=192.168.60.10/24 nestling.gw=192.168.60.1";
    for (name, action) in [("Auto", "Start"), ("Manual", "Nothing")] {
        nest.run(&["vm", "create", name, "--image", "pebble", "--switch", "N", "--append", append]).ok();
        nest.ps(&format!("Set-VM {name} -AutomaticStartAction {action}")).ok();
    }

    // All processes gone, interfaces and rules gone: only the disk is left.
    kill_home(&nest.home);
    for link in nest.host("ip -br link show type bridge").ok().lines() {
        let name = link.split_whitespace().next().expect("a name");
        nest.host(&format!("ip link del {name}")).ok();
    }
    nest.host("nft flush ruleset").ok();
    nest.host("sysctl -qw net.ipv4.ip_forward=0").ok();

    nest.wait("automatic start", Duration::from_secs(30), &["-c", "(Get-VM Auto).State"], |said| {
        said.stdout.trim() == "Running"
    });
    assert_eq!(nest.ps("(Get-VM Manual).State").ok().trim(), "Off");
    nest.wait(
        "ping through the restored NAT",
        GUEST_DEADLINE,
        &["vm", "exec", "Auto", "--", "ping", "-c", "1", ROUTER],
        |s| s.status == 0,
    );
}
