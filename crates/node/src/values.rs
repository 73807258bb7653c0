//! What use cases are asked with and what they answer.
//!
//! These are domain values: the API has wire types of its own, and turns one into the other.

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use ipnet::Ipv4Net;
use nestling_model::{
    Adapter, Boot, ConfigVersion, Controller, Dhcp, DiskFormat, EngineKind, Generation, MacAddress, NatName,
    Protocol, StartAction, StopAction, Switch, SwitchKind, SwitchName, Tag, Vm, VmName,
};

use crate::NodeError;

/// The node itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    pub version: &'static str,
    pub pid: u32,
    pub home: PathBuf,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub started_at_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    pub name: String,
    pub logical_processors: u32,
    pub memory_bytes: u64,
    pub memory_available_bytes: u64,
    pub disk_directory: PathBuf,
    pub vm_directory: PathBuf,
    pub supported_versions: Vec<ConfigVersion>,
    /// None until it has been decided.
    pub engine: Option<EngineView>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineView {
    pub kind: EngineKind,
    pub reason: String,
}

/// A network interface of the host, as Get-NetAdapter lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAdapterView {
    /// `vEthernet (NAME)` for a switch's, else Linux's name.
    pub name: String,
    pub description: String,
    pub index: u32,
    /// `Up`, `Disconnected` or `Disabled`.
    pub status: &'static str,
    pub mac: Option<MacAddress>,
    pub link_speed_mbps: Option<u64>,
    /// Whether it belongs to a switch of ours.
    pub is_virtual: bool,
    /// Linux's name.
    pub interface: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostAddressView {
    pub address: IpAddr,
    pub prefix_len: u8,
    /// As in [`HostAdapterView::name`].
    pub adapter: String,
    pub adapter_index: u32,
    pub gateway: Option<IpAddr>,
    /// Whether this node keeps it (and gives it again after a reboot).
    pub managed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewAddress {
    /// As in [`HostAdapterView::name`].
    pub adapter: String,
    pub address: Ipv4Addr,
    pub prefix_len: u8,
    pub gateway: Option<Ipv4Addr>,
}

/// A machine as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct VmView {
    pub vm: Vm,
    /// 0 when it has no engine.
    pub memory_assigned_bytes: u64,
    /// Share of the host's processors used of late.
    pub cpu_usage_percent: u32,
    pub uptime_ms: u64,
    pub engine: Option<EngineKind>,
    /// Whether the node inside it answers over the guest channel.
    pub hosts_nestling: bool,
    /// In the order of `vm.adapters`.
    pub adapters: Vec<AdapterView>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterView {
    pub adapter: Adapter,
    pub switch: Option<SwitchName>,
    pub status: AdapterStatus,
    /// `ADDRESS`, as the guest agent last told; empty without one.
    pub addresses: Vec<String>,
    pub spoofed_frames_dropped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdapterStatus {
    /// The machine has no engine.
    None,
    Ok,
    Disconnected,
}

/// A machine to create.
#[derive(Debug, Clone)]
pub struct NewVm {
    pub name: VmName,
    pub generation: Option<Generation>,
    pub version: Option<ConfigVersion>,
    pub processor_count: Option<u32>,
    pub expose_virtualization_extensions: bool,
    pub memory_startup_bytes: Option<u64>,
    /// An image of this host's store: its kernel, or a disk of its own on top of the image's.
    pub image: Option<String>,
    /// Added to the image's kernel command line.
    pub append: Option<String>,
    /// A disk image to attach, as the first disk or behind that of the image.
    pub disk_path: Option<PathBuf>,
    pub new_disk: Option<NewVmDisk>,
    pub boot: Option<Boot>,
    /// The switch of the first adapter.
    pub switch: Option<String>,
    pub seed: Option<Seed>,
    pub start_action: Option<StartAction>,
    pub notes: String,
    pub tags: Vec<Tag>,
}

impl NewVm {
    /// With nothing but a name.
    pub fn named(name: VmName) -> Self {
        Self {
            name,
            generation: None,
            version: None,
            processor_count: None,
            expose_virtualization_extensions: false,
            memory_startup_bytes: None,
            image: None,
            append: None,
            disk_path: None,
            new_disk: None,
            boot: None,
            switch: None,
            seed: None,
            start_action: None,
            notes: String::new(),
            tags: Vec::new(),
        }
    }
}

/// A disk to create and attach as the first one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVmDisk {
    pub size_bytes: u64,
    /// Beside the machine's files when absent.
    pub path: Option<PathBuf>,
}

/// First-boot settings, handed over as a NoCloud seed disk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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

/// A machine is no more.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RemovedVm {
    /// Files of disks that went with it.
    pub disks: Vec<PathBuf>,
    /// Why others stay.
    pub kept: Vec<String>,
}

