//! What opens repositories and the mail server: passwords, and credentials of storages, in files that only the node's own user
//! can read.
//!
//! A file is written whole under another name, made durable and then named, so that a node that dies leaves the old
//! secrets or the new ones. What is read from them must never get into a document, a log, an answer or an argument.

use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use nestling_model::protection::{RepositoryId, SecretName};
use nestling_vault::PASSWORD_BYTES_MAX;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

use crate::{NodeError, error::Result, home::remove_file};

/// Settings of a storage, all of them together: a service account's key has a few thousand bytes.
const SETTINGS_BYTES_MAX: usize = 128 << 10;
const FILE_BYTES_MAX: u64 = 512 << 10;

/// What opens one repository or one mail server. Wiped when it goes.
#[derive(Clone, Serialize, Deserialize)]
pub struct Secrets {
    pub password: String,
    /// Of the storage, by the names of the vault's [`Access`](nestling_vault::storage::Access).
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(..)")
    }
}

impl Drop for Secrets {
    fn drop(&mut self) {
        self.password.zeroize();
        self.settings.values_mut().for_each(Zeroize::zeroize);
    }
}

impl Secrets {
    pub fn check(&self) -> Result<()> {
        if self.password.is_empty() || self.password.len() > PASSWORD_BYTES_MAX {
            return Err(NodeError::Invalid(format!("a password has 1 to {PASSWORD_BYTES_MAX} bytes")));
        }
        let bytes: usize = self.settings.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > SETTINGS_BYTES_MAX {
            return Err(NodeError::Invalid(format!(
                "the settings of a storage have at most {SETTINGS_BYTES_MAX} bytes"
            )));
        }
        Ok(())
    }
}

/// Whose it is: the name of its file.
pub struct Owner(String);

impl From<RepositoryId> for Owner {
    fn from(id: RepositoryId) -> Self {
        Self(id.0.to_string())
    }
}

impl From<&SecretName> for Owner {
    fn from(name: &SecretName) -> Self {
        Self(name.to_string())
    }
}

/// The directory of them all.
#[derive(Debug, Clone)]
pub struct SecretFiles(PathBuf);

impl SecretFiles {
    pub fn new(dir: PathBuf) -> Self {
        Self(dir)
    }

    fn path(&self, of: impl Into<Owner>) -> PathBuf {
        self.0.join(of.into().0)
    }

    /// Durable when this returns.
    pub fn put(&self, of: impl Into<Owner>, secrets: &Secrets) -> Result<()> {
        let path = self.path(of);
        let part = path.with_extension("part");
        remove_file(&part)?;
        let text = serde_json::to_vec(secrets).map_err(|e| NodeError::Internal(e.to_string()))?;
        let written = write(&part, &Zeroizing::new(text)).and_then(|()| fs::rename(&part, &path));
        written.map_err(NodeError::io("write", &path))?;
        File::open(&self.0).and_then(|dir| dir.sync_all()).map_err(NodeError::io("sync", &self.0))
    }

    pub fn get(&self, of: impl Into<Owner>) -> Result<Secrets> {
        let path = self.path(of);
        let text = read(&path).map_err(NodeError::io("read the password from", &path))?;
        serde_json::from_slice(&text).map_err(|_| {
            // What serde says of it could show a part of it.
            let damaged = std::io::Error::new(std::io::ErrorKind::InvalidData, "it is damaged");
            NodeError::io("read the password from", &path)(damaged)
        })
    }

    pub fn remove(&self, of: impl Into<Owner>) -> Result<()> {
        remove_file(&self.path(of))
    }

    /// Removes what belongs to nobody: a node died between its steps.
    pub fn sweep(&self, known: &[Owner]) -> Result<()> {
        for entry in fs::read_dir(&self.0).map_err(NodeError::io("list", &self.0))? {
            let path = entry.map_err(NodeError::io("list", &self.0))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if !name.is_some_and(|name| known.iter().any(|of| of.0 == name)) {
                remove_file(&path)?;
            }
        }
        Ok(())
    }
}

fn write(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

fn read(path: &Path) -> std::io::Result<Zeroizing<Vec<u8>>> {
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or_default();
    let file = File::options().read(true).custom_flags(no_follow).open(path)?;
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), "others could read a password; that is mended");
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
    }
    // One buffer that never grows: what is moved elsewhere would not be wiped.
    let size = file.metadata()?.len().min(FILE_BYTES_MAX);
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(size).unwrap_or_default() + 1));
    file.take(size).read_to_end(&mut text)?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    use uuid::Uuid;

    const ID: RepositoryId = RepositoryId(Uuid::from_u128(1));

    fn secrets(password: &str) -> Secrets {
        let settings = BTreeMap::from([("aws_secret_access_key".to_owned(), "hunter3".to_owned())]);
        Secrets { password: password.to_owned(), settings }
    }

    #[test]
    fn secrets_are_kept_for_their_owner_alone() {
        let dir = tempfile::tempdir().unwrap();
        let files = SecretFiles::new(dir.path().to_owned());
        files.put(ID, &secrets("hunter2")).unwrap();
        files.put(ID, &secrets("hunter4")).unwrap();
        let read = files.get(ID).unwrap();
        assert_eq!((read.password.as_str(), read.settings.len()), ("hunter4", 1));
        let mode = || fs::metadata(files.path(ID)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(), 0o600);
        fs::set_permissions(files.path(ID), fs::Permissions::from_mode(0o644)).unwrap();
        files.get(ID).unwrap();
        assert_eq!(mode(), 0o600, "whoever opened it to others meanwhile");
        assert!(!format!("{read:?}").contains("hunter"));
    }

    #[test]
    fn what_is_damaged_is_told_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        let files = SecretFiles::new(dir.path().to_owned());
        assert!(files.get(ID).unwrap_err().message().contains("No such file"));
        fs::write(files.path(ID), "{\"password\": \"hunter2").unwrap();
        let refused = files.get(ID).unwrap_err().message();
        assert!(refused.contains("damaged") && !refused.contains("hunter2"), "{refused}");
        let outside = dir.path().join("outside");
        fs::write(&outside, serde_json::to_vec(&secrets("x")).unwrap()).unwrap();
        fs::remove_file(files.path(ID)).unwrap();
        std::os::unix::fs::symlink(&outside, files.path(ID)).unwrap();
        assert!(files.get(ID).is_err(), "a link leads elsewhere");
    }

    #[test]
    fn what_belongs_to_nobody_goes() {
        let dir = tempfile::tempdir().unwrap();
        let files = SecretFiles::new(dir.path().to_owned());
        let other = RepositoryId(Uuid::from_u128(2));
        files.put(ID, &secrets("a")).unwrap();
        files.put(other, &secrets("b")).unwrap();
        let (mail, older): (SecretName, SecretName) = ("mail-2".parse().unwrap(), "mail-1".parse().unwrap());
        files.put(&mail, &secrets("c")).unwrap();
        files.put(&older, &secrets("d")).unwrap();
        fs::write(files.path(ID).with_extension("part"), "torn").unwrap();
        files.sweep(&[ID.into(), (&mail).into()]).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
        files.get(ID).unwrap();
        assert_eq!(files.get(&mail).unwrap().password, "c");
    }

    #[test]
    fn sizes_are_bounded() {
        assert!(secrets("x").check().is_ok() && secrets("").check().is_err());
        assert!(secrets(&"x".repeat(PASSWORD_BYTES_MAX + 1)).check().is_err());
        let settings = BTreeMap::from([("a".to_owned(), "x".repeat(SETTINGS_BYTES_MAX))]);
        assert!(Secrets { password: "x".into(), settings }.check().is_err());
    }
}
