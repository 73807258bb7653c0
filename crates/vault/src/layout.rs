//! How a disk lies in a repository: chunks, segments, groups, and what a hole looks like.
//!
//! Every point is one snapshot of a tree `/NAME/DISK/GROUP/SEGMENT/data`. A `data` file is one segment of the disk, its
//! content list names the segment's chunks, and every segment and every group is a tree of its own, so that what did
//! not change is named again and costs nothing. Joined in the order of their names, the `data` files are the disk.
//! `docs/vault-format.md` is the specification. This module only counts: it never reads or writes anything.

use std::{ops::Range, sync::LazyLock};

use serde::{Deserialize, Serialize};

use crate::{BlobId, VaultError};

// All chosen by measurement, see docs/benchmarks-vault.md.

/// A pack is closed once it holds this much.
pub const PACK_BYTES: usize = 16 << 20;
/// Level of zstd.
pub const LEVEL: i32 = 2;
/// What is read, hashed, compressed and stored as one.
pub const CHUNK_BYTES: u32 = 128 << 10;
/// One tree with one file: what a changed chunk costs in metadata grows with it.
pub const SEGMENT_BYTES: u64 = 32 << 20;
/// Segments of a group.
pub const GROUP_SEGMENTS: u32 = 128;
/// The zero blob by which restic knows that a file is sparse: the smallest chunk that its own chunker makes.
pub const ZERO_RUN_BYTES: u32 = 512 << 10;

/// No disk is larger: 4 PiB.
pub const DISK_BYTES_MAX: u64 = 1 << 52;
/// Six digits name a group, so that the order of names is the disk's.
const GROUPS_MAX: u64 = 1 << 24;
/// The file of a segment.
pub const SEGMENT_FILE: &str = "data";
/// The file that says how the disks of a point lie in it.
pub const POINT_FILE: &str = "point.json";
/// The file with the machine's own description, if there is one.
pub const DESCRIPTION_FILE: &str = "vm.json";

/// How one disk is cut. Part of every point, so that later versions may cut otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Geometry {
    pub size_bytes: u64,
    pub chunk_bytes: u32,
    pub segment_bytes: u64,
    pub group_segments: u32,
}

/// How new points are cut, packed and compressed. What is read says of itself how it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tuning {
    pub chunk_bytes: u32,
    pub segment_bytes: u64,
    pub group_segments: u32,
    /// A pack is closed once it holds this much.
    pub pack_bytes: usize,
    /// zstd's.
    pub level: i32,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            chunk_bytes: CHUNK_BYTES,
            segment_bytes: SEGMENT_BYTES,
            group_segments: GROUP_SEGMENTS,
            pack_bytes: PACK_BYTES,
            level: LEVEL,
        }
    }
}

impl Geometry {
    pub fn new(size_bytes: u64, tuning: &Tuning) -> Result<Self, VaultError> {
        let Tuning { chunk_bytes, segment_bytes, group_segments, .. } = *tuning;
        let geometry = Self { size_bytes, chunk_bytes, segment_bytes, group_segments };
        geometry.check()?;
        Ok(geometry)
    }

    /// What comes from a repository is checked before anything is counted with it.
    pub fn check(&self) -> Result<(), VaultError> {
        let chunk = u64::from(self.chunk_bytes);
        let fits = self.size_bytes <= DISK_BYTES_MAX
            && self.chunk_bytes.is_power_of_two()
            && (4 << 10..=16 << 20).contains(&self.chunk_bytes)
            && self.segment_bytes.is_power_of_two()
            && (chunk..=chunk << 16).contains(&self.segment_bytes)
            && (1..=1 << 12).contains(&self.group_segments)
            && self.groups() <= GROUPS_MAX;
        if fits { Ok(()) } else { Err(VaultError::Geometry(*self)) }
    }

    pub fn segments(&self) -> u64 {
        self.size_bytes.div_ceil(self.segment_bytes)
    }

    pub fn groups(&self) -> u64 {
        self.segments().div_ceil(u64::from(self.group_segments))
    }

    /// The segments of a group, by their number on the disk.
    pub fn group(&self, group: u64) -> Range<u64> {
        let first = group * u64::from(self.group_segments);
        first..(first + u64::from(self.group_segments)).min(self.segments())
    }

    /// The bytes of a segment.
    pub fn segment(&self, segment: u64) -> Range<u64> {
        let start = segment * self.segment_bytes;
        start..(start + self.segment_bytes).min(self.size_bytes)
    }

