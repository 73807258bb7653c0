//! Machines.
//!
//! ```text
//! use case (create, change, power, adapters, drives, save)
//!    │ asks (a question with the operation that it is)
//!    ▼
//! task: one per machine, owns it; admits by model::life::admit; power off interrupts what hangs
//!    │ publishes
//!    ▼
//! Now: the definition and the engine as they are; read by everyone, waited for by nobody
//! ```
//!
//! A machine's definition is changed by its own task and nowhere else: the task makes the change durable, then publishes
//! it. What must not be taken twice (names, MAC addresses, disks) is claimed in the [`Registry`] until it is published.

mod adapters;
pub mod capture;
mod capture_off;
mod change;
mod create;
mod disk_use;
mod drives;
pub mod foresee;
mod guest;
mod leave;
mod owner;
mod power;
mod recover;
mod registry;
mod reopen;
mod running;
mod save;
mod stop;
mod task;
#[cfg(test)]
mod tests;
mod view;
mod watch;

pub use adapters::check_name as check_adapter_name;
pub use create::{NOTES_CHARS_MAX, check_notes};
pub use disk_use::{DiskFile, DiskUse};
pub use leave::Leaving;
pub use owner::Owner;
pub use registry::{Claim, Registry};
pub use reopen::restore;
pub use running::Running;
pub use stop::RanBefore;
pub use task::{Asked, Handle, Now};
