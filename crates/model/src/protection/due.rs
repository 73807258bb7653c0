//! Which jobs start now.
//!
//! Decided from the jobs, the runs that are written down, and the time, again and again; nothing is remembered in
//! between. What started is known by its run, so a run must be written down before anything else is asked, and
//! [`removable`](super::removable) alone says which runs may be forgotten. What holds:
//!
//! - No time of a schedule, and no end of another job, starts a job twice, however the clock goes.
//! - A job that runs is not started again. What came meanwhile is one run afterwards, as far as the schedule's
//!   policy for missed runs wants it; so is what came while the node was down, however much it was.
//! - A run that was begun after a time stands for that time, whoever wanted it.
//! - A run that began by itself and was interrupted by the end of the node is begun once again, unless its job was changed
//!   since. Should that one be interrupted, too, the next time has to come.
//! - A clock that ran ahead and was set right does not keep jobs from running: what is written down of a time that is
//!   yet to come does not count, except for a small step back.

use std::collections::HashMap;

use super::{
    id::{JobId, RunId},
    job::Job,
    policy::{After, AfterEnd},
    run::{Cause, Run},
    run_state::RunState,
    schedule::{MissedRun, Schedule},
};

/// How far a clock is set back in the course of things, in milliseconds: jobs wait for it to come again.
pub const CLOCK_SLACK_MS: u64 = 3_600_000;
/// How late a run may start and still be on time: a schedule counts in minutes.
pub const ON_TIME_MS: u64 = 60_000;

const HOUR_MS: u64 = 3_600_000;

/// A job that starts now, and why: one run for all causes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    pub job: JobId,
    /// At least one.
    pub causes: Vec<Cause>,
}

/// An end of a run that others may follow.
#[derive(Debug, Clone, Copy)]
struct End {
    number: u64,
    run: RunId,
    at_ms: u64,
}

/// What is written down of one job.
#[derive(Debug, Default)]
struct Past<'a> {
    is_active: bool,
    /// The one with the highest number.
    last: Option<&'a Run>,
    /// The schedule's times up to this one need no run any more.
    served_ms: u64,
    /// The last end of each job that was followed, by the run's number.
    followed: HashMap<JobId, u64>,
    success: Option<End>,
    failure: Option<End>,
    any: Option<End>,
}

impl<'a> Past<'a> {
    fn note(&mut self, run: &'a Run, now_ms: u64) {
        self.is_active |= !run.state.has_ended();
        if self.last.is_none_or(|last| last.number < run.number) {
            self.last = Some(run);
        }
        self.serve(run.created_at_ms, now_ms);
        for cause in &run.causes {
            match cause {
                Cause::Schedule { time_ms } => self.serve(*time_ms, now_ms),
                Cause::Chain { job, number, .. } => {
                    let last = self.followed.entry(*job).or_default();
                    *last = (*last).max(*number);
                }
                Cause::Person { .. } | Cause::Again { .. } => {}
            }
        }
        if run.state.has_ended() {
            let at_ms = run.ended_at_ms.unwrap_or(run.created_at_ms);
            self.note_end(run.state, End { number: run.number, run: run.id, at_ms });
        }
    }

    fn serve(&mut self, at_ms: u64, now_ms: u64) {
        if is_credible(at_ms, now_ms) {
            self.served_ms = self.served_ms.max(at_ms);
        }
    }

    fn note_end(&mut self, state: RunState, end: End) {
        let newer = |last: &mut Option<End>| {
            if last.is_none_or(|last| last.number < end.number) {
                *last = Some(end);
            }
        };
        newer(&mut self.any);
        match state {
            RunState::Succeeded | RunState::SucceededWithWarnings => newer(&mut self.success),
            RunState::Failed | RunState::Interrupted => newer(&mut self.failure),
            RunState::Cancelled | RunState::Waiting | RunState::Running => {}
        }
    }

    const fn end(&self, end: AfterEnd) -> Option<End> {
        match end {
            AfterEnd::Success => self.success,
            AfterEnd::Failure => self.failure,
            AfterEnd::Any => self.any,
        }
    }
}

/// Whether a time that is written down can be one of this clock.
const fn is_credible(at_ms: u64, now_ms: u64) -> bool {
    at_ms <= now_ms.saturating_add(CLOCK_SLACK_MS)
}

