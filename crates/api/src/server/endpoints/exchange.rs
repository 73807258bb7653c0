use axum::{
    Extension,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use nestling_node::Node;
use tokio_stream::wrappers::ReceiverStream;

use super::{App, Caller, OpenApiRouter, routes};
use crate::{
    server::{input::Input, lines, problem::Problem},
    v1,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(import_vm))
}

/// Take in a machine of another program; the answer tells how far it is, and ends with the machine or an error
///
/// Whoever stops reading ends the import, and nothing is left of it.
#[utoipa::path(post, path = "/v1/imports", tag = "vms", request_body = v1::NewImport,
    responses((status = 200, description = "One JSON object a line", body = v1::ImportProgress,
        content_type = "application/x-ndjson")))]
async fn import_vm(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewImport>,
) -> Result<Response, Problem> {
    let steps = node.import_vm(&caller, new.try_into()?).await?;
    let steps = ReceiverStream::new(steps).map(|step| lines::line(&v1::ImportProgress::from(step)));
    Ok(lines::answer(Body::from_stream(steps)).into_response())
}
