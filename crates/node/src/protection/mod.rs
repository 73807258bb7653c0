//! Protection: machines are backed up into vaults.
//!
//! ```text
//! use case (repositories, backups, points)
//!    │ a run is written down                     basis: from which point it counts, pure
//!    ▼                                               │
//! conduct: one machine after the other ──► machine ──┤ asks the machine's task (vm::capture): one instant, kept
//!                                            │       ▼ by the engine or by servers of its images
//!                                            │    tracking: which bitmaps began, how images lay
//!                                            ▼
//!                                          saving: the instant is read over NBD into the vault, beside the task
//! ```
//!
//! What must never happen: that a backup keeps a machine from anything (it starts, stops and is removed as if there were
//! none; the backup begins again or fails); that a point is reported before it is durable; that tracking is believed
//! which may lack a change; that a secret gets into a document, a log, an answer or an argument.

mod backups;
pub mod basis;
mod conduct;
pub mod description;
mod earlier;
mod finish;
mod machine;
pub mod marks;
pub mod points;
pub mod readings;
pub mod repositories;
mod retention;
mod runs;
mod saving;
mod secrets;
#[cfg(test)]
pub(crate) mod tests;
pub mod tracking;
mod values;

use std::{sync::Arc, time::Duration};

use nestling_model::{
    Operation, VmId,
    protection::{Repository, Run, RunId},
};
use nestling_store::Store;

pub use points::POINTS_MAX;
pub use secrets::Secrets;
pub use values::{
    BackupWish, NewRepository, PointChange, PointView, PointsView, PointsWish, RepositoryAdded,
    RepositoryChange, RepositoryContents, RepositoryView, RunProgress, RunView,
};

use self::{
    readings::Readings,
    repositories::Repositories,
    runs::Runs,
    secrets::SecretFiles,
    tracking::{Book, Tracking},
};
use crate::{error::Result, home::HomeDir, keeper::Keeper, node::Shared};

/// For backups under way to give back what they hold when the node ends.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// What a node remembers of protection.
pub struct Stored {
    repositories: Vec<Repository>,
    runs: Vec<Run>,
    tracking: Vec<Tracking>,
}

impl Stored {
    pub fn read(store: &Store) -> Result<Self> {
        Ok(Self { repositories: store.list()?, runs: store.list()?, tracking: store.list()? })
    }
}

/// What the use cases share.
pub struct Protection {
    pub repositories: Arc<Repositories>,
    pub runs: Runs,
    pub tracking: Book,
    pub readings: Readings,
    /// What a node began that died: a machine, and the run that it was for.
    left: Vec<(VmId, RunId)>,
}

impl Protection {
    pub async fn open(home: &HomeDir, keeper: Keeper, stored: Stored) -> Result<Self> {
        let secrets = SecretFiles::new(home.secrets());
        let known: Vec<_> = stored.repositories.iter().map(|repository| repository.id).collect();
        secrets.sweep(|id| known.contains(&id))?;
        let unfinished = |tracking: &Tracking| {
            let begun = tracking.begun.iter().filter(|begun| !begun.durable);
            begun.map(|begun| (tracking.vm, begun.run)).collect::<Vec<_>>()
        };
        Ok(Self {
            repositories: Arc::new(Repositories::new(secrets, stored.repositories)),
            runs: Runs::open(keeper.clone(), stored.runs).await?,
            left: stored.tracking.iter().flat_map(unfinished).collect(),
            tracking: Book::new(keeper, stored.tracking),
            readings: Readings::default(),
        })
    }

    /// The node ends, and its machines' tasks with it.
    pub async fn close(&self) {
        self.runs.settle(END_PATIENCE).await;
    }
}

/// Removes what the backups of a node that died began, once the machines have their tasks.
pub fn clear_left(node: &Arc<Shared>) {
    for (vm, run) in node.protection.left.clone() {
        let node = Arc::clone(node);
        tokio::spawn(async move {
            let Ok(handle) = node.vms.find(&vm.0.to_string()) else { return };
            let cleared = handle.ask(Operation::Modify, move |owner| Box::pin(owner.retire_run(run))).await;
            if let Err(error) = cleared {
                tracing::warn!(
                    error = error.message(),
                    "what a backup began is left for the next one to remove"
                );
            }
        });
    }
}
