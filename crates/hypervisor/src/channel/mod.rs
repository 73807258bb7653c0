//! The guest channel: HTTP/2 between a host and the node inside one of its machines, over a virtio-serial port.
//!
//! It needs no network in the guest. The host is always the client. A port is a line of bytes that knows neither
//! connections nor their ends, so [`wire`] marks where a session begins: either side may vanish and come back at any
//! byte, and the other notices. Everything that comes from inside is hostile: it can waste its own channel and nothing
//! else. This module must never read what a request means.

mod client;
mod device;
mod port;
#[cfg(test)]
mod tests;
mod wire;

pub use client::{ChannelClient, ChannelError, ChannelState};
pub use device::serve_device;
#[cfg(feature = "fuzzing")]
pub(crate) use wire::read_stream;

/// Where a guest finds its end.
pub const DEVICE: &str = "/dev/virtio-ports/org.nestling.channel.0";
