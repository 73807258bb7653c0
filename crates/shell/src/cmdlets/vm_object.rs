//! A machine as Get-VM shows it: Hyper-V's properties, in Hyper-V's order.

use nestling_api::v1;

use super::adapter_object;
use super::common::VM_TYPE;
use crate::format::{Column, View};
use crate::frame::EnumType;
use crate::value::{DateTime, Object, TimeSpan, Value};

pub const STATE: EnumType = EnumType {
    name: "Microsoft.HyperV.PowerShell.VMState",
    members: &[
        ("Running", 2),
        ("Off", 3),
        ("Stopping", 4),
        ("Saved", 6),
        ("Paused", 9),
        ("Starting", 10),
        ("Saving", 32773),
        ("Pausing", 32776),
        ("Resuming", 32777),
    ],
};

pub const START_ACTION: EnumType = EnumType {
    name: "Microsoft.HyperV.PowerShell.StartAction",
    members: &[("Nothing", 2), ("StartIfRunning", 3), ("Start", 4)],
};

pub const STOP_ACTION: EnumType = EnumType {
    name: "Microsoft.HyperV.PowerShell.StopAction",
    members: &[("TurnOff", 2), ("Save", 3), ("ShutDown", 4)],
};

pub static VIEW: View = View {
    type_name: VM_TYPE,
    columns: &[
        Column::property("Name"),
        Column::property("State"),
        Column::computed("CPUUsage(%)", |vm| vm.get("CPUUsage").cloned().unwrap_or_default()),
        Column::computed("MemoryAssigned(M)", |vm| megabytes(vm, "MemoryAssigned")),
        Column::property("Uptime"),
        Column::property("Status"),
        Column::property("Version"),
    ],
    list: &[],
};

/// A size in bytes as whole megabytes, for a column `(M)`.
pub fn megabytes(object: &Object, property: &str) -> Value {
    match object.get(property) {
        Some(Value::Int(bytes)) => Value::Int(bytes >> 20),
        _ => Value::Null,
    }
}

pub fn member(of: &'static EnumType, name: &str) -> Value {
    of.find(name).unwrap_or_else(|| Value::string(name))
}

pub fn state(state: v1::VmState) -> Value {
    member(&STATE, &format!("{state:?}"))
}

pub fn int(n: impl TryInto<i64>) -> Value {
    n.try_into().map_or(Value::Null, Value::Int)
}

pub fn texts<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Value {
    Value::Array(items.into_iter().map(|t| Value::String(t.into())).collect())
}

/// The words of Hyper-V's status column.
fn status(vm: &v1::Vm) -> String {
    match &vm.state_reason {
        Some(reason) => reason.clone(),
        None => "Operating normally".to_owned(),
    }
}

const NO_CHECKPOINT: &str = "00000000-0000-0000-0000-000000000000";

pub fn vm(vm: &v1::Vm) -> Value {
    let mut object = Object::new(VM_TYPE)
        .with("VMName", vm.name.as_str())
        .with("VMId", vm.id.to_string())
        .with("AutomaticStartAction", member(&START_ACTION, &format!("{:?}", vm.start_action)))
        .with("AutomaticStartDelay", int(vm.start_delay_seconds))
        .with("AutomaticStopAction", member(&STOP_ACTION, &format!("{:?}", vm.stop_action)))
        .with("CPUUsage", int(vm.cpu_usage_percent))
        .with("MemoryAssigned", int(vm.memory_assigned_bytes))
        .with("Uptime", Value::TimeSpan(TimeSpan { ms: i64::try_from(vm.uptime_ms).unwrap_or(i64::MAX) }))
        .with("Status", status(vm))
        .with("Version", vm.version.as_str())
        .with("Notes", vm.notes.as_str())
        .with("State", state(vm.state));
    parts(&mut object, vm);
    Value::Object(object)
}

fn parts(object: &mut Object, vm: &v1::Vm) {
    let drives = vm.drives.iter().map(|d| super::disk::drive(vm, d)).collect::<Vec<_>>();
    let adapters = vm.adapters.iter().map(|a| adapter_object::adapter(vm, a)).collect::<Vec<_>>();
    object.set("HardDrives", Value::Array(drives));
    object.set("DynamicMemoryEnabled", false);
    object.set("MemoryStartup", int(vm.memory_startup_bytes));
    object.set("ProcessorCount", int(vm.processor_count));
    object.set("Generation", i64::from(vm.generation));
    object.set("IsClustered", false);
    object.set("ParentSnapshotId", Value::Null);
    object.set("ParentSnapshotName", Value::Null);
    let created = i64::try_from(vm.created_at_ms).unwrap_or(i64::MAX);
    object.set("CreationTime", Value::DateTime(DateTime { unix_ms: created }));
    object.set("Id", vm.id.to_string());
    object.set("Name", vm.name.as_str());
    object.set("NetworkAdapters", Value::Array(adapters));
    object.set("ComputerName", ".");
    object.set("IsDeleted", false);
    // Ours: what Hyper-V has no property for.
    object.set("Engine", vm.engine.clone());
    object.set("HostsNestling", vm.hosts_nestling);
    object.set("Tags", texts(vm.tags.iter().cloned()));
}

/// The properties at the end of every part of a machine.
pub fn belongs(object: &mut Object, vm: &v1::Vm) {
    object.set("VMId", vm.id.to_string());
    object.set("VMName", vm.name.as_str());
    object.set("VMSnapshotId", NO_CHECKPOINT);
    object.set("VMSnapshotName", "");
    object.set("CimSession", "CimSession: .");
    object.set("ComputerName", ".");
    object.set("IsDeleted", false);
    object.set("VMCheckpointId", NO_CHECKPOINT);
    object.set("VMCheckpointName", "");
}
