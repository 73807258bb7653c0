//! A run from its beginning to its end: programs of the host, the machines, copies, programs again, notices. A machine that
//! fails does not keep the others from their turn.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use nestling_model::{
    EventKind, VmPath,
    protection::{
        Consistency, DiskExclude, DiskSelector, Job, Keep, MachineRun, Message, Retention, Run, RunState,
        RunStep,
    },
};

use super::{
    copies,
    machine::{Backup, Done, Machine},
    notices,
    pace::Pace,
    proving,
    repositories::Known,
    runs::Entry,
    scripts,
};
use crate::{NodeError, error::Result, node::Shared};

/// How the machines of a run are saved.
pub struct Way {
    pub consistency: Consistency,
    pub excluded_disks: Vec<DiskExclude>,
    /// Whether all is read, whatever is known of what changed.
    pub full: bool,
    pub tags: Vec<String>,
    pub keep: Keep,
    /// Applied to each machine's points after its backup; `None`: all stay.
    pub retention: Option<Retention>,
    pub pace: Option<Arc<Pace>>,
}

/// The disks of a machine that are left out.
pub fn excluded_of(all: &[DiskExclude], path: &VmPath) -> Vec<DiskSelector> {
    let fits = |exclude: &&DiskExclude| exclude.machine.as_ref().is_none_or(|pattern| pattern.matches(path));
    all.iter().filter(fits).map(|exclude| exclude.disk.clone()).collect()
}

/// What a run is to do.
pub struct Order {
    pub known: Known,
    pub way: Way,
    /// In the order of their turns.
    pub machines: Vec<(Machine, VmPath)>,
    /// How many are saved at once.
    pub parallel: usize,
    /// What it is a run of: its programs, copies and notices.
    pub job: Option<Job>,
}

/// Conducts a run. It has ended afterwards.
pub async fn conduct(node: Arc<Shared>, entry: Arc<Entry>, order: Order) {
    let is_whole = conduct_all(&node, &entry, &order).await;
    let why = entry.why_ended();
    let now_ms = node.now_ms();
    let step = |run: &mut Run| {
        if let Some(why) = why {
            run.reason = Some(why.into());
        }
        end(run, is_whole, node.stopping.is_cancelled(), now_ms);
        run.untold = order.job.as_ref().is_some_and(|job| !job.policy.notices.is_empty());
    };
    entry.change(&node.keeper, step).await;
    tell_end(&node, &entry);
    // Others may follow it, and its own next time may have come.
    node.protection.jobs.changed.notify_one();
    node.protection.runs.forget_old().await;
    if let Some(job) = &order.job {
        notices::tell_of_run(&node, &entry, job).await;
    }
}

/// False: its copies or its last programs were cut off.
async fn conduct_all(node: &Arc<Shared>, entry: &Arc<Entry>, order: &Order) -> bool {
    let now_ms = node.now_ms();
    entry.change(&node.keeper, |run| take(run.step(RunStep::Begin, now_ms))).await;
    tell_begin(entry, order);
    let ready = match &order.job {
        Some(job) => scripts::before(node, entry, job).await,
        None => Ok(()),
    };
    match ready {
        Ok(()) => {
            let all = stream::iter(0..order.machines.len());
            all.for_each_concurrent(order.parallel, |number| conduct_machine(node, entry, order, number))
                .await;
        }
        Err(why) => {
            let now_ms = node.now_ms();
            entry.change(&node.keeper, |run| refuse(run, &why, now_ms)).await;
        }
    }
    let Some(job) = &order.job else { return true };
    let has_copied = copies::copy(node, entry, order, job).await;
    proving::prove(node, entry, order, job).await;
    scripts::after(node, entry, job).await && has_copied
}

/// There is to be no backup.
fn refuse(run: &mut Run, why: &str, now_ms: u64) {
    run.reason = Some(why.into());
    for machine in &mut run.machines {
        machine.reason = Some(why.into());
        take(machine.step(RunStep::Fail, now_ms));
    }
}

async fn conduct_machine(node: &Arc<Shared>, entry: &Arc<Entry>, order: &Order, number: usize) {
    let (machine, path) = &order.machines[number];
    entry.does(number, path, "waiting for its turn");
    let turn = tokio::select! {
        turn = node.protection.turns.take(machine.id()) => Some(turn),
        () = entry.cancel.cancelled() => None,
        () = node.stopping.cancelled() => None,
    };
    let is_stopping = node.stopping.is_cancelled();
    let now_ms = node.now_ms();
    if turn.is_none() || is_stopping || entry.cancel.is_cancelled() {
        let step = if is_stopping { RunStep::Interrupt } else { RunStep::Cancel };
        entry.change(&node.keeper, |run| take(run.machines[number].step(step, now_ms))).await;
        return entry.does_nothing(number);
    }
    entry.change(&node.keeper, |run| take(run.machines[number].step(RunStep::Begin, now_ms))).await;
    let message = format!("run {} backs it up to '{}'", entry.number(), order.known.repository.name);
    node.events.tell(EventKind::BackupStarted, path.to_string(), message);
    entry.log.say(&format!("{path}: begins"));
    let backup = Backup { node, entry, known: &order.known, way: &order.way, machine, path, number };
    let done = backup.run().await;
    tell_machine(node, path, &done);
    let now_ms = node.now_ms();
    let ended = |run: &mut Run| note(&mut run.machines[number], done, node.stopping.is_cancelled(), now_ms);
    entry.change(&node.keeper, ended).await;
    entry.does_nothing(number);
    if let Some(machine) = entry.run().machines.get(number) {
        entry.log.machine(machine);
    }
}

