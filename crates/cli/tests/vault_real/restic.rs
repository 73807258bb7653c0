//! A stock restic at work on the same repository, before, after and at the same time.

use std::{fs, path::Path, process::Stdio, thread, time::Duration};

use crate::place::{Place, Random, Said, count, first_line, restic, wait_until};

/// The repository with a restic beside.
struct Shared {
    place: Place,
    program: std::path::PathBuf,
}

impl Shared {
    fn new(test: &str) -> Option<Self> {
        let program = restic(test)?;
        Some(Self { place: Place::new(), program })
    }

    #[track_caller]
    fn restic(&self, words: &str) -> Said {
        self.place.run_other(&self.program, &format!("-r repo {words}"))
    }

    /// Files of restic's own snapshot, some of which have the same bytes as our disks.
    fn files(&self) {
        fs::create_dir_all(self.place.path("files/deep")).expect("a directory");
        for (name, seed) in [("a", 90), ("deep/b", 91)] {
            self.place.image(&format!("files/{name}"), 4, seed);
        }
        fs::copy(self.place.path("one"), self.place.path("files/one")).expect("a copy");
    }

    /// restic restores its snapshot as it was.
    #[track_caller]
    fn assert_files(&self, host: &str) {
        let target = self.place.path("restored");
        let _ = fs::remove_dir_all(&target);
        self.restic(&format!("restore latest --host {host} --target restored")).ok();
        let found = self.place.run_other("find", "restored -type d -name files").ok();
        let found = found.lines().next().expect("the folder").to_owned();
        self.place.run_other("diff", &format!("-r files {found}")).ok();
        fs::remove_dir_all(target).expect("it is there");
    }

    /// restic restores a point of ours: its parts make the disk.
    #[track_caller]
    fn assert_disk(&self, id: &str, name: &str, image: &str) {
        let _ = fs::remove_dir_all(self.place.path("parts"));
        self.restic(&format!("restore {id} --target parts")).ok();
        let join = format!(
            "find parts/{name}/disk0 -name data -print0 | LC_ALL=C sort -z | xargs -0 cat | \
             dd of=joined bs=1M iflag=fullblock conv=sparse status=none"
        );
        let mut shell = self.place.other("sh", "-c");
        Said::from(shell.arg(join).output().expect("a shell")).ok();
        self.place.assert_same("joined", image);
    }

    /// What both say about the repository.
    #[track_caller]
    fn assert_whole(&self, points: &[(&str, &str)]) {
        self.restic("check --read-data").ok();
        self.place.verify("repo");
        let listed = self.restic("snapshots").ok();
        for (name, image) in points {
            assert!(listed.contains(&format!("/{name}")), "{name} in {listed}");
            self.place.assert_restores("repo", name, image);
            let points = self.place.run(&format!("--json points repo {name}")).ok();
            let newest: serde_json::Value =
                serde_json::from_str(points.lines().last().expect("a point")).expect("an object");
            self.assert_disk(newest["id"].as_str().expect("an id"), name, image);
        }
    }
}

#[test]
fn restic_and_we_use_one_repository_in_turns() {
    let Some(shared) = Shared::new("restic_and_we_use_one_repository_in_turns") else { return };
    let place = &shared.place;
    place.image("one", 12, 1);
    place.run("save repo Lab/Web01 one --time 2026-01-01T00:00:00Z").ok();
    shared.files();
    shared.restic("backup --host mine files").ok();
    shared.assert_files("mine");
    let mut random = Random(5);
    place.change("one", "two", "changed.json", &mut random);
    place.run("save repo Lab/Web01 two --changed changed.json").ok();
    place.run("save repo Other one --tag x").ok();
    shared.assert_whole(&[("Lab/Web01", "two"), ("Other", "one")]);

    // restic forgets its own and prunes; ours stay.
    shared.restic("backup --host gone files/a").ok();
    shared.restic("forget --host gone --keep-tag nothing --keep-last 1 --prune").ok();
    let gone = shared.restic("snapshots --json --host gone").ok();
    let gone: serde_json::Value = serde_json::from_str(gone.trim()).expect("JSON");
    shared.restic(&format!("forget {} --prune", gone[0]["id"].as_str().expect("an id"))).ok();
    shared.assert_whole(&[("Lab/Web01", "two"), ("Other", "one")]);
    shared.assert_files("mine");

    // We forget, change tags and prune with copying; restic's stays.
    place.run("tag repo Other --add later --remove x").ok();
    place.run("pin repo Other").ok();
    shared.assert_whole(&[("Lab/Web01", "two"), ("Other", "one")]);
    place.image("three", 8, 77);
    place.run("save repo Lab/Web01 three").ok();
    place.run("forget repo Lab/Web01 --keep-last 1").ok();
    place.run("unpin repo Other").ok();
    let other = place.run("--json show repo Other").json();
    place.run(&format!("forget repo Other@{}", other["id"].as_str().expect("an id"))).ok();
    let pruned = place.run("--json prune repo --max-unused 0").json();
    assert!(pruned["plan"]["repacked_packs"].as_u64() > Some(0), "{pruned}");
    shared.assert_whole(&[("Lab/Web01", "three")]);
    shared.assert_files("mine");
    mended_and_copied(&shared);
}

