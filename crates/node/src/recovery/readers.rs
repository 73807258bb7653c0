//! The readers of volumes in recovery points that are kept for a while, since who asked once asks again.
//!
//! Each takes memory, so there are never more than [`READERS_MAX`], whoever asks: a place is taken before a reader is started, and
//! belongs to it until it has ended. Who wants a place when there is none gets that of the reader that nobody asked for the
//! longest. What must never happen: that two readers of the same volume are started at once.

use std::{
    collections::HashMap,
    ops::Deref,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{NodeError, error::Result, locked::lock};

/// Readers at once. Each takes up to 128 MiB.
pub const READERS_MAX: usize = 4;
/// A reader that nobody asked for so long ends.
pub const IDLE: Duration = Duration::from_secs(60);

/// What was asked for: digits of the point's id, the repository, the disk if it is on one, and what is opened in it. To find
/// the point again for each question would read the list of all points.
pub type Key = (String, Option<String>, Option<String>, String);

/// A reader's place.
pub type Seat = OwnedSemaphorePermit;

/// A reader with its place.
pub struct Seated<T> {
    // In this order: the place is free when the reader has ended.
    reader: T,
    _seat: Seat,
}

impl<T> Deref for Seated<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.reader
    }
}

struct Kept<T> {
    key: Key,
    used: Instant,
    reader: Arc<Seated<T>>,
}

pub struct Readers<T> {
    seats: Arc<Semaphore>,
    kept: Mutex<Vec<Kept<T>>>,
    /// Held by whoever starts a reader of a volume.
    turns: Mutex<HashMap<Key, Arc<tokio::sync::Mutex<()>>>>,
}

impl<T> Default for Readers<T> {
    fn default() -> Self {
        Self { seats: Arc::new(Semaphore::new(READERS_MAX)), kept: Mutex::default(), turns: Mutex::default() }
    }
}

impl<T: Send + Sync + 'static> Readers<T> {
    pub fn get(&self, key: &Key) -> Option<Arc<Seated<T>>> {
        let mut kept = lock(&self.kept);
        let found = kept.iter_mut().find(|kept| kept.key == *key)?;
        found.used = Instant::now();
        Some(Arc::clone(&found.reader))
    }

    /// Waits until nobody else starts a reader of this volume.
    pub async fn turn(&self, key: &Key, patience: Duration) -> Result<OwnedMutexGuard<()>> {
        let turn = {
            let mut turns = lock(&self.turns);
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(turns.entry(key.clone()).or_default())
        };
        timeout(patience, turn.lock_owned()).await.map_err(|_| NodeError::ReadersBusy)
    }

    /// A place for one more reader.
    pub async fn seat(&self, patience: Duration) -> Result<Seat> {
        if let Ok(seat) = Arc::clone(&self.seats).try_acquire_owned() {
            return Ok(seat);
        }
        if let Some(oldest) = self.take_oldest() {
            // An end waits for a process.
            tokio::task::spawn_blocking(move || drop(oldest));
        }
        match timeout(patience, Arc::clone(&self.seats).acquire_owned()).await {
            Ok(Ok(seat)) => Ok(seat),
            Ok(Err(_)) | Err(_) => Err(NodeError::ReadersBusy),
        }
    }

    /// One that answers nobody now, if there is one: only its place is free at once.
    fn take_oldest(&self) -> Option<Arc<Seated<T>>> {
        let mut kept = lock(&self.kept);
        let worth = |kept: &Kept<T>| (Arc::strong_count(&kept.reader) > 1, kept.used);
        let oldest = (0..kept.len()).min_by_key(|at| worth(&kept[*at]))?;
        Some(kept.swap_remove(oldest).reader)
    }

    pub fn keep(&self, key: Key, reader: T, seat: Seat) -> Arc<Seated<T>> {
        let reader = Arc::new(Seated { reader, _seat: seat });
        lock(&self.kept).push(Kept { key, used: Instant::now(), reader: Arc::clone(&reader) });
        reader
    }

    /// Takes some out. Waits for their processes, and holds up nobody meanwhile.
    fn end_kept(&self, ends: impl Fn(&Kept<T>) -> bool) {
        let ended: Vec<_> = lock(&self.kept).extract_if(.., |kept| ends(kept)).collect();
        drop(ended);
    }

    /// Whether any is left.
    pub fn end_idle(&self) -> bool {
        self.end_kept(|kept| kept.used.elapsed() >= IDLE);
        !lock(&self.kept).is_empty()
    }

    /// This one is asked no more.
    pub fn end(&self, reader: &Arc<Seated<T>>) {
        self.end_kept(|kept| Arc::ptr_eq(&kept.reader, reader));
    }

    /// Those of a kind are asked no more.
    pub fn end_where(&self, is: impl Fn(&T) -> bool) {
        self.end_kept(|kept| is(&kept.reader));
    }

    /// The node ends.
    pub fn close(&self) {
        self.end_kept(|_| true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(20);

    fn key(volume: usize) -> Key {
        ("aaaa".to_owned(), None, Some("scsi-0".to_owned()), volume.to_string())
    }

    async fn full() -> (Readers<usize>, Vec<Arc<Seated<usize>>>) {
        let readers = Readers::default();
        let mut used = Vec::new();
        for volume in 0..READERS_MAX {
            let seat = readers.seat(SOON).await.unwrap();
            used.push(readers.keep(key(volume), volume, seat));
        }
        (readers, used)
    }

    #[tokio::test]
    async fn there_are_never_more_readers_than_places() {
        let (readers, used) = full().await;
        let refused = readers.seat(SOON).await.unwrap_err();
        assert!(matches!(refused, NodeError::ReadersBusy), "all of them are asked something");
        assert!(readers.get(&key(0)).is_none(), "the oldest one ends when its answer is there");
        drop(used);
        let _first = readers.seat(LONG).await.unwrap();
        let _second = readers.seat(LONG).await.unwrap();
        assert_eq!(lock(&readers.kept).len() + 2, READERS_MAX);
    }

    #[tokio::test]
    async fn who_was_not_asked_for_the_longest_makes_room() {
        let (readers, used) = full().await;
        drop(used);
        assert!(readers.get(&key(0)).is_some());
        let seat = readers.seat(LONG).await.unwrap();
        assert!(readers.get(&key(1)).is_none(), "it was used before the others");
        assert!([0, 2, 3].iter().all(|volume| readers.get(&key(*volume)).is_some()));
        assert_eq!(readers.seats.available_permits(), 0);
        drop(seat);
        assert_eq!(readers.seats.available_permits(), 1, "what is not started takes no place");
    }

    #[tokio::test]
    async fn a_volume_is_opened_by_one_at_a_time() {
        let readers: Readers<usize> = Readers::default();
        let turn = readers.turn(&key(0), LONG).await.unwrap();
        assert!(readers.turn(&key(0), SOON).await.is_err());
        drop(readers.turn(&key(1), SOON).await.unwrap());
        drop(turn);
        drop(readers.turn(&key(0), SOON).await.unwrap());
        assert!(lock(&readers.turns).len() <= 1, "they are not remembered");
    }
}
