use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::protection::Secret;

/// How the way to a mail server is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum MailSecurity {
    None,
    /// It begins in the clear and must turn to TLS.
    #[default]
    StartTls,
    Tls,
}

/// The server that the host gives its mail to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MailServer {
    pub host: String,
    pub port: u16,
    pub security: MailSecurity,
    /// Whom the mails are from.
    pub from: String,
    /// Whom the host logs in as; its password is never told.
    #[serde(default)]
    pub user: Option<String>,
    /// Certificates (PEM) of the authorities that alone may vouch for the server; absent: those that the host trusts.
    #[serde(default)]
    pub ca: Option<String>,
}

/// A mail server to use from now on, in place of the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewMailServer {
    pub host: String,
    /// 465, 587 or 25 when absent, as its security is TLS, StartTls or None.
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub security: MailSecurity,
    pub from: String,
    #[serde(default)]
    pub user: Option<String>,
    /// Of the user.
    #[serde(default)]
    pub password: Option<Secret>,
    #[serde(default)]
    pub ca: Option<String>,
}

/// Who is to get a mail, to try the server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MailTest {
    pub to: Vec<String>,
}
