//! Captures under torture: a guest that writes anywhere, backups of it, and blows before and during them. After each round,
//! what is restored is what the guest had at the instant.
//!
//! The truth does not come from the capture: the guest sums up its disks while it stands still, or the images are converted by
//! qemu-img while no engine has them. Rounds are drawn from a seed (`plan`).
//!
//! `NESTLING_TORTURE_ROUNDS=100 NESTLING_TORTURE_SEED=7 ./test --story torture`

mod damage;
mod fire;
mod guest;
mod plan;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use crate::nest::{GUEST_DEADLINE, Nest, Said, kill};
use damage::{copied, damage, tool};
use guest::{Guest, Truth, logged};
use plan::{Before, DISKS, Damage, Dice, During, Plan, Round};

const PASSWORD: &str = "correct horse";
const REPOSITORIES: [&str; 2] = ["R", "S"];
/// So slow that a run can be met in its middle.
const READ_LIMIT: &str = "2MB";
const RUN_DEADLINE: Duration = Duration::from_secs(180);

/// What the disks held from some moment on.
struct After {
    at_ms: u64,
    truth: Truth,
}

struct Torture {
    nest: Nest,
    plan: Plan,
    /// All points that were looked at, by their ids.
    seen: BTreeSet<String>,
    /// Whether the qcow2 image surely carries what counts from the newest point, for each repository.
    tracked: [bool; 2],
    tally: BTreeMap<String, u32>,
    /// Restored disks that were compared.
    checked: u32,
    /// What the guest wrote while it was backed up.
    writes_meanwhile: u64,
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_millis()).expect("small")
}

