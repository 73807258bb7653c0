//! Key files by the first digits of their id, as people type them.

use crate::{KeyId, Repository, VaultError};

impl Repository {
    /// The one key whose id begins with these digits.
    pub fn find_key_id(&self, digits: &str) -> Result<KeyId, VaultError> {
        let shown = || digits.chars().take(80).collect::<String>();
        let keys = self.keys()?;
        let mut fitting = keys.iter().map(|(id, ..)| id).filter(|id| id.to_string().starts_with(digits));
        match (fitting.next().filter(|_| !digits.is_empty()), fitting.next()) {
            (Some(id), None) => Ok(*id),
            (Some(_), Some(_)) => {
                Err(VaultError::Invalid(format!("{} is not one key but several; give more digits", shown())))
            }
            (None, _) => Err(VaultError::NoSuchKey(shown())),
        }
    }
}
