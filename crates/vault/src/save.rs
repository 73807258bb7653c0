//! Saving disks as a recovery point.
//!
//! All threads do the same: take the next segment, read its chunks, hash them, and compress, seal and pack those that
//! no pack has. What the caller proves unchanged is neither read nor hashed: it is named again by the names of the
//! point before, where all that those name is still there (`parent.rs`). The snapshot is written last, when everything
//! that it needs is durable and named by the index; until then nothing is reported, and whatever happens leaves the
//! points before as they are.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    ops::Range,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nestling_block::{BlockSource, ExtentKind, ExtentSet, extents};

use crate::{
    BlobId, PointName, SnapshotId, VaultError,
    blob::Opener,
    format::{
        Timestamp,
        pack::BlobKind,
        snapshot::Snapshot,
        tree::{self, Node, NodeKind, Tree},
    },
    index::Index,
    job::Job,
    layout::{Chunk, DESCRIPTION_FILE, Geometry, POINT_FILE, SEGMENT_FILE, Zeroes, group_name, segment_name},
    lock::RepositoryLock,
    packer::{Packer, Stored, Writer, write_under},
    parallel::{in_parallel_with, threads},
    point::{DiskLayout, Point, PointLayout, TAG},
    prune::marked_packs,
    repo::{Identity, Repository},
};

mod parent;

use parent::{Checked, OldDisk, Parent};

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
            |mut worker| worker.packer.flush(writer),
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

/// One thread's buffers.
struct Worker<'a, 'w> {
    save: &'a Save<'a>,
    writer: &'a Writer<'w>,
    packer: Packer<'a>,
    opener: Opener<'a>,
    buffer: Vec<u8>,
    /// Lengths of the zero blobs that were stored already.
    zeroes: HashSet<u32>,
}

impl<'a, 'w> Worker<'a, 'w> {
    fn new(save: &'a Save<'a>, writer: &'a Writer<'w>) -> Result<Self, VaultError> {
        let Repository { storage, key, tuning, .. } = save.repository;
        Ok(Self {
            save,
            writer,
            packer: Packer::new(BlobKind::Data, key, tuning)?,
            opener: Opener::new(storage.as_ref(), key)?,
            buffer: Vec::new(),
            zeroes: HashSet::new(),
        })
    }

    /// The tree of a segment, with all its chunks stored or on their way.
    fn segment(&mut self, task: &Task) -> Result<BlobId, VaultError> {
        let disk = &self.save.disks[task.disk];
        let range = disk.geometry.segment(task.segment);
        let old = self.old_chunks(disk, task)?;
        let mut chunks = Vec::new();
        let mut data = DataRanges::new(disk.input.source, range.clone())?;
        for (number, chunk) in disk.geometry.chunks(range.clone()).enumerate() {
            let unchanged = disk.changed.as_ref().is_some_and(|changed| !changed.touches(chunk.clone()));
            let kept = old.as_ref().filter(|_| unchanged).and_then(|old| old.get(number)).copied().flatten();
            let found = match kept {
                Some(kept) => kept,
                None => self.chunk(disk, chunk.clone(), &mut data)?,
            };
            chunks.push(found);
            self.save.job.advance(chunk.end - chunk.start);
        }
        let bytes = range.end - range.start;
        let (content, zero_blobs) = disk.zeroes.encode(&chunks, bytes);
        for length in zero_blobs {
            // Once: hashing it anew for each segment costs seconds for each TiB of holes.
            if self.zeroes.insert(length) {
                self.store(&vec![0; length as usize])?;
            }
        }
        let node = Node::file(SEGMENT_FILE, bytes, content, epoch());
        self.writer.tree(&encoded(vec![node])?)
    }

