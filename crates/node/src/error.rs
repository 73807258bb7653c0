//! What can go wrong in a use case, as administrators read it.
//!
//! Rules: where Hyper-V has a text for a situation, the text is Hyper-V's, in its lines; [`NodeError::message`] is the
//! whole message, causes included; a hint is never part of the message. An error names its object.

use std::{fmt, io, path::PathBuf};

use nestling_block::BlockError;
use nestling_explore::ExploreError;
use nestling_hypervisor::{
    AgentError, AttachError, LaunchError, MachineError, QemuError, agent::FreezeError, capture::CaptureError,
    disk::DiskError,
};
use nestling_identity::Denied;
use nestling_image::ImageError;
use nestling_model::{
    NameError, Operation, RepositoryName, TagError, VmId, VmInvalid, VmName, VmState,
    mac::MacError,
    path::PathError,
    protection::{PolicyInvalid, RepositoryInvalid},
    version::UnknownVersion,
};
use nestling_network::{NatConflict, NetworkError, Problem};
use nestling_store::StoreError;
use nestling_vault::{FailureKind, VaultError};

use crate::{exchange::ExchangeFailed, protection::JobError};

mod hints;
mod objects;

use hints::state_hint;
pub use objects::Object;
use objects::{exists, not_found};

pub type Result<T> = std::result::Result<T, NodeError>;

/// What kind of failure it is, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    Invalid,
    NotFound,
    Exists,
    InvalidState,
    InUse,
    Denied,
    Requirement,
    GuestAbsent,
    Timeout,
    Failed,
}

/// A part of a machine that is changed, as Hyper-V's messages call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    Processor,
    Memory,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Processor => "Processor",
            Self::Memory => "Memory",
        })
    }
}

/// The machine that an error is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: VmName,
    pub id: VmId,
}

