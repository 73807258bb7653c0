//! How long a node inside may take with all of its answers together. Each answer has a deadline, but a node that gives each one at
//! the last moment, or next to nothing with it, would else keep a run, its place among those that run at once, and a lock of
//! the repository for ever.

use std::time::{Duration, Instant};

use nestling_vault::JobProgress;

/// For a guest to be made ready and for the instant to be made, other backups of the machine included. For all attempts together:
/// that there is to be another one is the word of the node inside.
const READY_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// Of the disks, at least so much is to come in each half hour in which its answers are waited for. The slowest pace that a job may
/// have, shared by two dozen machines, is faster than this, and so is any channel.
const MOVED_BYTES_MIN: u64 = 1 << 20;
const STILL_TIMEOUT: Duration = Duration::from_secs(1800);
/// For all attempts, from the first question to the point. A node that does just enough in each half hour ends here; 64 TiB, at
/// the speed of a good network, do not need as long.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// What a machine's backup has left of it.
pub struct Patience {
    pub ready_left: Duration,
    begun: Instant,
}

impl Patience {
    pub fn new(now: Instant) -> Self {
        Self { ready_left: READY_TIMEOUT, begun: now }
    }

    /// What was waited for an instant, successful or not.
    pub fn waited(&mut self, time: Duration) {
        self.ready_left = self.ready_left.saturating_sub(time);
    }
}

/// How a save of such a machine moves on.
pub struct Moves {
    begun: Instant,
    /// Where it was when it had last moved on by enough.
    mark: Option<JobProgress>,
    /// When that was, later by all the time since in which the repository was waited for.
    at: Instant,
    looked: Instant,
}

impl Moves {
    pub fn new(patience: &Patience, now: Instant) -> Self {
        Self { begun: patience.begun, mark: None, at: now, looked: now }
    }

    /// Looks at a save, and whether it waits for the node inside now. Why it is not waited for any more is told in words.
    pub fn look(&mut self, progress: JobProgress, waits: bool, now: Instant) -> Result<(), &'static str> {
        let since = now.duration_since(self.looked);
        self.looked = now;
        if !waits {
            self.at += since;
        }
        // Before the save has a stage, lists of changes are asked for. What else is not counted in bytes is the repository's
        // matter, and so is what is left to do when all was read.
        let is_reading = progress.in_bytes && progress.done < progress.total;
        if !is_reading && !progress.stage.is_empty() {
            (self.mark, self.at) = (None, now);
            return Ok(());
        }
        if now.duration_since(self.begun) > WHOLE_TIMEOUT {
            return Err("the backup is not done after a week");
        }
        let has_moved = self.mark.is_none_or(|mark| {
            mark.stage != progress.stage || progress.done.saturating_sub(mark.done) >= MOVED_BYTES_MIN
        });
        if has_moved {
            (self.mark, self.at) = (Some(progress), now);
        }
        if now.duration_since(self.at) > STILL_TIMEOUT {
            return Err("next to nothing of its disks has come in half an hour");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn progress(stage: &'static str, done: u64) -> JobProgress {
        let in_bytes = stage == "saving";
        JobProgress { stage, total: 1 << 40, done, in_bytes, stored_bytes: 0 }
    }

    /// After how many minutes a save ends that is so in each of them; at most a month is looked at.
    fn ends_after(at: impl Fn(u64) -> JobProgress) -> Option<u64> {
        ends_if_waited_for(at, |_| true)
    }

    fn ends_if_waited_for(at: impl Fn(u64) -> JobProgress, waits: impl Fn(u64) -> bool) -> Option<u64> {
        let begun = Instant::now();
        let mut moves = Moves::new(&Patience::new(begun), begun);
        let minutes = 0..30 * 24 * 60_u64;
        minutes.into_iter().find(|n| moves.look(at(*n), waits(*n), begun + MINUTE * (*n as u32)).is_err())
    }

    #[test]
    fn a_save_that_stands_or_creeps_ends_and_so_does_one_that_does_just_enough() {
        assert_eq!(ends_after(|_| progress("", 0)), Some(31), "lists of changes that never end");
        assert_eq!(ends_after(|_| progress("saving", 5)), Some(31));
        assert_eq!(ends_after(|n| progress("saving", n * 1024)), Some(31), "a kilobyte a minute");
        assert_eq!(ends_after(|n| progress("saving", n << 18)), Some(7 * 24 * 60 + 1));
        assert_eq!(ends_after(|n| progress("saving", n.min(100) << 30)), Some(100 + 31));
    }

    #[test]
    fn what_the_repository_takes_is_not_the_node_s() {
        assert_eq!(ends_after(|_| progress("opening the repository", 0)), None);
        assert_eq!(ends_after(|_| JobProgress { total: 7, ..progress("saving", 7) }), None, "all was read");
        let stands = |_| progress("saving", 5);
        assert_eq!(ends_if_waited_for(stands, |n| n % 2 == 0), Some(62), "every other minute is the node's");
        assert_eq!(ends_if_waited_for(stands, |_| false), Some(7 * 24 * 60 + 1), "uploads are slow");
        let late = |n| progress(if n < 100 { "looking at the point before" } else { "saving" }, 0);
        assert_eq!(ends_after(late), Some(100 + 31));
    }

    #[test]
    fn attempts_wait_for_their_instants_out_of_one_budget() {
        let mut patience = Patience::new(Instant::now());
        patience.waited(READY_TIMEOUT / 2);
        assert_eq!(patience.ready_left, READY_TIMEOUT / 2);
        patience.waited(READY_TIMEOUT);
        assert_eq!(patience.ready_left, Duration::ZERO);
    }
}
