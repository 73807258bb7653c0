//! An image that this node writes, through a server of ours.
//!
//! The image is opened by qemu-nbd, whatever its format is and whatever lies below it, and nobody else can open it
//! meanwhile. Who writes ends with a flush: then all of it is durable when the server is gone.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use nestling_block::{
    BlockError,
    nbd::{NbdAddress, NbdClient, NbdOptions, NbdUri},
};
use nestling_hypervisor::disk::{self, DiskError, ImageFormat, ServedDisk};
use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{NodeError, error::Result, home::remove_file, node::Shared};

/// Requests under way at once: as many as hide the way there and back.
const CONNECTIONS: usize = 4;
/// For one answer, of a host whose disks are busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// For what shall end to do so. What hangs on a dead store is left behind; its image is taken away from it.
const CANCEL_PATIENCE: Duration = Duration::from_secs(20);

pub struct WrittenImage {
    server: ServedDisk,
}

impl WrittenImage {
    /// `socket` is a file name that nobody else of this home has.
    pub async fn open(node: &Shared, path: &Path, format: ImageFormat, socket: &str) -> Result<Self> {
        let qemu = node.engines.qemu().await?;
        let socket = node.home.read().join(socket);
        // A node that died left it; the server died with it.
        remove_file(&socket)?;
        Ok(Self { server: disk::serve_writable(&qemu, path, format, &socket).await? })
    }

    /// Where [`connect`] finds it.
    pub fn uri(&self) -> NbdUri {
        let address = NbdAddress::Unix(PathBuf::from(self.server.socket()));
        NbdUri { address, export: self.server.export().to_owned() }
    }

    /// Ends the server. What it complained of counts before the broken connection that others saw.
    pub async fn close<T>(self, done: Result<T>) -> Result<T> {
        let complaint = self.server.complaint().filter(|said| !said.trim().is_empty());
        self.server.stop().await?;
        match (done, complaint) {
            (Err(NodeError::RecoveredDisk { path, source: BlockError::Disconnected { .. } }), Some(why)) => {
                Err(DiskError::Failed { path, why }.into())
            }
            (done, _) => done,
        }
    }
}

/// Blocks.
pub fn connect(uri: &NbdUri) -> std::result::Result<NbdClient, BlockError> {
    let options = NbdOptions { connections: CONNECTIONS, timeout: ANSWER_TIMEOUT, ..NbdOptions::default() };
    NbdClient::connect(uri, &options)
}

/// Waits for work on a thread of its own, and tells now and then how far it is. `stop` makes the work end.
pub async fn watched<T>(
    mut work: JoinHandle<T>,
    cancel: &CancellationToken,
    every: Duration,
    mut tell: impl FnMut(),
    stop: impl FnOnce(),
) -> Result<T> {
    let mut tick = interval(every);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.tick().await;
    let done = loop {
        tokio::select! {
            done = &mut work => break done,
            () = cancel.cancelled() => {
                stop();
                break timeout(CANCEL_PATIENCE, work).await.map_err(|_| NodeError::Cancelled)?;
            }
            _ = tick.tick() => tell(),
        }
    };
    done.map_err(|e| NodeError::Internal(e.to_string()))
}

/// What an image could not take, with its path.
pub fn told(path: &Path, error: BlockError) -> NodeError {
    match error {
        BlockError::Refused { what, .. } if what.contains("No space left") => {
            DiskError::NoSpace(path.to_owned()).into()
        }
        source => NodeError::RecoveredDisk { path: path.to_owned(), source },
    }
}
