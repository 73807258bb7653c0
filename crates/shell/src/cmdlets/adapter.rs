//! Network adapters of machines: Get-, Set-, Add-, Connect-, Disconnect- and Remove-VMNetworkAdapter.

use nestling_api::{Client, v1};

use super::adapter_object::{ON_OFF, TYPE, VIEW, adapter as object};
use super::common::{
    Asked, Call, PASSTHRU, VM, VM_NAME, by_ids, change_each, fits, hyperv, machines, property,
};
use crate::frame::{
    Category, Cmdlet, CmdletResult, ErrorRecord, Example, Flow, FromPipeline, Impact, Input, Kind, Parameter,
};

const NAME: Parameter =
    Parameter::new("Name", Kind::Strings, "The adapters' names; wildcards are taken. All when absent.")
        .alias(&["VMNetworkAdapterName"]);

const ADAPTER: Parameter =
    Parameter::new("VMNetworkAdapter", Kind::Objects(TYPE), "Adapters, as Get-VMNetworkAdapter gives them.")
        .mandatory()
        .from_pipeline(FromPipeline::Value)
        .in_sets(&["ResourceObject"]);

const SWITCH: Parameter = Parameter::new("SwitchName", Kind::String, "The switch to connect it to.");

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    let mut all = vec![get_cmdlet(), set_cmdlet(), add_cmdlet()];
    all.extend(cable_cmdlets());
    all
}

fn get_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Get-VMNetworkAdapter",
        aliases: &[],
        class: "Microsoft.HyperV.PowerShell.Commands.GetVMNetworkAdapter",
        summary: "Gets the network adapters of virtual machines.",
        parameters: const {
            &[
                VM_NAME,
                VM,
                Parameter::switch("All", "Those of every virtual machine.").mandatory().in_sets(&["All"]),
                NAME,
            ]
        },
        input: Input::EachRecord,
        impact: Impact::None,
        views: const { &[&VIEW] },
        examples: &[Example {
            code: "Get-VMNetworkAdapter -All | ft Name, VMName, MacAddress",
            says: "Every adapter.",
        }],
        run: |call| Box::pin(get(call)),
    }
}

fn set_cmdlet() -> Cmdlet<Client> {
    const GUARD: Kind = Kind::Enum(&ON_OFF);
    Cmdlet {
        name: "Set-VMNetworkAdapter",
        aliases: &[],
        class: "Microsoft.HyperV.PowerShell.Commands.SetVMNetworkAdapter",
        summary: "Changes network adapters, of running virtual machines too.",
        parameters: const {
            &[
                VM_NAME,
                VM,
                ADAPTER,
                NAME,
                Parameter::new(
                    "MacAddressSpoofing",
                    GUARD,
                    "On lets the guest send from other addresses than its own; nested guests need it.",
                ),
                Parameter::new("DhcpGuard", GUARD, "On drops DHCP answers from the guest."),
                Parameter::new("RouterGuard", GUARD, "On drops router advertisements from the guest."),
                Parameter::new("StaticMacAddress", Kind::String, "An address of twelve hexadecimal digits."),
                Parameter::switch("DynamicMacAddress", "Lets the host give an address."),
                PASSTHRU,
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&VIEW] },
        examples: &[Example {
            code: "Get-VMNetworkAdapter -All | Set-VMNetworkAdapter -MacAddressSpoofing On -WhatIf",
            says: "Lets nested guests reach the network; -WhatIf only says so.",
        }],
        run: |call| Box::pin(set(call)),
    }
}

fn add_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Add-VMNetworkAdapter",
        aliases: &[],
        class: "Microsoft.HyperV.PowerShell.Commands.AddVMNetworkAdapter",
        summary: "Adds a network adapter, to a running virtual machine too.",
        parameters: const {
            &[
                VM_NAME,
                VM,
                Parameter::new("Name", Kind::String, "Its name; Network Adapter when absent."),
                SWITCH,
                Parameter::new("StaticMacAddress", Kind::String, "An address of twelve hexadecimal digits."),
                PASSTHRU,
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&VIEW] },
        examples: &[],
        run: |call| Box::pin(add(call)),
    }
}

fn cable_cmdlets() -> [Cmdlet<Client>; 3] {
    let base = |name, class, summary, parameters, run| Cmdlet {
        name,
        aliases: &[],
        class,
        summary,
        parameters,
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&VIEW] },
        examples: &[],
        run,
    };
    [
        base(
            "Connect-VMNetworkAdapter",
            "Microsoft.HyperV.PowerShell.Commands.ConnectVMNetworkAdapter",
            "Connects network adapters to a switch.",
            const { &[VM_NAME, VM, ADAPTER, NAME, SWITCH.mandatory(), PASSTHRU] },
            |call| Box::pin(connect(call)),
        ),
        base(
            "Disconnect-VMNetworkAdapter",
            "Microsoft.HyperV.PowerShell.Commands.DisconnectVMNetworkAdapter",
            "Disconnects network adapters from their switch.",
            const { &[VM_NAME, VM, ADAPTER, NAME, PASSTHRU] },
            |call| Box::pin(disconnect(call)),
        ),
        base(
            "Remove-VMNetworkAdapter",
            "Microsoft.HyperV.PowerShell.Commands.RemoveVMNetworkAdapter",
            "Removes network adapters.",
            const { &[VM_NAME, VM, ADAPTER, NAME, PASSTHRU] },
            |call| Box::pin(remove(call)),
        ),
    ]
}

