//! One disk of a point, written into one image.
//!
//! The image is opened by qemu-nbd, whatever its format is and whatever lies below it, and nobody else can open it
//! meanwhile. When this returns well, all of it is durable; when not, what lies there is nobody's disk.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nestling_block::{
    BlockError,
    nbd::{NbdAddress, NbdClient, NbdOptions, NbdUri},
};
use nestling_hypervisor::disk::{self, DiskError, ServedDisk};
use nestling_model::{DiskFormat, EventKind};
use nestling_vault::{Existing, Job, RestoreReport, RestoreRequest, VaultError, restore};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    book::Entry,
    source::{Source, SourceDisk},
};
use crate::{Node, NodeError, error::Result, home::remove_file};

/// Requests under way at once: as many as hide the way there and back.
const CONNECTIONS: usize = 4;
/// For one answer, of a host whose disks are busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// For what shall end to do so. What hangs on a dead store is left behind; its image is taken away from it.
const CANCEL_PATIENCE: Duration = Duration::from_secs(20);
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// What is known of the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// It is new, and all of it reads as zeroes.
    New,
    /// It holds something, and only what differs is written.
    There,
}

pub struct Write<'a> {
    pub node: &'a Node,
    pub entry: &'a Entry,
    pub source: &'a Arc<Source>,
    pub disk: &'a SourceDisk,
    pub path: &'a Path,
    pub format: DiskFormat,
    pub onto: Onto,
}

impl Write<'_> {
    /// How many bytes were written.
    pub async fn run(&self) -> Result<u64> {
        let qemu = self.node.engines.qemu().await?;
        let socket = self.node.home.read().join(format!("w{}-{}", self.entry.number(), self.disk.name));
        // A node that died left it; the server died with it.
        remove_file(&socket)?;
        let server = disk::serve_writable(&qemu, self.path, self.format, &socket).await?;
        self.entry.writes(&self.disk.name);
        let work = {
            let (source, name, job) =
                (Arc::clone(self.source), self.disk.name.clone(), Arc::clone(&self.entry.job));
            let (onto, uri) = (self.onto, uri_of(&server));
            tokio::task::spawn_blocking(move || write(&source, &name, &uri, onto, &job))
        };
        let done = self.watch(work).await;
        let complaint = server.complaint().filter(|said| !said.trim().is_empty());
        server.stop().await?;
        match done {
            Err(NodeError::RecoveredDisk { path, source: BlockError::Disconnected { .. } })
                if complaint.is_some() =>
            {
                let why = complaint.unwrap_or_default();
                Err(DiskError::Failed { path, why }.into())
            }
            done => done.map(|report| report.written_bytes),
        }
    }

    async fn watch(
        &self,
        mut work: JoinHandle<std::result::Result<RestoreReport, VaultError>>,
    ) -> Result<RestoreReport> {
        let mut tick = interval(TELL_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        let done = loop {
            tokio::select! {
                done = &mut work => break done,
                () = self.entry.cancel.cancelled() => {
                    break timeout(CANCEL_PATIENCE, work).await.map_err(|_| NodeError::Cancelled)?;
                }
                _ = tick.tick() => self.tell_progress(),
            }
        };
        done.map_err(|e| NodeError::Internal(e.to_string()))?.map_err(|error| self.told(error))
    }

    fn tell_progress(&self) {
        let at = self.entry.progress();
        if at.total > 0 {
            let percent = u128::from(at.done.min(at.total)) * 100 / u128::from(at.total);
            let message = format!("{}: {percent} %", self.disk.name);
            let vm = self.entry.recovery().vm.to_string();
            self.node.events.tell(EventKind::RecoveryProgress, vm, message);
        }
    }

    /// What the image could not take is told with its path, and not as the vault's trouble.
    fn told(&self, error: VaultError) -> NodeError {
        let path = self.path.to_owned();
        match error {
            VaultError::Block(BlockError::Refused { what, .. }) if what.contains("No space left") => {
                DiskError::NoSpace(path).into()
            }
            VaultError::Block(source) => NodeError::RecoveredDisk { path, source },
            other => self.source.failed(other),
        }
    }
}

fn uri_of(server: &ServedDisk) -> NbdUri {
    let address = NbdAddress::Unix(PathBuf::from(server.socket()));
    NbdUri { address, export: server.export().to_owned() }
}

/// Blocks.
fn write(
    source: &Source,
    name: &str,
    uri: &NbdUri,
    onto: Onto,
    job: &Job,
) -> std::result::Result<RestoreReport, VaultError> {
    let options = NbdOptions { connections: CONNECTIONS, timeout: ANSWER_TIMEOUT, ..NbdOptions::default() };
    let image = NbdClient::connect(uri, &options)?;
    let disk = source.disk(name)?;
    let existing = match onto {
        Onto::New => Existing::Zeroes,
        Onto::There => Existing::Compare(&image),
    };
    let request = RestoreRequest {
        repository: source.vault(),
        index: source.index(),
        disk: &disk,
        target: &image,
        existing,
        ranges: None,
        threads: 0,
    };
    restore(&request, job)
}
