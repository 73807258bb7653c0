//! The nest: a host in a host, and what was printed in the walkthrough.
//!
//! Booting three levels takes half a minute under emulation, so it is done once: the walkthrough's
//! story ends by saving the running L1, with its L2 running inside, and the other stories resume a copy.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use crate::nest::{GUEST_DEADLINE, Nest, ROUTER, kill, root};

const L1: &str = "Server2016";

/// A file of the walkthrough, as pasted from the page.
fn pasted(name: &str) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../walkthrough");
    format!("{path}/{name}")
}

fn in_l1(nest: &Nest, program: &[&str]) -> crate::nest::Said {
    nest.run(&[&["vm", "exec", L1, "--"], program].concat())
}

fn ping_from_l2(nest: &Nest, path: &str) -> bool {
    nest.run(&["vm", "exec", path, "--", "ping", "-c", "2", "-W", "3", ROUTER]).status == 0
}

fn wait_for_node_in_l1(nest: &Nest) {
    nest.wait_ok("node in L1", &["--in", L1, "vm", "list"]);
}

#[test]
fn a_the_walkthrough_as_printed() {
    let nest = Nest::new("nested");
    nest.image("pebble");
    nest.image("host");
    nest.ps("New-VMSwitch -Name LAN -NetAdapterName lan0").ok();
    nest.run(&[
        "vm",
        "create",
        L1,
        "--image",
        "host",
        "--memory",
        "1536MB",
        "--switch",
        "LAN",
        "--append",
        "nestling.ip=10.99.0.10/24 nestling.gw=10.99.0.1",
    ])
    .ok();
    nest.ps(&format!("Start-VM {L1}")).ok();
    wait_for_node_in_l1(&nest);

    step_1_fails_without_extensions(&nest);
    steps_2_and_3(&nest);
    step_5_inside_l1(&nest);
    step_6_an_innermost_guest(&nest);
    step_4_spoofing(&nest);

    nest.ps(&format!("Save-VM {L1}")).ok();
    nest.run(&["node", "stop"]).ok();
    keep(&nest.home);
}

fn step_1_fails_without_extensions(nest: &Nest) {
    let complaint = nest
        .ps(&format!("Invoke-Command -VMName {L1} -ScriptBlock {{ Install-WindowsFeature -Name Hyper-V }}"))
        .fails();
    assert!(
        complaint.contains(
            "Hyper-V cannot be installed: The processor does not have required virtualization capabilities."
        ),
        "{complaint}"
    );
    let typed = in_l1(nest, &["nestling", "-c", "Install-WindowsFeature -Name Hyper-V"]);
    assert_ne!(typed.status, 0);
}

fn steps_2_and_3(nest: &Nest) {
    let shown = nest.run(&["-f", &pasted("step-2-look.ps1")]).ok();
    assert!(
        shown.lines().any(|l| l.split_whitespace().eq(["ExposeVirtualizationExtensions", ":", "False"])),
        "{shown}"
    );

    let refused = nest.run(&["-f", &pasted("step-3-expose.ps1")]).fails();
    assert!(refused.contains("Failed to modify device 'Processor'."), "{refused}");
    assert!(
        refused.contains("cannot be performed while the virtual machine is in its current state"),
        "{refused}"
    );
    let unchanged = nest.ps(&format!("(Get-VMProcessor {L1}).ExposeVirtualizationExtensions")).ok();
    assert_eq!(unchanged.trim(), "False");

    nest.ps(&format!("Stop-VM {L1}")).ok();
    assert_eq!(nest.run(&["-f", &pasted("step-3-expose.ps1")]).ok(), "", "success is silent");
    nest.ps(&format!("Start-VM {L1}")).ok();
    wait_for_node_in_l1(nest);
    let installed = nest
        .ps(&format!("Invoke-Command -VMName {L1} -ScriptBlock {{ Install-WindowsFeature -Name Hyper-V }}"))
        .ok();
    assert!(installed.contains("True"), "{installed}");
}

fn step_5_inside_l1(nest: &Nest) {
    nest.run(&["vm", "copy-in", L1, &pasted("step-5-nat.ps1"), "/root/step-5.ps1"]).ok();
    let shown = in_l1(nest, &["nestling", "-f", "/root/step-5.ps1"]).ok();
    assert!(shown.contains("vEthernet (NAT-Switch)"), "{shown}");
    assert!(shown.contains("192.168.100.1"), "{shown}");
}

fn step_6_an_innermost_guest(nest: &Nest) {
    nest.run(&[
        "--in",
        L1,
        "vm",
        "create",
        "L2",
        "--image",
        "pebble",
        "--switch",
        "NAT-Switch",
        "--memory",
        "128MB",
        "--append",
        "nestling.ip=192.168.100.10/24 nestling.gw=192.168.100.1",
    ])
    .ok();
    nest.ps(&format!("Invoke-Command -VMName {L1} -ScriptBlock {{ Start-VM L2 }}")).ok();
    let path = format!("{L1}/L2");
    nest.wait("boot line", GUEST_DEADLINE, &["console", &path, "--log"], |said| {
        said.stdout.contains("pebble: up")
    });
    nest.wait(
        "ping through NAT",
        GUEST_DEADLINE,
        &["vm", "exec", &path, "--", "ping", "-c", "1", ROUTER],
        |said| said.status == 0,
    );
}

