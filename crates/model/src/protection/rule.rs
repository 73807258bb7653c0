//! One condition on a machine, as text: `memory>=4GB`, `state=Running`, `switch=LAN`, `name!=*test*`.

use std::{cmp::Ordering, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{pattern::PathPattern, selection::Candidate};
use crate::{
    life::VmState,
    name::{NameError, Pattern},
    path::PathError,
    tag::{TagError, tag_pattern},
    vm::Generation,
};

/// The longest rule, in bytes.
pub const RULE_BYTES_MAX: usize = 1024;

/// How what a machine has is compared with what a rule names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Is,
    IsNot,
    AtLeast,
    AtMost,
    More,
    Less,
}

impl Comparison {
    /// Longer signs first, so that `>=` is not read as `>`.
    const ALL: [(Self, &'static str); 6] = [
        (Self::IsNot, "!="),
        (Self::AtLeast, ">="),
        (Self::AtMost, "<="),
        (Self::Is, "="),
        (Self::More, ">"),
        (Self::Less, "<"),
    ];

    fn sign(self) -> &'static str {
        Self::ALL.iter().find(|(comparison, _)| *comparison == self).map_or("=", |(_, sign)| sign)
    }

    fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Is => order.is_eq(),
            Self::IsNot => order.is_ne(),
            Self::AtLeast => order.is_ge(),
            Self::AtMost => order.is_le(),
            Self::More => order.is_gt(),
            Self::Less => order.is_lt(),
        }
    }

    /// Of what is equal or not, and has no order.
    fn agrees(self, equal: bool) -> bool {
        equal == (self != Self::IsNot)
    }
}

/// What a rule looks at, and the value that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    Name(Pattern),
    Path(PathPattern),
    /// Any of the machine's tags.
    Tag(Pattern),
    State(VmState),
    MemoryBytes(u64),
    /// The virtual size of all disks together.
    DiskBytes(u64),
    Processors(u32),
    Generation(Generation),
    /// Any switch that one of its adapters is connected to.
    Switch(Pattern),
    /// Any image that one of its disks was made from.
    Image(Pattern),
    /// Whether it can host machines itself.
    Nesting(bool),
}

/// One condition on a machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rule {
    fact: Fact,
    comparison: Comparison,
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    #[error("the rule \"{0}\" lacks a comparison; write, for example, state=Running or memory>=4GB")]
    NoComparison(String),
    #[error(
        "the rule \"{0}\" begins with no known word; there are name, path, tag, state, memory, disk, processors, generation, switch, image and nesting"
    )]
    Subject(String),
    #[error("the rule \"{rule}\" compares by size what has none; use = or !=")]
    NoOrder { rule: String },
    #[error("the rule \"{rule}\" needs {wanted} after its comparison")]
    Value { rule: String, wanted: &'static str },
    #[error("the rule \"{rule}\" names what can be no name")]
    Name { rule: String, source: NameError },
    #[error("the rule \"{rule}\" names what can be no tag")]
    Tag { rule: String, source: TagError },
    #[error("the rule \"{rule}\" names what can be no path")]
    Path { rule: String, source: PathError },
    #[error("a rule has at most {RULE_BYTES_MAX} bytes")]
    TooLong,
}

impl Rule {
    /// `None` for a comparison by size of what has none, such as a name.
    pub fn new(fact: Fact, comparison: Comparison) -> Option<Self> {
        let has_order = matches!(fact, Fact::MemoryBytes(_) | Fact::DiskBytes(_) | Fact::Processors(_));
        if has_order || matches!(comparison, Comparison::Is | Comparison::IsNot) {
            Some(Self { fact, comparison })
        } else {
            None
        }
    }

    /// What it looks at.
    pub const fn fact(&self) -> &Fact {
        &self.fact
    }

    /// Whether it speaks of machines inside others.
    pub fn is_inside(&self) -> bool {
        matches!(&self.fact, Fact::Path(path) if path.is_inside())
    }

