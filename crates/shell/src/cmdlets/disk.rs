//! Virtual disks: New-VHD, Get-VHD, Resize-VHD, and Add-, Get- and Remove-VMHardDiskDrive.

use nestling_api::{Client, v1};

use super::common::{
    Call, PASSTHRU, VM, VM_NAME, by_ids, change_each, hyperv, machines, or_report, property,
};
use super::vm_object::{belongs, int};
use crate::format::{Column, View};
use crate::frame::{
    Call as AnyCall, Category, Cmdlet, CmdletResult, Context, EnumType, ErrorRecord, Flow, FromPipeline,
    Impact, Input, Kind, Parameter,
};
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
const NUMBER: Parameter =
    Parameter::new("ControllerNumber", Kind::Int { min: 0, max: 1 }, "The controller: IDE 0 or 1, SCSI 0.");
const LOCATION: Parameter = Parameter::new(
    "ControllerLocation",
    Kind::Int { min: 0, max: 15 },
    "The place on the controller: 0 or 1 on IDE, 0 to 15 on SCSI.",
);
/// IDE controllers have so many places each; ours are counted through.
const IDE_PLACES: u8 = 2;

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
            const { &[VM_NAME, VM, CONTROLLER_TYPE, NUMBER, LOCATION] },
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
                    NUMBER,
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
                    NUMBER.in_sets(&["VMName"]),
                    LOCATION.mandatory().in_sets(&["VMName"]),
                    PASSTHRU,
                ]
            },
            Impact::Changes,
            |call| Box::pin(remove_drives(call)),
        ),
    ]
}

/// Where a drive is, as Hyper-V counts: two IDE controllers with two places each, and one SCSI controller.
fn address(drive: &v1::Drive) -> (u8, u8) {
    match drive.controller {
        v1::Controller::Ide => (drive.location / IDE_PLACES, drive.location % IDE_PLACES),
        v1::Controller::Scsi => (0, drive.location),
    }
}

pub fn drive(vm: &v1::Vm, drive: &v1::Drive) -> Value {
    let controller = match drive.controller {
        v1::Controller::Ide => Value::member("IDE", 0),
        v1::Controller::Scsi => Value::member("SCSI", 1),
    };
    let (number, location) = address(drive);
    let mut object = Object::new(DRIVE)
        .with("Path", drive.path.as_str())
        .with("DiskNumber", Value::Null)
        .with("ControllerLocation", i64::from(location))
        .with("ControllerNumber", i64::from(number))
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
    let size_bytes = call.int("SizeBytes").and_then(|n| n.try_into().ok()).unwrap_or_default();
    let deed = |client: Client, path: String| async move {
        client.resize_disk(&path, size_bytes).await.map_err(|e| hyperv(&e))
    };
    let paths = call.texts("Path");
    change_each(call, paths, |path| path.clone().into(), deed, |_, info| disk(info)).await
}

fn controller<C: Context>(call: &AnyCall<'_, C>) -> Option<v1::Controller> {
    call.text("ControllerType").map(|t| if t == "IDE" { v1::Controller::Ide } else { v1::Controller::Scsi })
}

fn small<C: Context>(call: &AnyCall<'_, C>, parameter: &'static str) -> Option<u8> {
    call.int(parameter).and_then(|n| n.try_into().ok())
}

/// The drives that machine, controller and location mean; what is not given fits all.
async fn drives(call: &mut Call<'_>) -> Result<Vec<(v1::Vm, v1::Drive)>, Flow> {
    let wanted = (controller(call), small(call, "ControllerNumber"), small(call, "ControllerLocation"));
    let fits = |drive: &&v1::Drive| {
        let (number, location) = address(drive);
        wanted.0.is_none_or(|c| c == drive.controller)
            && wanted.1.is_none_or(|n| n == number)
            && wanted.2.is_none_or(|l| l == location)
    };
    let vms = machines(call, "VMName").await?;
    let found = |vm: &v1::Vm| vm.drives.iter().filter(fits).map(|d| (vm.clone(), d.clone())).collect();
    Ok(vms.iter().flat_map(|vm| -> Vec<_> { found(vm) }).collect())
}

async fn get_drives(call: &mut Call<'_>) -> CmdletResult {
    for (vm, found) in drives(call).await? {
        call.emit(drive(&vm, &found));
    }
    Ok(())
}

/// Refuses a place that no machine has.
fn check_place<C: Context>(call: &AnyCall<'_, C>) -> Result<(), ErrorRecord> {
    let refused = match (controller(call), small(call, "ControllerNumber"), small(call, "ControllerLocation"))
    {
        (Some(v1::Controller::Ide), _, Some(IDE_PLACES..)) => {
            Some(("ControllerLocation", "An IDE controller has the locations 0 and 1."))
        }
        (None | Some(v1::Controller::Scsi), Some(1..), _) => {
            Some(("ControllerNumber", "A virtual machine has one SCSI controller, number 0."))
        }
        _ => None,
    };
    refused.map_or(Ok(()), |(parameter, why)| Err(call.invalid_argument(parameter, why)))
}

/// The controller and the place on it that a new drive of a machine shall have; the node chooses what is left open.
fn place(call: &Call<'_>, vm: &v1::Vm) -> Result<(Option<v1::Controller>, Option<u8>), ErrorRecord> {
    check_place(call)?;
    let controller = controller(call);
    let (number, location) = (small(call, "ControllerNumber"), small(call, "ControllerLocation"));
    if controller != Some(v1::Controller::Ide) {
        return Ok((controller, location));
    }
    let taken = |l: &u8| vm.drives.iter().any(|d| d.controller == v1::Controller::Ide && d.location == *l);
    let location = match (number, location) {
        (None, None) => None,
        (number, Some(location)) => Some(number.unwrap_or(0) * IDE_PLACES + location),
        // The first that is free, or the last, which is then refused as taken.
        (Some(number), None) => {
            let first = number * IDE_PLACES;
            (first..first + IDE_PLACES).find(|l| !taken(l)).or(Some(first + IDE_PLACES - 1))
        }
    };
    Ok((controller, location))
}

