//! Directories: slots of 32 bytes. A file has one, and before it those with its long name, last part first.

use crate::{
    FileName, Result,
    bytes::{le16, le32, u8_at},
    dos::{same_name, timestamp},
    fs::{Attributes, Cursor, Entry, FileKind, Node, PAGE_ENTRIES_MAX, Page, Stat, Times},
};

use super::{Fat, code_page::CODE_PAGE_437, geometry::SLOT_BYTES};

/// A directory has no more, by its format.
const SLOTS_MAX: u64 = 1 << 16;
const LONG_NAME: u8 = 0x0f;
const LABEL: u8 = 0x08;
const FREE: u8 = 0xe5;
const UNITS_OF_SLOT: usize = 13;
const PARTS_MAX: u8 = 20;

/// A directory's bytes: a range of the volume, or a chain.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    FixedRoot,
    Chain(u32),
}

/// A file's own slot.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot(pub(super) [u8; SLOT_BYTES as usize]);

impl Slot {
    fn attributes(&self) -> u8 {
        self.0[11]
    }

    /// Whether it is one of a file or directory that was not deleted.
    pub(super) fn is_file(&self) -> bool {
        !matches!(self.0[0], 0 | FREE | b'.') && self.attributes() & LABEL == 0
    }

    pub(super) fn is_label(&self) -> bool {
        !matches!(self.0[0], 0 | FREE)
            && self.attributes() & 0x3f != LONG_NAME
            && self.attributes() & LABEL != 0
    }

    pub(super) fn kind(&self) -> FileKind {
        if u32::from(self.attributes()) & Attributes::DOS_DIRECTORY != 0 {
            FileKind::Directory
        } else {
            FileKind::File
        }
    }

    pub(super) fn first_cluster(&self, wide: bool) -> u32 {
        let high = if wide { le16(&self.0, 0x14) } else { 0 };
        u32::from(high) << 16 | u32::from(le16(&self.0, 0x1a))
    }

    pub(super) fn size_bytes(&self) -> u64 {
        le32(&self.0, 0x1c).into()
    }

    /// The name in 8.3, of which Windows keeps the case of small letters in two bits.
    fn short_name(&self) -> Vec<u8> {
        let mut raw: [u8; 11] = std::array::from_fn(|n| self.0[n]);
        if raw[0] == 0x05 {
            raw[0] = FREE;
        }
        let text = |part: &[u8], lower: bool| -> String {
            let part = &part[..part.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1)];
            part.iter()
                .map(|byte| if lower { byte.to_ascii_lowercase() } else { *byte })
                .map(|byte| if byte < 0x80 { byte.into() } else { CODE_PAGE_437[usize::from(byte) - 0x80] })
                .collect()
        };
        let (base, extension) =
            (text(&raw[..8], self.0[12] & 8 != 0), text(&raw[8..], self.0[12] & 0x10 != 0));
        if extension.is_empty() { base.into_bytes() } else { format!("{base}.{extension}").into_bytes() }
    }

    pub(super) fn label(&self) -> String {
        let text: String = self.0[..11]
            .iter()
            .map(|byte| if *byte < 0x80 { (*byte).into() } else { CODE_PAGE_437[usize::from(*byte) - 0x80] })
            .collect();
        text.trim_end().to_owned()
    }

    fn checksum(&self) -> u8 {
        self.0[..11].iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
    }

    pub(super) fn stat(&self, node: Node, allocated_bytes: u64) -> Stat {
        let kind = self.kind();
        let at = |date, time, hundredths| timestamp(le16(&self.0, date), time, hundredths);
        Stat {
            node,
            kind,
            size_bytes: if kind == FileKind::File { self.size_bytes() } else { 0 },
            allocated_bytes,
            mode: None,
            uid: None,
            gid: None,
            times: Times {
                modified: at(0x18, le16(&self.0, 0x16), 0),
                accessed: at(0x12, 0, 0),
                changed: None,
                created: at(0x10, le16(&self.0, 0xe), u8_at(&self.0, 0xd)),
            },
            links: 1,
            attributes: Attributes::Dos(u32::from(self.attributes()) & 0x3f),
            device: None,
        }
    }
}

