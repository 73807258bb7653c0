//! A running machine is backed up, again and again, and comes back as it was at each instant.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use crate::nest::{GUEST_DEADLINE, Nest, Said, kill};

const DISK_BYTES: u64 = 128 << 20;
const HEAD_MB: u32 = 24;
const PASSWORD: &str = "correct horse";

/// A host with a pebble `P` that has a disk, and a repository `R`.
struct Story {
    nest: Nest,
}

impl Story {
    fn begin(name: &str) -> Self {
        let nest = Nest::new(name);
        nest.image("pebble");
        let story = Self { nest };
        fs::write(story.password_file(), format!("{PASSWORD}\n")).expect("a file");
        fs::set_permissions(story.password_file(), std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("a mode");
        let (vault, password) =
            (story.vault().display().to_string(), story.password_file().display().to_string());
        let said = story.nest.run(&["repository", "add", "R", &vault, "--password-file", &password]);
        assert!(said.stderr.contains("new vault"), "{}", said.stderr);
        let disk = story.nest.home.join("data.qcow2").display().to_string();
        story.nest.run(&["vm", "create", "P", "--image", "pebble"]).ok();
        story.nest.run(&["disk", "create", &disk, "--size", "128MB"]).ok();
        story.nest.run(&["vm", "drive", "add", "P", &disk]).ok();
        story.start();
        story
    }

    fn start(&self) {
        self.nest.run(&["vm", "start", "P"]).ok();
        self.nest.wait_ok("agent", &["vm", "exec", "P", "--", "test", "-b", "/dev/vda"]);
    }

    fn vault(&self) -> PathBuf {
        self.nest.home.join("vault")
    }

    fn password_file(&self) -> PathBuf {
        self.nest.home.join("password")
    }

    fn guest(&self, line: &str) -> String {
        self.nest.run(&["vm", "exec", "P", "--", "sh", "-c", line]).ok()
    }

    /// Random bytes in the guest's disk, from a megabyte on. Only the device's own fsync makes the engine write out its
    /// tables, from which its image is read beside it.
    fn scribble(&self, from: u32, megabytes: u32) {
        self.guest(&format!(
            "dd if=/dev/urandom of=/dev/vda bs=1M seek={from} count={megabytes} conv=fsync 2>&1"
        ));
    }

    /// What the guest reads in the first megabytes of its disk; all of it would take minutes under emulation.
    fn head_in_guest(&self) -> String {
        let line = format!(
            "echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M count={HEAD_MB} 2> /dev/null | md5sum"
        );
        self.guest(&line).chars().take(32).collect()
    }

    /// The same of what was restored last.
    fn head_restored(&self) -> String {
        let line = format!("head -c {HEAD_MB}M {} | md5sum", self.nest.home.join("back.img").display());
        let out = Command::new("sh").args(["-c", &line]).output().expect("sh runs");
        String::from_utf8_lossy(&out.stdout).chars().take(32).collect()
    }

    /// What its image holds, once the guest has written everything out.
    fn sum(&self) -> String {
        self.guest("sync");
        let (image, raw) = (self.nest.home.join("data.qcow2"), self.nest.home.join("now.img"));
        let _ = fs::remove_file(&raw);
        let converted =
            Command::new("qemu-img").args(["convert", "-U", "-O", "raw"]).args([&image, &raw]).status();
        assert!(converted.expect("qemu-img runs").success());
        sum_of(&raw)
    }

    fn back_up(&self, more: &[&str]) -> Value {
        let args = [&["--json", "backup", "run", "P", "--crash-consistent"], more].concat();
        let run: Value = serde_json::from_str(&self.nest.run(&args).ok()).expect("a run");
        assert_ne!(run["machines"][0]["point"], Value::Null, "{run}");
        run
    }

    /// The disk of the newest point, through the vault's own command, which asks no node.
    fn restored(&self) -> String {
        let out = self.nest.home.join("back.img");
        let _ = fs::remove_file(&out);
        let said: Said = self
            .nest
            .command(["vault", "restore", &self.vault().display().to_string(), "P"])
            .arg(&out)
            .arg("--password-file")
            .arg(self.password_file())
            .output()
            .expect("nestling runs")
            .into();
        said.ok();
        assert_eq!(fs::metadata(&out).expect("it is there").len(), DISK_BYTES);
        sum_of(&out)
    }

    /// Stock restic finds nothing wrong.
    fn check_by_restic(&self) {
        let said: Said = Command::new("restic")
            .args(["check", "--read-data", "--no-cache", "--repo"])
            .arg(self.vault())
            .env("RESTIC_PASSWORD", PASSWORD)
            .output()
            .expect("restic runs")
            .into();
        said.ok();
    }

    fn run_of(&self, number: u64) -> Value {
        let said = self.nest.run(&["--json", "backup", "show", &number.to_string()]).ok();
        serde_json::from_str(&said).expect("a run")
    }
}

fn sum_of(path: &Path) -> String {
    let out = Command::new("sha256sum").arg(path).output().expect("sha256sum runs");
    String::from_utf8_lossy(&out.stdout).chars().take(64).collect()
}

fn disk(run: &Value) -> &Value {
    &run["machines"][0]["disks"][0]
}

fn read_bytes(run: &Value) -> u64 {
    disk(run)["read_bytes"].as_u64().expect("a number")
}

#[test]
fn what_changed_is_saved_and_every_byte_comes_back() {
    let story = Story::begin("protect");
    story.scribble(4, 16);
    let full = story.back_up(&["--tag", "first"]);
    assert_eq!(disk(&full)["reading"], "Whole");
    assert_eq!(story.restored(), story.sum());
    assert_eq!(story.head_restored(), story.head_in_guest());

    // Only what changed is read: 3 MB, and what the bitmap's granularity adds.
    story.scribble(10, 3);
    let second = story.back_up(&[]);
    assert_eq!(disk(&second)["reading"], "Changes");
    assert!((3 << 20..=(3 << 20) + (1 << 20)).contains(&read_bytes(&second)), "{}", read_bytes(&second));
    assert_eq!(story.restored(), story.sum());
    let nothing = story.back_up(&[]);
    assert_eq!((read_bytes(&nothing), nothing["machines"][0]["new_bytes"].as_u64()), (0, Some(0)));

    // A restart of the node and one of the machine lose no tracking.
    story.nest.run(&["node", "stop"]).ok();
    story.scribble(30, 1);
    story.nest.run(&["vm", "turn-off", "P"]).ok();
    let off = story.back_up(&[]);
    assert_eq!(
        (disk(&off)["reading"].as_str(), off["machines"][0]["consistency"].as_str()),
        (Some("Changes"), Some("Off"))
    );
    story.start();
    story.scribble(31, 1);
    let on = story.back_up(&[]);
    assert_eq!(disk(&on)["reading"], "Changes");
    assert!(read_bytes(&on) <= 2 << 20, "{}", read_bytes(&on));
    assert_eq!(story.restored(), story.sum());

    // An engine that is killed loses it; the next backup says so, compares, and is right.
    story.scribble(40, 1);
    kill(story.nest.engine_pids()[0]);
    story.nest.wait("its end", GUEST_DEADLINE, &["--json", "vm", "show", "P"], |said| {
        said.stdout.contains("\"Off\"")
    });
    story.start();
    story.scribble(41, 1);
    let compared = story.back_up(&[]);
    assert_eq!(
        (disk(&compared)["reading"].as_str(), compared["state"].as_str()),
        (Some("Compared"), Some("SucceededWithWarnings"))
    );
    assert_eq!(story.restored(), story.sum());
    story.scribble(42, 1);
    assert_eq!(disk(&story.back_up(&[]))["reading"], "Changes");

    let points = story.nest.run(&["--json", "backup", "points", "P"]).ok();
    assert_eq!(points.lines().count(), 7, "{points}");
    story.check_by_restic();
    let log = fs::read_to_string(story.nest.home.join("node.log")).unwrap_or_default();
    assert!(!log.contains(PASSWORD), "the log has the password");
}

/// So slow that a run can be met in its middle: after some packs, reading waits for the upload.
fn slowly(story: &Story) {
    story.nest.run(&["repository", "set", "R", "--upload-limit", "3MB"]).ok();
}

fn begun(story: &Story) -> u64 {
    let said = story.nest.run(&["--json", "backup", "run", "P", "--crash-consistent", "--detach"]).ok();
    let run: Value = serde_json::from_str(&said).expect("a run");
    let number = run["number"].as_u64().expect("a number");
    let show = ["--json", "backup", "show", &number.to_string()];
    story.nest.wait("reading", Duration::from_secs(60), &show, |said| {
        let run: Value = serde_json::from_str(&said.stdout).unwrap_or_default();
        run["progress"]["stage"] == "saving" && read_bytes(&run) > 0
    });
    number
}

#[test]
fn the_instant_holds_while_the_guest_goes_on_and_a_node_that_dies_costs_one_run() {
    let story = Story::begin("protect-faults");
    story.scribble(0, 110);
    let at_the_instant = story.sum();
    slowly(&story);
    let number = begun(&story);
    // What the guest overwrites now is not part of the point, though it is read later.
    story.scribble(100, 10);
    let show = ["--json", "backup", "show", &number.to_string()];
    story.nest.wait("end", Duration::from_secs(120), &show, |said| said.stdout.contains("\"ended_at_ms\":1"));
    assert_eq!(story.run_of(number)["state"], "Succeeded", "{}", story.run_of(number));
    assert_eq!(story.restored(), at_the_instant);
    assert_ne!(story.sum(), at_the_instant);

    story.scribble(0, 60);
    let number = begun(&story);
    kill(story.nest.node_pid());
    assert_eq!(story.run_of(number)["state"], "Interrupted");
    assert_eq!(story.nest.ps("(Get-VM P).State").ok().trim(), "Running");
    story.scribble(20, 1);
    story.nest.run(&["repository", "set", "R", "--upload-limit", "0"]).ok();
    let next = story.back_up(&[]);
    assert_eq!(disk(&next)["reading"], "Changes", "what the older bitmap recorded counts");
    assert_eq!(story.restored(), story.sum());

    // A guest that is shut down in the middle is backed up as it is then.
    story.scribble(0, 60);
    slowly(&story);
    let number = begun(&story);
    story.nest.run(&["vm", "turn-off", "P"]).ok();
    story.nest.run(&["repository", "set", "R", "--upload-limit", "0"]).ok();
    story.nest.wait(
        "end",
        Duration::from_secs(120),
        &["--json", "backup", "show", &number.to_string()],
        |said| said.stdout.contains("\"ended_at_ms\":1"),
    );
    assert_eq!(story.run_of(number)["machines"][0]["consistency"], "Off", "{}", story.run_of(number));
    story.start();
    assert_eq!(story.restored(), story.sum());
    // The node that was killed left its lock, which restic heeds for half an hour.
    let unlock: Said = story
        .nest
        .command(["vault", "unlock", &story.vault().display().to_string()])
        .arg("--password-file")
        .arg(story.password_file())
        .output()
        .expect("nestling runs")
        .into();
    unlock.ok();
    story.check_by_restic();
}

#[test]
fn a_guests_file_systems_are_held_still_and_it_goes_on_afterwards() {
    let story = Story::begin("protect-freeze");
    story.guest("mke2fs -F /dev/vda > /dev/null 2>&1 && mount /dev/vda /mnt");
    story.guest("(while true; do echo line >> /mnt/log; sync; done) > /dev/null 2>&1 &");
    let args = ["--json", "backup", "run", "P", "--file-system-consistent", "--or-fail"];
    let run: Value = serde_json::from_str(&story.nest.run(&args).ok()).expect("a run");
    let machine = &run["machines"][0];
    assert_eq!(machine["consistency"], "FileSystem", "{run}");
    assert!(machine["frozen_ms"].as_u64().is_some_and(|ms| ms > 0 && ms < 10_000), "{run}");
    story.restored();
    let checked = Command::new("e2fsck")
        .args(["-f", "-n"])
        .arg(story.nest.home.join("back.img"))
        .output()
        .expect("e2fsck runs");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stdout));
    // It writes again.
    let lines = || story.guest("wc -l < /mnt/log").trim().parse::<u64>().expect("a number");
    let before = lines();
    story.nest.wait(
        "more lines",
        GUEST_DEADLINE,
        &["vm", "exec", "P", "--", "sh", "-c", "wc -l < /mnt/log"],
        |said| said.stdout.trim().parse::<u64>().is_ok_and(|now| now > before),
    );

    // Without anything that could be held still, who insists gets no point, and others get one and are told.
    story.nest.run(&["vm", "reset", "P"]).ok();
    story.nest.wait_ok("agent", &["vm", "exec", "P", "--", "true"]);
    let refused = story.nest.run(&args).fails();
    assert!(refused.contains("froze nothing"), "{refused}");
    let warned = story.nest.run(&["backup", "run", "P"]);
    assert!(warned.status == 0 && warned.stderr.contains("as after a power cut"), "{}", warned.stderr);
}
