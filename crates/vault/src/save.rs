//! Saving disks as a recovery point.
//!
//! All threads do the same: take the next segment, read it, and store what of it no pack has (`segment.rs`). What the
//! caller proves unchanged is neither read nor hashed: it is named again by the names of the point before, where all
//! that those name is still there (`parent.rs`). The snapshot is written last, when everything that it needs is durable
//! and named by the index; until then nothing is reported, and whatever happens leaves the points before as they are.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nestling_block::{BlockSource, ExtentSet};

use crate::{
    BlobId, PointName, SnapshotId, VaultError,
    format::{
        Timestamp,
        pack::BlobKind,
        snapshot::Snapshot,
        tree::{self, Node, Tree},
    },
    index::Index,
    job::Job,
    layout::{DESCRIPTION_FILE, Geometry, POINT_FILE, Zeroes, group_name, segment_name},
    lock::RepositoryLock,
    packer::{Packer, Stored, Writer, write_under},
    parallel::{in_parallel_with, threads},
    point::{DiskLayout, Point, PointLayout, TAG},
    prune::marked_packs,
    repo::{Identity, Repository},
};

mod parent;
mod segment;

use parent::{Checked, OldDisk, Parent};
use segment::Worker;

/// Packs on their way to a local directory at once; more only wait for the same disk.
const UPLOADS: usize = 2;

/// One disk to be saved.
pub struct DiskInput<'a> {
    pub name: &'a str,
    pub source: &'a dyn BlockSource,
    /// What may have changed since `SaveRequest::parent`. None: all of the disk is looked at.
    pub changed: Option<&'a ExtentSet>,
}

pub struct SaveRequest<'a> {
    pub name: &'a PointName,
    pub disks: &'a [DiskInput<'a>],
    /// The machine's own description, kept beside its disks.
    pub description: Option<&'a [u8]>,
    /// The instant that the disks show.
    pub time: Timestamp,
    pub tags: &'a [String],
    /// The point that `DiskInput::changed` counts from.
    pub parent: Option<&'a Point>,
    pub who: &'a Identity,
    /// Threads that read, hash and compress; 0: as many as there are processors.
    pub threads: usize,
}

/// What a save did.
#[derive(Debug, Clone)]
pub struct SaveReport {
    pub point: SnapshotId,
    /// Bytes of all disks, holes included.
    pub size_bytes: u64,
    /// Bytes that were read from the disks.
    pub read_bytes: u64,
    /// Plain bytes of chunks that no pack had.
    pub new_bytes: u64,
    /// What the repository grew by, before the snapshot itself.
    pub stored: Stored,
    pub duration: Duration,
    /// Disks whose changed extents could not be used, since the parent has no such disk, cuts it otherwise, or is damaged.
    pub read_in_full: Vec<String>,
    /// Segments that did not change, and were read all the same: the repository lacks something of them.
    pub read_anew: u64,
}

/// What is known of a disk before it is read.
struct DiskPlan<'a> {
    input: &'a DiskInput<'a>,
    geometry: Geometry,
    zeroes: Zeroes,
    /// What may have changed since the parent, and what the parent lost.
    changed: Option<Cow<'a, ExtentSet>>,
    /// Groups of the parent's disk, if changed extents count from it.
    old: Option<OldDisk>,
}

/// One segment to be looked at.
struct Task {
    disk: usize,
    segment: u64,
    /// The parent's segment, for those of its chunks that did not change.
    old: Option<BlobId>,
}

/// Trees of segments, by disk and number; a group that did not change is not taken apart.
#[derive(Default)]
struct Trees {
    groups: BTreeMap<(usize, u64), BlobId>,
    segments: BTreeMap<(usize, u64), BlobId>,
}

#[derive(Default)]
struct Counters {
    read: AtomicU64,
    new: AtomicU64,
    anew: AtomicU64,
}

