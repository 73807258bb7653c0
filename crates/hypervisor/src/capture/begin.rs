//! From a request to an instant: all that takes time is made ready while the guest runs, and only then it stands still.

use std::{
    fs::File,
    path::Path,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Capture, CaptureError, CaptureRequest, CapturedDisk, ChangedMap, answers, end, fleecing, names,
    plan::{self, DiskPlan},
};
use crate::{Machine, MachineError, RunState, qmp::QmpError};

/// For an image's host to write out what it holds; the instant comes in any case.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// For the guest's disks to come to rest, and the instant.
const INSTANT_TIMEOUT: Duration = Duration::from_secs(60);
/// Readers of all disks together.
const CONNECTIONS_MAX: u32 = 128;

/// In a task of its own, so that a caller that goes away leaves a capture that ends, and not half of one.
pub(super) async fn capture(machine: &Machine, request: CaptureRequest) -> Result<Capture, CaptureError> {
    let machine = machine.clone();
    let task = tokio::spawn(async move {
        let captures = machine.captures();
        let _turn = captures.turn().await;
        if captures.is_active() {
            return Err(CaptureError::Busy);
        }
        let begun = begin(&machine, request).await;
        if begun.is_err() {
            // Whatever came of it. What cannot be removed now is removed before the next capture.
            if let Err(error) = end::tear_down(&machine).await {
                tracing::warn!(%error, "a capture that could not be begun left something behind");
            }
        }
        begun
    });
    task.await.unwrap_or_else(|e| Err(CaptureError::Ended { why: e.to_string() }))
}

async fn begin(machine: &Machine, request: CaptureRequest) -> Result<Capture, CaptureError> {
    fleecing::check(&request.fleecing)?;
    end::tear_down(machine).await?;
    let runs = match machine.run_state().await? {
        RunState::Running => true,
        RunState::Paused | RunState::DiskError => false,
        other => return Err(CaptureError::State { state: format!("{other:?}").to_lowercase() }),
    };
    let plans = plan::plan(&request, &answers::nodes(machine).await?, &answers::devices(machine).await?)?;
    let mut files = Vec::new();
    for plan in plans.iter().filter(|p| p.device.is_some()) {
        files.push(fleecing::make(machine, plan, &request.fleecing).await?);
    }
    let socket = machine.nbd_socket();
    start_serving(machine, &socket).await?;
    if runs {
        sync_images(&plans).await;
    }
    let stopped_for = match instant(machine, &plans, runs).await {
        Ok(stopped_for) => stopped_for,
        Err(error) => {
            forget(machine, &plans).await;
            return Err(error);
        }
    };
    let disks = match export(machine, &plans).await {
        Ok(disks) => disks,
        Err(error) => {
            forget(machine, &plans).await;
            return Err(error);
        }
    };
    let number = machine.captures().activate(plans.iter().map(|p| p.disk).collect());
    let machine = machine.clone();
    Ok(Capture { machine, number, socket, disks, request, stopped_for, files, finished: false })
}

/// A node that reads nothing and says something.
async fn mark(machine: &Machine, name: &str) -> Result<(), CaptureError> {
    machine.execute("blockdev-add", json!({"driver": "null-co", "node-name": name, "size": 0})).await?;
    Ok(())
}

async fn start_serving(machine: &Machine, socket: &Path) -> Result<(), CaptureError> {
    mark(machine, names::SERVER).await?;
    let addr = json!({"type": "unix", "data": {"path": socket}});
    let server = json!({"addr": addr, "max-connections": CONNECTIONS_MAX});
    let started = machine.execute("nbd-server-start", server).await;
    if let Err(MachineError::Qmp(QmpError::Refused { .. })) = started {
        // What runs already is another's, and must not be stopped.
        end::delete(machine, names::SERVER).await?;
    }
    Ok(started.map(drop)?)
}

