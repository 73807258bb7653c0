//! What can be asked of a running machine as a whole.

use std::{io, os::fd::OwnedFd, sync::atomic::Ordering, time::Duration};

use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{Exit, Machine, save::SaveError};
use crate::{capture::DiskPlace, cmdline::SpecError, qmp::QmpError};

/// For QEMU to flush its disks and end; after that it is killed.
const QUIT_TIMEOUT: Duration = Duration::from_secs(10);
/// For QEMU to notice that the state it writes has no reader.
const SAVE_END_TIMEOUT: Duration = Duration::from_secs(10);
const SAVE_LOOK: Duration = Duration::from_millis(20);

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("the virtual machine is gone: {0}")]
    Gone(String),
    #[error(transparent)]
    Qmp(#[from] QmpError),
    #[error(
        "the guest did not release {device} within {} seconds; try again when its operating system has started, or when the virtual machine is off",
        after.as_secs()
    )]
    GuestKeepsDevice { device: String, after: Duration },
    #[error("disks on an IDE controller can be added and removed only while the virtual machine is off")]
    NotHotPluggable,
    #[error("the virtual machine has no port left for another network adapter")]
    NoFreePort,
    #[error("the virtual machine has no such network adapter")]
    NoAdapter,
    #[error("QEMU process {pid} does not die, not even by SIGKILL; the host's kernel is at fault")]
    Immortal { pid: u32 },
    #[error(
        "the virtual machine was started by an older version of nestling, with its devices in another layout; shut it down \
         and start it once"
    )]
    OlderLayout,
    #[error("disk {disk} is being backed up; wait for the backup to end, or stop it")]
    Captured { disk: DiskPlace },
    #[error("the backup of the virtual machine that is under way could not be ended: {0}")]
    EndCapture(String),
    #[error(transparent)]
    Save(#[from] SaveError),
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("what is known of the machine could not be written")]
    Record(#[source] io::Error),
}

/// What QEMU says that the machine does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunState {
    Running,
    Paused,
    /// Not yet started, or in the middle of being restored: the node died while it launched.
    Starting,
    /// The last of its state is being written out.
    Saving,
    /// Its state was written out, or should have been: only whoever wanted it knows whether it is whole.
    Saved,
    /// Stopped because a disk could not be read or written, a full host disk included.
    DiskError,
    /// Anything else, in QEMU's words.
    Other(String),
}

impl RunState {
    fn from_qemu(status: &str) -> Self {
        match status {
            "running" => Self::Running,
            "paused" | "suspended" => Self::Paused,
            "prelaunch" | "inmigrate" => Self::Starting,
            "finish-migrate" => Self::Saving,
            "postmigrate" => Self::Saved,
            "io-error" => Self::DiskError,
            other => Self::Other(other.chars().filter(|c| !c.is_control()).take(40).collect()),
        }
    }
}

impl Machine {
    /// Lets the guest run, from a pause or from a disk error that has been mended.
    pub async fn cont(&self) -> Result<(), MachineError> {
        self.simple("cont").await
    }

    pub async fn pause(&self) -> Result<(), MachineError> {
        self.simple("stop").await
    }

    /// Presses the power button, which a guest may or may not heed.
    pub async fn power_button(&self) -> Result<(), MachineError> {
        self.simple("system_powerdown").await
    }

    pub async fn reset(&self) -> Result<(), MachineError> {
        self.simple("system_reset").await
    }

    pub async fn run_state(&self) -> Result<RunState, MachineError> {
        let status = self.0.qmp.status().await.map_err(|e| self.gone_or(e))?;
        Ok(RunState::from_qemu(&status))
    }

    /// As [`Self::run_state`], of a machine whose state nobody reads any more: a save that still runs comes to its end.
    pub async fn state_without_reader(&self) -> Result<RunState, MachineError> {
        let settled = async {
            loop {
                match self.run_state().await? {
                    RunState::Saving => self.execute("migrate_cancel", json!({})).await.map(drop)?,
                    settled => return Ok(settled),
                }
                sleep(SAVE_LOOK).await;
            }
        };
        match timeout(SAVE_END_TIMEOUT, settled).await {
            Ok(settled) => settled,
            Err(_) => Ok(RunState::Saving),
        }
    }

    /// Ends the machine as pulling its plug would, but lets QEMU write out what it holds.
    pub async fn quit(&self) -> Result<Exit, MachineError> {
        self.0.watched.asked.store(true, Ordering::Release);
        let quit = async {
            // The connection may end before the answer, which is just as well.
            self.0.qmp.execute_within("quit", json!({}), QUIT_TIMEOUT).await.ok();
            self.exited().await
        };
        match timeout(QUIT_TIMEOUT, quit).await {
            Ok(exit) => Ok(exit),
            Err(_) => {
                tracing::warn!(pid = self.pid(), "QEMU does not quit and is killed");
                self.kill().await
            }
        }
    }

    /// Ends the machine at once. What its disks' caches held may be lost, as by a power cut.
    pub async fn kill(&self) -> Result<Exit, MachineError> {
        self.0.watched.kill();
        timeout(QUIT_TIMEOUT, self.exited()).await.map_err(|_| MachineError::Immortal { pid: self.pid() })
    }

    /// Refuses what rests on places of devices that are not where this version has them.
    pub(super) async fn check_layout(&self) -> Result<(), MachineError> {
        self.0.record.lock().await.shape.check_layout()
    }

    async fn simple(&self, command: &str) -> Result<(), MachineError> {
        self.execute(command, json!({})).await.map(drop)
    }

    pub(crate) async fn execute(
        &self,
        command: &str,
        arguments: serde_json::Value,
    ) -> Result<serde_json::Value, MachineError> {
        self.0.qmp.execute(command, arguments).await.map_err(|e| self.gone_or(e))
    }

    /// As [`Qmp::execute_all`](crate::qmp::Qmp::execute_all).
    pub(crate) async fn execute_all(
        &self,
        commands: Vec<(&str, serde_json::Value)>,
        after: Duration,
    ) -> Result<Vec<Result<serde_json::Value, QmpError>>, MachineError> {
        self.0.qmp.execute_all(commands, after).await.map_err(|e| self.gone_or(e))
    }

    pub(crate) async fn add_fd(&self, label: &str, fd: OwnedFd) -> Result<u64, MachineError> {
        self.0.qmp.add_fd(label, fd).await.map_err(|e| self.gone_or(e))
    }

    /// A closed monitor mostly means that QEMU has ended, which is the better news to tell.
    pub(crate) fn gone_or(&self, error: QmpError) -> MachineError {
        match (self.exit_now(), error) {
            (Some(exit), _) => MachineError::Gone(exit.reason),
            (None, error) => MachineError::Qmp(error),
        }
    }
}
