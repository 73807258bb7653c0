//! Names of files in a repository. Only what passes [`FileName::check`] ever becomes part of a path or a URL.

use std::fmt;

use super::{Operation, StorageError, StorageErrorKind};
use crate::{IndexId, KeyId, LockId, PackId, SnapshotId};

const EXTRA_NAME_MAX: usize = 80;

/// What a file is, which says where it lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    Config,
    Key,
    Lock,
    Snapshot,
    Index,
    Pack,
    /// Ours alone, in the folder `nestling`, which restic ignores.
    Extra,
}

impl FileKind {
    pub const ALL: [Self; 7] =
        [Self::Config, Self::Key, Self::Lock, Self::Snapshot, Self::Index, Self::Pack, Self::Extra];

    /// The directory of the kind in restic's layout; packs lie one level deeper. Empty for the config.
    pub fn directory(self) -> &'static str {
        match self {
            Self::Config => "",
            Self::Key => "keys",
            Self::Lock => "locks",
            Self::Snapshot => "snapshots",
            Self::Index => "index",
            Self::Pack => "data",
            Self::Extra => "nestling",
        }
    }

    /// Whether a file is named by the hash of its bytes, so that two files of one name are the same file.
    pub fn names_content(self) -> bool {
        !matches!(self, Self::Config | Self::Extra)
    }

    /// Whether `name` can be the name of a file of this kind.
    pub fn accepts(self, name: &str) -> bool {
        match self {
            Self::Config => name.is_empty(),
            Self::Extra => {
                name.len() <= EXTRA_NAME_MAX
                    && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
                    && name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-'))
            }
            _ => name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
        }
    }
}

impl fmt::Display for FileKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Config => "config",
            Self::Key => "key",
            Self::Lock => "lock",
            Self::Snapshot => "snapshot",
            Self::Index => "index",
            Self::Pack => "pack",
            Self::Extra => "extra file",
        })
    }
}

/// A file of a repository. The name is empty for the config, 64 lower-case hexadecimal digits for what is named by
/// content, and 1 to 80 of `a-z 0-9 . -`, a letter or digit first, for an extra file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    pub kind: FileKind,
    pub name: String,
}

impl FileName {
    pub fn new(kind: FileKind, name: impl Into<String>) -> Result<Self, StorageError> {
        let file = Self { kind, name: name.into() };
        file.check("the repository")?;
        Ok(file)
    }

    pub fn config() -> Self {
        Self { kind: FileKind::Config, name: String::new() }
    }

    /// Every storage calls this before it touches anything: the fields are open, and a name becomes a path.
    pub(crate) fn check(&self, place: &str) -> Result<(), StorageError> {
        if self.kind.accepts(&self.name) {
            return Ok(());
        }
        // What is shown of a hostile name is bounded.
        let shown = Self { kind: self.kind, name: self.name.chars().take(EXTRA_NAME_MAX).collect() };
        Err(StorageError::new(StorageErrorKind::InvalidName, Operation::Name, place).on(&shown))
    }

    /// The path below the root, in restic's layout.
    pub fn path(&self) -> String {
        match self.kind {
            FileKind::Config => "config".to_owned(),
            FileKind::Pack => format!("data/{}/{}", self.name.get(..2).unwrap_or_default(), self.name),
            kind => format!("{}/{}", kind.directory(), self.name),
        }
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            FileKind::Config => f.write_str("the config"),
            kind => write!(f, "{kind} {}", self.name.escape_debug()),
        }
    }
}

macro_rules! from_id {
    ($($id:ident => $kind:ident),*) => {$(
        impl From<$id> for FileName {
            fn from(id: $id) -> Self {
                Self { kind: FileKind::$kind, name: id.to_string() }
            }
        }
    )*};
}
from_id!(KeyId => Key, LockId => Lock, SnapshotId => Snapshot, IndexId => Index, PackId => Pack);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_name_that_is_accepted_stays_in_its_directory(name in "[a-z0-9.A-Z/_é-]{0,90}|[0-9a-f]{62,66}") {
            for kind in FileKind::ALL {
                let Ok(file) = FileName::new(kind, name.clone()) else { continue };
                let path = file.path();
                let parts: Vec<&str> = path.split('/').collect();
                prop_assert_eq!(parts.len(), match kind { FileKind::Config => 1, FileKind::Pack => 3, _ => 2 });
                prop_assert!(parts.iter().all(|part| !part.is_empty() && !part.starts_with('.')));
            }
        }
    }

    #[test]
    fn names_that_would_leave_the_repository_are_refused() {
        for name in ["", ".", "..", "../x", "a/b", "A", "-x", ".x", "a_b", "a b", "a\0", "é", &"a".repeat(81)]
        {
            assert!(FileName::new(FileKind::Extra, name).is_err(), "{name}");
        }
        assert!(FileName::new(FileKind::Extra, "a").is_ok());
        assert!(FileName::new(FileKind::Extra, "a".repeat(80)).is_ok());
        for name in [&"0".repeat(63), &"0".repeat(65), &"A".repeat(64), &"/".repeat(64), &"é".repeat(32)] {
            assert!(FileName::new(FileKind::Pack, name).is_err(), "{name}");
        }
        assert!(FileName::new(FileKind::Config, "config").is_err());
    }

    #[test]
    fn files_lie_where_restic_looks_for_them() {
        let name = "ab".repeat(32);
        let path = |kind| FileName::new(kind, name.clone()).unwrap().path();
        assert_eq!(FileName::config().path(), "config");
        assert_eq!(path(FileKind::Key), format!("keys/{name}"));
        assert_eq!(path(FileKind::Lock), format!("locks/{name}"));
        assert_eq!(path(FileKind::Snapshot), format!("snapshots/{name}"));
        assert_eq!(path(FileKind::Index), format!("index/{name}"));
        assert_eq!(path(FileKind::Pack), format!("data/ab/{name}"));
        assert_eq!(path(FileKind::Extra), format!("nestling/{name}"));
    }

    #[test]
    fn a_hostile_name_is_shown_in_part_and_escaped() {
        let error = FileName::new(FileKind::Extra, "\u{1b}[2J".repeat(1000)).unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::InvalidName);
        let text = error.to_string();
        assert!(text.len() < 1000 && !text.contains('\u{1b}'), "{text}");
    }
}
