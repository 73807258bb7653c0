//! Finds a machine again that an earlier node started.

use std::{io, path::Path, time::Duration};

use nestling_model::VmId;
use tokio::{net::UnixStream, time::timeout};

use super::{Machine, Record, exit, process::Process};
use crate::{
    qmp::{Qmp, QmpError},
    spec::{RunDir, SocketPathTooLong},
};

/// For the monitor of a QEMU that has been running to answer.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// For what a backup left to be removed; what is still there then is removed before the next one.
const CLEAR_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    #[error(transparent)]
    Socket(#[from] SocketPathTooLong),
    #[error(
        "QEMU runs as process {pid}, but its monitor does not answer ({why}); turn the virtual machine off"
    )]
    Silent { pid: u32, why: String },
    #[error(
        "QEMU runs as process {pid}, but what is known of it can't be read; turn the virtual machine off"
    )]
    Record { pid: u32, source: io::Error },
    #[error("QEMU's process can't be followed")]
    Process(#[source] io::Error),
}

impl Machine {
    /// The running machine in this directory; `None` if no QEMU of it lives. What it is doing, [`Machine::run_state`]
    /// tells: the node may have gone in the middle of anything.
    pub async fn attach(run_dir: &Path, vm_id: VmId) -> Result<Option<Self>, AttachError> {
        let run = RunDir::new(run_dir)?;
        let Some(process) = find(&run, vm_id).await else { return Ok(None) };
        let pid = process.pid();
        let record = Record::read(&run).map_err(|source| AttachError::Record { pid, source })?;
        let watched = exit::watch(process, &run);
        let greeted = async {
            let stream =
                UnixStream::connect(run.qmp()).await.map_err(|e| QmpError::Closed { why: e.to_string() })?;
            Qmp::greet(stream).await
        };
        let qmp = tokio::select! {
            // It went while it was being looked at.
            _ = watched.exited() => return Ok(None),
            greeted = timeout(GREETING_TIMEOUT, greeted) => match greeted {
                Ok(Ok(qmp)) => qmp,
                Ok(Err(error)) => return Err(AttachError::Silent { pid, why: error.to_string() }),
                Err(_) => {
                    let why = format!("it kept silent for {} seconds", GREETING_TIMEOUT.as_secs());
                    return Err(AttachError::Silent { pid, why });
                }
            },
        };
        watched.qmp.set(qmp.clone()).ok();
        let machine = Self::assemble(run, watched, qmp, record).await;
        machine.clear_after_another().await;
        Ok(Some(machine))
    }

    /// A backup that the earlier node had under way holds memory, disk space, and at worst the guest itself.
    async fn clear_after_another(&self) {
        match timeout(CLEAR_TIMEOUT, self.clear_captures()).await {
            Ok(Ok(cleared)) if cleared.found => {
                tracing::info!(?cleared, "a backup that was cut off is cleared away")
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "what a backup left could not be cleared away"),
            Err(_) => tracing::warn!("what a backup left takes too long to be cleared away"),
        }
    }

    /// Kills a QEMU of this machine that can't be attached to; whether there was one.
    pub async fn kill_stray(run_dir: &Path, vm_id: VmId) -> Result<bool, AttachError> {
        let run = RunDir::new(run_dir)?;
        let Some(process) = find(&run, vm_id).await else { return Ok(false) };
        process.kill();
        match timeout(END_TIMEOUT, process.ended()).await {
            Ok(ended) => ended.map(|_| true).map_err(AttachError::Process),
            Err(_) => Err(AttachError::Silent { pid: process.pid(), why: "it does not die".to_owned() }),
        }
    }
}

async fn find(run: &RunDir, vm_id: VmId) -> Option<Process> {
    let run = run.clone();
    // Reads much of /proc when the pid file is stale.
    tokio::task::spawn_blocking(move || Process::find(&run, vm_id)).await.ok().flatten()
}
