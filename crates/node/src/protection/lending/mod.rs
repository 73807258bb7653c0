//! The host above backs up a machine of this node: the instant is made here as for a backup of this node's own, and lent.
//!
//! ```text
//!   asked ► a run is written down ► its turn ► capture (guest steps, instant) ► Ready: stretches, bytes, confirm ► given back
//! ```
//!
//! To this node it is a run like any other: the machine is in one backup at a time, the run has a log and can be
//! cancelled, and what a node that died began and owes is found by it. Only the point lies elsewhere. What must never happen:
//! that a host above which is gone keeps anything here, so a loan that nobody asks for is given up by itself; that tracking
//! counts, or logs are cut, for a point that is not known to be durable.

mod conduct;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use nestling_block::{BlockSource, ExtentKind, ExtentSet, extents};
use nestling_identity::{Action, Identity};
use nestling_model::{
    VmName, VmPath,
    protection::{
        Cause, MachineRun, Message, PointId, PolicyInvalid, Run, RunId, policy::EXCLUDED_DISKS_MAX,
    },
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::timeout,
};
use uuid::Uuid;

use super::{
    guest,
    loan::{
        LOAN_READ_BYTES_MAX, LOAN_STRETCHES_MAX, LOAN_WAIT_MAX, LentInstant, LoanState, LoanView, LoanWish,
        Stretches,
    },
    runs::Entry,
    saving::Counted,
};
use crate::{
    Node, NodeError,
    blocking::blocking,
    error::{Object, Result},
    locked::lock,
    networks::to_the_end,
    node::Shared,
};

/// A loan that nobody asks for so long is given up; how one ended is told as long.
const PATIENCE: Duration = Duration::from_secs(90);
const LOANS_MAX: usize = 64;
/// Loans that have ended and are still told of.
const ENDED_MAX: usize = 512;
/// No more points are looked at than are looked at for backups of one's own, or little more.
const POINTS_MAX: usize = 16;

/// What the host above wants of a loan.
enum Order {
    Confirm(oneshot::Sender<Result<()>>),
    /// With the point that is durable.
    End(PointId),
}

/// An instant that is there.
struct Ready {
    told: LentInstant,
    at: Instant,
    disks: Vec<(Arc<Counted>, Option<Arc<ExtentSet>>)>,
}

#[derive(Clone)]
enum Stage {
    Preparing,
    Ready(Arc<Ready>),
    Ending,
    Ended(Ended),
}

#[derive(Clone, Default)]
struct Ended {
    warnings: Vec<String>,
    reason: Option<String>,
    again: bool,
}

pub struct Loan {
    id: Uuid,
    vm: VmName,
    entry: Arc<Entry>,
    stage: watch::Sender<Stage>,
    orders: mpsc::Sender<Order>,
    /// When it was last asked for.
    touched: Mutex<Instant>,
    /// Whether a disk could not be read.
    failed: AtomicBool,
    /// Whether it was given back without a point.
    returned: AtomicBool,
}

/// The loans of this node. They end with it.
#[derive(Default)]
pub struct Loans(Mutex<HashMap<Uuid, Arc<Loan>>>);

impl Loans {
    fn find(&self, id: &str) -> Result<Arc<Loan>> {
        let missing = || NodeError::NotFound { object: Object::Loan, name: id.chars().take(80).collect() };
        let id = Uuid::parse_str(id).map_err(|_| missing())?;
        let loan = lock(&self.0).get(&id).cloned().ok_or_else(missing)?;
        loan.touch();
        Ok(loan)
    }

    fn add(&self, loan: &Arc<Loan>) -> Result<()> {
        let mut all = lock(&self.0);
        let is_lent = |loan: &&Arc<Loan>| !loan.has_ended();
        let lent = all.values().filter(is_lent).count();
        if lent >= LOANS_MAX {
            return Err(NodeError::invalid("too many machines are lent to the host above at this moment"));
        }
        // Of those that have ended, who was not asked for longest is forgotten.
        if all.len() - lent >= ENDED_MAX {
            let ended = all.values().filter(|loan| loan.has_ended());
            if let Some(id) = ended.min_by_key(|loan| *lock(&loan.touched)).map(|loan| loan.id) {
                all.remove(&id);
            }
        }
        all.insert(loan.id, Arc::clone(loan));
        Ok(())
    }

    fn remove(&self, id: Uuid) {
        lock(&self.0).remove(&id);
    }
}

impl Loan {
    fn touch(&self) {
        *lock(&self.touched) = Instant::now();
    }

    fn has_ended(&self) -> bool {
        matches!(*self.stage.borrow(), Stage::Ended(_))
    }

