//! Start-VM, Stop-VM, Restart-VM, Save-VM, Suspend-VM, Resume-VM, Wait-VM, Remove-VMSavedState, Update-VMVersion.

use std::time::{Duration, Instant};

use nestling_api::{Client, v1, v1::VmOperation};

use super::common::{Call, Deed, FORCE, NAME, PASSTHRU, VM, for_each, machines};
use super::vm_object::VIEW;
use crate::frame::{
    Category, Cmdlet, CmdletFuture, CmdletResult, EnumType, ErrorRecord, Impact, Input, Kind, Parameter,
};

const WAIT_FOR: EnumType = EnumType {
    name: "Microsoft.HyperV.PowerShell.WaitVMTypes",
    members: &[("Heartbeat", 0), ("IPAddress", 1)],
};

/// How long a wait lasts when nobody says.
const WAIT_SECONDS: i64 = 600;

const FOR: Parameter =
    Parameter::new("For", Kind::Enum(&WAIT_FOR), "What to wait for: Heartbeat (default) or IPAddress.");

const TIMEOUT: Parameter =
    Parameter::new("Timeout", Kind::Int { min: 0, max: 86_400 }, "Seconds to wait at most; 600 when absent.");

/// Cmdlets that do one thing to each machine differ only in their words and the operation.
fn operation(
    name: &'static str,
    class: &'static str,
    summary: &'static str,
    parameters: &'static [Parameter],
    run: for<'a> fn(&'a mut Call<'_>) -> CmdletFuture<'a>,
) -> Cmdlet<Client> {
    Cmdlet {
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
    }
}

const PLAIN: &[Parameter] = &[NAME, VM, PASSTHRU];

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    let mut all = Vec::from(power_cmdlets());
    all.extend(state_cmdlets());
    all
}

fn power_cmdlets() -> [Cmdlet<Client>; 3] {
    [
        operation(
            "Start-VM",
            "Microsoft.HyperV.PowerShell.Commands.StartVM",
            "Starts virtual machines, or resumes those that are saved.",
            PLAIN,
            |call| Box::pin(each(call, VmOperation::Start)),
        ),
        operation(
            "Stop-VM",
            "Microsoft.HyperV.PowerShell.Commands.StopVM",
            "Shuts virtual machines down through the guest, saves them, or turns them off.",
            const {
                &[
                    NAME,
                    VM,
                    Parameter::switch("TurnOff", "Cuts the power."),
                    Parameter::switch("Save", "Saves the state to disk."),
                    Parameter::switch(
                        "Force",
                        "Cuts the power if the guest has not shut down after five minutes.",
                    ),
                    PASSTHRU,
                ]
            },
            |call| Box::pin(stop(call)),
        ),
        operation(
            "Restart-VM",
            "Microsoft.HyperV.PowerShell.Commands.RestartVM",
            "Restarts virtual machines without asking the guest.",
            const {
                &[
                    NAME,
                    VM,
                    FORCE,
                    Parameter::switch("Wait", "Waits until the guest answers."),
                    FOR,
                    TIMEOUT,
                    PASSTHRU,
                ]
            },
            |call| Box::pin(restart(call)),
        ),
    ]
}

fn state_cmdlets() -> [Cmdlet<Client>; 6] {
    [
        operation(
            "Save-VM",
            "Microsoft.HyperV.PowerShell.Commands.SaveVM",
            "Saves running virtual machines to disk and stops them.",
            PLAIN,
            |call| Box::pin(each(call, VmOperation::Save)),
        ),
        operation(
            "Suspend-VM",
            "Microsoft.HyperV.PowerShell.Commands.SuspendVM",
            "Pauses virtual machines.",
            PLAIN,
            |call| Box::pin(each(call, VmOperation::Pause)),
        ),
        operation(
            "Resume-VM",
            "Microsoft.HyperV.PowerShell.Commands.ResumeVM",
            "Resumes paused virtual machines.",
            PLAIN,
            |call| Box::pin(each(call, VmOperation::Resume)),
        ),
        operation(
            "Remove-VMSavedState",
            "Microsoft.HyperV.PowerShell.Commands.RemoveVMSavedState",
            "Drops the saved state of virtual machines, which are off then.",
            PLAIN,
            |call| Box::pin(each(call, VmOperation::RemoveSavedState)),
        ),
        operation(
            "Update-VMVersion",
            "Microsoft.HyperV.PowerShell.Commands.UpdateVMVersion",
            "Updates the configuration version of virtual machines that are off.",
            const { &[NAME, VM, FORCE, PASSTHRU] },
            |call| Box::pin(each(call, VmOperation::UpdateVersion)),
        ),
        operation(
            "Wait-VM",
            "Microsoft.HyperV.PowerShell.Commands.WaitVM",
            "Waits until the guests of virtual machines answer.",
            const { &[NAME, VM, FOR, TIMEOUT, PASSTHRU] },
            |call| Box::pin(wait(call)),
        ),
    ]
}

async fn each(call: &mut Call<'_>, operation: VmOperation) -> CmdletResult {
    for_each(call, Deed::Operate(operation)).await
}

async fn stop(call: &mut Call<'_>) -> CmdletResult {
    let deed = match (call.switch("TurnOff"), call.switch("Save")) {
        (true, true) => {
            return Err(call.invalid_argument("Save", "A machine is turned off or saved, not both.").into());
        }
        (true, false) => Deed::Operate(VmOperation::TurnOff),
        (false, true) => Deed::Operate(VmOperation::Save),
        (false, false) if call.switch("Force") => Deed::StopInAnyCase,
        (false, false) => Deed::Operate(VmOperation::Shutdown),
    };
    for_each(call, deed).await
}

async fn restart(call: &mut Call<'_>) -> CmdletResult {
    each(call, VmOperation::Reset).await?;
    if call.switch("Wait") { wait(call).await } else { Ok(()) }
}

async fn wait(call: &mut Call<'_>) -> CmdletResult {
    let client = call.context().clone();
    let seconds = u64::try_from(call.int("Timeout").unwrap_or(WAIT_SECONDS)).unwrap_or_default();
    let for_address = call.text("For").is_some_and(|f| f == "IPAddress");
    for vm in machines(call, "Name").await? {
        let end = Instant::now() + Duration::from_secs(seconds);
        while !answers(&client, &vm, for_address).await {
            if Instant::now() >= end {
                let message =
                    format!("The wait for virtual machine \"{}\" ended after {seconds} seconds.", vm.name);
                let record = ErrorRecord::new(
                    Category::OperationTimeout,
                    "VirtualizationException",
                    "Timeout",
                    message,
                );
                call.write_error(record)?;
                break;
            }
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        if call.switch("Passthru") {
            call.emit(super::vm_object::vm(&vm));
        }
    }
    Ok(())
}

async fn answers(client: &Client, vm: &v1::Vm, for_address: bool) -> bool {
    let Ok(guest) = client.guest(&vm.id.to_string()).await else { return false };
    let outside = |address: &String| {
        !address.starts_with("127.") && !address.starts_with("::1") && !address.starts_with("fe80")
    };
    !for_address || guest.interfaces.iter().flat_map(|i| &i.addresses).any(outside)
}
