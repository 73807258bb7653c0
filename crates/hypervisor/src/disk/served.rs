//! A disk that no machine runs on, served over NBD by qemu-nbd: read-only with one of its bitmaps, or to be written.
//!
//! Who writes ends with a flush: what was not flushed before the server ends may be lost.
//!
//! The server is a child that cannot outlive this process, however that ends: the kernel kills it with the thread that
//! started it, and that thread does nothing but wait for it. (A pooled thread would not do: it may end long before.)

use std::{
    fs,
    io::Read,
    os::{fd::OwnedFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nestling_model::DiskFormat;
use rustix::process::{
    Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};
use tokio::{
    sync::{oneshot, watch},
    time::{interval, timeout},
};

use super::{DiskError, ImageFormat, bitmaps, tool::sort};
use crate::{Qemu, capture::BitmapName};

/// From the start of the program to its first connection, on a host where everything is slow.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
const READY_LOOK: Duration = Duration::from_millis(5);
const END_TIMEOUT: Duration = Duration::from_secs(10);
const COMPLAINT_BYTES_MAX: u64 = 64 << 10;
const CONNECTIONS_MAX: u32 = 16;
/// What its disk is called there.
const EXPORT: &str = "disk";

/// A server; dropped, it ends.
#[derive(Debug)]
pub struct ServedDisk {
    socket: PathBuf,
    context: Option<String>,
    process: OwnedFd,
    /// What it said, once it has ended.
    ended: watch::Receiver<Option<String>>,
}

impl ServedDisk {
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn export(&self) -> &'static str {
        EXPORT
    }

    /// For `qemu:dirty-bitmap:NAME`.
    pub fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// Why it has ended, if it has.
    pub fn complaint(&self) -> Option<String> {
        self.ended.borrow().clone()
    }

    #[cfg(test)]
    pub(super) fn ended_for_tests(&self) -> watch::Receiver<Option<String>> {
        self.ended.clone()
    }

    /// Ends it; done when the image is free again.
    pub async fn stop(mut self) -> Result<(), DiskError> {
        self.kill();
        let ended = timeout(END_TIMEOUT, self.ended.wait_for(Option::is_some)).await;
        let why = || format!("qemu-nbd does not end within {} seconds", END_TIMEOUT.as_secs());
        ended.map(drop).map_err(|_| DiskError::Failed { path: self.socket.clone(), why: why() })
    }

    fn kill(&self) {
        // It may have ended already, which is what is wanted.
        pidfd_send_signal(&self.process, Signal::KILL).ok();
    }
}

impl Drop for ServedDisk {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What is served, and how.
struct Serving<'a> {
    path: &'a Path,
    format: ImageFormat,
    bitmap: Option<BitmapName>,
    writable: bool,
    socket: &'a Path,
}

/// Serves the image on `socket`, which must not exist yet, in a directory that only this user gets into.
pub async fn serve(
    qemu: &Qemu,
    path: &Path,
    format: DiskFormat,
    bitmap: Option<BitmapName>,
    socket: &Path,
) -> Result<ServedDisk, DiskError> {
    start(qemu, Serving { path, format: format.into(), bitmap, writable: false, socket }).await
}

/// The same for who writes to it. Nobody else can open the image meanwhile.
pub async fn serve_writable(
    qemu: &Qemu,
    path: &Path,
    format: ImageFormat,
    socket: &Path,
) -> Result<ServedDisk, DiskError> {
    start(qemu, Serving { path, format, bitmap: None, writable: true, socket }).await
}

async fn start(qemu: &Qemu, serving: Serving<'_>) -> Result<ServedDisk, DiskError> {
    let Serving { path, format, bitmap, socket, .. } = serving;
    for given in [path, socket] {
        if !given.is_absolute() || given.to_str().is_none() {
            return Err(DiskError::Path(given.to_owned()));
        }
    }
    if fs::symlink_metadata(socket).is_ok() {
        return Err(DiskError::Exists(socket.to_owned()));
    }
    let pid_file = pid_file(socket);
    fs::remove_file(&pid_file).ok();
    let command = command(qemu, &serving, &pid_file);
    let failed = |why: String| DiskError::Failed { path: path.to_owned(), why };
    let (started, has_started) = oneshot::channel();
    let (end, ended) = watch::channel(None);
    let files = [socket.to_owned(), pid_file.clone()];
    let supervise = move || supervise(command, started, &end, &files);
    thread::Builder::new().name("qemu-nbd".to_owned()).spawn(supervise).map_err(|e| failed(e.to_string()))?;
    let process = has_started.await.map_err(|_| failed("its supervisor is gone".to_owned()))?;
    let process = process.map_err(|e| failed(format!("qemu-nbd does not run: {e}")))?;
    let context = bitmap.map(|b| b.to_string());
    let mut served = ServedDisk { socket: socket.to_owned(), context, process, ended };
    let refused = |said: &str| {
        let error = sort(path.to_owned(), format, said);
        bitmap.map_or_else(|| sort(path.to_owned(), format, said), |b| bitmaps::sort(error, b))
    };
    match timeout(READY_TIMEOUT, ready(&mut served.ended, &pid_file)).await {
        Ok(None) => Ok(served),
        Ok(Some(said)) => Err(refused(&said)),
        Err(_) => Err(failed(format!("qemu-nbd did not begin within {} seconds", READY_TIMEOUT.as_secs()))),
    }
}

fn pid_file(socket: &Path) -> PathBuf {
    let mut name = socket.as_os_str().to_owned();
    name.push(".pid");
    name.into()
}

fn command(qemu: &Qemu, serving: &Serving<'_>, pid_file: &Path) -> Command {
    let Serving { path, format, bitmap, writable, socket } = *serving;
    let mut command = Command::new(qemu.nbd());
    // What becomes zeroes gives its room back.
    command.arg(if writable { "--discard=unmap" } else { "--read-only" });
    command.args(["--persistent", "--format", format.as_str(), "--export-name", EXPORT]);
    command.arg("--shared").arg(CONNECTIONS_MAX.to_string());
    command.arg("--socket").arg(socket).arg("--pid-file").arg(pid_file);
    if let Some(bitmap) = bitmap {
        command.arg("--bitmap").arg(bitmap.to_string());
    }
    command.arg("--").arg(path);
    command.env_clear().env("LC_ALL", "C").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let parent = rustix::process::getpid();
    // SAFETY: both are single system calls, which are async-signal-safe and touch no memory.
    #[expect(unsafe_code, reason = "only the child itself can ask to be killed with its parent")]
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // The parent may have ended before that was asked.
            if getppid() == Some(parent) { Ok(()) } else { Err(rustix::io::Errno::SRCH.into()) }
        });
    }
    command
}

