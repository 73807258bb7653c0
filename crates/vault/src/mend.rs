//! What of a point is lost, and the point without it.
//!
//! Used by repair. Everything that can still be read keeps its place; what cannot is named, to the chunk, and has zeroes in
//! its place so that the trees are whole. It must never leave a lost byte out of the list: only the list tells zeroes
//! that were saved from those that stand for something lost.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use nestling_block::ExtentSet;

use crate::{
    BlobId, VaultError,
    blob::Opener,
    format::tree::{Node, NodeKind, Tree},
    index::Index,
    layout::{
        Chunk, DESCRIPTION_FILE, Geometry, LaidOut, POINT_FILE, SEGMENT_FILE, Zeroes, group_name,
        segment_name,
    },
    packer::{Packer, Writer},
    point::{LostRange, Point, PointLayout, load_tree, read_folder, subtree},
    save::{dir, encoded, epoch, small_file},
};

/// A point as far as it can be read.
pub(crate) struct Body {
    folder: Tree,
    layout: PointLayout,
    pub(crate) is_description_lost: bool,
    /// What is newly lost, by disk.
    lost: Vec<ExtentSet>,
}

impl Body {
    pub(crate) fn is_whole(&self) -> bool {
        !self.is_description_lost && self.lost.iter().all(ExtentSet::is_empty)
    }

    /// What is newly lost.
    pub(crate) fn lost(&self) -> Vec<LostRange> {
        let disks = self.layout.disks.iter().zip(&self.lost);
        disks.flat_map(|(disk, lost)| ranges(&disk.name, lost)).collect()
    }
}

/// Ranges that `point.json` names at most, so that it stays readable.
const RANGES_MAX: usize = 16 << 10;

fn push(lost: &mut Vec<Range<u64>>, range: Range<u64>) {
    match lost.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => lost.push(range),
    }
}

/// A list that is too long is told in larger blocks: better an error too many than a wrong byte.
fn bounded(mut lost: ExtentSet, geometry: &Geometry, max: usize) -> ExtentSet {
    let mut block = u64::from(geometry.chunk_bytes);
    while lost.ranges().len() > max && block < geometry.size_bytes {
        block *= 2;
        lost = lost.align(block, geometry.size_bytes);
    }
    lost
}

fn ranges(disk: &str, lost: &ExtentSet) -> Vec<LostRange> {
    let range = |range: &Range<u64>| LostRange {
        disk: disk.to_owned(),
        offset: range.start,
        length: range.end - range.start,
    };
    lost.ranges().iter().map(range).collect()
}

/// Looks at points, one after the other; what they share is looked at once.
pub(crate) struct Mender<'a> {
    opener: Opener<'a>,
    index: &'a Index,
    lost: &'a HashSet<BlobId>,
    /// Lost ranges of a group, from its start.
    groups: HashMap<LaidOut, Vec<Range<u64>>>,
    mended: HashMap<LaidOut, BlobId>,
    /// Lost blobs whose bytes are known without them: holes.
    pub(crate) regrown: HashMap<BlobId, Regrown>,
}

pub(crate) enum Regrown {
    Zeroes(u32),
    Tree(Vec<u8>),
}

/// Nothing when what was read is damaged; other errors stay errors.
fn readable<T>(outcome: Result<T, VaultError>) -> Result<Option<T>, VaultError> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}

impl<'a> Mender<'a> {
    pub(crate) fn new(opener: Opener<'a>, index: &'a Index, lost: &'a HashSet<BlobId>) -> Self {
        let (groups, mended, regrown) = (HashMap::new(), HashMap::new(), HashMap::new());
        Self { opener, index, lost, groups, mended, regrown }
    }

    /// A chunk that is whole and not as long as its place is no chunk of it.
    fn is_lost(&self, id: &BlobId, bytes: u64) -> bool {
        self.lost.contains(id) || !self.index.contains(id) || !self.index.fits(id, bytes)
    }

    fn tree(&mut self, id: Option<BlobId>) -> Result<Option<Tree>, VaultError> {
        let Some(id) = id else { return Ok(None) };
        readable(load_tree(&mut self.opener, self.index, &id))
    }

    /// Fails with damage when it cannot be told what the point was.
    pub(crate) fn survey(&mut self, point: &Point) -> Result<Body, VaultError> {
        let (folder, layout, description) = read_folder(&mut self.opener, self.index, point)?;
        let is_description_lost = readable(description)?.is_none();
        let mut lost = Vec::new();
        for disk in &layout.disks {
            for (id, length) in Zeroes::of(&disk.geometry).blobs() {
                if self.lost.contains(&id) {
                    self.regrown.insert(id, Regrown::Zeroes(length));
                }
            }
            lost.push(self.disk(subtree(&folder, &disk.name), &disk.geometry)?);
        }
        Ok(Body { folder, layout, is_description_lost, lost })
    }

