//! What a running machine does unasked: the node inside it comes and goes, and a disk that cannot be written stops it.

use std::sync::Arc;

use nestling_hypervisor::{ChannelState, Machine, RunState};
use nestling_model::{EventKind, Operation, VmId, VmState};
use tokio::sync::broadcast::error::RecvError;

use super::owner::Owner;
use crate::{error::Result, node::Shared};

pub const DISK_ERROR: &str =
    "one of its disks could not be read or written (is the host's disk full?); Resume-VM lets it go on";

/// Follows a machine until its engine ends.
pub fn follow(node: &Arc<Shared>, vm: VmId, machine: &Machine) {
    let (node, machine) = (Arc::clone(node), machine.clone());
    tokio::spawn(async move {
        let mut channel = machine.channel().state();
        let mut events = machine.qemu_events();
        let mut was_up = false;
        loop {
            let name = node.vms.find(&vm.0.to_string()).map(|h| h.now().vm.name.to_string());
            tokio::select! {
                _ = machine.exited() => return,
                () = node.stopping.cancelled() => return,
                changed = channel.changed() => {
                    let up = changed.is_ok() && *channel.borrow_and_update() != ChannelState::Down;
                    if let (Ok(name), true) = (name, up != was_up) {
                        let message = if up { "the node inside answers" } else { "the node inside is gone" };
                        node.events.tell(EventKind::Channel, name, message);
                    }
                    was_up = up;
                    if changed.is_err() {
                        return;
                    }
                }
                event = events.recv() => {
                    if matches!(event, Err(RecvError::Closed)) {
                        return;
                    }
                    // Events are rare, and most come with a change of what the machine does.
                    if matches!(machine.run_state().await, Ok(RunState::DiskError))
                        && let Ok(handle) = node.vms.find(&vm.0.to_string())
                    {
                        let told = handle.ask(Operation::Modify, |o| Box::pin(o.stopped_by_disk())).await;
                        if let Err(error) = told {
                            tracing::debug!(error = error.message(), "a disk error is not told");
                        }
                    }
                }
            }
        }
    });
}

impl Owner {
    async fn stopped_by_disk(&mut self) -> Result<()> {
        if self.vm.state != VmState::Running {
            return Ok(());
        }
        self.node.events.tell(EventKind::Warning, self.vm.name.as_str(), DISK_ERROR);
        self.settle(VmState::Paused, Some(DISK_ERROR.to_owned())).await
    }
}
