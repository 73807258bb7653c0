//! The client of a node: what the shell, the program and every test use.
//!
//! One HTTP/2 connection over the node's socket carries all calls, streams included. A client made with
//! [`Client::inside`] speaks to the node inside a machine, to any depth, over the same connection. It must
//! never believe an answer's size or pace: the answer may come from a hostile machine.

mod calls;
mod connection;
mod error;
mod files;
mod proof;
mod recovery;
mod streams;
#[cfg(test)]
mod tests;

use std::{fmt::Write as _, path::Path, sync::Arc};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use nestling_model::VmName;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    limits::{self, BODY_BYTES_MAX, CallLimits},
    v1::{ErrorBody, ErrorCode},
};
use connection::Connection;

pub use error::ClientError;
pub use files::{FileContent, FilesAt};
pub use streams::{Console, ConsoleReader, ConsoleWriter, Lines};

type Result<T> = std::result::Result<T, ClientError>;

/// What requests carry.
type RequestBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// The node's socket in its home.
pub const SOCKET_NAME: &str = "api.sock";

/// Speaks to one node. Cheap to clone: clones share the connection.
#[derive(Debug, Clone)]
pub struct Client {
    connection: Arc<Connection>,
    /// `/v1/`, or `/v1/in/NAME/...` for a node inside a machine.
    base: String,
    hosts: Vec<VmName>,
}

impl Client {
    /// Connects to the node of a home. Fails at once when none runs there ([`ClientError::is_unreachable`]).
    pub async fn connect(home: &Path) -> Result<Self> {
        let connection = Connection::open(home.join(SOCKET_NAME)).await?;
        Ok(Self { connection: Arc::new(connection), base: "/v1/".to_owned(), hosts: Vec::new() })
    }

    /// The node inside a machine: `hosts` are the machines to pass through, outermost first. None gives this
    /// node itself. Nothing is asked of anyone yet.
    pub fn inside(&self, hosts: &[VmName]) -> Self {
        let mut base = self.base.clone();
        for host in hosts {
            base.push_str("in/");
            base.push_str(&segment(host.as_str()));
            base.push('/');
        }
        Self { connection: self.connection.clone(), base, hosts: [&self.hosts, hosts].concat() }
    }

    /// The machines that are passed through on the way to the node, outermost first.
    pub fn hosts(&self) -> &[VmName] {
        &self.hosts
    }

    /// Asks for JSON, with or without JSON to go with it.
    async fn json<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&B>,
    ) -> Result<T> {
        let limits = self.limits(&method, path);
        let answer = self.whole(method, path, json_body(path, body)?, limits).await?;
        serde_json::from_slice(&answer).map_err(|e| ClientError::unreadable(path, &e))
    }

    /// Asks for something whose answer has no content.
    async fn done<B: Serialize + ?Sized>(&self, method: Method, path: &str, body: Option<&B>) -> Result<()> {
        let limits = self.limits(&method, path);
        self.whole(method, path, json_body(path, body)?, limits).await.map(drop)
    }

    /// One call with its whole answer, within the call's time.
    async fn whole(
        &self,
        method: Method,
        path: &str,
        body: RequestBody,
        limits: CallLimits,
    ) -> Result<Bytes> {
        self.whole_and_kind(method, path, body, limits).await.map(|(_, answer)| answer)
    }

    /// The same, with what kind of answer it says that it is.
    async fn whole_and_kind(
        &self,
        method: Method,
        path: &str,
        body: RequestBody,
        limits: CallLimits,
    ) -> Result<(Option<HeaderValue>, Bytes)> {
        let what = format!("{method} {}{path}", self.base);
        let call = async {
            let response = self.send(method, path, body).await?;
            let kind = response.headers().get(CONTENT_TYPE).cloned();
            let limited = Limited::new(response.into_body(), BODY_BYTES_MAX).collect().await;
            let answer = limited.map_err(|e| body_error(&what, &*e))?;
            Ok((kind, answer.to_bytes()))
        };
        let time = limits.head_timeout;
        tokio::time::timeout(time, call)
            .await
            .unwrap_or_else(|_| Err(ClientError::timeout(&what, time.as_secs())))
    }

    /// One call whose answer is a stream: only its head has a deadline.
    async fn stream(&self, method: Method, path: &str, body: RequestBody) -> Result<Response<Incoming>> {
        let time = self.limits(&method, path).head_timeout;
        let what = format!("{method} {}{path}", self.base);
        tokio::time::timeout(time, self.send(method, path, body))
            .await
            .unwrap_or_else(|_| Err(ClientError::timeout(&what, time.as_secs())))
    }

    /// Sends a request and turns every refusal into an error.
    async fn send(&self, method: Method, path: &str, body: RequestBody) -> Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://node{}{path}", self.base))
            .header(CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|e| ClientError::new(ErrorCode::Invalid, format!("{path} can't be asked for: {e}")))?;
        let response = self.connection.send(request).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = Limited::new(response.into_body(), limits::LINE_BYTES_MAX).collect().await;
        Err(body.map_or_else(|_| refusal(status, &[]), |b| refusal(status, &b.to_bytes())))
    }

    fn limits(&self, method: &Method, path: &str) -> CallLimits {
        limits::of(method, path.split('?').next().unwrap_or_default())
    }
}

/// What a refusal says; every node of ours sends an [`ErrorBody`], anything else is told by its status.
fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    serde_json::from_slice::<ErrorBody>(body).map_or_else(
        |_| ClientError::new(ErrorCode::Failed, format!("the node answered {status} without saying why")),
        ClientError::from,
    )
}

fn body_error(what: &str, error: &(dyn std::error::Error + 'static)) -> ClientError {
    if error.is::<LengthLimitError>() {
        let why = format!("it is larger than {} MB", BODY_BYTES_MAX >> 20);
        return ClientError::unreadable(what, &why);
    }
    ClientError::lost(&error)
}

fn json_body<B: Serialize + ?Sized>(path: &str, body: Option<&B>) -> Result<RequestBody> {
    let bytes = match body {
        None => Vec::new(),
        Some(body) => serde_json::to_vec(body).map_err(|e| ClientError::unreadable(path, &e))?,
    };
    Ok(Full::new(Bytes::from(bytes)).map_err(|never| match never {}).boxed_unsync())
}

/// A text as one part of a path.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            // A dot too: `.` and `..` as parts of their own would be taken for directions.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
