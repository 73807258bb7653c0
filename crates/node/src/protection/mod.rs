//! Protection: machines are backed up into vaults.
//!
//! ```text
//! use case (repositories, backups, points)
//!    │                    ▲ scheduler: what is due begins (jobs, job_run)
//!    │ a run is written down                     basis: from which point it counts, pure
//!    ▼                                               │
//! conduct: scripts, machines, copies ────► machine ──┤ asks the machine's task (vm::capture): one instant, kept
//!                                            │  guest: its applications are made ready before, let go after
//!                                            │       ▼ by the engine or by servers of its images
//!                                            │    tracking: which bitmaps began, how images lay
//!                                            ▼
//!                                          saving: the instant is read over NBD into the vault, beside the task
//! ```
//!
//! A machine inside another one is captured by the node inside: `inside` asks it, `lending` is its end of it.
//!
//! What must never happen: that a backup keeps a machine from anything (it starts, stops and is removed as if there were
//! none; the backup begins again or fails); that a point is reported before it is durable; that tracking is believed
//! which may lack a change; that a secret gets into a document, a log, an answer or an argument.

mod backups;
pub mod basis;
mod candidates;
mod capturing;
mod catalogues;
mod conduct;
mod copies;
#[cfg(test)]
mod damage_tests;
pub mod description;
mod earlier;
mod finish;
mod guest;
mod inside;
#[cfg(test)]
mod job_around_tests;
mod job_error;
mod job_plan;
mod job_run;
#[cfg(test)]
pub(crate) mod job_tests;
mod job_values;
mod jobs;
mod lending;
mod loan;
mod log;
mod machine;
mod mail;
pub mod marks;
mod notices;
mod objectives;
mod pace;
pub mod points;
mod proving;
pub mod readings;
pub mod repositories;
mod retention;
mod runs;
pub mod saving;
mod scheduler;
pub mod scripts;
mod secrets;
#[cfg(test)]
pub(crate) mod tests;
pub mod tracking;
mod turns;
mod values;

use std::{sync::Arc, time::Duration};

use nestling_model::{
    Operation, VmId,
    protection::{Job, MailServer, Repository, Run, RunId},
};
use nestling_store::Store;

pub use inside::{MACHINES_INSIDE_MAX, MachineInside, NodesInside, Refused, Way};
pub use job_error::JobError;
pub use job_values::{JobAfter, JobCopy, JobPlan, JobRun, JobSettings, JobView, PlannedDisk, PlannedMachine};
pub use loan::{
    LOAN_READ_BYTES_MAX, LOAN_STRETCHES_MAX, LentDisk, LentInstant, LoanPoint, LoanState, LoanView, LoanWish,
    Stretches,
};
pub use mail::NewMailServer;
pub use objectives::Missed;
pub use points::POINTS_MAX;
pub use secrets::Secrets;
pub use values::{
    BackupWish, NewRepository, PointChange, PointView, PointsView, PointsWish, RepositoryAdded,
    RepositoryChange, RepositoryContents, RepositoryView, RunProgress, RunView,
};

use self::{
    guest::owed::Owed,
    jobs::Jobs,
    lending::Loans,
    mail::Mail,
    readings::Readings,
    repositories::Repositories,
    runs::Runs,
    scheduler::Told,
    secrets::SecretFiles,
    tracking::{Book, Tracking},
    turns::Turns,
};
use crate::{error::Result, home::HomeDir, keeper::Keeper, node::Shared};

/// For backups under way to give back what they hold when the node ends.
const END_PATIENCE: Duration = Duration::from_secs(30);

/// What a node remembers of protection.
pub struct Stored {
    repositories: Vec<Repository>,
    runs: Vec<Run>,
    jobs: Vec<Job>,
    mail_server: Option<MailServer>,
    tracking: Vec<Tracking>,
    owed: Vec<Owed>,
}

impl Stored {
    pub fn read(store: &Store) -> Result<Self> {
        Ok(Self {
            repositories: store.list()?,
            runs: store.list()?,
            jobs: store.list()?,
            mail_server: store.list()?.pop(),
            tracking: store.list()?,
            owed: store.list()?,
        })
    }
}

/// What the use cases share.
pub struct Protection {
    pub repositories: Arc<Repositories>,
    pub runs: Runs,
    pub jobs: Jobs,
    pub mail: Mail,
    pub told: Told,
    pub turns: Turns,
    pub tracking: Book,
    pub readings: Readings,
    pub loans: Loans,
    /// What a node began that died: a machine, and the run that it was for.
    left: Vec<(VmId, RunId)>,
    /// What its guests are owed.
    owed: Vec<Owed>,
}

impl Protection {
    pub async fn open(home: &HomeDir, keeper: Keeper, stored: Stored, now_ms: u64) -> Result<Self> {
        let secrets = SecretFiles::new(home.secrets());
        let of_mail = stored.mail_server.as_ref().and_then(|server| server.secret.as_ref());
        let known = stored.repositories.iter().map(|repository| repository.id.into());
        secrets.sweep(&known.chain(of_mail.map(Into::into)).collect::<Vec<_>>())?;
        let unfinished = |tracking: &Tracking| {
            let begun = tracking.begun.iter().filter(|begun| !begun.durable);
            begun.map(|begun| (tracking.vm, begun.run)).collect::<Vec<_>>()
        };
        Ok(Self {
            repositories: Arc::new(Repositories::new(secrets.clone(), stored.repositories)),
            mail: Mail::new(secrets, stored.mail_server),
            runs: Runs::open(keeper.clone(), home.logs(), stored.runs, now_ms).await?,
            jobs: Jobs::new(stored.jobs),
            told: Told::default(),
            turns: Turns::default(),
            owed: stored.owed,
            left: stored.tracking.iter().flat_map(unfinished).collect(),
            tracking: Book::new(keeper, stored.tracking),
            readings: Readings::default(),
            loans: Loans::default(),
        })
    }

    /// The node ends, and its machines' tasks with it.
    pub async fn close(&self) {
        self.runs.settle(END_PATIENCE).await;
    }
}

/// Clears up after a node that died, and starts what goes on by itself. The machines have their tasks.
pub fn start(node: &Arc<Shared>) {
    clear_left(node);
    guest::settle_left(node);
    scheduler::start(node);
}

/// Removes what the backups of a node that died began.
fn clear_left(node: &Arc<Shared>) {
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
