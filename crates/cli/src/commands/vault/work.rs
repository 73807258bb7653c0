//! A long job at the terminal: how far it is, how long it takes, and Ctrl-C.

use std::time::{Duration, Instant};

use nestling_api::v1::ErrorCode;
use nestling_vault::{Job, JobProgress, VaultError};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time::interval,
};

use crate::{
    failure::{Failure, Result, status},
    printer::Printer,
    text,
};

const BAR_INTERVAL: Duration = Duration::from_millis(200);
/// Without a terminal, lines pile up.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// Does work on a thread of its own and tells how far it is. The first Ctrl-C or SIGTERM asks it to end, the second one
/// ends the program. `kept` says what a run that was cancelled leaves behind.
pub fn watch<T: Send>(
    printer: Printer,
    kept: &str,
    work: impl FnOnce(&Job) -> std::result::Result<T, VaultError> + Send,
) -> Result<T> {
    let failed = |e: std::io::Error| Failure::new(ErrorCode::Failed, format!("can't start: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    outlive_hangups(&runtime).map_err(failed)?;
    // Before the work begins: a signal that comes while nobody listens would end the program as it stands.
    let signals = ending(&runtime).map_err(failed)?;
    let (job, (sender, receiver)) = (Job::default(), oneshot::channel());
    let outcome = std::thread::scope(|scope| {
        // Nobody listens any more only if the watcher failed, whose error is told then.
        scope.spawn(|| drop(sender.send(work(&job))));
        let watched = runtime.block_on(look(printer, &job, signals, receiver));
        if watched.is_err() {
            job.cancel();
        }
        watched
    });
    match outcome.map_err(failed)? {
        Ok(done) => Ok(done),
        Err(VaultError::Cancelled) => Err(Failure::new(ErrorCode::Failed, format!("cancelled: {kept}"))),
        Err(error) => Err(error.into()),
    }
}

/// From now on SIGHUP does nothing: stock restic sends it to the holder of a lock to see whether it is alive.
fn outlive_hangups(runtime: &tokio::runtime::Runtime) -> std::io::Result<()> {
    let _entered = runtime.enter();
    // Its handler stays for as long as the program runs, and nobody listens.
    signal(SignalKind::hangup()).map(drop)
}

/// Ctrl-C and SIGTERM, of which none is lost from now on.
fn ending(runtime: &tokio::runtime::Runtime) -> std::io::Result<[Signal; 2]> {
    let _entered = runtime.enter();
    Ok([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?])
}

async fn look<T>(
    printer: Printer,
    job: &Job,
    [mut interrupt, mut terminate]: [Signal; 2],
    mut done: oneshot::Receiver<T>,
) -> std::io::Result<T> {
    let every = if printer.talks_to_terminal() { BAR_INTERVAL } else { LINE_INTERVAL };
    let mut tick = interval(every);
    // The first one comes at once, when there is nothing to tell yet.
    tick.tick().await;
    let (mut pace, mut shown, mut cancelled) = (Pace::new(Instant::now()), printer.progress(), false);
    loop {
        tokio::select! {
            done = &mut done => return done.map_err(std::io::Error::other),
            _ = tick.tick() => {
                let (share, words) = pace.tell(&job.progress(), Instant::now());
                shown.show(share, &words);
                continue;
            }
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        // A signal.
        drop(shown);
        if cancelled {
            std::process::exit(status::FAILED.into());
        }
        cancelled = true;
        job.cancel();
        printer.talk("ending what is under way; once more ends at once");
        shown = printer.progress();
    }
}

/// Ctrl-C and SIGTERM for what goes on until then. None is lost from `listen` on, so that comes before anybody is told
/// that it has begun.
pub struct Signals {
    runtime: tokio::runtime::Runtime,
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub fn listen() -> Result<Self> {
        let failed =
            |e: std::io::Error| Failure::new(ErrorCode::Failed, format!("can't wait for signals: {e}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let [interrupt, terminate] = ending(&runtime).map_err(failed)?;
        Ok(Self { runtime, interrupt, terminate })
    }

    /// Returns at a signal.
    pub fn wait(self) {
        self.wait_or(std::future::pending());
    }

    /// Returns at a signal, or when something else has ended before: whether that was so.
    pub fn wait_or(mut self, ended: impl Future<Output = ()>) -> bool {
        self.runtime.block_on(async {
            tokio::select! {
                _ = self.interrupt.recv() => false,
                _ = self.terminate.recv() => false,
                () = ended => true,
            }
        })
    }
}

/// How fast a job is, stage by stage.
struct Pace {
    stage: &'static str,
    since: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { stage: "", since: now }
    }

    /// The share that is done, where that is known, and the words for it.
    fn tell(&mut self, at: &JobProgress, now: Instant) -> (Option<f64>, String) {
        if self.stage != at.stage {
            (self.stage, self.since) = (at.stage, now);
        }
        if at.total == 0 {
            return (None, at.stage.to_owned());
        }
        #[expect(clippy::cast_precision_loss, reason = "shown with few digits")]
        let (done, total) = (at.done.min(at.total) as f64, at.total as f64);
        let seconds = now.duration_since(self.since).as_secs_f64();
        let mut words = match at.in_bytes {
            true => format!("{} {} of {}", at.stage, text::size(at.done), text::size(at.total)),
            false => format!("{} {} of {}", at.stage, at.done, at.total),
        };
        // The first second tells nothing of the others.
        if seconds >= 1.0 && done > 0.0 {
            let left = seconds / done * (total - done);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "casts saturate")]
            let (rate, left_ms) = ((done / seconds) as u64, (left * 1000.0) as u64);
            if at.in_bytes {
                words.push_str(&format!(", {}/s", text::size(rate)));
            }
            words.push_str(&format!(", {} left", text::duration(left_ms)));
        }
        if at.stored_bytes > 0 {
            words.push_str(&format!(", {} stored", text::size(at.stored_bytes)));
        }
        (Some(done / total), words)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_and_estimate_are_those_of_the_stage() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let opening = JobProgress { stage: "opening", total: 0, done: 0, in_bytes: false, stored_bytes: 0 };
        let saving = JobProgress { stage: "saving", total: 4 << 30, done: 0, in_bytes: true, ..opening };
        let mut pace = Pace::new(begun);
        assert_eq!(pace.tell(&opening, at(60)), (None, "opening".into()));
        assert_eq!(pace.tell(&saving, at(60)), (Some(0.0), "saving 0 B of 4.0 GB".into()));
        let later = JobProgress { done: 1 << 30, stored_bytes: 300 << 20, ..saving };
        let words = "saving 1.0 GB of 4.0 GB, 102 MB/s, 00:00:30 left, 300 MB stored";
        assert_eq!(pace.tell(&later, at(70)), (Some(0.25), words.into()));
        let packs = JobProgress { stage: "packs", total: 10, done: 10, ..opening };
        pace.tell(&packs, at(80));
        assert_eq!(pace.tell(&packs, at(82)).1, "packs 10 of 10, 00:00:00 left");
    }
}
