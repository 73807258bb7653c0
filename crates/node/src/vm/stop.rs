//! The host goes down: machines are stopped as each wishes, and which of them ran is remembered.
//!
//! A node that merely ends stops nothing. The note of who ran is written before anything is stopped, so that a host that
//! loses its power meanwhile starts the same machines.

use std::time::Duration;

use futures_util::future::join_all;
use nestling_identity::{Action, Identity};
use nestling_model::{Operation, StopAction, VmId, VmState};
use nestling_store::Document;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::task::Handle;
use crate::{Node, error::Result};

/// What a host's start has to know of the host's life before it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RanBefore {
    /// Machines that ran when the host went down.
    pub vms: Vec<VmId>,
    /// The boot in which a node of this home ran last; empty once that host went down.
    #[serde(default)]
    pub boot: String,
}

impl Document for RanBefore {
    const KIND: &'static str = "ran-before";
    fn id(&self) -> String {
        "ran-before".to_owned()
    }
}

impl Node {
    /// Stops every machine by its stop action; what is not done in time has its power cut.
    pub async fn stop_machines(&self, who: &Identity, patience: Duration) -> Result<()> {
        self.authorize(who, Action::StopNode)?;
        let mut handles = self.vms.handles();
        handles.retain(|handle| handle.now().vm.state.has_engine());
        let ran = handles.iter().map(|h| h.now().vm).filter(|vm| vm.state != VmState::Paused);
        self.keeper.put(&RanBefore { vms: ran.map(|vm| vm.id).collect(), boot: String::new() }).await?;
        join_all(handles.iter().map(|handle| stop(handle, patience))).await;
        Ok(())
    }
}

/// Stops a machine as it wishes. One that cannot be saved is shut down: its guest loses nothing by that.
async fn by_its_action(handle: &Handle, action: StopAction) -> Result<()> {
    match action {
        StopAction::Save => {
            let Err(error) = handle.operate(Operation::Save).await else { return Ok(()) };
            let vm = handle.now().vm;
            if !vm.state.has_engine() {
                return Err(error);
            }
            tracing::warn!(vm = %vm.name, error = error.message(), "it cannot be saved, and is shut down");
            handle.operate(Operation::ShutDown).await
        }
        StopAction::ShutDown => handle.operate(Operation::ShutDown).await,
        StopAction::TurnOff => handle.operate(Operation::TurnOff).await,
    }
}

async fn stop(handle: &Handle, patience: Duration) {
    let vm = handle.now().vm;
    let asked = timeout(patience, by_its_action(handle, vm.stop_action));
    match asked.await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => tracing::warn!(vm = %vm.name, error = error.message(), "its power is cut"),
        Err(_) => tracing::warn!(vm = %vm.name, "it takes too long, and its power is cut"),
    }
    if let Err(error) = handle.operate(Operation::TurnOff).await {
        tracing::error!(vm = %vm.name, error = error.message(), "it could not be turned off");
    }
}
