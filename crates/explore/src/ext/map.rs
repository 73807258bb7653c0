//! Where a file's blocks lie: a tree of extents, or the older tables of pointers.
//!
//! Both are walked from the top for each stretch, never as a whole: a walk has as many steps as the tree has levels,
//! so a tree that leads back to itself costs no more than another.

use crate::{
    Result,
    bytes::{join, le16, le32},
    volume::Volume,
};

use super::inode::{Inode, flag};

const EXTENT_MAGIC: u16 = 0xf30a;
const DEPTH_MAX: u16 = 5;
const ENTRY_BYTES: usize = 12;
/// An extent that is longer was reserved, not written.
const WRITTEN_MAX: u16 = 1 << 15;
const DIRECT: u64 = 12;

/// A stretch of a file's blocks that lie one behind the other, or are a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    /// None is a hole.
    pub(super) block: Option<u64>,
    /// At least one.
    pub(super) blocks: u64,
}

/// The stretch that begins at a file's block of this number.
pub(super) fn stretch(volume: &Volume, block_bytes: u64, inode: &Inode, number: u64) -> Result<Stretch> {
    let reader = Reader { volume, block_bytes, inode };
    if inode.has(flag::EXTENTS) { reader.by_extents(number) } else { reader.by_tables(number) }
}

struct Reader<'a> {
    volume: &'a Volume,
    block_bytes: u64,
    inode: &'a Inode,
}

impl Reader<'_> {
    fn by_extents(&self, number: u64) -> Result<Stretch> {
        let mut node = self.inode.map().to_vec();
        let mut depth_wanted = None;
        // Where the next known thing begins: a hole ends there at the latest.
        let mut limit = u64::MAX;
        loop {
            let (entries, depth) = (usize::from(le16(&node, 2)), le16(&node, 6));
            let fits = (entries + 1) * ENTRY_BYTES <= node.len();
            let expected = depth_wanted.map_or(depth <= DEPTH_MAX, |wanted| depth == wanted);
            if le16(&node, 0) != EXTENT_MAGIC || !fits || !expected {
                return Err(self.damaged("its tree of extents makes no sense"));
            }
            let entry = |index: usize| &node[(index + 1) * ENTRY_BYTES..][..ENTRY_BYTES];
            let after =
                (0..entries).find(|index| u64::from(le32(entry(*index), 0)) > number).unwrap_or(entries);
            if after < entries {
                limit = limit.min(le32(entry(after), 0).into());
            }
            let hole = Stretch { block: None, blocks: limit - number };
            let Some(found) = after.checked_sub(1).map(entry) else { return Ok(hole) };
            if depth == 0 {
                return Ok(of_extent(found, number).unwrap_or(hole));
            }
            let next = join(le16(found, 8).into(), le32(found, 4));
            node = self.block(next)?;
            depth_wanted = Some(depth - 1);
        }
    }

    fn by_tables(&self, number: u64) -> Result<Stretch> {
        let pointers = self.block_bytes / 4;
        if number < DIRECT {
            return Ok(run(&self.inode.map()[..DIRECT as usize * 4], number as usize));
        }
        let mut offset = number - DIRECT;
        for level in 1..=3_u32 {
            let span = pointers.pow(level);
            if offset < span {
                let top = le32(self.inode.map(), (DIRECT as usize + level as usize - 1) * 4);
                return self.by_table(top.into(), offset, level);
            }
            offset -= span;
        }
        Ok(Stretch { block: None, blocks: u64::MAX - number })
    }

    /// Below a pointer to a table of this level, of whose blocks the one of number `offset` is meant.
    fn by_table(&self, mut pointer: u64, mut offset: u64, level: u32) -> Result<Stretch> {
        let pointers = self.block_bytes / 4;
        for below in (0..level).rev() {
            if pointer == 0 {
                return Ok(Stretch { block: None, blocks: pointers.pow(below + 1) - offset });
            }
            let table = self.block(pointer)?;
            let span = pointers.pow(below);
            let index = (offset / span) as usize;
            if below == 0 {
                return Ok(run(&table, index));
            }
            pointer = le32(&table, index * 4).into();
            offset %= span;
        }
        Err(self.damaged("its table of blocks makes no sense"))
    }

    fn block(&self, number: u64) -> Result<Vec<u8>> {
        let offset =
            number.checked_mul(self.block_bytes).ok_or_else(|| self.damaged("it lies behind all blocks"))?;
        self.volume.bytes(offset, self.block_bytes as usize)
    }

    fn damaged(&self, what: &str) -> crate::ExploreError {
        self.volume.damaged(format!("inode {}: {what}", self.inode.number))
    }
}

/// What a leaf says of a block; nothing, when it ends before that.
fn of_extent(extent: &[u8], number: u64) -> Option<Stretch> {
    let (length, written) = match le16(extent, 4) {
        length if length > WRITTEN_MAX => (length - WRITTEN_MAX, false),
        length => (length, true),
    };
    let skipped = number - u64::from(le32(extent, 0));
    let blocks = u64::from(length).checked_sub(skipped).filter(|blocks| *blocks > 0)?;
    let start = join(le16(extent, 6).into(), le32(extent, 8));
    Some(Stretch { block: written.then_some(start + skipped), blocks })
}

/// Pointers that lie next to each other and name neighbours, or nothing.
fn run(table: &[u8], index: usize) -> Stretch {
    let pointer = |index: usize| u64::from(le32(table, index * 4));
    let first = pointer(index);
    let step = u64::from(first != 0);
    let same =
        (index..table.len() / 4).zip(0_u64..).take_while(|(index, n)| pointer(*index) == first + n * step);
    Stretch { block: (first != 0).then_some(first), blocks: (same.count() as u64).max(1) }
}
