//! A protection job: what, how, when.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use super::{
    id::{JobId, RepositoryId},
    policy::{JobPolicy, PolicyInvalid},
    repository::Repository,
    schedule::Schedule,
    selection::{Selection, SelectionInvalid},
};
use crate::name::JobName;

/// The longest notes of a job, in characters.
pub const NOTES_CHARS_MAX: usize = 4000;
/// How many jobs a host may have.
pub const JOBS_MAX: usize = 10_000;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    pub id: JobId,
    pub name: JobName,
    #[serde(default)]
    pub notes: String,
    /// A job that is not enabled runs only when a person asks for it.
    #[serde(default = "yes")]
    pub enabled: bool,
    pub selection: Selection,
    pub policy: JobPolicy,
    /// `None`: it runs after other jobs or when a person asks for it.
    #[serde(default)]
    pub schedule: Option<Schedule>,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    #[serde(default)]
    pub created_at_ms: u64,
    /// What came before is nobody's: set when the job is made or enabled, and when its schedule or the jobs that it
    /// follows change. Else a job that is enabled after a year would at once make up for the year.
    #[serde(default)]
    pub active_from_ms: u64,
}

const fn yes() -> bool {
    true
}

/// What else a host has, which a job is checked against.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// With or without the job itself as it was before.
    pub jobs: &'a [Job],
    pub repositories: &'a [Repository],
}

/// Why a job cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JobInvalid {
    #[error("a job is called \"{0}\" already; give another name")]
    Name(JobName),
    #[error("the notes have {chars} characters; at most {NOTES_CHARS_MAX} are possible")]
    Notes { chars: usize },
    #[error("a host has at most {JOBS_MAX} jobs")]
    TooMany,
    #[error("the job \"{job}\" cannot cover machines so")]
    Selection { job: JobName, source: SelectionInvalid },
    #[error("the job \"{job}\" cannot back up so")]
    Policy { job: JobName, source: PolicyInvalid },
    #[error("the job \"{job}\" names a repository that this host does not know ({})", repository.0)]
    NoRepository { job: JobName, repository: RepositoryId },
    #[error("the job \"{job}\" follows a job that does not exist ({})", follows.0)]
    NoJob { job: JobName, follows: JobId },
    #[error("jobs would follow each other for ever: {}", .0.iter().map(JobName::as_str).collect::<Vec<_>>().join(" → "))]
    Cycle(Vec<JobName>),
}

impl Job {
    /// Checks all that can be decided from the values and from what else the host has.
    pub fn validate(&self, known: &Known<'_>) -> Result<(), JobInvalid> {
        let others = || known.jobs.iter().filter(|other| other.id != self.id);
        if let Some(other) = others().find(|other| other.name == self.name) {
            return Err(JobInvalid::Name(other.name.clone()));
        }
        if others().count() >= JOBS_MAX {
            return Err(JobInvalid::TooMany);
        }
        let chars = self.notes.chars().count();
        if chars > NOTES_CHARS_MAX {
            return Err(JobInvalid::Notes { chars });
        }
        let job = || self.name.clone();
        self.selection.validate().map_err(|source| JobInvalid::Selection { job: job(), source })?;
        self.policy.validate().map_err(|source| JobInvalid::Policy { job: job(), source })?;
        let copies = self.policy.copies.iter().map(|copy| copy.repository);
        for repository in std::iter::once(self.policy.repository).chain(copies) {
            if !known.repositories.iter().any(|r| r.id == repository) {
                return Err(JobInvalid::NoRepository { job: job(), repository });
            }
        }
        self.validate_chain(known.jobs)
    }

    /// Looks for a way from this job over those that it follows back to itself.
    fn validate_chain(&self, jobs: &[Self]) -> Result<(), JobInvalid> {
        let by_id: HashMap<JobId, &Self> =
            jobs.iter().map(|job| (job.id, job)).chain([(self.id, self)]).collect();
        if let Some(after) = self.policy.after.iter().find(|after| !by_id.contains_key(&after.job)) {
            return Err(JobInvalid::NoJob { job: self.name.clone(), follows: after.job });
        }
        // A way is kept with each step, so that the message can name it; each job is looked at once.
        let mut seen = HashSet::new();
        let mut waiting: Vec<(JobId, usize)> = vec![(self.id, 0)];
        let mut way: Vec<JobId> = Vec::new();
        while let Some((id, depth)) = waiting.pop() {
            way.truncate(depth);
            if depth > 0 && id == self.id {
                let names = way.iter().chain([&id]).rev().filter_map(|id| by_id.get(id));
                return Err(JobInvalid::Cycle(names.map(|job| job.name.clone()).collect()));
            }
            if !seen.insert(id) {
                continue;
            }
            way.push(id);
            let followed = by_id.get(&id).map_or(&[][..], |job| &job.policy.after);
            waiting.extend(followed.iter().map(|after| (after.job, depth + 1)));
        }
        Ok(())
    }

