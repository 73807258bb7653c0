//! Indexes: directories (`$I30`) and the table of security descriptors (`$SII`).
//!
//! An index is a tree, but all its nodes lie in one stream, and a bitmap says which of them are in use. So a directory is
//! listed node by node in the order of that stream: each entry comes once, and no tree that leads back to itself can be
//! followed round. Only searching follows the tree, down a bounded number of levels.

use std::{cmp::Ordering, sync::Arc};

use crate::{
    FileName, Result,
    bytes::{le16, le32, le64, part, u8_at},
    fs::{Attributes, Cursor, Entry, FileKind, Node, PAGE_ENTRIES_MAX, Page},
};

use super::{
    Ntfs,
    file::{File, tag},
    record::{kind, mend},
    stream::Stream,
};

const DEPTH_MAX: usize = 32;
const NODE_BYTES_MAX: u32 = 64 << 10;
const BITMAP_BYTES_MAX: u64 = 1 << 40;
/// Of one page: what is not in use is passed by.
const NODES_OF_PAGE_MAX: u64 = 1 << 16;
/// In a cursor, the place inside a node takes so many bits.
const PLACE_BITS: u32 = 20;
/// Files of the file system itself lie in the records before this one.
const OWN_RECORDS: u64 = 24;
const DIRECTORY: u32 = 0x1000_0000;
const NAMESPACE_DOS: u8 = 2;

pub(super) struct Index {
    root: Vec<u8>,
    node_bytes: u64,
    nodes: Option<Arc<Stream>>,
    bitmap: Option<Arc<Stream>>,
}

#[derive(Debug, Clone, Copy)]
struct Item<'a> {
    /// In its node.
    offset: usize,
    bytes: &'a [u8],
}

impl<'a> Item<'a> {
    fn reference(&self) -> u64 {
        le64(self.bytes, 0)
    }

    fn is_last(&self) -> bool {
        le16(self.bytes, 0xc) & 2 != 0
    }

    fn key(&self) -> &'a [u8] {
        part(self.bytes, 0x10, le16(self.bytes, 0xa).into()).unwrap_or_default()
    }

    /// The node with what comes before this one.
    fn child(&self) -> Option<u64> {
        let at = self.bytes.len().checked_sub(8).filter(|_| le16(self.bytes, 0xc) & 1 != 0)?;
        Some(le64(self.bytes, at))
    }
}

/// UTF-16, of a key that is a file's name.
fn name_of(key: &[u8]) -> &[u8] {
    part(key, 0x42, 2 * usize::from(u8_at(key, 0x40))).unwrap_or_default()
}

/// The items of a node from its index header on, and whether all of it made sense.
fn items(node: &[u8], header: usize) -> (Vec<Item<'_>>, bool) {
    let mut found = Vec::new();
    let end = header.saturating_add(le32(node, header + 4) as usize).min(node.len());
    let mut at = header.saturating_add(le32(node, header) as usize);
    while at < end {
        let length = usize::from(le16(node, at + 8));
        let Some(bytes) = part(node, at, length).filter(|_| length >= 0x10 && at + length <= end) else {
            return (found, false);
        };
        let item = Item { offset: at, bytes };
        found.push(item);
        if item.is_last() {
            return (found, true);
        }
        at += length;
    }
    (found, false)
}

impl Index {
    pub(super) fn open(ntfs: &Ntfs, file: &File, name: &str) -> Result<Self> {
        let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let damaged = |what: &str| ntfs.volume.damaged(format!("record {}: {what}", file.record.number));
        let root =
            file.stream(ntfs, kind::INDEX_ROOT, &name)?.ok_or_else(|| damaged("it lacks its index"))?;
        let root = root.all(ntfs, NODE_BYTES_MAX.into(), "the root of an index")?;
        let node_bytes = le32(&root, 8);
        if !node_bytes.is_power_of_two() || !(512..=NODE_BYTES_MAX).contains(&node_bytes) {
            return Err(damaged("its index has nodes of a size that cannot be"));
        }
        Ok(Self {
            root,
            node_bytes: node_bytes.into(),
            nodes: file.stream(ntfs, kind::INDEX_ALLOCATION, &name)?,
            bitmap: file.stream(ntfs, kind::BITMAP, &name)?,
        })
    }

    /// An index has no more nodes than fit on the volume, whatever its size says.
    fn node_count(&self, ntfs: &Ntfs) -> u64 {
        let stated = self.nodes.as_ref().map_or(0, |nodes| nodes.size_bytes);
        stated.min(ntfs.volume.size_bytes()) / self.node_bytes
    }

    fn node_at(&self, ntfs: &Ntfs, offset: u64) -> Result<Vec<u8>> {
        let damaged = || ntfs.volume.damaged(format!("the node at byte {offset} of an index"));
        let nodes = self.nodes.as_ref().ok_or_else(damaged)?;
        let mut bytes = vec![0; self.node_bytes as usize];
        let whole = nodes.read(ntfs, offset, &mut bytes)? == bytes.len();
        if whole && bytes.starts_with(b"INDX") && mend(&mut bytes) { Ok(bytes) } else { Err(damaged()) }
    }

    fn is_used(&self, ntfs: &Ntfs, number: u64) -> Result<bool> {
        let Some(bitmap) = &self.bitmap else { return Ok(true) };
        if bitmap.size_bytes > BITMAP_BYTES_MAX {
            return Err(ntfs.volume.damaged("the bitmap of an index has a size that cannot be"));
        }
        let mut byte = [0];
        bitmap.read(ntfs, number / 8, &mut byte)?;
        Ok(byte[0] >> (number % 8) & 1 != 0)
    }

