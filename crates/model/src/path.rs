//! A virtual machine's address in the tree: `Server2016/Web01` is Web01 inside Server2016.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::name::{NameError, VmName};

/// How many levels a path may have: more than any machine can run, few enough to bound every walk.
pub const PATH_LEVELS_MAX: usize = 8;

/// Why a text is no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the path \"{path}\" has a level that is no name")]
    Level { path: String, source: NameError },
    #[error("the path has {levels} levels; at most {PATH_LEVELS_MAX} are possible")]
    TooDeep { levels: usize },
}

/// Names from the outermost machine inwards; never empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct VmPath(Vec<VmName>);

impl VmPath {
    /// The hosts to pass through, outermost first, and the machine itself.
    pub fn split(&self) -> (&[VmName], &VmName) {
        match self.0.split_last() {
            Some((last, hosts)) => (hosts, last),
            None => unreachable!("a path has at least one level: from_str refuses the empty text"),
        }
    }

    pub fn levels(&self) -> &[VmName] {
        &self.0
    }
}

impl FromStr for VmPath {
    type Err = PathError;

    fn from_str(text: &str) -> Result<Self, PathError> {
        let levels = text.split('/').count();
        if levels > PATH_LEVELS_MAX {
            return Err(PathError::TooDeep { levels });
        }
        text.split('/')
            .map(str::parse)
            .collect::<Result<Vec<_>, _>>()
            .map(Self)
            .map_err(|source| PathError::Level { path: text.to_owned(), source })
    }
}

impl TryFrom<String> for VmPath {
    type Error = PathError;

    fn try_from(text: String) -> Result<Self, PathError> {
        text.parse()
    }
}

impl From<VmPath> for String {
    fn from(path: VmPath) -> Self {
        path.to_string()
    }
}

impl fmt::Display for VmPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, level) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("/")?;
            }
            write!(f, "{level}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_splits_into_hosts_and_machine() {
        let path: VmPath = "L1/L2/L3".parse().unwrap();
        let (hosts, vm) = path.split();
        assert_eq!(hosts.len(), 2);
        assert_eq!(vm.as_str(), "L3");
        assert_eq!(path.to_string(), "L1/L2/L3");
    }

    #[test]
    fn bad_paths_are_refused() {
        for bad in ["", "/", "a//b", "a/", "1/2/3/4/5/6/7/8/9"] {
            assert!(bad.parse::<VmPath>().is_err(), "{bad}");
        }
    }
}
