use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use nestling_node::NodeError;

use crate::v1::{ErrorBody, ErrorCode};

/// Why a request was refused, as the answer says it.
#[derive(Debug)]
pub(super) struct Problem(pub(super) ErrorBody);

impl Problem {
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(ErrorBody { code, message: message.into(), hint: None, object: None })
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    pub(super) fn object(mut self, object: impl Into<String>) -> Self {
        self.0.object = Some(object.into());
        self
    }
}

/// The status that goes with a code.
pub(super) const fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Invalid => StatusCode::BAD_REQUEST,
        ErrorCode::Denied => StatusCode::FORBIDDEN,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Exists | ErrorCode::InvalidState | ErrorCode::InUse => StatusCode::CONFLICT,
        ErrorCode::Requirement => StatusCode::FAILED_DEPENDENCY,
        ErrorCode::GuestAbsent | ErrorCode::Timeout => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::Failed | ErrorCode::Unreachable | ErrorCode::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (status(self.0.code), Json(self.0)).into_response()
    }
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Self {
        Self(error.into())
    }
}
