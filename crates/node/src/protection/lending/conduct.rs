//! A loan from its beginning to its end. Its run has ended afterwards.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nestling_block::BlockError;
use nestling_hypervisor::capture::Whole;
use nestling_model::{
    EventKind, VmPath,
    protection::{Durations, PointId, Run, RunStep},
};
use nestling_vault::Job;
use tokio::{sync::mpsc, time::sleep_until};

use super::{Ended, Loan, Order, PATIENCE, Ready, Stage};
use crate::{
    NodeError,
    blocking::blocking,
    clock::{now_ms, whole_ms},
    error::Result,
    locked::lock,
    node::Shared,
    protection::{
        capturing::{Capturing, has_ended, is_overtaken, proof},
        conduct::{end, note, take, tell_machine},
        finish::tracking_left,
        loan::{LentDisk, LentInstant, LoanWish},
        machine::{Done, SETTLE_TIMEOUT, TakenDisk, describe},
        saving::SourceDisk,
        tracking::Purpose,
    },
    vm::{
        Handle,
        capture::{CaptureWish, Seen},
    },
};

/// What a run of the host above leaves when it is gone.
const UNWANTED: &str = "the host above has not asked for it any more";

pub async fn conduct(
    node: Arc<Shared>,
    loan: Arc<Loan>,
    handle: Arc<Handle>,
    path: VmPath,
    wish: LoanWish,
    orders: mpsc::Receiver<Order>,
) {
    let entry = Arc::clone(&loan.entry);
    let watching = tokio::spawn(watch(Arc::clone(&node), Arc::clone(&loan)));
    entry.does(0, &path, "waiting for its turn");
    let now_ms = node.now_ms();
    entry.change(&node.keeper, |run| take(run.step(RunStep::Begin, now_ms))).await;
    let turn = tokio::select! {
        turn = node.protection.turns.take(handle.now().vm.id) => Some(turn),
        () = entry.cancel.cancelled() => None,
        () = node.stopping.cancelled() => None,
    };
    let engine = handle.now().running;
    let done = if turn.is_some() {
        let now_ms = node.now_ms();
        entry.change(&node.keeper, |run| take(run.machines[0].step(RunStep::Begin, now_ms))).await;
        let (message, number) = (format!("run {} lends it to the host above", entry.number()), 0);
        node.events.tell(EventKind::BackupStarted, path.to_string(), message);
        entry.log.say(&format!("run {}: '{path}' is backed up by the host above", entry.number()));
        let (handle, path, consistency) = (&*handle, &path, &wish.consistency);
        let capturing = Capturing { node: &node, entry: &entry, handle, path, number, consistency };
        let lending = Lending { capturing, loan: &loan };
        let done = lending.lend(&wish, orders).await;
        tell_machine(&node, path, &done);
        done
    } else {
        drop(orders);
        Err(over(&node))
    };
    watching.abort();
    let ended = ended(&loan, &done, has_ended(engine.as_deref()));
    let (is_stopping, now_ms) = (node.stopping.is_cancelled(), node.now_ms());
    let why = entry.why_ended().filter(|_| done.is_err());
    let step = |run: &mut Run| {
        note(&mut run.machines[0], done, is_stopping, now_ms);
        run.reason = why.map(Into::into);
        end(run, true, is_stopping, now_ms);
    };
    entry.change(&node.keeper, step).await;
    drop(turn);
    loan.stage.send_replace(Stage::Ended(ended));
    node.protection.runs.forget_old().await;
    // How it ended is told for a while.
    tokio::select! {
        () = tokio::time::sleep(PATIENCE) => {}
        () = node.stopping.cancelled() => {}
    }
    node.protection.loans.remove(loan.id);
}