/// The rarer works: restic finds all of it right.
fn mended_and_copied(shared: &Shared) {
    let place = &shared.place;
    for file in fs::read_dir(place.path("repo/index")).expect("the index") {
        fs::remove_file(file.expect("an entry").path()).expect("removed");
    }
    place.run("rebuild-index repo").ok();
    shared.assert_whole(&[("Lab/Web01", "three")]);
    shared.assert_files("mine");
    place.run("init other").ok();
    place.run("copy repo --to other").ok();
    place.run_other(&shared.program, "-r other check --read-data").ok();
    place.assert_restores("other", "Lab/Web01", "three");

    damage(&place.path("other"));
    assert_eq!(place.run("repair other").status, Some(3));
    place.run_other(&shared.program, "-r other check --read-data").ok();
    place.verify("other");
    // What was lost is whole again with the next copy from a healthy one, or the next save.
    place.run("save other Lab/Web01 three").ok();
    place.assert_restores("other", "Lab/Web01", "three");
    place.run_other(&shared.program, "-r other check --read-data").ok();
}

/// Some bytes of the largest pack.
fn damage(repo: &Path) {
    use std::os::unix::fs::{FileExt, PermissionsExt};
    let folders =
        fs::read_dir(repo.join("data")).expect("packs").map(|entry| entry.expect("an entry").path());
    let packs =
        folders.flat_map(|folder| fs::read_dir(folder).expect("packs")).map(|e| e.expect("an entry").path());
    let pack = packs.max_by_key(|path| path.metadata().expect("a pack").len()).expect("a pack");
    fs::set_permissions(&pack, fs::Permissions::from_mode(0o600)).expect("writable");
    let file = fs::OpenOptions::new().write(true).open(&pack).expect("a pack");
    file.write_all_at(b"damage", 5000).expect("written");
}

#[test]
fn whoever_is_at_work_keeps_the_other_out() {
    let Some(shared) = Shared::new("whoever_is_at_work_keeps_the_other_out") else { return };
    let place = &shared.place;
    place.image("one", 12, 1);
    place.run("save repo Web01 one").ok();
    shared.files();
    shared.restic("backup --host mine files").ok();

    // Our save is at work: restic must not prune, and may back up.
    place.image("slow", 40, 3);
    let mut saving = place.start("save repo Web01 slow --bwlimit 1MB");
    wait_until("it holds its lock", || count(&place.path("repo/locks")) > 0);
    let refused = shared.restic("prune");
    assert!(refused.status != Some(0) && refused.talk.contains("already locked"), "{}", refused.talk);
    shared.restic("backup --host mine files").ok();
    // It looks whether the holder is alive by a signal that would end most programs.
    shared.restic("unlock").ok();
    assert_eq!(count(&place.path("repo/locks")), 1);
    assert!(saving.try_wait().expect("its state").is_none(), "it was at work all the while");
    saving.kill().expect("it is ours");
    saving.wait().expect("it ends");

    // restic checks, and so holds an exclusive lock: our save is refused and says by whom.
    place.run("unlock repo --all").ok();
    let mut check = place.other(&shared.program, "-r repo check --read-data --limit-download 64");
    let mut check = check.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("restic runs");
    let line = first_line(&mut check);
    wait_until("restic holds its lock", || count(&place.path("repo/locks")) > 0);
    thread::sleep(Duration::from_millis(100));
    assert!(check.try_wait().expect("its state").is_none(), "it is at work: {line}");
    let pid = format!("process {}", check.id());
    for words in ["save repo Web01 one", "prune repo", "forget repo Web01 --keep-last 1"] {
        place.run(words).failed(&["locked", &pid]);
    }
    check.kill().expect("it is ours");
    check.wait().expect("it ends");
    // A dead process's lock. Machines may share a name, so it is passed by only when somebody says so, as with restic.
    place.run("save repo Web01 one").failed(&["locked", &pid, "nestling vault unlock"]);
    place.run("unlock repo").ok();
    place.run("save repo Web01 one").ok();
    place.run("prune repo").ok();
    place.run("unlock repo --all").ok();
    shared.assert_whole(&[("Web01", "one")]);
    shared.assert_files("mine");
}
