//! Matching names and paths with `*` and `?`, without regard to case.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    name::Pattern,
    path::{PathError, VmPath},
};

impl Pattern {
    pub fn matches(&self, text: &str) -> bool {
        wildcard(self.as_str(), text)
    }
}

/// Goes back to the last `*` only, so that the time is at most the product of both lengths.
fn wildcard(pattern: &str, text: &str) -> bool {
    let pattern: Vec<char> = pattern.to_lowercase().chars().collect();
    let text: Vec<char> = text.to_lowercase().chars().collect();
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// A machine's path in which `*` and `?` stand for other text of one level: `L1/*` is all that is in L1, and nothing
/// that is in those.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PathPattern(VmPath);

impl PathPattern {
    pub fn matches(&self, path: &VmPath) -> bool {
        let (patterns, levels) = (self.0.levels(), path.levels());
        patterns.len() == levels.len()
            && patterns.iter().zip(levels).all(|(pattern, level)| wildcard(pattern.as_str(), level.as_str()))
    }

    /// Whether it speaks of machines inside others.
    pub fn is_inside(&self) -> bool {
        self.0.levels().len() > 1
    }

    /// Whether a machine that it matches may lie inside the machine at this path, however deep.
    pub fn leads_into(&self, host: &VmPath) -> bool {
        let (patterns, levels) = (self.0.levels(), host.levels());
        patterns.len() > levels.len()
            && patterns.iter().zip(levels).all(|(pattern, level)| wildcard(pattern.as_str(), level.as_str()))
    }
}

impl FromStr for PathPattern {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn path(pattern: &str, path: &str) -> bool {
        pattern.parse::<PathPattern>().unwrap().matches(&path.parse().unwrap())
    }

    #[test]
    fn a_pattern_stays_on_its_level() {
        assert!(path("web*", "WEB01"));
        assert!(path("L1/*", "l1/L2"));
        assert!(path("*/db?", "L1/db1"));
        assert!(!path("*", "L1/L2"));
        assert!(!path("L1/*", "L1/L2/L3"));
        assert!(!path("db?", "db10"));
        assert!(!path("db?", "db"));
    }

    #[test]
    fn a_pattern_leads_into_what_it_names_on_the_way() {
        let leads = |pattern: &str, host: &str| {
            pattern.parse::<PathPattern>().unwrap().leads_into(&host.parse().unwrap())
        };
        assert!(leads("L1/*", "l1") && leads("*/L2/L3", "L1") && leads("*/L2/L3", "L1/L2"));
        assert!(!leads("L1/*", "L9") && !leads("L1/*", "L1/L2") && !leads("*", "L1"));
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        let pattern = "*a".repeat(50);
        assert!(!wildcard(&pattern, &"a".repeat(49)));
        assert!(!wildcard(&pattern, &format!("{}b", "a".repeat(99))));
    }

    /// Tries everything that a star can stand for.
    fn oracle(pattern: &[char], text: &[char]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some(('*', rest)) => (0..=text.len()).any(|taken| oracle(rest, &text[taken..])),
            Some((c, rest)) => {
                text.split_first().is_some_and(|(t, others)| (*c == '?' || c == t) && oracle(rest, others))
            }
        }
    }

    proptest! {
        #[test]
        fn matching_equals_trying_everything(pattern in "[ab?*]{1,7}", text in "[ab]{0,8}") {
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(wildcard(&pattern, &text), oracle(&chars(&pattern), &chars(&text)));
        }
    }
}
