//! Machines of other programs come in, and machines go out to them.
//!
//! ```text
//! import: find (which description, which disks) ──► import (a definition, claims) ──► disks copied, then both at once
//! export: of a point recovery::to_folder, of a machine export ──► folder (which comes whole or not at all), describe (pure)
//! ```
//!
//! What must never happen: that a description or an image names a file outside of the folders that the administrator gave;
//! that something of an import or an export that failed is left; that what could not be taken over is not told.

mod copied;
mod describe;
mod error;
mod export;
mod find;
mod folder;
mod folders;
mod import;
mod teller;
#[cfg(test)]
pub(crate) mod tests;
mod values;

pub use describe::{KERNEL_ONLY_FOR_LIBVIRT, describe, disk as describe_disk, write as write_descriptions};
pub use error::ExchangeFailed;
pub use folder::{NewFolder, UnfinishedFolder};
pub use values::{ExchangeStep, ExportWish, ImportWish};
