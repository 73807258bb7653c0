use axum::{Extension, Json, extract::State};
use http::StatusCode;
use nestling_node::Node;

use super::{Answer, App, Caller, Done, OpenApiRouter, routes};
use crate::{convert, server::input::Input, v1};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(mail_server, set_mail_server, remove_mail_server))
        .routes(routes!(test_mail))
}

/// The server that the host gives its mail to
#[utoipa::path(get, path = "/v1/mail-server", tag = "protection",
    responses((status = 200, description = "The mail server, without its password", body = v1::MailServer)))]
async fn mail_server(State(node): State<Node>, Extension(caller): Caller) -> Answer<v1::MailServer> {
    Ok(Json(node.mail_server(&caller)?.into()))
}

/// Give mail to this server from now on
#[utoipa::path(put, path = "/v1/mail-server", tag = "protection", request_body = v1::NewMailServer,
    responses((status = 200, description = "The mail server", body = v1::MailServer)))]
async fn set_mail_server(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(new): Input<v1::NewMailServer>,
) -> Answer<v1::MailServer> {
    Ok(Json(node.set_mail_server(&caller, new.try_into()?).await?.into()))
}

/// Forget the mail server and its password
#[utoipa::path(delete, path = "/v1/mail-server", tag = "protection",
    responses((status = 204, description = "It is forgotten")))]
async fn remove_mail_server(State(node): State<Node>, Extension(caller): Caller) -> Done {
    node.remove_mail_server(&caller).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Send a mail, to try the server
#[utoipa::path(post, path = "/v1/mail-server/test", tag = "protection", request_body = v1::MailTest,
    responses((status = 204, description = "The server took it for all of them")))]
async fn test_mail(
    State(node): State<Node>,
    Extension(caller): Caller,
    Input(test): Input<v1::MailTest>,
) -> Done {
    node.test_mail(&caller, &convert::addresses(&test.to)?).await?;
    Ok(StatusCode::NO_CONTENT)
}
