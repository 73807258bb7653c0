use std::time::Duration;

use axum::body::Body;
use futures_util::future::join_all;
use http::{Request, Uri};
use http_body_util::{BodyExt, Limited};
use nestling_model::{VmState, path::PATH_LEVELS_MAX};
use nestling_node::{Identity, Node, VmView};

use super::{
    clean,
    problem::Problem,
    proxy::{Inside, absent},
};
use crate::v1::{ErrorBody, Tree, TreeVm};

/// How long the nodes inside machines may take: under emulation each level is slow.
pub(super) const TIME: Duration = Duration::from_secs(8);
pub(super) const TIME_MAX: Duration = Duration::from_secs(60);

/// The most that the node inside one machine may tell, in bytes and in machines.
const TOLD_BYTES_MAX: usize = 1 << 20;
const TOLD_VMS_MAX: usize = 2000;

/// This host and everything below it, as far as it answers in time. A machine that does not answer costs
/// nothing but the words that say so.
pub(super) async fn grow(node: &Node, caller: &Identity, time: Duration) -> Result<Tree, Problem> {
    let host = node.host(caller).await?;
    let vms = node.vms(caller).await?.into_iter().map(|vm| branch(node, caller, vm, time));
    Ok(Tree {
        host: host.name,
        engine: host.engine.map_or("unknown", |e| e.kind.as_str()).to_owned(),
        logical_processors: host.logical_processors,
        memory_bytes: host.memory_bytes,
        vms: join_all(vms).await,
    })
}

async fn branch(node: &Node, caller: &Identity, view: VmView, time: Duration) -> TreeVm {
    let mut inside = None;
    let mut inside_error = None;
    if view.hosts_nestling && view.vm.state == VmState::Running {
        let name = view.vm.name.as_str();
        let told = match node.channel(caller, name).await {
            Ok(channel) => ask(&channel, name, time).await,
            Err(error) => Err(error.to_string()),
        };
        match told {
            Ok(tree) => inside = Some(Box::new(tree)),
            Err(why) => inside_error = Some(why),
        }
    }
    TreeVm {
        name: view.vm.name.into(),
        state: view.vm.state.into(),
        state_reason: view.vm.state_reason,
        processor_count: view.vm.processor.count,
        cpu_usage_percent: view.cpu_usage_percent,
        memory_bytes: view.vm.memory.startup_bytes,
        addresses: view.adapters.into_iter().flat_map(|a| a.addresses).collect(),
        inside,
        inside_error,
    }
}

/// What the node inside one machine tells of itself and its own machines.
async fn ask<C: Inside>(channel: &C, vm: &str, time: Duration) -> Result<Tree, String> {
    let told = tokio::time::timeout(time, told(channel, time)).await;
    let late = || Err(format!("it did not answer within {} seconds", time.as_secs_f32()));
    let mut tree = told.unwrap_or_else(|_| late()).map_err(|why| absent(vm, &why).0.message)?;
    clean::tree(&mut tree, PATH_LEVELS_MAX - 1, &mut { TOLD_VMS_MAX });
    Ok(tree)
}

async fn told<C: Inside>(channel: &C, time: Duration) -> Result<Tree, String> {
    // Less time for those below, so that this level hears which of them was silent.
    let below_ms = (time * 3 / 4).as_millis();
    let uri: Uri = format!("http://node/v1/tree?timeout_ms={below_ms}")
        .parse()
        .map_err(|e: http::uri::InvalidUri| e.to_string())?;
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = uri;
    let answer = channel.ask(request, time).await?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), TOLD_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
    let body = body.to_bytes();
    if status.is_success() {
        return serde_json::from_slice(&body).map_err(|e| format!("its answer is no tree: {e}"));
    }
    let mut refused: ErrorBody =
        serde_json::from_slice(&body).map_err(|_| format!("its answer's status is {}", status.as_u16()))?;
    clean::error(&mut refused);
    Err(refused.message)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::{Router, routing::get};
    use http::Response;
    use serde_json::json;

    use super::{
        super::fake::{answers, node_inside},
        *,
    };

    const SOON: Duration = Duration::from_millis(500);

    fn vm(name: &str) -> serde_json::Value {
        json!({"name": name, "state": "Running", "processor_count": 1, "cpu_usage_percent": 0,
            "memory_bytes": 1, "addresses": []})
    }

    fn host(vms: &[serde_json::Value]) -> serde_json::Value {
        json!({"host": "inner", "engine": "tcg", "logical_processors": 1, "memory_bytes": 1, "vms": vms})
    }

    #[tokio::test]
    async fn a_level_below_gets_less_time() {
        let inside = Router::new().route(
            "/v1/tree",
            get(|request: Request<Body>| async move {
                assert_eq!(request.uri().query(), Some("timeout_ms=375"));
                axum::Json(host(&[vm("a\u{1b}[2J")]))
            }),
        );
        let tree = ask(&node_inside(inside).await, "L1", SOON).await.unwrap();
        assert_eq!(tree.vms[0].name, "a\u{fffd}[2J");
    }

    #[tokio::test]
    async fn a_host_of_a_million_machines_is_cut_short() {
        let many = host(&vec![vm("x"); TOLD_VMS_MAX * 2]).to_string();
        let channel = answers(move || Response::new(Body::from(many.clone()))).await;
        assert_eq!(ask(&channel, "L1", SOON).await.unwrap().vms.len(), TOLD_VMS_MAX);
    }

    #[tokio::test]
    async fn whatever_is_no_tree_is_said_to_be_none() {
        let endless = || {
            let spaces = futures_util::stream::repeat(Ok::<_, Infallible>(" ".repeat(10_000)));
            Response::new(Body::from_stream(spaces))
        };
        let told = ask(&answers(endless).await, "L1", SOON).await.unwrap_err();
        assert!(told.contains("length limit exceeded"), "{told}");

        // Deeper than any parser goes.
        let deep = r#"{"vms":["#.repeat(100_000);
        let told = ask(&answers(move || Response::new(Body::from(deep.clone()))).await, "L1", SOON).await;
        assert!(told.unwrap_err().contains("is no tree"));

        let told = ask(&node_inside(Router::new()).await, "L1", SOON).await.unwrap_err();
        assert_eq!(told, "cannot reach the node inside \"L1\": its answer's status is 404");
    }

    #[tokio::test]
    async fn a_machine_that_is_silent_costs_its_time_and_no_more() {
        let hung = node_inside(Router::new().fallback(std::future::pending::<()>)).await;
        let began = std::time::Instant::now();
        assert!(ask(&hung, "L1", SOON).await.is_err());
        assert!(began.elapsed() < SOON * 2);
    }
}
