//! Work that waits for disks.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::timeout;

use crate::{NodeError, error::Result, locked::lock};

/// For disks to tell what they are. One on a dead network file system never does.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Does it on a thread of its own: a disk that hangs holds up nobody else.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| NodeError::Internal(e.to_string()))?
}

/// Which disk is being looked at.
#[derive(Default, Clone)]
pub struct Look(Arc<Mutex<PathBuf>>);

impl Look {
    pub fn at(&self, path: &Path) {
        path.clone_into(&mut lock(&self.0));
    }
}

/// Looks at disks, of which each may hang: then the error names it.
pub async fn at_disks<T: Send + 'static>(
    work: impl FnOnce(&Look) -> Result<T> + Send + 'static,
) -> Result<T> {
    at_disks_within(ANSWER_TIMEOUT, work).await
}

async fn at_disks_within<T: Send + 'static>(
    deadline: Duration,
    work: impl FnOnce(&Look) -> Result<T> + Send + 'static,
) -> Result<T> {
    let look = Look::default();
    let theirs = look.clone();
    match timeout(deadline, blocking(move || work(&theirs))).await {
        Ok(done) => done,
        Err(_) => {
            let path = lock(&look.0).clone();
            Err(NodeError::DiskSilent { path, seconds: deadline.as_secs() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_disk_that_hangs_is_named() {
        let (go_on, hang) = std::sync::mpsc::channel::<()>();
        let hangs = at_disks_within(Duration::from_millis(500), move |look| {
            look.at(Path::new("/dead/a.qcow2"));
            let _ = hang.recv();
            Ok(())
        });
        let refused = hangs.await.unwrap_err().message();
        drop(go_on);
        assert!(refused.contains("/dead/a.qcow2"), "{refused}");
    }
}
