//! The times of a schedule: those of one day of its wall clock, and the search over days.

use jiff::{Timestamp, civil::Date};

use super::{
    Recurrence, SEARCH_DAYS_MAX, Schedule,
    words::{DAY_MINUTES, Minutes, Permitted, TimeOfDay, weekday_of},
    zone::Instants,
};

/// What is as often as `every` or not permitted in any week is found, or never, within this.
const EVERY_SEARCH_DAYS_MAX: usize = 16;
/// Clocks that were set across the date line show days that lie this far from the one that was expected.
const SLACK_DAYS: usize = 2;

impl Schedule {
    /// The first time after an instant, both in milliseconds since 1970-01-01T00:00:00Z. `None`: it never comes again.
    pub fn next(&self, after_ms: u64) -> Option<u64> {
        let after = i64::try_from(after_ms / 1000).ok()?;
        let times = Times::of(self);
        let mut date = self.zone.local(after)?.date();
        for _ in 0..SLACK_DAYS {
            date = date.yesterday().ok()?;
        }
        let mut found: Option<i64> = None;
        let mut more = 1;
        for _ in 0..times.search_days() {
            let here = times.on(date).into_iter().find(|at| *at > after);
            found = found.into_iter().chain(here).min();
            // Where clocks are set back over midnight, the next day may begin before this one's last times.
            if found.is_some() {
                if more == 0 {
                    break;
                }
                more -= 1;
            }
            match date.tomorrow() {
                Ok(tomorrow) => date = tomorrow,
                Err(_) => break,
            }
        }
        found.and_then(milliseconds)
    }

    /// The last time that is not after an instant. `None`: there was none.
    pub fn latest(&self, until_ms: u64) -> Option<u64> {
        let until = i64::try_from(until_ms / 1000).ok()?;
        let times = Times::of(self);
        let mut date = self.zone.local(until)?.date();
        for _ in 0..SLACK_DAYS {
            date = date.tomorrow().unwrap_or(date);
        }
        let mut found: Option<i64> = None;
        let mut more = 1;
        for _ in 0..times.search_days() {
            let here = times.on(date).into_iter().rfind(|at| *at <= until);
            found = found.into_iter().chain(here).max();
            if found.is_some() {
                if more == 0 {
                    break;
                }
                more -= 1;
            }
            match date.yesterday() {
                Ok(yesterday) => date = yesterday,
                Err(_) => break,
            }
        }
        found.and_then(milliseconds)
    }

    /// Whether a run may start at an instant, as far as windows go.
    pub fn may_start(&self, at_ms: u64) -> bool {
        self.is_in(&Permitted::of(&self.during, &self.except), at_ms)
    }

    /// Whether a run may go on at an instant: `except` says when not; `during` is about starting alone.
    pub fn may_run(&self, at_ms: u64) -> bool {
        self.is_in(&Permitted::of(&[], &self.except), at_ms)
    }

    fn is_in(&self, permitted: &Permitted, at_ms: u64) -> bool {
        i64::try_from(at_ms / 1000).is_ok_and(|at| Times::allows(self, permitted, at))
    }
}

/// `None` before 1970 and behind the calendar's end.
fn milliseconds(seconds: i64) -> Option<u64> {
    let seconds = Timestamp::from_second(seconds).ok()?.as_second();
    u64::try_from(seconds).ok()?.checked_mul(1000)
}

/// A schedule with its sets unfolded, for one search.
struct Times<'a> {
    schedule: &'a Schedule,
    permitted: Permitted,
    has_windows: bool,
    /// Of a day on which it falls, unless it is `every`.
    minutes: Minutes,
}

impl<'a> Times<'a> {
    fn of(schedule: &'a Schedule) -> Self {
        let mut minutes = Minutes::NONE;
        match &schedule.recurrence {
            Recurrence::Every { .. } => {}
            Recurrence::Daily { at } | Recurrence::Weekly { at, .. } | Recurrence::Monthly { at, .. } => {
                at.iter().for_each(|time| minutes.insert(time.minutes()));
            }
            Recurrence::Cron(cron) => minutes = cron.minutes(),
        }
        Self {
            schedule,
            permitted: Permitted::of(&schedule.during, &schedule.except),
            has_windows: schedule.has_windows(),
            minutes,
        }
    }

    const fn search_days(&self) -> usize {
        match self.schedule.recurrence {
            Recurrence::Every { .. } => EVERY_SEARCH_DAYS_MAX,
            _ => SEARCH_DAYS_MAX,
        }
    }

    /// The times of one day, in order, in seconds.
    fn on(&self, date: Date) -> Vec<i64> {
        match &self.schedule.recurrence {
            Recurrence::Every { minutes, from } => self.steps(date, *minutes, *from),
            Recurrence::Daily { .. } => self.clock(date, false),
            Recurrence::Weekly { on, .. } if on.has(weekday_of(date)) => self.clock(date, false),
            Recurrence::Monthly { on, .. } if on.iter().any(|day| day.falls_on(date)) => {
                self.clock(date, false)
            }
            Recurrence::Cron(cron) if cron.falls_on(date) => self.clock(date, cron.each_hour()),
            Recurrence::Weekly { .. } | Recurrence::Monthly { .. } | Recurrence::Cron(_) => Vec::new(),
        }
    }

    fn steps(&self, date: Date, minutes: u16, from: TimeOfDay) -> Vec<i64> {
        let Ok(tomorrow) = date.tomorrow() else { return Vec::new() };
        let zone = &self.schedule.zone;
        let (first, end) = (zone.instants(date, from).once(), zone.instants(tomorrow, from).once());
        // No zone's day has more than 48 hours.
        let end = end.min(first + 2 * i64::from(DAY_MINUTES) * 60);
        let mut at = first;
        let mut times = Vec::new();
        while at < end {
            if !self.has_windows || Self::allows(self.schedule, &self.permitted, at) {
                times.push(at);
            }
            at += i64::from(minutes) * 60;
        }
        times
    }

    fn clock(&self, date: Date, elapsed: bool) -> Vec<i64> {
        let zone = &self.schedule.zone;
        if let Some(midnight) = zone.plain_day(date) {
            let minutes = self.minutes.and(self.permitted.on(weekday_of(date)));
            return minutes.iter().map(|minute| midnight + i64::from(minute) * 60).collect();
        }
        let mut times = Vec::new();
        for minute in self.minutes.iter() {
            let Some(time) = TimeOfDay::new(minute / 60, minute % 60) else { continue };
            match zone.instants(date, time) {
                Instants::Two(first, second) if elapsed => times.extend([first, second]),
                Instants::Jump(_) if elapsed => {}
                instants => times.push(instants.once()),
            }
        }
        times.retain(|at| Self::allows(self.schedule, &self.permitted, *at));
        times.sort_unstable();
        times.dedup();
        times
    }

    fn allows(schedule: &Schedule, permitted: &Permitted, at: i64) -> bool {
        schedule.zone.local(at).is_some_and(|local| {
            let minute =
                u16::from(local.hour().unsigned_abs()) * 60 + u16::from(local.minute().unsigned_abs());
            permitted.on(weekday_of(local.date())).has(minute)
        })
    }
}
