//! What the node asks the nodes inside its machines, over the guest channel: the same calls that anybody makes through
//! `/v1/in/...`, with the same limits.
//!
//! What comes back is bounded and made harmless on the way (`proxy`); here it is read as wire types and handed on. What it
//! means, and whether it makes sense, is the node's business.

use std::{ops::Range, sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt};
use http::{Method, Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Limited};
use nestling_model::protection::PointId;
use nestling_node::{
    ErrorKind, LOAN_READ_BYTES_MAX, LoanView, LoanWish, MACHINES_INSIDE_MAX, MachineInside, NodesInside,
    Refused, Stretches, Way,
};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{
    clean,
    problem::Problem,
    proxy::{self, Inside},
};
use crate::{
    client::segment,
    limits::{self, BODY_BYTES_MAX, LINE_BYTES_MAX},
    v1::{self, ErrorBody},
};

type Answer<T> = BoxFuture<'static, Result<T, Refused>>;

/// The way to the nodes inside machines, for the node of this program.
pub fn nodes_inside() -> Arc<dyn NodesInside> {
    Arc::new(OverChannels)
}

struct OverChannels;

fn refused(body: ErrorBody) -> Refused {
    Refused::new(body.code.into(), body.message)
}

fn strange(why: impl std::fmt::Display) -> Refused {
    let mut body = Problem::invalid(format!("the node inside gave an answer that makes no sense: {why}")).0;
    // What cannot be read is told with a piece of it.
    clean::error(&mut body);
    Refused::new(ErrorKind::Failed, body.message)
}

/// One call to a node inside, with its whole answer.
async fn call<C: Inside>(
    channel: &C,
    host: &str,
    path: &str,
    method: Method,
    body: Vec<u8>,
    bytes_max: usize,
) -> Result<Bytes, Refused> {
    let (path, query) = path.split_once('?').map_or((path, ""), |(path, query)| (path, query));
    let limits = limits::of(&method, path);
    let request = Request::builder()
        .method(method)
        .uri(format!("http://node/v1/{path}?{query}"))
        .header(CONTENT_TYPE, "application/json")
        .body(Body::from(body))
        .map_err(|e| Refused::new(ErrorKind::Invalid, e.to_string()))?;
    let answer = proxy::forward(channel, host, path, request, limits).await.map_err(|e| refused(e.0))?;
    let status = answer.status();
    let bytes_max = if status.is_success() { bytes_max } else { LINE_BYTES_MAX };
    let body = Limited::new(answer.into_body(), bytes_max).collect().await;
    // A way that breaks in the middle of an answer may be there again in a moment.
    let lost = |e: Box<dyn std::error::Error + Send + Sync>| {
        let mut body = Problem::invalid(e.to_string()).0;
        clean::error(&mut body);
        Refused::new(ErrorKind::GuestAbsent, body.message)
    };
    let body = body.map_err(lost)?.to_bytes();
    if status.is_success() {
        return Ok(body);
    }
    Err(serde_json::from_slice(&body).map_or_else(strange, refused))
}

/// Where a call goes, and what goes with it.
struct Call {
    way: Way,
    path: String,
    method: Method,
    body: Vec<u8>,
}

impl Call {
    fn get(way: &Way, path: String) -> Self {
        Self { way: way.clone(), path, method: Method::GET, body: Vec::new() }
    }

    /// A body of ours can be written.
    fn post(way: &Way, path: String, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self { way: way.clone(), path, method: Method::POST, body }
    }

    async fn bytes(self, bytes_max: usize) -> Result<Bytes, Refused> {
        let Self { way, path, method, body } = self;
        let inner = way.hosts.iter().map(|host| format!("in/{}/", segment(host.as_str())));
        let path = inner.collect::<String>() + &path;
        call(&way.channel, way.host.as_str(), &path, method, body, bytes_max).await
    }

    async fn json<T: DeserializeOwned>(self) -> Result<T, Refused> {
        let body = self.bytes(BODY_BYTES_MAX).await?;
        serde_json::from_slice(&body).map_err(strange)
    }
}

fn of_disk(loan: Uuid, disk: usize, rest: &str) -> String {
    format!("loans/{loan}/disks/{disk}/{rest}")
}

impl NodesInside for OverChannels {
    fn machines(&self, way: &Way) -> Answer<Vec<MachineInside>> {
        let call = Call::get(way, "vms".to_owned());
        async move {
            let vms: Vec<v1::Vm> = call.json().await?;
            // One that no machine can be is passed over.
            Ok(vms.into_iter().filter_map(|vm| vm.try_into().ok()).take(MACHINES_INSIDE_MAX + 1).collect())
        }
        .boxed()
    }

