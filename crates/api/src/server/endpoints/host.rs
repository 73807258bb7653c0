use axum::{Extension, Json, extract::State};
use http::StatusCode;
use nestling_node::Node;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Answer, App, Caller, Created, Done, OpenApiRouter, created, list, routes};
use crate::{
    convert::ipv4,
    server::input::{Asked, At, Input},
    v1,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(node))
        .routes(routes!(stop_node))
        .routes(routes!(host))
        .routes(routes!(requirements))
        .routes(routes!(host_adapters))
        .routes(routes!(host_addresses, add_address, remove_address))
        .routes(routes!(features))
        .routes(routes!(install_feature))
}

/// This node
#[utoipa::path(get, path = "/v1/node", tag = "host", responses((status = 200, description = "The node", body = v1::Node)))]
async fn node(State(node): State<Node>, Extension(caller): Caller) -> Answer<v1::Node> {
    Ok(Json(node.info(&caller).await?.into()))
}

/// End this node; its machines go on
#[utoipa::path(post, path = "/v1/node/stop", tag = "host", responses((status = 204, description = "It ends")))]
async fn stop_node(State(node): State<Node>, Extension(caller): Caller) -> Done {
    node.stop(&caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The host
#[utoipa::path(get, path = "/v1/host", tag = "host", responses((status = 200, description = "The host", body = v1::Host)))]
async fn host(State(node): State<Node>, Extension(caller): Caller) -> Answer<v1::Host> {
    Ok(Json(node.host(&caller).await?.into()))
}

/// What doctor finds
#[utoipa::path(get, path = "/v1/host/requirements", tag = "host",
    responses((status = 200, description = "Each requirement", body = Vec<v1::Requirement>)))]
async fn requirements(State(node): State<Node>, Extension(caller): Caller) -> Answer<Vec<v1::Requirement>> {
    list(node.requirements(&caller).await?)
}

/// The host's network adapters
#[utoipa::path(get, path = "/v1/host/adapters", tag = "host",
    responses((status = 200, description = "All adapters", body = Vec<v1::HostAdapter>)))]
async fn host_adapters(State(node): State<Node>, Extension(caller): Caller) -> Answer<Vec<v1::HostAdapter>> {
    list(node.host_adapters(&caller).await?)
}

/// The host's addresses
#[utoipa::path(get, path = "/v1/host/addresses", tag = "host",
    responses((status = 200, description = "All addresses", body = Vec<v1::HostAddress>)))]
async fn host_addresses(State(node): State<Node>, Extension(caller): Caller) -> Answer<Vec<v1::HostAddress>> {
    list(node.host_addresses(&caller).await?)
}

/// Give a switch's host interface an address
#[utoipa::path(post, path = "/v1/host/addresses", tag = "host", request_body = v1::NewAddress,
    responses((status = 201, description = "The address", body = v1::HostAddress)))]
async fn add_address(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewAddress>,
) -> Created<v1::HostAddress> {
    created(node.add_address(&caller, new.try_into()?).await?)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Address {
    address: String,
}

/// Take an address away that this node gave
#[utoipa::path(delete, path = "/v1/host/addresses", tag = "host", params(Address),
    responses((status = 204, description = "It is gone")))]
async fn remove_address(
    State(node): State<Node>,
    Extension(caller): Caller,
    Asked(asked): Asked<Address>,
) -> Done {
    node.remove_address(&caller, ipv4(&asked.address)?).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The roles that this host can have
#[utoipa::path(get, path = "/v1/host/features", tag = "host",
    responses((status = 200, description = "All roles", body = Vec<v1::Feature>)))]
async fn features(State(node): State<Node>, Extension(caller): Caller) -> Answer<Vec<v1::Feature>> {
    list(node.features(&caller).await?)
}

/// Give this host a role
#[utoipa::path(post, path = "/v1/host/features/{name}", tag = "host", params(("name" = String, Path)),
    responses((status = 200, description = "What was done", body = v1::FeatureInstalled)))]
async fn install_feature(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(name): At<String>,
) -> Answer<v1::FeatureInstalled> {
    Ok(Json(node.install_feature(&caller, &name).await?.into()))
}
