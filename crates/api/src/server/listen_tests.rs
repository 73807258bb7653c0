use axum::{body::Body, routing::get};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinHandle,
};

use super::*;

struct Served {
    home: tempfile::TempDir,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl Served {
    fn start(router: Router) -> Self {
        let home = tempfile::tempdir().unwrap();
        let listener = Listener::bind(home.path().join("api.sock")).unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(listener.serve(router, stop.clone()));
        Self { home, stop, serving }
    }

    async fn connect(&self) -> io::Result<UnixStream> {
        UnixStream::connect(self.home.path().join("api.sock")).await
    }

    /// Says something in plain HTTP/1 and takes all that comes back.
    async fn say(&self, words: &str) -> String {
        let mut stream = self.connect().await.unwrap();
        let mut answer = Vec::new();
        // One that is refused in the middle may find the connection reset behind the answer.
        stream.write_all(words.as_bytes()).await.ok();
        stream.read_to_end(&mut answer).await.ok();
        String::from_utf8(answer).unwrap()
    }
}

fn who() -> Router {
    Router::new().route(
        "/who",
        get(|axum::Extension(caller): axum::Extension<Identity>| async move { caller.to_string() }),
    )
}

#[tokio::test]
async fn the_kernel_says_who_asks() {
    let served = Served::start(who());
    let answer = served.say("GET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    let uid = rustix::process::getuid().as_raw();
    assert!(answer.ends_with(&format!("user {uid}")), "{answer}");
}

#[tokio::test]
async fn anybody_may_knock() {
    let served = Served::start(who());
    let mode = std::fs::metadata(served.home.path().join("api.sock")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o666);
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced() {
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(Listener::bind(socket).is_ok());
}

#[tokio::test]
async fn heads_are_bounded() {
    let served = Served::start(who());
    let head = format!("GET /who HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "x".repeat(100_000));
    assert!(served.say(&head).await.starts_with("HTTP/1.1 431"), "too large a head");
    assert!(served.say("\0\0\0\0\r\n\r\n").await.starts_with("HTTP/1.1 400"), "no HTTP at all");
}

#[tokio::test]
async fn a_stop_ends_what_waits_and_lets_calls_end() {
    let (began, mut begun) = tokio::sync::mpsc::channel(1);
    let release = Arc::new(tokio::sync::Notify::new());
    let router = Router::new().route("/slow", {
        let release = release.clone();
        get(async move || {
            began.send(()).await.ok();
            release.notified().await;
            "done"
        })
    });
    let served = Served::start(router);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        TokioExecutor::new(),
        TokioIo::new(served.connect().await.unwrap()),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let call =
        tokio::spawn(sender.send_request(Request::get("http://node/slow").body(Body::empty()).unwrap()));
    begun.recv().await.unwrap();
    served.stop.cancel();
    while served.connect().await.is_ok() {
        tokio::task::yield_now().await;
    }
    release.notify_one();
    let answer = call.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(&answer[..], b"done");
    tokio::time::timeout(GRACE / 2, served.serving).await.unwrap().unwrap();
}

#[test]
fn one_user_cannot_take_all_connections() {
    let users = Users::default();
    let held: Vec<_> = (0..CONNECTIONS_PER_USER).map(|_| users.place(1000).unwrap()).collect();
    assert!(users.place(1000).is_none());
    assert!(users.place(0).is_some());
    drop(held);
    assert!(users.place(1000).is_some());
}
