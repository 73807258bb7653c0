//! Bad input: each gets a clear error, and nothing is lost or changed.

use std::fs;

use crate::nest::Nest;

/// A command that must fail, and words that its complaint must have.
fn refused(nest: &Nest, line: &str, words: &[&str]) {
    let complaint = nest.ps(line).fails();
    for word in words {
        assert!(complaint.contains(word), "{line}\nlacks {word:?}:\n{complaint}");
    }
}

#[test]
fn names_and_numbers_that_cannot_be() {
    let nest = Nest::new("bad-names");
    nest.ps("New-VM -Name Web01 -MemoryStartupBytes 64MB -NoVHD").ok();

    refused(
        &nest,
        "Get-VM nowhere",
        &["Hyper-V was unable to find a virtual machine with name \"nowhere\"."],
    );
    refused(&nest, "New-VM -Name WEB01 -NoVHD", &["WEB01", "already"]);
    refused(&nest, "New-VM -Name 'a/b' -NoVHD", &["\"/\""]);
    refused(&nest, "New-VM -Name \"a`nb\" -NoVHD", &["control character"]);
    let long = format!("New-VM -Name {} -NoVHD", "x".repeat(300));
    refused(&nest, &long, &["300 characters"]);
    refused(&nest, "New-VM -Name m -NoVHD -MemoryStartupBytes 900TB", &["memory"]);
    refused(&nest, "New-VM -Name m -NoVHD -MemoryStartupBytes 0", &["memory"]);
    refused(&nest, "New-VM -Name m -NoVHD -MemoryStartupBytes -1", &["memory"]);
    refused(&nest, "Set-VMProcessor Web01 -Count 0", &["processor"]);
    refused(&nest, "Set-VMProcessor Web01 -Count 10000", &["processor"]);
    refused(&nest, "Set-VMNetworkAdapter -VMName Web01 -StaticMacAddress 00155D38010g", &["MAC address"]);
    nest.ps("New-VM -Name 仮想-сервер -NoVHD").ok();

    let left = nest.ps("Get-VM | Sort-Object Name | ForEach-Object { $_.Name }").ok();
    assert_eq!(left.lines().collect::<Vec<_>>(), ["Web01", "仮想-сервер"]);
    let count = nest.ps("(Get-VMProcessor Web01).Count").ok();
    assert_eq!(count.trim(), "1");
}

#[test]
fn addresses_that_are_taken() {
    let nest = Nest::new("bad-macs");
    nest.ps("New-VM -Name A -NoVHD; New-VM -Name B -NoVHD").ok();
    nest.ps("Set-VMNetworkAdapter -VMName A -StaticMacAddress 00155D380101").ok();
    refused(&nest, "Set-VMNetworkAdapter -VMName B -StaticMacAddress 00-15-5d-38-01-01", &["A"]);
}

#[test]
fn disks_that_cannot_serve() {
    let nest = Nest::new("bad-disks");
    let dir = nest.home.join("try");
    fs::create_dir_all(&dir).expect("a directory");
    let path = |name: &str| dir.join(name).display().to_string();
    nest.ps("New-VM -Name A -NoVHD -MemoryStartupBytes 64MB; New-VM -Name B -NoVHD -MemoryStartupBytes 64MB")
        .ok();

    refused(
        &nest,
        &format!("Add-VMHardDiskDrive A -Path {}", path("none.qcow2")),
        &["there is no disk", "none.qcow2"],
    );

    fs::write(dir.join("junk.qcow2"), b"QFI\xfbjunk and more junk").expect("junk");
    refused(&nest, &format!("Add-VMHardDiskDrive A -Path {}", path("junk.qcow2")), &["junk.qcow2"]);

    nest.ps(&format!("New-VHD -Path {} -SizeBytes 64MB -Dynamic", path("a.qcow2"))).ok();
    refused(
        &nest,
        &format!("New-VHD -Path {} -SizeBytes 64MB -Dynamic", path("a.qcow2")),
        &["a.qcow2", "exists"],
    );
    nest.ps(&format!("Add-VMHardDiskDrive A -Path {}", path("a.qcow2"))).ok();
    refused(&nest, &format!("Add-VMHardDiskDrive B -Path {}", path("a.qcow2")), &["a.qcow2", "A"]);

    refused(
        &nest,
        &format!("New-VHD -Path {} -SizeBytes 64MB", path("b.vhdx")),
        &["in the format qcow2", "b.qcow2"],
    );
    nest.ps(&format!("New-VHD -Path {} -Differencing -ParentPath {}", path("c.qcow2"), path("a.qcow2"))).ok();
    refused(
        &nest,
        &format!("Add-VMHardDiskDrive B -Path {}", path("c.qcow2")),
        &["differencing disk of", "'A' writes to", "detach the parent"],
    );

    fs::remove_file(dir.join("a.qcow2")).expect("the disk can be lost");
    refused(&nest, "Start-VM A", &["a.qcow2"]);
    assert_eq!(nest.ps("(Get-VM A).State").ok().trim(), "Off");
}

