//! What starts by itself, and when: one task, which looks, does what is due, and sleeps until something can be due again.
//!
//! What is due `due` of the model decides, from the jobs, the runs that are written down, and the clock. Nothing is remembered, so that
//! a node that dies anywhere starts what is due once and no more. The scheduler wakes at the next time, at a change of a job, at the end
//! of a run, and when the clock is set.

use std::{collections::HashSet, sync::Arc};

use futures_util::future::join_all;
use nestling_model::{
    EventKind, VmId,
    protection::{Cause, Due, Job, JobId, Run, due},
};
use tokio::sync::Mutex;

use super::{
    candidates::looks_at_disks,
    notices,
    objectives::{self, Missed},
};
use crate::node::Shared;

const MINUTE_MS: u64 = 60_000;
/// Looked again in any case.
const LOOK_MS: u64 = 60 * MINUTE_MS;

/// The machines of jobs whose missed objective was told. Held by whoever looks: one at a time.
pub type Told = Mutex<HashSet<(JobId, VmId)>>;

/// Starts the scheduler. It ends with the node.
pub fn start(node: &Arc<Shared>) {
    tokio::spawn(tell_of_untold(Arc::clone(node)));
    let node = Arc::clone(node);
    tokio::spawn(async move {
        loop {
            let alarm = node.settings.clock.alarm();
            let next_ms = node.look().await;
            tokio::select! {
                // First: a run that the end of the node interrupts is due again, for the next node.
                biased;
                () = node.stopping.cancelled() => return,
                () = node.protection.jobs.changed.notified() => {}
                () = alarm.at(next_ms) => {}
            }
        }
    });
}

/// Runs that a node left have nobody else who tells of them.
async fn tell_of_untold(node: Arc<Shared>) {
    for entry in node.protection.runs.take_untold() {
        let job = entry.run().job;
        if let Some(job) = node.protection.jobs.all().iter().find(|other| Some(other.id) == job) {
            notices::tell_of_run(&node, &entry, job).await;
        }
    }
}

impl Shared {
    /// Does what is due. When to look again.
    pub async fn look(self: &Arc<Self>) -> u64 {
        let mut told = self.protection.told.lock().await;
        let now_ms = self.now_ms();
        let next_minute = (now_ms / MINUTE_MS + 1) * MINUTE_MS;
        let (jobs, runs) = (self.protection.jobs.all(), self.protection.runs.documents());
        let mut next_ms = now_ms.saturating_add(LOOK_MS);
        // Side by side: one that has to wait for disks holds up no other.
        let begun =
            join_all(due(&jobs, &runs, now_ms).into_iter().map(|due| self.begin_due(&jobs, due))).await;
        if begun.contains(&false) {
            next_ms = next_ms.min(next_minute);
        }
        self.end_what_may_not_run(&jobs, now_ms);
        self.look_at_objectives(&jobs, now_ms, &mut told).await;
        // Windows begin and end with a minute, and no objective is shorter.
        let minutes = jobs.iter().any(|job| job.enabled && has_minutes(job)).then_some(next_minute);
        jobs.iter().filter_map(|job| job.next_ms(now_ms)).chain(minutes).fold(next_ms, u64::min)
    }

    /// False: it could not.
    async fn begin_due(self: &Arc<Self>, jobs: &[Job], due: Due) -> bool {
        let Some(job) = jobs.iter().find(|job| job.id == due.job) else { return true };
        self.steps.reached("job due");
        let Err(error) = self.begin_job(job, due.causes).await else { return true };
        // Nothing is written down of it, so it is due still.
        let message = format!("it cannot begin, and is tried again: {}", error.message());
        self.events.tell(EventKind::Warning, job.name.as_str(), message);
        false
    }

    /// Ends runs that began by themselves in hours in which nothing of their job runs.
    fn end_what_may_not_run(&self, jobs: &[Job], now_ms: u64) {
        for entry in self.protection.runs.all() {
            let run = entry.run();
            let by_itself = run.causes.iter().any(|cause| !matches!(cause, Cause::Person { .. }));
            let schedule =
                jobs.iter().find(|job| Some(job.id) == run.job).and_then(|job| job.schedule.as_ref());
            if !run.state.has_ended() && by_itself && schedule.is_some_and(|s| !s.may_run(now_ms)) {
                entry.end_because("the hours have begun in which nothing of this job runs");
            }
        }
    }

    /// Tells of machines whose newest point has become too old, once for each time that it does.
    async fn look_at_objectives(
        self: &Arc<Self>,
        jobs: &[Job],
        now_ms: u64,
        told: &mut HashSet<(JobId, VmId)>,
    ) {
        let with: Vec<&Job> = jobs.iter().filter(|job| job.policy.objective.is_some()).collect();
        let runs: Vec<Run> = self.protection.runs.documents();
        let mut machines = Vec::new();
        if !with.is_empty() {
            machines = self.candidates(with.iter().any(|job| looks_at_disks(job))).await;
        }
        let own = machines.len();
        let mut missed_now = HashSet::new();
        for job in with {
            machines.truncate(own);
            machines.extend(self.remembered_inside(job.id, &runs));
            let missed = objectives::missed(job, &machines, &runs, |vm| self.born_ms(vm), now_ms);
            missed_now.extend(missed.iter().map(|missed| (job.id, missed.vm)));
            let is_new = |missed: &Missed| !told.contains(&(job.id, missed.vm));
            let new: Vec<Missed> = missed.into_iter().filter(is_new).collect();
            if !new.is_empty() {
                self.tell_missed(job, new);
            }
        }
        *told = missed_now;
    }

    fn tell_missed(self: &Arc<Self>, job: &Job, missed: Vec<Missed>) {
        for missed in &missed {
            let newest = match missed.newest_ms {
                Some(ms) => format!("its newest recovery point is of {}", super::saving::timestamp(ms)),
                None => "it has no recovery point".to_owned(),
            };
            let message = format!("the recovery point objective of job '{}' is missed: {newest}", job.name);
            self.events.tell(EventKind::Warning, missed.path.to_string(), message);
        }
        let (node, job) = (Arc::clone(self), job.clone());
        tokio::spawn(async move { notices::tell_of_missed(&node, &job, &missed).await });
    }
}

fn has_minutes(job: &Job) -> bool {
    job.policy.objective.is_some() || job.schedule.as_ref().is_some_and(|schedule| schedule.has_windows())
}
