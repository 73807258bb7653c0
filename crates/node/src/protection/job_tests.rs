//! Jobs by a node whose clock the test sets: what starts, when and how often, and what is left when something goes wrong.
//! What a real guest writes is the story's (`crates/cli/tests/stories/jobs.rs`).

use std::sync::Arc;

use nestling_model::{
    EventKind, JobName,
    protection::{AfterEnd, Cause, Consistency, MachineOrder, NotTracked, Objective, Run, RunState},
};
use tokio::sync::watch;

use super::{
    tests::{MIB, bitmaps, ended, good, held_at, image, prepare, reached, why, wish, with_disk, write},
    *,
};
use crate::{
    ErrorKind, Node, Settings,
    clock::Clock,
    testing::{ME, TestHome, eventually, settings},
};

/// 2033-05-18T03:30:00Z: a quarter of an hour, and behind the time at which the tests' machines are made.
pub(crate) const T0: u64 = 1_999_999_800_000;
pub(crate) const MINUTE: u64 = 60_000;

type Hands = Arc<watch::Sender<u64>>;

pub(crate) fn clock_at(now_ms: u64, settings: Settings) -> (Settings, Hands) {
    let hands = Arc::new(watch::Sender::new(now_ms));
    (Settings { clock: Clock::Set(Arc::clone(&hands)), ..settings }, hands)
}

pub(crate) fn named(name: &str) -> JobName {
    name.parse().unwrap()
}

/// All machines, whatever their guests say.
pub(crate) fn all(schedule: Option<&str>) -> JobSettings {
    JobSettings {
        include: Some(vec!["*".parse().unwrap()]),
        consistency: Some(Consistency::Crash),
        schedule: Some(schedule.map(|text| text.parse().unwrap())),
        ..JobSettings::default()
    }
}

/// Sets the clock, and looks what is due. What had begun has ended then.
async fn at(node: &Node, hands: &Hands, minutes: u64) -> Vec<Run> {
    hands.send_replace(T0 + minutes * MINUTE);
    node.shared().look().await;
    settled(node).await
}

async fn settled(node: &Node) -> Vec<Run> {
    eventually(async || node.protection.runs.all().iter().all(|entry| entry.ended.is_cancelled())).await;
    node.protection.runs.documents()
}

fn hour() -> Option<Option<Objective>> {
    Some(Some(Objective { seconds: 3600 }))
}

#[test]
fn a_job_runs_at_its_times_and_once_for_each_however_the_clock_goes() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (settings, hands) = clock_at(T0, settings());
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        let job = node.create_job(&ME, named("Quarter"), all(Some("every 15 minutes"))).await.unwrap();
        assert_eq!(job.next_ms, Some(T0 + 15 * MINUTE));
        assert_eq!(at(&node, &hands, 14).await.len(), 0);
        let first = at(&node, &hands, 15).await;
        assert_eq!(first.len(), 1);
        assert_eq!(first[0].causes, [Cause::Schedule { time_ms: T0 + 15 * MINUTE }]);
        assert_eq!(first[0].job_name, Some(named("quarter")));
        good(&first[0]);
        assert_eq!(at(&node, &hands, 16).await.len(), 1);
        assert_eq!(at(&node, &hands, 5).await.len(), 1, "a step back starts nothing again");
        let week = at(&node, &hands, 7 * 24 * 60 + 1).await;
        assert_eq!(week.len(), 2, "what was passed over is one run");
        assert_eq!(why(&week[1]), None, "only what changed is read");
        assert_eq!(
            at(&node, &hands, 60).await.len(),
            3,
            "a clock that ran ahead and is set right stops nothing"
        );
        assert_eq!(at(&node, &hands, 75).await.len(), 4);
        let view = node.job(&ME, "quarter").await.unwrap();
        assert_eq!((view.running, view.last.unwrap().number), (None, 4));
    });
}

