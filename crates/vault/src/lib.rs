//! The vault: a repository of recovery points of disks, in restic's format, version 2.
//!
//! A recovery point is complete in itself and costs only what changed. The crate works on plain disks with no machine
//! and no node. It must never write anything that a stock restic could not check, list and restore, and never give out
//! a byte that was not proven to be the one that was saved.

pub mod crypto;
pub mod format;
mod id;
pub mod storage;

pub(crate) use id::hex;
pub use id::{BlobId, IndexId, InvalidId, KeyId, LockId, PackId, SnapshotId};
