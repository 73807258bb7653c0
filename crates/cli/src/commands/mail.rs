//! `nestling mail`: the server that a host gives its mail to.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand, ValueEnum};
use nestling_api::v1::{self, ErrorCode};

use crate::{
    commands::password::{ask_with, read_file, secret},
    failure::{Failure, Result},
    session::Session,
    text::fields,
};

/// Certificates of authorities, as text.
const CA_BYTES_MAX: u64 = 64 << 10;

/// Mail: the server through which jobs tell how they went
#[derive(Debug, Args)]
pub struct Mail {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Set(Set),
    /// Show the mail server; its password is never shown
    Show,
    /// Send a mail, to try the server
    Test {
        /// Who gets it
        #[arg(value_name = "ADDRESS", required = true)]
        to: Vec<String>,
    },
    /// Forget the mail server and its password
    Remove,
}

/// Give mail to a server from now on
///
/// What is set replaces all that was set before. The node keeps the password in a file that only its own user can read.
#[derive(Debug, Args)]
struct Set {
    /// Its name or address; the port is 465 with tls, 587 with starttls and 25 without, unless it is given
    #[arg(long, value_name = "HOST[:PORT]", value_parser = server)]
    server: (String, Option<u16>),
    /// How the way to it is encrypted
    #[arg(long, value_enum, default_value = "starttls")]
    security: Security,
    /// Whom the mails are from
    #[arg(long, value_name = "ADDRESS")]
    from: String,
    /// Log in under this name
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The user's password is the first line of this file [default: it is asked for]
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,
    /// Trust the authorities whose certificates (PEM) are in this file, and no others [default: those of the host]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Security {
    /// TLS from the first byte
    Tls,
    /// It begins in the clear and must turn to TLS
    Starttls,
    /// All in the clear; nobody can log in so
    None,
}

impl Security {
    const fn to_wire(self) -> v1::MailSecurity {
        match self {
            Self::Tls => v1::MailSecurity::Tls,
            Self::Starttls => v1::MailSecurity::StartTls,
            Self::None => v1::MailSecurity::None,
        }
    }
}

impl Mail {
    pub async fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        match self.command {
            Command::Set(set) => set.run(session).await,
            Command::Show => printer.show(&session.client().await?.mail_server().await?, details),
            Command::Test { to } => {
                let test = v1::MailTest { to };
                session.client().await?.test_mail(&test).await?;
                printer.talk(&format!("The server took a mail to {}.", test.to.join(", ")));
                Ok(())
            }
            Command::Remove => Ok(session.client().await?.remove_mail_server().await?),
        }
    }
}

impl Set {
    async fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let password = match (&self.user, &self.password_file) {
            (None, _) => None,
            (Some(_), Some(file)) => Some(read_file(printer, file)?),
            (Some(user), None) => {
                Some(ask_with(printer, &format!("password of {user}"), "give --password-file")?)
            }
        };
        let (host, port) = self.server;
        let new = v1::NewMailServer {
            host,
            port,
            security: self.security.to_wire(),
            from: self.from,
            user: self.user,
            password: password.as_ref().map(secret).transpose()?,
            ca: self.ca.as_deref().map(authorities).transpose()?,
        };
        printer.changed(&session.client().await?.set_mail_server(&new).await?)
    }
}

fn authorities(path: &Path) -> Result<String> {
    let failed = |e: std::io::Error| Failure::file("read the certificates from", path, &e);
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(CA_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(failed)?;
    if text.len() as u64 > CA_BYTES_MAX {
        let message = format!("{}: certificates have at most {CA_BYTES_MAX} bytes", path.display());
        return Err(Failure::new(ErrorCode::Invalid, message));
    }
    Ok(text)
}

/// `mail.example.org`, `mail.example.org:2525`, `[::1]:25`, `::1`
fn server(text: &str) -> std::result::Result<(String, Option<u16>), String> {
    let number = |port: &str| port.parse().map(Some).map_err(|_| format!("\"{port}\" is no port"));
    if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest.split_once(']').ok_or("an address in [ needs its ]")?;
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host.to_owned(), number(port)?)),
            None if rest.is_empty() => Ok((host.to_owned(), None)),
            None => Err(format!("\"{rest}\" is no port; write [ADDRESS]:PORT")),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => Ok((host.to_owned(), number(port)?)),
        _ => Ok((text.to_owned(), None)),
    }
}

fn details(server: &v1::MailServer) -> String {
    let security = match server.security {
        v1::MailSecurity::Tls => "TLS",
        v1::MailSecurity::StartTls => "TLS, by STARTTLS",
        v1::MailSecurity::None => "none",
    };
    let host = if server.host.contains(':') { format!("[{}]", server.host) } else { server.host.clone() };
    fields(&[
        ("Server", format!("{host}:{}", server.port)),
        ("Security", security.to_owned()),
        ("From", server.from.clone()),
        ("User", server.user.clone().unwrap_or_default()),
        ("Password", if server.user.is_some() { "kept" } else { "" }.to_owned()),
        ("Trusts", if server.ca.is_some() { "the authorities that were given" } else { "" }.to_owned()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_a_port_or_not() {
        let read = |text: &str| server(text).map(|(host, port)| format!("{host} {port:?}"));
        assert_eq!(read("mail.example.org"), Ok("mail.example.org None".to_owned()));
        assert_eq!(read("mail:2525"), Ok("mail Some(2525)".to_owned()));
        assert_eq!(read("[::1]:25"), Ok("::1 Some(25)".to_owned()));
        assert_eq!(read("[::1]"), Ok("::1 None".to_owned()));
        assert_eq!(read("::1"), Ok("::1 None".to_owned()));
        for bad in ["mail:", "mail:smtp", "mail:70000", "[::1", "[::1]25", "[::1]:x"] {
            assert!(server(bad).is_err(), "{bad}");
        }
    }
}
