//! Recovery: machines come back out of vaults.
//!
//! ```text
//! use case (recoveries): which point, what of it, whether that may be
//!    │ a recovery is written down (book)
//!    ▼
//! conduct ──► source: the point is opened, and locked against a prune
//!    │
//!    ├──► as_new: a definition (define, pure; kernel) and new disks under temporary names; then both at once, by the journal
//!    ├──► to_folder: disks in a format of others, and descriptions of the machine, in a new folder
//!    └──► in_place: the machine's task gives its disks away and marks them; only what differs is written
//!            │
//!            ▼
//!         write: one disk of the point into one image, through a server of ours (qemu-nbd)
//! ```
//!
//! Or the new machine's disks are overlays on exports of the point (`instant`, `export`), and are brought over while it runs
//! (`finish`). Files come out one by one (`files`, `files_open`), also of what only a machine of ours mounts (`reader`, `scratch`).
//!
//! What must never happen: that a machine starts on a disk that is half written (`unfinished` remembers those, and the
//! machine's task refuses); that change tracking is believed of a disk that was written here; that a disk gets a name before
//! it is whole; that what a point says of its machine is believed unchecked: it may have been written by anybody who has the
//! repository's password.

mod as_new;
mod book;
mod conduct;
pub mod define;
mod export;
mod files;
mod files_open;
mod files_values;
mod files_volumes;
mod finish;
mod in_place;
mod instant;
#[cfg(test)]
mod instant_tests;
pub mod kernel;
#[cfg(test)]
mod kernel_tests;
mod reader;
mod readers;
mod recoveries;
mod scratch;
mod search;
mod source;
#[cfg(test)]
pub(crate) mod tests;
mod to_folder;
pub mod unfinished;
mod values;
mod write;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use nestling_model::{EventKind, Vm};
use nestling_store::Store;

pub use book::Entry as RecoveryEntry;
pub use files_values::{FileBytes, FileView, FilesAt, FilesView, UnlockView, VolumeView};
pub use finish::{InstantView, follow_all};
pub use instant::{InstantBoot, InstantDisk};
pub use search::{Change, ChangedFile, Comparison, FoundFiles};
pub use source::SourceDisk;
pub use values::{RecoveredDisk, RecoveryProgress, RecoveryView, RecoveryWish, SwitchMapping, Whereto};

use self::{
    book::{Recoveries, Recovery},
    instant::InstantBoots,
    readers::Readers,
    unfinished::{Unfinished, UnfinishedDisk},
};
use crate::{error::Result, exchange::UnfinishedFolder, keeper::Keeper, node::Shared};

/// For recoveries under way to give back what they hold when the node ends.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// What a node remembers of recovery.
pub struct Stored {
    recoveries: Vec<Recovery>,
    unfinished: Vec<UnfinishedDisk>,
    instant: Vec<InstantBoot>,
    folders: Vec<UnfinishedFolder>,
}

impl Stored {
    pub fn read(store: &Store) -> Result<Self> {
        Ok(Self {
            recoveries: store.list()?,
            unfinished: store.list()?,
            instant: store.list()?,
            folders: store.list()?,
        })
    }
}

/// What the use cases share.
pub struct RecoveryState {
    pub recoveries: Recoveries,
    pub unfinished: Unfinished,
    pub instant: Arc<InstantBoots>,
    pub files: Readers<files::Opened>,
    /// Somebody ends those that nobody asks any more.
    pub files_watched: AtomicBool,
    pub machines: reader::Machines,
}

impl RecoveryState {
    pub async fn open(keeper: Keeper, stored: Stored) -> Result<Self> {
        for folder in stored.folders {
            let part = folder.part.display().to_string();
            // It is written down still, and with it the next chance.
            if let Err(error) = folder.forget(&keeper).await {
                tracing::warn!(folder = part, error = error.message(), "an unfinished export is left over");
            }
        }
        Ok(Self {
            recoveries: Recoveries::open(keeper.clone(), stored.recoveries).await?,
            unfinished: Unfinished::new(keeper.clone(), stored.unfinished),
            instant: Arc::new(InstantBoots::new(keeper, stored.instant)),
            files: Readers::default(),
            files_watched: AtomicBool::new(false),
            machines: reader::Machines::default(),
        })
    }

    /// A machine that reads is dead: whatever read through it goes, or it would be asked in vain.
    fn machine_died(&self, dead: &reader::Reading) {
        let through = |machine: &Arc<reader::Reading>| machine.reads_through(dead);
        self.files.end_where(|opened| opened.machine.as_ref().is_some_and(through));
        self.machines.end_where(|machine| machine.reads_through(dead));
    }

    /// The node ends.
    pub async fn close(&self) {
        self.recoveries.settle(END_PATIENCE).await;
        self.files.close();
        self.machines.close();
        let instant = Arc::clone(&self.instant);
        // What does not end in time ends with the process.
        let _ = tokio::task::spawn_blocking(move || instant.close()).await;
    }
}

/// Serves what machines run from, before anything is done with them. What is left of machines that never came to be goes.
pub async fn serve_all(node: &Shared, vms: &[Vm]) {
    let instant = &node.recovery.instant;
    for boot in instant.all() {
        let done = match vms.iter().find(|vm| vm.id == boot.vm) {
            Some(_) => instant.serve(&node.home, &node.protection, &boot),
            None => instant.end(boot.vm).await,
        };
        if let Err(error) = done {
            node.events.tell(EventKind::Warning, boot.vm.0.to_string(), error.message());
        }
    }
}
