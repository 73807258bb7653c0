//! Invoke-Command and Enter-PSSession: the same commands on the host inside a machine.
//!
//! The block is evaluated here, against the node inside: what crosses the guest channel are API calls and
//! their answers, never code.

use nestling_api::Client;

use super::common::{Call, VM, VM_NAME, machines};
use crate::frame::{Category, Cmdlet, CmdletResult, ErrorRecord, Flow, Impact, Input, Kind, Parameter};
use crate::value::{Object, Value};

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![
        Cmdlet {
            name: "Invoke-Command",
            aliases: &["icm"],
            class: "Microsoft.PowerShell.Commands.InvokeCommandCommand",
            summary: "Runs a block of commands on the hosts inside virtual machines. No network is needed.",
            parameters: const {
                &[
                    VM_NAME,
                    VM,
                    Parameter::new("ScriptBlock", Kind::ScriptBlock, "The commands.")
                        .alias(&["Command"])
                        .at(1)
                        .mandatory(),
                    Parameter::new("ArgumentList", Kind::List, "Values for the block's $args.")
                        .alias(&["Args"]),
                ]
            },
            input: Input::EachRecord,
            impact: Impact::None,
            views: &[],
            examples: &[],
            run: |call| Box::pin(invoke(call)),
        },
        Cmdlet {
            name: "Enter-PSSession",
            aliases: &["etsn"],
            class: "Microsoft.PowerShell.Commands.EnterPSSessionCommand",
            summary: "Makes the commands that follow run on the host inside a virtual machine, until Exit-PSSession.",
            parameters: const { &[VM_NAME, VM] },
            input: Input::EachRecord,
            impact: Impact::None,
            views: &[],
            examples: &[],
            run: |call| Box::pin(enter(call)),
        },
        Cmdlet {
            name: "Exit-PSSession",
            aliases: &["exsn"],
            class: "Microsoft.PowerShell.Commands.ExitPSSessionCommand",
            summary: "Goes back to the host outside.",
            parameters: const { &[] },
            input: Input::All,
            impact: Impact::None,
            views: &[],
            examples: &[],
            run: |call| Box::pin(leave(call)),
        },
    ]
}

/// The client of the node inside each machine meant, once that node has answered.
async fn nodes(call: &mut Call<'_>) -> Result<Vec<(String, Client)>, Flow> {
    let client = call.context().clone();
    let mut found = Vec::new();
    for vm in machines(call, "VMName").await? {
        let Ok(name) = vm.name.parse() else { continue };
        let inside = client.inside(&[name]);
        match inside.node().await {
            Ok(_) => found.push((vm.name, inside)),
            Err(error) => {
                let record = ErrorRecord::new(
                    Category::ConnectionError,
                    "PSRemotingTransportException",
                    "PSSessionStateBroken",
                    super::common::message(&error),
                )
                .with_target(vm.name, "String");
                call.write_error(record)?;
            }
        }
    }
    Ok(found)
}

async fn invoke(call: &mut Call<'_>) -> CmdletResult {
    let Some(block) = call.block("ScriptBlock") else { return Ok(()) };
    let arguments = call.list("ArgumentList").to_vec();
    for (name, client) in nodes(call).await? {
        let results = call.invoke_in(client, &block, arguments.clone()).await?;
        for mut value in results {
            if let Value::Object(object) = &mut value {
                came_from(object, &name);
            }
            call.emit(value);
        }
    }
    Ok(())
}

/// Objects from elsewhere say where they are from, as Windows marks them.
fn came_from(object: &mut Object, name: &str) {
    object.set("PSComputerName", name);
}

async fn enter(call: &mut Call<'_>) -> CmdletResult {
    let found = nodes(call).await?;
    match <[_; 1]>::try_from(found) {
        Ok([(_, client)]) => {
            call.engine().enter(client);
            Ok(())
        }
        Err(several) if several.is_empty() => Ok(()),
        Err(_) => Err(call.invalid_argument("VMName", "A session is entered on one virtual machine.").into()),
    }
}

async fn leave(call: &mut Call<'_>) -> CmdletResult {
    if call.engine().leave() {
        return Ok(());
    }
    let record = ErrorRecord::new(
        Category::InvalidOperation,
        "InvalidOperationException",
        "NoSession",
        "No session was entered.",
    );
    Err(record.into())
}
