//! One running QEMU: from its start, or from where it is found again, to its end.
//!
//! A QEMU is a process of its own, which outlives the node that started it. What this module knows about a running
//! machine can be found again from its run directory. It must never start, stop or change anything by itself: every
//! operation is asked for by the one task that owns the machine.

mod attach;
mod complaint;
mod exit;
mod hotplug;
mod launch;
mod operations;
mod process;
mod save;
mod screen;
mod state_file;
mod stream;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use nestling_model::VmId;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, broadcast, watch};

#[cfg(feature = "fuzzing")]
pub(crate) use self::state_file::read_saved_head;
pub use self::{
    attach::AttachError,
    exit::{Exit, ExitKind},
    launch::LaunchError,
    operations::{MachineError, RunState},
    process::Usage,
    save::SaveError,
    screen::ScreenError,
    state_file::StateFileError,
    stream::StreamState,
};
use self::{process::Process, state_file::Shape};
use crate::{
    Agent, ChannelClient, Console,
    capture::Captures,
    qmp::{Event, Qmp},
    spec::{RunDir, Slots},
};

/// A running machine. Clones are the same machine; dropping them does not end it.
#[derive(Debug, Clone)]
pub struct Machine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    vm_id: VmId,
    run: RunDir,
    watched: Watched,
    qmp: Qmp,
    /// What only the machine's own task changes, and a saved state must know.
    record: Mutex<Record>,
    console: Console,
    agent: Agent,
    channel: ChannelClient,
    captures: Captures,
}

/// A process whose end is being waited for.
#[derive(Debug, Clone)]
struct Watched {
    process: Arc<Process>,
    exit: watch::Receiver<Option<Exit>>,
    /// Whether its end has been asked for.
    asked: Arc<AtomicBool>,
    /// The monitor, once it answers.
    qmp: Arc<OnceLock<Qmp>>,
}

impl Watched {
    async fn exited(&self) -> Exit {
        let mut exit = self.exit.clone();
        let found = exit.wait_for(Option::is_some).await.map(|e| e.clone());
        found.ok().flatten().unwrap_or_else(Exit::unknown)
    }

    fn kill(&self) {
        self.asked.store(true, Ordering::Release);
        self.process.kill();
    }
}

/// What a node that finds this machine again needs to know of it; `spec.json` in the run directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    vm_id: VmId,
    slots: Slots,
    /// QEMU's names of the disks, in a fixed order.
    disks: Vec<String>,
    shape: Shape,
}

impl Machine {
    pub fn vm_id(&self) -> VmId {
        self.0.vm_id
    }

    pub fn pid(&self) -> u32 {
        self.0.watched.process.pid()
    }

    pub fn run_dir(&self) -> &Path {
        self.0.run.path()
    }

    /// Waits for the machine's end; any number of waiters, also after the end.
    pub async fn exited(&self) -> Exit {
        self.0.watched.exited().await
    }

    /// How the machine ended, if it has.
    pub fn exit_now(&self) -> Option<Exit> {
        self.0.watched.exit.borrow().clone()
    }

    /// Whether its monitor has gone: it ends, or has ended.
    pub fn is_silent(&self) -> bool {
        self.0.qmp.is_closed() || self.exit_now().is_some()
    }

    pub fn qemu_events(&self) -> broadcast::Receiver<Event> {
        self.0.qmp.events()
    }

    pub fn console(&self) -> Console {
        self.0.console.clone()
    }

    pub fn agent(&self) -> Agent {
        self.0.agent.clone()
    }

    pub fn channel(&self) -> ChannelClient {
        self.0.channel.clone()
    }

    pub(crate) fn captures(&self) -> &Captures {
        &self.0.captures
    }

    /// Where its disks are served as they were at an instant.
    pub(crate) fn nbd_socket(&self) -> PathBuf {
        self.0.run.nbd()
    }

    /// What QEMU has used since it started.
    pub fn usage(&self) -> std::io::Result<Usage> {
        self.0.watched.process.usage()
    }

    /// Joins the parts of a machine whose monitor answers.
    async fn assemble(run: RunDir, watched: Watched, qmp: Qmp, record: Record) -> Self {
        let ended = watched.exit.clone();
        let console = Console::start(&run.console(), ended.clone()).await;
        let agent = Agent::new(&run.agent(), qmp.clone());
        let channel = ChannelClient::start(&run.channel(), ended);
        let vm_id = record.vm_id;
        let (record, captures) = (Mutex::new(record), Captures::default());
        Self(Arc::new(Inner { vm_id, run, watched, qmp, record, console, agent, channel, captures }))
    }
}
