//! A guest's serial console, for any number of viewers.
//!
//! One task holds the connection to QEMU, keeps the last of what the guest wrote, and hands out what comes. A viewer that
//! is too slow loses output; it must never hold up the guest or the other viewers.

use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{broadcast, mpsc, watch},
    time::timeout,
};

use crate::machine::Exit;

/// How much of the past a new viewer gets.
const RECENT_BYTES: usize = 64 << 10;
const READ_BYTES: usize = 4096;
/// Chunks that a slow viewer may lag behind.
const LAG: usize = 256;
/// Chunks of input that a guest may leave unread.
const INPUT: usize = 64;
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const RECONNECT_DELAY: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConsoleError {
    #[error("the virtual machine has ended, and its console with it")]
    Ended,
    #[error("the guest does not read its console")]
    Unread,
}

/// The console of one machine. Clones share it.
#[derive(Debug, Clone)]
pub struct Console(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    output: Mutex<Output>,
    input: mpsc::Sender<Bytes>,
}

#[derive(Debug)]
struct Output {
    recent: VecDeque<u8>,
    /// Gone once the machine has ended, which ends the viewers.
    live: Option<broadcast::Sender<Bytes>>,
}

/// One viewer.
#[derive(Debug)]
pub struct ConsoleView {
    /// The last of what the guest wrote before; what [`ConsoleView::next`] gives follows it without a gap.
    pub recent: Bytes,
    live: Option<broadcast::Receiver<Bytes>>,
}

impl Console {
    /// Connects, so that nothing is missed of what the guest writes from now on.
    pub(crate) async fn start(socket: &Path, exit: watch::Receiver<Option<Exit>>) -> Self {
        let (input, keys) = mpsc::channel(INPUT);
        let live = Some(broadcast::Sender::new(LAG));
        let console =
            Self(Arc::new(Shared { output: Mutex::new(Output { recent: VecDeque::new(), live }), input }));
        let first = timeout(CONNECT_TIMEOUT, UnixStream::connect(socket)).await.ok().and_then(Result::ok);
        tokio::spawn(run(console.0.clone(), socket.to_owned(), first, keys, exit));
        console
    }

    pub fn attach(&self) -> ConsoleView {
        let output = self.0.output();
        let (front, back) = output.recent.as_slices();
        let recent = Bytes::from([front, back].concat());
        ConsoleView { recent, live: output.live.as_ref().map(broadcast::Sender::subscribe) }
    }

    /// Types into the guest's console.
    pub async fn write(&self, keys: &[u8]) -> Result<(), ConsoleError> {
        for chunk in keys.chunks(READ_BYTES) {
            match timeout(WRITE_TIMEOUT, self.0.input.send(Bytes::copy_from_slice(chunk))).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(ConsoleError::Ended),
                Err(_) => return Err(ConsoleError::Unread),
            }
        }
        Ok(())
    }
}

