//! Asks again where an answer may come a little later: a lost connection, a busy server.
//!
//! Waits grow and are spread at random, so that many clients do not return at once; a deadline ends it. What cannot
//! get better by itself is never asked again, and a file that went through unnoticed is recognized by its bytes.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::storage::{
    Clock, FileKind, FileName, Listed, Storage, StorageError, StorageErrorKind, SystemClock, random::Random,
};

/// When to ask again.
#[derive(Debug, Clone, Copy)]
pub struct RetryPolicy {
    /// The longest first wait; each further one may be twice as long.
    pub first_wait: Duration,
    pub wait_max: Duration,
    /// No attempt starts later than this after the first one did.
    pub deadline: Duration,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            first_wait: Duration::from_millis(250),
            wait_max: Duration::from_secs(15),
            deadline: Duration::from_secs(300),
        }
    }
}

/// Repeats what failed for a reason that passes.
pub struct Retrying<S> {
    storage: S,
    policy: RetryPolicy,
    clock: Arc<dyn Clock>,
    random: Mutex<Random>,
}

impl<S: Storage> Retrying<S> {
    pub fn new(storage: S, policy: RetryPolicy) -> Self {
        Self::with_clock(storage, policy, Arc::new(SystemClock::default()))
    }

    pub fn with_clock(storage: S, policy: RetryPolicy, clock: Arc<dyn Clock>) -> Self {
        let random = Mutex::new(Random::new(RandomState::new().hash_one(0)));
        Self { storage, policy, clock, random }
    }

    /// Between half and all of what the attempt's number allows.
    fn wait(&self, attempt: u32) -> Duration {
        let doubled =
            self.policy.first_wait.saturating_mul(1u32.checked_shl(attempt - 1).unwrap_or(u32::MAX));
        let longest = doubled.min(self.policy.wait_max);
        let half = u64::try_from(longest.as_nanos() / 2).unwrap_or(u64::MAX);
        let spread = self.random.lock().unwrap_or_else(PoisonError::into_inner).below(half.saturating_add(1));
        Duration::from_nanos(half.saturating_add(spread))
    }

    /// Runs an operation, which is told the number of the attempt, until it succeeds or there is no hope.
    fn retry<T>(&self, mut operation: impl FnMut(u32) -> Result<T, StorageError>) -> Result<T, StorageError> {
        let started = self.clock.now();
        let mut attempt = 1;
        loop {
            let error = match operation(attempt) {
                Err(error) if error.kind.is_transient() => error,
                done => return done,
            };
            let wait = self.wait(attempt);
            let passed = self.clock.now().saturating_sub(started);
            if passed.saturating_add(wait) > self.policy.deadline {
                let reason = error.detail.clone().unwrap_or_else(|| error.kind.reason().to_owned());
                let times = if attempt == 1 { "once" } else { &format!("{attempt} times") };
                return Err(error.because(format!("{reason}, tried {times} in {} seconds", passed.as_secs())));
            }
            self.clock.sleep(wait);
            attempt += 1;
        }
    }

