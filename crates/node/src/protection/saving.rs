//! From an instant that is served to a recovery point: what is read, and what is told to the vault. All of it blocks.

use std::{
    ops::Range,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use nestling_block::{
    BlockError, BlockSource, Extent, ExtentKind, ExtentList, ExtentSet,
    nbd::{NbdAddress, NbdClient, NbdOptions, NbdUri},
};
use nestling_vault::{
    DiskInput, Identity, Job, Point, PointName, Repository, SaveReport, SaveRequest, VaultError,
    format::Timestamp,
};

use super::{inside::InsideDisk, pace::Pace};

/// Requests under way at once: as many as hide the way there and back.
const CONNECTIONS: usize = 4;
/// For one answer, of an engine whose host's disk is busy.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

/// Where a disk of an instant is read.
#[derive(Clone)]
pub enum Served {
    Nbd {
        socket: PathBuf,
        export: String,
        /// The dirty bitmap that says what changed since the parent; without it all is read.
        context: Option<String>,
    },
    /// By the node inside a machine.
    Inside(Arc<InsideDisk>),
}

/// A disk of an instant, and how it is read.
#[derive(Clone)]
pub struct SourceDisk {
    /// What it is called in the point.
    pub name: String,
    pub served: Served,
    /// Bytes that were read so far.
    pub read: Arc<AtomicU64>,
    /// How fast it may be read.
    pub pace: Option<Arc<Pace>>,
}

/// What is to become a recovery point.
pub struct Saving {
    pub vault: Arc<Repository>,
    pub name: PointName,
    pub disks: Vec<SourceDisk>,
    pub description: Vec<u8>,
    pub taken_at_ms: u64,
    pub tags: Vec<String>,
    pub parent: Option<Point>,
}

/// A disk that is served over NBD: what is called a hole was one at the instant.
struct InstantDisk(NbdClient);

impl BlockSource for InstantDisk {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        self.0.read_at(buf, offset)
    }

    /// Asked twice: a guest that gives a place back while the engine looks may make it call a hole what was none. If the
    /// second answer came from below, nothing had been touched there when the first one was given.
    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let first = self.0.extents(range.clone())?;
        let end = first.last().map_or(range.start, Extent::end);
        let second = self.0.extents(range.start..end)?;
        Ok(common_holes(range.start, &first, &second))
    }

    fn name(&self) -> &str {
        self.0.name()
    }
}

/// What is read from a disk is counted, and held to a pace.
pub struct Counted {
    disk: Box<dyn BlockSource>,
    read: Arc<AtomicU64>,
    pace: Option<Arc<Pace>>,
}

impl Counted {
    /// Of the bytes that were read.
    pub fn counter(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.read)
    }
}

impl BlockSource for Counted {
    fn size_bytes(&self) -> u64 {
        self.disk.size_bytes()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        if let Some(pace) = &self.pace {
            pace.wait(buf.len() as u64);
        }
        self.disk.read_at(buf, offset)?;
        self.read.fetch_add(buf.len() as u64, Relaxed);
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        self.disk.extents(range)
    }

    fn name(&self) -> &str {
        self.disk.name()
    }
}

/// What both call a hole; as far as both reach.
fn common_holes(start: u64, first: &[Extent], second: &[Extent]) -> Vec<Extent> {
    let holes = |extents: &[Extent]| -> ExtentSet {
        extents.iter().filter(|extent| extent.kind == ExtentKind::Zero).map(Extent::range).collect()
    };
    let end = |extents: &[Extent]| extents.last().map_or(start, Extent::end);
    let end = end(first).min(end(second));
    let mut list = ExtentList::new(start..end);
    let mut at = start;
    for hole in holes(first).intersect(&holes(second)).within(start..end) {
        if !list.push(hole.start - at, ExtentKind::Data)
            || !list.push(hole.end - hole.start, ExtentKind::Zero)
        {
            return list.finish();
        }
        at = hole.end;
    }
    list.push(end - at, ExtentKind::Data);
    list.finish()
}

/// A disk, with what changed since the parent, if that is known.
type WithChanges<D> = Result<(D, Option<Arc<ExtentSet>>), BlockError>;

impl Served {
    fn open(&self) -> WithChanges<Box<dyn BlockSource>> {
        let (socket, export, context) = match self {
            Self::Nbd { socket, export, context } => (socket, export, context),
            Self::Inside(disk) => return Ok((Box::new(Arc::clone(disk)), disk.changed()?)),
        };
        let uri = NbdUri { address: NbdAddress::Unix(socket.clone()), export: export.clone() };
        let options = NbdOptions {
            connections: CONNECTIONS,
            dirty_bitmap: context.clone(),
            timeout: ANSWER_TIMEOUT,
            whole_reads: true,
            ..NbdOptions::default()
        };
        let disk = NbdClient::connect(&uri, &options)?;
        let changed = match context {
            Some(_) => Some(Arc::new(disk.dirty(0..disk.size_bytes())?)),
            None => None,
        };
        Ok((Box::new(InstantDisk(disk)), changed))
    }
}

impl SourceDisk {
    /// Blocks.
    pub fn open(&self) -> WithChanges<Counted> {
        let (disk, changed) = self.served.open()?;
        Ok((Counted { disk, read: Arc::clone(&self.read), pace: self.pace.clone() }, changed))
    }
}

/// Reads the disks and saves them as a point.
pub fn save(saving: &Saving, job: &Job) -> Result<SaveReport, VaultError> {
    let opened = saving.disks.iter().map(SourceDisk::open).collect::<Result<Vec<_>, _>>()?;
    let disks: Vec<DiskInput<'_>> = saving
        .disks
        .iter()
        .zip(&opened)
        .map(|(disk, (source, changed))| DiskInput { name: &disk.name, source, changed: changed.as_deref() })
        .collect();
    let request = SaveRequest {
        name: &saving.name,
        disks: &disks,
        description: Some(&saving.description),
        time: timestamp(saving.taken_at_ms),
        tags: &saving.tags,
        parent: saving.parent.as_ref(),
        who: &Identity::current(),
        threads: 0,
    };
    saving.vault.save(&request, job)
}

pub fn timestamp(ms: u64) -> Timestamp {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(ms)).unwrap_or(SystemTime::UNIX_EPOCH).into()
}

/// Milliseconds since 1970; what lies before or far behind is cut to what can be said.
pub fn milliseconds(time: Timestamp) -> u64 {
    u64::try_from(time.unix_nanoseconds().max(0) / 1_000_000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_is_what_both_answers_call_one() {
        let first = [Extent::zero(10, 20), Extent::data(30, 10), Extent::zero(40, 20)];
        let second = [Extent::data(10, 5), Extent::zero(15, 35), Extent::data(50, 10)];
        let both = [
            Extent::data(10, 5),
            Extent::zero(15, 15),
            Extent::data(30, 10),
            Extent::zero(40, 10),
            Extent::data(50, 10),
        ];
        assert_eq!(common_holes(10, &first, &second), both);
        assert_eq!(common_holes(10, &first, &second[..1]), [Extent::data(10, 5)], "as far as both reach");
        assert_eq!(common_holes(10, &[], &[]), []);
    }

    #[test]
    fn times_go_there_and_back() {
        for ms in [0, 1, 1_795_730_011_227] {
            assert_eq!(milliseconds(timestamp(ms)), ms);
        }
        assert_eq!(milliseconds(Timestamp::from_unix_nanoseconds(-5)), 0);
    }
}
