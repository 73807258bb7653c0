use std::{
    collections::HashMap,
    io,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use nestling_identity::Identity;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{UnixListener, UnixStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

/// Connections that one user of the host may hold at a time; one that anybody can open must not exhaust
/// the node's descriptors.
const CONNECTIONS_PER_USER: usize = 128;

/// Requests at a time on one connection.
const STREAMS_PER_CONNECTION: u32 = 128;

const HEADERS_BYTES_MAX: u32 = 16 << 10;

/// How much of one request may be under way unread, and of all on one connection.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

/// How long a caller may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// How long calls under way may still take when the node stops.
const GRACE: Duration = Duration::from_secs(5);

/// The node's socket.
pub(super) struct Listener {
    socket: PathBuf,
    listener: UnixListener,
}

impl Listener {
    /// Binds the socket. Anybody may connect: who may do what is decided for each request, so that a user
    /// without permission is told so in words.
    pub(super) fn bind(socket: PathBuf) -> io::Result<Self> {
        match std::fs::remove_file(&socket) {
            // Left by a node that was killed: this node holds the home's lock, so nobody listens there.
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixListener::bind(&socket)?;
        std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))?;
        Ok(Self { socket, listener })
    }

    /// Serves everybody who connects, until `stop`; then ends what is under way within a few seconds.
    pub(super) async fn serve(self, router: Router, stop: CancellationToken) {
        let connections = TaskTracker::new();
        let users = Users::default();
        while let Some(accepted) = stop.run_until_cancelled(self.listener.accept()).await {
            let stream = match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    // Usually descriptors ran out: calls that end give some back.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Some((uid, place)) = peer(&stream).and_then(|uid| Some((uid, users.place(uid)?))) else {
                continue;
            };
            let serving = connection(stream, Identity::Local { uid }, router.clone(), stop.clone());
            connections.spawn(async move {
                serving.await;
                drop(place);
            });
        }
        // Gone first, so that nobody waits for an answer from a node that ends.
        if let Err(error) = std::fs::remove_file(&self.socket) {
            tracing::debug!(%error, socket = %self.socket.display(), "the socket was gone already");
        }
        drop(self.listener);
        connections.close();
        if tokio::time::timeout(GRACE, connections.wait()).await.is_err() {
            tracing::info!("calls that were under way were cut off");
        }
    }
}

fn peer(stream: &UnixStream) -> Option<u32> {
    match stream.peer_cred() {
        Ok(credentials) => Some(credentials.uid()),
        Err(error) => {
            tracing::warn!(%error, "a connection whose user is unknown was refused");
            None
        }
    }
}

/// Serves HTTP/1 or HTTP/2 on one connection, all of whose requests come from `caller`.
pub(super) async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    caller: Identity,
    router: Router,
    stop: CancellationToken,
) {
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(caller);
        router.clone().oneshot(request)
    });
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_buf_size(64 << 10);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    let serving = server.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, serving).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error, "a connection ended");
    }
}

/// How many connections each user has.
#[derive(Default, Clone)]
struct Users(Arc<Mutex<HashMap<u32, usize>>>);

/// One user's right to one connection, given back when dropped.
struct Place {
    users: Users,
    uid: u32,
}

impl Users {
    fn place(&self, uid: u32) -> Option<Place> {
        let mut users = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = users.entry(uid).or_default();
        if *held >= CONNECTIONS_PER_USER {
            tracing::warn!(
                uid,
                "a user with {CONNECTIONS_PER_USER} open connections was refused another one"
            );
            return None;
        }
        *held += 1;
        Some(Place { users: self.clone(), uid })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut users = self.users.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = users.get_mut(&self.uid) {
            *held -= 1;
            if *held == 0 {
                users.remove(&self.uid);
            }
        }
    }
}

#[cfg(test)]
#[path = "listen_tests.rs"]
mod tests;
