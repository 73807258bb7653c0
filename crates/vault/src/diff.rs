//! Which bytes differ between two points' disks, told from names alone: no data is read.
//!
//! Equal trees are equal bytes, so only what differs is looked into, and memory grows with the answer and nothing else.
//! What cannot be proven equal counts as changed: a range named without need costs time, a missing one costs data.

use std::{
    ops::Range,
    sync::{Mutex, PoisonError},
};

use nestling_block::{BlockSource, ExtentKind, ExtentSet, extents};

use crate::{VaultError, job::Job, layout::Geometry, parallel::in_parallel, reader::PointDisk};

/// Threads that read trees; they mostly wait for the store.
const READERS: usize = 4;

/// What differs between two disks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDiff {
    /// Ranges of the new disk, of whole chunks; all that lies behind the end of the old one is among them.
    pub changed: ExtentSet,
    pub old_size_bytes: u64,
    pub new_size_bytes: u64,
}

/// Compares two disks, of one repository or of two.
pub fn diff(old: &PointDisk, new: &PointDisk, job: &Job) -> Result<DiskDiff, VaultError> {
    let (old_size_bytes, new_size_bytes) = (old.geometry.size_bytes, new.geometry.size_bytes);
    let same_cut = Geometry { size_bytes: new_size_bytes, ..old.geometry } == new.geometry;
    let both = 0..old_size_bytes.min(new_size_bytes);
    let mut changed = if same_cut { by_trees(old, new, job)? } else { by_data(old, new, &both, job)? };
    changed = changed.union(&lost(old, new, &both));
    changed.insert(both.end..new_size_bytes);
    Ok(DiskDiff { changed, old_size_bytes, new_size_bytes })
}

/// Lost bytes are equal to nothing.
fn lost(old: &PointDisk, new: &PointDisk, both: &Range<u64>) -> ExtentSet {
    old.lost().within(both.clone()).chain(new.lost().within(both.clone())).collect()
}

fn by_trees(old: &PointDisk, new: &PointDisk, job: &Job) -> Result<ExtentSet, VaultError> {
    let differs = |group: &u64| {
        old.group_id(*group) != new.group_id(*group)
            || old.geometry.group_bytes(*group) != new.geometry.group_bytes(*group)
    };
    let groups: Vec<u64> =
        (0..old.geometry.groups().min(new.geometry.groups())).filter(|group| differs(group)).collect();
    job.begin("comparing", groups.len() as u64);
    let changed = Mutex::new(ExtentSet::new());
    in_parallel(&groups, READERS, job, |group| {
        let found = in_group(old, new, *group)?;
        let mut changed = changed.lock().unwrap_or_else(PoisonError::into_inner);
        for range in found {
            changed.insert(range);
        }
        job.advance(1);
        Ok(())
    })?;
    Ok(changed.into_inner().unwrap_or_else(PoisonError::into_inner))
}

fn in_group(old: &PointDisk, new: &PointDisk, group: u64) -> Result<Vec<Range<u64>>, VaultError> {
    let (old_trees, new_trees) = (old.segments(group)?, new.segments(group)?);
    let mut changed: Vec<Range<u64>> = Vec::new();
    for ((old_tree, new_tree), segment) in
        old_trees.iter().zip(new_trees.iter()).zip(old.geometry.group(group))
    {
        let (old_range, new_range) = (old.geometry.segment(segment), new.geometry.segment(segment));
        if old_tree == new_tree && old_range == new_range {
            continue;
        }
        let (old_chunks, new_chunks) = (old.chunks_of(segment)?, new.chunks_of(segment)?);
        let pairs = old_chunks.iter().zip(new_chunks.iter());
        for ((old_chunk, new_chunk), range) in pairs.zip(new.geometry.chunks(new_range)) {
            if old_chunk == new_chunk {
                continue;
            }
            match changed.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => changed.push(range),
            }
        }
    }
    Ok(changed)
}

/// Disks that are cut in different ways: all that either holds data in.
fn by_data(old: &PointDisk, new: &PointDisk, both: &Range<u64>, job: &Job) -> Result<ExtentSet, VaultError> {
    job.begin("comparing", 2 * (both.end - both.start));
    let mut changed = ExtentSet::new();
    for disk in [old, new] {
        let mut found = ExtentSet::new();
        for extent in extents(disk as &dyn BlockSource, both.clone()) {
            job.check()?;
            let extent = extent?;
            if extent.kind == ExtentKind::Data {
                found.insert(extent.range());
            }
            job.advance(extent.length);
        }
        changed = changed.union(&found);
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use nestling_block::{BlockTarget, MemoryDisk};

    use super::*;
    use crate::testing::{MIB, Place, noise};

    const CHUNK: u64 = crate::layout::CHUNK_BYTES as u64;

    fn compare(place: &Place, old: usize, new: usize) -> DiskDiff {
        let points = place.points("a");
        let (old, new) = (place.open(&points[old]).expect("old"), place.open(&points[new]).expect("new"));
        diff(&old, &new, &Job::default()).expect("compared")
    }

    #[test]
    fn changed_chunks_are_found_anywhere_on_a_large_disk() {
        let place = Place::new();
        let disk = place.disk(9 << 30);
        place.save_at("a", &disk, 1);
        place.save_at("a", &disk, 2);
        disk.write_at(&noise(5, 10), (5 << 30) + 3 * CHUNK - 5).expect("data across two chunks");
        disk.write_at(&[7], (9 << 30) - 1).expect("the last byte");
        disk.write_zeroes(0..MIB).expect("a hole where data were");
        place.save_at("a", &disk, 3);
        assert!(compare(&place, 0, 1).changed.is_empty());
        let expected =
            [0..3 * CHUNK, (5 << 30) + 2 * CHUNK..(5 << 30) + 4 * CHUNK, (9 << 30) - CHUNK..9 << 30];
        assert_eq!(compare(&place, 1, 2).changed.ranges(), expected);
        assert_eq!(compare(&place, 2, 1).changed.ranges(), expected);
    }

    #[test]
    fn a_disk_that_grew_or_shrank_is_compared_up_to_the_shorter_end() {
        let place = Place::new();
        let small = 40 * MIB + 1000;
        let bytes = noise(3, 100_000);
        let sizes = [small, 70 * MIB, 40 * MIB];
        for (second, size) in (1..).zip(sizes) {
            let disk = MemoryDisk::new("disk", size);
            disk.write_at(&bytes, 39 * MIB).expect("data");
            place.save_at("a", &disk, second);
        }
        let grown = compare(&place, 0, 1);
        assert_eq!(grown.changed, std::iter::once(small..70 * MIB).collect());
        assert_eq!((grown.old_size_bytes, grown.new_size_bytes), (small, 70 * MIB));
        assert!(compare(&place, 1, 2).changed.is_empty(), "a shorter disk has nothing new");
        assert!(compare(&place, 0, 2).changed.is_empty());
    }
}
