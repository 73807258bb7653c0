//! Backup jobs and their runs as objects.

use nestling_api::v1;

use super::vm_object::{int, member, texts};
use crate::format::{Column, View};
use crate::frame::EnumType;
use crate::value::{DateTime, Object, TimeSpan, Value};

pub const JOB_TYPE: &str = "Nestling.VMBackupJob";
pub const RUN_TYPE: &str = "Nestling.VMBackupRun";
const MACHINE_TYPE: &str = "Nestling.VMBackupRunMachine";
const DISK_TYPE: &str = "Nestling.VMBackupRunDisk";

const STATE: EnumType = EnumType {
    name: "Nestling.VMBackupState",
    members: &[
        ("Waiting", 0),
        ("Running", 1),
        ("Succeeded", 2),
        ("SucceededWithWarnings", 3),
        ("Failed", 4),
        ("Cancelled", 5),
        ("Interrupted", 6),
    ],
};

pub static JOB_VIEW: View = View {
    type_name: JOB_TYPE,
    columns: &[
        Column::property("Name"),
        Column::property("Enabled"),
        Column::property("VMName"),
        Column::property("Repository"),
        Column::property("Schedule"),
        Column::property("NextRun"),
        Column::property("LastResult"),
    ],
    list: &[],
};

pub static RUN_VIEW: View = View {
    type_name: RUN_TYPE,
    columns: &[
        Column::property("Id"),
        Column::property("JobName"),
        Column::property("State"),
        Column::property("VMName"),
        Column::property("StartTime"),
        Column::property("Duration"),
        Column::computed("Read(M)", |run| super::vm_object::megabytes(run, "ReadBytes")),
        Column::computed("Stored(M)", |run| super::vm_object::megabytes(run, "StoredBytes")),
    ],
    list: &[],
};

pub fn time(ms: Option<u64>) -> Value {
    let at = ms.and_then(|ms| i64::try_from(ms).ok());
    at.map_or(Value::Null, |unix_ms| Value::DateTime(DateTime { unix_ms }))
}

pub fn span(ms: Option<u64>) -> Value {
    let span = ms.and_then(|ms| i64::try_from(ms).ok());
    span.map_or(Value::Null, |ms| Value::TimeSpan(TimeSpan { ms }))
}

pub fn state(state: v1::RunState) -> Value {
    member(&STATE, &format!("{state:?}"))
}

pub fn job(job: &v1::Job) -> Value {
    let set = &job.settings;
    let rules = set.retention.unwrap_or_default();
    let level = set.consistency.as_ref().map(|consistency| consistency.level).unwrap_or_default();
    let objective = set.objective_seconds.filter(|seconds| *seconds > 0);
    let after = set.after.iter().flatten().map(|after| after.job.clone());
    let copies = set.copies.iter().flatten().map(|copy| copy.repository.clone());
    let last = job.last_run.as_ref();
    let (names, tags) = set.machines();
    let object = Object::new(JOB_TYPE)
        .with("Name", job.name.as_str())
        .with("Id", job.id.to_string())
        .with("Enabled", set.enabled.unwrap_or(true))
        .with("VMName", texts(names))
        .with("Tag", texts(tags))
        .with("ExcludeVMName", texts(set.exclude_vms.iter().flatten().cloned()))
        .with("Rule", texts(set.rules.iter().flatten().cloned()))
        .with("Repository", set.repository.clone())
        .with("Schedule", set.schedule.clone())
        .with("After", texts(after))
        .with("CopyTo", texts(copies))
        .with("KeepLast", int(rules.last))
        .with("KeepHourly", int(rules.hourly))
        .with("KeepDaily", int(rules.daily))
        .with("KeepWeekly", int(rules.weekly))
        .with("KeepMonthly", int(rules.monthly))
        .with("KeepYearly", int(rules.yearly))
        .with("KeepWithinHours", int(rules.within_hours))
        .with("CrashConsistent", level == v1::Consistency::Crash)
        .with("ApplicationConsistent", level == v1::Consistency::Application)
        .with("MaximumParallel", int(set.parallel.unwrap_or(1)))
        .with("Order", format!("{:?}", set.order.unwrap_or_default()))
        .with("RecoveryPointObjective", span(objective.map(|seconds| seconds.saturating_mul(1000))))
        .with("MissedVMs", texts(job.missed.iter().map(|missed| missed.vm.clone())))
        .with("NextRun", time(job.next_run_ms))
        .with("CurrentRunId", job.running.map_or(Value::Null, int))
        .with("LastRunId", last.map_or(Value::Null, |run| int(run.number)))
        .with("LastRun", time(last.and_then(|run| run.ended_at_ms)))
        .with("LastResult", last.map_or(Value::Null, |run| state(run.state)))
        .with("CreationTime", time(Some(job.created_at_ms)))
        .with("Notes", set.notes.clone())
        .with("ComputerName", ".");
    Value::Object(object)
}