impl Repository {
    /// Saves disks as a new point.
    ///
    /// The lock comes first, then what prune is about to remove, then the index: in this order nothing is built on that
    /// prune may take away.
    pub fn save(self: &Arc<Self>, request: &SaveRequest<'_>, job: &Job) -> Result<SaveReport, VaultError> {
        let begun = Instant::now();
        self.check_writable()?;
        request.check()?;
        job.begin("opening the repository", 0);
        let keeps = request.parent.iter().map(|parent| parent.snapshot.tree).collect();
        let lock = RepositoryLock::shared_keeping(self, request.who, keeps)?;
        let leaving = marked_packs(self)?;
        if let Some(parent) = request.parent {
            // Still there after the lock names it: prune will not take what it needs.
            self.snapshot(&parent.id)?;
        }
        let index = self.load_index_to_build_on(&leaving, job)?;
        let save = Save::new(self, &index, request, job)?;
        let check = || lock.check();
        let (tree, stored) = write_under(&check, self, &index, UPLOADS, job, |writer| save.run(writer))?;
        job.confirm()?;
        job.begin("writing the point", 0);
        let report = SaveReport {
            point: SnapshotId([0; 32]),
            size_bytes: save.disks.iter().map(|disk| disk.geometry.size_bytes).sum(),
            read_bytes: save.counters.read.load(Relaxed),
            new_bytes: save.counters.new.load(Relaxed),
            stored,
            duration: begun.elapsed(),
            read_in_full: save.read_in_full(),
            read_anew: save.counters.anew.load(Relaxed),
        };
        let point = self.put_snapshot_under(&check, &snapshot(request, tree, &report))?;
        Ok(SaveReport { point, duration: begun.elapsed(), ..report })
    }
}

fn snapshot(request: &SaveRequest<'_>, tree: BlobId, report: &SaveReport) -> Snapshot {
    let mut tags = vec![TAG.to_owned()];
    tags.extend(request.tags.iter().cloned());
    Snapshot {
        time: request.time,
        parent: request.parent.map(|parent| parent.id),
        tree,
        paths: vec![request.name.path()],
        hostname: request.who.hostname.clone(),
        username: request.who.username.clone(),
        uid: request.who.uid,
        gid: request.who.gid,
        tags,
        excludes: Vec::new(),
        original: None,
        program_version: format!("nestling {}", env!("CARGO_PKG_VERSION")),
        summary: Some(serde_json::json!({
            "total_bytes_processed": report.size_bytes,
            "data_added": report.new_bytes,
            "data_added_packed": report.stored.bytes,
        })),
        other: serde_json::Map::new(),
    }
}

struct Save<'a> {
    repository: &'a Repository,
    index: &'a Index,
    request: &'a SaveRequest<'a>,
    job: &'a Job,
    disks: Vec<DiskPlan<'a>>,
    /// What of the parent is named again was looked at.
    checked: Checked,
    counters: Counters,
}

impl<'a> Save<'a> {
    fn new(
        repository: &'a Repository,
        index: &'a Index,
        request: &'a SaveRequest<'a>,
        job: &'a Job,
    ) -> Result<Self, VaultError> {
        let (mut disks, checked) = (Vec::new(), Checked::default());
        let mut parent = Parent::open(repository, index, request, &checked)?;
        for input in request.disks {
            let geometry = Geometry::new(input.source.size_bytes(), &repository.tuning)?;
            let old = match (&mut parent, input.changed) {
                (Some(parent), Some(_)) => parent.disk(input.name, &geometry)?,
                _ => None,
            };
            let lost = parent.as_ref().map(|parent| parent.lost(input.name)).unwrap_or_default();
            let changed = input.changed.map(|changed| match lost.is_empty() {
                true => Cow::Borrowed(changed),
                false => Cow::Owned(changed.union(&lost)),
            });
            disks.push(DiskPlan { input, geometry, zeroes: Zeroes::of(&geometry), changed, old });
        }
        drop(parent);
        Ok(Self { repository, index, request, job, disks, checked, counters: Counters::default() })
    }

    fn read_in_full(&self) -> Vec<String> {
        let full = self.disks.iter().filter(|disk| disk.input.changed.is_some() && disk.old.is_none());
        full.map(|disk| disk.input.name.to_owned()).collect()
    }

