//! The other side of [`worker`](crate::worker) and [`machine`](crate::machine): starts a reader, asks it, and ends it.
//!
//! What a reader says that has read a hostile disk is as hostile as the disk: it is bounded, and checked before it
//! is used. A reader that dies, is silent or breaks the protocol is ended, and every later question gets the same
//! error; it is never started again unasked, because what killed it lies on the disk.

mod process;
mod remote;

use std::{
    ffi::OsString,
    io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nestling_block::BlockSource;

use crate::{
    Composed, ComposedVolume, Content, ErrorKind, ExploreError, FileSystem, Place, Result, Summary, Volume,
    Volumes,
    machine::Key,
    worker::protocol::{Answer, Message, Request, version},
};

use self::{
    process::{End, Process},
    remote::{Remote, RemoteDisk},
};

const TEXT_CHARACTERS_MAX: usize = 2000;
/// More of what a machine put together is not believed.
const COMPOSED_MAX: usize = 1024;
/// For a key to be tried: those that are made to be slow to guess are slow to try, the more so where a machine is emulated.
const KEY_TIMEOUT: Duration = Duration::from_secs(300);

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

/// A volume of a machine's disks, or a disk in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The place among its disks of the one that the volume is on, unless it is on several.
    pub disk: u32,
    pub place: Place,
}

