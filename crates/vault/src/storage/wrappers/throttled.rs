//! Holds a storage to so many bytes per second each way, so that a backup leaves the line to others.
//!
//! An operation waits until those before it are paid for, then runs at full speed: over time the rate is kept, and the
//! line is never taken for longer than one file. It must never wait for more than the bytes under way are worth.

use std::{
    num::NonZeroU64,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::storage::{Clock, FileKind, FileName, Listed, Storage, StorageError, SystemClock};

/// Bytes per second each way; nothing means no limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Limits {
    pub up_bytes_per_second: Option<NonZeroU64>,
    pub down_bytes_per_second: Option<NonZeroU64>,
}

/// A bandwidth that several storages share: all of them together are held to it.
pub struct Throttle {
    clock: Arc<dyn Clock>,
    up: Bucket,
    down: Bucket,
}

impl Throttle {
    pub fn new(limits: Limits) -> Self {
        Self::with_clock(limits, Arc::new(SystemClock::default()))
    }

    fn with_clock(limits: Limits, clock: Arc<dyn Clock>) -> Self {
        let (up, down) = (Bucket::new(limits.up_bytes_per_second), Bucket::new(limits.down_bytes_per_second));
        Self { clock, up, down }
    }

    fn wait(&self, bucket: &Bucket, bytes: u64) {
        let time = bucket.take(bytes, self.clock.now());
        if !time.is_zero() {
            self.clock.sleep(time);
        }
    }
}

/// Limits bandwidth.
pub struct Throttled<S> {
    storage: S,
    throttle: Arc<Throttle>,
}

/// One way: the moment at which all that was taken so far is paid for.
struct Bucket {
    bytes_per_second: Option<NonZeroU64>,
    paid_at: Mutex<Duration>,
}

impl Bucket {
    fn new(bytes_per_second: Option<NonZeroU64>) -> Self {
        Self { bytes_per_second, paid_at: Mutex::new(Duration::ZERO) }
    }

    /// Takes so many bytes, and says how long to wait before they may go.
    fn take(&self, bytes: u64, now: Duration) -> Duration {
        let Some(rate) = self.bytes_per_second else { return Duration::ZERO };
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let start = now.max(*paid_at);
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(rate.get());
        *paid_at = start.saturating_add(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX)));
        start - now
    }
}

impl<S: Storage> Throttled<S> {
    pub fn new(storage: S, limits: Limits) -> Self {
        Self::with_clock(storage, limits, Arc::new(SystemClock::default()))
    }

    pub fn with_clock(storage: S, limits: Limits, clock: Arc<dyn Clock>) -> Self {
        Self::sharing(storage, Arc::new(Throttle::with_clock(limits, clock)))
    }

    pub fn sharing(storage: S, throttle: Arc<Throttle>) -> Self {
        Self { storage, throttle }
    }
}

impl<S: Storage> Storage for Throttled<S> {
    fn describe(&self) -> String {
        self.storage.describe()
    }

    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        self.throttle.wait(&self.throttle.up, bytes.len() as u64);
        self.storage.put(file, bytes)
    }

    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError> {
        // How much it is shows only afterwards, and is paid for by whoever comes next.
        let throttle = &self.throttle;
        throttle.wait(&throttle.down, 0);
        let bytes = self.storage.get(file, limit_bytes)?;
        throttle.down.take(bytes.len() as u64, throttle.clock.now());
        Ok(bytes)
    }

    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.throttle.wait(&self.throttle.down, buf.len() as u64);
        self.storage.get_range(file, offset, buf)
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError> {
        self.storage.list(kind)
    }

    fn names(&self, kind: FileKind) -> Result<Vec<String>, StorageError> {
        self.storage.names(kind)
    }

    fn remove(&self, file: &FileName) -> Result<(), StorageError> {
        self.storage.remove(file)
    }

    fn sweep_temporary(&self, older_than: Duration) -> Result<u64, StorageError> {
        self.storage.sweep_temporary(older_than)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{MemoryStorage, TestClock};

    fn throttled(up: u64, down: u64) -> (Throttled<MemoryStorage>, Arc<TestClock>) {
        let clock = Arc::new(TestClock::default());
        let limits =
            Limits { up_bytes_per_second: NonZeroU64::new(up), down_bytes_per_second: NonZeroU64::new(down) };
        (Throttled::with_clock(MemoryStorage::new(), limits, clock.clone()), clock)
    }

    fn pack(n: u8) -> FileName {
        FileName::new(FileKind::Pack, format!("{n:02x}").repeat(32)).unwrap()
    }

    #[test]
    fn the_rate_is_kept_each_way_by_itself() {
        let (storage, clock) = throttled(1000, 500);
        for n in 0..5 {
            storage.put(&pack(n), &[0; 2000]).unwrap();
        }
        assert_eq!(clock.now(), Duration::from_secs(8), "the fifth starts when four are paid for");
        storage.get(&pack(0), 2000).unwrap();
        storage.get_range(&pack(1), 0, &mut [0; 500]).unwrap();
        assert_eq!(clock.now(), Duration::from_secs(12));
        storage.get(&pack(2), 2000).unwrap();
        assert_eq!(clock.now(), Duration::from_secs(13));
    }

    #[test]
    fn no_limit_means_no_wait_and_a_rest_saves_nothing_up() {
        let (storage, clock) = throttled(0, 1000);
        storage.put(&pack(0), &[0; 100_000]).unwrap();
        assert_eq!(clock.now(), Duration::ZERO);
        clock.sleep(Duration::from_secs(100));
        storage.get(&pack(0), 100_000).unwrap();
        storage.get_range(&pack(0), 0, &mut [0; 1]).unwrap();
        assert_eq!(clock.now(), Duration::from_secs(200));
    }

    #[test]
    fn threads_together_keep_the_rate() {
        let (storage, clock) = throttled(1000, 0);
        std::thread::scope(|scope| {
            for n in 0..8 {
                let storage = &storage;
                scope.spawn(move || storage.put(&pack(n), &[0; 1000]).unwrap());
            }
        });
        assert!(storage.throttle.up.take(0, Duration::ZERO) >= Duration::from_secs(8));
        assert!(clock.now() >= Duration::from_secs(7));
    }
}