/// A file as its directory has it.
pub(super) struct Found {
    /// The number of its first slot in the directory.
    first_slot: u64,
    pub(super) node: Node,
    pub(super) slot: Slot,
    name: Vec<u8>,
}

/// Goes through a directory.
pub(super) struct Reader<'a> {
    fat: &'a Fat,
    place: Place,
    next: u64,
    /// A cluster of it: the number of its first slot, where it lies, its bytes.
    held: Option<(u64, u64, Vec<u8>)>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(fat: &'a Fat, place: Place, from: u64) -> Self {
        Self { fat, place, next: from, held: None }
    }

    /// The next slot, and where on the volume it lies.
    pub(super) fn slot(&mut self) -> Result<Option<(Slot, u64)>> {
        let per_piece = self.fat.geometry.cluster_bytes / SLOT_BYTES;
        let number = self.next;
        if number >= SLOTS_MAX {
            return Ok(None);
        }
        let start = number / per_piece * per_piece;
        if self.held.as_ref().is_none_or(|held| held.0 != start) {
            let Some((at, length)) = self.piece(start)? else { return Ok(None) };
            self.held = Some((start, at, self.fat.volume.bytes(at, length as usize)?));
        }
        let Some((_, at, bytes)) = &self.held else { return Ok(None) };
        let offset = (number - start) * SLOT_BYTES;
        let Some(slot) = bytes.get(offset as usize..(offset + SLOT_BYTES) as usize) else { return Ok(None) };
        self.next += 1;
        Ok(slot.try_into().ok().map(|slot| (Slot(slot), at + offset)))
    }

    /// Where the piece with this slot lies.
    fn piece(&self, slot: u64) -> Result<Option<(u64, u64)>> {
        let offset = slot * SLOT_BYTES;
        match self.place {
            Place::FixedRoot => {
                let root = &self.fat.geometry.fixed_root;
                let start = root.start + offset;
                let length = root.end.saturating_sub(start).min(self.fat.geometry.cluster_bytes);
                Ok((length > 0).then_some((start, length)))
            }
            Place::Chain(first) => {
                let index = offset / self.fat.geometry.cluster_bytes;
                let Some(run) = self.fat.run(first, index, 1)? else { return Ok(None) };
                let at = self.fat.place(run.cluster)?;
                Ok(Some((at, self.fat.geometry.cluster_bytes)))
            }
        }
    }

    /// The next file or directory.
    pub(super) fn file(&mut self) -> Result<Option<Found>> {
        let mut long = LongName::default();
        loop {
            let number = self.next;
            let Some((slot, at)) = self.slot()? else { return Ok(None) };
            match slot.0[0] {
                0 => {
                    // Nothing behind this was ever used.
                    self.next = SLOTS_MAX;
                    return Ok(None);
                }
                FREE => long = LongName::default(),
                _ if slot.attributes() & 0x3f == LONG_NAME => long.take(&slot, number),
                _ if slot.is_file() => {
                    let (first_slot, name) =
                        long.finish(&slot).unwrap_or_else(|| (number, slot.short_name()));
                    return Ok(Some(Found { first_slot, node: Node(at / SLOT_BYTES), slot, name }));
                }
                _ => long = LongName::default(),
            }
        }
    }
}

/// Parts of a long name, which must come in order and all be of the file behind them.
#[derive(Default)]
struct LongName {
    first_slot: u64,
    missing: u8,
    checksum: u8,
    /// In the order of the name.
    units: Vec<u16>,
}

impl LongName {
    fn take(&mut self, slot: &Slot, number: u64) {
        const LAST: u8 = 0x40;
        let order = slot.0[0] & !LAST;
        let begins = slot.0[0] & LAST != 0 && (1..=PARTS_MAX).contains(&order);
        if begins {
            *self = Self { first_slot: number, missing: order, checksum: slot.0[13], units: Vec::new() };
        } else if self.missing == 0 || order != self.missing || slot.0[13] != self.checksum {
            *self = Self::default();
            return;
        }
        let places = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
        let part: [u16; UNITS_OF_SLOT] = places.map(|at| le16(&slot.0, at));
        self.units.splice(0..0, part);
        self.missing = order - 1;
    }

