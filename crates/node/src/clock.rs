//! What time it is, and waking at one.
//!
//! Jobs go by the host's wall clock, which may be set at any moment and in both directions: whoever waits for a time is
//! woken when it comes, and when the clock is set. Tests give a node a clock of their own.

use std::{
    io,
    os::fd::OwnedFd,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{Interest, unix::AsyncFd};

/// Where the kernel gives no timer, the clock is looked at so often.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

/// Milliseconds since 1970-01-01T00:00:00Z.
pub fn now_ms() -> u64 {
    whole_ms(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub fn whole_ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The clock that jobs and runs go by.
#[derive(Clone, Default)]
pub enum Clock {
    #[default]
    Host,
    /// One that a test sets.
    #[cfg(test)]
    Set(std::sync::Arc<tokio::sync::watch::Sender<u64>>),
}

/// Made before the clock is looked at, so that no change in between is missed.
pub enum Alarm {
    Host,
    #[cfg(test)]
    Set(tokio::sync::watch::Receiver<u64>),
}

impl Clock {
    pub fn now_ms(&self) -> u64 {
        match self {
            Self::Host => now_ms(),
            #[cfg(test)]
            Self::Set(now) => *now.borrow(),
        }
    }

    pub fn alarm(&self) -> Alarm {
        match self {
            Self::Host => Alarm::Host,
            #[cfg(test)]
            Self::Set(now) => Alarm::Set(now.subscribe()),
        }
    }
}

impl Alarm {
    /// Waits until a time comes, or the clock is set.
    pub async fn at(self, ms: u64) {
        match self {
            Self::Host => host_shows(ms).await,
            #[cfg(test)]
            // An error means that the test is over.
            Self::Set(mut now) => drop(now.changed().await),
        }
    }
}

async fn host_shows(ms: u64) {
    let woken = match timer(ms) {
        Ok(timer) => timer.readable().await.map(drop),
        Err(error) => Err(error),
    };
    if let Err(error) = woken {
        tracing::warn!(%error, "there is no timer that heeds the clock");
        let left = Duration::from_millis(ms.saturating_sub(now_ms()));
        tokio::time::sleep(left.min(LOOK_INTERVAL)).await;
    }
}

/// Becomes readable at a time of the wall clock, and when that clock is set.
fn timer(ms: u64) -> io::Result<AsyncFd<OwnedFd>> {
    let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let beyond = || io::Error::other("the time lies beyond the calendar");
    let (seconds, rest) = (ms / 1000, ms % 1000 * 1_000_000);
    let at = Timespec {
        tv_sec: seconds.try_into().map_err(|_| beyond())?,
        tv_nsec: rest.try_into().map_err(|_| beyond())?,
    };
    let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
    timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &once)?;
    // SAFETY: the timer is owned by what it is registered with, and is open as long.
    let timer = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
    Ok(timer?)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[tokio::test]
    async fn the_hosts_clock_wakes_at_a_time_and_at_once_for_one_that_is_past() {
        let began = Instant::now();
        let at = now_ms() + 150;
        Clock::Host.alarm().at(at).await;
        assert!(now_ms() >= at, "too early");
        Clock::Host.alarm().at(now_ms() - 10_000).await;
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}
