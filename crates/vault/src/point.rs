//! Recovery points: the snapshots that are ours, found by name, and what is in them.
//!
//! A snapshot of somebody else's in the same repository is left alone and is no point. What a point says of itself is
//! hostile until checked: names, sizes and trees come from a file that anyone with the password could have written.

use std::collections::{HashMap, HashSet};

use nestling_block::{ExtentSet, JsonObject};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    BlobId, PointName, SnapshotId, VaultError,
    blob::Opener,
    format::{
        Timestamp,
        snapshot::Snapshot,
        tree::{self, Node, NodeKind, Tree},
    },
    index::Index,
    job::Job,
    layout::{DESCRIPTION_FILE, Geometry, POINT_FILE},
    name::check_disk_name,
    repo::{Repository, UnreadableSnapshot},
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

    pub(crate) fn is_version_of(&self, other: &Self) -> bool {
        self.identity() == other.identity()
            && self.name == other.name
            && self.snapshot.time == other.snapshot.time
    }

    pub(crate) fn version(&self) -> Version {
        let before = self.snapshot.other.get(REPLACES).and_then(|ids| ids.as_array());
        Version {
            id: self.id,
            name: self.name.clone(),
            time: self.snapshot.time,
            tree: self.snapshot.tree,
            original: self.snapshot.original,
            replaces: before.into_iter().flatten().filter_map(|id| id.as_str()?.parse().ok()).collect(),
        }
    }
}

/// By what versions of one point are told apart.
#[derive(Debug, Clone)]
pub(crate) struct Version {
    pub(crate) id: SnapshotId,
    pub(crate) name: PointName,
    pub(crate) time: Timestamp,
    tree: BlobId,
    original: Option<SnapshotId>,
    /// The snapshots that it says it was put in place of.
    replaces: Box<[SnapshotId]>,
}

impl Version {
    pub(crate) fn identity(&self) -> SnapshotId {
        self.original.unwrap_or(self.id)
    }

    /// Whether both go back to the same point. Their trees may differ: a repair leaves out what was lost, and
    /// `restic rewrite` whatever it was told to.
    fn is_version_of(&self, other: &Self) -> bool {
        self.identity() == other.identity() && self.name == other.name && self.time == other.time
    }

    /// Which of the snapshots it stands in the place of. `original` alone is said by others as well, of what they
    /// wrote from it with another content.
    fn replaced<'a>(&'a self, all: &'a HashMap<SnapshotId, &Self>) -> impl Iterator<Item = SnapshotId> {
        let same = |id: &SnapshotId| all.get(id).is_some_and(|old| old.tree == self.tree);
        let ids = self.replaces.iter().copied().chain(self.original.filter(same));
        ids.filter(|id| all.get(id).is_some_and(|old| self.is_version_of(old)))
    }
}

/// The snapshots in whose place another one stands: left by a change of tags that was cut off, or that did not want to
/// disturb a prune. A snapshot can only name what was there before it, so of any versions one counts.
pub(crate) fn replaced<'a>(versions: impl Iterator<Item = &'a Version> + Clone) -> HashSet<SnapshotId> {
    let by_id: HashMap<SnapshotId, &Version> =
        versions.clone().map(|version| (version.id, version)).collect();
    versions.flat_map(|version| version.replaced(&by_id)).collect()
}

/// Points that count, and those in whose place another one stands.
pub(crate) fn split_versions(points: Vec<Point>) -> (Vec<Point>, Vec<Point>) {
    let versions: Vec<Version> = points.iter().map(Point::version).collect();
    let replaced = replaced(versions.iter());
    let (older, current) = points.into_iter().partition(|point| replaced.contains(&point.id));
    (current, older)
}

fn points_of(snapshots: Vec<(SnapshotId, Snapshot)>) -> Vec<Point> {
    snapshots.into_iter().filter_map(|(id, snapshot)| Point::of(id, snapshot)).collect()
}

const LAYOUT_VERSION: u32 = 1;

/// What `point.json` says in all versions.
#[derive(Deserialize)]
struct LayoutVersion {
    version: u64,
}

/// `point.json`: how the disks of a point lie in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointLayout {
    pub version: u32,
    pub disks: Vec<DiskLayout>,
    /// Bytes that were lost and hold zeroes in their place, which nobody may take for what was saved.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "objects")]
    pub lost: Vec<LostRange>,
}

