//! Finds the node of a home, and starts one when none runs.
//!
//! Two commands may start a node at the same moment: the home's lock, held by the node, decides. The other
//! node ends at once, and its command connects to the first. Nothing here outlives its deadline.

use std::{
    fs,
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    time::Duration,
};

use nestling_api::{
    Client,
    client::{ClientError, SOCKET_NAME},
    v1::{ErrorBody, ErrorCode},
};
use tokio::time::{Instant, sleep, timeout};

use crate::failure::{Failure, Result};

/// How long a node may take until it answers: under emulation even that takes seconds.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a node that another command started is looked for.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long a home that another node has is watched before a node is started again.
const START_AGAIN: Duration = Duration::from_secs(1);

/// The longest path of a socket that Linux can name.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The line with which a node says that it answers now. Anything else is an [`ErrorBody`].
pub const READY: &str = "ready";

/// The longest line that a node that starts may say.
const START_LINE_BYTES_MAX: u64 = 64 << 10;

pub fn log_path(home: &Path) -> PathBuf {
    home.join("node.log")
}

pub async fn connect_or_start(home: &Path) -> Result<Client> {
    check_socket_path(home)?;
    let deadline = Instant::now() + START_TIMEOUT;
    let mut refusal = None;
    loop {
        match answering(home).await {
            Ok(client) => return Ok(client),
            Err(error) if !error.is_unreachable() => return Err(error.into()),
            Err(error) if Instant::now() > deadline => {
                return Err(refusal.map_or_else(|| error.into(), Failure::Error));
            }
            Err(_) => {}
        }
        check_permission(home)?;
        refusal = start(home).await?;
        let soon = Instant::now() + START_AGAIN;
        while refusal.is_some() && Instant::now() < soon && answering(home).await.is_err() {
            sleep(LOOK_INTERVAL).await;
        }
    }
}

/// A node that answers: the socket of one that was killed a moment ago still takes connections.
async fn answering(home: &Path) -> std::result::Result<Client, ClientError> {
    let client = Client::connect(home).await?;
    client.node().await?;
    Ok(client)
}

/// Starts a node. What it said, if another one has the home: it was quicker, or was killed and has not quite ended.
async fn start(home: &Path) -> Result<Option<ErrorBody>> {
    let (child, said) = spawn(home)?;
    match first_line(said).await? {
        line if line == READY => Ok(None),
        line => match serde_json::from_str::<ErrorBody>(&line) {
            Ok(error) if error.code == ErrorCode::InUse => Ok(Some(error)),
            Ok(error) => Err(Failure::Error(error)),
            Err(_) => Err(died(home, child)),
        },
    }
}

fn check_socket_path(home: &Path) -> Result {
    let bytes = home.join(SOCKET_NAME).as_os_str().len();
    if bytes <= SOCKET_PATH_BYTES_MAX {
        return Ok(());
    }
    Err(Failure::new(ErrorCode::Invalid, format!("the home's path is too long: {}", home.display())).hint(
        format!("its socket's path may have {SOCKET_PATH_BYTES_MAX} bytes; choose a shorter NESTLING_HOME"),
    ))
}

/// A node of someone else is not one that does not run.
pub fn check_permission(home: &Path) -> Result {
    let socket = home.join(SOCKET_NAME);
    match rustix::fs::access(&socket, rustix::fs::Access::WRITE_OK) {
        Err(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => Err(Failure::new(
            ErrorCode::Denied,
            "You do not have the required permission to complete this task.",
        )
        .hint(format!("the node in {} belongs to another user", home.display()))
        .object(home.display().to_string())),
        _ => Ok(()),
    }
}

/// Makes the home where it is missing; others than its owner have no business in it.
pub fn make_home(home: &Path) -> Result {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(home).map_err(|e| {
        Failure::file("make the home", home, &e).hint("set NESTLING_HOME to a directory of yours")
    })
}

fn spawn(home: &Path) -> Result<(Child, ChildStdout)> {
    make_home(home)?;
    let log = log_path(home);
    let log = fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&log)
        .map_err(|e| Failure::file("open the log", &log, &e))?;
    let program = std::env::current_exe()
        .map_err(|e| Failure::new(ErrorCode::Failed, format!("can't find this program's file: {e}")))?;
    let mut command = Command::new(&program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_secret(name)) {
        command.env_remove(name);
    }
    let started = command
        .arg("--home")
        .arg(home)
        .args(["node", "--detached"])
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn();
    let mut child = started.map_err(|e| Failure::file("start a node with", &program, &e))?;
    let said =
        child.stdout.take().ok_or_else(|| Failure::new(ErrorCode::Failed, "the node has no output"))?;
    Ok((child, said))
}

/// What opens a vault or a storage is handed to a node when it is asked for, and does not stay in its environment.
fn is_secret(name: &std::ffi::OsStr) -> bool {
    let prefixes = ["NESTLING_VAULT_", "AWS_", "AZURE_", "GOOGLE_"];
    name.to_str().is_some_and(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
}

/// What the node says first, or nothing if it ended without a word.
async fn first_line(said: ChildStdout) -> Result<String> {
    let read = tokio::task::spawn_blocking(move || -> io::Result<String> {
        let mut line = String::new();
        said.take(START_LINE_BYTES_MAX).read_to_string(&mut line)?;
        Ok(line.trim_end().to_owned())
    });
    match timeout(START_TIMEOUT, read).await {
        Ok(Ok(line)) => Ok(line.unwrap_or_default()),
        Ok(Err(_)) => Ok(String::new()),
        Err(_) => Err(Failure::new(
            ErrorCode::Timeout,
            format!("the node did not answer within {} seconds", START_TIMEOUT.as_secs()),
        )
        .hint("its log is node.log in its home")),
    }
}

fn died(home: &Path, mut child: Child) -> Failure {
    // It has closed its output, so it ended or is about to.
    let how = child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
    Failure::new(ErrorCode::Failed, format!("the node ended while it started ({how})"))
        .hint(format!("its log is {}", log_path(home).display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_too_deep_for_a_socket_is_named() {
        let home = PathBuf::from(format!("/{}", "x".repeat(120)));
        assert!(matches!(check_socket_path(&home), Err(Failure::Error(e)) if e.message.contains("too long")));
    }
}
