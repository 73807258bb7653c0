//! Trees: directories. A file's node lists the blobs that its content consists of.
//!
//! restic's design document, "Trees and Data". A tree is stored under the SHA-256 of its JSON, so an unchanged directory
//! must give the same bytes each time, and the same as restic would write. The lists of blobs are the bulk: a disk of
//! 1 TiB has a million of them. Names of a decoded tree are fit to be parts of a path; nothing else of it is proven.

mod decode;
mod encode;
mod name;
#[cfg(test)]
mod tests;

pub use decode::{decode, for_each_blob};
pub use encode::encode;

use super::{FormatError, Timestamp};
use crate::BlobId;

pub(super) const WHAT: &str = "tree";
/// Go's bit for a directory in a mode.
pub const MODE_DIR: u32 = 1 << 31;

/// A directory: its nodes, sorted by the bytes of their names, each name once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Tree {
    pub nodes: Vec<Node>,
}

impl Tree {
    /// A tree of `nodes`, which are brought into order. Fails when a name is there twice or not fit for a file.
    pub fn new(mut nodes: Vec<Node>) -> Result<Self, FormatError> {
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let tree = Self { nodes };
        tree.check()?;
        Ok(tree)
    }

    fn check(&self) -> Result<(), FormatError> {
        for node in &self.nodes {
            name::check(&node.name)?;
        }
        match self.nodes.windows(2).find(|pair| pair[0].name >= pair[1].name) {
            Some(pair) => {
                let why = format!("{:?} must not stand before {:?}", pair[0].name, pair[1].name);
                Err(FormatError::invalid(WHAT, why))
            }
            None => Ok(()),
        }
    }

    /// The node of that name.
    pub fn find(&self, name: &str) -> Option<&Node> {
        self.nodes.binary_search_by(|node| node.name.as_str().cmp(name)).ok().map(|at| &self.nodes[at])
    }
}

/// What a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeKind {
    /// A directory.
    Dir { subtree: BlobId },
    /// A file of `size` bytes, the blobs of `content` in this order.
    File { size: u64, content: Vec<BlobId> },
    /// Anything else, by restic's word for it: "symlink", "dev", "chardev", "fifo", "socket", "irregular".
    Other(String),
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub name: String,
    pub kind: NodeKind,
    /// Go's `os.FileMode`: the permissions as in Unix, and kinds in high bits of Go's own.
    pub mode: u32,
    pub mtime: Timestamp,
    pub atime: Timestamp,
    pub ctime: Timestamp,
    pub uid: u32,
    pub gid: u32,
    pub user: String,
    pub group: String,
    pub inode: u64,
    /// Names of the file.
    pub links: u64,
    /// What disks do not need but restic's own nodes have.
    pub rare: Option<Box<Rare>>,
}

/// Properties of nodes that only backups of file systems have, kept so that a tree is written again as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rare {
    pub device_id: u64,
    /// Of a node that is no file.
    pub size: u64,
    pub link_target: String,
    /// Base64 of a target that is not UTF-8.
    pub link_target_raw: String,
    /// JSON, as it was.
    pub extended_attributes: String,
    /// JSON, as it was.
    pub generic_attributes: String,
    pub device: u64,
    /// Of a file: its content was `null`, not `[]`. Of another node: the reverse.
    pub unusual_content: bool,
    pub error: String,
}

impl Node {
    fn new(name: &str, kind: NodeKind, mode: u32, time: Timestamp) -> Self {
        Self {
            name: name.into(),
            kind,
            mode,
            mtime: time,
            atime: time,
            ctime: time,
            uid: 0,
            gid: 0,
            user: "root".into(),
            group: "root".into(),
            inode: 0,
            links: 0,
            rare: None,
        }
    }

    /// A directory of root's that all may read.
    pub fn dir(name: &str, subtree: BlobId, time: Timestamp) -> Self {
        Self::new(name, NodeKind::Dir { subtree }, MODE_DIR | 0o755, time)
    }

    /// A file of root's that all may read, of `size` bytes in all blobs of `content`.
    pub fn file(name: &str, size: u64, content: Vec<BlobId>, time: Timestamp) -> Self {
        Self::new(name, NodeKind::File { size, content }, 0o644, time)
    }
}
