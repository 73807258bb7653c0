//! Recovery points: the snapshots that are ours, found by name, and what is in them.
//!
//! A snapshot of somebody else's in the same repository is left alone and is no point. What a point says of itself is
//! hostile until checked: names, sizes and trees come from a file that anyone with the password could have written.

use std::collections::{HashMap, HashSet};

use nestling_block::ExtentSet;
use serde::{Deserialize, Serialize};

use crate::{
    BlobId, PointName, SnapshotId, VaultError,
    blob::Opener,
    format::{
        snapshot::Snapshot,
        tree::{self, Node, NodeKind, Tree},
    },
    index::Index,
    job::Job,
    layout::{DESCRIPTION_FILE, Geometry, POINT_FILE},
    name::check_disk_name,
    repo::Repository,
};

/// By this tag a snapshot is known to be a point.
pub const TAG: &str = "nestling";
/// A point with this tag has lost some bytes; `PointLayout::lost` names them.
pub const DAMAGED_TAG: &str = "damaged";
/// The field of a snapshot that names those in whose place it was put. restic ignores it.
pub(crate) const REPLACES: &str = "replaces";
/// A description or point file is not longer.
pub const DESCRIPTION_BYTES_MAX: u64 = 16 << 20;
const DISKS_MAX: usize = 256;

/// A snapshot that is a recovery point.
#[derive(Debug, Clone)]
pub struct Point {
    pub id: SnapshotId,
    pub name: PointName,
    pub snapshot: Snapshot,
}

impl Point {
    /// None: the snapshot was not made by this program.
    pub fn of(id: SnapshotId, snapshot: Snapshot) -> Option<Self> {
        if !snapshot.tags.iter().any(|tag| tag == TAG) {
            return None;
        }
        let [path] = snapshot.paths.as_slice() else { return None };
        let name = path.strip_prefix('/')?.parse().ok()?;
        Some(Self { id, name, snapshot })
    }

    /// The first digits of its name, as people type them.
    pub fn short_id(&self) -> String {
        self.id.to_string()[..8].to_owned()
    }

    /// Bytes of all its disks, as whoever saved it counted them. None: it does not say.
    pub fn size_bytes(&self) -> Option<u64> {
        self.counted("total_bytes_processed")
    }

    /// What the repository grew by when it was saved. None: it does not say.
    pub fn stored_bytes(&self) -> Option<u64> {
        self.counted("data_added_packed")
    }

    fn counted(&self, what: &str) -> Option<u64> {
        self.snapshot.summary.as_ref()?.get(what)?.as_u64()
    }

    /// The id that it was saved under: the same for all versions of a point, whatever its tags are now.
    pub fn identity(&self) -> SnapshotId {
        self.snapshot.original.unwrap_or(self.id)
    }

    /// Whether both go back to the same point. Their trees may differ: a repair leaves out what was lost, and
    /// `restic rewrite` whatever it was told to.
    pub(crate) fn is_version_of(&self, other: &Self) -> bool {
        self.identity() == other.identity()
            && self.name == other.name
            && self.snapshot.time == other.snapshot.time
    }

    /// The snapshots that it says it was put in place of.
    fn replaces(&self) -> impl Iterator<Item = SnapshotId> {
        let before = self.snapshot.other.get(REPLACES).and_then(|ids| ids.as_array());
        before.into_iter().flatten().filter_map(|id| id.as_str()?.parse().ok())
    }

    /// Which of the snapshots it stands in the place of. `original` alone is said by others as well, of what they
    /// wrote from it with another content.
    fn replaced<'a>(&'a self, all: &'a HashMap<SnapshotId, &Self>) -> impl Iterator<Item = SnapshotId> {
        let same = |id: &SnapshotId| all.get(id).is_some_and(|old| old.snapshot.tree == self.snapshot.tree);
        let ids = self.replaces().chain(self.snapshot.original.filter(same));
        ids.filter(|id| all.get(id).is_some_and(|old| self.is_version_of(old)))
    }
}

/// Points that count, and those in whose place another one stands: left by a change of tags that was cut off, or that
/// did not want to disturb a prune. A snapshot can only name what was there before it, so of any versions one counts.
pub(crate) fn split_versions(points: Vec<Point>) -> (Vec<Point>, Vec<Point>) {
    let by_id: HashMap<SnapshotId, &Point> = points.iter().map(|point| (point.id, point)).collect();
    let replaced: HashSet<SnapshotId> = points.iter().flat_map(|point| point.replaced(&by_id)).collect();
    let (older, current) = points.into_iter().partition(|point| replaced.contains(&point.id));
    (current, older)
}

const LAYOUT_VERSION: u32 = 1;

/// What `point.json` says in all versions.
#[derive(Deserialize)]
struct Version {
    version: u64,
}

/// `point.json`: how the disks of a point lie in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointLayout {
    pub version: u32,
    pub disks: Vec<DiskLayout>,
    /// Bytes that were lost and hold zeroes in their place, which nobody may take for what was saved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostRange>,
}

