//! One VMDK file with tables: where its grains are, and grains that are packed.

use std::{ops::Range, sync::Arc};

use crate::{
    BlockError, BlockSource, Extent,
    cache::Cache,
    check_range,
    error::Fault::{self, Damaged, Unsupported},
    fields::Fields,
    mapped::{DISK_BYTES_MAX, Place, joined},
    pages::{Look, Pages},
};

const SECTOR: u64 = 512;
pub(super) const HEADER_BYTES: usize = 512;
pub(super) const HOSTED: &[u8; 4] = b"KDMV";
pub(super) const ESX: &[u8; 4] = b"COWD";

const FLAG_ZERO_GRAINS: u32 = 1 << 2;
const FLAG_PACKED: u32 = 1 << 16;
const FLAG_MARKERS: u32 = 1 << 17;
/// The directory is told by a second header, at the end of the file.
const AT_END: u64 = u64::MAX;
/// A grain of a whole table's memory; programs write 64 KiB.
const GRAIN_SECTORS_MAX: u64 = 4096;
const TABLE_ENTRIES_MAX: u64 = 4096;
/// 32 MiB.
const TABLES_MAX: u64 = 8 << 20;
/// Before a packed grain: its place on the disk, and its length.
const MARKER_BYTES: u64 = 12;

/// What a reader needs of a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SparseHeader {
    pub size_bytes: u64,
    pub grain_bytes: u64,
    /// Grains that one table tells of.
    pub table_entries: u64,
    /// Where the table of tables is.
    pub directory: u64,
    /// Where the descriptor is, and its length; 0 if it is elsewhere.
    pub descriptor: u64,
    pub descriptor_bytes: u64,
    pub has_zero_grains: bool,
    pub is_packed: bool,
}

impl SparseHeader {
    /// None if the directory is told at the end of the file.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, Fault> {
        let fields = Fields(bytes);
        let header = match &fields.array(0) {
            HOSTED => match Self::hosted(fields)? {
                Some(header) => header,
                None => return Ok(None),
            },
            ESX => Self::esx(fields)?,
            _ => return Err(Damaged(0, "it is no VMDK image with tables".into())),
        };
        let grain = header.grain_bytes / SECTOR;
        if !grain.is_power_of_two() || grain > GRAIN_SECTORS_MAX {
            return Err(Damaged(20, format!("grains of {grain} sectors")));
        }
        if !(1..=TABLE_ENTRIES_MAX).contains(&header.table_entries) {
            return Err(Damaged(44, format!("tables of {} entries", header.table_entries)));
        }
        if header.size_bytes > DISK_BYTES_MAX {
            return Err(Damaged(12, format!("a disk of {} bytes", header.size_bytes)));
        }
        if header.tables() > TABLES_MAX {
            return Err(Damaged(12, format!("{} tables are too many", header.tables())));
        }
        Ok(Some(header))
    }

    fn hosted(fields: Fields<'_>) -> Result<Option<Self>, Fault> {
        let (version, flags) = (fields.le32(4), fields.le32(8));
        if !(1..=3).contains(&version) {
            return Err(Unsupported(format!("is a VMDK image of version {version}; known are 1 to 3")));
        }
        let method = fields.le16(77);
        let is_packed = flags & FLAG_PACKED != 0;
        if is_packed && (method != 1 || flags & FLAG_MARKERS == 0) {
            return Err(Unsupported(format!("is compressed in a way that is not known here ({method})")));
        }
        if fields.le64(56) == AT_END {
            return Ok(None);
        }
        Ok(Some(Self {
            size_bytes: bytes(fields.le64(12)),
            grain_bytes: bytes(fields.le64(20)),
            table_entries: u64::from(fields.le32(44)),
            directory: bytes(fields.le64(56)),
            descriptor: bytes(fields.le64(28)),
            descriptor_bytes: bytes(fields.le64(36)),
            has_zero_grains: flags & FLAG_ZERO_GRAINS != 0,
            is_packed,
        }))
    }

    fn esx(fields: Fields<'_>) -> Result<Self, Fault> {
        if fields.le32(4) != 1 {
            let version = fields.le32(4);
            return Err(Unsupported(format!("is a VMFS sparse image of version {version}; known is 1")));
        }
        Ok(Self {
            size_bytes: bytes(u64::from(fields.le32(12))),
            grain_bytes: bytes(u64::from(fields.le32(16))),
            table_entries: 4096,
            directory: bytes(u64::from(fields.le32(20))),
            descriptor: 0,
            descriptor_bytes: 0,
            has_zero_grains: false,
            is_packed: false,
        })
    }

    fn table_covers(&self) -> u64 {
        self.table_entries * self.grain_bytes
    }

    fn tables(&self) -> u64 {
        self.size_bytes.div_ceil(self.table_covers())
    }
}

