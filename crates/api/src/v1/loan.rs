//! One instant of a machine's disks, lent by its node to the host above, which saves it in a repository of its own.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Controller, JobConsistency};

/// A machine whose disks are to be lent as they are at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewLoan {
    /// Its name or its id.
    pub vm: String,
    /// The repository of the host above that it is for: change tracking counts for each one by itself.
    pub repository: Uuid,
    /// The machine's points there, newest first.
    #[serde(default)]
    pub points: Vec<LoanPoint>,
    #[serde(default)]
    pub consistency: JobConsistency,
    /// Disks to be left out: `scsi:1`, `ide:0`, `file:*scratch*`.
    #[serde(default)]
    pub exclude_disks: Vec<String>,
    /// Read everything, whatever is known of what changed.
    #[serde(default)]
    pub full: bool,
}

/// What a point says of the disks in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoanPoint {
    pub id: String,
    pub disks: Vec<LoanPointDisk>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoanPointDisk {
    pub controller: Controller,
    pub location: u8,
    pub size_bytes: u64,
    /// The number of the change tracking that began at the point's instant.
    #[serde(default)]
    pub tracking: Option<Uuid>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum LoanState {
    /// The guest is made ready, and the instant made.
    Preparing,
    /// It can be read.
    Ready,
    /// It is being given back.
    Ending,
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Loan {
    pub id: Uuid,
    pub state: LoanState,
    /// Once it can be read.
    #[serde(default)]
    pub instant: Option<LentInstant>,
    /// Of its end.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Why it ended without a point.
    #[serde(default)]
    pub reason: Option<String>,
    /// The machine went on to another state, with which it can be tried again.
    #[serde(default)]
    pub again: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LentInstant {
    /// The machine as a recovery point describes it.
    pub description: String,
    pub age_ms: u64,
    /// Which of the points, counted from 0, it counts from or is compared with.
    #[serde(default)]
    pub point: Option<u32>,
    pub disks: Vec<LentDisk>,
    #[serde(default)]
    pub frozen_ms: u64,
    #[serde(default)]
    pub capture_ms: u64,
    #[serde(default)]
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LentDisk {
    pub name: String,
    pub size_bytes: u64,
    /// Why it is not known what changed since the point; absent when it is.
    #[serde(default)]
    pub untracked: Option<NotTracked>,
}

/// Why not only what changed is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum NotTracked {
    FirstPoint,
    UnknownPoint,
    BitmapMissing,
    BitmapInconsistent,
    NotRecording,
    SizeChanged,
    GranularityChanged,
    ImageTouched,
    EngineEnded,
    Recovered,
    Asked,
}

/// Parts of a disk, in order: those that hold data, or those that changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskStretches {
    /// The first byte of each, and how many there are.
    pub stretches: Vec<[u64; 2]>,
    /// All before this byte is told of.
    pub until: u64,
}

/// A loan is over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct ReturnLoan {
    /// The recovery point that is durable now. Absent: there is none, and the machine's change tracking stays as it was.
    pub point: Option<String>,
}
