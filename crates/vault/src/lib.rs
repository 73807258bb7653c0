//! The vault: a repository of recovery points of disks, in restic's format, version 2.
//!
//! A recovery point is complete in itself and costs only what changed. The crate works on plain disks with no machine
//! and no node. It must never write anything that a stock restic could not check, list and restore, and never give out
//! a byte that was not proven to be the one that was saved.

mod blob;
pub mod crypto;
mod error;
pub mod format;
mod id;
mod index;
mod job;
pub mod layout;
mod lock;
mod name;
mod packer;
mod point;
mod prune;
mod reader;
mod repo;
mod restore;
pub mod retention;
mod save;
pub mod storage;
mod verify;
mod walk;

pub use error::VaultError;
pub(crate) use id::hex;
pub use id::{BlobId, IndexId, InvalidId, KeyId, LockId, PackId, SnapshotId};
pub use index::{Index, Location};
pub use job::{Job, JobProgress};
pub use layout::{Geometry, LEVEL, Tuning};
pub use lock::{Held, RepositoryLock, held};
pub use name::{PointName, check_disk_name};
pub use packer::Stored;
pub use point::{DiskLayout, Point, PointContent, PointLayout};
pub use prune::{PruneOptions, PrunePlan, PruneReport, PruneSummary};
pub use reader::{CACHE_BYTES, PointDisk};
pub use repo::{Identity, Repository};
pub use restore::{Existing, RestoreReport, RestoreRequest, restore};
pub use save::{DiskInput, SaveReport, SaveRequest};
pub use verify::{DataCheck, Defect, Loss, VerifyReport};
