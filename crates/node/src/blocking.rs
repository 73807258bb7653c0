//! Work that waits for disks.

use crate::{NodeError, error::Result};

/// Does it on a thread of its own: a disk that hangs holds up nobody else.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| NodeError::Internal(e.to_string()))?
}
