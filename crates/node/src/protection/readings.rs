//! Disks of machines that have no engine, while they are read.
//!
//! As long as an image is served, QEMU can't write to it: a start would fail. So whoever needs the image for something
//! else ends the reading first and waits until the image is free. A backup never keeps a machine from starting.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use nestling_hypervisor::disk::ServedDisk;
use nestling_model::VmId;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// From the wish to the end of all servers; each is killed.
const FREE_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct State {
    /// It shall end.
    wish: CancellationToken,
    /// It has, and the images are free.
    free: CancellationToken,
    why: OnceLock<String>,
}

/// Images that are served; dropped, they are free a moment later.
#[derive(Debug)]
pub struct Reading(Arc<State>);

impl Reading {
    /// Why somebody else ended it.
    pub fn ended(&self) -> Option<&str> {
        self.0.why.get().map(String::as_str)
    }

    /// Ends it; the images are free afterwards, unless a server hangs.
    pub async fn end(self) {
        self.0.end().await;
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.wish.cancel();
    }
}

impl State {
    async fn end(&self) {
        self.wish.cancel();
        if timeout(FREE_TIMEOUT, self.free.cancelled()).await.is_err() {
            tracing::warn!("a server of a disk does not end");
        }
    }
}

type All = Arc<Mutex<HashMap<VmId, Arc<State>>>>;

/// At most one of each machine.
#[derive(Debug, Default)]
pub struct Readings(All);

fn lock(all: &All) -> MutexGuard<'_, HashMap<VmId, Arc<State>>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Readings {
    /// Keeps servers until they shall end. Called by the machine's task, so that no start comes in between.
    pub fn hold(&self, vm: VmId, servers: Vec<ServedDisk>) -> Reading {
        let state = Arc::new(State::default());
        lock(&self.0).insert(vm, Arc::clone(&state));
        let (all, kept) = (Arc::clone(&self.0), Arc::clone(&state));
        tokio::spawn(async move {
            kept.wish.cancelled().await;
            for server in servers {
                if let Err(error) = server.stop().await {
                    tracing::warn!(%error, "a server of a disk does not end");
                }
            }
            let mut all = lock(&all);
            if all.get(&vm).is_some_and(|state| Arc::ptr_eq(state, &kept)) {
                all.remove(&vm);
            }
            kept.free.cancel();
        });
        Reading(state)
    }

    /// Whether the machine's disks are being read.
    pub fn is_held(&self, vm: VmId) -> bool {
        lock(&self.0).contains_key(&vm)
    }

    /// Ends a machine's reading, if there is one, and waits until its images are free.
    pub async fn interrupt(&self, vm: VmId, why: &str) {
        let Some(state) = lock(&self.0).get(&vm).cloned() else { return };
        // Said first: the reader sees its end before this one does.
        let _ = state.why.set(why.to_owned());
        state.end().await;
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const VM: VmId = VmId(Uuid::from_u128(1));

    #[tokio::test]
    async fn whoever_needs_the_images_is_told_when_they_are_free() {
        let readings = Readings::default();
        readings.interrupt(VM, "nobody reads").await;
        let reading = readings.hold(VM, Vec::new());
        assert_eq!(reading.ended(), None);
        readings.interrupt(VM, "the machine starts").await;
        assert_eq!(reading.ended(), Some("the machine starts"));
        assert!(lock(&readings.0).is_empty());
        let next = readings.hold(VM, Vec::new());
        drop(reading);
        assert_eq!(
            (next.ended(), lock(&readings.0).len()),
            (None, 1),
            "an older one's end is not the newer one's"
        );
        next.end().await;
        assert!(lock(&readings.0).is_empty());
    }
}
