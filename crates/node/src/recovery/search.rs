//! Files of points looked for by name, and two points compared.
//!
//! All that is read comes through `files`, so the reader's process does it. Both have bounds: in entries, in what is
//! answered, and in time; what came before a bound was met is told, with the word that there is more.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use nestling_explore::{
    ErrorKind, ExploreError, FileKind, FilePath, FileSystem, NamePattern, Place, Stat, Timestamp, Walk,
    WalkLimits, find,
};
use nestling_identity::Identity;

use super::files_values::{FileView, FilesAt};
use crate::{Node, NodeError, error::Result};

/// Files in one answer.
const FOUND_MAX: usize = 1000;
const CHANGES_MAX: usize = 5000;
/// Entries of one tree that is compared.
const TREE_ENTRIES_MAX: u64 = 200_000;
/// What could not be read, in one answer.
const DAMAGE_MAX: usize = 100;
/// Of paths, in one answer and in a tree: names may be long.
const ANSWER_BYTES_MAX: usize = 2 << 20;
const TREE_BYTES_MAX: usize = 64 << 20;
const SEARCH_TIME: Duration = Duration::from_secs(200);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundFiles {
    pub files: Vec<FileView>,
    /// Not all that there is.
    pub is_cut: bool,
    pub damage: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Added,
    Removed,
    Changed,
}

/// A file that is not the same in two points.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedFile {
    pub change: Change,
    /// From the place that was asked for on.
    pub path: String,
    pub kind: FileKind,
    /// In the first point and in the second.
    pub sizes: (Option<u64>, Option<u64>),
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Comparison {
    pub changes: Vec<ChangedFile>,
    pub is_cut: bool,
    pub damage: Vec<String>,
}

/// What is compared of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Leaf {
    kind: FileKind,
    size_bytes: u64,
    modified: Option<Timestamp>,
    mode: Option<u16>,
    owner: (Option<u32>, Option<u32>),
}

#[derive(Debug, Default)]
struct Tree {
    leaves: BTreeMap<String, Leaf>,
    damage: Vec<String>,
}

impl Node {
    /// Files below a place whose names look like the pattern, without regard to case.
    pub async fn find_point_files(&self, who: &Identity, at: FilesAt, pattern: &str) -> Result<FoundFiles> {
        self.authorize_files(who)?;
        let pattern: NamePattern =
            pattern.parse().map_err(|error: ExploreError| NodeError::invalid(error.to_string()))?;
        let pattern = pattern.ignoring_case();
        self.ask(who, &at, move |opened, place, path| {
            search(&*opened.fs, opened.disk.as_deref(), place, path, pattern)
        })
        .await
    }

    /// What differs below a place of one point and of another: by kind, size, time, permissions and owner.
    pub async fn compare_points(&self, who: &Identity, at: FilesAt, with: FilesAt) -> Result<Comparison> {
        let before = self.ask(who, &at, |opened, _, path| tree(&*opened.fs, path)).await?;
        let after = self.ask(who, &with, |opened, _, path| tree(&*opened.fs, path)).await?;
        Ok(compared(before, &after))
    }
}

fn search(
    fs: &dyn FileSystem,
    disk: Option<&str>,
    place: &Place,
    path: &FilePath,
    pattern: NamePattern,
) -> nestling_explore::Result<FoundFiles> {
    let from = find(fs, path)?;
    let mut found = FoundFiles { files: Vec::new(), is_cut: false, damage: Vec::new() };
    let (begun, mut bytes) = (Instant::now(), 0);
    for item in Walk::new(fs, from, path.clone(), WalkLimits::default()).search(pattern) {
        if found.files.len() >= FOUND_MAX || bytes >= ANSWER_BYTES_MAX || begun.elapsed() > SEARCH_TIME {
            found.is_cut = true;
            break;
        }
        let item = match item {
            Ok(item) => item,
            Err(error) if error.kind() == ErrorKind::Worker => return Err(error),
            Err(error) => {
                told(&mut found.damage, error.to_string());
                continue;
            }
        };
        let (path, name) = (item.path(), Some(item.entry.name.clone()));
        let view = fs
            .stat(item.entry.node)
            .and_then(|stat| FileView::new(fs, disk, place, name, &path, &stat, false));
        match view {
            Ok(view) => {
                bytes += view.place.len();
                found.files.push(view);
            }
            Err(error) if error.kind() == ErrorKind::Worker => return Err(error),
            Err(error) => told(&mut found.damage, format!("{path}: {error}")),
        }
    }
    Ok(found)
}

fn told(damage: &mut Vec<String>, what: String) {
    if damage.len() < DAMAGE_MAX {
        damage.push(what);
    }
}

