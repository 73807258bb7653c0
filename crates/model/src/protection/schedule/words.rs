//! The small words of a schedule: a time of day, days of the week, days of a month, windows.

use std::fmt;

use jiff::civil::{Date, Weekday};

/// Minutes in a day.
pub(super) const DAY_MINUTES: u16 = 24 * 60;

/// A time on the wall clock, to the minute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimeOfDay(u16);

impl TimeOfDay {
    pub const MIDNIGHT: Self = Self(0);

    /// `None` from 24:00 on.
    pub const fn new(hour: u16, minute: u16) -> Option<Self> {
        if hour < 24 && minute < 60 { Some(Self(hour * 60 + minute)) } else { None }
    }

    /// Minutes since midnight by the wall clock.
    pub const fn minutes(self) -> u16 {
        self.0
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

const DAY_NAMES: [&str; 7] = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];

/// The weekday of a name or its first three letters; 0 is Monday.
pub(super) fn weekday(word: &str) -> Option<u8> {
    let is_name = |name: &str| word.eq_ignore_ascii_case(name) || word.eq_ignore_ascii_case(&name[..3]);
    DAY_NAMES.iter().position(|name| is_name(name)).and_then(|day| u8::try_from(day).ok())
}

pub(super) fn weekday_name(day: u8) -> &'static str {
    &DAY_NAMES[usize::from(day % 7)][..3]
}

pub(super) fn weekday_of(date: Date) -> u8 {
    match date.weekday() {
        Weekday::Monday => 0,
        Weekday::Tuesday => 1,
        Weekday::Wednesday => 2,
        Weekday::Thursday => 3,
        Weekday::Friday => 4,
        Weekday::Saturday => 5,
        Weekday::Sunday => 6,
    }
}

/// A set of weekdays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days(u8);

impl Days {
    pub const ALL: Self = Self(0b111_1111);
    pub(super) const NONE: Self = Self(0);

    pub(super) const fn has(self, day: u8) -> bool {
        self.0 >> day & 1 == 1
    }

    pub(super) const fn with(self, day: u8) -> Self {
        Self(self.0 | 1 << day)
    }

    /// All from one day to another, over Sunday if need be.
    pub(super) fn with_range(mut self, first: u8, last: u8) -> Self {
        let mut day = first;
        loop {
            self = self.with(day);
            if day == last {
                return self;
            }
            day = (day + 1) % 7;
        }
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        let mut day = 0;
        while day < 7 {
            if !self.has(day) {
                day += 1;
                continue;
            }
            let end = (day..7).take_while(|d| self.has(*d)).last().unwrap_or(day);
            if end >= day + 2 {
                write!(f, "{separator}{}-{}", weekday_name(day), weekday_name(end))?;
                day = end + 1;
            } else {
                write!(f, "{separator}{}", weekday_name(day))?;
                day += 1;
            }
            separator = ",";
        }
        Ok(())
    }
}

/// Which of a month's days of one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nth {
    First,
    Second,
    Third,
    Fourth,
    Last,
}

impl Nth {
    pub(super) const ALL: [(Self, &'static str); 5] = [
        (Self::First, "first"),
        (Self::Second, "second"),
        (Self::Third, "third"),
        (Self::Fourth, "fourth"),
        (Self::Last, "last"),
    ];

    fn as_str(self) -> &'static str {
        Self::ALL[self as usize].1
    }
}

/// A day of a month.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MonthDay {
    /// 1 to 31. A month that has no such day is passed over.
    Day(u8),
    LastDay,
    /// The weekday counts from 0, Monday.
    Nth(Nth, u8),
}

impl MonthDay {
    pub(super) fn falls_on(self, date: Date) -> bool {
        let day = date.day().unsigned_abs();
        let days = date.days_in_month().unsigned_abs();
        match self {
            Self::Day(wanted) => day == wanted,
            Self::LastDay => day == days,
            Self::Nth(nth, weekday) => {
                weekday_of(date) == weekday
                    && match nth {
                        Nth::Last => day + 7 > days,
                        _ => (day - 1) / 7 == nth as u8,
                    }
            }
        }
    }
}

