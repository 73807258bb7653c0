//! Where in an archive something goes.
//!
//! Every name comes from a hostile disk, and whoever unpacks the archive may believe it. So a name is one name, and comes once
//! in its folder: were a link and then a folder of the same name in an archive, what is in the folder would go where the link leads.

use std::{
    collections::HashSet,
    hash::{BuildHasher, RandomState},
};

use nestling_api::v1::RecoveryFile;
use nestling_explore::FileName;

use crate::commands::recover_write::Refused;

pub struct Way {
    /// With a `/` at its end, unless it is empty.
    path: Vec<u8>,
    /// How long the path was before each of its folders.
    lengths: Vec<usize>,
    /// Of the names in each folder on the way, their hashes: those of a folder may be very many.
    seen: Vec<HashSet<u64>>,
    hasher: RandomState,
}

impl Default for Way {
    fn default() -> Self {
        let hasher = RandomState::new();
        Self { path: Vec::new(), lengths: Vec::new(), seen: vec![HashSet::new()], hasher }
    }
}

impl Way {
    /// The path of something in the folder where we are.
    pub fn to(&mut self, file: &RecoveryFile) -> Result<Vec<u8>, Refused> {
        let name: FileName = file.name.parse().map_err(|_| Refused("its name cannot be read".to_owned()))?;
        if !name.is_usable() {
            return Err(Refused("no file may have this name".to_owned()));
        }
        let hash = self.hasher.hash_one(name.as_bytes());
        if self.seen.last_mut().is_some_and(|seen| !seen.insert(hash)) {
            return Err(Refused("something of this name is there already".to_owned()));
        }
        Ok([&self.path, name.as_bytes()].concat())
    }

    /// What `to` gave is a folder, and the next comes into it.
    pub fn enter(&mut self, folder: Vec<u8>) {
        self.lengths.push(self.path.len());
        self.path = folder;
        self.path.push(b'/');
        self.seen.push(HashSet::new());
    }

    /// The path of the folder that is left, with a `/` at its end.
    pub fn leave(&mut self) -> Vec<u8> {
        let path = self.path.clone();
        self.path.truncate(self.lengths.pop().unwrap_or_default());
        if self.seen.len() > 1 {
            self.seen.pop();
        }
        path
    }
}

#[cfg(test)]
mod tests {
    use nestling_api::v1::RecoveryFileKind;

    use super::*;
    use crate::commands::take::tests::about;

    #[test]
    fn no_name_leads_out_and_none_comes_twice() {
        let mut way = Way::default();
        let file = |name: &str| about(name, RecoveryFileKind::File, 0);
        for name in ["", ".", "..", "\\x2e\\x2e", "a\\x2fb", "\\x2fa", "a\\x00b", "\\x"] {
            assert!(way.to(&file(name)).is_err(), "{name}");
        }
        assert_eq!(way.to(&file("a")).ok(), Some(b"a".to_vec()));
        assert!(way.to(&file("a")).is_err());
        let folder = way.to(&file("b")).expect("a path");
        way.enter(folder);
        assert_eq!(way.to(&file("\\xff")).ok(), Some(b"b/\xff".to_vec()));
        assert_eq!(way.to(&file("a")).ok(), Some(b"b/a".to_vec()));
        assert_eq!(way.leave(), b"b/");
        assert!(way.to(&file("b")).is_err());
        assert_eq!(way.to(&file("c")).ok(), Some(b"c".to_vec()));
    }
}
