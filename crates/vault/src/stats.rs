//! How large a repository is and why: by kind of file, by what deduplication and compression save, by machine.
//!
//! Counts only; it never changes anything, and never reads a chunk. Damage does not end it: what could not be read is
//! counted as such.

use std::collections::{HashMap, HashSet};

use crate::{
    BlobId, PointName, VaultError,
    format::{pack::BlobKind, snapshot::Snapshot},
    index::Index,
    job::Job,
    layout::Chunk,
    point::{Point, split_versions},
    reader::{PointDisk, ReadCache},
    repo::Repository,
    storage::FileKind,
    walk::{Marks, reach},
};

/// Files of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KindStats {
    pub kind: FileKind,
    pub files: u64,
    pub bytes: u64,
}

/// One machine's share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineStats {
    pub name: PointName,
    pub points: u64,
    /// Bytes of all its points' disks, holes included.
    pub disk_bytes: u64,
    /// Of those, bytes of chunks that are not zero.
    pub referenced_bytes: u64,
    /// Stored bytes that nothing else needs: forgetting all its points, and pruning, would free them.
    pub own_stored_bytes: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepositoryStats {
    pub kinds: Vec<KindStats>,
    pub points: u64,
    /// Snapshots of other programs.
    pub foreign_snapshots: u64,
    /// Different chunks and trees that snapshots need.
    pub chunks: u64,
    pub trees: u64,
    /// Plain bytes of chunks, counted for every point that names them.
    pub referenced_bytes: u64,
    /// Plain bytes of chunks that snapshots need, each counted once.
    pub unique_bytes: u64,
    /// What those take in packs.
    pub stored_bytes: u64,
    /// What the trees take in packs.
    pub tree_stored_bytes: u64,
    /// Bytes in packs that no snapshot needs: what prune could free.
    pub unused_bytes: u64,
    pub machines: Vec<MachineStats>,
    /// Memory that the index takes once it is loaded.
    pub index_memory_bytes: u64,
    /// Snapshots, points, trees and chunks that could not be read or found.
    pub unreadable: u64,
}

impl RepositoryStats {
    pub fn total_bytes(&self) -> u64 {
        self.kinds.iter().map(|kind| kind.bytes).sum()
    }

    /// Whether there are data and nothing that needs them: a `snapshots` folder that was lost leaves no other trace.
    pub fn is_without_points(&self) -> bool {
        let packs = self.kinds.iter().find(|kind| kind.kind == FileKind::Pack);
        self.points + self.foreign_snapshots + self.unreadable == 0
            && packs.is_some_and(|packs| packs.files > 0)
    }

    pub fn saved_by_deduplication_bytes(&self) -> u64 {
        self.referenced_bytes.saturating_sub(self.unique_bytes)
    }

    pub fn saved_by_compression_bytes(&self) -> u64 {
        self.unique_bytes.saturating_sub(self.stored_bytes)
    }
}

/// Blobs of nobody yet, and those of several owners; others belong to the owner of that number.
const NOBODY: u32 = u32::MAX;
const SHARED: u32 = u32::MAX - 1;

impl Repository {
    /// Which files there are, by their lists alone: nothing is read.
    pub fn file_stats(&self) -> Result<Vec<KindStats>, VaultError> {
        let kinds = FileKind::ALL.into_iter().filter(|kind| *kind != FileKind::Config);
        kinds
            .map(|kind| {
                let listed = self.storage.list(kind)?;
                let bytes = listed.iter().map(|file| file.size).sum();
                Ok(KindStats { kind, files: listed.len() as u64, bytes })
            })
            .collect()
    }

