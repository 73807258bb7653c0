//! A backup that does not boot is told of before it is needed.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::nest::{GUEST_DEADLINE, Nest, kill};

/// Machine code that writes "web login: " to the serial port, and waits.
const LOGIN: &[u8] = b"\x31\xc0\x8e\xd8\xfc\xba\xf8\x03\xbe\x16\x7c\xac\x84\xc0\x74\x03\xee\xeb\xf8\xf4\xeb\xfd\r\nweb login: \0";

struct Story {
    nest: Nest,
}

impl Story {
    /// Machines `A` and `B`, pebbles with a disk, and `C`, which starts from its own; all are off. A repository `R`.
    fn begin() -> Self {
        let nest = Nest::new("proof");
        nest.image("pebble");
        let story = Self { nest };
        let (run, path) = (|args: &[&str]| story.nest.run(args).ok(), |name: &str| story.text(name));
        fs::write(path("password"), "correct horse\n").expect("a file");
        fs::set_permissions(path("password"), PermissionsExt::from_mode(0o600)).expect("a mode");
        run(&["repository", "add", "R", &path("vault"), "--password-file", &path("password")]);
        run(&["switch", "create", "S", "--kind", "internal"]);
        for vm in ["A", "B"] {
            let disk = path(&format!("{vm}.qcow2"));
            run(&["vm", "create", vm, "--image", "pebble"]);
            run(&["disk", "create", &disk, "--size", "64MB"]);
            run(&["vm", "drive", "add", vm, &disk]);
        }
        story.nest.ps("Add-VMNetworkAdapter -VMName B -SwitchName S").ok();
        run(&["disk", "create", &path("C.qcow2"), "--size", "64MB"]);
        let mut sector = [0; 512];
        sector[..LOGIN.len()].copy_from_slice(LOGIN);
        sector[510..].copy_from_slice(&[0x55, 0xaa]);
        fs::write(path("sector"), sector).expect("a file");
        story.write(&format!("write -s {} 0 512", path("sector")));
        run(&["vm", "create", "C", "--disk", &path("C.qcow2"), "--memory", "64MB"]);
        story
    }

    fn path(&self, name: &str) -> PathBuf {
        self.nest.home.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// Changes the disk of `C` while it is off.
    fn write(&self, command: &str) {
        let image = self.path("C.qcow2");
        let done = Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(image).output();
        assert!(done.expect("qemu-io runs").status.success(), "{command}");
    }

    fn json(&self, args: &[&str], status: i32) -> Value {
        let said = self.nest.run(&[&["--json"], args].concat());
        assert_eq!(said.status, status, "{}\n{}\n{}", said.stdout, said.stderr, self.nest.tail());
        serde_json::from_str(&said.stdout).expect("an object")
    }

    /// The machines that there are.
    fn machines(&self) -> Vec<String> {
        let said = self.nest.run(&["--json", "vm", "list"]).ok();
        let name = |line: &str| {
            let vm: Value = serde_json::from_str(line).expect("an object");
            vm["name"].as_str().expect("a name").to_owned()
        };
        let mut names: Vec<String> = said.lines().map(name).collect();
        names.sort();
        names
    }

    fn nothing_left(&self) {
        assert_eq!(self.machines(), ["A", "B", "C"]);
        assert_eq!(self.nest.engine_pids(), [] as [u32; 0]);
        assert_eq!(self.nest.run(&["--json", "recover", "boots"]).ok(), "");
    }

    /// Programs say what is right: one in the guest, and one of the host, which reaches the guest.
    fn programs_decide(&self) {
        let script = self.text("look");
        let reach = format!("exec {} vm exec \"$NESTLING_PROOF_VM\" -- ", env!("CARGO_BIN_EXE_nestling"));
        fs::write(&script, format!("#!/bin/sh\n{reach} test -b /dev/vda\n")).expect("a file");
        fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("a mode");
        let programs = ["--guest-program", "test -b /dev/vda", "--host-program", script.as_str()];
        self.json(&[&["proof", "run", "A"], &programs[..]].concat(), 0);
        let failed = self.json(&["proof", "run", "A", "--guest-program", "test -b /dev/none"], 1);
        let why = failed["points"][0]["reason"].as_str().expect("a reason");
        assert!(why.contains("status 1"), "{why}");
    }

    /// Its machine is known for what it is, plugged into nothing, and gone when its node died.
    fn goes_with_its_node(&self) {
        let run = |args: &[&str]| self.nest.run(args);
        run(&["proof", "run", "B", "--console", "never said", "--detach"]).ok();
        self.nest.wait_ok("machine of the proof", &["vm", "exec", "proof-B-5-1", "--", "true"]);
        let switch = self.nest.ps("(Get-VMNetworkAdapter proof-B-5-1).SwitchName").ok();
        assert_eq!(switch.trim(), "", "it had one");
        kill(self.nest.node_pid());
        self.nest.wait("end of what was left", GUEST_DEADLINE, &["vm", "list", "--json"], |said| {
            said.stdout.lines().count() == 3
        });
        self.nothing_left();
        assert_eq!(self.json(&["proof", "show", "5"], 0)["state"], "Interrupted");
    }

    /// A port of the guest decides, though its machine is plugged into nothing, and neither agent nor prompt is asked.
    fn ports_answer(&self) {
        let begun = self.json(&["proof", "run", "B", "--port", "8080", "--detach"], 0);
        let number = begun["number"].to_string();
        let vm = format!("proof-B-{number}-1");
        // The smallest guest starts no service by itself.
        let serve = ["vm", "exec", vm.as_str(), "--", "/bin/busybox", "httpd", "-p", "8080"];
        self.nest.wait_ok("machine of the proof", &serve);
        self.nest.wait("end of the proof", GUEST_DEADLINE, &["--json", "proof", "show", &number], |said| {
            let proof: Value = serde_json::from_str(&said.stdout).expect("an object");
            !proof["ended_at_ms"].is_null()
        });
        let good = self.json(&["proof", "show", &number], 0);
        assert_eq!(good["points"][0]["seen"], "TCP port 8080 answered at 10.77.0.2", "{good}");
        let failed = self.json(&["proof", "run", "B", "--port", "8081", "--timeout", "40"], 1);
        let why = failed["points"][0]["reason"].as_str().expect("a reason");
        assert!(why.contains("TCP port 8081 is refused at 10.77.0.2"), "{why}");
        self.nothing_left();
    }

    /// What an administrator boots stays until it is completed or thrown away.
    fn others_are_left_alone(&self) {
        let run = |args: &[&str]| self.nest.run(args).ok();
        run(&["recover", "boot", "A@newest", "--name", "X"]);
        assert_eq!(self.nest.ps("(Get-VMInstantBoot).VMName").ok().trim(), "X");
        assert_eq!(self.nest.ps("(Complete-VMInstantBoot X).State").ok().trim(), "Running");
        run(&["vm", "turn-off", "X"]);
        run(&["vm", "remove", "X", "--disks"]);
        run(&["recover", "boot", "A@newest", "--name", "X", "--no-start"]);
        self.nest.ps("Remove-VMInstantBoot X -Force").ok();
        self.nothing_left();
    }
}

/// A picture of a screen on which something is written: of one colour it would be smaller than this.
fn is_written_on(file: &Path) {
    let png = fs::read(file).expect("a picture");
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.len() > 2500, "{} bytes", png.len());
    let number = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().expect("four bytes"));
    assert_eq!((number(16), number(20)), (720, 400), "a text screen");
}

