//! Start-VMBackup, Stop-VMBackup, Get-VMBackupRun.

use std::time::Duration;

use nestling_api::{Client, ClientError, v1};

use super::backup_object::{JOB_TYPE, RUN_TYPE, RUN_VIEW, run};
use super::common::{Call, PASSTHRU, VM, VM_NAME, change_each, ends, hyperv, machines, named, property};
use super::{backup_guest, backup_job};
use crate::frame::{
    Category, Cmdlet, CmdletResult, ErrorRecord, Example, Flow, FromPipeline, Impact, Input, Kind, Parameter,
};

const LOOK_INTERVAL: Duration = Duration::from_millis(300);

const JOB_NAME: Parameter =
    Parameter::new("JobName", Kind::Strings, "The backup jobs' names; wildcards are taken.")
        .mandatory()
        .in_sets(&["JobName"]);

const JOB_OBJECT: Parameter =
    Parameter::new("VMBackupJob", Kind::Objects(JOB_TYPE), "Jobs, as Get-VMBackupJob gives them.")
        .mandatory()
        .from_pipeline(FromPipeline::Value)
        .in_sets(&["VMBackupJob"]);

const IDS: Kind = Kind::Ints { min: 1, max: i64::MAX };

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![start_cmdlet(), stop_cmdlet(), get_cmdlet()]
}

fn start_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Start-VMBackup",
        aliases: &[],
        class: "Nestling.Commands.StartVMBackup",
        summary: "Backs virtual machines up, or runs backup jobs, and waits for the end.",
        parameters: const {
            &[
                VM_NAME,
                VM,
                JOB_NAME,
                JOB_OBJECT,
                Parameter::new(
                    "Repository",
                    Kind::String,
                    "Where to save to; the only repository when absent.",
                )
                .in_sets(&["VMName", "VMObject"]),
                Parameter::switch("CrashConsistent", "The guest is left alone.")
                    .in_sets(&["VMName", "VMObject"]),
                backup_guest::APPLICATION_CONSISTENT.in_sets(&["VMName", "VMObject"]),
                backup_guest::APPLICATION.in_sets(&["VMName", "VMObject"]),
                backup_guest::CUT_LOGS.in_sets(&["VMName", "VMObject"]),
                backup_guest::BEFORE.in_sets(&["VMName", "VMObject"]),
                backup_guest::AFTER.in_sets(&["VMName", "VMObject"]),
                backup_guest::AFTER_DURABLE.in_sets(&["VMName", "VMObject"]),
                backup_guest::FAIL.in_sets(&["VMName", "VMObject"]),
                Parameter::switch("Full", "Everything is read, whatever is known of what changed.")
                    .in_sets(&["VMName", "VMObject"]),
                Parameter::switch("NoWait", "Does not wait for the end."),
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&RUN_VIEW] },
        examples: &[
            Example {
                code: "Start-VMBackup -VMName V -CrashConsistent -WhatIf",
                says: "A machine, without asking its guest; -WhatIf only says so.",
            },
            Example {
                code: "Start-VMBackup -VMName V -ApplicationConsistent -CutLogs -WhatIf",
                says: "A machine with its databases, whose logs are cut once the point is durable.",
            },
        ],
        run: |call| Box::pin(start(call)),
    }
}

fn stop_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Stop-VMBackup",
        aliases: &[],
        class: "Nestling.Commands.StopVMBackup",
        summary: "Ends backups that are under way; what they have saved serves the next ones.",
        parameters: const {
            &[
                Parameter::new("Id", IDS, "The runs' numbers.").at(0).mandatory().in_sets(&["Id"]),
                JOB_NAME,
                JOB_OBJECT,
                Parameter::new(
                    "VMBackupRun",
                    Kind::Objects(RUN_TYPE),
                    "Runs, as Get-VMBackupRun gives them.",
                )
                .mandatory()
                .from_pipeline(FromPipeline::Value)
                .in_sets(&["VMBackupRun"]),
                PASSTHRU,
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&RUN_VIEW] },
        examples: &[],
        run: |call| Box::pin(stop(call)),
    }
}

