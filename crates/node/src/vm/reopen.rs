//! What a node finds when it starts: machines that run on, machines that ended, and machines that shall start.
//!
//! What becomes of a machine whose engine is there is [`judge`]'s table. A machine that had an engine and has none is Off
//! with a reason. The start actions of machines without an engine apply: all of them when the host has started, and for
//! machines that ran a moment ago also when only the node has.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use nestling_hypervisor::{Machine, MachineError, RunState};
use nestling_model::{EventKind, Operation, StartAction, Vm, VmId, VmState};
use nestling_network::Port;
use tokio::sync::Semaphore;

use super::{
    owner::Owner,
    running::Running,
    stop::RanBefore,
    task::{Handle, Now},
    watch::follow,
};
use crate::{error::Result, facts, home::remove_file, node::Shared};

/// How many machines start at once on their own: enough to keep a host busy, few enough to leave it usable.
const STARTS_AT_ONCE: usize = 4;
const LOST: &str = "its engine was gone when the node started";

/// Takes over every machine of the store.
pub async fn restore(node: &Arc<Shared>, stored: Vec<Vm>, ran_before: &RanBefore) -> Result<()> {
    let mut ports = BTreeMap::new();
    let mut ended = Vec::new();
    // All at once: one that hangs must not hold up the others.
    let machines = join_all(stored.iter().map(|vm| find_engine(node, vm))).await;
    for (mut vm, machine) in stored.into_iter().zip(machines) {
        let (id, before) = (vm.id, vm.state);
        vm.state = match &machine {
            Some(machine) => take_over(node, &vm, machine).await?,
            None if before.has_engine() => VmState::Off,
            None => before,
        };
        if vm.state != before {
            let lost = before.has_engine() && vm.state == VmState::Off;
            vm.state_reason = lost.then(|| LOST.to_owned());
            node.keeper.put(&vm).await?;
            let kind = if lost { EventKind::VmFailed } else { EventKind::VmState };
            node.events.tell(kind, vm.name.as_str(), vm.state_reason.as_deref().unwrap_or(vm.state.as_str()));
        }
        let running = keep_or_end(node, &vm, machine).await;
        if running.is_some() {
            ports.insert(vm.id, vm.adapters.iter().map(Port::from).collect());
        } else {
            let ran = before == VmState::Running || ran_before.vms.contains(&vm.id);
            ended.push((vm.id, vm.start_action, ran, Duration::from_secs(vm.start_delay_seconds.into())));
        }
        adopt(node, vm, running.clone());
        if let Some(running) = running {
            follow(node, id, &running.machine);
        }
    }
    let restored = node.networks.restore(ports).await;
    for problem in restored.problems {
        node.events.tell(EventKind::Warning, "network", problem);
    }
    let boot = facts::boot_id();
    // A network namespace that is made anew is a start of its host too.
    let host_started = ran_before.boot != boot || restored.from_nothing;
    ended.retain(|(_, action, ran, _)| wants_start(*action, *ran, host_started));
    // From here on, what is stored says what runs.
    let now = RanBefore { vms: Vec::new(), boot };
    if *ran_before != now {
        node.keeper.put(&now).await?;
    }
    start_all(node, ended.into_iter().map(|(id, .., delay)| (id, delay)).collect());
    Ok(())
}

/// Whoever turned a machine off does not want it back because a node ended and another one came.
fn wants_start(action: StartAction, ran: bool, host_started: bool) -> bool {
    match action {
        StartAction::Nothing => false,
        StartAction::StartIfRunning => ran,
        StartAction::Start => ran || host_started,
    }
}

fn adopt(node: &Arc<Shared>, vm: Vm, running: Option<Arc<Running>>) {
    let id = vm.id;
    let first = Now { vm: Arc::new(vm.clone()), running: running.clone() };
    let owner_node = Arc::clone(node);
    let handle =
        Handle::spawn(|publish| Owner { node: owner_node, vm, running, publish, removed: false }, first);
    node.vms.insert(id, handle);
}

