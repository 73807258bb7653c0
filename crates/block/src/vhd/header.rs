//! The footer of a VHD file, and the header of those that grow: pure functions of bytes.
//!
//! A wrong sum is told, not refused: tools exist that change a footer and forget it, and whatever is in it is checked
//! before it is used.

use crate::{
    error::Fault::{self, Damaged, Unsupported},
    fields::{Fields, utf16},
    mapped::DISK_BYTES_MAX,
};

pub(super) const FOOTER_BYTES: usize = 512;
pub(super) const HEADER_BYTES: usize = 1024;
pub(super) const COOKIE: &[u8; 8] = b"conectix";
/// The format's own; larger ones are as good, up to where one would no longer be read in pieces.
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = 512..=256 << 20;
const LOCATORS: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Fixed,
    Dynamic,
    Differencing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    pub kind: Kind,
    pub size_bytes: u64,
    /// Where the header is, of those that grow.
    pub header_offset: u64,
    /// A child knows its parent by it.
    pub id: [u8; 16],
    pub is_sum_right: bool,
}

/// What a disk that grows has besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub table_offset: u64,
    pub block_bytes: u64,
    pub parent_id: [u8; 16],
    /// Its file's name.
    pub parent_name: Option<String>,
    pub locators: Vec<Locator>,
    pub is_sum_right: bool,
}

/// Where in the file one more name of the parent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Locator {
    pub code: [u8; 4],
    pub offset: u64,
    pub length: u32,
}

/// The complement of the sum of all bytes but those of the sum itself.
pub(super) fn sum(bytes: &[u8], hole: usize) -> u32 {
    let add = |bytes: &[u8]| bytes.iter().fold(0_u32, |sum, byte| sum.wrapping_add(u32::from(*byte)));
    !add(bytes).wrapping_sub(add(Fields(bytes).part(hole, 4)))
}

impl Footer {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let fields = Fields(bytes);
        if &fields.array(0) != COOKIE {
            return Err(Damaged(0, "it is no VHD file".into()));
        }
        if fields.be32(12) >> 16 != 1 {
            let version = fields.be32(12);
            return Err(Unsupported(format!("is a VHD file of version {version:#x}; known is 1.0")));
        }
        let kind = match fields.be32(60) {
            2 => Kind::Fixed,
            3 => Kind::Dynamic,
            4 => Kind::Differencing,
            kind => {
                return Err(Unsupported(format!("is a VHD file of a kind that is not known here ({kind})")));
            }
        };
        let size_bytes = fields.be64(48);
        if size_bytes > DISK_BYTES_MAX {
            return Err(Damaged(48, format!("a disk of {size_bytes} bytes")));
        }
        Ok(Self {
            kind,
            size_bytes,
            header_offset: fields.be64(16),
            id: fields.array(68),
            is_sum_right: sum(bytes, 64) == fields.be32(64),
        })
    }
}

impl Header {
    /// Of a disk of `size_bytes`.
    pub(super) fn parse(bytes: &[u8], size_bytes: u64) -> Result<Self, Fault> {
        let fields = Fields(bytes);
        if &fields.array(0) != b"cxsparse" {
            return Err(Damaged(0, "no header of a disk that grows".into()));
        }
        if fields.be32(24) >> 16 != 1 {
            let version = fields.be32(24);
            return Err(Unsupported(format!("has a VHD header of version {version:#x}; known is 1.0")));
        }
        let block_bytes = u64::from(fields.be32(32));
        if !block_bytes.is_power_of_two() || !BLOCK_BYTES.contains(&block_bytes) {
            return Err(Damaged(32, format!("blocks of {block_bytes} bytes")));
        }
        let entries = fields.be32(28);
        if u64::from(entries) < size_bytes.div_ceil(block_bytes) {
            return Err(Damaged(28, format!("{entries} blocks do not cover {size_bytes} bytes")));
        }
        let locator = |entry: usize| Locator {
            code: fields.array(entry),
            length: fields.be32(entry + 8),
            offset: fields.be64(entry + 16),
        };
        Ok(Self {
            table_offset: fields.be64(16),
            block_bytes,
            parent_id: fields.array(40),
            parent_name: utf16(fields.part(64, 512), u16::from_be_bytes).filter(|name| !name.is_empty()),
            locators: (0..LOCATORS).map(|number| locator(576 + 24 * number)).collect(),
            is_sum_right: sum(bytes, 36) == fields.be32(36),
        })
    }

    /// Of the bitmap of sectors that each block begins with.
    pub(super) fn bitmap_bytes(&self) -> u64 {
        (self.block_bytes / 512).div_ceil(8).next_multiple_of(512)
    }
}