/// The jobs that start now, in the order in which they are given. Runs that a node left unfinished when it died must
/// have been ended before: a job that runs is not due.
pub fn due(jobs: &[Job], runs: &[Run], now_ms: u64) -> Vec<Due> {
    let mut pasts: HashMap<JobId, Past<'_>> = HashMap::new();
    for run in runs {
        if let Some(job) = run.job {
            pasts.entry(job).or_default().note(run, now_ms);
        }
    }
    let nothing = Past::default();
    let past = |job: JobId| pasts.get(&job).unwrap_or(&nothing);
    jobs.iter()
        .filter(|job| job.enabled && !past(job.id).is_active)
        .filter(|job| job.schedule.as_ref().is_none_or(|schedule| schedule.may_start(now_ms)))
        .filter_map(|job| {
            let own = past(job.id);
            let timed = job.schedule.as_ref().and_then(|schedule| timed(job, schedule, own, now_ms));
            let chained = job.policy.after.iter().filter_map(|after| {
                let end = past(after.job).end(after.end)?;
                chained(job, after, end, own, now_ms)
            });
            let mut causes: Vec<Cause> = timed.into_iter().chain(chained).collect();
            if causes.is_empty() {
                causes.extend(own.last.and_then(|last| again(job, last, now_ms)));
            }
            (!causes.is_empty()).then_some(Due { job: job.id, causes })
        })
        .collect()
}

/// From when on a job's times and the ends of others count.
fn active_from_ms(job: &Job, now_ms: u64) -> u64 {
    [job.active_from_ms, job.created_at_ms]
        .into_iter()
        .filter(|at| is_credible(*at, now_ms))
        .max()
        .unwrap_or(0)
}

fn timed(job: &Job, schedule: &Schedule, own: &Past<'_>, now_ms: u64) -> Option<Cause> {
    let time_ms = schedule.latest(now_ms)?;
    if time_ms <= own.served_ms.max(active_from_ms(job, now_ms)) {
        return None;
    }
    let late_ms = now_ms.saturating_sub(time_ms);
    let starts = match schedule.missed() {
        MissedRun::AtOnce => true,
        MissedRun::Skip => late_ms < ON_TIME_MS,
        MissedRun::Within { hours } => late_ms <= u64::from(hours) * HOUR_MS,
    };
    starts.then_some(Cause::Schedule { time_ms })
}

/// A run that was interrupted is wanted as far as the schedule wants what could not start in time.
fn again(job: &Job, last: &Run, now_ms: u64) -> Option<Cause> {
    if last.state != RunState::Interrupted || last.created_at_ms < active_from_ms(job, now_ms) {
        return None;
    }
    let missed = job.schedule.as_ref().map(Schedule::missed).unwrap_or_default();
    let is_wanted = |cause: &Cause| match (cause, missed) {
        (Cause::Person { .. } | Cause::Again { .. }, _) => false,
        (Cause::Chain { .. }, _) | (Cause::Schedule { .. }, MissedRun::AtOnce) => true,
        (Cause::Schedule { .. }, MissedRun::Skip) => false,
        (Cause::Schedule { time_ms }, MissedRun::Within { hours }) => {
            now_ms.saturating_sub(*time_ms) <= u64::from(hours) * HOUR_MS
        }
    };
    let is_again = last.causes.iter().any(is_wanted);
    is_again.then_some(Cause::Again { run: last.id, number: last.number })
}