/// By itself: nobody else looks.
#[test]
fn the_scheduler_wakes_when_a_time_comes_and_when_a_job_changes() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (settings, hands) = clock_at(T0, settings());
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        node.create_job(&ME, named("Quarter"), all(Some("every 15 minutes"))).await.unwrap();
        hands.send_replace(T0 + 15 * MINUTE);
        eventually(async || node.protection.runs.all().len() == 1).await;
        settled(&node).await;
        // It follows the other one by itself, from now on.
        hands.send_replace(T0 + 16 * MINUTE);
        let after = JobAfter { job: "quarter".to_owned(), end: AfterEnd::Success };
        let follows = JobSettings { after: Some(vec![after]), ..all(None) };
        node.create_job(&ME, named("Then"), follows).await.unwrap();
        hands.send_replace(T0 + 30 * MINUTE);
        eventually(async || node.protection.runs.all().len() == 3).await;
        let runs = settled(&node).await;
        assert!(matches!(runs[2].causes[..], [Cause::Chain { number: 2, .. }]), "{:?}", runs[2].causes);
        assert_eq!(runs[2].job_name, Some(named("Then")));
        let refused = node.remove_job(&ME, "Quarter").await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::InUse, "{}", refused.message());
        node.remove_job(&ME, "Then").await.unwrap();
        node.remove_job(&ME, "Quarter").await.unwrap();
        assert_eq!(node.runs(&ME, None, Some("then")).await.unwrap().len(), 1, "its history outlives it");
    });
}

#[test]
fn a_disk_that_does_not_answer_holds_up_no_other_job() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (settings, hands) = clock_at(T0, settings());
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        node.create_vm(&ME, with_disk(&node, "dead")).await.unwrap();
        // Who opens it to read waits for a writer.
        let dead = node.home.disks().join("dead.qcow2");
        std::fs::remove_file(&dead).unwrap();
        assert!(std::process::Command::new("mkfifo").arg(&dead).status().unwrap().success());
        let one = |schedule| JobSettings { include: Some(vec!["vm".parse().unwrap()]), ..all(schedule) };
        let by_size =
            JobSettings { order: Some(MachineOrder::SmallestFirst), ..one(Some("every 15 minutes")) };
        node.create_job(&ME, named("A"), by_size).await.unwrap();
        node.create_job(&ME, named("B"), one(Some("every 15 minutes"))).await.unwrap();
        hands.send_replace(T0 + 15 * MINUTE);
        eventually(async || !node.protection.runs.all().is_empty()).await;
        assert_eq!(node.protection.runs.documents()[0].job_name, Some(named("B")));
        drop(std::fs::File::options().read(true).write(true).open(&dead).unwrap());
        eventually(async || node.protection.runs.all().len() == 2).await;
        for run in settled(&node).await {
            good(&run);
        }
    });
}

#[test]
fn what_came_while_the_node_was_down_is_one_run_or_none() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (before, _) = clock_at(T0, settings());
    home.life_with(before, async |node| {
        prepare(&node, vaults.path()).await;
        node.create_job(&ME, named("now"), all(Some("every hour"))).await.unwrap();
        node.create_job(&ME, named("skip"), all(Some("every hour missed skip"))).await.unwrap();
        let off = JobSettings { enabled: Some(false), ..all(Some("every hour")) };
        node.create_job(&ME, named("off"), off).await.unwrap();
    });
    let (after, hands) = clock_at(T0 + 1000 * MINUTE, settings());
    home.life_with(after, async |node| {
        let runs = at(&node, &hands, 1001).await;
        let names: Vec<String> = runs.iter().flat_map(|run| &run.job_name).map(ToString::to_string).collect();
        assert_eq!(names, ["now"]);
        // Who is enabled late does not make up for what was before.
        let enabled = JobSettings { enabled: Some(true), ..JobSettings::default() };
        node.change_job(&ME, "off", None, enabled).await.unwrap();
        assert_eq!(at(&node, &hands, 1002).await.len(), 1);
        assert_eq!(at(&node, &hands, 1050).await.len(), 4, "each at its next time");
    });
}

