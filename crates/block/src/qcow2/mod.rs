//! Images in QEMU's format qcow2, versions 2 and 3, read only.
//!
//! What a disk holds is told from its tables alone: [`extents`](crate::BlockSource::extents) never reads data, and
//! holes and zero clusters are never read at all. Memory is bounded: one table of 32 MiB at most, and two small caches.
//! Internal snapshots and persistent bitmaps are ignored: they are not what a machine sees. An image that was not
//! closed is read as it is, for the state of its reference counts does not matter to a reader; [`Qcow2::is_dirty`] and
//! [`Qcow2::is_corrupt`] say so. This must never write, never believe a place or a size that an image states, and never
//! follow a name in an image unless it was told to ([`Links`]).
//!
//! Why not the crate `imago`, which QEMU's people wrote: it is async through and through, so that each read of 4 KiB
//! would need a runtime around it where worker threads only need a `pread`; it opens files itself, so that an image
//! inside an image or an archive is out of reach; and its map tells one mapping at a time.

mod chain;
mod entry;
mod header;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod sample;

use std::{borrow::Cow, io::Read, ops::Range, sync::Arc};

pub use chain::Qcow2Options;
pub use entry::{Entry, Place, l2_offset};
pub use header::{Compression, HEADER_BYTES_MAX, Header, HeaderError};

pub use crate::files::{CHAIN_MAX, Links};
use crate::{
    BlockError, BlockSource, Extent, ExtentKind, ExtentList,
    cache::Cache,
    check_range,
    mapped::{push_other, read_padded},
};

/// Tables are read in pieces of this, so that one small read does not load 2 MiB.
const SLICE_BYTES_MAX: u64 = 64 << 10;
const SLICE_CACHE_BYTES: usize = 16 << 20;
const UNPACKED_CACHE_BYTES: usize = 16 << 20;
/// One call of `extents` looks at no more pieces of tables than this.
const STEPS_MAX: usize = 4096;
/// Zstandard's window: QEMU packs single clusters, of at most 2 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// An open image with all that is below it.
pub struct Qcow2 {
    name: String,
    header: Header,
    file: Arc<dyn BlockSource>,
    /// Where clusters are: the image itself, or a file of its own.
    data: Arc<dyn BlockSource>,
    below: Option<Arc<dyn BlockSource>>,
    /// Where L2 tables are; 0 is none.
    tables: Vec<u64>,
    slices: Cache<Vec<u64>>,
    unpacked: Cache<Vec<u8>>,
}