    /// The parent's chunks at the same places; none where it had another length, or where the repository lacks it now.
    fn old_chunks(
        &mut self,
        disk: &DiskPlan<'_>,
        task: &Task,
    ) -> Result<Option<Vec<Option<Chunk>>>, VaultError> {
        let (Some(id), Some(old)) = (task.old, &disk.old) else { return Ok(None) };
        let Some(tree) = self.save.checked.tree(&mut self.opener, self.save.index, &id)? else {
            self.save.tell_damage(self.writer);
            return Ok(None);
        };
        let old_range = old.geometry.segment(task.segment);
        let content = match tree.nodes.first().map(|node| &node.kind) {
            Some(NodeKind::File { content, .. }) => content,
            _ => return Ok(None),
        };
        let Some(chunks) = old.zeroes.decode(content, old_range.end - old_range.start) else {
            return Ok(None);
        };
        let ranges: Vec<_> = disk.geometry.chunks(disk.geometry.segment(task.segment)).collect();
        let same = |((range, chunk), now): ((Range<u64>, Chunk), &Range<u64>)| {
            let whole = match chunk {
                Chunk::Zero => true,
                Chunk::Stored(id) => self.save.index.reads(&id),
            };
            (range == *now && whole).then_some(chunk)
        };
        Ok(Some(old.geometry.chunks(old_range).zip(chunks).zip(&ranges).map(same).collect()))
    }

    fn chunk(
        &mut self,
        disk: &DiskPlan<'_>,
        range: Range<u64>,
        data: &mut DataRanges,
    ) -> Result<Chunk, VaultError> {
        let parts = data.of(&range);
        if parts.is_empty() {
            return Ok(Chunk::Zero);
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(usize::try_from(range.end - range.start).unwrap_or_default(), 0);
        let outcome = self.read_and_store(disk, &range, &parts, &mut buffer);
        self.buffer = buffer;
        outcome
    }

    #[expect(clippy::cast_possible_truncation, reason = "places inside a chunk")]
    fn read_and_store(
        &mut self,
        disk: &DiskPlan<'_>,
        range: &Range<u64>,
        parts: &[Range<u64>],
        buffer: &mut [u8],
    ) -> Result<Chunk, VaultError> {
        let mut at = range.start;
        for part in parts {
            let (from, to) = ((part.start - range.start) as usize, (part.end - range.start) as usize);
            buffer[(at - range.start) as usize..from].fill(0);
            disk.input.source.read_at(&mut buffer[from..to], part.start)?;
            self.save.counters.read.fetch_add(part.end - part.start, Relaxed);
            at = part.end;
        }
        buffer[(at - range.start) as usize..].fill(0);
        if is_zero(buffer) {
            return Ok(Chunk::Zero);
        }
        self.store(buffer).map(Chunk::Stored)
    }

    fn store(&mut self, plain: &[u8]) -> Result<BlobId, VaultError> {
        let id = BlobId::of(plain);
        if self.writer.claim(&id) {
            self.save.counters.new.fetch_add(plain.len() as u64, Relaxed);
            self.packer.add(id, plain, self.writer)?;
        }
        Ok(id)
    }
}

/// Whether all bytes are zero. Data are seen as such at once; zeroes are compared at the speed of memory.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    const STEP: usize = 4096;
    bytes.chunks(STEP).all(|part| part.iter().fold(0, |all, byte| all | byte) == 0)
}

/// Where a segment holds data, looked through from its start to its end.
struct DataRanges {
    ranges: Vec<Range<u64>>,
    next: usize,
}

impl DataRanges {
    fn new(source: &dyn BlockSource, range: Range<u64>) -> Result<Self, VaultError> {
        let mut ranges = Vec::new();
        for extent in extents(source, range) {
            let extent = extent?;
            if extent.kind == ExtentKind::Data {
                ranges.push(extent.range());
            }
        }
        Ok(Self { ranges, next: 0 })
    }

    /// The data of `range`, which lies behind all that was asked for before.
    fn of(&mut self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut found = Vec::new();
        while let Some(data) = self.ranges.get(self.next) {
            let part = data.start.max(range.start)..data.end.min(range.end);
            if !part.is_empty() {
                found.push(part);
            }
            if data.end > range.end {
                break;
            }
            self.next += 1;
        }
        found
    }
}
