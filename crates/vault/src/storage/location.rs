//! Where a repository lies, as people write it, and the storage that answers for it.

use std::{collections::BTreeMap, env, fmt, path::PathBuf, str::FromStr, sync::Arc, time::Duration};

use super::{LocalStorage, ObjectStorage, Operation, Storage, StorageError, StorageErrorKind};

/// A place for a repository. A prefix has no slash at its ends, and is empty for a whole bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    Local(PathBuf),
    /// Without an endpoint it is Amazon's, or the environment's `AWS_ENDPOINT_URL`.
    S3 {
        endpoint: Option<String>,
        bucket: String,
        prefix: String,
    },
    Azure {
        container: String,
        prefix: String,
    },
    Google {
        bucket: String,
        prefix: String,
    },
}

impl Location {
    /// Whether it is reached without TLS, because its address says so.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self, Self::S3 { endpoint: Some(endpoint), .. } if endpoint.starts_with("http:"))
    }

    /// Where in the bucket the repository lies; empty for a directory.
    pub fn prefix(&self) -> &str {
        match self {
            Self::Local(_) => "",
            Self::S3 { prefix, .. } | Self::Azure { prefix, .. } | Self::Google { prefix, .. } => prefix,
        }
    }
}

impl FromStr for Location {
    type Err = StorageError;

    /// Reads `s3:https://HOST/BUCKET/PREFIX` and `s3:HOST/BUCKET/PREFIX` as restic does, `s3://BUCKET/PREFIX`,
    /// `azure://CONTAINER/PREFIX`, `gs://BUCKET/PREFIX`; everything else is a directory.
    fn from_str(text: &str) -> Result<Self, StorageError> {
        let parsed = if let Some(rest) = text.strip_prefix("s3://") {
            bucket(rest).map(|(bucket, prefix)| Self::S3 { endpoint: None, bucket, prefix })
        } else if let Some(rest) = text.strip_prefix("s3:") {
            s3_with_endpoint(rest)
        } else if let Some(rest) = text.strip_prefix("azure://") {
            bucket(rest).map(|(container, prefix)| Self::Azure { container, prefix })
        } else if let Some(rest) = text.strip_prefix("gs://") {
            bucket(rest).map(|(bucket, prefix)| Self::Google { bucket, prefix })
        } else if text.is_empty() || text.contains("://") || text.contains('\0') {
            None
        } else {
            Some(Self::Local(PathBuf::from(text)))
        };
        parsed.ok_or_else(|| {
            StorageError::new(StorageErrorKind::InvalidLocation, Operation::Open, without_credentials(text))
        })
    }
}

/// A location that is no location may still hold a password, which a message must not show.
fn without_credentials(text: &str) -> String {
    let text: String = text.chars().take(200).filter(|c| !c.is_control()).collect();
    match text.split_once("://").zip(text.rsplit_once('@')) {
        Some(((scheme, _), (_, host))) => format!("{scheme}://…@{host}"),
        None => text,
    }
}

fn s3_with_endpoint(text: &str) -> Option<Location> {
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme @ ("http" | "https"), rest)) => (scheme, rest),
        Some(_) => return None,
        None => ("https", text),
    };
    let (host, rest) = rest.split_once('/')?;
    // Credentials in an address end up in messages and process lists.
    let is_host = !host.is_empty()
        && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
    let (bucket, prefix) = bucket(rest)?;
    is_host.then(|| Location::S3 { endpoint: Some(format!("{scheme}://{host}")), bucket, prefix })
}

/// The bucket and the prefix in it.
fn bucket(text: &str) -> Option<(String, String)> {
    let (bucket, prefix) = text.split_once('/').unwrap_or((text, ""));
    let is_bucket = !bucket.is_empty()
        && bucket.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'$'));
    let parts: Vec<&str> = prefix.split('/').filter(|part| !part.is_empty()).collect();
    let are_parts = parts.iter().all(|part| {
        *part != "."
            && *part != ".."
            && !part.contains(['?', '#', '%', '\\'])
            && !part.contains(char::is_control)
    });
    (is_bucket && are_parts).then(|| (bucket.to_owned(), parts.join("/")))
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.prefix();
        let slash = if prefix.is_empty() { "" } else { "/" };
        match self {
            Self::Local(path) => write!(f, "{}", path.display()),
            Self::S3 { endpoint: None, bucket, .. } => write!(f, "s3://{bucket}{slash}{prefix}"),
            Self::S3 { endpoint: Some(endpoint), bucket, .. } => {
                write!(f, "s3:{endpoint}/{bucket}{slash}{prefix}")
            }
            Self::Azure { container, .. } => write!(f, "azure://{container}{slash}{prefix}"),
            Self::Google { bucket, .. } => write!(f, "gs://{bucket}{slash}{prefix}"),
        }
    }
}

/// How to open a storage.
#[derive(Clone)]
pub struct StorageOptions {
    /// Makes the directories of a repository in a directory; object stores need none.
    pub create: bool,
    /// Settings for object stores under the names of the environment's variables in small letters, such as
    /// `aws_access_key_id`. They go before the environment's.
    pub settings: BTreeMap<String, String>,
    /// How long a request without data may take.
    pub timeout: Duration,
}

