//! What a job saved, copied into further repositories: of each machine the points that came since the newest one there.
//!
//! Older points are not looked at, so that what the rules of a copy have removed does not come back. The vault copies only what
//! the other repository lacks, and a copy that was cut off goes on with the next run. A copy that fails is a warning: the point
//! itself is there.

use std::{sync::Arc, time::Duration};

use nestling_model::{
    EventKind, VmId, VmPath,
    protection::{CopyTo, Job, Retention},
};
use nestling_vault::{
    CopyReport, DAMAGED_TAG, Identity, Job as VaultJob, Point, Repository as Vault, VaultError,
};
use tokio::time::timeout;

use super::{conduct::Order, marks::vm_of, repositories::Known, retention, runs::Entry};
use crate::{
    NodeError,
    error::{Object, Result},
    node::Shared,
};

/// For a copy that shall end to do so.
const CANCEL_PATIENCE: Duration = Duration::from_secs(20);

/// Copies what a run has saved.
pub async fn copy(node: &Arc<Shared>, entry: &Entry, order: &Order, job: &Job) {
    if entry.run().machines.iter().all(|machine| machine.point.is_none()) {
        return;
    }
    for to in &job.policy.copies {
        if entry.cancel.is_cancelled() || node.stopping.is_cancelled() {
            return;
        }
        if let Err(error) = copy_to(node, entry, order, to).await {
            warn(node, entry, format!("the copy was not made: {}", error.message())).await;
        }
    }
}

async fn warn(node: &Shared, entry: &Entry, why: String) {
    entry.log.say(&format!("warning: {why}"));
    entry.change(&node.keeper, |run| run.warnings.push(why)).await;
}

async fn copy_to(node: &Arc<Shared>, entry: &Entry, order: &Order, to: &CopyTo) -> Result<()> {
    let known = node.protection.repositories.get(to.repository);
    let missing = || NodeError::NotFound { object: Object::Repository, name: to.repository.0.to_string() };
    let known = known.ok_or_else(missing)?;
    let from = node.protection.repositories.open(&order.known).await?;
    let there = node.protection.repositories.open(&known).await?;
    let run = entry.run();
    let saved = run.machines.iter().enumerate().filter(|(_, machine)| machine.point.is_some());
    for (number, machine) in saved {
        let copying = Copying { node, entry, from: &from, there: &there, known: &known };
        let copied = copying.machine(number, &machine.path, machine.id, to.retention).await;
        entry.does_nothing(number);
        match copied {
            Err(NodeError::Cancelled) => return Ok(()),
            Err(error) => {
                let name = &known.repository.name;
                let why = format!("{}: it was not copied to '{name}': {}", machine.path, error.message());
                warn(node, entry, why).await;
            }
            Ok(()) => {}
        }
    }
    Ok(())
}

struct Copying<'a> {
    node: &'a Arc<Shared>,
    entry: &'a Entry,
    from: &'a Arc<Vault>,
    there: &'a Arc<Vault>,
    known: &'a Known,
}

impl Copying<'_> {
    async fn machine(&self, number: usize, path: &VmPath, vm: VmId, rules: Option<Retention>) -> Result<()> {
        let job = Arc::new(VaultJob::default());
        self.entry.reads(number, path, Arc::clone(&job), Vec::new());
        let (from, there) = (Arc::clone(self.from), Arc::clone(self.there));
        let work = {
            let job = Arc::clone(&job);
            tokio::task::spawn_blocking(move || copy_new(&from, &there, vm, &job))
        };
        let report = self.watch(&job, work).await?;
        let name = &self.known.repository.name;
        let message = format!(
            "{} recovery points copied to '{name}', {} bytes stored there",
            report.copied.len(),
            report.stored.bytes
        );
        self.entry.log.say(&format!("{path}: {message}"));
        self.node.events.tell(EventKind::BackupDone, path.to_string(), message);
        if let Some(rules) = rules {
            let needed = self.node.recovery.instant.points_of(self.known.repository.id);
            let gone = retention::apply(self.known, self.there, vm, rules, needed).await?;
            self.entry
                .log
                .say(&format!("{path}: {gone} older recovery points went from '{name}' by the rules"));
        }
        Ok(())
    }

    async fn watch(
        &self,
        job: &VaultJob,
        mut work: tokio::task::JoinHandle<std::result::Result<CopyReport, VaultError>>,
    ) -> Result<CopyReport> {
        tokio::select! {
            done = &mut work => {
                let done = done.map_err(|e| NodeError::Internal(e.to_string()))?;
                return done.map_err(|e| self.failed(e));
            }
            () = self.entry.cancel.cancelled() => {}
            () = self.node.stopping.cancelled() => {}
        }
        job.cancel();
        if timeout(CANCEL_PATIENCE, work).await.is_err() {
            tracing::warn!("a copy does not end; it is left behind, and does no harm");
        }
        Err(NodeError::Cancelled)
    }

    fn failed(&self, error: VaultError) -> NodeError {
        if matches!(error, VaultError::Cancelled) {
            return NodeError::Cancelled;
        }
        self.known.failed(error)
    }
}

/// Copies the points of a machine that came since the newest one there. Blocks.
fn copy_new(
    from: &Arc<Vault>,
    there: &Arc<Vault>,
    vm: VmId,
    job: &VaultJob,
) -> std::result::Result<CopyReport, VaultError> {
    let of = |points: Vec<Point>| points.into_iter().filter(move |point| vm_of(point) == Some(vm));
    let newest = of(there.points(None, job)?).map(|point| point.snapshot.time).max();
    let is_whole = |point: &Point| !point.snapshot.tags.iter().any(|tag| tag == DAMAGED_TAG);
    let is_new = |point: &Point| newest.is_none_or(|newest| point.snapshot.time > newest);
    let new: Vec<Point> =
        of(from.points(None, job)?).filter(|point| is_whole(point) && is_new(point)).collect();
    from.copy_points(&new, there, &Identity::current(), job)
}