    fn disk(&mut self, id: Option<BlobId>, geometry: &Geometry) -> Result<ExtentSet, VaultError> {
        let Some(tree) = self.tree(id)? else {
            return Ok(std::iter::once(0..geometry.size_bytes).collect());
        };
        let mut lost = Vec::new();
        for group in 0..geometry.groups() {
            let bytes = geometry.group_bytes(group);
            match subtree(&tree, &group_name(group)) {
                Some(id) => lost.extend(self.group(id, geometry, group)?),
                None => push(&mut lost, bytes),
            }
        }
        Ok(lost.into_iter().collect())
    }

    fn group(&mut self, id: BlobId, geometry: &Geometry, group: u64) -> Result<Vec<Range<u64>>, VaultError> {
        let bytes = geometry.group_bytes(group);
        let start = bytes.start;
        let key = LaidOut::of(Some(id), &bytes, geometry);
        if let Some(known) = key.and_then(|key| self.groups.get(&key)) {
            return Ok(known.iter().map(|range| range.start + start..range.end + start).collect());
        }
        let mut lost: Vec<Range<u64>> = Vec::new();
        match self.tree(Some(id))? {
            None => lost.push(bytes),
            Some(tree) => {
                for segment in geometry.group(group) {
                    let range = geometry.segment(segment);
                    match self.segment(&tree, geometry, segment)? {
                        None => push(&mut lost, range),
                        Some(chunks) => {
                            let chunks = geometry.chunks(range).zip(chunks);
                            let gone = chunks.filter(|(range, chunk)| match chunk {
                                Chunk::Zero => false,
                                Chunk::Stored(id) => self.is_lost(id, range.end - range.start),
                            });
                            gone.for_each(|(range, _)| push(&mut lost, range));
                        }
                    }
                }
            }
        }
        let from_start = lost.iter().map(|range| range.start - start..range.end - start).collect();
        self.groups.extend(key.map(|key| (key, from_start)));
        Ok(lost)
    }

    /// The chunks of a segment, some of which may be lost; nothing when the list of them is.
    fn segment(
        &mut self,
        group: &Tree,
        geometry: &Geometry,
        segment: u64,
    ) -> Result<Option<Vec<Chunk>>, VaultError> {
        let range = geometry.segment(segment);
        let (zeroes, bytes) = (Zeroes::of(geometry), range.end - range.start);
        let Some(id) = subtree(group, &segment_name(geometry.place(segment).1)) else { return Ok(None) };
        let Some(tree) = self.tree(Some(id))? else {
            // The list of a hole can be written again.
            let chunks = vec![Chunk::Zero; geometry.chunks(range).count()];
            let tree = segment_tree(&zeroes, &chunks, bytes)?;
            if BlobId::of(&tree) != id {
                return Ok(None);
            }
            self.regrown.insert(id, Regrown::Tree(tree));
            return Ok(Some(chunks));
        };
        Ok(match tree.find(SEGMENT_FILE).map(|node| &node.kind) {
            Some(NodeKind::File { size, content }) if *size == bytes => zeroes.decode(content, bytes),
            _ => None,
        })
    }
}

fn segment_tree(zeroes: &Zeroes, chunks: &[Chunk], bytes: u64) -> Result<Vec<u8>, VaultError> {
    let (content, _) = zeroes.encode(chunks, bytes);
    encoded(vec![Node::file(SEGMENT_FILE, bytes, content, epoch())])
}

/// Where the mended trees go.
pub(crate) struct Target<'a, 'w> {
    pub(crate) writer: &'a Writer<'w>,
    pub(crate) packer: &'a mut Packer<'w>,
}

impl Target<'_, '_> {
    pub(crate) fn data(&mut self, plain: &[u8]) -> Result<(), VaultError> {
        let id = BlobId::of(plain);
        if self.writer.claim(&id) { self.packer.add(id, plain, self.writer) } else { Ok(()) }
    }
}

