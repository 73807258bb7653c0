//! The QEMU guest agent: what a guest tells of itself and does for its host.
//!
//! The agent runs inside the guest, so every answer is the guest's claim: sizes and times are bounded, and nothing that it
//! says is used to name anything on the host. One request is under way at a time, because the protocol has no numbers.

mod exec;
mod facts;
mod freeze;
#[cfg(test)]
mod freeze_tests;
#[cfg(test)]
mod tests;
mod wire;

use std::{path::Path, sync::Arc, time::Duration};

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::Mutex;

pub use exec::{ExecOutcome, ExecRequest};
pub use facts::{AgentInfo, GuestInterface, OsInfo};
pub use freeze::{FreezeError, FreezeRequest, FreezeStatus, Frozen, MOUNTPOINTS_MAX, Thawed};
use wire::Wire;
#[cfg(feature = "fuzzing")]
pub(crate) use wire::read_answer;

use crate::{
    cmdline::AGENT_CHARDEV,
    qmp::{Qmp, QmpError},
};

/// For an answer, in a guest that may be an emulated one inside an emulated one.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// For an agent that refuses to shut its guest down to say so; one that obeys says nothing.
const OBJECTION_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest answer to anything but a program's output.
const ANSWER_BYTES_MAX: usize = 1 << 20;

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error(
        "no guest agent answers yet: the guest is still starting, or qemu-guest-agent is not installed and started in it"
    )]
    Absent,
    #[error("the guest agent did not answer {command} within {} seconds", after.as_secs())]
    Timeout { command: String, after: Duration },
    #[error("the guest agent refused {command}: {reason}")]
    Refused { command: String, reason: String },
    #[error("the guest agent's answer to {command} makes no sense: {why}")]
    Nonsense { command: String, why: String },
    #[error("the program still runs in the guest after {} seconds; its output is lost", after.as_secs())]
    StillRuns { after: Duration },
    #[error("what is to be written into the guest can't be read")]
    Source(#[source] std::io::Error),
    #[error("the guest agent can't be asked")]
    Qmp(#[from] QmpError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShutdownMode {
    PowerDown,
    Reboot,
    Halt,
}

/// The agent of one machine. Clones share the one connection.
#[derive(Debug, Clone)]
pub struct Agent {
    qmp: Option<Qmp>,
    wire: Arc<Mutex<Wire>>,
    /// Held as long as the guest is frozen.
    freezing: Arc<Mutex<()>>,
}

impl Agent {
    pub(crate) fn new(socket: &Path, qmp: Qmp) -> Self {
        Self { qmp: Some(qmp), wire: Arc::new(Mutex::new(Wire::new(socket))), freezing: Arc::default() }
    }

    /// An agent that is taken to be there without asking QEMU.
    #[cfg(test)]
    fn at(socket: &Path) -> Self {
        Self { qmp: None, wire: Arc::new(Mutex::new(Wire::new(socket))), freezing: Arc::default() }
    }

    /// Asks the guest to end by itself. Done when the agent has accepted; the end comes later, or never.
    pub async fn shutdown(&self, mode: ShutdownMode) -> Result<(), AgentError> {
        let mode = match mode {
            ShutdownMode::PowerDown => "powerdown",
            ShutdownMode::Reboot => "reboot",
            ShutdownMode::Halt => "halt",
        };
        self.present().await?;
        let mut wire = self.wire.lock().await;
        wire.sync(ANSWER_TIMEOUT).await?;
        let mode = json!({"mode": mode});
        match wire.exchange("guest-shutdown", &mode, OBJECTION_TIMEOUT, ANSWER_BYTES_MAX).await {
            // Silence is consent, and the end of the connection too.
            Err(AgentError::Timeout { .. } | AgentError::Absent) => Ok(()),
            answered => answered.map(drop),
        }
    }

    async fn ask<T: DeserializeOwned>(&self, command: &str, arguments: Value) -> Result<T, AgentError> {
        self.ask_large(command, arguments, ANSWER_BYTES_MAX).await
    }

    async fn ask_large<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: Value,
        bytes_max: usize,
    ) -> Result<T, AgentError> {
        self.ask_for(command, arguments, ANSWER_TIMEOUT, bytes_max).await
    }

    async fn ask_for<T: DeserializeOwned>(
        &self,
        command: &str,
        arguments: Value,
        after: Duration,
        bytes_max: usize,
    ) -> Result<T, AgentError> {
        self.present().await?;
        let mut wire = self.wire.lock().await;
        wire.sync(after).await?;
        let answer = wire.exchange(command, &arguments, after, bytes_max).await?;
        serde_json::from_value(answer)
            .map_err(|e| AgentError::Nonsense { command: command.to_owned(), why: e.to_string() })
    }

    /// QEMU knows whether the agent has its port open, so that its absence is told at once.
    async fn present(&self) -> Result<(), AgentError> {
        match &self.qmp {
            Some(qmp) if !qmp.guest_has_open(AGENT_CHARDEV).await? => Err(AgentError::Absent),
            _ => Ok(()),
        }
    }
}