fn objects<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<LostRange>, D::Error> {
    let objects = Vec::<JsonObject<LostRange>>::deserialize(from)?;
    Ok(objects.into_iter().map(|JsonObject(lost)| lost).collect())
}

/// Lost bytes of one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostRange {
    pub disk: String,
    pub offset: u64,
    pub length: u64,
}

impl PointLayout {
    /// From the bytes of `point.json`, checked: whatever is counted with it, nothing overflows.
    pub(crate) fn read(json: &[u8], point: SnapshotId) -> Result<Self, VaultError> {
        let wrong = |error: serde_json::Error| VaultError::PointDamaged {
            point,
            what: format!("{POINT_FILE}: {error}"),
        };
        // The version first: all else may be written otherwise in another one.
        let JsonObject(LayoutVersion { version }) = serde_json::from_slice(json).map_err(wrong)?;
        if version > LAYOUT_VERSION.into() {
            return Err(VaultError::NewerLayout { point, version });
        }
        let JsonObject::<Self>(layout) = serde_json::from_slice(json).map_err(wrong)?;
        layout.check(point)?;
        Ok(layout)
    }

    fn check(&self, point: SnapshotId) -> Result<(), VaultError> {
        let wrong = |what: String| Err(VaultError::PointDamaged { point, what });
        if self.version != LAYOUT_VERSION {
            return wrong(format!("there is no layout {}", self.version));
        }
        if self.disks.len() > DISKS_MAX {
            return wrong("it has more than 256 disks".to_owned());
        }
        let mut names = HashSet::new();
        for disk in &self.disks {
            check_disk_name(&disk.name)?;
            disk.geometry.check()?;
            if !names.insert(&disk.name) {
                return wrong(format!("two disks of it are called {}", disk.name));
            }
        }
        for lost in &self.lost {
            let disk = self.disks.iter().find(|disk| disk.name == lost.disk);
            let end = lost.offset.checked_add(lost.length);
            let fits = disk.zip(end).is_some_and(|(disk, end)| end <= disk.geometry.size_bytes);
            if !fits {
                return wrong("it names lost bytes that no disk of it has".to_owned());
            }
        }
        Ok(())
    }

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

/// The points that can be read, oldest first, and the snapshots that cannot, each of which may be one.
#[derive(Debug)]
pub struct PointList {
    pub points: Vec<Point>,
    pub unreadable: Vec<UnreadableSnapshot>,
}

impl Repository {
    /// The points of one machine, or of all, without those that cannot be read: for who only looks.
    pub fn list_points(&self, name: Option<&PointName>, job: &Job) -> Result<PointList, VaultError> {
        let (snapshots, unreadable) = self.readable_snapshots(job)?;
        let (mut points, _) = split_versions(points_of(snapshots));
        points.retain(|point| name.is_none_or(|name| point.name == *name));
        Ok(PointList { points, unreadable })
    }

    /// The points of one machine, or of all, oldest first. A snapshot that cannot be read is an error.
    pub fn points(&self, name: Option<&PointName>, job: &Job) -> Result<Vec<Point>, VaultError> {
        let (mut points, _) = self.versions(job)?;
        points.retain(|point| name.is_none_or(|name| point.name == *name));
        Ok(points)
    }

    /// All points, and the snapshots in whose place one of them stands; both oldest first.
    pub(crate) fn versions(&self, job: &Job) -> Result<(Vec<Point>, Vec<Point>), VaultError> {
        Ok(split_versions(points_of(self.snapshots(job)?)))
    }

