//! A machine that runs from the vault gets its disks, while it runs; or goes.
//!
//! What is wanted is written down, and a task follows the machine until it is done: through its ends and starts, and from
//! one node to the next. QEMU brings the bytes over; a disk that has them all needs the point no more, and with the last one
//! the export goes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nestling_hypervisor::{RunState, StreamState, capture::DiskPlace};
use nestling_identity::{Action, Identity};
use nestling_model::{EventKind, Operation, VmId, VmName, VmState};
use tokio::time::{sleep, timeout};

use super::{
    instant::{InstantBoot, InstantDisk},
    source::place,
};
use crate::{Node, NodeError, blocking::blocking, error::Result, node::Shared, values::VmView, vm::Handle};

const LOOK_INTERVAL: Duration = Duration::from_millis(500);
const RESUME_INTERVAL: Duration = Duration::from_secs(2);

/// A machine that runs from the vault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstantView {
    pub vm: VmName,
    pub vm_id: VmId,
    pub point: String,
    pub repository: String,
    /// Those that still need the point.
    pub disks: Vec<InstantDisk>,
    /// The proof that it runs for, and goes with.
    pub proof: Option<u64>,
    pub finishing: bool,
    /// Of the disk that is brought over now.
    pub progress: Option<(u64, u64)>,
    pub problem: Option<String>,
}

impl Node {
    pub async fn instant_boots(&self, who: &Identity) -> Result<Vec<InstantView>> {
        self.authorize(who, Action::ReadBackups)?;
        let mut views = Vec::new();
        for boot in self.recovery.instant.all() {
            let Ok(handle) = self.vms.find(&boot.vm.0.to_string()) else { continue };
            views.push(self.instant_view(&handle, boot).await);
        }
        Ok(views)
    }

    /// Begins to bring a machine's disks over; it goes on by itself.
    pub async fn finish_instant_boot(&self, who: &Identity, vm: &str) -> Result<InstantView> {
        self.authorize(who, Action::ChangeVm)?;
        let (handle, boot) = self.instant(vm)?;
        if let Some(proof) = boot.proof {
            return Err(NodeError::Invalid(format!(
                "'{}' runs for proof {proof} and goes with it; boot the point for yourself: nestling recover boot",
                handle.now().vm.name
            )));
        }
        if handle.now().running.is_none() {
            return Err(NodeError::NoEngine(handle.now().vm.name.clone()));
        }
        let was_finishing = boot.finishing;
        let boot = InstantBoot { finishing: true, problem: None, ..boot };
        self.recovery.instant.put(boot.clone()).await?;
        if !was_finishing {
            follow(self.shared(), boot.vm);
        }
        Ok(self.instant_view(&handle, boot).await)
    }

    /// Turns a machine off that runs from the vault, and removes it with all that it wrote.
    pub async fn discard_instant_boot(&self, who: &Identity, vm: &str) -> Result<VmView> {
        self.authorize(who, Action::RemoveVm)?;
        let (handle, boot) = self.instant(vm)?;
        let view = self.view(&handle.now());
        self.throw_away(boot.vm).await?;
        Ok(view)
    }

    fn instant(&self, vm: &str) -> Result<(Arc<Handle>, InstantBoot)> {
        let handle = self.vms.find(vm)?;
        let now = handle.now();
        let boot = self.recovery.instant.get(now.vm.id);
        let boot = boot.ok_or_else(|| {
            NodeError::Invalid(format!(
                "'{}' does not run from a recovery point; all of it is here",
                now.vm.name
            ))
        })?;
        Ok((handle, boot))
    }

