//! Writes a machine's memory and devices to a file, and wakes a machine from one.
//!
//! QEMU gets one end of a pipe and this module copies between the other end and the file. So QEMU needs no right to the
//! file, a full disk is told as what it is, and the file is durable before anybody is told that it is there.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::json;
use tokio::{
    task::JoinHandle,
    time::{interval, timeout},
};

use super::{
    LaunchError, Machine, MachineError, RunState,
    state_file::{Head, StateFile},
};
use crate::durable;

/// QEMU and the disk may be slow, but not without any progress for so long.
const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// From the last byte to QEMU's word that it is done.
const DONE_TIMEOUT: Duration = Duration::from_secs(60);
const DONE_LOOK: Duration = Duration::from_millis(20);
const COPY_BYTES: usize = 256 << 10;
/// QEMU's default of 128 MiB/s is for a network that others use too. (0 would mean the same, but only to some versions.)
const BANDWIDTH_BYTES: u64 = 1 << 40;
const FD_NAME: &str = "state";

#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("the state could not be written to {}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("QEMU could not write the state to {}: {why}", path.display())]
    Qemu { path: PathBuf, why: String },
    #[error("writing the state to {} made no progress for {} seconds", path.display(), STALL_TIMEOUT.as_secs())]
    Stalled { path: PathBuf },
}

impl Machine {
    /// Stops the guest and writes its state to `path`, whole or not at all. When this succeeds the machine can only be
    /// ended; when it fails, the guest goes on if it ran. A capture that is under way ends: its disks are closed with the
    /// machine's.
    pub async fn save_to(&self, path: &Path) -> Result<(), MachineError> {
        self.check_layout().await?;
        let ended = self.end_capture("the virtual machine was saved").await;
        ended.map_err(|e| MachineError::EndCapture(e.to_string()))?;
        let ran = self.run_state().await? == RunState::Running;
        let saved = async {
            self.pause().await?;
            self.write_state(path).await
        };
        let Err(error) = saved.await else { return Ok(()) };
        std::fs::remove_file(durable::part(path)).ok();
        if self.exit_now().is_none() {
            self.execute("migrate_cancel", json!({})).await.ok();
            let going_on = if ran { self.cont().await } else { Ok(()) };
            if let Err(stuck) = going_on {
                tracing::warn!(error = %stuck, "the guest does not go on after its state could not be saved");
            }
        }
        Err(error)
    }

    async fn write_state(&self, path: &Path) -> Result<(), MachineError> {
        let io = |source| SaveError::Io { path: path.to_owned(), source };
        let head = {
            let record = self.0.record.lock().await;
            Head { shape: record.shape.clone(), slots: record.slots.clone(), disks: record.disks.clone() }
        };
        let mut file = File::create(durable::part(path)).map_err(io)?;
        head.write(&mut file).map_err(io)?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| io(e.into()))?;
        self.prepare(writer).await?;
        self.execute("migrate-set-parameters", json!({"max-bandwidth": BANDWIDTH_BYTES})).await?;
        self.execute("migrate", json!({"uri": format!("fd:{FD_NAME}")})).await?;
        let finished = file.try_clone().map_err(io)?;
        let copied = self.follow(Copy::start(File::from(reader), file)).await?;
        copied.ok_or_else(|| SaveError::Stalled { path: path.to_owned() })?.map_err(io)?;
        self.migrated().await.map_err(|why| SaveError::Qemu { path: path.to_owned(), why })?;
        let name = path.to_owned();
        let named = tokio::task::spawn_blocking(move || durable::finish(&finished, &name)).await;
        Ok(named.unwrap_or_else(|e| Err(io::Error::other(e))).map_err(io)?)
    }

    async fn prepare(&self, fd: OwnedFd) -> Result<(), MachineError> {
        self.0.qmp.give_fd(FD_NAME, fd).await.map_err(|e| self.gone_or(e))
    }

    /// Waits for a copy: its outcome, or `None` if it stands still.
    async fn follow(&self, mut copy: Copy) -> Result<Option<io::Result<()>>, MachineError> {
        let mut look = interval(STALL_TIMEOUT);
        look.tick().await;
        let mut seen = 0;
        loop {
            tokio::select! {
                done = &mut copy.task => {
                    return Ok(Some(done.unwrap_or_else(|e| Err(io::Error::other(e)))));
                }
                exit = self.exited() => return Err(MachineError::Gone(exit.reason)),
                _ = look.tick() => {
                    let now = copy.bytes.load(Ordering::Relaxed);
                    if now == seen {
                        return Ok(None);
                    }
                    seen = now;
                }
            }
        }
    }

    /// Waits for QEMU's verdict on a stream that has ended.
    async fn migrated(&self) -> Result<(), String> {
        let verdict = async {
            let mut look = interval(DONE_LOOK);
            loop {
                look.tick().await;
                let migration = self.0.qmp.migration().await.map_err(|e| self.gone_or(e).to_string())?;
                match migration.status.as_str() {
                    "completed" => return Ok(()),
                    "failed" | "cancelled" | "cancelling" => {
                        return Err(migration.error.unwrap_or_else(|| "it does not say why".to_owned()));
                    }
                    _ => {}
                }
            }
        };
        match timeout(DONE_TIMEOUT, verdict).await {
            Ok(verdict) => verdict,
            Err(_) => Err(format!("it did not end within {} seconds", DONE_TIMEOUT.as_secs())),
        }
    }
}

/// Brings the state into a machine that was launched to wait for it.
pub(super) async fn restore(machine: &Machine, state: StateFile) -> Result<(), LaunchError> {
    let path = state.path;
    let restored = async {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|e| e.to_string())?;
        machine.prepare(reader).await.map_err(|e| e.to_string())?;
        machine
            .execute("migrate-incoming", json!({"uri": format!("fd:{FD_NAME}")}))
            .await
            .map_err(|e| e.to_string())?;
        let copied = machine.follow(Copy::start(state.stream, File::from(writer))).await;
        match copied.map_err(|e| e.to_string())? {
            Some(Ok(())) => machine.migrated().await,
            // QEMU closes its end when the stream makes no sense to it, and says so itself.
            Some(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => machine.migrated().await,
            Some(Err(error)) => Err(error.to_string()),
            None => Err(format!("there was no progress for {} seconds", STALL_TIMEOUT.as_secs())),
        }
    };
    restored.await.map_err(|why| LaunchError::Restore { path, why })
}

/// A copy on a thread of its own, which ends when either end does.
struct Copy {
    task: JoinHandle<io::Result<()>>,
    bytes: Arc<AtomicU64>,
}

impl Copy {
    fn start(mut from: File, mut to: File) -> Self {
        let bytes = Arc::new(AtomicU64::new(0));
        let counted = bytes.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut buffer = vec![0; COPY_BYTES];
            loop {
                match from.read(&mut buffer)? {
                    0 => return Ok(()),
                    n => to.write_all(&buffer[..n])?,
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { task, bytes }
    }
}
