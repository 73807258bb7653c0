//! Machines of ours that read what no reader here reads: XFS, btrfs, LVM, arrays, encrypted volumes.
//!
//! ```text
//! disks of a point, or a disk inside one ── scratch ── NBD ──► QEMU ── its kernel mounts, read-only
//!                                                                │ a port
//! files_open ◄── nestling_explore::client ◄──────────────────────┘
//! ```
//!
//! One is started when it is needed, kept for whoever asks for more, and ended when nobody did for a while, or when this
//! node ends, in whatever way: it lives no longer than this process. What must never happen: that this host's kernel looks
//! at what a guest wrote; that an answer is waited for without a deadline; that a key outlives the machine it was given to.

use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nestling_block::{
    BlockError, BlockSource,
    nbd::{Export, NbdAddress, NbdServer, ServerLimits},
};
use nestling_explore::{
    client::Worker,
    machine::{DISK_SERIAL, PORT},
};
use nestling_hypervisor::{Qemu, ReaderDisk, ReaderSpec, probe::Engine, reader_command};
use nestling_image::Image;

use super::{
    files::{ANSWER_TIMEOUT, unreadable},
    readers::IDLE,
    scratch::{Allowance, Scratch},
    source::{Source, SourceDisk},
};
use crate::{
    Node, NodeError, blocking::blocking, clock::whole_ms, error::Result, home::remove_file, locked::lock,
};

/// For QEMU to come to its disks, on a host where everything is slow.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(60);
/// Machines at once. Each takes up to 1.5 GiB.
const MACHINES_MAX: usize = 2;

/// A machine that reads.
pub struct Reading {
    /// The point's whole id, and the place of the disk in it; an empty place is all disks.
    key: (String, String),
    pub machine: Arc<Worker>,
    used: Mutex<Instant>,
    // In this order: the machine ends before what it reads from.
    _server: NbdServer,
    below: Below,
}

/// What a machine reads from, which lives as long as it.
pub struct Below {
    pub source: Arc<Source>,
    /// Of the reader's process that opened the disk inside a disk.
    pub _server: Option<NbdServer>,
    pub machine: Option<Arc<Reading>>,
}

impl Reading {
    pub fn touch(&self) {
        *lock(&self.used) = Instant::now();
        if let Some(below) = &self.below.machine {
            below.touch();
        }
    }

    fn idle(&self) -> Duration {
        lock(&self.used).elapsed()
    }

    /// Whether it is this one, or one that needs it to read.
    pub fn reads_through(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
            || self.below.machine.as_ref().is_some_and(|below| below.reads_through(other))
    }
}

#[derive(Default)]
pub struct Machines {
    all: Mutex<Vec<Arc<Reading>>>,
    /// Held while one is started, so that two questions start one machine.
    starting: tokio::sync::Mutex<()>,
}

impl Machines {
    pub fn get(&self, point: &str, place: &str) -> Option<Arc<Reading>> {
        let all = lock(&self.all);
        let found =
            all.iter().find(|reading| (reading.key.0.as_str(), reading.key.1.as_str()) == (point, place))?;
        found.touch();
        Some(Arc::clone(found))
    }

    /// Makes room: those that nobody used for longest go. One that another reads from ends with that.
    fn make_room(&self) -> Vec<Arc<Reading>> {
        let mut all = lock(&self.all);
        all.sort_by_key(|reading| reading.idle());
        let keep = all.len().min(MACHINES_MAX - 1);
        all.split_off(keep)
    }

    fn put(&self, reading: Arc<Reading>) {
        lock(&self.all).push(reading);
    }

    /// Takes some out. Waits for their processes, and holds up nobody meanwhile.
    pub fn end_where(&self, ends: impl Fn(&Reading) -> bool) {
        let ended: Vec<_> = lock(&self.all).extract_if(.., |reading| ends(reading)).collect();
        drop(ended);
    }

    /// Whether any is left.
    pub fn end_idle(&self) -> bool {
        self.end_where(|reading| reading.idle() >= IDLE);
        !lock(&self.all).is_empty()
    }

    /// The node ends.
    pub fn close(&self) {
        self.end_where(|_| true);
    }
}

/// All that a machine is started with, besides its disks.
struct Bench {
    qemu: Qemu,
    engine: Engine,
    image: Image,
    socket: PathBuf,
    scratch: PathBuf,
}

