//! The connection itself: two tasks, one that writes and one that reads, and the table of commands under way.

use std::{
    collections::HashMap,
    io::{self, IoSlice},
    os::fd::{AsFd, OwnedFd},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{broadcast, mpsc, oneshot, watch},
    time::timeout,
};

use super::codec::Lines;

/// Longer than any answer that is asked for here.
const LINE_BYTES_MAX: usize = 4 << 20;
/// Commands that wait to be written.
const QUEUE: usize = 32;
/// Events that a slow reader may miss no more than.
const EVENTS: usize = 256;

/// For commands that QEMU answers at once, on a host where everything is slow.
pub(crate) const QUICK: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, thiserror::Error)]
pub enum QmpError {
    #[error("QEMU refused {command}: {reason}")]
    Refused { command: String, reason: String },
    #[error("QEMU did not answer {command} within {} seconds", after.as_secs())]
    Timeout { command: String, after: Duration },
    #[error("the connection to QEMU's monitor is closed ({why})")]
    Closed { why: String },
    #[error("QEMU's answer to {command} makes no sense: {why}")]
    Nonsense { command: String, why: String },
}

#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub name: String,
    pub data: Value,
}

/// How QEMU says that its machine has ended.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Shutdown {
    pub guest: bool,
    pub reason: String,
}

/// A connection to one QEMU. Clones share it.
#[derive(Debug, Clone)]
pub struct Qmp(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    requests: mpsc::Sender<Request>,
    next_id: AtomicU64,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    pending: Mutex<HashMap<u64, oneshot::Sender<Result<Value, String>>>>,
    events: broadcast::Sender<Event>,
    shutdown: Mutex<Option<Shutdown>>,
    /// Why the connection ended, once it has.
    closed: watch::Sender<Option<String>>,
}

#[derive(Debug)]
struct Request {
    line: Vec<u8>,
    fd: Option<OwnedFd>,
}

impl Qmp {
    /// Takes a connected stream through the greeting. The caller bounds the time: QEMU greets only when its machine is
    /// built.
    pub async fn greet(stream: UnixStream) -> Result<Self, QmpError> {
        let (reader, writer) = stream.into_split();
        let mut lines = Lines::new(reader);
        let nonsense = |why: String| QmpError::Nonsense { command: "the greeting".to_owned(), why };
        let greeting = match lines.next(LINE_BYTES_MAX).await {
            Ok(Some(line)) => line,
            Ok(None) => {
                return Err(QmpError::Closed { why: "QEMU closed it before the greeting".to_owned() });
            }
            Err(error) => return Err(nonsense(error.to_string())),
        };
        match serde_json::from_slice::<Value>(&greeting) {
            Ok(value) if value.get("QMP").is_some() => {}
            Ok(_) => return Err(nonsense("it is not QEMU's".to_owned())),
            Err(error) => return Err(nonsense(error.to_string())),
        }
        let (requests, queue) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            pending: Mutex::default(),
            events: broadcast::Sender::new(EVENTS),
            shutdown: Mutex::default(),
            closed: watch::Sender::new(None),
        });
        tokio::spawn(write(writer, queue));
        tokio::spawn(read(lines, shared.clone()));
        let qmp = Self(Arc::new(Inner { requests, next_id: AtomicU64::new(1), shared }));
        qmp.execute("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }

    /// Sends a command that is answered at once.
    pub async fn execute(&self, command: &str, arguments: Value) -> Result<Value, QmpError> {
        self.send(command, arguments, None, QUICK).await
    }

    pub async fn execute_within(
        &self,
        command: &str,
        arguments: Value,
        after: Duration,
    ) -> Result<Value, QmpError> {
        self.send(command, arguments, None, after).await
    }

    /// Gives QEMU a file descriptor under a name, for the commands that take one.
    pub async fn give_fd(&self, name: &str, fd: OwnedFd) -> Result<(), QmpError> {
        self.send("getfd", json!({"fdname": name}), Some(fd), QUICK).await.map(drop)
    }

    /// Gives QEMU a file descriptor to keep, as `/dev/fdset/N` for this N. `label` is shown beside it.
    pub async fn add_fd(&self, label: &str, fd: OwnedFd) -> Result<u64, QmpError> {
        let command = "add-fd";
        let answer = self.send(command, json!({"opaque": label}), Some(fd), QUICK).await?;
        let set = answer["fdset-id"].as_u64();
        set.ok_or_else(|| QmpError::Nonsense {
            command: command.to_owned(),
            why: "it names no set".to_owned(),
        })
    }

    /// Sends commands in one piece, which QEMU carries out in their order, each whether or not those before it were
    /// refused. Their answers, in their order; an error when not all are known.
    pub async fn execute_all(
        &self,
        commands: Vec<(&str, Value)>,
        after: Duration,
    ) -> Result<Vec<Result<Value, QmpError>>, QmpError> {
        let (mut lines, mut replies, mut entries) = (Vec::new(), Vec::new(), Vec::new());
        for (command, arguments) in commands {
            let (line, entry, reply) = self.enter(command, &arguments);
            lines.extend(line);
            entries.push(entry);
            replies.push((command.to_owned(), reply));
        }
        if let Some(why) = self.close_reason() {
            return Err(QmpError::Closed { why });
        }
        let exchange = async {
            self.0.requests.send(Request { line: lines, fd: None }).await.ok()?;
            let mut answers = Vec::new();
            for (command, reply) in replies {
                let answer = reply.await.ok()?;
                answers.push(answer.map_err(|reason| QmpError::Refused { command, reason }));
            }
            Some(answers)
        };
        match timeout(after, exchange).await {
            Ok(Some(answers)) => Ok(answers),
            Ok(None) => Err(self.closed_error()),
            Err(_) => Err(QmpError::Timeout { command: "several commands".to_owned(), after }),
        }
    }

    /// A command's line, and the place where its answer will come. The entry removes that on every way out, a caller that
    /// goes away included.
    fn enter(&self, command: &str, arguments: &Value) -> (Vec<u8>, Entry<'_>, Reply) {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        let mut line = json!({"execute": command, "arguments": arguments, "id": id}).to_string().into_bytes();
        line.push(b'\n');
        let (sender, reply) = oneshot::channel();
        self.0.shared.pending().insert(id, sender);
        (line, Entry { shared: &self.0.shared, id }, reply)
    }

    fn closed_error(&self) -> QmpError {
        QmpError::Closed { why: self.close_reason().unwrap_or_else(|| "QEMU closed it".to_owned()) }
    }

    async fn send(
        &self,
        command: &str,
        arguments: Value,
        fd: Option<OwnedFd>,
        after: Duration,
    ) -> Result<Value, QmpError> {
        let (line, _entry, reply) = self.enter(command, &arguments);
        let exchange = async {
            self.0.requests.send(Request { line, fd }).await.ok()?;
            reply.await.ok()
        };
        // Closed before the entry was made, so that nobody will ever answer it.
        if let Some(why) = self.close_reason() {
            return Err(QmpError::Closed { why });
        }
        match timeout(after, exchange).await {
            Ok(Some(Ok(value))) => Ok(value),
            Ok(Some(Err(reason))) => Err(QmpError::Refused { command: command.to_owned(), reason }),
            Ok(None) => Err(self.closed_error()),
            Err(_) => Err(QmpError::Timeout { command: command.to_owned(), after }),
        }
    }

    /// Everything that QEMU tells from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.shared.events.subscribe()
    }

    /// What QEMU last said about the end of its machine.
    pub fn shutdown(&self) -> Option<Shutdown> {
        self.0.shared.shutdown.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the connection has ended and all that came over it has been read.
    pub async fn closed(&self) {
        self.0.shared.closed.subscribe().wait_for(Option::is_some).await.ok();
    }

    pub fn is_closed(&self) -> bool {
        self.0.shared.closed.borrow().is_some()
    }

    fn close_reason(&self) -> Option<String> {
        self.0.shared.closed.borrow().clone()
    }
}