fn get_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Get-VMBackupRun",
        aliases: &[],
        class: "Nestling.Commands.GetVMBackupRun",
        summary: "Gets the backups that were made and those under way, newest first.",
        parameters: const {
            &[
                Parameter::new("Id", IDS, "The runs' numbers; all when absent.").at(0),
                Parameter::new("VMName", Kind::String, "Only those of this machine."),
                Parameter::new("JobName", Kind::String, "Only those of this job."),
                Parameter::new("Newest", Kind::Int { min: 1, max: i64::MAX }, "Only so many."),
            ]
        },
        input: Input::EachRecord,
        impact: Impact::None,
        views: const { &[&RUN_VIEW] },
        examples: &[Example { code: "Get-VMBackupRun -Newest 5", says: "The last five." }],
        run: |call| Box::pin(get(call)),
    }
}

/// The jobs that `-JobName` or `-VMBackupJob` mean.
async fn jobs(call: &mut Call<'_>) -> Result<Vec<v1::Job>, Flow> {
    let mut names = call.texts("JobName");
    names.extend(call.objects("VMBackupJob").iter().map(|object| property(object, "Name")));
    if names.is_empty() { Ok(Vec::new()) } else { backup_job::named(call, names).await }
}

async fn start(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    if matches!(call.parameter_set(), Some("JobName" | "VMBackupJob")) {
        for job in jobs(call).await? {
            if call.should_process(&job.name, None)? {
                let begun = client.run_job(&job.id.to_string()).await;
                ended(call, &client, begun).await?;
            }
        }
        return Ok(());
    }
    for (shown, vm) in meant(call).await? {
        if call.should_process(&shown, None)? {
            let begun = client.start_run(&wish(call, vm)).await;
            ended(call, &client, begun).await?;
        }
    }
    Ok(())
}

/// The machines, as they are shown and as the node is told: those of its own by their ids, those inside others by their paths.
async fn meant(call: &mut Call<'_>) -> Result<Vec<(String, String)>, Flow> {
    let own = |vm: v1::Vm| (vm.name, vm.id.to_string());
    if call.parameter_set() == Some("VMObject") {
        return Ok(machines(call, "VMName").await?.into_iter().map(own).collect());
    }
    let (inside, names): (Vec<String>, Vec<String>) =
        call.texts("VMName").into_iter().partition(|name| name.contains('/'));
    let mut meant: Vec<(String, String)> = Vec::new();
    if !names.is_empty() {
        meant.extend(named(call, names).await?.into_iter().map(own));
    }
    meant.extend(inside.into_iter().map(|path| (path.clone(), path)));
    Ok(meant)
}

fn wish(call: &Call<'_>, vm: String) -> v1::NewRun {
    let guest = backup_guest::steps(call);
    let level = match (&guest, call.switch("CrashConsistent")) {
        (Some(_), _) => v1::Consistency::Application,
        (None, true) => v1::Consistency::Crash,
        (None, false) => v1::Consistency::FileSystem,
    };
    v1::NewRun {
        vms: vec![vm],
        repository: call.text("Repository"),
        consistency: level,
        freeze_seconds_max: None,
        freeze_mount_points: Vec::new(),
        fail_if_inconsistent: call.switch("FailIfInconsistent"),
        guest,
        exclude_disks: Vec::new(),
        full: call.switch("Full"),
        tags: Vec::new(),
        pin: false,
        protect_hours: None,
        retention: None,
    }
}

const fn is_under_way(run: &v1::Run) -> bool {
    matches!(run.state, v1::RunState::Waiting | v1::RunState::Running)
}

