//! `kill -9` at random moments of everything that writes.

use std::{
    collections::HashMap,
    fs,
    os::unix::process::ExitStatusExt,
    process::Child,
    thread,
    time::{Duration, Instant},
};

use crate::place::{Place, Random, count, note, restic, runs, setting, wait_until};

const POINTS: usize = 4;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Work {
    Save,
    Changed,
    Prune,
    Copy,
    Forget,
    Tag,
}

const ALL: [Work; 6] = [Work::Save, Work::Changed, Work::Prune, Work::Copy, Work::Forget, Work::Tag];

/// What must be there: the instant that a point shows, and the image that it was made from.
struct Trial {
    place: Place,
    random: Random,
    reported: Vec<(String, String)>,
    /// How long each work takes once it holds its lock.
    takes: HashMap<Work, Duration>,
    images: u64,
    tags: u64,
    kills: HashMap<Work, u64>,
}

/// Kills a process; whether that was before it had ended.
fn kill(mut child: Child) -> bool {
    // By its own handle: the process is ours, and not yet waited for.
    child.kill().expect("it can be killed");
    child.wait().expect("it ends").signal() == Some(9)
}

impl Trial {
    fn new(seed: u64) -> Self {
        let place = Place::new();
        place.run("init other").ok();
        place.image("image-0", 16, seed);
        let random = Random(seed);
        let (takes, kills) = (HashMap::new(), HashMap::new());
        let mut trial = Self { place, random, reported: Vec::new(), takes, images: 0, tags: 0, kills };
        for _ in 0..2 {
            let (words, time, image) = trial.save(false);
            trial.place.run(&words).ok();
            trial.reported.push((time, image));
        }
        trial
    }

    /// A save of a new image, by its changes or as a whole.
    fn save(&mut self, changed: bool) -> (String, String, String) {
        let before = format!("image-{}", self.images);
        self.images += 1;
        let image = format!("image-{}", self.images);
        self.place.change(&before, &image, "changed.json", &mut self.random);
        if !changed {
            // More is new, so that it takes a while.
            for _ in 0..6 {
                self.place.change(&image, &image, "ignored.json", &mut self.random);
            }
        }
        let minutes = self.images;
        let time =
            format!("2026-01-{:02}T{:02}:{:02}:00Z", 1 + minutes / 1440, minutes / 60 % 24, minutes % 60);
        let hint = if changed { "--changed changed.json" } else { "" };
        (format!("save repo Web01 {image} --time {time} {hint}"), time, image)
    }

    fn words(&mut self, work: Work) -> (String, Option<(String, String)>) {
        match work {
            Work::Save | Work::Changed => {
                // Changes count from the newest image, which must have been saved.
                let newest = format!("image-{}", self.images);
                let known = self.reported.last().is_some_and(|(_, image)| *image == newest);
                let (words, time, image) = self.save(work == Work::Changed && known);
                (words, Some((time, image)))
            }
            Work::Prune => ("prune repo --max-unused 0".into(), None),
            Work::Copy => ("copy repo Web01 --to other".into(), None),
            Work::Forget => {
                let which = self.random.below(self.reported.len() as u64) as usize;
                let gone = self.reported.remove(which);
                (format!("forget repo Web01@{}", self.id("repo", &gone.0)), Some(gone))
            }
            Work::Tag => {
                let which = self.random.below(self.reported.len() as u64) as usize;
                self.tags += 1;
                let id = self.id("repo", &self.reported[which].0.clone());
                (format!("tag repo Web01@{id} --add tag-{}", self.tags), None)
            }
        }
    }

    fn id(&self, repo: &str, time: &str) -> String {
        let points = self.place.points(repo);
        let found: Vec<_> = points.iter().filter(|(_, shows)| shows == time).collect();
        assert_eq!(found.len(), 1, "{time} in {points:?}");
        found[0].0.clone()
    }

    /// Starts work, kills it, and looks at what is left. Whether it was killed before its end.
    fn round(&mut self) -> bool {
        let mut work = ALL[self.random.below(ALL.len() as u64) as usize];
        if self.reported.len() >= POINTS {
            work = Work::Forget;
        } else if self.reported.len() < 2 && work == Work::Forget {
            work = Work::Save;
        }
        let (words, about) = self.words(work);
        let locks = self.place.path("repo/locks");
        let before = count(&locks);
        let begun = Instant::now();
        let mut child = self.place.start(&words);
        if self.random.below(5) > 0 {
            wait_until("it holds its lock", || {
                count(&locks) > before || child.try_wait().expect("its state").is_some()
            });
        }
        let at_work = Instant::now();
        let takes = self.takes.get(&work).copied().unwrap_or(Duration::from_millis(300));
        let share = self.random.below(1000) as u32;
        thread::sleep(takes * share / 1000);
        let killed = kill(child);
        if killed {
            *self.kills.entry(work).or_default() += 1;
        } else {
            // It was quicker than was thought.
            self.takes.insert(work, (takes * share / 1000).max(Duration::from_millis(5)));
        }
        let context = format!("{words}, killed {:?} after its lock: {killed}", at_work - begun);
        self.look(&context);
        // Whatever was cut off is done now, with the dead process's lock still there.
        let begun = Instant::now();
        let again = self.again(work, &words, about);
        if let Some(again) = again {
            self.place.run(&again).ok();
            let took = begun.elapsed();
            let known = self.takes.entry(work).or_insert(took);
            *known = (*known + took) / 2;
        }
        killed
    }

