//! What a node finds when it starts: machines that run on, machines that ended, and machines that shall start.
//!
//! | stored          | engine found                | becomes                                              |
//! |-----------------|-----------------------------|------------------------------------------------------|
//! | any             | runs                        | Running: a start or resume is finished               |
//! | any             | stopped by a disk error     | Paused                                               |
//! | Running, Paused | stands still                | Paused                                               |
//! | Running, Paused | stands still, state written | Saved: the save is finished                          |
//! | Running         | stands still to be written  | Running: it goes on                                  |
//! | Off, Saved      | stands still                | as stored; the engine is ended: its guest never ran  |
//! | Running, Paused | none                        | Off with a reason; the start action applies          |
//! | Off, Saved      | none                        | as stored; the start action applies                  |

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use nestling_hypervisor::{Machine, RunState};
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
use crate::{error::Result, home::remove_file, node::Shared};

/// How many machines start at once on their own: enough to keep a host busy, few enough to leave it usable.
const STARTS_AT_ONCE: usize = 4;
const LOST: &str = "its engine was gone when the node started";

/// Takes over every machine of the store.
pub async fn restore(node: &Arc<Shared>, stored: Vec<Vm>, ran_before: &RanBefore) -> Result<()> {
    let mut ports = BTreeMap::new();
    let mut starts = Vec::new();
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
        } else if wants_start(&vm, before == VmState::Running || ran_before.vms.contains(&vm.id)) {
            starts.push((vm.id, Duration::from_secs(vm.start_delay_seconds.into())));
        }
        adopt(node, vm, running.clone());
        if let Some(running) = running {
            follow(node, id, &running.machine);
        }
    }
    for problem in node.networks.restore(ports).await {
        node.events.tell(EventKind::Warning, "network", problem);
    }
    // From here on, what is stored says what runs.
    if *ran_before != RanBefore::default() {
        node.keeper.put(&RanBefore::default()).await?;
    }
    start_all(node, starts);
    Ok(())
}

fn wants_start(vm: &Vm, ran: bool) -> bool {
    match vm.start_action {
        StartAction::Nothing => false,
        StartAction::StartIfRunning => ran,
        StartAction::Start => true,
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

/// The state of a machine whose engine was found. An engine stays only with a state that has one.
async fn take_over(node: &Arc<Shared>, vm: &Vm, machine: &Machine) -> Result<VmState> {
    let files = node.home.vm(vm.id);
    remove_file(&files.unfinished_save())?;
    let saved = files.saved();
    let has_run = vm.state.has_engine();
    let state = match machine.run_state().await {
        Ok(found @ (RunState::Running | RunState::DiskError)) => {
            // The guest has moved on: a state on disk must never be used again.
            remove_file(&saved)?;
            if found == RunState::Running { VmState::Running } else { VmState::Paused }
        }
        // A pause that was asked for is in the store; any other is a save that came to nothing.
        Ok(RunState::Paused) if vm.state == VmState::Running && machine.cont().await.is_ok() => {
            VmState::Running
        }
        Ok(RunState::Paused) if has_run => VmState::Paused,
        Ok(RunState::Saved) if has_run && saved.exists() => VmState::Saved,
        Ok(RunState::Saved) if vm.state == VmState::Running && machine.cont().await.is_ok() => {
            VmState::Running
        }
        // QEMU leaves this state only by running: the guest takes a few steps before it stands still again.
        Ok(RunState::Saved)
            if vm.state == VmState::Paused
                && machine.cont().await.is_ok()
                && machine.pause().await.is_ok() =>
        {
            VmState::Paused
        }
        _ if has_run => VmState::Off,
        _ => vm.state,
    };
    Ok(state)
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
