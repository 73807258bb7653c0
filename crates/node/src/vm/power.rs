//! Starting and stopping machines.
//!
//! What a node that dies on the way leaves behind: a start leaves a machine that is off (and perhaps an engine that runs:
//! the next node takes it over) or one that runs; a stop leaves one that runs or one that is off.

use std::time::Duration;

use nestling_hypervisor::{Machine, agent::ShutdownMode};
use nestling_identity::{Action, Identity};
use nestling_model::{Operation, VmState, life::Admitted};
use tokio::time::{Instant, timeout};

use super::{owner::Owner, task::Handle};
use crate::{Node, NodeError, error::Result, home::remove_file, values::VmView};

/// As long as Stop-VM waits for a guest before it gives up.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(300);
/// A guest that is still starting misses the power button; it is pressed again.
const BUTTON_INTERVAL: Duration = Duration::from_secs(15);

impl Node {
    /// Start to RemoveSavedState of [`Operation`].
    pub async fn operate(&self, who: &Identity, vm: &str, operation: Operation) -> Result<VmView> {
        self.authorize(who, Action::OperateVm)?;
        let handle = self.vms.find(vm)?;
        handle.operate(operation).await?;
        Ok(self.view(&handle.now()))
    }
}

impl Handle {
    pub async fn operate(&self, operation: Operation) -> Result<()> {
        self.ask(operation, move |owner| {
            Box::pin(async move {
                match operation {
                    Operation::Start => owner.start().await,
                    Operation::ShutDown => owner.shut_down().await,
                    Operation::TurnOff => owner.turn_off().await,
                    Operation::Reset => owner.reset().await,
                    Operation::Pause => owner.pause().await,
                    Operation::Resume => owner.resume().await,
                    Operation::Save => owner.save().await,
                    Operation::RemoveSavedState => owner.remove_saved_state().await,
                    Operation::ModifyWhenOff | Operation::Modify | Operation::Remove => {
                        Err(NodeError::invalid("this is no operation on a machine as a whole"))
                    }
                }
            })
        })
        .await
    }
}

impl Owner {
    async fn start(&mut self) -> Result<()> {
        let Admitted::Change { during, after } = self.admit(Operation::Start)? else { return Ok(()) };
        let before = self.vm.state;
        let restore = before == VmState::Saved;
        self.enter(during);
        if let Err(error) = self.launch(restore).await {
            self.enter(before);
            return Err(error);
        }
        let stored = self.settle(after, None).await;
        if restore {
            // The guest has moved on: the state on disk must never be used again.
            remove_file(&self.files().saved())?;
        }
        stored?;
        self.node.steps.reached("started");
        Ok(())
    }

    async fn turn_off(&mut self) -> Result<()> {
        let Admitted::Change { during, after } = self.admit(Operation::TurnOff)? else { return Ok(()) };
        self.enter(during);
        self.clear_engine().await;
        self.seal_disks().await;
        self.node.steps.reached("engine ended");
        self.settle(after, None).await?;
        remove_file(&self.files().saved())
    }

    async fn shut_down(&mut self) -> Result<()> {
        let Admitted::Change { during, after } = self.admit(Operation::ShutDown)? else { return Ok(()) };
        let before = self.vm.state;
        let machine = self.machine()?.clone();
        self.enter(during);
        let asked = ask_guest(&machine).await;
        if asked.is_err() || timeout(SHUTDOWN_DEADLINE, machine.exited()).await.is_err() {
            let reason = match asked {
                Err(reason) => reason,
                Ok(()) => {
                    format!("the guest was asked, and still runs after {} s", SHUTDOWN_DEADLINE.as_secs())
                }
            };
            self.enter(before);
            return Err(NodeError::ShutDown { vm: self.named(), reason });
        }
        self.running = None;
        self.release_ports().await;
        self.seal_disks().await;
        self.settle(after, None).await
    }

    async fn reset(&mut self) -> Result<()> {
        self.admit(Operation::Reset)?;
        self.machine()?.reset().await.map_err(|e| self.refused(e))?;
        if self.vm.state == VmState::Paused {
            self.machine()?.cont().await.map_err(|e| self.refused(e))?;
            self.settle(VmState::Running, None).await?;
        }
        Ok(())
    }

    async fn pause(&mut self) -> Result<()> {
        let Admitted::Change { during, after } = self.admit(Operation::Pause)? else { return Ok(()) };
        let before = self.vm.state;
        self.enter(during);
        if let Err(error) = self.machine()?.pause().await {
            return Err(self.failed(before, error).await);
        }
        self.settle(after, None).await
    }

    async fn resume(&mut self) -> Result<()> {
        let Admitted::Change { during, after } = self.admit(Operation::Resume)? else { return Ok(()) };
        let before = self.vm.state;
        self.enter(during);
        if let Err(error) = self.machine()?.cont().await {
            return Err(self.failed(before, error).await);
        }
        self.settle(after, None).await
    }
}

/// Asks the guest to shut down: through its agent, else by the power button, which is pressed for as long as this waits.
async fn ask_guest(machine: &Machine) -> std::result::Result<(), String> {
    match machine.agent().shutdown(ShutdownMode::PowerDown).await {
        Ok(()) => return Ok(()),
        Err(_) if machine.exit_now().is_some() => return Ok(()),
        Err(error) => tracing::debug!(%error, "no shutdown through the agent; pressing the power button"),
    }
    let end = Instant::now() + SHUTDOWN_DEADLINE;
    while Instant::now() < end {
        if let Err(error) = machine.power_button().await {
            return if machine.exit_now().is_some() { Ok(()) } else { Err(error.to_string()) };
        }
        if timeout(BUTTON_INTERVAL, machine.exited()).await.is_ok() {
            return Ok(());
        }
    }
    Err(format!(
        "it has no guest agent, and does not answer the power button within {} s",
        SHUTDOWN_DEADLINE.as_secs()
    ))
}
