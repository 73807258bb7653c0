use std::path::PathBuf;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use futures_util::StreamExt;
use nestling_node::Node;
use serde::Deserialize;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::IntoParams;

use super::{Answer, App, Caller, Created, OpenApiRouter, created, list, routes};
use crate::{
    server::{
        input::{Asked, At, Input},
        lines,
        problem::Problem,
    },
    v1,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(disk, create_disk, resize_disk))
        .routes(routes!(images, import_image))
        .routes(routes!(build_image))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct File {
    /// The image's file.
    #[param(value_type = String)]
    path: PathBuf,
}

/// What is known of a disk image
#[utoipa::path(get, path = "/v1/disks", tag = "disks", params(File),
    responses((status = 200, description = "The disk image", body = v1::DiskInfo)))]
async fn disk(
    State(node): State<Node>,
    Extension(caller): Caller,
    Asked(file): Asked<File>,
) -> Answer<v1::DiskInfo> {
    Ok(Json(node.disk(&caller, &file.path).await?.into()))
}

/// Create a disk image
#[utoipa::path(post, path = "/v1/disks", tag = "disks", request_body = v1::NewDisk,
    responses((status = 201, description = "The disk image", body = v1::DiskInfo)))]
async fn create_disk(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewDisk>,
) -> Created<v1::DiskInfo> {
    created(node.create_disk(&caller, new.try_into()?).await?)
}

/// Enlarge a disk image
#[utoipa::path(patch, path = "/v1/disks", tag = "disks", params(File), request_body = v1::ResizeDisk,
    responses((status = 200, description = "The disk image", body = v1::DiskInfo)))]
async fn resize_disk(
    State(node): State<Node>,
    Extension(caller): Caller,
    Asked(file): Asked<File>,
    Input(resize): Input<v1::ResizeDisk>,
) -> Answer<v1::DiskInfo> {
    Ok(Json(node.resize_disk(&caller, &file.path, resize.size_bytes).await?.into()))
}

/// The images that machines can be made from
#[utoipa::path(get, path = "/v1/images", tag = "images",
    responses((status = 200, description = "All images", body = Vec<v1::Image>)))]
async fn images(State(node): State<Node>, Extension(caller): Caller) -> Answer<Vec<v1::Image>> {
    list(node.images(&caller).await?)
}

/// Take an image from elsewhere into the store
#[utoipa::path(post, path = "/v1/images", tag = "images", request_body = v1::ImportImage,
    responses((status = 201, description = "The image", body = v1::Image)))]
async fn import_image(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::ImportImage>,
) -> Created<v1::Image> {
    created(node.import_image(&caller, new.try_into()?).await?)
}

/// Build an image; the answer tells how far it is, and ends with the image or an error
#[utoipa::path(post, path = "/v1/images/{image}/build", tag = "images", params(("image" = String, Path)),
    request_body = v1::BuildImage,
    responses((status = 200, description = "One JSON object a line", body = v1::BuildProgress,
        content_type = "application/x-ndjson")))]
async fn build_image(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(image): At<String>,
    Input(build): Input<v1::BuildImage>,
) -> Result<Response, Problem> {
    let steps = node.build_image(&caller, &image, build.force).await?;
    let steps = ReceiverStream::new(steps).map(|step| lines::line(&v1::BuildProgress::from(step)));
    Ok(lines::answer(Body::from_stream(steps)).into_response())
}
