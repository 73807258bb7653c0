//! From a request to an instant: all that takes time is made ready while the guest runs, and only then it stands still.

use std::{
    fs::File,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::timeout;

use super::{
    Capture, CaptureError, CaptureRequest, CapturedDisk, ChangedMap, Held, Outcome, PreparedCapture, answers,
    end, fleecing, names,
    plan::{self, DiskPlan},
};
use crate::{Machine, MachineError, RunState, qmp::QmpError};

/// For an image's host to write out what it holds; the instant comes in any case.
const SYNC_TIMEOUT: Duration = Duration::from_secs(30);
/// For the guest's disks to come to rest, and the instant.
const INSTANT_TIMEOUT: Duration = Duration::from_secs(60);
/// Readers of all disks together.
const CONNECTIONS_MAX: u32 = 128;

/// Both steps are tasks of their own, so that a caller that goes away leaves a capture that ends, and not half of one.
pub(super) async fn prepare(
    machine: &Machine,
    request: CaptureRequest,
) -> Result<PreparedCapture, CaptureError> {
    let machine = machine.clone();
    let task = tokio::spawn(async move {
        let captures = machine.captures();
        let _turn = captures.turn().await;
        if captures.is_active() {
            return Err(CaptureError::Busy);
        }
        let ready = make_ready(&machine, request).await;
        if ready.is_err() {
            // What cannot be removed now is removed before the next capture.
            if let Err(error) = end::tear_down(&machine).await {
                tracing::warn!(%error, "a capture that could not be made ready left something behind");
            }
        }
        ready
    });
    task.await.unwrap_or_else(|e| Err(CaptureError::Ended { why: e.to_string() }))
}

async fn make_ready(machine: &Machine, request: CaptureRequest) -> Result<PreparedCapture, CaptureError> {
    fleecing::check(&request.fleecing)?;
    end::tear_down(machine).await?;
    runs(machine).await?;
    let plans = plan::plan(&request, &answers::nodes(machine).await?, &answers::devices(machine).await?)?;
    let mut files = Vec::new();
    for plan in plans.iter().filter(|p| p.device.is_some()) {
        files.push(fleecing::make(machine, plan, &request.fleecing).await?);
    }
    start_serving(machine).await?;
    sync_images(&plans).await;
    let begun = plans.iter().filter_map(|p| Some((p.disk, p.begin?.0))).collect();
    let number = machine.captures().activate(plans.iter().map(|p| p.disk).collect());
    let held = Held { machine: machine.clone(), number, begun, files, finished: false };
    Ok(PreparedCapture { held, plans })
}

/// Whether the guest must be stopped for an instant.
async fn runs(machine: &Machine) -> Result<bool, CaptureError> {
    match machine.run_state().await? {
        RunState::Running => Ok(true),
        RunState::Paused | RunState::DiskError => Ok(false),
        RunState::Other(state) => Err(CaptureError::State { state }),
        other => Err(CaptureError::State { state: format!("{other:?}").to_lowercase() }),
    }
}

pub(super) async fn instant(prepared: PreparedCapture) -> Result<Capture, CaptureError> {
    let task = tokio::spawn(async move {
        let PreparedCapture { mut held, plans } = prepared;
        match make_instant(&held, &plans).await {
            Ok((stopped_for, disks)) => {
                let socket = held.machine.nbd_socket();
                Ok(Capture { held, socket, disks, stopped_for })
            }
            Err(error) => {
                // If this fails, too, dropping it tries once more.
                end::finish(&mut held, &Outcome::Failed).await.ok();
                Err(error)
            }
        }
    });
    task.await.unwrap_or_else(|e| Err(CaptureError::Ended { why: e.to_string() }))
}

async fn make_instant(
    held: &Held,
    plans: &[DiskPlan],
) -> Result<(Option<Duration>, Vec<CapturedDisk>), CaptureError> {
    let machine = &held.machine;
    let _turn = machine.captures().turn().await;
    machine.captures().check(held.number)?;
    let stopped_for = stand_still(machine, plans).await?;
    Ok((stopped_for, export(machine, plans).await?))
}

/// A node that reads nothing and says something.
async fn mark(machine: &Machine, name: &str) -> Result<(), CaptureError> {
    machine.execute("blockdev-add", json!({"driver": "null-co", "node-name": name, "size": 0})).await?;
    Ok(())
}

async fn start_serving(machine: &Machine) -> Result<(), CaptureError> {
    mark(machine, names::SERVER).await?;
    let addr = json!({"type": "unix", "data": {"path": machine.nbd_socket()}});
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
async fn stand_still(machine: &Machine, plans: &[DiskPlan]) -> Result<Option<Duration>, CaptureError> {
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
    if !runs(machine).await? {
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

async fn export(machine: &Machine, plans: &[DiskPlan]) -> Result<Vec<CapturedDisk>, CaptureError> {
    let nodes = answers::nodes(machine).await?;
    let mut captured = Vec::new();
    for plan in plans {
        let (disk, node) = (plan.disk, plan.disk.node());
        if plan.device.is_some() {
            let view = json!({"driver": "snapshot-access", "node-name": disk.view(), "file": disk.filter()});
            machine.execute("blockdev-add", view).await?;
            let whole = disk.whole();
            machine
                .execute(
                    "block-export-add",
                    json!({"type": "nbd", "id": whole, "node-name": disk.view(),
                                                       "name": whole, "writable": false}),
                )
                .await?;
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
