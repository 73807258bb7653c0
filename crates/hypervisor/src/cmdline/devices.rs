//! Devices as QEMU's monitor and command line both take them: what is plugged in later is what would have been there.

use nestling_model::{Adapter, AdapterId, Controller, Disk, adapter::ADAPTERS_MAX, disk::DISKS_MAX};
use serde_json::{Value, json};

use super::{SpecError, text};

/// One empty port for each adapter and each SCSI disk that a machine may get: q35 plugs devices only into ports that
/// were there at power on. All 24 cost a guest about 0.2 s under emulation.
pub(crate) fn root_ports() -> impl Iterator<Item = Value> {
    let adapters = (0..ADAPTERS_MAX).map(|n| (format!("nic-port-{n}"), 1, n));
    let disks = (0..DISKS_MAX).map(|n| (format!("disk-port-{n}"), 2 + n / 8, n % 8));
    adapters.chain(disks).zip(1..).map(|((id, device, function), number)| {
        json!({"driver": "pcie-root-port", "id": id, "bus": "pcie.0", "addr": format!("{device:#x}.{function}"),
               "multifunction": function == 0, "chassis": number, "slot": number})
    })
}

pub(crate) fn adapter_name(id: AdapterId) -> String {
    format!("nic-{}", id.0)
}

pub(crate) fn netdev_name(id: AdapterId) -> String {
    format!("net-{}", id.0)
}

pub(crate) fn netdev(id: AdapterId, ifname: Option<&str>) -> Value {
    match ifname {
        Some(ifname) => {
            json!({"type": "tap", "id": netdev_name(id), "ifname": ifname, "script": "no", "downscript": "no"})
        }
        None => json!({"type": "user", "id": netdev_name(id)}),
    }
}

pub(crate) fn adapter(adapter: &Adapter, slot: u8) -> Value {
    // No option ROM: nothing here boots from the network, and loading it costs time at every start.
    json!({"driver": "virtio-net-pci", "id": adapter_name(adapter.id), "bus": format!("nic-port-{slot}"),
           "netdev": netdev_name(adapter.id), "mac": adapter.mac.to_string(), "romfile": ""})
}

pub(crate) fn disk_name(controller: Controller, location: u8) -> String {
    format!("disk-{}", node_name(controller, location))
}

/// At most 31 bytes, which is all that QEMU allows.
pub(crate) fn node_name(controller: Controller, location: u8) -> String {
    match controller {
        Controller::Ide => format!("ide-{location}"),
        Controller::Scsi => format!("scsi-{location}"),
    }
}

pub(crate) fn disk_node(disk: &Disk) -> Result<Value, SpecError> {
    Ok(json!({"driver": disk.format.as_str(), "node-name": node_name(disk.controller, disk.location),
              "read-only": disk.read_only, "discard": "unmap",
              "file": {"driver": "file", "filename": text(&disk.path)?, "discard": "unmap"}}))
}

pub(crate) fn disk(disk: &Disk, bootindex: Option<u32>) -> Value {
    let location = disk.location;
    let (driver, bus) = match disk.controller {
        Controller::Scsi => ("virtio-blk-pci", format!("disk-port-{location}")),
        // A hard disk on IDE can't be read-only; what is, is a disc.
        Controller::Ide if disk.read_only => ("ide-cd", format!("ide.{location}")),
        Controller::Ide => ("ide-hd", format!("ide.{location}")),
    };
    let mut device = json!({"driver": driver, "id": disk_name(disk.controller, location), "bus": bus,
                            "drive": node_name(disk.controller, location)});
    if let Some(bootindex) = bootindex {
        device["bootindex"] = json!(bootindex);
    }
    device
}
