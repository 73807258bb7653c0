//! How points are told apart in a repository: their names, and the tags that a node gives them.
//!
//! A name is for people and may be given to another machine later. What a point is a point of, its tag `vm=ID` says:
//! two machines of one name are never mixed up, and a machine that was renamed keeps its points.

use nestling_model::{
    VmId, VmName, VmPath,
    protection::{ConsistencyReached, RunId},
};
use nestling_vault::{Point, PointName, check_tag};
use uuid::Uuid;

use crate::{NodeError, error::Result};

const VM: &str = "vm=";
const RUN: &str = "run=";
const CONSISTENCY: &str = "consistency=";
const WORDS: [(ConsistencyReached, &str); 4] = [
    (ConsistencyReached::Crash, "crash"),
    (ConsistencyReached::FileSystem, "file-system"),
    (ConsistencyReached::Application, "application"),
    (ConsistencyReached::Off, "off"),
];
const COMPONENT_BYTES_MAX: usize = 200;
const TAGS_MAX: usize = 64;

/// The name of a machine's points. What cannot be part of one is replaced; the whole name is in the description.
pub fn point_name(path: &VmPath) -> Result<PointName> {
    let levels: Vec<String> = path.levels().iter().map(component).collect();
    let text = levels.join("/");
    text.parse().map_err(|error: nestling_vault::VaultError| NodeError::Invalid(error.to_string()))
}

fn component(name: &VmName) -> String {
    let fit = |c: char| if matches!(c, '\\' | ',' | '@') || c.is_control() { '_' } else { c };
    let mut text: String = name.as_str().chars().map(fit).collect();
    let end = (0..=text.len().min(COMPONENT_BYTES_MAX)).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(end.unwrap_or(0));
    if text == "." || text == ".." { text.replace('.', "_") } else { text }
}

pub fn tags(vm: VmId, run: RunId, consistency: ConsistencyReached) -> Vec<String> {
    let word = WORDS.iter().find(|(reached, _)| *reached == consistency).map_or("crash", |(_, word)| word);
    vec![format!("{VM}{}", vm.0), format!("{RUN}{}", run.0), format!("{CONSISTENCY}{word}")]
}

/// Refuses tags that people cannot give, because they mean something to the vault or to us.
pub fn check_tags(tags: &[String]) -> Result<()> {
    if tags.len() > TAGS_MAX {
        return Err(NodeError::Invalid(format!("a recovery point gets at most {TAGS_MAX} tags at once")));
    }
    for tag in tags {
        check_tag(tag).map_err(|error| NodeError::Invalid(error.to_string()))?;
        if is_ours(tag) {
            return Err(NodeError::Invalid(format!(
                "\"{tag}\" cannot be given or taken as a tag: it says what the point is of"
            )));
        }
    }
    Ok(())
}

fn is_ours(tag: &str) -> bool {
    [VM, RUN, CONSISTENCY].iter().any(|prefix| tag.starts_with(prefix))
}

/// The machine that a point is of; `None` for one that was saved without a node.
pub fn vm_of(point: &Point) -> Option<VmId> {
    vm_of_tags(&point.snapshot.tags)
}

pub fn vm_of_tags(tags: &[String]) -> Option<VmId> {
    id_of(tags, VM).map(VmId)
}

pub fn run_of_tags(tags: &[String]) -> Option<RunId> {
    id_of(tags, RUN).map(RunId)
}

fn id_of(tags: &[String], prefix: &str) -> Option<Uuid> {
    let mut ids = tags.iter().filter_map(|tag| tag.strip_prefix(prefix));
    // Whoever gave it several has made it nobody's.
    let (Some(id), None) = (ids.next(), ids.next()) else { return None };
    Uuid::parse_str(id).ok()
}

pub fn consistency_of_tags(tags: &[String]) -> Option<ConsistencyReached> {
    let word = tags.iter().find_map(|tag| tag.strip_prefix(CONSISTENCY))?;
    WORDS.iter().find(|(_, known)| *known == word).map(|(reached, _)| *reached)
}

/// The tags that people gave.
pub fn other_tags(tags: &[String]) -> Vec<String> {
    let own = |tag: &&String| !is_ours(tag) && *tag != "nestling";
    tags.iter().filter(own).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_machines_name_becomes_a_points_name() {
        let name = |path: &str| point_name(&path.parse().unwrap()).unwrap().to_string();
        assert_eq!(name("Web01"), "Web01");
        assert_eq!(name("L1/Büro 2"), "L1/Büro 2");
        assert_eq!(name("a,b@c\\d"), "a_b_c_d");
        assert_eq!(name(".."), "__");
        assert!(name(&"é".repeat(100)).len() <= COMPONENT_BYTES_MAX);
    }

    #[test]
    fn our_own_tags_cannot_be_given() {
        let check = |tag: &str| check_tags(&[tag.to_owned()]);
        check("before-upgrade").unwrap();
        for bad in ["vm=x", "run=x", "consistency=off", "nestling", "pin", "", "a,b"] {
            assert!(check(bad).is_err(), "{bad}");
        }
        assert!(check_tags(&vec!["a".to_owned(); TAGS_MAX + 1]).is_err());
    }

    #[test]
    fn tags_say_what_a_point_is_of() {
        let (vm, run) = (VmId(Uuid::from_u128(1)), RunId(Uuid::from_u128(2)));
        for (consistency, _) in WORDS {
            let point = crate::testing::point("a", &tags(vm, run, consistency));
            let tags = &point.snapshot.tags;
            assert_eq!((vm_of(&point), run_of_tags(tags)), (Some(vm), Some(run)));
            assert_eq!(consistency_of_tags(tags), Some(consistency));
        }
        let mut twice = tags(vm, run, ConsistencyReached::Off);
        twice.push(format!("vm={}", Uuid::from_u128(3)));
        twice.push("mine".to_owned());
        let point = crate::testing::point("a", &twice);
        assert_eq!((vm_of(&point), other_tags(&point.snapshot.tags)), (None, vec!["mine".to_owned()]));
    }
}
