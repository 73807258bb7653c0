//! Get-VMRecoveryPoint and Restore-VMRecoveryPoint: recovery points in vaults, and machines back out of them.

use std::time::Duration;

use nestling_api::{Client, ClientError, v1, v1::RunState};

use super::common::{Call, FORCE, ends, fits, hyperv, machines, or_report, property};
use super::vm_object::{int, texts, vm};
use crate::format::{Column, View};
use crate::frame::{
    Category, Cmdlet, CmdletResult, EnumType, ErrorRecord, Example, Flow, FromPipeline, Impact, Input, Kind,
    Parameter,
};
use crate::value::{DateTime, Object, Value};

const POINT_TYPE: &str = "Nestling.VMRecoveryPoint";
const LOOK_INTERVAL: Duration = Duration::from_millis(300);
/// How often it is told how far a recovery is.
const TELL_INTERVAL: Duration = Duration::from_secs(10);

const FORMAT: EnumType = EnumType { name: "Nestling.DiskFormat", members: &[("Qcow2", 0), ("Raw", 1)] };

static VIEW: View = View {
    type_name: POINT_TYPE,
    columns: &[
        Column::computed("Id", |point| Value::String(property(point, "Id").chars().take(8).collect())),
        Column::property("VMName"),
        Column::property("CreationTime"),
        Column::property("Repository"),
        Column::computed("Size(M)", |point| super::vm_object::megabytes(point, "Size")),
        Column::property("Consistency"),
    ],
    list: &[],
};

const REPOSITORY: Parameter = Parameter::new(
    "Repository",
    Kind::String,
    "Only in this repository; in all that this host knows when absent.",
);

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![
        Cmdlet {
            name: "Get-VMRecoveryPoint",
            aliases: &[],
            class: "Get-VMRecoveryPoint",
            summary: "Gets the recovery points of virtual machines, newest first.",
            parameters: GET,
            input: Input::EachRecord,
            impact: Impact::None,
            views: const { &[&VIEW] },
            examples: &[Example {
                code: "Get-VMRecoveryPoint | Sort-Object Size -Descending",
                says: "All of them, the largest first.",
            }],
            run: |call| Box::pin(get(call)),
        },
        Cmdlet {
            name: "Restore-VMRecoveryPoint",
            aliases: &[],
            class: "Restore-VMRecoveryPoint",
            summary: "Recovers a virtual machine from a recovery point: as a new one, or over its own disks.",
            parameters: RESTORE,
            input: Input::EachRecord,
            impact: Impact::Changes,
            views: const { &[&super::vm_object::VIEW] },
            examples: &[Example {
                code: "Restore-VMRecoveryPoint V@newest -NewVMName V2 -NoSwitch -WhatIf",
                says: "V as it was last, as a new machine without a network; -WhatIf only says so.",
            }],
            run: |call| Box::pin(restore(call)),
        },
    ]
}

const GET: &[Parameter] = &[
    Parameter::new(
        "VMName",
        Kind::Strings,
        "The machines' names, also of those that are no more; wildcards are taken. All when absent.",
    )
    .at(0)
    .in_sets(&["VMName"]),
    Parameter::new(
        "VM",
        Kind::Objects(super::common::VM_TYPE),
        "The virtual machines, as Get-VM gives them.",
    )
    .mandatory()
    .from_pipeline(FromPipeline::Value)
    .in_sets(&["VMObject"]),
    Parameter::new("Newest", Kind::Int { min: 1, max: 5000 }, "Only so many of each name given."),
    REPOSITORY,
];

const RESTORE: &[Parameter] = &[
    Parameter::new("Id", Kind::String, "The first digits of the point's id, or VM@newest.")
        .at(0)
        .mandatory()
        .in_sets(&["Id"]),
    Parameter::new(
        "VMRecoveryPoint",
        Kind::Objects(POINT_TYPE),
        "The point, as Get-VMRecoveryPoint gives it.",
    )
    .mandatory()
    .from_pipeline(FromPipeline::Value)
    .in_sets(&["VMRecoveryPoint"]),
    Parameter::new("NewVMName", Kind::String, "The new machine's name; as it was called when absent."),
    Parameter::switch(
        "InPlace",
        "Writes over the disks of the machine that the point is of, which must be off.",
    ),
    Parameter::new("Disk", Kind::Strings, "Only these disks, such as scsi:1; all when absent."),
    Parameter::new("SwitchMapping", Kind::Hashtable, "Which switches the adapters get: @{'OLD' = 'NEW'}."),
    Parameter::switch("NoSwitch", "Leaves all adapters unplugged."),
    Parameter::new("DiskFormat", Kind::Enum(&FORMAT), "What the new disks are in; as each was when absent."),
    Parameter::switch("GenerateNewId", "A new id and new MAC addresses, though the old ones are free."),
    Parameter::switch(
        "InstantBoot",
        "Lets the new machine run from the vault, until its disks are brought over.",
    ),
    Parameter::new(
        "Image",
        Kind::String,
        "The image whose kernel it starts from, instead of the one that it had.",
    ),
    Parameter::switch("Start", "Starts the machine afterwards."),
    FORCE,
    REPOSITORY,
];

