//! One process that answers questions, from its start to its end.

use std::{
    io::{self, Read},
    os::unix::{net::UnixStream, process::ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, channel},
    },
    thread,
    time::{Duration, Instant},
};

use crate::worker::protocol::{
    ANSWER_BYTES_MAX, Answer, DATA_BYTES_MAX, Message, ProtocolError, Request, receive, send,
};

use super::{Mount, harmless};

/// What a process said at its end, at most.
const LAST_WORDS_BYTES: usize = 2048;
/// For the last words of a process that is dead to be there.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(2);

pub(super) struct Process {
    pub child: Child,
    control: UnixStream,
    said: Arc<Mutex<Vec<u8>>>,
    /// Closed when nothing more can be said.
    silent: Receiver<()>,
    /// What a machine was told that questions are about.
    pub at: Option<Mount>,
    /// Why it cannot be asked any more.
    pub ended: Option<End>,
}

#[derive(Debug, Clone)]
pub(super) enum End {
    Died(String),
    Silent(&'static str, Duration),
    Protocol(String),
}

impl Process {
    /// Runs the program on a thread that lives as long as it: a program that dies with its parent dies with the thread
    /// that started it.
    pub fn start(mut command: Command, control: UnixStream) -> io::Result<Self> {
        let (started, starting) = channel();
        let (speaking, silent) = channel();
        let said = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&said);
        let run = move || {
            let spawned = command.stderr(Stdio::piped()).spawn();
            // What was given to the program is its own.
            drop(command);
            let mut stderr = None;
            let spawned = spawned.map(|mut child| {
                stderr = child.stderr.take();
                child
            });
            if started.send(spawned).is_ok()
                && let Some(stderr) = stderr
            {
                listen(stderr, &heard);
            }
            drop(speaking);
        };
        thread::Builder::new().name("reader".into()).spawn(run)?;
        let child = starting.recv().map_err(|_| io::Error::other("it was not started"))??;
        Ok(Self { child, control, said, silent, at: None, ended: None })
    }

    pub fn ask(&mut self, request: &Request, timeout: Duration) -> Result<Message<Answer>, End> {
        let action = request.action();
        let mut stream = Timed { stream: &self.control, deadline: Instant::now() + timeout };
        let answer = send(&mut stream, request, b"")
            .and_then(|()| receive(&mut stream, ANSWER_BYTES_MAX, DATA_BYTES_MAX));
        match answer {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(End::Died(String::new())),
            Err(ProtocolError::Io(e))
                if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) =>
            {
                Err(End::Silent(action, timeout))
            }
            Err(ProtocolError::Io(_)) => Err(End::Died(String::new())),
            Err(ProtocolError::Broken(what)) => Err(End::Protocol(harmless(&what))),
        }
    }

    /// It may have ended by itself.
    pub fn end(&mut self) {
        let _ = self.child.kill();
    }

    /// How it ended, and what it said last.
    pub fn last_words(&mut self) -> String {
        let how = self.child.wait().map_or_else(|e| e.to_string(), describe);
        // It is dead, so that nobody keeps its stream open for long.
        if let Err(RecvTimeoutError::Timeout) = self.silent.recv_timeout(LAST_WORDS_TIMEOUT) {
            return how;
        }
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let said = harmless(&String::from_utf8_lossy(&said));
        if said.is_empty() { how } else { format!("{how}: {said}") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
        // Killed, so this does not wait for anything that it does.
        let _ = self.child.wait();
    }
}

/// Keeps the end of what is said, and takes everything, so that nobody waits to be heard.
fn listen(mut from: impl Read, heard: &Mutex<Vec<u8>>) {
    let mut piece = [0; 4096];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => {
                let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                heard.extend(piece.iter().take(count));
                let excess = heard.len().saturating_sub(LAST_WORDS_BYTES);
                heard.drain(..excess);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(31), _) => "it did what it may not (signal 31)".to_owned(),
        (Some(24), _) => "it used up its processor time (signal 24)".to_owned(),
        (Some(6), _) => "it gave up (signal 6)".to_owned(),
        (Some(signal), _) => format!("signal {signal}"),
        (None, Some(code)) => format!("it exited with status {code}"),
        (None, None) => "it ended".to_owned(),
    }
}

/// A stream of which each use ends at one deadline.
struct Timed<'a> {
    stream: &'a UnixStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Duration> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(self.left()?))?;
        let mut stream = self.stream;
        stream.read(buf)
    }
}

impl io::Write for Timed<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(Some(self.left()?))?;
        let mut stream = self.stream;
        stream.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
