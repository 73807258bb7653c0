//! FAT12, FAT16 and FAT32, with long names.
//!
//! Written here and not taken from a crate, because those that exist follow a chain that goes round without end. A file is known by
//! the place of its slot on the volume. Times have no zone and are taken as UTC.

mod code_page;
mod directory;
mod geometry;

use std::{ops::Range, sync::Arc};

use nestling_block::{BlockSource, Extent, ExtentKind, ExtentList};

use crate::{
    Result,
    chain::{Chains, ClusterRun},
    detect::Kind,
    fs::{Attributes, Cursor, FileKind, FileSystem, Node, Page, Stat, Summary, Times},
    volume::Volume,
};

use self::{
    directory::{Place, Reader, Slot},
    geometry::SLOT_BYTES,
};

pub(crate) use geometry::Geometry;

const ROOT: Node = Node(0);

pub(crate) struct Fat {
    volume: Volume,
    geometry: Geometry,
    chains: Chains,
    summary: Summary,
}

impl Fat {
    pub(crate) fn open(source: Arc<dyn BlockSource>) -> Result<Self> {
        let volume = Volume::new(source);
        let sector = volume.bytes(0, 512)?;
        let geometry = Geometry::parse(&sector)
            .ok_or_else(|| volume.damaged("the first sector of FAT says what cannot be"))?;
        let summary = Summary {
            kind: geometry.kind,
            label: geometry.label(),
            uuid: Some(geometry.serial()),
            size_bytes: geometry.size_bytes,
            free_bytes: None,
            block_bytes: geometry.cluster_bytes as u32,
            notes: Vec::new(),
        };
        let mut fat = Self { volume, geometry, chains: Chains::new(), summary };
        if let Some(label) = fat.label() {
            fat.summary.label = label;
        }
        Ok(fat)
    }

    /// The label that counts is in the root. A volume whose root cannot be read says so when it is listed.
    fn label(&self) -> Option<String> {
        let mut reader = Reader::new(self, self.root_place(), 0);
        while let Ok(Some((slot, _))) = reader.slot() {
            if slot.0[0] == 0 {
                return None;
            }
            if slot.is_label() {
                return Some(slot.label());
            }
        }
        None
    }

    fn root_place(&self) -> Place {
        if self.geometry.kind == Kind::Fat32 {
            Place::Chain(self.geometry.root_cluster)
        } else {
            Place::FixedRoot
        }
    }

    fn place(&self, cluster: u32) -> Result<u64> {
        self.geometry
            .place(cluster)
            .ok_or_else(|| self.volume.damaged(format!("cluster {cluster} is named, and there is none")))
    }

    fn run(&self, first: u32, index: u64, wanted: u64) -> Result<Option<ClusterRun>> {
        self.place(first)?;
        if index >= self.geometry.clusters {
            return Err(self.volume.damaged(format!("the chain of cluster {first} goes round")));
        }
        let wanted = wanted.min(self.geometry.clusters);
        self.chains.run(first, index, wanted, |cluster| self.geometry.next(&self.volume, cluster))
    }

    fn slot(&self, node: Node) -> Result<Slot> {
        let lost = || self.volume.not_found(format!("file in slot {}", node.0));
        let offset =
            node.0.checked_mul(SLOT_BYTES).filter(|at| self.geometry.holds_slots(*at)).ok_or_else(lost)?;
        let mut bytes = [0; SLOT_BYTES as usize];
        self.volume.read(&mut bytes, offset)?;
        Some(Slot(bytes)).filter(Slot::is_file).ok_or_else(lost)
    }

    fn directory(&self, node: Node) -> Result<Place> {
        if node == ROOT {
            return Ok(self.root_place());
        }
        let slot = self.slot(node)?;
        if slot.kind() != FileKind::Directory {
            return Err(self.volume.wrong_kind(format!("the file in slot {}", node.0), "a directory"));
        }
        Ok(Place::Chain(self.first_cluster(&slot)))
    }

    fn first_cluster(&self, slot: &Slot) -> u32 {
        slot.first_cluster(self.geometry.kind == Kind::Fat32)
    }

    fn file(&self, node: Node, stream: &[u8]) -> Result<Slot> {
        if !stream.is_empty() {
            return Err(self.volume.not_found("stream: FAT has none"));
        }
        let slot = if node == ROOT { None } else { Some(self.slot(node)?) };
        slot.filter(|slot| slot.kind() == FileKind::File)
            .ok_or_else(|| self.volume.wrong_kind(format!("the directory in slot {}", node.0), "a file"))
    }
}

impl FileSystem for Fat {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> Node {
        ROOT
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        self.search(self.directory(directory)?, name)
    }

    fn list(&self, directory: Node, from: Cursor, limit: usize) -> Result<Page> {
        Ok(self.page(self.directory(directory)?, from, limit))
    }

    fn stat(&self, node: Node) -> Result<Stat> {
        if node != ROOT {
            let slot = self.slot(node)?;
            return Ok(slot.stat(node, slot.size_bytes().next_multiple_of(self.geometry.cluster_bytes)));
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
        let slot = self.file(node, stream)?;
        let count = slot.size_bytes().saturating_sub(offset).min(buf.len() as u64) as usize;
        let cluster_bytes = self.geometry.cluster_bytes;
        let (mut at, mut rest) = (offset, &mut buf[..count]);
        while !rest.is_empty() {
            let inside = at % cluster_bytes;
            let wanted = (inside + rest.len() as u64).div_ceil(cluster_bytes);
            let run = self.run(self.first_cluster(&slot), at / cluster_bytes, wanted)?;
            let run = run.ok_or_else(|| {
                self.volume.damaged(format!("the file in slot {} has fewer clusters than bytes", node.0))
            })?;
            let there = run.clusters * cluster_bytes - inside;
            let (piece, after) = rest.split_at_mut(there.min(rest.len() as u64) as usize);
            self.volume.read(piece, self.place(run.cluster)? + inside)?;
            at += piece.len() as u64;
            rest = after;
        }
        Ok(count)
    }

    fn extents(&self, node: Node, stream: &[u8], range: Range<u64>) -> Result<Vec<Extent>> {
        let size = self.file(node, stream)?.size_bytes();
        let mut list = ExtentList::new(range.start.min(size)..range.end.min(size));
        list.push(u64::MAX, ExtentKind::Data);
        Ok(list.finish())
    }

    fn link_target(&self, node: Node) -> Result<Vec<u8>> {
        Err(self.volume.wrong_kind(format!("the file in slot {}", node.0), "a symbolic link: FAT has none"))
    }
}
