//! Which points of a machine go by the rules of who backed it up. The vault decides; here is only said whose points.

use std::sync::Arc;

use nestling_model::{
    VmId,
    protection::{PointId, Retention},
};
use nestling_vault::{
    Identity, Job, Repository, SnapshotId, VaultError,
    retention::{Candidate, Retention as Rules, decide},
};

use super::{
    marks::vm_of,
    repositories::Known,
    saving::{milliseconds, timestamp},
};
use crate::{blocking::blocking, clock::now_ms, error::Result};

/// Applies rules to a machine's points, those under its earlier names included. How many went.
/// What `needed` names stays: machines run from it.
pub async fn apply(
    known: &Known,
    vault: &Arc<Repository>,
    vm: VmId,
    rules: Retention,
    needed: Vec<PointId>,
) -> Result<usize> {
    let (vault, known) = (Arc::clone(vault), known.clone());
    blocking(move || forget(&vault, vm, rules, &needed).map_err(|e| known.failed(e))).await
}

fn forget(
    vault: &Arc<Repository>,
    vm: VmId,
    rules: Retention,
    needed: &[PointId],
) -> std::result::Result<usize, VaultError> {
    let job = Job::default();
    let points = vault.points(None, &job)?;
    let candidates: Vec<Candidate> = points
        .iter()
        .filter(|point| vm_of(point) == Some(vm))
        .map(|point| {
            let is_needed = needed.contains(&PointId::from_bytes(point.identity().0));
            let of = Candidate::of(point);
            candidate(Candidate { pinned: of.pinned || is_needed, ..of }, rules)
        })
        .collect();
    let now = timestamp(now_ms());
    let gone = going(&candidates, rules, now);
    if gone.is_empty() {
        return Ok(0);
    }
    let plan = vault.forget_plan_of(&gone, now, &job)?;
    Ok(vault.forget(&plan, now, &Identity::current(), &job)?.len())
}

/// With the protection that the rules give to what is young.
fn candidate(mut candidate: Candidate, rules: Retention) -> Candidate {
    let young = rules.protected_until_ms(milliseconds(candidate.time)).map(timestamp);
    candidate.protected_until = candidate.protected_until.max(young);
    candidate
}

fn going(
    candidates: &[Candidate],
    rules: Retention,
    now: nestling_vault::format::Timestamp,
) -> Vec<SnapshotId> {
    let Retention { last, hourly, daily, weekly, monthly, yearly, within_hours: _ } = rules;
    let counts = Rules { last, hourly, daily, weekly, monthly, yearly };
    let decided = decide(candidates, &counts, now);
    decided.into_iter().filter(|decision| decision.reasons.is_empty()).map(|decision| decision.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn at(number: u8, hours: u64) -> Candidate {
        let time = timestamp(hours * HOUR_MS);
        Candidate { id: SnapshotId([number; 32]), time, pinned: false, protected_until: None }
    }

    fn gone(rules: Retention) -> Vec<u8> {
        let candidates: Vec<Candidate> =
            [at(1, 100), at(2, 110), at(3, 120)].into_iter().map(|c| candidate(c, rules)).collect();
        let mut gone: Vec<u8> =
            going(&candidates, rules, timestamp(121 * HOUR_MS)).iter().map(|id| id.0[0]).collect();
        gone.sort_unstable();
        gone
    }

    #[test]
    fn the_last_ones_and_the_young_ones_stay() {
        assert_eq!(gone(Retention { last: 2, ..Retention::default() }), [1]);
        assert_eq!(gone(Retention { last: 1, within_hours: 12, ..Retention::default() }), [1]);
        assert_eq!(gone(Retention { last: 1, ..Retention::default() }), [1, 2]);
        // By the age of points alone, and the newest in any case.
        assert_eq!(gone(Retention { within_hours: 1, ..Retention::default() }), [1, 2]);
    }
}
