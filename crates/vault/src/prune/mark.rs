//! Marks: files beside restic's that say which packs are to go, and who may still build on them.

use std::{collections::HashSet, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    PackId, VaultError,
    format::{FormatError, Timestamp, object::seal_object},
    id::hex,
    repo::{Repository, damaged, is_not_found},
    storage::{FileKind, FileName},
};

const MARK_BYTES_MAX: usize = 256 << 20;

/// Packs that are to go, and who may still build on them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Mark {
    #[serde(skip)]
    name: String,
    time: Timestamp,
    pub(super) packs: Vec<PackId>,
    /// None: not yet written down.
    #[serde(skip)]
    pub(super) sessions: Option<Vec<String>>,
}

impl Mark {
    /// Marks packs: savers that begin from now on do not build on them.
    pub(super) fn put(repository: &Repository, packs: Vec<PackId>) -> Result<Self, VaultError> {
        let mut random = [0; 16];
        crate::crypto::random(&mut random)?;
        let time = Timestamp::from(SystemTime::now());
        let mark = Self { name: hex(&random), time, packs, sessions: None };
        put_extra(repository, format!("mark-{}.packs", mark.name), &mark)?;
        Ok(mark)
    }

    /// Writes down who was at work after the mark was there.
    pub(super) fn seal(&mut self, repository: &Repository, sessions: Vec<String>) -> Result<(), VaultError> {
        put_extra(repository, format!("mark-{}.sessions", self.name), &sessions)?;
        self.sessions = Some(sessions);
        Ok(())
    }

    /// Whether all who may have built on its packs have ended.
    pub(super) fn is_due(&self, live: &HashSet<String>) -> bool {
        self.sessions.as_ref().is_some_and(|sessions| sessions.iter().all(|session| !live.contains(session)))
    }

    /// A mark without sessions gets new ones; sessions without a mark would be left for ever.
    pub(super) fn remove(&self, repository: &Repository) -> Result<(), VaultError> {
        repository.storage.remove(&extra(format!("mark-{}.sessions", self.name)))?;
        Ok(repository.storage.remove(&extra(format!("mark-{}.packs", self.name)))?)
    }
}

fn extra(name: String) -> FileName {
    FileName { kind: FileKind::Extra, name }
}

/// Packs that savers must not build on any more.
pub(crate) fn marked_packs(repository: &Repository) -> Result<HashSet<PackId>, VaultError> {
    Ok(read_marks(repository)?.into_iter().flat_map(|mark| mark.packs).collect())
}

pub(super) fn read_marks(repository: &Repository) -> Result<Vec<Mark>, VaultError> {
    let names: Vec<String> =
        repository.storage.list(FileKind::Extra)?.into_iter().map(|listed| listed.name).collect();
    let mut marks = Vec::new();
    for name in names.iter().filter_map(|name| name.strip_prefix("mark-")?.strip_suffix(".packs")) {
        let file = format!("mark-{name}.packs");
        let json = match repository.object(FileKind::Extra, &file, MARK_BYTES_MAX) {
            Ok(json) => json,
            Err(error) if is_not_found(&error) => continue,
            Err(error) => return Err(error),
        };
        let parse =
            |error: serde_json::Error| damaged(&file, FormatError::invalid("mark", error.to_string()));
        let mut mark: Mark = serde_json::from_slice(&json).map_err(parse)?;
        mark.name = name.to_owned();
        let file = format!("mark-{name}.sessions");
        if names.contains(&file) {
            match repository.object(FileKind::Extra, &file, MARK_BYTES_MAX) {
                Ok(json) => mark.sessions = Some(serde_json::from_slice(&json).map_err(parse)?),
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        marks.push(mark);
    }
    Ok(marks)
}

/// Removes sessions whose mark is gone: a removal may be undone by a power failure or come too early.
pub(super) fn sweep_sessions(repository: &Repository) -> Result<(), VaultError> {
    let names: Vec<String> =
        repository.storage.list(FileKind::Extra)?.into_iter().map(|listed| listed.name).collect();
    for name in &names {
        let mark = name.strip_suffix(".sessions").map(|mark| format!("{mark}.packs"));
        if mark.is_some_and(|mark| mark.starts_with("mark-") && !names.contains(&mark)) {
            repository.storage.remove(&extra(name.clone()))?;
        }
    }
    Ok(())
}

fn put_extra<T: Serialize>(repository: &Repository, name: String, value: &T) -> Result<(), VaultError> {
    let json = serde_json::to_vec(value).map_err(|error| VaultError::Invalid(error.to_string()))?;
    let sealed = seal_object(&repository.key, &json).map_err(|source| damaged(&name, source))?;
    Ok(repository.storage.put(&extra(name), &sealed)?)
}
