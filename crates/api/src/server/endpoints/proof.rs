use axum::{
    Extension, Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::header::CONTENT_TYPE;
use nestling_node::Node;

use super::{Answer, App, Caller, Created, OpenApiRouter, created, list, routes};
use crate::{
    server::{
        input::{At, Input},
        problem::Problem,
    },
    v1,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(proofs, start_proof))
        .routes(routes!(proof))
        .routes(routes!(cancel_proof))
        .routes(routes!(proof_screen))
}

/// Recovery points that were booted as a test, and those under way; newest first
#[utoipa::path(get, path = "/v1/proofs", tag = "recovery",
    responses((status = 200, description = "The proofs", body = Vec<v1::Proof>)))]
async fn proofs(State(node): State<Node>, Extension(caller): Caller) -> Answer<Vec<v1::Proof>> {
    list(node.proofs(&caller).await?)
}

/// Begin to boot recovery points as a test; the proof goes on by itself
#[utoipa::path(post, path = "/v1/proofs", tag = "recovery", request_body = v1::NewProof,
    responses((status = 201, description = "The proof", body = v1::Proof)))]
async fn start_proof(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewProof>,
) -> Created<v1::Proof> {
    created(node.prove(&caller, new.try_into()?).await?)
}

/// One proof: what it found, and how far it is
#[utoipa::path(get, path = "/v1/proofs/{proof}", tag = "recovery", params(("proof" = String, Path)),
    responses((status = 200, description = "The proof", body = v1::Proof)))]
async fn proof(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(proof): At<String>,
) -> Answer<v1::Proof> {
    Ok(Json(node.proof(&caller, &proof).await?.into()))
}

/// Ask a proof to end; the machines that it runs go
#[utoipa::path(post, path = "/v1/proofs/{proof}/cancel", tag = "recovery", params(("proof" = String, Path)),
    responses((status = 200, description = "The proof, which ends soon", body = v1::Proof)))]
async fn cancel_proof(
    State(node): State<Node>,
    Extension(caller): Caller,
    At(proof): At<String>,
) -> Answer<v1::Proof> {
    Ok(Json(node.cancel_proof(&caller, &proof).await?.into()))
}

/// The picture of a machine's screen that was taken at the end of its test; points count from 0
#[utoipa::path(get, path = "/v1/proofs/{proof}/screens/{id}", tag = "recovery",
    params(("proof" = String, Path), ("id" = usize, Path)),
    responses((status = 200, description = "The picture", body = Vec<u8>, content_type = "image/png")))]
async fn proof_screen(
    State(node): State<Node>,
    Extension(caller): Caller,
    At((proof, point)): At<(String, usize)>,
) -> Result<Response, Problem> {
    let png = node.proof_screen(&caller, &proof, point).await?;
    Ok(([(CONTENT_TYPE, "image/png")], png).into_response())
}
