//! Letters over SMTP: one mail for each address, so that one that is refused keeps no other from its own.
//!
//! A connection serves for all of them as long as it lasts. What the server refuses for good is not tried again; what it
//! cannot do now is, a few times, and all within a bounded time. What it says is made harmless before anybody reads it.

use std::{str::FromStr, time::Duration};

use lettre::{
    Address, Message,
    message::{
        Mailbox,
        header::{ContentType, Header, HeaderName, HeaderValue},
    },
    transport::smtp::{
        Error,
        authentication::{Credentials, Mechanism},
        client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters},
        extension::ClientId,
    },
};
use nestling_model::protection::{MailAddress, MailServer, MailTls, Message as Harmless};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{super::secrets::Secrets, words::Letter};

/// For one address of a server that may have several.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it is tried.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// For one step of the server: to let us in, or to take one mail.
    pub step: Duration,
    /// How often each mail is tried.
    pub attempts: u32,
    /// Before the second time; twice as long before each one after that.
    pub pause: Duration,
    /// For everything.
    pub all: Duration,
}

impl Patience {
    pub const NOTICE: Self = Self {
        step: Duration::from_secs(30),
        attempts: 4,
        pause: Duration::from_secs(5),
        all: Duration::from_secs(600),
    };
    /// Somebody waits for it.
    pub const TEST: Self = Self {
        step: Duration::from_secs(30),
        attempts: 1,
        pause: Duration::ZERO,
        all: Duration::from_secs(120),
    };
}

/// A mail server with all that is needed to send.
pub struct Account {
    server: MailServer,
    /// Absent where all is in the clear.
    tls: Option<TlsParameters>,
    credentials: Option<Credentials>,
    hello: ClientId,
    /// Whom the mails are from, as people read it.
    from: Mailbox,
}

impl Account {
    /// Why not, if the certificates or the address cannot be used.
    pub fn new(server: MailServer, password: Option<&Secrets>, host_name: &str) -> Result<Self, String> {
        let tls = match server.tls {
            MailTls::Never => None,
            MailTls::StartTls | MailTls::Tls => Some(tls(&server)?),
        };
        let credentials = server.user.clone().zip(password);
        let name = Harmless::from(format!("Nestling on {host_name}"));
        Ok(Self {
            from: Mailbox::new(Some(name.as_str().to_owned()), address(&server.from)?),
            credentials: credentials.map(|(user, secrets)| Credentials::new(user, secrets.password.clone())),
            hello: hello(host_name),
            tls,
            server,
        })
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Error> {
        let (host, port) = (self.server.host.as_str(), self.server.port);
        let at_once = self.tls.clone().filter(|_| self.server.tls == MailTls::Tls);
        let mut connection = AsyncSmtpConnection::connect_tokio1(
            (host, port),
            Some(CONNECT_TIMEOUT),
            &self.hello,
            at_once,
            None,
        )
        .await?;
        if let (MailTls::StartTls, Some(tls)) = (self.server.tls, &self.tls) {
            connection.starttls(tls.clone(), &self.hello).await?;
        }
        if let Some(credentials) = &self.credentials {
            connection.auth(&[Mechanism::Plain, Mechanism::Login], credentials).await?;
        }
        Ok(connection)
    }
}

/// Only what it was told to trust, or what the host does.
fn tls(server: &MailServer) -> Result<TlsParameters, String> {
    let mut tls = TlsParameters::builder(server.host.clone());
    if let Some(ca) = &server.ca {
        let unusable = |_| "the certificates of the authorities cannot be read".to_owned();
        let ca = Certificate::from_pem(ca.as_bytes()).map_err(unusable)?;
        tls = tls.certificate_store(CertificateStore::None).add_root_certificate(ca);
    }
    tls.build().map_err(|error| format!("TLS with the mail server cannot be: {error}"))
}

/// The host's name, if it is one that a server takes.
fn hello(host_name: &str) -> ClientId {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.');
    if !host_name.is_empty() && host_name.chars().all(is_name) {
        ClientId::Domain(host_name.to_owned())
    } else {
        ClientId::default()
    }
}

fn address(of: &MailAddress) -> Result<Address, String> {
    Address::from_str(of.as_str())
        .map_err(|error| format!("{of} is no address that mail can be sent to: {error}"))
}

/// No out-of-office answers it.
#[derive(Clone)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// The mail as it goes over the wire. No text in it can become a header: what is in the subject is one harmless line.
pub fn compose(account: &Account, letter: &Letter, to: &MailAddress) -> Result<Message, String> {
    let domain = account.from.email.domain();
    let domain = if domain.is_ascii() { domain } else { "localhost" };
    let message = Message::builder()
        .from(account.from.clone())
        .to(Mailbox::new(None, address(to)?))
        .subject(Harmless::from(letter.subject.as_str()).as_str())
        .date_now()
        .message_id(Some(format!("<{}@{domain}>", Uuid::new_v4())))
        .header(AutoSubmitted)
        .header(ContentType::TEXT_PLAIN)
        // A line end follows it on the wire.
        .body(letter.body.trim_end_matches('\n').to_owned());
    message.map_err(|error| error.to_string())
}

/// Why a mail was not taken.
enum Failed {
    /// It never will be.
    Never(String),
    /// Perhaps later.
    NotNow(String),
    /// The server takes nothing at all from us: now, or ever.
    Nobody { why: String, for_good: bool },
}

fn why(error: &Error) -> String {
    let said = error.to_string();
    let said = match error.status() {
        Some(code) => {
            format!("the server answered {code}{}", said.split_once("):").map_or("", |(_, said)| said))
        }
        None => said,
    };
    Harmless::from(said.trim_end()).as_str().to_owned()
}

/// What does not change by trying again.
fn is_for_good(error: &Error) -> bool {
    error.is_permanent() || error.is_client()
}

/// A mail, which is the same however often it is tried: who gets it twice can tell.
struct Outgoing<'a> {
    to: &'a MailAddress,
    message: Message,
}