/// Waits for the end of a run, unless that is not wanted, and writes the run. One that failed is an error besides.
async fn ended(call: &mut Call<'_>, client: &Client, begun: Result<v1::Run, ClientError>) -> CmdletResult {
    let mut found = match begun {
        Ok(found) => found,
        Err(error) => return call.write_error(hyperv(&error)),
    };
    if !call.switch("NoWait") {
        // The node decides how long it takes; whoever waits no longer than wanted says -NoWait.
        while is_under_way(&found) {
            tokio::time::sleep(LOOK_INTERVAL).await;
            found = client.run(&found.number.to_string()).await.map_err(|e| ends(&e))?;
        }
    }
    let failed = !is_under_way(&found)
        && !matches!(found.state, v1::RunState::Succeeded | v1::RunState::SucceededWithWarnings);
    for warning in warnings(&found) {
        call.write_warning(&warning);
    }
    call.emit(run(&found));
    if failed { call.write_error(failure(&found)) } else { Ok(()) }
}

/// Of its machines, and of its own: programs, copies, notices.
fn warnings(run: &v1::Run) -> Vec<String> {
    let of_machine = |machine: &v1::MachineRun| {
        machine.warnings.iter().map(|warning| format!("{}: {warning}", machine.vm)).collect::<Vec<_>>()
    };
    let own = run.warnings.iter().map(|warning| format!("run {}: {warning}", run.number));
    run.machines.iter().flat_map(of_machine).chain(own).collect()
}

fn failure(run: &v1::Run) -> ErrorRecord {
    let of_machine = |machine: &v1::MachineRun| {
        let reason = machine.reason.as_ref()?;
        Some(format!("{}: {reason}", machine.vm))
    };
    let mut reasons: Vec<String> = run.machines.iter().filter_map(of_machine).collect();
    reasons.extend(run.reason.clone());
    let message = format!("The backup of run {} has not succeeded: {}", run.number, reasons.join("\n"));
    ErrorRecord::new(Category::NotSpecified, "VirtualizationException", "OperationFailed", message)
        .with_target(run.number.to_string(), RUN_TYPE)
}

async fn stop(call: &mut Call<'_>) -> CmdletResult {
    let mut wanted: Vec<String> = call.texts("Id");
    wanted.extend(call.objects("VMBackupRun").iter().map(|object| property(object, "Id")));
    for job in jobs(call).await? {
        match job.running {
            Some(number) => wanted.push(number.to_string()),
            None => call.write_warning(&format!("The backup job \"{}\" is not under way.", job.name)),
        }
    }
    let deed = |client: Client, number: String| async move {
        client.cancel_run(&number).await.map_err(|e| hyperv(&e))
    };
    change_each(call, wanted, |number| number.clone().into(), deed, |_, stopped| run(stopped)).await
}

async fn get(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    let (vm, job) = (call.text("VMName"), call.text("JobName"));
    let newest = call.int("Newest").and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    let ids = call.texts("Id");
    if ids.is_empty() {
        let all = client.runs(vm.as_deref(), job.as_deref()).await.map_err(|e| ends(&e))?;
        all.iter().take(newest).for_each(|found| call.emit(run(found)));
        return Ok(());
    }
    for id in ids {
        match client.run(&id).await {
            Ok(found) => call.emit(run(&found)),
            Err(error) => call.write_error(hyperv(&error))?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_run_warns_of_besides_its_machines_is_told() {
        let run: v1::Run = serde_json::from_value(serde_json::json!({
            "id": "00000000-0000-0000-0000-000000000001",
            "number": 7,
            "state": "SucceededWithWarnings",
            "causes": [],
            "repository": "R",
            "created_at_ms": 1,
            "machines": [{
                "vm": "a",
                "vm_id": "00000000-0000-0000-0000-000000000002",
                "state": "SucceededWithWarnings",
                "warnings": ["no agent"],
            }],
            "warnings": ["the copy was not made"],
        }))
        .unwrap();
        assert_eq!(warnings(&run), ["a: no agent", "run 7: the copy was not made"]);
    }
}
