//! Machines as other programs write them down: Hyper-V's VMCX, OVF and OVA, libvirt's XML; and the last two written for
//! who takes a machine away from here.
//!
//! All of them become one plain [`Machine`], and what a source says that has no place in it is told in words
//! ([`Machine::left_out`]). Nothing here opens a file: descriptions are bytes, an archive is a `BlockSource`.
//!
//! Descriptions come from anywhere, and are hostile: whatever they say about sizes and places is checked before it is used,
//! time and memory have bounds, and no name in one is ever used as a path here. Whoever follows one decides where it may lead.

mod archive;
mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
mod hyperv;
mod libvirt;
mod machine;
mod ovf;
mod place;
mod text;
mod write;
mod xml;

pub use archive::{Archive, Member};
pub use error::ExchangeError;
pub use hyperv::read as read_vmcx;
pub use libvirt::{is_domain, read as read_libvirt};
pub use machine::{Adapter, Controller, Disk, Firmware, Kernel, Machine};
pub use ovf::read as read_ovf;
pub use write::{libvirt as write_libvirt, ovf as write_ovf};

/// More than any description has; what is larger is not read.
pub const DESCRIPTION_BYTES_MAX: usize = 8 << 20;
