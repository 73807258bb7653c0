use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{Request, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Limited};
use nestling_node::Node;
use serde::Deserialize;
use tokio_util::io::StreamReader;
use utoipa::IntoParams;

use super::{Answer, App, Caller, Done, OpenApiRouter, routes};
use crate::{
    limits::FILE_BYTES_MAX,
    server::{
        console,
        input::{Asked, At, Input},
        problem::Problem,
    },
    v1,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(console))
        .routes(routes!(guest))
        .routes(routes!(exec))
        .routes(routes!(copy_file))
}

/// A machine's serial console: recent output first, then bytes both ways
#[utoipa::path(post, path = "/v1/vms/{vm}/console", tag = "vms", params(("vm" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "What the machine writes", body = Vec<u8>,
        content_type = "application/octet-stream")))]
async fn console(
    State(app): State<App>,
    Extension(caller): Caller,
    At(vm): At<String>,
    request: Request<Body>,
) -> Result<Response, Problem> {
    let console = app.node.console(&caller, &vm).await?;
    let shown = console::attach(&console, request.into_body(), app.stop);
    Ok(([(CONTENT_TYPE, "application/octet-stream")], shown).into_response())
}

/// What the guest agent says
#[utoipa::path(get, path = "/v1/vms/{vm}/guest", tag = "vms", params(("vm" = String, Path)),
    responses((status = 200, description = "The guest", body = v1::Guest)))]
async fn guest(State(node): State<Node>, Extension(caller): Caller, At(vm): At<String>) -> Answer<v1::Guest> {
    Ok(Json(node.guest(&caller, &vm).await?.into()))
}

/// Run a program in the guest
#[utoipa::path(post, path = "/v1/vms/{vm}/guest/exec", tag = "vms", params(("vm" = String, Path)),
    request_body = v1::Exec, responses((status = 200, description = "How it ended", body = v1::ExecResult)))]
async fn exec(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(vm): At<String>,
    Input(exec): Input<v1::Exec>,
) -> Answer<v1::ExecResult> {
    Ok(Json(node.exec(&caller, &vm, exec.into()).await?.into()))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct GuestFile {
    /// The file's path in the guest.
    path: String,
}

/// Write a file in the guest
#[utoipa::path(put, path = "/v1/vms/{vm}/guest/files", tag = "vms",
    params(("vm" = String, Path), GuestFile),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 204, description = "It is written")))]
async fn copy_file(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(vm): At<String>,
    Asked(file): Asked<GuestFile>,
    request: Request<Body>,
) -> Done {
    let max = usize::try_from(FILE_BYTES_MAX).unwrap_or(usize::MAX);
    let content = Limited::new(request.into_body(), max).map_err(std::io::Error::other).into_data_stream();
    node.copy_file(&caller, &vm, &file.path, StreamReader::new(content)).await?;
    Ok(StatusCode::NO_CONTENT)
}