async fn get(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    let newest = call.int("Newest").and_then(|n| u32::try_from(n).ok());
    let repository = call.text("Repository");
    let of = async |vm: Option<&str>, limit| client.points(vm, repository.as_deref(), 0, limit).await;
    if call.parameter_set() == Some("VMObject") {
        for vm in machines(call, "VMName").await? {
            let found = of(Some(&vm.id.to_string()), newest).await;
            if let Some(points) = or_report(call, found)? {
                write(call, &points, newest, points.points.iter());
            }
        }
        return Ok(());
    }
    let mut names = call.texts("VMName");
    if names.is_empty() {
        names.push("*".to_owned());
    }
    for name in names {
        let limit = newest.filter(|_| !has_sets(&name));
        let found = of(asked(&name), limit).await;
        if let Some(points) = or_report(call, found)? {
            let most = newest.map_or(usize::MAX, |n| n as usize);
            let fitting = points.points.iter().filter(|p| !has_sets(&name) || fits(&name, &p.vm));
            write(call, &points, limit, fitting.take(most));
        }
    }
    Ok(())
}

/// Whether a name has something in it that the node does not know, so that all points are looked through here.
fn has_sets(name: &str) -> bool {
    name.contains('[')
}

/// Whose points the node is asked for; `None`: all.
fn asked(name: &str) -> Option<&str> {
    (name != "*" && !has_sets(name)).then_some(name)
}

/// `newest`: so many were asked for, so that others are missed by nobody.
fn write<'p>(
    call: &mut Call<'_>,
    all: &v1::Points,
    newest: Option<u32>,
    points: impl Iterator<Item = &'p v1::Point>,
) {
    for problem in all.problems.iter().cloned().chain(cut(all, newest)).chain(earlier(all)) {
        call.write_warning(&problem);
    }
    for point in points {
        call.emit(object(point));
    }
}

/// The node gives so many at once and no more.
fn cut(all: &v1::Points, newest: Option<u32>) -> Option<String> {
    let is_cut = all.left_out > 0 && newest.is_none_or(|newest| all.points.len() < newest as usize);
    is_cut.then(|| {
        format!(
            "{} older recovery points are not shown; name the machine to see them, or use `nestling backup points --skip`",
            all.left_out
        )
    })
}

/// A machine that took the name of another one hides no points.
fn earlier(all: &v1::Points) -> Option<String> {
    (all.earlier > 0).then(|| {
        format!(
            "{} more recovery points are of an earlier machine of that name; `nestling backup points NAME --earlier` shows them",
            all.earlier
        )
    })
}

fn time(ms: u64) -> Value {
    Value::DateTime(DateTime { unix_ms: i64::try_from(ms).unwrap_or(i64::MAX) })
}

fn object(point: &v1::Point) -> Value {
    let mut object = Object::new(POINT_TYPE)
        .with("Id", point.id.as_str())
        .with("VMName", point.vm.as_str())
        .with("VMId", point.vm_id.map(|id| id.to_string()))
        .with("CreationTime", time(point.taken_at_ms))
        .with("Repository", point.repository.as_str())
        .with("Consistency", point.consistency.clone());
    object.set("Size", point.size_bytes.map_or(Value::Null, int));
    object.set("StoredSize", int(point.stored_bytes));
    object.set("Pinned", point.pinned);
    object.set("ProtectedUntil", point.protected_until_ms.map_or(Value::Null, time));
    object.set("Damaged", point.damaged);
    object.set("Boots", point.proof.as_ref().map_or(Value::Null, |proof| proof.passed.into()));
    object.set("ProofMessage", point.proof.as_ref().map(|proof| proof.message.clone()));
    object.set("Tags", texts(point.tags.iter().cloned()));
    object.set("RunId", point.run_id.map(|id| id.to_string()));
    Value::Object(object)
}