fn per_second(bytes: u64, ms: u64) -> Value {
    bytes.saturating_mul(1000).checked_div(ms).map_or(Value::Null, int)
}

fn disk(machine: &v1::MachineRun, disk: &v1::DiskRun) -> Value {
    let object = Object::new(DISK_TYPE)
        .with("Name", disk.name.as_str())
        .with("Size", int(disk.total_bytes))
        .with("ReadBytes", int(disk.read_bytes))
        .with("ReadBytesPerSecond", per_second(disk.read_bytes, machine.save_ms))
        .with("NewBytes", int(disk.new_bytes))
        .with("StoredBytes", int(disk.stored_bytes))
        .with("Reading", disk.reading.map(|reading| format!("{reading:?}")))
        .with("Reason", disk.reason.clone());
    Value::Object(object)
}

fn machine(machine: &v1::MachineRun) -> Value {
    let read = machine.disks.iter().map(|disk| disk.read_bytes).sum::<u64>();
    let disks = machine.disks.iter().map(|one| disk(machine, one)).collect::<Vec<_>>();
    let object = Object::new(MACHINE_TYPE)
        .with("VMName", machine.vm.as_str())
        .with("VMId", machine.vm_id.to_string())
        .with("State", state(machine.state))
        .with("RecoveryPointId", machine.point.clone())
        .with("Consistency", machine.consistency.clone())
        .with("StartTime", time(machine.started_at_ms))
        .with("EndTime", time(machine.ended_at_ms))
        .with("FrozenFor", span(Some(machine.frozen_ms)))
        .with("ReadBytes", int(read))
        .with("ReadBytesPerSecond", per_second(read, machine.save_ms))
        .with("NewBytes", int(machine.new_bytes))
        .with("StoredBytes", int(machine.stored_bytes))
        .with("Disks", Value::Array(disks))
        .with("Warnings", texts(machine.warnings.iter().cloned()))
        .with("Reason", machine.reason.clone());
    Value::Object(object)
}

pub fn run(run: &v1::Run) -> Value {
    let sum = |of: fn(&v1::MachineRun) -> u64| run.machines.iter().map(of).sum::<u64>();
    let read = sum(|machine| machine.disks.iter().map(|disk| disk.read_bytes).sum());
    let took = run.started_at_ms.zip(run.ended_at_ms).map(|(began, ended)| ended.saturating_sub(began));
    let object = Object::new(RUN_TYPE)
        .with("Id", int(run.number))
        .with("RunId", run.id.to_string())
        .with("JobName", run.job.clone())
        .with("State", state(run.state))
        .with("VMName", texts(run.machines.iter().map(|machine| machine.vm.clone())))
        .with("Repository", run.repository.as_str())
        .with("Cause", texts(run.causes.iter().cloned()))
        .with("StartTime", time(run.started_at_ms))
        .with("EndTime", time(run.ended_at_ms))
        .with("Duration", span(took))
        .with("ReadBytes", int(read))
        .with("NewBytes", int(sum(|machine| machine.new_bytes)))
        .with("StoredBytes", int(sum(|machine| machine.stored_bytes)))
        .with("Machines", Value::Array(run.machines.iter().map(machine).collect()))
        .with("Warnings", texts(run.warnings.iter().cloned()))
        .with("Reason", run.reason.clone())
        .with("ComputerName", ".");
    Value::Object(object)
}
