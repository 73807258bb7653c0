//! Which blob lies where: what all index files of a repository say, held small.
//!
//! 48 bytes a blob and nothing else, because a repository of 100 million chunks must still be opened on an ordinary
//! machine. Names are evenly spread, so a table sorted by them needs no hashing. It never decides which copy of a blob
//! is good: it names all of them.

use std::collections::{HashMap, HashSet};

use crate::{
    BlobId, PackId,
    format::{
        index::IndexFile,
        pack::{BlobKind, PackBlob},
    },
};

const BUCKETS: usize = 256;
/// In `Entry::uncompressed`: set when the blob is a tree. No blob is as long as this, so the bit is free.
const TREE: u32 = 1 << 31;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    id: BlobId,
    pack: u32,
    offset: u32,
    length: u32,
    /// 0: stored as it is.
    uncompressed: u32,
}

/// Where one copy of a blob lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Location {
    pub pack: PackId,
    pub blob: PackBlob,
}

/// A table of blobs, sorted once after it was filled.
#[derive(Debug)]
pub struct Index {
    buckets: Vec<Vec<Entry>>,
    /// Number of the first entry of each bucket, once sorted.
    starts: Vec<usize>,
    packs: Vec<PackId>,
    numbers: HashMap<PackId, u32>,
    /// Packs that are read but not built on.
    leaving: HashSet<u32>,
    /// Packs that are not in the store.
    lacking: HashSet<u32>,
}

impl Default for Index {
    fn default() -> Self {
        Self {
            buckets: vec![Vec::new(); BUCKETS],
            starts: vec![0; BUCKETS],
            packs: Vec::new(),
            numbers: HashMap::new(),
            leaving: HashSet::new(),
            lacking: HashSet::new(),
        }
    }
}

impl Index {
    /// Takes in what one index file says. A pack that two files name is taken once.
    pub fn add(&mut self, file: &IndexFile) {
        for pack in &file.packs {
            self.add_pack(pack.id, &pack.blobs);
        }
    }

    pub fn add_pack(&mut self, pack: PackId, blobs: &[PackBlob]) {
        if self.numbers.contains_key(&pack) {
            return;
        }
        let Ok(number) = u32::try_from(self.packs.len()) else { return };
        self.numbers.insert(pack, number);
        self.packs.push(pack);
        for blob in blobs {
            let tree = if blob.kind == BlobKind::Tree { TREE } else { 0 };
            self.buckets[usize::from(blob.id.0[0])].push(Entry {
                id: blob.id,
                pack: number,
                offset: blob.offset,
                length: blob.length,
                uncompressed: blob.uncompressed_length.unwrap_or_default() & !TREE | tree,
            });
        }
    }

    /// To be called once after the last `add`, before anything is asked.
    pub fn finish(&mut self) {
        let mut start = 0;
        for (bucket, first) in self.buckets.iter_mut().zip(&mut self.starts) {
            bucket.sort_unstable_by_key(|entry| (entry.id, entry.pack, entry.offset));
            bucket.shrink_to_fit();
            *first = start;
            start += bucket.len();
        }
    }

    /// Names packs that are about to be removed: what lies there is found, and does not count as stored.
    pub(crate) fn leave(&mut self, packs: &HashSet<PackId>) {
        self.leaving.extend(packs.iter().filter_map(|pack| self.numbers.get(pack)));
    }

    /// Packs other than those that are `there` do not count as stored.
    pub(crate) fn lack(&mut self, there: &HashSet<PackId>) {
        self.lacking.extend(self.numbers.iter().filter(|(pack, _)| !there.contains(*pack)).map(|(_, n)| *n));
        self.leaving.extend(&self.lacking);
    }

    /// Whether a pack that is there has the blob, for now.
    pub(crate) fn reads(&self, id: &BlobId) -> bool {
        self.entries(id).any(|entry| !self.lacking.contains(&entry.pack))
    }

    /// Whether a blob is stored to stay.
    pub(crate) fn holds(&self, id: &BlobId) -> bool {
        self.entries(id).any(|entry| !self.leaving.contains(&entry.pack))
    }

    /// Copies of blobs, the same blob in two packs counted twice.
    pub fn len(&self) -> usize {
        self.buckets.iter().map(Vec::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    pub fn packs(&self) -> &[PackId] {
        &self.packs
    }

    pub fn has_pack(&self, pack: &PackId) -> bool {
        self.numbers.contains_key(pack)
    }

    /// Bytes of memory that the table takes.
    pub fn memory_bytes(&self) -> usize {
        self.buckets.iter().map(|b| b.capacity() * size_of::<Entry>()).sum::<usize>()
            + self.packs.capacity() * size_of::<PackId>()
            + self.numbers.capacity() * (size_of::<PackId>() + 8)
    }

    pub fn contains(&self, id: &BlobId) -> bool {
        self.position(id).is_some()
    }

    /// The number of a blob's first copy among all, for tables that stand beside this one.
    pub fn position(&self, id: &BlobId) -> Option<usize> {
        let bucket = usize::from(id.0[0]);
        let entries = &self.buckets[bucket];
        let at = entries.partition_point(|entry| entry.id < *id);
        (entries.get(at)?.id == *id).then(|| self.starts[bucket] + at)
    }

    fn entries(&self, id: &BlobId) -> impl Iterator<Item = &Entry> {
        let id = *id;
        let entries = &self.buckets[usize::from(id.0[0])];
        let at = entries.partition_point(|entry| entry.id < id);
        entries[at..].iter().take_while(move |entry| entry.id == id)
    }

    /// All copies of a blob.
    pub fn copies(&self, id: &BlobId) -> impl Iterator<Item = Location> {
        self.entries(id).map(|entry| self.location(entry))
    }

    /// Whether a chunk has the length of its place, in all its copies.
    pub(crate) fn fits(&self, id: &BlobId, bytes: u64) -> bool {
        self.copies(id).all(|copy| u64::from(copy.blob.plain_length()) == bytes)
    }

    pub fn lookup(&self, id: &BlobId) -> Option<Location> {
        self.copies(id).next()
    }

    /// Every copy of every blob, by name, numbered as by `position`.
    pub fn iter(&self) -> impl Iterator<Item = Location> {
        self.buckets.iter().flatten().map(|entry| self.location(entry))
    }

    fn location(&self, entry: &Entry) -> Location {
        let uncompressed = entry.uncompressed & !TREE;
        Location {
            pack: self.packs[entry.pack as usize],
            blob: PackBlob {
                id: entry.id,
                kind: if entry.uncompressed & TREE == 0 { BlobKind::Data } else { BlobKind::Tree },
                offset: entry.offset,
                length: entry.length,
                uncompressed_length: (uncompressed != 0).then_some(uncompressed),
            },
        }
    }
}
