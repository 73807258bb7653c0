//! Removing what no point needs, while others save.
//!
//! A pack that an index names is never removed in one step. First what is still needed of it is copied to new packs,
//! then it is **marked**: savers that begin from now on do not build on it. Then the sessions that are at work are written
//! down beside the mark, since they may have built on it before. Only when all of those have ended, and the points that
//! they left were looked through too, is the pack taken out of the index and removed. Whatever is needed after all is
//! unmarked. Where nobody else is at work, all of it happens in one run.
//!
//! Order that makes every torn run harmless: new packs and their index, mark, sessions, index without the pack, removal
//! of the pack, removal of the mark. A stock restic is kept out by an exclusive lock for as long as prune runs.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use self::{
    act::Pruner,
    mark::{Mark, read_marks, sweep_sessions},
    plan::{Planned, Planner},
};
use crate::{
    BlobId, PackId, SnapshotId, VaultError,
    index::Index,
    job::Job,
    lock::{RepositoryLock, held_by_others},
    repo::{Identity, IndexFiles, Repository},
    storage::FileKind,
    walk::{Marks, reach},
};

mod act;
mod mark;
mod plan;
#[cfg(test)]
mod tests;

pub(crate) use act::rewrite_index;
pub(crate) use mark::marked_packs;

/// Files that killed writers left half-written are removed at this age; one that is still written is younger.
const HALF_WRITTEN: Duration = Duration::from_secs(60 * 60);

/// What prune may do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PruneOptions {
    /// How much may stay unused, because removing it would mean to copy what stands beside it: in percent of what is used.
    /// Packs with more unused bytes are copied first. 100: nothing is copied, small packs are not joined either.
    pub max_unused_percent: f64,
    /// Whether a repository without any snapshot is emptied. A `snapshots` folder that is lost or not mounted looks the
    /// same.
    pub allow_empty: bool,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self { max_unused_percent: 5.0, allow_empty: false }
    }
}

/// What is to be done, as numbers to be shown before it is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneSummary {
    pub used_bytes: u64,
    /// Bytes that no point needs, in packs that are still there.
    pub unused_bytes: u64,
    /// Packs of which nothing is needed.
    pub removed_packs: u64,
    /// Packs of which the rest is copied.
    pub repacked_packs: u64,
    /// Of those, small ones that are joined, whether anything of them is unused or not.
    pub joined_packs: u64,
    /// Bytes that have to be copied for it.
    pub repacked_bytes: u64,
    /// Unused bytes that stay, since little stands beside much that is needed.
    pub kept_unused_bytes: u64,
    /// Packs that no index names: left by savers that were cut off.
    pub unindexed_packs: u64,
    /// Packs that earlier runs marked and that are removed now.
    pub marked_packs: u64,
}

/// What is to be removed. Valid for the repository that it was made for, as it was then.
pub struct PrunePlan {
    pub summary: PruneSummary,
    lock: RepositoryLock,
    state: Snapshot,
    planned: Planned,
    used: Marks,
}

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    pub removed_packs: u64,
    pub removed_bytes: u64,
    /// Packs that wait for others to end before they can be removed.
    pub waiting_packs: u64,
    /// Who is waited for.
    pub waiting_for: Vec<String>,
    /// Why the rest of the plan was not done: the store was full, even after what was removed.
    pub unfinished: Option<String>,
}

/// The repository as it was looked at.
struct Snapshot {
    index: Index,
    files: IndexFiles,
    sizes: HashMap<PackId, u64>,
    marks: Vec<Mark>,
    seen: HashSet<SnapshotId>,
}

impl Repository {
    /// Looks at everything and says what can go. Nothing is changed; other programs are kept out until the plan is
    /// dropped or acted on.
    pub fn prune_plan(
        self: &Arc<Self>,
        options: PruneOptions,
        who: &Identity,
        job: &Job,
    ) -> Result<PrunePlan, VaultError> {
        self.check_writable()?;
        let lock = RepositoryLock::exclusive(self, who)?;
        let (state, used) = look(self, who, &lock, job)?;
        if state.seen.is_empty() && !state.sizes.is_empty() && !options.allow_empty {
            return Err(VaultError::NoSnapshots { place: self.describe(), packs: state.sizes.len() as u64 });
        }
        let planned = Planner { repository: self, state: &state, used: &used }.plan(options)?;
        Ok(PrunePlan { summary: planned.summary, lock, state, planned, used })
    }

    /// Does what the plan says.
    pub fn prune(
        self: &Arc<Self>,
        plan: PrunePlan,
        who: &Identity,
        job: &Job,
    ) -> Result<PruneReport, VaultError> {
        let PrunePlan { lock, state, planned, used, .. } = plan;
        self.storage.sweep_temporary(HALF_WRITTEN)?;
        let mut pruner = Pruner {
            repository: self,
            who,
            lock: &lock,
            job,
            state,
            used,
            gone: HashSet::new(),
            has_rewritten_index: false,
            report: PruneReport::default(),
        };
        let outcome = pruner.run(planned);
        let mut report = pruner.report;
        match outcome {
            Err(error) if error.is_no_space() && report.removed_packs > 0 => {
                report.unfinished = Some(error.to_string());
            }
            outcome => outcome?,
        }
        sweep_sessions(self)?;
        lock.check()?;
        Ok(report)
    }
}

/// Everything that prune decides by, in the order that misses nobody: sessions, points, sessions again, index.
fn look(
    repository: &Repository,
    who: &Identity,
    lock: &RepositoryLock,
    job: &Job,
) -> Result<(Snapshot, Marks), VaultError> {
    job.begin("looking at the repository", 0);
    let before = held_by_others(repository, who, lock.session())?;
    let snapshots = repository.snapshots(job)?;
    let after = held_by_others(repository, who, lock.session())?;
    let marks = read_marks(repository)?;
    let (index, files) = repository.load_index_and_files(job)?;
    let listed = repository.storage.list(FileKind::Pack)?;
    let sizes = listed.into_iter().filter_map(|pack| Some((pack.name.parse().ok()?, pack.size))).collect();
    let roots = snapshots.iter().map(|(_, snapshot)| snapshot.tree);
    let kept = before.iter().chain(&after).flat_map(|held| held.lock.keeps.iter().copied());
    let mut used = Marks::new(&index);
    walk(repository, &index, roots.chain(kept), &mut used, job)?;
    let seen = snapshots.iter().map(|(id, _)| *id).collect();
    Ok((Snapshot { index, files, sizes, marks, seen }, used))
}

/// Prune must know all that is needed; in a damaged repository it does not.
fn walk(
    repository: &Repository,
    index: &Index,
    roots: impl IntoIterator<Item = BlobId>,
    used: &mut Marks,
    job: &Job,
) -> Result<(), VaultError> {
    let broken = reach(repository, index, roots, used, job)?;
    if broken.is_empty() {
        return Ok(());
    }
    Err(VaultError::Invalid(format!(
        "{}: {} trees and {} chunks that points need are missing or damaged, so nothing is removed; \
         'vault verify' names them, 'vault repair' keeps what is whole",
        repository.describe(),
        broken.trees.len(),
        broken.missing.len()
    )))
}
