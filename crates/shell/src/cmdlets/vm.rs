//! Get-VM, New-VM, Set-VM, Rename-VM, Remove-VM.

use nestling_api::{Client, v1};

use super::common::{
    Asked, Call, Deed, FORCE, NAME, PASSTHRU, VM, VM_TYPE, by_ids, change_each, ends, fits, for_each, hyperv,
    is_pattern, machines, not_found,
};
use super::vm_object::{START_ACTION, STOP_ACTION, VIEW, vm as object};
use crate::frame::{Cmdlet, CmdletResult, Example, Flow, Impact, Input, Kind, Parameter};

const COUNT: Kind = Kind::Int { min: i64::MIN, max: i64::MAX };

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    let mut all = Vec::from(first_cmdlets());
    all.extend(change_cmdlets());
    all
}

fn first_cmdlets() -> [Cmdlet<Client>; 2] {
    [
        Cmdlet {
            name: "Get-VM",
            aliases: &["gvm"],
            class: "Microsoft.HyperV.PowerShell.Commands.GetVM",
            summary: "Gets the virtual machines of this host.",
            parameters: const {
                &[
                    Parameter::new("Name", Kind::Strings, "Names; wildcards are taken. All when absent.")
                        .alias(&["VMName"])
                        .at(0),
                    Parameter::new("Id", Kind::Strings, "Ids of the virtual machines."),
                ]
            },
            input: Input::EachRecord,
            impact: Impact::None,
            views: const { &[&VIEW] },
            examples: &[Example {
                code: "Get-VM | Where-Object State -eq Off",
                says: "The machines that are off.",
            }],
            run: |call| Box::pin(get(call)),
        },
        Cmdlet {
            name: "New-VM",
            aliases: &[],
            class: "Microsoft.HyperV.PowerShell.Commands.NewVM",
            summary: "Creates a virtual machine.",
            parameters: NEW,
            input: Input::EachRecord,
            impact: Impact::Changes,
            views: const { &[&VIEW] },
            examples: &[Example {
                code: "New-VM -Name Web01 -MemoryStartupBytes 64MB -NoVHD -WhatIf",
                says: "A machine without a disk; -WhatIf only says so.",
            }],
            run: |call| Box::pin(new(call)),
        },
    ]
}

fn change_cmdlets() -> [Cmdlet<Client>; 3] {
    [
        Cmdlet {
            name: "Set-VM",
            aliases: &[],
            class: "Microsoft.HyperV.PowerShell.Commands.SetVM",
            summary: "Changes the settings of virtual machines.",
            parameters: SET,
            input: Input::EachRecord,
            impact: Impact::Changes,
            views: const { &[&VIEW] },
            examples: &[
                Example {
                    code: "Get-VM | Set-VM -AutomaticStartAction Nothing",
                    says: "None starts with the host.",
                },
                Example {
                    code: "Set-VM -Name V -AddTag prod, web -RemoveTag test",
                    says: "Jobs that choose machines by these tags cover it from now on, or no longer.",
                },
            ],
            run: |call| Box::pin(set(call)),
        },
        Cmdlet {
            name: "Rename-VM",
            aliases: &[],
            class: "Microsoft.HyperV.PowerShell.Commands.RenameVM",
            summary: "Renames a virtual machine.",
            parameters: const {
                &[
                    NAME,
                    VM,
                    Parameter::new("NewName", Kind::String, "The new name.").at(1).mandatory(),
                    PASSTHRU,
                ]
            },
            input: Input::EachRecord,
            impact: Impact::Changes,
            views: const { &[&VIEW] },
            examples: &[],
            run: |call| Box::pin(rename(call)),
        },
        Cmdlet {
            name: "Remove-VM",
            aliases: &[],
            class: "Microsoft.HyperV.PowerShell.Commands.RemoveVM",
            summary: "Removes a virtual machine. Its virtual disks stay.",
            parameters: const { &[NAME, VM, FORCE, PASSTHRU] },
            input: Input::EachRecord,
            impact: Impact::Destroys,
            views: &[],
            examples: &[],
            run: |call| Box::pin(remove(call)),
        },
    ]
}

async fn get(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    let ids = call.texts("Id");
    for vm in by_ids(call, ids).await? {
        call.emit(object(&vm));
    }
    let mut names = call.texts("Name");
    if names.is_empty() {
        if call.has("Id") {
            return Ok(());
        }
        names.push("*".to_owned());
    }
    let all = client.vms().await.map_err(|e| ends(&e))?;
    for name in names {
        let found: Vec<_> = all.iter().filter(|vm| fits(&name, &vm.name)).collect();
        if found.is_empty() && !is_pattern(&name) {
            call.write_error(not_found("name", &name))?;
        }
        for vm in found {
            call.emit(object(vm));
        }
    }
    Ok(())
}

