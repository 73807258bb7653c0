//! A machine that reads what no reader here reads: it has disks of others, a port to its client, and nothing else.
//!
//! ```text
//! client (node) ── port ──► serve ──► compose: md, LVM, encryption, over all disks together
//!                             │
//!                             └─────► mounted: a volume that Linux mounts, read-only, as a FileSystem
//! ```
//!
//! The program that holds this crate runs [`serve`] inside a virtual machine that was started for nothing else, with the
//! protocol of the reader's process ([`worker`](crate::worker)). What it writes to the disks (a log that is replayed, the
//! time of an array's last change) goes to a scratch copy that its client keeps beside them and throws away. Disks inside
//! files of these volumes are read by the readers of this crate.
//!
//! This must never run on a host: the kernel that mounts a guest's file system may be taken over by it.

mod compose;
mod devices;
mod mounted;
mod nodes;
mod tools;

use std::{
    collections::HashMap,
    fmt,
    fs::{self, OpenOptions},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use crate::{
    ErrorKind, ExploreError, FileSystem, Place, Result, Volume,
    nest::image_disk,
    place::InVolume,
    worker::{
        protocol::{Answer, Request},
        session::{Session, converse},
    },
};

use compose::Composer;

/// The port's name, as the machine's command line has it.
pub const PORT: &str = "org.nestling.reader.0";
/// What the serial number of a disk begins with; its place among the disks follows.
pub const DISK_SERIAL: &str = "disk";
/// A passphrase or the whole content of a key file.
pub const KEY_BYTES_MAX: usize = 8 << 10;
const PORT_TIMEOUT: Duration = Duration::from_secs(10);
const PORT_INTERVAL: Duration = Duration::from_millis(20);
/// Volumes that are mounted at once. The client opens few.
const MOUNTED_MAX: usize = 64;

/// What opens encrypted volumes. Never shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key(Vec<u8>);

impl Key {
    pub fn new(bytes: Vec<u8>) -> Result<Self> {
        if bytes.is_empty() || bytes.len() > KEY_BYTES_MAX {
            return Err(ExploreError::invalid("the key", "a key has 1 to 8192 bytes"));
        }
        Ok(Self(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What a machine made of its disks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Composed {
    pub volumes: Vec<ComposedVolume>,
    /// How many volumes were encrypted and are open, and how many need another key.
    pub opened: u32,
    pub locked: u32,
    /// What could not be put together or opened.
    pub problems: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposedVolume {
    /// The disk that it is a partition of: it was encrypted and is open now.
    pub disk: Option<u32>,
    pub volume: Volume,
}

/// Answers on the machine's port until the client closes it.
pub fn serve() -> Result<()> {
    let port = port()?;
    let failed =
        |e| ExploreError::WorkerStart { volume: "the disks".to_owned(), what: format!("the port: {e}") };
    let port = OpenOptions::new().read(true).write(true).open(port).map_err(failed)?;
    let mut machine =
        Machine { session: Session::nowhere(), composer: Composer::default(), open: HashMap::new() };
    converse(&port, &port, |request| machine.answer(request))
}

/// The kernel names its ports a moment after it was given their driver.
fn port() -> Result<PathBuf> {
    let end = Instant::now() + PORT_TIMEOUT;
    loop {
        let ports = fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten();
        let is_ours = |port: &fs::DirEntry| {
            fs::read_to_string(port.path().join("name")).is_ok_and(|name| name.trim() == PORT)
        };
        if let Some(ours) = ports.into_iter().find(is_ours) {
            return Ok(PathBuf::from("/dev").join(ours.file_name()));
        }
        if Instant::now() > end {
            return Err(ExploreError::WorkerStart {
                volume: "the disks".to_owned(),
                what: "this is no machine that was started to read".to_owned(),
            });
        }
        thread::sleep(PORT_INTERVAL);
    }
}

struct Machine {
    session: Session,
    composer: Composer,
    /// What was mounted or opened, by disk and volume.
    open: HashMap<(u32, String), Arc<dyn FileSystem>>,
}

impl Machine {
    fn answer(&mut self, request: Request) -> Result<(Answer, Vec<u8>)> {
        match request {
            Request::Compose { key } => {
                Ok((Answer::Composed(self.composer.compose(key.as_ref())?), Vec::new()))
            }
            Request::Mount { disk, place } => self.mount(disk, &place.parse()?),
            other => self.session.answer(other),
        }
    }

    fn mount(&mut self, disk: u32, place: &Place) -> Result<(Answer, Vec<u8>)> {
        let Some(outermost) = place.outermost() else {
            let what = "a place in a volume is to be named".to_owned();
            return Err(ExploreError::Told { kind: ErrorKind::Invalid, what });
        };
        let fs = self.volume(disk, outermost)?;
        match place.in_image() {
            None => Ok((self.session.go_into(fs), Vec::new())),
            Some((image, rest)) => {
                let entered = self.session.go_to(image_disk(fs, image)?, &rest)?;
                if rest.last().is_some() { self.session.answer(Request::Open) } else { Ok(entered) }
            }
        }
    }

    fn volume(&mut self, disk: u32, wanted: &InVolume) -> Result<Arc<dyn FileSystem>> {
        let key = (disk, wanted.volume.to_string());
        if let Some(open) = self.open.get(&key) {
            return Ok(Arc::clone(open));
        }
        if self.open.len() >= MOUNTED_MAX {
            let volume = wanted.volume.to_string();
            let what = "too many volumes are mounted".to_owned();
            return Err(ExploreError::Limit { volume, what, limit: MOUNTED_MAX as u64 });
        }
        let fs = self.composer.open(disk, &wanted.volume)?;
        self.open.insert(key, Arc::clone(&fs));
        Ok(fs)
    }
}
