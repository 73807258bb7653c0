//! A machine inside a machine is backed up into the outer host's vault, by the channel alone: L1 has no network at all.

use std::{fs, os::unix::fs::PermissionsExt, process::Command};

use serde_json::Value;

use crate::nest::{GUEST_DEADLINE, Nest, kill};

/// So much of the disk is written and compared; all of it would take minutes under emulation.
const HEAD_MB: u32 = 8;

struct Story {
    nest: Nest,
}

impl Story {
    /// A host with a repository `R` and a machine `L1`, which is a host itself and is plugged into nothing; in it a pebble `L2`
    /// with a disk.
    fn begin() -> Self {
        let nest = Nest::new("inner");
        nest.image("pebble");
        nest.image("host");
        let story = Self { nest };
        fs::write(story.path("password"), "correct horse\n").expect("a file");
        fs::set_permissions(story.path("password"), PermissionsExt::from_mode(0o600)).expect("a mode");
        let (vault, password) = (story.path("vault"), story.path("password"));
        story.run(&["repository", "add", "R", &vault, "--password-file", &password]);
        story.run(&["vm", "create", "L1", "--image", "host", "--memory", "1536MB"]);
        story.nest.ps("Set-VMProcessor -VMName L1 -ExposeVirtualizationExtensions $true").ok();
        story.run(&["vm", "start", "L1"]);
        story.nest.wait_ok("node in L1", &["--in", "L1", "vm", "list"]);
        story.nest.ps("Invoke-Command -VMName L1 { Install-WindowsFeature -Name Hyper-V }").ok();
        story.run(&["--in", "L1", "disk", "create", "/root/data.qcow2", "--size", "32MB"]);
        story.run(&["--in", "L1", "vm", "create", "L2", "--image", "pebble", "--memory", "128MB"]);
        story.run(&["--in", "L1", "vm", "drive", "add", "L2", "/root/data.qcow2"]);
        story.run(&["--in", "L1", "vm", "start", "L2"]);
        story.answers("L1/L2");
        story
    }

    fn path(&self, name: &str) -> String {
        self.nest.home.join(name).display().to_string()
    }

    #[track_caller]
    fn run(&self, args: &[&str]) -> String {
        self.nest.run(args).ok()
    }

    fn answers(&self, vm: &str) {
        self.nest.wait_ok("agent", &["vm", "exec", vm, "--", "test", "-b", "/dev/vda"]);
    }

    fn guest(&self, vm: &str, line: &str) -> String {
        self.run(&["vm", "exec", vm, "--", "sh", "-c", line])
    }

    fn scribble(&self, from: u32, megabytes: u32) {
        let line =
            format!("dd if=/dev/urandom of=/dev/vda bs=1M seek={from} count={megabytes} conv=fsync 2>&1");
        self.guest("L1/L2", &line);
    }

    /// What the guest reads in the first megabytes of its disk.
    fn head(&self, vm: &str) -> String {
        let line = format!(
            "echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M count={HEAD_MB} 2> /dev/null | md5sum"
        );
        self.guest(vm, &line).chars().take(32).collect()
    }

    /// The same of the newest point, through the vault's own command, which asks no node.
    fn head_restored(&self) -> String {
        let out = self.path("back.img");
        let _ = fs::remove_file(&out);
        let (vault, password) = (self.path("vault"), self.path("password"));
        self.run(&["vault", "restore", &vault, "L1/L2", &out, "--password-file", &password]);
        let line = format!("head -c {HEAD_MB}M {out} | md5sum");
        let out = Command::new("sh").args(["-c", &line]).output().expect("sh runs");
        String::from_utf8_lossy(&out.stdout).chars().take(32).collect()
    }

    #[track_caller]
    fn back_up(&self) -> Value {
        let args = ["--json", "backup", "run", "L1/L2", "--repository", "R", "--crash-consistent"];
        let run: Value = serde_json::from_str(&self.run(&args)).expect("a run");
        assert_ne!(run["machines"][0]["point"], Value::Null, "{run}");
        run
    }
}

fn disk(run: &Value) -> &Value {
    &run["machines"][0]["disks"][0]
}

fn read_bytes(run: &Value) -> u64 {
    disk(run)["read_bytes"].as_u64().expect("a number")
}

#[test]
fn a_machine_inside_is_saved_outside_and_comes_back_there() {
    let story = Story::begin();
    story.scribble(1, 6);
    let full = story.back_up();
    assert_eq!(disk(&full)["reading"], "Whole", "{full}");
    assert_eq!(story.head_restored(), story.head("L1/L2"));

    // Only what changed is read, and the node inside may make backups of its own in between.
    story.run(&["vm", "exec", "L1", "--", "sh", "-c", "umask 077; echo inside > /root/password"]);
    let own = ["repository", "add", "Own", "/root/vault", "--password-file", "/root/password"];
    story.run(&[&["vm", "exec", "L1", "--", "nestling"][..], &own].concat());
    story.run(&["--in", "L1", "backup", "run", "L2", "--crash-consistent"]);
    story.scribble(3, 1);
    let second = story.back_up();
    assert_eq!(disk(&second)["reading"], "Changes", "{second}");
    assert!((1 << 20..=2 << 20).contains(&read_bytes(&second)), "{second}");
    assert_eq!(story.head_restored(), story.head("L1/L2"));
    assert!(!story.run(&["--in", "L1", "backup", "points", "L2"]).is_empty());

    // A node that dies in the middle costs the node inside nothing.
    let begun = story.run(&["--json", "backup", "run", "L1/L2", "--crash-consistent", "--detach"]);
    kill(story.nest.node_pid());
    story.nest.wait_ok("node in L1", &["--in", "L1", "vm", "list"]);
    story.scribble(5, 1);
    let wait = |said: &crate::nest::Said| said.status == 0 && !said.stdout.contains("Running");
    story.nest.wait(
        "end of the loan",
        GUEST_DEADLINE,
        &["--in", "L1", "--json", "backup", "runs", "L2"],
        wait,
    );
    let third = story.back_up();
    assert_eq!(disk(&third)["reading"], "Changes", "{third}; before: {begun}");
    assert_eq!(story.head_restored(), story.head("L1/L2"));

    // By a job, with its file systems held still by the node inside, through its own agent.
    story.run(&["job", "create", "Inside", "--vm", "L1/*", "--repository", "R"]);
    story.run(&["job", "run", "Inside"]);
    let points = story.run(&["--json", "backup", "points", "L1/L2"]);
    assert!(points.lines().count() >= 4, "{points}");
    assert_eq!(
        story.nest.ps("(Get-VMRecoveryPoint L1/L2).Count").ok().trim(),
        points.lines().count().to_string()
    );

    // Outside it is a machine of another host: it comes back beside, under its own name.
    let refused = story.nest.run(&["recover", "vm", "L1/L2@newest", "--in-place"]).fails();
    assert!(refused.contains("inside another one"), "{refused}");
    let then = story.head("L1/L2");
    story.run(&["vm", "turn-off", "L1"]);
    let failed = story.nest.run(&["backup", "run", "L1/L2", "--crash-consistent"]).fails();
    assert!(failed.contains("L1"), "{failed}");
    story.run(&["recover", "vm", "L1/L2@newest", "--no-switch", "--start"]);
    story.answers("L2");
    assert_eq!(story.head("L2"), then);
}
