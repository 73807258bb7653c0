//! Time zones by their IANA names.
//!
//! The rules of all zones are part of the program: the host's own zone files must never be read here, so that a
//! schedule means the same on every host and in every test.

use std::{fmt, str::FromStr};

use jiff::{
    Timestamp,
    civil::{Date, DateTime},
    tz::{AmbiguousOffset, TimeZone, TimeZoneDatabase},
};

use super::words::{DAY_MINUTES, TimeOfDay};

/// Longer than any zone's name.
const NAME_CHARS_MAX: usize = 64;

/// Not the name of a time zone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no time zone is called \"{0}\"; write its IANA name, such as Europe/Berlin, or UTC")]
pub struct UnknownZone(String);

/// A time zone: `Europe/Berlin`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Zone {
    name: String,
    rules: TimeZone,
}

impl Zone {
    pub fn utc() -> Self {
        Self { name: "UTC".to_owned(), rules: TimeZone::UTC }
    }

    /// The name, in the database's spelling.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    pub(super) fn is_utc(&self) -> bool {
        self.name == "UTC"
    }

    /// What the wall clock shows, or `None` outside of the calendar.
    pub(super) fn local(&self, seconds: i64) -> Option<DateTime> {
        Timestamp::from_second(seconds).ok().map(|at| self.rules.to_datetime(at))
    }

    /// The instants at which the wall clock shows this: one, none or two.
    pub(super) fn instants(&self, date: Date, time: TimeOfDay) -> Instants {
        let local = date.at(0, 0, 0, 0).duration_since(DateTime::constant(1970, 1, 1, 0, 0, 0, 0)).as_secs()
            + i64::from(time.minutes()) * 60;
        let clock = datetime(date, time);
        match self.rules.to_ambiguous_timestamp(clock).offset() {
            AmbiguousOffset::Unambiguous { offset } => Instants::One(local - i64::from(offset.seconds())),
            AmbiguousOffset::Fold { before, after } => {
                Instants::Two(local - i64::from(before.seconds()), local - i64::from(after.seconds()))
            }
            AmbiguousOffset::Gap { before, .. } => {
                // With the offset of before the gap, the time lies behind the gap's beginning.
                let behind = local - i64::from(before.seconds());
                Instants::Jump(self.change_until(behind).unwrap_or(behind))
            }
        }
    }

    /// The last change of the zone's offset that is not after an instant.
    fn change_until(&self, seconds: i64) -> Option<i64> {
        let behind = Timestamp::from_second(seconds.checked_add(1)?).ok()?;
        self.rules.preceding(behind).next().map(|change| change.timestamp().as_second())
    }

    /// Whether the wall clock shows each minute of a day once, and where its midnight lies.
    pub(super) fn plain_day(&self, date: Date) -> Option<i64> {
        let last = TimeOfDay::new(23, 59)?;
        let (Instants::One(first), Instants::One(end)) =
            (self.instants(date, TimeOfDay::MIDNIGHT), self.instants(date, last))
        else {
            return None;
        };
        (end - first == i64::from(DAY_MINUTES - 1) * 60).then_some(first)
    }
}

/// When the wall clock shows a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instants {
    One(i64),
    /// Twice: clocks were set back.
    Two(i64, i64),
    /// Never: clocks were set forward over it, at this instant.
    Jump(i64),
}

impl Instants {
    /// The one instant that stands for the time: the first of two, and the moment of the jump if there is none.
    pub(super) const fn once(self) -> i64 {
        match self {
            Self::One(at) | Self::Two(at, _) | Self::Jump(at) => at,
        }
    }
}

fn datetime(date: Date, time: TimeOfDay) -> DateTime {
    // Both are below 60, so that neither can fail to fit.
    let (hour, minute) = (time.minutes() / 60, time.minutes() % 60);
    date.at(i8::try_from(hour).unwrap_or(0), i8::try_from(minute).unwrap_or(0), 0, 0)
}

impl FromStr for Zone {
    type Err = UnknownZone;

    fn from_str(text: &str) -> Result<Self, UnknownZone> {
        let unknown = || UnknownZone(crate::shown(text, NAME_CHARS_MAX));
        if text.eq_ignore_ascii_case("UTC") || text.eq_ignore_ascii_case("Etc/UTC") {
            return Ok(Self::utc());
        }
        if text.len() > NAME_CHARS_MAX {
            return Err(unknown());
        }
        let rules = TimeZoneDatabase::bundled().get(text).map_err(|_| unknown())?;
        match rules.iana_name() {
            Some(name) if !rules.is_unknown() => Ok(Self { name: name.to_owned(), rules: rules.clone() }),
            _ => Err(unknown()),
        }
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_are_found_in_any_spelling_and_keep_the_databases() {
        assert_eq!("europe/BERLIN".parse::<Zone>().unwrap().to_string(), "Europe/Berlin");
        assert_eq!("utc".parse::<Zone>().unwrap(), Zone::utc());
        for bad in ["", "Europe/Nowhere", "Etc/Unknown", "../../etc/passwd", "CET-1CEST", &"x".repeat(1000)] {
            assert!(bad.parse::<Zone>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_clock_shows_a_time_once_twice_or_never() {
        let berlin: Zone = "Europe/Berlin".parse().unwrap();
        let half_past_two = TimeOfDay::new(2, 30).unwrap();
        let summer = 1_774_746_000; // 2026-03-29T01:00:00Z
        assert_eq!(berlin.instants(Date::constant(2026, 3, 29), half_past_two), Instants::Jump(summer));
        let winter = 1_792_890_000; // 2026-10-25T01:00:00Z
        assert_eq!(
            berlin.instants(Date::constant(2026, 10, 25), half_past_two),
            Instants::Two(winter - 1800, winter + 1800)
        );
        assert!(berlin.plain_day(Date::constant(2026, 3, 29)).is_none());
        assert!(berlin.plain_day(Date::constant(2026, 10, 25)).is_none());
        assert_eq!(berlin.plain_day(Date::constant(2026, 10, 26)), Some(winter + 22 * 3600));
    }
}