async fn add_drive(call: &mut Call<'_>) -> CmdletResult {
    let path = &call.text("Path").unwrap_or_default();
    let mut wanted = Vec::new();
    for vm in machines(call, "VMName").await? {
        let (controller, location) = place(call, &vm)?;
        wanted.push((vm, controller, location));
    }
    let deed = |client: Client, (vm, controller, location): (v1::Vm, _, _)| async move {
        let new = v1::NewDrive { path: path.clone(), controller, location, format: None, read_only: false };
        client.add_drive(&vm.id.to_string(), &new).await.map_err(|e| hyperv(&e))
    };
    change_each(call, wanted, |(vm, ..)| vm.name.clone().into(), deed, |(vm, ..), added| drive(vm, added))
        .await
}

/// What `-ControllerType`, `-ControllerNumber` and `-ControllerLocation` say.
type Place = (Option<v1::Controller>, Option<u8>, Option<u8>);

/// The drive of a machine in one place; of the two controllers that may have it, on the first.
fn drive_at(vm: &v1::Vm, (controller, number, location): Place) -> Option<&v1::Drive> {
    vm.drives.iter().find(|d| {
        controller == Some(d.controller) && location.map(|l| (number.unwrap_or(0), l)) == Some(address(d))
    })
}

fn no_drive(vm: &v1::Vm, (controller, number, location): Place) -> ErrorRecord {
    let kind = if controller == Some(v1::Controller::Ide) { "IDE" } else { "SCSI" };
    ErrorRecord::new(
        Category::InvalidArgument,
        "VirtualizationException",
        "InvalidParameter",
        format!(
            "The virtual machine \"{}\" has no drive at {kind} controller {}, location {}.",
            vm.name,
            number.unwrap_or(0),
            location.unwrap_or(0)
        ),
    )
    .with_target(vm.name.as_str(), "String")
}

async fn remove_drives(call: &mut Call<'_>) -> CmdletResult {
    let mut found = Vec::new();
    if call.has("VMHardDiskDrive") {
        let address_of = |o: &Object| {
            ["ControllerType", "ControllerNumber", "ControllerLocation"].map(|name| property(o, name))
        };
        let wanted: Vec<_> =
            call.objects("VMHardDiskDrive").iter().map(|o| (property(o, "VMId"), address_of(o))).collect();
        for (id, place) in wanted {
            for vm in by_ids(call, vec![id]).await? {
                let own = vm
                    .drives
                    .iter()
                    .find(|d| matches!(drive(&vm, d), Value::Object(o) if address_of(&o) == place));
                found.extend(own.cloned().map(|d| (vm.clone(), d)));
            }
        }
    } else {
        check_place(call)?;
        let place = (controller(call), small(call, "ControllerNumber"), small(call, "ControllerLocation"));
        for vm in machines(call, "VMName").await? {
            match drive_at(&vm, place) {
                Some(there) => found.push((vm.clone(), there.clone())),
                None => call.write_error(no_drive(&vm, place))?,
            }
        }
    }
    let deed = |client: Client, (vm, gone): (v1::Vm, v1::Drive)| async move {
        let removed = client.remove_drive(&vm.id.to_string(), gone.controller, gone.location).await;
        removed.map_err(|e| hyperv(&e))
    };
    let asked = |(vm, gone): &(v1::Vm, v1::Drive)| format!("{} of {}", gone.path, vm.name).into();
    change_each(call, found, asked, deed, |(vm, gone), ()| drive(vm, gone)).await
}

#[cfg(test)]
mod tests {
    use super::{super::common::hollow, *};

    #[test]
    fn places_are_counted_as_hyper_v_does() {
        let at = |controller, location| {
            let drive = v1::Drive {
                path: String::new(),
                format: v1::DiskFormat::Qcow2,
                controller,
                location,
                read_only: false,
            };
            address(&drive)
        };
        let ide: Vec<_> = (0..4).map(|l| at(v1::Controller::Ide, l)).collect();
        assert_eq!(ide, [(0, 0), (0, 1), (1, 0), (1, 1)]);
        assert_eq!(at(v1::Controller::Scsi, 15), (0, 15));
    }

    fn checked(script: &str) -> String {
        let real = cmdlets().into_iter().find(|c| script.starts_with(c.name)).unwrap();
        let checks = hollow(&real, |call| Box::pin(async move { Ok(check_place(call)?) }));
        let mut registry = crate::frame::Registry::with_core();
        registry.add([checks]);
        crate::testing::run_in(std::sync::Arc::new(registry), (), script, None).talk
    }

    #[test]
    fn a_place_that_no_machine_has_is_refused() {
        let remove = |place: &str| checked(&format!("Remove-VMHardDiskDrive vm {place}"));
        assert!(remove("-ControllerType IDE -ControllerLocation 2").contains("locations 0 and 1"));
        let scsi = remove("-ControllerType SCSI -ControllerNumber 1 -ControllerLocation 0");
        assert!(scsi.contains("one SCSI controller"), "{scsi}");
        assert_eq!(remove("-ControllerType IDE -ControllerNumber 1 -ControllerLocation 1"), "");
        let add = checked("Add-VMHardDiskDrive vm -ControllerType IDE -ControllerLocation 2 -Path /x");
        assert!(add.contains("locations 0 and 1"), "{add}");
    }
}
