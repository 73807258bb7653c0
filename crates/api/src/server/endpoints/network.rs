use axum::{Extension, Json, extract::State};
use http::StatusCode;
use nestling_node::Node;

use super::{Answer, App, Caller, Created, Done, OpenApiRouter, created, list, routes};
use crate::{
    server::input::{At, Input},
    v1,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(switches, create_switch))
        .routes(routes!(switch, change_switch, remove_switch))
        .routes(routes!(nats, create_nat))
        .routes(routes!(nat, change_nat, remove_nat))
        .routes(routes!(add_mapping))
        .routes(routes!(remove_mapping))
}

/// All switches
#[utoipa::path(get, path = "/v1/switches", tag = "network",
    responses((status = 200, description = "All switches", body = Vec<v1::Switch>)))]
async fn switches(State(node): State<Node>, Extension(caller): Caller) -> Answer<Vec<v1::Switch>> {
    list(node.switches(&caller).await?)
}

/// Create a switch
#[utoipa::path(post, path = "/v1/switches", tag = "network", request_body = v1::NewSwitch,
    responses((status = 201, description = "The switch", body = v1::Switch)))]
async fn create_switch(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewSwitch>,
) -> Created<v1::Switch> {
    created(node.create_switch(&caller, new.try_into()?).await?)
}

/// One switch
#[utoipa::path(get, path = "/v1/switches/{switch}", tag = "network", params(("switch" = String, Path)),
    responses((status = 200, description = "The switch", body = v1::Switch)))]
async fn switch(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(name): At<String>,
) -> Answer<v1::Switch> {
    Ok(Json(node.switch(&caller, &name).await?.into()))
}

/// Change a switch
#[utoipa::path(patch, path = "/v1/switches/{switch}", tag = "network", params(("switch" = String, Path)),
    request_body = v1::SwitchChange, responses((status = 200, description = "The switch", body = v1::Switch)))]
async fn change_switch(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(name): At<String>,
    Input(change): Input<v1::SwitchChange>,
) -> Answer<v1::Switch> {
    Ok(Json(node.change_switch(&caller, &name, change.try_into()?).await?.into()))
}

/// Remove a switch
#[utoipa::path(delete, path = "/v1/switches/{switch}", tag = "network", params(("switch" = String, Path)),
    responses((status = 204, description = "It is gone")))]
async fn remove_switch(State(node): State<Node>, Extension(caller): Caller, At(name): At<String>) -> Done {
    node.remove_switch(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// All NAT networks
#[utoipa::path(get, path = "/v1/nats", tag = "network",
    responses((status = 200, description = "All NAT networks", body = Vec<v1::Nat>)))]
async fn nats(State(node): State<Node>, Extension(caller): Caller) -> Answer<Vec<v1::Nat>> {
    list(node.nats(&caller).await?)
}

/// Create a NAT network
#[utoipa::path(post, path = "/v1/nats", tag = "network", request_body = v1::NewNat,
    responses((status = 201, description = "The NAT network", body = v1::Nat)))]
async fn create_nat(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewNat>,
) -> Created<v1::Nat> {
    created(node.create_nat(&caller, new.try_into()?).await?)
}

/// One NAT network
#[utoipa::path(get, path = "/v1/nats/{nat}", tag = "network", params(("nat" = String, Path)),
    responses((status = 200, description = "The NAT network", body = v1::Nat)))]
async fn nat(State(node): State<Node>, Extension(caller): Caller, At(name): At<String>) -> Answer<v1::Nat> {
    Ok(Json(node.nat(&caller, &name).await?.into()))
}

/// Change a NAT network
#[utoipa::path(patch, path = "/v1/nats/{nat}", tag = "network", params(("nat" = String, Path)),
    request_body = v1::NatChange, responses((status = 200, description = "The NAT network", body = v1::Nat)))]
async fn change_nat(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(name): At<String>,
    Input(change): Input<v1::NatChange>,
) -> Answer<v1::Nat> {
    Ok(Json(node.change_nat(&caller, &name, change.try_into()?).await?.into()))
}

/// Remove a NAT network
#[utoipa::path(delete, path = "/v1/nats/{nat}", tag = "network", params(("nat" = String, Path)),
    responses((status = 204, description = "It is gone")))]
async fn remove_nat(State(node): State<Node>, Extension(caller): Caller, At(name): At<String>) -> Done {
    node.remove_nat(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lead a port of the host to a port inside a NAT network
#[utoipa::path(post, path = "/v1/nats/{nat}/mappings", tag = "network", params(("nat" = String, Path)),
    request_body = v1::NewMapping,
    responses((status = 201, description = "The mapping", body = v1::StaticMapping)))]
async fn add_mapping(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(name): At<String>,
    Input(new): Input<v1::NewMapping>,
) -> Created<v1::StaticMapping> {
    created(node.add_mapping(&caller, &name, new.try_into()?).await?)
}

/// Remove a mapping
#[utoipa::path(delete, path = "/v1/nats/{nat}/mappings/{id}", tag = "network",
    params(("nat" = String, Path), ("id" = u32, Path)),
    responses((status = 204, description = "It is gone")))]
async fn remove_mapping(
    State(node): State<Node>,
    Extension(caller): Caller,
    At((name, id)): At<(String, u32)>,
) -> Done {
    node.remove_mapping(&caller, &name, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