    fn lend(&self, way: &Way, wish: LoanWish) -> Answer<LoanView> {
        let call = Call::post(way, "loans".to_owned(), &v1::NewLoan::from(wish));
        async move { call.json().await.map(|loan: v1::Loan| loan.into()) }.boxed()
    }

    fn loan(&self, way: &Way, loan: Uuid, wait: Duration) -> Answer<LoanView> {
        let call = Call::get(way, format!("loans/{loan}?wait_ms={}", wait.as_millis()));
        async move { call.json().await.map(|loan: v1::Loan| loan.into()) }.boxed()
    }

    fn data(&self, way: &Way, loan: Uuid, disk: usize, range: Range<u64>) -> Answer<Stretches> {
        let length = range.end.saturating_sub(range.start);
        let rest = format!("data?offset={}&length={length}", range.start);
        let call = Call::get(way, of_disk(loan, disk, &rest));
        async move { call.json::<v1::DiskStretches>().await?.try_into() }.boxed()
    }

    fn changed(&self, way: &Way, loan: Uuid, disk: usize, from: u64) -> Answer<Stretches> {
        let call = Call::get(way, of_disk(loan, disk, &format!("changes?offset={from}")));
        async move { call.json::<v1::DiskStretches>().await?.try_into() }.boxed()
    }

    fn bytes(&self, way: &Way, loan: Uuid, disk: usize, range: Range<u64>) -> Answer<Bytes> {
        let length = range.end.saturating_sub(range.start);
        let rest = format!("content?offset={}&length={length}", range.start);
        let call = Call::get(way, of_disk(loan, disk, &rest));
        let bytes_max = usize::try_from(length.min(LOAN_READ_BYTES_MAX)).unwrap_or(usize::MAX);
        async move { call.bytes(bytes_max).await }.boxed()
    }

    fn confirm(&self, way: &Way, loan: Uuid) -> Answer<()> {
        let call = Call::post(way, format!("loans/{loan}/confirm"), &());
        async move { call.bytes(LINE_BYTES_MAX).await.map(drop) }.boxed()
    }

    fn give_back(&self, way: &Way, loan: Uuid, point: Option<PointId>) -> Answer<LoanView> {
        let given = v1::ReturnLoan { point: point.map(|point| point.to_string()) };
        let call = Call::post(way, format!("loans/{loan}/return"), &given);
        async move { call.json().await.map(|loan: v1::Loan| loan.into()) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        routing::{get, post},
    };
    use http::{Response, StatusCode};

    use super::{
        super::fake::{answers, node_inside},
        *,
    };

    async fn get_of(channel: &impl Inside, path: &str, bytes_max: usize) -> Result<Bytes, Refused> {
        call(channel, "L1", path, Method::GET, Vec::new(), bytes_max).await
    }

    #[tokio::test]
    async fn a_call_reaches_the_node_inside_with_its_query_and_its_body() {
        let asked = get(async |uri: http::Uri| uri.to_string());
        let sent = post(async |body: String| body);
        let channel =
            node_inside(Router::new().route("/v1/in/a%20b/vms", asked).route("/v1/loans", sent)).await;
        let answer = get_of(&channel, "in/a%20b/vms?x=1", 100).await.unwrap();
        assert!(answer.ends_with(b"/v1/in/a%20b/vms?x=1"), "{answer:?}");
        let answer = call(&channel, "L1", "loans", Method::POST, b"{}".to_vec(), 100).await.unwrap();
        assert_eq!(answer, "{}");
    }

    #[tokio::test]
    async fn what_is_too_long_is_refused_and_what_is_said_is_made_harmless() {
        let long = answers(|| Response::new(Body::from(vec![b'x'; 101]))).await;
        assert!(get_of(&long, "loans/x", 100).await.is_err());
        let rude = answers(|| {
            let body = "{\"code\":\"in-use\",\"message\":\"a\\u001b[2Jb\"}";
            Response::builder().status(StatusCode::CONFLICT).body(Body::from(body)).unwrap()
        })
        .await;
        let why = get_of(&rude, "loans/x", 100).await.unwrap_err();
        assert_eq!((why.kind, why.message.as_str()), (ErrorKind::InUse, "a\u{fffd}[2Jb"));
        let strange = answers(|| Response::builder().status(500).body(Body::from("<html>")).unwrap()).await;
        assert_eq!(get_of(&strange, "loans/x", 100).await.unwrap_err().kind, ErrorKind::Failed);
    }
}
