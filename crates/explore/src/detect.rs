//! What a volume holds, by what is written where each kind of content has its mark.
//!
//! Also kinds that no reader here reads: whoever asks is to be told what it is, and what reads it. Marks come first
//! of what lies below other things: a member of an array or an encrypted volume may have a file system's mark at its
//! front that is not its own.

use std::{fmt, sync::Arc};

use nestling_block::BlockSource;
use serde::{Deserialize, Serialize};

use crate::{
    ExploreError, Result,
    bytes::{le16, le32, le64, part, until_nul, uuid},
    exfat,
    ext::{self, ExtSuperBlock},
    fat::Geometry,
    ntfs,
    volume::Volume,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    Ext2,
    Ext3,
    Ext4,
    Ntfs,
    Fat12,
    Fat16,
    Fat32,
    Exfat,
    Xfs,
    Btrfs,
    /// A physical volume.
    Lvm,
    /// A member of an array of Linux.
    Md,
    Luks,
    Swap,
    Bitlocker,
    Refs,
    Iso9660,
    Squashfs,
    Zfs,
    F2fs,
    HfsPlus,
    Apfs,
    Jfs,
    Reiserfs,
    Vmfs,
    /// Not a volume but a disk with some.
    PartitionTable,
    /// Nothing but zeroes at its front.
    Empty,
    Unknown,
}

impl Kind {
    /// Whether a reader here reads it.
    #[must_use]
    pub fn is_readable(self) -> bool {
        use Kind::{Exfat, Ext2, Ext3, Ext4, Fat12, Fat16, Fat32, Ntfs};
        matches!(self, Ext2 | Ext3 | Ext4 | Ntfs | Fat12 | Fat16 | Fat32 | Exfat)
    }

    /// Whether a machine of ours mounts it.
    #[must_use]
    pub fn is_mounted(self) -> bool {
        matches!(self, Self::Xfs | Self::Btrfs | Self::Iso9660 | Self::Squashfs)
    }

    /// Whether volumes are put together from what is there.
    #[must_use]
    pub fn is_part(self) -> bool {
        matches!(self, Self::Lvm | Self::Md)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Ntfs => "NTFS",
            Self::Fat12 => "FAT12",
            Self::Fat16 => "FAT16",
            Self::Fat32 => "FAT32",
            Self::Exfat => "exFAT",
            Self::Xfs => "XFS",
            Self::Btrfs => "btrfs",
            Self::Lvm => "an LVM physical volume",
            Self::Md => "a member of a Linux array (md)",
            Self::Luks => "an encrypted volume (LUKS)",
            Self::Swap => "swap space",
            Self::Bitlocker => "an encrypted volume (BitLocker)",
            Self::Refs => "ReFS",
            Self::Iso9660 => "ISO 9660",
            Self::Squashfs => "SquashFS",
            Self::Zfs => "a member of a ZFS pool",
            Self::F2fs => "F2FS",
            Self::HfsPlus => "HFS+",
            Self::Apfs => "APFS",
            Self::Jfs => "JFS",
            Self::Reiserfs => "ReiserFS",
            Self::Vmfs => "VMFS",
            Self::PartitionTable => "a partition table",
            Self::Empty => "nothing (zeroes)",
            Self::Unknown => "nothing that is known here",
        })
    }
}

/// What was found on a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    pub kind: Kind,
    pub label: String,
    /// Or a serial number.
    pub uuid: Option<String>,
}

impl Content {
    fn of(kind: Kind) -> Self {
        Self { kind, label: String::new(), uuid: None }
    }

    fn named(kind: Kind, label: &[u8], uuid: Option<String>) -> Self {
        Self { kind, label: String::from_utf8_lossy(until_nul(label)).trim_end().to_owned(), uuid }
    }
}

/// Says what a volume holds. Only a disk that cannot be read is an error.
pub fn detect(source: &Arc<dyn BlockSource>) -> Result<Content> {
    let look = Look { source };
    for probe in [Look::below, Look::ours, Look::others, Look::rest] {
        if let Some(found) = probe(&look)? {
            return Ok(found);
        }
    }
    Ok(Content::of(Kind::Unknown))
}

struct Look<'a> {
    source: &'a Arc<dyn BlockSource>,
}

