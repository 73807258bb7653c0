//! What a VHDX file says of its disk: sizes, and where its parent is. Pure functions of bytes.

use crate::{
    Guid,
    error::Fault::{self, Damaged, Unsupported},
    fields::{Fields, utf16},
    mapped::DISK_BYTES_MAX,
};

pub(super) const TABLE_BYTES: usize = 64 << 10;
/// The format's own limit of one item.
const ITEM_BYTES_MAX: u32 = 1 << 20;
const ITEMS_MAX: u16 = 2047;
const BLOCK_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=256 << 20;

pub(super) const FILE_PARAMETERS: Guid = Guid::known(0xcaa1_6737_fa36_4d43_b3b6_33f0_aa44_e76b);
pub(super) const DISK_SIZE: Guid = Guid::known(0x2fa5_4224_cd1b_4876_b211_5dbe_d83b_f4b8);
pub(super) const DISK_ID: Guid = Guid::known(0xbeca_12ab_b2e6_4523_93ef_c309_e000_c746);
pub(super) const LOGICAL_SECTOR: Guid = Guid::known(0x8141_bf1d_a96f_4709_ba47_f233_a8fa_ab5f);
pub(super) const PHYSICAL_SECTOR: Guid = Guid::known(0xcda3_48c7_445d_4471_9cc9_e988_5251_c556);
pub(super) const PARENT_LOCATOR: Guid = Guid::known(0xa8d3_5f2d_b30b_454d_abf7_d3d8_4834_ab0c);
/// The one kind of locator that the format has.
pub(super) const VHDX_PARENT: Guid = Guid::known(0xb04a_efb7_d19e_4a81_b789_25b8_e944_5913);

const KNOWN: [Guid; 6] =
    [FILE_PARAMETERS, DISK_SIZE, DISK_ID, LOGICAL_SECTOR, PHYSICAL_SECTOR, PARENT_LOCATOR];

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    pub size_bytes: u64,
    pub block_bytes: u64,
    /// Of the disk that a machine sees: 512 or 4096.
    pub sector_bytes: u64,
    pub parent: Option<ParentLocator>,
}

/// Where a differencing disk's parent is, and which it must be.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ParentLocator {
    /// One of these is the parent's [`data_write`](super::Header::data_write).
    pub linkage: Vec<Guid>,
    pub relative: Option<String>,
    /// Paths of the host that made it, the best first.
    pub whole: Vec<String>,
}

/// Where an item is, from the begin of the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    pub id: Guid,
    pub offset: u64,
    pub length: usize,
}

/// The known items of the table that the region of `region_bytes` begins with.
pub(super) fn items(table: &[u8], region_bytes: u64) -> Result<Vec<Item>, Fault> {
    let fields = Fields(table);
    if &fields.array(0) != b"metadata" {
        return Err(Damaged(0, "no metadata".into()));
    }
    let count = fields.le16(10);
    if count > ITEMS_MAX {
        return Err(Damaged(10, format!("a table of {count} items")));
    }
    let mut found: Vec<Item> = Vec::new();
    for entry in (1..=usize::from(count)).map(|number| 32 * number) {
        let (id, offset, length) = (fields.guid(entry), fields.le32(entry + 16), fields.le32(entry + 20));
        let (is_user, is_required) = (fields.le32(entry + 24) & 1 == 1, fields.le32(entry + 24) & 4 == 4);
        if is_user || !KNOWN.contains(&id) {
            if is_required {
                return Err(Unsupported(format!("needs metadata that are not known here ({id})")));
            }
            continue;
        }
        let inside = u64::from(offset) >= TABLE_BYTES as u64
            && u64::from(offset) + u64::from(length) <= region_bytes
            && length <= ITEM_BYTES_MAX;
        if !inside || found.iter().any(|item| item.id == id) {
            return Err(Damaged(entry as u64, format!("an item of {length} bytes at byte {offset} ({id})")));
        }
        found.push(Item { id, offset: u64::from(offset), length: length as usize });
    }
    Ok(found)
}