/// The engine that a machine has. One that does not answer is ended.
async fn find_engine(node: &Arc<Shared>, vm: &Vm) -> Option<Machine> {
    let run_dir = node.home.run(vm.id);
    // Only a machine that once had an engine has this directory: the others cost nothing here.
    if !run_dir.exists() {
        return None;
    }
    match Machine::attach(&run_dir, vm.id).await {
        Ok(found) => found,
        Err(error) => {
            node.events.tell(EventKind::Warning, vm.name.as_str(), format!("its engine is ended: {error}"));
            end_stray(node, vm).await;
            None
        }
    }
}

/// What becomes of an engine that was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// It stays as it is.
    Keep(VmState),
    /// It stands still and shall run.
    GoOn,
    /// It shall stand still, but not where it does: its state was written out.
    StandStill,
    /// It is ended.
    End(VmState),
}

/// Judges an engine by the state that is stored, by what it does (`None`: it does not answer), and by whether the file of
/// a saved state is there.
///
/// The file is whole when it is there, and nothing but a save makes it. A save stops the guest first and is noted last;
/// a start from it is noted before the file goes. So, whatever is stored:
///
/// | engine               | file  | stored          | becomes                                                     |
/// |----------------------|-------|-----------------|-------------------------------------------------------------|
/// | runs                 |       |                 | Running: a start or a resume is finished                    |
/// | stopped by a disk    |       |                 | Paused                                                      |
/// | state written        | there |                 | Saved: the save is finished                                 |
/// | state written        | none  | Paused, Saved   | Paused, in the engine: the save came to nothing             |
/// | state written        | none  | Running, Off    | Running: the same                                           |
/// | stands still         |       | Running         | Running: a save that came to nothing; pauses are noted      |
/// | stands still         | there | Saved           | Saved: the guest was brought back, and never ran            |
/// | stands still         |       | Paused, Off     | Paused; so also of Saved when the file is gone              |
/// | never ran, is broken or silent | | Running, Paused | Off: what it was is lost                                |
/// | never ran, is broken or silent | | Off, Saved  | as stored                                                   |
fn judge(stored: VmState, found: Option<&RunState>, saved: bool) -> Verdict {
    let without_engine = if stored.has_engine() { VmState::Off } else { stored };
    match (found, stored) {
        (Some(RunState::Running), _) => Verdict::Keep(VmState::Running),
        (Some(RunState::DiskError), _) => Verdict::Keep(VmState::Paused),
        (Some(RunState::Saved), _) if saved => Verdict::End(VmState::Saved),
        (Some(RunState::Saved | RunState::Saving), VmState::Paused | VmState::Saved) => Verdict::StandStill,
        (Some(RunState::Saved | RunState::Saving), _) => Verdict::GoOn,
        (Some(RunState::Paused), VmState::Saved) if saved => Verdict::End(VmState::Saved),
        (Some(RunState::Paused), VmState::Paused | VmState::Off | VmState::Saved) => {
            Verdict::Keep(VmState::Paused)
        }
        (Some(RunState::Paused), _) => Verdict::GoOn,
        (Some(RunState::Starting | RunState::Other(_)) | None, _) => Verdict::End(without_engine),
    }
}

/// Does what is to be done with an engine that was found: the machine's state. An engine stays only with a state that
/// has one.
async fn take_over(node: &Arc<Shared>, vm: &Vm, machine: &Machine) -> Result<VmState> {
    let files = node.home.vm(vm.id);
    remove_file(&files.unfinished_save())?;
    let found = machine.state_without_reader().await.ok();
    let verdict = judge(vm.state, found.as_ref(), files.saved().exists());
    if verdict != Verdict::End(VmState::Saved) {
        // A state on disk must never be used once the guest has moved on.
        remove_file(&files.saved())?;
    }
    let (state, done) = match verdict {
        Verdict::Keep(state) | Verdict::End(state) => (state, Ok(())),
        Verdict::GoOn => (VmState::Running, machine.cont().await),
        Verdict::StandStill => (VmState::Paused, stand_still(machine).await),
    };
    if let Err(error) = done {
        tracing::warn!(vm = %vm.name, %error, "an engine that was found does nothing any more");
        return Ok(VmState::Off);
    }
    Ok(state)
}

/// QEMU leaves a written state only by running: the guest takes a few steps.
async fn stand_still(machine: &Machine) -> std::result::Result<(), MachineError> {
    machine.cont().await?;
    machine.pause().await
}

