use std::collections::BTreeMap;

use nestling_model::protection as model;
use nestling_node as node;
use node::NodeError;

use crate::v1;

type Model = model::MailTls;

impl From<Model> for v1::MailSecurity {
    fn from(tls: Model) -> Self {
        match tls {
            Model::Never => Self::None,
            Model::StartTls => Self::StartTls,
            Model::Tls => Self::Tls,
        }
    }
}

impl From<v1::MailSecurity> for Model {
    fn from(security: v1::MailSecurity) -> Self {
        match security {
            v1::MailSecurity::None => Self::Never,
            v1::MailSecurity::StartTls => Self::StartTls,
            v1::MailSecurity::Tls => Self::Tls,
        }
    }
}

impl From<model::MailServer> for v1::MailServer {
    fn from(server: model::MailServer) -> Self {
        let model::MailServer { host, port, tls, from, user, secret: _, ca } = server;
        Self { host, port, security: tls.into(), from: from.into(), user, ca }
    }
}

impl TryFrom<v1::NewMailServer> for node::NewMailServer {
    type Error = NodeError;

    fn try_from(new: v1::NewMailServer) -> Result<Self, NodeError> {
        let secrets = |password: v1::Secret| node::Secrets {
            password: password.reveal().to_owned(),
            settings: BTreeMap::new(),
        };
        Ok(Self {
            host: new.host,
            port: new.port,
            tls: new.security.into(),
            from: address(&new.from)?,
            user: new.user,
            password: new.password.map(secrets),
            ca: new.ca,
        })
    }
}

pub(crate) fn addresses(texts: &[String]) -> Result<Vec<model::MailAddress>, NodeError> {
    texts.iter().map(|text| address(text)).collect()
}

fn address(text: &str) -> Result<model::MailAddress, NodeError> {
    text.parse().map_err(|error: model::NoticeInvalid| NodeError::invalid(error.to_string()))
}
