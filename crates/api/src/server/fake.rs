//! Machines for tests: what is at the other end of a guest channel does as the test says.

use std::time::Duration;

use axum::{Router, body::Body, routing::any};
use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tokio::io::DuplexStream;

use super::proxy::Inside;

/// The host's end of a channel whose other end is in the machine.
#[derive(Clone)]
pub(super) struct Channel(http2::SendRequest<Body>);

impl Inside for Channel {
    async fn ask(
        &self,
        request: Request<Body>,
        head_timeout: Duration,
    ) -> Result<Response<Incoming>, String> {
        let asked = tokio::time::timeout(head_timeout, self.0.clone().send_request(request)).await;
        asked.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
    }
}

/// A channel to a machine that does with its end what `child` says.
pub(super) async fn channel<F: Future<Output = ()> + Send + 'static>(
    child: impl FnOnce(DuplexStream) -> F,
) -> Channel {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    tokio::spawn(child(theirs));
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(64 << 10)
        .max_header_list_size(16 << 10)
        .handshake(TokioIo::new(ours))
        .await
        .unwrap();
    tokio::spawn(async { connection.await.ok() });
    Channel(sender)
}

/// A channel to a machine whose node answers as `router` does.
pub(super) async fn node_inside(router: Router) -> Channel {
    channel(async move |io| {
        let service = TowerToHyperService::new(router);
        let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        server.max_header_list_size(1 << 20).serve_connection(TokioIo::new(io), service).await.ok();
    })
    .await
}

/// A machine whose node answers every request with this.
pub(super) async fn answers(answer: impl Fn() -> Response<Body> + Clone + Send + Sync + 'static) -> Channel {
    node_inside(Router::new().fallback(any(move || std::future::ready(answer())))).await
}
