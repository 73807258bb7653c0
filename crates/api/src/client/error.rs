use std::path::Path;

use crate::v1::{ErrorBody, ErrorCode};

/// Why a call failed: what the node said, or why nothing usable came back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ClientError {
    pub code: ErrorCode,
    /// What failed, on which object, and why.
    pub message: String,
    /// What to do next, where that is known.
    pub hint: Option<String>,
    /// The object concerned, such as a machine's name.
    pub object: Option<String>,
}

impl ClientError {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None, object: None }
    }

    /// Whether no node runs in the home, as opposed to one that refused.
    pub fn is_unreachable(&self) -> bool {
        self.code == ErrorCode::Unreachable
    }

    pub(super) fn unreachable(socket: &Path, why: &dyn std::fmt::Display) -> Self {
        Self {
            hint: Some("start it with: nestling node".to_owned()),
            ..Self::new(ErrorCode::Unreachable, format!("no node answers at {}: {why}", socket.display()))
        }
    }

    pub(super) fn lost(why: &dyn std::fmt::Display) -> Self {
        Self::new(ErrorCode::Unreachable, format!("the connection to the node was lost: {why}"))
    }

    pub(super) fn timeout(what: &str, seconds: u64) -> Self {
        Self::new(ErrorCode::Timeout, format!("{what} did not answer within {seconds} seconds"))
    }

    pub(super) fn unreadable(what: &str, why: &dyn std::fmt::Display) -> Self {
        Self::new(ErrorCode::Failed, format!("the answer to {what} could not be read: {why}"))
    }
}

impl From<ErrorBody> for ClientError {
    fn from(body: ErrorBody) -> Self {
        let ErrorBody { code, message, hint, object } = body;
        Self { code, message, hint, object }
    }
}