    /// Where a segment stands: its group, and its place there.
    pub fn place(&self, segment: u64) -> (u64, u64) {
        (segment / u64::from(self.group_segments), segment % u64::from(self.group_segments))
    }

    /// The bytes of a group.
    pub fn group_bytes(&self, group: u64) -> Range<u64> {
        let segments = self.group(group);
        segments.start * self.segment_bytes..(segments.end * self.segment_bytes).min(self.size_bytes)
    }

    /// The chunks of a range that begins where a chunk begins.
    pub fn chunks(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let chunk = u64::from(self.chunk_bytes);
        let mut next = range.start;
        std::iter::from_fn(move || {
            let here = next..(next + chunk).min(range.end);
            next = here.end;
            (!here.is_empty()).then_some(here)
        })
    }

    /// The chunk that a byte lies in.
    pub fn chunk_at(&self, offset: u64) -> Range<u64> {
        let chunk = u64::from(self.chunk_bytes);
        let start = offset / chunk * chunk;
        start..(start + chunk).min(self.size_bytes)
    }
}

/// Names of the folders of a disk: digits of one width, so that their order is the disk's.
pub fn group_name(group: u64) -> String {
    format!("{group:06x}")
}

pub fn segment_name(place: u64) -> String {
    format!("{place:03x}")
}

/// One chunk of a segment, as its content list names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// Nothing but zeroes; not stored.
    Zero,
    Stored(BlobId),
}

/// The names of zero blobs: of a whole run, of a chunk, and of what is left at the end of a disk.
#[derive(Debug, Clone)]
pub struct Zeroes {
    chunk_bytes: u32,
    run: BlobId,
    chunk: BlobId,
    tail_bytes: u32,
    tail: BlobId,
}

static ZERO_RUN: LazyLock<BlobId> = LazyLock::new(|| BlobId::of(&vec![0; ZERO_RUN_BYTES as usize]));
static ZERO_CHUNK: LazyLock<BlobId> = LazyLock::new(|| BlobId::of(&vec![0; CHUNK_BYTES as usize]));

impl Zeroes {
    pub fn of(geometry: &Geometry) -> Self {
        let chunk_bytes = geometry.chunk_bytes;
        let tail_bytes = u32::try_from(geometry.size_bytes % u64::from(chunk_bytes)).unwrap_or_default();
        let chunk =
            if chunk_bytes == CHUNK_BYTES { *ZERO_CHUNK } else { BlobId::of(&vec![0; chunk_bytes as usize]) };
        let tail = if tail_bytes == 0 { chunk } else { BlobId::of(&vec![0; tail_bytes as usize]) };
        Self { chunk_bytes, run: *ZERO_RUN, chunk, tail_bytes, tail }
    }

    /// The blobs that hold nothing, and their lengths.
    pub(crate) fn blobs(&self) -> [(BlobId, u32); 3] {
        let tail_bytes = if self.tail_bytes == 0 { self.chunk_bytes } else { self.tail_bytes };
        [(self.run, ZERO_RUN_BYTES), (self.chunk, self.chunk_bytes), (self.tail, tail_bytes)]
    }

    /// Chunks of a run blob.
    fn run_chunks(&self) -> usize {
        (ZERO_RUN_BYTES / self.chunk_bytes).max(1) as usize
    }

    /// The content list of a segment, and which zero blobs it uses, by their length. `bytes` is the segment's length.
    pub fn encode(&self, chunks: &[Chunk], bytes: u64) -> (Vec<BlobId>, Vec<u32>) {
        let mut content = Vec::with_capacity(chunks.len());
        let mut used = Vec::new();
        let partial = !bytes.is_multiple_of(u64::from(self.chunk_bytes));
        let whole = chunks.len() - usize::from(partial);
        let mut at = 0;
        while at < chunks.len() {
            let (id, bytes, count) = match chunks[at] {
                Chunk::Stored(id) => (id, 0, 1),
                Chunk::Zero if at == whole => (self.tail, self.tail_bytes, 1),
                Chunk::Zero => {
                    let run = self.run_chunks();
                    let zeroes =
                        chunks[at..whole].iter().take(run).take_while(|c| **c == Chunk::Zero).count();
                    // A chunk larger than restic's run, or a lone one, has a name of its own.
                    if zeroes == run && self.chunk_bytes <= ZERO_RUN_BYTES {
                        (self.run, ZERO_RUN_BYTES, run)
                    } else {
                        (self.chunk, self.chunk_bytes, 1)
                    }
                }
            };
            if bytes != 0 && !used.contains(&bytes) {
                used.push(bytes);
            }
            content.push(id);
            at += count;
        }
        (content, used)
    }

