//! `nestling node`: the node of this host, which all other commands talk to.

use std::time::Duration;

use clap::{Args, Subcommand};
use nestling_api::{Client, v1};

use super::node_serve;
use crate::{
    failure::{Failure, Result},
    on_one_thread,
    session::Session,
    start,
    text::{self, fields},
};

/// How long a node may take to end: what is under way gets its time.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Run the node of this host, for a service manager; other commands start one by themselves
#[derive(Debug, Args)]
#[command(after_help = "\
The node logs to standard error: NESTLING_LOG says what (info, debug), NESTLING_LOG_FORMAT=json how.
It ends at SIGTERM or SIGINT; its machines go on, and the next node takes them over.
At SIGPWR the host goes down: it stops each machine by its stop action first, and cuts the power
of those that take more than 45 seconds.

EXIT STATUS:
  0  done
  1  failed; `status`: no node runs
  2  the command line makes no sense")]
pub struct Node {
    #[command(subcommand)]
    command: Option<Command>,

    /// Leave the terminal, and say on standard output whether the start went well
    #[arg(long, hide = true)]
    detached: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the node in the background, unless it runs already
    Start,
    /// Stop the node; its machines go on
    Stop,
    /// Show whether the node runs
    Status,
}

impl Node {
    pub fn run(self, session: &Session) -> Result {
        match self.command {
            None if session.inside.is_empty() => node_serve::run(&session.home, self.detached),
            None => Err(Failure::usage("a node can't be started inside a machine from here")
                .hint("it starts with the machine when that was made from the image \"host\"")),
            Some(Command::Start) => on_one_thread(status_of(session, true)),
            Some(Command::Status) => on_one_thread(status_of(session, false)),
            Some(Command::Stop) => on_one_thread(stop(session)),
        }
    }
}

async fn status_of(session: &Session, starts: bool) -> Result {
    let client = if starts { session.client().await? } else { existing(session).await? };
    session.printer.show(&client.node().await?, details)
}

/// The node, if one runs.
async fn existing(session: &Session) -> Result<Client> {
    start::check_permission(&session.home)?;
    Ok(Client::connect(&session.home).await?.inside(&session.inside))
}

async fn stop(session: &Session) -> Result {
    let client = existing(session).await?;
    let node = client.node().await?;
    client.stop_node().await?;
    if !session.inside.is_empty() {
        return Ok(());
    }
    match rustix::process::Pid::from_raw(i32::try_from(node.pid).unwrap_or(0)) {
        Some(pid) => tokio::task::spawn_blocking(move || wait_for_end(pid))
            .await
            .unwrap_or_else(|e| Err(Failure::new(v1::ErrorCode::Failed, e.to_string()))),
        None => Ok(()),
    }
}

/// Waits until the process has ended, so that the next node finds the home free.
fn wait_for_end(pid: rustix::process::Pid) -> Result {
    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        process::{PidfdFlags, pidfd_open},
    };
    // A process that is not there any more has ended.
    let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return Ok(()) };
    let timeout = Timespec { tv_sec: i64::try_from(STOP_TIMEOUT.as_secs()).unwrap_or(60), tv_nsec: 0 };
    match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&timeout)) {
        Ok(0) => Err(Failure::new(
            v1::ErrorCode::Timeout,
            format!(
                "the node (process {}) did not end within {} seconds",
                pid.as_raw_nonzero(),
                timeout.tv_sec
            ),
        )),
        _ => Ok(()),
    }
}

fn details(node: &v1::Node) -> String {
    fields(&[
        ("Version", node.version.clone()),
        ("Process", node.pid.to_string()),
        ("Home", node.home.clone()),
        ("Started", text::time(node.started_at_ms)),
    ])
}