    /// When it comes next by its schedule, if it is enabled.
    pub fn next_ms(&self, now_ms: u64) -> Option<u64> {
        self.schedule.as_ref().filter(|_| self.enabled)?.next(now_ms)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::protection::{
        policy::{After, AfterEnd},
        samples::{job, job_id, repository},
    };

    fn follow(job: &mut Job, others: &[u128]) {
        job.policy.after = others.iter().map(|n| After { job: job_id(*n), end: AfterEnd::Success }).collect();
    }

    fn check(job: &Job, jobs: &[Job]) -> Result<(), JobInvalid> {
        job.validate(&Known { jobs, repositories: &[repository()] })
    }

    #[test]
    fn jobs_that_follow_each_other_are_named() {
        let mut jobs: Vec<Job> = (1..=3).map(job).collect();
        follow(&mut jobs[1], &[1]);
        follow(&mut jobs[2], &[2]);
        assert_eq!(check(&jobs[2], &jobs), Ok(()));
        let mut first = jobs[0].clone();
        follow(&mut first, &[3]);
        let error = check(&first, &jobs).unwrap_err();
        assert_eq!(error.to_string(), "jobs would follow each other for ever: job1 → job2 → job3 → job1");
        follow(&mut first, &[1]);
        assert!(matches!(check(&first, &jobs), Err(JobInvalid::Cycle(names)) if names.len() == 2));
        follow(&mut first, &[9]);
        assert_eq!(
            check(&first, &jobs),
            Err(JobInvalid::NoJob { job: first.name.clone(), follows: job_id(9) })
        );
    }

    #[test]
    fn names_and_repositories_are_looked_up() {
        let (one, mut two) = (job(1), job(2));
        two.name = "JOB1".parse().unwrap();
        assert!(matches!(check(&two, std::slice::from_ref(&one)), Err(JobInvalid::Name(_))));
        assert_eq!(check(&one, std::slice::from_ref(&one)), Ok(()));
        two = job(2);
        two.policy.repository = RepositoryId(Uuid::from_u128(77));
        assert!(matches!(check(&two, &[]), Err(JobInvalid::NoRepository { .. })));
        two = job(2);
        two.notes = "x".repeat(NOTES_CHARS_MAX + 1);
        assert!(matches!(check(&two, &[]), Err(JobInvalid::Notes { .. })));
    }

    /// Whether a job can be reached from itself, by trying all ways of a length.
    fn oracle(edges: &[Vec<usize>], from: usize) -> bool {
        let mut reached: Vec<usize> = edges[from].clone();
        for _ in 0..edges.len() {
            let next: Vec<usize> = reached.iter().flat_map(|n| edges[*n].clone()).collect();
            reached.extend(next);
            reached.sort_unstable();
            reached.dedup();
        }
        reached.contains(&from)
    }

    proptest! {
        #[test]
        fn a_cycle_is_found_if_there_is_one(
            edges in prop::collection::vec(prop::collection::btree_set(0_usize..6, 0..4), 6),
        ) {
            let edges: Vec<Vec<usize>> = edges.into_iter().map(|set| set.into_iter().collect()).collect();
            let jobs: Vec<Job> = edges.iter().enumerate().map(|(number, followed)| {
                let mut job = job(number as u128);
                follow(&mut job, &followed.iter().map(|n| *n as u128).collect::<Vec<_>>());
                job
            }).collect();
            for (number, job) in jobs.iter().enumerate() {
                let found = matches!(check(job, &jobs), Err(JobInvalid::Cycle(_)));
                prop_assert_eq!(found, oracle(&edges, number));
            }
        }
    }
}
