//! A virtual machine's definition.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    adapter::{ADAPTERS_MAX, Adapter},
    disk::{Controller, DISKS_MAX, Disk},
    life::VmState,
    name::VmName,
    tag::{Tag, TagError, check_tags},
    version::ConfigVersion,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct VmId(pub Uuid);

/// Which firmware and chassis a machine has. Fixed when it is created.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Generation {
    /// BIOS.
    #[serde(rename = "1")]
    One,
    /// UEFI.
    #[serde(rename = "2")]
    Two,
}

impl Generation {
    pub const fn number(self) -> u8 {
        match self {
            Self::One => 1,
            Self::Two => 2,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Processor {
    /// Virtual processors, from 1.
    pub count: u32,
    /// Whether the guest's processor shows `vmx` or `svm`, so that it can host machines itself.
    pub expose_virtualization_extensions: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    pub startup_bytes: u64,
}

/// What runs first in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Boot {
    /// The firmware looks for a boot loader on the disks, in their order.
    Firmware,
    /// A kernel given by the host.
    Kernel { kernel: PathBuf, initrd: Option<PathBuf>, append: String },
}

/// What happens to a machine when its host starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartAction {
    Nothing,
    /// Start it if it ran when the host went down.
    StartIfRunning,
    Start,
}

/// What happens to a machine when its host shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopAction {
    TurnOff,
    Save,
    ShutDown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vm {
    pub id: VmId,
    pub name: VmName,
    pub generation: Generation,
    pub version: ConfigVersion,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub created_at_ms: u64,
    pub notes: String,
    /// In their order, each once.
    #[serde(default)]
    pub tags: Vec<Tag>,
    pub processor: Processor,
    pub memory: Memory,
    pub adapters: Vec<Adapter>,
    pub disks: Vec<Disk>,
    pub boot: Boot,
    pub start_action: StartAction,
    pub start_delay_seconds: u32,
    pub stop_action: StopAction,
    /// The last state that was made durable.
    pub state: VmState,
    /// Why the machine is in `state`, when nobody asked for that: `QEMU was killed by signal 9`.
    pub state_reason: Option<String>,
}

/// What a host can give to one machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub processors_max: u32,
    pub memory_bytes_max: u64,
}

/// The smallest memory that a machine may have, in bytes; Hyper-V's own limit.
pub const MEMORY_BYTES_MIN: u64 = 32 << 20;

/// Why a definition cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VmInvalid {
    #[error("a virtual machine needs between 1 and {max} processors on this host; {asked} were asked for")]
    Processors { asked: u32, max: u32 },
    #[error("a virtual machine needs between 32 MB and {} MB of memory on this host; {asked} bytes were asked for", max >> 20)]
    Memory { asked: u64, max: u64 },
    #[error("memory is given in whole megabytes; {0} bytes are not a multiple of 1 MB")]
    MemoryUnit(u64),
    #[error(
        "virtualization extensions need configuration version 8.0 or higher; this virtual machine has {0} (Update-VMVersion updates it)"
    )]
    NestingVersion(ConfigVersion),
    #[error("a virtual machine has at most {ADAPTERS_MAX} network adapters")]
    Adapters,
    #[error("a virtual machine has at most {DISKS_MAX} disks")]
    Disks,
    #[error("controller {controller:?} has no location {location}")]
    Location { controller: Controller, location: u8 },
    #[error("location {location} of controller {controller:?} is taken")]
    LocationTaken { controller: Controller, location: u8 },
    #[error("a generation 2 virtual machine has no IDE controller")]
    IdeOnGeneration2,
    #[error(transparent)]
    Tags(#[from] TagError),
}

impl Vm {
    /// Checks all that can be decided from the definition and the host's limits.
    pub fn validate(&self, limits: &Limits) -> Result<(), VmInvalid> {
        let count = self.processor.count;
        if count == 0 || count > limits.processors_max {
            return Err(VmInvalid::Processors { asked: count, max: limits.processors_max });
        }
        let bytes = self.memory.startup_bytes;
        if bytes < MEMORY_BYTES_MIN || bytes > limits.memory_bytes_max {
            return Err(VmInvalid::Memory { asked: bytes, max: limits.memory_bytes_max });
        }
        if !bytes.is_multiple_of(1 << 20) {
            return Err(VmInvalid::MemoryUnit(bytes));
        }
        if self.processor.expose_virtualization_extensions && !self.version.supports_nesting() {
            return Err(VmInvalid::NestingVersion(self.version));
        }
        if self.adapters.len() > ADAPTERS_MAX {
            return Err(VmInvalid::Adapters);
        }
        check_tags(&self.tags)?;
        self.validate_disks()
    }

    fn validate_disks(&self) -> Result<(), VmInvalid> {
        if self.disks.len() > DISKS_MAX {
            return Err(VmInvalid::Disks);
        }
        for (i, disk) in self.disks.iter().enumerate() {
            let (controller, location) = (disk.controller, disk.location);
            if controller == Controller::Ide && self.generation == Generation::Two {
                return Err(VmInvalid::IdeOnGeneration2);
            }
            if location >= locations(controller) {
                return Err(VmInvalid::Location { controller, location });
            }
            if self.disks[..i].iter().any(|d| d.controller == controller && d.location == location) {
                return Err(VmInvalid::LocationTaken { controller, location });
            }
        }
        Ok(())
    }

    /// The first free location on a controller.
    pub fn free_location(&self, controller: Controller) -> Option<u8> {
        (0..locations(controller))
            .find(|l| !self.disks.iter().any(|d| d.controller == controller && d.location == *l))
    }
}

const fn locations(controller: Controller) -> u8 {
    match controller {
        Controller::Ide => 4,
        Controller::Scsi => DISKS_MAX as u8,
    }
}