fn tree(fs: &dyn FileSystem, path: &FilePath) -> nestling_explore::Result<Tree> {
    let mut tree = Tree::default();
    let from = find(fs, path)?;
    let limits = WalkLimits { entries: TREE_ENTRIES_MAX, ..WalkLimits::default() };
    let (begun, mut bytes) = (Instant::now(), 0);
    for item in Walk::new(fs, from, FilePath::default(), limits) {
        if bytes >= TREE_BYTES_MAX || begun.elapsed() > SEARCH_TIME {
            return Err(ExploreError::Limit {
                volume: fs.summary().label.clone(),
                what: "what can be compared at once; name a directory in it".to_owned(),
                limit: TREE_ENTRIES_MAX,
            });
        }
        let found = item.and_then(|item| Ok((item.path(), fs.stat(item.entry.node)?)));
        match found {
            Ok((path, stat)) => {
                let path = path.to_string();
                bytes += path.len();
                tree.leaves.insert(path, Leaf::of(&stat));
            }
            Err(error) if matches!(error.kind(), ErrorKind::Worker | ErrorKind::Limit) => return Err(error),
            Err(error) => told(&mut tree.damage, error.to_string()),
        }
    }
    Ok(tree)
}

impl Leaf {
    fn of(stat: &Stat) -> Self {
        let Stat { kind, size_bytes, mode, uid, gid, .. } = *stat;
        // What a directory's size is, is the file system's own business.
        let size_bytes = if kind == FileKind::Directory { 0 } else { size_bytes };
        Self { kind, size_bytes, modified: stat.times.modified, mode, owner: (uid, gid) }
    }

    /// A directory changes with each file that comes or goes, which is told of that.
    fn is_as(&self, other: &Self) -> bool {
        match (self.kind, other.kind) {
            (FileKind::Directory, FileKind::Directory) => {
                (self.mode, self.owner) == (other.mode, other.owner)
            }
            _ => self == other,
        }
    }
}

fn compared(before: Tree, after: &Tree) -> Comparison {
    let (mut comparison, mut bytes) = (Comparison::default(), 0);
    let mut put = |change, path: &str, leaf: &Leaf, sizes| {
        bytes += path.len();
        if comparison.changes.len() >= CHANGES_MAX || bytes >= ANSWER_BYTES_MAX {
            comparison.is_cut = true;
            return;
        }
        comparison.changes.push(ChangedFile { change, path: path.to_owned(), kind: leaf.kind, sizes });
    };
    let mut paths: Vec<&String> = before.leaves.keys().chain(after.leaves.keys()).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        match (before.leaves.get(path), after.leaves.get(path)) {
            (Some(was), None) => put(Change::Removed, path, was, (Some(was.size_bytes), None)),
            (None, Some(is)) => put(Change::Added, path, is, (None, Some(is.size_bytes))),
            (Some(was), Some(is)) if !was.is_as(is) => {
                put(Change::Changed, path, is, (Some(was.size_bytes), Some(is.size_bytes)));
            }
            _ => {}
        }
    }
    comparison.damage = before.damage;
    for what in &after.damage {
        told(&mut comparison.damage, what.clone());
    }
    comparison
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(leaves: &[(&str, FileKind, u64)]) -> Tree {
        let leaf =
            |kind, size_bytes| Leaf { kind, size_bytes, modified: None, mode: None, owner: (None, None) };
        let leaves = leaves.iter().map(|(path, kind, size)| ((*path).to_owned(), leaf(*kind, *size)));
        Tree { leaves: leaves.collect(), damage: Vec::new() }
    }

    #[test]
    fn what_comes_goes_and_changes_is_told() {
        use FileKind::{Directory, File, Link};
        let before = tree(&[
            ("/a", File, 1),
            ("/b", File, 1),
            ("/d", Directory, 0),
            ("/d/x", File, 5),
            ("/l", File, 3),
        ]);
        let after = tree(&[
            ("/a", File, 1),
            ("/b", File, 2),
            ("/d", Directory, 0),
            ("/d/y", File, 5),
            ("/l", Link, 3),
        ]);
        let found = compared(before, &after);
        let told: Vec<_> = found.changes.iter().map(|c| (c.change, c.path.as_str(), c.sizes)).collect();
        assert_eq!(
            told,
            [
                (Change::Changed, "/b", (Some(1), Some(2))),
                (Change::Removed, "/d/x", (Some(5), None)),
                (Change::Added, "/d/y", (None, Some(5))),
                (Change::Changed, "/l", (Some(3), Some(3)))
            ]
        );
        assert!(!found.is_cut);
    }
}
