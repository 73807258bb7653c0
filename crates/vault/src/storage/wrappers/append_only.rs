//! Adds and never removes, as whoever writes backups should be allowed to and no more. It keeps a mistake from
//! destroying backups; against an intruder the storage itself must refuse (object lock, credentials without delete).

use std::time::Duration;

use crate::storage::{FileKind, FileName, Listed, Operation, Storage, StorageError, StorageErrorKind};

/// Refuses to remove anything but locks.
#[derive(Debug)]
pub struct AppendOnly<S>(S);

impl<S: Storage> AppendOnly<S> {
    pub fn new(storage: S) -> Self {
        Self(storage)
    }
}

impl<S: Storage> Storage for AppendOnly<S> {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        self.0.put(file, bytes)
    }

    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError> {
        self.0.get(file, limit_bytes)
    }

    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.0.get_range(file, offset, buf)
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError> {
        self.0.list(kind)
    }

    fn names(&self, kind: FileKind) -> Result<Vec<String>, StorageError> {
        self.0.names(kind)
    }

    fn remove(&self, file: &FileName) -> Result<(), StorageError> {
        if file.kind == FileKind::Lock {
            return self.0.remove(file);
        }
        Err(StorageError::new(StorageErrorKind::Denied, Operation::Remove, self.describe())
            .on(file)
            .because("the repository is opened for adding only"))
    }

    /// Torn writes were never reported as stored, so removing them takes nothing away.
    fn sweep_temporary(&self, older_than: Duration) -> Result<u64, StorageError> {
        self.0.sweep_temporary(older_than)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    #[test]
    fn only_locks_can_be_removed() {
        let storage = AppendOnly::new(MemoryStorage::new());
        for kind in FileKind::ALL {
            let name = if kind == FileKind::Config { String::new() } else { "ab".repeat(32) };
            let file = FileName::new(kind, name).unwrap();
            storage.put(&file, b"bytes").unwrap();
            let removed = storage.remove(&file);
            assert_eq!(removed.is_ok(), kind == FileKind::Lock, "{file}");
            assert_eq!(storage.get(&file, 9).is_ok(), kind != FileKind::Lock, "{file}");
            if let Err(error) = removed {
                assert_eq!(error.kind, StorageErrorKind::Denied);
            }
        }
    }
}
