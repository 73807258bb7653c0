//! How a machine ended, and who wanted it.

use std::{
    fs::File,
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rustix::process::WaitIdStatus;
use tokio::{
    sync::watch,
    time::{interval, timeout},
};

use super::{Watched, complaint, process::Process};
use crate::{
    qmp::{Qmp, Shutdown},
    spec::RunDir,
};

/// A guest can make QEMU complain without end; more than this is not kept.
const LOG_BYTES_MAX: u64 = 1 << 20;
const LOG_LOOK: Duration = Duration::from_secs(60);
/// For what QEMU said before its end to be read to the end.
const LAST_WORDS: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    pub kind: ExitKind,
    /// One sentence without a full stop.
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitKind {
    /// [`super::Machine::quit`] or [`super::Machine::kill`].
    Asked,
    /// The guest switched its machine off, by itself or because of the power button.
    GuestShutdown,
    /// Nobody asked for it.
    Failed,
}

impl Exit {
    fn new(kind: ExitKind, reason: impl Into<String>) -> Self {
        Self { kind, reason: reason.into() }
    }

    pub(crate) fn unknown() -> Self {
        Self::new(ExitKind::Failed, "QEMU ended without being asked")
    }
}

/// Watches a process from now on, also when nobody asks.
pub(super) fn watch(process: Process, run: &RunDir) -> Watched {
    let (sender, exit) = watch::channel(None);
    let watched = Watched {
        process: Arc::new(process),
        exit,
        asked: Arc::new(AtomicBool::new(false)),
        qmp: Arc::new(OnceLock::new()),
    };
    let (process, asked, qmp) = (watched.process.clone(), watched.asked.clone(), watched.qmp.clone());
    let log = run.stderr();
    tokio::spawn(async move {
        let status = follow(&process, &log).await;
        let shutdown = last_words(&qmp).await;
        let log = complaint::read(&log).await;
        let exit = judge(asked.load(Ordering::Acquire), shutdown.as_ref(), status.as_ref(), &log);
        tracing::info!(pid = process.pid(), kind = ?exit.kind, reason = exit.reason, "QEMU ended");
        sender.send_replace(Some(exit));
    });
    watched
}

async fn follow(process: &Process, log: &Path) -> Option<WaitIdStatus> {
    let mut look = interval(LOG_LOOK);
    let ended = process.ended();
    tokio::pin!(ended);
    loop {
        tokio::select! {
            status = &mut ended => return status.unwrap_or_else(|error| {
                tracing::error!(%error, "cannot wait for QEMU's end");
                None
            }),
            _ = look.tick() => bound(log),
        }
    }
}

/// QEMU appends, so that a log cut to nothing goes on from its start.
fn bound(log: &Path) {
    let Ok(file) = File::options().write(true).open(log) else { return };
    if file.metadata().is_ok_and(|m| m.len() > LOG_BYTES_MAX) && file.set_len(0).is_ok() {
        tracing::warn!(log = %log.display(), "QEMU's complaints were dropped: there are too many");
    }
}

async fn last_words(qmp: &OnceLock<Qmp>) -> Option<Shutdown> {
    let qmp = qmp.get()?;
    timeout(LAST_WORDS, qmp.closed()).await.ok();
    qmp.shutdown()
}

fn judge(asked: bool, shutdown: Option<&Shutdown>, status: Option<&WaitIdStatus>, log: &str) -> Exit {
    let killed = status.and_then(WaitIdStatus::terminating_signal);
    match (shutdown, killed) {
        _ if asked => Exit::new(ExitKind::Asked, "it was turned off"),
        (Some(s), _) if s.reason == "guest-panic" => {
            Exit::new(ExitKind::Failed, "the guest's kernel panicked")
        }
        (Some(s), _) if s.guest => Exit::new(ExitKind::GuestShutdown, "the guest shut down"),
        (Some(s), _) if s.reason == "host-signal" => {
            Exit::new(ExitKind::Failed, "QEMU was asked to end by a signal from another process")
        }
        (_, Some(signal)) => {
            let name = match signal {
                9 => " (SIGKILL)",
                6 => " (SIGABRT)",
                11 => " (SIGSEGV)",
                31 => " (SIGSYS: a system call that its sandbox forbids)",
                _ => "",
            };
            Exit::new(ExitKind::Failed, format!("QEMU was killed by signal {signal}{name}"))
        }
        _ => {
            let ended = match status.and_then(WaitIdStatus::exit_status) {
                Some(code) => format!("QEMU ended with status {code}"),
                None => Exit::unknown().reason,
            };
            let reason = match complaint::last_line(log) {
                Some(line) => format!("{ended}: {line}"),
                None => ended,
            };
            Exit::new(ExitKind::Failed, reason)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shutdown(guest: bool, reason: &str) -> Shutdown {
        Shutdown { guest, reason: reason.to_owned() }
    }

    #[test]
    fn who_wanted_the_end_is_told_apart() {
        let guest = shutdown(true, "guest-shutdown");
        assert_eq!(judge(false, Some(&guest), None, "").kind, ExitKind::GuestShutdown);
        assert_eq!(judge(true, Some(&guest), None, "").kind, ExitKind::Asked);
        let signal = shutdown(false, "host-signal");
        assert_eq!(judge(false, Some(&signal), None, "").kind, ExitKind::Failed);
        let panic = shutdown(true, "guest-panic");
        assert_eq!(judge(false, Some(&panic), None, "").kind, ExitKind::Failed);
    }

    #[test]
    fn what_is_known_only_from_the_log_is_told() {
        let log = "2026-11-24T17:00:00.000000Z qemu-system-x86_64: out of luck\n";
        assert_eq!(judge(false, None, None, log).reason, "QEMU ended without being asked: out of luck");
    }
}
