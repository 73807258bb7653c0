//! How a build tells its caller what it does, and learns that it should stop.
//!
//! A build runs for seconds to minutes in a blocking thread; it must never block on its observer.

pub trait Progress: Sync {
    /// A new step has begun: `done` of `total` steps lie behind, `text` names the one that runs now.
    fn step(&self, done: u32, total: u32, text: &str);

    /// Asked often, also while other programs run; true ends the build with [`crate::ImageError::Cancelled`].
    fn is_cancelled(&self) -> bool {
        false
    }
}

/// For callers that do not watch.
pub struct Silent;

impl Progress for Silent {
    fn step(&self, _done: u32, _total: u32, _text: &str) {}
}

/// Counts the steps of one build.
pub(crate) struct Steps<'a> {
    progress: &'a dyn Progress,
    done: std::cell::Cell<u32>,
    total: u32,
}

impl<'a> Steps<'a> {
    pub fn new(progress: &'a dyn Progress, total: u32) -> Self {
        Self { progress, done: std::cell::Cell::new(0), total }
    }

    pub fn next(&self, text: &str) -> Result<(), crate::ImageError> {
        self.check()?;
        let done = self.done.get();
        tracing::debug!(done, total = self.total, "{text}");
        self.progress.step(done, self.total.max(done + 1), text);
        self.done.set(done + 1);
        Ok(())
    }

    pub fn check(&self) -> Result<(), crate::ImageError> {
        if self.progress.is_cancelled() { Err(crate::ImageError::Cancelled) } else { Ok(()) }
    }

    pub fn progress(&self) -> &'a dyn Progress {
        self.progress
    }
}
