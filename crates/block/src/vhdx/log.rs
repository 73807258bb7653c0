//! The log of a VHDX file: what was to be written to tables when its writer stopped.
//!
//! A file whose log is not empty may only be read as if that had been written. It is not written here: the log becomes a
//! list of patches, which [`Replayed`](super::replayed::Replayed) lays over the file. The format's own procedure is
//! followed: an entry counts if all its sums and numbers fit; entries that follow each other form a sequence from the one
//! that the last names as its tail; of several sequences the newest is the active one. All work is bounded by the length of the log.

use super::{
    header::{Header, MIB, Region},
    replayed::{Patch, Patches},
};
use crate::{BlockError, BlockSource, Guid, crc::CASTAGNOLI, fields::Fields, mapped::DISK_BYTES_MAX};

pub(super) const SECTOR: u64 = 4096;
/// Hyper-V makes logs of 1 MiB.
const LOG_BYTES_MAX: u64 = 64 * MIB;
/// So often the log's length may be read to find out which entries are whole. Those of one writer hardly overlap.
const READ_FACTOR: u64 = 4;
const ENTRY_HEADER: usize = 64;
const DESCRIPTOR: usize = 32;

/// A whole entry.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// In sectors of the log, as all places here.
    at: u64,
    sectors: u64,
    descriptors: u64,
    tail: u64,
    sequence: u64,
    /// The file was at least as long when it was written.
    flushed_bytes: u64,
    /// And must be at least as long once it was carried out.
    last_bytes: u64,
}

impl Entry {
    fn descriptor_sectors(&self) -> u64 {
        (ENTRY_HEADER as u64 + self.descriptors * DESCRIPTOR as u64).div_ceil(SECTOR)
    }
}

struct Log<'a> {
    file: &'a dyn BlockSource,
    guid: Guid,
    offset: u64,
    sectors: u64,
    /// Sectors that may still be read to check entries.
    budget: u64,
}

/// Where the log is, once it was checked; none if it is empty.
pub(super) fn region(header: &Header, file: &dyn BlockSource) -> Result<Option<Region>, BlockError> {
    if header.log_guid == Guid::ZERO {
        return Ok(None);
    }
    if header.log_version != 0 {
        let what = format!("has a log of version {}, which is not known here", header.log_version);
        return Err(BlockError::unsupported(file.name(), what));
    }
    let (offset, length) = (header.log_offset, header.log_length);
    let aligned = offset >= MIB && offset.is_multiple_of(MIB) && length > 0 && length.is_multiple_of(MIB);
    if !aligned || offset.checked_add(length).is_none_or(|end| end > file.size_bytes()) {
        let what = format!("a log of {length} bytes at byte {offset}");
        return Err(BlockError::damaged(file.name(), offset, what));
    }
    if length > LOG_BYTES_MAX {
        let what = format!("has a log of {length} bytes, more than the {LOG_BYTES_MAX} that are read here");
        return Err(BlockError::unsupported(file.name(), what));
    }
    Ok(Some(Region { offset, length }))
}

/// What the active sequence of the log at `region` writes.
pub(super) fn patches(
    file: &dyn BlockSource,
    header: &Header,
    region: Region,
) -> Result<Patches, BlockError> {
    let sectors = region.length / SECTOR;
    let mut log =
        Log { file, guid: header.log_guid, offset: region.offset, sectors, budget: sectors * READ_FACTOR };
    let entries = log.entries()?;
    let Some(active) = active(&entries) else {
        return Err(log.damaged("a log that is not empty and has no whole sequence of entries"));
    };
    let head = active[active.len() - 1];
    if head.flushed_bytes > file.size_bytes() {
        return Err(log.damaged(format!(
            "its log knows it as {} bytes long, and it has {}: it was cut off",
            head.flushed_bytes,
            file.size_bytes()
        )));
    }
    // A file holds a disk and its tables.
    if head.last_bytes > 2 * DISK_BYTES_MAX {
        return Err(log.damaged(format!("a log that makes it {} bytes long", head.last_bytes)));
    }
    let mut patches = Patches::new(head.last_bytes.max(file.size_bytes()));
    for entry in active {
        log.apply(entry, &mut patches)?;
    }
    Ok(patches)
}

/// The newest sequence that is whole, oldest entry first.
fn active(entries: &[Option<Entry>]) -> Option<Vec<Entry>> {
    let at = |place: u64| entries.get((place % entries.len() as u64) as usize).copied().flatten();
    let mut heads: Vec<Entry> = entries.iter().flatten().copied().collect();
    heads.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
    heads.into_iter().find_map(|head| {
        // A sequence goes on as far as entries follow each other.
        if at(head.at + head.sectors).is_some_and(|next| head.sequence.checked_add(1) == Some(next.sequence))
        {
            return None;
        }
        let mut found = vec![at(head.tail)?];
        let mut sectors = found[0].sectors;
        loop {
            let last = found[found.len() - 1];
            if last.at == head.at {
                return Some(found);
            }
            let next = at(last.at + last.sectors)?;
            sectors += next.sectors;
            if last.sequence.checked_add(1) != Some(next.sequence) || sectors > entries.len() as u64 {
                return None;
            }
            found.push(next);
        }
    })
}

