//! Points whose files are open: what they need must stay, also when they are forgotten and pruned meanwhile.

use std::{
    collections::{HashMap, HashSet, hash_map},
    sync::{Arc, Mutex},
};

use nestling_vault::{BlobId, Point, Repository, SnapshotId, VaultError};

use crate::{locked, view::Host};

pub(crate) struct Keeper {
    repository: Arc<Repository>,
    host: Arc<dyn Host>,
    open: Mutex<HashMap<SnapshotId, Open>>,
    /// The trees that the host's lock names. Held while it is written, which may take long; `open` never is.
    kept: Mutex<HashSet<BlobId>>,
}

struct Open {
    point: Arc<Point>,
    count: usize,
}

impl Keeper {
    pub(crate) fn new(repository: &Arc<Repository>, host: &Arc<dyn Host>) -> Self {
        let (open, kept) = (Mutex::new(HashMap::new()), Mutex::new(HashSet::new()));
        Self { repository: repository.clone(), host: host.clone(), open, kept }
    }

    /// A point of which files are open, whether it is still listed or not.
    pub(crate) fn point(&self, id: &SnapshotId) -> Option<Arc<Point>> {
        locked(&self.open).get(id).map(|open| open.point.clone())
    }

    /// Each call is followed by one of `close`, unless it fails.
    pub(crate) fn open(&self, point: &Arc<Point>) -> Result<(), VaultError> {
        locked(&self.open)
            .entry(point.id)
            .or_insert_with(|| Open { point: point.clone(), count: 0 })
            .count += 1;
        let outcome = self.keep(point);
        if outcome.is_err() {
            self.close(&point.id);
        }
        outcome
    }

    /// What it held stays in the lock until another point is opened: a lock is not written for it.
    pub(crate) fn close(&self, id: &SnapshotId) {
        if let hash_map::Entry::Occupied(mut open) = locked(&self.open).entry(*id) {
            open.get_mut().count -= 1;
            if open.get().count == 0 {
                open.remove();
            }
        }
    }

    fn keep(&self, point: &Point) -> Result<(), VaultError> {
        let mut kept = locked(&self.kept);
        if kept.contains(&point.snapshot.tree) {
            return Ok(());
        }
        let trees: HashSet<BlobId> =
            locked(&self.open).values().map(|open| open.point.snapshot.tree).collect();
        self.host.keep(&trees.iter().copied().collect::<Vec<_>>())?;
        // Still there after the lock names it: a prune has seen one of the two.
        self.repository.snapshot(&point.id)?;
        *kept = trees;
        Ok(())
    }
}
