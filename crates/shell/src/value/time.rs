//! Points in time and spans of it, shown as Windows shows them. All times are UTC: a host and its guests
//! need not agree on a zone.

use super::Value;

/// Milliseconds since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DateTime {
    pub unix_ms: i64,
}

/// A length of time in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeSpan {
    pub ms: i64,
}

const DAY_MS: i64 = 86_400_000;

/// Year, month, day, hour, minute, second, millisecond.
pub(crate) struct Civil {
    pub year: i64,
    pub month: i64,
    pub day: i64,
    pub hour: i64,
    pub minute: i64,
    pub second: i64,
    pub ms: i64,
}

impl DateTime {
    pub const MEMBERS: &'static [&'static str] =
        &["Date", "Day", "Hour", "Millisecond", "Minute", "Month", "Second", "Year"];

    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Self { unix_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX) }
    }

    /// The calendar date, by the usual algorithm of days in eras of 400 years.
    pub(crate) fn civil(self) -> Civil {
        let (days, ms) = (self.unix_ms.div_euclid(DAY_MS), self.unix_ms.rem_euclid(DAY_MS));
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        Civil {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: ms / 3_600_000,
            minute: ms / 60_000 % 60,
            second: ms / 1000 % 60,
            ms: ms % 1000,
        }
    }

    /// `11/24/2026 4:51:30 PM`, as in tables.
    pub fn to_display(self) -> String {
        let c = self.civil();
        let hour = if c.hour % 12 == 0 { 12 } else { c.hour % 12 };
        let half = if c.hour < 12 { "AM" } else { "PM" };
        format!("{}/{}/{} {hour}:{:02}:{:02} {half}", c.month, c.day, c.year, c.minute, c.second)
    }

    /// `11/24/2026 16:51:30`, as within strings.
    pub fn to_text(self) -> String {
        let c = self.civil();
        format!("{:02}/{:02}/{:04} {:02}:{:02}:{:02}", c.month, c.day, c.year, c.hour, c.minute, c.second)
    }

    /// `2026-11-24T16:51:30.000Z`, as in JSON.
    pub fn to_iso(self) -> String {
        let c = self.civil();
        let (date, time) = ((c.year, c.month, c.day), (c.hour, c.minute, c.second, c.ms));
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            date.0, date.1, date.2, time.0, time.1, time.2, time.3
        )
    }

    pub(super) fn member(self, name: &str) -> Option<Value> {
        let c = self.civil();
        Some(match name.to_ascii_lowercase().as_str() {
            "year" => Value::Int(c.year),
            "month" => Value::Int(c.month),
            "day" => Value::Int(c.day),
            "hour" => Value::Int(c.hour),
            "minute" => Value::Int(c.minute),
            "second" => Value::Int(c.second),
            "millisecond" => Value::Int(c.ms),
            "date" => Value::DateTime(Self { unix_ms: self.unix_ms - self.unix_ms.rem_euclid(DAY_MS) }),
            _ => return None,
        })
    }
}

impl TimeSpan {
    pub const MEMBERS: &'static [&'static str] = &[
        "Days",
        "Hours",
        "Milliseconds",
        "Minutes",
        "Seconds",
        "TotalDays",
        "TotalHours",
        "TotalMilliseconds",
        "TotalMinutes",
        "TotalSeconds",
    ];

    pub fn from_seconds(seconds: i64) -> Self {
        Self { ms: seconds.saturating_mul(1000) }
    }

    /// `1.02:03:04`, with the fraction when there is one.
    pub fn to_text(self) -> String {
        let sign = if self.ms < 0 { "-" } else { "" };
        let ms = self.ms.unsigned_abs();
        let (days, hours, minutes) = (ms / 86_400_000, ms / 3_600_000 % 24, ms / 60_000 % 60);
        let days = if days > 0 { format!("{days}.") } else { String::new() };
        let fraction = if ms.is_multiple_of(1000) { String::new() } else { format!(".{:03}0000", ms % 1000) };
        format!("{sign}{days}{hours:02}:{minutes:02}:{:02}{fraction}", ms / 1000 % 60)
    }

    /// Reads `[d.]hh:mm[:ss[.fff]]`.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let mut parts: Vec<&str> = text.split(':').collect();
        if !(2..=3).contains(&parts.len()) {
            return None;
        }
        let seconds = if parts.len() == 3 { parts.pop()? } else { "0" };
        let (days, hours) = parts[0].split_once('.').unwrap_or(("0", parts[0]));
        let number = |part: &str, limit: i64| {
            let valid = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            part.parse::<i64>().ok().filter(|n| valid && *n < limit)
        };
        let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
        let fraction = format!("{:0<3}", fraction.get(..fraction.len().min(3))?);
        let minutes = (number(days, 10_000_000)? * 24 + number(hours, 24)?) * 60 + number(parts[1], 60)?;
        let ms = (minutes * 60 + number(whole, 60)?) * 1000 + number(&fraction, 1000)?;
        Some(Self { ms: if negative { -ms } else { ms } })
    }

    pub(super) fn member(self, name: &str) -> Option<Value> {
        let total = |unit: f64| {
            let value = self.ms as f64 / unit;
            Value::Float(value)
        };
        Some(match name.to_ascii_lowercase().as_str() {
            "days" => Value::Int(self.ms / DAY_MS),
            "hours" => Value::Int(self.ms / 3_600_000 % 24),
            "minutes" => Value::Int(self.ms / 60_000 % 60),
            "seconds" => Value::Int(self.ms / 1000 % 60),
            "milliseconds" => Value::Int(self.ms % 1000),
            "totaldays" => total(86_400_000.0),
            "totalhours" => total(3_600_000.0),
            "totalminutes" => total(60_000.0),
            "totalseconds" => total(1000.0),
            "totalmilliseconds" => total(1.0),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_look_as_on_windows() {
        let at = DateTime { unix_ms: 1_795_539_090_123 };
        assert_eq!(at.to_display(), "11/24/2026 4:51:30 PM");
        assert_eq!(at.to_text(), "11/24/2026 16:51:30");
        assert_eq!(at.to_iso(), "2026-11-24T16:51:30.123Z");
        assert_eq!(DateTime { unix_ms: -1 }.to_iso(), "1969-12-31T23:59:59.999Z");
        assert_eq!(DateTime { unix_ms: 951_782_400_000 }.to_text(), "02/29/2000 00:00:00");
    }

    #[test]
    fn spans_are_read_as_they_are_written() {
        for text in ["00:00:03", "1.02:03:04", "-00:00:00.5000000", "00:05:00"] {
            assert_eq!(TimeSpan::parse(text).unwrap().to_text(), text);
        }
        for bad in ["", "5", "25:00:00", "00:61:00", "x:y", "00:00:00:00", "+1:00", "00:é0"] {
            assert_eq!(TimeSpan::parse(bad), None, "{bad}");
        }
    }
}
