//! Two small machines and the switches between them.

use std::time::Duration;

use crate::nest::{GUEST_DEADLINE, Nest, ROUTER};

fn machine(nest: &Nest, name: &str, switch: &str, append: &str) {
    nest.run(&["vm", "create", name, "--image", "pebble", "--switch", switch, "--append", append, "--start"])
        .ok();
}

fn exec(nest: &Nest, name: &str, line: &str) -> crate::nest::Said {
    nest.run(&["vm", "exec", name, "--", "sh", "-c", line])
}

#[test]
fn nat_gives_addresses_names_and_ports() {
    let nest = Nest::new("nat");
    nest.image("pebble");
    nest.host("ip addr add 10.99.0.2/24 dev lan0").ok();
    nest.ps("New-VMSwitch -Name N -SwitchType Internal | Out-Null
         New-NetIPAddress -InterfaceAlias 'vEthernet (N)' -IPAddress 192.168.50.1 -PrefixLength 24 | Out-Null
         New-NetNat -Name N -InternalIPInterfaceAddressPrefix 192.168.50.0/24 | Out-Null")
        .ok();
    nest.run(&["nat", "set", "N", "--dhcp", "192.168.50.100-192.168.50.150"]).ok();
    machine(&nest, "A", "N", "");
    nest.wait_ok("agent", &["vm", "exec", "A", "--", "true"]);
    nest.wait("lease", GUEST_DEADLINE, &["vm", "exec", "A", "--", "ip", "-4", "addr"], |said| {
        said.stdout.contains("192.168.50.1")
    });
    assert_eq!(exec(&nest, "A", &format!("ping -c 2 -W 5 {ROUTER}")).status, 0);

    let address = nest.ps("(Get-VMNetworkAdapter -VMName A).IPAddresses[0]").ok();
    let map = format!(
        "Add-NetNatStaticMapping -NatName N -Protocol TCP -ExternalIPAddress 0.0.0.0 -ExternalPort 8080 \
         -InternalIPAddress {} -InternalPort 80",
        address.trim()
    );
    nest.ps(&map).ok();
    exec(&nest, "A", "mkdir -p /tmp/www; echo inside > /tmp/www/index.html; busybox httpd -h /tmp/www -p 80")
        .ok();
    let page = nest.outside("curl -s -m 10 http://10.99.0.2:8080/").ok();
    assert_eq!(page, "inside\n");
    nest.ps("Get-NetNatStaticMapping | Remove-NetNatStaticMapping -Confirm:$false").ok();
    assert_ne!(nest.outside("curl -s -m 3 http://10.99.0.2:8080/").status, 0);
}

#[test]
fn a_private_switch_keeps_the_host_out_and_cables_can_be_pulled() {
    let nest = Nest::new("private");
    nest.image("pebble");
    nest.ps("New-VMSwitch -Name P -SwitchType Private").ok();
    machine(&nest, "A", "P", "nestling.ip=10.7.0.1/24");
    machine(&nest, "B", "P", "nestling.ip=10.7.0.2/24");
    for name in ["A", "B"] {
        nest.wait_ok("agent", &["vm", "exec", name, "--", "true"]);
    }
    let ping = ["vm", "exec", "A", "--", "ping", "-c", "1", "-W", "2", "10.7.0.2"];
    nest.wait("ping", Duration::from_secs(30), &ping, |said| said.status == 0);
    assert!(!nest.host("ip -br link").ok().contains("vEthernet"));
    assert_ne!(nest.host("ping -c 1 -W 1 10.7.0.1").status, 0);

    nest.ps("Disconnect-VMNetworkAdapter -VMName B").ok();
    assert_ne!(nest.run(&ping).status, 0);
    nest.ps("Connect-VMNetworkAdapter -VMName B -SwitchName P").ok();
    nest.wait("ping again", Duration::from_secs(30), &ping, |said| said.status == 0);

    // An address that is not its own is heard only when spoofing is on.
    exec(
        &nest,
        "A",
        "ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:77; ip link set eth0 up",
    )
    .ok();
    assert_ne!(nest.run(&ping).status, 0);
    nest.ps("Set-VMNetworkAdapter -VMName A -MacAddressSpoofing On").ok();
    nest.wait("ping with another address", Duration::from_secs(30), &ping, |said| said.status == 0);
}

#[test]
fn adapters_come_and_go_on_a_running_machine() {
    let nest = Nest::new("hotplug");
    nest.image("pebble");
    nest.ps("New-VMSwitch -Name P -SwitchType Private").ok();
    machine(&nest, "A", "P", "nestling.ip=10.7.0.1/24");
    nest.wait_ok("agent", &["vm", "exec", "A", "--", "true"]);
    nest.ps("Add-VMNetworkAdapter -VMName A -Name Second -SwitchName P").ok();
    let look = ["vm", "exec", "A", "--", "ls", "/sys/class/net"];
    nest.wait("second adapter", Duration::from_secs(30), &look, |said| said.stdout.contains("eth1"));
    nest.ps("Remove-VMNetworkAdapter -VMName A -Name Second").ok();
    nest.wait("its removal", Duration::from_secs(30), &look, |said| !said.stdout.contains("eth1"));

    let disk = nest.home.join("extra.qcow2").display().to_string();
    nest.ps(&format!("New-VHD -Path {disk} -SizeBytes 64MB -Dynamic; Add-VMHardDiskDrive A -Path {disk}"))
        .ok();
    let disks = ["vm", "exec", "A", "--", "ls", "/sys/block"];
    nest.wait("disk", Duration::from_secs(30), &disks, |said| said.stdout.contains("vda"));

    // What was plugged in sleeps and wakes with the machine, and can still be taken out.
    nest.ps("Add-VMNetworkAdapter -VMName A -Name Third -SwitchName P").ok();
    nest.wait("third adapter", Duration::from_secs(30), &look, |said| said.stdout.contains("eth1"));
    nest.ps("Save-VM A; Start-VM A").ok();
    nest.wait_ok("agent again", &["vm", "exec", "A", "--", "test", "-b", "/dev/vda"]);
    exec(&nest, "A", "dd if=/dev/vda of=/dev/null bs=1M count=1").ok();
    nest.ps("Remove-VMHardDiskDrive A -ControllerType SCSI -ControllerLocation 0").ok();
    nest.wait("the disk's removal", Duration::from_secs(30), &disks, |said| !said.stdout.contains("vda"));
    nest.ps("Remove-VMNetworkAdapter -VMName A -Name Third").ok();
    nest.wait("the third's removal", Duration::from_secs(30), &look, |said| !said.stdout.contains("eth1"));
    // The address that got free is used again.
    nest.ps(&format!("Add-VMHardDiskDrive A -Path {disk}")).ok();
    nest.wait("disk again", Duration::from_secs(30), &disks, |said| said.stdout.contains("vda"));
}

#[test]
fn two_hosts_on_one_machine_do_not_meet() {
    let first = Nest::new("meet");
    let second_home = crate::nest::root().join("meet-b");
    let _ = std::fs::remove_dir_all(&second_home);
    let second = |line: &str| -> crate::nest::Said {
        first.command(["-c", line]).env("NESTLING_HOME", &second_home).output().expect("runs").into()
    };
    first.ps("New-VMSwitch -Name S -SwitchType Internal; New-VM -Name A -NoVHD -SwitchName S").ok();
    second("New-VMSwitch -Name S -SwitchType Internal; New-VM -Name A -NoVHD -SwitchName S").ok();
    let bridges = first.host("ip -br link show type bridge").ok();
    assert_eq!(bridges.lines().count(), 2, "{bridges}");
    second("Remove-VM A -Force; Remove-VMSwitch S -Force").ok();
    assert_eq!(first.host("ip -br link show type bridge").ok().lines().count(), 1);
    assert_eq!(first.ps("@(Get-VMSwitch).Count").ok().trim(), "1");
    crate::nest::kill_home(&second_home);
}
