//! A recovery from its beginning to its end.

use std::sync::Arc;

use nestling_model::{EventKind, Operation, VmId, protection::RunState};
use nestling_vault::Point;

use super::{
    as_new::AsNew,
    book::Entry,
    in_place::InPlace,
    source::Source,
    to_folder::ToFolder,
    values::{RecoveryWish, Whereto},
};
use crate::{Node, NodeError, error::Result, protection::repositories::Known, vm::Handle};

/// What a recovery is to do.
pub struct Order {
    pub known: Known,
    pub point: Point,
    pub wish: RecoveryWish,
    /// The machine that is overwritten, if one is.
    pub over: Option<VmId>,
    /// The number of the proof that a new machine is made for.
    pub proof: Option<u64>,
}

/// Conducts a recovery. It has ended afterwards.
pub async fn conduct(node: Node, entry: Arc<Entry>, order: Order) {
    let vm = entry.recovery().vm.to_string();
    let begun = format!("recovery {} from point {}", entry.number(), order.point.short_id());
    node.events.tell(EventKind::RecoveryStarted, vm.as_str(), begun);
    let (state, reason) = match recover(&node, &entry, order).await {
        Ok(()) if entry.recovery().warnings.is_empty() => (RunState::Succeeded, None),
        Ok(()) => (RunState::SucceededWithWarnings, None),
        Err(_) if node.stopping.is_cancelled() => (RunState::Interrupted, None),
        Err(NodeError::Cancelled) => (RunState::Cancelled, None),
        Err(error) => (RunState::Failed, Some(error.message())),
    };
    entry.end(&node.keeper, state, reason.clone()).await;
    for warning in entry.recovery().warnings.messages() {
        node.events.tell(EventKind::Warning, vm.as_str(), warning.as_str());
    }
    let (kind, message) = if state.is_success() {
        let done = entry.recovery().folder.map(|folder| format!("it is exported to {}", folder.display()));
        (EventKind::RecoveryDone, done.unwrap_or_else(|| "it is recovered".to_owned()))
    } else {
        (EventKind::RecoveryFailed, reason.unwrap_or_else(|| state.as_str().to_owned()))
    };
    node.events.tell(kind, vm, message);
}

async fn recover(node: &Node, entry: &Entry, order: Order) -> Result<()> {
    let Order { known, point, wish, over, proof } = order;
    entry.does("opening the point");
    let source = Source::open(node, entry, known, point).await?;
    let disks = wish.disks.as_slice();
    let handle = match (&wish.whereto, over) {
        (Whereto::AsNew { switches, no_switch, format, new_identity, instant, image, .. }, _) => {
            let as_new = AsNew {
                node,
                entry,
                source: &source,
                disks,
                switches,
                no_switch: *no_switch,
                format: *format,
                new_identity: *new_identity,
                instant: *instant,
                image: image.as_deref(),
                proof,
            };
            as_new.run().await?
        }
        (Whereto::InPlace, Some(vm)) => InPlace { node, entry, source: &source, disks, vm }.run().await?,
        (Whereto::Folder { folder, format }, _) => {
            return ToFolder { node, entry, source: &source, disks, folder, format: *format }.run().await;
        }
        (Whereto::InPlace, None) => return Err(NodeError::Internal("no machine to recover over".to_owned())),
    };
    drop(source);
    if wish.start {
        start(entry, &handle).await;
    }
    Ok(())
}

/// What was recovered is there, whether it starts or not.
async fn start(entry: &Entry, handle: &Handle) {
    entry.does("starting the machine");
    if let Err(error) = handle.operate(Operation::Start).await {
        entry.warn(format!("it is recovered, and does not start: {}", error.message()));
    }
}