/// What to change; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VmChange {
    pub name: Option<VmName>,
    pub notes: Option<String>,
    /// Those that it gets and those that it loses; the others stay.
    pub add_tags: Vec<Tag>,
    pub remove_tags: Vec<Tag>,
    pub processor_count: Option<u32>,
    pub expose_virtualization_extensions: Option<bool>,
    pub memory_startup_bytes: Option<u64>,
    pub start_action: Option<StartAction>,
    pub start_delay_seconds: Option<u32>,
    pub stop_action: Option<StopAction>,
    pub boot: Option<Boot>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NewAdapter {
    /// `Network Adapter` when absent.
    pub name: Option<String>,
    pub switch: Option<String>,
    /// Given by the host when absent.
    pub mac: Option<MacAddress>,
}

/// What to change; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AdapterChange {
    pub name: Option<String>,
    /// `Some(None)` disconnects.
    pub switch: Option<Option<String>>,
    pub mac: Option<MacChoice>,
    pub mac_spoofing: Option<bool>,
    pub dhcp_guard: Option<bool>,
    pub router_guard: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MacChoice {
    Static(MacAddress),
    /// One of the host's range.
    Dynamic,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDrive {
    pub path: PathBuf,
    /// SCSI when absent.
    pub controller: Option<Controller>,
    /// The first free one when absent.
    pub location: Option<u8>,
    /// Asked of the file when absent.
    pub format: Option<DiskFormat>,
    pub read_only: bool,
}

/// What a guest says of itself through the guest agent. Everything in it is the guest's claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestView {
    pub hostname: Option<String>,
    pub os: Option<String>,
    pub kernel: Option<String>,
    pub agent_version: String,
    pub interfaces: Vec<GuestInterface>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestInterface {
    pub name: String,
    pub mac: Option<String>,
    /// `ADDRESS/PREFIX`
    pub addresses: Vec<String>,
}

/// A program to run in a guest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exec {
    pub program: String,
    pub arguments: Vec<String>,
    pub input: Vec<u8>,
    /// 60 when absent, at most 3600.
    pub timeout_seconds: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecResult {
    pub exit_code: Option<i64>,
    pub signal: Option<i64>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub truncated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwitchView {
    pub switch: Switch,
    /// The Linux bridge behind it.
    pub bridge: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSwitch {
    pub name: SwitchName,
    pub kind: SwitchKind,
    pub notes: String,
}

/// What to change; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SwitchChange {
    pub name: Option<SwitchName>,
    pub notes: Option<String>,
    pub kind: Option<SwitchKindName>,
    /// Of an External switch: the host's interface.
    pub uplink: Option<String>,
    /// Of an External switch.
    pub allow_management_os: Option<bool>,
}

/// A kind of switch without what belongs to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchKindName {
    Private,
    Internal,
    External,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNat {
    pub name: NatName,
    pub internal_prefix: Ipv4Net,
    pub dhcp: Option<Dhcp>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NatChange {
    /// `Some(None)` stops offering leases.
    pub dhcp: Option<Option<Dhcp>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewMapping {
    pub protocol: Protocol,
    /// 0.0.0.0: every address of the host.
    pub external_address: Ipv4Addr,
    pub external_port: u16,
    pub internal_address: Ipv4Addr,
    pub internal_port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisk {
    pub path: PathBuf,
    pub kind: NewDiskKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewDiskKind {
    Dynamic { size_bytes: u64 },
    Fixed { size_bytes: u64 },
    Differencing { parent: PathBuf, size_bytes: Option<u64> },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    Dynamic,
    Fixed,
    Differencing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskView {
    pub path: PathBuf,
    pub format: DiskFormat,
    pub kind: DiskKind,
    pub size_bytes: u64,
    pub file_bytes: u64,
    pub parent: Option<PathBuf>,
    /// The machine that it is attached to.
    pub vm: Option<VmName>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageView {
    pub name: String,
    pub description: String,
    /// Whether it can be used now. Recipes that were not built yet are listed too.
    pub built: bool,
    pub size_bytes: u64,
    /// Those that it boots with, the usual one first.
    pub generations: Vec<Generation>,
    pub memory_bytes: u64,
    pub has_disk: bool,
    pub direct_kernel: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportImage {
    pub name: String,
    pub path: PathBuf,
    pub format: Option<DiskFormat>,
    pub generation: Option<Generation>,
}

/// How a build goes. The last one is `Done` or `Failed`.
#[derive(Debug)]
pub enum BuildStep {
    Progress { message: String, done: u32, total: u32 },
    Done(ImageView),
    Failed(NodeError),
}