    async fn instant_view(&self, handle: &Handle, boot: InstantBoot) -> InstantView {
        let now = handle.now();
        let known = self.protection.repositories.get(boot.repository);
        let mut progress = None;
        if let (Some(running), true) = (&now.running, boot.finishing) {
            for disk in boot.disks.iter().filter_map(place_of) {
                if let Ok(StreamState::Runs { done, total }) = running.machine.stream_state(disk).await {
                    progress = Some((done, total));
                }
            }
        }
        InstantView {
            vm: now.vm.name.clone(),
            vm_id: boot.vm,
            point: boot.point.to_string(),
            repository: known
                .map_or_else(|| boot.repository.0.to_string(), |k| k.repository.name.to_string()),
            disks: boot.disks,
            proof: boot.proof,
            finishing: boot.finishing,
            progress,
            problem: boot.problem,
        }
    }
}

impl Shared {
    /// Turns a machine off and removes it with its disks.
    pub async fn throw_away(&self, vm: VmId) -> Result<()> {
        let handle = self.vms.find(&vm.0.to_string())?;
        if handle.now().vm.state.has_engine() {
            handle.operate(Operation::TurnOff).await?;
        }
        self.remove(&handle, true).await.map(drop)
    }

    /// A machine needs what is to go.
    pub fn runs_from_vault(&self, vm: VmId) -> NodeError {
        match self.vms.find(&vm.0.to_string()) {
            Ok(handle) => NodeError::RunsFromVault { vm: handle.now().vm.name.clone() },
            Err(gone) => gone,
        }
    }
}

fn place_of(disk: &InstantDisk) -> Option<DiskPlace> {
    place(&disk.name).map(|(controller, location)| DiskPlace { controller, location })
}

/// Follows those that a node left which wanted to be finished, and all that stand still.
pub fn follow_all(node: &Arc<Shared>) {
    let watching = Arc::clone(node);
    tokio::spawn(async move {
        tokio::select! {
            () = let_go_on(&watching) => {}
            () = watching.stopping.cancelled() => {}
        }
    });
    for boot in node.recovery.instant.all().into_iter().filter(|boot| boot.finishing) {
        follow(Arc::clone(node), boot.vm);
    }
}

/// Lets machines go on that were stopped because their repository did not answer, once it does. What stopped for another
/// reason (the host's disk is full, bytes are lost) stands still.
async fn let_go_on(node: &Arc<Shared>) {
    let mut seen: BTreeMap<VmId, u64> = BTreeMap::new();
    loop {
        sleep(RESUME_INTERVAL).await;
        for InstantBoot { vm, .. } in node.recovery.instant.all() {
            let (Ok(handle), Some(lazy)) = (node.vms.find(&vm.0.to_string()), node.recovery.instant.lazy(vm))
            else {
                continue;
            };
            let failures = lazy.failures();
            if lazy.is_lost()
                || seen.get(&vm).is_some_and(|seen| *seen >= failures)
                || !is_stopped(&handle).await
            {
                continue;
            }
            if blocking(move || Ok(lazy.answers())).await.unwrap_or(false) {
                seen.insert(vm, failures);
                if let Err(error) = handle.operate(Operation::Resume).await {
                    tracing::warn!(error = error.message(), "a machine that was stopped does not go on");
                }
            }
        }
    }
}

async fn is_stopped(handle: &Handle) -> bool {
    let now = handle.now();
    match (&now.running, now.vm.state) {
        (Some(running), VmState::Paused) => {
            matches!(running.machine.run_state().await, Ok(RunState::DiskError))
        }
        _ => false,
    }
}

fn follow(node: Arc<Shared>, vm: VmId) {
    tokio::spawn(async move {
        let done = tokio::select! {
            done = bring_over(&node, vm) => done,
            () = node.stopping.cancelled() => return,
        };
        let Err(error) = done else { return };
        let Some(boot) = node.recovery.instant.get(vm) else { return };
        let name = node.vms.find(&vm.0.to_string()).map(|handle| handle.now().vm.name.to_string());
        let message = format!("its disks are not brought over: {}", error.message());
        node.events.tell(EventKind::Warning, name.unwrap_or_default(), message.as_str());
        let stopped = InstantBoot { finishing: false, problem: Some(message), ..boot };
        if let Err(error) = node.recovery.instant.put(stopped).await {
            tracing::warn!(
                error = error.message(),
                "that disks are no more brought over is not written down"
            );
        }
    });
}

