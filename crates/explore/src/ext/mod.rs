//! ext2, ext3 and ext4.
//!
//! A journal that was not yet written back is replayed in memory first (`journal.rs`), so that what is read is what a mount
//! would show; nothing is ever written. Checksums of metadata are not asked for, except in the journal, where they say
//! how far it goes: what is damaged is to be read as far as it can be, and no structure is believed because of a checksum.
//! Names and bytes of encrypted directories stay as they are on disk; reading such a file is refused.

mod attributes;
mod directory;
mod inode;
mod journal;
mod map;
mod superblock;

use std::{ops::Range, sync::Arc};

use nestling_block::{BlockSource, EXTENTS_MAX, Extent, ExtentKind, ExtentList};

use crate::{
    Result,
    fs::{Cursor, ExtendedAttribute, FileKind, FileSystem, Node, Page, Stat, Summary},
    volume::Volume,
};

use self::{
    inode::{Inode, flag},
    map::Stretch,
    superblock::SuperBlock,
};

pub(crate) use superblock::{MAGIC, OFFSET, SuperBlock as ExtSuperBlock};

const ROOT: u64 = 2;
/// Longer than any path that Linux takes.
const LINK_BYTES_MAX: u64 = 64 << 10;

pub(crate) struct Ext {
    volume: Volume,
    superblock: SuperBlock,
    summary: Summary,
}

impl Ext {
    pub(crate) fn open(source: Arc<dyn BlockSource>) -> Result<Self> {
        let volume = Volume::new(source);
        let superblock = SuperBlock::read(&volume)?;
        if !superblock.needs_replay() {
            return Ok(Self::over(volume, superblock, Vec::new()));
        }
        let raw = Self::over(volume, superblock, Vec::new());
        if raw.superblock.journal_is_elsewhere() {
            let note =
                "its journal lies on another disk and was not replayed: the last changes may be missing";
            return Ok(Self { summary: raw.superblock.summary(vec![note.to_owned()]), ..raw });
        }
        let replay = journal::replay(&raw)?;
        let notes = replay.notes;
        let volume = Volume::new(Arc::new(replay.source));
        let superblock = SuperBlock::read(&volume)?;
        Ok(Self::over(volume, superblock, notes))
    }

    fn over(volume: Volume, superblock: SuperBlock, notes: Vec<String>) -> Self {
        let summary = superblock.summary(notes);
        Self { volume, superblock, summary }
    }

    fn inode(&self, number: u64) -> Result<Inode> {
        Inode::read(&self.volume, &self.superblock, number)
    }

    /// An inode that is in use.
    fn live(&self, node: Node) -> Result<Inode> {
        let inode = self.inode(node.0)?;
        if inode.mode == 0 {
            return Err(self.volume.not_found(format!("file in inode {}", node.0)));
        }
        Ok(inode)
    }

    fn directory(&self, node: Node) -> Result<Inode> {
        let inode = self.live(node)?;
        if inode.kind() != FileKind::Directory {
            return Err(self
                .volume
                .wrong_kind(format!("{} in inode {}", inode.kind(), node.0), "a directory"));
        }
        Ok(inode)
    }

    fn block(&self, number: u64) -> Result<Vec<u8>> {
        let offset = number.checked_mul(self.superblock.block_bytes);
        let offset = offset.ok_or_else(|| self.volume.damaged(format!("block {number} is named")))?;
        self.volume.bytes(offset, self.superblock.block_bytes as usize)
    }

    fn stretch(&self, inode: &Inode, number: u64) -> Result<Stretch> {
        map::stretch(&self.volume, self.superblock.block_bytes, inode, number)
    }

    /// Fills `buf` from a file's blocks, whatever its size says.
    fn read_blocks(&self, inode: &Inode, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        let block_bytes = self.superblock.block_bytes;
        let mut at = offset;
        while !buf.is_empty() {
            let stretch = self.stretch(inode, at / block_bytes)?;
            let inside = at % block_bytes;
            let there = stretch.blocks.saturating_mul(block_bytes) - inside;
            let (piece, rest) = buf.split_at_mut(there.min(buf.len() as u64) as usize);
            match stretch.block {
                None => piece.fill(0),
                Some(block) => {
                    let start = block.checked_mul(block_bytes).and_then(|start| start.checked_add(inside));
                    let start =
                        start.ok_or_else(|| self.volume.damaged(format!("block {block} is named")))?;
                    self.volume.read(piece, start)?;
                }
            }
            at = at.saturating_add(piece.len() as u64);
            buf = rest;
        }
        Ok(())
    }