    pub fn holds(&self, machine: &Candidate) -> bool {
        let any = |pattern: &Pattern, names: &[String]| names.iter().any(|name| pattern.matches(name));
        match &self.fact {
            Fact::Name(pattern) => self.comparison.agrees(pattern.matches(machine.path.split().1.as_str())),
            Fact::Path(pattern) => self.comparison.agrees(pattern.matches(&machine.path)),
            Fact::Tag(pattern) => {
                self.comparison.agrees(machine.tags.iter().any(|tag| pattern.matches(tag.as_str())))
            }
            Fact::State(state) => self.comparison.agrees(machine.state == *state),
            Fact::MemoryBytes(bytes) => self.comparison.holds(machine.memory_bytes.cmp(bytes)),
            Fact::DiskBytes(bytes) => self.comparison.holds(machine.disk_bytes.cmp(bytes)),
            Fact::Processors(count) => self.comparison.holds(machine.processors.cmp(count)),
            Fact::Generation(generation) => self.comparison.agrees(machine.generation == *generation),
            Fact::Switch(pattern) => self.comparison.agrees(any(pattern, &machine.switches)),
            Fact::Image(pattern) => self.comparison.agrees(any(pattern, &machine.images)),
            Fact::Nesting(nesting) => self.comparison.agrees(machine.nesting == *nesting),
        }
    }
}

const UNITS: [(&str, u32); 5] = [("TB", 40), ("GB", 30), ("MB", 20), ("KB", 10), ("B", 0)];

/// Bytes with a unit, of 1024 each as in PowerShell; without one they are bytes.
fn bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = (text.get(..digits)?, text.get(digits..)?.trim());
    let shift = UNITS.iter().find(|(name, _)| unit.eq_ignore_ascii_case(name)).map(|(_, shift)| *shift);
    let shift = if unit.is_empty() { Some(0) } else { shift };
    number.parse::<u64>().ok()?.checked_mul(1 << shift?)
}

fn with_unit(bytes: u64) -> String {
    let fits = |shift: u32| bytes > 0 && bytes.trailing_zeros() >= shift;
    match UNITS.iter().find(|(_, shift)| *shift > 0 && fits(*shift)) {
        Some((unit, shift)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        if text.len() > RULE_BYTES_MAX {
            return Err(RuleError::TooLong);
        }
        let shown = || crate::shown(text, 80);
        let at = text.find(['=', '!', '<', '>']).ok_or_else(|| RuleError::NoComparison(shown()))?;
        let (subject, rest) = text.split_at(at);
        let (comparison, value) = Comparison::ALL
            .iter()
            .find_map(|(comparison, sign)| Some((*comparison, rest.strip_prefix(sign)?)))
            .ok_or_else(|| RuleError::NoComparison(shown()))?;
        let value = value.trim();
        let wrong = |wanted| RuleError::Value { rule: shown(), wanted };
        let pattern = || value.parse::<Pattern>().map_err(|source| RuleError::Name { rule: shown(), source });
        let size = || bytes(value).ok_or_else(|| wrong("a size such as 4GB"));
        let fact = match subject.trim().to_ascii_lowercase().as_str() {
            "name" => Fact::Name(pattern()?),
            "path" => {
                let path = value.parse();
                Fact::Path(path.map_err(|source| RuleError::Path { rule: shown(), source })?)
            }
            "tag" => {
                Fact::Tag(tag_pattern(value).map_err(|source| RuleError::Tag { rule: shown(), source })?)
            }
            "state" => Fact::State(state(value).ok_or_else(|| wrong("a state such as Running"))?),
            "memory" => Fact::MemoryBytes(size()?),
            "disk" => Fact::DiskBytes(size()?),
            "processors" => Fact::Processors(value.parse().map_err(|_| wrong("a number"))?),
            "generation" => Fact::Generation(generation(value).ok_or_else(|| wrong("1 or 2"))?),
            "switch" => Fact::Switch(pattern()?),
            "image" => Fact::Image(pattern()?),
            "nesting" => Fact::Nesting(nesting(value).ok_or_else(|| wrong("on or off"))?),
            _ => return Err(RuleError::Subject(shown())),
        };
        Self::new(fact, comparison).ok_or_else(|| RuleError::NoOrder { rule: shown() })
    }
}

fn state(text: &str) -> Option<VmState> {
    VmState::ALL.into_iter().find(|state| state.as_str().eq_ignore_ascii_case(text))
}

fn generation(text: &str) -> Option<Generation> {
    [Generation::One, Generation::Two].into_iter().find(|g| g.number().to_string() == text)
}

fn nesting(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = self.comparison.sign();
        match &self.fact {
            Fact::Name(pattern) => write!(f, "name{sign}{pattern}"),
            Fact::Path(path) => write!(f, "path{sign}{path}"),
            Fact::Tag(pattern) => write!(f, "tag{sign}{pattern}"),
            Fact::State(state) => write!(f, "state{sign}{}", state.as_str()),
            Fact::MemoryBytes(bytes) => write!(f, "memory{sign}{}", with_unit(*bytes)),
            Fact::DiskBytes(bytes) => write!(f, "disk{sign}{}", with_unit(*bytes)),
            Fact::Processors(count) => write!(f, "processors{sign}{count}"),
            Fact::Generation(generation) => write!(f, "generation{sign}{}", generation.number()),
            Fact::Switch(pattern) => write!(f, "switch{sign}{pattern}"),
            Fact::Image(pattern) => write!(f, "image{sign}{pattern}"),
            Fact::Nesting(on) => write!(f, "nesting{sign}{}", if *on { "on" } else { "off" }),
        }
    }
}

