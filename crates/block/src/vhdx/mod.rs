//! Images in Hyper-V's format VHDX, read only: fixed, dynamic, and differencing with their chain of parents.
//!
//! Written from [MS-VHDX]. A log that is not empty is carried out in memory ([`log`]), for without that the tables may be
//! half written; the file stays as it is. Memory is bounded by two small caches and the patches of a log, not by the
//! disk. A parent is taken only if it is the one that the child was made from, as it was then. This must never write,
//! never believe a place or a size that an image states, and never follow a name in an image unless it was told to.

mod header;
mod log;
mod metadata;
mod replayed;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod sample;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

pub use header::Header;
use header::{HEADER_BYTES, HEADERS, MAGIC, MIB, REGION_TABLE_BYTES, REGION_TABLES, Region};
use metadata::TABLE_BYTES;
pub use metadata::{Metadata, ParentLocator};
use replayed::Replayed;

use crate::{
    BlockError, BlockSource, Extent,
    error::Fault,
    files::{Family, ImageFiles, Links, LocalFiles},
    layers::{self, Layer as _},
    mapped::{self, Mapped, Place, read_padded},
    pages::{Look, Pages, TABLE_CACHE_BYTES},
};

const NOT_PRESENT: u64 = 0;
const UNDEFINED: u64 = 1;
const ZERO: u64 = 2;
const UNMAPPED: u64 = 3;
const PRESENT: u64 = 6;
const PARTLY_PRESENT: u64 = 7;

/// Whether these are the first bytes of a VHDX file, whatever is wrong with the rest.
#[must_use]
pub fn is_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

/// One file with its log carried out, before what is below it is known.
struct Layer {
    header: Header,
    metadata: Metadata,
    /// As it is once its log was carried out.
    file: Arc<dyn BlockSource>,
    table: Region,
}

/// An open image with all that is below it.
pub struct Vhdx {
    name: String,
    header: Header,
    metadata: Metadata,
    table: Region,
    pages: Pages,
    below: Option<Arc<dyn BlockSource>>,
}

impl Vhdx {
    /// An image that is a file of this host, for reading.
    pub fn open(path: &Path, links: Links) -> Result<Self, BlockError> {
        Self::open_in(&LocalFiles::default(), path, links)
    }

    /// An image with the parents that it names, wherever they are.
    pub fn open_in(files: &dyn ImageFiles, path: &Path, links: Links) -> Result<Self, BlockError> {
        Self::open_family(&mut Family::new(files, links), path)
    }

    pub(crate) fn open_family(family: &mut Family<'_>, path: &Path) -> Result<Self, BlockError> {
        layers::open::<Layer>(family, path)
    }

    /// An image in any source. `below` must be there exactly if it is a differencing disk; that it is the right one is
    /// the caller's to find out, by [`Vhdx::header`] and [`Vhdx::metadata`].
    pub fn over(file: Arc<dyn BlockSource>, below: Option<Arc<dyn BlockSource>>) -> Result<Self, BlockError> {
        Layer::of(file)?.over(below)
    }

    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// An entry of the block table: its state, and the place that it states.
    fn entry(&self, look: &mut Look<'_>, number: u64) -> Result<(u64, u64), BlockError> {
        let entry = u64::from_le_bytes(look.bytes(self.table.offset + 8 * number)?);
        Ok((entry & 7, entry >> 20 << 20))
    }

    /// What is at byte `at`, as far as one block tells.
    fn part(&self, look: &mut Look<'_>, at: u64, end: u64) -> Result<(Place, u64), BlockError> {
        let Metadata { block_bytes, .. } = self.metadata;
        let (block, inside) = (at / block_bytes, at % block_bytes);
        let mut length = (block_bytes - inside).min(end - at);
        let number = block + block / self.metadata.chunk_blocks();
        let (state, place) = self.entry(look, number)?;
        let wrong = |what: String| Err(BlockError::damaged(&self.name, self.table.offset + 8 * number, what));
        match state {
            NOT_PRESENT => return Ok((Place::Below, length)),
            UNDEFINED | ZERO | UNMAPPED => return Ok((Place::Zero, length)),
            PRESENT => {}
            PARTLY_PRESENT if self.below.is_some() => {
                let (here, run) = self.sectors(look, block, inside, length)?;
                if !here {
                    return Ok((Place::Below, run));
                }
                length = run;
            }
            state => return wrong(format!("a block in state {state}")),
        }
        match place.checked_add(inside + length) {
            Some(last) if place >= MIB && last <= self.pages.source().size_bytes() => {
                Ok((Place::At(place + inside), length))
            }
            _ => wrong(format!("a block at byte {place}, which is not inside the file")),
        }
    }

