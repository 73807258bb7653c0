//! Why the host's network could not be read or changed.

use std::io;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error(
        "switches, NAT networks and ports need the right to change the host's network: run the node as root \
         (without it, machines get user-mode networking)"
    )]
    Permission,
    #[error("the program \"{program}\" is missing; install the package \"{package}\"")]
    ToolMissing { program: &'static str, package: &'static str },
    /// One step failed; what had been done before it was undone.
    #[error("can't {step}: {reason}; everything done before it was undone")]
    Step { step: String, reason: String },
    /// One step failed, and so did undoing the ones before it.
    #[error(
        "can't {step}: {reason}; undoing what was done before failed too ({undo}); \
         the next change to the network tries to put it right"
    )]
    Undo { step: String, reason: String, undo: String },
    #[error("can't read {what} of the host")]
    Read { what: &'static str, source: io::Error },
    #[error("{0}")]
    Invalid(String),
    #[error("can't {what} {path}")]
    File { what: &'static str, path: std::path::PathBuf, source: io::Error },
}
