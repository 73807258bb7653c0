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
