//! When a job runs.
//!
//! ```text
//! every 15 minutes                          daily at 22:30 Europe/Berlin
//! every 4 hours from 22:30                  weekly on mon,thu at 03:00
//! monthly on first mon,last day at 01:00    cron 0 3 * * 1-5
//!
//! then, in any order:  Europe/Berlin                  by that wall clock, else by UTC's
//!                      during mon-fri 20:00-06:00     a run starts only then (several: ... and ...)
//!                      except sun and 12:00-13:00     nothing of it runs then
//!                      missed now                     a missed run starts as soon as it can (if nothing is said)
//!                      missed skip                    a missed run is left out
//!                      missed within 4 hours          a missed run starts if it is not later than that
//! ```
//!
//! Where wall clocks are set forward over a time, its run starts at the jump. Where they are set back, a time that
//! comes twice has its run the first time. `every`, and a cron expression that names all hours, go by elapsed time
//! instead; the steps of `every` begin anew each day at `from`.
//!
//! A schedule is made only by parsing, so that each one that exists comes some day. Nothing here reads a clock, and
//! no search is longer than [`SEARCH_DAYS_MAX`].

mod cron;
mod error;
#[cfg(test)]
mod oracle_tests;
mod parse;
#[cfg(test)]
mod tests;
mod walk;
mod words;
mod zone;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

pub use cron::Cron;
pub use error::{ScheduleError, ScheduleProblem};
pub use words::{Days, MonthDay, Nth, TimeOfDay, Window};
pub use zone::{UnknownZone, Zone};

/// The longest text of a schedule, in characters.
pub const SCHEDULE_CHARS_MAX: usize = 500;
/// How many times of day, days of a month or windows one schedule may have.
pub const SCHEDULE_ITEMS_MAX: usize = 32;
/// How far a run is looked for: any weekday falls on a leap day within 40 years.
pub const SEARCH_DAYS_MAX: usize = 41 * 366;

/// When runs are, windows aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recurrence {
    /// 1 to 1440 minutes apart, beginning anew each day at a time.
    Every {
        minutes: u16,
        from: TimeOfDay,
    },
    Daily {
        at: Vec<TimeOfDay>,
    },
    Weekly {
        on: Days,
        at: Vec<TimeOfDay>,
    },
    Monthly {
        on: Vec<MonthDay>,
        at: Vec<TimeOfDay>,
    },
    Cron(Cron),
}

/// What becomes of a run whose time passed while it could not start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MissedRun {
    /// It starts as soon as it can.
    #[default]
    AtOnce,
    Skip,
    /// It starts unless that many hours have passed.
    Within {
        hours: u16,
    },
}

/// When a job runs: see the module's head for the texts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Schedule {
    recurrence: Recurrence,
    zone: Zone,
    during: Vec<Window>,
    except: Vec<Window>,
    missed: MissedRun,
}

impl Schedule {
    pub fn recurrence(&self) -> &Recurrence {
        &self.recurrence
    }

    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    pub const fn missed(&self) -> MissedRun {
        self.missed
    }

    /// Whether there are hours in which a run cannot start or go on. They begin and end with a minute.
    pub const fn has_windows(&self) -> bool {
        !self.during.is_empty() || !self.except.is_empty()
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    /// A text without a time zone is by UTC.
    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        Self::parse_in(text, &Zone::utc())
    }
}

impl TryFrom<String> for Schedule {
    type Error = ScheduleError;

    fn try_from(text: String) -> Result<Self, ScheduleError> {
        text.parse()
    }
}

impl From<Schedule> for String {
    fn from(schedule: Schedule) -> Self {
        schedule.to_string()
    }
}

/// Items with something between them.
struct Joined<'a, T>(&'a [T], &'static str);

impl<T: fmt::Display> fmt::Display for Joined<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, item) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str(self.1)?;
            }
            write!(f, "{item}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Recurrence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every { minutes, from } => {
                match minutes {
                    1 => f.write_str("every minute")?,
                    60 => f.write_str("every hour")?,
                    _ if minutes % 60 == 0 => write!(f, "every {} hours", minutes / 60)?,
                    _ => write!(f, "every {minutes} minutes")?,
                }
                if *from == TimeOfDay::MIDNIGHT { Ok(()) } else { write!(f, " from {from}") }
            }
            Self::Daily { at } => write!(f, "daily at {}", Joined(at, ",")),
            Self::Weekly { on, at } => write!(f, "weekly on {on} at {}", Joined(at, ",")),
            Self::Monthly { on, at } => write!(f, "monthly on {} at {}", Joined(on, ","), Joined(at, ",")),
            Self::Cron(cron) => write!(f, "{cron}"),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.recurrence)?;
        if !self.zone.is_utc() {
            write!(f, " {}", self.zone)?;
        }
        if !self.during.is_empty() {
            write!(f, " during {}", Joined(&self.during, " and "))?;
        }
        if !self.except.is_empty() {
            write!(f, " except {}", Joined(&self.except, " and "))?;
        }
        match self.missed {
            MissedRun::AtOnce => Ok(()),
            MissedRun::Skip => f.write_str(" missed skip"),
            MissedRun::Within { hours: 1 } => f.write_str(" missed within 1 hour"),
            MissedRun::Within { hours } => write!(f, " missed within {hours} hours"),
        }
    }
}
