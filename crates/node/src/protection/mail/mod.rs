//! The server that this host gives its mail to, and the use cases about it.
//!
//! The server is a document; its password is a secret under a name that no other had, written before the document and removed
//! after it. So a node that dies leaves the old server with the old password, or the new one with the new one.

mod send;
#[cfg(test)]
mod tests;
mod words;

use std::sync::{PoisonError, RwLock};

use nestling_identity::{Action, Identity};
use nestling_model::protection::{MailAddress, MailServer, MailTls, NoticeInvalid, SecretName};
use tokio::sync::Mutex;
use uuid::Uuid;

pub use self::words::{Letter, ended, late, worst_first};
use self::{
    send::{Account, Patience},
    words::trial,
};
use super::{
    job_error::JobError,
    secrets::{SecretFiles, Secrets},
};
use crate::{
    Node, NodeError,
    blocking::blocking,
    error::{Object, Result},
    networks::to_the_end,
    node::Shared,
};

/// To so many a test is sent at once.
const TEST_ADDRESSES_MAX: usize = 32;

/// A mail server to use from now on.
#[derive(Debug, Clone)]
pub struct NewMailServer {
    pub host: String,
    /// The usual one when absent.
    pub port: Option<u16>,
    pub tls: MailTls,
    pub from: MailAddress,
    pub user: Option<String>,
    pub password: Option<Secrets>,
    pub ca: Option<String>,
}

const fn usual_port(tls: MailTls) -> u16 {
    match tls {
        MailTls::Never => 25,
        MailTls::StartTls => 587,
        MailTls::Tls => 465,
    }
}

/// What is known of it.
pub struct Mail {
    server: RwLock<Option<MailServer>>,
    secrets: SecretFiles,
    /// Held by whoever changes it.
    turn: Mutex<()>,
}

impl Mail {
    pub fn new(secrets: SecretFiles, stored: Option<MailServer>) -> Self {
        Self { server: RwLock::new(stored), secrets, turn: Mutex::new(()) }
    }

    pub fn server(&self) -> Option<MailServer> {
        self.server.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, server: Option<MailServer>) {
        *self.server.write().unwrap_or_else(PoisonError::into_inner) = server;
    }

    /// The server, with what opens it.
    async fn account(&self) -> Result<Account> {
        let server = self.server().ok_or(JobError::NoMailServer)?;
        let password = match server.secret.clone() {
            Some(name) => {
                let files = self.secrets.clone();
                Some(blocking(move || files.get(&name)).await?)
            }
            None => None,
        };
        Account::new(server, password.as_ref(), &crate::facts::host_name()).map_err(NodeError::Invalid)
    }

    /// Nobody has this secret any more.
    async fn drop_secret(&self, of: Option<MailServer>) {
        let Some(name) = of.and_then(|server| server.secret) else { return };
        let files = self.secrets.clone();
        if let Err(error) = blocking(move || files.remove(&name)).await {
            // The next start sweeps it away.
            tracing::warn!(error = error.message(), "a mail server's old password is left");
        }
    }
}

fn invalid(error: &NoticeInvalid) -> NodeError {
    NodeError::Invalid(error.to_string())
}

impl Node {
    pub fn mail_server(&self, who: &Identity) -> Result<MailServer> {
        self.authorize(who, Action::ReadBackups)?;
        let missing = || NodeError::NotFound { object: Object::MailServer, name: "mail server".to_owned() };
        self.protection.mail.server().ok_or_else(missing)
    }

    /// In place of the one before, if there was any.
    pub async fn set_mail_server(&self, who: &Identity, new: NewMailServer) -> Result<MailServer> {
        self.authorize(who, Action::ChangeHost)?;
        let node = self.shared();
        to_the_end(async move { node.set_mail_server(new).await }).await
    }

    /// Refused while a job sends mail.
    pub async fn remove_mail_server(&self, who: &Identity) -> Result<()> {
        self.authorize(who, Action::ChangeHost)?;
        let node = self.shared();
        to_the_end(async move { node.remove_mail_server().await }).await
    }

    /// Sends a mail now. Why not, if the server did not take it for each of them.
    pub async fn test_mail(&self, who: &Identity, to: &[MailAddress]) -> Result<()> {
        self.authorize(who, Action::ChangeHost)?;
        if to.is_empty() || to.len() > TEST_ADDRESSES_MAX {
            return Err(NodeError::Invalid(format!("a test is sent to 1 to {TEST_ADDRESSES_MAX} addresses")));
        }
        let account = self.protection.mail.account().await?;
        let letter = trial(&crate::facts::host_name());
        let left = send::deliver(&account, &letter, to, Patience::TEST, &self.stopping).await;
        if left.is_empty() { Ok(()) } else { Err(JobError::Mail(left.join("; ")).into()) }
    }
}

impl Shared {
    async fn set_mail_server(&self, new: NewMailServer) -> Result<MailServer> {
        let mail = &self.protection.mail;
        let NewMailServer { host, port, tls, from, user, password, ca } = new;
        let secret = password.is_some().then(|| format!("mail-{}", Uuid::new_v4()).parse::<SecretName>());
        let secret = secret.transpose().map_err(|e| invalid(&e))?;
        let port = port.unwrap_or_else(|| usual_port(tls));
        let server = MailServer { host, port, tls, from, user, secret, ca };
        server.validate().map_err(|e| invalid(&e))?;
        if let Some(password) = &password {
            password.check()?;
        }
        // What cannot be used is refused now and not at night.
        Account::new(server.clone(), password.as_ref(), &crate::facts::host_name())
            .map_err(NodeError::Invalid)?;
        let _turn = mail.turn.lock().await;
        if let Some((name, password)) = server.secret.clone().zip(password) {
            let files = mail.secrets.clone();
            blocking(move || files.put(&name, &password)).await?;
        }
        self.keeper.put(&server).await?;
        let before = mail.server();
        mail.set(Some(server.clone()));
        mail.drop_secret(before).await;
        Ok(server)
    }

    async fn remove_mail_server(&self) -> Result<()> {
        let mail = &self.protection.mail;
        let _turn = mail.turn.lock().await;
        // No job begins to need it meanwhile.
        let _jobs = self.protection.jobs.hold().await;
        let missing = || NodeError::NotFound { object: Object::MailServer, name: "mail server".to_owned() };
        let server = mail.server().ok_or_else(missing)?;
        if let Some(job) = self.protection.jobs.sending_mail() {
            return Err(JobError::NeedsMailServer(job.name).into());
        }
        self.keeper.delete::<MailServer>(nestling_store::Document::id(&server)).await?;
        mail.set(None);
        mail.drop_secret(Some(server)).await;
        Ok(())
    }

    /// Sends a letter to each address. For whom it was not taken, with the reason.
    pub async fn mail(&self, letter: &Letter, to: &[MailAddress]) -> Vec<String> {
        let account = match self.protection.mail.account().await {
            Ok(account) => account,
            Err(error) => {
                let to = to.iter().map(MailAddress::as_str).collect::<Vec<_>>().join(", ");
                return vec![format!("{to} could not be sent a mail: {}", error.message())];
            }
        };
        send::deliver(&account, letter, to, Patience::NOTICE, &self.stopping).await
    }
}
