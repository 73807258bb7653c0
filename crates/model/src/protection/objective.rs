//! The recovery point objective: how much work may be lost.

use serde::{Deserialize, Serialize};

use super::{due::CLOCK_SLACK_MS, point::RecoveryPoint};

/// The shortest and the longest objective, in seconds: a minute, ten years.
pub const OBJECTIVE_SECONDS_MIN: u64 = 60;
pub const OBJECTIVE_SECONDS_MAX: u64 = 10 * 366 * 24 * 3600;

/// How old a machine's newest recovery point may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objective {
    pub seconds: u64,
}

/// Why an objective cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a recovery point objective is {OBJECTIVE_SECONDS_MIN} to {OBJECTIVE_SECONDS_MAX} seconds; {0} were asked for"
)]
pub struct ObjectiveInvalid(pub u64);

impl Objective {
    pub const fn validate(self) -> Result<(), ObjectiveInvalid> {
        if self.seconds < OBJECTIVE_SECONDS_MIN || self.seconds > OBJECTIVE_SECONDS_MAX {
            return Err(ObjectiveInvalid(self.seconds));
        }
        Ok(())
    }
}

/// A machine whose work of too long a time would be lost now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MissedObjective {
    /// When the newest good point was taken, if there is any.
    pub newest_ms: Option<u64>,
    /// How long ago it had to be followed by another.
    pub late_ms: u64,
}

/// Whether a machine's objective is missed now. `points` are the machine's; `since_ms` is when its protection began: a
/// machine that is new, or protected again, has the whole time for its next point. Points that cannot be used do not count, and neither do
/// those of a time that is yet to come: a clock that ran ahead once must not hide for years that backups fail.
pub fn missed_objective<'a>(
    points: impl IntoIterator<Item = &'a RecoveryPoint>,
    since_ms: u64,
    objective: Objective,
    now_ms: u64,
) -> Option<MissedObjective> {
    let newest_ms = points
        .into_iter()
        .filter(|point| !point.is_doubtful() && point.taken_at_ms <= now_ms.saturating_add(CLOCK_SLACK_MS))
        .map(|point| point.taken_at_ms)
        .max();
    let since_ms =
        Some(since_ms).filter(|since| *since <= now_ms.saturating_add(CLOCK_SLACK_MS)).unwrap_or(0);
    let counted_from = newest_ms.unwrap_or(0).max(since_ms);
    let due_ms = counted_from.saturating_add(objective.seconds.saturating_mul(1000));
    (now_ms > due_ms).then(|| MissedObjective { newest_ms, late_ms: now_ms - due_ms })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protection::samples::point;

    const HOUR: Objective = Objective { seconds: 3600 };
    const HOUR_MS: u64 = 3_600_000;

    fn at(taken_at_ms: u64) -> RecoveryPoint {
        RecoveryPoint { taken_at_ms, ..point() }
    }

    #[test]
    fn the_newest_good_point_counts() {
        let now = 100 * HOUR_MS;
        let old = at(now - 2 * HOUR_MS);
        let missed = Some(MissedObjective { newest_ms: Some(old.taken_at_ms), late_ms: HOUR_MS });
        assert_eq!(missed_objective([&old], 0, HOUR, now), missed);
        assert_eq!(missed_objective([&old, &at(now - HOUR_MS)], 0, HOUR, now), None);
        let damaged = RecoveryPoint { damaged: true, ..at(now) };
        assert_eq!(missed_objective([&old, &damaged], 0, HOUR, now), missed);
    }

    #[test]
    fn a_new_machine_has_the_time_for_its_first_point() {
        let since = 50 * HOUR_MS;
        assert_eq!(missed_objective([], since, HOUR, since + HOUR_MS), None);
        let missed = MissedObjective { newest_ms: None, late_ms: 1 };
        assert_eq!(missed_objective([], since, HOUR, since + HOUR_MS + 1), Some(missed));
    }

    #[test]
    fn a_point_from_the_future_hides_nothing() {
        let now = 100 * HOUR_MS;
        let future = at(now * 10);
        assert!(missed_objective([&future, &at(now - 2 * HOUR_MS)], 0, HOUR, now).is_some());
        assert!(missed_objective([&future], now * 10, HOUR, now).is_some());
    }

    proptest! {
        #[test]
        fn another_point_never_makes_it_worse(
            times in prop::collection::vec(any::<u64>(), 0..5),
            more in any::<u64>(),
            since in any::<u64>(),
            now in any::<u64>(),
            seconds in any::<u64>(),
        ) {
            let points: Vec<RecoveryPoint> = times.into_iter().map(at).collect();
            let more = at(more);
            let late = |missed: Option<MissedObjective>| missed.map_or(0, |missed| missed.late_ms);
            let few = missed_objective(&points, 0, Objective { seconds }, now);
            let many = missed_objective(points.iter().chain([&more]), 0, Objective { seconds }, now);
            prop_assert!(late(many) <= late(few));
            let _ = missed_objective(&points, since, Objective { seconds }, now);
        }
    }
}
