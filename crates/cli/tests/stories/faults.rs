//! Faults: missing tools, missing rights, a node killed at every step.

use crate::nest::{Nest, Said};

#[test]
fn without_qemu_the_rest_still_answers() {
    let nest = Nest::new("no-qemu");
    let run = |line: &str| -> Said {
        nest.command(["-c", line]).env("NESTLING_QEMU", "/nonexistent").output().expect("runs").into()
    };
    run("New-VM -Name A -NoVHD").ok();
    let complaint = run("Start-VM A").fails();
    assert!(complaint.contains("QEMU"), "{complaint}");
    assert_eq!(run("(Get-VM A).State").ok().trim(), "Off");
}

#[test]
fn a_qemu_that_is_too_old_or_hangs_is_named() {
    use std::os::unix::fs::PermissionsExt;
    for (name, body, word) in
        [("old-qemu", "echo 'QEMU emulator version 6.2.0'", "6.2"), ("hung-qemu", "exec sleep 1000", "QEMU")]
    {
        let nest = Nest::new(name);
        let bin = nest.home.join("bin");
        std::fs::create_dir_all(&bin).expect("a directory");
        for tool in ["qemu-system-x86_64", "qemu-img"] {
            let path = bin.join(tool);
            std::fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a script");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
        }
        let said: Said = nest
            .command(["-c", "New-VM -Name A -NoVHD | Out-Null; Start-VM A"])
            .env("NESTLING_QEMU", &bin)
            .output()
            .expect("runs")
            .into();
        let complaint = said.fails();
        assert!(complaint.contains(word), "{complaint}");
        assert_eq!(nest.ps("(Get-VM A).State").ok().trim(), "Off");
    }
}

#[test]
fn a_stranger_is_refused() {
    let nest = Nest::new("stranger");
    nest.ps("New-VM -Name A -NoVHD").ok();
    let said: Said = nest
        .command_as(
            "setpriv --reuid 65534 --regid 65534 --clear-groups",
            [env!("CARGO_BIN_EXE_nestling"), "-c", "Get-VM"],
        )
        .output()
        .expect("setpriv runs")
        .into();
    let complaint = said.fails();
    assert!(
        complaint.contains("You do not have the required permission to complete this task."),
        "{complaint}"
    );
}
