//! Who is told how a run went: people by mail, programs by a webhook.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub const ADDRESSES_MAX: usize = 32;
pub const NOTICES_MAX: usize = 16;
/// The longest mail address, in bytes: SMTP's own limit.
pub const MAIL_ADDRESS_BYTES_MAX: usize = 254;
pub const WEB_URL_BYTES_MAX: usize = 2048;
/// Certificates of authorities, as text.
pub const MAIL_CA_BYTES_MAX: usize = 64 << 10;

/// Why a text is no address, or a notice cannot be sent so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoticeInvalid {
    #[error("\"{0}\" is no mail address; write it as name@example.org")]
    Mail(String),
    #[error("a webhook's address begins with https:// or http://, then a host, and has no blanks")]
    Url,
    #[error("a webhook's address has no password in it; name a secret instead")]
    Credentials,
    #[error("\"{0}\" is no name of a secret; it has letters a to z, digits, dots, dashes and underscores")]
    Secret(String),
    #[error("a notice by mail has 1 to {ADDRESSES_MAX} addresses")]
    Addresses,
    #[error("a notice that is never sent is none; say when: success, warnings, failure, a missed objective")]
    Never,
    #[error("a job has at most {NOTICES_MAX} notices")]
    TooMany,
    #[error("\"{0}\" is no mail server's name or address")]
    Server(String),
    #[error("the mail server's port is 0; the usual ones are 25, 465 and 587")]
    Port,
    #[error("who logs in to a mail server does it with a name, its password, and over TLS")]
    Login,
    #[error(
        "a certificate of an authority is text (PEM) of at most {MAIL_CA_BYTES_MAX} bytes, and of use over TLS only"
    )]
    Authority,
}

fn shown(text: &str) -> String {
    crate::shown(text, 80)
}

