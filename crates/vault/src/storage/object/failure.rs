//! What an error of the object store's crate means to us. No text of the crate or the server gets through as it is.

use std::error::Error;

use object_store::client::{HttpError, HttpErrorKind};

use super::http::ServerSaid;
use crate::storage::{Operation, StorageError, StorageErrorKind};

/// Why it failed, in our words or in those of the system below.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Cause(String);

/// What must not show in a message, whatever brings it there.
#[derive(Clone, Default)]
pub(super) struct Secrets(pub(super) Vec<String>);

impl Secrets {
    fn hide(&self, mut text: String) -> String {
        for secret in self.0.iter().filter(|secret| secret.len() >= 4) {
            text = text.replace(secret.as_str(), "…");
        }
        text
    }
}

/// An error as ours.
pub(super) fn failure(
    error: &object_store::Error,
    operation: Operation,
    place: &str,
    secrets: &Secrets,
) -> StorageError {
    let (kind, cause) = classify(error);
    StorageError::new(kind, operation, place).caused_by(Cause(secrets.hide(cause)))
}

fn classify(error: &object_store::Error) -> (StorageErrorKind, String) {
    if let Some(said) = find::<ServerSaid>(error) {
        return (of_answer(said), said.to_string());
    }
    if let Some(transport) = find::<HttpError>(error) {
        let kind = match transport.kind() {
            HttpErrorKind::Timeout => StorageErrorKind::Timeout,
            HttpErrorKind::Connect | HttpErrorKind::Request | HttpErrorKind::Interrupted => {
                StorageErrorKind::Unreachable
            }
            _ => StorageErrorKind::Io,
        };
        return (kind, innermost(transport));
    }
    let kind = match error {
        object_store::Error::NotFound { .. } => StorageErrorKind::NotFound,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
            StorageErrorKind::AlreadyExists
        }
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            StorageErrorKind::Denied
        }
        object_store::Error::NotSupported { .. } | object_store::Error::NotImplemented { .. } => {
            StorageErrorKind::Unsupported
        }
        _ => StorageErrorKind::Io,
    };
    (kind, innermost(error))
}

fn of_answer(said: &ServerSaid) -> StorageErrorKind {
    match (said.status.as_u16(), said.code.as_str()) {
        (_, "ExpiredToken" | "InvalidToken" | "RequestTimeTooSkewed") | (401 | 403, _) => {
            StorageErrorKind::Denied
        }
        (300..=399 | 404, _) => StorageErrorKind::InvalidLocation,
        (_, "EntityTooLarge" | "RequestBodyTooLarge") | (413, _) => StorageErrorKind::TooLarge,
        (416, _) => StorageErrorKind::UnexpectedEnd,
        (507, _) => StorageErrorKind::NoSpace,
        (501, _) => StorageErrorKind::Unsupported,
        // The bytes that arrived are not those that were sent.
        (_, "BadDigest" | "IncompleteBody" | "RequestTimeout" | "XAmzContentSHA256Mismatch") => {
            StorageErrorKind::Unreachable
        }
        (408 | 409 | 425 | 429 | 500..=599, _) => StorageErrorKind::Busy,
        _ => StorageErrorKind::Refused,
    }
}

fn find<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// The first cause: it says most and repeats no address.
fn innermost(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::StatusCode;

    fn generic(source: HttpError) -> object_store::Error {
        object_store::Error::Generic { store: "S3", source: Box::new(source) }
    }

    #[test]
    fn answers_have_their_kinds() {
        for (status, code, kind) in [
            (403, "AccessDenied", StorageErrorKind::Denied),
            (400, "ExpiredToken", StorageErrorKind::Denied),
            (404, "NoSuchBucket", StorageErrorKind::InvalidLocation),
            (409, "ConditionalRequestConflict", StorageErrorKind::Busy),
            (416, "InvalidRange", StorageErrorKind::UnexpectedEnd),
            (503, "SlowDown", StorageErrorKind::Busy),
            (507, "XMinioStorageFull", StorageErrorKind::NoSpace),
            (400, "BadDigest", StorageErrorKind::Unreachable),
            (400, "InvalidArgument", StorageErrorKind::Refused),
        ] {
            let said = ServerSaid { status: StatusCode::from_u16(status).unwrap(), code: code.to_owned() };
            let error = generic(HttpError::new(HttpErrorKind::Unknown, said));
            let error = failure(&error, Operation::Put, "s3://bucket", &Secrets::default());
            assert_eq!(error.kind, kind, "{status} {code}");
            assert!(error.to_string().contains(code), "{error}");
        }
    }

    #[test]
    fn no_secret_gets_through() {
        let text = std::io::Error::other("cannot parse hunter2hunter2 as a key");
        let error = object_store::Error::Generic { store: "S3", source: Box::new(text) };
        let secrets = Secrets(vec!["hunter2hunter2".to_owned(), String::new()]);
        let error = failure(&error, Operation::Open, "s3://bucket", &secrets);
        assert!(error.to_string().contains("cannot parse … as a key"), "{error}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}
