//! The other side of [`worker`](crate::worker): starts a reader's process, asks it, and ends it.
//!
//! What a process says that has read a hostile disk is as hostile as the disk: it is bounded, and checked before it
//! is used. A process that dies, is silent or breaks the protocol is ended, and every later question gets the same
//! error; it is never started again unasked, because what killed it lies on the disk.

use std::{
    ffi::OsString,
    io::{self, Read},
    ops::Range,
    os::{
        fd::OwnedFd,
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nestling_block::Extent;

use crate::{
    Content, Cursor, ErrorKind, ExploreError, ExtendedAttribute, FileName, FileSystem, Node, Page, Place,
    ReparsePoint, Result, Stat, StreamInfo, Summary, Volume, Volumes,
    worker::protocol::{
        ANSWER_BYTES_MAX, Answer, DATA_BYTES_MAX, Message, PAGE_ENTRIES_MAX, ProtocolError, Request, receive,
        send, unpack_extents,
    },
};

/// What a process said at its end, at most.
const LAST_WORDS_BYTES: usize = 2048;
const TEXT_CHARACTERS_MAX: usize = 2000;

/// The program that runs [`worker::serve`](crate::worker::serve).
#[derive(Debug, Clone)]
pub struct WorkerProgram {
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

/// The disk that a process is to read.
#[derive(Debug)]
pub struct Disk {
    /// Connected to an NBD server that nobody else speaks with.
    pub socket: UnixStream,
    pub export: String,
    /// For messages.
    pub name: String,
}

/// A process that reads one disk.
pub struct Worker {
    name: String,
    size_bytes: u64,
    timeout: Duration,
    process: Mutex<Process>,
}

struct Process {
    child: Child,
    control: UnixStream,
    /// Why it cannot be asked any more.
    ended: Option<End>,
}

#[derive(Debug, Clone)]
enum End {
    Died(String),
    Silent(&'static str),
    Protocol(String),
}

impl Worker {
    /// Starts a process and has it connect to the disk. `timeout` is for each answer, whatever it takes to read the
    /// disk included.
    pub fn start(program: &WorkerProgram, disk: Disk, timeout: Duration) -> Result<Self> {
        let Disk { socket, export, name } = disk;
        let failed = |e: io::Error| ExploreError::WorkerStart {
            volume: name.clone(),
            what: format!("{}: {e}", program.program.display()),
        };
        let (control, other) = UnixStream::pair().map_err(failed)?;
        let child = Command::new(&program.program)
            .args(&program.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(socket))
            .stdout(OwnedFd::from(other))
            .stderr(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let process = Process { child, control, ended: None };
        let mut worker = Self { name, size_bytes: 0, timeout, process: Mutex::new(process) };
        match worker.ask(&Request::Attach { export, name: worker.name.clone() })?.body {
            Answer::Attached { size_bytes } => worker.size_bytes = size_bytes,
            _ => return Err(worker.unexpected()),
        }
        Ok(worker)
    }

    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Goes to what a place is in: a disk inside the disk, or a volume. What was opened before would be of another volume,
    /// so that nothing can have been.
    pub fn enter(mut self, place: &Place) -> Result<Self> {
        match self.ask(&Request::Enter { place: place.to_string() })?.body {
            Answer::Entered { size_bytes } => self.size_bytes = size_bytes,
            _ => return Err(self.unexpected()),
        }
        Ok(self)
    }

    /// What the disk is divided into.
    pub fn volumes(&self) -> Result<Volumes> {
        let Answer::Volumes(found) = self.ask(&Request::Volumes)?.body else { return Err(self.unexpected()) };
        let volume = |volume: Volume| Volume {
            name: harmless(&volume.name),
            content: volume.content.map(harmless_content),
            problem: volume.problem.as_deref().map(harmless),
            ..volume
        };
        Ok(Volumes {
            volumes: found.volumes.into_iter().map(volume).collect(),
            problems: found.problems.iter().map(|problem| harmless(problem)).collect(),
        })
    }

    /// What the volume holds.
    pub fn detect(&self) -> Result<Content> {
        match self.ask(&Request::Detect)?.body {
            Answer::Detected(content) => Ok(harmless_content(content)),
            _ => Err(self.unexpected()),
        }
    }

    /// Opens the volume's file system.
    pub fn open(self: &Arc<Self>) -> Result<Arc<dyn FileSystem>> {
        match self.ask(&Request::Open)?.body {
            Answer::Opened { summary, root } => {
                let summary = Summary {
                    label: harmless(&summary.label),
                    uuid: summary.uuid.as_deref().map(harmless),
                    notes: summary.notes.iter().take(16).map(|note| harmless(note)).collect(),
                    ..summary
                };
                Ok(Arc::new(Remote { worker: Arc::clone(self), summary, root }))
            }
            _ => Err(self.unexpected()),
        }
    }

    /// Its number, for who watches what it uses.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).child.id()
    }

    fn ask(&self, request: &Request) -> Result<Message<Answer>> {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(end) = &process.ended {
            return Err(self.error(end));
        }
        match process.ask(request, Instant::now() + self.timeout) {
            Ok(Message { body: Answer::Refused { kind, what }, .. }) => {
                // It may not say that it is dead.
                let kind = if kind == ErrorKind::Worker { ErrorKind::Damaged } else { kind };
                Err(ExploreError::Told { kind, what: harmless(&what) })
            }
            Ok(message) => Ok(message),
            Err(end) => {
                process.end();
                let end = match end {
                    End::Died(_) => End::Died(process.last_words()),
                    other => other,
                };
                process.ended = Some(end.clone());
                Err(self.error(&end))
            }
        }
    }

    fn error(&self, end: &End) -> ExploreError {
        let volume = self.name.clone();
        match end {
            End::Died(what) => ExploreError::WorkerDied { volume, what: what.clone() },
            End::Silent(action) => {
                ExploreError::WorkerSilent { volume, action, seconds: self.timeout.as_secs() }
            }
            End::Protocol(what) => ExploreError::WorkerProtocol { volume, what: what.clone() },
        }
    }

    /// An answer to something else: nothing that it says can be used any more.
    fn unexpected(&self) -> ExploreError {
        let end = End::Protocol("an answer to another question".to_owned());
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.end();
        process.ended.get_or_insert(end.clone());
        self.error(&end)
    }
}

impl Process {
    fn ask(&mut self, request: &Request, deadline: Instant) -> Result<Message<Answer>, End> {
        let action = request.action();
        let mut stream = Timed { stream: &self.control, deadline };
        let answer = send(&mut stream, request, b"")
            .and_then(|()| receive(&mut stream, ANSWER_BYTES_MAX, DATA_BYTES_MAX));
        match answer {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(End::Died(String::new())),
            Err(ProtocolError::Io(e))
                if matches!(e.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock) =>
            {
                Err(End::Silent(action))
            }
            Err(ProtocolError::Io(_)) => Err(End::Died(String::new())),
            Err(ProtocolError::Broken(what)) => Err(End::Protocol(harmless(&what))),
        }
    }

    /// It may have ended by itself.
    fn end(&mut self) {
        let _ = self.child.kill();
    }

    /// How it ended, and what it said last.
    fn last_words(&mut self) -> String {
        let how = self.child.wait().map_or_else(|e| e.to_string(), describe);
        let mut said = vec![0; LAST_WORDS_BYTES];
        // It is dead, so that what it left is there at once, and its end.
        let count =
            self.child.stderr.as_mut().and_then(|stderr| stderr.read(&mut said).ok()).unwrap_or_default();
        let said = harmless(&String::from_utf8_lossy(&said[..count]));
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

fn harmless_content(content: Content) -> Content {
    let Content { kind, label, uuid } = content;
    Content { kind, label: harmless(&label), uuid: uuid.as_deref().map(harmless) }
}

/// One line of bounded length that moves no cursor.
fn harmless(text: &str) -> String {
    let shown = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(|c| !c.is_control());
    shown.take(TEXT_CHARACTERS_MAX).collect::<String>().trim().to_owned()
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

/// A file system that another process reads.
struct Remote {
    worker: Arc<Worker>,
    summary: Summary,
    root: Node,
}

impl Remote {
    fn ask(&self, request: &Request) -> Result<Message<Answer>> {
        self.worker.ask(request)
    }

    /// Data alone, or nothing.
    fn bytes(&self, request: &Request) -> Result<Option<Vec<u8>>> {
        match self.ask(request)? {
            Message { body: Answer::Bytes, data } => Ok(Some(data)),
            Message { body: Answer::Nothing, .. } => Ok(None),
            _ => Err(self.worker.unexpected()),
        }
    }
}

impl FileSystem for Remote {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> Node {
        self.root
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        match self.ask(&Request::Lookup { directory, name: FileName::from(name) })?.body {
            Answer::Found(found) => Ok(found),
            _ => Err(self.worker.unexpected()),
        }
    }

    fn list(&self, directory: Node, from: Cursor, limit: usize) -> Result<Page> {
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
        match self.ask(&Request::List { directory, from, limit })?.body {
            Answer::Listed(page) if page.entries.len() <= limit => {
                Ok(Page { damage: page.damage.as_deref().map(harmless), ..page })
            }
            _ => Err(self.worker.unexpected()),
        }
    }

    fn stat(&self, node: Node) -> Result<Stat> {
        match self.ask(&Request::Stat { node })?.body {
            Answer::Stat(stat) => Ok(stat),
            _ => Err(self.worker.unexpected()),
        }
    }

    fn read(&self, node: Node, stream: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            let wanted = (buf.len() - done).min(DATA_BYTES_MAX as usize);
            let request = Request::Read {
                node,
                stream: FileName::from(stream),
                offset: offset.saturating_add(done as u64),
                length: wanted as u32,
            };
            let found = self.bytes(&request)?.filter(|data| data.len() <= wanted);
            let data = found.ok_or_else(|| self.worker.unexpected())?;
            buf[done..done + data.len()].copy_from_slice(&data);
            done += data.len();
            if data.len() < wanted {
                break;
            }
        }
        Ok(done)
    }

    fn extents(&self, node: Node, stream: &[u8], range: Range<u64>) -> Result<Vec<Extent>> {
        let request =
            Request::Extents { node, stream: FileName::from(stream), start: range.start, end: range.end };
        match self.ask(&request)?.body {
            Answer::Extents(packed) => Ok(unpack_extents(&packed, range)),
            _ => Err(self.worker.unexpected()),
        }
    }

    fn link_target(&self, node: Node) -> Result<Vec<u8>> {
        self.bytes(&Request::LinkTarget { node })?.ok_or_else(|| self.worker.unexpected())
    }

    fn extended_attributes(&self, node: Node) -> Result<Vec<ExtendedAttribute>> {
        let Message { body: Answer::Attributes(names), data } =
            self.ask(&Request::ExtendedAttributes { node })?
        else {
            return Err(self.worker.unexpected());
        };
        let mut rest = &data[..];
        let mut found = Vec::with_capacity(names.len());
        for (name, length) in names {
            let (value, after) =
                rest.split_at_checked(length as usize).ok_or_else(|| self.worker.unexpected())?;
            found.push(ExtendedAttribute { name, value: value.to_vec() });
            rest = after;
        }
        Ok(found)
    }

    fn streams(&self, node: Node) -> Result<Vec<StreamInfo>> {
        match self.ask(&Request::Streams { node })?.body {
            Answer::Streams(streams) => Ok(streams),
            _ => Err(self.worker.unexpected()),
        }
    }

    fn security_descriptor(&self, node: Node) -> Result<Option<Vec<u8>>> {
        self.bytes(&Request::SecurityDescriptor { node })
    }

    fn reparse_point(&self, node: Node) -> Result<Option<ReparsePoint>> {
        match self.ask(&Request::ReparsePoint { node })? {
            Message { body: Answer::Reparse { tag }, data } => Ok(Some(ReparsePoint { tag, data })),
            Message { body: Answer::Nothing, .. } => Ok(None),
            _ => Err(self.worker.unexpected()),
        }
    }
}