/// What the host above hears. It begins again where a backup of this node's own would, and when this node is stopped.
pub(super) fn ended(loan: &Loan, done: &Result<Done>, has_engine_ended: bool) -> Ended {
    match done {
        // It has heard those of the instant.
        Ok(done) => Ended { warnings: done.warnings.clone(), ..Ended::default() },
        // Nobody has to be told what they asked for.
        Err(NodeError::Cancelled) if loan.returned.load(Relaxed) => Ended::default(),
        Err(NodeError::Cancelled) => {
            let why = loan.entry.why_ended().unwrap_or("it was cancelled there");
            Ended { reason: Some(why.to_owned()), ..Ended::default() }
        }
        Err(error) => {
            let again = has_engine_ended || is_overtaken(error) || matches!(error, NodeError::Stopping);
            Ended { reason: Some(error.message()), again, ..Ended::default() }
        }
    }
}

/// Why it is over before there was an instant. A node that stops is asked once more when it is there again.
fn over(node: &Shared) -> NodeError {
    if node.stopping.is_cancelled() { NodeError::Stopping } else { NodeError::Cancelled }
}

/// Ends a loan that nobody asks for.
async fn watch(node: Arc<Shared>, loan: Arc<Loan>) {
    let patience = node.settings.loan_patience.unwrap_or(PATIENCE);
    loop {
        let until = *lock(&loan.touched) + patience;
        if until <= Instant::now() {
            return loan.entry.end_because(UNWANTED);
        }
        sleep_until(until.into()).await;
    }
}

struct Lending<'a> {
    capturing: Capturing<'a>,
    loan: &'a Loan,
}

