//! GUID partition tables: a header and its entries behind the first sector, and both once more at the end of the disk.

use super::{Found, Partition, TypeId};
use crate::{
    BlockError, BlockSource, Guid,
    crc::ETHERNET,
    fields::{Fields, utf16},
};

const MAGIC: &[u8; 8] = b"EFI PART";
const HEADER_BYTES: usize = 92;
const ENTRY_BYTES: usize = 128;
/// Of all entries; the usual 128 take 16 KiB.
const ENTRIES_BYTES_MAX: u64 = 1 << 20;

/// A header with its entries, both whole.
struct Table {
    entries: Vec<u8>,
    entry_bytes: usize,
}

/// The sizes of sectors that disks have.
pub(super) const SECTOR_SIZES: [u64; 2] = [512, 4096];

/// Reads the first table that is whole: in front, or at the end. Gives the size of the sectors that it counts in. None if
/// there is no table at all.
pub(super) fn read(
    source: &dyn BlockSource,
    sector_bytes: Option<u64>,
    found: &mut Found,
) -> Result<Option<u64>, BlockError> {
    let mut wrong = Vec::new();
    let sizes = SECTOR_SIZES.into_iter().filter(|size| sector_bytes.is_none_or(|stated| stated == *size));
    // All that is in front first: what an older table left at the end counts for nothing where a newer one is whole.
    let places = sizes
        .clone()
        .map(|size| (size, 1))
        .chain(sizes.filter_map(|size| Some((size, (source.size_bytes() / size).checked_sub(1)?))));
    for (size, place) in places {
        match table(source, place, size) {
            Ok(Some(table)) => {
                if place != 1 {
                    found.problem("the table in front is damaged; its copy at the end was read".to_owned());
                }
                list(source, &table, size, found);
                return Ok(Some(size));
            }
            Ok(None) => {}
            Err(Wrong::Disk(error)) => return Err(error),
            Err(Wrong::Table(what)) => wrong.push((place * size, what)),
        }
    }
    match wrong.into_iter().next() {
        Some((offset, what)) => Err(BlockError::damaged(source.name(), offset, what)),
        None => Ok(None),
    }
}

enum Wrong {
    Disk(BlockError),
    Table(String),
}

impl From<String> for Wrong {
    fn from(what: String) -> Self {
        Self::Table(what)
    }
}

/// None if no header is there.
fn table(source: &dyn BlockSource, place: u64, sector_bytes: u64) -> Result<Option<Table>, Wrong> {
    let begin = place * sector_bytes;
    if begin + sector_bytes > source.size_bytes() {
        return Ok(None);
    }
    let mut bytes = vec![0; sector_bytes as usize];
    source.read_at(&mut bytes, begin).map_err(Wrong::Disk)?;
    let fields = Fields(&bytes);
    if &fields.array(0) != MAGIC {
        return Ok(None);
    }
    let length = fields.le32(12) as usize;
    if !(HEADER_BYTES..=bytes.len()).contains(&length) {
        return Err(format!("a GPT header of {length} bytes").into());
    }
    if ETHERNET.without(&bytes[..length], 16) != fields.le32(16) {
        return Err("a GPT header whose checksum is wrong".to_owned().into());
    }
    if fields.le64(24) != place {
        return Err(format!("a GPT header that belongs to sector {}", fields.le64(24)).into());
    }
    let (first, count, entry_bytes) = (fields.le64(72), u64::from(fields.le32(80)), fields.le32(84) as usize);
    let length = count * entry_bytes as u64;
    if entry_bytes < ENTRY_BYTES || !entry_bytes.is_multiple_of(8) || length > ENTRIES_BYTES_MAX {
        return Err(format!("{count} GPT entries of {entry_bytes} bytes").into());
    }
    let begin = first.checked_mul(sector_bytes);
    let end = begin.and_then(|begin| begin.checked_add(length));
    let (Some(begin), Some(_)) = (begin, end.filter(|end| *end <= source.size_bytes())) else {
        return Err(format!("GPT entries at sector {first}, which is not inside the disk").into());
    };
    let mut entries = vec![0; length as usize];
    source.read_at(&mut entries, begin).map_err(Wrong::Disk)?;
    if ETHERNET.update(0, &entries) != fields.le32(88) {
        return Err("GPT entries whose checksum is wrong".to_owned().into());
    }
    Ok(Some(Table { entries, entry_bytes }))
}

fn list(source: &dyn BlockSource, table: &Table, sector_bytes: u64, found: &mut Found) {
    for (number, entry) in (1..).zip(table.entries.chunks_exact(table.entry_bytes)) {
        let fields = Fields(entry);
        let (id, first, last) = (fields.guid(0), fields.le64(32), fields.le64(40));
        if id == Guid::ZERO {
            continue;
        }
        let end = last.checked_add(1).and_then(|sectors| sectors.checked_mul(sector_bytes));
        let (Some(end), Some(begin)) = (end, first.checked_mul(sector_bytes)) else {
            found.problem(format!("partition {number} is not inside the disk"));
            continue;
        };
        let type_id = TypeId::Gpt(id);
        let name = utf16(fields.part(56, 72), u16::from_le_bytes).unwrap_or_default();
        let partition =
            Partition { number, kind: type_id.kind(), name, range: begin..end, type_id: Some(type_id) };
        found.add(source, partition);
    }
}