/// A mail to be tried again, and why.
type Left<'a> = (&'a Outgoing<'a>, String);

struct Post<'a> {
    account: &'a Account,
    patience: Patience,
    end: Instant,
    connection: Option<AsyncSmtpConnection>,
}

impl Post<'_> {
    /// The time for one step; what is left at most.
    fn step(&self) -> Duration {
        self.patience.step.min(self.end.saturating_duration_since(Instant::now()))
    }

    async fn send(&mut self, message: &Message) -> Result<(), Failed> {
        let step = self.step();
        if step.is_zero() {
            return Err(Failed::Nobody { why: "the time for it is over".to_owned(), for_good: true });
        }
        let silent = || format!("the server has not answered within {} seconds", step.as_secs_f64().ceil());
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => match timeout(step, self.account.connect()).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => {
                    return Err(Failed::Nobody { why: why(&error), for_good: is_for_good(&error) });
                }
                Err(_) => return Err(Failed::Nobody { why: silent(), for_good: false }),
            },
        };
        match timeout(step, connection.send(message.envelope(), &message.formatted())).await {
            Ok(Ok(_)) => {
                self.connection = Some(connection);
                Ok(())
            }
            Ok(Err(error)) if is_for_good(&error) => Err(Failed::Never(why(&error))),
            Ok(Err(error)) => Err(Failed::NotNow(why(&error))),
            Err(_) => Err(Failed::Nobody { why: silent(), for_good: false }),
        }
    }

    /// Tries all of them once. Those that are to be tried again, and what has become of the others.
    async fn round<'a>(&mut self, mails: &[&'a Outgoing<'a>], lost: &mut Vec<String>) -> Vec<Left<'a>> {
        let mut again = Vec::new();
        for (number, mail) in mails.iter().enumerate() {
            match self.send(&mail.message).await {
                Ok(()) => {}
                Err(Failed::Never(why)) => lost.push(told(mail.to, &why)),
                Err(Failed::NotNow(why)) => again.push((*mail, why)),
                Err(Failed::Nobody { why, for_good }) => {
                    let rest = &mails[number..];
                    if for_good {
                        lost.extend(rest.iter().map(|mail| told(mail.to, &why)));
                    } else {
                        again.extend(rest.iter().map(|mail| (*mail, why.clone())));
                    }
                    break;
                }
            }
        }
        if let Some(mut connection) = self.connection.take() {
            // It has all that it was to get: how it says good-bye is no matter.
            let _ = timeout(self.step(), connection.quit()).await;
        }
        again
    }
}

fn told(address: &MailAddress, why: &str) -> String {
    format!("{address} could not be sent a mail: {why}")
}

/// Sends a letter to each address. For whom it was not taken, with the reason.
pub async fn deliver(
    account: &Account,
    letter: &Letter,
    to: &[MailAddress],
    patience: Patience,
    stopping: &CancellationToken,
) -> Vec<String> {
    let mut post = Post { account, patience, end: Instant::now() + patience.all, connection: None };
    let (mut mails, mut lost) = (Vec::new(), Vec::new());
    for to in to {
        match compose(account, letter, to) {
            Ok(message) => mails.push(Outgoing { to, message }),
            Err(why) => lost.push(told(to, &why)),
        }
    }
    let mut left: Vec<Left<'_>> = mails.iter().map(|mail| (mail, "the node stopped".to_owned())).collect();
    for attempt in 0..patience.attempts {
        let pause = if attempt == 0 { Duration::ZERO } else { patience.pause * 2_u32.pow(attempt - 1) };
        if left.is_empty() || Instant::now() + pause >= post.end {
            break;
        }
        let tried: Vec<&Outgoing<'_>> = left.iter().map(|(mail, _)| *mail).collect();
        let round = async {
            sleep(pause).await;
            post.round(&tried, &mut lost).await
        };
        tokio::select! {
            // First: nothing begins in a node that ends.
            biased;
            () = stopping.cancelled() => break,
            again = round => left = again,
        }
    }
    lost.extend(left.iter().map(|(mail, why)| told(mail.to, why)));
    lost
}