/// Lost bytes of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRange {
    pub disk: String,
    pub offset: u64,
    pub length: u64,
}

impl PointLayout {
    /// The lost bytes of a disk.
    pub fn lost(&self, disk: &str) -> ExtentSet {
        let of_disk = self.lost.iter().filter(|lost| lost.disk == disk);
        of_disk.map(|lost| lost.offset..lost.offset.saturating_add(lost.length)).collect()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskLayout {
    pub name: String,
    #[serde(flatten)]
    pub geometry: Geometry,
}

/// What a point holds.
#[derive(Debug, Clone)]
pub struct PointContent {
    pub layout: PointLayout,
    /// The tree of each disk, in the layout's order.
    pub(crate) disk_trees: Vec<BlobId>,
    /// How long the machine's own description is, if it was saved with one. It may be damaged by itself.
    pub description_bytes: Option<u64>,
}

impl PointContent {
    /// The disk of that name; without a name, the only one.
    pub fn disk(&self, point: &Point, name: Option<&str>) -> Result<usize, VaultError> {
        let found = match name {
            Some(name) => self.layout.disks.iter().position(|disk| disk.name == name),
            None => (self.layout.disks.len() == 1).then_some(0),
        };
        found.ok_or_else(|| VaultError::NoSuchDisk {
            point: point.id,
            name: point.name.to_string(),
            disk: name.unwrap_or("of no name").to_owned(),
            known: self.layout.disks.iter().map(|d| d.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }
}

impl Repository {
    /// The points of one machine, or of all, oldest first.
    pub fn points(&self, name: Option<&PointName>, job: &Job) -> Result<Vec<Point>, VaultError> {
        let (mut points, _) = self.versions(job)?;
        points.retain(|point| name.is_none_or(|name| point.name == *name));
        Ok(points)
    }

    /// As `points`, for who looks again and again: `seen` holds what was read before, and only what is new is read. A
    /// snapshot that is damaged is no point of the list, and told to `damaged`.
    pub fn points_again(
        &self,
        seen: &mut HashMap<SnapshotId, Snapshot>,
        job: &Job,
        damaged: &(dyn Fn(SnapshotId, VaultError) + Sync),
    ) -> Result<Vec<Point>, VaultError> {
        self.update_snapshots(seen, job, &|id, error| {
            if error.is_damage() || error.is_io() {
                damaged(id, error);
                return Ok(());
            }
            Err(error)
        })?;
        let points = seen.iter().filter_map(|(id, snapshot)| Point::of(*id, snapshot.clone()));
        let (mut points, _) = split_versions(points.collect());
        points.sort_by_key(|point| (point.snapshot.time, point.id));
        Ok(points)
    }

    /// All points, and the snapshots in whose place one of them stands; both oldest first.
    pub(crate) fn versions(&self, job: &Job) -> Result<(Vec<Point>, Vec<Point>), VaultError> {
        let snapshots = self.snapshots(job)?.into_iter();
        Ok(split_versions(snapshots.filter_map(|(id, snapshot)| Point::of(id, snapshot)).collect()))
    }

    /// One point of a machine: `latest` or the first digits of its id; without either, the newest.
    pub fn find_point(
        &self,
        name: &PointName,
        selector: Option<&str>,
        job: &Job,
    ) -> Result<Point, VaultError> {
        let mut points = self.points(Some(name), job)?;
        let missing = || {
            VaultError::NoSuchPoint(match selector {
                Some(selector) => format!("{name}@{}", selector.chars().take(80).collect::<String>()),
                None => format!("of {name}"),
            })
        };
        let Some(prefix) = selector.filter(|selector| *selector != "latest") else {
            return points.pop().ok_or_else(missing);
        };
        // What people wrote down before its tags were changed still finds it.
        let fits = |id: SnapshotId| id.to_string().starts_with(prefix);
        let by_id = points.iter().any(|point| fits(point.id));
        let mut fitting =
            points.into_iter().filter(|point| fits(if by_id { point.id } else { point.identity() }));
        let first = fitting.next().filter(|_| !prefix.is_empty()).ok_or_else(missing)?;
        match fitting.next() {
            None => Ok(first),
            Some(second) => Err(VaultError::AmbiguousPoint(
                format!("{name}@{prefix}"),
                format!("{}, {}", first.id, second.id),
            )),
        }
    }

    /// What is in a point, without the bytes of its disks and its description.
    pub fn content(&self, index: &Index, point: &Point) -> Result<PointContent, VaultError> {
        let mut opener = Opener::new(self.storage.as_ref(), &self.key)?;
        Contents { point, index, opener: &mut opener }.read()
    }

    /// The machine's own description, if the point was saved with one.
    pub fn description(&self, index: &Index, point: &Point) -> Result<Option<Vec<u8>>, VaultError> {
        let mut opener = Opener::new(self.storage.as_ref(), &self.key)?;
        read_folder(&mut opener, index, point)?.2
    }
}

pub(crate) fn load_tree(opener: &mut Opener<'_>, index: &Index, id: &BlobId) -> Result<Tree, VaultError> {
    let mut bytes = Vec::new();
    opener.load(index, id, &mut bytes)?;
    tree::decode(&bytes).map_err(|source| VaultError::Damaged { file: format!("tree {id}"), source })
}

type Description = Result<Option<Vec<u8>>, VaultError>;

/// The folder of a point, what it says of itself, and the machine's description, which may be damaged by itself.
pub(crate) fn read_folder(
    opener: &mut Opener<'_>,
    index: &Index,
    point: &Point,
) -> Result<(Tree, PointLayout, Description), VaultError> {
    let mut contents = Contents { point, index, opener };
    let (tree, layout) = contents.folder()?;
    let description = contents.file(&tree, DESCRIPTION_FILE);
    Ok((tree, layout, description))
}

struct Contents<'a, 'b> {
    point: &'a Point,
    index: &'a Index,
    opener: &'a mut Opener<'b>,
}

impl Contents<'_, '_> {
    fn wrong(&self, what: impl Into<String>) -> VaultError {
        VaultError::PointDamaged { point: self.point.id, what: what.into() }
    }

    fn read(mut self) -> Result<PointContent, VaultError> {
        let (tree, layout) = self.folder()?;
        let mut disk_trees = Vec::new();
        for disk in &layout.disks {
            let id = subtree(&tree, &disk.name)
                .ok_or_else(|| self.wrong(format!("it has no disk {}", disk.name)))?;
            disk_trees.push(id);
        }
        let description_bytes = match node(&tree, DESCRIPTION_FILE).map(|node| &node.kind) {
            Some(NodeKind::File { size, .. }) => Some(*size),
            _ => None,
        };
        Ok(PointContent { layout, disk_trees, description_bytes })
    }

    /// The folder of the point, and what it says of itself.
    fn folder(&mut self) -> Result<(Tree, PointLayout), VaultError> {
        let mut tree = load_tree(self.opener, self.index, &self.point.snapshot.tree)?;
        for component in self.point.name.components() {
            let id = subtree(&tree, component)
                .ok_or_else(|| self.wrong(format!("it has no folder {component}")))?;
            tree = load_tree(self.opener, self.index, &id)?;
        }
        let json =
            self.file(&tree, POINT_FILE)?.ok_or_else(|| self.wrong(format!("it has no {POINT_FILE}")))?;
        let wrong = |error: serde_json::Error| self.wrong(format!("{POINT_FILE}: {error}"));
        // The version first: all else may be written otherwise in another one.
        let Version { version } = serde_json::from_slice(&json).map_err(wrong)?;
        if version > LAYOUT_VERSION.into() {
            return Err(VaultError::NewerLayout { point: self.point.id, version });
        }
        let layout: PointLayout = serde_json::from_slice(&json).map_err(wrong)?;
        self.check(&layout)?;
        Ok((tree, layout))
    }

    fn check(&self, layout: &PointLayout) -> Result<(), VaultError> {
        if layout.version != LAYOUT_VERSION {
            return Err(self.wrong(format!("there is no layout {}", layout.version)));
        }
        if layout.disks.len() > DISKS_MAX {
            return Err(self.wrong("it has more than 256 disks"));
        }
        for disk in &layout.disks {
            check_disk_name(&disk.name)?;
            disk.geometry.check()?;
        }
        for lost in &layout.lost {
            let disk = layout.disks.iter().find(|disk| disk.name == lost.disk);
            let end = lost.offset.checked_add(lost.length);
            let fits = disk.zip(end).is_some_and(|(disk, end)| end <= disk.geometry.size_bytes);
            if !fits {
                return Err(self.wrong("it names lost bytes that no disk of it has"));
            }
        }
        Ok(())
    }

    /// The bytes of a small file.
    fn file(&mut self, tree: &Tree, name: &str) -> Result<Option<Vec<u8>>, VaultError> {
        let Some(Node { kind: NodeKind::File { size, content }, .. }) = node(tree, name) else {
            return Ok(None);
        };
        if *size > DESCRIPTION_BYTES_MAX {
            return Err(self.wrong(format!("{name} is larger than 16 MiB")));
        }
        let (mut bytes, mut part) = (Vec::new(), Vec::new());
        for id in content {
            self.opener.load(self.index, id, &mut part)?;
            bytes.extend_from_slice(&part);
            if bytes.len() as u64 > *size {
                break;
            }
        }
        if bytes.len() as u64 == *size {
            Ok(Some(bytes))
        } else {
            Err(self.wrong(format!("{name} has another length")))
        }
    }
}

pub(crate) fn node<'a>(tree: &'a Tree, name: &str) -> Option<&'a Node> {
    tree.find(name)
}

pub(crate) fn subtree(tree: &Tree, name: &str) -> Option<BlobId> {
    match node(tree, name)?.kind {
        NodeKind::Dir { subtree } => Some(subtree),
        _ => None,
    }
}