#[test]
fn a_new_machine_joins_by_itself_and_what_is_excluded_does_not() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let rules = vec!["memory<=1GB".parse().unwrap(), "name!=*test*".parse().unwrap()];
        let by_rules = JobSettings {
            include: Some(Vec::new()),
            rules: Some(rules),
            exclude: Some(vec!["x*".parse().unwrap()]),
            ..all(None)
        };
        node.create_job(&ME, named("Rules"), by_rules).await.unwrap();
        for name in ["new", "x1", "mytest"] {
            node.create_vm(&ME, with_disk(&node, name)).await.unwrap();
        }
        let plan = node.plan_job(&ME, "rules").await.unwrap();
        let shown: Vec<String> = plan.machines.iter().map(|machine| machine.path.to_string()).collect();
        assert_eq!(shown, ["new", "vm"]);
        assert_eq!(plan.excluded, [("x1".parse().unwrap(), "x*".to_owned())]);
        assert_eq!(plan.machines[0].disks[0].why_not, Some(NotTracked::FirstPoint));
        assert_eq!((plan.problem, bitmaps(&image(&node))), (None, 0), "nothing was done");

        let begun = node.run_job(&ME, "Rules").await.unwrap();
        let run = ended(&node, begun).await;
        assert_eq!((run.machines.len(), run.state), (2, RunState::Succeeded));
        let plan = node.plan_job(&ME, "rules").await.unwrap();
        let machine = &plan.machines[1];
        assert_eq!((machine.disks[0].why_not, machine.point), (None, run.machines[1].point));
        write(&image(&node), MIB, 1);
        let touched = node.plan_job(&ME, "rules").await.unwrap();
        assert_eq!(touched.machines[1].disks[0].why_not, Some(NotTracked::BitmapMissing));
        assert_eq!(node.protection.runs.all().len(), 1, "a dry run is none");
    });
}

#[test]
fn two_jobs_want_one_machine_and_it_takes_turns() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (settings, step, go_on) = held_at("instant made");
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        for name in ["A", "B"] {
            node.create_job(&ME, named(name), all(None)).await.unwrap();
        }
        let first = node.run_job(&ME, "A").await.unwrap();
        reached(step).await;
        let second = node.run_job(&ME, "B").await.unwrap();
        let waits = async || {
            let view = node.run(&ME, "2").await.unwrap();
            view.progress.first().is_some_and(|at| at.stage == "waiting for its turn")
        };
        eventually(waits).await;
        assert_eq!(node.run_job(&ME, "A").await.unwrap_err().code(), ErrorKind::InUse, "it runs");
        assert_eq!(node.back_up(&ME, wish("vm")).await.unwrap_err().code(), ErrorKind::InUse);
        assert_eq!(node.remove_job(&ME, "B").await.unwrap_err().code(), ErrorKind::InUse);
        go_on.send(()).unwrap();
        let (first, second) = (ended(&node, first).await, ended(&node, second).await);
        assert_eq!((why(&first), why(&second)), (Some(NotTracked::FirstPoint), None));
    });
}

#[test]
fn a_run_that_waits_for_its_turn_is_stopped_at_once() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (settings, step, go_on) = held_at("instant made");
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        node.create_job(&ME, named("A"), all(None)).await.unwrap();
        assert_eq!(node.stop_job(&ME, "A").await.unwrap_err().code(), ErrorKind::InvalidState);
        let single = node.back_up(&ME, wish("vm")).await.unwrap();
        reached(step).await;
        let begun = node.run_job(&ME, "A").await.unwrap();
        node.stop_job(&ME, "A").await.unwrap();
        let stopped = ended(&node, begun).await;
        assert_eq!((stopped.state, stopped.machines[0].state), (RunState::Cancelled, RunState::Cancelled));
        go_on.send(()).unwrap();
        good(&ended(&node, single).await);
    });
}

