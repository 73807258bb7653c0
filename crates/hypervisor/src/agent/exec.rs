//! Programs run in the guest, and files written there.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::{Instant, sleep},
};

use super::{Agent, AgentError};
use crate::base64;

/// The agent cuts each output at 16 MiB, which base64 makes a third longer.
const OUTPUT_BYTES_MAX: usize = 48 << 20;
/// Between looks at a running program: soon at first, for most end soon.
const LOOK_FIRST: Duration = Duration::from_millis(10);
const LOOK_LAST: Duration = Duration::from_millis(500);
/// Written with one request; large ones need fewer of a slow guest's turns.
const CHUNK_BYTES: usize = 256 << 10;

/// A program to run in the guest.
#[derive(Debug, Clone)]
pub struct ExecRequest {
    /// Absolute, or found through the agent's `PATH`.
    pub path: String,
    pub args: Vec<String>,
    /// `NAME=VALUE`; empty: the agent's own.
    pub env: Vec<String>,
    pub stdin: Vec<u8>,
    /// After this the program is left alone.
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutcome {
    /// Absent when a signal ended it.
    pub exit_code: Option<i64>,
    pub signal: Option<i64>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// Whether the agent cut the output.
    pub truncated: bool,
}

#[derive(Deserialize)]
struct Started {
    pid: i64,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Status {
    exited: bool,
    #[serde(rename = "exitcode")]
    exit_code: Option<i64>,
    signal: Option<i64>,
    out_data: Option<String>,
    err_data: Option<String>,
    #[serde(default)]
    out_truncated: bool,
    #[serde(default)]
    err_truncated: bool,
}

#[derive(Deserialize)]
struct Written {
    count: u64,
}

impl Agent {
    /// Runs a program to its end.
    pub async fn exec(&self, request: ExecRequest) -> Result<ExecOutcome, AgentError> {
        let deadline = Instant::now() + request.timeout;
        let mut arguments = json!({"path": request.path, "arg": request.args, "capture-output": true});
        if !request.env.is_empty() {
            arguments["env"] = json!(request.env);
        }
        if !request.stdin.is_empty() {
            arguments["input-data"] = json!(base64::encode(&request.stdin));
        }
        let Started { pid } = self.ask("guest-exec", arguments).await?;
        let mut pause = LOOK_FIRST;
        loop {
            let status: Status =
                self.ask_large("guest-exec-status", json!({"pid": pid}), OUTPUT_BYTES_MAX).await?;
            if status.exited {
                return outcome(status);
            }
            if Instant::now() >= deadline {
                return Err(AgentError::StillRuns { after: request.timeout });
            }
            sleep(pause.min(deadline - Instant::now())).await;
            pause = (pause * 2).min(LOOK_LAST);
        }
    }

    /// Writes a file in the guest, which replaces one of that name; the number of bytes written.
    pub async fn write_file(
        &self,
        path: &str,
        mut source: impl AsyncRead + Unpin,
    ) -> Result<u64, AgentError> {
        let handle: i64 = self.ask("guest-file-open", json!({"path": path, "mode": "w"})).await?;
        let written = self.write_all(handle, &mut source).await;
        // Closed in any case; but whether all arrived on the guest's disk is known only here.
        let closed = self.ask::<Value>("guest-file-close", json!({"handle": handle})).await;
        let bytes = written?;
        closed.map(|_| bytes)
    }

    async fn write_all(&self, handle: i64, source: &mut (impl AsyncRead + Unpin)) -> Result<u64, AgentError> {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut total = 0;
        loop {
            let mut filled = 0;
            while filled < buffer.len() {
                match source.read(&mut buffer[filled..]).await.map_err(AgentError::Source)? {
                    0 => break,
                    n => filled += n,
                }
            }
            if filled == 0 {
                break;
            }
            let mut rest = &buffer[..filled];
            while !rest.is_empty() {
                let arguments = json!({"handle": handle, "buf-b64": base64::encode(rest)});
                let Written { count } = self.ask("guest-file-write", arguments).await?;
                let taken = usize::try_from(count).unwrap_or(usize::MAX);
                if taken == 0 || taken > rest.len() {
                    let why = format!("it says that it wrote {count} bytes of {}", rest.len());
                    return Err(AgentError::Nonsense { command: "guest-file-write".to_owned(), why });
                }
                rest = &rest[taken..];
            }
            total += filled as u64;
        }
        self.ask::<Value>("guest-file-flush", json!({"handle": handle})).await?;
        Ok(total)
    }
}

fn outcome(status: Status) -> Result<ExecOutcome, AgentError> {
    let bytes = |data: Option<String>| {
        base64::decode(data.unwrap_or_default().as_str()).ok_or_else(|| AgentError::Nonsense {
            command: "guest-exec-status".to_owned(),
            why: "the output is not base64".to_owned(),
        })
    };
    Ok(ExecOutcome {
        exit_code: status.exit_code,
        signal: status.signal,
        stdout: bytes(status.out_data)?,
        stderr: bytes(status.err_data)?,
        truncated: status.out_truncated || status.err_truncated,
    })
}
