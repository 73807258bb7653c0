//! Proof: recovery points are booted as a test, so that nobody finds out too late that one does not.
//!
//! ```text
//! use case (proofs): which points (choose), what shows that a guest is up
//!    │ a proof is written down (book)
//!    ▼
//! conduct ──► boot: a machine straight from the vault, by `recovery`, with another name and identity, unplugged
//!                │
//!                ├──► signs: its agent, its console, its ports (cables), programs; a deadline
//!                └──► a picture of its screen, its last lines; then it is turned off and removed
//! ```
//!
//! The result is a record of this host, found by repository and point. It is not written into the vault: a point that is
//! marked there gets another id, and a repository may be read-only.
//!
//! What must never happen: that a machine of a proof reaches a network, or is taken for the real one; that it is backed up,
//! or outlives its proof, however the node ends (each carries the number of its proof, and the next node removes it); that a
//! point is called good which showed nothing.

mod book;
mod boot;
mod cables;
mod choose;
mod conduct;
mod proofs;
mod signs;
#[cfg(test)]
pub(crate) mod tests;
mod values;

use std::{sync::Arc, time::Duration};

use nestling_model::{EventKind, VmId, protection::ProofRun};
use nestling_store::Store;

use self::book::Proofs;
pub use self::{
    proofs::Cause,
    values::{ProofProgress, ProofView, ProofWish},
};
use crate::{error::Result, home::HomeDir, keeper::Keeper, node::Shared};

/// For proofs under way to give back what they hold when the node ends.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// For a machine that is left to let itself be removed.
const CLEAR_ATTEMPTS: u32 = 30;
const CLEAR_PAUSE: Duration = Duration::from_secs(1);

/// What a node remembers of proofs.
pub struct Stored(Vec<ProofRun>);

impl Stored {
    pub fn read(store: &Store) -> Result<Self> {
        Ok(Self(store.list()?))
    }
}

/// What the use cases share.
pub struct ProofState {
    pub book: Proofs,
}

impl ProofState {
    pub async fn open(home: &HomeDir, keeper: Keeper, stored: Stored, now_ms: u64) -> Result<Self> {
        Ok(Self { book: Proofs::open(keeper, home.proofs(), stored.0, now_ms).await? })
    }

    /// The node ends, and its machines' tasks with it.
    pub async fn close(&self) {
        self.book.settle(END_PATIENCE).await;
    }
}

/// Removes the machines of proofs of a node that died. No proof is under way yet.
pub fn clear_left(node: &Arc<Shared>) {
    for boot in node.recovery.instant.all().into_iter().filter(|boot| boot.proof.is_some()) {
        let node = Arc::clone(node);
        tokio::spawn(async move {
            let cleared = tokio::select! {
                cleared = clear(&node, boot.vm) => cleared,
                () = node.stopping.cancelled() => return,
            };
            if let Err(error) = cleared {
                let message = format!("a machine of a proof is left: {}", error.message());
                node.events.tell(EventKind::Warning, boot.vm.0.to_string(), message);
            }
        });
    }
}

/// A machine that its node left in the middle of something is still being found out about, and refuses for a moment.
async fn clear(node: &Shared, vm: VmId) -> Result<()> {
    let mut attempt = 1;
    loop {
        match node.throw_away(vm).await {
            Err(_) if attempt < CLEAR_ATTEMPTS => attempt += 1,
            done => return done,
        }
        tokio::time::sleep(CLEAR_PAUSE).await;
    }
}