    /// One point of a machine: `latest` or the first digits of its id; without either, the newest. Which one that is cannot
    /// be told where a snapshot cannot be read.
    pub fn find_point(
        &self,
        name: &PointName,
        selector: Option<&str>,
        job: &Job,
    ) -> Result<Point, VaultError> {
        let PointList { mut points, mut unreadable } = self.list_points(Some(name), job)?;
        let missing = || {
            VaultError::NoSuchPoint(match selector {
                Some(selector) => format!("{name}@{}", selector.chars().take(80).collect::<String>()),
                None => format!("of {name}"),
            })
        };
        let Some(prefix) = selector.filter(|selector| *selector != "latest") else {
            // It may be the newest one.
            if let Some(UnreadableSnapshot { id, error }) = unreadable.pop() {
                let (name, source) = (name.to_string(), Box::new(error));
                return Err(VaultError::NewestUnknown { name, snapshot: id, source });
            }
            return points.pop().ok_or_else(missing);
        };
        // What people wrote down before its tags were changed still finds it.
        let fits = |id: SnapshotId| id.to_string().starts_with(prefix);
        let by_id = points.iter().any(|point| fits(point.id));
        let mut fitting =
            points.into_iter().filter(|point| fits(if by_id { point.id } else { point.identity() }));
        let Some(first) = fitting.next().filter(|_| !prefix.is_empty()) else {
            let meant = unreadable.into_iter().find(|unreadable| !prefix.is_empty() && fits(unreadable.id));
            return Err(meant.map_or_else(missing, |unreadable| unreadable.error));
        };
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
        let mut opener = Opener::new(self.storage.as_ref(), &self.key);
        Contents { point, index, opener: &mut opener }.read()
    }

    /// The machine's own description, if the point was saved with one.
    pub fn description(&self, index: &Index, point: &Point) -> Result<Option<Vec<u8>>, VaultError> {
        let mut opener = Opener::new(self.storage.as_ref(), &self.key);
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
        Ok((tree, PointLayout::read(&json, self.point.id)?))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{MIB, Place};

    #[test]
    fn a_snapshot_that_cannot_be_read_hides_no_other() {
        let place = Place::new();
        let (name, job) = ("a".parse().expect("a name"), Job::default());
        for (name, second) in [("a", 1), ("a", 2), ("b", 3)] {
            place.save_at(name, &place.disk(MIB), second);
        }
        let [old, new] = &place.points("a")[..] else { panic!("two points") };
        let (file, bytes) = place.file_of(&new.id);
        place.put(&(file.clone(), vec![7; bytes.len()]));
        let list = place.repository.list_points(None, &job).expect("listed");
        assert_eq!(list.points.iter().map(|point| point.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(list.unreadable.iter().map(|unreadable| unreadable.id).collect::<Vec<_>>(), [new.id]);
        let find = |id: Option<&str>| place.repository.find_point(&name, id, &job);
        assert_eq!(find(Some(&old.short_id())).expect("found").id, old.id);
        // Nobody is given an older one for the newest.
        for id in [None, Some("latest")] {
            let error = find(id).expect_err("refused");
            assert!(error.to_string().contains(&new.id.to_string()), "{error}");
        }
        assert!(find(Some(&new.short_id())).expect_err("refused").is_damage());
        assert!(matches!(find(Some("0000000000")), Err(VaultError::NoSuchPoint(_))));
        let stats = place.repository.stats(&job).expect("stats");
        assert_eq!((stats.points, stats.unreadable), (2, 1));
        // Who decides what goes must know all.
        assert!(place.repository.points(None, &job).is_err());
        place.put(&(file, bytes));
        assert_eq!(find(None).expect("found").id, new.id);
    }

    fn read(disks: &[&str], lost: &str) -> Result<PointLayout, VaultError> {
        let disk = |name: &&str| {
            format!(
                r#"{{"name":"{name}","size_bytes":9,"chunk_bytes":4096,"segment_bytes":4096,"group_segments":1}}"#
            )
        };
        let disks: Vec<String> = disks.iter().map(disk).collect();
        let json = format!(r#"{{"version":1,"disks":[{}],"lost":[{lost}]}}"#, disks.join(","));
        PointLayout::read(json.as_bytes(), SnapshotId([1; 32]))
    }

    #[test]
    fn two_disks_of_one_name_are_refused() {
        assert!(read(&["a", "b"], "").is_ok());
        assert!(read(&["a", "a"], "").is_err_and(|error| error.to_string().contains("called a")));
    }

    #[test]
    fn what_is_lost_is_said_in_objects_and_lies_on_a_disk() {
        assert!(read(&["a"], r#"{"disk":"a","offset":1,"length":8}"#).is_ok());
        for lost in [
            r#"["a",1,8]"#,
            r#"{"disk":"a","offset":2,"length":8}"#,
            r#"{"disk":"b","offset":1,"length":8}"#,
            r#"{"disk":"a","offset":18446744073709551615,"length":8}"#,
        ] {
            assert!(read(&["a"], lost).is_err(), "{lost}");
        }
    }
}
