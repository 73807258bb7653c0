//! The few questions that more than one part of this crate asks, with their answers typed.

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{Qmp, QmpError};

/// How far a migration is. Fields that a QEMU leaves out are zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MigrationStatus {
    /// Empty before any migration.
    pub status: String,
    #[serde(rename = "error-desc")]
    pub error: Option<String>,
    pub ram: MigrationRam,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct MigrationRam {
    pub transferred: u64,
    pub total: u64,
}

#[derive(Deserialize)]
struct Chardev {
    label: String,
    #[serde(rename = "frontend-open")]
    frontend_open: bool,
}

impl Qmp {
    async fn ask<T: DeserializeOwned>(&self, command: &str) -> Result<T, QmpError> {
        typed(command, self.execute(command, json!({})).await?)
    }

    /// QEMU's word for what the machine does: `running`, `paused` ...
    pub async fn status(&self) -> Result<String, QmpError> {
        #[derive(Deserialize)]
        struct Status {
            status: String,
        }
        Ok(self.ask::<Status>("query-status").await?.status)
    }

    /// Whether a program in the guest has the port behind this character device open.
    pub async fn guest_has_open(&self, chardev: &str) -> Result<bool, QmpError> {
        let chardevs: Vec<Chardev> = self.ask("query-chardev").await?;
        Ok(chardevs.iter().any(|c| c.label == chardev && c.frontend_open))
    }

    pub async fn migration(&self) -> Result<MigrationStatus, QmpError> {
        self.ask("query-migrate").await
    }
}

fn typed<T: DeserializeOwned>(command: &str, answer: Value) -> Result<T, QmpError> {
    serde_json::from_value(answer)
        .map_err(|e| QmpError::Nonsense { command: command.to_owned(), why: e.to_string() })
}
