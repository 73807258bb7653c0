//! The client against nodes that misbehave.

use std::{convert::Infallible, time::Duration};

use axum::{Router, body::Body, extract::Request, routing::any};
use bytes::Bytes;
use futures_util::StreamExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
    task::JoinHandle,
};

use super::{Client, SOCKET_NAME, refusal, segment};
use crate::v1::{ErrorCode, VmOperation};

/// A node that answers everything with what `answer` makes of it.
struct FakeNode {
    home: TempDir,
    serving: JoinHandle<()>,
}

impl FakeNode {
    fn start(answer: impl Fn(Request) -> http::Response<Body> + Clone + Send + Sync + 'static) -> Self {
        let home = tempfile::tempdir().unwrap();
        let serving = Self::serve(&home, answer);
        Self { home, serving }
    }

    fn serve(
        home: &TempDir,
        answer: impl Fn(Request) -> http::Response<Body> + Clone + Send + Sync + 'static,
    ) -> JoinHandle<()> {
        let path = home.path().join(SOCKET_NAME);
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(path).unwrap();
        let router = Router::new().fallback(any(move |request: Request| {
            let answer = answer(request);
            async move { answer }
        }));
        tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let service = hyper_util::service::TowerToHyperService::new(router.clone());
                connections.spawn(async move {
                    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await
                });
            }
        })
    }

    async fn client(&self) -> Client {
        Client::connect(self.home.path()).await.unwrap()
    }
}

impl Drop for FakeNode {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn answer(body: impl Into<Body>) -> http::Response<Body> {
    http::Response::new(body.into())
}

fn endless(chunk: Bytes) -> Body {
    Body::from_stream(futures_util::stream::repeat(Ok::<_, Infallible>(chunk)))
}

#[tokio::test]
async fn a_home_without_a_node_is_told_apart_from_a_refusal() {
    let home = tempfile::tempdir().unwrap();
    let error = Client::connect(home.path()).await.unwrap_err();
    assert!(error.is_unreachable());
    assert!(error.to_string().contains("api.sock"), "{error}");
    assert!(error.hint.unwrap().contains("nestling node"));
}

#[tokio::test]
async fn what_is_inside_is_asked_through_every_level() {
    let node = FakeNode::start(|request| {
        let path = request.uri().path().to_owned();
        http::Response::builder()
            .status(404)
            .body(json!({"code": "not-found", "message": path}).to_string().into())
            .unwrap()
    });
    let inside = node.client().await.inside(&["L 1".parse().unwrap(), "L2".parse().unwrap()]);
    let error = inside.operate("wéb", VmOperation::TurnOff).await.unwrap_err();
    assert_eq!(error.message, "/v1/in/L%201/in/L2/vms/w%C3%A9b/turn-off");
    assert_eq!(error.code, ErrorCode::NotFound);
}

#[tokio::test]
async fn an_endless_answer_ends_with_an_error() {
    let node = FakeNode::start(|_| answer(endless(Bytes::from(vec![b' '; 60_000]))));
    let error = node.client().await.vms().await.unwrap_err();
    assert!(error.message.contains("larger than 8 MB"), "{error}");
}

#[tokio::test]
async fn lines_are_put_together_and_bounded() {
    let node = FakeNode::start(|request| match request.uri().path() {
        "/v1/events" => {
            let event = json!({"sequence": 1, "at_ms": 2, "kind": "vm-state", "object": "a", "message": "m"});
            let text = format!("{event}\n\n{event}\n{{");
            let bytes: Vec<_> =
                text.into_bytes().chunks(7).map(|c| Ok::<_, Infallible>(c.to_vec())).collect();
            answer(Body::from_stream(futures_util::stream::iter(bytes)))
        }
        _ => answer(endless(Bytes::from(vec![b'x'; 1000]))),
    });
    let client = node.client().await;
    let mut events = client.events(false).await.unwrap();
    for _ in 0..2 {
        assert_eq!(events.next().await.unwrap().unwrap().object, "a");
    }
    assert!(events.next().await.unwrap().unwrap_err().message.contains("middle of a line"));
    assert!(events.next().await.is_none());

    let mut lines = client.build_image("x", &Default::default()).await.unwrap();
    assert!(lines.next().await.unwrap().unwrap_err().message.contains("too long"));
    assert!(lines.next().await.is_none());
}

#[tokio::test]
async fn a_console_goes_both_ways() {
    let node = FakeNode::start(|request| {
        let typed = request.into_body().into_data_stream();
        answer(Body::from_stream(typed.map(|b| b.map(|b| b.to_ascii_uppercase()))))
    });
    let mut console = node.client().await.console("a").await.unwrap();
    for word in ["hello", "world"] {
        console.writer.write_all(word.as_bytes()).await.unwrap();
        let mut shown = [0; 5];
        console.reader.read_exact(&mut shown).await.unwrap();
        assert_eq!(shown, *word.to_ascii_uppercase().as_bytes());
    }
    drop(console.writer);
    assert_eq!(console.reader.read(&mut [0; 5]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_client_outlives_a_restart_of_its_node() {
    let reply = |_: Request| answer("[]");
    let node = FakeNode::start(reply);
    let client = node.client().await;
    assert!(client.vms().await.unwrap().is_empty());
    node.serving.abort();
    let lost = async {
        while client.vms().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), lost).await.unwrap();
    let again = FakeNode::serve(&node.home, reply);
    assert!(client.vms().await.unwrap().is_empty());
    again.abort();
}

#[test]
fn every_name_is_one_part_of_a_path() {
    assert_eq!(segment("Server2016"), "Server2016");
    assert_eq!(segment("a b/.."), "a%20b%2F%2E%2E");
    assert_eq!(segment("仮"), "%E4%BB%AE");
}

#[test]
fn a_refusal_without_words_is_told_by_its_status() {
    let error = refusal(http::StatusCode::BAD_GATEWAY, b"<html>");
    assert_eq!(error.code, ErrorCode::Failed);
    assert_eq!(error.message, "the node answered 502 Bad Gateway without saying why");
    let body = br#"{"code":"a-later-code","message":"m"}"#;
    assert_eq!(refusal(http::StatusCode::CONFLICT, body).code, ErrorCode::Unknown);
}
