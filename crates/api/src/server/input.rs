use std::time::Duration;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Query},
};
use http::{Request, request::Parts};
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;

use super::problem::Problem;
use crate::limits::REQUEST_BYTES_MAX;

/// How long a caller may take to send a request's content.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A request's content: JSON of bounded size, sent in bounded time. No content stands for an empty object.
pub(super) struct Input<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Input<T> {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, _: &S) -> Result<Self, Problem> {
        let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect();
        let body = tokio::time::timeout(CONTENT_TIMEOUT, body)
            .await
            .map_err(|_| Problem::invalid("the request's content did not arrive within 30 seconds"))?
            .map_err(|e| Problem::invalid(format!("the request's content can't be taken: {e}")))?
            .to_bytes();
        let json: &[u8] = if body.is_empty() { b"{}" } else { &body };
        serde_json::from_slice(json)
            .map(Self)
            .map_err(|e| Problem::invalid(format!("the request's content is not what is expected here: {e}")))
    }
}

/// The parts of a path, refused in our own words.
pub(super) struct At<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for At<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Path(at) =
            Path::<T>::from_request_parts(parts, state).await.map_err(|e| Problem::invalid(e.body_text()))?;
        Ok(Self(at))
    }
}

/// A query, refused in our own words.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let Query(asked) = Query::<T>::from_request_parts(parts, state)
            .await
            .map_err(|e| Problem::invalid(e.body_text()))?;
        Ok(Self(asked))
    }
}
