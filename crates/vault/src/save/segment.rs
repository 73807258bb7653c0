//! One thread's work on a segment: its chunks are read, named, and stored where no pack has them.
//!
//! Chunks are named two by two, since that takes less time than one after the other. They are stored in the disk's
//! order all the same, so that neighbours lie side by side in a pack.

use std::{collections::HashSet, ops::Range, sync::atomic::Ordering::Relaxed};

use nestling_block::{BlockSource, ExtentKind, extents};

use super::{DiskPlan, Save, Task, encoded, epoch, is_zero};
use crate::{
    BlobId, VaultError,
    blob::Opener,
    format::{
        pack::BlobKind,
        tree::{Node, NodeKind},
    },
    layout::{Chunk, SEGMENT_FILE},
    packer::{Packer, Writer},
    repo::Repository,
};

/// One thread's buffers.
pub(super) struct Worker<'a, 'w> {
    save: &'a Save<'a>,
    writer: &'a Writer<'w>,
    packer: Packer<'a>,
    opener: Opener<'a>,
    read: Read,
    /// Lengths of the zero blobs that were stored already.
    zeroes: HashSet<u32>,
}

/// Chunks that were read, and not yet named and stored.
#[derive(Default)]
struct Read {
    buffers: [Vec<u8>; 2],
    /// Their places in the segment, one for each buffer that is in use.
    places: Vec<usize>,
}

impl<'a, 'w> Worker<'a, 'w> {
    pub(super) fn new(save: &'a Save<'a>, writer: &'a Writer<'w>) -> Result<Self, VaultError> {
        let Repository { storage, key, tuning, .. } = save.repository;
        Ok(Self {
            save,
            writer,
            packer: Packer::new(BlobKind::Data, key, tuning)?,
            opener: Opener::new(storage.as_ref(), key),
            read: Read::default(),
            zeroes: HashSet::new(),
        })
    }

    /// Hands over what there is.
    pub(super) fn flush(mut self) -> Result<(), VaultError> {
        self.packer.flush(self.writer)
    }

    /// The tree of a segment, with all its chunks stored or on their way.
    pub(super) fn segment(&mut self, task: &Task) -> Result<BlobId, VaultError> {
        let disk = &self.save.disks[task.disk];
        let range = disk.geometry.segment(task.segment);
        let old = self.old_chunks(disk, task)?;
        let chunks = self.chunks(disk, range.clone(), old.as_deref())?;
        let bytes = range.end - range.start;
        let (content, zero_blobs) = disk.zeroes.encode(&chunks, bytes);
        for length in zero_blobs {
            // Once: hashing it anew for each segment costs seconds for each TiB of holes.
            if self.zeroes.insert(length) {
                let zeroes = vec![0; length as usize];
                self.store(BlobId::of(&zeroes), &zeroes)?;
            }
        }
        let node = Node::file(SEGMENT_FILE, bytes, content, epoch());
        self.writer.tree(&encoded(vec![node])?)
    }

    fn chunks(
        &mut self,
        disk: &DiskPlan<'_>,
        range: Range<u64>,
        old: Option<&[Option<Chunk>]>,
    ) -> Result<Vec<Chunk>, VaultError> {
        let mut data = DataRanges::new(disk.input.source, range.clone())?;
        let mut chunks = Vec::new();
        for (place, chunk) in disk.geometry.chunks(range).enumerate() {
            let unchanged = disk.changed.as_ref().is_some_and(|changed| !changed.touches(chunk.clone()));
            let kept = old.filter(|_| unchanged).and_then(|old| old.get(place)).copied().flatten();
            // What is read is named below.
            chunks.push(kept.unwrap_or(Chunk::Zero));
            if kept.is_none() && self.read(disk, chunk.clone(), &mut data)? {
                self.read.places.push(place);
                if self.read.places.len() == self.read.buffers.len() {
                    self.store_read(&mut chunks)?;
                }
            }
            self.save.job.advance(chunk.end - chunk.start);
        }
        self.store_read(&mut chunks)?;
        Ok(chunks)
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

    /// Reads a chunk into the next buffer: whether it holds anything.
    #[expect(clippy::cast_possible_truncation, reason = "places inside a chunk")]
    fn read(
        &mut self,
        disk: &DiskPlan<'_>,
        range: Range<u64>,
        data: &mut DataRanges,
    ) -> Result<bool, VaultError> {
        let parts = data.of(&range);
        if parts.is_empty() {
            return Ok(false);
        }
        let buffer = &mut self.read.buffers[self.read.places.len()];
        buffer.resize((range.end - range.start) as usize, 0);
        let mut at = range.start;
        for part in parts {
            let (from, to) = ((part.start - range.start) as usize, (part.end - range.start) as usize);
            buffer[(at - range.start) as usize..from].fill(0);
            disk.input.source.read_at(&mut buffer[from..to], part.start)?;
            self.save.counters.read.fetch_add(part.end - part.start, Relaxed);
            at = part.end;
        }
        buffer[(at - range.start) as usize..].fill(0);
        Ok(!is_zero(buffer))
    }

    /// Names what was read, stores it, and notes it in its place among `chunks`.
    fn store_read(&mut self, chunks: &mut [Chunk]) -> Result<(), VaultError> {
        let mut read = std::mem::take(&mut self.read);
        let ids = match (&read.places[..], &read.buffers) {
            ([], _) => Vec::new(),
            ([_], [only, _]) => vec![BlobId::of(only)],
            (_, [first, second]) => BlobId::of_both([first, second]).into(),
        };
        let outcome = ids.iter().zip(&read.buffers).try_for_each(|(id, plain)| self.store(*id, plain));
        for (place, id) in read.places.drain(..).zip(ids) {
            chunks[place] = Chunk::Stored(id);
        }
        self.read = read;
        outcome
    }

    fn store(&mut self, id: BlobId, plain: &[u8]) -> Result<(), VaultError> {
        if self.writer.claim(&id) {
            self.save.counters.new.fetch_add(plain.len() as u64, Relaxed);
            self.packer.add(id, plain, self.writer)?;
        }
        Ok(())
    }
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