impl Named {
    /// As Hyper-V writes it: `(Virtual machine ID E78F740F-AE83-4021-AAD8-4FA8FCA1227B)`.
    fn guid(&self) -> String {
        self.id.0.to_string().to_uppercase()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("{}", not_found(*object, name))]
    NotFound { object: Object, name: String },
    #[error("{}", exists(*object, name))]
    Exists { object: Object, name: String },
    /// By the machine that the point is of, or by another one.
    #[error("{}", exists(Object::Vm, vm.as_str()))]
    NameTaken { vm: VmName, is_own: bool },
    #[error("{0}")]
    Invalid(String),
    #[error(transparent)]
    Name(#[from] NameError),
    #[error(transparent)]
    Mac(#[from] MacError),
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Version(#[from] UnknownVersion),
    #[error("'{vm}' cannot be created")]
    Create { vm: VmName, source: VmInvalid },
    #[error("Failed to modify device '{device}'.\n{reason}\n'{}' failed to modify device '{device}'. (Virtual machine ID {})\n{reason}", vm.name, vm.guid())]
    ModifyDevice { vm: Named, device: Device, reason: ModifyReason },
    #[error("'{}' failed to change state.\nThe operation cannot be performed while the virtual machine is in its current state.", vm.name)]
    State { vm: Named, state: VmState, operation: Operation },
    #[error("'{}' was turned off before the operation ended.", vm.name)]
    Interrupted { vm: Named },
    #[error("'{}' failed to start. (Virtual machine ID {})\n{}", vm.name, vm.guid(), cause.message())]
    Start { vm: Named, cause: Box<NodeError> },
    #[error("Not enough memory in the system to start the virtual machine {} with ram size {wanted_mb} megabytes.", vm.name)]
    MemoryShort { vm: Named, wanted_mb: u64, available_mb: u64 },
    #[error("'{}' did not shut down.\n{reason}", vm.name)]
    ShutDown { vm: Named, reason: String },
    #[error("the disk {} is in use by virtual machine '{vm}'", path.display())]
    DiskInUse { path: PathBuf, vm: VmName },
    #[error(
        "the disk {} is a parent of the differencing disk {}, which virtual machine '{vm}' has; writing to the parent would destroy it",
        path.display(), child.display()
    )]
    DiskIsParent { path: PathBuf, child: PathBuf, vm: VmName },
    #[error(
        "the disk {} is a differencing disk of {}, which virtual machine '{vm}' writes to",
        path.display(), parent.display()
    )]
    ParentInUse { path: PathBuf, parent: PathBuf, vm: VmName },
    #[error(
        "whether the disk {} may be written to is not known: the parents of {}, which virtual machine '{vm}' has, cannot be told",
        path.display(), child.display()
    )]
    DiskUnclear { path: PathBuf, child: PathBuf, vm: VmName, source: Box<DiskError> },
    #[error("the disk {} has not answered within {seconds} seconds; see whether its file system does", path.display())]
    DiskSilent { path: PathBuf, seconds: u64 },
    #[error(
        "Failed while removing virtual Ethernet switch.\nThe virtual switch '{switch}' cannot be deleted because it is being used by virtual machine '{vm}'."
    )]
    SwitchInUse { switch: String, vm: VmName },
    #[error("The parameter is incorrect.\n{0}")]
    NatConflict(NatConflict),
    #[error("A prerequisite check for the {feature} feature failed.\n1. {reason}")]
    Prerequisite { feature: &'static str, reason: String },
    #[error("'{0}' has no engine: it is not running.")]
    NoEngine(VmName),
    #[error("the guest of '{vm}' did not do that")]
    Agent { vm: VmName, source: AgentError },
    #[error("'{vm}' cannot do that now")]
    Machine { vm: VmName, source: MachineError },
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Attach(#[from] AttachError),
    #[error(transparent)]
    Qemu(#[from] QemuError),
    #[error("no engine can run here: {0}")]
    Engine(String),
    #[error(transparent)]
    Disk(#[from] DiskError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error("the image '{0}' has not been built yet")]
    ImageNotBuilt(String),
    #[error(transparent)]
    Network(#[from] NetworkError),
    #[error(transparent)]
    NetworkProblem(Problem),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the node's home {} is in use by another node{}", path.display(), holder(*pid))]
    HomeInUse { path: PathBuf, pid: Option<u32> },
    #[error("cannot {action} {}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(transparent)]
    Repository(#[from] RepositoryInvalid),
    #[error("the backup cannot be as it was asked for")]
    Policy(#[from] PolicyInvalid),
    #[error("repository '{repository}'")]
    Vault { repository: RepositoryName, source: Box<VaultError> },
    #[error("repository '{repository}' has not answered within {seconds} seconds")]
    VaultSilent { repository: RepositoryName, seconds: u64 },
    #[error("repository '{repository}' is in use by run {run}; wait for its end, or cancel it")]
    RepositoryBusy { repository: RepositoryName, run: u64 },
    #[error("'{vm}' is being backed up already, by run {run}")]
    BackupRuns { vm: VmName, run: u64 },
    #[error(transparent)]
    Job(JobError),
    /// A run, a recovery or a proof, as people call it.
    #[error("{what} {number} has ended already")]
    Ended { what: &'static str, number: u64 },
    #[error("the disks of '{vm}' cannot be captured")]
    Capture { vm: VmName, source: CaptureError },
    #[error("the guest of '{vm}' could not be held still for the backup")]
    Freeze { vm: VmName, source: FreezeError },
    #[error("the applications of '{vm}' could not be made ready for the backup: {why}")]
    NotReady { vm: VmName, why: String },
    #[error("the backup of '{vm}' ended: {why}")]
    BackupEnded { vm: VmName, why: String },
    /// Of a machine inside another one, in words of the node inside or of the way to it. `again`: it can be tried once more.
    #[error("'{vm}' cannot be backed up: {why}")]
    Inside { vm: String, why: String, kind: ErrorKind, again: bool },
    #[error("the disks of '{vm}' cannot be read")]
    Lent { vm: VmName, source: BlockError },
    #[error("it was cancelled")]
    Cancelled,
    #[error("'{vm}' has no disk that could be backed up; all are left out, or there is none")]
    NothingToSave { vm: VmName },
    #[error("there is no recovery point of '{vm}'{}", of_earlier(*earlier))]
    NoPoint { vm: String, earlier: usize },
    #[error("recovery point {point} of '{vm}' cannot be recovered from: {why}")]
    NotRecoverable { point: String, vm: String, why: String },
    #[error("recovery point {point} of '{vm}' is damaged")]
    PointDamaged { point: String, vm: String, source: Box<VaultError> },
    #[error("recovery point {point} of '{vm}'")]
    Files { point: String, vm: String, source: Box<ExploreError> },
    #[error("too many volumes of recovery points are being read at this moment; try again in a minute")]
    ReadersBusy,
    #[error("the disk {} could not be written", path.display())]
    RecoveredDisk { path: PathBuf, source: BlockError },
    #[error("'{vm}' is being recovered, by recovery {recovery}")]
    Recovering { vm: VmName, recovery: u64 },
    #[error(
        "'{vm}' does not start, and is not backed up: recovery {recovery} of its disk {} did not come to its end, so that the \
         disk is neither what it was nor what it should be",
        path.display()
    )]
    HalfRecovered { vm: VmName, path: PathBuf, recovery: u64 },
    #[error(
        "'{vm}' runs from a recovery point, which it needs until all of its disks have been brought over"
    )]
    RunsFromVault { vm: VmName },
    #[error("{} cannot be served", path.display())]
    Export { path: PathBuf, source: BlockError },
    #[error(transparent)]
    Exchange(#[from] ExchangeFailed),
    #[error("repository '{repository}' is read by recovery {recovery}; wait for its end, or cancel it")]
    RepositoryRead { repository: RepositoryName, recovery: u64 },
    #[error("the node is stopping")]
    Stopping,
    #[error("an internal step ended early: {0}")]
    Internal(String),
}

/// Why a device cannot be changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModifyReason {
    #[error("The operation cannot be performed while the virtual machine is in its current state.")]
    State(VmState),
    #[error(transparent)]
    Invalid(VmInvalid),
}

impl From<TagError> for NodeError {
    fn from(error: TagError) -> Self {
        Self::Invalid(error.to_string())
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

fn of_earlier(count: usize) -> String {
    match count {
        0 => String::new(),
        1 => "; one is of an earlier machine of that name".to_owned(),
        count => format!("; {count} are of an earlier machine of that name"),
    }
}

impl NodeError {
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.into(), source }
    }

    /// The whole message: what failed and every cause, the outermost first.
    pub fn message(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            let said = error.to_string();
            // A transparent error is its own cause.
            if !text.contains(&said) {
                text = format!("{text}: {said}");
            }
            cause = error.source();
        }
        text
    }

    pub fn code(&self) -> ErrorKind {
        use ErrorKind as Kind;
        match self {
            Self::Denied(_) => Kind::Denied,
            Self::NotFound { .. } | Self::ImageNotBuilt(_) | Self::NoPoint { .. } => Kind::NotFound,
            Self::Exists { .. } | Self::NameTaken { .. } => Kind::Exists,
            Self::Invalid(_)
            | Self::Name(_)
            | Self::Mac(_)
            | Self::Version(_)
            | Self::Path(_)
            | Self::Create { .. }
            | Self::NatConflict(_)
            | Self::Policy(_)
            | Self::NothingToSave { .. }
            | Self::NotRecoverable { .. }
            | Self::ModifyDevice { reason: ModifyReason::Invalid(_), .. } => Kind::Invalid,
            Self::Repository(error) => repository_kind(error),
            Self::ModifyDevice { .. }
            | Self::State { .. }
            | Self::Interrupted { .. }
            | Self::Ended { .. }
            | Self::HalfRecovered { .. }
            | Self::BackupEnded { .. } => Kind::InvalidState,
            Self::Start { cause, .. } => cause.code(),
            Self::Inside { kind, .. } => *kind,
            Self::DiskInUse { .. }
            | Self::DiskIsParent { .. }
            | Self::ParentInUse { .. }
            | Self::SwitchInUse { .. }
            | Self::HomeInUse { .. }
            | Self::RepositoryBusy { .. }
            | Self::ReadersBusy
            | Self::BackupRuns { .. }
            | Self::Recovering { .. }
            | Self::RunsFromVault { .. }
            | Self::RepositoryRead { .. }
            | Self::Capture { source: CaptureError::Busy, .. }
            | Self::Machine { source: MachineError::Captured { .. }, .. } => Kind::InUse,
            Self::MemoryShort { .. } | Self::Prerequisite { .. } | Self::Qemu(_) | Self::Engine(_) => {
                Kind::Requirement
            }
            Self::NoEngine(_) => Kind::GuestAbsent,
            Self::Agent { source, .. } => agent_kind(source),
            Self::Freeze { source, .. } => freeze_kind(source),
            Self::ShutDown { .. } | Self::DiskSilent { .. } | Self::VaultSilent { .. } => Kind::Timeout,
            Self::Disk(error) => disk_kind(error),
            Self::DiskUnclear { source, .. } => disk_kind(source),
            Self::Image(error) => image_kind(error),
            Self::Network(error) => network_kind(error),
            Self::NetworkProblem(_) | Self::Store(StoreError::Full { .. }) => Kind::Requirement,
            Self::Files { source, .. } => files_kind(source),
            Self::Job(error) => error.code(),
            Self::Exchange(error) => error.code(),
            Self::Vault { source, .. } => vault_kind(source),
            Self::Capture { source, .. } => capture_kind(source),
            Self::Machine { .. }
            | Self::Launch(_)
            | Self::Attach(_)
            | Self::Store(_)
            | Self::Io { .. }
            | Self::NotReady { .. }
            | Self::PointDamaged { .. }
            | Self::RecoveredDisk { .. }
            | Self::Export { .. }
            | Self::Lent { .. }
            | Self::Cancelled
            | Self::Stopping
            | Self::Internal(_) => Kind::Failed,
        }
    }

    /// What to do next, where that is known.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::ModifyDevice { reason: ModifyReason::State(state), vm, .. } => {
                Some(format!("'{}' is {state}; turn it off first (Stop-VM)", vm.name))
            }
            Self::State { vm, state, operation } => Some(state_hint(&vm.name, *state, *operation)),
            Self::MemoryShort { available_mb, .. } => Some(format!(
                "{available_mb} MB are available; give the machine less memory (Set-VMMemory), or stop another one"
            )),
            Self::Start { cause, .. } => cause.hint(),
            Self::Inside { kind: ErrorKind::GuestAbsent, .. } => Some(
                "a machine inside another one is backed up by the node inside, which has to run: `nestling tree` shows whether it answers"
                    .to_owned(),
            ),
            Self::ShutDown { vm, .. } => {
                Some(format!("cut its power with: Stop-VM -Name '{}' -TurnOff", vm.name))
            }
            Self::NoEngine(vm) => Some(format!("start it: Start-VM '{vm}'")),
            Self::Agent { vm, source: AgentError::Absent } => Some(format!(
                "to wait for it while the guest starts: nestling vm exec '{vm}' --wait -- PROGRAM"
            )),
            Self::SwitchInUse { vm, .. } => {
                Some(format!("disconnect it first: Disconnect-VMNetworkAdapter -VMName '{vm}'"))
            }
            Self::DiskInUse { vm, .. } => {
                Some(format!("detach it there first: Remove-VMHardDiskDrive -VMName '{vm}'"))
            }
            Self::DiskIsParent { path, .. } => Some(format!(
                "give each virtual machine a differencing disk of its own: New-VHD -Differencing -ParentPath '{}'",
                path.display()
            )),
            Self::ParentInUse { vm, .. } => {
                Some(format!("detach the parent there first: Remove-VMHardDiskDrive -VMName '{vm}'"))
            }
            Self::ImageNotBuilt(name) => Some(format!("build it: nestling image build {name}")),
            Self::Prerequisite { .. } => Some(
                "on the host of this virtual machine, while it is off: Set-VMProcessor -VMName NAME -ExposeVirtualizationExtensions $true"
                    .to_owned(),
            ),
            other => other.recovery_hint(),
        }
    }

    /// The object concerned.
    pub fn object(&self) -> Option<String> {
        match self {
            Self::NotFound { name, .. } | Self::Exists { name, .. } | Self::NoPoint { vm: name, .. } => {
                Some(name.clone())
            }
            Self::ModifyDevice { vm, .. }
            | Self::State { vm, .. }
            | Self::Interrupted { vm }
            | Self::Start { vm, .. }
            | Self::MemoryShort { vm, .. }
            | Self::ShutDown { vm, .. } => Some(vm.name.to_string()),
            Self::Create { vm, .. }
            | Self::NoEngine(vm)
            | Self::Agent { vm, .. }
            | Self::BackupRuns { vm, .. }
            | Self::Capture { vm, .. }
            | Self::Freeze { vm, .. }
            | Self::BackupEnded { vm, .. }
            | Self::NothingToSave { vm }
            | Self::Lent { vm, .. }
            | Self::NameTaken { vm, .. }
            | Self::Recovering { vm, .. }
            | Self::RunsFromVault { vm }
            | Self::HalfRecovered { vm, .. }
            | Self::Machine { vm, .. } => Some(vm.to_string()),
            Self::Vault { repository, .. }
            | Self::VaultSilent { repository, .. }
            | Self::RepositoryRead { repository, .. }
            | Self::RepositoryBusy { repository, .. } => Some(repository.to_string()),
            Self::DiskInUse { path, .. }
            | Self::DiskIsParent { path, .. }
            | Self::DiskUnclear { path, .. }
            | Self::DiskSilent { path, .. }
            | Self::ParentInUse { path, .. }
            | Self::RecoveredDisk { path, .. }
            | Self::Export { path, .. }
            | Self::Io { path, .. } => Some(path.display().to_string()),
            Self::NotRecoverable { point, .. } | Self::PointDamaged { point, .. } => Some(point.clone()),
            Self::Job(error) => error.object(),
            Self::Exchange(error) => Some(error.object()),
            Self::SwitchInUse { switch, .. } => Some(switch.clone()),
            Self::Inside { vm, .. } => Some(vm.clone()),
            Self::Prerequisite { feature, .. } => Some((*feature).to_owned()),
            _ => None,
        }
    }
}

