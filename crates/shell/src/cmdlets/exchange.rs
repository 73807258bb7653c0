//! Import-VM and Export-VM: machines from and to other programs.

use nestling_api::{Client, client::Lines, v1};

use super::common::{Call, PASSTHRU, ends};
use super::recovery_point::mappings;
use super::vm_object::{VIEW, vm as object};
use crate::frame::{
    Category, Cmdlet, CmdletResult, EnumType, ErrorRecord, Example, Impact, Input, Kind, Parameter,
};

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![
        Cmdlet {
            name: "Import-VM",
            aliases: &[],
            class: "Microsoft.HyperV.PowerShell.Commands.ImportVM",
            summary: "Imports a virtual machine of Hyper-V, of OVF, or of libvirt. Its disks are copied.",
            parameters: PARAMETERS,
            input: Input::EachRecord,
            impact: Impact::Changes,
            views: const { &[&VIEW] },
            examples: &[Example {
                code: "Import-VM -Path /exports/Web01 -Copy -GenerateNewId -WhatIf",
                says: "The machine of an export, as a copy with an id of its own; -WhatIf only says so.",
            }],
            run: |call| Box::pin(import(call)),
        },
        Cmdlet {
            name: "Export-VM",
            aliases: &[],
            class: "Microsoft.HyperV.PowerShell.Commands.ExportVM",
            summary: "Writes a virtual machine that is off to a new folder, for other programs.",
            parameters: EXPORT,
            input: Input::EachRecord,
            impact: Impact::Changes,
            views: const { &[&VIEW] },
            examples: &[Example {
                code: "Export-VM V -Path /exports/V -DiskFormat Vhdx -WhatIf",
                says: "Its disks as VHDX, with descriptions for others; -WhatIf only says so.",
            }],
            run: |call| Box::pin(export(call)),
        },
    ]
}

const FORMAT: EnumType =
    EnumType { name: "Nestling.ImageFormat", members: &[("Raw", 0), ("Qcow2", 1), ("Vhdx", 2), ("Vmdk", 3)] };

const EXPORT: &[Parameter] = &[
    Parameter::new("Name", Kind::String, "The virtual machine's name.").alias(&["VMName"]).at(0).mandatory(),
    Parameter::new("Path", Kind::String, "The folder to make; it must not be there yet.").at(1).mandatory(),
    Parameter::new("DiskFormat", Kind::Enum(&FORMAT), "What the disks are written as; Qcow2 when absent."),
    PASSTHRU,
];

const PARAMETERS: &[Parameter] = &[
    Parameter::new("Path", Kind::String, "The description (.vmcx, .ovf, .ova, .xml), or a folder with one.")
        .at(0)
        .mandatory(),
    Parameter::new(
        "VhdSourcePath",
        Kind::Strings,
        "Folders where disks may lie that are not beside the description.",
    ),
    Parameter::switch(
        "Copy",
        "Copies the disks. There is no other way: nothing is registered where it lies.",
    ),
    Parameter::switch("GenerateNewId", "A new id and new MAC addresses: it is a copy."),
    Parameter::new("NewVMName", Kind::String, "Its name; as its description calls it when absent."),
    Parameter::new("SwitchMapping", Kind::Hashtable, "Which switches the adapters get: @{'OLD' = 'NEW'}."),
    Parameter::switch("NoSwitch", "Leaves all adapters unplugged."),
    Parameter::new(
        "Image",
        Kind::String,
        "The image whose kernel it starts from, instead of the one that it had.",
    ),
];

async fn import(call: &mut Call<'_>) -> CmdletResult {
    let path = call.text("Path").unwrap_or_default();
    if !call.switch("Copy") {
        let message =
            "A virtual machine cannot be registered in place here: its disks are copied. Specify -Copy.";
        return Err(ErrorRecord::new(
            Category::InvalidArgument,
            "VirtualizationException",
            "InvalidParameter",
            message,
        )
        .into());
    }
    if !call.should_process(&path, None)? {
        return Ok(());
    }
    let new = v1::NewImport {
        path,
        disks: call.texts("VhdSourcePath"),
        name: call.text("NewVMName"),
        switches: mappings(call),
        no_switch: call.switch("NoSwitch"),
        new_identity: call.switch("GenerateNewId"),
        image: call.text("Image"),
    };
    let lines = call.context().clone().import_vm(&new).await.map_err(|e| ends(&e))?;
    follow(call, lines, true).await
}

async fn export(call: &mut Call<'_>) -> CmdletResult {
    let (name, folder) = (call.text("Name").unwrap_or_default(), call.text("Path").unwrap_or_default());
    if !call.should_process(&name, None)? {
        return Ok(());
    }
    let format = call.text("DiskFormat").map(|format| match format.as_str() {
        "Raw" => v1::ImageFormat::Raw,
        "Vhdx" => v1::ImageFormat::Vhdx,
        "Vmdk" => v1::ImageFormat::Vmdk,
        _ => v1::ImageFormat::Qcow2,
    });
    let export = v1::ExportVm { folder, format };
    let lines = call.context().clone().export_vm(&name, &export).await.map_err(|e| ends(&e))?;
    let emits = call.switch("Passthru");
    follow(call, lines, emits).await
}

/// Tells what was left out, and gives the machine.
async fn follow(call: &mut Call<'_>, mut lines: Lines<v1::ExchangeProgress>, emits: bool) -> CmdletResult {
    while let Some(line) = lines.next().await {
        let line = line.map_err(|e| ends(&e))?;
        if let Some(warning) = &line.warning {
            call.write_warning(warning);
        }
        if let Some(error) = line.error {
            return Err(ends(&nestling_api::ClientError::from(error)));
        }
        if let Some(vm) = line.vm.filter(|_| emits) {
            call.emit(object(&vm));
        }
    }
    Ok(())
}
