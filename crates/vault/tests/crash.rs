//! What is left when a process dies, a store fails or several work at once: never less than what was reported.
//!
//! Every sequence here runs on a simulated store. `NESTLING_VAULT_RUNS=N` runs N seeds instead of the usual number,
//! and `NESTLING_VAULT_SEED=S` replays one.

mod support;

use std::sync::Arc;

use nestling_vault::{
    DataCheck, Job, PruneOptions,
    storage::{Cut, Faults, FileKind, SimulatedStorage, Storage},
};
use support::{Client, Disk, Truth, at_once, seeds};

/// What is done to a repository, one after the other.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Saves a machine's disk after it changed; with or without saying what changed.
    Save {
        machine: &'static str,
        tracked: bool,
    },
    /// Forgets a machine's oldest point.
    Forget(&'static str),
    Prune,
}

const STEPS: &[Step] = &[
    Step::Save { machine: "a", tracked: false },
    Step::Save { machine: "a", tracked: true },
    Step::Save { machine: "b", tracked: false },
    Step::Forget("a"),
    Step::Prune,
    Step::Save { machine: "a", tracked: true },
    Step::Save { machine: "a", tracked: false },
    Step::Forget("a"),
    Step::Forget("b"),
    Step::Prune,
    Step::Save { machine: "b", tracked: false },
];

/// A store, the disks as they are, and what was reported so far.
#[derive(Clone)]
struct World {
    storage: Arc<SimulatedStorage>,
    truth: Truth,
    disks: [Disk; 2],
}

impl World {
    fn new(seed: u64, faults: Faults) -> Self {
        let storage = Arc::new(SimulatedStorage::new(seed, faults));
        Self { storage, truth: Truth::default(), disks: [Disk::new(seed), Disk::new(seed + 1)] }
    }

    /// The same store for a new process, and the same truth.
    fn survivors(&self) -> Self {
        Self { storage: Arc::new(self.storage.survivors()), ..self.clone() }
    }

    /// Does one step as a process of its own. What it reports is taken as true.
    fn step(&mut self, step: Step) -> Result<(), String> {
        let client = Client::open(self.storage.clone()).map_err(|error| error.to_string())?;
        match step {
            Step::Save { machine, tracked } => {
                let disk = &mut self.disks[usize::from(machine == "b")];
                disk.change();
                let id = client.save(machine, disk, tracked).map_err(|error| error.to_string())?;
                self.truth.saved(machine, id, disk.bytes());
                disk.saved();
            }
            Step::Forget(machine) => {
                // From here on it may be gone.
                if let Some(id) = self.truth.forget_oldest(machine) {
                    client.forget(id).map_err(|error| error.to_string())?;
                }
            }
            Step::Prune => client.prune().map_err(|error| error.to_string())?,
        }
        Ok(())
    }
}

/// Everything reported is whole, the next save works, and what nobody needs goes in the end.
fn check(mut world: World, context: &str) {
    let client = Client::open(world.storage.clone()).unwrap_or_else(|error| panic!("{context}: {error}"));
    client.check(&world.truth, context);
    let step = Step::Save { machine: "a", tracked: false };
    world.step(step).unwrap_or_else(|error| panic!("{context}: the next save: {error}"));
    for _ in 0..2 {
        world.step(Step::Prune).unwrap_or_else(|error| panic!("{context}: prune: {error}"));
    }
    let client = Client::open(world.storage.clone()).unwrap_or_else(|error| panic!("{context}: {error}"));
    client.check(&world.truth, context);
    let report = client.repository.verify(DataCheck::All, &client.who, &Job::default());
    assert_eq!(
        report.map(|report| report.unindexed_packs).ok(),
        Some(0),
        "{context}: packs that nobody names"
    );
    assert!(
        world.storage.list(FileKind::Extra).is_ok_and(|marks| marks.is_empty()),
        "{context}: marks are left"
    );
    assert!(client.unused_bytes() == 0, "{context}: garbage is left");
}

#[test]
fn a_crash_at_any_operation_loses_nothing_that_was_reported() {
    let mut world = World::new(1, Faults::NONE);
    Client::init(world.storage.clone()).expect("a repository");
    let mut crashes = 0;
    for (number, step) in STEPS.iter().enumerate() {
        let before = world.clone();
        let begun = world.survivors();
        world = World { storage: begun.storage.clone(), ..before.clone() };
        world.step(*step).expect("without faults every step succeeds");
        let operations = world.storage.operations();
        at_once(operations, |at| {
            for cut in Cut::ALL {
                let mut torn = before.survivors();
                torn.storage.crash_after_with(at, cut);
                let outcome = torn.step(*step);
                let context = format!("step {number} {step:?}, operation {at}, {cut:?}, {outcome:?}");
                check(torn.survivors(), &context);
            }
        });
        crashes += operations * Cut::ALL.len() as u64;
    }
    assert!(crashes > 300, "only {crashes} crashes were tried");
}

#[test]
fn a_repository_is_made_whole_or_not_at_all() {
    let whole = Arc::new(SimulatedStorage::new(1, Faults::NONE));
    Client::init(whole.clone()).expect("a repository");
    for at in 0..whole.operations() {
        for cut in Cut::ALL {
            let storage = Arc::new(SimulatedStorage::new(1, Faults::NONE));
            storage.crash_after_with(at, cut);
            let made = Client::init(storage.clone());
            let left = Arc::new(storage.survivors());
            if Client::open(left.clone()).is_err() {
                assert!(made.is_err(), "operation {at}, {cut:?}: reported, and gone");
                Client::init(left).unwrap_or_else(|error| panic!("operation {at}, {cut:?}: {error}"));
            }
        }
    }
}