    /// The chunks of a segment of `bytes` bytes. A list of another length is refused.
    pub fn decode(&self, content: &[BlobId], bytes: u64) -> Option<Vec<Chunk>> {
        let expected = usize::try_from(bytes.div_ceil(u64::from(self.chunk_bytes))).ok()?;
        let mut chunks = Vec::with_capacity(expected.min(1 << 16));
        for id in content {
            let (chunk, count) = if *id == self.run && self.chunk_bytes <= ZERO_RUN_BYTES {
                (Chunk::Zero, self.run_chunks())
            } else if *id == self.chunk || (*id == self.tail && chunks.len() + 1 == expected) {
                (Chunk::Zero, 1)
            } else {
                (Chunk::Stored(*id), 1)
            };
            if chunks.len() + count > expected {
                return None;
            }
            chunks.extend(std::iter::repeat_n(chunk, count));
        }
        (chunks.len() == expected).then_some(chunks)
    }
}

/// The tree of a group or segment, with what decides how it has to look: what is found out of it holds wherever it is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct LaidOut {
    tree: BlobId,
    bytes: u64,
    chunk_bytes: u32,
    segment_bytes: u64,
}

impl LaidOut {
    pub(crate) fn of(tree: Option<BlobId>, range: &Range<u64>, geometry: &Geometry) -> Option<Self> {
        let (bytes, Geometry { chunk_bytes, segment_bytes, .. }) = (range.end - range.start, *geometry);
        Some(Self { tree: tree?, bytes, chunk_bytes, segment_bytes })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_disk_is_cut_into_chunks_segments_and_groups() {
        let geometry = Geometry::new((5 << 30) + 1000, &Tuning::default()).expect("a geometry");
        assert_eq!((geometry.segments(), geometry.groups()), (161, 2));
        assert_eq!(geometry.group(1), 128..161);
        assert_eq!(geometry.place(129), (1, 1));
        assert_eq!(geometry.segment(160), 5 << 30..(5 << 30) + 1000);
        assert_eq!(geometry.group_bytes(1), 4 << 30..(5 << 30) + 1000);
        assert!(geometry.chunks(geometry.segment(160)).eq(std::iter::once(5 << 30..(5 << 30) + 1000)));
        assert_eq!(geometry.chunks(geometry.segment(0)).count(), 256);
        assert_eq!((group_name(31), segment_name(127)), ("00001f".to_owned(), "07f".to_owned()));
    }

    #[test]
    fn what_cannot_be_a_geometry_is_refused() {
        let good = Geometry::new(1 << 30, &Tuning::default()).expect("a geometry");
        for bad in [
            Geometry { size_bytes: DISK_BYTES_MAX + 1, ..good },
            Geometry { chunk_bytes: 0, ..good },
            Geometry { chunk_bytes: 3 << 16, ..good },
            Geometry { chunk_bytes: 1 << 30, ..good },
            Geometry { segment_bytes: 0, ..good },
            Geometry { segment_bytes: 4096, ..good },
            Geometry { segment_bytes: 1 << 62, ..good },
            Geometry { group_segments: 0, ..good },
            Geometry { size_bytes: 1 << 52, segment_bytes: 1 << 20, ..good },
            Geometry { group_segments: u32::MAX, ..good },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn content_lists_say_where_the_holes_are(
            kinds in prop::collection::vec(prop::bool::ANY, 1..128),
            tail in 0_u32..CHUNK_BYTES,
        ) {
            let chunk = u64::from(CHUNK_BYTES);
            let bytes = (kinds.len() as u64 - 1) * chunk + if tail == 0 { chunk } else { u64::from(tail) };
            let geometry = Geometry::new(bytes, &Tuning::default()).expect("a geometry");
            let zeroes = Zeroes::of(&geometry);
            let chunks: Vec<Chunk> = kinds
                .iter()
                .enumerate()
                .map(|(i, zero)| if *zero { Chunk::Zero } else { Chunk::Stored(BlobId::of(&i.to_le_bytes())) })
                .collect();
            let (content, used) = zeroes.encode(&chunks, bytes);
            prop_assert_eq!(zeroes.decode(&content[..content.len() - 1], bytes), None);
            prop_assert_eq!(used.is_empty(), !kinds.contains(&true));
            prop_assert_eq!(zeroes.decode(&content, bytes), Some(chunks));
        }
    }
}
