//! How people name a point and a disk of it: `NAME[@POINT][:DISK]`.
//!
//! A point is `latest` or the first digits of its id; without it the newest is meant. A machine whose name has a colon
//! needs the `@` before a disk, or the colon's end is taken for one: `a:b@latest:disk0`.

use std::{fmt, str::FromStr};

use crate::{Job, Point, PointName, Repository, VaultError, check_disk_name};

const LATEST: &str = "latest";
/// Digits of a whole id.
const ID_DIGITS: usize = 64;

/// `NAME[@POINT]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointSelector {
    pub name: PointName,
    /// First digits of an id. None: the newest.
    pub id: Option<String>,
}

/// `NAME[@POINT][:DISK]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSelector {
    pub point: PointSelector,
    /// None: the only one.
    pub disk: Option<String>,
}

/// `NAME` for all points of a machine, `NAME@POINT` for one: where "the newest" must be said to be meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PointsSelector {
    All(PointName),
    One(PointSelector),
}

/// What is behind an `@`. None: the newest.
pub fn parse_point_id(text: &str) -> Result<Option<String>, VaultError> {
    let is_id = (1..=ID_DIGITS).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match text {
        LATEST => Ok(None),
        _ if is_id => Ok(Some(text.to_owned())),
        _ => {
            let shown: String = text.chars().take(80).collect();
            Err(VaultError::Invalid(format!(
                "{shown:?} names no point: give the first digits of its id, or 'latest'"
            )))
        }
    }
}

impl FromStr for PointSelector {
    type Err = VaultError;

    fn from_str(text: &str) -> Result<Self, VaultError> {
        match text.split_once('@') {
            Some((name, point)) => Ok(Self { name: name.parse()?, id: parse_point_id(point)? }),
            None => Ok(Self { name: text.parse()?, id: None }),
        }
    }
}

impl FromStr for DiskSelector {
    type Err = VaultError;

    fn from_str(text: &str) -> Result<Self, VaultError> {
        let from = text.find('@').unwrap_or(0);
        let (point, disk) = match text[from..].rfind(':') {
            Some(at) => (&text[..from + at], Some(&text[from + at + 1..])),
            None => (text, None),
        };
        if let Some(disk) = disk {
            check_disk_name(disk)?;
        }
        Ok(Self { point: point.parse()?, disk: disk.map(str::to_owned) })
    }
}

impl FromStr for PointsSelector {
    type Err = VaultError;

    fn from_str(text: &str) -> Result<Self, VaultError> {
        if text.contains('@') { text.parse().map(Self::One) } else { text.parse().map(Self::All) }
    }
}

impl fmt::Display for PointSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.id.as_deref().unwrap_or(LATEST))
    }
}

impl fmt::Display for DiskSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.point)?;
        self.disk.as_ref().map_or(Ok(()), |disk| write!(f, ":{disk}"))
    }
}

impl Repository {
    /// The point that is meant.
    pub fn select(&self, selector: &PointSelector, job: &Job) -> Result<Point, VaultError> {
        self.find_point(&selector.name, selector.id.as_deref(), job)
    }

    /// The points that are meant, each once; all when nothing is named. A machine without points is an error.
    pub fn select_all(&self, selectors: &[PointsSelector], job: &Job) -> Result<Vec<Point>, VaultError> {
        if selectors.is_empty() {
            return self.points(None, job);
        }
        let mut points: Vec<Point> = Vec::new();
        for selector in selectors {
            let found = match selector {
                PointsSelector::One(selector) => vec![self.select(selector, job)?],
                PointsSelector::All(name) => self.points(Some(name), job)?,
            };
            if let (PointsSelector::All(name), true) = (selector, found.is_empty()) {
                return Err(VaultError::NoSuchPoint(format!("of {name}")));
            }
            for point in found {
                if points.iter().all(|known| known.id != point.id) {
                    points.push(point);
                }
            }
        }
        Ok(points)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn disk(text: &str) -> Option<(String, Option<String>, Option<String>)> {
        let found: DiskSelector = text.parse().ok()?;
        Some((found.point.name.to_string(), found.point.id, found.disk))
    }

    fn parts(name: &str, id: &str, disk: &str) -> (String, Option<String>, Option<String>) {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (name.to_owned(), some(id), some(disk))
    }

    #[test]
    fn a_disk_is_named_in_three_parts() {
        for (text, expected) in [
            ("web01", parts("web01", "", "")),
            ("a/b@1f", parts("a/b", "1f", "")),
            ("web01@latest", parts("web01", "", "")),
            ("web01:disk0", parts("web01", "", "disk0")),
            ("web01@1f:disk0", parts("web01", "1f", "disk0")),
            ("a:b@latest:disk0", parts("a:b", "", "disk0")),
            ("a:b@latest", parts("a:b", "", "")),
        ] {
            assert_eq!(disk(text), Some(expected), "{text}");
        }
        let long = format!("a@{}", "0".repeat(65));
        for bad in ["", "@1f", "a@", "a@1F", "a@1f@2f", "a@xyz", "a:", "a@1f:", "a@1f:b/c", ":d", &long] {
            assert_eq!(disk(bad), None, "{bad}");
        }
        assert!(matches!("a:b".parse(), Ok(PointsSelector::All(_))));
        assert!(matches!("a@latest".parse(), Ok(PointsSelector::One(_))));
        let point: PointSelector = "a:b".parse().expect("a colon is part of a name here");
        assert_eq!((point.name.as_str(), point.id), ("a:b", None));
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_so_that_it_is_read_again(text in "[a-f0-9:@/é. ]{0,24}") {
            if let Ok(found) = text.parse::<DiskSelector>() {
                prop_assert_eq!(found.to_string().parse::<DiskSelector>().expect("its own text"), found);
            }
            if let Ok(found) = text.parse::<PointSelector>() {
                prop_assert_eq!(found.to_string().parse::<PointSelector>().expect("its own text"), found);
            }
        }
    }
}
