//! What leads into machines: the tree, the events, and the way to the nodes inside.

use std::time::Duration;

use axum::{Extension, Json, body::Body, extract::State, response::Response};
use futures_util::StreamExt;
use http::Request;
use nestling_node::{Identity, Node};
use serde::Deserialize;
use tokio_stream::wrappers::{BroadcastStream, errors::BroadcastStreamRecvError};
use utoipa::IntoParams;

use super::{Answer, App, Caller, OpenApiRouter, routes};
use crate::{
    limits,
    server::{
        events::{self, Insides},
        input::{Asked, At},
        lines,
        problem::Problem,
        proxy, tree,
    },
    v1,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(tree)).routes(routes!(events)).routes(routes!(within))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct TreeAsked {
    /// How long the nodes inside machines may take to answer: at most 60,000; 8,000 when absent.
    timeout_ms: Option<u32>,
}

/// All levels, from this host inwards
#[utoipa::path(get, path = "/v1/tree", tag = "levels", params(TreeAsked),
    responses((status = 200, description = "The tree", body = v1::Tree)))]
async fn tree(
    State(node): State<Node>,
    Extension(caller): Caller,
    Asked(asked): Asked<TreeAsked>,
) -> Answer<v1::Tree> {
    let time = asked.timeout_ms.map_or(tree::TIME, |ms| Duration::from_millis(ms.into()).min(tree::TIME_MAX));
    Ok(Json(tree::grow(&node, &caller, time).await?))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct EventsAsked {
    /// Whether to tell also what happens inside machines.
    #[serde(default)]
    follow_inside: bool,
}

/// What happens, from now on
#[utoipa::path(get, path = "/v1/events", tag = "levels", params(EventsAsked),
    responses((status = 200, description = "One JSON object a line, without end", body = v1::Event,
        content_type = "application/x-ndjson")))]
async fn events(
    State(app): State<App>,
    Extension(caller): Caller,
    Asked(asked): Asked<EventsAsked>,
) -> Result<Response, Problem> {
    let own = BroadcastStream::new(app.node.events(&caller)?).filter_map(|event| {
        std::future::ready(match event {
            Ok(event) => Some(v1::Event::from(event)),
            // The gap in the numbers tells the reader.
            Err(BroadcastStreamRecvError::Lagged(_)) => None,
        })
    });
    let insides = asked.follow_inside.then_some(NodeInsides { node: app.node, caller });
    Ok(lines::answer(events::body(own, insides, app.stop)))
}

struct NodeInsides {
    node: Node,
    caller: Identity,
}

impl Insides for NodeInsides {
    type Channel = nestling_node::ChannelClient;

    async fn channels(&self) -> Vec<(String, Self::Channel)> {
        let mut channels = Vec::new();
        for view in self.node.vms(&self.caller).await.unwrap_or_default() {
            let name = view.vm.name.as_str();
            if view.hosts_nestling
                && let Ok(channel) = self.node.channel(&self.caller, name).await
            {
                channels.push((name.to_owned(), channel));
            }
        }
        channels
    }
}

/// `/v1/{rest}` of the node inside a machine, with any method
#[utoipa::path(method(get, put, post, patch, delete), path = "/v1/in/{vm}/{*rest}", tag = "levels",
    params(("vm" = String, Path), ("rest" = String, Path)),
    responses((status = 200, description = "What the node inside answers")))]
async fn within(
    State(node): State<Node>,
    Extension(caller): Caller,
    At((vm, _rest)): At<(String, String)>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let channel = node.channel(&caller, &vm).await?;
    // As it was sent: what is escaped in it must reach the node inside escaped.
    let path = request.uri().path().to_owned();
    let rest = path.splitn(5, '/').nth(4).unwrap_or_default();
    let limits = limits::of(request.method(), rest);
    proxy::forward(&channel, &vm, rest, request, limits).await
}