/// The life of the child, on a thread of its own.
fn supervise(
    mut command: Command,
    started: oneshot::Sender<std::io::Result<OwnedFd>>,
    end: &watch::Sender<Option<String>>,
    files: &[PathBuf],
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return drop(started.send(Err(error))),
    };
    // Not yet waited for, so that the number is still this child's.
    let pid = Pid::from_child(&child);
    let process = pidfd_open(pid, PidfdFlags::empty());
    let unwanted = match process {
        Ok(process) => started.send(Ok(process)).is_err(),
        Err(error) => {
            started.send(Err(error.into())).ok();
            true
        }
    };
    if unwanted {
        child.kill().ok();
    }
    let mut said = Vec::new();
    if let Some(mut pipe) = child.stderr.take() {
        (&mut pipe).take(COMPLAINT_BYTES_MAX).read_to_end(&mut said).ok();
        std::io::copy(&mut pipe, &mut std::io::sink()).ok();
    }
    child.wait().ok();
    for file in files {
        fs::remove_file(file).ok();
    }
    end.send_replace(Some(String::from_utf8_lossy(&said).into_owned()));
}

/// Waits until it can be connected to; what it said if it ended instead. Asking the socket would not do: the server would
/// take that for a client.
async fn ready(ended: &mut watch::Receiver<Option<String>>, pid_file: &Path) -> Option<String> {
    let mut look = interval(READY_LOOK);
    loop {
        tokio::select! {
            said = ended.wait_for(Option::is_some) => {
                return Some(said.ok().and_then(|said| said.clone()).unwrap_or_default());
            }
            _ = look.tick() => {
                if fs::metadata(pid_file).is_ok_and(|m| m.len() > 0) {
                    return None;
                }
            }
        }
    }
}
