//! A distribution's server, by BIOS and by UEFI, with a user given at first boot.

use std::time::Duration;

use crate::nest::Nest;

/// systemd under emulation takes its time.
const SERVER_DEADLINE: Duration = Duration::from_secs(420);

fn boots(generation: &str) {
    let nest = Nest::new(&format!("debian{generation}"));
    nest.image("debian");
    nest.ps("New-VMSwitch -Name P -SwitchType Private").ok();
    nest.run(&[
        "vm",
        "create",
        "D",
        "--image",
        "debian",
        "--generation",
        generation,
        "--memory",
        "1GB",
        "--switch",
        "P",
        "--seed-user",
        "ada",
        "--seed-password",
        "lovelace",
        "--address",
        "10.0.0.5/24",
        "--start",
    ])
    .ok();
    nest.wait("login prompt", SERVER_DEADLINE, &["console", "D", "--log"], |said| {
        said.stdout.contains("login:")
    });
    nest.wait("agent", SERVER_DEADLINE, &["vm", "exec", "D", "--", "true"], |said| said.status == 0);
    nest.wait("first-boot user", SERVER_DEADLINE, &["vm", "exec", "D", "--", "id", "ada"], |said| {
        said.status == 0
    });
    // The password is known to whoever asks crypt(3), as a login does, and the address is set.
    let known = "[ -n \"$(getent shadow ada)\" ] && h=$(getent shadow ada | cut -d: -f2) && \
         [ \"$(perl -e 'print crypt(\"lovelace\", $ARGV[0])' \"$h\")\" = \"$h\" ]";
    nest.run(&["vm", "exec", "D", "--", "sh", "-c", known]).ok();
    let address = nest.run(&["vm", "exec", "D", "--", "ip", "-4", "addr"]).ok();
    assert!(address.contains("inet 10.0.0.5/24"), "{address}");
    let efi = nest.run(&["vm", "exec", "D", "--", "test", "-d", "/sys/firmware/efi"]).status == 0;
    assert_eq!(efi, generation == "2");
    nest.ps("Stop-VM D").ok();
    assert_eq!(nest.ps("(Get-VM D).State").ok().trim(), "Off");
}

#[test]
fn a_debian_server_boots_by_bios() {
    boots("1");
}

#[test]
fn a_debian_server_boots_by_uefi() {
    boots("2");
}
