//! One loan of a node inside a machine: its questions, each with a deadline, and asked again while the way is broken for a
//! moment.

use std::{
    ops::Range,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use bytes::Bytes;
use nestling_model::{
    VmPath,
    protection::{Message, PointId},
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::loan::{LoanView, Stretches},
    port::{Answer, NodesInside, Refused, Way},
    refused,
};
use crate::{ErrorKind, NodeError, error::Result};

/// For any answer. Whoever carries the questions has deadlines of its own, which are shorter.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(400);
/// A channel is down for moments when the node at either end was started anew.
const TRIES: u32 = 4;
const TRY_DELAY: Duration = Duration::from_secs(2);

/// Waits for an answer, but not for ever.
pub async fn in_time<T>(answer: Answer<T>) -> std::result::Result<T, Refused> {
    let late = || Refused::new(ErrorKind::Timeout, "the node inside has not answered in time");
    timeout(ANSWER_TIMEOUT, answer).await.unwrap_or_else(|_| Err(late()))
}

pub struct Session {
    pub port: Arc<dyn NodesInside>,
    pub way: Way,
    pub loan: Uuid,
    /// The machine.
    pub path: VmPath,
    /// Whichever comes first ends all waiting.
    pub over: [CancellationToken; 2],
    /// Nobody reads any more. A save that is left behind would else go on asking.
    pub left: CancellationToken,
    /// So many readers wait for an answer about the disks.
    pub waiting: AtomicUsize,
}

impl Session {
    /// Waits for something, unless the run shall end.
    pub async fn unless_over<T>(
        &self,
        work: impl Future<Output = std::result::Result<T, Refused>>,
    ) -> std::result::Result<T, Refused> {
        let over = || Refused::new(ErrorKind::Failed, "it is to end");
        tokio::select! {
            done = work => done,
            () = self.over[0].cancelled() => Err(over()),
            () = self.over[1].cancelled() => Err(over()),
            () = self.left.cancelled() => Err(over()),
        }
    }

    /// Asks what may be asked again.
    async fn ask<T>(&self, question: impl Fn() -> Answer<T>) -> std::result::Result<T, Refused> {
        let mut tries = 1;
        loop {
            match in_time(question()).await {
                Err(why) if why.kind == ErrorKind::GuestAbsent && tries < TRIES => sleep(TRY_DELAY).await,
                done => return done,
            }
            tries += 1;
        }
    }

    pub async fn look(&self, wait: Duration) -> std::result::Result<LoanView, Refused> {
        self.ask(|| self.port.loan(&self.way, self.loan, wait)).await
    }

    pub async fn data(&self, disk: usize, range: Range<u64>) -> std::result::Result<Stretches, Refused> {
        self.ask(|| self.port.data(&self.way, self.loan, disk, range.clone())).await
    }

    pub async fn changed(&self, disk: usize, from: u64) -> std::result::Result<Stretches, Refused> {
        self.ask(|| self.port.changed(&self.way, self.loan, disk, from)).await
    }

    /// Exactly the bytes that were asked for.
    pub async fn bytes(&self, disk: usize, range: Range<u64>) -> std::result::Result<Bytes, Refused> {
        let bytes = self.ask(|| self.port.bytes(&self.way, self.loan, disk, range.clone())).await?;
        let (wanted, came) = (range.end - range.start, bytes.len() as u64);
        if wanted == came {
            return Ok(bytes);
        }
        let why = format!("the node inside was asked for {wanted} bytes and gave {came}");
        Err(Refused::new(ErrorKind::Failed, why))
    }

    pub async fn confirm(&self) -> std::result::Result<(), Refused> {
        self.ask(|| self.port.confirm(&self.way, self.loan)).await
    }

    pub async fn give_back(&self, point: Option<PointId>) -> std::result::Result<LoanView, Refused> {
        self.ask(|| self.port.give_back(&self.way, self.loan, point)).await
    }

    /// An error of this machine. A loan that is not known any more went with the node that had it, which was started anew.
    pub fn error(&self, why: &Refused) -> NodeError {
        if why.kind == ErrorKind::NotFound {
            let why = "the node inside does not know of the backup any more".to_owned();
            return NodeError::Inside {
                vm: self.path.to_string(),
                why,
                kind: ErrorKind::InvalidState,
                again: true,
            };
        }
        refused(&self.path, why)
    }

    /// Why a loan ended that should not have.
    pub fn ended(&self, view: &LoanView) -> NodeError {
        let why = view.reason.as_deref().unwrap_or("the node inside ended the backup and does not say why");
        NodeError::Inside {
            vm: self.path.to_string(),
            why: Message::from(why).to_string(),
            kind: ErrorKind::Failed,
            again: view.again,
        }
    }

    pub async fn asked<T>(&self, work: impl Future<Output = std::result::Result<T, Refused>>) -> Result<T> {
        work.await.map_err(|why| self.error(&why))
    }
}
