//! Get-VMSwitch, New-VMSwitch, Set-VMSwitch, Rename-VMSwitch, Remove-VMSwitch.

use nestling_api::{Client, v1};

use super::common::{Asked, Call, FORCE, PASSTHRU, change_each, ends, fits, hyperv, is_pattern};
use crate::format::{Column, View};
use crate::frame::{
    Category, Cmdlet, CmdletResult, EnumType, ErrorRecord, Example, Flow, FromPipeline, Impact, Input, Kind,
    Parameter,
};
use crate::value::{Object, Value};

const TYPE: &str = "Microsoft.HyperV.PowerShell.VMSwitch";

const KIND: EnumType = EnumType {
    name: "Microsoft.HyperV.PowerShell.VMSwitchType",
    members: &[("Private", 0), ("Internal", 1), ("External", 2)],
};

static VIEW: View = View {
    type_name: TYPE,
    columns: &[
        Column::property("Name"),
        Column::property("SwitchType"),
        Column::property("NetAdapterInterfaceDescription"),
    ],
    list: &[],
};

const NAME: Parameter = Parameter::new("Name", Kind::Strings, "The switches' names; wildcards are taken.")
    .alias(&["SwitchName"])
    .at(0)
    .mandatory()
    .in_sets(&["Name"]);

const OBJECT: Parameter =
    Parameter::new("VMSwitch", Kind::Objects(TYPE), "Switches, as Get-VMSwitch gives them.")
        .mandatory()
        .from_pipeline(FromPipeline::Value)
        .in_sets(&["VMSwitch"]);

const ALLOW: Parameter = Parameter::new(
    "AllowManagementOS",
    Kind::Bool,
    "External: whether the host keeps using the network, by an interface of the switch. True when absent.",
);

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![get_cmdlet(), new_cmdlet(), set_cmdlet(), rename_cmdlet(), remove_cmdlet()]
}

fn get_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Get-VMSwitch",
        aliases: &[],
        class: "Microsoft.HyperV.PowerShell.Commands.GetVMSwitch",
        summary: "Gets the virtual switches of this host.",
        parameters: const {
            &[
                Parameter::new("Name", Kind::Strings, "Names; wildcards are taken. All when absent.")
                    .alias(&["SwitchName"])
                    .at(0),
                Parameter::new("SwitchType", Kind::Enums(&KIND), "Only switches of these types."),
            ]
        },
        input: Input::EachRecord,
        impact: Impact::None,
        views: const { &[&VIEW] },
        examples: &[Example { code: "Get-VMSwitch -SwitchType Internal", says: "The internal switches." }],
        run: |call| Box::pin(get(call)),
    }
}

fn new_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "New-VMSwitch",
        aliases: &[],
        class: "Microsoft.HyperV.PowerShell.Commands.NewVMSwitch",
        summary: "Creates a virtual switch: External with -NetAdapterName, else Internal or Private.",
        parameters: const {
            &[
                Parameter::new("Name", Kind::String, "The name.").alias(&["SwitchName"]).at(0).mandatory(),
                Parameter::new("SwitchType", Kind::Enum(&KIND), "Internal or Private.")
                    .mandatory()
                    .in_sets(&["SwitchType"]),
                Parameter::new("NetAdapterName", Kind::String, "The host's adapter that is the way out.")
                    .alias(&["InterfaceAlias"])
                    .mandatory()
                    .in_sets(&["NetAdapterName"]),
                ALLOW.in_sets(&["NetAdapterName"]),
                Parameter::new("Notes", Kind::String, "Notes."),
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&VIEW] },
        examples: &[Example {
            code: "New-VMSwitch -Name “Lab” -SwitchType Internal -WhatIf",
            says: "A switch for guests and the host; -WhatIf only says so.",
        }],
        run: |call| Box::pin(new(call)),
    }
}

fn set_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Set-VMSwitch",
        aliases: &[],
        class: "Microsoft.HyperV.PowerShell.Commands.SetVMSwitch",
        summary: "Changes the type, the uplink or the notes of virtual switches.",
        parameters: const {
            &[
                NAME,
                OBJECT,
                Parameter::new("SwitchType", Kind::Enum(&KIND), "Internal or Private."),
                Parameter::new(
                    "NetAdapterName",
                    Kind::String,
                    "Makes it External, with this adapter as the way out.",
                ),
                ALLOW,
                Parameter::new("Notes", Kind::String, "Notes."),
                PASSTHRU,
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&VIEW] },
        examples: &[],
        run: |call| Box::pin(set(call)),
    }
}

fn rename_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Rename-VMSwitch",
        aliases: &[],
        class: "Microsoft.HyperV.PowerShell.Commands.RenameVMSwitch",
        summary: "Renames a virtual switch.",
        parameters: const {
            &[
                NAME,
                OBJECT,
                Parameter::new("NewName", Kind::String, "The new name.").at(1).mandatory(),
                PASSTHRU,
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&VIEW] },
        examples: &[],
        run: |call| Box::pin(rename(call)),
    }
}

fn remove_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Remove-VMSwitch",
        aliases: &[],
        class: "Microsoft.HyperV.PowerShell.Commands.RemoveVMSwitch",
        summary: "Removes virtual switches that nothing is connected to.",
        parameters: const { &[NAME, OBJECT, FORCE] },
        input: Input::EachRecord,
        impact: Impact::Destroys,
        views: &[],
        examples: &[],
        run: |call| Box::pin(remove(call)),
    }
}

