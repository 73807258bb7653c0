//! What starts by itself, and when: one task, which looks, does what is due, and sleeps until something can be due again.
//!
//! What is due `due` of the model decides, from the jobs, the runs that are written down, and the clock. Nothing is remembered, so that
//! a node that dies anywhere starts what is due once and no more. A run that began by itself and was interrupted by the end of the node
//! is begun once again; should that one be interrupted, too, the next time has to come. The scheduler wakes at the next time, at a change
//! of a job, at the end of a run, and when the clock is set.

use std::{collections::HashSet, sync::Arc};

use nestling_model::{
    EventKind, VmId,
    protection::{Cause, Due, Job, JobId, Message, MissedRun, Run, RunState, due},
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
    tokio::spawn(tell_of_interrupted(Arc::clone(node)));
    let node = Arc::clone(node);
    tokio::spawn(async move {
        loop {
            let alarm = node.settings.clock.alarm();
            let next_ms = node.look().await;
            tokio::select! {
                () = node.stopping.cancelled() => return,
                () = node.protection.jobs.changed.notified() => {}
                () = alarm.at(next_ms) => {}
            }
        }
    });
}

/// Runs that a node left unfinished when it died have nobody else who tells of them.
async fn tell_of_interrupted(node: Arc<Shared>) {
    for entry in node.protection.runs.take_interrupted() {
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
        for due in starting(&jobs, &runs, now_ms) {
            let Some(job) = jobs.iter().find(|job| job.id == due.job) else { continue };
            self.steps.reached("job due");
            if let Err(error) = self.begin_job(job, due.causes).await {
                // Nothing is written down of it, so it is due still.
                let message = format!("it cannot begin, and is tried again: {}", error.message());
                self.events.tell(EventKind::Warning, job.name.as_str(), message);
                next_ms = next_ms.min(next_minute);
            }
        }
        self.end_what_may_not_run(&jobs, now_ms);
        self.look_at_objectives(&jobs, now_ms, &mut told).await;
        // Windows begin and end with a minute, and no objective is shorter.
        let minutes = jobs.iter().any(|job| job.enabled && has_minutes(job)).then_some(next_minute);
        jobs.iter().filter_map(|job| job.next_ms(now_ms)).chain(minutes).fold(next_ms, u64::min)
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
        let machines = if with.is_empty() {
            Vec::new()
        } else {
            self.candidates(with.iter().any(|job| looks_at_disks(job))).await
        };
        let runs: Vec<Run> = self.protection.runs.documents();
        let mut missed_now = HashSet::new();
        for job in with {
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

/// The jobs that start now.
fn starting(jobs: &[Job], runs: &[Run], now_ms: u64) -> Vec<Due> {
    let mut starting = due(jobs, runs, now_ms);
    for job in jobs {
        let is_due = starting.iter().any(|due| due.job == job.id);
        if let Some(cause) = again(job, runs, now_ms).filter(|_| !is_due) {
            starting.push(Due { job: job.id, causes: vec![cause] });
        }
    }
    starting
}

/// Why a job begins once again: its last run began by itself, and was interrupted.
fn again(job: &Job, runs: &[Run], now_ms: u64) -> Option<Cause> {
    let last = runs.iter().filter(|run| run.job == Some(job.id)).max_by_key(|run| run.number)?;
    if last.state != RunState::Interrupted || !job.enabled {
        return None;
    }
    let schedule = job.schedule.as_ref();
    if schedule.is_some_and(|schedule| !schedule.may_start(now_ms)) {
        return None;
    }
    let missed = schedule.map(|schedule| schedule.missed()).unwrap_or_default();
    let is_wanted = |cause: &Cause| match (cause, missed) {
        (Cause::Person { .. }, _) => false,
        (Cause::Chain { .. }, _) | (Cause::Schedule { .. }, MissedRun::AtOnce) => true,
        (Cause::Schedule { .. }, MissedRun::Skip) => false,
        (Cause::Schedule { time_ms }, MissedRun::Within { hours }) => {
            now_ms.saturating_sub(*time_ms) <= u64::from(hours) * 60 * MINUTE_MS
        }
    };
    let name = Message::from(format!("the node, since run {} was interrupted", last.number));
    last.causes.iter().any(is_wanted).then_some(Cause::Person { name })
}

fn has_minutes(job: &Job) -> bool {
    job.policy.objective.is_some() || job.schedule.as_ref().is_some_and(|schedule| schedule.has_windows())
}

#[cfg(test)]
mod tests {
    use nestling_model::protection::{JobPolicy, RepositoryId, RunId, Selection, Warnings};
    use uuid::Uuid;

    use super::*;

    const HOUR_MS: u64 = 60 * MINUTE_MS;

    fn job(schedule: &str) -> Job {
        Job {
            id: JobId(Uuid::from_u128(1)),
            name: "A".parse().unwrap(),
            notes: String::new(),
            enabled: true,
            selection: Selection::default(),
            policy: JobPolicy::new(RepositoryId(Uuid::nil())),
            schedule: Some(schedule.parse().unwrap()),
            created_at_ms: 0,
            active_from_ms: 0,
        }
    }

    fn interrupted(number: u64, cause: Cause) -> Run {
        Run {
            id: RunId(Uuid::from_u128(number.into())),
            number,
            job: Some(JobId(Uuid::from_u128(1))),
            job_name: None,
            causes: vec![cause],
            repository: RepositoryId(Uuid::nil()),
            created_at_ms: 0,
            started_at_ms: None,
            ended_at_ms: Some(0),
            state: RunState::Interrupted,
            machines: Vec::new(),
            warnings: Warnings::default(),
            reason: None,
        }
    }

    #[test]
    fn what_was_interrupted_begins_once_again_as_far_as_the_schedule_wants_it() {
        let timed = interrupted(1, Cause::Schedule { time_ms: 0 });
        let begins = |job: &Job, runs: &[Run], now_ms| again(job, runs, now_ms).is_some();
        assert!(begins(&job("daily at 00:00"), std::slice::from_ref(&timed), HOUR_MS));
        assert!(!begins(&job("daily at 00:00 missed skip"), std::slice::from_ref(&timed), HOUR_MS));
        let within = job("daily at 00:00 missed within 2 hours");
        assert!(begins(&within, std::slice::from_ref(&timed), 2 * HOUR_MS));
        assert!(!begins(&within, std::slice::from_ref(&timed), 3 * HOUR_MS));
        let night = job("daily at 00:00 during 22:00-06:00");
        assert!(!begins(&night, std::slice::from_ref(&timed), 12 * HOUR_MS), "it waits for its window");
        assert!(begins(&night, std::slice::from_ref(&timed), 22 * HOUR_MS));
        let off = Job { enabled: false, ..job("daily at 00:00") };
        assert!(!begins(&off, std::slice::from_ref(&timed), HOUR_MS));

        let cause = again(&job("daily at 00:00"), std::slice::from_ref(&timed), HOUR_MS).unwrap();
        let twice = [timed.clone(), interrupted(2, cause)];
        assert!(!begins(&job("daily at 00:00"), &twice, HOUR_MS), "no more than once");
        let later =
            [timed, Run { state: RunState::Succeeded, ..interrupted(2, Cause::Schedule { time_ms: 9 }) }];
        assert!(!begins(&job("daily at 00:00"), &later, HOUR_MS));
    }
}
