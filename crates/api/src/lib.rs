//! The node's API: wire types, the server, and the client that the shell and the program use.

pub mod v1;