fn object(switch: &v1::Switch) -> Value {
    let uplink = switch.uplink.clone();
    let id = switch.id.to_string();
    let object = Object::new(TYPE)
        .with("Name", switch.name.as_str())
        .with("Id", id)
        .with("Notes", switch.notes.as_str())
        .with("SwitchType", super::vm_object::member(&KIND, &format!("{:?}", switch.kind)))
        .with("AllowManagementOS", switch.kind == v1::SwitchKind::Internal || switch.allow_management_os)
        .with("NetAdapterInterfaceDescription", uplink)
        .with("Bridge", switch.bridge.as_str())
        .with("CimSession", "CimSession: .")
        .with("ComputerName", ".")
        .with("IsDeleted", false);
    Value::Object(object)
}

/// The switches that names mean; all when there is none. A name that fits none is reported.
async fn named(call: &mut Call<'_>, names: Vec<String>) -> Result<Vec<v1::Switch>, Flow> {
    let all = call.context().clone().switches().await.map_err(|e| ends(&e))?;
    if names.is_empty() {
        return Ok(all);
    }
    let mut found = Vec::new();
    for name in names {
        let before = found.len();
        found.extend(all.iter().filter(|s| fits(&name, &s.name)).cloned());
        if found.len() == before && !is_pattern(&name) {
            let message = format!("Hyper-V was unable to find a virtual switch with name \"{name}\".");
            call.write_error(
                ErrorRecord::new(
                    Category::InvalidArgument,
                    "VirtualizationException",
                    "InvalidParameter",
                    message,
                )
                .with_target(name, "String"),
            )?;
        }
    }
    Ok(found)
}

/// The switches that `-Name` or `-VMSwitch` mean.
async fn switches(call: &mut Call<'_>) -> Result<Vec<v1::Switch>, Flow> {
    let mut names = call.texts("Name");
    names.extend(call.objects("VMSwitch").iter().map(|o| super::common::property(o, "Name")));
    named(call, names).await
}

async fn get(call: &mut Call<'_>) -> CmdletResult {
    let kinds = call.texts("SwitchType");
    let names = call.texts("Name");
    for switch in named(call, names).await? {
        if kinds.is_empty() || kinds.contains(&format!("{:?}", switch.kind)) {
            call.emit(object(&switch));
        }
    }
    Ok(())
}

fn kind(call: &Call<'_>) -> Result<Option<v1::SwitchKind>, Flow> {
    if call.has("NetAdapterName") {
        return Ok(Some(v1::SwitchKind::External));
    }
    match call.text("SwitchType").as_deref() {
        None => Ok(None),
        Some("Private") => Ok(Some(v1::SwitchKind::Private)),
        Some("Internal") => Ok(Some(v1::SwitchKind::Internal)),
        Some(_) => Err(call
            .invalid_argument(
                "SwitchType",
                "An External switch is made by naming its adapter with -NetAdapterName.",
            )
            .into()),
    }
}

async fn new(call: &mut Call<'_>) -> CmdletResult {
    let name = call.text("Name").unwrap_or_default();
    let new = v1::NewSwitch {
        kind: kind(call)?.unwrap_or(v1::SwitchKind::Internal),
        notes: call.text("Notes").unwrap_or_default(),
        uplink: call.text("NetAdapterName"),
        allow_management_os: call.bool("AllowManagementOS"),
        name,
    };
    if !call.should_process(&new.name, None)? {
        return Ok(());
    }
    let switch = call.context().clone().create_switch(&new).await.map_err(|e| ends(&e))?;
    call.emit(object(&switch));
    Ok(())
}

async fn change(call: &mut Call<'_>, change: &v1::SwitchChange) -> CmdletResult {
    let deed = |client: Client, switch: v1::Switch| async move {
        client.change_switch(&switch.name, change).await.map_err(|e| hyperv(&e))
    };
    let found = switches(call).await?;
    change_each(call, found, |s| s.name.clone().into(), deed, |_, changed| object(changed)).await
}

async fn set(call: &mut Call<'_>) -> CmdletResult {
    let wanted = v1::SwitchChange {
        notes: call.text("Notes"),
        kind: kind(call)?,
        uplink: call.text("NetAdapterName"),
        allow_management_os: call.bool("AllowManagementOS"),
        ..v1::SwitchChange::default()
    };
    change(call, &wanted).await
}

async fn rename(call: &mut Call<'_>) -> CmdletResult {
    let wanted = v1::SwitchChange { name: call.text("NewName"), ..v1::SwitchChange::default() };
    change(call, &wanted).await
}

async fn remove(call: &mut Call<'_>) -> CmdletResult {
    let asked = |switch: &v1::Switch| {
        let question = format!("Remove-VMSwitch will remove the virtual switch \"{}\".", switch.name);
        Asked::removal(&switch.name, question)
    };
    let deed = |client: Client, switch: v1::Switch| async move {
        client.remove_switch(&switch.name).await.map_err(|e| hyperv(&e))
    };
    let found = switches(call).await?;
    change_each(call, found, asked, deed, |switch, ()| object(switch)).await
}
