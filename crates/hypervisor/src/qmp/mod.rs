//! QEMU's monitor protocol: one connection, commands with deadlines, events.
//!
//! A QEMU that a guest has taken over may say anything here. Lines are bounded, unknown messages are passed over, and a
//! reply that comes after its deadline is dropped without harm to the connection. This module must never know what a
//! command is for.

mod client;
mod codec;
mod commands;

#[cfg(feature = "fuzzing")]
pub(crate) use client::read_message;
pub use client::{Event, Qmp, QmpError, Shutdown};
pub(crate) use codec::{LineError, Lines};
pub use commands::MigrationStatus;
