//! Which runs may be forgotten.

use std::collections::{HashMap, HashSet};

use super::{
    id::{JobId, RunId},
    run::{Cause, Run},
};

/// The runs that are not needed any more, where the newest `keep` of each job are (of those without a job together).
/// What [`due`](super::due) decides by stays: runs that have not ended, the last one of each job for its schedule, and
/// the last one that followed each other job.
pub fn removable(runs: &[Run], keep: usize) -> Vec<RunId> {
    let mut newest_first: Vec<&Run> = runs.iter().collect();
    newest_first.sort_by_key(|run| std::cmp::Reverse(run.number));
    let mut counts: HashMap<Option<JobId>, usize> = HashMap::new();
    let mut needed: HashSet<(JobId, Option<JobId>)> = HashSet::new();
    let mut gone = Vec::new();
    for run in newest_first {
        let count = counts.entry(run.job).or_default();
        *count += 1;
        let mut is_needed = *count <= keep || !run.state.has_ended();
        for (job, cause) in run.job.iter().flat_map(|job| run.causes.iter().map(move |cause| (*job, cause))) {
            is_needed |= match cause {
                Cause::Schedule { .. } => needed.insert((job, None)),
                Cause::Chain { job: followed, .. } => needed.insert((job, Some(*followed))),
                Cause::Person { .. } | Cause::Again { .. } => false,
            };
        }
        if !is_needed {
            gone.push(run.id);
        }
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protection::{
        run_state::RunState,
        samples::{job_id, run},
    };

    #[test]
    fn the_newest_and_what_is_decided_by_stay() {
        let person = vec![Cause::Person { name: "admin".into() }];
        let chain = |number| vec![Cause::Chain { job: job_id(7), run: run(9, 7).id, number }];
        let time = |time_ms| vec![Cause::Schedule { time_ms }];
        let runs: Vec<Run> = [chain(1), chain(2), time(1), time(2), person.clone(), person.clone(), person]
            .into_iter()
            .zip(1..)
            .map(|(causes, number)| Run { causes, state: RunState::Succeeded, ..run(number, 1) })
            .collect();
        let numbers = |keep| {
            let gone = removable(&runs, keep);
            let mut numbers: Vec<u64> =
                runs.iter().filter(|run| gone.contains(&run.id)).map(|run| run.number).collect();
            numbers.sort_unstable();
            numbers
        };
        assert_eq!(numbers(1), [1, 3, 5, 6]);
        assert_eq!(numbers(3), [1, 3]);
        assert_eq!(numbers(0), [1, 3, 5, 6, 7]);
    }
}