const NEW: &[Parameter] = &[
    Parameter::new("Name", Kind::String, "The name.").alias(&["VMName"]).at(0).mandatory(),
    Parameter::new("MemoryStartupBytes", COUNT, "Memory, such as 2GB; 512MB when absent.").at(1),
    Parameter::new("Generation", Kind::Int { min: 1, max: 2 }, "1 for BIOS, 2 for UEFI; 1 when absent."),
    Parameter::new("NoVHD", Kind::Switch, "No virtual disk.").in_sets(&["NoVHD"]),
    Parameter::new("VHDPath", Kind::String, "A virtual disk to attach.")
        .mandatory()
        .in_sets(&["ExistingVHD"]),
    Parameter::new("NewVHDPath", Kind::String, "A virtual disk to create and attach.")
        .mandatory()
        .in_sets(&["NewVHD"]),
    Parameter::new("NewVHDSizeBytes", Kind::SIZE, "The new disk's size, such as 40GB.")
        .mandatory()
        .in_sets(&["NewVHD"]),
    Parameter::new("Image", Kind::String, "An image of this host's store to run. Ours.")
        .mandatory()
        .in_sets(&["Image"]),
    Parameter::new("Append", Kind::String, "Added to the image's kernel command line. Ours.")
        .in_sets(&["Image"]),
    Parameter::new("SwitchName", Kind::String, "The switch that its network adapter is connected to."),
    Parameter::new("Version", Kind::String, "Configuration version; the latest when absent."),
    Parameter::new("Tag", Kind::Strings, "Tags, by which backup jobs choose it. Ours."),
    Parameter::switch("Force", "Goes ahead without asking."),
];

async fn new(call: &mut Call<'_>) -> CmdletResult {
    let name = call.text("Name").unwrap_or_default();
    if !call.should_process(&name, None)? {
        return Ok(());
    }
    let new = v1::NewVm {
        memory_startup_bytes: size(call, "MemoryStartupBytes")?,
        generation: call.int("Generation").and_then(|n| n.try_into().ok()),
        version: call.text("Version"),
        disk_path: call.text("VHDPath"),
        new_disk_path: call.text("NewVHDPath"),
        new_disk_bytes: call.int("NewVHDSizeBytes").and_then(|n| n.try_into().ok()),
        image: call.text("Image"),
        append: call.text("Append"),
        switch: call.text("SwitchName"),
        tags: call.texts("Tag"),
        name,
        ..v1::NewVm::default()
    };
    let vm = call.context().clone().create_vm(&new).await.map_err(|e| ends(&e))?;
    call.emit(object(&vm));
    Ok(())
}

/// A size in bytes; what is negative can never be one.
pub fn size(call: &Call<'_>, parameter: &'static str) -> Result<Option<u64>, Flow> {
    let Some(bytes) = call.int(parameter) else { return Ok(None) };
    match u64::try_from(bytes) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(_) => {
            Err(call.invalid_argument(parameter, &format!("{bytes} bytes of memory cannot be given.")).into())
        }
    }
}

const SET: &[Parameter] = &[
    NAME,
    VM,
    Parameter::new("ProcessorCount", COUNT, "Virtual processors."),
    Parameter::new("MemoryStartupBytes", COUNT, "Memory, such as 2GB."),
    Parameter::new("AutomaticStartAction", Kind::Enum(&START_ACTION), "What happens when the host starts."),
    Parameter::new("AutomaticStartDelay", Kind::Int { min: 0, max: 86_400 }, "Seconds to wait before that."),
    Parameter::new("AutomaticStopAction", Kind::Enum(&STOP_ACTION), "What happens when the host shuts down."),
    Parameter::new("Notes", Kind::String, "Notes."),
    Parameter::new("NewVMName", Kind::String, "A new name."),
    Parameter::new("AddTag", Kind::Strings, "Tags that it gets. Ours."),
    Parameter::new("RemoveTag", Kind::Strings, "Tags that it loses, if it has them. Ours."),
    PASSTHRU,
];

pub fn start_action(call: &Call<'_>) -> Option<v1::StartAction> {
    Some(match call.text("AutomaticStartAction")?.as_str() {
        "Start" => v1::StartAction::Start,
        "StartIfRunning" => v1::StartAction::StartIfRunning,
        _ => v1::StartAction::Nothing,
    })
}

fn stop_action(call: &Call<'_>) -> Option<v1::StopAction> {
    Some(match call.text("AutomaticStopAction")?.as_str() {
        "Save" => v1::StopAction::Save,
        "ShutDown" => v1::StopAction::ShutDown,
        _ => v1::StopAction::TurnOff,
    })
}

/// A count for the node to judge: what no `u32` holds becomes one that no host has.
pub fn count(call: &Call<'_>, parameter: &'static str) -> Option<u32> {
    call.int(parameter).map(|n| u32::try_from(n.max(0)).unwrap_or(u32::MAX))
}

async fn set(call: &mut Call<'_>) -> CmdletResult {
    let change = v1::VmChange {
        name: call.text("NewVMName"),
        notes: call.text("Notes"),
        add_tags: call.texts("AddTag"),
        remove_tags: call.texts("RemoveTag"),
        processor_count: count(call, "ProcessorCount"),
        memory_startup_bytes: size(call, "MemoryStartupBytes")?,
        start_action: start_action(call),
        start_delay_seconds: count(call, "AutomaticStartDelay"),
        stop_action: stop_action(call),
        ..v1::VmChange::default()
    };
    for_each(call, Deed::Change(Box::new(change))).await
}

async fn rename(call: &mut Call<'_>) -> CmdletResult {
    let change = v1::VmChange { name: call.text("NewName"), ..v1::VmChange::default() };
    for_each(call, Deed::Change(Box::new(change))).await
}

async fn remove(call: &mut Call<'_>) -> CmdletResult {
    let asked = |vm: &v1::Vm| {
        Asked::removal(&vm.name, format!("Remove-VM will remove virtual machine \"{}\".", vm.name))
    };
    let deed = |client: Client, vm: v1::Vm| async move {
        let removed = client.remove_vm(&vm.id.to_string(), false).await;
        removed.map(drop).map_err(|e| hyperv(&e).with_target(vm.name, VM_TYPE))
    };
    let vms = machines(call, "Name").await?;
    change_each(call, vms, asked, deed, |vm, ()| object(vm)).await
}
