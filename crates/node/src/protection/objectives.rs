//! Whose work of too long a time would be lost now.
//!
//! It is counted by what this host's own runs saved, as they are written down: to ask repositories again and again would keep
//! their disks awake, and a store far away busy. The instant of a point is taken as the beginning of its backup, so what is
//! told comes rather too early than too late.

use nestling_model::{
    VmId, VmPath,
    protection::{
        Candidate, Job, MachineRun, RecoveryPoint, RepositoryId, Run, Warnings, due::CLOCK_SLACK_MS,
        missed_objective,
    },
};

/// A machine whose newest recovery point is too old.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missed {
    pub vm: VmId,
    pub path: VmPath,
    /// When the newest point was taken, if there is any.
    pub newest_ms: Option<u64>,
    /// How long ago it had to be followed by another.
    pub late_ms: u64,
}

/// The points that runs made of a machine in a repository.
fn points(runs: &[Run], repository: RepositoryId, vm: VmId) -> Vec<RecoveryPoint> {
    let there = runs.iter().filter(|run| run.repository == repository);
    there
        .flat_map(|run| run.machines.iter().filter(|m| m.id == vm).map(move |machine| (run, machine)))
        .filter_map(|(run, machine)| made(run, machine))
        .collect()
}

fn made(run: &Run, machine: &MachineRun) -> Option<RecoveryPoint> {
    Some(RecoveryPoint {
        id: machine.point?,
        repository: run.repository,
        machine: machine.path.clone(),
        machine_id: Some(machine.id),
        taken_at_ms: machine.started_at_ms?,
        job: run.job,
        run: Some(run.id),
        consistency: machine.consistency,
        disks: Vec::new(),
        new_bytes: machine.new_bytes,
        stored_bytes: machine.stored_bytes,
        pinned: false,
        protected_until_ms: None,
        damaged: false,
        proof: None,
        warnings: Warnings::default(),
    })
}

/// When the newest of a machine's points was taken.
pub fn newest_ms(runs: &[Run], repository: RepositoryId, vm: VmId) -> Option<u64> {
    points(runs, repository, vm).iter().map(|point| point.taken_at_ms).max()
}

/// The machines of a job whose objective is missed. `born_ms` tells when a machine was made.
pub fn missed(
    job: &Job,
    machines: &[Candidate],
    runs: &[Run],
    born_ms: impl Fn(VmId) -> u64,
    now_ms: u64,
) -> Vec<Missed> {
    let Some(objective) = job.policy.objective.filter(|_| job.enabled) else { return Vec::new() };
    let missed = |machine: &Candidate| {
        let points = points(runs, job.policy.repository, machine.id);
        // A clock that ran ahead must not hide what is missed.
        let is_past = |ms: &u64| *ms <= now_ms.saturating_add(CLOCK_SLACK_MS);
        let since = [job.active_from_ms, born_ms(machine.id)].into_iter().filter(is_past).max();
        let since_ms = since.unwrap_or(0);
        let missed = missed_objective(&points, since_ms, objective, now_ms)?;
        Some(Missed {
            vm: machine.id,
            path: machine.path.clone(),
            newest_ms: missed.newest_ms,
            late_ms: missed.late_ms,
        })
    };
    job.selection.pick(machines).into_iter().filter_map(missed).collect()
}
