//! Which machines a job covers.
//!
//! It is decided anew for each run from what the machines are then, so that new ones join by themselves and others
//! leave. A machine is covered if one selector names it or the rules hold, unless an exclusion names it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{pattern::PathPattern, rule::Rule};
use crate::{
    life::VmState,
    name::Pattern,
    path::{PathError, VmPath},
    tag::{Tag, TagError, tag_pattern},
    vm::{Generation, VmId},
};

/// How many selectors, included or excluded, one selection may have.
pub const SELECTORS_MAX: usize = 1000;
pub const RULES_MAX: usize = 64;

/// What a selection knows of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub id: VmId,
    pub path: VmPath,
    pub tags: Vec<Tag>,
    pub state: VmState,
    pub memory_bytes: u64,
    /// The virtual size of all disks together.
    pub disk_bytes: u64,
    pub processors: u32,
    pub generation: Generation,
    /// The names of the switches that it is connected to.
    pub switches: Vec<String>,
    /// The names of the images that its disks were made from.
    pub images: Vec<String>,
    /// Whether it can host machines itself.
    pub nesting: bool,
}

/// Names machines: `Web01`, `L1/L2`, `web*`, `tag:prod`, or `id:` and an id, which stays right when the name changes.
/// A machine whose own name begins with `tag:` or `id:` is named by its id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Selector {
    Id(VmId),
    Path(PathPattern),
    Tag(Pattern),
}

/// Why a text names no machines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    #[error("\"{0}\" is no machine's id")]
    Id(String),
    #[error("a machine is chosen by its name or path, in which * and ? stand for other text")]
    Path(#[source] PathError),
    #[error("machines are chosen by a tag as tag:TAG, in which * and ? stand for other text: {0}")]
    Tag(TagError),
}

impl Selector {
    pub fn matches(&self, machine: &Candidate) -> bool {
        match self {
            Self::Id(id) => machine.id == *id,
            Self::Path(pattern) => pattern.matches(&machine.path),
            Self::Tag(pattern) => machine.tags.iter().any(|tag| pattern.matches(tag.as_str())),
        }
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if let Some(tag) = text.strip_prefix("tag:") {
            return tag_pattern(tag).map(Self::Tag).map_err(SelectorError::Tag);
        }
        if let Some(id) = text.strip_prefix("id:") {
            let wrong = || SelectorError::Id(crate::shown(id, 80));
            return Uuid::parse_str(id).map(|id| Self::Id(VmId(id))).map_err(|_| wrong());
        }
        text.parse().map(Self::Path).map_err(SelectorError::Path)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => write!(f, "id:{}", id.0),
            Self::Path(pattern) => write!(f, "{pattern}"),
            Self::Tag(pattern) => write!(f, "tag:{pattern}"),
        }
    }
}

impl TryFrom<String> for Selector {
    type Error = SelectorError;

    fn try_from(text: String) -> Result<Self, SelectorError> {
        text.parse()
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.to_string()
    }
}

/// How rules are joined.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Join {
    #[default]
    All,
    Any,
}

/// Rules that a machine is covered by. Without any, they cover none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rules {
    pub join: Join,
    pub rules: Vec<Rule>,
    /// Whether machines inside others are looked at, too. They are part of their host's disks in any case.
    pub inside: bool,
}

impl Rules {
    fn hold(&self, machine: &Candidate) -> bool {
        let is_inside = machine.path.levels().len() > 1;
        if self.rules.is_empty() || is_inside && !self.inside && !self.rules.iter().any(Rule::is_inside) {
            return false;
        }
        match self.join {
            Join::All => self.rules.iter().all(|rule| rule.holds(machine)),
            Join::Any => self.rules.iter().any(|rule| rule.holds(machine)),
        }
    }
}

/// Which machines a job covers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Selection {
    pub include: Vec<Selector>,
    pub rules: Rules,
    pub exclude: Vec<Selector>,
}

/// Why a selection cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SelectionInvalid {
    #[error("the job covers no machine; name one, a pattern such as *, a tag or a rule")]
    Nothing,
    #[error("a job has at most {SELECTORS_MAX} selectors and exclusions")]
    Selectors,
    #[error("a job has at most {RULES_MAX} rules")]
    Rules,
}

