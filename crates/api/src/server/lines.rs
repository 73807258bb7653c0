use axum::{body::Body, response::Response};
use bytes::Bytes;
use http::{HeaderValue, header::CONTENT_TYPE};
use serde::Serialize;

/// One JSON object and the end of its line.
pub(super) fn line(object: &impl Serialize) -> Result<Bytes, serde_json::Error> {
    let mut line = serde_json::to_vec(object)?;
    line.push(b'\n');
    Ok(line.into())
}

/// An answer of such lines.
pub(super) fn answer(lines: Body) -> Response {
    let mut answer = Response::new(lines);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer
}
