//! What a node remembers: documents, kept in one file of the node's home.
//!
//! A change is durable before it is reported, and several changes in one [`Batch`] are made together or not at all.
//! The store must never judge a document: whether a machine may exist is decided before it gets here. Where documents
//! lie is behind [`Backend`], so that a cluster's store can stand in for the file; `conformance` says what every
//! backend must do.

mod backend;
#[cfg(test)]
mod conformance;
mod document;
mod error;
mod memory;
mod sqlite;

use std::path::Path;

pub use backend::{Backend, Change};
pub use document::{Document, Home};
pub use error::StoreError;
pub use memory::MemoryBackend;
pub use sqlite::SqliteBackend;

/// Changes that are made together.
#[derive(Debug, Default)]
pub struct Batch(Vec<Change>);

impl Batch {
    pub fn put<D: Document>(&mut self, document: &D) -> Result<(), StoreError> {
        let id = document.id();
        let body = serde_json::to_string(document).map_err(|source| StoreError::Document {
            kind: D::KIND,
            id: id.clone(),
            source,
        })?;
        self.0.push(Change { kind: D::KIND, id, body: Some(body) });
        Ok(())
    }

    /// Deleting what is not there is no error.
    pub fn delete<D: Document>(&mut self, id: String) {
        self.0.push(Change { kind: D::KIND, id, body: None });
    }
}

/// The documents of one node.
pub struct Store {
    backend: Box<dyn Backend>,
}

impl Store {
    /// Opens the file in `dir`, or makes it. The file stays locked against every other process.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { backend: Box::new(SqliteBackend::open(dir)?) })
    }

    /// Forgets everything when it is dropped.
    pub fn in_memory() -> Self {
        Self { backend: Box::new(MemoryBackend::default()) }
    }

    pub fn apply(&mut self, batch: &Batch) -> Result<(), StoreError> {
        self.backend.apply(&batch.0)
    }

    pub fn put<D: Document>(&mut self, document: &D) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.put(document)?;
        self.apply(&batch)
    }

    pub fn delete<D: Document>(&mut self, id: String) -> Result<(), StoreError> {
        let mut batch = Batch::default();
        batch.delete::<D>(id);
        self.apply(&batch)
    }

    /// All documents of a kind, by id.
    pub fn list<D: Document>(&self) -> Result<Vec<D>, StoreError> {
        let parse = |(id, body): (String, String)| {
            serde_json::from_str(&body).map_err(|source| StoreError::Document { kind: D::KIND, id, source })
        };
        self.backend.list(D::KIND)?.into_iter().map(parse).collect()
    }
}
