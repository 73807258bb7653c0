//! `nestling vault` as a program: what it prints, what it refuses and in which words, its exit statuses.
//!
//! No node is ever started. Where a stock restic is installed, it reads what was written here.

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;

const PASSWORD: &str = "correct horse";
const MIB: usize = 1 << 20;

/// A directory with a repository in it.
struct Place(tempfile::TempDir);

struct Said {
    status: i32,
    data: String,
    talk: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self {
            status: output.status.code().expect("a status"),
            data: text(output.stdout),
            talk: text(output.stderr),
        }
    }
}

impl Said {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.status, 0, "{}{}", self.data, self.talk);
        self.data
    }

    #[track_caller]
    fn json(self) -> Value {
        let line = self.ok();
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"))
    }

    /// It failed with this status, and said all of these words.
    #[track_caller]
    fn refused(self, status: i32, words: &[&str]) {
        assert_eq!((self.status, self.data.as_str()), (status, ""), "{}", self.talk);
        for word in words {
            assert!(self.talk.contains(word), "{word:?} is not in {:?}", self.talk);
        }
        assert!(!self.talk.contains(PASSWORD), "{}", self.talk);
    }
}

impl Place {
    /// Without a repository.
    fn empty() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn new() -> Self {
        let place = Self::empty();
        place.run("init repo").ok();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn command(&self, words: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nestling"));
        command
            .arg("vault")
            .args(words.split_whitespace())
            .current_dir(self.0.path())
            .env("NESTLING_HOME", self.path("home"))
            .env("NESTLING_VAULT_PASSWORD", PASSWORD)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &str) -> Said {
        self.command(words).output().expect("nestling runs").into()
    }

    /// A sparse disk of 20 MiB with some text in it.
    fn image(&self, name: &str) -> Vec<u8> {
        let mut image = vec![0; 20 * MIB];
        for (at, line) in (0..3 * MIB).step_by(16).zip(0_u64..) {
            image[at..at + 16].copy_from_slice(format!("{:016x}", line.wrapping_mul(line)).as_bytes());
        }
        image[15 * MIB..15 * MIB + 10].copy_from_slice(b"far behind");
        self.write(name, &image);
        image
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).expect("a file");
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).expect("a file")
    }

    /// restic on the repository, where it is installed.
    fn restic(&self, args: &[&str]) -> Option<String> {
        let output = Command::new("restic")
            .args(["--no-cache", "-r"])
            .arg(self.path("repo"))
            .args(args)
            .env("RESTIC_PASSWORD", PASSWORD)
            .output()
            .ok()?;
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn first_pack(repo: &Path) -> PathBuf {
    let below = |path: &Path| -> Vec<PathBuf> {
        fs::read_dir(path).expect("a directory").map(|entry| entry.expect("an entry").path()).collect()
    };
    let packs = below(&repo.join("data")).into_iter().flat_map(|directory| below(&directory));
    packs.max_by_key(|path| path.metadata().expect("a pack").len()).expect("a pack")
}

#[test]
fn a_disk_comes_back_as_it_was_saved() {
    let place = Place::new();
    let image = place.image("disk.img");
    place.write("about.json", b"{\"memory\": 1}");
    let save = "--json save repo Lab/Web01 disk.img --tag nightly --time 2026-11-26T22:00:00Z --description about.json";
    let saved = place.run(save).json();
    assert_eq!(saved["size_bytes"], 20 * MIB);
    assert_eq!(saved["disks"][0]["format"], "raw");
    let id = saved["point"].as_str().expect("an id").to_owned();

    let listed = place.run("--json points repo Lab/Web01").json();
    assert_eq!((listed["id"].as_str(), listed["time"].as_str()), (Some(&*id), Some("2026-11-26T22:00:00Z")));
    let table = place.run("points repo").ok();
    assert!(
        table.contains(&id[..8]) && table.contains("2026-11-26 22:00:00Z") && table.contains("nightly"),
        "{table}"
    );
    let shown = place.run(&format!("--json show repo Lab/Web01@{}", &id[..6])).json();
    assert_eq!((&shown["disks"][0]["name"], &shown["description"]), (&"disk0".into(), &true.into()));
    assert_eq!(place.run("show repo Lab/Web01 --description").ok(), "{\"memory\": 1}");

    place.run("restore repo Lab/Web01 back.img").ok();
    assert!(place.read("back.img") == image);
    let blocks = fs::metadata(place.path("back.img")).expect("the file").blocks();
    assert!(blocks * 512 < 8 * MIB as u64, "{blocks} blocks: its holes are gone");
    assert!(!place.path("home").exists(), "no command of the vault has a use for a home");

    let clean = place.run("--json verify repo --all-data").json();
    assert_eq!((&clean["clean"], &clean["points"]), (&true.into(), &1.into()));
    if let Some(snapshots) = place.restic(&["snapshots"]) {
        assert!(snapshots.contains("/Lab/Web01") && snapshots.contains("nightly"), "{snapshots}");
        place.restic(&["check", "--read-data"]);
    }
}

#[test]
fn only_what_changed_is_read_and_only_what_differs_is_written() {
    let place = Place::new();
    let mut image = place.image("disk.img");
    place.run("save repo Web01 disk.img").ok();
    image[MIB..MIB + 4096].fill(7);
    place.write("disk.img", &image);
    place.write("changed.json", format!("[{{\"offset\": {MIB}, \"length\": 4096}}]").as_bytes());
    let saved = place.run("--json save repo Web01 disk.img --changed changed.json").json();
    assert_eq!(saved["disks"][0]["only_changed"], true);
    assert!(saved["read_bytes"].as_u64().expect("a number") <= MIB as u64, "{saved}");

    place.run("restore repo Web01 back.img").ok();
    assert!(place.read("back.img") == image);
    let file = fs::OpenOptions::new().write(true).open(place.path("back.img")).expect("the file");
    file.write_all_at(&[9; 100], 15 * MIB as u64).expect("written");
    let restored = place.run("--json restore repo Web01@latest:disk0 back.img --onto-existing").json();
    assert!(place.read("back.img") == image);
    assert!(restored["written_bytes"].as_u64().expect("a number") <= MIB as u64, "{restored}");

    place.run("restore repo Web01 part.img --range 15MB+64KB").ok();
    let part = place.read("part.img");
    assert!(part.len() == image.len() && part[15 * MIB..][..4096] == image[15 * MIB..][..4096]);
    assert!(part[..MIB].iter().all(|byte| *byte == 0));
    let pruned = place.run("--json prune repo --dry-run").json();
    assert!(pruned["plan"]["used_bytes"].as_u64() > Some(0) && pruned.get("done").is_none(), "{pruned}");
    assert!(place.run("--json prune repo").json()["done"].is_object());
}

#[test]
fn several_disks_in_any_format_make_one_point() {
    let place = Place::new();
    let image = place.image("disk.img");
    let mut disks = "--disk data=disk.img".to_owned();
    let convert = Command::new("qemu-img")
        .args(["convert", "-O", "qcow2", "disk.img", "disk.qcow2"])
        .current_dir(place.0.path())
        .status();
    if convert.is_ok_and(|status| status.success()) {
        disks = format!("disk.qcow2 {disks}");
    }
    let said = place.run(&format!("save repo Web01 {disks}"));
    assert!(said.talk.contains("disk.img is taken for raw"), "{}", said.talk);
    said.ok();
    place.run("restore repo Web01:data back.img").ok();
    assert!(place.read("back.img") == image);
    if disks.starts_with("disk.qcow2") {
        place.run("restore repo Web01:disk0 back.img --force").ok();
        assert!(place.read("back.img") == image);
        place.run("restore repo Web01 other.img").refused(1, &["has no disk", "disk0, data"]);
        let raw = place.run("--json save repo Raw disk.qcow2 --format raw").json();
        assert_eq!(raw["size_bytes"], place.read("disk.qcow2").len());
    }
}

#[test]
fn disks_of_other_hypervisors_are_taken_as_they_lie() {
    let place = Place::new();
    let image = place.image("disk.img");
    for (name, format, options, guessed) in [
        ("disk.vhdx", "vhdx", "subformat=dynamic", true),
        ("disk.vhd", "vpc", "subformat=fixed,force_size=on", true),
        ("stream.vmdk", "vmdk", "subformat=streamOptimized", true),
        ("flat.vmdk", "vmdk", "subformat=monolithicFlat", false),
    ] {
        let convert = Command::new("qemu-img")
            .args(["convert", "-O", format, "-o", options, "disk.img", name])
            .current_dir(place.0.path())
            .status();
        if !convert.is_ok_and(|status| status.success()) {
            eprintln!("skipped: qemu-img does not make {name}");
            continue;
        }
        let ours = name.rsplit('.').next().expect("an extension");
        if guessed {
            let said = place.run(&format!("save repo {ours} {name}"));
            assert!(said.talk.contains(&format!("{name} is taken for {ours}")), "{}", said.talk);
            said.ok();
        } else {
            place.run(&format!("save repo {ours} {name}")).refused(1, &["may not be followed", "--format"]);
            place.run(&format!("save repo {ours} {name} --format {ours}")).ok();
        }
        place.run(&format!("restore repo {ours} back.img --force")).ok();
        assert!(place.read("back.img") == image, "{name}");
    }
}

#[test]
fn passwords_come_and_go_and_never_show() {
    let place = Place::new();
    place.write("second", b"another one\n");
    fs::set_permissions(place.path("second"), fs::Permissions::from_mode(0o644)).expect("readable");
    let added = place.run("--json keys add repo --new-password-file second").json();
    let key = added["id"].as_str().expect("an id")[..10].to_owned();
    let said = place.run("points repo --password-file second");
    assert!(said.talk.contains("others can read the password"), "{}", said.talk);
    said.ok();
    let keys = place.run("keys list repo").ok();
    assert_eq!(keys.lines().count(), 3, "{keys}");
    place.run(&format!("keys remove repo {key} --password-file second")).refused(1, &["in use"]);
    place.run(&format!("keys remove repo {key}")).ok();
    place.run("points repo --password-file second").refused(1, &["wrong password", "hint: "]);
    place.run(&format!("keys remove repo {key}")).refused(1, &["there is no key"]);
    let mut command = place.command("points repo");
    let said = Said::from(command.env_remove("NESTLING_VAULT_PASSWORD").output().expect("nestling runs"));
    said.refused(2, &["no password", "NESTLING_VAULT_PASSWORD", "--password-file"]);
}

#[test]
fn a_refusal_says_what_and_why() {
    let place = Place::new();
    place.image("disk.img");
    place.run("save repo Web01 disk.img").ok();
    place.write("small.img", b"small");
    place.write("bad.json", b"[{\"offset\": 0, \"length\": 99999999999}]");
    for (words, status, expected) in [
        ("init repo", 1, &["repo", "already"][..]),
        ("points nowhere", 1, &["nowhere", "not there"]),
        ("points .", 1, &["no repository", "vault init"]),
        ("restore repo Web02 out.img", 1, &["no point", "Web02", "hint: "]),
        ("restore repo Web01@0000000000000000 out.img", 1, &["no point", "Web01@0000"]),
        ("restore repo Web01:data out.img", 1, &["no disk data", "disk0"]),
        ("restore repo Web01@x out.img", 2, &["names no point"]),
        ("restore repo Web01 disk.img", 1, &["there already", "--force", "--onto-existing"]),
        ("restore repo Web01 small.img --onto-existing", 1, &["small.img", "5 bytes"]),
        ("restore repo Web01 out.img --onto-existing", 1, &["out.img", "not there"]),
        ("restore repo Web01 out.img --range 1TB+1", 1, &["asked for"]),
        ("restore repo Web01 disk.img --force --range 0+1", 1, &["disk.img", "--onto-existing"]),
        ("save repo Web01 disk.img --changed bad.json", 1, &["bad.json", "hint: "]),
        ("save repo Web01 disk.img --changed none.json", 1, &["none.json"]),
        ("save repo New disk.img --changed changed.json", 1, &["changed.json"]),
        ("save repo Web01 none.img", 1, &["none.img"]),
        ("save repo a//b disk.img", 2, &["a//b"]),
        ("save repo Web01 disk.img --disk disk0=disk.img", 1, &["two disks", "disk0"]),
        ("save repo Web01 disk.img --tag pin", 1, &["tag", "pin and unpin"]),
        ("save repo Web01", 2, &["IMAGE"]),
        ("save repo Web01 disk.img --append-only --bwlimit 0", 2, &["nothing could move"]),
        ("verify repo --share 0", 2, &["more than 0"]),
    ] {
        place.run(words).refused(status, expected);
    }
    assert!(!place.path("out.img").exists());
    let said = place.run("--json restore repo Web02 out.img");
    let error: Value = serde_json::from_str(&said.talk).expect("one object");
    assert_eq!((said.status, error["code"].as_str()), (1, Some("not-found")));
}

#[test]
fn points_are_compared_copied_kept_and_forgotten() {
    let place = Place::new();
    let mut image = place.image("disk.img");
    for day in 1..=4 {
        image[MIB * day] = 200;
        place.write("disk.img", &image);
        place.run(&format!("save repo Web01 disk.img --time 2026-11-0{day}T00:00:00Z")).ok();
    }
    let ids = || -> Vec<String> {
        let listed = place.run("--json points repo").ok();
        let id = |line: &str| {
            serde_json::from_str::<Value>(line).expect("an object")["id"].as_str().map(str::to_owned)
        };
        listed.lines().map(|line| id(line).expect("an id")).collect()
    };
    let all = ids();
    let changed = place.run(&format!("diff repo Web01@{} Web01@{}", all[2], all[3])).ok();
    let changed: Value = serde_json::from_str(&changed).expect("JSON");
    let (offset, length) = (changed[0]["offset"].as_u64(), changed[0]["length"].as_u64());
    assert!(offset <= Some(4 * MIB as u64) && length < Some(MIB as u64), "{changed}");
    place.write("changed.json", changed.to_string().as_bytes());
    place
        .run(&format!("save repo Copy disk.img --changed changed.json --parent {}", all[2]))
        .refused(1, &["Copy@"]);

    let kept = place.run(&format!("--json pin repo Web01@{}", all[0])).json();
    assert_eq!(kept["pinned"], true);
    let pinned = kept["id"].as_str().expect("an id").to_owned();
    place.run(&format!("forget repo Web01@{pinned}")).refused(1, &["pinned"]);
    place.run("forget repo Web01").refused(2, &["not clear", "--keep-last"]);
    place.run("forget repo").refused(2, &["not clear"]);
    place.run(&format!("protect repo Web01@{} --until 2999-01-01T00:00:00Z", all[1])).ok();
    let plan = place.run("forget repo --keep-last 1 --dry-run").ok();
    assert!(plan.contains("stays: pinned") && plan.contains("0 points forgotten"), "{plan}");
    let forgotten = place.run("--json forget repo Web01 --keep-last 1 --prune").json();
    assert_eq!(forgotten["forgotten"], serde_json::json!([all[2]]));
    assert!(forgotten["prune"]["done"].is_object());
    assert_eq!(ids().len(), 3);

    let mut init = place.command("init other");
    Said::from(init.env("NESTLING_VAULT_PASSWORD", "other").output().expect("nestling runs")).ok();
    place.write("other.pw", b"other\n");
    fs::set_permissions(place.path("other.pw"), fs::Permissions::from_mode(0o600)).expect("mine alone");
    let copy = "--json copy repo Web01 --to other --to-password-file other.pw";
    assert_eq!(place.run(copy).json()["copied"].as_array().map(Vec::len), Some(3));
    assert_eq!(place.run(copy).json()["present"].as_array().map(Vec::len), Some(3));
    place.run("restore other Web01 back.img --password-file other.pw").ok();
    assert!(place.read("back.img") == image);

    let stats = place.run("--json stats repo").json();
    assert_eq!((&stats["points"], &stats["machines"][0]["name"]), (&3.into(), &"Web01".into()));
    assert_eq!(place.run("unlock repo").ok(), "no lock was removed\n");
    assert_eq!(place.run("--json rebuild-index repo").json()["defects"], serde_json::json!([]));
    place.run("verify repo --all-data").ok();
    place.restic(&["check", "--read-data"]);

    fs::rename(place.path("other/snapshots"), place.path("mislaid")).expect("moved");
    fs::create_dir(place.path("other/snapshots")).expect("made");
    let other = |words: &str| place.run(&format!("{words} other --password-file other.pw"));
    other("prune").refused(1, &["other", "snapshots", "hint: --allow-empty"]);
    for words in ["verify", "stats"] {
        let said = other(words);
        assert!(said.status == 0 && said.talk.contains("snapshots"), "{}", said.talk);
    }
    other("prune --allow-empty").ok();
    assert_eq!(other("--json stats").json()["total_bytes"].as_u64().map(|bytes| bytes < 2000), Some(true));
}

#[test]
fn a_point_is_served_and_saved_over_nbd() {
    let place = Place::new();
    let image = place.image("disk.img");
    place.run("save repo Web01 disk.img").ok();
    let mut server = place.command("--json nbd repo Web01 --socket s --writable-overlay scratch");
    let mut server = server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("nestling runs");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
    let served: Value = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    assert_eq!(served["uri"], "nbd+unix:///?socket=s");
    assert!(!place.path("scratch").exists());
    let saved = place.run("--json save repo Again nbd+unix:///?socket=s").json();
    assert_eq!((&saved["disks"][0]["format"], &saved["new_bytes"]), (&"nbd".into(), &0.into()));
    place.run("restore repo Again back.img").ok();
    assert!(place.read("back.img") == image);
    rustix::process::kill_process(rustix::process::Pid::from_child(&server), rustix::process::Signal::TERM)
        .expect("it runs");
    assert_eq!(server.wait().expect("it ends").code(), Some(0));
    assert!(!place.path("s").exists());
    assert_eq!(fs::read_dir(place.path("repo/locks")).expect("a directory").count(), 0);
}

#[test]
fn damage_is_told_by_machine_and_disk_and_repaired() {
    let place = Place::new();
    let image = place.image("disk.img");
    place.run("save repo Web01 disk.img").ok();
    let pack = first_pack(&place.path("repo"));
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).expect("writable");
    let file = fs::OpenOptions::new().write(true).open(&pack).expect("a pack");
    file.write_all_at(b"damage", 1000).expect("written");
    let said = place.run("--json verify repo --all-data");
    assert_eq!(said.status, 3, "{}", said.talk);
    let found: Value = serde_json::from_str(&said.data).expect("one object");
    assert_eq!((&found["clean"], &found["losses"][0]["name"]), (&false.into(), &"Web01".into()));
    assert!(found["losses"][0]["ranges"][0]["length"].as_u64() > Some(0), "{found}");
    place.run("restore repo Web01 back.img").refused(1, &["damaged"]);
    assert!(!place.path("back.img").exists());

    let repair = |words: &str| -> Value {
        let said = place.run(words);
        assert_eq!(said.status, 3, "{}", said.talk);
        serde_json::from_str(&said.data).expect("one object")
    };
    assert!(repair("--json repair repo --dry-run").get("done").is_none());
    let repaired = repair("--json repair repo");
    assert_eq!(repaired["done"]["mended"].as_array().map(Vec::len), Some(1), "{repaired}");
    let lost = repaired["points"][0]["lost"][0].clone();
    assert_eq!(place.run("repair repo").ok(), "nothing is damaged\n");
    place.run("verify repo --all-data").ok();
    place.run("restore repo Web01 back.img").refused(1, &["were lost", "other ranges"]);
    let (from, bytes) =
        (lost["offset"].as_u64().expect("a number"), lost["length"].as_u64().expect("a number"));
    let (end, size) = (from + bytes, image.len() as u64);
    let mut ranges = format!("--range {end}+{}", size - end);
    if from > 0 {
        ranges.push_str(&format!(" --range 0+{from}"));
    }
    place.run(&format!("restore repo Web01 back.img {ranges}")).ok();
    let mut back = place.read("back.img");
    let hole = from as usize..end as usize;
    back[hole.clone()].copy_from_slice(&image[hole]);
    assert!(back == image, "more is lost than was said");
}