impl ConsoleView {
    /// What the guest wrote next; `None` when its machine has ended.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            match self.live.as_mut()?.recv().await {
                Ok(bytes) => return Some(bytes),
                Err(broadcast::error::RecvError::Lagged(chunks)) => {
                    tracing::debug!(chunks, "a console viewer is too slow and misses output");
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl Shared {
    fn output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, bytes: Bytes) {
        let mut output = self.output();
        output.recent.extend(&bytes);
        let excess = output.recent.len().saturating_sub(RECENT_BYTES);
        output.recent.drain(..excess);
        if let Some(live) = &output.live {
            live.send(bytes).ok();
        }
    }
}

async fn run(
    shared: Arc<Shared>,
    socket: PathBuf,
    mut stream: Option<UnixStream>,
    mut keys: mpsc::Receiver<Bytes>,
    mut exit: watch::Receiver<Option<Exit>>,
) {
    loop {
        match stream.take() {
            // A machine's last words are read to the end: its end closes the connection.
            Some(stream) => carry(&shared, stream, &mut keys).await,
            None => {
                let ended = exit.wait_for(Option::is_some);
                if timeout(RECONNECT_DELAY, ended).await.is_ok() {
                    break;
                }
            }
        }
        stream = UnixStream::connect(&socket).await.ok();
    }
    shared.output().live = None;
}

/// Until the connection ends.
async fn carry(shared: &Shared, mut stream: UnixStream, keys: &mut mpsc::Receiver<Bytes>) {
    let (mut reader, mut writer) = stream.split();
    let output = async {
        let mut buffer = [0; READ_BYTES];
        while let Ok(n @ 1..) = reader.read(&mut buffer).await {
            shared.take(Bytes::copy_from_slice(&buffer[..n]));
        }
    };
    let input = async {
        while let Some(chunk) = keys.recv().await {
            if writer.write_all(&chunk).await.is_err() {
                return;
            }
        }
        // Nobody can type any more; the output goes on.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = output => {}
        () = input => {}
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;

    struct Guest {
        _dir: tempfile::TempDir,
        listener: UnixListener,
        exit: watch::Sender<Option<Exit>>,
    }

    async fn console() -> (Console, Guest, UnixStream) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("s");
        let listener = UnixListener::bind(&socket).unwrap();
        let (exit, ended) = watch::channel(None);
        let console = Console::start(&socket, ended).await;
        let (stream, _) = listener.accept().await.unwrap();
        (console, Guest { _dir: dir, listener, exit }, stream)
    }

    async fn collect(view: &mut ConsoleView, bytes: usize) -> Vec<u8> {
        let mut found = view.recent.to_vec();
        while found.len() < bytes {
            found.extend(timeout(Duration::from_secs(5), view.next()).await.unwrap().unwrap());
        }
        found
    }

    #[tokio::test]
    async fn a_viewer_sees_the_past_and_what_follows_without_a_gap() {
        let (console, _guest, mut stream) = console().await;
        let mut first = console.attach();
        stream.write_all(b"boot ").await.unwrap();
        assert_eq!(collect(&mut first, 5).await, b"boot ");
        let mut second = console.attach();
        stream.write_all(b"login:").await.unwrap();
        assert_eq!(collect(&mut second, 11).await, b"boot login:");
        console.write(b"root\n").await.unwrap();
        let mut keys = [0; 5];
        stream.read_exact(&mut keys).await.unwrap();
        assert_eq!(&keys, b"root\n");
    }

    #[tokio::test]
    async fn a_slow_viewer_holds_up_nobody_and_the_past_is_bounded() {
        let (console, _guest, mut stream) = console().await;
        let slow = console.attach();
        timeout(Duration::from_secs(10), async {
            for _ in 0..1000 {
                stream.write_all(&[b'x'; 4096]).await.unwrap();
            }
            stream.write_all(b"END").await.unwrap();
            while !console.attach().recent.ends_with(b"END") {
                tokio::task::yield_now().await;
            }
        })
        .await
        .unwrap();
        assert_eq!(console.attach().recent.len(), RECENT_BYTES);
        drop(slow);
    }

    #[tokio::test]
    async fn the_connection_is_made_again_until_the_machine_ends() {
        let (console, guest, stream) = console().await;
        drop(stream);
        let (mut stream, _) =
            timeout(Duration::from_secs(5), guest.listener.accept()).await.unwrap().unwrap();
        let mut view = console.attach();
        stream.write_all(b"again").await.unwrap();
        assert_eq!(collect(&mut view, 5).await, b"again");
        stream.write_all(b" and out").await.unwrap();
        guest.exit.send(Some(Exit::unknown())).unwrap();
        drop((stream, guest.listener));
        assert_eq!(collect(&mut view, 8).await, b" and out");
        assert_eq!(timeout(Duration::from_secs(5), view.next()).await.unwrap(), None);
        assert_eq!(console.write(b"x").await, Err(ConsoleError::Ended));
        assert_eq!(console.attach().recent, "again and out");
    }

    #[tokio::test]
    async fn a_guest_that_reads_nothing_is_reported() {
        let (console, _guest, _stream) = console().await;
        tokio::time::pause();
        let keys = vec![b'k'; 4 << 20];
        assert_eq!(console.write(&keys).await, Err(ConsoleError::Unread));
    }
}
