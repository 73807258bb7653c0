use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{DiskFormat, ImageFormat, RunState};

/// A machine, or some of its disks, to be recovered now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewRecovery {
    /// The first digits of the point's id, `VM@newest`, or `VM@DIGITS`.
    pub point: String,
    /// In this repository; in all of them when absent.
    #[serde(default)]
    pub repository: Option<String>,
    /// Over the disks of the machine that the point is of, which must be off; else a new machine is made.
    #[serde(default)]
    pub in_place: bool,
    /// Only these disks, such as `scsi:1`; all of the point's when empty.
    #[serde(default)]
    pub disks: Vec<String>,
    /// Of a new machine; as it was called then when absent.
    #[serde(default)]
    pub name: Option<String>,
    /// Of a new machine: which switches its adapters get instead of those that they had.
    #[serde(default)]
    pub switches: Vec<SwitchMapping>,
    /// Of a new machine: its adapters are left unplugged.
    #[serde(default)]
    pub no_switch: bool,
    /// Of a new machine's disks; as each was then when absent.
    #[serde(default)]
    pub format: Option<DiskFormat>,
    /// A new machine gets a new id and new MAC addresses, though the old ones are free.
    #[serde(default)]
    pub new_identity: bool,
    /// The disks of the new machine stay in the vault for now, and it runs from there.
    #[serde(default)]
    pub instant: bool,
    /// Of a new machine that starts from a kernel: of this image of the host; when absent of the one that it had, by name.
    #[serde(default)]
    pub image: Option<String>,
    /// Start the machine afterwards.
    #[serde(default)]
    pub start: bool,
    /// Into this new folder of the node's host, for other programs; no machine is made.
    #[serde(default)]
    pub export_folder: Option<String>,
    /// Of an export's disks; qcow2 when absent.
    #[serde(default)]
    pub export_format: Option<ImageFormat>,
}

/// Adapters that were plugged into `from` (a name or an id) are plugged into `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SwitchMapping {
    pub from: String,
    pub to: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveredDisk {
    /// What the disk is called in the point.
    pub name: String,
    pub path: String,
    pub size_bytes: u64,
    /// Zeroes are not counted, and in place what was the same already is not.
    pub written_bytes: u64,
}

/// How far a recovery is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecoveryProgress {
    pub stage: String,
    /// The disk that is written.
    #[serde(default)]
    pub disk: Option<String>,
    pub done: u64,
    /// 0: not known.
    pub total: u64,
    /// Whether these are bytes of disks.
    pub in_bytes: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Recovery {
    pub number: u64,
    pub state: RunState,
    /// Who wanted it.
    pub cause: String,
    pub point: String,
    pub repository: String,
    /// The machine that is made, overwritten, or exported.
    pub vm: String,
    #[serde(default)]
    pub vm_id: Option<Uuid>,
    pub in_place: bool,
    /// Where it is exported to, if it is.
    #[serde(default)]
    pub export_folder: Option<String>,
    pub started_at_ms: u64,
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
    /// Those that are whole.
    #[serde(default)]
    pub disks: Vec<RecoveredDisk>,
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Why it failed.
    #[serde(default)]
    pub reason: Option<String>,
    /// While it runs.
    #[serde(default)]
    pub progress: Option<RecoveryProgress>,
}

/// A machine that runs from a recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct InstantBoot {
    pub vm: String,
    pub vm_id: Uuid,
    pub point: String,
    pub repository: String,
    /// The disks that still need the point.
    pub disks: Vec<String>,
    /// The proof that it runs for, and goes with.
    #[serde(default)]
    pub proof: Option<u64>,
    /// Whether they are being brought over.
    pub finishing: bool,
    /// Of the disk that is brought over now.
    #[serde(default)]
    pub done_bytes: u64,
    /// 0: not known.
    #[serde(default)]
    pub total_bytes: u64,
    /// Why it was not brought over.
    #[serde(default)]
    pub problem: Option<String>,
}