    fn view(&self) -> LoanView {
        let stage = self.stage.borrow().clone();
        let view = LoanView {
            id: self.id,
            state: LoanState::Preparing,
            instant: None,
            warnings: Vec::new(),
            reason: None,
            again: false,
        };
        match stage {
            Stage::Preparing => view,
            Stage::Ready(ready) => {
                let instant = LentInstant {
                    age: ready.told.age.saturating_add(ready.at.elapsed()),
                    ..ready.told.clone()
                };
                LoanView { state: LoanState::Ready, instant: Some(instant), ..view }
            }
            Stage::Ending => LoanView { state: LoanState::Ending, ..view },
            Stage::Ended(Ended { warnings, reason, again }) => {
                LoanView { state: LoanState::Ended, warnings, reason, again, ..view }
            }
        }
    }

    fn is_waiting(stage: &Stage) -> bool {
        matches!(stage, Stage::Preparing | Stage::Ending)
    }

    fn ready(&self) -> Result<Arc<Ready>> {
        match &*self.stage.borrow() {
            Stage::Ready(ready) => Ok(Arc::clone(ready)),
            _ => Err(self.over()),
        }
    }

    fn over(&self) -> NodeError {
        let why = "its instant cannot be read, or not any more".to_owned();
        NodeError::BackupEnded { vm: self.vm.clone(), why }
    }

    fn disk(&self, disk: &str) -> Result<(Arc<Counted>, Option<Arc<ExtentSet>>)> {
        let missing = || NodeError::NotFound { object: Object::Drive, name: disk.chars().take(20).collect() };
        let number: usize = disk.parse().map_err(|_| missing())?;
        self.ready()?.disks.get(number).cloned().ok_or_else(missing)
    }
}

fn check(wish: &LoanWish) -> Result<()> {
    wish.consistency.validate().map_err(PolicyInvalid::Consistency)?;
    guest::check_possible(&wish.consistency)?;
    if wish.excluded.len() > EXCLUDED_DISKS_MAX {
        return Err(PolicyInvalid::ExcludedDisks.into());
    }
    if wish.points.len() > POINTS_MAX {
        return Err(NodeError::Invalid(format!("at most {POINTS_MAX} points can be counted from")));
    }
    Ok(())
}

impl Node {
    /// Begins to lend one instant of a machine. A run is written down when this returns; the rest goes on by itself.
    pub async fn lend(&self, who: &Identity, wish: LoanWish) -> Result<LoanView> {
        self.authorize(who, Action::RunBackups)?;
        check(&wish)?;
        let (node, who) = (self.shared(), who.to_string());
        let loan = to_the_end(async move { node.begin_loan(&who, wish).await }).await?;
        Ok(loan.view())
    }

    fn asked_for(&self, who: &Identity, loan: &str) -> Result<Arc<Loan>> {
        self.authorize(who, Action::RunBackups)?;
        self.protection.loans.find(loan)
    }

    /// How a loan is, once that changes or so much time has passed.
    pub async fn loan(&self, who: &Identity, loan: &str, wait: Duration) -> Result<LoanView> {
        let loan = self.asked_for(who, loan)?;
        let mut stage = loan.stage.subscribe();
        let changes = stage.wait_for(|stage| !Loan::is_waiting(stage));
        // Whether in time or not: what is so then is told.
        let _ = timeout(wait.min(LOAN_WAIT_MAX), changes).await;
        Ok(loan.view())
    }

    /// Which parts of a lent disk hold data.
    pub async fn loan_data(
        &self,
        who: &Identity,
        loan: &str,
        disk: &str,
        range: Range<u64>,
    ) -> Result<Stretches> {
        let loan = self.asked_for(who, loan)?;
        let (source, _) = loan.disk(disk)?;
        let range = inside(&source, range)?;
        loan.read(move || {
            let mut told = Stretches { ranges: Vec::new(), until: range.start };
            for extent in extents(&source, range) {
                let extent = extent?;
                if extent.kind == ExtentKind::Data {
                    if told.ranges.len() == LOAN_STRETCHES_MAX {
                        break;
                    }
                    told.ranges.push(extent.range());
                }
                told.until = extent.end();
            }
            Ok(told)
        })
        .await
    }

