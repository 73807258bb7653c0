use std::{path::PathBuf, time::Duration};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::UnixStream, sync::Mutex};

use super::{ClientError, RequestBody, Result};

/// How long a node on the same host may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The most bytes of one answer that may be under way unread.
const WINDOW_BYTES: u32 = 1 << 20;

type Sender = http2::SendRequest<RequestBody>;

/// One HTTP/2 connection to a node's socket, made again when the node was restarted.
pub(super) struct Connection {
    socket: PathBuf,
    sender: Mutex<Sender>,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) async fn open(socket: PathBuf) -> Result<Self> {
        let sender = dial(&socket).await?;
        Ok(Self { socket, sender: Mutex::new(sender) })
    }

    pub(super) async fn send(&self, request: Request<RequestBody>) -> Result<Response<Incoming>> {
        let mut sender = self.sender().await?;
        sender.send_request(request).await.map_err(|e| ClientError::lost(&why(&e)))
    }

    /// A handle on the connection, which is made again if it has ended since the last call. A call that was
    /// under way when it ended is never repeated: it may have been carried out.
    async fn sender(&self) -> Result<Sender> {
        let mut sender = self.sender.lock().await;
        if sender.ready().await.is_err() {
            *sender = dial(&self.socket).await?;
        }
        Ok(sender.clone())
    }
}

async fn dial(socket: &PathBuf) -> Result<Sender> {
    let dialled = tokio::time::timeout(CONNECT_TIMEOUT, async {
        let stream = UnixStream::connect(socket).await.map_err(|e| ClientError::unreachable(socket, &e))?;
        http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(4 * WINDOW_BYTES)
            .max_header_list_size(16 << 10)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|e| ClientError::unreachable(socket, &why(&e)))
    })
    .await
    .unwrap_or_else(|_| Err(ClientError::unreachable(socket, &"it did not accept within 10 seconds")));
    let (sender, connection) = dialled?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = why(&error), "connection to the node ended");
        }
    });
    Ok(sender)
}

/// The innermost reason: hyper's outer ones only name the layer.
pub(super) fn why(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