#[test]
fn a_backup_that_does_not_boot_is_told_of() {
    let story = Story::begin();
    let run = |args: &[&str]| story.nest.run(args);
    let saved = story.json(&["backup", "run", "A", "B", "C", "--crash-consistent"], 0);
    let whole = saved["machines"][2]["point"].as_str().expect("a point").to_owned();
    // Somebody overwrites the boot sector of C, and the next backup is of that.
    story.write("write -z 0 512");
    run(&["backup", "run", "C", "--crash-consistent"]).ok();

    let proof = story.json(&["proof", "run", "*", "--parallel", "2"], 3);
    let [a, b, c] = proof["points"].as_array().expect("points").as_slice() else { panic!("{proof}") };
    for good in [a, b] {
        assert_eq!((&good["state"], &good["has_screen"]), (&"Succeeded".into(), &true.into()), "{good}");
        assert_eq!(good["seen"], "the guest agent answered");
        assert!((1..60_000).contains(&good["ready_ms"].as_u64().expect("a time")), "{good}");
    }
    assert_eq!((&c["vm"], &c["state"]), (&"C".into(), &"Failed".into()));
    assert!(c["reason"].as_str().is_some_and(|why| why.contains("No bootable device")), "{c}");
    story.nothing_left();
    for vm in ["A", "B", "C"] {
        run(&["proof", "screen", "1", vm, &story.text("screen.png")]).ok();
        is_written_on(&story.path("screen.png"));
    }
    let shown = run(&["proof", "show", "1"]).ok();
    assert!(shown.contains("The console of C ended:"), "{shown}");

    // The result is with the points: the older one of C still boots.
    story.json(&["proof", "run", "--point", &whole, "--console", "web login"], 0);
    let points = run(&["--json", "backup", "points", "C"]).ok();
    let boots = |line: &str| {
        let point: Value = serde_json::from_str(line).expect("an object");
        point["proof"]["passed"].as_bool()
    };
    assert_eq!(points.lines().map(boots).collect::<Vec<_>>(), [Some(false), Some(true)], "{points}");

    story.programs_decide();
    story.goes_with_its_node();
    story.others_are_left_alone();
    story.ports_answer();

    // A job does all of that by itself, and fails with what does not boot.
    run(&["job", "create", "Nightly", "--vm", "C", "--crash-consistent", "--prove"]).ok();
    let said = run(&["job", "run", "Nightly"]);
    assert!(
        said.status == 1 && said.stderr.contains("the recovery points of C do not boot"),
        "{}",
        said.stderr
    );
    story.nothing_left();
}
