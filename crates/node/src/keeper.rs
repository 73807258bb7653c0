//! The store, for asynchronous callers.

use std::sync::Arc;

use nestling_store::{Batch, Document, Store};
use tokio::sync::Mutex;

use crate::{NodeError, error::Result};

#[derive(Clone)]
pub struct Keeper(Arc<Mutex<Store>>);

impl Keeper {
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Mutex::new(store)))
    }

    /// The lock is taken before the thread is: of two writes, the one that was asked for first happens first, even when
    /// its caller has gone away meanwhile.
    pub async fn apply(&self, batch: Batch) -> Result<()> {
        let mut store = Arc::clone(&self.0).lock_owned().await;
        let written = tokio::task::spawn_blocking(move || store.apply(&batch)).await;
        written.map_err(|e| NodeError::Internal(e.to_string()))?.map_err(NodeError::from)
    }

    pub async fn put<D: Document>(&self, document: &D) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(document)?;
        self.apply(batch).await
    }

    pub async fn delete<D: Document>(&self, id: String) -> Result<()> {
        let mut batch = Batch::default();
        batch.delete::<D>(id);
        self.apply(batch).await
    }
}
