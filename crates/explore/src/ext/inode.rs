//! Inodes: what is known about a file but its name.

use crate::{
    Result,
    bytes::{join, le16, le32},
    fs::{Attributes, FileKind, Node, Stat, Times, Timestamp},
    volume::Volume,
};

use super::superblock::{SuperBlock, ro_compat};

pub(super) mod flag {
    pub(crate) const COMPRESSED: u32 = 0x4;
    pub(crate) const ENCRYPTED: u32 = 0x800;
    pub(crate) const HUGE_FILE: u32 = 0x4_0000;
    pub(crate) const EXTENTS: u32 = 0x8_0000;
    pub(crate) const EA_INODE: u32 = 0x20_0000;
    pub(crate) const INLINE_DATA: u32 = 0x1000_0000;
}

/// Where a block map, or a short file, lies in an inode.
pub(super) const MAP: std::ops::Range<usize> = 0x28..0x64;

#[derive(Debug)]
pub(super) struct Inode {
    pub(super) number: u64,
    pub(super) mode: u16,
    pub(super) size_bytes: u64,
    pub(super) flags: u32,
    pub(super) attributes_block: u64,
    /// All of it, as it lies on disk.
    pub(super) bytes: Vec<u8>,
}

impl Inode {
    pub(super) fn read(volume: &Volume, superblock: &SuperBlock, number: u64) -> Result<Self> {
        let offset = superblock.inode_offset(volume, number)?;
        let bytes = volume.bytes(offset, superblock.inode_bytes.into())?;
        Ok(Self {
            number,
            mode: le16(&bytes, 0),
            size_bytes: join(le32(&bytes, 0x6c), le32(&bytes, 4)),
            flags: le32(&bytes, 0x20),
            attributes_block: join(le16(&bytes, 0x76).into(), le32(&bytes, 0x68)),
            bytes,
        })
    }

    pub(super) fn kind(&self) -> FileKind {
        FileKind::of_mode(self.mode)
    }

    pub(super) fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn map(&self) -> &[u8] {
        &self.bytes[MAP]
    }

    /// Where extended attributes begin inside the inode, if there is room for any.
    pub(super) fn attributes_start(&self) -> Option<usize> {
        if self.bytes.len() <= 128 {
            return None;
        }
        let start = 128 + usize::from(le16(&self.bytes, 0x80));
        (start + 4 <= self.bytes.len()).then_some(start)
    }

    /// In units of 512 bytes.
    fn sectors(&self, superblock: &SuperBlock) -> u64 {
        let low = le32(&self.bytes, 0x1c);
        if superblock.ro_compat & ro_compat::HUGE_FILE == 0 {
            return low.into();
        }
        let all = join(le16(&self.bytes, 0x74).into(), low);
        if self.has(flag::HUGE_FILE) { all.saturating_mul(superblock.block_bytes / 512) } else { all }
    }

    /// A link whose target lies where other files have their map.
    pub(super) fn is_short_link(&self, superblock: &SuperBlock) -> bool {
        let own = if self.attributes_block == 0 { 0 } else { superblock.block_bytes / 512 };
        self.kind() == FileKind::Link
            && !self.has(flag::INLINE_DATA)
            && !self.has(flag::EXTENTS)
            && self.size_bytes < MAP.len() as u64
            && self.sectors(superblock) <= own
    }

    fn time(&self, at: usize, extra_at: usize) -> Timestamp {
        let seconds = i64::from(le32(&self.bytes, at).cast_signed());
        let there = self.bytes.len() > 128 && extra_at + 4 <= 128 + usize::from(le16(&self.bytes, 0x80));
        let extra = if there { le32(&self.bytes, extra_at) } else { 0 };
        Timestamp {
            seconds: seconds + (i64::from(extra & 3) << 32),
            nanoseconds: (extra >> 2).min(999_999_999),
        }
    }

    fn device(&self) -> Option<(u32, u32)> {
        if !matches!(self.kind(), FileKind::BlockDevice | FileKind::CharDevice) {
            return None;
        }
        let (old, new) = (le32(self.map(), 0), le32(self.map(), 4));
        Some(if old != 0 {
            (old >> 8 & 0xff, old & 0xff)
        } else {
            (new >> 8 & 0xfff, new & 0xff | new >> 12 & 0xf_ff00)
        })
    }

    pub(super) fn stat(&self, superblock: &SuperBlock) -> Stat {
        let created =
            (self.bytes.len() > 128 && le16(&self.bytes, 0x80) >= 24).then(|| self.time(0x90, 0x94));
        Stat {
            node: Node(self.number),
            kind: self.kind(),
            size_bytes: self.size_bytes,
            allocated_bytes: self.sectors(superblock).saturating_mul(512),
            mode: Some(self.mode & 0o7777),
            uid: Some(u32::from(le16(&self.bytes, 0x78)) << 16 | u32::from(le16(&self.bytes, 2))),
            gid: Some(u32::from(le16(&self.bytes, 0x7a)) << 16 | u32::from(le16(&self.bytes, 0x18))),
            times: Times {
                modified: Some(self.time(0x10, 0x88)),
                accessed: Some(self.time(8, 0x8c)),
                changed: Some(self.time(0xc, 0x84)),
                created,
            },
            links: le16(&self.bytes, 0x1a).into(),
            attributes: Attributes::Ext(self.flags),
            device: self.device(),
        }
    }
}
