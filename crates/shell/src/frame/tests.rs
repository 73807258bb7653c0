//! The frame, tried with cmdlets in the manner of Hyper-V's.

use crate::format::{Answer, Column, View};
use crate::frame::{
    Call, Category, Cmdlet, CmdletResult, EnumType, ErrorRecord, FromPipeline, Impact, Input, Kind,
    Parameter, Registry,
};
use crate::testing::{Ran, run_in};
use crate::value::{Object, TimeSpan, Value};
use std::sync::Arc;

const MEBIBYTES: fn(&Object) -> Value =
    |vm| Value::Int(vm.get("MemoryAssigned").map_or(0, |m| m.to_int().unwrap_or(0)) >> 20);

const VM_VIEW: View = View {
    type_name: "VirtualMachine",
    columns: &[
        Column::property("Name"),
        Column::property("State"),
        Column::computed("MemoryAssigned(M)", MEBIBYTES),
        Column::property("Uptime"),
        Column::property("Status"),
    ],
    list: &[],
};

const STATE: EnumType = EnumType { name: "VMState", members: &[("Running", 2), ("Off", 3)] };
const ON_OFF: EnumType =
    EnumType { name: "Microsoft.HyperV.PowerShell.OnOffState", members: &[("On", 0), ("Off", 1)] };

fn vm(name: &str, state: &str) -> Object {
    Object::new("VirtualMachine")
        .with("Name", name)
        .with("VMName", name)
        .with("State", STATE.find(state).unwrap())
        .with("MemoryAssigned", if state == "Off" { 0 } else { 4 << 30 })
        .with("Uptime", Value::TimeSpan(TimeSpan::from_seconds(3)))
        .with("Status", "Operating normally")
        .with("Tags", vec![Value::from("a"), Value::from("b")])
}

async fn get_vm(call: &mut Call<'_, ()>) -> CmdletResult {
    let names = call.texts("Name");
    for (name, state) in [("L1", "Running"), ("Server2016", "Off")] {
        if names.is_empty() || names.iter().any(|wanted| crate::Wildcard::new(wanted).matches(name)) {
            call.emit(vm(name, state));
        }
    }
    for name in names.iter().filter(|name| *name == "nope") {
        let message = format!("Hyper-V was unable to find a virtual machine with name \"{name}\".");
        let error = ErrorRecord::new(
            Category::InvalidArgument,
            "VirtualizationException",
            "InvalidParameter",
            message,
        );
        call.write_error(error.with_target(name, "String"))?;
    }
    Ok(())
}

async fn set_vm(call: &mut Call<'_, ()>) -> CmdletResult {
    let mut names = call.texts("VMName");
    names.extend(call.objects("VM").iter().map(|vm| vm.get("Name").map(Value::to_text).unwrap_or_default()));
    for name in names {
        if call.should_process(&name, None)? {
            let expose = call.bool("ExposeVirtualizationExtensions");
            let spoofing = call.text("MacAddressSpoofing");
            call.write_host(&format!(
                "{name} {expose:?} {spoofing:?} {:?}\n",
                call.int("MemoryStartupBytes")
            ));
        }
    }
    Ok(())
}

fn registry() -> Arc<Registry<()>> {
    let mut registry = Registry::with_core();
    let cmdlet = |name, class, parameters, impact, run| Cmdlet {
        name,
        aliases: &[],
        class,
        summary: "A test.",
        parameters,
        input: Input::EachRecord,
        impact,
        views: &[&VM_VIEW],
        examples: &[],
        run,
    };
    const NAME: &[Parameter] = &[Parameter::new("Name", Kind::Strings, "Names.")
        .at(0)
        .alias(&["VMName"])
        .from_pipeline(FromPipeline::Both)];
    const SET: &[Parameter] = &[
        Parameter::new("VMName", Kind::Strings, "Names.")
            .at(0)
            .mandatory()
            .in_sets(&["VMName"])
            .from_pipeline(FromPipeline::Both),
        Parameter::new("VM", Kind::Objects("VirtualMachine"), "VMs.")
            .at(0)
            .mandatory()
            .in_sets(&["VMObject"])
            .from_pipeline(FromPipeline::Value),
        Parameter::new("ExposeVirtualizationExtensions", Kind::Bool, "x"),
        Parameter::new("MacAddressSpoofing", Kind::Enum(&ON_OFF), "x"),
        Parameter::new("MemoryStartupBytes", Kind::SIZE, "x"),
    ];
    registry.add([
        cmdlet("Get-VM", "Microsoft.HyperV.PowerShell.Commands.GetVM", NAME, Impact::None, |call| {
            Box::pin(get_vm(call))
        }),
        cmdlet("Set-VM", "Microsoft.HyperV.PowerShell.Commands.SetVM", SET, Impact::Changes, |call| {
            Box::pin(set_vm(call))
        }),
        cmdlet("Remove-VM", "Microsoft.HyperV.PowerShell.Commands.RemoveVM", SET, Impact::Destroys, |call| {
            Box::pin(set_vm(call))
        }),
    ]);
    Arc::new(registry)
}

