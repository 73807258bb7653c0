//! Get-VMHost and Get-VMHostSupportedVersion.

use nestling_api::Client;

use super::common::{Call, ends};
use super::vm_object::{int, megabytes, texts};
use crate::format::{Column, View};
use crate::frame::{Cmdlet, CmdletResult, Example, Impact, Input, Parameter};
use crate::value::{Object, Value};

const TYPE: &str = "Microsoft.HyperV.PowerShell.VMHost";
const VERSION: &str = "Microsoft.HyperV.PowerShell.VMHostSupportedVersion";

static VIEW: View = View {
    type_name: TYPE,
    columns: &[
        Column::property("Name"),
        Column::property("LogicalProcessorCount"),
        Column::computed("MemoryCapacity(M)", |host| megabytes(host, "MemoryCapacity")),
        Column::property("VirtualMachineMigrationEnabled"),
    ],
    list: &[],
};

static VERSION_VIEW: View = View {
    type_name: VERSION,
    columns: &[Column::property("Name"), Column::property("Version"), Column::property("IsDefault")],
    list: &[],
};

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![
        Cmdlet {
            name: "Get-VMHost",
            aliases: &[],
            class: "Microsoft.HyperV.PowerShell.Commands.GetVMHost",
            summary: "Gets this host.",
            parameters: const { &[] },
            input: Input::All,
            impact: Impact::None,
            views: const { &[&VIEW] },
            examples: &[Example { code: "Get-VMHost | fl *", says: "All that is known of it." }],
            run: |call| Box::pin(get(call)),
        },
        Cmdlet {
            name: "Get-VMHostSupportedVersion",
            aliases: &[],
            class: "Microsoft.HyperV.PowerShell.Commands.GetVMHostSupportedVersion",
            summary: "Gets the configuration versions that this host supports.",
            parameters: const { &[Parameter::switch("Default", "Only the one that new machines get.")] },
            input: Input::All,
            impact: Impact::None,
            views: const { &[&VERSION_VIEW] },
            examples: &[Example { code: "Get-VMHostSupportedVersion -Default", says: "The newest." }],
            run: |call| Box::pin(versions(call)),
        },
    ]
}

async fn get(call: &mut Call<'_>) -> CmdletResult {
    let host = call.context().clone().host().await.map_err(|e| ends(&e))?;
    let object = Object::new(TYPE)
        .with("LogicalProcessorCount", int(host.logical_processors))
        .with("MemoryCapacity", int(host.memory_bytes))
        .with("MemoryAvailable", int(host.memory_available_bytes))
        .with("VirtualHardDiskPath", host.disk_directory)
        .with("VirtualMachinePath", host.vm_directory)
        .with("IovSupport", false)
        .with("SupportedVmVersions", texts(host.supported_versions))
        .with("VirtualMachineMigrationEnabled", false)
        .with("Engine", host.engine)
        .with("EngineReason", host.engine_reason)
        .with("Name", host.name.as_str())
        .with("FullyQualifiedDomainName", host.name.as_str())
        .with("CimSession", "CimSession: .")
        .with("ComputerName", host.name)
        .with("IsDeleted", false);
    call.emit(Value::Object(object));
    Ok(())
}

async fn versions(call: &mut Call<'_>) -> CmdletResult {
    let host = call.context().clone().host().await.map_err(|e| ends(&e))?;
    let newest = host.supported_versions.last().cloned();
    for version in host.supported_versions {
        let is_default = Some(&version) == newest.as_ref();
        if call.switch("Default") && !is_default {
            continue;
        }
        let name = match version.as_str() {
            "5.0" => "Microsoft Windows 8.1/Server 2012 R2",
            "8.0" => "Microsoft Windows 10 Anniversary Update/Server 2016",
            "9.0" => "Microsoft Windows 10 October 2018 Update/Server 2019",
            "10.0" => "Microsoft Windows Server 2022",
            "12.0" => "Microsoft Windows Server 2025",
            _ => "Nestling",
        };
        let object =
            Object::new(VERSION).with("Name", name).with("Version", version).with("IsDefault", is_default);
        call.emit(Value::Object(object));
    }
    Ok(())
}
