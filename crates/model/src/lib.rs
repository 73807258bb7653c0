//! The vocabulary of Nestling: virtual machines, their devices, switches and NAT networks, the
//! legal changes between a machine's states, and how machines are protected.
//!
//! Everything here is a value. The crate must never do I/O, read a clock, draw a random number or
//! start a task: a rule that can be decided from values alone is decided here, so that it can be
//! tested without a machine. Types derive serde because a stored record *is* a model value (the
//! store wraps it with a schema number); what travels over the API are other types, in `api::v1`.

pub mod adapter;
pub mod disk;
pub mod event;
pub mod host;
pub mod life;
pub mod mac;
pub mod name;
pub mod network;
pub mod path;
pub mod protection;
mod shown;
pub mod tag;
pub mod version;
pub mod vm;

pub use adapter::{Adapter, AdapterId};
pub use disk::{Controller, Disk, DiskFormat};
pub use event::{Event, EventKind};
pub use host::{EngineKind, HostInfo, Vendor};
pub use life::{Operation, Refused, VmState};
pub use mac::MacAddress;
pub use name::{DiskName, JobName, NameError, NatName, Pattern, RepositoryName, SwitchName, VmName};
pub use network::{Dhcp, Nat, Protocol, StaticMapping, Switch, SwitchId, SwitchKind};
pub use path::VmPath;
pub use shown::{shown, size_shown};
pub use tag::{Tag, TagError};
pub use version::ConfigVersion;
pub use vm::{Boot, Generation, Limits, Memory, Processor, StartAction, StopAction, Vm, VmId, VmInvalid};
