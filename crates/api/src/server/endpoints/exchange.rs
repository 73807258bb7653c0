use axum::{Extension, body::Body, extract::State, response::Response};
use futures_util::StreamExt;
use nestling_node::{ExchangeStep, Node};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{App, Caller, OpenApiRouter, routes};
use crate::{
    server::{
        input::{At, Input},
        lines,
        problem::Problem,
    },
    v1,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(import_vm)).routes(routes!(export_vm))
}

/// Take in a machine of another program; the answer tells how far it is, and ends with the machine or an error
///
/// Whoever stops reading ends the import, and nothing is left of it.
#[utoipa::path(post, path = "/v1/imports", tag = "vms", request_body = v1::NewImport,
    responses((status = 200, description = "One JSON object a line", body = v1::ExchangeProgress,
        content_type = "application/x-ndjson")))]
async fn import_vm(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewImport>,
) -> Result<Response, Problem> {
    Ok(answer(node.import_vm(&caller, new.try_into()?).await?))
}

/// Write a machine that is off to a new folder; the answer tells how far it is, and ends with the machine or an error
///
/// Whoever stops reading ends the export, and nothing is left of it.
#[utoipa::path(post, path = "/v1/vms/{vm}/export", tag = "vms", params(("vm" = String, Path)),
    request_body = v1::ExportVm,
    responses((status = 200, description = "One JSON object a line", body = v1::ExchangeProgress,
        content_type = "application/x-ndjson")))]
async fn export_vm(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(vm): At<String>,
    Input(export): Input<v1::ExportVm>,
) -> Result<Response, Problem> {
    Ok(answer(node.export_vm(&caller, &vm, export.into()).await?))
}

fn answer(steps: mpsc::Receiver<ExchangeStep>) -> Response {
    let steps = ReceiverStream::new(steps).map(|step| lines::line(&v1::ExchangeProgress::from(step)));
    lines::answer(Body::from_stream(steps))
}
