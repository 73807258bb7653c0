//! Disk bytes: what every reader and writer of disks stands on, whatever the bytes lie in.
//!
//! A [`BlockSource`] gives the bytes of a disk at any place to several threads at once, and says which of them are
//! known to be zero, so that a copy neither reads nor stores holes. A [`BlockTarget`] takes bytes. Calls block: who
//! wants several at once uses several threads.
//!
//! This crate must never learn what a machine or a backup is, never follow a name in an image unless it was told to (and
//! then within bounds), and never say "zero" of a place that may hold data. Images and peers are hostile: whatever they
//! say about sizes and places is checked before it is used.

mod cache;
mod changed;
#[cfg(test)]
mod conformance;
mod copy;
mod crc;
mod error;
mod extent;
mod fields;
mod files;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod guid;
mod json;
mod layers;
mod mapped;
mod memory;
pub mod nbd;
mod open;
mod overlay;
mod pages;
mod partitions;
pub mod qcow2;
mod raw;
#[cfg(any(test, feature = "fuzzing"))]
mod sketch;
mod source;
pub mod vhd;
pub mod vhdx;
pub mod vmdk;
mod zero;

pub use changed::{ChangedError, ExtentSet};
pub use copy::{CopyError, CopyWatch, copy};
pub use error::BlockError;
pub use extent::{EXTENTS_MAX, Extent, ExtentKind, ExtentList};
pub use files::{CHAIN_MAX, ImageFile, ImageFiles, Links, LocalFiles};
pub use guid::Guid;
pub use json::JsonObject;
pub use memory::MemoryDisk;
pub use open::{ImageFormat, OpenImage};
pub use overlay::Overlay;
pub use partitions::{Partition, PartitionKind, PartitionTable, Slice, TableKind, TypeId};
pub use raw::RawDisk;
pub use source::{BlockSource, BlockTarget, Extents, check_range, extents};
