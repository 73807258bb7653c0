use axum::{Extension, Json, extract::State};
use nestling_node::Node;

use super::{Answer, App, Caller, Created, OpenApiRouter, created, list, routes};
use crate::{
    server::input::{At, Input},
    v1,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(recoveries, start_recovery))
        .routes(routes!(recovery))
        .routes(routes!(cancel_recovery))
        .routes(routes!(instant_boots))
        .routes(routes!(finish_instant_boot))
        .routes(routes!(discard_instant_boot))
}

/// Recoveries that were made, and those under way; newest first
#[utoipa::path(get, path = "/v1/recoveries", tag = "recovery",
    responses((status = 200, description = "The recoveries", body = Vec<v1::Recovery>)))]
async fn recoveries(State(node): State<Node>, Extension(caller): Caller) -> Answer<Vec<v1::Recovery>> {
    list(node.recoveries(&caller).await?)
}

/// Begin to recover a machine; the recovery goes on by itself
#[utoipa::path(post, path = "/v1/recoveries", tag = "recovery", request_body = v1::NewRecovery,
    responses((status = 201, description = "The recovery", body = v1::Recovery)))]
async fn start_recovery(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewRecovery>,
) -> Created<v1::Recovery> {
    created(node.recover(&caller, new.try_into()?).await?)
}

/// One recovery, and how far it is
#[utoipa::path(get, path = "/v1/recoveries/{recovery}", tag = "recovery", params(("recovery" = String, Path)),
    responses((status = 200, description = "The recovery", body = v1::Recovery)))]
async fn recovery(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(recovery): At<String>,
) -> Answer<v1::Recovery> {
    Ok(Json(node.recovery(&caller, &recovery).await?.into()))
}

/// Ask a recovery to end; of a new machine nothing is left
#[utoipa::path(post, path = "/v1/recoveries/{recovery}/cancel", tag = "recovery",
    params(("recovery" = String, Path)),
    responses((status = 200, description = "The recovery, which ends soon", body = v1::Recovery)))]
async fn cancel_recovery(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(recovery): At<String>,
) -> Answer<v1::Recovery> {
    Ok(Json(node.cancel_recovery(&caller, &recovery).await?.into()))
}

/// Machines that run from a recovery point
#[utoipa::path(get, path = "/v1/instant-boots", tag = "recovery",
    responses((status = 200, description = "The machines", body = Vec<v1::InstantBoot>)))]
async fn instant_boots(State(node): State<Node>, Extension(caller): Caller) -> Answer<Vec<v1::InstantBoot>> {
    list(node.instant_boots(&caller).await?)
}

/// Begin to bring a machine's disks over while it runs; that goes on by itself
#[utoipa::path(post, path = "/v1/instant-boots/{vm}/finish", tag = "recovery", params(("vm" = String, Path)),
    responses((status = 200, description = "The machine", body = v1::InstantBoot)))]
async fn finish_instant_boot(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(vm): At<String>,
) -> Answer<v1::InstantBoot> {
    Ok(Json(node.finish_instant_boot(&caller, &vm).await?.into()))
}

/// Turn a machine off that runs from a recovery point, and remove it with all that it wrote
#[utoipa::path(post, path = "/v1/instant-boots/{vm}/discard", tag = "recovery", params(("vm" = String, Path)),
    responses((status = 200, description = "The machine as it was last", body = v1::Vm)))]
async fn discard_instant_boot(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(vm): At<String>,
) -> Answer<v1::Vm> {
    Ok(Json(node.discard_instant_boot(&caller, &vm).await?.into()))
}
