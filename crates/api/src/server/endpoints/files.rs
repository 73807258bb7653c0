use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::header::CONTENT_TYPE;
use nestling_node::{FileBytes, FilesAt, Node};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Answer, App, Caller, OpenApiRouter, list, routes};
use crate::{
    convert::unhex,
    server::{
        input::{Asked, At, Input},
        problem::Problem,
    },
    v1,
};

/// Entries of a page.
const PAGE_ENTRIES: usize = 500;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(volumes))
        .routes(routes!(files))
        .routes(routes!(content))
        .routes(routes!(find_files))
        .routes(routes!(compare_points))
        .routes(routes!(unlock))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Disk {
    /// In this repository; in all of them when absent.
    #[serde(default)]
    repository: Option<String>,
    /// A disk (`scsi:0`), or one inside it (`scsi:0/2:/disks/a.vhdx//`); all disks of the point when absent.
    #[serde(default)]
    place: String,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Files {
    /// In this repository; in all of them when absent.
    #[serde(default)]
    repository: Option<String>,
    /// Such as `scsi:0/2:/etc`.
    place: String,
    /// Of a directory: where the page begins, as the page before says.
    #[serde(default)]
    from: u64,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Content {
    /// In this repository; in all of them when absent.
    #[serde(default)]
    repository: Option<String>,
    /// Such as `scsi:0/2:/etc/hostname`.
    place: String,
    #[serde(default)]
    offset: u64,
    /// 4 MiB at most.
    length: u32,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wanted {
    /// In this repository; in all of them when absent.
    #[serde(default)]
    repository: Option<String>,
    /// Below it, such as `scsi:0/2:/home`.
    place: String,
    /// What names look like, with `*` and `?`.
    name: String,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Other {
    /// In this repository; in all of them when absent.
    #[serde(default)]
    repository: Option<String>,
    /// Below it, such as `scsi:0/2:/home`.
    place: String,
    /// The second point.
    with: String,
}

/// Which volumes there are on a recovery point's disks, or on disks inside them
#[utoipa::path(get, path = "/v1/points/{point}/volumes", tag = "recovery",
    params(("point" = String, Path), Disk),
    responses((status = 200, description = "The volumes", body = Vec<v1::RecoveryVolume>)))]
async fn volumes(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(point): At<String>,
    Asked(disk): Asked<Disk>,
) -> Answer<Vec<v1::RecoveryVolume>> {
    let at = FilesAt { point, repository: disk.repository, place: disk.place };
    list(node.point_volumes(&caller, at).await?)
}

/// A file or directory in a recovery point, and a page of what is in a directory
#[utoipa::path(get, path = "/v1/points/{point}/files", tag = "recovery",
    params(("point" = String, Path), Files),
    responses((status = 200, description = "The file or directory", body = v1::RecoveryFiles)))]
async fn files(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(point): At<String>,
    Asked(files): Asked<Files>,
) -> Answer<v1::RecoveryFiles> {
    let at = FilesAt { point, repository: files.repository, place: files.place };
    Ok(Json(node.point_files(&caller, at, files.from, PAGE_ENTRIES).await?.into()))
}

/// Bytes of a file in a recovery point; where all of them are zeroes, how many instead
#[utoipa::path(get, path = "/v1/points/{point}/content", tag = "recovery",
    params(("point" = String, Path), Content),
    responses((status = 200, description = "The bytes, or how many zeroes there are", content(
        (Vec<u8> = "application/octet-stream"), (v1::RecoveryZeroes = "application/json")))))]
async fn content(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(point): At<String>,
    Asked(content): Asked<Content>,
) -> Result<Response, Problem> {
    let at = FilesAt { point, repository: content.repository, place: content.place };
    Ok(match node.point_bytes(&caller, at, content.offset, content.length).await? {
        FileBytes::Bytes(bytes) => ([(CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
        FileBytes::Zeroes(bytes) => Json(v1::RecoveryZeroes { bytes }).into_response(),
    })
}

/// Files in a recovery point whose names look like something
#[utoipa::path(get, path = "/v1/points/{point}/find", tag = "recovery", params(("point" = String, Path), Wanted),
    responses((status = 200, description = "The files", body = v1::FoundFiles)))]
async fn find_files(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(point): At<String>,
    Asked(wanted): Asked<Wanted>,
) -> Answer<v1::FoundFiles> {
    let at = FilesAt { point, repository: wanted.repository, place: wanted.place };
    Ok(Json(node.find_point_files(&caller, at, &wanted.name).await?.into()))
}

/// Which files differ between two recovery points
#[utoipa::path(get, path = "/v1/points/{point}/compare", tag = "recovery", params(("point" = String, Path), Other),
    responses((status = 200, description = "The files", body = v1::PointComparison)))]
async fn compare_points(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(point): At<String>,
    Asked(other): Asked<Other>,
) -> Answer<v1::PointComparison> {
    let (repository, place) = (other.repository, other.place);
    let at = FilesAt { point, repository: repository.clone(), place: place.clone() };
    let with = FilesAt { point: other.with, repository, place };
    Ok(Json(node.compare_points(&caller, at, with).await?.into()))
}

/// Open encrypted volumes of a recovery point with a key, for as long as somebody looks into them
#[utoipa::path(post, path = "/v1/points/{point}/unlock", tag = "recovery", params(("point" = String, Path)),
    request_body = v1::UnlockVolumes,
    responses((status = 200, description = "What it opened", body = v1::UnlockedVolumes)))]
async fn unlock(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(point): At<String>,
    Input(with): Input<v1::UnlockVolumes>,
) -> Answer<v1::UnlockedVolumes> {
    let key = unhex(&with.key)?;
    let at = FilesAt { point, repository: with.repository, place: with.place };
    Ok(Json(node.point_unlock(&caller, at, key).await?.into()))
}
