//! Directories: lists of entries in blocks. An index that some have beside them lies in blocks that look like empty lists, so
//! it needs no regard.

use crate::{
    FileName, Result,
    bytes::{le16, le32, part, u8_at},
    fs::{Cursor, Entry, FileKind, Node, PAGE_ENTRIES_MAX, Page},
};

use super::{
    Ext,
    inode::{Inode, flag},
    superblock::incompat,
};

const HEAD_BYTES: usize = 8;
/// Of one page: a directory that says it has millions of empty blocks is given in many pages without entries.
const BLOCKS_OF_PAGE_MAX: u64 = 4096;

struct Raw<'a> {
    /// In its block.
    offset: usize,
    inode: u32,
    kind: u8,
    name: &'a [u8],
}

impl Ext {
    pub(super) fn page(&self, directory: &Inode, from: Cursor, limit: usize) -> Result<Page> {
        let mut page = Page::default();
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
        let count = self.directory_blocks(directory);
        let mut number = from.0 / self.superblock.block_bytes;
        let mut begin = (from.0 % self.superblock.block_bytes) as usize;
        for _ in 0..BLOCKS_OF_PAGE_MAX {
            if number >= count {
                return Ok(page);
            }
            let (block, skip) = match self.directory_block(directory, number) {
                Ok(found) => found,
                Err(error) => {
                    page.damage = Some(error.to_string());
                    (Vec::new(), 1)
                }
            };
            let (entries, whole) = list(&block, self.superblock.has_incompat(incompat::FILETYPE));
            for raw in entries.iter().filter(|raw| raw.offset >= begin) {
                if page.entries.len() >= limit {
                    page.next = Some(Cursor(number * self.superblock.block_bytes + raw.offset as u64));
                    return Ok(page);
                }
                page.entries.push(self.entry(raw));
            }
            if !whole {
                page.damage = Some(self.block_damage(directory, number));
            }
            begin = 0;
            number += skip;
        }
        page.next = (number < count).then(|| Cursor(number * self.superblock.block_bytes));
        Ok(page)
    }

    pub(super) fn search(&self, directory: &Inode, name: &[u8]) -> Result<Option<Node>> {
        let count = self.directory_blocks(directory);
        let mut number = 0;
        let mut damage = None;
        while number < count {
            let (block, skip) = match self.directory_block(directory, number) {
                Ok(found) => found,
                Err(error) => {
                    damage = Some(error);
                    (Vec::new(), 1)
                }
            };
            let (entries, whole) = list(&block, self.superblock.has_incompat(incompat::FILETYPE));
            if let Some(raw) = entries.iter().find(|raw| raw.name == name) {
                return Ok(Some(Node(raw.inode.into())));
            }
            if !whole {
                damage = Some(self.volume.damaged(self.block_damage(directory, number)));
            }
            number += skip;
        }
        damage.map_or(Ok(None), Err)
    }

    fn block_damage(&self, directory: &Inode, number: u64) -> String {
        format!("directory of inode {}: block {number} of it", directory.number)
    }

    /// A directory has no more blocks than the volume, whatever its size says.
    fn directory_blocks(&self, directory: &Inode) -> u64 {
        let stated = directory.size_bytes.div_ceil(self.superblock.block_bytes);
        if directory.has(flag::INLINE_DATA) {
            2
        } else {
            stated.min(self.volume.size_bytes() / self.superblock.block_bytes)
        }
    }

    /// A block of a directory, and how many to go forward; a hole is empty, and passed at once.
    fn directory_block(&self, directory: &Inode, number: u64) -> Result<(Vec<u8>, u64)> {
        if directory.has(flag::INLINE_DATA) {
            let [mut first, second] = self.inline_data(directory)?;
            // The number of the directory above comes first.
            first.drain(..4);
            return Ok((if number == 0 { first } else { second }, 1));
        }
        let stretch = self.stretch(directory, number)?;
        match stretch.block {
            Some(block) => Ok((self.block(block)?, 1)),
            None => Ok((Vec::new(), stretch.blocks)),
        }
    }

    fn entry(&self, raw: &Raw<'_>) -> Entry {
        let kind = match raw.kind {
            1 => FileKind::File,
            2 => FileKind::Directory,
            3 => FileKind::CharDevice,
            4 => FileKind::BlockDevice,
            5 => FileKind::Fifo,
            6 => FileKind::Socket,
            7 => FileKind::Link,
            _ => self.inode(raw.inode.into()).map_or(FileKind::Unknown, |inode| inode.kind()),
        };
        Entry { name: FileName::from(raw.name), node: Node(raw.inode.into()), kind }
    }
}

/// The entries of a block that are in use, and whether the whole of it made sense.
fn list(block: &[u8], has_kind: bool) -> (Vec<Raw<'_>>, bool) {
    let mut found = Vec::new();
    let mut at = 0;
    while at + HEAD_BYTES <= block.len() {
        let entry = &block[at..];
        // In blocks of 64 KiB, the whole length does not fit.
        let length = match le16(entry, 4) {
            0 | 0xffff if block.len() == 1 << 16 => block.len() - at,
            length => length.into(),
        };
        let (name_length, kind) =
            if has_kind { (u8_at(entry, 6).into(), u8_at(entry, 7)) } else { (le16(entry, 6).into(), 0) };
        let fits = length >= HEAD_BYTES && length.is_multiple_of(4) && length <= entry.len();
        let Some(name) =
            part(entry, HEAD_BYTES, name_length).filter(|_| fits && HEAD_BYTES + name_length <= length)
        else {
            return (found, false);
        };
        let inode = le32(entry, 0);
        if inode != 0 && name != b"." && name != b".." {
            found.push(Raw { offset: at, inode, kind, name });
        }
        at += length;
    }
    (found, true)
}
