//! Configuration versions: what a machine's definition may contain, and whether it may host others.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A configuration version that this host supports. The numbers are Hyper-V's, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ConfigVersion {
    #[serde(rename = "5.0")]
    V5,
    #[serde(rename = "8.0")]
    V8,
    #[serde(rename = "9.0")]
    V9,
    #[serde(rename = "10.0")]
    V10,
    #[serde(rename = "12.0")]
    V12,
}

/// Not a version that this host supports.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "configuration version \"{0}\" is not supported by this host; it supports 5.0, 8.0, 9.0, 10.0 and 12.0"
)]
pub struct UnknownVersion(String);

impl ConfigVersion {
    pub const ALL: [Self; 5] = [Self::V5, Self::V8, Self::V9, Self::V10, Self::V12];
    /// What a new machine gets, and what `Update-VMVersion` updates to.
    pub const LATEST: Self = Self::V12;
    /// The lowest version whose machines may have virtualization extensions exposed.
    pub const NESTING_MIN: Self = Self::V8;

    pub fn supports_nesting(self) -> bool {
        self >= Self::NESTING_MIN
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V5 => "5.0",
            Self::V8 => "8.0",
            Self::V9 => "9.0",
            Self::V10 => "10.0",
            Self::V12 => "12.0",
        }
    }
}

impl fmt::Display for ConfigVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ConfigVersion {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, UnknownVersion> {
        let text = text.trim();
        Self::ALL
            .into_iter()
            .find(|v| v.as_str() == text || v.as_str().strip_suffix(".0") == Some(text))
            .ok_or_else(|| UnknownVersion(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_needs_version_8() {
        assert!(!ConfigVersion::V5.supports_nesting());
        assert!(ConfigVersion::ALL[1..].iter().all(|v| v.supports_nesting()));
    }

    #[test]
    fn versions_are_read_with_and_without_the_zero() {
        assert_eq!("8".parse(), Ok(ConfigVersion::V8));
        assert_eq!("12.0".parse(), Ok(ConfigVersion::V12));
        assert!("8.1".parse::<ConfigVersion>().is_err());
    }
}