fn objects(said: &str) -> Vec<Value> {
    said.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

fn sum_of(path: &Path) -> String {
    tool(&["md5sum", path.to_str().expect("text")]).chars().take(32).collect()
}

fn has_ended(run: &Value) -> bool {
    run["ended_at_ms"].is_u64()
}

fn is_good(run: &Value) -> bool {
    run["state"].as_str().is_some_and(|state| state.starts_with("Succeeded"))
}

impl Torture {
    fn begin(seed: u64) -> Self {
        let nest = Nest::new("torture");
        nest.image("pebble");
        let plan = Plan::new(seed);
        let (seen, tally) = (BTreeSet::new(), BTreeMap::new());
        let torture = Self { nest, plan, seen, tracked: [false; 2], tally, checked: 0, writes_meanwhile: 0 };
        fs::write(torture.file("password"), format!("{PASSWORD}\n")).expect("a file");
        fs::set_permissions(torture.file("password"), fs::Permissions::from_mode(0o600)).expect("a mode");
        torture.run(&["vm", "create", "P", "--image", "pebble"]).ok();
        let (qcow2, raw) = (torture.text("a.qcow2"), torture.text("b.img"));
        torture.run(&["disk", "create", &qcow2, "--size", &DISKS[0].1.to_string()]).ok();
        fs::File::create(&raw).and_then(|file| file.set_len(DISKS[1].1)).expect("a raw image");
        torture.run(&["vm", "drive", "add", "P", &qcow2]).ok();
        torture.run(&["vm", "drive", "add", "P", &raw, "--format", "raw"]).ok();
        for name in REPOSITORIES {
            let (place, password) = (torture.text(name), torture.text("password"));
            torture.run(&["repository", "add", name, &place, "--password-file", &password]).ok();
            let job = ["job", "create", name, "--vm", "P", "--repository", name, "--crash-consistent"];
            torture.run(&[&job[..], &["--read-limit", READ_LIMIT, "--disabled"]].concat()).ok();
        }
        torture.start();
        torture
    }

    fn file(&self, name: &str) -> PathBuf {
        self.nest.home.join(name)
    }

    fn text(&self, name: &str) -> String {
        self.file(name).display().to_string()
    }

    fn run(&self, args: &[&str]) -> Said {
        self.nest.run(args)
    }

    fn guest(&self) -> Guest<'_> {
        Guest(&self.nest)
    }

    fn start(&self) {
        self.run(&["vm", "start", "P"]).ok();
        self.guest().is_up();
    }

    fn turn_off(&self) {
        self.run(&["vm", "turn-off", "P"]).ok();
    }

    /// `kill -9`, as soon as the node knows of it.
    fn kill_engine(&self) {
        kill(self.nest.engine_pids()[0]);
        let show = ["--json", "vm", "show", "P"];
        self.nest.wait("its end", GUEST_DEADLINE, &show, |said| said.stdout.contains("\"Off\""));
    }

    fn counts(&mut self, what: &str) {
        *self.tally.entry(what.to_owned()).or_default() += 1;
    }

    /// What the images hold, as qemu-img says; no engine has them.
    fn truth_at_rest(&self) -> Truth {
        let now = self.text("now.img");
        tool(&["qemu-img", "convert", "-f", "qcow2", "-O", "raw", &self.text("a.qcow2"), &now]);
        [sum_of(Path::new(&now)), sum_of(&self.file("b.img"))]
    }

    /// Begins a run, and gives its number.
    fn begin_run(&self, repository: usize) -> u64 {
        let said = self.run(&["--json", "job", "run", REPOSITORIES[repository], "--detach"]).ok();
        objects(&said)[0]["number"].as_u64().expect("a number")
    }

    fn wait_for_run(&self, number: u64, what: &str, done: impl Fn(&Value) -> bool) -> Value {
        let show = ["--json", "backup", "show", &number.to_string()];
        let run = |said: &Said| serde_json::from_str::<Value>(&said.stdout).unwrap_or_default();
        run(&self.nest.wait(what, RUN_DEADLINE, &show, |said| done(&run(said))))
    }

    fn end_of(&self, number: u64) -> Value {
        self.wait_for_run(number, "end of the run", has_ended)
    }

    /// Bytes of the instant are being saved, so that it lies behind.
    fn is_saving(&self, number: u64) {
        self.wait_for_run(number, "saving", |run| {
            has_ended(run)
                || (run["progress"]["stage"] == "saving"
                    && run["machines"][0]["disks"][0]["read_bytes"].as_u64() > Some(0))
        });
    }

    /// A disk of a point, restored by the vault's own command, which asks no node.
    fn restored(&self, repository: usize, point: &str, disk: usize) -> PathBuf {
        let out = self.file("back.img");
        let which = format!("P@{}:scsi-{disk}", &point[..16]);
        let said: Said = self
            .nest
            .command(["vault", "restore", &self.text(REPOSITORIES[repository]), &which])
            .arg(&out)
            .args(["--force", "--password-file", &self.text("password")])
            .output()
            .expect("nestling runs")
            .into();
        said.ok();
        out
    }

    /// Looks at all points that are new: each has what the disks held at its instant. How many there are.
    fn check_points(&mut self, repository: usize, before: Option<&Truth>, after: Option<&After>) -> u32 {
        let said =
            self.run(&["--json", "backup", "points", "P", "--repository", REPOSITORIES[repository]]).ok();
        let mut new = 0;
        for point in objects(&said) {
            let id = point["id"].as_str().expect("an id").to_owned();
            if !self.seen.insert(id.clone()) {
                continue;
            }
            new += 1;
            let taken_at_ms = point["taken_at_ms"].as_u64().expect("a time");
            let truth = match after {
                Some(after) if taken_at_ms >= after.at_ms => Some(&after.truth),
                _ => before,
            };
            for (disk, expected) in truth.into_iter().flatten().enumerate() {
                let restored = sum_of(&self.restored(repository, &id, disk));
                assert_eq!(&restored, expected, "disk {disk} of {point}\n{}", self.nest.tail());
                self.checked += 1;
            }
        }
        new
    }

    /// One instant of both disks: what was written to the first one before the second one's entry is there.
    fn check_order(&mut self, repository: usize, run: &Value, round: u32) -> u32 {
        let point = run["machines"][0]["point"].as_str().expect("a point").to_owned();
        let entries = |torture: &Self, disk| {
            let bytes = fs::read(torture.restored(repository, &point, disk)).expect("restored");
            logged(&bytes, round).unwrap_or_else(|gap| panic!("disk {disk} of {run}: {gap}"))
        };
        let (first, second) = (entries(self, 0), entries(self, 1));
        assert!(first == second || first == second + 1, "{first} entries here and {second} there: {run}");
        self.checked += 2;
        self.check_points(repository, None, None)
    }

    /// A backup that nothing comes over.
    fn back_up(&mut self, repository: usize, truth: &Truth) {
        let number = self.begin_run(repository);
        let run = self.end_of(number);
        assert!(is_good(&run), "{run}\n{}", self.nest.tail());
        assert_eq!(self.check_points(repository, Some(truth), None), 1, "{run}");
        self.is_tracked(repository, &run);
    }

    /// The run counts from now on; it had to be by changes if they were known.
    fn is_tracked(&mut self, repository: usize, run: &Value) {
        let reading = &run["machines"][0]["disks"][0]["reading"];
        if self.tracked[repository] {
            assert_eq!(reading, "Changes", "{run}");
        }
        self.counts(&format!("read: {}", reading.as_str().unwrap_or_default()));
        self.tracked[repository] = true;
    }

    /// What comes before a backup. Whether the machine has an engine afterwards.
    fn before(&mut self, round: &Round) -> bool {
        let guest = self.guest();
        match round.before {
            Before::Nothing => return true,
            Before::NodeKilled => {
                guest.begin_writing();
                guest.writes();
                kill(self.nest.node_pid());
                guest.stop_writing();
                return true;
            }
            Before::NodeStopped => {
                self.run(&["node", "stop"]).ok();
                return true;
            }
            Before::Reset => {
                self.run(&["vm", "reset", "P"]).ok();
                self.guest().is_up();
                return true;
            }
            Before::EngineKilled => {
                guest.begin_writing();
                guest.writes();
                self.kill_engine();
                self.tracked = [false; 2];
            }
            Before::TurnedOff => self.turn_off(),
            Before::ShutDown => drop(self.run(&["vm", "shutdown", "P"]).ok()),
            Before::Saved => drop(self.run(&["vm", "save", "P"]).ok()),
            Before::Damaged(kind) => self.damaged(kind, round),
        }
        if !round.at_rest {
            self.start();
        }
        !round.at_rest
    }

    fn damaged(&mut self, kind: Damage, round: &Round) {
        self.turn_off();
        let (qcow2, raw) = (self.file("a.qcow2"), self.file("b.img"));
        if kind == Damage::OlderCopy {
            let old = copied(&qcow2);
            self.start();
            self.guest().write(&round.writes);
            self.turn_off();
            fs::rename(old, &qcow2).expect("put back");
        } else {
            damage(kind, &qcow2, &raw, &mut Dice::new(round.number.into()));
        }
        self.tracked = [false; 2];
    }

    fn round(&mut self) {
        let round = self.plan.round();
        let began = Instant::now();
        self.counts(&format!("before: {:?}", round.before));
        self.counts(&format!("during: {:?}{}", round.during, if round.at_rest { " at rest" } else { "" }));
        self.guest().write(&round.writes);
        let runs = self.before(&round);
        let truth = if runs { self.guest().truth() } else { self.truth_at_rest() };
        let (run, after) = self.under_fire(&round, runs);
        self.judge(&round, &run, &truth, after.as_ref());
        self.settle(&round, runs, &truth, after.as_ref());
        if !is_good(&run) {
            let truth = self.guest().truth();
            self.back_up(round.repository, &truth);
        }
        tell(&format!(
            "round {}: {:?}, {}, {:?}{}, to {}: {} ({:.1} s)",
            round.number,
            round.before,
            if runs { "running" } else { "at rest" },
            round.during,
            if round.late { ", late" } else { "" },
            REPOSITORIES[round.repository],
            run["state"].as_str().unwrap_or_default(),
            began.elapsed().as_secs_f64()
        ));
    }

    /// What may have come of a run.
    fn judge(&mut self, round: &Round, run: &Value, truth: &Truth, after: Option<&After>) {
        let repository = round.repository;
        let points = match round.during {
            During::WritesInOrder => self.check_order(repository, run, round.number),
            _ => self.check_points(repository, Some(truth), after),
        };
        let may_fail = matches!(
            round.during,
            During::NodeKilled | During::NodeStopped | During::RepositoryAway | During::Cancelled
        );
        assert!(is_good(run) || may_fail, "{round:?}: {run}\n{}", self.nest.tail());
        assert!(points == 1 || (may_fail && points == 0), "{points} points of {run}");
        let is_damaged = matches!(round.before, Before::Damaged(kind) if kind != Damage::RawWritten);
        let reading = &run["machines"][0]["disks"][0]["reading"];
        assert!(!is_damaged || reading != "Changes", "tracking that was damaged is believed: {run}");
        if round.during == During::EngineKilled {
            self.tracked = [false; 2];
        } else if is_good(run) {
            self.is_tracked(repository, run);
        } else if points > 0 {
            // The node does not know of the point that it made.
            self.tracked[repository] = false;
        }
    }

    /// The machine runs again, nobody writes, and the guest has what its images had.
    fn settle(&mut self, round: &Round, runs: bool, truth: &Truth, after: Option<&After>) {
        let during = round.during;
        let has_ended = matches!(during, During::EngineKilled | During::TurnedOff | During::Saved);
        let is_at_rest = if runs { has_ended } else { during != During::Started };
        if is_at_rest {
            self.start();
        }
        let turns = self.guest().stop_writing();
        self.writes_meanwhile += turns;
        // What a saved guest still had in memory it writes now.
        if is_at_rest && !(during == During::Saved && round.late) {
            assert_eq!(&self.guest().truth(), after.map_or(truth, |after| &after.truth), "{round:?}");
        }
    }

    /// Stock restic finds nothing wrong, though nodes died with their locks held.
    fn check_by_restic(&self) {
        for name in REPOSITORIES {
            let place = self.text(name);
            self.run(&["vault", "unlock", &place, "--password-file", &self.text("password")]).ok();
            let mut restic = Command::new("restic");
            restic.args(["check", "--read-data", "--no-cache", "--repo", &place]);
            let said: Said = restic.env("RESTIC_PASSWORD", PASSWORD).output().expect("restic runs").into();
            said.ok();
        }
    }
}

fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// A number from the environment.
fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn whatever_comes_over_them_points_are_what_the_guest_had() {
    let rounds = setting("NESTLING_TORTURE_ROUNDS", 3);
    // Its first three rounds save, write and kill in the middle of backups.
    let seed = setting("NESTLING_TORTURE_SEED", 56);
    tell(&format!("torture: {rounds} rounds of NESTLING_TORTURE_SEED={seed}"));
    let mut torture = Torture::begin(seed);
    for _ in 0..rounds {
        torture.round();
    }
    torture.check_by_restic();
    for (what, count) in &torture.tally {
        tell(&format!("{count:5}  {what}"));
    }
    tell(&format!(
        "{rounds} rounds of seed {seed}: {} restored disks are what they were; the guest wrote {} times meanwhile",
        torture.checked, torture.writes_meanwhile
    ));
}
