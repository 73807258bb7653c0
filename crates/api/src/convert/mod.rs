//! Between what travels and what the node works with.
//!
//! One file for each group of wire types. A conversion towards the node refuses what can't be read as a value;
//! whether the value makes sense is the node's business. Nothing here may ask the node anything.

mod exchange;
mod files;
mod guest;
mod host;
mod image;
mod jobs;
mod loan;
mod mail;
mod network;
mod proof;
mod protection;
mod recovery;
mod vm;

pub(crate) use files::unhex;
pub(crate) use host::ipv4;
pub(crate) use mail::addresses;

use std::str::FromStr;

use nestling_node::{ErrorKind, NodeError};

use crate::v1::{ErrorBody, ErrorCode};

/// Two enumerations with the same names.
macro_rules! same_names {
    ($ours:ty, $theirs:ty: $($name:ident),+ $(,)?) => {
        impl From<$theirs> for $ours {
            fn from(value: $theirs) -> Self {
                match value { $(<$theirs>::$name => Self::$name,)+ }
            }
        }

        impl From<$ours> for $theirs {
            fn from(value: $ours) -> Self {
                match value { $(<$ours>::$name => Self::$name,)+ }
            }
        }
    };
}
use same_names;

impl From<ErrorKind> for ErrorCode {
    fn from(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Invalid => Self::Invalid,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Exists => Self::Exists,
            ErrorKind::InvalidState => Self::InvalidState,
            ErrorKind::InUse => Self::InUse,
            ErrorKind::Denied => Self::Denied,
            ErrorKind::Requirement => Self::Requirement,
            ErrorKind::GuestAbsent => Self::GuestAbsent,
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::Failed => Self::Failed,
        }
    }
}

/// What a node inside a machine says; it may say anything.
impl From<ErrorCode> for ErrorKind {
    fn from(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Invalid => Self::Invalid,
            ErrorCode::NotFound => Self::NotFound,
            ErrorCode::Exists => Self::Exists,
            ErrorCode::InvalidState => Self::InvalidState,
            ErrorCode::InUse => Self::InUse,
            ErrorCode::Denied => Self::Denied,
            ErrorCode::Requirement => Self::Requirement,
            ErrorCode::GuestAbsent | ErrorCode::Unreachable => Self::GuestAbsent,
            ErrorCode::Timeout => Self::Timeout,
            ErrorCode::Failed | ErrorCode::Unknown => Self::Failed,
        }
    }
}

impl From<NodeError> for ErrorBody {
    fn from(error: NodeError) -> Self {
        Self {
            code: error.code().into(),
            message: error.message(),
            hint: error.hint(),
            object: error.object(),
        }
    }
}

/// Reads a text as a value, or says which text of what is none.
fn read<T: FromStr>(what: &str, text: &str) -> Result<T, NodeError>
where
    T::Err: std::fmt::Display,
{
    text.trim().parse().map_err(|error| {
        let shown = nestling_model::shown(text, 60);
        NodeError::invalid(format!("\"{shown}\" is no {what}: {error}"))
    })
}

fn path_text(path: &std::path::Path) -> String {
    path.display().to_string()
}