    /// A file or link whose bytes may be given out.
    fn readable(&self, node: Node) -> Result<Inode> {
        let inode = self.live(node)?;
        let what = || format!("{} in inode {}", inode.kind(), node.0);
        if !matches!(inode.kind(), FileKind::File | FileKind::Link) {
            return Err(self.volume.wrong_kind(what(), "a file with bytes"));
        }
        if inode.has(flag::ENCRYPTED) {
            return Err(self.volume.unsupported(format!("{} is encrypted (fscrypt)", what())));
        }
        if inode.has(flag::COMPRESSED) {
            return Err(self.volume.unsupported(format!("{} is compressed (e2compr)", what())));
        }
        Ok(inode)
    }

    fn read_inode(&self, inode: &Inode, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let count = inode.size_bytes.saturating_sub(offset).min(buf.len() as u64) as usize;
        let buf = &mut buf[..count];
        if inode.has(flag::INLINE_DATA) {
            let whole = self.inline_data(inode)?.concat();
            for (place, at) in buf.iter_mut().zip(offset as usize..) {
                *place = whole.get(at).copied().unwrap_or_default();
            }
        } else if inode.is_short_link(&self.superblock) {
            buf.copy_from_slice(&inode.map()[offset as usize..][..count]);
        } else {
            self.read_blocks(inode, offset, buf)?;
        }
        Ok(count)
    }

    fn no_streams(&self, stream: &[u8]) -> Result<()> {
        if stream.is_empty() { Ok(()) } else { Err(self.volume.not_found("stream: ext has none")) }
    }
}

impl FileSystem for Ext {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> Node {
        Node(ROOT)
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        let directory = self.directory(directory)?;
        if name == b"." || name == b".." { Ok(None) } else { self.search(&directory, name) }
    }

    fn list(&self, directory: Node, from: Cursor, limit: usize) -> Result<Page> {
        self.page(&self.directory(directory)?, from, limit)
    }

    fn stat(&self, node: Node) -> Result<Stat> {
        Ok(self.live(node)?.stat(&self.superblock))
    }

    fn read(&self, node: Node, stream: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.no_streams(stream)?;
        let inode = self.readable(node)?;
        self.read_inode(&inode, offset, buf)
    }

    fn extents(&self, node: Node, stream: &[u8], range: Range<u64>) -> Result<Vec<Extent>> {
        self.no_streams(stream)?;
        let inode = self.readable(node)?;
        let range = range.start.min(inode.size_bytes)..range.end.min(inode.size_bytes);
        let mut list = ExtentList::new(range);
        if inode.has(flag::INLINE_DATA) || inode.is_short_link(&self.superblock) {
            list.push(u64::MAX, ExtentKind::Data);
            return Ok(list.finish());
        }
        // What is torn into single blocks is told in several answers.
        for _ in 0..EXTENTS_MAX {
            let at = list.position();
            if list.is_done() {
                break;
            }
            let stretch = self.stretch(&inode, at / self.superblock.block_bytes)?;
            let length =
                stretch.blocks.saturating_mul(self.superblock.block_bytes) - at % self.superblock.block_bytes;
            list.push(length, if stretch.block.is_some() { ExtentKind::Data } else { ExtentKind::Zero });
        }
        Ok(list.finish())
    }

    fn link_target(&self, node: Node) -> Result<Vec<u8>> {
        let inode = self.readable(node)?;
        if inode.kind() != FileKind::Link {
            return Err(self
                .volume
                .wrong_kind(format!("{} in inode {}", inode.kind(), node.0), "a symbolic link"));
        }
        if inode.size_bytes > LINK_BYTES_MAX {
            return Err(self.volume.limit(format!("the link in inode {}, in bytes", node.0), LINK_BYTES_MAX));
        }
        let mut target = vec![0; inode.size_bytes as usize];
        self.read_inode(&inode, 0, &mut target)?;
        Ok(target)
    }

    fn extended_attributes(&self, node: Node) -> Result<Vec<ExtendedAttribute>> {
        self.attributes_of(&self.live(node)?)
    }
}
