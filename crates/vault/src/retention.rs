//! Which points stay: the last so many, and the last of each hour, day, week, month and year.
//!
//! Pure: values in, decisions with reasons out. What is pinned or protected stays whatever the rules say, and a rule
//! never removes the newest point. Periods are those of the UTC calendar; weeks are ISO 8601's, from Monday.

use std::fmt;

use time::OffsetDateTime;

use crate::{SnapshotId, VaultError, format::Timestamp, point::Point};

/// A point with this tag stays until the tag is taken away.
pub const PIN_TAG: &str = "pin";
/// A point with this tag and a time stays until then: `protect-until=2027-01-31T00:00:00Z`.
pub const PROTECT_TAG: &str = "protect-until=";

/// How many points stay of each kind. 0: none for that reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    pub last: u32,
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
}

impl Retention {
    /// Rules that keep nothing are a slip, not a wish.
    pub fn check(&self) -> Result<(), VaultError> {
        if *self == Self::default() {
            return Err(VaultError::Invalid(
                "give at least one rule of what to keep, such as --keep-last 7".into(),
            ));
        }
        Ok(())
    }
}

/// Why a point stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Pinned,
    ProtectedUntil(Timestamp),
    Last,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
    /// No rule keeps it, but a machine's newest point is never removed by rules.
    Newest,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned => f.write_str("pinned"),
            Self::ProtectedUntil(time) => write!(f, "protected until {time}"),
            Self::Last => f.write_str("last"),
            Self::Hourly => f.write_str("hourly"),
            Self::Daily => f.write_str("daily"),
            Self::Weekly => f.write_str("weekly"),
            Self::Monthly => f.write_str("monthly"),
            Self::Yearly => f.write_str("yearly"),
            Self::Newest => f.write_str("newest"),
        }
    }
}

/// What the rules know of a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: SnapshotId,
    pub time: Timestamp,
    pub pinned: bool,
    pub protected_until: Option<Timestamp>,
}

impl Candidate {
    pub fn of(point: &Point) -> Self {
        Self::marked(point.id, point.snapshot.time, &point.snapshot.tags)
    }

    /// A protection whose time cannot be read holds for ever: better a point too many.
    pub fn marked(id: SnapshotId, time: Timestamp, tags: &[String]) -> Self {
        let times: Vec<Option<Timestamp>> = tags
            .iter()
            .filter_map(|tag| tag.strip_prefix(PROTECT_TAG))
            .map(|text| text.parse().ok())
            .collect();
        Self {
            id,
            time,
            pinned: tags.iter().any(|tag| tag == PIN_TAG) || times.contains(&None),
            protected_until: times.into_iter().flatten().max(),
        }
    }
}

/// One decision. No reason: the point goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    pub id: SnapshotId,
    pub reasons: Vec<Reason>,
}

type Period = fn(&OffsetDateTime) -> (i32, u32);

/// Decides for all points of one machine, newest first. `now` is what protections are measured by.
pub fn decide(candidates: &[Candidate], rules: &Retention, now: Timestamp) -> Vec<Decision> {
    let mut newest_first: Vec<&Candidate> = candidates.iter().collect();
    newest_first.sort_by(|a, b| b.time.cmp(&a.time).then(b.id.cmp(&a.id)));
    let periods: [(u32, Reason, Period); 5] = [
        (rules.hourly, Reason::Hourly, |t| (t.year(), u32::from(t.ordinal()) * 24 + u32::from(t.hour()))),
        (rules.daily, Reason::Daily, |t| (t.year(), u32::from(t.ordinal()))),
        (rules.weekly, Reason::Weekly, |t| {
            let (year, week, _) = t.to_iso_week_date();
            (year, u32::from(week))
        }),
        (rules.monthly, Reason::Monthly, |t| (t.year(), u32::from(u8::from(t.month())))),
        (rules.yearly, Reason::Yearly, |t| (t.year(), 0)),
    ];
    let mut left = periods.map(|(count, ..)| count);
    let mut latest: [Option<(i32, u32)>; 5] = [None; 5];
    let mut decisions = Vec::with_capacity(candidates.len());
    for (number, candidate) in newest_first.into_iter().enumerate() {
        let mut reasons = Vec::new();
        if candidate.pinned {
            reasons.push(Reason::Pinned);
        }
        if let Some(until) = candidate.protected_until.filter(|until| *until > now) {
            reasons.push(Reason::ProtectedUntil(until));
        }
        if number < rules.last as usize {
            reasons.push(Reason::Last);
        }
        let time = calendar(candidate.time);
        for (slot, (_, reason, period)) in periods.iter().enumerate() {
            let here = Some(period(&time));
            if left[slot] > 0 && latest[slot] != here {
                left[slot] -= 1;
                latest[slot] = here;
                reasons.push(*reason);
            }
        }
        if number == 0 && reasons.is_empty() {
            reasons.push(Reason::Newest);
        }
        decisions.push(Decision { id: candidate.id, reasons });
    }
    decisions
}

