//! The endpoints, thin: read, ask the node, write.

mod disks;
mod exchange;
mod files;
mod guests;
mod host;
mod inside;
mod jobs;
mod loans;
mod mail;
mod network;
mod proof;
mod protection;
mod recovery;
mod vms;

use axum::{Extension, Json, extract::FromRef, response::IntoResponse};
use http::StatusCode;
use nestling_node::{Identity, Node};
use tokio_util::sync::CancellationToken;
use utoipa::{
    OpenApi as _,
    openapi::{OpenApi, Ref, ResponseBuilder, content::Content},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::problem::Problem;
use crate::v1::{ErrorBody, ErrorCode};

/// What the endpoints share.
#[derive(Clone)]
pub(super) struct App {
    pub(super) node: Node,
    /// Ends the streams that have no end of their own.
    pub(super) stop: CancellationToken,
}

impl FromRef<App> for Node {
    fn from_ref(app: &App) -> Self {
        app.node.clone()
    }
}

/// Who asks, as the connection says.
type Caller = Extension<Identity>;

/// JSON, or why not.
type Answer<T> = Result<Json<T>, Problem>;

/// A new thing.
type Created<T> = Result<(StatusCode, Json<T>), Problem>;

/// Nothing but that it is done.
type Done = Result<StatusCode, Problem>;

fn list<T: Into<U>, U>(items: Vec<T>) -> Answer<Vec<U>> {
    Ok(Json(items.into_iter().map(Into::into).collect()))
}

fn created<U>(item: impl Into<U>) -> Created<U> {
    Ok((StatusCode::CREATED, Json(item.into())))
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Nestling",
        description = "The API of a Nestling node. A machine is named by its name or its id.",
        license(name = "Apache-2.0", identifier = "Apache-2.0")
    ),
    components(schemas(ErrorBody))
)]
struct Document;

/// All endpoints, and the document that describes them.
pub(super) fn all() -> (axum::Router<App>, OpenApi) {
    let router = OpenApiRouter::with_openapi(Document::openapi())
        .merge(host::routes())
        .merge(vms::routes())
        .merge(guests::routes())
        .merge(network::routes())
        .merge(disks::routes())
        .merge(protection::routes())
        .merge(recovery::routes())
        .merge(proof::routes())
        .merge(exchange::routes())
        .merge(files::routes())
        .merge(jobs::routes())
        .merge(loans::routes())
        .merge(mail::routes())
        .merge(inside::routes());
    let (router, mut document) = router.split_for_parts();
    complete(&mut document);
    let served = std::sync::Arc::new(document.clone());
    let router = router
        .route("/v1/openapi.json", axum::routing::get(async move || Json(&*served).into_response()))
        .fallback(async || Problem::new(ErrorCode::NotFound, "this node has no such endpoint"))
        .method_not_allowed_fallback(async || {
            Problem::new(ErrorCode::NotFound, "this endpoint does not have that method")
        });
    (router, document)
}

/// Where the router and the document call the same thing differently.
const REST_IN_ROUTER: &str = "/v1/in/{vm}/{*rest}";
const REST_IN_DOCUMENT: &str = "/v1/in/{vm}/{rest}";

/// Says once what is true of all endpoints, and takes back what only the router understands.
fn complete(document: &mut OpenApi) {
    let body = Content::new(Some(Ref::from_schema_name("ErrorBody")));
    let refused = ResponseBuilder::new().description("Refused").content("application/json", body).build();
    let paths = &mut document.paths.paths;
    if let Some(within) = paths.remove(REST_IN_ROUTER) {
        paths.insert(REST_IN_DOCUMENT.to_owned(), within);
    }
    for (path, item) in paths {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            operation.responses.responses.insert("default".to_owned(), refused.clone().into());
            if path == REST_IN_DOCUMENT {
                // One function serves all its methods, and an id must be unique.
                operation.operation_id = None;
            }
        }
    }
}
