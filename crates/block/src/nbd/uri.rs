//! Addresses of exports, as the NBD project writes them: `nbd://HOST:PORT/EXPORT`, `nbd+unix:///EXPORT?socket=PATH`.
//!
//! A TLS address is refused, never opened without TLS.

use std::{fmt, path::PathBuf, str::FromStr};

use super::NbdAddress;
use crate::BlockError;

const PORT: u16 = 10809;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdUri {
    pub address: NbdAddress,
    /// Empty is the server's default.
    pub export: String,
}

impl FromStr for NbdUri {
    type Err = BlockError;

    fn from_str(text: &str) -> Result<Self, BlockError> {
        let wrong =
            |what: &str| BlockError::unsupported(text, format!("is no address of an NBD export: {what}"));
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| wrong("nbd:// or nbd+unix:// is missing"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let export = unescape(path).ok_or_else(|| wrong("the export's name is badly escaped"))?;
        let address = match scheme {
            "nbd+unix" => {
                let socket = query
                    .split('&')
                    .find_map(|pair| pair.strip_prefix("socket="))
                    .and_then(unescape)
                    .filter(|socket| !socket.is_empty())
                    .ok_or_else(|| wrong("socket=PATH is missing"))?;
                if !authority.is_empty() {
                    return Err(wrong("a unix socket has no host; write nbd+unix:///EXPORT"));
                }
                NbdAddress::Unix(PathBuf::from(socket))
            }
            "nbd" => tcp(authority).ok_or_else(|| wrong("the host or the port"))?,
            "nbds" | "nbds+unix" => return Err(wrong("TLS is not spoken")),
            _ => return Err(wrong("begin with nbd:// or nbd+unix://")),
        };
        Ok(Self { address, export })
    }
}

fn tcp(authority: &str) -> Option<NbdAddress> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(v6) => {
            let (host, rest) = v6.split_once(']')?;
            (host, rest.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let port = port.map_or(Some(PORT), |port| port.parse().ok())?;
    (!host.is_empty() && !host.contains('@')).then(|| NbdAddress::Tcp(host.to_owned(), port))
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let (high, low) =
                (char::from(rest.next()?).to_digit(16)?, char::from(rest.next()?).to_digit(16)?);
            bytes.push((high * 16 + low) as u8);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.contains('\0'))
}

fn escape(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                write!(f, "{}", byte as char)?;
            }
            _ => write!(f, "%{byte:02X}")?,
        }
    }
    Ok(())
}

impl fmt::Display for NbdUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            NbdAddress::Unix(path) => {
                f.write_str("nbd+unix:///")?;
                escape(&self.export, f)?;
                f.write_str("?socket=")?;
                escape(&path.to_string_lossy(), f)
            }
            NbdAddress::Tcp(host, port) if host.contains(':') => {
                write!(f, "nbd://[{host}]:{port}/")?;
                escape(&self.export, f)
            }
            NbdAddress::Tcp(host, port) => {
                write!(f, "nbd://{host}:{port}/")?;
                escape(&self.export, f)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses() {
        let read = |text: &str| text.parse::<NbdUri>().expect("an address");
        let uri = read("nbd+unix:///a%20disk?socket=/run/x.sock");
        assert_eq!(uri.export, "a disk");
        assert_eq!(uri.address, NbdAddress::Unix("/run/x.sock".into()));
        assert_eq!(read("nbd://localhost/x").address, NbdAddress::Tcp("localhost".into(), 10809));
        assert_eq!(read("nbd://[::1]:99").address, NbdAddress::Tcp("::1".into(), 99));
        for text in [
            "nbds://a/x",
            "nbd+unix:///x",
            "nbd:///x",
            "a",
            "nbd://h:x/",
            "nbd://h/%zz",
            "nbd://h/%00",
            "nbd://h/%e",
        ] {
            assert!(text.parse::<NbdUri>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(export in "[^\0]{0,20}", path in "/[^\0]{1,20}") {
            let uri = NbdUri { address: NbdAddress::Unix(path.into()), export };
            prop_assert_eq!(uri.to_string().parse::<NbdUri>().expect("its own"), uri);
        }

        #[test]
        fn rubbish_never_panics(text in "(nbd|nbd\\+unix|x)?(://)?.{0,30}") {
            let _ = text.parse::<NbdUri>();
        }
    }
}