impl Look<'_> {
    /// The bytes at a place; none where the volume is too short.
    fn at(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        let fits = offset.checked_add(length as u64).is_some_and(|end| end <= self.source.size_bytes());
        if !fits {
            return Ok(Vec::new());
        }
        self.source
            .read_at(&mut bytes, offset)
            .map_err(|source| ExploreError::Disk { volume: self.source.name().to_owned(), source })?;
        Ok(bytes)
    }

    fn starts(&self, offset: u64, magic: &[u8]) -> Result<bool> {
        Ok(self.at(offset, magic.len())? == magic)
    }

    /// What is below volumes: encryption, arrays, LVM.
    fn below(&self) -> Result<Option<Content>> {
        let front = self.at(0, 4096)?;
        if front.starts_with(b"LUKS\xba\xbe") {
            let label = if front[7] == 2 { &front[24..72] } else { b"" };
            let uuid = String::from_utf8_lossy(until_nul(&front[168..208])).into_owned();
            return Ok(Some(Content::named(Kind::Luks, label, Some(uuid))));
        }
        if part(&front, 3, 8).is_some_and(|oem| oem == b"-FVE-FS-") {
            return Ok(Some(Content::of(Kind::Bitlocker)));
        }
        for sector in front.chunks_exact(512).take(4) {
            if sector.starts_with(b"LABELONE") && part(sector, 24, 8) == Some(b"LVM2 001") {
                let id = part(sector, le32(sector, 20) as usize, 32).unwrap_or_default();
                return Ok(Some(Content::named(
                    Kind::Lvm,
                    b"",
                    Some(String::from_utf8_lossy(id).into_owned()),
                )));
            }
        }
        self.array()
    }

    /// A member of an array keeps its superblock at the front, or at the end. A mirror of the latter kind is a volume
    /// like any other, and read as one.
    fn array(&self) -> Result<Option<Content>> {
        const MAGIC: u32 = 0xa92b_4efc;
        const MIRROR: u32 = 1;
        let size = self.source.size_bytes();
        let at_end = [
            (size / 512).saturating_sub(16) / 8 * 4096,
            size.saturating_sub(64 << 10) / (64 << 10) * (64 << 10),
        ];
        for (offset, is_front) in [(0, true), (4096, true), (at_end[0], false), (at_end[1], false)] {
            let block = self.at(offset, 256)?;
            if le32(&block, 0) != MAGIC {
                continue;
            }
            let (version, level) =
                (le32(&block, 4), le32(&block, if le32(&block, 4) == 1 { 72 } else { 28 }));
            if version > 1 || !is_front && level == MIRROR {
                continue;
            }
            let (label, id) =
                if version == 1 { (&block[32..64], uuid(&block[16..32])) } else { (&b""[..], None) };
            return Ok(Some(Content::named(Kind::Md, label, id)));
        }
        Ok(None)
    }

    /// What readers here read.
    fn ours(&self) -> Result<Option<Content>> {
        let front = self.at(0, 512)?;
        if part(&front, ntfs::MAGIC_OFFSET, 8) == Some(ntfs::MAGIC) {
            let (label, serial) = ntfs::describe(self.source).unwrap_or_default();
            return Ok(Some(Content::named(Kind::Ntfs, label.as_bytes(), serial)));
        }
        if part(&front, exfat::MAGIC_OFFSET, 8) == Some(exfat::MAGIC) {
            return Ok(Some(Content::of(Kind::Exfat)));
        }
        if le16(&self.at(ext::OFFSET, 1024)?, 0x38) == ext::MAGIC {
            let volume = Volume::new(Arc::clone(self.source));
            if let Some((kind, label, uuid)) = ExtSuperBlock::describe(&volume) {
                return Ok(Some(Content { kind, label, uuid }));
            }
        }
        Ok(Geometry::parse(&front).map(|fat| fat.content()))
    }

    fn others(&self) -> Result<Option<Content>> {
        let front = self.at(0, 512)?;
        if front.starts_with(b"XFSB") {
            return Ok(Some(Content::named(Kind::Xfs, &front[108..120], uuid(&front[32..48]))));
        }
        if part(&front, 3, 8) == Some(b"ReFS\0\0\0\0") {
            return Ok(Some(Content::of(Kind::Refs)));
        }
        let btrfs = self.at(0x1_0000, 0x22b)?;
        if part(&btrfs, 0x40, 8) == Some(b"_BHRfS_M") {
            return Ok(Some(Content::named(Kind::Btrfs, &btrfs[0x12b..], uuid(&btrfs[0x20..0x30]))));
        }
        for page in [4096, 8192, 16_384, 65_536] {
            let mark = self.at(page - 10, 10)?;
            if mark == b"SWAPSPACE2" || mark == b"SWAP-SPACE" || mark.starts_with(b"S1SUSPEND") {
                let names = self.at(1036, 32)?;
                return Ok(Some(Content::named(Kind::Swap, &names[16..], uuid(&names[..16]))));
            }
        }
        for (offset, magic, kind) in [
            (0, &b"hsqs"[..], Kind::Squashfs),
            (32, b"NXSB", Kind::Apfs),
            (1024, b"H+", Kind::HfsPlus),
            (1024, b"HX", Kind::HfsPlus),
            (1024, b"\x10\x20\xf5\xf2", Kind::F2fs),
            (0x8000, b"JFS1", Kind::Jfs),
            (0x8001, b"CD001", Kind::Iso9660),
            (0x1_0034, b"ReIsEr", Kind::Reiserfs),
            (0x10_0000, b"\x0d\xd0\x01\xc0", Kind::Vmfs),
        ] {
            if self.starts(offset, magic)? {
                return Ok(Some(Content::of(kind)));
            }
        }
        Ok(self.is_zfs()?.then(|| Content::of(Kind::Zfs)))
    }

    /// The ring of its uberblocks begins at 128 KiB.
    fn is_zfs(&self) -> Result<bool> {
        const MAGIC: u64 = 0x00ba_b10c;
        let ring = self.at(128 << 10, 128 << 10)?;
        Ok(ring.chunks_exact(1024).any(|block| le64(block, 0) == MAGIC))
    }

    fn rest(&self) -> Result<Option<Content>> {
        let front = self.at(0, 512)?;
        let has_table = part(&front, 510, 2) == Some(&[0x55, 0xaa]) || self.starts(512, b"EFI PART")?;
        if has_table {
            return Ok(Some(Content::of(Kind::PartitionTable)));
        }
        let length = self.source.size_bytes().min(1 << 20);
        let empty = self.at(0, length as usize)?.iter().all(|byte| *byte == 0);
        Ok(empty.then(|| Content::of(Kind::Empty)))
    }
}

