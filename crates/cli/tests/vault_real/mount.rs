//! A repository that is mounted, as the programs of this system see it.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Seek, SeekFrom},
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::{Duration, SystemTime},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::place::{MIB, Place, count, first_line, restic, skip, wait_until};

/// A mount of `repo` on `points`, which ends with it.
struct Shown<'a> {
    place: &'a Place,
    child: Child,
    record: Value,
}

fn can_mount(test: &str) -> bool {
    let can = Path::new("/dev/fuse").exists();
    if !can {
        skip(test, "this system has no /dev/fuse");
    }
    can
}

impl<'a> Shown<'a> {
    fn new(place: &'a Place) -> Self {
        fs::create_dir_all(place.path("points")).expect("a directory");
        let mut command = place.command("--json mount repo points");
        let log = File::create(place.path("log")).expect("a file");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("nestling runs");
        let line = first_line(&mut child);
        let said = || fs::read_to_string(place.path("log")).expect("a log");
        let record = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line}{}", said()));
        Self { place, child, record }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path("points").join(name)
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(folder)).expect("a folder");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path("log")).expect("a log")
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("it runs");
    }

    /// The status that it ends with, and nothing is left.
    #[track_caller]
    fn ends(mut self) -> Option<i32> {
        let mut status = None;
        wait_until("it ends", || {
            status = self.child.try_wait().expect("its status");
            status.is_some()
        });
        assert_eq!(count(&self.place.path("repo/locks")), 0, "a lock is left");
        assert!(!is_mounted(&self.place.path("points")));
        assert_eq!(count(&self.place.path("points")), 0);
        status.expect("it has ended").code()
    }
}

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        // It is ours; where it has ended already, nothing happens.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if is_mounted(&self.place.path("points")) {
            let _ = self.place.other("umount", "-l points").status();
        }
    }
}

fn is_mounted(directory: &Path) -> bool {
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.to_owned());
    let table = fs::read_to_string("/proc/self/mountinfo").expect("a table");
    table.lines().any(|line| line.split(' ').nth(4) == directory.to_str())
}

fn read_at(file: &File, offset: u64, length: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(bytes)
}