/// QEMU writes everything out when it stops a guest. What is written out before need not be waited for then.
async fn sync_images(plans: &[DiskPlan]) {
    let files: Vec<String> = plans.iter().map(|p| p.file.clone()).filter(|f| f.starts_with('/')).collect();
    let synced = tokio::task::spawn_blocking(move || {
        for path in files {
            if let Err(error) = File::open(&path).and_then(|file| file.sync_data()) {
                tracing::debug!(%error, path, "an image could not be written out before its capture");
            }
        }
    });
    if timeout(SYNC_TIMEOUT, synced).await.is_err() {
        tracing::warn!("the host takes long to write out disk images; the guest may stand still for longer");
    }
}

/// The instant itself, sent to QEMU in one piece: it lets the guest go on even if this process ends meanwhile.
async fn instant(
    machine: &Machine,
    plans: &[DiskPlan],
    runs: bool,
) -> Result<Option<Duration>, CaptureError> {
    let mut commands: Vec<(&str, Value)> = Vec::new();
    for plan in plans {
        if let Some(device) = &plan.device {
            let filter = plan.disk.filter();
            commands.push(("qom-set", json!({"path": device, "property": "drive", "value": filter})));
        }
    }
    let bitmaps = plan::transaction(plans);
    if bitmaps["actions"].as_array().is_some_and(|actions| !actions.is_empty()) {
        commands.push(("transaction", bitmaps));
    }
    if !runs {
        first_refusal(machine, machine.execute_all(commands, INSTANT_TIMEOUT).await?)?;
        return Ok(None);
    }
    mark(machine, names::STOPPED).await?;
    commands.insert(0, ("stop", json!({})));
    commands.push(("cont", json!({})));
    let stopped = Instant::now();
    let answers = machine.execute_all(commands, INSTANT_TIMEOUT).await;
    let stopped_for = stopped.elapsed();
    end::go_on(machine).await?;
    first_refusal(machine, answers?)?;
    Ok(Some(stopped_for))
}

fn first_refusal(machine: &Machine, answers: Vec<Result<Value, QmpError>>) -> Result<(), CaptureError> {
    match answers.into_iter().find_map(Result::err) {
        Some(error) => Err(machine.gone_or(error).into()),
        None => Ok(()),
    }
}

/// Removes the bitmaps that were begun for a capture that did not come about; the older ones are as they were.
async fn forget(machine: &Machine, plans: &[DiskPlan]) {
    let begun: Vec<_> = plans.iter().filter_map(|p| Some((p.disk, p.begin?.0))).collect();
    if let Err(error) = machine.remove_bitmaps(&begun).await {
        tracing::warn!(%error, "bitmaps of a capture that could not be begun are left");
    }
}

async fn export(machine: &Machine, plans: &[DiskPlan]) -> Result<Vec<CapturedDisk>, CaptureError> {
    let nodes = answers::nodes(machine).await?;
    let mut captured = Vec::new();
    for plan in plans {
        let (disk, node) = (plan.disk, plan.disk.node());
        if plan.device.is_some() {
            let view = json!({"driver": "snapshot-access", "node-name": disk.view(), "file": disk.filter()});
            machine.execute("blockdev-add", view).await?;
        }
        let mut export = json!({"type": "nbd", "id": disk.export(), "node-name": plan.exported(), "name": node,
                                "writable": false});
        let mut changed = None;
        if plan.since.is_some() {
            let context = disk.changed();
            export["bitmaps"] = json!([{"node": node, "name": context}]);
            let copy = nodes.iter().find(|n| n.node_name == node).and_then(|n| n.bitmap(&context));
            let copy = copy.ok_or_else(|| CaptureError::Nonsense {
                command: "query-named-block-nodes",
                why: format!("the bitmap {context} that was just made is not there"),
            })?;
            changed = Some(ChangedMap { granularity: copy.granularity, bytes: copy.count, context });
        }
        machine.execute("block-export-add", export).await?;
        captured.push(CapturedDisk { disk, export: node, bytes: plan.bytes, changed });
    }
    Ok(captured)
}

impl From<QmpError> for CaptureError {
    fn from(error: QmpError) -> Self {
        Self::Machine(MachineError::Qmp(error))
    }
}
