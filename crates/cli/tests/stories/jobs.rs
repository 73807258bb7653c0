//! A job saves what fits its pattern by itself, again and again, and a second place has it all.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use serde_json::Value;

use crate::nest::{Nest, Said};

const PASSWORD: &str = "correct horse";

struct Story {
    nest: Nest,
}

impl Story {
    /// Two repositories, two machines, and a job that saves them every minute from now on. One of them boots meanwhile.
    fn begin() -> Self {
        let nest = Nest::new("jobs");
        nest.image("pebble");
        let story = Self { nest };
        fs::write(story.file("password"), format!("{PASSWORD}\n")).expect("a file");
        for name in ["First", "Second"] {
            let (place, password) = (story.text(name), story.text("password"));
            story.nest.run(&["repository", "add", name, &place, "--password-file", &password]).ok();
        }
        for name in ["web1", "web2"] {
            let disk = story.text(&format!("{name}.qcow2"));
            story.nest.run(&["vm", "create", name, "--image", "pebble"]).ok();
            story.nest.run(&["disk", "create", &disk, "--size", "64MB"]).ok();
            story.nest.run(&["vm", "drive", "add", name, &disk]).ok();
        }
        story.make_job();
        story.nest.run(&["vm", "start", "web1"]).ok();
        story.nest.wait_ok("agent", &["vm", "exec", "web1", "--", "test", "-b", "/dev/vda"]);
        story
    }

    fn make_job(&self) {
        let args = ["job", "create", "Webs", "--vm", "web*", "--repository", "First", "--crash-consistent"];
        let more = ["--copy-to", "Second", "--parallel", "2", "--schedule", "every minute", "--disabled"];
        self.nest.run(&[&args[..], &more].concat()).ok();
        let plan: Value =
            serde_json::from_str(&self.nest.run(&["--json", "job", "dry-run", "Webs"]).ok()).expect("a plan");
        assert_eq!(
            (&plan["machines"][0]["vm"], &plan["machines"][1]["vm"]),
            (&"web1".into(), &"web2".into()),
            "{plan}"
        );
        self.nest.run(&["job", "enable", "Webs"]).ok();
    }

    fn file(&self, name: &str) -> PathBuf {
        self.nest.home.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn scribble(&self, megabytes: u32) {
        let line = format!("dd if=/dev/urandom of=/dev/vda bs=1M count={megabytes} conv=fsync 2>&1");
        self.nest.run(&["vm", "exec", "web1", "--", "sh", "-c", &line]).ok();
    }

    fn objects(said: &str) -> Vec<Value> {
        said.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
    }

    /// The runs of a job that have ended, oldest first, as soon as there are so many.
    fn runs(&self, job: &str, count: usize) -> Vec<Value> {
        let ended = |said: &Said| {
            let runs = Self::objects(&said.stdout);
            runs.iter().filter(|run| run["ended_at_ms"].is_u64()).count() >= count
        };
        let history = ["--json", "job", "history", job];
        let said = self.nest.wait("run", Duration::from_secs(150), &history, ended);
        let mut runs = Self::objects(&said.stdout);
        runs.reverse();
        runs
    }

    /// Stock restic finds nothing wrong, and so many snapshots.
    fn check_by_restic(&self, name: &str, count: usize) {
        let restic = |args: &[&str]| -> String {
            let mut command = Command::new("restic");
            command.args(args).args(["--no-cache", "--repo"]).arg(self.file(name));
            let said: Said = command.env("RESTIC_PASSWORD", PASSWORD).output().expect("restic runs").into();
            said.ok()
        };
        restic(&["check", "--read-data"]);
        let snapshots: Value = serde_json::from_str(&restic(&["snapshots", "--json"])).expect("a list");
        assert_eq!(snapshots.as_array().map(Vec::len), Some(count), "{name}: {snapshots}");
    }
}

#[test]
fn a_job_saves_what_fits_and_copies_it() {
    let story = Story::begin();
    let nest = &story.nest;
    // By itself, at the next full minute; the one that a person asks for reads what changed since.
    let first = &story.runs("Webs", 1)[0];
    assert_eq!((&first["state"], &first["causes"][0]), (&"Succeeded".into(), &"schedule".into()), "{first}");
    nest.run(&["job", "set", "Webs", "--clear", "schedule"]).ok();
    nest.wait("rest", Duration::from_secs(60), &["--json", "job", "show", "Webs"], |said| {
        said.stdout.contains("\"running\":null")
    });
    story.scribble(1);
    let said = nest.run(&["job", "run", "Webs"]);
    assert!(said.status == 0 && said.stdout.contains("web1@"), "{}\n{}", said.stdout, said.stderr);
    let runs = story.runs("Webs", 2);
    let last = runs.last().expect("a run");
    assert_eq!(last["state"], "Succeeded", "{last}");
    for machine in last["machines"].as_array().expect("machines") {
        assert_eq!(machine["disks"][0]["reading"], "Changes", "{machine}");
    }
    let read = last["machines"][0]["disks"][0]["read_bytes"].as_u64().expect("a number");
    assert!((1 << 20..=2 << 20).contains(&read), "{read}");
    let number = last["number"].to_string();
    let log = nest.run(&["backup", "log", &number]).ok();
    assert!(log.contains("web1: recovery point") && log.contains("copied to 'Second'"), "{log}");

    // An administrator sees the same in PowerShell's words.
    let shown = nest.ps("Get-VMBackupJob Webs | ForEach-Object { $_.LastResult; $_.CopyTo }").ok();
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["Succeeded", "Second"]);
    let read = nest.ps("(Get-VMBackupRun -JobName Webs -Newest 1).Machines[0].Disks[0].ReadBytes").ok();
    assert!(read.trim().parse::<u64>().is_ok_and(|bytes| bytes > 0), "{read}");
    for name in ["First", "Second"] {
        story.check_by_restic(name, 2 * runs.len());
    }
}
