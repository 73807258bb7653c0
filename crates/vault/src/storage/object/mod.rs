//! A repository in an object store: S3 and what speaks its language, Azure, Google Cloud.
//!
//! Puts are conditional (nothing is replaced, by any number of writers), whole in one request, and visible when they
//! are whole; the server must know conditional puts. Requests run on a small runtime of their own, so that callers
//! block as with any other storage; it must not be called from inside another runtime's tasks. Nothing is retried
//! here: that is what [`super::Retrying`] is for.

mod failure;
mod http;
mod provider;

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use object_store::{
    GetOptions, GetRange, GetResult, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, path::Path,
};
use tokio::runtime::Runtime;

use self::failure::Secrets;
pub(super) use self::provider::knows;
use super::{
    FileKind, FileName, Listed, Location, Operation, Storage, StorageError, StorageErrorKind, StorageOptions,
};

/// What a line must carry at least; slower than this it counts as dead.
const BYTES_PER_SECOND_MIN: u64 = 16 << 10;
/// Requests wait for the network, and rarely for a processor.
const WORKER_THREADS: usize = 2;

/// A repository in an object store.
pub struct ObjectStorage {
    store: Arc<dyn ObjectStore>,
    prefix: String,
    place: String,
    timeout: Duration,
    secrets: Secrets,
    /// There until it is dropped.
    runtime: Option<Runtime>,
}

