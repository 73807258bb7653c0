//! Counts what a storage is asked for, for statistics and for tests that hold an operation to what it may cost.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::storage::{FileKind, FileName, Listed, Storage, StorageError};

/// How often a storage was asked, and what went over. Bytes are counted where the operation succeeded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub puts: u64,
    pub gets: u64,
    pub ranges: u64,
    pub lists: u64,
    pub removes: u64,
    pub errors: u64,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

/// Counts operations and bytes.
#[derive(Debug)]
pub struct Counting<S> {
    storage: S,
    puts: AtomicU64,
    gets: AtomicU64,
    ranges: AtomicU64,
    lists: AtomicU64,
    removes: AtomicU64,
    errors: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl<S: Storage> Counting<S> {
    pub fn new(storage: S) -> Self {
        let zero = || AtomicU64::new(0);
        Self {
            storage,
            puts: zero(),
            gets: zero(),
            ranges: zero(),
            lists: zero(),
            removes: zero(),
            errors: zero(),
            bytes_up: zero(),
            bytes_down: zero(),
        }
    }

    /// What was counted so far.
    pub fn counts(&self) -> Counts {
        Counts {
            puts: self.puts.load(Relaxed),
            gets: self.gets.load(Relaxed),
            ranges: self.ranges.load(Relaxed),
            lists: self.lists.load(Relaxed),
            removes: self.removes.load(Relaxed),
            errors: self.errors.load(Relaxed),
            bytes_up: self.bytes_up.load(Relaxed),
            bytes_down: self.bytes_down.load(Relaxed),
        }
    }

    fn count<T>(
        &self,
        operations: &AtomicU64,
        result: Result<T, StorageError>,
        bytes: impl FnOnce(&T),
    ) -> Result<T, StorageError> {
        operations.fetch_add(1, Relaxed);
        match &result {
            Ok(value) => bytes(value),
            Err(_) => {
                self.errors.fetch_add(1, Relaxed);
            }
        }
        result
    }
}

impl<S: Storage> Storage for Counting<S> {
    fn describe(&self) -> String {
        self.storage.describe()
    }

    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        self.count(&self.puts, self.storage.put(file, bytes), |()| {
            self.bytes_up.fetch_add(bytes.len() as u64, Relaxed);
        })
    }

    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError> {
        self.count(&self.gets, self.storage.get(file, limit_bytes), |bytes| {
            self.bytes_down.fetch_add(bytes.len() as u64, Relaxed);
        })
    }

    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        let length = buf.len() as u64;
        self.count(&self.ranges, self.storage.get_range(file, offset, buf), |()| {
            self.bytes_down.fetch_add(length, Relaxed);
        })
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError> {
        self.count(&self.lists, self.storage.list(kind), |_| {})
    }

    fn names(&self, kind: FileKind) -> Result<Vec<String>, StorageError> {
        self.count(&self.lists, self.storage.names(kind), |_| {})
    }

    fn remove(&self, file: &FileName) -> Result<(), StorageError> {
        self.count(&self.removes, self.storage.remove(file), |()| {})
    }

    fn sweep_temporary(&self, older_than: Duration) -> Result<u64, StorageError> {
        self.storage.sweep_temporary(older_than)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn operations_and_bytes_are_counted() {
        let storage = Counting::new(MemoryStorage::new());
        let file = FileName::new(FileKind::Pack, "ab".repeat(32)).unwrap();
        storage.put(&file, b"12345").unwrap();
        storage.get(&file, 5).unwrap();
        storage.get(&file, 4).unwrap_err();
        storage.get_range(&file, 1, &mut [0; 2]).unwrap();
        storage.list(FileKind::Pack).unwrap();
        storage.remove(&file).unwrap();
        let expected = Counts {
            puts: 1,
            gets: 2,
            ranges: 1,
            lists: 1,
            removes: 1,
            errors: 1,
            bytes_up: 5,
            bytes_down: 7,
        };
        assert_eq!(storage.counts(), expected);
    }
}