impl Log<'_> {
    fn damaged(&self, what: impl Into<String>) -> BlockError {
        BlockError::damaged(self.file.name(), self.offset, what)
    }

    /// Where in the file a sector of the log is; behind the last comes the first.
    fn place(&self, sector: u64) -> u64 {
        self.offset + sector % self.sectors * SECTOR
    }

    fn sector(&self, sector: u64) -> Result<[u8; SECTOR as usize], BlockError> {
        let mut bytes = [0; SECTOR as usize];
        self.file.read_at(&mut bytes, self.place(sector))?;
        Ok(bytes)
    }

    /// The whole entries, by the sector that they begin at.
    fn entries(&mut self) -> Result<Vec<Option<Entry>>, BlockError> {
        let mut found = Vec::new();
        for at in 0..self.sectors {
            let mut bytes = [0; ENTRY_HEADER];
            self.file.read_at(&mut bytes, self.place(at))?;
            found.push(match self.plausible(at, Fields(&bytes)) {
                Some(entry) if self.is_whole(entry, Fields(&bytes).le32(4))? => Some(entry),
                _ => None,
            });
        }
        Ok(found)
    }

    fn plausible(&self, at: u64, fields: Fields<'_>) -> Option<Entry> {
        let (length, tail) = (u64::from(fields.le32(8)), u64::from(fields.le32(12)));
        let entry = Entry {
            at,
            sectors: length / SECTOR,
            descriptors: u64::from(fields.le32(24)),
            tail: tail / SECTOR,
            sequence: fields.le64(16),
            flushed_bytes: fields.le64(48),
            last_bytes: fields.le64(56),
        };
        let fits = &fields.array(0) == b"loge"
            && fields.guid(32) == self.guid
            && entry.sequence > 0
            && length.is_multiple_of(SECTOR)
            && tail.is_multiple_of(SECTOR)
            && (1..=self.sectors).contains(&entry.sectors)
            && entry.tail < self.sectors
            && entry.descriptor_sectors() <= entry.sectors;
        fits.then_some(entry)
    }

    /// Whether its sum fits, and each descriptor and each sector of data is of this entry.
    fn is_whole(&mut self, entry: Entry, sum: u32) -> Result<bool, BlockError> {
        let Some(budget) = self.budget.checked_sub(entry.sectors) else {
            return Err(self.damaged("a log of entries that lie on each other"));
        };
        self.budget = budget;
        let (mut found, mut fits, mut data) = (0, true, 0);
        for number in 0..entry.sectors {
            let mut bytes = self.sector(entry.at + number)?;
            if number == 0 {
                bytes[4..8].fill(0);
            }
            found = CASTAGNOLI.update(found, &bytes);
            if number < entry.descriptor_sectors() {
                for descriptor in descriptors(entry, number, &bytes) {
                    fits &= descriptor.le64(24) == entry.sequence;
                    match &descriptor.array(0) {
                        b"desc" => data += 1,
                        b"zero" => {}
                        _ => fits = false,
                    }
                }
            } else {
                let fields = Fields(&bytes);
                let sequence = u64::from(fields.le32(4)) << 32 | u64::from(fields.le32(4092));
                fits &= &fields.array(0) == b"data" && sequence == entry.sequence;
            }
        }
        Ok(found == sum && fits && entry.descriptor_sectors() + data == entry.sectors)
    }

    fn apply(&self, entry: Entry, patches: &mut Patches) -> Result<(), BlockError> {
        let mut data = entry.at + entry.descriptor_sectors();
        for number in 0..entry.descriptor_sectors() {
            let bytes = self.sector(entry.at + number)?;
            for fields in descriptors(entry, number, &bytes) {
                let offset = fields.le64(16);
                let (length, patch) = match &fields.array(0) {
                    b"desc" => {
                        let page = Patch::Page {
                            sector: self.place(data),
                            leading: fields.array(8),
                            trailing: fields.array(4),
                        };
                        data += 1;
                        (SECTOR, page)
                    }
                    _ => (fields.le64(8), Patch::Zero),
                };
                let end = offset.checked_add(length).filter(|end| *end <= patches.size_bytes());
                let Some(end) = end.filter(|_| (offset | length).is_multiple_of(SECTOR)) else {
                    return Err(self.damaged(format!("a log that writes {length} bytes at byte {offset}")));
                };
                if !patches.put(offset..end, patch) {
                    return Err(self.damaged("a log that writes to too many places"));
                }
            }
        }
        Ok(())
    }
}

/// The descriptors in the sector `number` of the entry.
fn descriptors(entry: Entry, number: u64, sector: &[u8]) -> impl Iterator<Item = Fields<'_>> {
    let first = if number == 0 { ENTRY_HEADER } else { 0 };
    let before = (number * SECTOR).saturating_sub(ENTRY_HEADER as u64) / DESCRIPTOR as u64;
    let left = entry.descriptors.saturating_sub(before) as usize;
    sector[first..].chunks_exact(DESCRIPTOR).take(left).map(Fields)
}