/// Whether a machine is covered, and what says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cover<'a> {
    Named(&'a Selector),
    ByRules,
    Excluded(&'a Selector),
    No,
}

impl Selection {
    pub fn validate(&self) -> Result<(), SelectionInvalid> {
        if self.include.is_empty() && self.rules.rules.is_empty() {
            return Err(SelectionInvalid::Nothing);
        }
        if self.include.len() + self.exclude.len() > SELECTORS_MAX {
            return Err(SelectionInvalid::Selectors);
        }
        if self.rules.rules.len() > RULES_MAX {
            return Err(SelectionInvalid::Rules);
        }
        Ok(())
    }

    /// Whether a machine is covered, with the reason. One inside another is not covered by its tag: a guest says that it has it.
    pub fn judge(&self, machine: &Candidate) -> Cover<'_> {
        let is_inside = machine.path.levels().len() > 1;
        let names = |selector: &&Selector| {
            selector.matches(machine) && !(is_inside && matches!(selector, Selector::Tag(_)))
        };
        let named = self.include.iter().find(names);
        let by_rules = named.is_none() && self.rules.hold(machine);
        if named.is_none() && !by_rules {
            return Cover::No;
        }
        match (self.exclude.iter().find(|selector| selector.matches(machine)), named) {
            (Some(exclusion), _) => Cover::Excluded(exclusion),
            (None, Some(selector)) => Cover::Named(selector),
            (None, None) => Cover::ByRules,
        }
    }

    pub fn covers(&self, machine: &Candidate) -> bool {
        matches!(self.judge(machine), Cover::Named(_) | Cover::ByRules)
    }

    /// Whether a machine inside the one at this path may be covered, however deep: then the node inside has to be asked.
    pub fn looks_into(&self, host: &VmPath) -> bool {
        let leads = |selector: &Selector| match selector {
            Selector::Path(pattern) => pattern.leads_into(host),
            Selector::Id(_) | Selector::Tag(_) => false,
        };
        let by_rules = !self.rules.rules.is_empty()
            && (self.rules.inside || self.rules.rules.iter().any(Rule::is_inside));
        by_rules || self.include.iter().any(leads)
    }

    /// The machines that are covered: those that are named first, as they are listed, and within that by name.
    pub fn pick<'a>(&self, machines: &'a [Candidate]) -> Vec<&'a Candidate> {
        let place = |machine: &Candidate| {
            self.include.iter().position(|s| s.matches(machine)).unwrap_or(self.include.len())
        };
        let mut picked: Vec<(usize, String, &Candidate)> = machines
            .iter()
            .filter(|machine| self.covers(machine))
            .map(|machine| (place(machine), machine.path.to_string().to_lowercase(), machine))
            .collect();
        picked.sort_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        picked.into_iter().map(|(.., machine)| machine).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::protection::samples::candidate;

    fn selection(include: &[&str], rules: &[&str], exclude: &[&str]) -> Selection {
        let selectors = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Selection {
            include: selectors(include),
            rules: Rules { rules: rules.iter().map(|r| r.parse().unwrap()).collect(), ..Rules::default() },
            exclude: selectors(exclude),
        }
    }

    fn picked(selection: &Selection, paths: &[&str]) -> Vec<String> {
        let machines: Vec<Candidate> = paths.iter().map(|path| candidate(path)).collect();
        selection.pick(&machines).iter().map(|machine| machine.path.to_string()).collect()
    }

    #[test]
    fn machines_are_named_and_excluded() {
        let paths = ["db1", "Web02", "web01", "L1", "L1/L2", "L1/web9"];
        assert_eq!(picked(&selection(&["web*", "DB1"], &[], &[]), &paths), ["web01", "Web02", "db1"]);
        assert_eq!(picked(&selection(&["*"], &[], &["web*"]), &paths), ["db1", "L1"]);
        assert_eq!(picked(&selection(&["L1/*"], &[], &["l1/l2"]), &paths), ["L1/web9"]);
        assert_eq!(picked(&selection(&["tag:prod"], &[], &[]), &paths), ["db1", "L1", "web01", "Web02"]);
        assert!(picked(&selection(&["L1/*"], &[], &["tag:prod"]), &paths).is_empty());
    }

    #[test]
    fn who_gets_a_tag_joins_who_loses_it_leaves_and_exclusions_win() {
        let chosen = selection(&["db*", "tag:Gold"], &[], &["tag:scratch"]);
        let with = |name: &str, tags: &[&str]| {
            let tags = tags.iter().map(|tag| tag.parse().unwrap()).collect();
            Candidate { tags, ..candidate(name) }
        };
        assert_eq!(chosen.judge(&with("web", &["gold", "prod"])), Cover::Named(&chosen.include[1]));
        assert_eq!(chosen.judge(&with("web", &["goldish"])), Cover::No);
        assert_eq!(chosen.judge(&with("db1", &[])), Cover::Named(&chosen.include[0]));
        assert_eq!(chosen.judge(&with("db1", &["GOLD", "Scratch"])), Cover::Excluded(&chosen.exclude[0]));
        assert!("tag:a b".parse::<Selector>().is_err() && "tag:".parse::<Selector>().is_err());
    }

    #[test]
    fn a_machine_that_was_renamed_is_still_named_by_its_id() {
        let mut machine = candidate("old");
        let chosen = selection(&[&format!("id:{}", machine.id.0)], &[], &[]);
        machine.path = "new".parse().unwrap();
        assert!(chosen.covers(&machine));
    }

    #[test]
    fn rules_cover_what_is_on_the_host_itself_unless_they_speak_of_more() {
        let running = selection(&[], &["state=Running"], &[]);
        assert_eq!(picked(&running, &["a", "a/b"]), ["a"]);
        let inside = Selection { rules: Rules { inside: true, ..running.rules.clone() }, ..running };
        assert_eq!(picked(&inside, &["a", "a/b"]), ["a", "a/b"]);
        assert_eq!(picked(&selection(&[], &["path=a/*", "state=Running"], &[]), &["a", "a/b"]), ["a/b"]);
    }

    #[test]
    fn rules_are_joined_by_all_or_any() {
        let mut both = selection(&[], &["name=web*", "memory>=1TB"], &[]);
        assert!(!both.covers(&candidate("web1")));
        both.rules.join = Join::Any;
        assert!(both.covers(&candidate("web1")));
        assert!(!both.covers(&candidate("db1")));
    }

    #[test]
    fn only_those_hosts_are_asked_for_machines_that_may_have_one() {
        let looks = |chosen: &Selection, host: &str| chosen.looks_into(&host.parse().unwrap());
        let named = selection(&["*", "L1/*"], &["state=Running"], &["L2/*"]);
        assert!(looks(&named, "L1") && !looks(&named, "L2") && !looks(&named, "L1/L2"));
        let ruled = selection(&[], &["path=L1/*"], &[]);
        assert!(looks(&ruled, "L1") && looks(&ruled, "other"));
    }

    #[test]
    fn a_selection_that_covers_nothing_is_a_slip() {
        assert_eq!(selection(&[], &[], &["*"]).validate(), Err(SelectionInvalid::Nothing));
        assert_eq!(selection(&["*"], &[], &[]).validate(), Ok(()));
    }

    #[test]
    fn the_reason_is_told() {
        let chosen = selection(&["web*"], &["name=db*"], &["*2"]);
        assert_eq!(chosen.judge(&candidate("web1")), Cover::Named(&chosen.include[0]));
        assert_eq!(chosen.judge(&candidate("db1")), Cover::ByRules);
        assert_eq!(chosen.judge(&candidate("db2")), Cover::Excluded(&chosen.exclude[0]));
        assert_eq!(chosen.judge(&candidate("mail2")), Cover::No);
    }

    proptest! {
        #[test]
        fn any_text_is_a_selector_or_an_error(text in "(tag:|id:|)[ -~é/*?]{0,40}") {
            if let Ok(selector) = text.parse::<Selector>() {
                prop_assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector);
            }
        }

        /// More exclusions never cover more, more selectors never cover less.
        #[test]
        fn selections_grow_and_shrink(
            patterns in prop::collection::vec("[ab*?]{1,3}", 1..6),
            names in prop::collection::vec("[ab]{1,3}", 1..6),
        ) {
            let patterns: Vec<&str> = patterns.iter().map(String::as_str).collect();
            let (one, others) = patterns.split_at(1);
            for name in names.iter().map(|name| candidate(name)) {
                let alone = selection(one, &[], &[]).covers(&name);
                prop_assert!(!alone || selection(&patterns, &[], &[]).covers(&name));
                prop_assert!(alone || !selection(one, &[], others).covers(&name));
            }
        }
    }
}
