use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

/// A virtual machine as it is now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Vm {
    pub id: Uuid,
    pub name: String,
    /// 1 (BIOS) or 2 (UEFI).
    pub generation: u8,
    /// Configuration version, such as `12.0`.
    pub version: String,
    pub state: VmState,
    /// Why it is in this state, when nobody asked for that.
    #[serde(default)]
    pub state_reason: Option<String>,
    pub created_at_ms: u64,
    pub notes: String,
    /// In their order.
    #[serde(default)]
    pub tags: Vec<String>,
    pub processor_count: u32,
    pub expose_virtualization_extensions: bool,
    pub memory_startup_bytes: u64,
    /// Memory that the machine has now: 0 when it is off or saved.
    pub memory_assigned_bytes: u64,
    /// Share of the host's processors used of late, in percent.
    pub cpu_usage_percent: u32,
    pub uptime_ms: u64,
    /// `kvm` or `tcg` while the machine has an engine.
    #[serde(default)]
    pub engine: Option<String>,
    /// Whether the node inside it answers over the guest channel.
    #[serde(default)]
    pub hosts_nestling: bool,
    pub start_action: StartAction,
    pub start_delay_seconds: u32,
    pub stop_action: StopAction,
    pub boot: Boot,
    pub adapters: Vec<Adapter>,
    pub drives: Vec<Drive>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum VmState {
    Off,
    Starting,
    Running,
    Stopping,
    Saving,
    Saved,
    Pausing,
    Paused,
    Resuming,
}

/// What can be asked of a machine as a whole: the last part of `POST /v1/vms/{vm}/{operation}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum VmOperation {
    Start,
    /// Ask the guest to shut down.
    Shutdown,
    /// Cut the power.
    TurnOff,
    /// Restart without asking the guest.
    Reset,
    Pause,
    Resume,
    /// Write memory and devices to disk and stop.
    Save,
    RemoveSavedState,
    /// Give it the latest configuration version.
    UpdateVersion,
}

impl VmOperation {
    pub const ALL: [Self; 9] = [
        Self::Start,
        Self::Shutdown,
        Self::TurnOff,
        Self::Reset,
        Self::Pause,
        Self::Resume,
        Self::Save,
        Self::RemoveSavedState,
        Self::UpdateVersion,
    ];

    /// Its word in paths.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Shutdown => "shutdown",
            Self::TurnOff => "turn-off",
            Self::Reset => "reset",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Save => "save",
            Self::RemoveSavedState => "remove-saved-state",
            Self::UpdateVersion => "update-version",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum StartAction {
    Nothing,
    StartIfRunning,
    Start,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum StopAction {
    TurnOff,
    Save,
    ShutDown,
}

/// What runs first in the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Boot {
    /// The firmware looks for a boot loader on the disks, in order.
    Firmware,
    /// A kernel from the host's files.
    Kernel {
        kernel: String,
        #[serde(default)]
        initrd: Option<String>,
        #[serde(default)]
        append: String,
    },
}

/// A machine to create. Only the name is needed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NewVm {
    pub name: String,
    /// 1 or 2; 1 when absent.
    pub generation: Option<u8>,
    /// Configuration version; the latest when absent.
    pub version: Option<String>,
    /// 1 when absent.
    pub processor_count: Option<u32>,
    pub expose_virtualization_extensions: bool,
    /// 512 MB, or what the image asks for, when absent.
    pub memory_startup_bytes: Option<u64>,
    /// An image of this host's store to run: its kernel, or a disk of its own on top of the image's.
    pub image: Option<String>,
    /// Added to the image's kernel command line.
    pub append: Option<String>,
    /// A disk image to attach, as the first disk or behind that of the image.
    pub disk_path: Option<String>,
    /// A disk to create and attach: its size, and its path (beside the machine's files when absent).
    pub new_disk_bytes: Option<u64>,
    pub new_disk_path: Option<String>,
    pub boot: Option<Boot>,
    /// The switch to plug the first adapter into. The adapter is there in any case.
    pub switch: Option<String>,
    /// First-boot settings, for images with cloud-init.
    pub seed: Option<Seed>,
    pub start_action: Option<StartAction>,
    pub notes: String,
    /// Words to choose machines by: 1 to 64 letters, digits, `-`, `_`, `.` and `:`.
    pub tags: Vec<String>,
}

