//! Is all of it there, and is it what was saved?
//!
//! Structure: every point's trees are read, every chunk that they name is in the index, every pack of the index is in
//! the store with the length that it needs. Data: packs are read whole, their names, headers and every blob checked.
//! What is damaged is told as people think of it: point, disk, bytes. Nothing is changed.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use nestling_block::ExtentSet;

use crate::{
    BlobId, KeyId, PackId, SnapshotId, VaultError,
    blob::BLOB_BYTES_MAX,
    format::{pack::PackBlob, snapshot::Snapshot},
    index::Index,
    job::Job,
    layout::Chunk,
    lock::RepositoryLock,
    point::{DAMAGED_TAG, Point},
    prune::marked_packs,
    reader::{PointDisk, ReadCache},
    repo::{Identity, Repository, in_parallel},
    storage::{FileKind, StorageErrorKind},
    walk::{Marks, reach},
};

mod pack_check;

use pack_check::PackCheck;

/// No pack is longer: offsets have 32 bits.
pub(crate) const PACK_BYTES_MAX: u64 = 1 << 32;
const KEY_BYTES_MAX: u64 = 1 << 20;
/// Threads that read snapshots: they mostly wait.
const READERS: usize = 8;
/// A longer pack is not held in memory as a whole, and read in pieces.
const WHOLE_BYTES_MAX: u64 = BLOB_BYTES_MAX as u64;

/// How much of the packs' bytes is read.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DataCheck {
    None,
    /// A share of the packs, chosen by chance.
    Percent(f64),
    All,
}

/// What is wrong with one file or blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Defect {
    /// The pack, tree, chunk or snapshot that is concerned.
    pub object: String,
    pub what: String,
}

/// Bytes of one disk of one point that cannot be read any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loss {
    pub point: SnapshotId,
    pub name: String,
    /// Empty: the point as a whole cannot be read.
    pub disk: String,
    pub ranges: Vec<Range<u64>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    pub points: u64,
    pub packs: u64,
    /// Bytes of packs that were read and checked.
    pub read_bytes: u64,
    pub defects: Vec<Defect>,
    pub losses: Vec<Loss>,
    /// What earlier repairs could not save. The repository is whole; these bytes are not in it.
    pub known_losses: Vec<Loss>,
    /// Points of a newer version of this program, which it does not look into. Told only where something is damaged.
    pub newer_points: Vec<SnapshotId>,
    /// Packs that no index names. Harmless: prune removes them.
    pub unindexed_packs: u64,
}

impl VerifyReport {
    pub fn is_clean(&self) -> bool {
        self.defects.is_empty() && self.losses.is_empty()
    }
}

/// A snapshot, or what is wrong with it.
type ReadSnapshot = (SnapshotId, Result<Snapshot, VaultError>);

/// All that a verification found out; repair goes on from it.
pub(crate) struct Examined {
    pub(crate) report: VerifyReport,
    pub(crate) index: Arc<Index>,
    pub(crate) points: Vec<Point>,
    /// Snapshots of other programs.
    pub(crate) foreign: Vec<(SnapshotId, Snapshot)>,
    pub(crate) unreadable_snapshots: Vec<SnapshotId>,
    /// Packs that are not there, or not as they were written.
    pub(crate) bad_packs: HashSet<PackId>,
    pub(crate) bad_copies: HashSet<(PackId, BlobId)>,
    /// Blobs of which no whole copy is left.
    pub(crate) lost: HashSet<BlobId>,
    /// Input or output failed, so that what counts as damaged here may be whole.
    pub(crate) unsure: Option<String>,
}

impl Repository {
    pub fn verify(
        self: &Arc<Self>,
        data: DataCheck,
        who: &Identity,
        job: &Job,
    ) -> Result<VerifyReport, VaultError> {
        let lock = RepositoryLock::shared(self, who)?;
        let examined = self.examine(data, job)?;
        lock.check()?;
        Ok(examined.report)
    }