/// A process that reads one disk, or a machine that reads several.
pub struct Worker {
    name: String,
    size_bytes: u64,
    timeout: Duration,
    process: Mutex<Process>,
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
        let mut command = Command::new(&program.program);
        command
            .args(&program.arguments)
            .env_clear()
            .current_dir("/")
            .stdin(OwnedFd::from(socket))
            .stdout(OwnedFd::from(other));
        let process = Mutex::new(Process::start(command, control).map_err(failed)?);
        let mut worker = Self { name, size_bytes: 0, timeout, process };
        match worker.ask(None, &Request::Attach { export, name: worker.name.clone() })?.body {
            Answer::Attached { size_bytes } => worker.size_bytes = size_bytes,
            _ => return Err(worker.unexpected()),
        }
        Ok(worker)
    }

    /// Starts a machine in which [`machine::serve`](crate::machine::serve) runs, and waits until it answers. `control` is
    /// the other end of its port; nobody but the command may have that.
    pub fn start_machine(
        command: Command,
        control: UnixStream,
        name: &str,
        timeout: Duration,
    ) -> Result<Self> {
        let failed =
            |e: io::Error| ExploreError::WorkerStart { volume: name.to_owned(), what: e.to_string() };
        let process = Mutex::new(Process::start(command, control).map_err(failed)?);
        let machine = Self { name: name.to_owned(), size_bytes: 0, timeout, process };
        let another = || {
            ExploreError::WorkerStart {
            volume: name.to_owned(),
            what: "the image of the machine that reads is of another version of this program; build it again: nestling image build reader".to_owned(),
        }
        };
        match machine.ask(None, &Request::Version) {
            Ok(Message { body: Answer::Version(theirs), .. }) if theirs == version() => Ok(machine),
            Ok(_) | Err(ExploreError::WorkerProtocol { .. }) => Err(another()),
            Err(error) => Err(error),
        }
    }

    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Goes to what a place is in: a disk inside the disk, or a volume. What was opened before would be of another volume,
    /// so that nothing can have been.
    pub fn enter(mut self, place: &Place) -> Result<Self> {
        match self.ask(None, &Request::Enter { place: place.to_string() })?.body {
            Answer::Entered { size_bytes } => self.size_bytes = size_bytes,
            _ => return Err(self.unexpected()),
        }
        Ok(self)
    }

    /// What the disk is divided into.
    pub fn volumes(&self) -> Result<Volumes> {
        self.volumes_at(None)
    }

    /// What a disk inside a volume of a machine is divided into.
    pub fn volumes_in(&self, mount: &Mount) -> Result<Volumes> {
        self.volumes_at(Some(mount))
    }

    fn volumes_at(&self, at: Option<&Mount>) -> Result<Volumes> {
        let Answer::Volumes(found) = self.ask(at, &Request::Volumes)?.body else {
            return Err(self.unexpected());
        };
        Ok(Volumes {
            volumes: found.volumes.into_iter().map(harmless_volume).collect(),
            problems: found.problems.iter().map(|problem| harmless(problem)).collect(),
        })
    }

    /// What the volume holds.
    pub fn detect(&self) -> Result<Content> {
        match self.ask(None, &Request::Detect)?.body {
            Answer::Detected(content) => Ok(harmless_content(content)),
            _ => Err(self.unexpected()),
        }
    }

    /// Opens the volume's file system.
    pub fn open(self: &Arc<Self>) -> Result<Arc<dyn FileSystem>> {
        let Answer::Opened { summary, root } = self.ask(None, &Request::Open)?.body else {
            return Err(self.unexpected());
        };
        Ok(Arc::new(Remote { worker: Arc::clone(self), at: None, summary: harmless_summary(&summary), root }))
    }

    /// The disk or volume that the process is in.
    pub fn disk(self: &Arc<Self>) -> Arc<dyn BlockSource> {
        let (name, size_bytes) = (self.name.clone(), self.size_bytes);
        Arc::new(RemoteDisk { worker: Arc::clone(self), at: None, name, size_bytes })
    }

    /// Has a machine put volumes together, and open what is encrypted with the key. What is there then.
    pub fn compose(&self, key: Option<&Key>) -> Result<Composed> {
        let timeout = if key.is_some() { KEY_TIMEOUT.max(self.timeout) } else { self.timeout };
        let asked = self.ask_within(None, &Request::Compose { key: key.cloned() }, timeout)?;
        let Answer::Composed(found) = asked.body else { return Err(self.unexpected()) };
        let volume =
            |found: ComposedVolume| ComposedVolume { volume: harmless_volume(found.volume), ..found };
        Ok(Composed {
            volumes: found.volumes.into_iter().take(COMPOSED_MAX).map(volume).collect(),
            opened: found.opened,
            locked: found.locked,
            problems: found.problems.iter().take(COMPOSED_MAX).map(|problem| harmless(problem)).collect(),
        })
    }

    /// Opens a volume of a machine's disks.
    pub fn mount(self: &Arc<Self>, mount: Mount) -> Result<Arc<dyn FileSystem>> {
        let Answer::Opened { summary, root } = self.go(&mount)? else { return Err(self.unexpected()) };
        let summary = harmless_summary(&summary);
        Ok(Arc::new(Remote { worker: Arc::clone(self), at: Some(mount), summary, root }))
    }

    /// A disk inside a volume of a machine's disks.
    pub fn mount_disk(self: &Arc<Self>, mount: Mount) -> Result<Arc<dyn BlockSource>> {
        let Answer::Entered { size_bytes } = self.go(&mount)? else { return Err(self.unexpected()) };
        let name = format!("{} {}", self.name, mount.place);
        Ok(Arc::new(RemoteDisk { worker: Arc::clone(self), at: Some(mount), name, size_bytes }))
    }

    fn go(&self, mount: &Mount) -> Result<Answer> {
        let mut process = self.process();
        process.at = None;
        let answer = self.ask_process(&mut process, &to_mount(mount), self.timeout)?.body;
        process.at = Some(mount.clone());
        Ok(answer)
    }

    /// Its number, for who watches what it uses.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process().child.id()
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self, at: Option<&Mount>, request: &Request) -> Result<Message<Answer>> {
        self.ask_within(at, request, self.timeout)
    }

    /// Asks about what `at` names, after the machine was told so.
    fn ask_within(
        &self,
        at: Option<&Mount>,
        request: &Request,
        timeout: Duration,
    ) -> Result<Message<Answer>> {
        let mut process = self.process();
        if let Some(mount) = at
            && process.at.as_ref() != Some(mount)
        {
            process.at = None;
            self.ask_process(&mut process, &to_mount(mount), timeout)?;
            process.at = Some(mount.clone());
        }
        self.ask_process(&mut process, request, timeout)
    }

    fn ask_process(
        &self,
        process: &mut Process,
        request: &Request,
        timeout: Duration,
    ) -> Result<Message<Answer>> {
        if let Some(end) = &process.ended {
            return Err(self.error(end));
        }
        match process.ask(request, timeout) {
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
            End::Silent(action, timeout) => {
                ExploreError::WorkerSilent { volume, action, seconds: timeout.as_secs() }
            }
            End::Protocol(what) => ExploreError::WorkerProtocol { volume, what: what.clone() },
        }
    }

    /// An answer to something else: nothing that it says can be used any more.
    fn unexpected(&self) -> ExploreError {
        let end = End::Protocol("an answer to another question".to_owned());
        let mut process = self.process();
        process.end();
        process.ended.get_or_insert(end.clone());
        self.error(&end)
    }
}

fn to_mount(mount: &Mount) -> Request {
    Request::Mount { disk: mount.disk, place: mount.place.to_string() }
}

fn harmless_volume(volume: Volume) -> Volume {
    Volume {
        name: harmless(&volume.name),
        content: volume.content.map(harmless_content),
        problem: volume.problem.as_deref().map(harmless),
        ..volume
    }
}

fn harmless_summary(summary: &Summary) -> Summary {
    Summary {
        label: harmless(&summary.label),
        uuid: summary.uuid.as_deref().map(harmless),
        notes: summary.notes.iter().take(16).map(|note| harmless(note)).collect(),
        ..*summary
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
