//! The node's process: opens the home, serves the API, ends when told to.

use std::{
    io::{IsTerminal, Write, stdin, stdout},
    path::Path,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use nestling_api::{CHANNEL_DEVICE, Client, v1::ErrorCode};
use nestling_node::{Identity, Node, Settings};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    failure::{Failure, Result, status},
    log, on_many_threads, start,
};

/// How long a machine may take to stop when the host goes down; then its power is cut.
const STOP_PATIENCE: Duration = Duration::from_secs(45);

/// Runs the node until it is told to stop. A detached one tells its starter how the start went.
pub fn run(home: &Path, detached: bool) -> Result {
    if detached {
        // Fails only for the leader of a process group, which has no terminal of ours to leave.
        let _ = rustix::process::setsid();
    }
    let result = start::make_home(home)
        .and_then(|()| log::init())
        .and_then(|()| on_many_threads(serve(home, detached)));
    match result {
        Err(Failure::Error(error) | Failure::Usage(error)) if detached => {
            if error.code == ErrorCode::InUse {
                tracing::info!("{}", error.message);
            } else {
                tracing::error!(hint = error.hint, "{}", error.message);
            }
            tell(&serde_json::to_string(&error).unwrap_or_default());
            Err(Failure::Told(status::FAILED))
        }
        other => other,
    }
}

async fn serve(home: &Path, detached: bool) -> Result {
    let failed = |e: std::io::Error| Failure::new(ErrorCode::Failed, format!("the node can't go on: {e}"));
    let shutdown = CancellationToken::new();
    let host_goes_down = end_at_signals(&shutdown).map_err(failed)?;
    // The image of a host gets this very program.
    let settings = Settings {
        nestling_binary: std::env::current_exe().ok(),
        nodes_inside: Some(nestling_api::nodes_inside()),
        ..Settings::default()
    };
    let node = Node::open(home, settings).await.map_err(|e| Failure::Error(e.into()))?;
    // The home is ours from here on.
    if let Err(error) = log::rotate(home) {
        tracing::warn!(%error, "the log could not be put aside");
    }
    let device = Path::new(CHANNEL_DEVICE);
    let serving = nestling_api::serve(node.clone(), home, Some(device), shutdown.clone());
    let ready = async {
        // The socket is bound when the server has been polled once, which `join` does first.
        if let Err(error) = Client::connect(home).await {
            tracing::error!(%error, "the node does not answer");
            return;
        }
        tracing::info!(home = %home.display(), version = env!("CARGO_PKG_VERSION"), "the node answers");
        if detached {
            tell(start::READY);
        }
    };
    let (served, ()) = tokio::join!(serving, ready);
    if host_goes_down.load(Ordering::Relaxed) {
        tracing::info!("the host goes down: the machines are stopped");
        if let Err(error) = node.stop_machines(&Identity::Local { uid: 0 }, STOP_PATIENCE).await {
            tracing::error!(error = error.message(), "the machines were not stopped as they wish");
        }
        node.close().await;
        tracing::info!("the node has stopped, and its machines with it");
    } else {
        node.close().await;
        tracing::info!("the node has stopped; its machines go on");
    }
    served.map_err(failed)
}

/// Ends the node at a signal. The answer becomes true when the signal was SIGPWR: the host goes down.
fn end_at_signals(shutdown: &CancellationToken) -> std::io::Result<Arc<AtomicBool>> {
    let host_goes_down = Arc::new(AtomicBool::new(false));
    let power = SignalKind::from_raw(rustix::process::Signal::POWER.as_raw());
    // Stock restic sends SIGHUP to whoever holds a repository's lock, to see whether that lives; a terminal's end means it.
    let ends_with_terminal = stdin().is_terminal();
    for kind in [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup(), power] {
        let ignored = kind == SignalKind::hangup() && !ends_with_terminal;
        let (mut signal, shutdown) = (signal(kind)?, shutdown.clone());
        let host_goes_down = host_goes_down.clone();
        tokio::spawn(async move {
            while signal.recv().await.is_some() {
                if ignored {
                    continue;
                }
                host_goes_down.fetch_or(kind == power, Ordering::Relaxed);
                shutdown.cancel();
            }
        });
    }
    Ok(host_goes_down)
}

/// One line to whoever started this node, who then stops listening.
fn tell(line: &str) {
    // A starter that was interrupted hears nothing, and that is all right.
    let _ = writeln!(stdout(), "{line}");
    if let Ok(null) = std::fs::OpenOptions::new().write(true).open("/dev/null") {
        let _ = rustix::stdio::dup2_stdout(&null);
    }
}
