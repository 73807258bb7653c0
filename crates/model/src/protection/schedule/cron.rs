//! Cron expressions of five fields: minute, hour, day of the month, month, weekday.
//!
//! As in the cron that Debian has: lists, ranges, steps, names; 0 and 7 are Sunday; of two day fields that are both
//! restricted (neither begins with `*`), one must match, else both.

use std::fmt;

use jiff::civil::Date;

use super::{
    error::ScheduleProblem,
    words::{Days, Minutes, weekday, weekday_of},
};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// One field: what it is called, its bounds, the names that stand for numbers.
struct Field {
    what: &'static str,
    min: u8,
    max: u8,
    name: fn(&str) -> Option<u8>,
}

const FIELDS: [Field; 5] = [
    Field { what: "the minute", min: 0, max: 59, name: |_| None },
    Field { what: "the hour", min: 0, max: 23, name: |_| None },
    Field { what: "the day of the month", min: 1, max: 31, name: |_| None },
    Field { what: "the month", min: 1, max: 12, name: month },
    Field { what: "the weekday", min: 0, max: 7, name: |word| weekday(word).map(|day| (day + 1) % 7) },
];

fn month(word: &str) -> Option<u8> {
    let month = MONTHS.iter().position(|name| word.eq_ignore_ascii_case(name))?;
    u8::try_from(month + 1).ok()
}

/// A cron expression. Equal ones are written the same way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cron {
    text: String,
    minutes: u64,
    hours: u64,
    month_days: u64,
    months: u64,
    days: Days,
    /// One of the two day fields is enough.
    either_day: bool,
}

impl Cron {
    /// Reads the five fields. The error names the number of the field that is wrong.
    pub(super) fn of(fields: [&str; 5]) -> Result<Self, (usize, ScheduleProblem)> {
        let mut sets = [0_u64; 5];
        for (number, (text, field)) in fields.iter().zip(&FIELDS).enumerate() {
            sets[number] = set(text, field).map_err(|problem| (number, problem))?;
        }
        let [minutes, hours, month_days, months, weekdays] = sets;
        let days = (0..=7_u8)
            .filter(|day| weekdays >> day & 1 == 1)
            .fold(Days::NONE, |days, sunday_first| days.with((sunday_first + 6) % 7));
        Ok(Self {
            text: fields.join(" ").to_ascii_lowercase(),
            minutes,
            hours,
            month_days,
            months,
            days,
            either_day: !fields[2].starts_with('*') && !fields[4].starts_with('*'),
        })
    }

    /// Whether it goes by elapsed time, as what comes in each hour does: no hour is left out and none is told from
    /// another, so that an hour that comes twice has its runs twice.
    pub(super) const fn each_hour(&self) -> bool {
        self.hours == (1 << 24) - 1
    }

    pub(super) fn falls_on(&self, date: Date) -> bool {
        let month_day = self.month_days >> date.day().unsigned_abs() & 1 == 1;
        let weekday = self.days.has(weekday_of(date));
        let day = if self.either_day { month_day || weekday } else { month_day && weekday };
        day && self.months >> date.month().unsigned_abs() & 1 == 1
    }

    pub(super) fn minutes(&self) -> Minutes {
        let mut minutes = Minutes::NONE;
        for hour in (0..24_u16).filter(|hour| self.hours >> hour & 1 == 1) {
            (0..60_u16)
                .filter(|minute| self.minutes >> minute & 1 == 1)
                .for_each(|minute| minutes.insert(hour * 60 + minute));
        }
        minutes
    }
}

impl fmt::Display for Cron {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cron {}", self.text)
    }
}

fn set(text: &str, field: &Field) -> Result<u64, ScheduleProblem> {
    let mut set = 0_u64;
    for item in text.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, Some(number(step, field, 1, field.max.max(1))?)),
            None => (item, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" => (field.min, field.max),
            Some((first, last)) => (value(first, field)?, value(last, field)?),
            None => {
                let first = value(range, field)?;
                (first, if step.is_some() { field.max } else { first })
            }
        };
        if first > last {
            return Err(ScheduleProblem::Backwards { what: field.what, found: shown(range) });
        }
        (first..=last).step_by(usize::from(step.unwrap_or(1))).for_each(|value| set |= 1 << value);
    }
    Ok(set)
}

fn value(word: &str, field: &Field) -> Result<u8, ScheduleProblem> {
    (field.name)(word).map_or_else(|| number(word, field, field.min, field.max), Ok)
}

fn number(word: &str, field: &Field, min: u8, max: u8) -> Result<u8, ScheduleProblem> {
    let is_number = !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit());
    word.parse().ok().filter(|number| is_number && (min..=max).contains(number)).ok_or_else(|| {
        ScheduleProblem::Number { what: field.what, min: min.into(), max: max.into(), found: shown(word) }
    })
}

fn shown(word: &str) -> String {
    crate::shown(word, 20)
}
