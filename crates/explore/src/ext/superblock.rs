//! The superblock, and where groups of blocks keep their inodes.

use crate::{
    Result,
    bytes::{join, le16, le32, u8_at, until_nul, uuid},
    detect::Kind,
    fs::Summary,
    volume::Volume,
};

pub(crate) const MAGIC: u16 = 0xef53;
pub(crate) const OFFSET: u64 = 1024;
const BYTES: usize = 1024;

pub(super) mod compat {
    pub(crate) const HAS_JOURNAL: u32 = 0x4;
    pub(crate) const SPARSE_SUPER2: u32 = 0x200;
}

pub(super) mod incompat {
    pub(crate) const FILETYPE: u32 = 0x2;
    pub(crate) const RECOVER: u32 = 0x4;
    pub(crate) const JOURNAL_DEV: u32 = 0x8;
    pub(crate) const META_BG: u32 = 0x10;
    pub(crate) const EXTENTS: u32 = 0x40;
    pub(crate) const BITS_64: u32 = 0x80;
    pub(crate) const FLEX_BG: u32 = 0x200;
    /// What this reader knows: the above, and MMP, EA_INODE, CSUM_SEED, LARGEDIR, INLINE_DATA, ENCRYPT (of which names
    /// and bytes stay as they are), CASEFOLD.
    pub(crate) const KNOWN: u32 = FILETYPE
        | RECOVER
        | META_BG
        | EXTENTS
        | BITS_64
        | FLEX_BG
        | 0x100
        | 0x400
        | 0x2000
        | 0x4000
        | 0x8000
        | 0x1_0000
        | 0x2_0000;
}

pub(super) mod ro_compat {
    pub(crate) const SPARSE_SUPER: u32 = 0x1;
    pub(crate) const HUGE_FILE: u32 = 0x8;
    pub(crate) const GDT_CSUM: u32 = 0x10;
    pub(crate) const METADATA_CSUM: u32 = 0x400;
}

#[derive(Debug, Clone)]
pub(crate) struct SuperBlock {
    pub(super) block_bytes: u64,
    pub(super) blocks: u64,
    free_blocks: u64,
    inodes: u32,
    first_data_block: u32,
    blocks_per_group: u32,
    inodes_per_group: u32,
    pub(super) inode_bytes: u16,
    descriptor_bytes: u64,
    pub(super) compat: u32,
    pub(super) incompat: u32,
    pub(super) ro_compat: u32,
    first_meta_group: u32,
    backup_groups: [u32; 2],
    pub(super) journal_inode: u32,
    journal_device: u32,
    clean: bool,
    label: Vec<u8>,
    uuid: Option<String>,
}

impl SuperBlock {
    pub(super) fn read(volume: &Volume) -> Result<Self> {
        let bytes = volume.bytes(OFFSET, BYTES)?;
        if le16(&bytes, 0x38) != MAGIC {
            return Err(volume.damaged("the superblock of ext is not there"));
        }
        let old = le32(&bytes, 0x4c) == 0;
        let incompat = if old { 0 } else { le32(&bytes, 0x60) };
        let wide = incompat & incompat::BITS_64 != 0;
        let high = |at| if wide { le32(&bytes, at) } else { 0 };
        let found = Self {
            block_bytes: 1024_u64.checked_shl(le32(&bytes, 0x18)).unwrap_or_default(),
            blocks: join(high(0x150), le32(&bytes, 4)),
            free_blocks: join(high(0x158), le32(&bytes, 0xc)),
            inodes: le32(&bytes, 0),
            first_data_block: le32(&bytes, 0x14),
            blocks_per_group: le32(&bytes, 0x20),
            inodes_per_group: le32(&bytes, 0x28),
            inode_bytes: if old { 128 } else { le16(&bytes, 0x58) },
            descriptor_bytes: if wide { le16(&bytes, 0xfe).into() } else { 32 },
            compat: if old { 0 } else { le32(&bytes, 0x5c) },
            incompat,
            ro_compat: if old { 0 } else { le32(&bytes, 0x64) },
            first_meta_group: le32(&bytes, 0x104),
            backup_groups: [le32(&bytes, 0x24c), le32(&bytes, 0x250)],
            journal_inode: le32(&bytes, 0xe0),
            journal_device: le32(&bytes, 0xe4),
            clean: u8_at(&bytes, 0x3a) & 1 != 0,
            label: until_nul(&bytes[0x78..0x88]).to_owned(),
            uuid: uuid(&bytes[0x68..0x78]),
        };
        found.check(volume)?;
        Ok(found)
    }