/// First-boot settings, handed over as a NoCloud seed disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Seed {
    pub hostname: Option<String>,
    pub user: Option<String>,
    /// In the clear: it is hashed before it is written.
    pub password: Option<String>,
    pub ssh_keys: Vec<String>,
    /// `ADDRESS/PREFIX`; DHCP when absent.
    pub address: Option<String>,
    pub gateway: Option<String>,
    pub dns_servers: Vec<String>,
}

/// What went with a machine that was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RemovedVm {
    /// Files of disks.
    pub disks: Vec<String>,
    /// Why other disks stay.
    pub kept: Vec<String>,
}

/// What to change; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct VmChange {
    pub name: Option<String>,
    pub notes: Option<String>,
    /// Tags that it gets; those that it has stay.
    pub add_tags: Vec<String>,
    /// Tags that it loses, if it has them.
    pub remove_tags: Vec<String>,
    pub processor_count: Option<u32>,
    pub expose_virtualization_extensions: Option<bool>,
    pub memory_startup_bytes: Option<u64>,
    pub start_action: Option<StartAction>,
    pub start_delay_seconds: Option<u32>,
    pub stop_action: Option<StopAction>,
    pub boot: Option<Boot>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Adapter {
    pub id: Uuid,
    pub name: String,
    /// With colons, lower case.
    pub mac: String,
    pub mac_dynamic: bool,
    /// The name of the switch that it is plugged into.
    #[serde(default)]
    pub switch: Option<String>,
    pub mac_spoofing: bool,
    pub dhcp_guard: bool,
    pub router_guard: bool,
    pub status: AdapterStatus,
    /// As the guest agent last told; empty without one.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Frames dropped because their source address was not the adapter's own.
    #[serde(default)]
    pub spoofed_frames_dropped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum AdapterStatus {
    /// The machine has no engine.
    None,
    Ok,
    Disconnected,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct NewAdapter {
    /// `Network Adapter` when absent.
    pub name: Option<String>,
    pub switch: Option<String>,
    /// Given by the host when absent.
    pub mac: Option<String>,
}

/// What to change; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct AdapterChange {
    pub name: Option<String>,
    /// A switch's name, or the empty text to disconnect.
    pub switch: Option<String>,
    /// An address, or `dynamic`.
    pub mac: Option<String>,
    pub mac_spoofing: Option<bool>,
    pub dhcp_guard: Option<bool>,
    pub router_guard: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
pub enum Controller {
    #[serde(rename = "IDE")]
    Ide,
    #[serde(rename = "SCSI")]
    Scsi,
}

/// A disk in a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Drive {
    pub controller: Controller,
    pub location: u8,
    pub path: String,
    pub format: DiskFormat,
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewDrive {
    pub path: String,
    /// SCSI when absent.
    #[serde(default)]
    pub controller: Option<Controller>,
    /// The first free one when absent.
    #[serde(default)]
    pub location: Option<u8>,
    /// Asked of the file when absent; a raw image must be named so, since its first bytes could claim to be anything.
    #[serde(default)]
    pub format: Option<DiskFormat>,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DiskFormat {
    Qcow2,
    Raw,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum DiskKind {
    Dynamic,
    Fixed,
    Differencing,
}

/// A disk image to create (qcow2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewDisk {
    pub path: String,
    pub kind: DiskKind,
    /// Needed unless it has a parent.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// For a differencing disk.
    #[serde(default)]
    pub parent: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResizeDisk {
    /// A smaller size is refused: it would cut data off.
    pub size_bytes: u64,
}

/// What is known of a disk image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskInfo {
    pub path: String,
    pub format: DiskFormat,
    pub kind: DiskKind,
    pub size_bytes: u64,
    pub file_bytes: u64,
    #[serde(default)]
    pub parent: Option<String>,
    /// The machine that it is attached to.
    #[serde(default)]
    pub vm: Option<String>,
}
