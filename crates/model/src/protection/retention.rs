//! Which recovery points stay, as a job says it.
//!
//! The words mean what they mean in the vault, whose algorithm decides; it stands there alone. What the node hands over:
//! the six counts as they are; `within_hours` as a protection of each point until that long after its instant
//! ([`Retention::protected_until_ms`]); [`Keep`] as the marks that a new point gets.

use serde::{Deserialize, Serialize};

/// The longest protection that can be asked for: a hundred years.
pub const HOURS_MAX: u32 = 100 * 366 * 24;

const HOUR_MS: u64 = 3_600_000;

/// How many points stay of each kind. 0: none for that reason.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Retention {
    pub last: u32,
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
    /// Every point that is younger stays.
    pub within_hours: u32,
}

/// Why rules cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RetentionInvalid {
    #[error("the rules keep no recovery point; give at least one, or none at all to keep every point")]
    KeepsNothing,
    #[error("a recovery point is protected for 1 to {HOURS_MAX} hours by a rule; {0} were asked for")]
    Hours(u32),
}

impl Retention {
    /// Rules that keep nothing are a slip, not a wish.
    pub fn validate(&self) -> Result<(), RetentionInvalid> {
        if *self == Self::default() {
            return Err(RetentionInvalid::KeepsNothing);
        }
        if self.within_hours > HOURS_MAX {
            return Err(RetentionInvalid::Hours(self.within_hours));
        }
        Ok(())
    }

    /// Until when `within_hours` keeps a point of an instant.
    pub fn protected_until_ms(&self, taken_at_ms: u64) -> Option<u64> {
        (self.within_hours > 0).then(|| taken_at_ms.saturating_add(u64::from(self.within_hours) * HOUR_MS))
    }
}

/// How the points that a job makes are marked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Keep {
    /// The rules decide.
    #[default]
    ByRules,
    /// A point stays until its pin is taken away.
    Pinned,
    /// A point stays at least that long, whatever the rules say later.
    ProtectedFor { hours: u32 },
}

impl Keep {
    pub const fn validate(self) -> Result<(), RetentionInvalid> {
        match self {
            Self::ProtectedFor { hours } if hours == 0 || hours > HOURS_MAX => {
                Err(RetentionInvalid::Hours(hours))
            }
            _ => Ok(()),
        }
    }

    /// Until when a point of an instant is protected.
    pub fn protected_until_ms(self, taken_at_ms: u64) -> Option<u64> {
        match self {
            Self::ProtectedFor { hours } => Some(taken_at_ms.saturating_add(u64::from(hours) * HOUR_MS)),
            Self::ByRules | Self::Pinned => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_keep_nothing_are_refused() {
        assert_eq!(Retention::default().validate(), Err(RetentionInvalid::KeepsNothing));
        assert_eq!(Retention { within_hours: 1, ..Retention::default() }.validate(), Ok(()));
        assert!(Retention { within_hours: u32::MAX, ..Retention::default() }.validate().is_err());
        assert!(Keep::ProtectedFor { hours: 0 }.validate().is_err());
    }

    #[test]
    fn a_protection_is_counted_from_the_instant() {
        let rules = Retention { within_hours: 2, ..Retention::default() };
        assert_eq!(rules.protected_until_ms(1000), Some(7_201_000));
        assert_eq!(Retention::default().protected_until_ms(1000), None);
        assert_eq!(Keep::ProtectedFor { hours: 1 }.protected_until_ms(u64::MAX), Some(u64::MAX));
    }
}