impl Default for StorageOptions {
    fn default() -> Self {
        Self { create: false, settings: BTreeMap::new(), timeout: Duration::from_secs(60) }
    }
}

/// Says which settings there are and no more.
impl fmt::Debug for StorageOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.settings.keys().collect();
        let mut shown = f.debug_struct("StorageOptions");
        shown.field("create", &self.create).field("timeout", &self.timeout).field("settings", &names).finish()
    }
}

impl StorageOptions {
    /// All that may not show in a message.
    pub(super) fn secrets(&self) -> Vec<String> {
        let is_secret = |name: &str| ["KEY", "SECRET", "TOKEN", "SAS"].iter().any(|word| name.contains(word));
        let providers = ["AWS_", "AZURE_", "GOOGLE_"];
        let given = self.settings.iter().map(|(name, value)| (name.to_uppercase(), value.clone()));
        let of_environment = env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| providers.iter().any(|provider| name.starts_with(provider)));
        given.chain(of_environment).filter(|(name, _)| is_secret(name)).map(|(_, value)| value).collect()
    }
}

/// Opens the storage at a location.
pub fn open(location: &str, options: &StorageOptions) -> Result<Arc<dyn Storage>, StorageError> {
    match location.parse()? {
        Location::Local(path) if options.create => Ok(Arc::new(LocalStorage::create(&path)?)),
        Location::Local(path) => Ok(Arc::new(LocalStorage::open(&path)?)),
        remote => Ok(Arc::new(ObjectStorage::open(&remote, options)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn s3(endpoint: Option<&str>, bucket: &str, prefix: &str) -> Location {
        Location::S3 {
            endpoint: endpoint.map(str::to_owned),
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        }
    }

    #[test]
    fn places_are_named_as_for_restic() {
        for (text, location) in [
            ("s3:https://h.example:9000/b/p/q", s3(Some("https://h.example:9000"), "b", "p/q")),
            ("s3:http://127.0.0.1:1/b", s3(Some("http://127.0.0.1:1"), "b", "")),
            ("s3:h.example/b//p/", s3(Some("https://h.example"), "b", "p")),
            ("s3://b/p", s3(None, "b", "p")),
            ("azure://c/p", Location::Azure { container: "c".into(), prefix: "p".into() }),
            ("gs://b", Location::Google { bucket: "b".into(), prefix: String::new() }),
            ("/srv/backup", Location::Local("/srv/backup".into())),
            ("backup", Location::Local("backup".into())),
        ] {
            assert_eq!(text.parse::<Location>().unwrap(), location, "{text}");
            let shown = location.to_string();
            assert_eq!(shown.parse::<Location>().unwrap(), location, "{shown}");
        }
    }

    #[test]
    fn what_is_no_place_is_refused_without_showing_a_password() {
        for text in [
            "",
            "s3:",
            "s3://",
            "s3:host",
            "s3:host/",
            "s3:ftp://h/b",
            "s3://b/../x",
            "gs:///p",
            "azure://c/a?sig=1",
            "sftp://h/p",
            "s3:https://user:secret@h/b",
            "https://user:secret@h/b",
        ] {
            let error = text.parse::<Location>().unwrap_err();
            assert_eq!(error.kind, StorageErrorKind::InvalidLocation, "{text}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn settings_never_show() {
        let settings = BTreeMap::from([("aws_secret_access_key".to_owned(), "hunter2".to_owned())]);
        let options = StorageOptions { settings, ..StorageOptions::default() };
        assert!(!format!("{options:?}").contains("hunter2"));
        assert!(options.secrets().contains(&"hunter2".to_owned()));
    }

    #[test]
    fn without_credentials_no_request_is_made() {
        for (location, variable) in [("azure://c", "AZURE_STORAGE_ACCOUNT_KEY"), ("gs://b", "GOOGLE_")] {
            let error = open(location, &StorageOptions::default()).err().unwrap();
            assert_eq!(error.kind, StorageErrorKind::Denied);
            assert!(error.to_string().contains(variable), "{error}");
        }
    }

    /// As far as that can be seen without asking them.
    #[test]
    fn every_provider_opens_with_its_credentials() {
        for (location, settings) in [
            ("s3://b/p", [("aws_access_key_id", "AKID"), ("aws_secret_access_key", "hunter2")]),
            (
                "azure://c/p",
                [("azure_storage_account_name", "name"), ("azure_storage_account_key", "aHVudGVyMg==")],
            ),
            ("gs://b/p", [("google_bearer_token", "hunter2"), ("google_base_url", "http://127.0.0.1:1")]),
        ] {
            let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
            let options = StorageOptions { settings: settings.into(), ..StorageOptions::default() };
            let storage = open(location, &options).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(storage.describe(), location);
        }
        let settings = [("azure_storage_account_key", "hunter2!"), ("azure_storage_account_name", "name")];
        let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let options = StorageOptions { settings: settings.into(), ..StorageOptions::default() };
        let error = open("azure://c", &options).err().unwrap();
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }

    proptest! {
        #[test]
        fn any_text_is_a_place_or_an_error(text in "(s3:|s3://|gs://|azure://|)[ -~é]{0,40}") {
            if let Ok(location) = text.parse::<Location>() {
                prop_assert_eq!(location.to_string().parse::<Location>().unwrap(), location);
            }
        }
    }
}