    /// Its first slot and the name, if all of it is there.
    fn finish(mut self, slot: &Slot) -> Option<(u64, Vec<u8>)> {
        if self.missing != 0 || self.units.is_empty() || self.checksum != slot.checksum() {
            return None;
        }
        let end = self.units.iter().position(|unit| *unit == 0).unwrap_or(self.units.len());
        self.units.truncate(end);
        Some((self.first_slot, FileName::from_utf16(self.units).into_bytes()))
            .filter(|(_, name)| !name.is_empty())
    }
}

impl Fat {
    pub(super) fn page(&self, place: Place, from: Cursor, limit: usize) -> Page {
        let mut page = Page::default();
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
        let mut reader = Reader::new(self, place, from.0);
        loop {
            match reader.file() {
                Ok(None) => return page,
                Ok(Some(found)) if page.entries.len() >= limit => {
                    page.next = Some(Cursor(found.first_slot));
                    return page;
                }
                Ok(Some(found)) => page.entries.push(Entry {
                    name: FileName::from(found.name),
                    node: found.node,
                    kind: found.slot.kind(),
                }),
                // A chain that is broken has no rest that could be found.
                Err(error) => {
                    page.damage = Some(error.to_string());
                    return page;
                }
            }
        }
    }

    pub(super) fn search(&self, place: Place, name: &[u8]) -> Result<Option<Node>> {
        let mut reader = Reader::new(self, place, 0);
        let mut other_case = None;
        while let Some(found) = reader.file()? {
            if found.name == name {
                return Ok(Some(found.node));
            }
            if same_name(&found.name, name) || same_name(&found.slot.short_name(), name) {
                other_case.get_or_insert(found.node);
            }
        }
        Ok(other_case)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(name: &[u8; 11], attributes: u8, case: u8) -> Slot {
        let mut bytes = [0; 32];
        bytes[..11].copy_from_slice(name);
        (bytes[11], bytes[12]) = (attributes, case);
        Slot(bytes)
    }

    #[test]
    fn short_names() {
        for (raw, case, name) in [
            (b"README  TXT", 0, "README.TXT"),
            (b"README  TXT", 0x18, "readme.txt"),
            (b"A B     C  ", 8, "a b.C"),
            (b"NOEXT      ", 0, "NOEXT"),
            (b"\x05\x81 2    \xe1  ", 0, "\u{3c3}\u{fc} 2.\u{df}"),
        ] {
            assert_eq!(String::from_utf8_lossy(&slot(raw, 0x20, case).short_name()), name);
        }
        assert!(!slot(b"\xe5EADME  TXT", 0x20, 0).is_file());
        assert!(slot(b"LABEL      ", 8, 0).is_label());
    }

    #[test]
    fn long_names_belong_to_the_slot_behind_them() {
        let file = slot(b"LONGNA~1TXT", 0x20, 0);
        let part = |order: u8, checksum: u8, text: &str| {
            let mut bytes = [0xff; 32];
            (bytes[0], bytes[11], bytes[13]) = (order, LONG_NAME, checksum);
            let units = text.encode_utf16().chain([0]).take(13);
            for (unit, at) in units.zip([1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30]) {
                bytes[at..at + 2].copy_from_slice(&unit.to_le_bytes());
            }
            Slot(bytes)
        };
        let assemble = |parts: &[Slot]| {
            let mut long = LongName::default();
            parts.iter().zip(7..).for_each(|(part, number)| long.take(part, number));
            long.finish(&file).map(|(first, name)| (first, String::from_utf8_lossy(&name).into_owned()))
        };
        let sum = file.checksum();
        let (first, second) = (part(1, sum, "long name wit"), part(0x42, sum, "h end.txt"));
        assert_eq!(assemble(&[second, first]), Some((7, "long name with end.txt".to_owned())));
        assert_eq!(assemble(&[first, second]), None, "in the wrong order");
        assert_eq!(assemble(&[second]), None, "a part is missing");
        assert_eq!(assemble(&[part(0x41, sum ^ 1, "x")]), None, "of another file");
        assert_eq!(assemble(&[part(0x7f, sum, "x")]), None, "more parts than there can be");
        assert_eq!(assemble(&[part(0x41, sum, "")]), None, "empty");
    }
}
