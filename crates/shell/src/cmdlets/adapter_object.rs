//! A network adapter as Get-VMNetworkAdapter shows it.

use nestling_api::v1;

use super::vm_object::{belongs, texts};
use crate::format::{Column, View};
use crate::frame::EnumType;
use crate::value::{Object, Value};

pub const TYPE: &str = "Microsoft.HyperV.PowerShell.VMNetworkAdapter";

/// On is 0 and Off is 1: JSON written by Windows has it so.
pub const ON_OFF: EnumType =
    EnumType { name: "Microsoft.HyperV.PowerShell.OnOffState", members: &[("On", 0), ("Off", 1)] };

pub static VIEW: View = View {
    type_name: TYPE,
    columns: &[
        Column::property("Name"),
        Column::property("IsManagementOs"),
        Column::property("VMName"),
        Column::property("SwitchName"),
        Column::property("MacAddress"),
        Column::property("Status"),
        Column::property("IPAddresses"),
    ],
    list: &[],
};

fn on_off(on: bool) -> Value {
    if on { Value::member("On", 0) } else { Value::member("Off", 1) }
}

/// The address in Hyper-V's spelling: twelve digits.
fn mac(text: &str) -> String {
    text.chars().filter(char::is_ascii_hexdigit).collect::<String>().to_uppercase()
}

fn status(status: v1::AdapterStatus) -> Value {
    match status {
        v1::AdapterStatus::None => texts::<String>([]),
        v1::AdapterStatus::Ok => texts(["Ok"]),
        v1::AdapterStatus::Disconnected => texts(["Disconnected"]),
    }
}

pub fn adapter(vm: &v1::Vm, adapter: &v1::Adapter) -> Value {
    let addresses = adapter.addresses.iter().map(|a| a.split('/').next().unwrap_or(a).to_owned());
    let mut object = Object::new(TYPE)
        .with("MacAddress", mac(&adapter.mac))
        .with("DynamicMacAddressEnabled", adapter.mac_dynamic)
        .with("IsLegacy", false)
        .with("IsSynthetic", true)
        .with("IPAddresses", texts(addresses))
        .with("Connected", adapter.switch.is_some())
        .with("SwitchName", adapter.switch.clone().unwrap_or_default())
        .with("AdapterId", adapter.id.to_string())
        .with("Status", status(adapter.status))
        .with("IsManagementOs", false)
        .with("IsExternalAdapter", false)
        .with("Id", adapter.id.to_string())
        .with("MacAddressSpoofing", on_off(adapter.mac_spoofing))
        .with("DhcpGuard", on_off(adapter.dhcp_guard))
        .with("RouterGuard", on_off(adapter.router_guard))
        .with("SpoofedFramesDropped", super::vm_object::int(adapter.spoofed_frames_dropped))
        .with("Name", adapter.name.as_str());
    belongs(&mut object, vm);
    Value::Object(object)
}