    /// Whether the file that a later attempt found there was stored by an earlier one whose answer was lost.
    fn is_ours(&self, file: &FileName, bytes: &[u8]) -> Result<bool, StorageError> {
        match self.storage.get(file, bytes.len() as u64) {
            Ok(there) => Ok(there == bytes),
            Err(error) if error.kind == StorageErrorKind::TooLarge => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl<S: Storage> Storage for Retrying<S> {
    fn describe(&self) -> String {
        self.storage.describe()
    }

    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        self.retry(|attempt| match self.storage.put(file, bytes) {
            Err(error) if error.kind == StorageErrorKind::AlreadyExists && attempt > 1 => {
                if self.is_ours(file, bytes)? { Ok(()) } else { Err(error) }
            }
            other => other,
        })
    }

    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError> {
        self.retry(|_| self.storage.get(file, limit_bytes))
    }

    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.retry(|_| self.storage.get_range(file, offset, buf))
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError> {
        self.retry(|_| self.storage.list(kind))
    }

    fn names(&self, kind: FileKind) -> Result<Vec<String>, StorageError> {
        self.retry(|_| self.storage.names(kind))
    }

    fn remove(&self, file: &FileName) -> Result<(), StorageError> {
        self.retry(|_| self.storage.remove(file))
    }

    fn sweep_temporary(&self, older_than: Duration) -> Result<u64, StorageError> {
        self.retry(|_| self.storage.sweep_temporary(older_than))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Counting, Faults, SimulatedStorage, TestClock};

    fn policy(deadline: u64) -> RetryPolicy {
        RetryPolicy {
            first_wait: Duration::from_millis(100),
            wait_max: Duration::from_secs(2),
            deadline: Duration::from_secs(deadline),
        }
    }

    fn file(kind: FileKind) -> FileName {
        let name = if kind == FileKind::Config { String::new() } else { "ab".repeat(32) };
        FileName::new(kind, name).unwrap()
    }

    #[test]
    fn what_passes_is_tried_again_until_it_works() {
        const ANSWERS_LOST: Faults =
            Faults { refused: 300, answer_lost: 300, repeated: 0, late: 0, ..Faults::NETWORK };
        for seed in 0..200 {
            let clock = Arc::new(TestClock::default());
            let storage =
                Retrying::with_clock(SimulatedStorage::new(seed, ANSWERS_LOST), policy(600), clock.clone());
            for kind in FileKind::ALL {
                let file = file(kind);
                storage.put(&file, b"bytes").unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                assert_eq!(storage.get(&file, 5).unwrap(), b"bytes", "seed {seed}");
                assert_eq!(storage.list(kind).unwrap().len(), 1, "seed {seed}");
                storage.remove(&file).unwrap();
                let gone = storage.get(&file, 5).unwrap_err();
                assert_eq!(gone.kind, StorageErrorKind::NotFound, "seed {seed}");
            }
        }
    }

    #[test]
    fn another_config_is_never_taken_for_ours() {
        for seed in 0..200 {
            let faults = Faults { refused: 300, answer_lost: 300, ..Faults::NETWORK };
            let store = SimulatedStorage::new(seed, Faults::NONE);
            store.put(&FileName::config(), b"theirs").unwrap();
            let client = store.another_client(seed, faults);
            let storage = Retrying::with_clock(client, policy(600), Arc::new(TestClock::default()));
            let error = storage.put(&FileName::config(), b"ours").unwrap_err();
            assert_eq!(error.kind, StorageErrorKind::AlreadyExists, "seed {seed}");
        }
    }

    #[test]
    fn waits_grow_up_to_a_limit_and_end_at_the_deadline() {
        let clock = Arc::new(TestClock::default());
        let faults = Faults { refused: 1000, errors: &[StorageErrorKind::Unreachable], ..Faults::NONE };
        let storage =
            Retrying::with_clock(Counting::new(SimulatedStorage::new(1, faults)), policy(30), clock.clone());
        let error = storage.get(&file(FileKind::Pack), 1).unwrap_err();
        assert_eq!(error.kind, StorageErrorKind::Unreachable);
        let attempts = storage.storage.counts().gets;
        // 0.1, 0.2, 0.4, 0.8, 1.6 and then 2 seconds each, or down to half of it.
        assert!((17..=35).contains(&attempts), "{attempts}");
        assert!(clock.now() <= Duration::from_secs(30) && clock.now() > Duration::from_secs(27));
        let text = error.to_string();
        assert!(text.contains(&format!("tried {attempts} times in ")), "{text}");
    }

    #[test]
    fn what_does_not_pass_is_not_tried_again() {
        for kind in [StorageErrorKind::NoSpace, StorageErrorKind::Denied, StorageErrorKind::ReadOnly] {
            let errors: &'static [StorageErrorKind] = Box::leak(Box::new([kind]));
            let clock = Arc::new(TestClock::default());
            let store = SimulatedStorage::new(1, Faults { refused: 1000, errors, ..Faults::NONE });
            let storage = Retrying::with_clock(store, policy(30), clock.clone());
            assert_eq!(storage.put(&file(FileKind::Pack), b"x").unwrap_err().kind, kind);
            assert_eq!((storage.storage.operations(), clock.now()), (1, Duration::ZERO));
        }
    }
}