impl ObjectStorage {
    /// Connects to nothing yet: what is wrong with the address or the credentials shows with the first operation.
    pub fn open(location: &Location, options: &StorageOptions) -> Result<Self, StorageError> {
        let place = location.to_string();
        let secrets = Secrets(options.secrets());
        let failed = |error: std::io::Error| StorageError::from_io(error, Operation::Open, &place);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKER_THREADS)
            .thread_name("object-store")
            .enable_all()
            .build()
            .map_err(failed)?;
        let connector = http::Connector::new(location.is_plain()).map_err(failed)?;
        let store = provider::store(location, options, connector)
            .map_err(|e| failure::failure(&e, Operation::Open, &place, &secrets))?
            .ok_or_else(|| {
                StorageError::new(StorageErrorKind::Denied, Operation::Open, &place)
                    .because(provider::missing_credentials(location))
            })?;
        let prefix = location.prefix().to_owned();
        Ok(Self { store, prefix, place, timeout: options.timeout, secrets, runtime: Some(runtime) })
    }

    fn path(&self, file: &FileName) -> Path {
        self.below(&file.path())
    }

    fn below(&self, path: &str) -> Path {
        Path::from_iter(self.prefix.split('/').chain(path.split('/')).filter(|part| !part.is_empty()))
    }

    /// Waits for a request, not longer than a line that lives would take for so many bytes.
    fn wait<T>(
        &self,
        bytes: u64,
        operation: Operation,
        request: impl Future<Output = object_store::Result<T>>,
    ) -> Result<T, StorageError> {
        let longest = self.timeout + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
        let Some(runtime) = &self.runtime else {
            return Err(StorageError::new(StorageErrorKind::Io, operation, &self.place));
        };
        let outcome = runtime.block_on(async { tokio::time::timeout(longest, request).await });
        match outcome {
            Ok(done) => done.map_err(|e| failure::failure(&e, operation, &self.place, &self.secrets)),
            Err(_) => Err(StorageError::new(StorageErrorKind::Timeout, operation, &self.place)
                .because(format!("no answer within {} seconds", longest.as_secs()))),
        }
    }

    fn error(&self, kind: StorageErrorKind, operation: Operation, file: &FileName) -> StorageError {
        StorageError::new(kind, operation, &self.place).on(file)
    }

    /// The bytes of an answer, which must be as many as it announced.
    fn body(&self, file: &FileName, found: GetResult) -> Result<Bytes, StorageError> {
        let expected = found.range.end - found.range.start;
        let bytes = self.wait(expected, Operation::Get, found.bytes()).map_err(|e| e.on(file))?;
        if bytes.len() as u64 == expected {
            return Ok(bytes);
        }
        Err(self
            .error(StorageErrorKind::Unreachable, Operation::Get, file)
            .because(format!("{} of {expected} bytes arrived", bytes.len())))
    }

    /// What a put comes to where a file lies already.
    fn settle(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        let kind = match file.kind {
            FileKind::Config => Some(StorageErrorKind::AlreadyExists),
            FileKind::Extra => match self.get(file, bytes.len() as u64) {
                Ok(there) => (there != bytes).then_some(StorageErrorKind::AlreadyExists),
                Err(error) if error.kind == StorageErrorKind::TooLarge => {
                    Some(StorageErrorKind::AlreadyExists)
                }
                Err(error) => return Err(error),
            },
            _ => {
                let path = self.path(file);
                let there =
                    self.wait(0, Operation::Put, self.store.head(&path)).map_err(|e| e.on(file))?.size;
                (there != bytes.len() as u64).then_some(StorageErrorKind::Mismatch)
            }
        };
        kind.map_or(Ok(()), |kind| Err(self.error(kind, Operation::Put, file)))
    }

    fn list_config(&self) -> Result<Vec<Listed>, StorageError> {
        let path = self.path(&FileName::config());
        match self.wait(0, Operation::List, self.store.head(&path)) {
            Ok(meta) => Ok(vec![Listed { name: String::new(), size: meta.size }]),
            Err(error) if error.kind == StorageErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

impl Storage for ObjectStorage {
    fn describe(&self) -> String {
        self.place.clone()
    }

    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        file.check(&self.place)?;
        let (path, length) = (self.path(file), bytes.len() as u64);
        let payload = PutPayload::from(bytes.to_vec());
        let options = PutOptions::from(PutMode::Create);
        match self.wait(length, Operation::Put, self.store.put_opts(&path, payload, options)) {
            Ok(_) => Ok(()),
            Err(error) if error.kind == StorageErrorKind::AlreadyExists => self.settle(file, bytes),
            Err(error) => Err(error.on(file)),
        }
    }

    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError> {
        file.check(&self.place)?;
        let path = self.path(file);
        let found = self.wait(0, Operation::Get, self.store.get(&path)).map_err(|e| e.on(file))?;
        if found.meta.size > limit_bytes {
            return Err(self.error(StorageErrorKind::TooLarge, Operation::Get, file));
        }
        Ok(Vec::from(self.body(file, found)?))
    }

    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        file.check(&self.place)?;
        if buf.is_empty() {
            return Ok(());
        }
        let ended = || self.error(StorageErrorKind::UnexpectedEnd, Operation::Get, file);
        let end = offset.checked_add(buf.len() as u64).ok_or_else(ended)?;
        let options = GetOptions { range: Some(GetRange::Bounded(offset..end)), ..GetOptions::default() };
        let path = self.path(file);
        let found =
            self.wait(0, Operation::Get, self.store.get_opts(&path, options)).map_err(|e| e.on(file))?;
        if found.range != (offset..end) {
            return Err(ended());
        }
        buf.copy_from_slice(&self.body(file, found)?);
        Ok(())
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError> {
        if kind == FileKind::Config {
            return self.list_config();
        }
        let directory = self.below(kind.directory());
        let mut found = self
            .store
            .list(Some(&directory))
            .chunks(1000)
            .map(|chunk| chunk.into_iter().collect::<object_store::Result<Vec<_>>>());
        let mut listed = Vec::new();
        // Each page has its time: a listing may be long, and must not stand still.
        while let Some(page) = self.wait(0, Operation::List, async { found.try_next().await })? {
            for meta in page {
                let Some(name) = meta.location.filename().filter(|name| kind.accepts(name)) else { continue };
                let file = FileName { kind, name: name.to_owned() };
                if self.path(&file) == meta.location {
                    listed.push(Listed { name: file.name, size: meta.size });
                }
            }
        }
        Ok(listed)
    }

    fn remove(&self, file: &FileName) -> Result<(), StorageError> {
        file.check(&self.place)?;
        let path = self.path(file);
        match self.wait(0, Operation::Remove, self.store.delete(&path)) {
            Err(error) if error.kind != StorageErrorKind::NotFound => Err(error.on(file)),
            _ => Ok(()),
        }
    }

    /// A put that was cut short leaves nothing that is seen.
    fn sweep_temporary(&self, _older_than: Duration) -> Result<u64, StorageError> {
        Ok(0)
    }
}

impl Drop for ObjectStorage {
    fn drop(&mut self) {
        // Waiting for connections to close has no use, and must not happen inside a runtime.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