    /// As `verify`, for who holds a lock.
    pub(crate) fn examine(self: &Arc<Self>, data: DataCheck, job: &Job) -> Result<Examined, VaultError> {
        job.begin("reading points and index", 0);
        let (mut snapshots, mut unreadable_snapshots, mut unsure) = (Vec::new(), Vec::new(), None);
        let mut defects = self.key_defects()?;
        for (id, outcome) in self.each_snapshot(job)? {
            match outcome {
                Ok(snapshot) => snapshots.push((id, snapshot)),
                Err(error) => {
                    unsure = unsure.or(error.is_io().then(|| error.to_string()));
                    unreadable_snapshots.push(id);
                    defects.push(Defect { object: format!("snapshots/{id}"), what: error.to_string() });
                }
            }
        }
        if let Err(error) = marked_packs(self) {
            match error {
                error if error.is_damage() || error.is_io() => {
                    unsure = unsure.or(error.is_io().then(|| error.to_string()));
                    defects.push(Defect { object: "nestling".to_owned(), what: error.to_string() });
                }
                error => return Err(error),
            }
        }
        let mut check = Check {
            repository: self,
            index: &Arc::new(self.load_index(job)?),
            sizes: HashMap::new(),
            job,
            report: VerifyReport { defects, points: snapshots.len() as u64, ..VerifyReport::default() },
            bad_packs: HashSet::new(),
            bad_copies: HashSet::new(),
            bad: HashSet::new(),
            unsure,
        };
        let roots: Vec<BlobId> = snapshots.iter().map(|(_, snapshot)| snapshot.tree).collect();
        check.structure(roots)?;
        check.data(data)?;
        check.mark_lost();
        let (mut points, mut foreign) = (Vec::new(), Vec::new());
        for (id, snapshot) in snapshots {
            match Point::of(id, snapshot.clone()) {
                Some(point) => points.push(point),
                None => foreign.push((id, snapshot)),
            }
        }
        check.losses(&points)?;
        let Check { index, report, bad_packs, bad_copies, bad: lost, unsure, .. } = check;
        let index = index.clone();
        Ok(Examined {
            report,
            index,
            points,
            foreign,
            unreadable_snapshots,
            bad_packs,
            bad_copies,
            lost,
            unsure,
        })
    }

    /// Every snapshot, or what is wrong with it.
    fn each_snapshot(&self, job: &Job) -> Result<Vec<ReadSnapshot>, VaultError> {
        let found = Mutex::new(Vec::new());
        in_parallel(&self.list(FileKind::Snapshot)?, READERS, job, |id| {
            match self.snapshot(id) {
                Err(error) if crate::repo::is_not_found(&error) => {}
                Err(error) if !error.is_damage() && !error.is_io() => return Err(error),
                outcome => found.lock().unwrap_or_else(PoisonError::into_inner).push((*id, outcome)),
            }
            Ok(())
        })?;
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by_key(|(id, _)| *id);
        Ok(found)
    }

    /// Key files that would open nothing, or not what they did when they were written.
    fn key_defects(&self) -> Result<Vec<Defect>, VaultError> {
        let mut defects = Vec::new();
        for id in self.list::<KeyId>(FileKind::Key)? {
            let what = match self.storage.get(&id.into(), KEY_BYTES_MAX) {
                Ok(bytes) if KeyId::of(&bytes) == id => continue,
                Ok(_) => {
                    "its bytes are not those of its name; add the password again and remove this key".into()
                }
                Err(error) if error.kind == StorageErrorKind::NotFound => continue,
                Err(error) if error.says_damaged() => error.to_string(),
                Err(error) => return Err(error.into()),
            };
            defects.push(Defect { object: format!("keys/{id}"), what });
        }
        Ok(defects)
    }
}

