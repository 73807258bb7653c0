//! Virtual disks: New-VHD, Get-VHD, Resize-VHD, and Add-, Get- and Remove-VMHardDiskDrive.

use nestling_api::{Client, v1};

use super::common::{Call, PASSTHRU, VM, VM_NAME, ends, hyperv, machines, or_report, property};
use super::vm_object::{belongs, int};
use crate::format::{Column, View};
use crate::frame::{Cmdlet, CmdletResult, EnumType, Flow, FromPipeline, Impact, Input, Kind, Parameter};
use crate::value::{Object, Value};

const DRIVE: &str = "Microsoft.HyperV.PowerShell.HardDiskDrive";
const DISK: &str = "Microsoft.Vhd.PowerShell.VirtualHardDisk";

const CONTROLLER: EnumType =
    EnumType { name: "Microsoft.HyperV.PowerShell.ControllerType", members: &[("IDE", 0), ("SCSI", 1)] };

static DRIVE_VIEW: View = View {
    type_name: DRIVE,
    columns: &[
        Column::property("VMName"),
        Column::property("ControllerType"),
        Column::property("ControllerNumber"),
        Column::property("ControllerLocation"),
        Column::property("DiskNumber"),
        Column::property("Path"),
    ],
    list: &[],
};

/// A list, as Windows shows disks.
static DISK_VIEW: View = View { type_name: DISK, columns: &[], list: &[] };

const PATH: Parameter = Parameter::new("Path", Kind::Strings, "The disk images' files.").at(0).mandatory();

const CONTROLLER_TYPE: Parameter = Parameter::new("ControllerType", Kind::Enum(&CONTROLLER), "IDE or SCSI.");
const LOCATION: Parameter =
    Parameter::new("ControllerLocation", Kind::Int { min: 0, max: 63 }, "The place on the controller.");

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    let mut all = Vec::from(disk_cmdlets());
    all.extend(drive_cmdlets());
    all
}

fn disk_cmdlets() -> [Cmdlet<Client>; 3] {
    let base = |name, class, summary, parameters, impact, run| Cmdlet {
        name,
        aliases: &[],
        class,
        summary,
        parameters,
        input: Input::EachRecord,
        impact,
        views: const { &[&DISK_VIEW] },
        examples: &[],
        run,
    };
    [
        base(
            "New-VHD",
            "Microsoft.Vhd.PowerShell.Cmdlets.NewVhd",
            "Creates virtual disks (qcow2): dynamic, fixed, or differencing from a parent.",
            const {
                &[
                    PATH,
                    Parameter::new("SizeBytes", Kind::SIZE, "The size, such as 40GB.").at(1),
                    Parameter::switch("Dynamic", "Takes space as it is written; the default.")
                        .in_sets(&["Dynamic"]),
                    Parameter::switch("Fixed", "Takes all its space at once.")
                        .mandatory()
                        .in_sets(&["Fixed"]),
                    Parameter::switch("Differencing", "Holds what differs from its parent.")
                        .in_sets(&["Differencing"]),
                    Parameter::new("ParentPath", Kind::String, "The parent.")
                        .mandatory()
                        .in_sets(&["Differencing"]),
                ]
            },
            Impact::Changes,
            |call| Box::pin(new(call)),
        ),
        base(
            "Get-VHD",
            "Microsoft.Vhd.PowerShell.Cmdlets.GetVhd",
            "Gets what is known of virtual disks.",
            const { &[PATH] },
            Impact::None,
            |call| Box::pin(get(call)),
        ),
        base(
            "Resize-VHD",
            "Microsoft.Vhd.PowerShell.Cmdlets.ResizeVhd",
            "Enlarges virtual disks, attached to running machines too.",
            const {
                &[
                    PATH,
                    Parameter::new("SizeBytes", Kind::SIZE, "The new size, such as 40GB.").at(1).mandatory(),
                    PASSTHRU,
                ]
            },
            Impact::Changes,
            |call| Box::pin(resize(call)),
        ),
    ]
}

