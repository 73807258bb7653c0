//! What of the point before can be named again.
//!
//! A segment or group that did not change is taken over by its name. What the repository has lost of it since would be
//! missing in all later points too, though the disk still has it. So each tree that is taken over is read, and each chunk
//! that it names is looked up in the index; where one is missing, the segment is read from the disk as if it had changed.
//! Chunks themselves are not read: that is `verify`'s.

use std::{
    cmp::Reverse,
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use nestling_block::ExtentSet;

use super::{Save, SaveRequest, Task, Trees};
use crate::{
    BlobId, VaultError,
    blob::Opener,
    format::tree::{NodeKind, Tree},
    index::Index,
    layout::{Geometry, Zeroes, group_name, segment_name},
    packer::Writer,
    parallel::in_parallel,
    point::{PointContent, load_tree, subtree},
    repo::Repository,
};

/// Threads that read trees: they mostly wait.
const READERS: usize = 16;

/// What was found out about the parent's trees.
#[derive(Default)]
pub(super) struct Checked {
    /// Groups of which everything is there. Empty stretches of disks share one.
    whole: Mutex<HashSet<BlobId>>,
    /// Whether something could not be read although an index may name it.
    is_damaged: AtomicBool,
}

impl Checked {
    fn whole(&self) -> MutexGuard<'_, HashSet<BlobId>> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tree of the parent. None: it is damaged or not there.
    pub(super) fn tree(
        &self,
        opener: &mut Opener<'_>,
        index: &Index,
        id: &BlobId,
    ) -> Result<Option<Tree>, VaultError> {
        self.if_whole(load_tree(opener, index, id))
    }

    fn if_whole<T>(&self, read: Result<T, VaultError>) -> Result<Option<T>, VaultError> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.is_damage() || error.is_io() => {
                self.is_damaged.store(true, Relaxed);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// The parent's disk.
pub(super) struct OldDisk {
    pub(super) geometry: Geometry,
    pub(super) zeroes: Zeroes,
    groups: Vec<BlobId>,
}

/// The point before.
pub(super) struct Parent<'a> {
    opener: Opener<'a>,
    index: &'a Index,
    content: PointContent,
    checked: &'a Checked,
}

impl<'a> Parent<'a> {
    /// None where there is none, or where it cannot be told what is in it.
    pub(super) fn open(
        repository: &'a Repository,
        index: &'a Index,
        request: &SaveRequest<'_>,
        checked: &'a Checked,
    ) -> Result<Option<Self>, VaultError> {
        let Some(point) = request.parent else { return Ok(None) };
        let Some(content) = checked.if_whole(repository.content(index, point))? else { return Ok(None) };
        let opener = Opener::new(repository.storage.as_ref(), &repository.key);
        Ok(Some(Self { opener, index, content, checked }))
    }

    /// Bytes of a disk that it lost before.
    pub(super) fn lost(&self, name: &str) -> ExtentSet {
        self.content.layout.lost(name)
    }

    /// Its disk of the name, if that is cut like this one.
    pub(super) fn disk(&mut self, name: &str, geometry: &Geometry) -> Result<Option<OldDisk>, VaultError> {
        let disks = &self.content.layout.disks;
        let Some(number) = disks.iter().position(|disk| disk.name == name) else { return Ok(None) };
        let old = disks[number].geometry;
        if (Geometry { size_bytes: geometry.size_bytes, ..old }) != *geometry {
            return Ok(None);
        }
        let id = self.content.disk_trees[number];
        let Some(tree) = self.checked.tree(&mut self.opener, self.index, &id)? else { return Ok(None) };
        let groups: Option<Vec<_>> =
            (0..old.groups()).map(|group| subtree(&tree, &group_name(group))).collect();
        Ok(groups.map(|groups| OldDisk { geometry: old, zeroes: Zeroes::of(&old), groups }))
    }
}

/// What is known of one group.
#[derive(Default)]
struct GroupPlan {
    /// It stays as it was.
    same: Option<BlobId>,
    /// Else these of its segments do, by their number.
    segments: Vec<(u64, BlobId)>,
    tasks: Vec<Task>,
}

impl Save<'_> {
    /// Which segments have to be looked at, and which groups and segments stay as they were.
    pub(super) fn plan(&self) -> Result<(Vec<Task>, Trees), VaultError> {
        let groups_of = |disk: usize| (0..self.disks[disk].geometry.groups()).map(move |group| (disk, group));
        let groups: Vec<(usize, u64)> = (0..self.disks.len()).flat_map(groups_of).collect();
        self.job.begin("looking at the point before", groups.len() as u64);
        let planned = Mutex::new((Vec::new(), Trees::default()));
        in_parallel(&groups, READERS, self.job, |&(number, group)| {
            let GroupPlan { same, segments, tasks: new } = self.plan_group(number, group)?;
            let mut planned = planned.lock().unwrap_or_else(PoisonError::into_inner);
            let (tasks, trees) = &mut *planned;
            trees.groups.extend(same.map(|id| ((number, group), id)));
            trees.segments.extend(segments.into_iter().map(|(segment, id)| ((number, segment), id)));
            tasks.extend(new);
            self.job.advance(1);
            Ok(())
        })?;
        let (mut tasks, trees) = planned.into_inner().unwrap_or_else(PoisonError::into_inner);
        tasks.sort_by_key(|task| (task.disk, task.segment));
        // What takes long comes first, so that no thread is at a long one when the others have ended.
        tasks.sort_by_cached_key(|task| Reverse(self.reads_bytes(task)));
        Ok((tasks, trees))
    }

    /// How much of a segment is to be read, as far as the changed extents tell.
    fn reads_bytes(&self, task: &Task) -> u64 {
        let (disk, range) = (&self.disks[task.disk], self.disks[task.disk].geometry.segment(task.segment));
        match (&task.old, &disk.changed) {
            (Some(_), Some(changed)) => changed.within(range).map(|part| part.end - part.start).sum(),
            _ => range.end - range.start,
        }
    }

    /// Makes the writer store again what is there and cannot be read.
    pub(super) fn tell_damage(&self, writer: &Writer<'_>) {
        if self.checked.is_damaged.load(Relaxed) {
            writer.distrust_trees();
        }
    }

    fn plan_group(&self, number: usize, group: u64) -> Result<GroupPlan, VaultError> {
        let disk = &self.disks[number];
        let segments = disk.geometry.group(group);
        let old = disk.old.as_ref().zip(disk.changed.as_ref());
        let Some((old, changed)) = old.filter(|(old, _)| (group as usize) < old.groups.len()) else {
            let tasks = segments.map(|segment| Task { disk: number, segment, old: None }).collect();
            return Ok(GroupPlan { tasks, ..GroupPlan::default() });
        };
        let (id, bytes) = (old.groups[group as usize], disk.geometry.group_bytes(group));
        let is_same = bytes == old.geometry.group_bytes(group) && !changed.touches(bytes);
        if is_same && self.checked.whole().contains(&id) {
            return Ok(GroupPlan { same: Some(id), ..GroupPlan::default() });
        }
        let mut opener = Opener::new(self.repository.storage.as_ref(), &self.repository.key);
        let tree = self.checked.tree(&mut opener, self.index, &id)?;
        let (mut plan, mut whole) = (GroupPlan::default(), HashSet::new());
        for segment in segments {
            let bytes = disk.geometry.segment(segment);
            let is_same = bytes == old.geometry.segment(segment) && !changed.touches(bytes);
            let name = segment_name(disk.geometry.place(segment).1);
            let known = tree.as_ref().and_then(|tree| subtree(tree, &name));
            match known.filter(|_| is_same) {
                Some(id) if whole.contains(&id) || self.is_whole(&mut opener, &id)? => {
                    whole.insert(id);
                    plan.segments.push((segment, id));
                }
                _ => {
                    self.counters.anew.fetch_add(u64::from(is_same), Relaxed);
                    plan.tasks.push(Task { disk: number, segment, old: known });
                }
            }
        }
        if is_same && plan.tasks.is_empty() {
            self.checked.whole().insert(id);
            return Ok(GroupPlan { same: Some(id), ..GroupPlan::default() });
        }
        Ok(plan)
    }

    /// Whether all is there that the tree of a segment needs.
    fn is_whole(&self, opener: &mut Opener<'_>, id: &BlobId) -> Result<bool, VaultError> {
        let tree = self.checked.tree(opener, self.index, id)?;
        let file = tree.as_ref().and_then(|tree| tree.nodes.first()).map(|node| &node.kind);
        Ok(match file {
            Some(NodeKind::File { content, .. }) => content.iter().all(|id| self.index.reads(id)),
            _ => false,
        })
    }
}

#[cfg(test)]
mod tests;