struct Check<'a> {
    repository: &'a Arc<Repository>,
    index: &'a Arc<Index>,
    /// Of the packs that are there.
    sizes: HashMap<PackId, u64>,
    job: &'a Job,
    report: VerifyReport,
    bad_packs: HashSet<PackId>,
    bad_copies: HashSet<(PackId, BlobId)>,
    /// Blobs of which no whole copy is left.
    bad: HashSet<BlobId>,
    unsure: Option<String>,
}

impl Check<'_> {
    fn defect(&mut self, object: String, what: String) {
        self.report.defects.push(Defect { object, what });
    }

    /// Packs are there, and so is all that the trees `roots` need.
    fn structure(&mut self, roots: Vec<BlobId>) -> Result<(), VaultError> {
        self.packs()?;
        self.job.begin("reading trees", 0);
        let mut marks = Marks::new(self.index);
        let broken = reach(self.repository, self.index, roots, &mut marks, self.job)?;
        for (id, error) in broken.trees {
            if error.is_io() {
                self.unsure.get_or_insert_with(|| error.to_string());
            }
            self.bad.insert(id);
            self.defect(format!("tree {id}"), error.to_string());
        }
        for id in broken.missing {
            self.bad.insert(id);
            self.defect(format!("chunk {id}"), "no index names it".to_owned());
        }
        Ok(())
    }

    /// Every pack of the index is in the store and long enough for what it is said to hold.
    fn packs(&mut self) -> Result<(), VaultError> {
        let listed: HashMap<PackId, u64> = self
            .repository
            .storage
            .list(FileKind::Pack)?
            .into_iter()
            .filter_map(|file| Some((file.name.parse().ok()?, file.size)))
            .collect();
        let mut needed: HashMap<PackId, u64> = HashMap::new();
        for location in self.index.iter() {
            let end = u64::from(location.blob.offset) + u64::from(location.blob.length);
            let known = needed.entry(location.pack).or_default();
            *known = end.max(*known);
        }
        let mut missing = HashSet::new();
        for (pack, end) in needed {
            match listed.get(&pack) {
                None => {
                    missing.insert(pack);
                    self.defect(format!("pack {pack}"), "is in the index and not in the store".to_owned());
                }
                Some(size) if *size < end => {
                    self.defect(
                        format!("pack {pack}"),
                        format!("has {size} bytes, and the index needs {end}"),
                    );
                }
                Some(_) => continue,
            }
            self.bad_packs.insert(pack);
        }
        for location in self.index.iter() {
            let end = u64::from(location.blob.offset) + u64::from(location.blob.length);
            if missing.contains(&location.pack) || listed.get(&location.pack).is_some_and(|size| *size < end)
            {
                self.bad_copies.insert((location.pack, location.blob.id));
            }
        }
        self.report.unindexed_packs = listed.keys().filter(|pack| !self.index.has_pack(pack)).count() as u64;
        self.sizes = listed;
        Ok(())
    }

    /// Blobs whose copies are all bad, each for a reason of its own.
    fn mark_lost(&mut self) {
        for (_, id) in &self.bad_copies {
            if self.index.copies(id).all(|copy| self.bad_copies.contains(&(copy.pack, *id))) {
                self.bad.insert(*id);
            }
        }
    }

    fn data(&mut self, data: DataCheck) -> Result<(), VaultError> {
        let share = match data {
            DataCheck::None => return Ok(()),
            DataCheck::Percent(percent) => percent.clamp(0.0, 100.0) / 100.0,
            DataCheck::All => 1.0,
        };
        let mut by_pack: HashMap<PackId, Vec<PackBlob>> = HashMap::new();
        for location in self.index.iter() {
            by_pack.entry(location.pack).or_default().push(location.blob);
        }
        let mut chosen: Vec<(PackId, Vec<PackBlob>)> = Vec::new();
        for (pack, blobs) in by_pack {
            if share >= 1.0 || chance()? < share {
                chosen.push((pack, blobs));
            }
        }
        self.job.begin("reading packs", chosen.len() as u64);
        let found = Mutex::new((0_u64, Vec::new(), HashSet::new(), HashSet::new(), None));
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        in_parallel(&chosen, threads, self.job, |(pack, blobs)| {
            let size = self.sizes.get(pack).copied().unwrap_or_default();
            let mut checked = PackCheck::new(self.repository, *pack, size, WHOLE_BYTES_MAX)?;
            checked.run(blobs)?;
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            let is_bad = !checked.defects.is_empty();
            found.0 += checked.bytes;
            found.1.append(&mut checked.defects);
            found.2.extend(checked.bad.into_iter().map(|blob| (*pack, blob)));
            if is_bad {
                found.3.insert(*pack);
            }
            found.4 = found.4.take().or(checked.unsure);
            self.job.advance(1);
            Ok(())
        })?;
        let (bytes, mut defects, bad, bad_packs, unsure) =
            found.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.unsure = self.unsure.take().or(unsure);
        self.report.packs = chosen.len() as u64;
        self.report.read_bytes = bytes;
        self.report.defects.append(&mut defects);
        self.bad_copies.extend(bad);
        self.bad_packs.extend(bad_packs);
        Ok(())
    }

    /// What the bad blobs mean for the points.
    fn losses(&mut self, points: &[Point]) -> Result<(), VaultError> {
        let is_marked = |point: &&Point| point.snapshot.tags.iter().any(|tag| tag == DAMAGED_TAG);
        let all = !self.bad.is_empty();
        self.job.begin("finding what is concerned", points.len() as u64);
        for point in points.iter().filter(|point| all || is_marked(point)) {
            self.job.check()?;
            let content = self.repository.content(self.index, point);
            match content.and_then(|content| self.repository.description(self.index, point).map(|_| content))
            {
                Err(VaultError::Storage(error)) if !error.says_damaged() => return Err(error.into()),
                Err(VaultError::NewerLayout { point, .. }) => self.report.newer_points.push(point),
                Err(_) => {
                    let (point, name) = (point.id, point.name.to_string());
                    self.report.losses.push(Loss { point, name, disk: String::new(), ranges: Vec::new() });
                }
                Ok(content) => {
                    for disk in &content.layout.disks {
                        let known = content.layout.lost(&disk.name);
                        if !known.is_empty() {
                            self.report.known_losses.push(Loss {
                                point: point.id,
                                name: point.name.to_string(),
                                disk: disk.name.clone(),
                                ranges: known.ranges().to_vec(),
                            });
                        }
                        let ranges = self.lost_ranges(point, &disk.name, disk.geometry.size_bytes)?;
                        if !ranges.is_empty() {
                            let name = point.name.to_string();
                            self.report.losses.push(Loss {
                                point: point.id,
                                name,
                                disk: disk.name.clone(),
                                ranges,
                            });
                        }
                    }
                }
            }
            self.job.advance(1);
        }
        Ok(())
    }

    fn lost_ranges(&self, point: &Point, disk: &str, size_bytes: u64) -> Result<Vec<Range<u64>>, VaultError> {
        let Ok(disk) = PointDisk::open(self.repository, self.index, point, Some(disk), &ReadCache::new(0))
        else {
            return Ok(std::iter::once(0..size_bytes).collect());
        };
        let geometry = disk.geometry;
        let mut lost = Vec::new();
        for segment in 0..geometry.segments() {
            let range = geometry.segment(segment);
            match disk.chunks_of(segment) {
                Ok(chunks) => {
                    for (range, chunk) in geometry.chunks(range).zip(chunks.iter()) {
                        if matches!(chunk, Chunk::Stored(id) if self.bad.contains(id)) {
                            lost.push(range);
                        }
                    }
                }
                Err(VaultError::Storage(error)) if !error.says_damaged() => return Err(error.into()),
                Err(_) => lost.push(range),
            }
        }
        Ok(lost.into_iter().collect::<ExtentSet>().ranges().to_vec())
    }
}

fn chance() -> Result<f64, VaultError> {
    let mut random = [0; 4];
    crate::crypto::random(&mut random)?;
    Ok(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}