/// L2 moves from NAT to an External switch of L1, and is heard outside only once L0 allows its address.
fn step_4_spoofing(nest: &Nest) {
    let path = format!("{L1}/L2");
    nest.ps(&format!(
        "Invoke-Command -VMName {L1} -ScriptBlock {{ New-VMSwitch -Name LAN -NetAdapterName eth0; \
         Connect-VMNetworkAdapter -VMName L2 -SwitchName LAN }}"
    ))
    .ok();
    nest.run(&[
        "vm",
        "exec",
        &path,
        "--",
        "sh",
        "-c",
        "ip addr flush dev eth0; ip addr add 10.99.0.50/24 dev eth0; ip link set eth0 up",
    ])
    .ok();
    assert!(!ping_from_l2(nest, &path), "a spoofed address got through although spoofing is off");
    nest.run(&["-f", &pasted("step-4-spoofing.ps1")]).ok();
    nest.wait(
        "ping with spoofing on",
        Duration::from_secs(30),
        &["vm", "exec", &path, "--", "ping", "-c", "1", ROUTER],
        |s| s.status == 0,
    );
    nest.ps(&format!("Get-VMNetworkAdapter -VMName {L1} | Set-VMNetworkAdapter -MacAddressSpoofing Off"))
        .ok();
    assert!(!ping_from_l2(nest, &path), "spoofing was turned off on the running machine");
    nest.run(&["-f", &pasted("step-4-spoofing.ps1")]).ok();
}

/// Where the saved nest is kept for the stories below.
fn kept() -> PathBuf {
    root().join("nested-kept")
}

fn copy(from: &PathBuf, to: &PathBuf) {
    if to.exists() {
        fs::remove_dir_all(to).expect("an old copy can be removed");
    }
    let status =
        Command::new("cp").args(["-a", "--sparse=always"]).arg(from).arg(to).status().expect("cp runs");
    assert!(status.success());
}

fn keep(home: &PathBuf) {
    copy(home, &kept());
}

/// The saved nest, resumed in a fresh copy of its host. Its home is where it was: disks are found by path.
fn resumed() -> Nest {
    let home = root().join("nested");
    assert!(kept().exists(), "the walkthrough's story comes first and keeps a saved nest");
    copy(&kept(), &home);
    let nest = Nest::at("nested", home);
    nest.ps(&format!("Start-VM {L1}")).ok();
    wait_for_node_in_l1(&nest);
    nest
}

#[test]
fn b_three_levels_answer_with_the_network_cut() {
    let nest = resumed();
    nest.ps(&format!("Disconnect-VMNetworkAdapter -VMName {L1}")).ok();

    let tree = nest.wait("three levels", Duration::from_secs(60), &["tree"], |said| {
        said.status == 0 && said.stdout.contains("L2")
    });
    assert!(tree.stdout.contains(L1) && tree.stdout.contains("Running"), "{}", tree.stdout);
    assert!(nest.run(&["--in", L1, "vm", "list"]).ok().contains("L2"));
    assert!(nest.ps(&format!("Invoke-Command -VMName {L1} {{ Get-VM }}")).ok().contains("L2"));
    let addresses = nest.run(&["vm", "exec", &format!("{L1}/L2"), "--", "ip", "addr"]).ok();
    assert!(addresses.contains("inet"), "{addresses}");
    assert!(!ping_from_l2(&nest, &format!("{L1}/L2")), "the network was to be cut");
}

#[test]
fn c_the_node_dies_and_the_nest_goes_on() {
    let nest = resumed();
    let path = format!("{L1}/L2");
    let uptime = |nest: &Nest| -> f64 {
        let text = nest.run(&["vm", "exec", &path, "--", "cat", "/proc/uptime"]).ok();
        text.split_whitespace().next().and_then(|n| n.parse().ok()).expect("an uptime")
    };
    let before = uptime(&nest);
    let engines = nest.engine_pids();
    kill(nest.node_pid());
    assert_eq!(nest.ps(&format!("(Get-VM {L1}).State")).ok().trim(), "Running");
    assert_eq!(nest.engine_pids(), engines);
    nest.wait_ok("L2 through a fresh channel", &["vm", "exec", &path, "--", "true"]);
    assert!(uptime(&nest) > before, "L2 was started again");

    kill(engines[0]);
    let seen = nest.wait("L1's death", Duration::from_secs(1), &["--json", "vm", "show", L1], |said| {
        said.stdout.contains("\"Off\"")
    });
    assert!(seen.stdout.contains("QEMU"), "{}", seen.stdout);
}