/// A step that the drawing does not have is a mistake of ours, and no reason to lose the run.
pub fn take(step: std::result::Result<(), nestling_model::protection::RunRefused>) {
    if let Err(error) = step {
        tracing::error!(%error, "a run went astray");
    }
}

pub fn note(machine: &mut MachineRun, done: Result<Done>, is_stopping: bool, now_ms: u64) {
    let step = match done {
        Ok(done) => {
            let step = if done.warnings.is_empty() { RunStep::Succeed } else { RunStep::SucceedWithWarnings };
            done.warnings.into_iter().for_each(|warning| machine.warnings.push(warning));
            machine.point = Some(done.point);
            machine.consistency = Some(done.consistency);
            machine.durations = done.durations;
            machine.disks = done.disks;
            machine.new_bytes = done.new_bytes;
            machine.stored_bytes = done.stored_bytes;
            step
        }
        Err(_) if is_stopping => RunStep::Interrupt,
        Err(NodeError::Cancelled) => RunStep::Cancel,
        Err(error) => {
            machine.reason = Some(Message::from(error.message()));
            RunStep::Fail
        }
    };
    take(machine.step(step, now_ms));
}

/// As its machines did; with a reason of its own it has failed. One whose copies or programs were cut off has not succeeded.
pub fn end(run: &mut Run, is_whole: bool, is_stopping: bool, now_ms: u64) {
    if is_stopping && run.machines.iter().any(|machine| !machine.state.has_ended()) {
        take(run.interrupt(now_ms));
        return;
    }
    let was_cut = !is_whole || run.machines.iter().any(|machine| machine.state == RunState::Interrupted);
    let step = match run.outcome() {
        _ if run.reason.is_some() => RunStep::Fail,
        _ if is_stopping && was_cut => RunStep::Interrupt,
        RunStep::Succeed | RunStep::SucceedWithWarnings if !is_whole => RunStep::Cancel,
        outcome => outcome,
    };
    if !is_whole && run.reason.is_none() {
        run.reason =
            Some("it was ended before its copies and programs were done; its recovery points stay".into());
    }
    take(run.step(step, now_ms));
}

fn tell_begin(entry: &Entry, order: &Order) {
    let run = entry.run();
    let of = order.job.as_ref().map(|job| format!(" of job '{}'", job.name)).unwrap_or_default();
    let names: Vec<String> = order.machines.iter().map(|(_, path)| path.to_string()).collect();
    entry.log.say(&format!(
        "run {}{of} begins, to repository '{}': {}",
        run.number,
        order.known.repository.name,
        names.join(", ")
    ));
    run.warnings.messages().iter().for_each(|warning| entry.log.say(&format!("warning: {warning}")));
}

pub fn tell_machine(node: &Shared, path: &VmPath, done: &Result<Done>) {
    let (kind, message) = match done {
        Ok(done) => (EventKind::BackupDone, format!("recovery point {}", &done.point.to_string()[..8])),
        Err(error) => (EventKind::BackupFailed, error.message()),
    };
    node.events.tell(kind, path.to_string(), message);
    for warning in done.iter().flat_map(|done| &done.warnings) {
        node.events.tell(EventKind::Warning, path.to_string(), warning.as_str());
    }
}

fn tell_end(node: &Shared, entry: &Entry) {
    let run = entry.run();
    let kind = if run.state.is_success() { EventKind::BackupDone } else { EventKind::BackupFailed };
    let of = run.job_name.as_ref().map(|job| format!(" of job {job}")).unwrap_or_default();
    node.events.tell(kind, format!("run {}{of}", run.number), run.state.as_str());
    if let Some(reason) = &run.reason {
        entry.log.say(reason.as_str());
    }
    let sum = run.totals();
    entry.log.say(&format!(
        "run {} has ended: {}; {} bytes read, {} new, {} stored",
        run.number, run.state, sum.read_bytes, sum.new_bytes, sum.stored_bytes
    ));
}

#[cfg(test)]
mod tests {
    use nestling_model::protection::{Cause, RepositoryId, RunId, Warnings};
    use uuid::Uuid;

    use super::*;

    /// How a run ends whose machine ended so.
    fn ended(machine: RunState, reason: Option<&str>, is_whole: bool, is_stopping: bool) -> RunState {
        let part = MachineRun::new("a".parse().unwrap(), nestling_model::VmId(Uuid::nil()));
        let mut run = Run {
            id: RunId(Uuid::nil()),
            number: 1,
            job: None,
            job_name: None,
            causes: vec![Cause::Person { name: "me".into() }],
            repository: RepositoryId(Uuid::nil()),
            created_at_ms: 1,
            started_at_ms: Some(1),
            ended_at_ms: None,
            state: RunState::Running,
            machines: vec![MachineRun { state: machine, ..part }],
            warnings: Warnings::default(),
            reason: reason.map(Message::from),
            untold: false,
        };
        end(&mut run, is_whole, is_stopping, 2);
        assert!(is_whole || run.reason.is_some());
        run.state
    }

    #[test]
    fn a_run_whose_copies_or_programs_were_cut_off_has_not_succeeded() {
        use RunState::{Cancelled, Failed, Interrupted, Succeeded, SucceededWithWarnings};
        for good in [Succeeded, SucceededWithWarnings] {
            assert_eq!(ended(good, None, true, false), good);
            assert_eq!(ended(good, None, true, true), good, "all was done before the node ended");
            assert_eq!(ended(good, None, false, true), Interrupted);
            assert_eq!(ended(good, None, false, false), Cancelled);
        }
        assert_eq!(ended(Failed, None, false, false), Failed);
        assert_eq!(ended(Cancelled, None, false, false), Cancelled);
        assert_eq!(ended(Succeeded, Some("the hours have begun"), false, false), Failed);
    }
}