impl Qcow2 {
    /// An image in any source. `data` and `below` must be there exactly if the header says so; what they are is the
    /// caller's to find out, from [`Header::parse`]. For images that are files, see [`Qcow2::open`].
    pub fn over(
        file: Arc<dyn BlockSource>,
        data: Option<Arc<dyn BlockSource>>,
        below: Option<Arc<dyn BlockSource>>,
    ) -> Result<Self, BlockError> {
        let name = file.name().to_owned();
        let header = read_header(&*file)?;
        if header.external_data != data.is_some() {
            return Err(BlockError::unsupported(
                &name,
                "needs its external data file, or has none and got one",
            ));
        }
        if let (Some(backing), None) = (&header.backing_name, &below) {
            return Err(BlockError::unsupported(&name, format!("needs its backing file {backing:?}")));
        }
        let tables = read_tables(&*file, &header)?;
        let slice = header.cluster_bytes().min(SLICE_BYTES_MAX) as usize;
        Ok(Self {
            slices: Cache::new(SLICE_CACHE_BYTES, slice),
            unpacked: Cache::new(UNPACKED_CACHE_BYTES, header.cluster_bytes() as usize),
            data: data.unwrap_or_else(|| Arc::clone(&file)),
            name,
            header,
            file,
            below,
            tables,
        })
    }

    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// It was not closed by who wrote it.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.header.dirty
    }

    /// QEMU marked it as damaged: what is read may be wrong.
    #[must_use]
    pub fn is_corrupt(&self) -> bool {
        self.header.corrupt
    }

    fn damaged(&self, offset: u64, what: impl Into<String>) -> BlockError {
        BlockError::damaged(&self.name, offset, what)
    }

    /// What is at byte `at` of the disk, and for how many bytes: as far as one piece of a table tells.
    fn stretch(&self, at: u64, end: u64) -> Result<(Place, u64), BlockError> {
        let covers = self.header.l2_covers();
        let table = self.tables.get((at / covers) as usize).copied().unwrap_or_default();
        if table == 0 {
            return Ok((Place::Below, (covers - at % covers).min(end - at)));
        }
        let cluster = self.header.cluster_bytes();
        let index = at % covers / cluster;
        let per_slice = cluster.min(SLICE_BYTES_MAX) / self.header.l2_entry_bytes();
        let slice_offset = table + index / per_slice * per_slice * self.header.l2_entry_bytes();
        let slice = self.slice(slice_offset)?;
        let words = (self.header.l2_entry_bytes() / 8) as usize;
        let (mut found, mut length) = (None, 0);
        for entry in slice.chunks_exact(words).skip((index % per_slice) as usize) {
            let inside = (at + length) % cluster;
            let entry = Entry { entry: entry[0], bitmap: entry.get(1).copied().unwrap_or_default() };
            let mut from = inside;
            // An entry of subclusters holds several stretches.
            while from < cluster {
                let (place, to) =
                    entry.place(&self.header, from).map_err(|what| self.damaged(slice_offset, what))?;
                match found {
                    None => found = Some(place),
                    Some(first) if goes_on(first, place, length) => {}
                    Some(first) => return Ok((first, length.min(end - at))),
                }
                length += to - from;
                from = to;
            }
            // A packed cluster is a stretch of its own, and is told from its begin.
            if length >= end - at || matches!(found, Some(Place::Packed { .. })) {
                break;
            }
        }
        match found {
            Some(place) => Ok((place, length.min(end - at))),
            None => Err(self.damaged(slice_offset, "an L2 table that ends too early")),
        }
    }

    fn slice(&self, offset: u64) -> Result<Arc<Vec<u64>>, BlockError> {
        if let Some(slice) = self.slices.get(offset) {
            return Ok(slice);
        }
        let mut bytes = vec![0; self.header.cluster_bytes().min(SLICE_BYTES_MAX) as usize];
        self.file.read_at(&mut bytes, offset)?;
        let slice = Arc::new(words(&bytes));
        self.slices.insert(offset, Arc::clone(&slice));
        Ok(slice)
    }

    fn read_data(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        self.check_place(offset, buf.len() as u64)?;
        read_padded(&*self.data, buf, offset)
    }

    /// The last cluster may be cut by the end of the file, for QEMU writes no more of it than it must. One that begins
    /// behind the end is lost, and is never taken for zeroes.
    fn check_place(&self, offset: u64, length: u64) -> Result<(), BlockError> {
        let cluster = self.header.cluster_bytes();
        match offset.checked_add(length.saturating_sub(1)) {
            Some(last) if last / cluster * cluster < self.data.size_bytes() => Ok(()),
            _ => Err(self.damaged(offset, "a cluster lies behind the end of the file")),
        }
    }

    /// The whole cluster that is packed there.
    fn unpack(&self, offset: u64, length: u64) -> Result<Arc<Vec<u8>>, BlockError> {
        if let Some(cluster) = self.unpacked.get(offset) {
            return Ok(cluster);
        }
        // The last one may end with the file instead of a sector.
        let length = length.min(self.file.size_bytes().saturating_sub(offset));
        if length == 0 {
            return Err(self.damaged(offset, "a compressed cluster lies behind the end of the file"));
        }
        let mut packed = vec![0; length as usize];
        self.file.read_at(&mut packed, offset)?;
        let mut cluster = vec![0; self.header.cluster_bytes() as usize];
        inflate(self.header.compression, &packed, &mut cluster).map_err(|what| {
            self.damaged(offset, format!("a compressed cluster cannot be unpacked: {what}"))
        })?;
        let cluster = Arc::new(cluster);
        self.unpacked.insert(offset, Arc::clone(&cluster));
        Ok(cluster)
    }

    fn read_below(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        match &self.below {
            Some(below) => read_padded(below, buf, offset),
            None => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}

/// Whether `next` goes on with what begins at `first`, `length` bytes further on.
fn goes_on(first: Place, next: Place, length: u64) -> bool {
    match (first, next) {
        (Place::At(first), Place::At(next)) => first.checked_add(length) == Some(next),
        (Place::Below, Place::Below) | (Place::Zero, Place::Zero) => true,
        _ => false,
    }
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_be_bytes(*word)).collect()
}

fn read_header(file: &dyn BlockSource) -> Result<Header, BlockError> {
    let mut bytes = vec![0; HEADER_BYTES_MAX.min(usize::try_from(file.size_bytes()).unwrap_or(usize::MAX))];
    file.read_at(&mut bytes, 0)?;
    Header::parse(&bytes).map_err(|error| match error {
        HeaderError::Damaged(offset, what) => BlockError::damaged(file.name(), offset, what),
        HeaderError::Unsupported(what) => BlockError::unsupported(file.name(), what),
    })
}

