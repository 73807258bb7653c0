//! Is all of it there, and is it what was saved?
//!
//! Structure: every point's trees are read and are those of its disks, every chunk that they name is in the index, every
//! pack of the index is in the store with the length that it needs. Data: packs are read whole, their names, headers and every blob checked.
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
    layout::{Chunk, LaidOut},
    lock::RepositoryLock,
    parallel::{in_parallel, threads},
    point::{Point, PointContent, split_versions},
    prune::marked_packs,
    reader::{PointDisk, ReadCache},
    repo::{Identity, Repository, UnreadableSnapshot},
    storage::{FileKind, StorageErrorKind},
    walk::{Marks, reach},
};

pub(crate) mod pack_check;
#[cfg(test)]
mod tests;

use pack_check::PackCheck;

/// No pack is longer: offsets have 32 bits.
pub(crate) const PACK_BYTES_MAX: u64 = 1 << 32;
const KEY_BYTES_MAX: u64 = 1 << 20;
/// A longer pack is not held in memory as a whole, and read in pieces.
const WHOLE_BYTES_MAX: u64 = BLOB_BYTES_MAX as u64;
/// Others may change the repository while it is looked at, but not for ever.
const RECHECKS: usize = 8;

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
    /// Points, and snapshots of other programs.
    pub points: u64,
    /// Packs whose data were read.
    pub packs: u64,
    /// Packs in the store.
    pub stored_packs: u64,
    /// Bytes of packs that were read and checked.
    pub read_bytes: u64,
    pub defects: Vec<Defect>,
    pub losses: Vec<Loss>,
    /// What earlier repairs could not save. The repository is whole; these bytes are not in it.
    pub known_losses: Vec<Loss>,
    /// Points of a newer version of this program, which it does not look into.
    pub newer_points: Vec<SnapshotId>,
    /// Packs that no index names. Harmless: prune removes them.
    pub unindexed_packs: u64,
}

impl VerifyReport {
    /// Nothing is damaged, and yet there may be nothing left: a `snapshots` folder that was lost leaves no trace.
    pub fn is_without_points(&self) -> bool {
        self.points == 0 && self.stored_packs > 0 && self.is_clean()
    }

