//! The end of a capture, in whatever state it is: finished, failed, cut short by its machine, or left by a dead node.
//!
//! What there is to be removed is asked of QEMU each time, never remembered, so that every step may fail and be done again.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde_json::json;
use tokio::sync::MutexGuard as TurnGuard;

use super::{
    BitmapName, CaptureError, DiskPlace, Held, Outcome, Whole,
    answers::{self, Node},
    bitmaps, names, probe,
};
use crate::{Machine, MachineError, RunState, qmp::QmpError};

/// What [`Machine::clear_captures`] found of a capture whose node has died.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Whether there was anything.
    pub found: bool,
    /// Whether the guest stood still for the instant, and goes on now.
    pub resumed: bool,
}

/// The captures of one machine. At most one is under way.
#[derive(Debug, Default)]
pub(crate) struct Captures {
    turn: tokio::sync::Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: u64,
    active: Option<Active>,
    /// The last one that was ended by its machine, and why.
    ended: Option<(u64, String)>,
}

#[derive(Debug)]
struct Active {
    number: u64,
    disks: Vec<DiskPlace>,
}

impl Captures {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Held by whoever begins or ends one.
    pub(super) async fn turn(&self) -> TurnGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(super) fn is_active(&self) -> bool {
        self.state().active.is_some()
    }

    pub(super) fn activate(&self, disks: Vec<DiskPlace>) -> u64 {
        let mut state = self.state();
        state.last += 1;
        state.active = Some(Active { number: state.last, disks });
        state.last
    }

    /// Whether a capture that is under way has this disk.
    pub(crate) fn has(&self, disk: DiskPlace) -> bool {
        self.state().active.as_ref().is_some_and(|active| active.disks.contains(&disk))
    }

    /// Whether this one is still under way. One that its machine is taking down is not: what fails for a reader then,
    /// fails for that.
    pub(super) fn check(&self, number: u64) -> Result<(), CaptureError> {
        match self.why_ended(number) {
            Some(why) => Err(CaptureError::Ended { why }),
            None if self.is_held(number) => Ok(()),
            None => Err(CaptureError::Ended { why: "its machine was found again".to_owned() }),
        }
    }

    /// Whether something of this one may be left in the engine.
    fn is_held(&self, number: u64) -> bool {
        self.state().active.as_ref().is_some_and(|active| active.number == number)
    }

    fn forget(&self, number: u64) {
        let mut state = self.state();
        state.active.take_if(|active| active.number == number);
    }

    fn why_ended(&self, number: u64) -> Option<String> {
        let state = self.state();
        let ended = state.ended.as_ref().filter(|(ended, _)| *ended == number);
        ended.map(|(_, why)| why.clone())
    }
}

pub(super) async fn finish(held: &mut Held, outcome: &Outcome) -> Result<(), CaptureError> {
    if held.finished {
        return Ok(());
    }
    let removed = match outcome {
        Outcome::Durable { whole, .. } if *whole != proof(held) => return Err(CaptureError::OtherProof),
        Outcome::Durable { remove, .. } => remove,
        Outcome::Failed => &held.begun,
    };
    give_back(&held.machine, held.number, removed).await?;
    held.finished = true;
    Ok(())
}

async fn give_back(
    machine: &Machine,
    number: u64,
    removed: &[(DiskPlace, BitmapName)],
) -> Result<(), CaptureError> {
    let captures = machine.captures();
    let _turn = captures.turn().await;
    if captures.is_held(number) {
        tear_down(machine).await?;
        captures.state().active = None;
    }
    bitmaps::remove(machine, removed).await
}

/// A capture that nobody holds any more has failed.
pub(super) fn dropped(held: &mut Held) {
    // Without a runtime the process is ending, and the next one clears up.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    if held.finished {
        return;
    }
    let (machine, number, begun) = (held.machine.clone(), held.number, std::mem::take(&mut held.begun));
    runtime.spawn(async move {
        match give_back(&machine, number, &begun).await {
            Ok(()) | Err(CaptureError::Gone(_)) => {}
            Err(error) => {
                tracing::warn!(%error, "a capture that was dropped could not be ended; the next one clears up");
                machine.captures().forget(number);
            }
        }
    });
}

pub(super) async fn by_machine(machine: &Machine, why: &str) -> Result<(), CaptureError> {
    let captures = machine.captures();
    let _turn = captures.turn().await;
    let active = captures.state().active.as_ref().map(|active| active.number);
    let Some(number) = active else { return Ok(()) };
    // Said first: readers see their end before this one is reached.
    captures.state().ended = Some((number, why.to_owned()));
    tear_down(machine).await?;
    captures.state().active = None;
    Ok(())
}

fn proof(held: &Held) -> Whole {
    Whole { vm: held.machine.vm_id(), number: held.number }
}

