//! A machine of this host that is captured for a run, its own or one of the host above: who goes through the steps, and what
//! is given back when there is no point in the end.

use std::sync::Arc;

use nestling_hypervisor::capture::{CaptureError, Outcome, Whole};
use nestling_model::{
    Operation, VmPath,
    protection::{Consistency, RunId},
};

use super::{
    runs::Entry,
    tracking::{Purpose, Tracking},
};
use crate::{
    NodeError,
    error::Result,
    node::Shared,
    vm::{
        Handle, Running,
        capture::{Held, Seen},
    },
};

pub struct Capturing<'a> {
    pub node: &'a Arc<Shared>,
    pub entry: &'a Entry,
    pub handle: &'a Handle,
    pub path: &'a VmPath,
    /// Of the machine in its run.
    pub number: usize,
    pub consistency: &'a Consistency,
}

/// Waits for something, unless the run shall end.
pub async fn unless_over<T>(
    node: &Shared,
    entry: &Entry,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        done = work => done,
        () = entry.cancel.cancelled() => Err(NodeError::Cancelled),
        () = node.stopping.cancelled() => Err(NodeError::Stopping),
    }
}

/// Whether all that is read is of the one instant. Images that no engine has do not change while they are served.
pub async fn proof(seen: &Seen) -> Result<Option<Whole>> {
    match &seen.held {
        Held::Images(_) => Ok(None),
        Held::Engine(capture) => {
            let whole = capture.whole().await;
            whole.map(Some).map_err(|source| NodeError::Capture { vm: seen.vm.name.clone(), source })
        }
    }
}

/// Whether the machine went on to another state, with which it can be tried again.
pub fn is_overtaken(error: &NodeError) -> bool {
    matches!(
        error,
        NodeError::Interrupted { .. }
            | NodeError::State { .. }
            | NodeError::NoEngine(_)
            | NodeError::BackupEnded { .. }
            | NodeError::Inside { again: true, .. }
            | NodeError::Capture {
                source: CaptureError::Gone(_) | CaptureError::Ended { .. } | CaptureError::State { .. },
                ..
            }
    )
}

/// Whether an engine has ended. One that ends breaks off in many ways before it is known to have ended.
pub fn has_ended(engine: Option<&Running>) -> bool {
    engine.is_some_and(|engine| engine.machine.is_silent() || engine.machine.exit_now().is_some())
}

impl Capturing<'_> {
    pub fn run_id(&self) -> RunId {
        self.entry.run().id
    }

    pub fn is_over(&self) -> bool {
        self.entry.cancel.is_cancelled() || self.node.stopping.is_cancelled()
    }

    pub async fn unless_over<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        unless_over(self.node, self.entry, work).await
    }

    /// What was begun on the machine is removed again.
    pub async fn take_back(&self) {
        let run = self.run_id();
        let taken = self.handle.ask(Operation::Modify, move |owner| Box::pin(owner.retire_run(run))).await;
        if let Err(error) = taken {
            // The next backup to this repository removes it.
            tracing::debug!(error = error.message(), "what a backup began is left for now");
        }
    }

    /// There is no point: what was begun is given back, and the reason is found. `unread`: the disks could not be read.
    pub async fn gave_up(&self, seen: Seen, error: NodeError, unread: bool) -> NodeError {
        let vm = || seen.vm.name.clone();
        match seen.held {
            Held::Engine(mut capture) => {
                let trouble = if unread { capture.whole().await.err() } else { None };
                if let Err(error) = capture.finish(&Outcome::Failed).await {
                    tracing::debug!(%error, "a capture that failed could not be ended properly");
                }
                trouble.map_or(error, |source| NodeError::Capture { vm: vm(), source })
            }
            Held::Images(reading) => {
                let why = reading.ended().map(str::to_owned);
                reading.end().await;
                match why {
                    Some(why) => NodeError::BackupEnded { vm: vm(), why },
                    None => error,
                }
            }
        }
    }

    /// The new bitmaps count from now on; those that they replace go.
    pub async fn keep_tracking(&self, seen: Seen, whole: Option<Whole>, purpose: Purpose) -> Result<()> {
        let book = &self.node.protection.tracking;
        let (vm, number) = (seen.vm.id, seen.number);
        let mark = |tracking: &mut Tracking| {
            tracking.begun.iter_mut().filter(|b| b.name() == number).for_each(|b| b.durable = true);
        };
        book.update(vm, mark).await?;
        self.node.steps.reached("point written down");
        let replaced = seen.replaced;
        let removed = match (seen.held, whole) {
            (Held::Engine(mut capture), Some(whole)) => {
                match capture.finish(&Outcome::Durable { whole, remove: replaced.clone() }).await {
                    Err(CaptureError::Gone(_) | CaptureError::Ended { .. }) => false,
                    finished => {
                        finished.map_err(|source| NodeError::Capture { vm: seen.vm.name.clone(), source })?;
                        true
                    }
                }
            }
            (Held::Engine(_), None) => {
                return Err(NodeError::Internal("a point was made without its proof".to_owned()));
            }
            (Held::Images(reading), _) => {
                reading.end().await;
                false
            }
        };
        if !removed {
            self.handle.ask(Operation::Modify, move |owner| Box::pin(owner.retire(replaced))).await?;
        }
        let repositories = &self.node.protection.repositories;
        let keep = |tracking: &mut Tracking| {
            let kept = tracking.kept_beside(purpose, |id| repositories.get(id).is_some());
            tracking.begun.retain(|b| b.name() == number || kept.contains(&b.name()));
        };
        book.update(vm, keep).await
    }
}
