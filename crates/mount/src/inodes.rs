//! Numbers by which the kernel knows what is in the file system.
//!
//! A number is never used again for something else: what a point holds never changes, so a number stands for the same
//! bytes for as long as the file system is there, and the kernel may keep them.

use std::collections::HashMap;

use nestling_vault::SnapshotId;

/// What a number stands for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    /// A folder of machines, by its path.
    Folder(String),
    /// The link to the newest point of a machine, by its folder.
    Latest(String),
    Point(SnapshotId),
    /// A disk of a point, by its place in the point's list.
    Disk(SnapshotId, usize),
    Description(SnapshotId),
}

const ROOT: u64 = 1;

#[derive(Debug)]
pub(crate) struct Inodes {
    numbers: HashMap<Key, u64>,
    keys: HashMap<u64, Key>,
    next: u64,
}

impl Inodes {
    pub(crate) fn new() -> Self {
        let mut inodes = Self { numbers: HashMap::new(), keys: HashMap::new(), next: ROOT };
        inodes.number(&Key::Folder(String::new()));
        inodes
    }

    pub(crate) fn number(&mut self, key: &Key) -> u64 {
        if let Some(number) = self.numbers.get(key) {
            return *number;
        }
        let number = self.next;
        self.next += 1;
        self.numbers.insert(key.clone(), number);
        self.keys.insert(number, key.clone());
        number
    }

    pub(crate) fn key(&self, number: u64) -> Option<&Key> {
        self.keys.get(&number)
    }

    /// Forgets the numbers of what is gone. The root stays.
    pub(crate) fn retain(&mut self, is_there: impl Fn(&Key) -> bool) {
        self.keys.retain(|number, key| *number == ROOT || is_there(key));
        let keys = &self.keys;
        self.numbers.retain(|_, number| keys.contains_key(number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_never_given_twice() {
        let mut inodes = Inodes::new();
        let key = |name: &str| Key::Folder(name.to_owned());
        let (lab, latest) = (inodes.number(&key("Lab")), inodes.number(&Key::Latest("Lab".to_owned())));
        assert_eq!(inodes.number(&key("Lab")), lab);
        assert_ne!(lab, latest);
        assert_eq!(
            (inodes.key(ROOT), inodes.key(latest)),
            (Some(&key("")), Some(&Key::Latest("Lab".to_owned())))
        );
        inodes.retain(|key| matches!(key, Key::Latest(_)));
        assert_eq!(inodes.key(lab), None);
        assert_eq!(inodes.number(&key("")), ROOT);
        assert!(inodes.number(&key("Lab")) > latest);
    }
}
