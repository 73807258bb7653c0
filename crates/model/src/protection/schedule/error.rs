//! Why a text is no schedule, and where.

use super::zone::UnknownZone;

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleProblem {
    #[error("expected {wanted}, found \"{found}\"")]
    Expected { wanted: &'static str, found: String },
    #[error("expected {wanted}, but the text ends here")]
    Ended { wanted: &'static str },
    #[error("{what} must be a number from {min} to {max}, found \"{found}\"")]
    Number { what: &'static str, min: u32, max: u32, found: String },
    #[error("{what} has a range that ends before it begins, \"{found}\"")]
    Backwards { what: &'static str, found: String },
    #[error("\"{found}\" is no time of day; write it as 22:30")]
    Time { found: String },
    #[error("the window \"{found}\" begins and ends at the same time; write 00:00-24:00 for a whole day")]
    EmptyWindow { found: String },
    #[error("{what} was given already")]
    Twice { what: &'static str },
    #[error("at most {max} {what} are possible")]
    TooMany { what: &'static str, max: usize },
    #[error("{0}")]
    Zone(UnknownZone),
    #[error("a schedule has at most {max} characters")]
    TooLong { max: usize },
    #[error("no run would ever start: no such day comes, or the windows leave no time for it")]
    Never,
}

/// Why a text is no schedule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the schedule \"{schedule}\" is wrong at character {at}: {problem}")]
pub struct ScheduleError {
    /// The text, shortened and harmless.
    pub schedule: String,
    /// The place in it, from 1.
    pub at: usize,
    pub problem: ScheduleProblem,
}
