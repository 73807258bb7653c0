use axum::{Extension, Json, extract::State};
use http::StatusCode;
use nestling_node::{Node, POINTS_MAX, PointsWish};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Answer, App, Caller, Created, Done, OpenApiRouter, created, list, routes};
use crate::{
    server::input::{Asked, At, Input},
    v1,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(repositories, add_repository))
        .routes(routes!(repository, change_repository, forget_repository))
        .routes(routes!(runs, start_run))
        .routes(routes!(run))
        .routes(routes!(cancel_run))
        .routes(routes!(points))
        .routes(routes!(change_point, remove_point))
}

/// The repositories that the host knows
#[utoipa::path(get, path = "/v1/repositories", tag = "protection",
    responses((status = 200, description = "All repositories", body = Vec<v1::Repository>)))]
async fn repositories(State(node): State<Node>, Extension(caller): Caller) -> Answer<Vec<v1::Repository>> {
    list(node.repositories(&caller).await?)
}

/// Add a repository; takes over the vault that lies there, or makes a new one
#[utoipa::path(post, path = "/v1/repositories", tag = "protection", request_body = v1::NewRepository,
    responses((status = 201, description = "The repository", body = v1::Repository)))]
async fn add_repository(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewRepository>,
) -> Created<v1::Repository> {
    created(node.add_repository(&caller, new.try_into()?).await?)
}

/// One repository, with a look into it
#[utoipa::path(get, path = "/v1/repositories/{repository}", tag = "protection",
    params(("repository" = String, Path)),
    responses((status = 200, description = "The repository", body = v1::Repository)))]
async fn repository(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(name): At<String>,
) -> Answer<v1::Repository> {
    Ok(Json(node.repository(&caller, &name).await?.into()))
}

/// Change a repository, or what opens it
#[utoipa::path(patch, path = "/v1/repositories/{repository}", tag = "protection",
    params(("repository" = String, Path)), request_body = v1::RepositoryChange,
    responses((status = 200, description = "The repository", body = v1::Repository)))]
async fn change_repository(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(name): At<String>,
    Input(change): Input<v1::RepositoryChange>,
) -> Answer<v1::Repository> {
    Ok(Json(node.change_repository(&caller, &name, change.try_into()?).await?.into()))
}

/// Forget a repository; what lies there stays
#[utoipa::path(delete, path = "/v1/repositories/{repository}", tag = "protection",
    params(("repository" = String, Path)), responses((status = 204, description = "It is forgotten")))]
async fn forget_repository(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(name): At<String>,
) -> Done {
    node.forget_repository(&caller, &name).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct RunsOf {
    /// Only runs of this machine.
    #[serde(default)]
    vm: Option<String>,
    /// Only runs of this job.
    #[serde(default)]
    job: Option<String>,
}

/// Backups that were made, and those under way; newest first
#[utoipa::path(get, path = "/v1/runs", tag = "protection", params(RunsOf),
    responses((status = 200, description = "The runs", body = Vec<v1::Run>)))]
async fn runs(
    State(node): State<Node>,
    Extension(caller): Caller,
    Asked(of): Asked<RunsOf>,
) -> Answer<Vec<v1::Run>> {
    list(node.runs(&caller, of.vm.as_deref(), of.job.as_deref()).await?)
}

/// Begin to back machines up; the run goes on by itself
#[utoipa::path(post, path = "/v1/runs", tag = "protection", request_body = v1::NewRun,
    responses((status = 201, description = "The run", body = v1::Run)))]
async fn start_run(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewRun>,
) -> Created<v1::Run> {
    created(node.back_up(&caller, new.try_into()?).await?)
}

/// One run, and how far it is
#[utoipa::path(get, path = "/v1/runs/{run}", tag = "protection", params(("run" = String, Path)),
    responses((status = 200, description = "The run", body = v1::Run)))]
async fn run(State(node): State<Node>, Extension(caller): Caller, At(run): At<String>) -> Answer<v1::Run> {
    Ok(Json(node.run(&caller, &run).await?.into()))
}

/// Ask a run to end
#[utoipa::path(post, path = "/v1/runs/{run}/cancel", tag = "protection", params(("run" = String, Path)),
    responses((status = 200, description = "The run, which ends soon", body = v1::Run)))]
async fn cancel_run(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(run): At<String>,
) -> Answer<v1::Run> {
    Ok(Json(node.cancel_run(&caller, &run).await?.into()))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PointsOf {
    /// Only points of this machine, or of all whose names are like this one with * and ?.
    #[serde(default)]
    vm: Option<String>,
    /// Only points of earlier machines of the name of this machine.
    #[serde(default)]
    earlier: Option<bool>,
    /// Only in this repository.
    #[serde(default)]
    repository: Option<String>,
    /// Without the newest so many.
    #[serde(default)]
    skip: Option<usize>,
    /// At most so many.
    #[serde(default)]
    limit: Option<usize>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PointIn {
    /// In this repository; in all of them when absent.
    #[serde(default)]
    repository: Option<String>,
}

/// Recovery points, newest first
#[utoipa::path(get, path = "/v1/points", tag = "protection", params(PointsOf),
    responses((status = 200, description = "The points", body = v1::Points)))]
async fn points(
    State(node): State<Node>,
    Extension(caller): Caller,
    Asked(of): Asked<PointsOf>,
) -> Answer<v1::Points> {
    let count_max = of.limit.unwrap_or(POINTS_MAX);
    let skip = of.skip.unwrap_or(0);
    let earlier = of.earlier.unwrap_or_default();
    let wish = PointsWish { vm: of.vm, earlier, repository: of.repository, skip, count_max };
    Ok(Json(node.points(&caller, wish).await?.into()))
}

/// Mark a recovery point; it has another id afterwards
#[utoipa::path(patch, path = "/v1/points/{point}", tag = "protection",
    params(("point" = String, Path), PointIn), request_body = v1::PointChange,
    responses((status = 200, description = "The point", body = v1::Point)))]
async fn change_point(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(point): At<String>,
    Asked(within): Asked<PointIn>,
    Input(change): Input<v1::PointChange>,
) -> Answer<v1::Point> {
    let change = change.try_into()?;
    Ok(Json(node.change_point(&caller, &point, within.repository.as_deref(), change).await?.into()))
}

/// Remove a recovery point that is neither pinned nor protected
#[utoipa::path(delete, path = "/v1/points/{point}", tag = "protection", params(("point" = String, Path), PointIn),
    responses((status = 204, description = "It is gone")))]
async fn remove_point(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(point): At<String>,
    Asked(within): Asked<PointIn>,
) -> Done {
    node.remove_point(&caller, &point, within.repository.as_deref()).await?;
    Ok(StatusCode::NO_CONTENT)
}
