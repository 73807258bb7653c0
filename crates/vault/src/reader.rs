//! A disk of a point, read at any place straight from the repository.
//!
//! Instant boot, file recovery and NBD all stand on it, so a read of 4 KiB must cost one chunk: a place is found by
//! counting, never by walking, and what was opened stays in memory up to a bound. It never gives out a byte that was
//! not checked, and never more memory than it was told to use.

use std::{
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

use nestling_block::{BlockError, BlockSource, Extent, ExtentKind, ExtentList, ExtentSet, check_range};
use quick_cache::{Weighter, sync::Cache};

use crate::{
    BlobId, VaultError,
    blob::{Opener, Scratch},
    format::tree::{NodeKind, Tree},
    index::Index,
    job::Job,
    layout::{Chunk, Geometry, SEGMENT_FILE, Zeroes, group_name, segment_name},
    point::{Point, PointContent, load_tree, node, subtree},
    repo::Repository,
};

/// Memory for opened chunks, unless the caller says otherwise.
pub const CACHE_BYTES: u64 = 64 << 20;
/// Memory for the lists of segments and groups: 8 KiB each, enough for 64 GiB of disk that is used at once.
const LISTS_BYTES: u64 = 16 << 20;
const LISTS: usize = 2048;
/// Lists are read ahead only for disks of no more segments (32 GiB): of others they would push each other out.
const LISTS_AHEAD_MAX: u64 = 1024;

#[derive(Clone)]
struct Bytes;

impl<K, T> Weighter<K, Arc<Vec<T>>> for Bytes {
    fn weight(&self, _: &K, list: &Arc<Vec<T>>) -> u64 {
        (list.len() * size_of::<T>()) as u64 + 64
    }
}

/// What was opened, up to a bound. Any number of disks of one repository share it, since all of it is found by the name
/// of its content and by how that was read.
pub struct ReadCache {
    /// By tree, and how many segments it must have.
    groups: Cache<(BlobId, u64), Arc<Vec<BlobId>>, Bytes>,
    /// By tree, the disk's cut, and how many bytes the segment must have.
    segments: Cache<(BlobId, Geometry, u64), Arc<Vec<Chunk>>, Bytes>,
    chunks: Cache<BlobId, Arc<Vec<u8>>, Bytes>,
}

impl ReadCache {
    /// With so much memory for chunks.
    pub fn new(chunks_bytes: u64) -> Arc<Self> {
        Arc::new(Self {
            groups: Cache::with_weighter(LISTS, LISTS_BYTES, Bytes),
            segments: Cache::with_weighter(LISTS, LISTS_BYTES, Bytes),
            chunks: Cache::with_weighter((chunks_bytes >> 16).max(64) as usize, chunks_bytes, Bytes),
        })
    }
}

/// See the module. Several threads may read at once; what two of them miss is fetched once.
pub struct PointDisk {
    repository: Arc<Repository>,
    index: Arc<Index>,
    pub(crate) geometry: Geometry,
    pub(crate) zeroes: Zeroes,
    groups: Vec<BlobId>,
    lost: ExtentSet,
    name: String,
    cache: Arc<ReadCache>,
    scratch: Mutex<Vec<Scratch>>,
}

impl PointDisk {
    /// The disk `disk` of a point; without a name, its only one.
    pub fn open(
        repository: &Arc<Repository>,
        index: &Arc<Index>,
        point: &Point,
        disk: Option<&str>,
        cache: &Arc<ReadCache>,
    ) -> Result<Self, VaultError> {
        let content = repository.content(index, point)?;
        let number = content.disk(point, disk)?;
        Self::of_content(repository, index, point, &content, number, cache)
    }

    /// The same for who knows the point's content: its disk of that number.
    pub(crate) fn of_content(
        repository: &Arc<Repository>,
        index: &Arc<Index>,
        point: &Point,
        content: &PointContent,
        number: usize,
        cache: &Arc<ReadCache>,
    ) -> Result<Self, VaultError> {
        let layout = &content.layout.disks[number];
        let geometry = layout.geometry;
        let mut opener = Opener::new(repository.storage.as_ref(), &repository.key);
        let tree = load_tree(&mut opener, index, &content.disk_trees[number])?;
        let groups: Option<Vec<_>> =
            (0..geometry.groups()).map(|group| subtree(&tree, &group_name(group))).collect();
        let groups = groups.ok_or_else(|| VaultError::PointDamaged {
            point: point.id,
            what: format!("parts of disk {} are not named", layout.name),
        })?;
        Ok(Self {
            geometry,
            zeroes: Zeroes::of(&geometry),
            groups,
            lost: content.layout.lost(&layout.name),
            name: format!("{}@{}:{}", point.name, point.short_id(), layout.name),
            cache: cache.clone(),
            scratch: Mutex::new(Vec::new()),
            repository: repository.clone(),
            index: index.clone(),
        })
    }

    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Bytes that were lost to damage before: reading them is an error.
    pub fn lost(&self) -> &ExtentSet {
        &self.lost
    }

    /// Fails when a byte of `range` was lost.
    pub(crate) fn check_lost(&self, range: Range<u64>) -> Result<(), VaultError> {
        match self.lost.within(range).next() {
            None => Ok(()),
            Some(range) => Err(VaultError::Lost { disk: self.name.clone(), range }),
        }
    }

    fn with_opener<T>(
        &self,
        work: impl FnOnce(&mut Opener<'_>) -> Result<T, VaultError>,
    ) -> Result<T, VaultError> {
        let spare = self.scratch.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let scratch = spare.unwrap_or_default();
        let mut opener = Opener::with(self.repository.storage.as_ref(), &self.repository.key, scratch);
        let outcome = work(&mut opener);
        self.scratch.lock().unwrap_or_else(PoisonError::into_inner).push(opener.into_scratch());
        outcome
    }

    fn tree(&self, id: &BlobId) -> Result<Tree, VaultError> {
        self.with_opener(|opener| load_tree(opener, &self.index, id))
    }

    fn wrong(&self, what: &str) -> VaultError {
        VaultError::Invalid(format!("{}: {what}", self.name))
    }

    /// The tree of a group, by which equal parts of two points are known without looking into them.
    pub(crate) fn group_id(&self, group: u64) -> Option<BlobId> {
        self.groups.get(usize::try_from(group).ok()?).copied()
    }

    /// The trees of a group's segments.
    pub(crate) fn segments(&self, group: u64) -> Result<Arc<Vec<BlobId>>, VaultError> {
        let id = self.group_id(group).ok_or_else(|| self.wrong("a part behind its end was asked for"))?;
        let numbers = self.geometry.group(group);
        let count = numbers.end - numbers.start;
        self.cache.groups.get_or_insert_with(&(id, count), || {
            let tree = self.tree(&id)?;
            let found: Option<Vec<_>> =
                (0..count).map(|place| subtree(&tree, &segment_name(place))).collect();
            found.map(Arc::new).ok_or_else(|| self.wrong("parts of it are not named"))
        })
    }

    /// The tree of a segment.
    pub(crate) fn segment_id(&self, segment: u64) -> Result<BlobId, VaultError> {
        let (group, place) = self.geometry.place(segment);
        let id = self.segments(group)?.get(place as usize).copied();
        id.ok_or_else(|| self.wrong("a part behind its end was asked for"))
    }

    /// The chunks of a segment.
    pub(crate) fn chunks_of(&self, segment: u64) -> Result<Arc<Vec<Chunk>>, VaultError> {
        let id = self.segment_id(segment)?;
        let range = self.geometry.segment(segment);
        let bytes = range.end - range.start;
        self.cache.segments.get_or_insert_with(&(id, self.geometry, bytes), || {
            let tree = self.tree(&id)?;
            let chunks = match node(&tree, SEGMENT_FILE).map(|node| &node.kind) {
                Some(NodeKind::File { size, content }) if *size == bytes => {
                    self.zeroes.decode(content, bytes)
                }
                _ => None,
            };
            chunks
                .map(Arc::new)
                .ok_or_else(|| self.wrong("the list of a part's chunks does not fit the disk"))
        })
    }

    /// Reads the lists of all chunks, so that the first read at each place need not wait for its list. For a thread beside
    /// those that read; ends when the job is cancelled. What cannot be read is an error to whoever needs it.
    pub fn read_lists_ahead(&self, job: &Job) {
        if self.geometry.segments() <= LISTS_AHEAD_MAX {
            for segment in (0..self.geometry.segments()).take_while(|_| job.check().is_ok()) {
                let _ = self.chunks_of(segment);
            }
        }
    }

    /// The chunk that holds `offset`, and its bytes' range on the disk.
    fn chunk_at(&self, offset: u64) -> Result<(Chunk, Range<u64>), VaultError> {
        let segment = offset / self.geometry.segment_bytes;
        let chunks = self.chunks_of(segment)?;
        let place = offset % self.geometry.segment_bytes / u64::from(self.geometry.chunk_bytes);
        let chunk =
            chunks.get(place as usize).ok_or_else(|| self.wrong("a part behind its end was asked for"))?;
        Ok((*chunk, self.geometry.chunk_at(offset)))
    }

    fn bytes(&self, id: &BlobId, length: u64) -> Result<Arc<Vec<u8>>, VaultError> {
        let bytes = self.cache.chunks.get_or_insert_with(id, || {
            let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or_default());
            self.with_opener(|opener| opener.load(&self.index, id, &mut bytes))?;
            Ok::<_, VaultError>(Arc::new(bytes))
        })?;
        // The same chunk may be named at a place where it does not belong.
        if bytes.len() as u64 == length {
            Ok(bytes)
        } else {
            Err(self.wrong("a chunk has another length than its place"))
        }
    }

    /// As `BlockSource::read_at`, with this crate's errors.
    #[expect(clippy::cast_possible_truncation, reason = "places inside a chunk and a buffer")]
    pub fn read(&self, mut buf: &mut [u8], mut offset: u64) -> Result<(), VaultError> {
        check_range(&self.name, self.geometry.size_bytes, offset, buf.len() as u64)?;
        self.check_lost(offset..offset + buf.len() as u64)?;
        while !buf.is_empty() {
            let (chunk, range) = self.chunk_at(offset)?;
            let count = buf.len().min((range.end - offset) as usize);
            let (here, rest) = buf.split_at_mut(count);
            match chunk {
                Chunk::Zero => here.fill(0),
                Chunk::Stored(id) => {
                    let bytes = self.bytes(&id, range.end - range.start)?;
                    let from = (offset - range.start) as usize;
                    here.copy_from_slice(&bytes[from..from + count]);
                }
            }
            buf = rest;
            offset += count as u64;
        }
        Ok(())
    }

    /// Whether a chunk at this place is a hole. Whoever copies by holes must come upon what is lost, and not skip it.
    pub(crate) fn is_hole(&self, chunk: Chunk, range: Range<u64>) -> bool {
        chunk == Chunk::Zero && !self.lost.touches(range)
    }

    fn as_block_error(&self, offset: u64, error: &VaultError) -> BlockError {
        BlockError::damaged(&self.name, offset, error.to_string())
    }
}

impl BlockSource for PointDisk {
    fn size_bytes(&self) -> u64 {
        self.geometry.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        self.read(buf, offset).map_err(|error| self.as_block_error(offset, &error))
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        check_range(
            &self.name,
            self.geometry.size_bytes,
            range.start,
            range.end.saturating_sub(range.start),
        )?;
        let mut list = ExtentList::new(range);
        while !list.is_done() {
            let at = list.position();
            let (chunk, bytes) = self.chunk_at(at).map_err(|error| self.as_block_error(at, &error))?;
            let kind = if self.is_hole(chunk, bytes.clone()) { ExtentKind::Zero } else { ExtentKind::Data };
            list.push(bytes.end - at, kind);
        }
        Ok(list.finish())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use nestling_block::BlockTarget;

    use super::*;
    use crate::testing::{MIB, Place, noise};

    #[test]
    fn a_chunk_at_a_place_of_another_length_is_an_error_each_time() {
        let place = Place::new();
        let source = nestling_block::MemoryDisk::new("disk", MIB + 3000);
        source.write_at(&noise(1, 3000), MIB).expect("data");
        place.save_at("a", &source, 1);
        let disk = place.open(&place.points("a")[0]).expect("opened");
        let (Chunk::Stored(id), range) = disk.chunk_at(MIB).expect("a chunk") else { panic!("a hole") };
        assert_eq!(range, MIB..MIB + 3000);
        for _ in 0..2 {
            assert_eq!(disk.bytes(&id, 3000).expect("its bytes").len(), 3000);
            assert!(disk.bytes(&id, 128 << 10).is_err(), "in the cache and out of it");
        }
    }
}
