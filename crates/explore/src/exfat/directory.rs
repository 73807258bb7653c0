//! Directories: slots of 32 bytes. A file is a set of them: its own, one with its size and place, and those with its name.

use crate::{
    FileName, Result,
    bytes::{le16, le32, le64, u8_at},
    dos::{same_name, timestamp},
    fs::{Attributes, Cursor, Entry, FileKind, Node, PAGE_ENTRIES_MAX, Page, Stat, Times, Timestamp},
};

use super::Exfat;

pub(super) const SLOT_BYTES: u64 = 32;
/// 256 MiB, by the format.
const SLOTS_MAX: u64 = 1 << SLOT_BITS;
const SLOT_BITS: u32 = 23;
const FILE: u8 = 0x85;
const STREAM: u8 = 0xc0;
const NAME: u8 = 0xc1;
const LABEL: u8 = 0x83;
const SECONDARIES: std::ops::RangeInclusive<u8> = 2..=18;
const UNITS_OF_SLOT: usize = 15;
/// Of one page: what is not in use is passed by.
const SLOTS_OF_PAGE_MAX: u64 = 1 << 20;
/// Directories are read in pieces of this, or of a cluster that is smaller.
const PIECE_BYTES: u64 = 64 << 10;

/// Where bytes lie: from a cluster on, each behind the other or as the table says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allocation {
    pub(super) first: u32,
    pub(super) is_contiguous: bool,
}

/// A file's set of slots.
#[derive(Debug, Clone)]
pub(super) struct Set {
    file: [u8; SLOT_BYTES as usize],
    stream: [u8; SLOT_BYTES as usize],
    name: FileName,
}

impl Set {
    pub(super) fn kind(&self) -> FileKind {
        if u32::from(le16(&self.file, 4)) & Attributes::DOS_DIRECTORY != 0 {
            FileKind::Directory
        } else {
            FileKind::File
        }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        le64(&self.stream, 0x18).min(i64::MAX.cast_unsigned())
    }

    /// What is behind it was never written and reads as zero.
    pub(super) fn written_bytes(&self) -> u64 {
        le64(&self.stream, 8).min(self.size_bytes())
    }

    pub(super) fn allocation(&self) -> Allocation {
        Allocation { first: le32(&self.stream, 0x14), is_contiguous: u8_at(&self.stream, 1) & 2 != 0 }
    }

    pub(super) fn stat(&self, node: Node, cluster_bytes: u64) -> Stat {
        let kind = self.kind();
        let time = |at: usize, hundredths: u8, zone: usize| {
            let local = timestamp(le16(&self.file, at + 2), le16(&self.file, at), hundredths)?;
            Some(to_utc(local, u8_at(&self.file, zone)))
        };
        Stat {
            node,
            kind,
            size_bytes: if kind == FileKind::File { self.size_bytes() } else { 0 },
            allocated_bytes: self.size_bytes().next_multiple_of(cluster_bytes),
            mode: None,
            uid: None,
            gid: None,
            times: Times {
                modified: time(0xc, u8_at(&self.file, 0x15), 0x17),
                accessed: time(0x10, 0, 0x18),
                changed: None,
                created: time(8, u8_at(&self.file, 0x14), 0x16),
            },
            links: 1,
            attributes: Attributes::Dos(le16(&self.file, 4).into()),
            device: None,
        }
    }
}

/// A quarter of an hour is the unit; a bit says whether the zone is known.
fn to_utc(local: Timestamp, zone: u8) -> Timestamp {
    if zone & 0x80 == 0 {
        return local;
    }
    let quarters = (zone << 1).cast_signed() >> 1;
    Timestamp { seconds: local.seconds - i64::from(quarters) * 900, ..local }
}

/// A file is known by its directory's place and the number of its first slot there.
pub(super) fn node_of(directory: Allocation, slot: u64) -> Node {
    Node(
        u64::from(directory.first) << (SLOT_BITS + 1)
            | u64::from(directory.is_contiguous) << SLOT_BITS
            | slot,
    )
}

pub(super) fn place_of(node: Node) -> Option<(Allocation, u64)> {
    let first = u32::try_from(node.0 >> (SLOT_BITS + 1)).ok().filter(|first| *first != 0)?;
    Some((Allocation { first, is_contiguous: node.0 >> SLOT_BITS & 1 != 0 }, node.0 & (SLOTS_MAX - 1)))
}

/// Goes through a directory.
pub(super) struct Reader<'a> {
    exfat: &'a Exfat,
    place: Allocation,
    /// Slots that it has at most.
    slots: u64,
    pub(super) next: u64,
    held: Option<(u64, Vec<u8>)>,
}

impl<'a> Reader<'a> {
    /// Without a length (the root has none) the chain says where it ends.
    pub(super) fn new(exfat: &'a Exfat, place: Allocation, length: Option<u64>, from: u64) -> Self {
        let slots = length.map_or(SLOTS_MAX, |length| length / SLOT_BYTES).min(SLOTS_MAX);
        Self { exfat, place, slots, next: from, held: None }
    }

