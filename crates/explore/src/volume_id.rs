//! Which volume is meant: a partition by its number, or a volume that was put together from several.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{ExploreError, Result};

const NAME_BYTES_MAX: usize = 128;

/// A volume of a disk, or of several disks together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VolumeId {
    /// As partitions are counted; 0 is the whole disk.
    Number(u32),
    Composed(ComposedId),
}

/// A volume that lies on others: `lvm/GROUP/VOLUME`, `md/ARRAY`, or `md/ARRAY/PARTITION`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ComposedId(String);

impl ComposedId {
    #[must_use]
    pub fn lvm(group: &str, volume: &str) -> Option<Self> {
        Self::new(format!("lvm/{group}/{volume}"))
    }

    /// Names of arrays are free; what could not be typed is replaced.
    #[must_use]
    pub fn md(array: &str, partition: Option<u32>) -> Option<Self> {
        let plain: String = array.chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
        Self::new(match partition {
            Some(partition) => format!("md/{plain}/{partition}"),
            None => format!("md/{plain}"),
        })
    }

    /// Whether a text means one of these, though it may be a wrong one.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        text.starts_with("lvm/") || text.starts_with("md/")
    }

    fn new(text: String) -> Option<Self> {
        let mut parts = text.split('/');
        let kind = parts.next()?;
        let names: Vec<&str> = parts.collect();
        let is_name = |name: &&str| {
            (1..=NAME_BYTES_MAX).contains(&name.len())
                && !matches!(*name, "." | "..")
                && name.chars().all(is_plain)
        };
        let fits = matches!((kind, names.len()), ("lvm", 2) | ("md", 1 | 2));
        (fits && names.iter().all(is_name)).then_some(Self(text))
    }
}

/// What names of LVM have.
fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '_' | '.' | '-')
}

impl fmt::Display for ComposedId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Composed(id) => write!(f, "{id}"),
        }
    }
}

impl FromStr for VolumeId {
    type Err = ExploreError;

    fn from_str(text: &str) -> Result<Self> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|_| is_number).map(Self::Number);
        number.or_else(|| ComposedId::new(text.to_owned()).map(Self::Composed)).ok_or_else(|| {
            ExploreError::invalid(
                text,
                "a volume is a number, lvm/GROUP/VOLUME or md/ARRAY, and a place in it such as 2:/etc",
            )
        })
    }
}

impl Serialize for VolumeId {
    fn serialize<S: Serializer>(&self, to: S) -> std::result::Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for VolumeId {
    fn deserialize<D: Deserializer<'de>>(from: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(from)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_volume_comes_back_from_its_text() {
        for text in ["0", "7", "lvm/data/files", "lvm/a-b/c_d.e+f", "md/0", "md/backup/1"] {
            assert_eq!(text.parse::<VolumeId>().expect(text).to_string(), text);
        }
        for text in [
            "",
            "+1",
            "x",
            "lvm",
            "lvm/",
            "lvm/a",
            "lvm/a/",
            "lvm/a/b/c",
            "lvm/../b",
            "lvm/a b/c",
            "md/",
            "md/a/b/c",
        ] {
            assert!(text.parse::<VolumeId>().is_err(), "{text}");
        }
        assert_eq!(ComposedId::md("host:a b", None).expect("a name").to_string(), "md/host_a_b");
        assert_eq!(ComposedId::lvm("..", "x"), None);
    }
}
