//! What a job saved, copied into further repositories: of each machine the points that came since the newest one of them there.
//!
//! Older points are not looked at, so that what the rules of a copy have removed does not come back. What others saved or copied
//! there counts for nothing, and neither does a time that is yet to come: else one of them would stop copies for good. The vault
//! copies only what the other repository lacks, and a copy that was cut off goes on with the next run. A copy that fails is a
//! warning: the point itself is there.

use std::{collections::HashSet, sync::Arc, time::Duration};

use nestling_model::{
    EventKind, VmId, VmPath,
    protection::{CLOCK_SLACK_MS, CopyTo, Job, PointId, Retention},
};
use nestling_vault::{
    CopyReport, DAMAGED_TAG, Identity, Job as VaultJob, Point, Repository as Vault, SnapshotId, VaultError,
    format::Timestamp,
};
use tokio::time::timeout;

use super::{conduct::Order, marks::vm_of, repositories::Known, retention, runs::Entry, saving::timestamp};
use crate::{
    NodeError,
    clock::now_ms,
    error::{Object, Result},
    node::Shared,
};

/// For a copy that shall end to do so.
const CANCEL_PATIENCE: Duration = Duration::from_secs(20);

/// Copies what a run has saved. False: it was cut off, because the run or the node ends.
pub async fn copy(node: &Arc<Shared>, entry: &Entry, order: &Order, job: &Job) -> bool {
    if entry.run().machines.iter().all(|machine| machine.point.is_none()) {
        return true;
    }
    for to in &job.policy.copies {
        if entry.cancel.is_cancelled() || node.stopping.is_cancelled() {
            return false;
        }
        match copy_to(node, entry, order, to).await {
            Ok(()) => {}
            Err(NodeError::Cancelled) => return false,
            Err(error) => warn(node, entry, format!("the copy was not made: {}", error.message())).await,
        }
    }
    true
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
    for (number, machine) in run.machines.iter().enumerate() {
        let Some(made) = machine.point else { continue };
        let copying = Copying { node, entry, from: &from, there: &there, known: &known };
        let copied = copying.machine(number, &machine.path, machine.id, made, to.retention).await;
        entry.does_nothing(number);
        match copied {
            Err(NodeError::Cancelled) => return Err(NodeError::Cancelled),
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
    async fn machine(
        &self,
        number: usize,
        path: &VmPath,
        vm: VmId,
        made: PointId,
        rules: Option<Retention>,
    ) -> Result<()> {
        let job = Arc::new(VaultJob::default());
        self.entry.reads(number, path, Arc::clone(&job), Vec::new());
        let (from, there) = (Arc::clone(self.from), Arc::clone(self.there));
        let work = {
            let job = Arc::clone(&job);
            tokio::task::spawn_blocking(move || copy_new(&from, &there, vm, made, &job))
        };
        let (report, has_made) = self.watch(&job, work).await?;
        let name = &self.known.repository.name;
        if !has_made {
            let why =
                format!("{path}: the new recovery point was not copied to '{name}': it is gone or damaged");
            warn(self.node, self.entry, why).await;
        }
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
        mut work: tokio::task::JoinHandle<std::result::Result<(CopyReport, bool), VaultError>>,
    ) -> Result<(CopyReport, bool)> {
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

/// Copies the points of a machine that came since the newest of them there, and the one that was just made. Whether that one is
/// there now. Blocks.
fn copy_new(
    from: &Arc<Vault>,
    there: &Arc<Vault>,
    vm: VmId,
    made: PointId,
    job: &VaultJob,
) -> std::result::Result<(CopyReport, bool), VaultError> {
    let of = |points: Vec<Point>| points.into_iter().filter(move |point| vm_of(point) == Some(vm));
    let there_already: HashSet<SnapshotId> =
        of(there.points(None, job)?).map(|point| point.identity()).collect();
    let latest = timestamp(now_ms().saturating_add(CLOCK_SLACK_MS));
    let new = wanted(of(from.points(None, job)?).collect(), &there_already, made, latest);
    let has_made = new.iter().any(|point| is_made(point, made));
    Ok((from.copy_points(&new, there, &Identity::current(), job)?, has_made))
}

/// A mark changes a point's id, and not its identity.
fn is_made(point: &Point, made: PointId) -> bool {
    [point.id, point.identity()].iter().any(|id| PointId::from_bytes(id.0) == made)
}

/// Of a machine's points those to be copied, where `there` are the identities of those that the other repository has, and no time
/// after `latest` is one of this clock.
fn wanted(points: Vec<Point>, there: &HashSet<SnapshotId>, made: PointId, latest: Timestamp) -> Vec<Point> {
    let newest = points
        .iter()
        .filter(|point| there.contains(&point.identity()) && point.snapshot.time <= latest)
        .map(|point| point.snapshot.time)
        .max();
    let is_whole = |point: &Point| !point.snapshot.tags.iter().any(|tag| tag == DAMAGED_TAG);
    let is_new =
        |point: &Point| is_made(point, made) || newest.is_none_or(|newest| point.snapshot.time > newest);
    points.into_iter().filter(|point| is_whole(point) && is_new(point)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn at(number: u8, hours: u64) -> Point {
        let mut point = crate::testing::point("a", &[]);
        point.id = SnapshotId([number; 32]);
        point.snapshot.time = timestamp(hours * HOUR_MS);
        point
    }

    /// What is copied, where the clock shows ten hours, of points 1 to 4 of which the last was just made.
    fn copied(hours: [u64; 4], there: &[u8]) -> Vec<u8> {
        let points = (1..).zip(hours).map(|(number, hours)| at(number, hours)).collect();
        let there = there.iter().map(|number| SnapshotId([*number; 32])).collect();
        let made = PointId::from_bytes([4; 32]);
        wanted(points, &there, made, timestamp(10 * HOUR_MS)).iter().map(|point| point.id.0[0]).collect()
    }

    #[test]
    fn copies_go_on_whatever_others_saved_there_and_whatever_clocks_showed() {
        assert_eq!(copied([1, 2, 3, 4], &[]), [1, 2, 3, 4], "the first time all");
        assert_eq!(copied([1, 2, 3, 4], &[2]), [3, 4], "what the rules removed there does not come back");
        assert_eq!(copied([1, 2, 3, 4], &[2, 90, 91]), [3, 4], "points of others say nothing");
        assert_eq!(copied([1, 99, 3, 4], &[1, 2]), [2, 3, 4], "a clock was ahead");
        assert_eq!(copied([1, 99, 3, 4], &[1, 2, 3, 4]), [2, 4], "and the vault knows what is there");
        assert_eq!(copied([1, 2, 9, 4], &[1, 2, 3]), [4], "a clock was set back");
    }

    #[test]
    fn a_point_that_is_damaged_is_not_copied_and_that_is_known() {
        let mut point = at(4, 4);
        point.snapshot.tags.push(DAMAGED_TAG.to_owned());
        let made = PointId::from_bytes([4; 32]);
        assert!(is_made(&point, made));
        assert!(wanted(vec![point], &HashSet::new(), made, timestamp(10 * HOUR_MS)).is_empty());
    }
}