/// What is asked for, and the machine it is about, as far as that is known.
async fn restore(call: &mut Call<'_>) -> CmdletResult {
    let points: Vec<(String, Option<String>)> = if call.parameter_set() == Some("Id") {
        vec![(call.text("Id").unwrap_or_default(), call.text("Repository"))]
    } else {
        let of = |object: &&Object| (property(object, "Id"), Some(property(object, "Repository")));
        call.objects("VMRecoveryPoint").iter().map(of).collect()
    };
    for (point, repository) in points {
        let new = wish(call, point, repository);
        if !agreed(call, &new)? {
            continue;
        }
        match recovered(call, &new).await {
            Ok(vm) => call.emit(vm),
            Err(Flow::Error(record)) => call.write_error(record)?,
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

fn agreed(call: &mut Call<'_>, new: &v1::NewRecovery) -> Result<bool, ErrorRecord> {
    if !new.in_place {
        return call.should_process(&new.point, None);
    }
    if call.switch("Force") && !call.switch("WhatIf") {
        return Ok(true);
    }
    let question = format!(
        "Restore-VMRecoveryPoint will write over the disks of the virtual machine that recovery point \"{}\" is of.",
        new.point
    );
    call.should_destroy(&new.point, &question)
}

fn wish(call: &Call<'_>, point: String, repository: Option<String>) -> v1::NewRecovery {
    v1::NewRecovery {
        point,
        repository,
        in_place: call.switch("InPlace"),
        disks: call.texts("Disk"),
        name: call.text("NewVMName"),
        switches: mappings(call),
        no_switch: call.switch("NoSwitch"),
        format: call.text("DiskFormat").map(|format| match format.as_str() {
            "Raw" => v1::DiskFormat::Raw,
            _ => v1::DiskFormat::Qcow2,
        }),
        new_identity: call.switch("GenerateNewId"),
        instant: call.switch("InstantBoot"),
        image: call.text("Image"),
        start: call.switch("Start"),
        export_folder: None,
        export_format: None,
    }
}

/// Which switches adapters get.
pub fn mappings(call: &Call<'_>) -> Vec<v1::SwitchMapping> {
    match call.value("SwitchMapping") {
        Some(Value::Hashtable(table)) => table
            .iter()
            .map(|(from, to)| v1::SwitchMapping { from: from.to_text(), to: to.to_text() })
            .collect(),
        _ => Vec::new(),
    }
}

/// Recovers, tells how far it is, and gives the machine as Get-VM does.
async fn recovered(call: &mut Call<'_>, new: &v1::NewRecovery) -> Result<Value, Flow> {
    let client = call.context().clone();
    let mut recovery = client.start_recovery(new).await.map_err(|e| ends(&e))?;
    let number = recovery.number.to_string();
    let mut told = tokio::time::Instant::now();
    while matches!(recovery.state, RunState::Waiting | RunState::Running) {
        tokio::time::sleep(LOOK_INTERVAL).await;
        recovery = client.recovery(&number).await.map_err(|e| ends(&e))?;
        if let Some(at) = recovery.progress.as_ref().filter(|at| at.total > 0)
            && told.elapsed() >= TELL_INTERVAL
        {
            told = tokio::time::Instant::now();
            let percent = u128::from(at.done.min(at.total)) * 100 / u128::from(at.total);
            let disk = at.disk.as_deref().unwrap_or_default();
            call.write_progress(&format!("{}: {} {disk} {percent} %", recovery.vm, at.stage));
        }
    }
    for warning in &recovery.warnings {
        call.write_warning(&format!("{}: {warning}", recovery.vm));
    }
    if !matches!(recovery.state, RunState::Succeeded | RunState::SucceededWithWarnings) {
        return Err(failed(&recovery).into());
    }
    let id = recovery.vm_id.map_or(recovery.vm, |id| id.to_string());
    let made = client.vm(&id).await.map_err(|e: ClientError| Flow::from(hyperv(&e)))?;
    Ok(vm(&made))
}

fn failed(recovery: &v1::Recovery) -> ErrorRecord {
    let reason = recovery.reason.clone().unwrap_or_else(|| format!("{:?}", recovery.state).to_lowercase());
    let message = format!("'{}' was not recovered: {reason}", recovery.vm);
    ErrorRecord::new(Category::NotSpecified, "VirtualizationException", "OperationFailed", message)
        .with_target(recovery.point.clone(), "String")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_the_node_cut_is_told() {
        let all = |left_out| v1::Points { points: Vec::new(), left_out, earlier: 0, problems: Vec::new() };
        assert_eq!(cut(&all(0), None), None);
        assert!(cut(&all(3), None).unwrap().starts_with("3 older"));
        assert_eq!(cut(&all(3), Some(0)), None, "nobody asked for them");
        assert!(cut(&all(3), Some(10)).is_some(), "more were asked for than there came");
        assert_eq!(earlier(&all(3)), None);
        assert!(earlier(&v1::Points { earlier: 2, ..all(0) }).unwrap().starts_with("2 more"));
    }

    #[test]
    fn the_node_answers_what_it_can() {
        for name in ["web", "web*", "w?b"] {
            assert_eq!(asked(name), Some(name));
        }
        assert_eq!((asked("*"), asked("web[12]")), (None, None));
    }
}