/// Of so many sectors. What is too many for any number is refused by its size later.
fn bytes(sectors: u64) -> u64 {
    sectors.saturating_mul(SECTOR)
}

/// A file with its tables.
pub(super) struct Sparse {
    header: SparseHeader,
    pages: Arc<Pages>,
    /// What packed grains are read through.
    packed: Option<Packed>,
}

/// Reads the header that counts: that at the end, if the one in front says so.
pub(super) fn read_header(file: &dyn BlockSource) -> Result<SparseHeader, BlockError> {
    let mut begin = 0;
    // Before the end there is one sector more, which says that it is the end.
    let at_end = file.size_bytes().saturating_sub(2 * HEADER_BYTES as u64);
    loop {
        let mut bytes = [0; HEADER_BYTES];
        file.read_at(&mut bytes, begin)?;
        match SparseHeader::parse(&bytes).map_err(|fault| fault.of(file.name(), begin))? {
            Some(header) => return Ok(header),
            None if begin == 0 && at_end > 0 => begin = at_end,
            None => {
                return Err(BlockError::damaged(file.name(), begin, "it does not say where its tables are"));
            }
        }
    }
}

impl Sparse {
    /// Caches may take `budget_bytes` each.
    pub(super) fn new(
        file: Arc<dyn BlockSource>,
        header: SparseHeader,
        budget_bytes: usize,
    ) -> Result<Self, BlockError> {
        check_tables(&*file, &header)?;
        let pages = Arc::new(Pages::new(file, budget_bytes));
        let packed = header.is_packed.then(|| Packed {
            header,
            pages: Arc::clone(&pages),
            unpacked: Cache::new(budget_bytes, header.grain_bytes as usize),
        });
        Ok(Self { header, pages, packed })
    }

    pub(super) fn name(&self) -> &str {
        self.pages.source().name()
    }

    /// What [`Place::At`] means.
    pub(super) fn data(&self) -> &dyn BlockSource {
        match &self.packed {
            Some(packed) => packed,
            None => &**self.pages.source(),
        }
    }

    /// What is at byte `at` of this file's part of the disk, and for how many bytes.
    pub(super) fn stretch(&self, at: u64, end: u64) -> Result<(Place, u64), BlockError> {
        let mut look = self.pages.look();
        joined(at, end, |at| self.part(&mut look, at, end))
    }

    /// As far as one grain or one absent table tells.
    fn part(&self, look: &mut Look<'_>, at: u64, end: u64) -> Result<(Place, u64), BlockError> {
        let (covers, grain) = (self.header.table_covers(), self.header.grain_bytes);
        let (inside, length) = (at % grain, (grain - at % grain).min(end - at));
        let Some(place) = grain_place(look, &self.header, at)? else {
            return Ok((Place::Below, (covers - at % covers).min(end - at)));
        };
        match place {
            0 => Ok((Place::Below, length)),
            SECTOR if self.header.has_zero_grains => Ok((Place::Zero, length)),
            _ if self.packed.is_some() => Ok((Place::At(at), length)),
            place if place + inside + length <= self.pages.source().size_bytes() => {
                Ok((Place::At(place + inside), length))
            }
            place => {
                let what = "a grain that is not inside the file";
                Err(BlockError::damaged(self.name(), place, what))
            }
        }
    }
}

/// The place that the tables state for the grain at byte `at`; none if its table is not there.
fn grain_place(look: &mut Look<'_>, header: &SparseHeader, at: u64) -> Result<Option<u64>, BlockError> {
    let table = u32::from_le_bytes(look.bytes(header.directory + at / header.table_covers() * 4)?);
    if table == 0 {
        return Ok(None);
    }
    let number = at / header.grain_bytes % header.table_entries;
    let entry = u32::from_le_bytes(look.bytes(u64::from(table) * SECTOR + number * 4)?);
    Ok(Some(u64::from(entry) * SECTOR))
}

