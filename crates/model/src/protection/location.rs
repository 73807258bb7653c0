//! Where a repository lies, as text.
//!
//! Only the form is looked at, so that a slip is told when it is made: whether the place exists and can be reached is
//! the vault's to say, and so is the last word on what it takes.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The longest location, in bytes.
pub const LOCATION_BYTES_MAX: usize = 1024;

/// Why a text is no location.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LocationInvalid {
    #[error("a location can't be empty")]
    Empty,
    #[error("a location has at most {LOCATION_BYTES_MAX} bytes")]
    TooLong,
    #[error("a location has no control characters or line breaks")]
    Control,
    #[error(
        "a directory is given with its whole path, from /; the node does not know the directory that you are in"
    )]
    Relative,
    #[error(
        "a location has no password in it; take it out, and give credentials to the repository's secrets instead"
    )]
    Credentials,
    #[error("this kind of address is not known; use a directory, s3:, azure://, gs:// or sftp:")]
    Scheme,
    #[error("the address lacks a bucket, container or host")]
    NoBucket,
    #[error("the address has a part that is not allowed: an empty name, \".\" or \"..\", or one of ? # % \\")]
    Part,
}

/// A directory (`/srv/vault`), `s3://BUCKET/PREFIX`, `s3:https://HOST/BUCKET/PREFIX`, `azure://CONTAINER/PREFIX`,
/// `gs://BUCKET/PREFIX`, `sftp://USER@HOST:PORT/PATH` or `sftp:USER@HOST:/PATH`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Location(String);

impl Location {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a directory of this host.
    pub fn is_local(&self) -> bool {
        self.0.starts_with('/')
    }
}

fn check(text: &str) -> Result<(), LocationInvalid> {
    if text.is_empty() {
        return Err(LocationInvalid::Empty);
    }
    if text.len() > LOCATION_BYTES_MAX {
        return Err(LocationInvalid::TooLong);
    }
    if text.contains(char::is_control) {
        return Err(LocationInvalid::Control);
    }
    if text.starts_with('/') {
        return Ok(());
    }
    if let Some(rest) = ["s3://", "azure://", "gs://"].iter().find_map(|scheme| text.strip_prefix(scheme)) {
        return check_bucket(rest);
    }
    if let Some(rest) = text.strip_prefix("s3:") {
        let rest =
            ["https://", "http://"].iter().find_map(|scheme| rest.strip_prefix(scheme)).unwrap_or(rest);
        let (host, rest) = rest.split_once('/').ok_or(LocationInvalid::NoBucket)?;
        check_host(host)?;
        return check_bucket(rest);
    }
    if let Some(rest) = text.strip_prefix("sftp://") {
        let (host, path) = rest.split_once('/').ok_or(LocationInvalid::NoBucket)?;
        check_host(without_user(host)?)?;
        return check_parts(path);
    }
    if let Some(rest) = text.strip_prefix("sftp:") {
        let (host, path) = rest.split_once(':').ok_or(LocationInvalid::NoBucket)?;
        check_host(without_user(host)?)?;
        return check_parts(path.trim_start_matches('/'));
    }
    Err(if text.contains("://") { LocationInvalid::Scheme } else { LocationInvalid::Relative })
}

fn without_user(host: &str) -> Result<&str, LocationInvalid> {
    match host.rsplit_once('@') {
        Some((user, _)) if user.contains(':') => Err(LocationInvalid::Credentials),
        Some((_, host)) => Ok(host),
        None => Ok(host),
    }
}

fn check_host(host: &str) -> Result<(), LocationInvalid> {
    if host.contains('@') {
        return Err(LocationInvalid::Credentials);
    }
    let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']');
    if host.is_empty() || !host.bytes().all(is_host) { Err(LocationInvalid::NoBucket) } else { Ok(()) }
}

fn check_bucket(text: &str) -> Result<(), LocationInvalid> {
    let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
    if bucket.contains('@') {
        return Err(LocationInvalid::Credentials);
    }
    let is_bucket = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'$');
    if bucket.is_empty() || !bucket.bytes().all(is_bucket) {
        return Err(LocationInvalid::NoBucket);
    }
    check_parts(prefix)
}

fn check_parts(path: &str) -> Result<(), LocationInvalid> {
    let is_part = |part: &str| part != "." && part != ".." && !part.contains(['?', '#', '%', '\\']);
    if path.split('/').all(is_part) { Ok(()) } else { Err(LocationInvalid::Part) }
}

impl FromStr for Location {
    type Err = LocationInvalid;

    fn from_str(text: &str) -> Result<Self, LocationInvalid> {
        check(text)?;
        Ok(Self(text.to_owned()))
    }
}

impl TryFrom<String> for Location {
    type Error = LocationInvalid;

    fn try_from(text: String) -> Result<Self, LocationInvalid> {
        text.parse()
    }
}

impl From<Location> for String {
    fn from(location: Location) -> Self {
        location.0
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_taken_as_they_are_written() {
        for good in [
            "/srv/vault",
            "/srv/with blank/ü",
            "s3://bucket",
            "s3://bucket/some/prefix",
            "s3:https://minio.example:9000/bucket/p",
            "s3:s3.eu-central-1.amazonaws.com/bucket",
            "azure://container/p",
            "gs://bucket",
            "sftp://backup@nas.example:2222/vault",
            "sftp:backup@nas:/srv/vault",
        ] {
            assert_eq!(good.parse::<Location>().unwrap().to_string(), good);
        }
    }

    #[test]
    fn slips_are_told_apart() {
        use LocationInvalid::{Control, Credentials, Empty, NoBucket, Part, Relative, Scheme, TooLong};
        for (bad, why) in [
            ("", Empty),
            ("vault", Relative),
            ("./vault", Relative),
            ("/srv\nvault", Control),
            ("ftp://host/p", Scheme),
            ("s3://", NoBucket),
            ("s3:https://key:secret@host/bucket", Credentials),
            ("s3://key@bucket/p", Credentials),
            ("sftp://user:secret@host/p", Credentials),
            ("sftp://host", NoBucket),
            ("gs://bucket/../other", Part),
            (&format!("/{}", "x".repeat(1024)), TooLong),
        ] {
            assert_eq!(bad.parse::<Location>(), Err(why), "{bad}");
        }
    }

    #[test]
    fn no_message_shows_what_was_typed() {
        let error = "s3:https://key:hunter2@host/bucket".parse::<Location>().unwrap_err();
        assert!(!format!("{error} {error:?}").contains("hunter2"));
    }
}
