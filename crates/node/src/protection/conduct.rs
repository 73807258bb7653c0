//! A run from its beginning to its end: one machine after the other. A machine that fails does not keep the next ones
//! from their turn.

use std::sync::Arc;

use futures_util::FutureExt;
use nestling_model::{
    EventKind, VmPath,
    protection::{MachineRun, Message, Run, RunState, RunStep},
};

use super::{
    machine::{Backup, Done},
    repositories::Known,
    runs::Entry,
    values::BackupWish,
};
use crate::{NodeError, clock::now_ms, error::Result, node::Shared, vm::Handle};

/// What a run is to do.
pub struct Order {
    pub known: Known,
    pub wish: BackupWish,
    pub machines: Vec<(Arc<Handle>, VmPath)>,
}

/// Conducts a run. Whatever happens, it has ended afterwards.
pub async fn conduct(node: Arc<Shared>, entry: Arc<Entry>, order: Order) {
    let work = std::panic::AssertUnwindSafe(conduct_machines(&node, &entry, &order)).catch_unwind();
    let failed = work.await.is_err();
    let step = |run: &mut Run| {
        if failed {
            run.reason = Some("an internal step of the run ended early; the node's log says more".into());
        }
        end(run, failed, node.stopping.is_cancelled());
    };
    entry.change(&node.keeper, step).await;
    tell_end(&node, &entry.run());
    node.protection.runs.forget_old().await;
}

async fn conduct_machines(node: &Arc<Shared>, entry: &Arc<Entry>, order: &Order) {
    entry.change(&node.keeper, |run| take(run.step(RunStep::Begin, now_ms()))).await;
    for (number, (handle, path)) in order.machines.iter().enumerate() {
        let is_stopping = node.stopping.is_cancelled();
        if is_stopping || entry.cancel.is_cancelled() {
            let step = if is_stopping { RunStep::Interrupt } else { RunStep::Cancel };
            entry.change(&node.keeper, |run| take(run.machines[number].step(step, now_ms()))).await;
            continue;
        }
        entry.change(&node.keeper, |run| take(run.machines[number].step(RunStep::Begin, now_ms()))).await;
        let message = format!("run {} backs it up to '{}'", entry.run().number, order.known.repository.name);
        node.events.tell(EventKind::BackupStarted, path.to_string(), message);
        let backup = Backup { node, entry, known: &order.known, wish: &order.wish, handle, path, number };
        let done = backup.run().await;
        tell_machine(node, path, &done);
        entry
            .change(&node.keeper, |run| note(&mut run.machines[number], done, node.stopping.is_cancelled()))
            .await;
        entry.does_nothing();
    }
}

/// A step that the drawing does not have is a mistake of ours, and no reason to lose the run.
fn take(step: std::result::Result<(), nestling_model::protection::RunRefused>) {
    if let Err(error) = step {
        tracing::error!(%error, "a run went astray");
    }
}

fn note(machine: &mut MachineRun, done: Result<Done>, is_stopping: bool) {
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
    take(machine.step(step, now_ms()));
}

fn end(run: &mut Run, failed: bool, is_stopping: bool) {
    if (is_stopping || failed) && run.machines.iter().any(|machine| !machine.state.has_ended()) {
        take(run.interrupt(now_ms()));
        return;
    }
    let step = if failed {
        RunStep::Fail
    } else if is_stopping && run.machines.iter().any(|machine| machine.state == RunState::Interrupted) {
        RunStep::Interrupt
    } else {
        run.outcome()
    };
    take(run.step(step, now_ms()));
}

fn tell_machine(node: &Shared, path: &VmPath, done: &Result<Done>) {
    let (kind, message) = match done {
        Ok(done) => (EventKind::BackupDone, format!("recovery point {}", &done.point.to_string()[..8])),
        Err(error) => (EventKind::BackupFailed, error.message()),
    };
    node.events.tell(kind, path.to_string(), message);
    for warning in done.iter().flat_map(|done| &done.warnings) {
        node.events.tell(EventKind::Warning, path.to_string(), warning.as_str());
    }
}

fn tell_end(node: &Shared, run: &Run) {
    let kind = if run.state.is_success() { EventKind::BackupDone } else { EventKind::BackupFailed };
    node.events.tell(kind, format!("run {}", run.number), run.state.as_str());
}