    pub fn is_clean(&self) -> bool {
        self.defects.is_empty() && self.losses.is_empty()
    }
}

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

    /// As `verify`, for who holds a lock. What a prune removes meanwhile, of what was marked before the lock was there, is no
    /// damage: so where something is missing, all is looked at again that changed since.
    pub(crate) fn examine(self: &Arc<Self>, data: DataCheck, job: &Job) -> Result<Examined, VaultError> {
        let (mut read, mut rechecks) = (PacksRead::default(), 0);
        loop {
            let examined = self.examine_once(data, &mut read, job)?;
            if examined.report.is_clean()
                || rechecks == RECHECKS
                || !self.has_changed_since(&examined, job)?
            {
                return Ok(examined);
            }
            rechecks += 1;
        }
    }

    /// Whether others have removed, stored or forgotten since what counts as damaged here.
    fn has_changed_since(&self, examined: &Examined, job: &Job) -> Result<bool, VaultError> {
        let index = self.load_index(job)?;
        let snapshots: HashSet<SnapshotId> = self.list(FileKind::Snapshot)?.into_iter().collect();
        let points = examined.points.iter().map(|point| point.id);
        let foreign = examined.foreign.iter().map(|(id, _)| *id);
        let mut looked_at = points.chain(foreign).chain(examined.unreadable_snapshots.iter().copied());
        let is_stored_since = |id: &BlobId| index.copies(id).any(|copy| !examined.index.has_pack(&copy.pack));
        Ok(examined.bad_packs.iter().any(|pack| !index.has_pack(pack))
            || examined.lost.iter().any(is_stored_since)
            || looked_at.any(|id| !snapshots.contains(&id)))
    }

    fn examine_once(
        self: &Arc<Self>,
        data: DataCheck,
        read: &mut PacksRead,
        job: &Job,
    ) -> Result<Examined, VaultError> {
        job.begin("reading points and index", 0);
        let mut defects = self.key_defects()?;
        let (snapshots, unreadable) = self.readable_snapshots(job)?;
        let (mut unreadable_snapshots, mut unsure) = (Vec::new(), None);
        for UnreadableSnapshot { id, error } in unreadable {
            unsure = unsure.or(error.is_io().then(|| error.to_string()));
            unreadable_snapshots.push(id);
            defects.push(Defect { object: format!("snapshots/{id}"), what: error.to_string() });
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
            cache: ReadCache::new(0),
            report: VerifyReport { defects, points: snapshots.len() as u64, ..VerifyReport::default() },
            bad_packs: HashSet::new(),
            bad_copies: HashSet::new(),
            bad: HashSet::new(),
            unsure,
        };
        let roots: Vec<BlobId> = snapshots.iter().map(|(_, snapshot)| snapshot.tree).collect();
        check.structure(roots)?;
        check.data(data, read)?;
        check.mark_lost();
        let (mut points, mut foreign) = (Vec::new(), Vec::new());
        for (id, snapshot) in snapshots {
            match Point::of(id, snapshot.clone()) {
                Some(point) => points.push(point),
                None => foreign.push((id, snapshot)),
            }
        }
        check.losses(&split_versions(points.clone()).0)?;
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

/// Packs that a share of the data was chosen from, and what reading it came to.
#[derive(Default)]
struct PacksRead {
    /// By whether they are to be read, again where damage was found.
    packs: HashMap<PackId, bool>,
    count: u64,
    bytes: u64,
}

struct Check<'a> {
    repository: &'a Arc<Repository>,
    index: &'a Arc<Index>,
    /// Of the packs that are there.
    sizes: HashMap<PackId, u64>,
    job: &'a Job,
    /// Of lists alone: chunks are read by pack.
    cache: Arc<ReadCache>,
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
        self.report.stored_packs = listed.len() as u64;
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

    fn data(&mut self, data: DataCheck, read: &mut PacksRead) -> Result<(), VaultError> {
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
            let is_to_be_read = match read.packs.get(&pack) {
                Some(is_to_be_read) => *is_to_be_read,
                None => share >= 1.0 || chance()? < share,
            };
            read.packs.insert(pack, is_to_be_read);
            if is_to_be_read {
                chosen.push((pack, blobs));
            }
        }
        self.job.begin("reading packs", chosen.len() as u64);
        let found = Mutex::new((0_u64, Vec::new(), HashSet::new(), HashSet::new(), None));
        in_parallel(&chosen, threads(0), self.job, |(pack, blobs)| {
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
        read.bytes += bytes;
        for (pack, _) in &chosen {
            read.packs.insert(*pack, bad_packs.contains(pack));
        }
        read.count += chosen.len() as u64;
        self.report.packs = read.count;
        self.report.read_bytes = read.bytes;
        self.report.defects.append(&mut defects);
        self.bad_copies.extend(bad);
        self.bad_packs.extend(bad_packs);
        Ok(())
    }

    /// What the bad blobs mean for the points that count, and which of them are not laid out as a point is.
    fn losses(&mut self, points: &[Point]) -> Result<(), VaultError> {
        self.job.begin("finding what is concerned", points.len() as u64);
        let mut sound = HashSet::new();
        for point in points {
            self.job.check()?;
            let content = self.repository.content(self.index, point);
            match content.and_then(|content| self.repository.description(self.index, point).map(|_| content))
            {
                Err(VaultError::NewerLayout { point, .. }) => self.report.newer_points.push(point),
                Err(error) => self.point_is_lost(point, error)?,
                Ok(content) => {
                    for number in 0..content.layout.disks.len() {
                        self.disk_losses(point, &content, number, &mut sound)?;
                    }
                }
            }
            self.job.advance(1);
        }
        Ok(())
    }

    fn point_is_lost(&mut self, point: &Point, error: VaultError) -> Result<(), VaultError> {
        self.blame(format!("{}@{}", point.name, point.short_id()), error)?;
        self.loss(point, "", Vec::new());
        Ok(())
    }

    /// Names what is wrong, unless that was told already. Nothing is known where the store could not be asked.
    fn blame(&mut self, object: String, error: VaultError) -> Result<(), VaultError> {
        let is_told = match &error {
            VaultError::Storage(source) if !source.says_damaged() => return Err(error),
            VaultError::Cancelled => return Err(error),
            // Bad blobs have a defect each.
            VaultError::BlobMissing(id) | VaultError::BlobDamaged { blob: id, .. } => self.bad.contains(id),
            _ => false,
        };
        let defect = Defect { object, what: error.to_string() };
        // Of one disk's segments, one after the other.
        if !is_told && self.report.defects.last() != Some(&defect) {
            self.report.defects.push(defect);
        }
        Ok(())
    }

    fn disk_losses(
        &mut self,
        point: &Point,
        content: &PointContent,
        number: usize,
        sound: &mut HashSet<LaidOut>,
    ) -> Result<(), VaultError> {
        let disk = &content.layout.disks[number];
        let known = content.layout.lost(&disk.name);
        if !known.is_empty() {
            let (point, name, disk) = (point.id, point.name.to_string(), disk.name.clone());
            self.report.known_losses.push(Loss { point, name, disk, ranges: known.ranges().to_vec() });
        }
        let ranges = self.lost_ranges(point, content, number, sound)?;
        if !ranges.is_empty() {
            self.loss(point, &disk.name, ranges);
        }
        Ok(())
    }

    fn loss(&mut self, point: &Point, disk: &str, ranges: Vec<Range<u64>>) {
        let (point, name, disk) = (point.id, point.name.to_string(), disk.to_owned());
        self.report.losses.push(Loss { point, name, disk, ranges });
    }

    fn lost_ranges(
        &mut self,
        point: &Point,
        content: &PointContent,
        number: usize,
        sound: &mut HashSet<LaidOut>,
    ) -> Result<Vec<Range<u64>>, VaultError> {
        let disk = &content.layout.disks[number];
        let object = format!("{}@{}:{}", point.name, point.short_id(), disk.name);
        let disk =
            match PointDisk::of_content(self.repository, self.index, point, content, number, &self.cache) {
                Ok(disk) => disk,
                Err(error) => {
                    self.blame(object, error)?;
                    return Ok(std::iter::once(0..disk.geometry.size_bytes).collect());
                }
            };
        let geometry = disk.geometry;
        // Merged as it grows: a disk that lost all has more parts than there is memory for.
        let mut lost = ExtentSet::new();
        for group in 0..geometry.groups() {
            let whole = LaidOut::of(disk.group_id(group), &geometry.group_bytes(group), &geometry);
            if whole.as_ref().is_some_and(|whole| sound.contains(whole)) {
                continue;
            }
            let mut is_sound = true;
            for segment in geometry.group(group) {
                self.job.check()?;
                let bad = self.bad_chunks(&disk, segment, sound).or_else(|error| {
                    self.blame(object.clone(), error)?;
                    Ok::<_, VaultError>(vec![geometry.segment(segment)])
                })?;
                is_sound &= bad.is_empty();
                bad.into_iter().for_each(|range| lost.insert(range));
            }
            if is_sound {
                sound.extend(whole);
            }
        }
        Ok(lost.ranges().to_vec())
    }

    /// The bytes of a segment's bad chunks. An error when it is not what a segment is.
    fn bad_chunks(
        &self,
        disk: &PointDisk,
        segment: u64,
        sound: &mut HashSet<LaidOut>,
    ) -> Result<Vec<Range<u64>>, VaultError> {
        let range = disk.geometry.segment(segment);
        let whole = LaidOut::of(Some(disk.segment_id(segment)?), &range, &disk.geometry);
        if whole.as_ref().is_some_and(|whole| sound.contains(whole)) {
            return Ok(Vec::new());
        }
        let chunks = disk.chunks_of(segment)?;
        let places = disk.geometry.chunks(range).zip(chunks.iter());
        let is_bad = |range: &Range<u64>, chunk: &Chunk| match chunk {
            Chunk::Zero => false,
            Chunk::Stored(id) => self.bad.contains(id) || !self.index.fits(id, range.end - range.start),
        };
        let bad: Vec<_> =
            places.filter(|(range, chunk)| is_bad(range, chunk)).map(|(range, _)| range).collect();
        if bad.is_empty() {
            sound.extend(whole);
        }
        Ok(bad)
    }
}

fn chance() -> Result<f64, VaultError> {
    let mut random = [0; 4];
    crate::crypto::random(&mut random)?;
    Ok(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX))
}
