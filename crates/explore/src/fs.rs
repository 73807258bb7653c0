//! The port of this crate: a file system that is read.
//!
//! What a caller gets is values that were checked; what a caller gives (nodes, cursors) may be anything, and what
//! makes no sense is an error. The values have serde's traits because they also cross to the worker's process, which is
//! the same program in the same version; nothing of it is stored or given to other programs.

use std::{fmt, ops::Range};

use nestling_block::Extent;
use serde::{Deserialize, Serialize};

use crate::{FileName, Result, detect::Kind};

/// Most entries of one page of a directory.
pub const PAGE_ENTRIES_MAX: usize = 10_000;

/// A file system that can be read by several threads at once. Every call is bounded in time and memory whatever the
/// volume says.
pub trait FileSystem: Send + Sync {
    fn summary(&self) -> &Summary;

    fn root(&self) -> Node;

    /// The entry of this name. Where the file system does not tell cases apart, neither does this, but the same case
    /// comes first. `.` and `..` are no names.
    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>>;

    /// A page of a directory's entries, in the file system's own order, without `.` and `..`. It may hold fewer entries
    /// than asked for, none too, and is the last only when there is no place to go on from.
    fn list(&self, directory: Node, from: Cursor, limit: usize) -> Result<Page>;

    fn stat(&self, node: Node) -> Result<Stat>;

    /// Reads from `offset` on: all of `buf`, or what there is up to the end. `stream` is empty for the file's own
    /// bytes.
    fn read(&self, node: Node, stream: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// What lies in a part of a stream, as [`BlockSource::extents`](nestling_block::BlockSource::extents): never empty
    /// unless the range is, and possibly not all. What is called zero reads as zero.
    fn extents(&self, node: Node, stream: &[u8], range: Range<u64>) -> Result<Vec<Extent>>;

    /// Where a symbolic link leads, as it is written there.
    fn link_target(&self, node: Node) -> Result<Vec<u8>>;

    /// Extended attributes by their whole name (`user.mime_type`, `security.selinux`, `system.posix_acl_access`), with
    /// the value that `getxattr` would give. On NTFS, its own extended attributes.
    fn extended_attributes(&self, _node: Node) -> Result<Vec<ExtendedAttribute>> {
        Ok(Vec::new())
    }

    /// Alternate data streams, without the file's own.
    fn streams(&self, _node: Node) -> Result<Vec<StreamInfo>> {
        Ok(Vec::new())
    }

    /// The security descriptor as it lies on disk (self-relative).
    fn security_descriptor(&self, _node: Node) -> Result<Option<Vec<u8>>> {
        Ok(None)
    }

    fn reparse_point(&self, _node: Node) -> Result<Option<ReparsePoint>> {
        Ok(None)
    }
}

/// A file or directory of one file system: its inode number, file reference, or the place of its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Node(pub u64);

/// Where a page of a directory begins. Whatever is not the first one comes from the page before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cursor(pub u64);

/// What a volume is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    pub kind: Kind,
    pub label: String,
    /// Or the serial number, where there is no more.
    pub uuid: Option<String>,
    /// As the file system says.
    pub size_bytes: u64,
    /// None when it is not written down anywhere.
    pub free_bytes: Option<u64>,
    pub block_bytes: u32,
    /// What a user should know: a journal that was replayed, a volume that was not cleanly closed.
    pub notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// Where to go on, unless this was all.
    pub next: Option<Cursor>,
    /// What could not be read, so that entries may be missing here.
    pub damage: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub name: FileName,
    pub node: Node,
    /// As the directory says, where it says it.
    pub kind: FileKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    File,
    Directory,
    Link,
    BlockDevice,
    CharDevice,
    Fifo,
    Socket,
    /// The directory does not say, or says what makes no sense.
    Unknown,
}

impl FileKind {
    /// By the type bits of a Unix mode.
    pub(crate) fn of_mode(mode: u16) -> Self {
        match mode >> 12 {
            0o01 => Self::Fifo,
            0o02 => Self::CharDevice,
            0o04 => Self::Directory,
            0o06 => Self::BlockDevice,
            0o10 => Self::File,
            0o12 => Self::Link,
            0o14 => Self::Socket,
            _ => Self::Unknown,
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Link => "symbolic link",
            Self::BlockDevice => "block device",
            Self::CharDevice => "character device",
            Self::Fifo => "fifo",
            Self::Socket => "socket",
            Self::Unknown => "something unknown",
        })
    }
}

/// Since 1970, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Timestamp {
    pub seconds: i64,
    /// Below a thousand million, always forward.
    pub nanoseconds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Times {
    pub modified: Option<Timestamp>,
    pub accessed: Option<Timestamp>,
    /// Of what is said about the file.
    pub changed: Option<Timestamp>,
    pub created: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    pub node: Node,
    pub kind: FileKind,
    pub size_bytes: u64,
    /// What it takes on the volume.
    pub allocated_bytes: u64,
    /// Permission bits, where the file system has them.
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub times: Times,
    pub links: u32,
    pub attributes: Attributes,
    /// Major and minor number.
    pub device: Option<(u32, u32)>,
}

/// Flags as they lie on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attributes {
    /// Inode flags of ext (as `lsattr`).
    Ext(u32),
    /// FAT, exFAT and NTFS (as `GetFileAttributes`).
    Dos(u32),
}

impl Attributes {
    pub const DOS_READ_ONLY: u32 = 0x1;
    pub const DOS_HIDDEN: u32 = 0x2;
    pub const DOS_SYSTEM: u32 = 0x4;
    pub const DOS_DIRECTORY: u32 = 0x10;
    pub const DOS_ARCHIVE: u32 = 0x20;
    pub const DOS_SPARSE: u32 = 0x200;
    pub const DOS_REPARSE_POINT: u32 = 0x400;
    pub const DOS_COMPRESSED: u32 = 0x800;
    pub const DOS_ENCRYPTED: u32 = 0x4000;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExtendedAttribute {
    pub name: FileName,
    pub value: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamInfo {
    pub name: FileName,
    pub size_bytes: u64,
    pub allocated_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReparsePoint {
    pub tag: u32,
    pub data: Vec<u8>,
}

impl Summary {
    /// For messages.
    pub(crate) fn label_or_kind(&self) -> String {
        if self.label.is_empty() { self.kind.to_string() } else { format!("{} {:?}", self.kind, self.label) }
    }
}
