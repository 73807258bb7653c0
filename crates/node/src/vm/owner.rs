//! A machine in the hands of its task.

use std::{sync::Arc, time::Duration};

use nestling_hypervisor::{Exit, ExitKind, LaunchSpec, Machine, MachineError, Qemu, SaveError, disk};
use nestling_model::{EventKind, Operation, Vm, VmState, life::Admitted};
use nestling_network::Port;
use tokio::{sync::watch, time::timeout};

use super::{
    running::Running,
    task::{Asked, Now},
    watch::follow,
};
use crate::{
    NodeError,
    engine::kind,
    error::{Named, Result},
    facts,
    home::VmFiles,
    node::Shared,
};

/// What a machine needs beside its guest's memory.
const OVERHEAD_BYTES: u64 = 48 << 20;
/// From a monitor's end to its process's.
const END_NOTICED: Duration = Duration::from_secs(5);

pub struct Owner {
    pub node: Arc<Shared>,
    pub vm: Vm,
    pub running: Option<Arc<Running>>,
    pub publish: watch::Sender<Now>,
    /// The machine is no more; the task ends.
    pub removed: bool,
}

impl Owner {
    pub fn named(&self) -> Named {
        Named { name: self.vm.name.clone(), id: self.vm.id }
    }

    pub fn files(&self) -> VmFiles {
        self.node.home.vm(self.vm.id)
    }

    /// Judges an operation by the state.
    pub fn admit(&self, operation: Operation) -> Result<Admitted> {
        nestling_model::life::admit(self.vm.state, operation)
            .map_err(|_| Asked::from(operation).refuse(&self.vm, self.vm.state))
    }

    /// Shows a state that lasts while an operation runs. It is not made durable: a node that dies finds the machine in
    /// the state before, or in the one after.
    pub fn enter(&mut self, state: VmState) {
        self.vm.state = state;
        self.show();
    }

    pub fn show(&self) {
        let now = Now { vm: Arc::new(self.vm.clone()), running: self.running.clone() };
        self.publish.send_replace(now);
    }

    /// Makes a definition durable, then shows it.
    pub async fn commit(&mut self, vm: Vm) -> Result<()> {
        self.node.keeper.put(&vm).await?;
        self.vm = vm;
        self.show();
        Ok(())
    }

    /// Ends an operation in a state that lasts. The state is a fact, so it is shown even when it cannot be made durable;
    /// the next node then finds out anew (see `reopen`).
    pub async fn settle(&mut self, state: VmState, reason: Option<String>) -> Result<()> {
        self.vm.state = state;
        self.vm.state_reason = reason;
        let stored = self.node.keeper.put(&self.vm).await;
        self.show();
        stored?;
        self.node.events.tell(EventKind::VmState, self.vm.name.as_str(), state.as_str());
        Ok(())
    }

    /// The engine, of a machine that has one.
    pub fn machine(&self) -> Result<&Machine> {
        self.running.as_ref().map(|r| &r.machine).ok_or_else(|| NodeError::NoEngine(self.vm.name.clone()))
    }

    pub fn refused(&self, source: nestling_hypervisor::MachineError) -> NodeError {
        NodeError::Machine { vm: self.vm.name.clone(), source }
    }

    /// Ends an operation that its engine refused, in the state before, or in Off if that was the engine's end: a monitor
    /// that breaks off is noticed a moment before the process is known to be gone.
    pub async fn failed(&mut self, before: VmState, error: MachineError) -> NodeError {
        let exit = match self.machine() {
            Ok(machine) if machine.is_silent() => timeout(END_NOTICED, machine.exited()).await.ok(),
            _ => None,
        };
        let error = match exit {
            Some(exit) => {
                let cause = cause(error, &exit);
                self.engine_ended(exit).await;
                cause
            }
            None => {
                self.enter(before);
                error
            }
        };
        self.refused(error)
    }

    /// Gives the machine an engine. When it fails, nothing is left of it.
    pub async fn launch(&mut self, restore: bool) -> Result<()> {
        match self.try_launch(restore).await {
            Ok(running) => {
                follow(&self.node, self.vm.id, &running.machine);
                self.running = Some(Arc::new(running));
                Ok(())
            }
            Err(cause) => {
                self.clear_engine().await;
                let cause = Box::new(cause);
                Err(NodeError::Start { vm: self.named(), cause })
            }
        }
    }