#[test]
fn every_disk_of_every_point_is_a_file() {
    if !can_mount("every_disk_of_every_point_is_a_file") {
        return;
    }
    let place = Place::new();
    for (name, seed) in [("one", 1), ("two", 2), ("three", 3)] {
        place.image(name, 40, seed);
    }
    fs::write(place.path("about"), r#"{"processors": 2}"#).expect("written");
    place.run("save repo Lab/Web01 one --time 2026-01-01T10:00:00.5Z --description about").ok();
    place.run("save repo Lab/Web01 two --time 2026-01-02T12:00:00+02:00").ok();
    place.run("save repo Lab --disk system=two --disk data=three --time 2026-01-03T00:00:00Z").ok();
    let shown = Shown::new(&place);
    assert_eq!((&shown.record["machines"], &shown.record["points"]), (&2.into(), &3.into()));

    assert_eq!(shown.names(""), ["Lab"]);
    let ids: Vec<String> = place.points("repo").iter().map(|(id, _)| id[..8].to_owned()).collect();
    let old = format!("2026-01-01T10:00:00Z-{}", ids[0]);
    let new = format!("2026-01-02T10:00:00Z-{}", ids[1]);
    assert_eq!(shown.names("Lab"), [&format!("2026-01-03T00:00:00Z-{}", ids[2]), "Web01", "latest"]);
    assert_eq!(shown.names("Lab/Web01"), [&old, &new, "latest"]);
    assert_eq!(fs::read_link(shown.path("Lab/Web01/latest")).expect("a link"), Path::new(&new));
    assert_eq!(shown.names(&format!("Lab/Web01/{old}")), ["disk0.raw", "vm.json"]);
    assert_eq!(shown.names("Lab/latest"), ["data.raw", "system.raw"]);
    let description = fs::read(shown.path(&format!("Lab/Web01/{old}/vm.json"))).expect("read");
    assert_eq!(description, br#"{"processors": 2}"#);

    for (file, image) in [
        (format!("Lab/Web01/{old}/disk0.raw"), "one"),
        (format!("Lab/Web01/{new}/disk0.raw"), "two"),
        ("Lab/Web01/latest/disk0.raw".to_owned(), "two"),
        ("Lab/latest/system.raw".to_owned(), "two"),
        ("Lab/latest/data.raw".to_owned(), "three"),
    ] {
        place.assert_same(&format!("points/{file}"), image);
        the_holes_are_seen(&place, &shown.path(&file), image);
    }
    let about = fs::metadata(shown.path(&format!("Lab/Web01/{old}/disk0.raw"))).expect("its data");
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_767_261_600_500);
    assert_eq!(about.modified().expect("a time"), time);
    assert_eq!(
        fs::metadata(shown.path(&format!("Lab/Web01/{old}"))).expect("its data").modified().ok(),
        Some(time)
    );
    let written = File::create(shown.path("Lab/new")).expect_err("read-only");
    assert_eq!(written.kind(), ErrorKind::ReadOnlyFilesystem);
    let written = fs::OpenOptions::new().write(true).open(shown.path("Lab/latest/data.raw"));
    assert_eq!(written.expect_err("read-only").kind(), ErrorKind::ReadOnlyFilesystem);
    assert_eq!(fs::metadata(shown.path("Lab/none")).expect_err("missing").kind(), ErrorKind::NotFound);
    assert_eq!(shown.log(), "");
}

/// What is told of holes is true and worth it, and a copy has them.
fn the_holes_are_seen(place: &Place, file: &Path, image: &str) {
    let bytes = fs::read(place.path(image)).expect("the image");
    let about = fs::metadata(file).expect("its data");
    assert_eq!(about.len(), bytes.len() as u64);
    let chunks = bytes.chunks(128 << 10).filter(|chunk| chunk.iter().any(|byte| *byte != 0));
    let data: u64 = chunks.map(|chunk| chunk.len() as u64).sum();
    assert_eq!(about.blocks(), data.div_ceil(512), "{image}");
    let mut open = File::open(file).expect("opened");
    let (mut at, mut found) = (0, 0);
    while let Ok(from) = rustix::fs::seek(&open, rustix::fs::SeekFrom::Data(at)) {
        assert!(bytes[at as usize..from as usize].iter().all(|byte| *byte == 0), "{at} to {from}");
        at = rustix::fs::seek(&open, rustix::fs::SeekFrom::Hole(from)).expect("an end");
        found += at - from;
    }
    assert_eq!(found, data);
    // Seeking has not moved what is read.
    open.seek(SeekFrom::Start(MIB - 7)).expect("a place");
    let mut piece = vec![0; 1000];
    open.read_exact(&mut piece).expect("read");
    assert!(piece == bytes[MIB as usize - 7..][..1000]);
    let mut copy = place.other("cp", "");
    let copied = copy.arg(file).arg(place.path("copy")).status().expect("cp runs");
    assert!(copied.success());
    place.assert_same("copy", image);
    let copied = fs::metadata(place.path("copy")).expect("its data").blocks() * 512;
    assert!(copied <= data + 64 * 1024, "{copied} for {data}");
}

#[test]
fn points_come_and_go_while_it_is_mounted() {
    if !can_mount("points_come_and_go_while_it_is_mounted") {
        return;
    }
    let place = Place::new();
    place.image("one", 40, 1);
    place.image("two", 40, 2);
    place.run("save repo Web01 one").ok();
    let shown = Shown::new(&place);
    // Looked into, so that the index is read, and its bytes are not.
    assert_eq!(fs::metadata(shown.path("Web01/latest/disk0.raw")).expect("its data").len(), 40 * MIB + 1234);
    let old = fs::read_link(shown.path("Web01/latest")).expect("a link");

    // A new point is seen and read, and a new machine.
    place.run("save repo Web01 two").ok();
    place.run("save repo Web02 two").ok();
    wait_until("the new machine is there", || shown.path("Web02").exists());
    assert_eq!(shown.names("Web01").len(), 3);
    place.assert_same("points/Web01/latest/disk0.raw", "two");

    // What is open stays readable when its point is forgotten and pruned, and is listed no more.
    let open = File::open(shown.path("Web01").join(&old).join("disk0.raw")).expect("opened");
    assert_eq!(count(&place.path("repo/locks")), 1);
    place.run("forget repo Web01 --keep-last 1").ok();
    place.run("prune repo --max-unused 0").ok();
    wait_until("the old point is gone", || !shown.path("Web01").join(&old).exists());
    assert_eq!(shown.names("Web01").len(), 2);
    let image = fs::read(place.path("one")).expect("the image");
    assert!(read_at(&open, 0, image.len() as u64).expect("read") == image);
    assert_eq!(open.metadata().expect("its data").len(), image.len() as u64);
    let again = fs::metadata(shown.path("Web01").join(&old)).expect_err("forgotten");
    assert_eq!(again.kind(), ErrorKind::NotFound);
    // What other points need was moved by the prune.
    place.assert_same("points/Web01/latest/disk0.raw", "two");
    place.assert_same("points/Web02/latest/disk0.raw", "two");
    assert_eq!(shown.log(), "");
    drop(open);

    // Unmounted by somebody else.
    place.run_other("umount", "points").ok();
    assert_eq!(shown.ends(), Some(0));
    place.run("prune repo --max-unused 0").ok();
    place.verify("repo");
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        if entry.file_type().expect("a type").is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// The files of a repository's directory that a save has added, the largest first.
fn added(place: &Place, directory: &str, save: &str) -> Vec<PathBuf> {
    let directory = place.path("repo").join(directory);
    let before = files(&directory);
    place.run(save).ok();
    let mut new = files(&directory);
    new.retain(|file| !before.contains(file));
    new.sort_by_key(|file| std::cmp::Reverse(fs::metadata(file).expect("its size").len()));
    new
}

fn damage(file: &Path, from: u64) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).expect("writable");
    let open = fs::OpenOptions::new().write(true).open(file).expect("opened");
    let length = open.metadata().expect("its size").len();
    let mut at = from;
    while at < length {
        open.write_all_at(b"damage", at).expect("written");
        at += 64;
    }
}