/// Steps in an order, and with a store, that follow from the seed.
fn seeded(seed: u64, faults: Faults) {
    let mut random = support::Random::new(seed);
    let mut world = World::new(seed, Faults::NONE);
    Client::init(world.storage.clone()).expect("a repository");
    for round in 0..3 {
        world.storage = Arc::new(world.storage.survivors_with(seed + round, faults));
        for _ in 0..3 {
            if random.below(3) == 0 {
                world.storage.crash_after(random.below(40));
            }
            let step = STEPS[usize::try_from(random.below(STEPS.len() as u64)).expect("small")];
            // It may fail, but what it reports must hold.
            let _ = world.step(step);
            world.storage = Arc::new(world.storage.survivors_with(seed + round, faults));
        }
        let power = random.below(4) == 0;
        let left = if power { world.storage.survivors_of_power_failure() } else { world.storage.survivors() };
        world.storage = Arc::new(left);
    }
    check(world, &format!("NESTLING_VAULT_SEED={seed}"));
}

#[test]
fn a_failing_disk_loses_nothing_that_was_reported() {
    seeds(4_000, |seed| seeded(seed, Faults::DISK));
}

#[test]
fn a_bad_line_loses_nothing_that_was_reported() {
    seeds(4_000, |seed| seeded(seed, Faults::NETWORK));
}

/// Two savers and a prune at once, one of which may die.
fn together(seed: u64) {
    let mut random = support::Random::new(seed);
    let mut world = World::new(seed, Faults::NONE);
    Client::init(world.storage.clone()).expect("a repository");
    for step in [STEPS[0], STEPS[1], STEPS[2], STEPS[3]] {
        world.step(step).expect("nothing is wrong yet");
    }
    let crash = random.below(200);
    let who = random.below(6);
    let clients: Vec<Arc<SimulatedStorage>> = (0..3)
        .map(|number| {
            let storage = Arc::new(world.storage.another_client(seed + number, Faults::NONE));
            if number == who {
                storage.crash_after(crash);
            }
            storage
        })
        .collect();
    let mut disks = world.disks.clone();
    let [disk_a, disk_b] = &mut disks;
    let save = |machine: &'static str, disk: &mut Disk, storage: &Arc<SimulatedStorage>| {
        disk.change();
        let client = Client::open_alive(storage.clone()).ok()?;
        client.save(machine, disk, machine == "a").ok()
    };
    let (saved_a, saved_b) = std::thread::scope(|scope| {
        let a = scope.spawn(|| save("a", disk_a, &clients[0]));
        let b = scope.spawn(|| save("b", disk_b, &clients[1]));
        // It may find the others at work, and may die.
        let _ = Client::open_alive(clients[2].clone()).and_then(|client| client.prune());
        (a.join().expect("no panic"), b.join().expect("no panic"))
    });
    for (machine, saved, disk) in [("a", saved_a, &disks[0]), ("b", saved_b, &disks[1])] {
        if let Some(id) = saved {
            world.truth.saved(machine, id, disk.bytes());
        }
    }
    let context = format!("NESTLING_VAULT_SEED={seed}");
    let client = Client::open(world.storage.clone()).unwrap_or_else(|error| panic!("{context}: {error}"));
    client.check(&world.truth, &context);
    // Locks of the dead are those of this process, which lives; an administrator removes them.
    client.unlock();
    for _ in 0..2 {
        client.prune().unwrap_or_else(|error| panic!("{context}: {error}"));
    }
    client.check(&world.truth, &context);
    assert_eq!(client.unused_bytes(), 0, "{context}: garbage is left");
}

#[test]
fn savers_and_a_prune_at_once_lose_nothing() {
    seeds(3_000, together);
}

#[test]
fn prune_waits_for_a_saver_that_began_before_it() {
    let mut world = World::new(7, Faults::NONE);
    Client::init(world.storage.clone()).expect("a repository");
    world.step(STEPS[0]).expect("saved");
    world.step(STEPS[2]).expect("saved");
    world.step(Step::Forget("b")).expect("forgotten");
    let storage = Arc::new(world.storage.another_client(8, Faults::NONE));
    let saver = Client::open_alive(storage).expect("a saver");
    let lock = nestling_vault::RepositoryLock::shared(&saver.repository, &saver.who).expect("a lock");
    let pruner = Client::open_alive(world.storage.clone()).expect("a pruner");
    let prune = || {
        let plan = pruner
            .repository
            .prune_plan(PruneOptions::default(), &pruner.who, &Job::default())
            .expect("a plan");
        pruner.repository.prune(plan, &pruner.who, &Job::default()).expect("pruned")
    };
    let report = prune();
    assert_eq!(report.removed_packs, 0, "{report:?}");
    assert!(report.waiting_packs > 0 && report.waiting_for.len() == 1, "{report:?}");
    drop(lock);
    let report = prune();
    assert!(report.removed_packs > 0 && report.waiting_packs == 0, "{report:?}");
    pruner.check(&world.truth, "after both");
}
