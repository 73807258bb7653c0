//! Names of machines and disks as folders of a repository, which any restic may restore into a real directory.

use std::{fmt, str::FromStr};

use crate::VaultError;

const COMPONENTS_MAX: usize = 16;
const COMPONENT_BYTES_MAX: usize = 200;

/// The name of a machine: a path such as `Server2016/Web01`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointName(String);

fn check(component: &str) -> Result<(), &'static str> {
    match component {
        "" => Err("it is empty"),
        "." | ".." => Err("it is a reference to another folder"),
        _ if component.len() > COMPONENT_BYTES_MAX => Err("it is longer than 200 bytes"),
        _ if component.chars().any(char::is_control) => Err("it has control characters"),
        _ if component.contains(['\\', ',']) => Err("it has a backslash or a comma"),
        _ => Ok(()),
    }
}

/// Whether a disk can be called like this.
pub fn check_disk_name(name: &str) -> Result<(), VaultError> {
    let fail = |why| Err(VaultError::Name(name.chars().take(80).collect(), why));
    match check(name) {
        Err(why) => fail(why),
        Ok(()) if name.contains(['/', '@', ':']) => fail("it has a slash, a colon or an @"),
        Ok(()) if [crate::layout::POINT_FILE, crate::layout::DESCRIPTION_FILE].contains(&name) => {
            fail("a file beside the disks is called so")
        }
        Ok(()) => Ok(()),
    }
}

impl PointName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn components(&self) -> impl DoubleEndedIterator<Item = &str> {
        self.0.split('/')
    }

    /// As restic shows it among a snapshot's paths.
    pub fn path(&self) -> String {
        format!("/{}", self.0)
    }
}

impl FromStr for PointName {
    type Err = VaultError;

    fn from_str(text: &str) -> Result<Self, VaultError> {
        let fail = |why| Err(VaultError::Name(text.chars().take(80).collect(), why));
        if text.split('/').count() > COMPONENTS_MAX {
            return fail("it has more than 16 parts");
        }
        if text.contains('@') {
            return fail("an @ begins the name of a point");
        }
        match text.split('/').find_map(|component| check(component).err()) {
            Some(why) => fail(why),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for PointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_path_that_stays_where_it_is() {
        for good in ["web01", "Server2016/Web01", "Büro 1", "a:b"] {
            assert_eq!(good.parse::<PointName>().map(|n| n.path()).ok(), Some(format!("/{good}")));
        }
        let (long, deep) = ("a".repeat(201), ["a"; 17].join("/"));
        for bad in
            ["", "/a", "a/", "a//b", "../a", "a/..", ".", "a\nb", "a\0", "a\\b", "a@b", "a,b", &long, &deep]
        {
            assert!(bad.parse::<PointName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_disk_is_one_folder() {
        assert!(check_disk_name("disk0").is_ok());
        for bad in ["a/b", "point.json", "vm.json", "", "..", "a@b", "a:b"] {
            assert!(check_disk_name(bad).is_err(), "{bad:?}");
        }
    }
}