#[test]
fn damage_costs_the_files_that_it_is_in() {
    if !can_mount("damage_costs_the_files_that_it_is_in") {
        return;
    }
    let place = Place::new();
    for (name, seed) in [("one", 1), ("two", 2), ("three", 3), ("four", 4)] {
        place.image(name, 20, seed);
    }
    place.run("save repo Whole one").ok();
    let packs = added(&place, "data", "save repo Hurt two");
    damage(&packs[0], fs::metadata(&packs[0]).expect("its size").len() / 2);
    for pack in added(&place, "data", "save repo Dark three") {
        damage(&pack, 0);
    }
    place.run("save repo Seen one").ok();
    let snapshots = added(&place, "snapshots", "save repo Seen four");
    damage(&snapshots[0], 0);
    let shown = Shown::new(&place);

    // The snapshot that cannot be read is left out, and named.
    assert_eq!(shown.names("Seen").len(), 2);
    let id = snapshots[0].file_name().and_then(|name| name.to_str()).expect("an id");
    assert!(shown.log().contains(id), "{}", shown.log());
    place.assert_same("points/Seen/latest/disk0.raw", "one");

    // Some bytes of a disk.
    let failed = fs::read(shown.path("Hurt/latest/disk0.raw")).expect_err("damaged");
    assert_eq!(failed.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    let pack = packs[0].file_name().and_then(|name| name.to_str()).expect("a name");
    assert!(shown.log().contains("Hurt@") && shown.log().contains(pack), "{}", shown.log());
    let image = fs::read(place.path("two")).expect("the image");
    let open = File::open(shown.path("Hurt/latest/disk0.raw")).expect("opened");
    let (mut whole, mut lost) = (0, 0);
    for at in (0..image.len() as u64).step_by(4096) {
        let length = 4096.min(image.len() as u64 - at);
        match read_at(&open, at, length) {
            Ok(bytes) => {
                assert!(bytes == image[at as usize..][..length as usize], "wrong bytes at {at}");
                whole += 1;
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
                lost += 1;
            }
        }
    }
    assert!(whole > 100 && lost > 100, "{whole} whole, {lost} lost");

    // A point that cannot be looked into is an error once, and left out then.
    assert_eq!(shown.names("Dark").len(), 2);
    let failed = fs::read_dir(shown.path("Dark/latest")).expect_err("damaged");
    assert_eq!(failed.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    assert!(shown.log().contains("Dark@"), "{}", shown.log());
    wait_until("it is left out", || shown.names("") == ["Hurt", "Seen", "Whole"]);
    place.assert_same("points/Whole/latest/disk0.raw", "one");

    // Each damaged object was told once.
    let log = shown.log();
    let mut messages: Vec<String> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("an object")["message"].to_string())
        .collect();
    let all = messages.len();
    messages.sort();
    messages.dedup();
    assert_eq!(messages.len(), all, "{log}");
}

#[test]
fn a_signal_unmounts_whatever_is_open() {
    if !can_mount("a_signal_unmounts_whatever_is_open") {
        return;
    }
    let place = Place::new();
    place.image("one", 8, 1);
    place.run("save repo Web01 one").ok();
    for (signal, is_open) in [(Signal::TERM, false), (Signal::INT, true)] {
        let shown = Shown::new(&place);
        let open = is_open.then(|| File::open(shown.path("Web01/latest/disk0.raw")).expect("opened"));
        assert_eq!(count(&place.path("repo/locks")), 1);
        shown.signal(signal);
        assert_eq!(shown.ends(), Some(0));
        if let Some(open) = open {
            assert!(read_at(&open, MIB, 4096).is_err(), "nobody is there to read it");
        }
    }
}

#[test]
fn what_cannot_be_mounted_on_is_said_so() {
    let place = Place::new();
    fs::create_dir(place.path("full")).expect("a directory");
    fs::write(place.path("full/file"), "").expect("written");
    place.run("mount repo none").failed(&["none is not there", "mkdir"]);
    place.run("mount repo full/file").failed(&["full/file is not a directory"]);
    place.run("mount repo full").failed(&["full is not empty"]);
    if !can_mount("what_cannot_be_mounted_on_is_said_so") {
        return;
    }
    let mut shown = Shown::new(&place);
    assert_eq!(shown.names(""), [""; 0]);
    place.run("mount repo points").failed(&["something is mounted on points already"]);
    // Its program dies: nothing answers, until somebody unmounts it.
    shown.child.kill().expect("killed");
    shown.child.wait().expect("it has ended");
    place.run("mount repo points").failed(&["points is still mounted by a program that has died", "umount"]);
    place.run_other("umount", "points").ok();
    // Its lock counts for nothing.
    place.run("rebuild-index repo").ok();
    drop(shown);
    let again = Shown::new(&place);
    place.run_other("umount", "points").ok();
    assert_eq!(again.ends(), Some(0));
}

#[test]
fn snapshots_of_other_programs_are_not_shown() {
    let test = "snapshots_of_other_programs_are_not_shown";
    let (true, Some(restic)) = (can_mount(test), restic(test)) else { return };
    let place = Place::new();
    place.image("one", 4, 1);
    place.run("save repo Web01 one").ok();
    place.run_other(restic, "-r repo backup one").ok();
    let shown = Shown::new(&place);
    assert_eq!(shown.names(""), ["Web01"]);
    assert_eq!(shown.record["points"], 1);
    place.assert_same("points/Web01/latest/disk0.raw", "one");
}
