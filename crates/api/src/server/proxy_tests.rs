//! Machines whose inside tries to harm the host that asks.

use std::{convert::Infallible, sync::Arc};

use axum::{
    Router,
    extract::State,
    routing::{any, get},
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tower::ServiceExt;

use super::{
    super::fake::{Channel, answers, channel, node_inside},
    *,
};
use crate::limits::{self, BODY_BYTES_MAX};

/// The time that calls get here: a hostile machine must use it up in some tests.
const SOON: Duration = Duration::from_secs(2);

async fn ask(channel: &Channel, method: Method, rest: &str) -> Result<Response<Body>, Problem> {
    let request = Request::builder().method(method).uri("/v1/in/L1/x").body(Body::empty()).unwrap();
    let limits = CallLimits { head_timeout: SOON, ..limits::of(request.method(), rest) };
    forward(channel, "L1", rest, request, limits).await
}

async fn refused(channel: &Channel, rest: &str) -> ErrorBody {
    match ask(channel, Method::GET, rest).await {
        Err(problem) => problem.0,
        Ok(answer) => {
            assert!(!answer.status().is_success(), "{}", answer.status());
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            serde_json::from_slice(&body).unwrap()
        }
    }
}

/// The most memory that this process has had at once, in bytes.
fn peak_memory_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() << 10
}

#[tokio::test]
async fn a_good_answer_passes_unchanged() {
    let inside = Router::new().route(
        "/v1/in/L2/vms/a%20b",
        any(|request: Request<Body>| async move {
            assert!(request.headers().get("cookie").is_none());
            let query = request.uri().query().unwrap().to_owned();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            axum::Json(json!({"query": query, "body": body.len()}))
        }),
    );
    let channel = node_inside(inside).await;
    let request = Request::builder()
        .method(Method::PATCH)
        .uri("/v1/in/L1/x?disks=true")
        .header("cookie", "secret")
        .body(Body::from(vec![1; 100_000]))
        .unwrap();
    let limits = limits::of(&Method::PATCH, "vms/a");
    let answer = forward(&channel, "L1", "in/L2/vms/a%20b", request, limits).await.unwrap();
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/json");
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body, json!({"query": "disks=true", "body": 100_000}));
}

#[tokio::test]
async fn more_levels_than_a_path_has_are_refused_here() {
    let channel = answers(|| Response::new(Body::from("[]"))).await;
    let deep = "in/a/".repeat(PATH_LEVELS_MAX) + "vms";
    assert_eq!(refused(&channel, &deep).await.code, ErrorCode::Invalid);
    assert!(ask(&channel, Method::GET, &deep["in/a/".len()..]).await.is_ok());
}

#[tokio::test]
async fn garbage_is_an_absent_node() {
    let channel = channel(async |mut io| {
        for byte in 0..200_000_u32 {
            if io.write_all(&byte.to_le_bytes()).await.is_err() {
                return;
            }
        }
    })
    .await;
    let error = refused(&channel, "vms").await;
    assert_eq!((error.code, error.object.as_deref()), (ErrorCode::GuestAbsent, Some("L1")));
}

#[tokio::test]
async fn a_node_that_never_answers_is_given_up() {
    let channel = channel(async |mut io| {
        let mut sink = vec![0; 4096];
        // HTTP/2's own beginning, then silence.
        io.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        while io.read(&mut sink).await.is_ok_and(|n| n > 0) {}
    })
    .await;
    let began = Instant::now();
    let error = refused(&channel, "vms").await;
    assert_eq!(error.code, ErrorCode::GuestAbsent);
    assert!(error.hint.is_some());
    assert!(began.elapsed() < SOON + Duration::from_secs(1));
}

#[tokio::test]
async fn an_answer_that_drips_is_cut_off() {
    let drip = || {
        let drops = stream::repeat(Bytes::from_static(b" ")).then(async |drop| {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok::<_, Infallible>(drop)
        });
        Response::new(Body::from_stream(drops))
    };
    let channel = answers(drip).await;
    let body = ask(&channel, Method::GET, "vms").await.unwrap().into_body();
    let began = Instant::now();
    assert!(body.collect().await.unwrap_err().to_string().contains("took too long"));
    assert!(began.elapsed() <= SOON + Duration::from_secs(1));
    // A refusal that drips is no better.
    let channel = answers(move || {
        let mut answer = drip();
        *answer.status_mut() = StatusCode::CONFLICT;
        answer
    })
    .await;
    assert_eq!(refused(&channel, "vms").await.code, ErrorCode::GuestAbsent);
}