    pub fn stats(self: &std::sync::Arc<Self>, job: &Job) -> Result<RepositoryStats, VaultError> {
        let mut stats = RepositoryStats { kinds: self.file_stats()?, ..RepositoryStats::default() };
        let (snapshots, unreadable) = self.readable_snapshots(job)?;
        stats.unreadable = unreadable.len() as u64;
        let index = std::sync::Arc::new(self.load_index(job)?);
        stats.index_memory_bytes = index.memory_bytes() as u64;
        let of_snapshot = |(id, snapshot): &(_, Snapshot)| Point::of(*id, snapshot.clone());
        let (points, _) = split_versions(snapshots.iter().filter_map(of_snapshot).collect());
        stats.points = points.len() as u64;
        let mut roots: HashMap<Option<PointName>, Vec<BlobId>> = HashMap::new();
        for (id, snapshot) in snapshots {
            let (tree, point) = (snapshot.tree, Point::of(id, snapshot));
            stats.foreign_snapshots += u64::from(point.is_none());
            roots.entry(point.map(|point| point.name)).or_default().push(tree);
        }
        let mut roots: Vec<_> = roots.into_iter().collect();
        roots.sort();
        let owners = self.owners(&index, &roots, &mut stats, job)?;
        let mut referenced = Referenced::of(&index);
        stats.machines = self.machines(&points, &mut referenced, &mut stats.unreadable, job)?;
        let own = count_blobs(&index, &owners, (&referenced.zeroes, roots.len()), &mut stats);
        for machine in &mut stats.machines {
            let owner = roots.iter().position(|(name, _)| name.as_ref() == Some(&machine.name));
            machine.own_stored_bytes = owner.and_then(|owner| own.get(owner)).copied().unwrap_or_default();
        }
        stats.referenced_bytes = stats.machines.iter().map(|machine| machine.referenced_bytes).sum();
        Ok(stats)
    }

    /// Whose each blob is, by its position in the index.
    fn owners(
        &self,
        index: &Index,
        roots: &[(Option<PointName>, Vec<BlobId>)],
        stats: &mut RepositoryStats,
        job: &Job,
    ) -> Result<Vec<u32>, VaultError> {
        let mut owners = vec![NOBODY; index.len()];
        job.begin("finding what belongs to whom", roots.len() as u64);
        for (number, (_, roots)) in (0..SHARED).zip(roots) {
            let mut marks = Marks::new(index);
            let broken = reach(self, index, roots.iter().copied(), &mut marks, job)?;
            stats.unreadable += (broken.trees.len() + broken.missing.len()) as u64;
            for position in marks.iter() {
                owners[position] = if owners[position] == NOBODY { number } else { SHARED };
            }
            job.advance(1);
        }
        Ok(owners)
    }

    fn machines(
        self: &std::sync::Arc<Self>,
        points: &[Point],
        referenced: &mut Referenced<'_>,
        unreadable: &mut u64,
        job: &Job,
    ) -> Result<Vec<MachineStats>, VaultError> {
        let mut machines: std::collections::BTreeMap<PointName, MachineStats> = Default::default();
        job.begin("counting what points hold", points.len() as u64);
        for point in points {
            job.check()?;
            let machine = machines.entry(point.name.clone()).or_insert_with(|| MachineStats {
                name: point.name.clone(),
                points: 0,
                disk_bytes: 0,
                referenced_bytes: 0,
                own_stored_bytes: 0,
            });
            machine.points += 1;
            match referenced.point(self, point) {
                Ok((disk_bytes, bytes)) => {
                    machine.disk_bytes += disk_bytes;
                    machine.referenced_bytes += bytes;
                }
                Err(VaultError::NewerLayout { .. }) => *unreadable += 1,
                Err(error) if error.is_damage() || error.is_io() => *unreadable += 1,
                Err(error) => return Err(error),
            }
            job.advance(1);
        }
        Ok(machines.into_values().collect())
    }
}

/// Fills in what the index knows; the stored bytes that each owner has for itself.
fn count_blobs(
    index: &Index,
    owners: &[u32],
    (zeroes, count): (&HashSet<BlobId>, usize),
    stats: &mut RepositoryStats,
) -> Vec<u64> {
    let mut own = vec![0; count];
    for (location, owner) in index.iter().zip(owners) {
        let stored = u64::from(location.blob.length);
        match (*owner, location.blob.kind) {
            // A further copy of a blob is nobody's, too.
            (NOBODY, _) => {
                stats.unused_bytes += stored;
                continue;
            }
            (_, BlobKind::Data) => {
                stats.chunks += 1;
                // Holes are no content, though restic needs a blob for them.
                let is_hole = zeroes.contains(&location.blob.id);
                stats.unique_bytes += if is_hole { 0 } else { u64::from(location.blob.plain_length()) };
                stats.stored_bytes += stored;
            }
            (_, BlobKind::Tree) => {
                stats.trees += 1;
                stats.tree_stored_bytes += stored;
            }
        }
        if let Some(own) = own.get_mut(*owner as usize) {
            *own += stored;
        }
    }
    own
}

/// Bytes that are not zero, for each part that was looked at once; parts are shared between points.
struct Referenced<'a> {
    index: &'a std::sync::Arc<Index>,
    cache: std::sync::Arc<ReadCache>,
    groups: HashMap<BlobId, u64>,
    segments: HashMap<usize, u64>,
    zeroes: HashSet<BlobId>,
}

