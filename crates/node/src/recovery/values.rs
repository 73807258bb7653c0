//! What the use cases of recovery are asked with and what they answer.

use std::path::PathBuf;

use nestling_hypervisor::disk::ImageFormat;
use nestling_model::{
    DiskFormat, VmName,
    protection::{DiskSelector, RunState},
};

/// A wish that a machine, or some of its disks, be recovered.
#[derive(Debug, Clone)]
pub struct RecoveryWish {
    /// The first digits of the point's id, `VM@newest`, or `VM@DIGITS`.
    pub point: String,
    /// `None`: all are looked into.
    pub repository: Option<String>,
    /// All of the point's when empty.
    pub disks: Vec<DiskSelector>,
    pub whereto: Whereto,
    /// Whether the machine is started afterwards.
    pub start: bool,
}

#[derive(Debug, Clone)]
pub enum Whereto {
    /// Over the disks of the machine that the point is of.
    InPlace,
    AsNew {
        /// As it was called then, when absent.
        name: Option<VmName>,
        switches: Vec<SwitchMapping>,
        /// All adapters are left unplugged.
        no_switch: bool,
        /// As each disk was then, when absent.
        format: Option<DiskFormat>,
        /// A new id and new MAC addresses, though the old ones are free.
        new_identity: bool,
        /// Its disks stay in the vault for now, and it runs from there.
        instant: bool,
        /// The image whose kernel it starts from, instead of the one that it had.
        image: Option<String>,
    },
    /// Into a new folder, for other programs. No machine of this host changes.
    Folder { folder: PathBuf, format: ImageFormat },
}

/// Adapters that were plugged into `from` (a name or an id) are plugged into `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchMapping {
    pub from: String,
    pub to: String,
}

/// How far a recovery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryProgress {
    pub stage: &'static str,
    /// The disk that is written, as the point calls it.
    pub disk: Option<String>,
    pub done: u64,
    /// 0: not known.
    pub total: u64,
    /// Whether these are bytes of disks.
    pub in_bytes: bool,
}

/// A disk that came back.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RecoveredDisk {
    /// What it is called in the point.
    pub name: String,
    pub path: PathBuf,
    pub size_bytes: u64,
    /// Zeroes are not counted, and in place what was the same already is not.
    pub written_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveryView {
    pub number: u64,
    pub state: RunState,
    pub cause: String,
    pub point: String,
    /// The repository's name, or its id if this host forgot it.
    pub repository: String,
    /// The machine that is made, overwritten, or exported.
    pub vm: VmName,
    pub vm_id: Option<uuid::Uuid>,
    pub in_place: bool,
    /// Where it was exported to, if it was.
    pub folder: Option<PathBuf>,
    pub started_at_ms: u64,
    pub ended_at_ms: Option<u64>,
    pub disks: Vec<RecoveredDisk>,
    pub warnings: Vec<String>,
    pub reason: Option<String>,
    /// `None` when it does not run.
    pub progress: Option<RecoveryProgress>,
}
