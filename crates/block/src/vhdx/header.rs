//! The first megabyte of a VHDX file: two headers and two region tables, each as a pure function of its bytes.

use crate::{
    Guid,
    crc::CASTAGNOLI,
    error::Fault::{self, Damaged, Unsupported},
    fields::Fields,
};

pub(super) const MAGIC: &[u8; 8] = b"vhdxfile";
/// Where the two headers are.
pub(super) const HEADERS: [u64; 2] = [64 << 10, 128 << 10];
pub(super) const HEADER_BYTES: usize = 4 << 10;
/// Where the two region tables are.
pub(super) const REGION_TABLES: [u64; 2] = [192 << 10, 256 << 10];
pub(super) const REGION_TABLE_BYTES: usize = 64 << 10;
pub(super) const MIB: u64 = 1 << 20;

const REGIONS_MAX: u32 = 2047;
pub(super) const BAT: Guid = Guid::known(0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08);
pub(super) const METADATA: Guid = Guid::known(0x8b7c_a206_4790_4b9a_b8fe_575f_050f_886e);

/// What a reader needs of the current header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    pub sequence: u64,
    /// Changes with every change of what a machine sees; a child knows its parent by it.
    pub data_write: Guid,
    /// Zero says that the log is empty.
    pub log_guid: Guid,
    pub log_version: u16,
    pub log_length: u64,
    pub log_offset: u64,
}

/// A part of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Region {
    pub offset: u64,
    pub length: u64,
}

/// The header that counts, of both: the one that is whole, or the newer one.
pub(super) fn current(both: [&[u8]; 2]) -> Result<Header, Fault> {
    let [first, second] = both.map(header);
    match (first, second) {
        (None, None) => Err(Damaged(HEADERS[0], "neither of both headers is whole".into())),
        (Some(one), None) | (None, Some(one)) => one,
        (Some(first), Some(second)) => match (first, second) {
            (Ok(first), Ok(second)) if first.sequence == second.sequence && first != second => {
                Err(Damaged(HEADERS[0], "two headers of one age that differ".into()))
            }
            (Ok(first), Ok(second)) => Ok(if second.sequence > first.sequence { second } else { first }),
            (Err(fault), _) | (_, Err(fault)) => Err(fault),
        },
    }
}

/// None unless it is whole.
fn header(bytes: &[u8]) -> Option<Result<Header, Fault>> {
    let fields = Fields(bytes);
    if &fields.array(0) != b"head" || CASTAGNOLI.without(bytes, 4) != fields.le32(4) {
        return None;
    }
    Some(match fields.le16(66) {
        1 => Ok(Header {
            sequence: fields.le64(8),
            data_write: fields.guid(32),
            log_guid: fields.guid(48),
            log_version: fields.le16(64),
            log_length: u64::from(fields.le32(68)),
            log_offset: fields.le64(72),
        }),
        version => Err(Unsupported(format!("is a VHDX file of version {version}; known is 1"))),
    })
}

/// Where the block table and the metadata are, of the first table that is whole.
pub(super) fn regions(both: [&[u8]; 2]) -> Result<[Region; 2], Fault> {
    let whole = |bytes: &&[u8]| {
        &Fields(bytes).array(0) == b"regi" && CASTAGNOLI.without(bytes, 4) == Fields(bytes).le32(4)
    };
    let Some((number, table)) = both.iter().enumerate().find(|(_, bytes)| whole(bytes)) else {
        return Err(Damaged(REGION_TABLES[0], "neither of both region tables is whole".into()));
    };
    let (fields, at) = (Fields(table), REGION_TABLES[number]);
    let count = fields.le32(8);
    if count > REGIONS_MAX {
        return Err(Damaged(at + 8, format!("a table of {count} regions")));
    }
    let mut found: Vec<(Guid, Region)> = Vec::new();
    for entry in (0..count as usize).map(|number| 16 + 32 * number) {
        let id = fields.guid(entry);
        let region = Region { offset: fields.le64(entry + 16), length: u64::from(fields.le32(entry + 24)) };
        check(region, &found).map_err(|what| Damaged(at + entry as u64, what))?;
        if fields.le32(entry + 28) & 1 == 1 && ![BAT, METADATA].contains(&id) {
            return Err(Unsupported(format!("needs a region that is not known here ({id})")));
        }
        found.push((id, region));
    }
    let one = |id: Guid, what: &str| {
        let mut regions = found.iter().filter(|(found, _)| *found == id).map(|(_, region)| *region);
        match (regions.next(), regions.next()) {
            (Some(region), None) => Ok(region),
            (None, _) => Err(Damaged(at, format!("it has no {what}"))),
            _ => Err(Damaged(at, format!("it has two of its {what}"))),
        }
    };
    Ok([one(BAT, "block table")?, one(METADATA, "metadata")?])
}

fn check(region: Region, others: &[(Guid, Region)]) -> Result<(), String> {
    let Region { offset, length } = region;
    let end = offset.checked_add(length);
    if offset < MIB || !offset.is_multiple_of(MIB) || !length.is_multiple_of(MIB) || end.is_none() {
        return Err(format!("a region of {length} bytes at byte {offset}"));
    }
    if others.iter().any(|(_, other)| region.overlaps(*other)) {
        return Err(format!("a region at byte {offset} that lies on another one"));
    }
    Ok(())
}

impl Region {
    /// Both were checked not to reach over the end of numbers.
    pub(super) fn overlaps(self, other: Self) -> bool {
        self.offset < other.offset + other.length && other.offset < self.offset + self.length
    }
}
