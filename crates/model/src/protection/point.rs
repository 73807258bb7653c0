//! A recovery point as its users see it: a machine as it was at an instant, complete in itself.

use serde::{Deserialize, Serialize};

use super::{
    id::{JobId, PointId, RepositoryId, RunId},
    message::{Message, Warnings},
};
use crate::{name::DiskName, path::VmPath, vm::VmId};

/// What a point's disks are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ConsistencyReached {
    /// As after a power cut.
    Crash,
    /// File systems were written out.
    FileSystem,
    /// Applications were ready.
    Application,
    /// The machine was off.
    Off,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PointDisk {
    pub name: DiskName,
    /// The disk's virtual size.
    pub size_bytes: u64,
}

/// What a check of the point found: that it boots, or that its bytes are those that were saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    pub at_ms: u64,
    pub passed: bool,
    pub message: Message,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPoint {
    pub id: PointId,
    pub repository: RepositoryId,
    /// The machine's path then.
    pub machine: VmPath,
    /// `None` for a point that was saved by other means than a node.
    #[serde(default)]
    pub machine_id: Option<VmId>,
    /// The instant, in milliseconds since 1970-01-01T00:00:00Z.
    pub taken_at_ms: u64,
    #[serde(default)]
    pub job: Option<JobId>,
    #[serde(default)]
    pub run: Option<RunId>,
    #[serde(default)]
    pub consistency: Option<ConsistencyReached>,
    #[serde(default)]
    pub disks: Vec<PointDisk>,
    /// What the repository did not have before, and what that takes there.
    #[serde(default)]
    pub new_bytes: u64,
    #[serde(default)]
    pub stored_bytes: u64,
    #[serde(default)]
    pub pinned: bool,
    #[serde(default)]
    pub protected_until_ms: Option<u64>,
    /// Something in it cannot be read any more.
    #[serde(default)]
    pub damaged: bool,
    #[serde(default)]
    pub proof: Option<Proof>,
    #[serde(default)]
    pub warnings: Warnings,
}

impl RecoveryPoint {
    pub fn size_bytes(&self) -> u64 {
        self.disks.iter().fold(0, |sum, disk| sum.saturating_add(disk.size_bytes))
    }

    /// Whether it is known to be of no use: damaged, or shown not to boot.
    pub fn is_doubtful(&self) -> bool {
        self.damaged || self.proof.as_ref().is_some_and(|proof| !proof.passed)
    }
}
