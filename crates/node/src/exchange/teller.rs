//! What takes long and is listened to: it tells how far it is, and ends when nobody listens any more.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::values::ExchangeStep;
use crate::{Node, NodeError, error::Result, vm::Handle};

/// How many steps may wait for a slow reader before they are left out.
const STEPS_WAITING_MAX: usize = 64;

pub struct Teller {
    steps: mpsc::Sender<ExchangeStep>,
    /// It shall end.
    pub cancel: CancellationToken,
}

impl Teller {
    pub fn tell(&self, message: &str, done: u64, total: u64) {
        // What a slow reader misses is told again soon.
        let _ = self.steps.try_send(ExchangeStep::Progress { message: message.to_owned(), done, total });
    }

    pub async fn warn(&self, what: String) {
        // An error means that nobody reads.
        let _ = self.steps.send(ExchangeStep::Warning(what)).await;
    }

    /// Waits for something, unless it shall end.
    pub async fn unless_over<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.cancel.cancelled() => Err(NodeError::Cancelled),
        }
    }

    pub fn check(&self) -> Result<()> {
        if self.cancel.is_cancelled() { Err(NodeError::Cancelled) } else { Ok(()) }
    }
}

/// Does it, to the end or until the receiver is dropped or the node ends. The last step is how it ended.
pub fn told<F>(node: &Node, work: impl FnOnce(Teller) -> F) -> mpsc::Receiver<ExchangeStep>
where
    F: Future<Output = Result<Arc<Handle>>> + Send + 'static,
{
    let (steps, receiver) = mpsc::channel(STEPS_WAITING_MAX);
    let (node, cancel) = (node.clone(), node.stopping.child_token());
    let mut work = tokio::spawn(work(Teller { steps: steps.clone(), cancel: cancel.clone() }));
    tokio::spawn(async move {
        let done = tokio::select! {
            done = &mut work => done,
            () = steps.closed() => {
                cancel.cancel();
                work.await
            }
        };
        let last = match done.unwrap_or_else(|e| Err(NodeError::Internal(e.to_string()))) {
            Ok(handle) => ExchangeStep::Done(Box::new(node.view(&handle.now()))),
            Err(error) => ExchangeStep::Failed(error),
        };
        // Waits for the reader: the last word must not be lost. An error means that nobody reads.
        let _ = steps.send(last).await;
    });
    receiver
}