#[cfg(test)]
mod tests {
    use nestling_block::MemoryDisk;

    use super::*;

    fn kind_of(size: usize, marks: &[(usize, &[u8])]) -> Kind {
        let mut bytes = vec![0; size];
        for (at, mark) in marks {
            bytes[*at..at + mark.len()].copy_from_slice(mark);
        }
        let source: Arc<dyn BlockSource> = Arc::new(MemoryDisk::from_bytes("volume", &bytes));
        detect(&source).expect("readable").kind
    }

    #[test]
    fn marks_are_known() {
        const MIB: usize = 1 << 20;
        let md = |level: u8| [&[0xfc, 0x4e, 0x2b, 0xa9, 1][..], &[0; 67], &[level]].concat();
        for (kind, marks) in [
            (Kind::Xfs, &[(0, &b"XFSB"[..])][..]),
            (Kind::Btrfs, &[(0x1_0040, b"_BHRfS_M")]),
            (Kind::Lvm, &[(512, b"LABELONE"), (536, b"LVM2 001")]),
            (Kind::Luks, &[(0, b"LUKS\xba\xbe\0\x02")]),
            (Kind::Luks, &[(0, b"LUKS\xba\xbe\0\x02"), (1080, b"\x53\xef")]),
            (Kind::Swap, &[(4086, b"SWAPSPACE2")]),
            (Kind::Bitlocker, &[(3, b"-FVE-FS-"), (510, b"\x55\xaa")]),
            (Kind::Refs, &[(3, b"ReFS\0\0\0\0")]),
            (Kind::Md, &[(4096, &md(5))]),
            (Kind::Md, &[(4096, &md(1))]),
            (Kind::Md, &[(2 * MIB - 8192, &md(5)), (0, b"XFSB")]),
            (Kind::Xfs, &[(2 * MIB - 8192, &md(1)), (0, b"XFSB")]),
            (Kind::Iso9660, &[(0x8001, b"CD001")]),
            (Kind::PartitionTable, &[(510, b"\x55\xaa")]),
            (Kind::PartitionTable, &[(512, b"EFI PART")]),
            (Kind::Unknown, &[(99, b"x")]),
            (Kind::Empty, &[]),
        ] {
            assert_eq!(kind_of(2 * MIB, marks), kind, "{marks:?}");
        }
        assert_eq!(kind_of(0, &[]), Kind::Empty);
        assert_eq!(kind_of(600, &[(3, b"NTFS    ")]), Kind::Ntfs, "damaged, but nothing else");
    }
}