impl Node {
    /// The machine that reads all disks of a point.
    pub(super) async fn reader_of_point(&self, source: &Arc<Source>) -> Result<Arc<Reading>> {
        let of = Arc::clone(source);
        let open = move |disk: &SourceDisk| {
            let bytes = of.disk(&disk.name).map_err(|error| of.failed(error))?;
            Ok(Arc::new(bytes) as Arc<dyn BlockSource>)
        };
        let of = Arc::clone(source);
        let disks = move || of.disks.iter().map(open).collect();
        let below = Below { source: Arc::clone(source), _server: None, machine: None };
        self.reader(String::new(), disks, below).await
    }

    /// The machine that reads disks: one that is there, or a new one, for which `disks` opens them. That blocks.
    pub(super) async fn reader(
        &self,
        place: String,
        disks: impl FnOnce() -> Result<Vec<Arc<dyn BlockSource>>> + Send + 'static,
        below: Below,
    ) -> Result<Arc<Reading>> {
        let point = below.source.point.id.to_string();
        let machines = &self.recovery.machines;
        let _one = machines.starting.lock().await;
        if let Some(reading) = machines.get(&point, &place) {
            return Ok(reading);
        }
        let bench = self.bench().await?;
        let shared = self.shared();
        let reading = blocking(move || {
            let disks = disks()?;
            for ending in shared.recovery.machines.make_room() {
                let is_it = |machine: &Arc<Reading>| Arc::ptr_eq(machine, &ending);
                shared.recovery.files.end_where(|opened| opened.machine.as_ref().is_some_and(is_it));
            }
            let (machine, server) = start(&bench, disks, &below.source)?;
            let (machine, used) = (Arc::new(machine), Mutex::new(Instant::now()));
            Ok(Arc::new(Reading { key: (point, place), machine, used, _server: server, below }))
        })
        .await?;
        machines.put(Arc::clone(&reading));
        self.watch_idle();
        Ok(reading)
    }

    async fn bench(&self) -> Result<Bench> {
        Ok(Bench {
            image: self.image("reader").await?,
            qemu: self.engines.qemu().await?,
            engine: self.engines.get(false).await?,
            socket: self.read_socket(),
            scratch: self.home.read(),
        })
    }
}

fn start(bench: &Bench, disks: Vec<Arc<dyn BlockSource>>, source: &Source) -> Result<(Worker, NbdServer)> {
    let begun = Instant::now();
    let (path, written) = (bench.socket.clone(), Arc::new(Allowance::default()));
    let served = |error| NodeError::Export { path: path.clone(), source: error };
    let export = |(number, disk)| {
        let disk = Scratch::new(disk, &bench.scratch, Arc::clone(&written))?;
        Ok(Export::writable(&format!("{DISK_SERIAL}{number}"), Arc::new(disk)))
    };
    let count = disks.len();
    let exports: std::result::Result<Vec<Export>, BlockError> =
        disks.into_iter().enumerate().map(export).collect();
    let limits = ServerLimits { handshake: HANDSHAKE_TIMEOUT, ..ServerLimits::default() };
    let server = NbdServer::start(&NbdAddress::Unix(path.clone()), exports.map_err(served)?, limits)
        .map_err(served)?;
    let connect = |number: usize| {
        let name = format!("{DISK_SERIAL}{number}");
        Ok(ReaderDisk { socket: UnixStream::connect(&path)?, serial: name.clone(), export: name })
    };
    let connected: std::io::Result<Vec<ReaderDisk>> = (0..count).map(connect).collect();
    remove_file(&path)?;
    let disks = connected.map_err(NodeError::io("connect to", &path))?;
    let (control, port) = UnixStream::pair().map_err(NodeError::io("connect to", &path))?;
    let missing = || NodeError::ImageNotBuilt(bench.image.name.clone());
    let spec = ReaderSpec {
        engine: bench.engine.clone(),
        kernel: bench.image.kernel.clone().ok_or_else(missing)?,
        initrd: bench.image.initrd.clone().ok_or_else(missing)?,
        append: bench.image.append.clone(),
        memory_bytes: bench.image.default_memory_bytes,
        port: (PORT, port),
        disks,
    };
    let command = reader_command(&bench.qemu, spec)
        .map_err(|error| NodeError::Engine(format!("the machine that reads: {error}")))?;
    let machine = Worker::start_machine(command, control, "the point's disks", ANSWER_TIMEOUT)
        .map_err(|error| unreadable(&source.point, error))?;
    let millis = whole_ms(begun.elapsed());
    tracing::info!(pid = machine.process_id(), disks = count, millis, "a machine that reads is ready");
    Ok((machine, server))
}
