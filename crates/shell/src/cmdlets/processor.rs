//! Get-VMProcessor and Set-VMProcessor: the walkthrough's key commands.

use nestling_api::{Client, v1};

use super::common::{Call, PASSTHRU, VM, VM_NAME, change_part, get_part};
use super::vm::count;
use super::vm_object::{belongs, int, texts};
use crate::format::{Column, View};
use crate::frame::{Cmdlet, CmdletResult, Example, FromPipeline, Impact, Input, Kind, Parameter};
use crate::value::{Object, Value};

const TYPE: &str = "Microsoft.HyperV.PowerShell.VMProcessor";

static VIEW: View = View {
    type_name: TYPE,
    columns: &[
        Column::property("VMName"),
        Column::property("Count"),
        Column::property("CompatibilityForMigrationEnabled"),
        Column::property("CompatibilityForOlderOperatingSystemsEnabled"),
    ],
    list: &[],
};

const PROCESSOR: Parameter =
    Parameter::new("VMProcessor", Kind::Objects(TYPE), "Processors, as Get-VMProcessor gives them.")
        .mandatory()
        .from_pipeline(FromPipeline::Value)
        .in_sets(&["VMProcessor"]);

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![
        Cmdlet {
            name: "Get-VMProcessor",
            aliases: &[],
            class: "Microsoft.HyperV.PowerShell.Commands.GetVMProcessor",
            summary: "Gets the processor settings of virtual machines.",
            parameters: const { &[VM_NAME, VM] },
            input: Input::EachRecord,
            impact: Impact::None,
            views: const { &[&VIEW] },
            examples: &[Example { code: "Get-VMProcessor * | fl *", says: "All that is known of them." }],
            run: |call| Box::pin(get_part(call, object)),
        },
        Cmdlet {
            name: "Set-VMProcessor",
            aliases: &[],
            class: "Microsoft.HyperV.PowerShell.Commands.SetVMProcessor",
            summary: "Changes the processor settings of virtual machines that are off.",
            parameters: const {
                &[
                    VM_NAME,
                    VM,
                    PROCESSOR,
                    Parameter::new(
                        "Count",
                        Kind::Int { min: i64::MIN, max: i64::MAX },
                        "Virtual processors.",
                    ),
                    Parameter::new(
                        "ExposeVirtualizationExtensions",
                        Kind::Bool,
                        "Whether the guest can run virtual machines itself.",
                    ),
                    PASSTHRU,
                ]
            },
            input: Input::EachRecord,
            impact: Impact::Changes,
            views: const { &[&VIEW] },
            examples: &[Example {
                code: "Get-VM | Set-VMProcessor -ExposeVirtualizationExtensions $true -WhatIf",
                says: "Lets every machine host others; -WhatIf only says so.",
            }],
            run: |call| Box::pin(set(call)),
        },
    ]
}

/// Properties in Hyper-V's order. What this host has no control for is told as Hyper-V's default for it.
fn object(vm: &v1::Vm) -> Value {
    let on = !matches!(vm.state, v1::VmState::Off | v1::VmState::Saved);
    let status = |words: &[&str]| if on { texts(words.iter().copied()) } else { texts::<String>([]) };
    let mut object = Object::new(TYPE)
        .with("ResourcePoolName", "Primordial")
        .with("Count", int(vm.processor_count))
        .with("CompatibilityForMigrationEnabled", false)
        .with("CompatibilityForMigrationMode", "MinimumFeatureSet")
        .with("CompatibilityForOlderOperatingSystemsEnabled", false)
        .with("HwThreadCountPerCore", 0)
        .with("ExposeVirtualizationExtensions", vm.expose_virtualization_extensions);
    for name in [
        "EnablePerfmonPmu",
        "EnablePerfmonLbr",
        "EnablePerfmonPebs",
        "EnablePerfmonIpt",
        "EnableLegacyApicMode",
    ] {
        object.set(name, false);
    }
    object.set("ApicMode", "Default");
    object.set("AllowACountMCount", true);
    object.set("CpuBrandString", "");
    for (name, value) in [
        ("PerfCpuFreqCapMhz", 0),
        ("Maximum", 100),
        ("Reserve", 0),
        ("RelativeWeight", 100),
        ("MaximumCountPerNumaNode", i64::from(vm.processor_count)),
        ("MaximumCountPerNumaSocket", 1),
    ] {
        object.set(name, value);
    }
    object.set("EnableHostResourceProtection", false);
    object.set("OperationalStatus", status(&["Ok", "HostResourceProtectionDisabled"]));
    object.set("StatusDescription", status(&["OK", "Host resource protection is disabled."]));
    object.set("Name", "Processor");
    let id = vm.id.to_string().to_uppercase();
    object.set("Id", format!("Microsoft:{id}\\b637f346-6a0e-4dec-af52-bd70cb80a21d\\0"));
    belongs(&mut object, vm);
    Value::Object(object)
}

async fn set(call: &mut Call<'_>) -> CmdletResult {
    let change = v1::VmChange {
        processor_count: count(call, "Count"),
        expose_virtualization_extensions: call.bool("ExposeVirtualizationExtensions"),
        ..v1::VmChange::default()
    };
    change_part(call, "VMProcessor", &change, object).await
}
