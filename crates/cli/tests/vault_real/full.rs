//! A disk that is full, and one that cannot be written any more.

use std::{
    fs::{self, File},
    io::Write,
};

use crate::place::{MIB, Place, Random, count, skip};

/// A small file system at the place's `small`, on a loop device that goes with it.
struct Small<'a>(&'a Place);

impl<'a> Small<'a> {
    fn new(place: &'a Place, mebibytes: u64, test: &str) -> Option<Self> {
        File::create(place.path("small.fs")).expect("a file").set_len(mebibytes * MIB).expect("a size");
        fs::create_dir(place.path("small")).expect("a directory");
        let made = run(place, "mkfs.ext4 -q -m 0 small.fs") && run(place, "mount -o loop small.fs small");
        if !made {
            skip(test, "no file system could be mounted");
        }
        made.then(|| Self(place))
    }

    /// Fills it up to some bytes.
    fn fill(&self, but: u64) {
        let mut file = File::create(self.0.path("small/filler")).expect("a file");
        for block in [1 << 20, 4096] {
            while file.write_all(&vec![1; block]).is_ok() {}
        }
        let bytes = file.metadata().expect("its size").len();
        file.set_len(bytes.saturating_sub(but)).expect("smaller");
        file.sync_all().expect("written");
    }

    fn free(&self) {
        fs::remove_file(self.0.path("small/filler")).expect("it is there");
    }
}

impl Drop for Small<'_> {
    fn drop(&mut self) {
        // Lazily, should a panic have left a program on it; the loop device goes with the last one.
        if !run(self.0, "umount small") {
            run(self.0, "umount --lazy small");
        }
    }
}

fn run(place: &Place, words: &str) -> bool {
    let (program, words) = words.split_once(' ').expect("a program and its arguments");
    place.other(program, words).output().is_ok_and(|output| output.status.success())
}

/// Two points in `small/repo`, of which the first one's data is needed by nobody else.
fn two_points(place: &Place) {
    place.run("init small/repo").ok();
    place.image("one", 24, 1);
    place.run("save small/repo Web01 one --time 2026-01-01T00:00:00Z").ok();
    let mut random = Random(2);
    place.change("one", "two", "changed.json", &mut random);
    for _ in 0..30 {
        place.change("two", "two", "changed.json", &mut random);
    }
    place.run("save small/repo Web01 two --time 2026-01-02T00:00:00Z").ok();
}

fn both_are_whole(place: &Place) {
    let points = place.points("small/repo");
    assert_eq!(points.len(), 2, "{points:?}");
    for ((id, _), image) in points.iter().zip(["one", "two"]) {
        place.assert_restores("small/repo", &format!("Web01@{id}"), image);
    }
    place.verify("small/repo");
}

#[test]
fn a_full_disk_ends_a_save_and_loses_nothing() {
    let place = Place::empty();
    let Some(small) = Small::new(&place, 96, "a_full_disk_ends_a_save_and_loses_nothing") else { return };
    two_points(&place);
    place.image("three", 40, 3);
    for left in [8 * MIB, 300 << 10, 20 << 10, 0] {
        small.fill(left);
        place.run("save small/repo Web01 three").failed(&["small/repo", "no space"]);
        // What reads goes on where not even a lock can be written, or says why not.
        both_are_readable_or_told(&place);
        small.free();
    }
    both_are_whole(&place);
    place.run("save small/repo Web01 three").ok();
    place.assert_restores("small/repo", "Web01", "three");
    place.run("prune small/repo").ok();
    place.verify("small/repo");
    assert_eq!(count(&place.path("small/repo/locks")), 0);
}

fn both_are_readable_or_told(place: &Place) {
    let points = place.run("points small/repo");
    assert_eq!(points.ok().lines().count(), 3);
    place.assert_restores("small/repo", "Web01", "two");
}

#[test]
fn a_full_disk_ends_a_prune_and_loses_nothing() {
    let place = Place::empty();
    let Some(small) = Small::new(&place, 128, "a_full_disk_ends_a_prune_and_loses_nothing") else { return };
    two_points(&place);
    place.image("three", 30, 3);
    place.run("save small/repo Gone three --time 2026-01-03T00:00:00Z").ok();
    place.run("save small/repo Stays three --time 2026-01-03T00:00:00Z").ok();
    let used = || {
        let stats = place.run("--json stats small/repo").json();
        (stats["unused_bytes"].as_u64().expect("a number"), stats["stored_bytes"].as_u64())
    };
    // Something to copy: half of what a pack holds is needed no more.
    let first = &place.points("small/repo")[0].0;
    place.run(&format!("tag small/repo Web01@{first} --add kept")).ok();
    place.run("forget small/repo Gone --keep-last 1").ok();
    let all = place.points("small/repo");
    let second = all.iter().find(|(_, time)| time.starts_with("2026-01-02")).expect("the second");
    place.run(&format!("forget small/repo Web01@{}", second.0)).ok();
    assert!(used().0 > 0);
    for left in [MIB, 100 << 10, 8 << 10, 0] {
        small.fill(left);
        let said = place.run("prune small/repo --max-unused 0");
        if said.status != Some(0) {
            said.failed(&["small/repo", "no space"]);
        }
        place.assert_restores("small/repo", "Web01", "one");
        place.assert_restores("small/repo", "Stays", "three");
        small.free();
        place.verify("small/repo");
    }
    place.run("prune small/repo --max-unused 0").ok();
    assert_eq!(used().0, 0);
    place.assert_restores("small/repo", "Web01", "one");
    place.assert_restores("small/repo", "Stays", "three");
    place.verify("small/repo");
}

#[test]
fn a_read_only_disk_is_told_and_still_read() {
    let place = Place::empty();
    let Some(_small) = Small::new(&place, 96, "a_read_only_disk_is_told_and_still_read") else { return };
    two_points(&place);
    assert!(run(&place, "mount -o remount,ro small"));
    place.image("three", 8, 3);
    let first = place.points("small/repo")[0].0.clone();
    for words in [
        "save small/repo Web01 three",
        "prune small/repo",
        "rebuild-index small/repo",
        "repair small/repo",
        &format!("forget small/repo Web01@{first}"),
        &format!("tag small/repo Web01@{first} --add x"),
    ] {
        place.run(words).failed(&["small/repo", "read-only"]);
    }
    place.assert_restores("small/repo", "Web01", "two");
    assert!(run(&place, "mount -o remount,rw small"));
    both_are_whole(&place);
    place.run("save small/repo Web01 three").ok();
    place.assert_restores("small/repo", "Web01", "three");
}
