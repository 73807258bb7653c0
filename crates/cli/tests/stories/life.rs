//! A small machine's life, from its creation to its removal.

use crate::nest::{GUEST_DEADLINE, Nest, kill};

fn pebble(nest: &Nest, name: &str) {
    nest.image("pebble");
    nest.run(&["vm", "create", name, "--image", "pebble"]).ok();
}

#[test]
fn a_machine_starts_is_asked_and_shuts_down() {
    let nest = Nest::new("life");
    pebble(&nest, "P");
    nest.ps("Start-VM P").ok();
    nest.wait("boot line", GUEST_DEADLINE, &["console", "P", "--log"], |said| {
        said.stdout.contains("pebble: up")
    });
    // The input of these commands is empty: the console ends with it, once it has shown what there was.
    assert!(nest.run(&["console", "P"]).ok().contains("pebble: up"));
    nest.wait_ok("agent", &["vm", "exec", "P", "--", "true"]);
    assert!(nest.run(&["vm", "exec", "P", "--", "uname", "-s"]).ok().contains("Linux"));
    assert_eq!(nest.run(&["vm", "exec", "P", "--", "sh", "-c", "exit 7"]).status, 7);

    // Without the extensions nothing of them is seen.
    let flags = nest.run(&["vm", "exec", "P", "--", "cat", "/proc/cpuinfo"]).ok();
    assert!(!flags.contains(" svm") && !flags.contains(" vmx"));

    let file = nest.home.join("note.txt");
    std::fs::write(&file, "from the host\n").expect("a file");
    nest.run(&["vm", "copy-in", "P", &file.display().to_string(), "/tmp/note.txt"]).ok();
    assert_eq!(nest.run(&["vm", "exec", "P", "--", "cat", "/tmp/note.txt"]).ok(), "from the host\n");

    let already = "WARNING: The virtual machine is already in the specified state.";
    let started = nest.ps("Start-VM P");
    assert_eq!((started.status, started.stdout.as_str(), started.stderr.trim()), (0, "", already));
    let stopped = nest.ps("Stop-VM P");
    assert_eq!((stopped.status, stopped.stderr.as_str()), (0, ""));
    assert_eq!(nest.ps("(Get-VM P).State").ok().trim(), "Off");
    assert_eq!(nest.ps("Stop-VM P").stderr.trim(), already);
}

#[test]
fn a_machine_is_paused_saved_and_goes_on_where_it_was() {
    let nest = Nest::new("save");
    pebble(&nest, "P");
    nest.ps("Start-VM P").ok();
    nest.wait_ok("agent", &["vm", "exec", "P", "--", "true"]);
    nest.run(&["vm", "exec", "P", "--", "sh", "-c", "echo kept > /tmp/mark"]).ok();

    nest.ps("Suspend-VM P").ok();
    assert_eq!(nest.ps("(Get-VM P).State").ok().trim(), "Paused");
    nest.ps("Resume-VM P").ok();
    nest.ps("Save-VM P").ok();
    assert_eq!(nest.ps("(Get-VM P).State").ok().trim(), "Saved");
    assert!(nest.engine_pids().is_empty(), "an engine is left");
    nest.ps("Start-VM P").ok();
    nest.wait_ok("agent", &["vm", "exec", "P", "--", "true"]);
    assert_eq!(nest.run(&["vm", "exec", "P", "--", "cat", "/tmp/mark"]).ok(), "kept\n");

    nest.ps("Restart-VM P -Force").ok();
    nest.wait("fresh memory", GUEST_DEADLINE, &["vm", "exec", "P", "--", "ls", "/tmp"], |said| {
        said.status == 0 && !said.stdout.contains("mark")
    });
    nest.ps("Rename-VM P -NewName Q").ok();
    nest.ps("Stop-VM Q -TurnOff").ok();
    nest.ps("Remove-VM Q -Force").ok();
    assert_eq!(nest.ps("@(Get-VM).Count").ok().trim(), "0");
}

#[test]
fn the_node_is_killed_and_its_machines_go_on() {
    let nest = Nest::new("rejoin");
    pebble(&nest, "P");
    nest.ps("Start-VM P").ok();
    nest.wait_ok("agent", &["vm", "exec", "P", "--", "true"]);
    let engines = nest.engine_pids();
    kill(nest.node_pid());

    assert_eq!(nest.ps("(Get-VM P).State").ok().trim(), "Running");
    assert_eq!(nest.engine_pids(), engines);
    nest.wait_ok("agent", &["vm", "exec", "P", "--", "true"]);

    // A machine whose engine is killed is seen as such within a second, and says why.
    kill(engines[0]);
    let said =
        nest.wait("death", std::time::Duration::from_secs(1), &["--json", "vm", "show", "P"], |said| {
            said.stdout.contains("\"Off\"")
        });
    assert!(said.stdout.contains("QEMU"), "{}", said.stdout);
}
