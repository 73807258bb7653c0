//! Small VHDX images, made byte by byte: for tests of what an image may say, which no program would write.

use super::{
    header::{BAT, HEADER_BYTES, HEADERS, MAGIC, METADATA, MIB, REGION_TABLE_BYTES, REGION_TABLES},
    log::SECTOR,
    metadata::{DISK_SIZE, FILE_PARAMETERS, LOGICAL_SECTOR, PARENT_LOCATOR, VHDX_PARENT},
};
use crate::{BlockSource, BlockTarget, Guid, MemoryDisk, crc::CASTAGNOLI, fields::Fields, sketch::Sketch};

pub(crate) const LOG_AT: u64 = MIB;
const METADATA_AT: u64 = 2 * MIB;
pub(crate) const TABLE_AT: u64 = 3 * MIB;
/// With the smallest blocks and sectors: the number of the first bitmap in the table.
pub(crate) const BITMAP_ENTRY: u64 = 4096;
pub(crate) const LOG_GUID: Guid = Guid([9; 16]);

/// What an image is.
pub(crate) struct Sample<'a> {
    pub(crate) size_bytes: u64,
    /// Entries of the block table, by number.
    pub(crate) entries: &'a [(u64, u64)],
    /// The identity of what it holds.
    pub(crate) data_write: u8,
    /// Keys and values of the parent locator.
    pub(crate) parent: &'a [(&'a str, &'a str)],
    pub(crate) log: bool,
}

pub(crate) const PRESENT: u64 = 6;
pub(crate) const PARTLY: u64 = 7;

/// An entry of a block that is `megabyte` megabytes from the begin of the file.
pub(crate) const fn at(megabyte: u64, state: u64) -> u64 {
    megabyte << 20 | state
}

impl Sample<'_> {
    /// Of `megabytes`; each megabyte from the fifth on begins and ends with its number.
    pub(crate) fn sketch(&self, megabytes: u64) -> Sketch {
        let mut sketch = Sketch::new(megabytes * MIB);
        sketch.put(0, MAGIC);
        for (sequence, place) in (1..).zip(HEADERS) {
            sketch.put(place, &self.header(sequence));
        }
        for place in REGION_TABLES {
            sketch.put(place, &regions());
        }
        self.metadata(&mut sketch);
        for (number, entry) in self.entries {
            sketch.put(TABLE_AT + number * 8, &entry.to_le_bytes());
        }
        for megabyte in 4..megabytes {
            sketch.put(megabyte * MIB, &[megabyte as u8; 64]);
            sketch.put((megabyte + 1) * MIB - 64, &[megabyte as u8; 64]);
        }
        sketch
    }

    pub(crate) fn disk(&self, megabytes: u64) -> MemoryDisk {
        let disk = self.sketch(megabytes).disk("image.vhdx");
        seal(&disk);
        disk
    }

    fn header(&self, sequence: u64) -> Vec<u8> {
        let mut bytes = vec![0; 80];
        bytes[..4].copy_from_slice(b"head");
        bytes[8..16].copy_from_slice(&sequence.to_le_bytes());
        bytes[32..48].fill(self.data_write);
        if self.log {
            bytes[48..64].copy_from_slice(&LOG_GUID.0);
        }
        bytes[66] = 1;
        bytes[68..72].copy_from_slice(&(MIB as u32).to_le_bytes());
        bytes[72..80].copy_from_slice(&LOG_AT.to_le_bytes());
        bytes
    }

    fn metadata(&self, sketch: &mut Sketch) {
        let mut parameters = (MIB as u32).to_le_bytes().to_vec();
        parameters.extend([if self.parent.is_empty() { 0 } else { 2 }, 0, 0, 0]);
        let mut items = vec![
            (FILE_PARAMETERS, parameters),
            (DISK_SIZE, self.size_bytes.to_le_bytes().to_vec()),
            (LOGICAL_SECTOR, 512_u32.to_le_bytes().to_vec()),
        ];
        if !self.parent.is_empty() {
            items.push((PARENT_LOCATOR, self.locator()));
        }
        let mut table = b"metadata\0\0".to_vec();
        table.extend([items.len() as u8, 0]);
        table.resize(32, 0);
        let mut place = 64 << 10;
        for (id, bytes) in items {
            table.extend(id.0);
            for number in [place, bytes.len() as u32, 4, 0] {
                table.extend(number.to_le_bytes());
            }
            sketch.put(METADATA_AT + u64::from(place), &bytes);
            place += 4096;
        }
        sketch.put(METADATA_AT, &table);
    }

    fn locator(&self) -> Vec<u8> {
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        let mut bytes = VHDX_PARENT.0.to_vec();
        bytes.extend([0, 0, self.parent.len() as u8, 0]);
        let mut place = 20 + 12 * self.parent.len();
        let mut texts = Vec::new();
        for (key, value) in self.parent {
            let (key, value) = (utf16(key), utf16(value));
            bytes.extend((place as u32).to_le_bytes());
            bytes.extend(((place + key.len()) as u32).to_le_bytes());
            bytes.extend((key.len() as u16).to_le_bytes());
            bytes.extend((value.len() as u16).to_le_bytes());
            place += key.len() + value.len();
            texts.extend(key);
            texts.extend(value);
        }
        bytes.extend(texts);
        bytes
    }
}