impl Mender<'_> {
    /// Writes the point without what is lost. Its new root.
    pub(crate) fn mend(
        &mut self,
        point: &Point,
        body: &Body,
        target: &mut Target<'_, '_>,
    ) -> Result<BlobId, VaultError> {
        let mut nodes = body.folder.nodes.clone();
        nodes.retain(|node| node.name != POINT_FILE);
        if body.is_description_lost {
            nodes.retain(|node| node.name != DESCRIPTION_FILE);
        }
        let mut layout = body.layout.clone();
        for (disk, lost) in body.layout.disks.iter().zip(&body.lost) {
            if lost.is_empty() {
                continue;
            }
            let all = layout.lost(&disk.name).union(lost);
            let all = bounded(all, &disk.geometry, RANGES_MAX / body.layout.disks.len());
            layout.lost.retain(|known| known.disk != disk.name);
            layout.lost.extend(ranges(&disk.name, &all));
            let old = subtree(&body.folder, &disk.name);
            let tree = self.mend_disk(old, &disk.geometry, lost, target)?;
            nodes.retain(|node| node.name != disk.name);
            nodes.push(dir(&disk.name, tree));
        }
        let json =
            serde_json::to_vec_pretty(&layout).map_err(|error| VaultError::Invalid(error.to_string()))?;
        nodes.push(small_file(POINT_FILE, &json, target.packer, target.writer)?);
        let mut tree = target.writer.tree(&encoded(nodes)?)?;
        for component in point.name.components().rev() {
            tree = target.writer.tree(&encoded(vec![dir(component, tree)])?)?;
        }
        Ok(tree)
    }

    fn mend_disk(
        &mut self,
        old: Option<BlobId>,
        geometry: &Geometry,
        lost: &ExtentSet,
        target: &mut Target<'_, '_>,
    ) -> Result<BlobId, VaultError> {
        let tree = self.tree(old)?.unwrap_or_default();
        let mut groups = Vec::new();
        for group in 0..geometry.groups() {
            let name = group_name(group);
            let id = match subtree(&tree, &name) {
                Some(id) if !lost.touches(geometry.group_bytes(group)) => id,
                old => self.mend_group(old, geometry, group, lost, target)?,
            };
            groups.push(dir(&name, id));
        }
        target.writer.tree(&encoded(groups)?)
    }

    fn mend_group(
        &mut self,
        old: Option<BlobId>,
        geometry: &Geometry,
        group: u64,
        lost: &ExtentSet,
        target: &mut Target<'_, '_>,
    ) -> Result<BlobId, VaultError> {
        let bytes = geometry.group_bytes(group);
        let key = LaidOut::of(old, &bytes, geometry);
        if let Some(known) = key.and_then(|key| self.mended.get(&key)) {
            return Ok(*known);
        }
        let tree = self.tree(old)?.unwrap_or_default();
        let zeroes = Zeroes::of(geometry);
        let mut nodes = Vec::new();
        for segment in geometry.group(group) {
            let range = geometry.segment(segment);
            let name = segment_name(geometry.place(segment).1);
            let id = match subtree(&tree, &name) {
                Some(id) if !lost.touches(range.clone()) => id,
                _ => {
                    let ranges: Vec<_> = geometry.chunks(range.clone()).collect();
                    let known = self.segment(&tree, geometry, segment)?;
                    let mut chunks = known.unwrap_or_else(|| vec![Chunk::Zero; ranges.len()]);
                    for (chunk, range) in chunks.iter_mut().zip(ranges) {
                        if lost.touches(range) {
                            *chunk = Chunk::Zero;
                        }
                    }
                    let bytes = range.end - range.start;
                    for length in zeroes.encode(&chunks, bytes).1 {
                        target.data(&vec![0; length as usize])?;
                    }
                    target.writer.tree(&segment_tree(&zeroes, &chunks, bytes)?)?
                }
            };
            nodes.push(dir(&name, id));
        }
        let id = target.writer.tree(&encoded(nodes)?)?;
        self.mended.extend(key.map(|key| (key, id)));
        Ok(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_losses_stays_short_and_covers_all() {
        let geometry = Geometry::new((1 << 40) + 5, &crate::layout::Tuning::default()).expect("a geometry");
        let chunk = u64::from(geometry.chunk_bytes);
        let lost: ExtentSet = (0..1000).map(|n| n * 3 * chunk..(n * 3 + 1) * chunk).collect();
        let short = bounded(lost.clone(), &geometry, 100);
        assert!(short.ranges().len() <= 100 && lost.subtract(&short).is_empty());
        assert_eq!(bounded(lost.clone(), &geometry, 1000), lost);
        let end: ExtentSet = [0..1, (1 << 40)..(1 << 40) + 5].into_iter().collect();
        assert_eq!(bounded(end, &geometry, 1), std::iter::once(0..(1 << 40) + 5).collect());
    }
}