pub(super) async fn whole(held: &Held, socket: &Path) -> Result<Whole, CaptureError> {
    let alive = || match held.machine.exit_now() {
        Some(exit) => Err(CaptureError::Gone(exit.reason)),
        None => held.machine.captures().check(held.number),
    };
    alive()?;
    for file in &held.files {
        match probe::can_be_read(socket, &file.disk().whole()).await {
            Ok(true) => {}
            Ok(false) => return Err(file.why_not()),
            Err(error) => {
                // It may have ended meanwhile, which is the better news.
                alive()?;
                return Err(CaptureError::Unknown { disk: file.disk(), source: error });
            }
        }
    }
    Ok(proof(held))
}

pub(super) async fn clear(machine: &Machine) -> Result<Cleared, CaptureError> {
    let captures = machine.captures();
    let _turn = captures.turn().await;
    if captures.is_active() {
        return Err(CaptureError::Busy);
    }
    tear_down(machine).await
}

/// Lets the guest go on if it still stands still for an instant. Says whether it did.
pub(super) async fn go_on(machine: &Machine) -> Result<bool, CaptureError> {
    let stands = machine.run_state().await? == RunState::Paused;
    if stands {
        machine.cont().await?;
    }
    delete(machine, names::STOPPED).await?;
    Ok(stands)
}

/// Removes all that captures have made, bitmaps that were begun excepted.
pub(super) async fn tear_down(machine: &Machine) -> Result<Cleared, CaptureError> {
    let nodes = answers::nodes(machine).await?;
    let mut cleared = Cleared::default();
    if nodes.iter().any(|n| n.node_name == names::STOPPED) {
        cleared.resumed = go_on(machine).await?;
    }
    cleared.found = nodes.iter().any(Node::is_of_a_capture);
    if nodes.iter().any(|n| n.node_name == names::SERVER) {
        stop_serving(machine).await?;
    }
    if cleared.found {
        remove_nodes(machine, &nodes).await?;
    }
    for (disk, node) in answers::disks(&nodes) {
        let copy = disk.changed();
        if node.bitmap(&copy).is_some() {
            cleared.found = true;
            let copy = json!({"node": node.node_name, "name": copy});
            machine.execute("block-dirty-bitmap-remove", copy).await?;
        }
    }
    for job in answers::jobs(machine).await? {
        if job.id.starts_with(names::PREFIX) && job.status == "concluded" {
            machine.execute("job-dismiss", json!({"id": job.id})).await?;
        }
    }
    for set in answers::fd_sets(machine).await?.iter().filter(|set| set.is_of_a_capture()) {
        machine.execute("remove-fd", json!({"fdset-id": set.fdset_id})).await?;
    }
    Ok(cleared)
}

/// Ends all exports and connections.
async fn stop_serving(machine: &Machine) -> Result<(), CaptureError> {
    match machine.execute("nbd-server-stop", json!({})).await {
        Err(MachineError::Qmp(QmpError::Refused { reason, .. })) if reason.contains("not running") => {}
        stopped => drop(stopped?),
    }
    // QEMU removes it itself, unless something went wrong.
    std::fs::remove_file(machine.nbd_socket()).ok();
    delete(machine, names::SERVER).await
}

/// From the readers' side to the disks': a node goes when nothing is left that uses it.
async fn remove_nodes(machine: &Machine, nodes: &[Node]) -> Result<(), CaptureError> {
    let there = |name: &String| nodes.iter().any(|n| n.node_name == *name);
    let places: Vec<DiskPlace> = answers::disks(nodes).into_iter().map(|(disk, _)| disk).collect();
    for name in places.iter().map(|disk| disk.view()).filter(there) {
        delete(machine, &name).await?;
    }
    for device in answers::devices(machine).await? {
        if let Some(disk) = places.iter().find(|disk| disk.filter() == device.node) {
            let value = json!({"path": device.path, "property": "drive", "value": disk.node()});
            machine.execute("qom-set", value).await?;
        }
    }
    for disk in &places {
        for name in [disk.filter(), disk.kept(), disk.room(), disk.file()].iter().filter(|name| there(name)) {
            delete(machine, name).await?;
        }
    }
    Ok(())
}

pub(super) async fn delete(machine: &Machine, node: &str) -> Result<(), CaptureError> {
    Ok(machine.execute("blockdev-del", json!({"node-name": node})).await.map(drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capture_that_its_machine_takes_down_is_over_before_it_is_gone() {
        let captures = Captures::default();
        let number = captures.activate(Vec::new());
        captures.check(number).unwrap();
        captures.state().ended = Some((number, "the virtual machine was saved".to_owned()));
        let over = captures.check(number).unwrap_err();
        assert!(matches!(&over, CaptureError::Ended { why } if why.contains("saved")), "{over}");
        assert!(captures.is_held(number), "what it made is still to be removed");
        assert_eq!(captures.activate(Vec::new()), number + 1);
        captures.check(number + 1).unwrap();
    }
}