fn repository_kind(error: &RepositoryInvalid) -> ErrorKind {
    match error {
        RepositoryInvalid::Name(_) | RepositoryInvalid::Location { .. } => ErrorKind::Exists,
        _ => ErrorKind::Invalid,
    }
}

fn files_kind(error: &ExploreError) -> ErrorKind {
    match error.kind() {
        nestling_explore::ErrorKind::NotFound => ErrorKind::NotFound,
        nestling_explore::ErrorKind::WrongKind | nestling_explore::ErrorKind::Invalid => ErrorKind::Invalid,
        nestling_explore::ErrorKind::Unsupported => ErrorKind::Requirement,
        _ => ErrorKind::Failed,
    }
}

fn agent_kind(error: &AgentError) -> ErrorKind {
    match error {
        AgentError::Absent => ErrorKind::GuestAbsent,
        AgentError::Timeout { .. } | AgentError::StillRuns { .. } => ErrorKind::Timeout,
        _ => ErrorKind::Failed,
    }
}

fn freeze_kind(error: &FreezeError) -> ErrorKind {
    match error {
        FreezeError::Agent(error) => agent_kind(error),
        FreezeError::Slow { .. } => ErrorKind::Timeout,
        _ => ErrorKind::Failed,
    }
}

fn vault_kind(error: &VaultError) -> ErrorKind {
    match error.kind() {
        FailureKind::Invalid => ErrorKind::Invalid,
        FailureKind::NotFound => ErrorKind::NotFound,
        FailureKind::Exists => ErrorKind::Exists,
        FailureKind::Denied => ErrorKind::Denied,
        FailureKind::InUse => ErrorKind::InUse,
        FailureKind::NoSpace => ErrorKind::Requirement,
        FailureKind::Timeout => ErrorKind::Timeout,
        FailureKind::Failed => ErrorKind::Failed,
    }
}