fn run(script: &str) -> Ran {
    run_in(registry(), (), script, None)
}

fn check(script: &str, expected: &str) {
    let ran = run(script);
    assert_eq!(ran.talk, "", "{script}");
    assert_eq!(ran.data, expected, "{script}");
}

#[test]
fn the_default_view_of_a_type() {
    check(
        "Get-VM",
        "\nName       State   MemoryAssigned(M) Uptime   Status\n----       -----   ----------------- ------   ------\n\
         L1         Running 4096              00:00:03 Operating normally\n\
         Server2016 Off     0                 00:00:03 Operating normally\n\n",
    );
    check(
        "get-vm L1 | FL *",
        "\nName           : L1\nVMName         : L1\nState          : Running\nMemoryAssigned : 4294967296\n\
         Uptime         : 00:00:03\nStatus         : Operating normally\nTags           : {a, b}\n\n",
    );
    check(
        "Get-VM | ? State -eq off | % Name; (Get-VM L1).State -eq 2; Get-VM | where { $_.Uptime -gt '00:00:01' } | measure | % Count",
        "Server2016\nTrue\n2\n",
    );
    check(
        "Get-VM | Sort-Object State -Descending | Select-Object Name, State | ConvertTo-Json -Compress",
        "[{\"Name\":\"Server2016\",\"State\":3},{\"Name\":\"L1\",\"State\":2}]\n",
    );
}

#[test]
fn typographic_characters_as_pasted_from_a_page() {
    check(
        "Set-VM –VMName “Server2016” -ExposeVirtualizationExtensions $true",
        "Server2016 Some(true) None None\n",
    );
    check("set-vm -vmname ‘L1’ —macaddressspoofing On -Mem 2GB", "L1 None Some(\"On\") Some(2147483648)\n");
}

#[test]
fn pipeline_binding() {
    check("Get-VM -VMname Server2016 | Set-VM -MacAddressSpoofing On", "Server2016 None Some(\"On\") None\n");
    check("'L1','x' | Set-VM -Mac off", "L1 None Some(\"Off\") None\nx None Some(\"Off\") None\n");
    check("[pscustomobject]@{ VMName = 'y' } | Set-VM", "y None None None\n");
    check("Set-VM (Get-VM L1)", "L1 None None None\n");
    check("Set-VM -VM (Get-VM)", "L1 None None None\nServer2016 None None None\n");
    check("Set-VM a, 007", "a None None None\n7 None None None\n");
    check("Set-VM 007", "007 None None None\n");
    let ran = run("1, 'L1' | Set-VM");
    assert!(
        ran.talk.contains("InputObjectNotBound,Microsoft.HyperV.PowerShell.Commands.SetVM"),
        "{}",
        ran.talk
    );
    assert_eq!(ran.data, "L1 None None None\n");
}

