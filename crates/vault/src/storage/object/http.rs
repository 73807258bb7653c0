//! HTTP for object stores, on the workspace's hyper and rustls with ring.
//!
//! Also the one place that sees what a server answered: an answer that is no success becomes a [`ServerSaid`] here,
//! with its status and code and nothing else of it, since the rest may repeat what was signed.

use std::{error::Error, fmt, io, sync::Arc, time::Duration};

use async_trait::async_trait;
use http::{HeaderValue, Response, StatusCode, header::USER_AGENT};
use http_body_util::{BodyExt, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use object_store::{
    ClientOptions,
    client::{
        HttpClient, HttpConnector as Connects, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody,
        HttpResponse, HttpResponseBody, HttpService,
    },
};
use rustls::{ClientConfig, RootCertStore};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// What is read of an answer that is no success.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What a server answered instead of doing what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerSaid {
    pub(super) status: StatusCode,
    /// The store's own word for it, such as `AccessDenied`; empty if there is none.
    pub(super) code: String,
}

impl fmt::Display for ServerSaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server answered {}", self.status)?;
        if self.code.is_empty() { Ok(()) } else { write!(f, ": {}", self.code) }
    }
}

impl Error for ServerSaid {}

/// Makes clients for the builders of `object_store`.
#[derive(Debug)]
pub(super) struct Connector(HttpClient);

impl Connector {
    /// Fails if the machine has no certificates to trust, but for a store that is reached without TLS.
    pub(super) fn new(is_plain: bool) -> io::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_keepalive(Some(IDLE_TIMEOUT));
        let tls = HttpsConnectorBuilder::new()
            .with_tls_config(tls(is_plain)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .build(tls);
        Ok(Self(HttpClient::new(Service(client))))
    }
}

fn tls(trusts_none: bool) -> io::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = if trusts_none {
        builder.with_root_certificates(RootCertStore::empty())
    } else {
        builder.with_native_roots()?
    };
    Ok(builder.with_no_client_auth())
}

impl Connects for Connector {
    fn connect(&self, _options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(self.0.clone())
    }
}

#[derive(Debug)]
struct Service(Client<HttpsConnector<HttpConnector>, HttpRequestBody>);

#[async_trait]
impl HttpService for Service {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static("nestling"));
        let (parts, body) = self.0.request(request).await.map_err(client_error)?.into_parts();
        if parts.status.is_success() || parts.status == StatusCode::NOT_MODIFIED {
            return Ok(Response::from_parts(parts, HttpResponseBody::new(body.map_err(body_error))));
        }
        let answer = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
        let answer = answer.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let said = ServerSaid { status: parts.status, code: code(&answer) };
        if is_expected(&said) {
            return Ok(Response::from_parts(parts, HttpResponseBody::from(answer)));
        }
        Err(HttpError::new(HttpErrorKind::Unknown, said))
    }
}

/// What the crate makes use of itself: a file that is missing, or there already.
fn is_expected(said: &ServerSaid) -> bool {
    match said.status {
        StatusCode::NOT_FOUND => !matches!(said.code.as_str(), "NoSuchBucket" | "ContainerNotFound"),
        StatusCode::CONFLICT => {
            !matches!(said.code.as_str(), "ConditionalRequestConflict" | "OperationAborted")
        }
        status => status == StatusCode::PRECONDITION_FAILED,
    }
}

/// What stands in the element `Code` of an answer in XML.
fn code(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer);
    let code =
        text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    code.unwrap_or_default().chars().filter(char::is_ascii_alphanumeric).take(64).collect()
}

fn client_error(error: hyper_util::client::legacy::Error) -> HttpError {
    let kind = if error.is_connect() { HttpErrorKind::Connect } else { HttpErrorKind::Request };
    HttpError::new(kind, error)
}

fn body_error(error: hyper::Error) -> HttpError {
    let kind = if error.is_timeout() { HttpErrorKind::Timeout } else { HttpErrorKind::Interrupted };
    HttpError::new(kind, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_answer_only_its_code_is_kept() {
        let answer =
            b"<?xml?><Error><Code>SignatureDoesNotMatch</Code><StringToSign>AKIA</StringToSign></Error>";
        let said = ServerSaid { status: StatusCode::FORBIDDEN, code: code(answer) };
        assert_eq!(said.to_string(), "the server answered 403 Forbidden: SignatureDoesNotMatch");
        for rubbish in [&b""[..], b"<Code>", b"</Code><Code>", b"<Code></Code>", b"\xff<Code>\x1b[2J</Code"] {
            assert_eq!(code(rubbish), "");
        }
        assert_eq!(code(&[b"<Code>".as_slice(), &[b'x'; 1000], b"</Code>"].concat()).len(), 64);
    }

    #[test]
    fn a_missing_bucket_is_no_missing_file() {
        let said = |status: u16, code: &str| ServerSaid {
            status: StatusCode::from_u16(status).unwrap(),
            code: code.to_owned(),
        };
        assert!(is_expected(&said(404, "NoSuchKey")) && is_expected(&said(404, "")));
        assert!(!is_expected(&said(404, "NoSuchBucket")));
        assert!(
            is_expected(&said(412, "PreconditionFailed")) && is_expected(&said(409, "BlobAlreadyExists"))
        );
        assert!(!is_expected(&said(409, "ConditionalRequestConflict")));
        assert!(!is_expected(&said(403, "AccessDenied")) && !is_expected(&said(503, "SlowDown")));
    }
}