fn drive_cmdlets() -> [Cmdlet<Client>; 3] {
    let base = |name, class, summary, parameters, impact, run| Cmdlet {
        name,
        aliases: &[],
        class,
        summary,
        parameters,
        input: Input::EachRecord,
        impact,
        views: const { &[&DRIVE_VIEW] },
        examples: &[],
        run,
    };
    [
        base(
            "Get-VMHardDiskDrive",
            "Microsoft.HyperV.PowerShell.Commands.GetVMHardDiskDrive",
            "Gets the virtual disks attached to virtual machines.",
            const { &[VM_NAME, VM, CONTROLLER_TYPE, LOCATION] },
            Impact::None,
            |call| Box::pin(get_drives(call)),
        ),
        base(
            "Add-VMHardDiskDrive",
            "Microsoft.HyperV.PowerShell.Commands.AddVMHardDiskDrive",
            "Attaches a virtual disk, to a running virtual machine too.",
            const {
                &[
                    VM_NAME,
                    VM,
                    Parameter::new("Path", Kind::String, "The disk image's file.").at(1).mandatory(),
                    CONTROLLER_TYPE,
                    LOCATION,
                    PASSTHRU,
                ]
            },
            Impact::Changes,
            |call| Box::pin(add_drive(call)),
        ),
        base(
            "Remove-VMHardDiskDrive",
            "Microsoft.HyperV.PowerShell.Commands.RemoveVMHardDiskDrive",
            "Detaches virtual disks. Their files stay.",
            const {
                &[
                    VM_NAME,
                    Parameter::new(
                        "VMHardDiskDrive",
                        Kind::Objects(DRIVE),
                        "Drives, as Get-VMHardDiskDrive gives them.",
                    )
                    .mandatory()
                    .from_pipeline(FromPipeline::Value)
                    .in_sets(&["VMHardDiskDrive"]),
                    CONTROLLER_TYPE.mandatory().in_sets(&["VMName"]),
                    LOCATION.mandatory().in_sets(&["VMName"]),
                    PASSTHRU,
                ]
            },
            Impact::Changes,
            |call| Box::pin(remove_drives(call)),
        ),
    ]
}

/// Each machine has one controller of a type.
pub fn drive(vm: &v1::Vm, drive: &v1::Drive) -> Value {
    let controller = match drive.controller {
        v1::Controller::Ide => Value::member("IDE", 0),
        v1::Controller::Scsi => Value::member("SCSI", 1),
    };
    let mut object = Object::new(DRIVE)
        .with("Path", drive.path.as_str())
        .with("DiskNumber", Value::Null)
        .with("ControllerLocation", i64::from(drive.location))
        .with("ControllerNumber", 0)
        .with("ControllerType", controller)
        .with("Name", "Hard Drive")
        .with("WriteHardeningMethod", "Default")
        .with("ReadOnly", drive.read_only);
    belongs(&mut object, vm);
    Value::Object(object)
}

fn disk(info: &v1::DiskInfo) -> Value {
    Value::Object(
        Object::new(DISK)
            .with("ComputerName", ".")
            .with("Path", info.path.as_str())
            .with("VhdFormat", format!("{:?}", info.format).to_uppercase())
            .with("VhdType", format!("{:?}", info.kind))
            .with("FileSize", int(info.file_bytes))
            .with("Size", int(info.size_bytes))
            .with("ParentPath", info.parent.clone().unwrap_or_default())
            .with("Attached", info.vm.is_some())
            .with("VMName", info.vm.clone().unwrap_or_default()),
    )
}