impl TryFrom<String> for Rule {
    type Error = RuleError;

    fn try_from(text: String) -> Result<Self, RuleError> {
        text.parse()
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> Self {
        rule.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protection::samples::candidate;

    fn holds(rule: &str) -> bool {
        rule.parse::<Rule>().unwrap_or_else(|e| panic!("{e}")).holds(&candidate("L1/Web01"))
    }

    #[test]
    fn rules_look_at_what_they_name() {
        for true_rule in [
            "name=web*",
            "name != db*",
            "path=L1/*",
            "tag=prod",
            "tag!=test",
            "state=running",
            "memory>=2GB",
            "memory < 2097153KB",
            "memory=2147483648",
            "disk>10gb",
            "processors<=2",
            "generation=2",
            "switch=lan",
            "switch!=Other",
            "image=deb*",
            "nesting=off",
        ] {
            assert!(holds(true_rule), "{true_rule}");
        }
        for false_rule in
            ["name=db*", "tag!=prod", "state!=Running", "memory>2GB", "nesting=on", "path=Web01"]
        {
            assert!(!holds(false_rule), "{false_rule}");
        }
    }

    #[test]
    fn what_is_no_rule_says_why() {
        for (bad, why) in [
            ("running", "lacks a comparison"),
            ("a!b", "lacks a comparison"),
            ("colour=red", "no known word"),
            ("name>a", "compares by size"),
            ("state=Flying", "a state such as Running"),
            ("memory>=lots", "a size such as 4GB"),
            ("memory>=99999999999TB", "a size such as 4GB"),
            ("generation=3", "1 or 2"),
            ("name=", "no name"),
            ("path=a//b", "no path"),
        ] {
            let error = bad.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_rule_or_an_error(
            text in "(name|path|tag|state|memory|disk|processors|generation|nesting|.{0,5})(=|!=|>=|<|.?).{0,20}",
        ) {
            if let Ok(rule) = text.parse::<Rule>() {
                prop_assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
            }
        }

        #[test]
        fn sizes_print_as_they_are_read(bytes in any::<u64>(), shift in 0_u32..50) {
            let bytes = bytes >> shift << shift;
            prop_assert_eq!(super::bytes(&with_unit(bytes)), Some(bytes));
        }
    }
}