fn capture_kind(error: &CaptureError) -> ErrorKind {
    match error {
        CaptureError::NoRoom { .. } | CaptureError::HostFull { .. } => ErrorKind::Requirement,
        CaptureError::State { .. } | CaptureError::Gone(_) | CaptureError::Ended { .. } => {
            ErrorKind::InvalidState
        }
        CaptureError::NoDisk { .. } => ErrorKind::NotFound,
        _ => ErrorKind::Failed,
    }
}

fn disk_kind(error: &DiskError) -> ErrorKind {
    match error {
        DiskError::Exists(_) => ErrorKind::Exists,
        DiskError::Missing(_) | DiskError::ParentMissing(_) => ErrorKind::NotFound,
        DiskError::InUse(_) => ErrorKind::InUse,
        DiskError::NoSpace(_) => ErrorKind::Requirement,
        DiskError::Ambiguous(_)
        | DiskError::Unsupported(_)
        | DiskError::Shrinks { .. }
        | DiskError::Path(_) => ErrorKind::Invalid,
        _ => ErrorKind::Failed,
    }
}

fn image_kind(error: &ImageError) -> ErrorKind {
    match error {
        ImageError::NotFound(_) => ErrorKind::NotFound,
        ImageError::BadName(_) | ImageError::Import { .. } | ImageError::Seed(_) => ErrorKind::Invalid,
        ImageError::MissingTool { .. } | ImageError::Binary { .. } => ErrorKind::Requirement,
        ImageError::Busy(_) => ErrorKind::InUse,
        _ => ErrorKind::Failed,
    }
}

fn network_kind(error: &NetworkError) -> ErrorKind {
    match error {
        NetworkError::Permission | NetworkError::ToolMissing { .. } => ErrorKind::Requirement,
        NetworkError::Invalid(_) => ErrorKind::Invalid,
        _ => ErrorKind::Failed,
    }
}

#[cfg(test)]
#[path = "error_tests.rs"]
mod tests;
