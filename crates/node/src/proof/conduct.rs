//! A proof from its beginning to its end. A point that is not proven keeps no other one from its turn.

use std::sync::Arc;

use futures_util::{StreamExt, stream};
use nestling_model::{EventKind, protection::RunState};
use nestling_vault::Point;

use super::{
    book::Entry,
    boot::{Boot, Came, Miss},
};
use crate::{Node, protection::repositories::Known};

/// What a proof is to do.
pub struct Order {
    pub known: Known,
    /// In the order of the proof's own list.
    pub points: Vec<Point>,
    pub parallel: usize,
}

/// Conducts a proof. It has ended afterwards.
pub async fn conduct(node: Node, entry: Arc<Entry>, order: Order) {
    let number = entry.number();
    let about = format!("proof {number}");
    node.events.tell(
        EventKind::ProofStarted,
        about.as_str(),
        format!("{} recovery points of '{}'", order.points.len(), order.known.repository.name),
    );
    let all = stream::iter(order.points.iter().enumerate());
    let prove = |(index, point)| prove(&node, &entry, &order.known, index, point);
    all.for_each_concurrent(order.parallel, prove).await;
    sweep(&node, number).await;
    let left = if node.stopping.is_cancelled() { RunState::Interrupted } else { RunState::Cancelled };
    let now_ms = node.now_ms();
    node.proof.book.change(&entry, |run| run.end(left, now_ms)).await;
    let run = entry.run();
    let kind = if run.state.is_success() { EventKind::ProofDone } else { EventKind::ProofFailed };
    let proven = run.points.iter().filter(|point| point.state.is_success()).count();
    node.events.tell(kind, about, format!("{proven} of {} recovery points boot", run.points.len()));
    node.proof.book.forget_old().await;
}

/// A machine whose making did not end when it was asked to may have come since.
async fn sweep(node: &Node, number: u64) {
    if node.stopping.is_cancelled() {
        // The next node removes them.
        return;
    }
    for boot in node.recovery.instant.all().into_iter().filter(|boot| boot.proof == Some(number)) {
        if let Err(error) = node.throw_away(boot.vm).await {
            let message = format!("a machine of it is left: {}", error.message());
            node.events.tell(EventKind::Warning, format!("proof {number}"), message);
        }
    }
}

async fn prove(node: &Node, entry: &Arc<Entry>, known: &Known, index: usize, point: &Point) {
    if entry.cancel.is_cancelled() || node.stopping.is_cancelled() {
        // How it ends is said of all that are left, at the end.
        return;
    }
    let now_ms = node.now_ms();
    let begin = |run: &mut nestling_model::protection::ProofRun| {
        if let Some(point) = run.points.get_mut(index) {
            (point.state, point.started_at_ms) = (RunState::Running, Some(now_ms));
        }
    };
    entry.note(begin);
    let came = Boot { node, entry, known, point, index }.run().await;
    entry.does_nothing(index);
    tell(node, point, &came);
    note(node, entry, index, came).await;
    node.steps.reached("proof of a point written down");
}

fn tell(node: &Node, point: &Point, came: &Came) {
    let name = point.name.to_string();
    match &came.result {
        Ok(seen) => {
            let message = format!("recovery point {} boots: {seen}", point.short_id());
            node.events.tell(EventKind::ProofDone, name, message);
        }
        Err(Miss::Over) => {}
        Err(Miss::Why(why)) => {
            let message = format!("recovery point {} is not proven: {why}", point.short_id());
            node.events.tell(EventKind::ProofFailed, name, message);
        }
    }
}

async fn note(node: &Node, entry: &Arc<Entry>, index: usize, came: Came) {
    let (now_ms, is_stopping) = (node.now_ms(), node.stopping.is_cancelled());
    let ended = |run: &mut nestling_model::protection::ProofRun| {
        let Some(point) = run.points.get_mut(index) else { return };
        came.warnings.into_iter().for_each(|warning| point.warnings.push(warning));
        point.ended_at_ms = Some(now_ms);
        point.console = came.console;
        point.has_screen = came.has_screen;
        point.state = match came.result {
            Ok(seen) => {
                (point.ready_ms, point.seen) = (Some(came.ready_ms), Some(seen.into()));
                if point.warnings.is_empty() { RunState::Succeeded } else { RunState::SucceededWithWarnings }
            }
            Err(Miss::Over) if is_stopping => RunState::Interrupted,
            Err(Miss::Over) => RunState::Cancelled,
            Err(Miss::Why(why)) => {
                point.reason = Some(why.into());
                RunState::Failed
            }
        };
    };
    node.proof.book.change(entry, ended).await;
}
