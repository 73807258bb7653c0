//! Documents in memory: for tests of what is above the store.

use std::collections::BTreeMap;

use crate::{Backend, Change, StoreError};

#[derive(Debug, Default)]
pub struct MemoryBackend {
    documents: BTreeMap<(&'static str, String), String>,
}

impl Backend for MemoryBackend {
    fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        for change in changes {
            let key = (change.kind, change.id.clone());
            match &change.body {
                Some(body) => self.documents.insert(key, body.clone()),
                None => self.documents.remove(&key),
            };
        }
        Ok(())
    }

    fn list(&self, kind: &str) -> Result<Vec<(String, String)>, StoreError> {
        let of_kind = self.documents.iter().filter(|((k, _), _)| *k == kind);
        Ok(of_kind.map(|((_, id), body)| (id.clone(), body.clone())).collect())
    }
}