    fn slot(&mut self) -> Result<Option<[u8; SLOT_BYTES as usize]>> {
        let piece_bytes = self.exfat.geometry.cluster_bytes.min(PIECE_BYTES);
        let per_piece = piece_bytes / SLOT_BYTES;
        let number = self.next;
        if number >= self.slots {
            return Ok(None);
        }
        let start = number / per_piece * per_piece;
        if self.held.as_ref().is_none_or(|held| held.0 != start) {
            let Some((at, _)) = self.exfat.stretch(self.place, start * SLOT_BYTES, piece_bytes)? else {
                return Ok(None);
            };
            self.held = Some((start, self.exfat.volume.bytes(at, piece_bytes as usize)?));
        }
        let Some((_, bytes)) = &self.held else { return Ok(None) };
        let offset = ((number - start) * SLOT_BYTES) as usize;
        self.next += 1;
        Ok(bytes.get(offset..offset + SLOT_BYTES as usize).and_then(|slot| slot.try_into().ok()))
    }

    /// The set whose first slot is the next one, if one is. What is no set is passed.
    pub(super) fn set(&mut self) -> Result<Step> {
        let number = self.next;
        let Some(file) = self.slot()? else { return Ok(Step::End) };
        match file[0] {
            0 => return Ok(Step::End),
            LABEL => return Ok(Step::Label(label(&file))),
            FILE => {}
            _ => return Ok(Step::Other),
        }
        if !SECONDARIES.contains(&file[1]) {
            return Ok(Step::Other);
        }
        let Some(stream) = self.slot()?.filter(|stream| stream[0] == STREAM) else {
            self.next = number + 1;
            return Ok(Step::Other);
        };
        let length = usize::from(stream[3]);
        let mut units = Vec::with_capacity(length);
        for _ in 1..file[1] {
            let Some(part) = self.slot()?.filter(|part| part[0] == NAME) else { break };
            units.extend((0..UNITS_OF_SLOT).map(|n| le16(&part, 2 + 2 * n)));
        }
        self.next = number + 1 + u64::from(file[1]);
        if length == 0 || units.len() < length {
            self.next = number + 1;
            return Ok(Step::Other);
        }
        units.truncate(length);
        Ok(Step::Set(number, Box::new(Set { file, stream, name: FileName::from_utf16(units) })))
    }
}

pub(super) enum Step {
    /// The number of its first slot, and the set.
    Set(u64, Box<Set>),
    Label(String),
    /// Not in use, or nothing that a reader needs.
    Other,
    End,
}

fn label(slot: &[u8]) -> String {
    let length = usize::from(slot[1]).min(11) * 2;
    String::from_utf8_lossy(FileName::from_utf16_bytes(&slot[2..2 + length]).as_bytes()).into_owned()
}

impl Exfat {
    pub(super) fn page(
        &self,
        directory: Allocation,
        length: Option<u64>,
        from: Cursor,
        limit: usize,
    ) -> Page {
        let mut page = Page::default();
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
        let mut reader = Reader::new(self, directory, length, from.0);
        for _ in 0..SLOTS_OF_PAGE_MAX {
            match reader.set() {
                Ok(Step::End) => return page,
                Ok(Step::Set(slot, _)) if page.entries.len() >= limit => {
                    page.next = Some(Cursor(slot));
                    return page;
                }
                Ok(Step::Set(slot, set)) => {
                    let (kind, node) = (set.kind(), node_of(directory, slot));
                    page.entries.push(Entry { name: set.name, node, kind });
                }
                Ok(Step::Label(_) | Step::Other) => {}
                Err(error) => {
                    page.damage = Some(error.to_string());
                    return page;
                }
            }
        }
        page.next = Some(Cursor(reader.next));
        page
    }

    pub(super) fn search(
        &self,
        directory: Allocation,
        length: Option<u64>,
        name: &[u8],
    ) -> Result<Option<Node>> {
        let mut reader = Reader::new(self, directory, length, 0);
        let mut other_case = None;
        loop {
            match reader.set()? {
                Step::End => return Ok(other_case),
                Step::Set(slot, set) if set.name.as_bytes() == name => {
                    return Ok(Some(node_of(directory, slot)));
                }
                Step::Set(slot, set) if same_name(set.name.as_bytes(), name) => {
                    other_case.get_or_insert(node_of(directory, slot));
                }
                Step::Set(..) | Step::Label(_) | Step::Other => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_quarters_of_an_hour() {
        let at = |zone| to_utc(Timestamp { seconds: 10_000, nanoseconds: 5 }, zone).seconds;
        assert_eq!((at(0x84), at(0xfc), at(0x04)), (6_400, 13_600, 10_000));
    }

    #[test]
    fn a_node_says_where_its_set_is() {
        let place = Allocation { first: u32::MAX, is_contiguous: true };
        assert_eq!(place_of(node_of(place, SLOTS_MAX - 1)), Some((place, SLOTS_MAX - 1)));
        assert_eq!(place_of(Node(0)), None);
        assert_eq!(place_of(Node(u64::MAX)), None);
    }
}
