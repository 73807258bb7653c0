//! How a repository's storage is reached, whoever reaches it: with which credentials, at which speed, and whether
//! anything may be removed. What cuts across all places is wrapped around the place here, once, in the one right order.

use std::{collections::BTreeMap, env, fmt, sync::Arc};

use super::{
    AppendOnly, Location, RetryPolicy, Retrying, Storage, StorageError, StorageOptions, Throttle, Throttled,
    object::knows, open,
};

/// What is decided about a storage besides its place.
#[derive(Clone, Default)]
pub struct Access {
    /// As in [`StorageOptions`].
    pub settings: BTreeMap<String, String>,
    /// May be shared with others, which are then held to it together.
    pub throttle: Option<Arc<Throttle>>,
    /// Nothing can be removed.
    pub append_only: bool,
}

/// Says which settings there are and no more.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.settings.keys().collect();
        let mut shown = f.debug_struct("Access");
        shown.field("settings", &names).field("append_only", &self.append_only).finish_non_exhaustive()
    }
}

impl Access {
    /// The storage of a repository that is there.
    pub fn open(&self, location: &str) -> Result<Arc<dyn Storage>, StorageError> {
        self.reach(location, false)
    }

    /// A place for a new repository; the directories of one in a directory are made.
    pub fn create(&self, location: &str) -> Result<Arc<dyn Storage>, StorageError> {
        self.reach(location, true)
    }

    fn reach(&self, location: &str, create: bool) -> Result<Arc<dyn Storage>, StorageError> {
        let is_local = matches!(location.parse()?, Location::Local(_));
        let settings = self.settings.clone();
        let mut storage = open(location, &StorageOptions { create, settings, ..StorageOptions::default() })?;
        if !is_local {
            storage = Arc::new(Retrying::new(storage, RetryPolicy::default()));
        }
        if let Some(throttle) = &self.throttle {
            storage = Arc::new(Throttled::sharing(storage, throttle.clone()));
        }
        Ok(if self.append_only { Arc::new(AppendOnly::new(storage)) } else { storage })
    }
}

/// What the environment holds for a location's provider, in the form of [`Access::settings`]: for who hands it over to a
/// process with another environment.
pub fn settings_of_environment(location: &Location) -> BTreeMap<String, String> {
    let texts = env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let is_capital = |name: &str| !name.bytes().any(|b| b.is_ascii_lowercase());
    texts
        .filter(|(name, value)| is_capital(name) && !value.is_empty())
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .filter(|(name, _)| knows(location, name))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{FileKind, FileName};

    #[test]
    fn settings_never_show() {
        let settings = BTreeMap::from([("aws_secret_access_key".to_owned(), "hunter2".to_owned())]);
        let shown = format!("{:?}", Access { settings, ..Access::default() });
        assert!(shown.contains("aws_secret_access_key") && !shown.contains("hunter2"), "{shown}");
    }

    #[test]
    fn a_setting_belongs_to_one_provider() {
        let of = |text: &str| text.parse::<Location>().unwrap();
        assert!(
            knows(&of("s3://b"), "aws_secret_access_key") && !knows(&of("gs://b"), "aws_secret_access_key")
        );
        assert!(
            knows(&of("azure://c"), "azure_storage_account_key")
                && knows(&of("gs://b"), "google_application_credentials")
        );
        assert!(!knows(&of("s3://b"), "aws_vault_of_mine") && !knows(&of("/dir"), "aws_secret_access_key"));
    }

    #[test]
    fn what_is_append_only_removes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("new").display().to_string();
        let storage = Access { append_only: true, ..Access::default() }.create(&place).unwrap();
        let file = FileName::new(FileKind::Key, "ab".repeat(32)).unwrap();
        storage.put(&file, b"x").unwrap();
        assert!(storage.remove(&file).is_err());
        let storage = Access::default().open(&place).unwrap();
        storage.remove(&file).unwrap();
    }
}