fn chained(job: &Job, after: &After, end: End, own: &Past<'_>, now_ms: u64) -> Option<Cause> {
    let is_new = own.followed.get(&after.job).is_none_or(|last| *last < end.number);
    (is_new && end.at_ms >= active_from_ms(job, now_ms)).then_some(Cause::Chain {
        job: after.job,
        run: end.run,
        number: end.number,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;
    use crate::protection::{
        removable,
        samples::{job, job_id, run},
        schedule::Schedule,
    };

    /// 2026-11-02T00:00:00Z, a Monday.
    const MONDAY: u64 = 1_793_577_600_000;
    const MINUTE: u64 = 60_000;

    fn scheduled(number: u128, text: &str) -> Job {
        Job {
            schedule: Some(text.parse().unwrap()),
            created_at_ms: MONDAY,
            active_from_ms: MONDAY,
            ..job(number)
        }
    }

    fn follows(number: u128, other: u128, end: AfterEnd) -> Job {
        let mut job = Job { schedule: None, active_from_ms: MONDAY, created_at_ms: MONDAY, ..job(number) };
        job.policy.after = vec![After { job: job_id(other), end }];
        job
    }

    fn times(due: &[Due]) -> Vec<u64> {
        due.iter()
            .flat_map(|due| &due.causes)
            .filter_map(|cause| match cause {
                Cause::Schedule { time_ms } => Some((time_ms - MONDAY) / MINUTE),
                _ => None,
            })
            .collect()
    }

    fn ended(number: u64, job: u128, state: RunState, at_ms: u64) -> Run {
        Run { state, created_at_ms: at_ms, ended_at_ms: Some(at_ms), ..run(number, job) }
    }

    fn for_time(number: u64, time_ms: u64, created_at_ms: u64) -> Run {
        let causes = vec![Cause::Schedule { time_ms }];
        Run { causes, ..ended(number, 1, RunState::Succeeded, created_at_ms) }
    }

    #[test]
    fn a_job_starts_at_its_time_and_once() {
        let jobs = [scheduled(1, "every 15 minutes")];
        assert!(due(&jobs, &[], MONDAY + 14 * MINUTE).is_empty());
        let now = MONDAY + 15 * MINUTE;
        assert_eq!(times(&due(&jobs, &[], now)), [15]);
        let began = for_time(1, now, now + 50);
        assert_eq!(due(&jobs, std::slice::from_ref(&began), now + 100), []);
        let running = Run { state: RunState::Running, ended_at_ms: None, ..began };
        assert_eq!(due(&jobs, &[running], now + 40 * MINUTE), [], "it runs");
    }

    #[test]
    fn what_came_while_the_node_was_down_is_one_run_or_none() {
        let after_a_week = MONDAY + 7 * 24 * 60 * MINUTE + 90 * MINUTE;
        for (policy, starts) in
            [("now", true), ("skip", false), ("within 1 hour", false), ("within 2 hours", true)]
        {
            let jobs = [scheduled(1, &format!("daily at 00:00 missed {policy}"))];
            let due = due(&jobs, &[], after_a_week);
            assert_eq!(due.len(), usize::from(starts), "{policy}");
        }
    }

    #[test]
    fn a_missed_run_waits_for_its_window() {
        let jobs = [scheduled(1, "daily at 22:00 during 20:00-06:00")];
        let noon = MONDAY + 36 * 60 * MINUTE;
        assert_eq!(due(&jobs, &[], noon), []);
        assert_eq!(times(&due(&jobs, &[], MONDAY + 44 * 60 * MINUTE)), [22 * 60], "at 20:00");
    }

    #[test]
    fn a_run_that_a_person_wanted_after_the_time_stands_for_it() {
        let jobs = [scheduled(1, "daily at 06:00")];
        let now = MONDAY + 8 * 60 * MINUTE;
        assert_eq!(times(&due(&jobs, &[], now)), [6 * 60]);
        let person = ended(1, 1, RunState::Failed, MONDAY + 7 * 60 * MINUTE);
        assert_eq!(due(&jobs, &[person], now), []);
    }

    #[test]
    fn a_job_that_is_enabled_late_does_not_make_up_for_what_was_before() {
        let mut jobs = [scheduled(1, "daily at 06:00")];
        jobs[0].active_from_ms = MONDAY + 7 * 60 * MINUTE;
        assert_eq!(due(&jobs, &[], MONDAY + 8 * 60 * MINUTE), []);
        jobs[0].enabled = false;
        assert_eq!(due(&jobs, &[], MONDAY + 72 * 60 * MINUTE), []);
    }

    #[test]
    fn a_clock_that_ran_ahead_stops_nothing() {
        let jobs = [scheduled(1, "every 15 minutes")];
        let year = 365 * 24 * 60 * MINUTE;
        let wrong = for_time(1, MONDAY + year, MONDAY + year);
        assert_eq!(times(&due(&jobs, &[wrong], MONDAY + 15 * MINUTE)), [15]);
        let mut made_then = scheduled(1, "every 15 minutes");
        (made_then.created_at_ms, made_then.active_from_ms) = (MONDAY + year, MONDAY + year);
        assert_eq!(times(&due(&[made_then], &[], MONDAY + 15 * MINUTE)), [15]);
    }

    #[test]
    fn a_small_step_back_starts_nothing_again() {
        let jobs = [scheduled(1, "every 15 minutes")];
        let time = MONDAY + 30 * MINUTE;
        // Only the last run is known, and the clock shows a time before it.
        assert_eq!(due(&jobs, &[for_time(1, time, time)], time - 10_000), []);
    }

    #[test]
    fn ends_of_other_jobs_start_jobs_by_how_they_ended() {
        use RunState::{Cancelled, Failed, Interrupted, Running, Succeeded, SucceededWithWarnings};
        for (state, success, failure, any) in [
            (Succeeded, true, false, true),
            (SucceededWithWarnings, true, false, true),
            (Failed, false, true, true),
            (Interrupted, false, true, true),
            (Cancelled, false, false, true),
            (Running, false, false, false),
        ] {
            let runs = [ended(1, 1, state, MONDAY + 1)];
            for (end, starts) in
                [(AfterEnd::Success, success), (AfterEnd::Failure, failure), (AfterEnd::Any, any)]
            {
                let due = due(&[follows(2, 1, end)], &runs, MONDAY + 2);
                assert_eq!(!due.is_empty(), starts, "{state} {end:?}");
            }
        }
    }

    #[test]
    fn an_end_is_followed_once_and_ends_that_came_meanwhile_together() {
        let jobs = [follows(2, 1, AfterEnd::Success)];
        let mut runs: Vec<Run> = (1..4).map(|n| ended(n, 1, RunState::Succeeded, MONDAY + n)).collect();
        runs.push(ended(4, 1, RunState::Failed, MONDAY + 4));
        let started = due(&jobs, &runs, MONDAY + 5);
        let cause = Cause::Chain { job: job_id(1), run: runs[2].id, number: 3 };
        assert_eq!(started, [Due { job: job_id(2), causes: vec![cause] }]);
        let follower = Run { causes: started[0].causes.clone(), ..ended(5, 2, RunState::Failed, MONDAY + 6) };
        runs.push(follower);
        assert_eq!(due(&jobs, &runs, MONDAY + 7), []);
        let before = [Job { active_from_ms: MONDAY + 100, ..jobs[0].clone() }];
        runs.pop();
        assert_eq!(due(&before, &runs, MONDAY + 101), [], "it ended before the job was there");
    }

    #[test]
    fn a_time_and_an_end_together_are_one_run() {
        let mut both = scheduled(2, "every hour");
        both.policy.after = vec![After { job: job_id(1), end: AfterEnd::Any }];
        let now = MONDAY + 60 * MINUTE;
        let due = due(&[both], &[ended(1, 1, RunState::Succeeded, now)], now);
        assert_eq!((due.len(), due[0].causes.len()), (1, 2));
    }

    #[test]
    fn what_was_interrupted_begins_once_again_as_far_as_the_schedule_wants_it() {
        const HOUR: u64 = 60 * MINUTE;
        let cut = |number, cause| Run {
            causes: vec![cause],
            ..ended(number, 1, RunState::Interrupted, MONDAY + 1)
        };
        let timed = cut(1, Cause::Schedule { time_ms: MONDAY });
        let causes = |job: &Job, runs: &[Run], hours| -> Vec<Cause> {
            due(std::slice::from_ref(job), runs, MONDAY + hours * HOUR)
                .into_iter()
                .flat_map(|d| d.causes)
                .collect()
        };
        let begins = |text: &str, runs: &[Run], hours| !causes(&scheduled(1, text), runs, hours).is_empty();
        let one = std::slice::from_ref(&timed);
        let again = Cause::Again { run: timed.id, number: 1 };
        assert_eq!(causes(&scheduled(1, "daily at 00:00"), one, 1), std::slice::from_ref(&again));
        assert!(!begins("daily at 00:00 missed skip", one, 1));
        assert!(begins("daily at 00:00 missed within 2 hours", one, 2));
        assert!(!begins("daily at 00:00 missed within 2 hours", one, 3));
        assert!(!begins("daily at 00:00 during 22:00-06:00", one, 12), "it waits for its window");
        assert!(begins("daily at 00:00 during 22:00-06:00", one, 22));
        assert!(
            !begins("daily at 00:00 except 00:30-02:00", one, 1),
            "these are hours in which nothing runs"
        );

        let twice = [timed.clone(), cut(2, again)];
        assert!(!begins("daily at 00:00", &twice, 1), "no more than once");
        let person = cut(1, Cause::Person { name: "me".into() });
        assert!(!begins("daily at 00:00", &[person], 1), "a person can ask again");
        let later = [timed.clone(), ended(2, 1, RunState::Succeeded, MONDAY + 2)];
        assert!(!begins("daily at 00:00", &later, 1));

        let off = Job { enabled: false, ..scheduled(1, "daily at 00:00") };
        assert_eq!(causes(&off, one, 1), []);
        let changed = Job { active_from_ms: MONDAY + 2, ..scheduled(1, "daily at 00:00") };
        assert_eq!(causes(&changed, one, 1), [], "what was before it was enabled or changed is nobody's");
    }

    #[derive(Debug, Clone)]
    enum Happens {
        Minutes(u32),
        Back(u32),
        Ahead(u32),
        Ends(RunState),
        Forget,
    }

    fn happens() -> impl Strategy<Value = Happens> {
        prop_oneof![
            8 => (0_u32..40).prop_map(Happens::Minutes),
            1 => (1_u32..100_000).prop_map(Happens::Back),
            1 => (1_u32..100_000).prop_map(Happens::Ahead),
            6 => prop::sample::select(&RunState::ALL[2..]).prop_map(Happens::Ends),
        ]
    }

    /// A node with its clock.
    struct Node {
        jobs: Vec<Job>,
        runs: Vec<Run>,
        now_ms: u64,
        made: u64,
        causes: HashSet<(JobId, String)>,
    }

    impl Node {
        fn new(jobs: Vec<Job>) -> Self {
            Self { jobs, runs: Vec::new(), now_ms: MONDAY, made: 0, causes: HashSet::new() }
        }

        fn happen(&mut self, what: &Happens) {
            match what {
                Happens::Minutes(minutes) | Happens::Ahead(minutes) => {
                    self.now_ms += u64::from(*minutes) * MINUTE;
                }
                Happens::Back(minutes) => {
                    self.now_ms = self.now_ms.saturating_sub(u64::from(*minutes) * MINUTE);
                }
                Happens::Ends(state) => {
                    if let Some(run) = self.runs.iter_mut().find(|run| !run.state.has_ended()) {
                        run.state = *state;
                        run.ended_at_ms = Some(self.now_ms);
                    }
                }
                Happens::Forget => {
                    let gone: HashSet<RunId> = removable(&self.runs, 1).into_iter().collect();
                    self.runs.retain(|run| !gone.contains(&run.id));
                }
            }
        }

        /// Starts what is due, and checks that nothing starts twice.
        fn tick(&mut self) -> Result<(), TestCaseError> {
            for due in due(&self.jobs, &self.runs, self.now_ms) {
                prop_assert!(!due.causes.is_empty());
                for cause in &due.causes {
                    prop_assert!(self.causes.insert((due.job, format!("{cause:?}"))), "twice: {cause:?}");
                }
                let is_active = |run: &Run| run.job == Some(due.job) && !run.state.has_ended();
                prop_assert!(!self.runs.iter().any(is_active));
                self.made += 1;
                let number = u128::from(self.made);
                let waiting = run(self.made, number);
                self.runs.push(Run {
                    job: Some(due.job),
                    causes: due.causes,
                    created_at_ms: self.now_ms,
                    state: RunState::Waiting,
                    ended_at_ms: None,
                    ..waiting
                });
            }
            Ok(())
        }
    }

    fn some_jobs() -> Vec<Job> {
        let mut chained = follows(3, 1, AfterEnd::Success);
        chained.policy.after.push(After { job: job_id(2), end: AfterEnd::Any });
        vec![
            scheduled(1, "every 15 minutes"),
            scheduled(2, "daily at 01:30,22:30 Europe/Berlin except sun missed within 4 hours"),
            chained,
            follows(4, 3, AfterEnd::Failure),
        ]
    }

    proptest! {
        #[test]
        fn nothing_starts_twice_however_the_clock_goes(story in prop::collection::vec(happens(), 0..80)) {
            let mut node = Node::new(some_jobs());
            for what in story {
                node.happen(&what);
                node.tick()?;
                node.tick()?;
            }
        }

        /// While the clock goes forward, runs may be forgotten, too.
        #[test]
        fn what_is_forgotten_starts_nothing_again(story in prop::collection::vec(
            prop_oneof![3 => happens(), 1 => Just(Happens::Forget)], 0..80,
        )) {
            let mut node = Node::new(some_jobs());
            for what in story.into_iter().filter(|what| !matches!(what, Happens::Back(_))) {
                node.happen(&what);
                node.tick()?;
            }
        }

        /// Where nothing goes wrong, each time of the schedule has its run.
        #[test]
        fn each_time_has_its_run(minutes in 1_u64..400, every in 1_u16..50) {
            let schedule: Schedule = format!("every {every} minutes").parse().unwrap();
            let mut node = Node::new(vec![scheduled(1, &schedule.to_string())]);
            for _ in 0..minutes {
                node.happen(&Happens::Minutes(1));
                node.tick()?;
                node.happen(&Happens::Ends(RunState::Succeeded));
            }
            let mut expected = 0;
            let mut at = MONDAY;
            while let Some(next) = schedule.next(at).filter(|next| *next <= MONDAY + minutes * MINUTE) {
                expected += 1;
                at = next;
            }
            prop_assert_eq!(node.made, expected);
        }
    }
}