async fn keep_or_end(node: &Arc<Shared>, vm: &Vm, machine: Option<Machine>) -> Option<Arc<Running>> {
    let machine = machine?;
    if vm.state.has_engine() {
        let engine = node.engines.known_kind(vm.processor.expose_virtualization_extensions);
        return Some(Arc::new(Running::new(machine, engine)));
    }
    if let Err(error) = machine.quit().await {
        tracing::warn!(vm = %vm.name, %error, "an engine does not end");
    }
    None
}

async fn end_stray(node: &Arc<Shared>, vm: &Vm) {
    if let Err(error) = Machine::kill_stray(&node.home.run(vm.id), vm.id).await {
        tracing::warn!(vm = %vm.name, %error, "an engine could not be ended");
    }
}

/// Starts machines in the background, each after its own delay.
fn start_all(node: &Arc<Shared>, starts: Vec<(VmId, Duration)>) {
    let turns = Arc::new(Semaphore::new(STARTS_AT_ONCE));
    for (id, delay) in starts {
        let (node, turns) = (Arc::clone(node), Arc::clone(&turns));
        tokio::spawn(async move {
            tokio::select! {
                () = node.stopping.cancelled() => return,
                () = tokio::time::sleep(delay) => {}
            }
            let Ok(_turn) = turns.acquire().await else { return };
            let Ok(handle) = node.vms.find(&id.0.to_string()) else { return };
            if let Err(error) = handle.operate(Operation::Start).await {
                let name = handle.now().vm.name.to_string();
                node.events.tell(EventKind::VmFailed, name, error.message());
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::{Verdict::*, *};

    /// One column for each state that may be stored, twice: without a saved file and with one.
    #[test]
    fn every_engine_that_may_be_found_has_its_verdict() {
        use VmState::{Off, Paused, Running, Saved};
        let stored = [Off, Running, Paused, Saved];
        let other = RunState::Other("guest-panicked".to_owned());
        let no_guest = [End(Off), End(Off), End(Off), End(Saved)];
        #[rustfmt::skip]
        let table = [
            (Some(RunState::Running), [Keep(Running); 4], [Keep(Running); 4]),
            (Some(RunState::DiskError), [Keep(Paused); 4], [Keep(Paused); 4]),
            (Some(RunState::Paused),
                [Keep(Paused), GoOn, Keep(Paused), Keep(Paused)],
                [Keep(Paused), GoOn, Keep(Paused), End(Saved)]),
            (Some(RunState::Saved), [GoOn, GoOn, StandStill, StandStill], [End(Saved); 4]),
            (Some(RunState::Saving), [GoOn, GoOn, StandStill, StandStill], [GoOn, GoOn, StandStill, StandStill]),
            (Some(RunState::Starting), no_guest, no_guest),
            (Some(other), no_guest, no_guest),
            (None, no_guest, no_guest),
        ];
        for (found, without, with) in table {
            for (saved, verdicts) in [(false, without), (true, with)] {
                let judged = stored.map(|stored| judge(stored, found.as_ref(), saved));
                assert_eq!(judged, verdicts, "{found:?}, saved: {saved}");
            }
        }
    }

    /// What must never happen, said without the table. States that last only while an operation runs are not stored; if
    /// one ever is, the same holds.
    #[test]
    fn no_memory_is_lost_and_no_guest_is_left_frozen() {
        let stands_still = [RunState::Paused, RunState::Saving, RunState::Saved];
        for stored in VmState::ALL {
            for (found, saved) in stands_still.iter().flat_map(|found| [(found, false), (found, true)]) {
                let verdict = judge(stored, Some(found), saved);
                let kept = !matches!(verdict, End(_)) || (verdict == End(VmState::Saved) && saved);
                let moves = match stored {
                    VmState::Running => !matches!(verdict, Keep(VmState::Paused) | StandStill),
                    VmState::Paused => !matches!(verdict, GoOn | Keep(VmState::Running)),
                    _ => true,
                };
                assert!(kept && moves, "{stored}, {found:?}, {saved}: {verdict:?}");
            }
        }
    }
}
