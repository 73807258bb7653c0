//! Sessions over a socket in the port's place: good nodes, restarted ones, hung ones and hostile ones.

use std::{
    convert::Infallible,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::{UnixListener, UnixStream},
    sync::watch,
    time::timeout,
};

use super::{
    device::serve_port,
    port::Port,
    wire::{Kind, Mark, escape},
    *,
};
use crate::machine::Exit;

const SOON: Duration = Duration::from_secs(10);

struct Host {
    client: ChannelClient,
    listener: UnixListener,
    exit: watch::Sender<Option<Exit>>,
    _dir: tempfile::TempDir,
}

fn host() -> Host {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("s");
    let listener = UnixListener::bind(&socket).unwrap();
    let (exit, ended) = watch::channel(None);
    Host { client: ChannelClient::start(&socket, ended), listener, exit, _dir: dir }
}

impl Host {
    async fn port(&self) -> UnixStream {
        timeout(SOON, self.listener.accept()).await.unwrap().unwrap().0
    }

    async fn get(&self, path: &str) -> Result<Response<Incoming>, ChannelError> {
        let request = Request::get(format!("http://node{path}")).body(Full::new(Bytes::new())).unwrap();
        self.client.request(request, Duration::from_secs(2)).await
    }
}

/// A node that answers with the path that was asked for.
async fn echo(io: DuplexStream) {
    let service = service_fn(async |request: Request<Incoming>| {
        let path = request.uri().path().to_owned();
        let sent = request.into_body().collect().await.unwrap().to_bytes();
        let answer = if sent.is_empty() { Bytes::from(path) } else { sent };
        Ok::<_, Infallible>(Response::new(Full::new(answer)))
    });
    http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(io), service).await.ok();
}

fn node(stream: UnixStream) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move { serve_port(&mut Port::new(stream), &echo).await })
}

async fn text(response: Response<Incoming>) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

#[tokio::test]
async fn a_request_is_answered_from_inside() {
    let host = host();
    node(host.port().await);
    assert!(host.client.wait_up(SOON).await);
    assert_eq!(text(host.get("/v1/vms").await.unwrap()).await, "/v1/vms");
}

#[tokio::test]
async fn any_bytes_pass_marks_included() {
    let host = host();
    node(host.port().await);
    assert!(host.client.wait_up(SOON).await);
    let mut bytes = Mark::new(Kind::Hello, [0x7e; 16]).encode();
    bytes.extend((0..=255u8).cycle().take(1 << 20));
    let request = Request::put("http://node/").body(Full::new(Bytes::from(bytes.clone()))).unwrap();
    let answer = host.client.request(request, SOON).await.unwrap();
    assert_eq!(text(answer).await, bytes);
}

#[tokio::test]
async fn rubbish_of_an_older_session_is_passed_over() {
    let host = host();
    let mut stream = host.port().await;
    let mut old = Mark::new(Kind::Ack, [7; 16]).encode();
    escape(b"half an answer", &mut old);
    old.extend(&Mark::new(Kind::Ready, [0; 16]).encode()[..5]);
    stream.write_all(&old).await.unwrap();
    node(stream);
    assert!(host.client.wait_up(SOON).await);
}

#[tokio::test]
async fn a_restarted_node_is_found_at_once_on_the_same_port() {
    let host = host();
    let stream = host.port().await;
    // The port stays open at the host when the node inside dies; only READY tells.
    let (mut link, inside) = tokio::io::duplex(1 << 16);
    let (cut, is_cut) = tokio::sync::oneshot::channel::<()>();
    let first = tokio::spawn(async move { serve_port(&mut Port::new(inside), &echo).await });
    let carried = tokio::spawn(async move {
        let mut stream = stream;
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut stream, &mut link) => {}
            _ = is_cut => {}
        }
        stream
    });
    assert!(host.client.wait_up(SOON).await);
    first.abort();
    cut.send(()).unwrap();
    let mut stream = carried.await.unwrap();
    let mut state = host.client.state();
    stream.write_all(&Mark::new(Kind::Ready, [0; 16]).encode()).await.unwrap();
    node(stream);
    timeout(SOON, async {
        state.wait_for(|s| *s == ChannelState::Down).await.unwrap();
        state.wait_for(|s| *s != ChannelState::Down).await.unwrap();
    })
    .await
    .ok();
    assert!(host.client.wait_up(SOON).await);
    assert_eq!(text(host.get("/again").await.unwrap()).await, "/again");
}

