//! The vault: a repository of recovery points of disks, in restic's format, version 2.
//!
//! A recovery point is complete in itself and costs only what changed. The crate works on plain disks with no machine
//! and no node. It must never write anything that a stock restic could not check, list and restore, and never give out
//! a byte that was not proven to be the one that was saved.

mod blob;
mod catalogue;
mod copy;
pub mod crypto;
mod diff;
mod error;
mod forget;
pub mod format;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod holes;
mod id;
mod index;
mod job;
mod keys;
pub mod layout;
mod lock;
mod mend;
mod name;
mod output;
mod packer;
mod pair;
mod parallel;
mod password;
mod point;
mod prune;
mod reader;
mod rebuild;
mod repair;
mod repo;
mod restore;
mod retag;
pub mod retention;
mod save;
mod save_request;
mod selector;
mod stats;
pub mod storage;
#[cfg(test)]
mod testing;
mod unlock;
mod verify;
mod walk;

pub use catalogue::{Catalogue, Listed, Summary};
pub use copy::CopyReport;
pub use diff::{DiskDiff, diff};
pub use error::{FailureKind, VaultError};
pub use forget::{ForgetPlan, PlannedMachine, PlannedPoint};
pub(crate) use id::hex;
pub use id::{BlobId, IndexId, InvalidId, KeyId, LockId, PackId, SnapshotId};
pub use index::{Index, Location};
pub use job::{Job, JobProgress};
pub use layout::{DESCRIPTION_FILE, Geometry, LEVEL, Tuning};
pub use lock::{Held, RepositoryLock, held};
pub use name::{PointName, check_disk_name};
pub use output::{Onto, Output, rename_new};
pub use packer::Stored;
pub use password::{PASSWORD_BYTES_MAX, Password, PasswordError, first_line};
pub use point::{DAMAGED_TAG, DiskLayout, LostRange, Point, PointContent, PointLayout, PointList};
pub use prune::{PruneOptions, PrunePlan, PruneReport, PruneSummary};
pub use reader::{CACHE_BYTES, PointDisk, ReadCache};
pub use rebuild::RebuildReport;
pub use repair::{DamagedPack, DamagedPoint, Fate, RepairPlan, RepairReport};
pub use repo::{Identity, Repository, UnreadableSnapshot};
pub use restore::{Existing, RestoreReport, RestoreRequest, restore};
pub use retag::{Retag, check_tag};
pub use save::{DiskInput, SaveReport, SaveRequest};
pub use selector::{DiskSelector, PointSelector, PointsSelector, parse_point_id};
pub use stats::{KindStats, MachineStats, RepositoryStats};
pub use unlock::LockInfo;
pub use verify::{DataCheck, Defect, Loss, VerifyReport};
