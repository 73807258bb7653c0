//! Get-VMMemory and Set-VMMemory.

use nestling_api::{Client, v1};

use super::common::{Call, PASSTHRU, VM, VM_NAME, change_part, get_part};
use super::vm::size;
use super::vm_object::{belongs, int, megabytes};
use crate::format::{Column, View};
use crate::frame::{Cmdlet, CmdletResult, Example, FromPipeline, Impact, Input, Kind, Parameter};
use crate::value::{Object, Value};

const TYPE: &str = "Microsoft.HyperV.PowerShell.VMMemory";

static VIEW: View = View {
    type_name: TYPE,
    columns: &[
        Column::property("VMName"),
        Column::property("DynamicMemoryEnabled"),
        Column::computed("Minimum(M)", |m| megabytes(m, "Minimum")),
        Column::computed("Startup(M)", |m| megabytes(m, "Startup")),
        Column::computed("Maximum(M)", |m| megabytes(m, "Maximum")),
    ],
    list: &[],
};

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![
        Cmdlet {
            name: "Get-VMMemory",
            aliases: &[],
            class: "Microsoft.HyperV.PowerShell.Commands.GetVMMemory",
            summary: "Gets the memory settings of virtual machines.",
            parameters: const { &[VM_NAME, VM] },
            input: Input::EachRecord,
            impact: Impact::None,
            views: const { &[&VIEW] },
            examples: &[Example { code: "Get-VMMemory *", says: "The memory of all machines." }],
            run: |call| Box::pin(get_part(call, object)),
        },
        Cmdlet {
            name: "Set-VMMemory",
            aliases: &[],
            class: "Microsoft.HyperV.PowerShell.Commands.SetVMMemory",
            summary: "Changes the memory of virtual machines that are off.",
            parameters: const {
                &[
                    VM_NAME,
                    VM,
                    Parameter::new("VMMemory", Kind::Objects(TYPE), "Memory, as Get-VMMemory gives it.")
                        .mandatory()
                        .from_pipeline(FromPipeline::Value)
                        .in_sets(&["VMMemory"]),
                    Parameter::new(
                        "StartupBytes",
                        Kind::Int { min: i64::MIN, max: i64::MAX },
                        "Memory, such as 2GB.",
                    ),
                    PASSTHRU,
                ]
            },
            input: Input::EachRecord,
            impact: Impact::Changes,
            views: const { &[&VIEW] },
            examples: &[],
            run: |call| Box::pin(set(call)),
        },
    ]
}

/// Memory here is static: its least, its first and its greatest size are one.
fn object(vm: &v1::Vm) -> Value {
    let bytes = || int(vm.memory_startup_bytes);
    let mut object = Object::new(TYPE)
        .with("ResourcePoolName", "Primordial")
        .with("DynamicMemoryEnabled", false)
        .with("Minimum", bytes())
        .with("Startup", bytes())
        .with("Maximum", bytes())
        .with("Name", "Memory");
    belongs(&mut object, vm);
    Value::Object(object)
}

async fn set(call: &mut Call<'_>) -> CmdletResult {
    let change =
        v1::VmChange { memory_startup_bytes: size(call, "StartupBytes")?, ..v1::VmChange::default() };
    change_part(call, "VMMemory", &change, object).await
}