    /// Goes down the tree to the key of which `order` says that it is the one.
    fn search<T>(
        &self,
        ntfs: &Ntfs,
        order: impl Fn(&[u8]) -> Ordering,
        take: impl Fn(&Item<'_>) -> Option<T>,
    ) -> Result<Option<T>> {
        let mut node = self.root.clone();
        let mut header = 0x10;
        for _ in 0..DEPTH_MAX {
            let (items, whole) = items(&node, header);
            // The first that does not come before it.
            let next = items.iter().find(|item| item.is_last() || order(item.key()).is_ge());
            let Some(item) = next.filter(|_| whole) else {
                return Err(ntfs.volume.damaged("a node of an index makes no sense"));
            };
            if !item.is_last() && order(item.key()).is_eq() {
                return Ok(take(item));
            }
            let Some(child) = item.child() else { return Ok(None) };
            // Nodes that are smaller than a cluster are counted by sectors.
            let unit = if self.node_bytes < ntfs.boot.cluster_bytes { 512 } else { ntfs.boot.cluster_bytes };
            node = self.node_at(ntfs, child.saturating_mul(unit))?;
            header = 0x18;
        }
        Err(ntfs.volume.damaged("an index is too deep"))
    }
}

impl Ntfs {
    pub(super) fn search_name(&self, directory: &File, name: &[u8]) -> Result<Option<Node>> {
        let index = Index::open(self, directory, "$I30")?;
        let upcase = self.upcase();
        let take = |item: &Item<'_>| Some(Node(item.reference()));
        let exact = index.search(self, |key| upcase.exact_order(name_of(key), name), take)?;
        match exact {
            Some(found) => Ok(Some(found)),
            None => index.search(self, |key| upcase.order(name_of(key), name), take),
        }
    }

    /// Where a security descriptor lies in the stream of all of them, and its length with its head.
    pub(super) fn search_security(&self, secure: &File, number: u32) -> Result<Option<(u64, u32)>> {
        let index = Index::open(self, secure, "$SII")?;
        index.search(
            self,
            |key| le32(key, 0).cmp(&number),
            |item| {
                let data = part(item.bytes, le16(item.bytes, 0).into(), le16(item.bytes, 2).into())?;
                Some((le64(data, 8), le32(data, 0x10)))
            },
        )
    }

    pub(super) fn page(&self, directory: &File, from: Cursor, limit: usize) -> Result<Page> {
        let index = Index::open(self, directory, "$I30")?;
        let is_root = directory.record.number == super::ROOT;
        let mut filling = Filling { page: Page::default(), limit: limit.clamp(1, PAGE_ENTRIES_MAX), is_root };
        // The root is number zero, and the others come behind it.
        let mut number = from.0 >> PLACE_BITS;
        let mut begin = (from.0 & ((1 << PLACE_BITS) - 1)) as usize;
        for _ in 0..NODES_OF_PAGE_MAX {
            if number > index.node_count(self) {
                return Ok(filling.page);
            }
            match self.node_of_page(&index, number) {
                Ok(Some((node, header))) => {
                    if let Some(place) = filling.take(&node, header, begin) {
                        filling.page.next = Some(Cursor(number << PLACE_BITS | place as u64));
                        return Ok(filling.page);
                    }
                }
                Ok(None) => {}
                Err(error) => filling.page.damage = Some(error.to_string()),
            }
            (number, begin) = (number + 1, 0);
        }
        if number <= index.node_count(self) {
            filling.page.next = Some(Cursor(number << PLACE_BITS));
        }
        Ok(filling.page)
    }

    fn node_of_page(&self, index: &Index, number: u64) -> Result<Option<(Vec<u8>, usize)>> {
        let Some(number) = number.checked_sub(1) else { return Ok(Some((index.root.clone(), 0x10))) };
        if index.is_used(self, number)? {
            Ok(Some((index.node_at(self, number * index.node_bytes)?, 0x18)))
        } else {
            Ok(None)
        }
    }
}

struct Filling {
    page: Page,
    limit: usize,
    is_root: bool,
}

impl Filling {
    /// Adds what lies in a node from a place on. The place of what there is no more room for.
    fn take(&mut self, node: &[u8], header: usize, begin: usize) -> Option<usize> {
        let (items, whole) = items(node, header);
        for item in items.iter().filter(|item| item.offset >= begin && !item.is_last()) {
            if self.page.entries.len() >= self.limit {
                return Some(item.offset);
            }
            let key = item.key();
            let number = item.reference() & super::record::RECORD_MASK;
            let own = self.is_root && number < OWN_RECORDS;
            if !own && u8_at(key, 0x41) != NAMESPACE_DOS {
                self.page.entries.push(entry(item.reference(), key));
            }
        }
        if !whole {
            self.page.damage = Some("a node of the directory's index makes no sense".to_owned());
        }
        None
    }
}

fn entry(reference: u64, key: &[u8]) -> Entry {
    let flags = le32(key, 0x38);
    let is_link = flags & Attributes::DOS_REPARSE_POINT != 0 && tag::is_link(le32(key, 0x3c));
    let kind = match (is_link, flags & DIRECTORY != 0) {
        (true, _) => FileKind::Link,
        (false, true) => FileKind::Directory,
        (false, false) => FileKind::File,
    };
    Entry { name: FileName::from_utf16_bytes(name_of(key)), node: Node(reference), kind }
}