impl fmt::Display for MonthDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Day(day) => write!(f, "{day}"),
            Self::LastDay => f.write_str("last day"),
            Self::Nth(nth, day) => write!(f, "{} {}", nth.as_str(), weekday_name(*day)),
        }
    }
}

/// A part of the week, by the wall clock. One that ends before it begins goes on into the next day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub(super) days: Days,
    /// Minutes since midnight, 0 to 1439.
    pub(super) from: u16,
    /// The first minute that is outside, 1 to 1440 or below `from`.
    pub(super) to: u16,
}

impl Window {
    pub(super) const fn whole(days: Days) -> Self {
        Self { days, from: 0, to: DAY_MINUTES }
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hours = |f: &mut fmt::Formatter<'_>| {
            write!(f, "{:02}:{:02}-{:02}:{:02}", self.from / 60, self.from % 60, self.to / 60, self.to % 60)
        };
        match (self.days == Days::ALL, self.from == 0 && self.to == DAY_MINUTES) {
            (true, _) => hours(f),
            (false, true) => write!(f, "{}", self.days),
            (false, false) => {
                write!(f, "{} ", self.days)?;
                hours(f)
            }
        }
    }
}

/// A set of minutes of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Minutes([u64; 23]);

impl Minutes {
    pub(super) const NONE: Self = Self([0; 23]);

    pub(super) fn whole_day() -> Self {
        let mut all = Self::NONE;
        all.insert_range(0, DAY_MINUTES);
        all
    }

    pub(super) fn insert(&mut self, minute: u16) {
        self.0[usize::from(minute / 64)] |= 1 << (minute % 64);
    }

    pub(super) fn insert_range(&mut self, from: u16, to: u16) {
        (from..to).for_each(|minute| self.insert(minute));
    }

    pub(super) fn remove_range(&mut self, from: u16, to: u16) {
        (from..to).for_each(|minute| self.0[usize::from(minute / 64)] &= !(1 << (minute % 64)));
    }

    pub(super) const fn has(&self, minute: u16) -> bool {
        self.0[(minute / 64) as usize] >> (minute % 64) & 1 == 1
    }

    pub(super) fn and(&self, other: &Self) -> Self {
        let mut both = *self;
        both.0.iter_mut().zip(other.0).for_each(|(word, other)| *word &= other);
        both
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u16> {
        self.0.into_iter().zip(0_u16..).flat_map(|(mut word, number)| {
            std::iter::from_fn(move || {
                let bit = u16::try_from(word.trailing_zeros()).ok().filter(|bit| *bit < 64)?;
                word &= word - 1;
                Some(number * 64 + bit)
            })
        })
    }
}

/// The minutes of each weekday in which a run may start.
pub(super) struct Permitted([Minutes; 7]);

impl Permitted {
    pub(super) fn of(during: &[Window], except: &[Window]) -> Self {
        let mut week = [if during.is_empty() { Minutes::whole_day() } else { Minutes::NONE }; 7];
        for window in during {
            mark(&mut week, window, Minutes::insert_range);
        }
        for window in except {
            mark(&mut week, window, Minutes::remove_range);
        }
        Self(week)
    }

    pub(super) fn on(&self, weekday: u8) -> &Minutes {
        &self.0[usize::from(weekday % 7)]
    }
}

fn mark(week: &mut [Minutes; 7], window: &Window, act: fn(&mut Minutes, u16, u16)) {
    for day in (0..7_u8).filter(|day| window.days.has(*day)) {
        let today = usize::from(day);
        if window.from < window.to {
            act(&mut week[today], window.from, window.to);
        } else {
            act(&mut week[today], window.from, DAY_MINUTES);
            act(&mut week[(today + 1) % 7], 0, window.to);
        }
    }
}
