//! Virtual disks attached to a machine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How many disks one machine may have: the hot-plug ports that its chassis is built with.
pub const DISKS_MAX: usize = 16;

/// The smallest and the largest virtual size, in bytes: a sector's worth of pages, and what VHDX allows.
pub const DISK_BYTES_MIN: u64 = 1 << 20;
pub const DISK_BYTES_MAX: u64 = 64 << 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DiskFormat {
    Qcow2,
    Raw,
}

impl DiskFormat {
    /// QEMU's name for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// The bus that a disk sits on, as Hyper-V names it. SCSI is virtio-scsi's and virtio-blk's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Controller {
    /// Generation 1 only, at most four, never hot-plugged.
    Ide,
    Scsi,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Absolute path of the image file.
    pub path: PathBuf,
    pub format: DiskFormat,
    pub controller: Controller,
    /// Position on the controller: 0 to 3 on IDE, 0 to 15 on SCSI.
    pub location: u8,
    pub read_only: bool,
}
