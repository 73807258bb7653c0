//! exFAT.
//!
//! Written here because it is small and no crate reads it without the whole volume in memory. Checksums of sets of slots are not asked
//! for: what is damaged is to be read as far as it can be.

mod directory;
mod geometry;

use std::{ops::Range, sync::Arc};

use nestling_block::{BlockSource, Extent, ExtentKind, ExtentList};

use crate::{
    Result,
    chain::Chains,
    detect::Kind,
    fs::{Attributes, Cursor, FileKind, FileSystem, Node, Page, Stat, Summary, Times},
    volume::Volume,
};

use self::{
    directory::{Allocation, Reader, Set, Step, place_of},
    geometry::Geometry,
};

pub(crate) use geometry::{MAGIC, MAGIC_OFFSET};

const ROOT: Node = Node(0);
/// The label is among the first slots of the root.
const LABEL_SLOTS: usize = 64;

pub(crate) struct Exfat {
    volume: Volume,
    geometry: Geometry,
    chains: Chains,
    summary: Summary,
}

impl Exfat {
    pub(crate) fn open(source: Arc<dyn BlockSource>) -> Result<Self> {
        let volume = Volume::new(source);
        let geometry = Geometry::read(&volume)?;
        geometry.place(&volume, geometry.root_cluster.into())?;
        let mut notes = Vec::new();
        if geometry.is_dirty {
            notes.push("it was in use, or not cleanly closed: the last changes may be missing".to_owned());
        }
        let summary = Summary {
            kind: Kind::Exfat,
            label: String::new(),
            uuid: Some(format!("{:04X}-{:04X}", geometry.serial >> 16, geometry.serial & 0xffff)),
            size_bytes: geometry.size_bytes,
            free_bytes: None,
            block_bytes: geometry.cluster_bytes as u32,
            notes,
        };
        let mut exfat = Self { volume, geometry, chains: Chains::new(), summary };
        exfat.summary.label = exfat.label();
        Ok(exfat)
    }

    fn label(&self) -> String {
        let mut reader = Reader::new(self, self.root_place(), None, 0);
        for _ in 0..LABEL_SLOTS {
            match reader.set() {
                Ok(Step::Label(label)) => return label,
                Ok(Step::Set(..) | Step::Other) => {}
                Ok(Step::End) | Err(_) => break,
            }
        }
        String::new()
    }

    fn root_place(&self) -> Allocation {
        Allocation { first: self.geometry.root_cluster, is_contiguous: false }
    }

    /// Where the byte `offset` of an allocation lies, and how many of `wanted` bytes lie behind it without a gap; None
    /// when the chain has ended before.
    fn stretch(&self, allocation: Allocation, offset: u64, wanted: u64) -> Result<Option<(u64, u64)>> {
        let cluster_bytes = self.geometry.cluster_bytes;
        let (index, inside) = (offset / cluster_bytes, offset % cluster_bytes);
        if index >= self.geometry.clusters {
            let what = format!("the chain of cluster {} has more clusters than there are", allocation.first);
            return Err(self.volume.damaged(what));
        }
        let clusters = (inside + wanted).div_ceil(cluster_bytes).min(self.geometry.clusters);
        if allocation.is_contiguous {
            let first = u64::from(allocation.first) + index;
            self.geometry.place(&self.volume, first + clusters - 1)?;
            return Ok(Some((
                self.geometry.place(&self.volume, first)? + inside,
                clusters * cluster_bytes - inside,
            )));
        }
        self.geometry.place(&self.volume, allocation.first.into())?;
        let next = |cluster| self.geometry.next(&self.volume, cluster);
        let Some(run) = self.chains.run(allocation.first, index, clusters, next)? else { return Ok(None) };
        let at = self.geometry.place(&self.volume, run.cluster.into())?;
        Ok(Some((at + inside, run.clusters * cluster_bytes - inside)))
    }

    fn set(&self, node: Node) -> Result<Set> {
        let lost = || self.volume.not_found(format!("file in slot {:#x}", node.0));
        let (directory, slot) = place_of(node).ok_or_else(lost)?;
        match Reader::new(self, directory, None, slot).set()? {
            Step::Set(_, set) => Ok(*set),
            _ => Err(lost()),
        }
    }

    /// Where a directory lies, and how long it is unless its chain says so.
    fn directory(&self, node: Node) -> Result<(Allocation, Option<u64>)> {
        if node == ROOT {
            return Ok((self.root_place(), None));
        }
        let set = self.set(node)?;
        if set.kind() != FileKind::Directory {
            return Err(self.volume.wrong_kind(format!("the file in slot {:#x}", node.0), "a directory"));
        }
        Ok((set.allocation(), Some(set.size_bytes())))
    }

    fn file(&self, node: Node, stream: &[u8]) -> Result<Set> {
        if !stream.is_empty() {
            return Err(self.volume.not_found("stream: exFAT has none"));
        }
        let set = if node == ROOT { None } else { Some(self.set(node)?) };
        set.filter(|set| set.kind() == FileKind::File)
            .ok_or_else(|| self.volume.wrong_kind(format!("the directory in slot {:#x}", node.0), "a file"))
    }
}

impl FileSystem for Exfat {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> Node {
        ROOT
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        let (place, length) = self.directory(directory)?;
        self.search(place, length, name)
    }

    fn list(&self, directory: Node, from: Cursor, limit: usize) -> Result<Page> {
        let (place, length) = self.directory(directory)?;
        Ok(self.page(place, length, from, limit))
    }

    fn stat(&self, node: Node) -> Result<Stat> {
        if node != ROOT {
            return Ok(self.set(node)?.stat(node, self.geometry.cluster_bytes));
        }
        Ok(Stat {
            node,
            kind: FileKind::Directory,
            size_bytes: 0,
            allocated_bytes: 0,
            mode: None,
            uid: None,
            gid: None,
            times: Times::default(),
            links: 1,
            attributes: Attributes::Dos(Attributes::DOS_DIRECTORY),
            device: None,
        })
    }

    fn read(&self, node: Node, stream: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        let set = self.file(node, stream)?;
        let count = set.size_bytes().saturating_sub(offset).min(buf.len() as u64) as usize;
        let written = set.written_bytes().saturating_sub(offset).min(count as u64) as usize;
        let (mut rest, never_written) = buf[..count].split_at_mut(written);
        never_written.fill(0);
        let mut at = offset;
        while !rest.is_empty() {
            let stretch = self.stretch(set.allocation(), at, rest.len() as u64)?;
            let (place, there) = stretch.ok_or_else(|| {
                self.volume.damaged(format!("the file in slot {:#x} has fewer clusters than bytes", node.0))
            })?;
            let (piece, after) = rest.split_at_mut(there.min(rest.len() as u64) as usize);
            self.volume.read(piece, place)?;
            at += piece.len() as u64;
            rest = after;
        }
        Ok(count)
    }

    fn extents(&self, node: Node, stream: &[u8], range: Range<u64>) -> Result<Vec<Extent>> {
        let set = self.file(node, stream)?;
        let (size, written) = (set.size_bytes(), set.written_bytes());
        let mut list = ExtentList::new(range.start.min(size)..range.end.min(size));
        list.push(written.saturating_sub(list.position()), ExtentKind::Data);
        list.push(u64::MAX, ExtentKind::Zero);
        Ok(list.finish())
    }

    fn link_target(&self, node: Node) -> Result<Vec<u8>> {
        Err(self
            .volume
            .wrong_kind(format!("the file in slot {:#x}", node.0), "a symbolic link: exFAT has none"))
    }
}