/// Until all disks are here, or the machine is gone.
async fn bring_over(node: &Arc<Shared>, vm: VmId) -> Result<()> {
    let mut failures_before = 0;
    loop {
        let Some(boot) = node.recovery.instant.get(vm) else { return Ok(()) };
        let Ok(handle) = node.vms.find(&vm.0.to_string()) else { return Ok(()) };
        let Some(disk) = boot.disks.first().cloned() else {
            node.recovery.instant.end(vm).await?;
            // Whatever it could not read is here now.
            if is_stopped(&handle).await {
                handle.operate(Operation::Resume).await?;
            }
            let name = handle.now().vm.name.to_string();
            node.events.tell(
                EventKind::RecoveryDone,
                name,
                "all of its disks are here; it needs the point no more",
            );
            return Ok(());
        };
        let place =
            place_of(&disk).ok_or_else(|| NodeError::Internal("a disk that is nowhere".to_owned()))?;
        let Some(running) = handle.now().running else {
            sleep(LOOK_INTERVAL).await;
            continue;
        };
        match running.machine.stream_state(place).await {
            // Its engine ends, or has: the next one goes on.
            Err(_) if running.machine.is_silent() => sleep(LOOK_INTERVAL).await,
            Err(error) => return Err(NodeError::Machine { vm: handle.now().vm.name.clone(), source: error }),
            Ok(StreamState::Runs { .. }) => sleep(LOOK_INTERVAL).await,
            Ok(StreamState::Waits) => {
                sleep(RESUME_INTERVAL).await;
                let Some(lazy) = node.recovery.instant.lazy(vm) else { continue };
                if lazy.is_lost() {
                    return Err(NodeError::Invalid(format!("{}: bytes of it are lost", disk.name)));
                }
                if blocking(move || Ok(lazy.answers())).await.unwrap_or(false) {
                    asked(&handle, move |owner| Box::pin(owner.resume_stream(place))).await?;
                }
            }
            Ok(StreamState::None) => {
                failures_before = node.recovery.instant.lazy(vm).map_or(0, |lazy| lazy.failures());
                asked(&handle, move |owner| Box::pin(owner.begin_stream(place))).await?;
            }
            Ok(StreamState::Ended(Err(why))) => {
                asked(&handle, move |owner| Box::pin(owner.dismiss_stream(place))).await?;
                let lazy = node.recovery.instant.lazy(vm);
                if !lazy.is_some_and(|lazy| lazy.failures() > failures_before && !lazy.is_lost()) {
                    return Err(NodeError::Invalid(format!("{}: {why}", disk.name)));
                }
                // The repository did not answer. It will.
                sleep(RESUME_INTERVAL).await;
            }
            Ok(StreamState::Ended(Ok(()))) => {
                asked(&handle, move |owner| Box::pin(owner.dismiss_stream(place))).await?;
                let disks = boot.disks.into_iter().filter(|other| *other != disk).collect();
                if let Some(now) = node.recovery.instant.get(vm) {
                    node.recovery.instant.put(InstantBoot { disks, ..now }).await?;
                }
            }
        }
    }
}

/// By the machine's task, when it has time. What ended meanwhile is looked at anew.
async fn asked<F>(handle: &Handle, job: F) -> Result<()>
where
    F: for<'a> FnOnce(&'a mut crate::vm::Owner) -> futures_util::future::BoxFuture<'a, Result<()>>
        + Send
        + 'static,
{
    match timeout(Duration::from_secs(60), handle.ask(Operation::Modify, job)).await {
        Ok(Err(NodeError::State { .. } | NodeError::Interrupted { .. } | NodeError::NoEngine(_)))
        | Err(_) => {
            sleep(LOOK_INTERVAL).await;
            Ok(())
        }
        Ok(done) => done,
    }
}