async fn new(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    let kind = match call.parameter_set() {
        Some("Fixed") => v1::DiskKind::Fixed,
        Some("Differencing") => v1::DiskKind::Differencing,
        _ => v1::DiskKind::Dynamic,
    };
    for path in call.texts("Path") {
        if !call.should_process(&path, None)? {
            continue;
        }
        let new = v1::NewDisk {
            path,
            kind,
            size_bytes: call.int("SizeBytes").and_then(|n| n.try_into().ok()),
            parent: call.text("ParentPath"),
        };
        let result = client.create_disk(&new).await;
        if let Some(info) = or_report(call, result)? {
            call.emit(disk(&info));
        }
    }
    Ok(())
}

async fn get(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    for path in call.texts("Path") {
        let result = client.disk(&path).await;
        if let Some(info) = or_report(call, result)? {
            call.emit(disk(&info));
        }
    }
    Ok(())
}

async fn resize(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    let size_bytes = call.int("SizeBytes").and_then(|n| n.try_into().ok()).unwrap_or_default();
    for path in call.texts("Path") {
        if !call.should_process(&path, None)? {
            continue;
        }
        let result = client.resize_disk(&path, size_bytes).await;
        if let Some(info) = or_report(call, result)?
            && call.switch("Passthru")
        {
            call.emit(disk(&info));
        }
    }
    Ok(())
}

fn controller(call: &Call<'_>) -> Option<v1::Controller> {
    call.text("ControllerType").map(|t| if t == "IDE" { v1::Controller::Ide } else { v1::Controller::Scsi })
}

fn location(call: &Call<'_>) -> Option<u8> {
    call.int("ControllerLocation").and_then(|n| n.try_into().ok())
}

/// The drives that machine, controller and location mean; what is not given fits all.
async fn drives(call: &mut Call<'_>) -> Result<Vec<(v1::Vm, v1::Drive)>, Flow> {
    let (controller, location) = (controller(call), location(call));
    let mut found = Vec::new();
    for vm in machines(call, "VMName").await? {
        let fitting = vm.drives.iter().filter(|d| controller.is_none_or(|c| c == d.controller));
        found.extend(
            fitting.filter(|d| location.is_none_or(|l| l == d.location)).map(|d| (vm.clone(), d.clone())),
        );
    }
    Ok(found)
}

async fn get_drives(call: &mut Call<'_>) -> CmdletResult {
    for (vm, found) in drives(call).await? {
        call.emit(drive(&vm, &found));
    }
    Ok(())
}

async fn add_drive(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    let new = v1::NewDrive {
        path: call.text("Path").unwrap_or_default(),
        controller: controller(call),
        location: location(call),
        format: None,
        read_only: false,
    };
    for vm in machines(call, "VMName").await? {
        if !call.should_process(&vm.name, None)? {
            continue;
        }
        let result = client.add_drive(&vm.id.to_string(), &new).await;
        if let Some(added) = or_report(call, result)?
            && call.switch("Passthru")
        {
            call.emit(drive(&vm, &added));
        }
    }
    Ok(())
}

async fn remove_drives(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    let mut found = Vec::new();
    if call.has("VMHardDiskDrive") {
        let wanted: Vec<_> = call
            .objects("VMHardDiskDrive")
            .iter()
            .map(|o| (property(o, "VMId"), property(o, "ControllerType"), property(o, "ControllerLocation")))
            .collect();
        for (id, kind, place) in wanted {
            let vm = client.vm(&id).await.map_err(|e| ends(&e))?;
            let own = vm.drives.iter().find(|d| {
                d.location.to_string() == place && (d.controller == v1::Controller::Ide) == (kind == "IDE")
            });
            found.extend(own.cloned().map(|d| (vm.clone(), d)));
        }
    } else {
        found = drives(call).await?;
    }
    for (vm, gone) in found {
        if !call.should_process(&format!("{} of {}", gone.path, vm.name), None)? {
            continue;
        }
        match client.remove_drive(&vm.id.to_string(), gone.controller, gone.location).await {
            Ok(()) if call.switch("Passthru") => call.emit(drive(&vm, &gone)),
            Ok(()) => {}
            Err(error) => call.write_error(hyperv(&error))?,
        }
    }
    Ok(())
}