#[tokio::test]
async fn a_restarted_host_ends_the_old_session() {
    let (mut outside, inside) = tokio::io::duplex(1 << 16);
    let served = std::sync::Arc::new(AtomicUsize::new(0));
    let count = served.clone();
    tokio::spawn(async move {
        let serve = move |mut io: DuplexStream| {
            count.fetch_add(1, Ordering::SeqCst);
            async move {
                let mut byte = [0];
                while io.read_exact(&mut byte).await.is_ok() {
                    io.write_all(&[byte[0] + 1]).await.unwrap();
                }
            }
        };
        serve_port(&mut Port::new(inside), &serve).await;
    });
    for n in 1..=3u8 {
        let hello = Mark::new(Kind::Hello, [n; 16]);
        outside.write_all(&hello.encode()).await.unwrap();
        outside.write_all(b"a").await.unwrap();
        let mut expected = Mark::new(Kind::Ack, [n; 16]).encode();
        expected.push(b'b');
        let mut found = vec![0; expected.len()];
        timeout(SOON, outside.read_exact(&mut found)).await.unwrap().unwrap();
        assert_eq!(found, expected);
        // A host that dies in the middle of an escape.
        outside.write_all(&[0x7d]).await.unwrap();
    }
    assert_eq!(served.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn the_port_is_opened_again_when_qemu_closes_it() {
    let host = host();
    let task = node(host.port().await);
    assert!(host.client.wait_up(SOON).await);
    task.abort();
    node(host.port().await);
    assert!(host.client.wait_up(SOON).await);
    let mut state = host.client.state();
    host.exit.send(Some(Exit::unknown())).unwrap();
    timeout(SOON, state.wait_for(|s| *s == ChannelState::Down)).await.unwrap().unwrap();
    assert_eq!(host.get("/").await.unwrap_err(), ChannelError::Down);
}

/// Answers the HELLO and hands the port over to whatever harm comes next.
async fn acknowledge(stream: UnixStream) -> UnixStream {
    let mut port = Port::new(stream);
    let hello = port.mark().await.unwrap();
    port.send(&Mark::new(Kind::Ack, hello.nonce)).await.unwrap();
    port.into_inner()
}

#[tokio::test]
async fn a_node_that_says_nothing_costs_only_the_time_of_the_request() {
    let host = host();
    let _stream = acknowledge(host.port().await).await;
    assert!(host.client.wait_up(SOON).await);
    let started = std::time::Instant::now();
    let refused = host.get("/").await.unwrap_err();
    assert!(matches!(refused, ChannelError::Timeout { .. }), "{refused}");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn a_hung_node_is_noticed_without_a_request() {
    let host = host();
    let _stream = acknowledge(host.port().await).await;
    assert!(host.client.wait_up(SOON).await);
    let mut state = host.client.state();
    let down = state.wait_for(|s| *s == ChannelState::Down);
    timeout(Duration::from_secs(60), down).await.unwrap().unwrap();
}

#[tokio::test]
async fn garbage_in_place_of_http_ends_the_session_and_nothing_else() {
    let host = host();
    let mut stream = acknowledge(host.port().await).await;
    assert!(host.client.wait_up(SOON).await);
    let mut state = host.client.state();
    let flood: Vec<u8> = (0..200_000u32).map(|n| (n % 113) as u8).collect();
    stream.write_all(&flood).await.ok();
    timeout(SOON, state.wait_for(|s| *s == ChannelState::Down)).await.unwrap().unwrap();
    node(host.port().await);
    assert!(host.client.wait_up(SOON).await);
}

#[tokio::test]
async fn endless_headers_and_huge_frames_are_refused() {
    let settings = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    // A HEADERS frame without END_HEADERS, followed by CONTINUATIONs without end.
    let mut endless = settings.to_vec();
    endless.extend([0, 0x40, 0, 1, 0, 0, 0, 0, 1]);
    endless.extend([0u8; 0x4000]);
    for _ in 0..200 {
        endless.extend([0, 0x40, 0, 9, 0, 0, 0, 0, 1]);
        endless.extend([0u8; 0x4000]);
    }
    let mut huge = settings.to_vec();
    huge.extend([0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]);
    huge.extend([0u8; 100_000]);
    for attack in [endless, huge] {
        let host = host();
        let mut stream = acknowledge(host.port().await).await;
        assert!(host.client.wait_up(SOON).await);
        let attacked = async {
            let mut wire = Vec::new();
            escape(&attack, &mut wire);
            stream.write_all(&wire).await.ok();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = attacked => {}
            answer = host.get("/") => assert!(answer.is_err()),
        }
    }
}

#[tokio::test]
async fn a_body_that_nobody_reads_is_not_stored() {
    let host = host();
    let stream = host.port().await;
    let sent = std::sync::Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    tokio::spawn(async move {
        let serve = |io: DuplexStream| {
            let counted = counted.clone();
            async move {
                let service = service_fn(move |_: Request<Incoming>| {
                    let counted = counted.clone();
                    let endless = futures_util::stream::repeat_with(move || {
                        counted.fetch_add(4096, Ordering::SeqCst);
                        Ok::<_, Infallible>(http_body::Frame::data(Bytes::from_static(&[0; 4096])))
                    });
                    std::future::ready(Ok::<_, Infallible>(Response::new(StreamBody::new(endless))))
                });
                let http = http2::Builder::new(TokioExecutor::new());
                http.serve_connection(TokioIo::new(io), service).await.ok();
            }
        };
        serve_port(&mut Port::new(stream), &serve).await;
    });
    assert!(host.client.wait_up(SOON).await);
    let mut body = host.get("/").await.unwrap().into_body();
    body.frame().await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(sent.load(Ordering::SeqCst) < 4 << 20, "{}", sent.load(Ordering::SeqCst));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_served_through_hang_ups_without_spinning() {
    // A pseudo-terminal hangs up as a port does when its host goes away.
    use rustix::{pty, termios};
    let outer = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY).unwrap();
    pty::grantpt(&outer).unwrap();
    pty::unlockpt(&outer).unwrap();
    let path = pty::ptsname(&outer, Vec::new()).unwrap().into_string().unwrap();
    let mut attributes = termios::tcgetattr(&outer).unwrap();
    attributes.make_raw();
    termios::tcsetattr(&outer, termios::OptionalActions::Now, &attributes).unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn({
        let stop = stop.clone();
        async move { serve_device(std::path::Path::new(&path), stop, echo).await }
    });
    let exchange = tokio::task::spawn_blocking(move || {
        let mut expected = Mark::new(Kind::Ready, [0; 16]).encode();
        expected.extend(Mark::new(Kind::Ack, [3; 16]).encode());
        rustix::io::write(&outer, &Mark::new(Kind::Hello, [3; 16]).encode()).unwrap();
        let mut found = Vec::new();
        while found.len() < expected.len() {
            let mut bytes = [0; 64];
            let n = rustix::io::read(&outer, &mut bytes).unwrap();
            found.extend_from_slice(&bytes[..n]);
        }
        assert_eq!(found[..expected.len()], expected);
    });
    timeout(SOON, exchange).await.unwrap().unwrap();
    stop.cancel();
    timeout(SOON, serving).await.unwrap().unwrap();
}