type Reply = oneshot::Receiver<Result<Value, String>>;

struct Entry<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.shared.pending().remove(&self.id);
    }
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, HashMap<u64, oneshot::Sender<Result<Value, String>>>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, message: Message) {
        if let Some(name) = message.event {
            if name == "SHUTDOWN" {
                let shutdown = Shutdown::deserialize(&message.data).unwrap_or_default();
                *self.shutdown.lock().unwrap_or_else(PoisonError::into_inner) = Some(shutdown);
            }
            tracing::debug!(name, data = %message.data, "QEMU event");
            self.events.send(Event { name, data: message.data }).ok();
            return;
        }
        let Some(id) = message.id.as_ref().and_then(Value::as_u64) else {
            tracing::debug!(error = ?message.error, "a message from QEMU that answers nothing");
            return;
        };
        let Some(waiter) = self.pending().remove(&id) else {
            tracing::debug!(id, "QEMU answered after the deadline");
            return;
        };
        let answer = match message.error {
            Some(error) => Err(error.desc),
            None => Ok(message.answer),
        };
        waiter.send(answer).ok();
    }
}

#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    id: Option<Value>,
    #[serde(default, rename = "return")]
    answer: Value,
    #[serde(default)]
    error: Option<Failure>,
    #[serde(default)]
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

#[cfg(feature = "fuzzing")]
pub(crate) fn read_message(line: &[u8]) {
    if let Ok(message) = serde_json::from_slice::<Message>(line) {
        let _ = Shutdown::deserialize(&message.data);
        let _ = super::MigrationStatus::deserialize(&message.answer);
    }
}

#[derive(Debug, Deserialize)]
struct Failure {
    #[serde(default)]
    desc: String,
}

async fn read(mut lines: Lines<OwnedReadHalf>, shared: Arc<Shared>) {
    let why = loop {
        match lines.next(LINE_BYTES_MAX).await {
            Ok(Some(line)) => match serde_json::from_slice(&line) {
                Ok(message) => shared.take(message),
                Err(error) => break format!("QEMU sent what is no message: {error}"),
            },
            Ok(None) => break "QEMU closed it".to_owned(),
            Err(error) => break error.to_string(),
        }
    };
    shared.closed.send_replace(Some(why));
    // Whoever waits is told by the end of its channel.
    shared.pending().clear();
}

async fn write(mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Request>) {
    while let Some(request) = queue.recv().await {
        let sent = match &request.fd {
            Some(fd) => send_with_fd(&mut writer, &request.line, fd).await,
            None => writer.write_all(&request.line).await,
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "cannot write to QEMU's monitor");
            return;
        }
    }
}

async fn send_with_fd(writer: &mut OwnedWriteHalf, line: &[u8], fd: &OwnedFd) -> io::Result<()> {
    let stream: &UnixStream = writer.as_ref();
    let sent = stream
        .async_io(Interest::WRITABLE, || {
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let fds = [fd.as_fd()];
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            Ok(sendmsg(stream, &[IoSlice::new(line)], &mut ancillary, SendFlags::NOSIGNAL)?)
        })
        .await?;
    writer.write_all(&line[sent..]).await
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