#[tokio::test]
async fn endless_answers_are_cut_off_and_cost_no_memory() {
    let flood = || {
        Response::new(Body::from_stream(stream::repeat(Ok::<_, Infallible>(Bytes::from_static(
            &[b' '; 16384],
        )))))
    };
    let channel = Arc::new(answers(flood).await);
    let before = peak_memory_bytes();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let channel = channel.clone();
        asking.spawn(async move {
            let mut body = ask(&channel, Method::GET, "vms").await.unwrap().into_body().into_data_stream();
            let mut read = 0;
            while let Some(Ok(bytes)) = body.next().await {
                read += bytes.len();
            }
            read
        });
    }
    for read in asking.join_all().await {
        assert!(read <= BODY_BYTES_MAX, "{read}");
    }
    let grown = peak_memory_bytes() - before;
    assert!(grown < 16 << 20, "{grown} bytes");
}

#[tokio::test]
async fn a_console_that_floods_waits_for_its_reader() {
    let flood = || {
        Response::new(Body::from_stream(stream::repeat(Ok::<_, Infallible>(Bytes::from_static(
            &[b'x'; 16384],
        )))))
    };
    let channel = answers(flood).await;
    let body = ask(&channel, Method::POST, "vms/a/console").await.unwrap().into_body();
    let before = peak_memory_bytes();
    let mut body = body.into_data_stream();
    let mut read = 0;
    while read < 4 * BODY_BYTES_MAX {
        read += body.next().await.unwrap().unwrap().len();
    }
    // Nobody reads now; others are served meanwhile.
    for _ in 0..50 {
        ask(&channel, Method::GET, "vms").await.unwrap();
    }
    assert!(peak_memory_bytes() - before < 16 << 20);
}

#[tokio::test]
async fn heads_are_bounded_and_made_plain() {
    let channel = answers(|| {
        let mut answer = Response::new(Body::from("[]"));
        for i in 0..2000 {
            let name = http::HeaderName::from_bytes(format!("x-{i}").as_bytes()).unwrap();
            answer
                .headers_mut()
                .insert(name, HeaderValue::from_static("0123456789012345678901234567890123456789"));
        }
        answer
    })
    .await;
    assert_eq!(refused(&channel, "vms").await.code, ErrorCode::GuestAbsent);

    let channel = answers(|| {
        Response::builder()
            .header(CONTENT_TYPE, "text/html")
            .header("set-cookie", "a=b")
            .body(Body::from("[]"))
            .unwrap()
    })
    .await;
    let answer = ask(&channel, Method::GET, "vms").await.unwrap();
    assert_eq!(answer.headers().len(), 1);
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/octet-stream");

    for status in [206, 302] {
        let channel = answers(move || Response::builder().status(status).body(Body::empty()).unwrap()).await;
        let error = refused(&channel, "vms").await;
        assert_eq!(error.code, ErrorCode::Failed);
        assert!(error.message.contains(&status.to_string()), "{}", error.message);
    }
}

#[tokio::test]
async fn refusals_are_cleaned() {
    let says = json!({"code": "in-use", "message": "\u{1b}[2J", "object": "x".repeat(10_000)}).to_string();
    let channel = answers(move || {
        // The status is the machine's, too: the code decides.
        Response::builder().status(599).body(Body::from(says.clone())).unwrap()
    })
    .await;
    let answer = ask(&channel, Method::GET, "vms").await.unwrap();
    assert_eq!(answer.status(), StatusCode::CONFLICT);
    let error = refused(&channel, "vms").await;
    assert_eq!(error.message, "\u{fffd}[2J");
    assert!(error.object.unwrap().len() <= 100);

    let channel =
        answers(|| Response::builder().status(500).body(Body::from(vec![b'['; 1 << 20])).unwrap()).await;
    assert_eq!(refused(&channel, "vms").await.code, ErrorCode::Failed);
}

#[tokio::test]
async fn ten_thousand_calls_into_a_hung_machine_leave_the_host_alone() {
    let hung = Arc::new(node_inside(Router::new().fallback(any(std::future::pending::<()>))).await);
    let own = Router::new()
        .route("/v1/node", get(|| std::future::ready("mine")))
        .route(
            "/v1/in/L1/vms",
            get(|State(hung): State<Arc<Channel>>| async move { ask(&hung, Method::GET, "vms").await }),
        )
        .with_state(hung);
    let before = peak_memory_bytes();
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..10_000 {
        let own = own.clone();
        calls.spawn(
            async move { own.oneshot(Request::get("/v1/in/L1/vms").body(Body::empty()).unwrap()).await },
        );
    }
    for _ in 0..100 {
        let asked = own.clone().oneshot(Request::get("/v1/node").body(Body::empty()).unwrap());
        let answer = tokio::time::timeout(Duration::from_secs(1), asked).await.unwrap().unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        tokio::task::yield_now().await;
    }
    assert!(calls.try_join_next().is_none(), "the calls into the machine should hang");
    let grown = peak_memory_bytes() - before;
    assert!(grown < 200 << 20, "{grown} bytes");
    calls.shutdown().await;
}