    /// The tree of the point.
    fn run(&self, writer: &Writer<'_>) -> Result<BlobId, VaultError> {
        let (tasks, trees) = self.plan()?;
        self.tell_damage(writer);
        let bytes = tasks.iter().map(|task| self.segment_bytes(task)).sum();
        self.job.begin_bytes("saving", bytes);
        let trees = Mutex::new(trees);
        in_parallel_with(
            &tasks,
            threads(self.request.threads),
            self.job,
            || Worker::new(self, writer),
            |worker, task| {
                let tree = worker.segment(task)?;
                let mut trees = trees.lock().unwrap_or_else(PoisonError::into_inner);
                trees.segments.insert((task.disk, task.segment), tree);
                Ok(())
            },
            Worker::flush,
        )?;
        self.finish(writer, &trees.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn segment_bytes(&self, task: &Task) -> u64 {
        let range = self.disks[task.disk].geometry.segment(task.segment);
        range.end - range.start
    }

    /// The trees above the segments, from below.
    fn finish(&self, writer: &Writer<'_>, trees: &Trees) -> Result<BlobId, VaultError> {
        let mut packer = Packer::new(BlobKind::Data, &self.repository.key, &self.repository.tuning)?;
        let mut nodes = Vec::new();
        for (number, disk) in self.disks.iter().enumerate() {
            let mut groups = Vec::new();
            for group in 0..disk.geometry.groups() {
                let id = match trees.groups.get(&(number, group)) {
                    Some(id) => *id,
                    None => writer.tree(&encoded(group_nodes(disk, number, group, trees)?)?)?,
                };
                groups.push(dir(&group_name(group), id));
            }
            nodes.push(dir(disk.input.name, writer.tree(&encoded(groups)?)?));
        }
        let layout = PointLayout {
            version: 1,
            disks: self.disks.iter().map(DiskPlan::layout).collect(),
            lost: Vec::new(),
        };
        let json =
            serde_json::to_vec_pretty(&layout).map_err(|error| VaultError::Invalid(error.to_string()))?;
        nodes.push(small_file(POINT_FILE, &json, &mut packer, writer)?);
        if let Some(description) = self.request.description {
            nodes.push(small_file(DESCRIPTION_FILE, description, &mut packer, writer)?);
        }
        packer.flush(writer)?;
        let mut tree = writer.tree(&encoded(nodes)?)?;
        for component in self.request.name.components().rev() {
            tree = writer.tree(&encoded(vec![dir(component, tree)])?)?;
        }
        Ok(tree)
    }
}

/// Everything below a point is dated alike, so that what did not change has the name it had.
pub(crate) fn dir(name: &str, subtree: BlobId) -> Node {
    Node::dir(name, subtree, epoch())
}

pub(crate) fn epoch() -> Timestamp {
    Timestamp::from_unix_nanoseconds(0)
}

pub(crate) fn encoded(nodes: Vec<Node>) -> Result<Vec<u8>, VaultError> {
    let tree =
        Tree::new(nodes).map_err(|source| VaultError::Damaged { file: "a new tree".to_owned(), source })?;
    Ok(tree::encode(&tree))
}

fn group_nodes(
    disk: &DiskPlan<'_>,
    number: usize,
    group: u64,
    trees: &Trees,
) -> Result<Vec<Node>, VaultError> {
    let mut nodes = Vec::new();
    for segment in disk.geometry.group(group) {
        let id = trees.segments.get(&(number, segment)).ok_or(VaultError::Stopped)?;
        nodes.push(dir(&segment_name(disk.geometry.place(segment).1), *id));
    }
    Ok(nodes)
}

pub(crate) fn small_file(
    name: &str,
    bytes: &[u8],
    packer: &mut Packer<'_>,
    writer: &Writer<'_>,
) -> Result<Node, VaultError> {
    let mut content = Vec::new();
    for part in bytes.chunks(1 << 20) {
        let id = BlobId::of(part);
        if writer.claim_small(&id) {
            packer.add(id, part, writer)?;
        }
        content.push(id);
    }
    Ok(Node::file(name, bytes.len() as u64, content, epoch()))
}

impl DiskPlan<'_> {
    fn layout(&self) -> DiskLayout {
        DiskLayout { name: self.input.name.to_owned(), geometry: self.geometry }
    }
}

/// Whether all bytes are zero. Data are seen as such at once; zeroes are compared at the speed of memory.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const STEP: usize = 4096;
    bytes.chunks(STEP).all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}
