//! One instant of a machine's disks, for the host above: it is asked for, read, and given back.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{StatusCode, header::CONTENT_TYPE};
use nestling_node::Node;
use serde::Deserialize;
use utoipa::IntoParams;

use super::{Answer, App, Caller, Created, Done, OpenApiRouter, created, routes};
use crate::{
    server::{
        input::{Asked, At, Input},
        problem::Problem,
    },
    v1,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(lend))
        .routes(routes!(loan))
        .routes(routes!(loan_data))
        .routes(routes!(loan_changes))
        .routes(routes!(loan_content))
        .routes(routes!(confirm_loan))
        .routes(routes!(return_loan))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Wait {
    /// How long to wait for it to be ready, or to have ended: at most 20,000; not at all when absent.
    #[serde(default)]
    wait_ms: Option<u32>,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Part {
    offset: u64,
    length: u64,
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct Start {
    offset: u64,
}

/// Lend a machine's disks as they are at one instant; what nobody asks for is given back by itself
#[utoipa::path(post, path = "/v1/loans", tag = "protection", request_body = v1::NewLoan,
    responses((status = 201, description = "The loan, which prepares itself", body = v1::Loan)))]
async fn lend(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewLoan>,
) -> Created<v1::Loan> {
    created(node.lend(&caller, new.try_into()?).await?)
}

/// A loan, and whether it can be read
#[utoipa::path(get, path = "/v1/loans/{loan}", tag = "protection", params(("loan" = String, Path), Wait),
    responses((status = 200, description = "The loan", body = v1::Loan)))]
async fn loan(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(loan): At<String>,
    Asked(wait): Asked<Wait>,
) -> Answer<v1::Loan> {
    let wait = Duration::from_millis(wait.wait_ms.unwrap_or(0).into());
    Ok(Json(node.loan(&caller, &loan, wait).await?.into()))
}

/// Where a lent disk holds data
#[utoipa::path(get, path = "/v1/loans/{loan}/disks/{disk}/data", tag = "protection",
    params(("loan" = String, Path), ("disk" = String, Path), Part),
    responses((status = 200, description = "All else there is zeroes", body = v1::DiskStretches)))]
async fn loan_data(
    State(node): State<Node>,
    Extension(caller): Caller,
    At((loan, disk)): At<(String, String)>,
    Asked(Part { offset, length }): Asked<Part>,
) -> Answer<v1::DiskStretches> {
    let range = offset..offset.saturating_add(length);
    Ok(Json(node.loan_data(&caller, &loan, &disk, range).await?.into()))
}

/// Where a lent disk changed since the point that it counts from
#[utoipa::path(get, path = "/v1/loans/{loan}/disks/{disk}/changes", tag = "protection",
    params(("loan" = String, Path), ("disk" = String, Path), Start),
    responses((status = 200, description = "All else is as it was", body = v1::DiskStretches)))]
async fn loan_changes(
    State(node): State<Node>,
    Extension(caller): Caller,
    At((loan, disk)): At<(String, String)>,
    Asked(Start { offset }): Asked<Start>,
) -> Answer<v1::DiskStretches> {
    Ok(Json(node.loan_changes(&caller, &loan, &disk, offset).await?.into()))
}

/// Bytes of a lent disk, at most 4 MiB at once
#[utoipa::path(get, path = "/v1/loans/{loan}/disks/{disk}/content", tag = "protection",
    params(("loan" = String, Path), ("disk" = String, Path), Part),
    responses((status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream")))]
async fn loan_content(
    State(node): State<Node>,
    Extension(caller): Caller,
    At((loan, disk)): At<(String, String)>,
    Asked(Part { offset, length }): Asked<Part>,
) -> Result<Response, Problem> {
    let range = offset..offset.saturating_add(length);
    let bytes = node.loan_bytes(&caller, &loan, &disk, range).await?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], bytes).into_response())
}

/// Ask whether all that was read is of the one instant; a point is made only after that
#[utoipa::path(post, path = "/v1/loans/{loan}/confirm", tag = "protection", params(("loan" = String, Path)),
    responses((status = 204, description = "It is")))]
async fn confirm_loan(State(node): State<Node>, Extension(caller): Caller, At(loan): At<String>) -> Done {
    node.confirm_loan(&caller, &loan).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Give a loan back, with the point that was made of it or without one
#[utoipa::path(post, path = "/v1/loans/{loan}/return", tag = "protection", params(("loan" = String, Path)),
    request_body = v1::ReturnLoan,
    responses((status = 200, description = "The loan, which ends soon", body = v1::Loan)))]
async fn return_loan(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(loan): At<String>,
    Input(given): Input<v1::ReturnLoan>,
) -> Answer<v1::Loan> {
    Ok(Json(node.return_loan(&caller, &loan, given.point()?).await?.into()))
}
