//! Paths inside a volume, and finding what they lead to.
//!
//! A path is a list of names. As text, names are escaped (`name.rs`) and separated by `/`; it always begins at the
//! root, and `.` and `..` are refused in it: what a volume holds under such names is reached by its escaped name or
//! by its node. Symbolic links are followed only when asked for, inside the volume alone: `..` at the root stays
//! there, and an absolute link begins at the volume's own root.

use std::{fmt, str::FromStr};

use crate::{
    ExploreError, FileName, Result,
    fs::{FileKind, FileSystem, Node},
};

const DEPTH_MAX: usize = 4096;
/// As Linux has it.
const LINKS_MAX: u32 = 40;

/// Names from the root on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Hash)]
pub struct FilePath(Vec<FileName>);

impl FilePath {
    #[must_use]
    pub fn names(&self) -> &[FileName] {
        &self.0
    }

    #[must_use]
    pub fn join(&self, name: FileName) -> Self {
        let mut names = self.0.clone();
        names.push(name);
        Self(names)
    }
}

impl From<Vec<FileName>> for FilePath {
    fn from(names: Vec<FileName>) -> Self {
        Self(names)
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("/");
        }
        self.0.iter().try_for_each(|name| write!(f, "/{name}"))
    }
}

impl FromStr for FilePath {
    type Err = ExploreError;

    fn from_str(text: &str) -> Result<Self> {
        let mut names = Vec::new();
        for part in text.split('/').filter(|part| !part.is_empty()) {
            if part == "." || part == ".." {
                return Err(ExploreError::invalid(
                    text,
                    "a path begins at the volume's root and may not have . or .. in it",
                ));
            }
            names.push(part.parse()?);
        }
        if names.len() > DEPTH_MAX {
            return Err(ExploreError::invalid(text, "the path has too many names"));
        }
        Ok(Self(names))
    }
}

/// What a path leads to. Links are not followed. A path that goes round is damage, as in [`Walk`](crate::Walk): whoever lists one
/// directory after the other would never come to an end.
pub fn find(fs: &dyn FileSystem, path: &FilePath) -> Result<Node> {
    let mut way = vec![fs.root()];
    let mut node = fs.root();
    for name in path.names() {
        node = step(fs, node, name, path)?;
        if way.contains(&node) {
            return Err(ExploreError::Damaged {
                volume: fs.summary().label_or_kind(),
                what: format!("the tree goes round at {name} in {path}, which is not gone into"),
            });
        }
        way.push(node);
    }
    Ok(node)
}

fn step(fs: &dyn FileSystem, node: Node, name: &FileName, path: &FilePath) -> Result<Node> {
    let found = fs.lookup(node, name.as_bytes())?;
    found.ok_or_else(|| ExploreError::NotFound {
        volume: fs.summary().label_or_kind(),
        what: format!("{name} on the way to {path}"),
    })
}

/// What a path leads to, through symbolic links, the last one too.
pub fn follow(fs: &dyn FileSystem, path: &FilePath) -> Result<Node> {
    // What is still to be gone, last name first.
    let mut rest: Vec<FileName> = path.names().iter().rev().cloned().collect();
    let mut way = vec![fs.root()];
    let mut links = 0;
    while let Some(name) = rest.pop() {
        let here = way.last().copied().unwrap_or(fs.root());
        match name.as_bytes() {
            b"" | b"." => continue,
            b".." => {
                if way.len() > 1 {
                    way.pop();
                }
                continue;
            }
            _ => {}
        }
        let node = step(fs, here, &name, path)?;
        if fs.stat(node)?.kind != FileKind::Link {
            way.push(node);
            continue;
        }
        links += 1;
        let target = fs.link_target(node)?;
        if links > LINKS_MAX || rest.len() > DEPTH_MAX {
            return Err(ExploreError::Limit {
                volume: fs.summary().label_or_kind(),
                what: format!("symbolic links on the way to {path}"),
                limit: LINKS_MAX.into(),
            });
        }
        if target.first() == Some(&b'/') {
            way.truncate(1);
        }
        rest.extend(target.split(|byte| *byte == b'/').rev().map(FileName::from));
    }
    Ok(way.last().copied().unwrap_or(fs.root()))
}