    fn check(&self, volume: &Volume) -> Result<()> {
        if self.incompat & incompat::JOURNAL_DEV != 0 {
            return Err(volume.unsupported("it is the journal of another file system, not one itself"));
        }
        let unknown = self.incompat & !incompat::KNOWN;
        if unknown != 0 {
            return Err(volume
                .unsupported(format!("it uses features of ext that no reader here knows: {unknown:#x}")));
        }
        let descriptor_fits =
            (32..=1024).contains(&self.descriptor_bytes) && self.descriptor_bytes.is_power_of_two();
        let sane = (1024..=65_536).contains(&self.block_bytes)
            && (128..=self.block_bytes).contains(&self.inode_bytes.into())
            && self.inode_bytes.is_power_of_two()
            && self.blocks_per_group > 0
            && u64::from(self.blocks_per_group) <= 8 * self.block_bytes * 1024
            && self.inodes_per_group > 0
            && descriptor_fits;
        if sane { Ok(()) } else { Err(volume.damaged("the superblock says what cannot be")) }
    }

    pub(super) fn has_incompat(&self, feature: u32) -> bool {
        self.incompat & feature != 0
    }

    /// Where an inode lies.
    pub(super) fn inode_offset(&self, volume: &Volume, number: u64) -> Result<u64> {
        if number == 0 || number > self.inodes.into() {
            return Err(volume.damaged(format!("inode {number} is named, and there are {}", self.inodes)));
        }
        let group = (number - 1) / u64::from(self.inodes_per_group);
        let index = (number - 1) % u64::from(self.inodes_per_group);
        let descriptor =
            volume.bytes(self.descriptor_offset(volume, group)?, self.descriptor_bytes as usize)?;
        let high = if self.descriptor_bytes >= 64 { le32(&descriptor, 0x28) } else { 0 };
        let table = join(high, le32(&descriptor, 8));
        table
            .checked_mul(self.block_bytes)
            .and_then(|at| at.checked_add(index * u64::from(self.inode_bytes)))
            .ok_or_else(|| {
                volume.damaged(format!("the inodes of group {group} are said to lie at block {table}"))
            })
    }

    fn descriptor_offset(&self, volume: &Volume, group: u64) -> Result<u64> {
        let per_block = self.block_bytes / self.descriptor_bytes;
        let (block, inside) = (group / per_block, group % per_block * self.descriptor_bytes);
        let own = OFFSET / self.block_bytes;
        let place = if !self.has_incompat(incompat::META_BG) || block < self.first_meta_group.into() {
            own + 1 + block
        } else {
            let first = block * per_block;
            let start = u64::from(self.first_data_block) + first * u64::from(self.blocks_per_group);
            let one_more = first == 0 && self.block_bytes == 1024 && self.first_data_block == 0;
            start + u64::from(self.has_super(first)) + u64::from(one_more)
        };
        place
            .checked_mul(self.block_bytes)
            .and_then(|at| at.checked_add(inside))
            .ok_or_else(|| volume.damaged(format!("group {group} cannot be")))
    }

    /// Whether a group begins with a copy of the superblock.
    fn has_super(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.compat & compat::SPARSE_SUPER2 != 0 {
            return self.backup_groups.iter().any(|backup| u64::from(*backup) == group);
        }
        let is_power = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        self.ro_compat & ro_compat::SPARSE_SUPER == 0 || group == 1 || [3, 5, 7].into_iter().any(is_power)
    }

    pub(super) fn needs_replay(&self) -> bool {
        self.compat & compat::HAS_JOURNAL != 0 && self.has_incompat(incompat::RECOVER)
    }

    pub(super) fn journal_is_elsewhere(&self) -> bool {
        self.journal_inode == 0 || self.journal_device != 0
    }

    fn kind(&self) -> Kind {
        let newer = incompat::EXTENTS | incompat::BITS_64 | incompat::FLEX_BG;
        let ro_newer = ro_compat::HUGE_FILE | ro_compat::GDT_CSUM | ro_compat::METADATA_CSUM;
        if self.incompat & newer != 0 || self.ro_compat & ro_newer != 0 {
            Kind::Ext4
        } else if self.compat & compat::HAS_JOURNAL != 0 {
            Kind::Ext3
        } else {
            Kind::Ext2
        }
    }

    pub(super) fn summary(&self, mut notes: Vec<String>) -> Summary {
        if !self.clean && notes.is_empty() && !self.needs_replay() {
            notes.push("it was not cleanly unmounted, and has no journal to make up for it".to_owned());
        }
        Summary {
            kind: self.kind(),
            label: String::from_utf8_lossy(&self.label).into_owned(),
            uuid: self.uuid.clone(),
            size_bytes: self.blocks.saturating_mul(self.block_bytes),
            free_bytes: Some(self.free_blocks.saturating_mul(self.block_bytes)),
            block_bytes: self.block_bytes as u32,
            notes,
        }
    }

    /// Label, UUID and kind, for who only wants to know what a volume is.
    pub(crate) fn describe(volume: &Volume) -> Option<(Kind, String, Option<String>)> {
        let found = Self::read(volume).ok()?;
        Some((found.kind(), String::from_utf8_lossy(&found.label).into_owned(), found.uuid))
    }
}
