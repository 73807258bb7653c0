//! The way into a machine: a request is handed to the node inside it, and the answer is let out.
//!
//! Whatever comes from inside is hostile. It never gets more of this node than one stream of the machine's
//! own channel: no answer is stored, every answer has a deadline or is taken only as fast as somebody reads
//! it, and of its head only a known status and a known kind of content pass. This module must never read
//! what an answer means, errors excepted, which are made harmless first.

use std::time::Duration;

use axum::{body::Body, response::IntoResponse};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use nestling_model::path::PATH_LEVELS_MAX;
use nestling_node::ChannelClient;
use tokio::time::{Instant, timeout_at};

use super::{
    clean,
    guarded::Guarded,
    problem::{self, Problem},
};
use crate::{
    limits::{CallLimits, LINE_BYTES_MAX},
    v1::{ErrorBody, ErrorCode},
};

/// Kinds of content that a node sends; anything else is passed on as bytes without a meaning.
const CONTENTS: [&str; 2] = ["application/json", "application/x-ndjson"];

/// How long a request waits for a machine's channel.
const UP_TIMEOUT: Duration = Duration::from_secs(5);

/// A channel to the node inside a machine.
pub(super) trait Inside: Sync {
    /// Hands over a request. The answer's head comes within `head_timeout`, or an error says in words why not.
    fn ask(
        &self,
        request: Request<Body>,
        head_timeout: Duration,
    ) -> impl Future<Output = Result<Response<Incoming>, String>> + Send;
}

impl Inside for ChannelClient {
    async fn ask(
        &self,
        request: Request<Body>,
        head_timeout: Duration,
    ) -> Result<Response<Incoming>, String> {
        // A channel is down for moments when the node at either end has just started.
        self.wait_up(head_timeout.min(UP_TIMEOUT)).await;
        self.request(request, head_timeout).await.map_err(|error| error.to_string())
    }
}

/// Hands `request` to the node inside the machine `vm`, where it is for `/v1/{rest}`.
pub(super) async fn forward<C: Inside>(
    channel: &C,
    vm: &str,
    rest: &str,
    request: Request<Body>,
    limits: CallLimits,
) -> Result<Response<Body>, Problem> {
    if levels(rest) >= PATH_LEVELS_MAX {
        return Err(Problem::invalid(format!("a path has at most {PATH_LEVELS_MAX} levels")));
    }
    let asked_at = Instant::now();
    let answer =
        channel.ask(rebased(rest, request)?, limits.head_timeout).await.map_err(|why| absent(vm, &why))?;
    let status = answer.status();
    if status.is_client_error() || status.is_server_error() {
        let refused = timeout_at(asked_at + limits.head_timeout, refusal(vm, answer)).await;
        return refused.map_err(|_| absent(vm, "it began to answer and stopped"));
    }
    if !matches!(status, StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT) {
        return Err(nonsense(vm, &format!("its status is {}", status.as_u16())));
    }
    let content = answer.headers().get(CONTENT_TYPE).and_then(|c| c.to_str().ok());
    let content = CONTENTS.into_iter().find(|c| content == Some(c)).unwrap_or("application/octet-stream");
    let mut response = Response::new(Body::new(Guarded::new(answer.into_body(), limits, asked_at)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content));
    Ok(response)
}

/// How many machines a path leads through after the first.
fn levels(rest: &str) -> usize {
    let mut parts = rest.split('/');
    std::iter::from_fn(|| (parts.next()? == "in").then(|| parts.next())).count()
}

/// The request as the node inside gets it: only its method, its path and its content.
fn rebased(rest: &str, request: Request<Body>) -> Result<Request<Body>, Problem> {
    let (head, body) = request.into_parts();
    let query = head.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let uri: Uri = format!("http://node/v1/{rest}{query}")
        .parse()
        .map_err(|e| Problem::invalid(format!("this can't be asked of a node: {e}")))?;
    let mut inner = Request::new(body);
    *inner.method_mut() = head.method;
    *inner.uri_mut() = uri;
    if let Some(content) = head.headers.get(CONTENT_TYPE) {
        inner.headers_mut().insert(CONTENT_TYPE, content.clone());
    }
    Ok(inner)
}

/// What the node inside refused, in words that can't hurt.
async fn refusal(vm: &str, answer: Response<Incoming>) -> Response<Body> {
    let status = answer.status();
    let body = Limited::new(answer.into_body(), LINE_BYTES_MAX).collect().await;
    let body = body.ok().and_then(|b| serde_json::from_slice::<ErrorBody>(&b.to_bytes()).ok());
    let Some(mut body) = body else {
        return nonsense(vm, &format!("it refused with status {} and no reason", status.as_u16()))
            .into_response();
    };
    clean::error(&mut body);
    (problem::status(body.code), axum::Json(body)).into_response()
}

pub(super) fn absent(vm: &str, why: &str) -> Problem {
    Problem::new(ErrorCode::GuestAbsent, format!("cannot reach the node inside \"{vm}\": {why}"))
        .object(vm)
        .hint("see at its console whether it has started, and whether a Nestling node runs in it")
}

fn nonsense(vm: &str, why: &str) -> Problem {
    let message = format!("the node inside \"{vm}\" gave an answer that makes no sense: {why}");
    Problem::new(ErrorCode::Failed, message).object(vm)
}

#[cfg(test)]
#[path = "proxy_tests.rs"]
mod tests;