    /// Which parts of a lent disk changed since the point that it counts from.
    pub async fn loan_changes(&self, who: &Identity, loan: &str, disk: &str, from: u64) -> Result<Stretches> {
        let loan = self.asked_for(who, loan)?;
        let (source, changed) = loan.disk(disk)?;
        let range = inside(&source, from..source.size_bytes())?;
        let changed =
            changed.ok_or_else(|| NodeError::invalid("it is not known what changed on this disk"))?;
        let end = range.end;
        let ranges: Vec<Range<u64>> = changed.within(range).take(LOAN_STRETCHES_MAX).collect();
        // The last one may be followed by more.
        let is_all = ranges.len() < LOAN_STRETCHES_MAX;
        let until = if is_all { end } else { ranges.last().map_or(end, |last| last.end) };
        Ok(Stretches { ranges, until })
    }

    /// Bytes of a lent disk.
    pub async fn loan_bytes(
        &self,
        who: &Identity,
        loan: &str,
        disk: &str,
        range: Range<u64>,
    ) -> Result<Bytes> {
        let loan = self.asked_for(who, loan)?;
        let (source, _) = loan.disk(disk)?;
        let range = inside(&source, range)?;
        let length = range.end - range.start;
        if length > LOAN_READ_BYTES_MAX {
            return Err(NodeError::Invalid(format!("at most {LOAN_READ_BYTES_MAX} bytes are read at once")));
        }
        loan.read(move || {
            #[expect(clippy::cast_possible_truncation, reason = "a few megabytes")]
            let mut bytes = vec![0; length as usize];
            source.read_at(&mut bytes, range.start)?;
            Ok(bytes.into())
        })
        .await
    }

    /// Whether all that was read is of the one instant. A point is made only after this.
    pub async fn confirm_loan(&self, who: &Identity, loan: &str) -> Result<()> {
        let loan = self.asked_for(who, loan)?;
        let (reply, answer) = oneshot::channel();
        loan.orders.send(Order::Confirm(reply)).await.map_err(|_| loan.over())?;
        answer.await.map_err(|_| loan.over())?
    }

    /// Gives a loan back, with the point that is durable or without one. What is to be done then goes on by itself.
    pub async fn return_loan(&self, who: &Identity, loan: &str, point: Option<PointId>) -> Result<LoanView> {
        let loan = self.asked_for(who, loan)?;
        let Some(point) = point else {
            // It may be in the middle of its preparations.
            loan.returned.store(true, Relaxed);
            loan.entry.cancel.cancel();
            return Ok(loan.view());
        };
        if loan.orders.send(Order::End(point)).await.is_ok() {
            // Seen by who asks next, too.
            let mut stage = loan.stage.subscribe();
            let is_taken = stage.wait_for(|stage| !matches!(stage, Stage::Ready(_)));
            let _ = timeout(LOAN_WAIT_MAX, is_taken).await;
        }
        Ok(loan.view())
    }
}

/// A range that lies inside a disk.
fn inside(source: &Counted, range: Range<u64>) -> Result<Range<u64>> {
    if range.start < range.end && range.end <= source.size_bytes() {
        return Ok(range);
    }
    Err(NodeError::invalid("that is not inside the disk"))
}

impl Loan {
    async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> std::result::Result<T, nestling_block::BlockError> + Send + 'static,
    ) -> Result<T> {
        let vm = self.vm.clone();
        let done = blocking(move || work().map_err(|source| NodeError::Lent { vm, source })).await;
        if done.is_err() {
            self.failed.store(true, Relaxed);
        }
        self.touch();
        done
    }
}

impl Shared {
    async fn begin_loan(self: Arc<Self>, who: &str, wish: LoanWish) -> Result<Arc<Loan>> {
        let handle = self.vms.find(&wish.vm)?;
        let vm = handle.now().vm;
        let path: VmPath = vm.name.as_str().parse()?;
        let causes = vec![Cause::Person { name: Message::from(who) }];
        let machines = vec![MachineRun::new(path.clone(), vm.id)];
        let id = RunId(Uuid::new_v4());
        let run = Run::waiting(id, causes, wish.repository, machines, self.now_ms());
        let entry = self.protection.runs.begin_in_turn(run).await?;
        let (orders, ordered) = mpsc::channel(8);
        let loan = Arc::new(Loan {
            id: Uuid::new_v4(),
            vm: vm.name.clone(),
            entry,
            stage: watch::Sender::new(Stage::Preparing),
            orders,
            touched: Mutex::new(Instant::now()),
            failed: AtomicBool::new(false),
            returned: AtomicBool::new(false),
        });
        let added = self.protection.loans.add(&loan);
        if added.is_err() {
            loan.entry.cancel.cancel();
        }
        tokio::spawn(conduct::conduct(Arc::clone(&self), Arc::clone(&loan), handle, path, wish, ordered));
        added.map(|()| loan)
    }
}