impl Lending<'_> {
    async fn lend(&self, wish: &LoanWish, mut orders: mpsc::Receiver<Order>) -> Result<Done> {
        let capturing = &self.capturing;
        let purpose = Purpose { repository: wish.repository, above: true };
        let capture = CaptureWish {
            run: capturing.run_id(),
            purpose,
            points: wish.points.iter().map(|point| point.disks.clone()).collect(),
            full: wish.full,
            excluded: wish.excluded.clone(),
            consistency: wish.consistency.clone(),
        };
        capturing.unless_over(capturing.handle.settled(SETTLE_TIMEOUT)).await?;
        let begun = Instant::now();
        let (seen, owed) = match capturing.instant(capture).await {
            Ok(lent) => lent,
            Err(error) => {
                capturing.take_back().await;
                return Err(if capturing.is_over() { over(self.capturing.node) } else { error });
            }
        };
        let served = self.serve(wish, &seen, &mut orders).await;
        let last = self.loan.stage.send_replace(Stage::Ending);
        // Whoever serves the disks can end once nobody is connected; to let go may block.
        let let_go = move || {
            drop(last);
            Ok(())
        };
        let _ = blocking(let_go).await;
        let (point, whole) = match served {
            Ok(served) => served,
            Err(error) => {
                let unread = self.loan.failed.load(Relaxed);
                let error = capturing.gave_up(seen, error, unread).await;
                capturing.take_back().await;
                return Err(error);
            }
        };
        capturing.entry.does(0, capturing.path, "finishing");
        let durations = Durations {
            frozen_ms: whole_ms(seen.frozen_for),
            capture_ms: whole_ms(seen.took),
            save_ms: whole_ms(begun.elapsed()),
        };
        let consistency = seen.consistency;
        let kept = capturing.keep_tracking(seen, whole, purpose).await;
        let mut warnings: Vec<String> = kept.err().iter().map(tracking_left).collect();
        warnings.extend(capturing.cut_logs(owed).await);
        let disks = capturing.entry.run().machines.first().map(|machine| machine.disks.clone());
        let disks = disks.unwrap_or_default();
        Ok(Done { point, consistency, disks, new_bytes: 0, stored_bytes: 0, durations, warnings })
    }

    /// Lets the host above read, until it has a point that is durable.
    async fn serve(
        &self,
        wish: &LoanWish,
        seen: &Seen,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Result<(PointId, Option<Whole>)> {
        let capturing = &self.capturing;
        let since = seen.point.and_then(|number| wish.points.get(number)).map(|point| point.id);
        let disks = seen.disks.iter().map(TakenDisk::of).collect::<Result<Vec<_>>>()?;
        let runs = disks.iter().map(|disk| disk.run(since)).collect();
        let note = |run: &mut Run| {
            run.machines[0].disks = runs;
            seen.warnings.iter().for_each(|warning| run.machines[0].warnings.push(warning.as_str()));
        };
        capturing.entry.change(&capturing.node.keeper, note).await;
        let sources: Vec<SourceDisk> = disks.iter().map(source).collect();
        let counters = sources.iter().map(|disk| (disk.name.clone(), Arc::clone(&disk.read))).collect();
        capturing.entry.reads(0, capturing.path, Arc::new(Job::default()), counters);
        let told = LentInstant {
            description: self.describe(seen)?,
            age: Duration::from_millis(now_ms().saturating_sub(seen.taken_at_ms)),
            point: seen.point,
            disks: disks.iter().map(lent).collect(),
            frozen_for: seen.frozen_for,
            took: seen.took,
            warnings: seen.warnings.clone(),
        };
        let vm = seen.vm.name.clone();
        let unread = |source: BlockError| NodeError::Lent { vm: vm.clone(), source };
        let opened = capturing.unless_over(blocking(move || {
            let open = |disk: SourceDisk| disk.open().map(|(disk, changed)| (Arc::new(disk), changed));
            Ok(sources.into_iter().map(open).collect::<std::result::Result<Vec<_>, _>>())
        }));
        let disks = opened.await?.map_err(|source| {
            self.loan.failed.store(true, Relaxed);
            unread(source)
        })?;
        capturing.node.steps.reached("loan ready");
        let read: Vec<Arc<AtomicU64>> = disks.iter().map(|(disk, _)| disk.counter()).collect();
        self.loan.stage.send_replace(Stage::Ready(Arc::new(Ready { told, at: Instant::now(), disks })));
        let ended = self.wait(seen, orders).await;
        let note = |run: &mut Run| {
            for (disk, read) in run.machines[0].disks.iter_mut().zip(&read) {
                disk.read_bytes = read.load(Relaxed);
            }
        };
        capturing.entry.does(0, capturing.path, "ending");
        capturing.entry.change(&capturing.node.keeper, note).await;
        ended
    }

    async fn wait(
        &self,
        seen: &Seen,
        orders: &mut mpsc::Receiver<Order>,
    ) -> Result<(PointId, Option<Whole>)> {
        let mut whole = None;
        loop {
            let order = tokio::select! {
                order = orders.recv() => order.ok_or(NodeError::Cancelled)?,
                () = self.capturing.entry.cancel.cancelled() => return Err(NodeError::Cancelled),
                () = self.capturing.node.stopping.cancelled() => return Err(NodeError::Stopping),
            };
            match (order, whole.take()) {
                (Order::Confirm(reply), _) => {
                    let proven = proof(seen).await;
                    let told = proven.as_ref().map(|_| ()).map_err(|error| NodeError::BackupEnded {
                        vm: seen.vm.name.clone(),
                        why: error.message(),
                    });
                    // An error means that whoever asked has gone away, and asks again.
                    let _ = reply.send(told);
                    whole = Some(proven?);
                }
                (Order::End(point), Some(proven)) => return Ok((point, proven)),
                (Order::End(_), None) => {
                    return Err(NodeError::invalid("a point was made before what it is of was confirmed"));
                }
            }
        }
    }

    fn describe(&self, seen: &Seen) -> Result<String> {
        let node = self.capturing.node;
        let described = describe(seen, self.capturing.run_id(), &node.networks.defined().switches)?;
        String::from_utf8(described).map_err(|e| NodeError::Internal(e.to_string()))
    }
}

fn source(disk: &TakenDisk) -> SourceDisk {
    SourceDisk {
        name: disk.name.to_string(),
        served: disk.served.clone(),
        read: Arc::new(AtomicU64::new(0)),
        pace: None,
    }
}

fn lent(disk: &TakenDisk) -> LentDisk {
    LentDisk { name: disk.name.to_string(), bytes: disk.bytes, since: disk.since }
}
