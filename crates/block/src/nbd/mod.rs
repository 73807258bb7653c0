//! Disks over a socket: the NBD protocol, both ends.
//!
//! QEMU gives and takes disks this way, so a running machine is read, and a disk that only exists in a backup is
//! booted, without a copy. Written by hand because no crate speaks what QEMU speaks (structured replies, block status,
//! extended headers). Both ends take the other for hostile: every length has a limit, and nothing waits without a
//! deadline, but for a client that asks for nothing. There is no TLS, so sockets are unix sockets or on loopback.

mod client;
mod client_handshake;
mod connection;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
mod server;
mod server_handshake;
mod session;
mod socket;
mod uri;
pub mod wire;

pub use client::{DirtyExtent, NbdClient, NbdOptions};
pub use server::{Export, NbdServer, ServerLimits};
pub use socket::NbdAddress;
pub use uri::NbdUri;

#[cfg(test)]
mod tests;