/// The L1 table. No two tables may lie at one place: then what the tables say is bounded by the size of the file.
fn read_tables(file: &dyn BlockSource, header: &Header) -> Result<Vec<u64>, BlockError> {
    let inside =
        |offset: u64, length: u64| offset.checked_add(length).is_some_and(|end| end <= file.size_bytes());
    if !inside(header.l1_offset, header.l1_entries * 8) {
        return Err(BlockError::damaged(file.name(), 40, "the L1 table ends behind the end of the file"));
    }
    let mut bytes = vec![0; header.l1_entries as usize * 8];
    file.read_at(&mut bytes, header.l1_offset)?;
    let mut tables = words(&bytes);
    for (number, table) in tables.iter_mut().enumerate() {
        let place = header.l1_offset + number as u64 * 8;
        let offset =
            l2_offset(*table, header).map_err(|what| BlockError::damaged(file.name(), place, what))?;
        if let Some(offset) = offset.filter(|offset| !inside(*offset, header.cluster_bytes())) {
            let what = format!("an L2 table at byte {offset} ends behind the end of the file");
            return Err(BlockError::damaged(file.name(), place, what));
        }
        *table = offset.unwrap_or_default();
    }
    let mut sorted: Vec<u64> = tables.iter().copied().filter(|table| *table != 0).collect();
    sorted.sort_unstable();
    match sorted.windows(2).find(|two| two[0] == two[1]) {
        Some(two) => Err(BlockError::damaged(file.name(), two[0], "two L2 tables lie at the same place")),
        None => Ok(tables),
    }
}

/// Unpacks exactly one cluster. Pure, and bounded by it.
pub fn inflate(compression: Compression, packed: &[u8], cluster: &mut [u8]) -> Result<(), Cow<'static, str>> {
    match compression {
        Compression::Zlib => {
            let mut stream = flate2::Decompress::new(false);
            stream
                .decompress(packed, cluster, flate2::FlushDecompress::Finish)
                .map_err(|error| Cow::from(error.to_string()))?;
            if stream.total_out() == cluster.len() as u64 { Ok(()) } else { Err("it is too short".into()) }
        }
        Compression::Zstd => {
            let mut stream =
                zstd::Decoder::with_buffer(packed).map_err(|error| Cow::from(error.to_string()))?;
            stream.window_log_max(ZSTD_WINDOW_LOG_MAX).map_err(|error| Cow::from(error.to_string()))?;
            stream.read_exact(cluster).map_err(|error| error.to_string().into())
        }
    }
}

impl BlockSource for Qcow2 {
    fn size_bytes(&self) -> u64 {
        self.header.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        check_range(&self.name, self.header.size_bytes, offset, buf.len() as u64)?;
        let end = offset + buf.len() as u64;
        let (mut at, mut rest) = (offset, buf);
        while at < end {
            let (place, length) = self.stretch(at, end)?;
            let (piece, others) = rest.split_at_mut(length as usize);
            match place {
                Place::Zero => piece.fill(0),
                Place::Below => self.read_below(piece, at)?,
                Place::At(place) => self.read_data(piece, place)?,
                Place::Packed { offset, length } => {
                    let begin = (at % self.header.cluster_bytes()) as usize;
                    let cluster = self.unpack(offset, length)?;
                    piece.copy_from_slice(&cluster[begin..begin + piece.len()]);
                }
            }
            at += length;
            rest = others;
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let length = range.end.saturating_sub(range.start);
        check_range(&self.name, self.header.size_bytes, range.start, length)?;
        let mut list = ExtentList::new(range.clone());
        for _ in 0..STEPS_MAX {
            if list.is_done() {
                break;
            }
            let at = list.position();
            let (place, length) = self.stretch(at, range.end)?;
            match (place, &self.below) {
                (Place::Zero, _) | (Place::Below, None) => {
                    list.push(length, ExtentKind::Zero);
                }
                (Place::Below, Some(below)) => push_other(&mut list, &**below, &(at..at + length))?,
                (Place::Packed { .. }, _) => {
                    list.push(length, ExtentKind::Data);
                }
                // A cluster that was allocated and never written is a hole in the file.
                (Place::At(place), _) => {
                    self.check_place(place, length)?;
                    push_other(&mut list, &*self.data, &(place..place + length))?;
                }
            }
        }
        Ok(list.finish())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests;
