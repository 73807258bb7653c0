//! Why a command ends without having done what was asked, and the exit status that says so.

use std::io;

use nestling_api::{
    ClientError,
    v1::{ErrorBody, ErrorCode},
};

/// The exit statuses: a contract with scripts.
pub mod status {
    pub const DONE: u8 = 0;
    pub const FAILED: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const PARTLY: u8 = 3;
}

#[derive(Debug)]
pub enum Failure {
    /// It failed; told to the user when the program ends.
    Error(ErrorBody),
    /// The command line makes no sense; told to the user when the program ends.
    Usage(ErrorBody),
    /// Everything was told already; the program ends with this status.
    Told(u8),
    /// Whoever read our output has seen enough.
    BrokenPipe,
}

pub type Result<T = ()> = std::result::Result<T, Failure>;

impl Failure {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Error(ErrorBody { code, message: message.into(), hint: None, object: None })
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(ErrorBody { code: ErrorCode::Invalid, message: message.into(), hint: None, object: None })
    }

    /// A file or directory of this host that could not be used.
    pub fn file(doing: &str, path: &std::path::Path, error: &io::Error) -> Self {
        let code = match error.kind() {
            io::ErrorKind::NotFound => ErrorCode::NotFound,
            io::ErrorKind::PermissionDenied => ErrorCode::Denied,
            _ => ErrorCode::Failed,
        };
        Self::new(code, format!("can't {doing} {}: {error}", path.display()))
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Error(body) | Self::Usage(body) = &mut self {
            body.hint = Some(hint.into());
        }
        self
    }

    #[must_use]
    pub fn object(mut self, object: impl Into<String>) -> Self {
        if let Self::Error(body) | Self::Usage(body) = &mut self {
            body.object = Some(object.into());
        }
        self
    }
}

/// What a client's error says, as the contract's object.
pub fn body_of(error: ClientError) -> ErrorBody {
    let ClientError { code, message, hint, object } = error;
    ErrorBody { code, message, hint, object }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::Error(body_of(error))
    }
}
