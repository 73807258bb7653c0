//! Recovery: machines come back out of vaults.
//!
//! ```text
//! use case (recoveries): which point, what of it, whether that may be
//!    │ a recovery is written down (book)
//!    ▼
//! conduct ──► source: the point is opened, and locked against a prune
//!    │
//!    ├──► as_new: a definition (define, pure) and new disks under temporary names; then both at once, by the journal
//!    └──► in_place: the machine's task gives its disks away and marks them; only what differs is written
//!            │
//!            ▼
//!         write: one disk of the point into one image, through a server of ours (qemu-nbd)
//! ```
//!
//! What must never happen: that a machine starts on a disk that is half written (`unfinished` remembers those, and the
//! machine's task refuses); that change tracking is believed of a disk that was written here; that a disk gets a name before
//! it is whole; that what a point says of its machine is believed unchecked: it may have been written by anybody who has the
//! repository's password.

mod as_new;
mod book;
mod conduct;
mod define;
mod in_place;
mod recoveries;
mod source;
#[cfg(test)]
pub(crate) mod tests;
pub mod unfinished;
mod values;
mod write;

use std::time::Duration;

use nestling_store::Store;

pub use source::SourceDisk;
pub use values::{RecoveredDisk, RecoveryProgress, RecoveryView, RecoveryWish, SwitchMapping, Whereto};

use self::{
    book::{Recoveries, Recovery},
    unfinished::{Unfinished, UnfinishedDisk},
};
use crate::{error::Result, keeper::Keeper};

/// For recoveries under way to give back what they hold when the node ends.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// What a node remembers of recovery.
pub struct Stored {
    recoveries: Vec<Recovery>,
    unfinished: Vec<UnfinishedDisk>,
}

impl Stored {
    pub fn read(store: &Store) -> Result<Self> {
        Ok(Self { recoveries: store.list()?, unfinished: store.list()? })
    }
}

/// What the use cases share.
pub struct RecoveryState {
    pub recoveries: Recoveries,
    pub unfinished: Unfinished,
}

impl RecoveryState {
    pub async fn open(keeper: Keeper, stored: Stored) -> Result<Self> {
        Ok(Self {
            recoveries: Recoveries::open(keeper.clone(), stored.recoveries).await?,
            unfinished: Unfinished::new(keeper, stored.unfinished),
        })
    }

    /// The node ends.
    pub async fn close(&self) {
        self.recoveries.settle(END_PATIENCE).await;
    }
}
