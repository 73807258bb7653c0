//! Start-VMBackupProof, Get-VMBackupProof: recovery points booted as a test.

use std::time::Duration;

use nestling_api::{Client, v1};

use super::backup_object::{span, state, time};
use super::common::{Call, ends, hyperv};
use super::vm_object::{int, texts};
use crate::format::{Column, View};
use crate::frame::{
    Category, Cmdlet, CmdletResult, ErrorRecord, Example, FromPipeline, Impact, Input, Kind, Parameter,
};
use crate::value::{Object, Value};

const PROOF_TYPE: &str = "Nestling.VMBackupProof";
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

static VIEW: View = View {
    type_name: PROOF_TYPE,
    columns: &[
        Column::property("Id"),
        Column::property("VMName"),
        Column::property("State"),
        Column::property("RecoveryTime"),
        Column::property("StartTime"),
        Column::property("Message"),
    ],
    list: &[],
};

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![start_cmdlet(), get_cmdlet()]
}

fn start_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Start-VMBackupProof",
        aliases: &[],
        class: "Nestling.Commands.StartVMBackupProof",
        summary: "Boots the newest recovery points of virtual machines as a test, and waits for the end.",
        parameters: const {
            &[
                Parameter::new(
                    "VMName",
                    Kind::Strings,
                    "The machines' names, also of those that are no more; wildcards are taken.",
                )
                .at(0)
                .mandatory()
                .from_pipeline(FromPipeline::Value),
                Parameter::new(
                    "Repository",
                    Kind::String,
                    "Where the points are; the only repository when absent.",
                ),
                Parameter::new(
                    "ConsoleText",
                    Kind::String,
                    "The guest is up when this is on its serial console.",
                ),
                Parameter::new(
                    "Port",
                    Kind::Ints { min: 1, max: 65_535 },
                    "The guest is up when each of these TCP ports of it answers; at most 8.",
                ),
                Parameter::switch(
                    "Agent",
                    "The guest is up when its agent answers, and no login prompt suffices.",
                ),
                Parameter::new(
                    "TimeoutSeconds",
                    Kind::Int { min: 1, max: 86_400 },
                    "How long a guest may take to come up; 600 when absent.",
                ),
                Parameter::new(
                    "MaximumParallel",
                    Kind::Int { min: 1, max: 16 },
                    "How many machines run at once; 1 when absent.",
                ),
                Parameter::switch("NoWait", "Does not wait for the end."),
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&VIEW] },
        examples: &[Example {
            code: "Start-VMBackupProof web* -WhatIf",
            says: "All machines whose names begin with web; -WhatIf only says so.",
        }],
        run: |call| Box::pin(start(call)),
    }
}

fn get_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Get-VMBackupProof",
        aliases: &[],
        class: "Nestling.Commands.GetVMBackupProof",
        summary: "Gets what tests of recovery points have found, the newest tests first.",
        parameters: const {
            &[
                Parameter::new(
                    "Id",
                    Kind::Ints { min: 1, max: i64::MAX },
                    "The proofs' numbers; all when absent.",
                )
                .at(0),
                Parameter::new("Newest", Kind::Int { min: 1, max: i64::MAX }, "Only so many proofs."),
            ]
        },
        input: Input::EachRecord,
        impact: Impact::None,
        views: const { &[&VIEW] },
        examples: &[Example {
            code: "Get-VMBackupProof | Where-Object State -eq 'Failed'",
            says: "The recovery points that did not boot.",
        }],
        run: |call| Box::pin(get(call)),
    }
}

async fn start(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    let names = call.texts("VMName");
    if !call.should_process(&names.join(", "), None)? {
        return Ok(());
    }
    let number = |value: Option<i64>| value.and_then(|n| u32::try_from(n).ok());
    let ports = call.texts("Port").iter().filter_map(|port| port.parse().ok()).collect();
    let new = v1::NewProof {
        vms: names,
        repository: call.text("Repository"),
        signs: v1::ProofSigns {
            agent: call.switch("Agent"),
            console: call.text("ConsoleText"),
            ports,
            seconds_max: number(call.int("TimeoutSeconds")),
            ..v1::ProofSigns::default()
        },
        parallel: number(call.int("MaximumParallel")),
        ..v1::NewProof::default()
    };
    let mut found = client.start_proof(&new).await.map_err(|e| ends(&e))?;
    if !call.switch("NoWait") {
        // Each guest has its time; whoever waits no longer than wanted says -NoWait.
        while matches!(found.state, v1::RunState::Waiting | v1::RunState::Running) {
            tokio::time::sleep(LOOK_INTERVAL).await;
            found = client.proof(&found.number.to_string()).await.map_err(|e| ends(&e))?;
        }
    }
    for point in &found.points {
        call.emit(object(&found, point));
        if let Some(reason) = &point.reason {
            call.write_error(failure(point, reason))?;
        }
    }
    Ok(())
}

async fn get(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    let newest = call.int("Newest").and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let ids = call.texts("Id");
    if ids.is_empty() {
        let all = client.proofs().await.map_err(|e| ends(&e))?;
        for proof in all.iter().take(newest) {
            proof.points.iter().for_each(|point| call.emit(object(proof, point)));
        }
        return Ok(());
    }
    for id in ids {
        match client.proof(&id).await {
            Ok(proof) => proof.points.iter().for_each(|point| call.emit(object(&proof, point))),
            Err(error) => call.write_error(hyperv(&error))?,
        }
    }
    Ok(())
}

/// One machine of a proof, so that each can be chosen by what was found.
fn object(proof: &v1::Proof, point: &v1::PointProof) -> Value {
    let message = point.reason.clone().or_else(|| point.seen.clone());
    let object = Object::new(PROOF_TYPE)
        .with("Id", int(proof.number))
        .with("VMName", point.vm.as_str())
        .with("VMId", point.vm_id.map(|id| id.to_string()))
        .with("RecoveryPointId", point.point.as_str())
        .with("Repository", proof.repository.as_str())
        .with("JobName", proof.job.clone())
        .with("State", state(point.state))
        .with("RecoveryTime", span(point.ready_ms))
        .with("StartTime", time(point.started_at_ms))
        .with("EndTime", time(point.ended_at_ms))
        .with("Message", message)
        .with("Console", texts(point.console.iter().cloned()))
        .with("HasScreen", point.has_screen)
        .with("Warnings", texts(point.warnings.iter().cloned()))
        .with("ComputerName", ".");
    Value::Object(object)
}

fn failure(point: &v1::PointProof, reason: &str) -> ErrorRecord {
    let message = format!("The recovery point of '{}' is not proven: {reason}", point.vm);
    ErrorRecord::new(Category::NotSpecified, "VirtualizationException", "OperationFailed", message)
        .with_target(point.point.clone(), "String")
}
