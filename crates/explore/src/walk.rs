//! Going through a tree.
//!
//! Depth first, page by page: what is kept is the way down, not what was seen. A directory that is on the way down already
//! is not entered again, which ends every circle. What cannot be read is told and left out; the walk goes on.

use std::collections::VecDeque;

use crate::{
    ExploreError, FilePath, Result,
    fs::{Cursor, Entry, FileKind, FileSystem, Node},
    pattern::NamePattern,
};

const PAGE_ENTRIES: usize = 1000;

#[derive(Debug, Clone, Copy)]
pub struct WalkLimits {
    pub depth: usize,
    /// Entries in all; behind them the walk ends with an error.
    pub entries: u64,
}

impl Default for WalkLimits {
    fn default() -> Self {
        Self { depth: 256, entries: 100_000_000 }
    }
}

/// An entry and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub directory: FilePath,
    pub entry: Entry,
}

impl Found {
    #[must_use]
    pub fn path(&self) -> FilePath {
        self.directory.join(self.entry.name.clone())
    }
}

/// What is below a directory, as an iterator: each entry, then what is below it. An error is one of a single directory, unless it
/// is the last item.
pub struct Walk<'a> {
    fs: &'a dyn FileSystem,
    limits: WalkLimits,
    levels: Vec<Level>,
    seen: u64,
}

struct Level {
    node: Node,
    path: FilePath,
    /// Of the page that is at hand.
    entries: VecDeque<Entry>,
    /// Where the next page begins.
    next: Option<Cursor>,
    damage: Option<String>,
}

impl<'a> Walk<'a> {
    #[must_use]
    pub fn new(fs: &'a dyn FileSystem, from: Node, path: FilePath, limits: WalkLimits) -> Self {
        let mut walk = Self { fs, limits, levels: Vec::new(), seen: 0 };
        walk.enter(from, path);
        walk
    }

    /// Only entries whose name looks like this; all directories are gone through.
    pub fn search(self, pattern: NamePattern) -> impl Iterator<Item = Result<Found>> + use<'a> {
        self.filter(move |item| item.as_ref().map_or(true, |found| pattern.matches(&found.entry.name)))
    }

    fn enter(&mut self, node: Node, path: FilePath) {
        let level =
            Level { node, path, entries: VecDeque::new(), next: Some(Cursor::default()), damage: None };
        self.levels.push(level);
    }

    /// The next page of the innermost directory; false when there is none.
    fn turn(&mut self) -> Result<bool> {
        let Some(level) = self.levels.last_mut() else { return Ok(false) };
        let Some(from) = level.next.take() else { return Ok(false) };
        let page = self.fs.list(level.node, from, PAGE_ENTRIES)?;
        // A page that leads back would be turned without end.
        level.next = page.next.filter(|next| next.0 > from.0);
        level.entries = page.entries.into();
        level.damage = page.damage;
        Ok(true)
    }

    fn found(&mut self, entry: Entry) -> Option<Result<Found>> {
        self.seen += 1;
        if self.seen > self.limits.entries {
            self.levels.clear();
            return Some(Err(self.limit("entries below one directory", self.limits.entries)));
        }
        let level = self.levels.last()?;
        let directory = level.path.clone();
        if entry.kind == FileKind::Directory {
            let again = self.levels.iter().any(|level| level.node == entry.node);
            let path = directory.join(entry.name.clone());
            if again || self.levels.len() >= self.limits.depth {
                let what = if again { "goes round" } else { "is deeper than the limit" };
                return Some(Err(ExploreError::Damaged {
                    volume: self.fs.summary().label_or_kind(),
                    what: format!("the tree {what} at {path}, which is not gone into"),
                }));
            }
            self.enter(entry.node, path);
        }
        Some(Ok(Found { directory, entry }))
    }

    fn limit(&self, what: &str, limit: u64) -> ExploreError {
        ExploreError::Limit { volume: self.fs.summary().label_or_kind(), what: what.to_owned(), limit }
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Found>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let level = self.levels.last_mut()?;
            if let Some(entry) = level.entries.pop_front() {
                return self.found(entry);
            }
            if let Some(what) = level.damage.take() {
                let what = format!("{}: {what}", level.path);
                return Some(Err(ExploreError::Damaged { volume: self.fs.summary().label_or_kind(), what }));
            }
            match self.turn() {
                Ok(true) => {}
                Ok(false) => {
                    self.levels.pop();
                }
                Err(error) => {
                    self.levels.pop();
                    return Some(Err(error));
                }
            }
        }
    }
}