/// The directory lies in the file, and no two tables at one place: then what the tables say is bounded by the file.
fn check_tables(file: &dyn BlockSource, header: &SparseHeader) -> Result<(), BlockError> {
    let damaged = |what: String| BlockError::damaged(file.name(), header.directory, what);
    let length = header.tables() * 4;
    if header.directory.checked_add(length).is_none_or(|end| end > file.size_bytes()) {
        return Err(damaged(format!("a directory of {length} bytes that is not inside the file")));
    }
    let mut directory = vec![0; length as usize];
    file.read_at(&mut directory, header.directory)?;
    let entries = directory.as_chunks::<4>().0.iter().map(|entry| u32::from_le_bytes(*entry));
    let mut tables: Vec<u32> = entries.filter(|table| *table != 0).collect();
    tables.sort_unstable();
    match tables.windows(2).find(|two| two[0] == two[1]) {
        Some(two) => Err(damaged(format!("two tables at the same place, sector {}", two[0]))),
        None => Ok(()),
    }
}

/// The grains of a file that are packed, each at its own place on the disk.
struct Packed {
    header: SparseHeader,
    pages: Arc<Pages>,
    unpacked: Cache<Vec<u8>>,
}

impl Packed {
    fn grain(&self, at: u64) -> Result<Arc<Vec<u8>>, BlockError> {
        let number = at / self.header.grain_bytes;
        if let Some(grain) = self.unpacked.get(number) {
            return Ok(grain);
        }
        let begin = number * self.header.grain_bytes;
        let place = grain_place(&mut self.pages.look(), &self.header, begin)?.unwrap_or_default();
        let damaged = |what: String| BlockError::damaged(self.name(), place, what);
        let file = self.pages.source();
        let mut marker = [0; MARKER_BYTES as usize];
        file.read_at(&mut marker, place)?;
        let (sector, length) = (Fields(&marker).le64(0), u64::from(Fields(&marker).le32(8)));
        if sector != begin / SECTOR {
            return Err(damaged(format!("the grain of sector {sector} where that of {} is", begin / SECTOR)));
        }
        let longest = 2 * self.header.grain_bytes + SECTOR;
        if length > longest || place + MARKER_BYTES + length > file.size_bytes() {
            return Err(damaged(format!("a packed grain of {length} bytes")));
        }
        let mut packed = vec![0; length as usize];
        file.read_at(&mut packed, place + MARKER_BYTES)?;
        // The last one may end with the disk.
        let needed = self.header.grain_bytes.min(self.header.size_bytes - begin);
        let grain = inflate(&packed, self.header.grain_bytes as usize, needed as usize)
            .map_err(|what| damaged(format!("a packed grain cannot be unpacked: {what}")))?;
        let grain = Arc::new(grain);
        self.unpacked.insert(number, Arc::clone(&grain));
        Ok(grain)
    }
}

pub(super) fn inflate(packed: &[u8], grain_bytes: usize, needed: usize) -> Result<Vec<u8>, String> {
    let mut grain = vec![0; grain_bytes];
    let mut stream = flate2::Decompress::new(true);
    stream
        .decompress(packed, &mut grain, flate2::FlushDecompress::Finish)
        .map_err(|error| error.to_string())?;
    if stream.total_out() < needed as u64 { Err("it is too short".into()) } else { Ok(grain) }
}

impl BlockSource for Packed {
    fn size_bytes(&self) -> u64 {
        self.header.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        check_range(self.name(), self.size_bytes(), offset, buf.len() as u64)?;
        let grain_bytes = self.header.grain_bytes;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let grain = self.grain(at)?;
            let begin = (at % grain_bytes) as usize;
            let length = (grain.len() - begin).min(rest.len());
            let (piece, others) = rest.split_at_mut(length);
            piece.copy_from_slice(&grain[begin..begin + length]);
            at += length as u64;
            rest = others;
        }
        Ok(())
    }

    /// Only asked for grains that are there.
    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let length = range.end.saturating_sub(range.start);
        check_range(self.name(), self.size_bytes(), range.start, length)?;
        Ok(if length == 0 { Vec::new() } else { vec![Extent::data(range.start, length)] })
    }

    fn name(&self) -> &str {
        self.pages.source().name()
    }
}