macro_rules! text {
    ($name:ident, $check:expr) => {
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NoticeInvalid;

            fn from_str(text: &str) -> Result<Self, NoticeInvalid> {
                let check: fn(&str) -> Result<(), NoticeInvalid> = $check;
                check(text).map(|()| Self(text.to_owned()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NoticeInvalid;

            fn try_from(text: String) -> Result<Self, NoticeInvalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(text: $name) -> Self {
                text.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

/// A mail address, simple enough that it cannot be read as another or as a header.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MailAddress(String);

text!(MailAddress, |text| {
    let fail = || Err(NoticeInvalid::Mail(shown(text)));
    let Some((name, host)) = text.split_once('@') else { return fail() };
    let is_name = |c: char| c.is_alphanumeric() || ".!#$%&'*+-/=?^_`{|}~".contains(c);
    if name.is_empty() || !name.chars().all(is_name) || text.len() > MAIL_ADDRESS_BYTES_MAX {
        return fail();
    }
    if is_host(host) { Ok(()) } else { fail() }
});

fn is_host(host: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

/// The name of a secret that lies in a file of the home.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

text!(SecretName, |text| {
    let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    if !text.is_empty() && text.len() <= 64 && text.bytes().all(is_name) && !text.starts_with('.') {
        Ok(())
    } else {
        Err(NoticeInvalid::Secret(shown(text)))
    }
});

/// Where a webhook listens. An address that is itself a secret does not belong here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WebUrl(String);

text!(WebUrl, |text| {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let Some(rest) = rest.filter(|_| text.len() <= WEB_URL_BYTES_MAX) else { return Err(NoticeInvalid::Url) };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if host.contains('@') {
        return Err(NoticeInvalid::Credentials);
    }
    let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    if host.is_empty() || !host.bytes().all(is_host) || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(NoticeInvalid::Url);
    }
    Ok(())
});

impl WebUrl {
    /// Without the path: to know that is often enough to write there.
    pub fn server(&self) -> &str {
        let host = self.0.find("//").map_or(0, |at| at + 2);
        let end = self.0[host..].find(['/', '?', '#']).map_or(self.0.len(), |at| host + at);
        &self.0[..end]
    }
}

/// Who is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recipient {
    /// Through the host's [`MailServer`].
    Mail { addresses: Vec<MailAddress> },
    Webhook {
        url: WebUrl,
        /// What the message is signed with, so that its reader can tell who sent it.
        #[serde(default)]
        secret: Option<SecretName>,
    },
}

/// After which ends somebody is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct NoticeWhen {
    pub success: bool,
    pub warnings: bool,
    pub failure: bool,
    pub missed_objective: bool,
}

impl Default for NoticeWhen {
    fn default() -> Self {
        Self { success: false, warnings: true, failure: true, missed_objective: true }
    }
}

/// Somebody who is told, and when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    pub to: Recipient,
    #[serde(default)]
    pub when: NoticeWhen,
}

impl Notice {
    pub fn validate(&self) -> Result<(), NoticeInvalid> {
        if let Recipient::Mail { addresses } = &self.to
            && (addresses.is_empty() || addresses.len() > ADDRESSES_MAX)
        {
            return Err(NoticeInvalid::Addresses);
        }
        let NoticeWhen { success, warnings, failure, missed_objective } = self.when;
        if success || warnings || failure || missed_objective { Ok(()) } else { Err(NoticeInvalid::Never) }
    }
}

/// How the way to a mail server is encrypted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MailTls {
    Never,
    /// It begins in the clear and must turn to TLS.
    #[default]
    StartTls,
    Tls,
}

/// The server that a host gives its mail to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MailServer {
    pub host: String,
    pub port: u16,
    #[serde(default)]
    pub tls: MailTls,
    pub from: MailAddress,
    #[serde(default)]
    pub user: Option<String>,
    /// The password of `user`.
    #[serde(default)]
    pub secret: Option<SecretName>,
    /// Certificates of the authorities that alone may vouch for the server, as PEM; `None`: those that the host trusts.
    #[serde(default)]
    pub ca: Option<String>,
}

impl MailServer {
    pub fn validate(&self) -> Result<(), NoticeInvalid> {
        if !is_host(&self.host) && self.host.parse::<std::net::IpAddr>().is_err() {
            return Err(NoticeInvalid::Server(shown(&self.host)));
        }
        if self.port == 0 {
            return Err(NoticeInvalid::Port);
        }
        let is_authority = |ca: &String| {
            ca.len() <= MAIL_CA_BYTES_MAX
                && ca.contains("-----BEGIN CERTIFICATE-----")
                && self.tls != MailTls::Never
        };
        if !self.ca.iter().all(is_authority) {
            return Err(NoticeInvalid::Authority);
        }
        let is_user =
            |user: &String| !user.is_empty() && user.len() <= 254 && !user.contains(char::is_control);
        match (&self.user, &self.secret, self.tls) {
            (None, None, _) => Ok(()),
            (Some(user), Some(_), MailTls::StartTls | MailTls::Tls) if is_user(user) => Ok(()),
            _ => Err(NoticeInvalid::Login),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_server_of_an_address_is_told_without_what_opens_it() {
        for (url, server) in [
            ("https://hooks.example.com/services/T0/B0/secret", "https://hooks.example.com"),
            ("http://[::1]:8080?token=secret", "http://[::1]:8080"),
            ("https://example.com", "https://example.com"),
        ] {
            assert_eq!(url.parse::<WebUrl>().unwrap().server(), server);
        }
    }

    #[test]
    fn addresses_are_simple_or_refused() {
        for good in ["admin@example.org", "a.b+c@localhost", "jürgen@bücher.example"] {
            assert!(good.parse::<MailAddress>().is_ok(), "{good}");
        }
        for bad in ["", "admin", "@x", "a@", "a@b@c", "a b@c", "a@b\r\nBcc: d@e", "<a@b>", "a@-b", "a@b..c"] {
            assert!(bad.parse::<MailAddress>().is_err(), "{bad}");
        }
        for good in ["https://hooks.example/a?b=c", "http://[::1]:8080/", "http://127.0.0.1"] {
            assert!(good.parse::<WebUrl>().is_ok(), "{good}");
        }
        for bad in ["", "ftp://a/", "https://", "https://a b/", "https:///x", "https://a/\n"] {
            assert_eq!(bad.parse::<WebUrl>(), Err(NoticeInvalid::Url), "{bad}");
        }
        assert_eq!("https://me:secret@host/".parse::<WebUrl>(), Err(NoticeInvalid::Credentials));
        for bad in ["", "..", ".hidden", "a/b", "A", &"a".repeat(65)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_notice_that_is_never_sent_is_refused() {
        let never = NoticeWhen { success: false, warnings: false, failure: false, missed_objective: false };
        let to = Recipient::Webhook { url: "https://a/".parse().unwrap(), secret: None };
        assert_eq!(Notice { to: to.clone(), when: never }.validate(), Err(NoticeInvalid::Never));
        assert_eq!(Notice { to, when: NoticeWhen::default() }.validate(), Ok(()));
        let to = Recipient::Mail { addresses: Vec::new() };
        assert_eq!(Notice { to, when: NoticeWhen::default() }.validate(), Err(NoticeInvalid::Addresses));
    }

    #[test]
    fn a_password_never_goes_in_the_clear() {
        let server = MailServer {
            host: "mail.example".to_owned(),
            port: 587,
            tls: MailTls::StartTls,
            from: "nest@example.org".parse().unwrap(),
            user: Some("nest".to_owned()),
            secret: Some("mail".parse().unwrap()),
            ca: None,
        };
        assert_eq!(server.validate(), Ok(()));
        assert_eq!(
            MailServer { tls: MailTls::Never, ..server.clone() }.validate(),
            Err(NoticeInvalid::Login)
        );
        assert_eq!(MailServer { secret: None, ..server.clone() }.validate(), Err(NoticeInvalid::Login));
        let ca = Some("-----BEGIN CERTIFICATE-----".to_owned());
        assert_eq!(MailServer { ca: ca.clone(), ..server.clone() }.validate(), Ok(()));
        let plain = MailServer { tls: MailTls::Never, user: None, secret: None, ca, ..server.clone() };
        assert_eq!(plain.validate(), Err(NoticeInvalid::Authority));
        let host = "mail example".to_owned();
        assert!(matches!(MailServer { host, ..server }.validate(), Err(NoticeInvalid::Server(_))));
    }

    proptest! {
        #[test]
        fn no_address_breaks_a_line(text in "(https://)?[a-z@.:/ \r\n\t\u{85}\u{2028}é]{0,20}") {
            for taken in [text.parse::<MailAddress>().map(String::from), text.parse::<WebUrl>().map(String::from)] {
                let breaks = |c: char| c.is_control() || c.is_whitespace();
                prop_assert!(!taken.is_ok_and(|text| text.contains(breaks)));
            }
        }
    }
}
