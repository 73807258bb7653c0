//! Holds a run to so many bytes a second, all its machines together.
//!
//! What is read waits until all that was read before is paid for, so that over time the rate is kept. A run that shall end
//! waits for nothing.

use std::{
    num::NonZeroU64,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use crate::locked::lock;

/// So often a wait looks whether the run shall end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub struct Pace {
    bytes_per_second: NonZeroU64,
    paid_at: Mutex<Instant>,
    over: [CancellationToken; 2],
}

impl Pace {
    /// `over`: whichever comes first.
    pub fn new(bytes_per_second: NonZeroU64, over: [CancellationToken; 2]) -> Self {
        Self { bytes_per_second, paid_at: Mutex::new(Instant::now()), over }
    }

    /// When so many bytes may be read.
    fn take(&self, bytes: u64, now: Instant) -> Instant {
        let mut paid_at = lock(&self.paid_at);
        let start = now.max(*paid_at);
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.get());
        let cost = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        *paid_at = start.checked_add(cost).unwrap_or(start);
        start
    }

    /// Waits until so many bytes may be read. Blocks.
    pub fn wait(&self, bytes: u64) {
        let start = self.take(bytes, Instant::now());
        while !self.over.iter().any(CancellationToken::is_cancelled) {
            let left = start.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(LOOK_INTERVAL));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(over: CancellationToken) -> Pace {
        Pace::new(NonZeroU64::new(1000).unwrap(), [over, CancellationToken::new()])
    }

    #[test]
    fn what_was_read_is_paid_for_by_what_comes_next() {
        let pace = pace(CancellationToken::new());
        let now = Instant::now() + Duration::from_secs(1);
        assert_eq!(pace.take(2000, now), now);
        assert_eq!(pace.take(500, now), now + Duration::from_secs(2));
        let later = now + Duration::from_secs(60);
        assert_eq!(pace.take(1, later), later, "a pause saves nothing up");
    }

    #[test]
    fn a_run_that_shall_end_waits_for_nothing() {
        let over = CancellationToken::new();
        let pace = pace(over.clone());
        pace.wait(1_000_000_000);
        over.cancel();
        let began = Instant::now();
        pace.wait(1);
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}
