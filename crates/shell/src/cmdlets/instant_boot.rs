//! Get-VMInstantBoot, Complete-VMInstantBoot, Remove-VMInstantBoot: machines that run straight from the vault.

use std::time::Duration;

use nestling_api::{Client, v1};

use super::common::{Asked, Call, FORCE, VM, VM_NAME, change_each, ends, fits, hyperv, machines, or_report};
use super::vm_object::{self, int, texts};
use crate::format::{Column, View};
use crate::frame::{
    Category, Cmdlet, CmdletResult, ErrorRecord, Example, Flow, Impact, Input, Kind, Parameter,
};
use crate::value::{Object, Value};

const BOOT_TYPE: &str = "Nestling.VMInstantBoot";
const LOOK_INTERVAL: Duration = Duration::from_millis(500);

static VIEW: View = View {
    type_name: BOOT_TYPE,
    columns: &[
        Column::property("VMName"),
        Column::property("Repository"),
        Column::property("Disk"),
        Column::property("Completing"),
        Column::property("ProofId"),
        Column::property("Problem"),
    ],
    list: &[],
};

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![
        Cmdlet {
            name: "Get-VMInstantBoot",
            aliases: &[],
            class: "Nestling.Commands.GetVMInstantBoot",
            summary: "Gets the virtual machines that run straight from a recovery point.",
            parameters: const {
                &[Parameter::new(
                    "VMName",
                    Kind::Strings,
                    "The machines' names; wildcards are taken. All when absent.",
                )
                .at(0)]
            },
            input: Input::EachRecord,
            impact: Impact::None,
            views: const { &[&VIEW] },
            examples: &[Example { code: "Get-VMInstantBoot", says: "All of them." }],
            run: |call| Box::pin(get(call)),
        },
        Cmdlet {
            name: "Complete-VMInstantBoot",
            aliases: &[],
            class: "Nestling.Commands.CompleteVMInstantBoot",
            summary: "Brings over the disks of virtual machines that run straight from a recovery point, while they run.",
            parameters: const { &[VM_NAME, VM, Parameter::switch("NoWait", "Does not wait for the end.")] },
            input: Input::EachRecord,
            impact: Impact::Changes,
            views: const { &[&vm_object::VIEW] },
            examples: &[],
            run: |call| Box::pin(complete(call)),
        },
        Cmdlet {
            name: "Remove-VMInstantBoot",
            aliases: &[],
            class: "Nestling.Commands.RemoveVMInstantBoot",
            summary: "Turns off virtual machines that run straight from a recovery point, and removes them with all that they wrote.",
            parameters: const { &[VM_NAME, VM, FORCE] },
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
    let names = call.texts("VMName");
    let is_meant =
        |boot: &&v1::InstantBoot| names.is_empty() || names.iter().any(|name| fits(name, &boot.vm));
    let all = client.instant_boots().await.map_err(|e| ends(&e))?;
    all.iter().filter(is_meant).for_each(|boot| call.emit(object(boot)));
    Ok(())
}

async fn complete(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    for vm in machines(call, "VMName").await? {
        if !call.should_process(&vm.name, None)? {
            continue;
        }
        let begun = client.finish_instant_boot(&vm.id.to_string()).await;
        let Some(begun) = or_report(call, begun)? else { continue };
        if call.switch("NoWait") {
            continue;
        }
        match finished(&client, &begun).await {
            Ok(vm) => call.emit(vm),
            Err(Flow::Error(record)) => call.write_error(record)?,
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// Waits until the machine needs its point no more, and gives it as Get-VM does.
async fn finished(client: &Client, begun: &v1::InstantBoot) -> Result<Value, Flow> {
    loop {
        tokio::time::sleep(LOOK_INTERVAL).await;
        let all = client.instant_boots().await.map_err(|e| ends(&e))?;
        let Some(now) = all.iter().find(|boot| boot.vm_id == begun.vm_id) else {
            let vm = client.vm(&begun.vm_id.to_string()).await;
            return vm.map(|vm| vm_object::vm(&vm)).map_err(|e| Flow::from(hyperv(&e)));
        };
        if let Some(problem) = &now.problem {
            let message = format!("'{}': {problem}", now.vm);
            let record = ErrorRecord::new(
                Category::NotSpecified,
                "VirtualizationException",
                "OperationFailed",
                message,
            );
            return Err(record.with_target(now.vm.clone(), "String").into());
        }
    }
}

async fn remove(call: &mut Call<'_>) -> CmdletResult {
    let asked = |vm: &v1::Vm| {
        let question = format!(
            "Remove-VMInstantBoot will turn off virtual machine \"{}\" and remove it with all that it wrote.",
            vm.name
        );
        Asked::removal(vm.name.clone(), question)
    };
    let deed = |client: Client, vm: v1::Vm| async move {
        client.discard_instant_boot(&vm.id.to_string()).await.map_err(|e| hyperv(&e))
    };
    let found = machines(call, "VMName").await?;
    change_each(call, found, asked, deed, |vm, _| vm_object::vm(vm)).await
}

fn object(boot: &v1::InstantBoot) -> Value {
    let object = Object::new(BOOT_TYPE)
        .with("VMName", boot.vm.as_str())
        .with("VMId", boot.vm_id.to_string())
        .with("RecoveryPointId", boot.point.as_str())
        .with("Repository", boot.repository.as_str())
        .with("Disk", texts(boot.disks.iter().cloned()))
        .with("Completing", boot.finishing)
        .with("DoneBytes", int(boot.done_bytes))
        .with("TotalBytes", int(boot.total_bytes))
        .with("ProofId", boot.proof.map_or(Value::Null, int))
        .with("Problem", boot.problem.clone())
        .with("ComputerName", ".");
    Value::Object(object)
}