    /// Whether the sector at byte `inside` of the block is in this file, and for how many bytes that is so.
    fn sectors(
        &self,
        look: &mut Look<'_>,
        block: u64,
        inside: u64,
        length: u64,
    ) -> Result<(bool, u64), BlockError> {
        let Metadata { block_bytes, sector_bytes, .. } = self.metadata;
        let chunk = self.metadata.chunk_blocks();
        let number = (block / chunk + 1) * (chunk + 1) - 1;
        let (state, bitmap) = self.entry(look, number)?;
        if state != PRESENT || !(MIB..self.pages.source().size_bytes()).contains(&bitmap) {
            let what = "a block that is partly here, and no bitmap of its sectors";
            return Err(BlockError::damaged(&self.name, self.table.offset + 8 * number, what));
        }
        let first = (block % chunk * block_bytes + inside) / sector_bytes;
        let skipped = inside % sector_bytes;
        let limit = (skipped + length).div_ceil(sector_bytes);
        let (here, count) = look.bit_run(bitmap, first, limit, false)?;
        Ok((here, (count * sector_bytes - skipped).min(length)))
    }
}

impl Layer {
    fn of(file: Arc<dyn BlockSource>) -> Result<Self, BlockError> {
        let name = file.name().to_owned();
        let told = |fault: Fault| fault.of(&name, 0);
        let bytes = |file: &dyn BlockSource, offset, length| -> Result<Vec<u8>, BlockError> {
            let mut bytes = vec![0; length];
            read_padded(file, &mut bytes, offset)?;
            Ok(bytes)
        };
        if !is_magic(&bytes(&*file, 0, MAGIC.len())?) {
            return Err(BlockError::damaged(&name, 0, "it is no VHDX file"));
        }
        // The headers are never in the log.
        let first = bytes(&*file, HEADERS[0], HEADER_BYTES)?;
        let second = bytes(&*file, HEADERS[1], HEADER_BYTES)?;
        let header = header::current([&first, &second]).map_err(told)?;
        let log = log::region(&header, &*file)?;
        let file: Arc<dyn BlockSource> = match log {
            None => file,
            Some(region) => {
                let patches = log::patches(&*file, &header, region)?;
                Arc::new(Replayed::new(file, patches))
            }
        };
        let first = bytes(&*file, REGION_TABLES[0], REGION_TABLE_BYTES)?;
        let second = bytes(&*file, REGION_TABLES[1], REGION_TABLE_BYTES)?;
        let [table, region] = header::regions([&first, &second]).map_err(told)?;
        for part in [table, region] {
            let outside = part.offset + part.length > file.size_bytes();
            if outside || log.is_some_and(|log| log.overlaps(part)) {
                let what = format!("a region of {} bytes that is not inside the file", part.length);
                return Err(BlockError::damaged(&name, part.offset, what));
            }
        }
        let metadata = read_metadata(&*file, region)?;
        if metadata.table_entries() * 8 > table.length {
            let what = format!("{} bytes of table are too few for the disk", table.length);
            return Err(BlockError::damaged(&name, table.offset, what));
        }
        Ok(Self { header, metadata, file, table })
    }
}

impl layers::Layer for Layer {
    type Image = Vhdx;

    fn read(_family: &mut Family<'_>, _path: &Path, file: Arc<dyn BlockSource>) -> Result<Self, BlockError> {
        Self::of(file)
    }

    fn name(&self) -> &str {
        self.file.name()
    }

    fn parent(&self, family: &Family<'_>, path: &Path) -> Option<Vec<PathBuf>> {
        let parent = self.metadata.parent.as_ref()?;
        Some(family.windows_places(path, parent.relative.as_slice(), &parent.whole))
    }

    fn is_made_over(&self, parent: &Self) -> bool {
        self.metadata.parent.as_ref().is_some_and(|it| it.linkage.contains(&parent.header.data_write))
    }

    fn over(self, below: Option<Arc<dyn BlockSource>>) -> Result<Vhdx, BlockError> {
        let name = self.file.name().to_owned();
        layers::check_below(&name, self.metadata.parent.is_some(), below.is_some())?;
        let Self { header, metadata, file, table } = self;
        Ok(Vhdx { name, header, metadata, table, pages: Pages::new(file, TABLE_CACHE_BYTES), below })
    }
}

fn read_metadata(file: &dyn BlockSource, region: Region) -> Result<Metadata, BlockError> {
    let told = |fault: Fault| fault.of(file.name(), region.offset);
    let mut table = vec![0; TABLE_BYTES.min(region.length as usize)];
    file.read_at(&mut table, region.offset)?;
    let mut found = Vec::new();
    for item in metadata::items(&table, region.length).map_err(told)? {
        let mut bytes = vec![0; item.length];
        file.read_at(&mut bytes, region.offset + item.offset)?;
        found.push((item.id, bytes));
    }
    let bytes = |id| found.iter().find(|(found, _)| *found == id).map(|(_, bytes)| bytes.clone());
    Metadata::parse(bytes).map_err(told)
}

impl Mapped for Vhdx {
    fn stretch(&self, at: u64, end: u64) -> Result<(Place, u64), BlockError> {
        let mut look = self.pages.look();
        mapped::joined(at, end, |at| self.part(&mut look, at, end))
    }

    fn data(&self, _at: u64) -> Result<&dyn BlockSource, BlockError> {
        Ok(&**self.pages.source())
    }

    fn below(&self) -> Option<&dyn BlockSource> {
        self.below.as_deref()
    }
}

impl BlockSource for Vhdx {
    fn size_bytes(&self) -> u64 {
        self.metadata.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        mapped::read(self, buf, offset)
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        mapped::extents(self, range)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests;