    /// The command that does what is left to do.
    fn again(&mut self, work: Work, words: &str, about: Option<(String, String)>) -> Option<String> {
        let points = self.place.points("repo");
        let there = |time: &str| points.iter().any(|(_, shows)| shows == time);
        match (work, about) {
            (Work::Save | Work::Changed, Some((time, image))) => {
                let is_there = there(&time);
                self.reported.push((time, image));
                // The point may have been written just before the kill. Then it counts.
                // A cut off save leaves the newest point as it was, which is what the changes count from.
                (!is_there).then(|| words.to_owned())
            }
            (Work::Forget, Some((time, _))) => there(&time).then(|| words.to_owned()),
            (Work::Tag, _) => {
                let (_, id_and_rest) = words.split_once('@')?;
                let id = id_and_rest.split(' ').next()?;
                points.iter().any(|(known, _)| known == id).then(|| words.to_owned())
            }
            _ => Some(words.to_owned()),
        }
    }

    /// Everything that was reported is there once, and restores; no byte of the repository is damaged.
    fn look(&self, context: &str) {
        let points = self.place.points("repo");
        for (time, image) in &self.reported {
            let found: Vec<_> = points.iter().filter(|(_, shows)| shows == time).collect();
            assert_eq!(found.len(), 1, "{context}: {time} in {points:?}");
            self.place.assert_restores("repo", &format!("Web01@{}", found[0].0), image);
        }
        self.place.verify("repo");
    }

    fn copied(&self) {
        self.place.run("copy repo Web01 --to other").ok();
        self.place.verify("other");
        for (time, image) in &self.reported {
            self.place.assert_restores("other", &format!("Web01@{}", self.id("other", time)), image);
        }
    }

    fn check_by_restic(&self, repo: &str) {
        if runs("restic".as_ref(), "version") {
            // Not restic's unlock: it sends SIGHUP to whoever has the number of a dead process by now.
            self.place.run(&format!("unlock {repo} --all")).ok();
            self.place.run_other("restic", &format!("-r {repo} check --read-data")).ok();
        }
    }

    /// Garbage goes in the end.
    fn tidy(&self) {
        // A dead process's number may be another's by now, which only time or a person can tell.
        self.place.run("unlock repo --all").ok();
        // What was half-written is removed when it is old.
        let old =
            ["repo", "-type", "f", "-name", "*-tmp-*", "-exec", "touch", "-d", "2 hours ago", "{}", ";"];
        let aged = self.place.other("find", "").args(old).status().expect("find runs");
        assert!(aged.success());
        self.place.run("prune repo --max-unused 0").ok();
        let stats = self.place.run("--json stats repo").json();
        assert_eq!(stats["unused_bytes"], 0, "{stats}");
        for directory in ["locks", "nestling"] {
            assert_eq!(count(&self.place.path("repo").join(directory)), 0, "{directory}");
        }
        let said = self.place.run_other("find", "repo -type f -printf %f\\n").ok();
        let foreign: Vec<&str> = said
            .lines()
            .filter(|name| *name != "config" && (name.len() != 64 || name.contains('.')))
            .collect();
        assert!(foreign.is_empty(), "{foreign:?} is left");
        let plan = self.place.run("--json prune repo --dry-run").json();
        assert_eq!(plan["plan"]["unindexed_packs"], 0, "{plan}");
    }
}

#[test]
fn whatever_is_killed_loses_nothing_that_was_reported() {
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock");
    let seed = setting("NESTLING_VAULT_SEED", clock.as_millis() as u64);
    let rounds = setting("NESTLING_VAULT_KILLS", 20);
    note(&format!("NESTLING_VAULT_SEED={seed}"));
    restic("whatever_is_killed_loses_nothing_that_was_reported: the check by restic");
    let mut trial = Trial::new(seed);
    let mut kills = 0;
    while kills < rounds {
        if trial.round() {
            kills += 1;
            if kills % 10 == 0 {
                note(&format!("{kills} of {rounds}: {:?}", trial.kills));
                trial.check_by_restic("repo");
                let images: Vec<&String> = trial.reported.iter().map(|(_, image)| image).collect();
                let newest = format!("image-{}", trial.images);
                for number in 0..trial.images {
                    let name = format!("image-{number}");
                    if name != newest && !images.contains(&&name) {
                        let _ = fs::remove_file(trial.place.path(&name));
                    }
                }
            }
        }
    }
    note(&format!("killed: {:?}", trial.kills));
    trial.copied();
    trial.tidy();
    trial.look("the end");
    trial.check_by_restic("repo");
    trial.check_by_restic("other");
}