impl<'a> Referenced<'a> {
    fn of(index: &'a std::sync::Arc<Index>) -> Self {
        let (groups, segments, zeroes) = (HashMap::new(), HashMap::new(), HashSet::new());
        Self { index, cache: ReadCache::new(0), groups, segments, zeroes }
    }

    /// Bytes of a point's disks, with and without holes.
    fn point(
        &mut self,
        repository: &std::sync::Arc<Repository>,
        point: &Point,
    ) -> Result<(u64, u64), VaultError> {
        let content = repository.content(self.index, point)?;
        let (mut size, mut bytes) = (0, 0);
        for disk in &content.layout.disks {
            size += disk.geometry.size_bytes;
            let disk = PointDisk::open(repository, self.index, point, Some(&disk.name), &self.cache)?;
            self.zeroes.extend(disk.zeroes.blobs().map(|(id, _)| id));
            for group in 0..disk.geometry.groups() {
                bytes += self.group(&disk, group)?;
            }
        }
        Ok((size, bytes))
    }

    fn group(&mut self, disk: &PointDisk, group: u64) -> Result<u64, VaultError> {
        let Some(id) = disk.group_id(group) else { return Ok(0) };
        if let Some(bytes) = self.groups.get(&id) {
            return Ok(*bytes);
        }
        let mut bytes = 0;
        for (tree, segment) in disk.segments(group)?.iter().zip(disk.geometry.group(group)) {
            let position = self.index.position(tree).ok_or(VaultError::BlobMissing(*tree))?;
            bytes += match self.segments.get(&position) {
                Some(bytes) => *bytes,
                None => {
                    let ranges = disk.geometry.chunks(disk.geometry.segment(segment));
                    let chunks = disk.chunks_of(segment)?;
                    let stored = ranges.zip(chunks.iter()).filter(|(_, chunk)| **chunk != Chunk::Zero);
                    let bytes = stored.map(|(range, _)| range.end - range.start).sum();
                    self.segments.insert(position, bytes);
                    bytes
                }
            };
        }
        self.groups.insert(id, bytes);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use nestling_block::BlockTarget;

    use super::*;
    use crate::testing::{MIB, Place, noise};

    const CHUNK: u64 = crate::layout::CHUNK_BYTES as u64;

    #[test]
    fn what_a_machine_has_for_itself_is_told_from_what_it_shares() {
        let place = Place::new();
        let disk = place.disk(64 * MIB);
        place.save_at("a", &disk, 1);
        place.save_at("b", &disk, 2);
        let job = Job::default();
        let stats = place.repository.stats(&job).expect("stats");
        assert_eq!((stats.points, stats.foreign_snapshots, stats.unreadable), (2, 0, 0));
        assert_eq!(stats.referenced_bytes, 6 * CHUNK);
        assert_eq!(stats.machines[0].disk_bytes, 64 * MIB);
        assert!(stats.saved_by_deduplication_bytes() > 0 && stats.saved_by_compression_bytes() > 0);
        assert!(stats.machines.iter().all(|machine| machine.own_stored_bytes < 2000), "{stats:?}");

        disk.write_at(&noise(9, CHUNK as usize), 8 * MIB).expect("data");
        place.save_at("b", &disk, 3);
        let stats = place.repository.stats(&job).expect("stats");
        let [a, b] = &stats.machines[..] else { panic!("{stats:?}") };
        assert!(a.own_stored_bytes < 2000 && b.own_stored_bytes > CHUNK, "{stats:?}");
        assert_eq!((b.points, b.referenced_bytes, stats.unused_bytes), (2, 7 * CHUNK, 0));
        let packs = stats.kinds.iter().find(|kind| kind.kind == FileKind::Pack).expect("packs");
        let known = stats.stored_bytes + stats.tree_stored_bytes + stats.unused_bytes;
        assert!(packs.bytes > known && packs.bytes < known + 10_000, "the rest is headers: {stats:?}");

        for point in place.points("b") {
            place.repository.remove_snapshot(&point.id).expect("removed");
        }
        let after = place.repository.stats(&job).expect("stats");
        assert_eq!(after.unused_bytes, b.own_stored_bytes, "what was said to be freed");
        assert!(!after.is_without_points());
        for point in place.points("a") {
            place.repository.remove_snapshot(&point.id).expect("removed");
        }
        assert!(place.repository.stats(&job).expect("stats").is_without_points());
    }
}