#[test]
fn a_machine_that_is_removed_meanwhile_fails_and_the_others_do_not() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (settings, step, go_on) = held_at("instant made");
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        node.create_vm(&ME, with_disk(&node, "z")).await.unwrap();
        node.create_job(&ME, named("A"), all(None)).await.unwrap();
        let begun = node.run_job(&ME, "A").await.unwrap();
        reached(step).await;
        node.remove_vm(&ME, "z", true).await.unwrap();
        go_on.send(()).unwrap();
        let run = ended(&node, begun).await;
        assert_eq!(run.state, RunState::Failed);
        good(&run);
        let reason = run.machines[1].reason.as_ref().unwrap().to_string();
        assert!(reason.contains("unable to find a virtual machine with name \"z\""), "{reason}");
        let next = node.run_job(&ME, "A").await.unwrap();
        assert_eq!(ended(&node, next).await.machines.len(), 1, "it has left the job");
    });
}

#[test]
fn machines_are_saved_side_by_side() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        for name in ["b", "c"] {
            node.create_vm(&ME, with_disk(&node, name)).await.unwrap();
        }
        let two = JobSettings { parallel: Some(2), ..all(None) };
        node.create_job(&ME, named("A"), two).await.unwrap();
        let begun = node.run_job(&ME, "A").await.unwrap();
        let run = ended(&node, begun).await;
        assert_eq!(run.state, RunState::Succeeded);
        let spans: Vec<_> = run.machines.iter().map(|m| (m.started_at_ms, m.ended_at_ms)).collect();
        assert!(spans[1].0 < spans[0].1, "the second began before the first had ended: {spans:?}");
        assert!(spans[2].0 >= spans[0].1.min(spans[1].1), "and the third after one of them: {spans:?}");
    });
}

#[test]
fn a_run_ends_when_the_hours_come_in_which_nothing_runs() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (held, step, go_on) = held_at("instant made");
    let (settings, hands) = clock_at(T0, held);
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        let schedule = "every 15 minutes except 03:50-04:10";
        node.create_job(&ME, named("A"), all(Some(schedule))).await.unwrap();
        hands.send_replace(T0 + 15 * MINUTE);
        reached(step).await;
        hands.send_replace(T0 + 20 * MINUTE);
        node.shared().look().await;
        go_on.send(()).unwrap();
        let run = settled(&node).await.remove(0);
        assert_eq!((run.state, run.machines[0].state), (RunState::Failed, RunState::Cancelled));
        assert!(run.reason.unwrap().as_str().contains("hours"));
        assert_eq!(at(&node, &hands, 35).await.len(), 1);
        assert_eq!(at(&node, &hands, 45).await.len(), 2, "afterwards it goes on");
    });
}

#[test]
fn a_missed_objective_is_told_once_and_shown_until_it_is_kept() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (settings, hands) = clock_at(T0, settings());
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        let mut events = node.events(&ME).unwrap();
        let job = JobSettings { objective: hour(), ..all(None) };
        node.create_job(&ME, named("A"), job).await.unwrap();
        let mut warned = async |minutes| {
            at(&node, &hands, minutes).await;
            let mut count = 0;
            while let Ok(event) = events.try_recv() {
                count += usize::from(event.kind == EventKind::Warning && event.message.contains("objective"));
            }
            (count, node.job(&ME, "A").await.unwrap().missed.len())
        };
        assert_eq!(warned(60).await, (0, 0), "it has the whole time for its first point");
        assert_eq!(warned(61).await, (1, 1));
        assert_eq!(warned(90).await, (0, 1), "told already");
        let begun = node.run_job(&ME, "A").await.unwrap();
        good(&ended(&node, begun).await);
        assert_eq!(warned(100).await, (0, 0));
        assert_eq!(warned(151).await, (1, 1), "and again");
    });
}