#[test]
fn a_snapshot_that_cannot_be_read_hides_no_other() {
    let place = Place::new();
    place.image("disk.img");
    for day in 1..=2 {
        place.run(&format!("save repo Web01 disk.img --time 2026-11-0{day}T00:00:00Z")).ok();
    }
    let listed = place.run("--json points repo").ok();
    let ids: Vec<String> = listed.lines().map(|line| line[7..71].to_owned()).collect();
    let file = place.path("repo/snapshots").join(&ids[1]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("writable");
    fs::write(&file, b"damage").expect("written");
    for words in ["points repo", "--json points repo", "points repo Web01"] {
        let said = place.run(words);
        assert!(said.status == 3 && said.talk.contains(&ids[1]), "{}{}", said.data, said.talk);
        assert!(said.data.contains(&ids[0][..8]) && !said.data.contains(&ids[1][..8]), "{}", said.data);
    }
    let stats = place.run("--json stats repo");
    assert!(stats.status == 3 && stats.data.contains("\"unreadable\":1"), "{}", stats.data);
    place.run("restore repo Web01 back.img").refused(1, &["newest", &ids[1], "by its id", "hint: "]);
    place.run(&format!("restore repo Web01@{} back.img", &ids[0][..8])).ok();
}

#[test]
fn a_run_that_is_interrupted_leaves_what_the_next_one_goes_on_from() {
    let place = Place::new();
    place.image("disk.img");
    // Slow enough that it is still at work when the signal comes.
    let mut save = place.command("save repo Web01 disk.img --bwlimit 100KB");
    let child = save.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("nestling runs");
    let pid = rustix::process::Pid::from_child(&child);
    wait_until("it is at work", || {
        fs::read_dir(place.path("repo/locks")).is_ok_and(|mut locks| locks.next().is_some())
    });
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("it runs");
    let said = Said::from(child.wait_with_output().expect("it ends"));
    said.refused(1, &["cancelled", "next run"]);
    assert_eq!(fs::read_dir(place.path("repo/locks")).expect("a directory").count(), 0);
    assert_eq!(place.run("points repo").ok().lines().count(), 1);
    place.run("save repo Web01 disk.img").ok();
    place.run("verify repo --all-data").ok();
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !done() {
        assert!(std::time::Instant::now() < deadline, "not within a minute: {what}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
