//! The host's end: one HTTP/2 connection into a machine, kept up while the machine lives.

use std::{
    path::Path,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    net::UnixStream,
    sync::{Semaphore, watch},
    time::{sleep, timeout},
};

use super::{
    port::{Ended, Port, SESSION_BYTES},
    wire::{Kind, Mark, VERSION},
};
use crate::machine::Exit;

/// How long a HELLO may go unanswered before the connection is made anew: soon at first, for most nodes are just
/// starting; then rarely, for most guests have none.
const HELLO_FIRST: Duration = Duration::from_secs(2);
const HELLO_LAST: Duration = Duration::from_secs(30);
const CONNECT_DELAY: Duration = Duration::from_millis(250);
/// A node inside that does not answer a ping for so long hangs. Under emulation, on a busy host, seconds are normal.
const PING_INTERVAL: Duration = Duration::from_secs(5);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
const HTTP_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(20);
/// What one stream, and all streams together, may send that nobody has read yet.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// Requests that wait for an answer's head at the same time.
const REQUESTS_MAX: usize = 64;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Sender = SendRequest<UnsyncBoxBody<Bytes, BoxError>>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    #[error("no node answers inside the virtual machine")]
    Down,
    #[error("the node inside the virtual machine did not answer within {} seconds", after.as_secs())]
    Timeout { after: Duration },
    #[error("the connection to the node inside the virtual machine broke: {why}")]
    Broken { why: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelState {
    Down,
    Up { since: Instant },
}

/// The way into one machine. Clones share it.
#[derive(Debug, Clone)]
pub struct ChannelClient(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: watch::Sender<ChannelState>,
    sender: Mutex<Option<Sender>>,
    requests: Semaphore,
}

impl ChannelClient {
    /// Connects, and again whenever it must, until the machine ends.
    pub(crate) fn start(socket: &Path, mut exit: watch::Receiver<Option<Exit>>) -> Self {
        let shared = Arc::new(Shared {
            state: watch::Sender::new(ChannelState::Down),
            sender: Mutex::new(None),
            requests: Semaphore::new(REQUESTS_MAX),
        });
        let (client, socket) = (Self(shared.clone()), socket.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                () = keep_up(&shared, socket) => {}
                _ = exit.wait_for(Option::is_some) => {}
            }
            shared.down();
        });
        client
    }

    /// Changes as nodes inside come and go.
    pub fn state(&self) -> watch::Receiver<ChannelState> {
        self.0.state.subscribe()
    }

    pub fn is_up(&self) -> bool {
        *self.0.state.borrow() != ChannelState::Down
    }

    /// Waits for a node inside to answer; false if none does in time.
    pub async fn wait_up(&self, after: Duration) -> bool {
        let mut state = self.state();
        timeout(after, state.wait_for(|s| *s != ChannelState::Down)).await.is_ok_and(|found| found.is_ok())
    }

    /// Sends a request and waits for the head of its answer. The body comes as fast as it is read.
    pub async fn request<B>(
        &self,
        request: Request<B>,
        head_timeout: Duration,
    ) -> Result<Response<Incoming>, ChannelError>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let answered = async {
            let _permit = self.0.requests.acquire().await.map_err(|_| ChannelError::Down)?;
            let mut sender = self.0.sender().clone().ok_or(ChannelError::Down)?;
            sender.ready().await.map_err(|e| broken(&e))?;
            sender.send_request(request).await.map_err(|e| broken(&e))
        };
        timeout(head_timeout, answered).await.unwrap_or(Err(ChannelError::Timeout { after: head_timeout }))
    }
}

impl Shared {
    fn sender(&self) -> MutexGuard<'_, Option<Sender>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn up(&self, sender: Sender) {
        *self.sender() = Some(sender);
        self.state.send_replace(ChannelState::Up { since: Instant::now() });
    }

    fn down(&self) {
        *self.sender() = None;
        self.state.send_if_modified(|state| {
            let was = *state;
            *state = ChannelState::Down;
            was != ChannelState::Down
        });
    }
}

async fn keep_up(shared: &Shared, socket: PathBuf) {
    let mut patience = HELLO_FIRST;
    loop {
        let Ok(stream) = UnixStream::connect(&socket).await else {
            sleep(CONNECT_DELAY).await;
            continue;
        };
        let mut port = Port::new(stream);
        // A new connection, and not a second HELLO on the old one: those that no guest reads would pile up.
        let Ok(Some(())) = timeout(patience, begin(&mut port)).await else {
            patience = (patience * 2).min(HELLO_LAST);
            continue;
        };
        loop {
            patience = HELLO_FIRST;
            let ended = serve(shared, &mut port).await;
            shared.down();
            tracing::debug!(?ended, "the guest channel is down");
            let begun = match ended {
                // A new node inside: ask it at once.
                Ended::Mark(mark) if mark.kind == Kind::Ready => timeout(patience, begin(&mut port)).await,
                _ => break,
            };
            if !matches!(begun, Ok(Some(()))) {
                break;
            }
        }
        // Against a guest that acknowledges and drops without end.
        sleep(CONNECT_DELAY).await;
    }
}

/// Begins a session; `None` when the port is gone.
async fn begin(port: &mut Port<UnixStream>) -> Option<()> {
    let mut hello = Mark::new(Kind::Hello, uuid::Uuid::new_v4().into_bytes());
    port.send(&hello).await.ok()?;
    // As many as a node that is restarted again and again needs; a hostile guest gets no more out of it.
    let mut hellos = 16;
    loop {
        let mark = port.mark().await.ok()?;
        match mark.kind {
            Kind::Ack if mark.nonce == hello.nonce && mark.version == VERSION => return Some(()),
            Kind::Ack if mark.nonce == hello.nonce => {
                tracing::warn!(
                    version = mark.version,
                    "the node inside speaks another version of the channel"
                );
                return None;
            }
            Kind::Ready if hellos > 0 => {
                hellos -= 1;
                hello.nonce = uuid::Uuid::new_v4().into_bytes();
                port.send(&hello).await.ok()?;
            }
            _ => {}
        }
    }
}

/// One session, to its end.
async fn serve(shared: &Shared, port: &mut Port<UnixStream>) -> Ended {
    let (ours, theirs) = tokio::io::duplex(SESSION_BYTES);
    let local = async {
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .max_concurrent_reset_streams(REQUESTS_MAX)
            .max_send_buf_size(STREAM_WINDOW_BYTES as usize)
            .handshake(TokioIo::new(ours));
        match timeout(HTTP_HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok((sender, connection))) => {
                shared.up(sender);
                if let Err(error) = connection.await {
                    tracing::debug!(%error, "the connection into the machine ended");
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "no connection into the machine"),
            Err(_) => {}
        }
    };
    port.carry(theirs, local).await
}

/// The innermost reason: the outer ones only name the layer.
fn broken(error: &hyper::Error) -> ChannelError {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    // Some of it may be the guest's words.
    let why = innermost.to_string().chars().filter(|c| !c.is_control()).take(200).collect();
    ChannelError::Broken { why }
}