    async fn try_launch(&self, restore: bool) -> Result<Running> {
        self.check_memory()?;
        let qemu = self.node.engines.qemu().await?;
        qemu.check(&self.vm)?;
        self.node.recovery.unfinished.check(&self.vm.name, &self.vm.disks).await?;
        self.free_images("the machine starts").await;
        if self.node.protection.tracking.get(self.vm.id).await.is_some() {
            self.drop_touched(&qemu).await?;
        }
        let engine = self.node.engines.get(self.vm.processor.expose_virtualization_extensions).await?;
        let engine_kind = kind(engine.accel);
        let ports: Vec<Port> = self.vm.adapters.iter().map(Port::from).collect();
        let has_ports = self.node.networks.set_ports(self.vm.id, ports).await?;
        let proof = self.node.recovery.instant.proof_of(self.vm.id);
        let cables = proof.is_some_and(|number| self.node.proof.book.knocks(number));
        let tag = self.node.networks.tag();
        let has_taps = has_ports && !cables;
        let taps = self.vm.adapters.iter().filter(|_| has_taps).map(|a| (a.id, tag.tap(a.id))).collect();
        let files = self.files();
        files.make()?;
        let spec = LaunchSpec {
            vm: self.vm.clone(),
            run_dir: self.node.home.run(self.vm.id),
            engine,
            taps,
            user_net: !has_ports && !cables,
            cables,
            restore_from: restore.then(|| files.saved()),
            nvram: files.nvram(),
            stop_on_disk_error: self.node.recovery.instant.get(self.vm.id).is_some(),
            screen: proof.is_some(),
            kernel_append: String::new(),
        };
        self.node.steps.reached("launch");
        let machine = match Machine::launch(&qemu, spec).await {
            Ok(machine) => machine,
            Err(refused) => return Err(self.bad_disk(&qemu).await.unwrap_or(refused.into())),
        };
        self.node.steps.reached("launched");
        Ok(Running::new(machine, engine_kind))
    }

    /// QEMU may say that a disk is bad, but not which of several.
    async fn bad_disk(&self, qemu: &Qemu) -> Option<NodeError> {
        for image in &self.vm.disks {
            if let Err(error) = disk::info(qemu, &image.path, Some(image.format)).await {
                return Some(error.into());
            }
        }
        None
    }

    /// Memory is not handed out twice: what running machines have not touched yet counts as theirs.
    fn check_memory(&self) -> Result<()> {
        let promised: u64 = self
            .node
            .vms
            .all()
            .iter()
            .filter_map(|now| {
                let usage = now.running.as_ref()?.machine.usage().ok()?;
                Some(now.vm.memory.startup_bytes.saturating_sub(usage.resident_bytes))
            })
            .sum();
        let available = facts::memory().available_bytes.saturating_sub(promised);
        if self.vm.memory.startup_bytes + OVERHEAD_BYTES <= available {
            return Ok(());
        }
        let (wanted_mb, available_mb) = (self.vm.memory.startup_bytes >> 20, available >> 20);
        Err(NodeError::MemoryShort { vm: self.named(), wanted_mb, available_mb })
    }

    /// Ends whatever engine there is, found or half started, and takes its ports away.
    pub async fn clear_engine(&mut self) {
        let run_dir = self.node.home.run(self.vm.id);
        let machine = match self.running.take() {
            Some(running) => Some(running.machine.clone()),
            None => match Machine::attach(&run_dir, self.vm.id).await {
                Ok(found) => found,
                Err(error) => {
                    tracing::warn!(vm = %self.vm.name, %error, "an engine that does not answer is ended");
                    None
                }
            },
        };
        if let Some(machine) = machine
            && let Err(error) = machine.quit().await
        {
            tracing::warn!(vm = %self.vm.name, %error, "an engine does not end");
        }
        if let Err(error) = Machine::kill_stray(&run_dir, self.vm.id).await {
            tracing::warn!(vm = %self.vm.name, %error, "an engine could not be ended");
        }
        self.release_ports().await;
    }

    pub async fn release_ports(&self) {
        if let Err(error) = self.node.networks.set_ports(self.vm.id, Vec::new()).await {
            // The next change of the network tries again.
            tracing::warn!(vm = %self.vm.name, error = error.message(), "ports are left over");
        }
    }

    /// The engine ended, and no operation of ours waited for that.
    pub async fn engine_ended(&mut self, exit: Exit) {
        self.running = None;
        self.release_ports().await;
        // What did not end properly has not written out what it tracked.
        if exit.kind != ExitKind::Failed {
            self.seal_disks().await;
        }
        let reason = match exit.kind {
            ExitKind::GuestShutdown | ExitKind::Asked => None,
            ExitKind::Failed => Some(exit.reason.clone()),
        };
        if let Some(reason) = &reason {
            self.node.events.tell(EventKind::VmFailed, self.vm.name.as_str(), reason.as_str());
        }
        if let Err(error) = self.settle(VmState::Off, reason).await {
            tracing::error!(vm = %self.vm.name, error = error.message(), "the state could not be stored");
        }
    }
}

/// Of an operation's error and its engine's end, what is told: mostly the error is only that the monitor closed.
fn cause(error: MachineError, exit: &Exit) -> MachineError {
    match error {
        MachineError::Qmp(_) | MachineError::Save(SaveError::Qemu { .. }) => {
            MachineError::Gone(exit.reason.clone())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_that_died_in_a_save_is_told_with_its_reason() {
        let exit = Exit { kind: ExitKind::Failed, reason: "killed by signal 9".to_owned() };
        let save = |why: &str| SaveError::Qemu { path: "/s".into(), why: why.to_owned() };
        let told = cause(save("the monitor closed").into(), &exit).to_string();
        assert!(told.contains("signal 9"), "{told}");
        let source = std::io::Error::from(std::io::ErrorKind::StorageFull);
        let full = cause(SaveError::Io { path: "/s".into(), source }.into(), &exit).to_string();
        assert!(full.contains("/s"), "{full}");
    }
}
