//! The node's API: wire types, the server, and the client that the shell and the program use.
//!
//! Nothing goes around it. The crate must never decide anything: the server reads a request, asks the node
//! and writes the answer; who may do what, and what follows, is the node's business.

pub mod client;
mod convert;
pub mod limits;
mod server;
pub mod v1;

pub use client::{Client, ClientError, FileContent, FilesAt};
pub use nestling_hypervisor::channel::DEVICE as CHANNEL_DEVICE;
pub use server::{nodes_inside, openapi, serve};
