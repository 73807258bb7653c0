//! Machines on QEMU: chosen engine, command line, monitor, console, guest agent, guest channel, disk images.
//!
//! The only crate that knows that QEMU exists. Everything that comes from a QEMU, a guest, a socket or a file is bounded
//! and taken for hostile. The crate must never decide *whether* something may be done: that is the node's business and
//! `model::life`'s.

pub mod agent;
mod base64;
pub mod capture;
pub mod channel;
mod cmdline;
mod console;
pub mod disk;
mod durable;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod machine;
pub mod probe;
mod qemu;
pub mod qmp;
mod reader;
mod spec;

pub use agent::{Agent, AgentError};
pub use channel::{ChannelClient, ChannelError, ChannelState};
pub use cmdline::command_line;
pub use console::{Console, ConsoleError, ConsoleView};
pub use durable::write as write_durably;
pub use machine::{
    AttachError, Exit, ExitKind, LaunchError, Machine, MachineError, RunState, SaveError, ScreenError,
    StateFileError, StreamState, Usage,
};
pub use qemu::{Firmware, Qemu, QemuError, Version};
pub use reader::{ReaderDisk, ReaderSpec, reader_command};
pub use spec::{LaunchSpec, RunDir, Slots};