fn regions() -> Vec<u8> {
    let mut bytes = b"regi\0\0\0\0\x02\0\0\0\0\0\0\0".to_vec();
    for (id, place) in [(BAT, TABLE_AT), (METADATA, METADATA_AT)] {
        bytes.extend(id.0);
        bytes.extend(place.to_le_bytes());
        bytes.extend((MIB as u32).to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
    }
    bytes
}

/// What an entry of the log writes.
#[derive(Clone, Copy)]
pub(crate) enum Write {
    /// 4 KiB, all of this byte.
    Page(u64, u8),
    Zeroes(u64, u64),
}

/// An entry with the wrong sum, which [`seal`] puts right.
pub(crate) fn entry(sequence: u64, tail: u64, writes: &[Write]) -> Vec<u8> {
    let pages = writes.iter().filter(|write| matches!(write, Write::Page(..))).count() as u64;
    let head = (64 + 32 * writes.len() as u64).next_multiple_of(SECTOR);
    let mut bytes = b"loge\0\0\0\0".to_vec();
    for number in [head + pages * SECTOR, tail * SECTOR] {
        bytes.extend((number as u32).to_le_bytes());
    }
    bytes.extend(sequence.to_le_bytes());
    bytes.extend((writes.len() as u64).to_le_bytes());
    bytes.extend(LOG_GUID.0);
    // The file was at least 4 MiB long, and needs no more.
    bytes.extend([4 * MIB, 4 * MIB].map(u64::to_le_bytes).concat());
    for write in writes {
        match write {
            Write::Page(place, value) => {
                bytes.extend(b"desc");
                bytes.extend([*value; 12]);
                bytes.extend(place.to_le_bytes());
            }
            Write::Zeroes(place, length) => {
                bytes.extend(b"zero\0\0\0\0");
                bytes.extend(length.to_le_bytes());
                bytes.extend(place.to_le_bytes());
            }
        }
        bytes.extend(sequence.to_le_bytes());
    }
    bytes.resize(head as usize, 0);
    for write in writes {
        if let Write::Page(_, value) = write {
            bytes.extend(b"data");
            bytes.extend(((sequence >> 32) as u32).to_le_bytes());
            bytes.extend([*value; 4084]);
            bytes.extend((sequence as u32).to_le_bytes());
        }
    }
    bytes
}

/// Puts an entry into the log at this sector; behind the last comes the first.
pub(crate) fn log(disk: &MemoryDisk, sector: u64, entry: &[u8]) {
    for (number, bytes) in (0..).zip(entry.chunks(SECTOR as usize)) {
        let place = LOG_AT + (sector + number) * SECTOR % MIB;
        disk.write_at(bytes, place).expect("inside");
    }
}

/// Makes all sums right, of whatever is there.
pub(crate) fn seal(disk: &MemoryDisk) {
    let sum = |place: u64, length: usize| {
        let mut bytes = vec![0; length];
        if disk.read_at(&mut bytes, place).is_ok() {
            let right = CASTAGNOLI.without(&bytes, 4).to_le_bytes();
            disk.write_at(&right, place + 4).expect("inside");
        }
    };
    HEADERS.iter().for_each(|place| sum(*place, HEADER_BYTES));
    REGION_TABLES.iter().for_each(|place| sum(*place, REGION_TABLE_BYTES));
    // Backwards, so that an entry that lies on the next one gets its sum of what is there at last.
    for sector in (0..MIB / SECTOR).rev() {
        let mut head = [0; 16];
        if disk.read_at(&mut head, LOG_AT + sector * SECTOR).is_err() || !head.starts_with(b"loge") {
            continue;
        }
        let sectors = (u64::from(Fields(&head).le32(8)) / SECTOR).min(MIB / SECTOR);
        let mut bytes = Vec::new();
        for number in 0..sectors {
            let mut one = [0; SECTOR as usize];
            if disk.read_at(&mut one, LOG_AT + (sector + number) * SECTOR % MIB).is_ok() {
                bytes.extend(one);
            }
        }
        let right = CASTAGNOLI.without(&bytes, 4).to_le_bytes();
        disk.write_at(&right, LOG_AT + sector * SECTOR + 4).expect("inside");
    }
}

/// One of each kind, whether something is below it, and as a sketch whose sums are to be made right.
pub(crate) fn all() -> Vec<(bool, Sketch)> {
    let plain = Sample {
        size_bytes: 6 * MIB + 512,
        entries: &[(0, at(5, PRESENT)), (1, at(6, PRESENT)), (2, 2), (4, at(4, PRESENT)), (5, 3)],
        data_write: 1,
        parent: &[],
        log: false,
    };
    let child = Sample {
        size_bytes: 3 * MIB,
        entries: &[(0, at(5, PARTLY)), (1, 0), (2, at(6, PRESENT)), (BITMAP_ENTRY, at(4, PRESENT))],
        data_write: 2,
        parent: &[
            ("parent_linkage", "{01010101-0101-0101-0101-010101010101}"),
            ("relative_path", ".\\base.vhdx"),
        ],
        log: false,
    };
    let mut partly = child.sketch(7);
    partly.put(4 * MIB, &[0b1010_0110; 64]);
    let mut logged = Sample { log: true, ..plain }.sketch(8);
    let writes = [Write::Page(TABLE_AT, 0), Write::Zeroes(4 * MIB, 8192)];
    logged.put(LOG_AT, &entry(1, 0, &writes));
    logged.put(LOG_AT + 2 * SECTOR, &entry(2, 0, &[Write::Page(5 * MIB, 3)]));
    vec![(false, plain.sketch(8)), (true, partly), (false, logged)]
}