#[test]
fn drives_are_where_hyper_v_counts_them() {
    let nest = Nest::new("bad-drives");
    let disk = |name: &str| nest.home.join(name).display().to_string();
    nest.ps("New-VM -Name A -NoVHD -MemoryStartupBytes 64MB").ok();
    for name in ["a.qcow2", "b.qcow2"] {
        nest.ps(&format!("New-VHD -Path {} -SizeBytes 64MB", disk(name))).ok();
    }
    let add = |name: &str, place: &str| format!("Add-VMHardDiskDrive A -Path {} {place}", disk(name));
    nest.ps(&add("a.qcow2", "-ControllerType IDE -ControllerNumber 1 -ControllerLocation 0")).ok();
    nest.ps(&add("b.qcow2", "-ControllerType IDE -ControllerNumber 1")).ok();
    let shown = "Get-VMHardDiskDrive A | % { \"$($_.ControllerType) $($_.ControllerNumber) $($_.ControllerLocation)\" }";
    assert_eq!(nest.ps(shown).ok().trim(), "IDE 1 0\nIDE 1 1");
    // Wrong places are all told in one way.
    for (place, words) in [
        ("-ControllerType IDE -ControllerLocation 2", "locations 0 and 1"),
        ("-ControllerType SCSI -ControllerNumber 1", "one SCSI controller"),
        ("-ControllerType SCSI -ControllerLocation 16", "16"),
        ("-ControllerNumber 2", "2"),
    ] {
        refused(&nest, &add("a.qcow2", place), &["Cannot validate argument on parameter 'Controller", words]);
    }
    nest.ps("Get-VMHardDiskDrive A -ControllerNumber 1 -ControllerLocation 0 | Remove-VMHardDiskDrive").ok();
    nest.ps("Remove-VMHardDiskDrive A -ControllerType IDE -ControllerNumber 1 -ControllerLocation 1").ok();
    assert_eq!(nest.ps(shown).ok(), "");
    refused(&nest, "Get-VM -Id A", &["unable to find a virtual machine with id \"A\"."]);
}

#[test]
fn a_full_disk_leaves_no_half_made_image() {
    let nest = Nest::new("bad-full");
    let dir = nest.home.join("small");
    fs::create_dir_all(&dir).expect("a directory");
    // Mounted for the node alone: it is started inside this mount namespace.
    let script = format!(
        "mount -t tmpfs -o size=1m none {dir} && {exe} -c 'New-VHD -Path {dir}/d.qcow2 -SizeBytes 64MB -Fixed'; \
         code=$?; ls -A {dir}; umount {dir}; exit $code",
        dir = dir.display(),
        exe = env!("CARGO_BIN_EXE_nestling"),
    );
    let mut command = std::process::Command::new("unshare");
    let said: crate::nest::Said = command
        .args(["-m", "sh", "-c", &script])
        .env("NESTLING_HOME", &nest.home)
        .output()
        .expect("unshare runs")
        .into();
    assert_ne!(said.status, 0);
    assert!(said.stderr.contains("no space left"), "{}", said.stderr);
    assert_eq!(said.stdout.trim(), "", "something was left behind");
}

#[test]
fn networks_that_overlap_or_are_used() {
    let nest = Nest::new("bad-nets");
    nest.host("ip addr add 10.99.0.2/24 dev lan0").ok();
    nest.ps("New-VMSwitch -Name S -SwitchType Internal").ok();
    nest.ps("New-NetNat -Name N -InternalIPInterfaceAddressPrefix 192.168.100.0/24").ok();

    refused(&nest, "New-NetNat -Name N -InternalIPInterfaceAddressPrefix 192.168.7.0/24", &["N"]);
    refused(
        &nest,
        "New-NetNat -Name M -InternalIPInterfaceAddressPrefix 192.168.100.128/25",
        &["The parameter is incorrect.", "Windows System Error 87,New-NetNat"],
    );
    refused(&nest, "New-NetNat -Name M -InternalIPInterfaceAddressPrefix 10.99.0.0/16", &["lan0"]);
    refused(
        &nest,
        "New-NetNat -Name M -InternalIPInterfaceAddressPrefix 192.168.8.0/33",
        &["192.168.8.0/33", "IPv4 network"],
    );
    refused(&nest, "New-NetNat -Name M -InternalIPInterfaceAddressPrefix rubbish", &["rubbish"]);
    refused(&nest, "New-VMSwitch -Name X -NetAdapterName nothere", &["nothere"]);

    nest.ps("New-VM -Name A -NoVHD -SwitchName S").ok();
    refused(&nest, "Remove-VMSwitch S -Force", &["A"]);
    nest.ps("Disconnect-VMNetworkAdapter -VMName A").ok();
    nest.ps("Remove-VMSwitch S -Force").ok();
    assert_eq!(nest.ps("@(Get-NetNat).Count").ok().trim(), "1");
}

#[test]
fn a_store_that_is_damaged_or_newer_is_left_alone() {
    let nest = Nest::new("bad-store");
    nest.ps("New-VM -Name A -NoVHD").ok();
    nest.run(&["node", "stop"]).ok();
    let store = nest.home.join("nestling.db");
    // A log that is left heals much of it; here all is lost.
    for log in ["nestling.db-wal", "nestling.db-shm"] {
        let _ = fs::remove_file(nest.home.join(log));
    }
    fs::write(&store, b"this is not a database, it only looks like a file of ours").expect("damage");
    let complaint = nest.ps("Get-VM").fails();
    assert!(complaint.contains("nestling.db"), "{complaint}");
    assert!(
        fs::read(&store).expect("still there").starts_with(b"this is not"),
        "the evidence was overwritten"
    );
}

#[test]
fn two_commands_at_once_on_one_machine() {
    let nest = Nest::new("bad-two");
    nest.ps("New-VM -Name A -NoVHD -MemoryStartupBytes 64MB").ok();
    let children: Vec<_> = (0..6)
        .map(|i| {
            let line = if i % 2 == 0 { "Start-VM A" } else { "Stop-VM A -TurnOff" };
            nest.command(["-c", line])
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .expect("runs")
        })
        .collect();
    for child in children {
        let said: crate::nest::Said = child.wait_with_output().expect("ends").into();
        assert!(said.status == 0 || said.stderr.contains("InvalidState"), "{}", said.stderr);
    }
    let state = nest.ps("(Get-VM A).State").ok();
    assert!(["Off", "Running"].contains(&state.trim()), "{state}");
}