impl Metadata {
    /// `item` gives the bytes of one.
    pub(super) fn parse(item: impl Fn(Guid) -> Option<Vec<u8>>) -> Result<Self, Fault> {
        let need = |id, length, what: &str| match item(id) {
            Some(bytes) if bytes.len() >= length => Ok(bytes),
            _ => Err(Damaged(0, format!("it does not say its {what}"))),
        };
        let parameters = need(FILE_PARAMETERS, 8, "block size")?;
        let block_bytes = u64::from(Fields(&parameters).le32(0));
        if !block_bytes.is_power_of_two() || !BLOCK_BYTES.contains(&block_bytes) {
            return Err(Damaged(0, format!("blocks of {block_bytes} bytes")));
        }
        let sector_bytes = u64::from(Fields(&need(LOGICAL_SECTOR, 4, "sector size")?).le32(0));
        if ![512, 4096].contains(&sector_bytes) {
            return Err(Damaged(0, format!("sectors of {sector_bytes} bytes")));
        }
        let size_bytes = Fields(&need(DISK_SIZE, 8, "size")?).le64(0);
        if size_bytes > DISK_BYTES_MAX || !size_bytes.is_multiple_of(sector_bytes) {
            return Err(Damaged(0, format!("a disk of {size_bytes} bytes")));
        }
        let parent = match Fields(&parameters).le32(4) & 2 {
            0 => None,
            _ => Some(ParentLocator::parse(&need(PARENT_LOCATOR, 20, "parent")?)?),
        };
        Ok(Self { size_bytes, block_bytes, sector_bytes, parent })
    }

    /// Blocks that one block of the sectors' bitmap speaks of.
    pub(super) fn chunk_blocks(&self) -> u64 {
        (self.sector_bytes << 23) / self.block_bytes
    }

    /// Entries that the block table must have.
    pub(super) fn table_entries(&self) -> u64 {
        let (blocks, chunk) = (self.size_bytes.div_ceil(self.block_bytes), self.chunk_blocks());
        match self.parent {
            Some(_) => blocks.div_ceil(chunk) * (chunk + 1),
            None => blocks + blocks.saturating_sub(1) / chunk,
        }
    }
}

impl ParentLocator {
    fn parse(bytes: &[u8]) -> Result<Self, Fault> {
        let fields = Fields(bytes);
        if fields.guid(0) != VHDX_PARENT {
            let kind = fields.guid(0);
            return Err(Unsupported(format!("has a parent of a kind that is not known here ({kind})")));
        }
        let mut found = Self::default();
        let mut whole = [None, None];
        for entry in (0..usize::from(fields.le16(18))).map(|number| 20 + 12 * number) {
            let part = |offset, length| {
                let (offset, length) = (fields.le32(offset) as usize, usize::from(fields.le16(length)));
                let part = fields.part(offset, length);
                (part.len() == length).then(|| utf16(part, u16::from_le_bytes)).flatten()
            };
            let (Some(key), Some(value)) = (part(entry, entry + 8), part(entry + 4, entry + 10)) else {
                return Err(Damaged(entry as u64, "a parent's name that is no text".into()));
            };
            match key.as_str() {
                "parent_linkage" | "parent_linkage2" => {
                    let id = Guid::parse(&value).filter(|id| *id != Guid::ZERO);
                    found.linkage.extend(id.filter(|id| !found.linkage.contains(id)));
                }
                "relative_path" => found.relative = Some(value),
                "volume_path" => whole[0] = Some(value),
                "absolute_win32_path" => whole[1] = Some(value),
                _ => {}
            }
        }
        // The path with a drive's letter means more than the identity of a volume, which no other host knows.
        found.whole = whole.into_iter().rev().flatten().collect();
        if found.linkage.is_empty() {
            return Err(Damaged(0, "it does not say which its parent is".into()));
        }
        Ok(found)
    }
}
