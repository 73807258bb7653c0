//! Points in time as Go writes them: RFC 3339 with up to nine digits of a second, in the zone of whoever wrote it.

use std::{fmt, str::FromStr, time::SystemTime};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use time::{OffsetDateTime, UtcOffset, format_description::well_known::Rfc3339};

/// What was given as a time is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a time as in 2026-11-26T22:00:22.128987569Z")]
pub struct InvalidTimestamp(String);

/// A point in time, to the nanosecond, in years 0 to 9999, with the zone it was written in. Two are equal when they
/// are the same instant, whatever their zones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(OffsetDateTime);

impl Timestamp {
    /// From nanoseconds since 1970 in UTC. 64 bits of them reach from 1677 to 2262.
    pub fn from_unix_nanoseconds(nanoseconds: i64) -> Self {
        // Every i64 lies within the years that the type holds.
        Self(
            OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.into())
                .unwrap_or(OffsetDateTime::UNIX_EPOCH),
        )
    }

    /// Nanoseconds since 1970 in UTC. What restic writes can lie outside of 64 bits: "no time" is the year 1.
    pub fn unix_nanoseconds(self) -> i128 {
        self.0.unix_timestamp_nanos()
    }

    /// The same instant, written in UTC.
    pub fn to_utc(self) -> Self {
        Self(self.0.checked_to_offset(UtcOffset::UTC).unwrap_or(self.0))
    }
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let nanoseconds = match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |n| -n),
        };
        Self::from_unix_nanoseconds(nanoseconds)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        let refused = || InvalidTimestamp(text.chars().take(80).collect());
        let time = Self(OffsetDateTime::parse(text, &Rfc3339).map_err(|_| refused())?);
        // What could not be written again is refused now, not then.
        time.0.format(&Rfc3339).map(|_| time).map_err(|_| refused())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Timestamp;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time as in RFC 3339")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}
