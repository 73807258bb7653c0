//! Devices as QEMU's monitor and command line both take them: what is plugged in later is what would have been there.
//!
//! Adapters and SCSI disks sit behind one PCI bridge, each at an address of its own, and come and go through ACPI. q35's
//! root bus plugs nothing in while a machine runs, and the usual way, an empty PCI Express port for each device that may
//! come, costs every boot: 24 ports took an emulated guest 0.2 CPU seconds, and a guest inside an emulated one 2.3 of
//! 5.8, because each port is a bridge that firmware and kernel set up by hundreds of accesses that leave the guest. The
//! one bridge costs less than can be measured. (`pc`, whose root bus plugs by ACPI, costs 0.3 more than q35.)
//!
//! What is behind the bridge speaks virtio 1 only: the older form needs I/O ports, of which a bridge has few.

use nestling_model::{Adapter, AdapterId, Controller, Disk, adapter::ADAPTERS_MAX, disk::DISKS_MAX};
use serde_json::{Value, json};

use super::{SpecError, text};

/// The number of this layout. A state that was saved with another one is refused: count up with every change of what
/// sits where. (1 was a PCI Express port for each adapter and disk.)
pub(crate) const LAYOUT: u32 = 2;

const BRIDGE: &str = "slots";
/// Behind the bridge: the source of randomness, then adapters, then disks up to the last address.
const RNG_ADDRESS: u8 = 0x1;
const ADAPTERS_ADDRESS: u8 = 0x8;
const DISKS_ADDRESS: u8 = 0x10;
/// A PCI bus has 32 addresses.
const _: () = assert!(
    ADAPTERS_ADDRESS as usize + ADAPTERS_MAX <= DISKS_ADDRESS as usize
        && DISKS_ADDRESS as usize + DISKS_MAX <= 32
);

/// The bridge with all slots. Its own hot-plug controller is off: guests would find two ways.
pub(crate) fn bridge() -> Value {
    json!({"driver": "pci-bridge", "id": BRIDGE, "bus": "pcie.0", "addr": "0x1", "chassis_nr": 1, "shpc": false})
}

/// Never unplugged, and so what makes the bridge usable: an empty one gets no memory window from a kernel that was
/// started by qboot, and then nothing can be plugged in later.
pub(crate) fn rng() -> Value {
    in_slot("virtio-rng-pci", "rng", RNG_ADDRESS)
}

/// What every guest can draw on from its first instruction, in an address of its own.
pub(crate) fn screen() -> Value {
    json!({"driver": "VGA", "id": "screen", "bus": "pcie.0", "addr": "0x2"})
}

fn in_slot(driver: &str, id: &str, address: u8) -> Value {
    json!({"driver": driver, "id": id, "bus": BRIDGE, "addr": format!("{address:#x}"), "disable-legacy": "on"})
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

/// A cable that ends in two sockets.
pub(crate) fn cable(id: AdapterId, own: &str, other: &str) -> Value {
    json!({"type": "dgram", "id": netdev_name(id), "local": {"type": "unix", "path": own},
           "remote": {"type": "unix", "path": other}})
}

pub(crate) fn adapter(adapter: &Adapter, slot: u8) -> Value {
    let mut device = in_slot("virtio-net-pci", &adapter_name(adapter.id), ADAPTERS_ADDRESS + slot);
    device["netdev"] = json!(netdev_name(adapter.id));
    device["mac"] = json!(adapter.mac.to_string());
    // No option ROM: nothing here boots from the network, and loading it costs time at every start.
    device["romfile"] = json!("");
    device
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
    let id = disk_name(disk.controller, location);
    let mut device = match disk.controller {
        Controller::Scsi => in_slot("virtio-blk-pci", &id, DISKS_ADDRESS + location),
        Controller::Ide => {
            // A hard disk on IDE can't be read-only; what is, is a disc.
            let driver = if disk.read_only { "ide-cd" } else { "ide-hd" };
            json!({"driver": driver, "id": id, "bus": format!("ide.{location}")})
        }
    };
    device["drive"] = json!(node_name(disk.controller, location));
    if let Some(bootindex) = bootindex {
        device["bootindex"] = json!(bootindex);
    }
    device
}
