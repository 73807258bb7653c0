//! The node: every use case of a host of machines.
//!
//! A use case asks `identity` first, then joins what the crates below know: definitions in the `store`, engines by
//! `hypervisor`, ports by `network`, disks by `image`. One task owns each machine (`vm::task`); networks change one at a
//! time (`networks`); what takes several steps leaves the old or the new when the node dies in between (`journal`,
//! `vm::reopen`); what a backup does is in `protection`, how machines come back out of backups in `recovery`, how they come from
//! other programs and go to them in `exchange`. Only the API
//! calls this crate. It must never know how a question arrived, and never wait for a guest without a deadline.

mod blocking;
mod clock;
#[cfg(test)]
mod crash_tests;
mod disks;
pub mod doctor;
mod engine;
mod error;
mod events;
mod exchange;
mod facts;
mod features;
mod home;
mod host;
mod images;
mod journal;
mod keeper;
mod locked;
mod networks;
mod node;
mod proof;
mod protection;
mod recovery;
mod steps;
#[cfg(test)]
mod stored_tests;
#[cfg(test)]
mod testing;
mod values;
mod vm;
mod written;

pub use doctor::{CheckResult, Requirement};
pub use engine::EngineChoice;
pub use error::{ErrorKind, NodeError, Result};
pub use exchange::{ExchangeStep, ExportWish, ImportWish};
pub use features::{Feature, FeatureInstalled};
pub use nestling_explore::{FileKind, FileName, Timestamp as FileTime};
pub use nestling_hypervisor::{ChannelClient, ChannelError, Console, ConsoleView, disk::ImageFormat};
pub use nestling_identity::Identity;
pub use node::{Node, Settings};
pub use proof::{ProofProgress, ProofView, ProofWish};
pub use protection::{
    BackupWish, JobAfter, JobCopy, JobError, JobPlan, JobRun, JobSettings, JobView, LOAN_READ_BYTES_MAX,
    LOAN_STRETCHES_MAX, LentDisk, LentInstant, LoanPoint, LoanState, LoanView, LoanWish, MACHINES_INSIDE_MAX,
    MachineInside, Missed, NewMailServer, NewRepository, NodesInside, POINTS_MAX, PlannedDisk,
    PlannedMachine, PointChange, PointView, PointsView, PointsWish, Refused, RepositoryAdded,
    RepositoryChange, RepositoryContents, RepositoryView, RunProgress, RunView, Secrets, Stretches, Way,
};
pub use recovery::{
    Change, ChangedFile, Comparison, FileBytes, FileView, FilesAt, FilesView, FoundFiles, InstantDisk,
    InstantView, RecoveredDisk, RecoveryProgress, RecoveryView, RecoveryWish, SwitchMapping, UnlockView,
    VolumeView, Whereto,
};
pub use values::*;
