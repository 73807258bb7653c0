//! A vault that a host knows by name.

use serde::{Deserialize, Serialize};

use super::{id::RepositoryId, location::Location};
use crate::name::RepositoryName;

/// The slowest upload that can be asked for, in bytes a second: below, a run takes years and looks like one that hangs.
pub const UPLOAD_BYTES_PER_SECOND_MIN: u64 = 16 << 10;

/// What is stored of a repository. Its password and the credentials of its storage lie in files of the home, by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repository {
    pub id: RepositoryId,
    pub name: RepositoryName,
    pub location: Location,
    /// Bytes a second, of all runs together; `None`: as fast as it goes.
    #[serde(default)]
    pub upload_bytes_per_second_max: Option<u64>,
    /// Nothing in it is removed from this host, so that who takes over the host cannot destroy backups.
    #[serde(default)]
    pub append_only: bool,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default)]
    pub created_at_ms: u64,
}

/// Why a repository cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RepositoryInvalid {
    #[error(
        "the upload limit is at least {UPLOAD_BYTES_PER_SECOND_MIN} bytes a second; {0} were asked for (leave it out for no limit)"
    )]
    Upload(u64),
    #[error("a repository is called \"{0}\" already; give another name")]
    Name(RepositoryName),
    #[error("the repository \"{name}\" lies at {location} already; use that one")]
    Location { name: RepositoryName, location: Location },
}

impl Repository {
    /// Checks all that can be decided from the values, with the other repositories of the host.
    pub fn validate(&self, others: &[Self]) -> Result<(), RepositoryInvalid> {
        if let Some(limit) = self.upload_bytes_per_second_max.filter(|l| *l < UPLOAD_BYTES_PER_SECOND_MIN) {
            return Err(RepositoryInvalid::Upload(limit));
        }
        for other in others.iter().filter(|other| other.id != self.id) {
            if other.name == self.name {
                return Err(RepositoryInvalid::Name(other.name.clone()));
            }
            if other.location == self.location {
                let (name, location) = (other.name.clone(), other.location.clone());
                return Err(RepositoryInvalid::Location { name, location });
            }
        }
        Ok(())
    }
}