#[test]
fn errors_look_as_on_windows() {
    let ran = run("Get-VM nope, L1 | % Name; 'next'");
    assert_eq!(ran.data, "L1\nnext\n");
    assert_eq!(
        ran.talk,
        "Get-VM : Hyper-V was unable to find a virtual machine with name \"nope\".\nAt line:1 char:1\n\
         + Get-VM nope, L1 | % Name; 'next'\n+ ~~~~~~~~~~~~~~~\n    + CategoryInfo          : InvalidArgument: \
         (nope:String) [Get-VM], VirtualizationException\n    + FullyQualifiedErrorId : \
         InvalidParameter,Microsoft.HyperV.PowerShell.Commands.GetVM\n\n"
    );
    let message = |script: &str| run(script).talk.split("\nAt line").next().unwrap().to_owned();
    assert_eq!(
        message("Set-VM x -MacAddressSpoofing maybe"),
        "Set-VM : Cannot bind parameter 'MacAddressSpoofing'. Cannot convert value \"maybe\" to type \
         \"Microsoft.HyperV.PowerShell.OnOffState\". Error: \"Unable to match the identifier name maybe to a valid \
         enumerator name. Specify one of the following enumerator names and try again:\nOn, Off\""
    );
    assert_eq!(
        message("Set-VM x -Expose yes"),
        "Set-VM : Cannot process argument transformation on parameter 'ExposeVirtualizationExtensions'. Cannot convert \
         value \"System.String\" to type \"System.Boolean\". Boolean parameters accept only Boolean values and numbers, \
         such as $True, $False, 1 or 0."
    );
    assert_eq!(
        message("Set-VM x -Memory -1"),
        "Set-VM : Cannot validate argument on parameter 'MemoryStartupBytes'. The -1 argument is less than the minimum \
         allowed range of 0. Supply an argument that is greater than or equal to 0 and then try the command again."
    );
    assert_eq!(
        message("Set-VM"),
        "Set-VM : Cannot process command because of one or more missing mandatory parameters: VMName."
    );
    assert_eq!(
        message("Set-VM x -M 1"),
        "Set-VM : Parameter cannot be processed because the parameter name 'M' is ambiguous. Possible matches include: \
         -MacAddressSpoofing -MemoryStartupBytes."
    );
}

#[test]
fn changes_can_be_tried_and_must_be_confirmed() {
    check("Set-VM x -WhatIf", "What if: Performing the operation \"Set-VM\" on target \"x\".\n");
    check("Remove-VM x -Confirm:$false", "x None None None\n");
    assert!(run("Remove-VM x").talk.contains("there is no one to ask"));
    let answered = |answer| run_in(registry(), (), "Remove-VM x, y", Some(answer));
    assert_eq!(answered(Answer::No).data, "");
    assert_eq!(answered(Answer::Yes).talk.matches("Are you sure").count(), 2);
    assert_eq!(answered(Answer::YesToAll).talk.matches("Are you sure").count(), 1);
    assert!(run("Get-VM -WhatIf").talk.contains("NamedParameterNotFound"));
}

#[test]
fn completion_and_help() {
    let registry = registry();
    assert_eq!(registry.complete_command("get-v"), ["Get-VM"]);
    assert_eq!(registry.complete_parameter("set-vm", "vm"), ["VMName", "VM"]);
    let complete = |line: &str| {
        let found = registry.complete(line, line.len(), &["vmName".to_owned()]);
        (found.start, found.candidates.join(" "))
    };
    assert_eq!(complete("Get-VM | set-v"), (9, "Set-VM".to_owned()));
    assert_eq!(complete("$x = Get-V"), (5, "Get-VM".to_owned()));
    assert_eq!(complete("Get-VM 'a|b' -"), (13, "-Name -ErrorAction".to_owned()));
    assert_eq!(complete("Set-VM x –mac"), (9, "-MacAddressSpoofing".to_owned()));
    assert_eq!(complete("Set-VM x -MacAddressSpoofing o"), (29, "On Off".to_owned()));
    assert_eq!(complete("Get-VM $v"), (7, "$vmName".to_owned()));
    assert_eq!(complete("Get-VM é"), (7, String::new()));
    let help = run("Get-Help Set-VM -Full").data;
    for part in [
        "Set-VM [-VMName] <String[]> [-ExposeVirtualizationExtensions <Boolean>] [-MacAddressSpoofing {On | Off}]",
        "Set-VM [-VM] <VirtualMachine[]>",
        "[-WhatIf] [-Confirm]",
    ] {
        assert!(help.contains(part), "{part}: {help}");
    }
    assert!(run("Set-VM -?").data.contains("NAME\n    Set-VM"));
    assert!(!run("Get-Help Sort-Object -Examples").data.contains("SYNTAX"));
}
