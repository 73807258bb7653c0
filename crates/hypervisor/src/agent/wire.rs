//! The connection to the agent's port. After anything unexpected it is dropped; a new one begins by finding the agent's
//! place again, because old answers may still be on their way.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

use super::AgentError;
use crate::qmp::{LineError, Lines};

/// Makes the agent forget half a request, and stands before the answer to a sync.
const MARK: u8 = 0xff;
/// Old answers that are passed over.
const STALE_BYTES_MAX: usize = 64 << 20;
const STALE_ANSWERS_MAX: usize = 64;
/// A large answer may take this many times as long as a small one, while it comes.
const PATIENCE: u32 = 10;
const REASON_CHARS_MAX: usize = 400;

#[derive(Debug)]
pub(super) struct Wire {
    socket: PathBuf,
    connection: Option<Connection>,
    syncs: u64,
}

struct Connection {
    lines: Lines<OwnedReadHalf>,
    writer: OwnedWriteHalf,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default, rename = "return")]
    value: Option<Value>,
    #[serde(default)]
    error: Option<Failure>,
}

#[derive(Deserialize)]
struct Failure {
    #[serde(default)]
    desc: String,
}

#[cfg(feature = "fuzzing")]
pub(crate) fn read_answer(line: &[u8]) {
    let Ok(Answer { value: Some(value), .. }) = serde_json::from_slice::<Answer>(line) else { return };
    super::facts::read_any(&value);
}

impl Wire {
    pub fn new(socket: &Path) -> Self {
        // Two nodes that follow each other must not take each other's answers for their own.
        let syncs = u64::from(uuid::Uuid::new_v4().as_fields().0);
        Self { socket: socket.to_owned(), connection: None, syncs }
    }

    /// Makes sure of a connection on which the next answer belongs to the next request.
    pub async fn sync(&mut self, after: Duration) -> Result<(), AgentError> {
        if self.connection.is_some() {
            return Ok(());
        }
        let command = "guest-sync-delimited";
        self.syncs += 1;
        let id = self.syncs;
        let found = async {
            let stream = UnixStream::connect(&self.socket).await?;
            let (reader, mut writer) = stream.into_split();
            let mut request = vec![MARK];
            request.extend(json!({"execute": command, "arguments": {"id": id}}).to_string().bytes());
            request.push(b'\n');
            writer.write_all(&request).await?;
            let mut lines = Lines::new(reader);
            for _ in 0..STALE_ANSWERS_MAX {
                if !lines.skip_past(MARK, STALE_BYTES_MAX).await.map_err(io::Error::other)? {
                    return Ok(None);
                }
                let Some(line) = lines.next(STALE_BYTES_MAX).await.map_err(io::Error::other)? else {
                    return Ok(None);
                };
                let answer = serde_json::from_slice::<Answer>(&line).ok().and_then(|a| a.value);
                if answer.and_then(|v| v.as_u64()) == Some(id) {
                    return Ok(Some(Connection { lines, writer }));
                }
            }
            Err(io::Error::other("it answers other questions only"))
        };
        let found: io::Result<_> = timeout(after, found)
            .await
            .map_err(|_| AgentError::Timeout { command: command.to_owned(), after })?;
        match found {
            Ok(Some(connection)) => self.connection = Some(connection),
            Ok(None) => return Err(AgentError::Absent),
            Err(error) if error.kind() == io::ErrorKind::Other => {
                return Err(AgentError::Nonsense { command: command.to_owned(), why: error.to_string() });
            }
            Err(_) => return Err(AgentError::Absent),
        }
        Ok(())
    }

    /// One request and its answer. Taken out while it runs, the connection is lost if the caller goes away.
    pub async fn exchange(
        &mut self,
        command: &str,
        arguments: &Value,
        after: Duration,
        bytes_max: usize,
    ) -> Result<Value, AgentError> {
        let Some(mut connection) = self.connection.take() else { return Err(AgentError::Absent) };
        let nonsense = |why: String| AgentError::Nonsense { command: command.to_owned(), why };
        let mut request = json!({"execute": command, "arguments": arguments}).to_string().into_bytes();
        request.push(b'\n');
        let asked = timeout(after, connection.writer.write_all(&request)).await;
        let answered = match asked {
            Ok(Ok(())) => answer(&mut connection.lines, after, bytes_max).await,
            Ok(Err(error)) => Some(Err(error.into())),
            Err(_) => None,
        };
        let line = match answered {
            Some(Ok(Some(line))) => line,
            Some(Ok(None) | Err(LineError::Io(_))) => return Err(AgentError::Absent),
            Some(Err(error)) => return Err(nonsense(error.to_string())),
            None => return Err(AgentError::Timeout { command: command.to_owned(), after }),
        };
        let answer: Answer = serde_json::from_slice(&line).map_err(|e| nonsense(e.to_string()))?;
        self.connection = Some(connection);
        match answer.error {
            Some(error) => {
                let plain = |c: char| if c.is_control() { '?' } else { c };
                let reason = error.desc.chars().map(plain).take(REASON_CHARS_MAX).collect();
                Err(AgentError::Refused { command: command.to_owned(), reason })
            }
            None => Ok(answer.value.unwrap_or(Value::Null)),
        }
    }
}

/// The next line, as long as something of it comes in time; `None` when nothing more does.
async fn answer(
    lines: &mut Lines<OwnedReadHalf>,
    after: Duration,
    bytes_max: usize,
) -> Option<Result<Option<Bytes>, LineError>> {
    let mut seen = lines.buffered();
    for _ in 0..PATIENCE {
        if let Ok(line) = timeout(after, lines.next(bytes_max)).await {
            return Some(line);
        }
        if lines.buffered() == seen {
            return None;
        }
        seen = lines.buffered();
    }
    None
}
