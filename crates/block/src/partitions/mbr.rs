//! The table of four in a disk's first sector, and the chain of those in an extended partition.

use std::ops::Range;

use super::{Found, Partition, TypeId};
use crate::{BlockError, BlockSource, PartitionKind, fields::Fields};

pub(super) const SECTOR_BYTES: usize = 512;
const ENTRIES: usize = 446;
const ENTRY_BYTES: usize = 16;
/// What says that a GPT is there.
const PROTECTIVE: u8 = 0xee;
/// Linux reads no more either.
const LOGICAL_MAX: usize = 256;
/// The number of the first logical partition.
const LOGICAL_FIRST: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    status: u8,
    id: u8,
    first: u64,
    sectors: u64,
}

impl Entry {
    fn is_used(&self) -> bool {
        self.id != 0 && self.sectors != 0
    }

    fn is_extended(&self) -> bool {
        TypeId::Mbr(self.id).kind() == PartitionKind::Extended
    }

    /// In bytes from `base` on, in sectors.
    fn range(&self, base: u64, sector_bytes: u64) -> Range<u64> {
        let first = (base + self.first) * sector_bytes;
        first..first + self.sectors * sector_bytes
    }
}

/// The four entries; none without the signature of a boot sector.
pub(super) fn entries(sector: &[u8]) -> Option<[Entry; 4]> {
    let fields = Fields(sector);
    (fields.le16(510) == 0xaa55).then(|| {
        [0, 1, 2, 3].map(|number| {
            let at = ENTRIES + number * ENTRY_BYTES;
            let [status, id] = [fields.array::<1>(at)[0], fields.array::<1>(at + 4)[0]];
            Entry { status, id, first: fields.le32(at + 8).into(), sectors: fields.le32(at + 12).into() }
        })
    })
}

pub(super) fn is_protective(entries: &[Entry; 4]) -> bool {
    entries.iter().any(|entry| entry.id == PROTECTIVE)
}

/// Whether this sector is the table of a disk, and not the first sector of a volume, which ends with the same two bytes
/// and has code where the entries are.
pub(super) fn is_table(sector: &[u8], entries: &[Entry; 4], sectors: u64) -> bool {
    let is_inside = |entry: &Entry| (1..sectors).contains(&entry.first);
    let mut used = entries.iter().filter(|entry| entry.is_used()).peekable();
    let makes_sense = if used.peek().is_some() { used.any(is_inside) } else { !is_volume(sector) };
    makes_sense && entries.iter().all(|entry| entry.status & 0x7f == 0)
}

/// Whether it begins as FAT, NTFS and exFAT do: a jump, and a sector's size where they all have it, or had it.
fn is_volume(sector: &[u8]) -> bool {
    let fields = Fields(sector);
    let jump = matches!(fields.array(0), [0xeb, _, 0x90] | [0xe9, _, _]);
    let sector_bytes = fields.le16(11);
    let fat = (512..=4096).contains(&sector_bytes) && sector_bytes.is_power_of_two();
    jump && (fat || &fields.array(3) == b"EXFAT   ")
}

/// All partitions of a disk whose first sector has these entries.
pub(super) fn read(
    source: &dyn BlockSource,
    entries: &[Entry; 4],
    sector_bytes: u64,
    found: &mut Found,
) -> Result<(), BlockError> {
    let used = || (1..).zip(entries).filter(|(_, entry)| entry.is_used());
    for (number, entry) in used() {
        found.add(source, partition(number, entry, 0, sector_bytes));
    }
    let mut next = LOGICAL_FIRST;
    for (_, entry) in used().filter(|(_, entry)| entry.is_extended()) {
        next = read_logical(source, entry, sector_bytes, next, found)?;
    }
    Ok(())
}

fn partition(number: u32, entry: &Entry, base: u64, sector_bytes: u64) -> Partition {
    let type_id = TypeId::Mbr(entry.id);
    Partition {
        number,
        kind: type_id.kind(),
        name: String::new(),
        range: entry.range(base, sector_bytes),
        type_id: Some(type_id),
    }
}

/// The chain in one extended partition. Each link has a partition of its own and may name the next link, by its place in
/// the extended partition.
fn read_logical(
    source: &dyn BlockSource,
    extended: &Entry,
    sector_bytes: u64,
    mut number: u32,
    found: &mut Found,
) -> Result<u32, BlockError> {
    let mut link = 0;
    let mut seen = Vec::new();
    loop {
        let place = (extended.first + link) * sector_bytes;
        let inside = link < extended.sectors && place + SECTOR_BYTES as u64 <= source.size_bytes();
        if !inside || seen.contains(&link) || seen.len() >= LOGICAL_MAX {
            found.problem(format!("the chain of logical partitions goes wrong after number {}", number - 1));
            return Ok(number);
        }
        seen.push(link);
        let mut sector = [0; SECTOR_BYTES];
        source.read_at(&mut sector, place)?;
        let Some(entries) = self::entries(&sector) else {
            // What was made for partitions and has none.
            if seen.len() > 1 {
                found.problem(format!(
                    "the chain of logical partitions is damaged after number {}",
                    number - 1
                ));
            }
            return Ok(number);
        };
        for entry in entries.iter().filter(|entry| entry.is_used() && !entry.is_extended()) {
            found.add(source, partition(number, entry, extended.first + link, sector_bytes));
            number += 1;
        }
        match entries.iter().find(|entry| entry.is_used() && entry.is_extended()) {
            Some(next) => link = next.first,
            None => return Ok(number),
        }
    }
}
