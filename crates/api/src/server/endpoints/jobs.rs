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
        .routes(routes!(jobs, create_job))
        .routes(routes!(job, change_job, remove_job))
        .routes(routes!(run_job))
        .routes(routes!(stop_job))
        .routes(routes!(plan_job))
        .routes(routes!(run_log))
}

/// The backup jobs
#[utoipa::path(get, path = "/v1/jobs", tag = "protection",
    responses((status = 200, description = "All jobs, by name", body = Vec<v1::Job>)))]
async fn jobs(State(node): State<Node>, Extension(caller): Caller) -> Answer<Vec<v1::Job>> {
    list(node.jobs(&caller).await?)
}

/// Create a backup job
#[utoipa::path(post, path = "/v1/jobs", tag = "protection", request_body = v1::NewJob,
    responses((status = 201, description = "The job", body = v1::Job)))]
async fn create_job(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewJob>,
) -> Created<v1::Job> {
    let name = new.name.parse().map_err(nestling_node::NodeError::from)?;
    created(node.create_job(&caller, name, new.settings.try_into()?).await?)
}

/// One job
#[utoipa::path(get, path = "/v1/jobs/{job}", tag = "protection", params(("job" = String, Path)),
    responses((status = 200, description = "The job", body = v1::Job)))]
async fn job(State(node): State<Node>, Extension(caller): Caller, At(job): At<String>) -> Answer<v1::Job> {
    Ok(Json(node.job(&caller, &job).await?.into()))
}

/// Change, rename, enable or disable a job
#[utoipa::path(patch, path = "/v1/jobs/{job}", tag = "protection", params(("job" = String, Path)),
    request_body = v1::JobChange, responses((status = 200, description = "The job", body = v1::Job)))]
async fn change_job(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(job): At<String>,
    Input(change): Input<v1::JobChange>,
) -> Answer<v1::Job> {
    let name = change.name.map(|name| name.parse()).transpose().map_err(nestling_node::NodeError::from)?;
    Ok(Json(node.change_job(&caller, &job, name, change.settings.try_into()?).await?.into()))
}

/// Remove a job; what it saved stays
#[utoipa::path(delete, path = "/v1/jobs/{job}", tag = "protection", params(("job" = String, Path)),
    responses((status = 204, description = "It is gone")))]
async fn remove_job(State(node): State<Node>, Extension(caller): Caller, At(job): At<String>) -> Done {
    node.remove_job(&caller, &job).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Run a job now; the run goes on by itself
#[utoipa::path(post, path = "/v1/jobs/{job}/run", tag = "protection", params(("job" = String, Path)),
    responses((status = 201, description = "The run", body = v1::Run)))]
async fn run_job(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(job): At<String>,
) -> Created<v1::Run> {
    created(node.run_job(&caller, &job).await?)
}

/// Ask the run of a job that is under way to end
#[utoipa::path(post, path = "/v1/jobs/{job}/stop", tag = "protection", params(("job" = String, Path)),
    responses((status = 200, description = "The run, which ends soon", body = v1::Run)))]
async fn stop_job(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(job): At<String>,
) -> Answer<v1::Run> {
    Ok(Json(node.stop_job(&caller, &job).await?.into()))
}

/// What a run of a job would do now; nothing is done
#[utoipa::path(get, path = "/v1/jobs/{job}/plan", tag = "protection", params(("job" = String, Path)),
    responses((status = 200, description = "The plan", body = v1::JobPlan)))]
async fn plan_job(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(job): At<String>,
) -> Answer<v1::JobPlan> {
    Ok(Json(node.plan_job(&caller, &job).await?.into()))
}

/// What a run did, line by line
#[utoipa::path(get, path = "/v1/runs/{run}/log", tag = "protection", params(("run" = String, Path)),
    responses((status = 200, description = "The log", body = v1::RunLog)))]
async fn run_log(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(run): At<String>,
) -> Answer<v1::RunLog> {
    Ok(Json(v1::RunLog { text: node.run_log(&caller, &run).await? }))
}
