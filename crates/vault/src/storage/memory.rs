//! A repository in memory, for tests. It must behave as the other storages do, so that what passes here passes there.

use std::{collections::BTreeMap, sync::Mutex, sync::MutexGuard, sync::PoisonError, time::Duration};

use super::{FileKind, FileName, Listed, Operation, Storage, StorageError, StorageErrorKind};

/// Files by name, in memory.
#[derive(Debug, Default)]
pub struct MemoryStorage {
    files: Mutex<BTreeMap<FileName, Vec<u8>>>,
}

impl MemoryStorage {
    pub fn new() -> Self {
        Self::default()
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<FileName, Vec<u8>>> {
        // Every change is one call of the map: a panic of another thread leaves it whole.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, kind: StorageErrorKind, operation: Operation, file: &FileName) -> StorageError {
        StorageError::new(kind, operation, self.describe()).on(file)
    }
}

/// What a put on a name that is taken comes to, by the bytes that lie there.
pub(super) fn put_onto(file: &FileName, there: &[u8], bytes: &[u8]) -> Result<(), StorageErrorKind> {
    match file.kind {
        FileKind::Config => Err(StorageErrorKind::AlreadyExists),
        FileKind::Extra if there != bytes => Err(StorageErrorKind::AlreadyExists),
        FileKind::Extra => Ok(()),
        _ if there.len() != bytes.len() => Err(StorageErrorKind::Mismatch),
        _ => Ok(()),
    }
}

impl Storage for MemoryStorage {
    fn describe(&self) -> String {
        "memory".to_owned()
    }

    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        file.check(&self.describe())?;
        let mut files = self.files();
        if let Some(there) = files.get(file) {
            return put_onto(file, there, bytes).map_err(|kind| self.error(kind, Operation::Put, file));
        }
        files.insert(file.clone(), bytes.to_vec());
        Ok(())
    }

    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError> {
        file.check(&self.describe())?;
        let files = self.files();
        let bytes =
            files.get(file).ok_or_else(|| self.error(StorageErrorKind::NotFound, Operation::Get, file))?;
        if bytes.len() as u64 > limit_bytes {
            return Err(self.error(StorageErrorKind::TooLarge, Operation::Get, file));
        }
        Ok(bytes.clone())
    }

    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        file.check(&self.describe())?;
        let files = self.files();
        let bytes =
            files.get(file).ok_or_else(|| self.error(StorageErrorKind::NotFound, Operation::Get, file))?;
        let part = usize::try_from(offset)
            .ok()
            .and_then(|start| bytes.get(start..start.checked_add(buf.len())?))
            .ok_or_else(|| self.error(StorageErrorKind::UnexpectedEnd, Operation::Get, file))?;
        buf.copy_from_slice(part);
        Ok(())
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError> {
        let files = self.files();
        let found = files.iter().filter(|(file, _)| file.kind == kind);
        Ok(found.map(|(file, bytes)| Listed { name: file.name.clone(), size: bytes.len() as u64 }).collect())
    }

    fn remove(&self, file: &FileName) -> Result<(), StorageError> {
        file.check(&self.describe())?;
        self.files().remove(file);
        Ok(())
    }

    fn sweep_temporary(&self, _older_than: Duration) -> Result<u64, StorageError> {
        Ok(0)
    }
}
