//! What lies on disks: file systems, read from any [`BlockSource`](nestling_block::BlockSource), whatever is below it.
//!
//! [`detect`] says what a volume holds, [`open`] gives a [`FileSystem`] to list, look up and read. A file in it is a
//! disk again ([`FileSource`]), so that disks inside disks are read the same way to any depth. Readers are written
//! here, because what is read may be hostile and no crate promises to be bounded whatever a volume says.
//!
//! It must never write; never believe a size, a place or a name on the disk; never follow anything round a circle;
//! never take more than 128 MiB, whatever the volume is; never use a name from a disk as a path. Because a reader can
//! still have a fault, programs read disks of others in a process of its own: [`client`] starts it, [`worker`] is
//! what runs in it. What only Linux reads is mounted inside a virtual machine: [`machine`] is what runs there, and
//! [`client`] speaks with it, too.

#![forbid(unsafe_code)]

mod bytes;
mod chain;
pub mod client;
mod detect;
mod dos;
mod error;
mod exfat;
mod ext;
mod fat;
mod file_source;
mod fs;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod kept;
pub mod machine;
mod name;
mod nest;
mod ntfs;
mod path;
mod pattern;
mod place;
mod volume;
mod volume_id;
mod walk;
pub mod worker;

use std::sync::Arc;

use nestling_block::BlockSource;

pub use detect::{Content, Kind, detect};
pub use error::{ErrorKind, ExploreError, Result};
pub use file_source::FileSource;
pub use fs::{
    Attributes, Cursor, Entry, ExtendedAttribute, FileKind, FileSystem, Node, PAGE_ENTRIES_MAX, Page,
    ReparsePoint, Stat, StreamInfo, Summary, Times, Timestamp,
};
pub use machine::{Composed, ComposedVolume};
pub use name::FileName;
pub use nest::{Volume, Volumes, enter, volumes};
pub use path::{FilePath, find, follow};
pub use pattern::NamePattern;
pub use place::{DEPTH_MAX as PLACE_DEPTH_MAX, InVolume, Place};
pub use volume_id::{ComposedId, VolumeId};
pub use walk::{Found, Walk, WalkLimits};

/// Opens the file system of a volume, in this process. Volumes of others are opened with [`client`].
pub fn open(source: Arc<dyn BlockSource>) -> Result<Arc<dyn FileSystem>> {
    let content = detect(&source)?;
    Ok(match content.kind {
        Kind::Ext2 | Kind::Ext3 | Kind::Ext4 => Arc::new(ext::Ext::open(source)?),
        Kind::Ntfs => Arc::new(ntfs::Ntfs::open(source)?),
        Kind::Fat12 | Kind::Fat16 | Kind::Fat32 => Arc::new(fat::Fat::open(source)?),
        Kind::Exfat => Arc::new(exfat::Exfat::open(source)?),
        other => {
            return Err(ExploreError::Unreadable {
                volume: source.name().to_owned(),
                found: other.to_string(),
            });
        }
    })
}