/// The adapters meant, each with its machine.
async fn adapters(call: &mut Call<'_>) -> Result<Vec<(v1::Vm, v1::Adapter)>, Flow> {
    let mut found = Vec::new();
    // Get-VMNetworkAdapter names adapters by their machines alone.
    if call.accepts("VMNetworkAdapter") && call.has("VMNetworkAdapter") {
        let wanted: Vec<_> = call
            .objects("VMNetworkAdapter")
            .iter()
            .map(|o| (property(o, "VMId"), property(o, "Id")))
            .collect();
        for (vm, id) in wanted {
            for vm in by_ids(call, vec![vm]).await? {
                let own = vm.adapters.iter().find(|a| a.id.to_string() == id).cloned();
                found.extend(own.map(|a| (vm, a)));
            }
        }
        return Ok(found);
    }
    let names = call.texts("Name");
    for vm in machines(call, "VMName").await? {
        let fitting =
            vm.adapters.iter().filter(|a| names.is_empty() || names.iter().any(|n| fits(n, &a.name)));
        let before = found.len();
        found.extend(fitting.map(|a| (vm.clone(), a.clone())));
        if found.len() == before && !names.is_empty() {
            let message =
                format!("Unable to find a network adapter matching the given criteria on '{}'.", vm.name);
            call.write_error(
                ErrorRecord::new(
                    Category::InvalidArgument,
                    "VirtualizationException",
                    "InvalidParameter",
                    message,
                )
                .with_target(names.join(", "), "String"),
            )?;
        }
    }
    Ok(found)
}

async fn get(call: &mut Call<'_>) -> CmdletResult {
    if call.switch("All") {
        let names = call.texts("Name");
        let all = call.context().clone().vms().await.map_err(|e| super::common::ends(&e))?;
        for vm in &all {
            for adapter in
                vm.adapters.iter().filter(|a| names.is_empty() || names.iter().any(|n| fits(n, &a.name)))
            {
                call.emit(object(vm, adapter));
            }
        }
        return Ok(());
    }
    for (vm, adapter) in adapters(call).await? {
        call.emit(object(&vm, &adapter));
    }
    Ok(())
}

fn asked((vm, adapter): &(v1::Vm, v1::Adapter)) -> Asked {
    format!("{} of {}", adapter.name, vm.name).into()
}

/// Makes one change to every adapter meant.
async fn change(call: &mut Call<'_>, change: &v1::AdapterChange) -> CmdletResult {
    let deed = |client: Client, (vm, adapter): (v1::Vm, v1::Adapter)| async move {
        client.change_adapter(&vm.id.to_string(), adapter.id, change).await.map_err(|e| hyperv(&e))
    };
    let found = adapters(call).await?;
    change_each(call, found, asked, deed, |(vm, _), changed| object(vm, changed)).await
}

fn on(call: &Call<'_>, name: &'static str) -> Option<bool> {
    call.text(name).map(|state| state == "On")
}

async fn set(call: &mut Call<'_>) -> CmdletResult {
    if call.has("StaticMacAddress") && call.switch("DynamicMacAddress") {
        return Err(call
            .invalid_argument("DynamicMacAddress", "An address is static or dynamic, not both.")
            .into());
    }
    let dynamic = call.switch("DynamicMacAddress").then(|| "dynamic".to_owned());
    let wanted = v1::AdapterChange {
        mac: call.text("StaticMacAddress").or(dynamic),
        mac_spoofing: on(call, "MacAddressSpoofing"),
        dhcp_guard: on(call, "DhcpGuard"),
        router_guard: on(call, "RouterGuard"),
        ..v1::AdapterChange::default()
    };
    change(call, &wanted).await
}

async fn connect(call: &mut Call<'_>) -> CmdletResult {
    let wanted = v1::AdapterChange { switch: call.text("SwitchName"), ..v1::AdapterChange::default() };
    change(call, &wanted).await
}

async fn disconnect(call: &mut Call<'_>) -> CmdletResult {
    let wanted = v1::AdapterChange { switch: Some(String::new()), ..v1::AdapterChange::default() };
    change(call, &wanted).await
}

async fn add(call: &mut Call<'_>) -> CmdletResult {
    let new = &v1::NewAdapter {
        name: call.text("Name"),
        switch: call.text("SwitchName"),
        mac: call.text("StaticMacAddress"),
    };
    let deed = |client: Client, vm: v1::Vm| async move {
        client.add_adapter(&vm.id.to_string(), new).await.map_err(|e| hyperv(&e))
    };
    let vms = machines(call, "VMName").await?;
    change_each(call, vms, |vm| vm.name.clone().into(), deed, object).await
}

async fn remove(call: &mut Call<'_>) -> CmdletResult {
    let deed = |client: Client, (vm, adapter): (v1::Vm, v1::Adapter)| async move {
        client.remove_adapter(&vm.id.to_string(), adapter.id).await.map_err(|e| hyperv(&e))
    };
    let found = adapters(call).await?;
    change_each(call, found, asked, deed, |(vm, adapter), ()| object(vm, adapter)).await
}