fn calendar(time: Timestamp) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp_nanos(time.unix_nanoseconds()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn candidate(text: &str) -> Candidate {
        Candidate {
            id: SnapshotId::of(text.as_bytes()),
            time: at(text),
            pinned: false,
            protected_until: None,
        }
    }

    fn kept(times: &[&str], rules: Retention) -> Vec<(String, Vec<Reason>)> {
        let candidates: Vec<_> = times.iter().map(|time| candidate(time)).collect();
        let decisions = decide(&candidates, &rules, at("2026-12-01T00:00:00Z"));
        let name = |id| times.iter().find(|t| SnapshotId::of(t.as_bytes()) == id).expect("one of them");
        decisions
            .into_iter()
            .filter(|decision| !decision.reasons.is_empty())
            .map(|decision| ((*name(decision.id)).to_owned(), decision.reasons))
            .collect()
    }

    #[test]
    fn the_last_of_each_period_stays() {
        let times = [
            "2025-12-31T23:00:00Z",
            "2026-10-31T10:00:00Z",
            "2026-11-01T10:00:00Z",
            "2026-11-29T01:00:00Z",
            "2026-11-29T22:00:00Z",
            "2026-11-30T08:00:00Z",
        ];
        let rules = Retention { daily: 2, monthly: 2, yearly: 2, ..Retention::default() };
        assert_eq!(
            kept(&times, rules),
            [
                ("2026-11-30T08:00:00Z".to_owned(), vec![Reason::Daily, Reason::Monthly, Reason::Yearly]),
                ("2026-11-29T22:00:00Z".to_owned(), vec![Reason::Daily]),
                ("2026-10-31T10:00:00Z".to_owned(), vec![Reason::Monthly]),
                ("2025-12-31T23:00:00Z".to_owned(), vec![Reason::Yearly]),
            ]
        );
    }

    #[test]
    fn weeks_are_counted_across_the_turn_of_a_year() {
        let times = ["2026-12-28T00:00:00Z", "2027-01-03T00:00:00Z", "2027-01-04T00:00:00Z"];
        let rules = Retention { weekly: 5, ..Retention::default() };
        let stay: Vec<String> = kept(&times, rules).into_iter().map(|(time, _)| time).collect();
        assert_eq!(stay, ["2027-01-04T00:00:00Z", "2027-01-03T00:00:00Z"]);
    }

    #[test]
    fn what_is_pinned_or_protected_stays() {
        let mut pinned = candidate("2020-01-01T00:00:00Z");
        pinned.pinned = true;
        let mut protected = candidate("2020-01-02T00:00:00Z");
        protected.protected_until = Some(at("2027-01-01T00:00:00Z"));
        let mut expired = candidate("2020-01-03T00:00:00Z");
        expired.protected_until = Some(at("2026-01-01T00:00:00Z"));
        let newest = candidate("2026-01-01T00:00:00Z");
        let gone_id = expired.id;
        let all = [pinned, protected, expired, newest];
        let rules = Retention { last: 1, ..Retention::default() };
        let gone: Vec<SnapshotId> = decide(&all, &rules, at("2026-12-01T00:00:00Z"))
            .into_iter()
            .filter(|decision| decision.reasons.is_empty())
            .map(|decision| decision.id)
            .collect();
        assert_eq!(gone, [gone_id]);
    }

    #[test]
    fn rules_that_keep_nothing_are_refused_and_never_remove_the_newest() {
        assert!(Retention::default().check().is_err());
        let stay = kept(&["2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"], Retention::default());
        assert_eq!(stay, [("2026-01-02T00:00:00Z".to_owned(), vec![Reason::Newest])]);
    }

    proptest! {
        #[test]
        fn more_generous_rules_never_remove_more(
            seconds in prop::collection::vec(0_i64..100_000_000, 1..60),
            daily in 0_u32..5,
            monthly in 0_u32..5,
        ) {
            let candidates: Vec<Candidate> = seconds
                .iter()
                .enumerate()
                .map(|(n, s)| Candidate {
                    id: SnapshotId::of(&n.to_le_bytes()),
                    time: Timestamp::from_unix_nanoseconds(s * 1_000_000_000),
                    pinned: false,
                    protected_until: None,
                })
                .collect();
            let now = at("2026-12-01T00:00:00Z");
            let stays = |rules| -> Vec<SnapshotId> {
                decide(&candidates, &rules, now).into_iter().filter(|d| !d.reasons.is_empty()).map(|d| d.id).collect()
            };
            let few = stays(Retention { daily, monthly, ..Retention::default() });
            let more = stays(Retention { daily: daily + 1, monthly: monthly + 1, last: 2, ..Retention::default() });
            prop_assert!(few.iter().all(|id| more.contains(id)));
            prop_assert!(!few.is_empty());
            prop_assert!(few.len() <= (daily + monthly).max(1) as usize);
        }
    }
}
