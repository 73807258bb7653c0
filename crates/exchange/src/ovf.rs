//! A machine as OVF describes it (DMTF DSP0243), in the words of VMware, VirtualBox, QEMU's tools and of ourselves.
//!
//! Hardware is a list of items; which is which is a number of CIM's. Items refer to each other and to disks and files by ids.

use std::collections::HashMap;

use nestling_block::ImageFormat;

use crate::{
    Adapter, Controller, Disk, ExchangeError, Firmware, Machine,
    error::Result,
    place::DISKS_MAX,
    text::{mac, uuid},
    xml::{self, Element},
};

const WHAT: &str = "OVF description";
const ADAPTERS_MAX: usize = 256;

/// Kinds of hardware, by CIM's numbers.
pub(crate) mod kind {
    pub const PROCESSOR: u32 = 3;
    pub const MEMORY: u32 = 4;
    pub const IDE: u32 = 5;
    pub const SCSI: u32 = 6;
    pub const ETHERNET: u32 = 10;
    pub const DISK: u32 = 17;
    /// SATA, by VMware and VirtualBox.
    pub const OTHER_STORAGE: u32 = 20;
    /// Whose place every machine here has filled already, or needs nothing in.
    pub const WITHOUT_MEANING: [u32; 4] = [13, 23, 24, 1];
}

/// What is kept under an id: files by theirs, disks by theirs.
struct Storage<'a> {
    files: HashMap<&'a str, &'a Element>,
    disks: HashMap<&'a str, &'a Element>,
}

pub fn read(bytes: &[u8]) -> Result<Machine> {
    let root = xml::parse(bytes, WHAT)?;
    if root.name != "Envelope" {
        return Err(ExchangeError::NotThat { what: WHAT });
    }
    let system = system(&root)?;
    let hardware = system.child("VirtualHardwareSection");
    let hardware = hardware.ok_or_else(|| ExchangeError::damaged("it has no section of virtual hardware"))?;
    let storage = Storage {
        files: by_id(&root, "References", "File", "id"),
        disks: by_id(&root, "DiskSection", "Disk", "diskId"),
    };
    let name = system.text_of("Name").or_else(|| system.attribute("id"));
    let mut machine = Machine {
        name: name.unwrap_or_default().to_owned(),
        id: hardware.child("System").and_then(|s| s.text_of("VirtualSystemIdentifier")).and_then(uuid),
        notes: notes(system),
        ..Machine::default()
    };
    let configured = |key: &str| config(hardware, key);
    if configured("firmware").is_some_and(|value| value.eq_ignore_ascii_case("efi")) {
        machine.firmware = Firmware::Uefi;
    }
    machine.nested = configured("nestedHVEnabled").is_some_and(|value| value == "true");
    items(hardware, &storage, &mut machine)?;
    if machine.processors == 0 || machine.memory_bytes == 0 {
        return Err(ExchangeError::damaged(
            "it does not say how many processors or how much memory the machine has",
        ));
    }
    machine.settle();
    Ok(machine)
}

fn system(root: &Element) -> Result<&Element> {
    if let Some(collection) = root.child("VirtualSystemCollection") {
        let mut systems = collection.all("VirtualSystem");
        return match (systems.next(), systems.next()) {
            (Some(only), None) => Ok(only),
            _ => Err(ExchangeError::unsupported(
                "it describes several machines; each needs a description of its own",
            )),
        };
    }
    root.child("VirtualSystem").ok_or_else(|| ExchangeError::damaged("it describes no machine"))
}

fn by_id<'a>(root: &'a Element, section: &str, element: &'a str, id: &str) -> HashMap<&'a str, &'a Element> {
    let elements = root.child(section).into_iter().flat_map(|section| section.all(element));
    elements.filter_map(|found| Some((found.attribute(id)?, found))).collect()
}

fn notes(system: &Element) -> String {
    let section = system.child("AnnotationSection").and_then(|section| section.text_of("Annotation"));
    section.unwrap_or_default().to_owned()
}

/// A setting of VMware's, which others understand too.
fn config<'a>(hardware: &'a Element, key: &str) -> Option<&'a str> {
    let settings =
        hardware.children.iter().filter(|child| ["Config", "ExtraConfig"].contains(&child.name.as_str()));
    settings
        .into_iter()
        .find(|setting| setting.attribute("key") == Some(key))
        .and_then(|s| s.attribute("value"))
}

fn items(hardware: &Element, storage: &Storage<'_>, machine: &mut Machine) -> Result<()> {
    let is_item =
        |child: &&Element| ["Item", "StorageItem", "EthernetPortItem"].contains(&child.name.as_str());
    // Of several configurations the one without a name is the usual one.
    let items: Vec<&Element> = hardware
        .children
        .iter()
        .filter(is_item)
        .filter(|item| item.attribute("configuration").is_none())
        .collect();
    let kind_of = |item: &Element| item.text_of("ResourceType").and_then(|kind| kind.parse::<u32>().ok());
    let controllers: HashMap<&str, &&Element> =
        items.iter().filter_map(|item| Some((item.text_of("InstanceID")?, item))).collect();
    for item in &items {
        let name = item.text_of("ElementName").unwrap_or("a device");
        match kind_of(item) {
            Some(kind::PROCESSOR) => {
                machine.processors = quantity(item).and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
            }
            Some(kind::MEMORY) => machine.memory_bytes = memory(item)?,
            Some(kind::ETHERNET) if machine.adapters.len() < ADAPTERS_MAX => machine.adapters.push(Adapter {
                name: name.to_owned(),
                mac: item.text_of("Address").and_then(mac),
                switch: item.text_of("Connection").map(str::to_owned),
            }),
            Some(kind::DISK) => {
                let parent = item.text_of("Parent").and_then(|id| controllers.get(id));
                let bus = parent.and_then(|parent| kind_of(parent));
                disk(item, parent.copied().copied(), bus, storage, machine)?;
            }
            Some(kind::IDE | kind::SCSI | kind::OTHER_STORAGE) => {}
            Some(other) if kind::WITHOUT_MEANING.contains(&other) => {}
            _ => machine.leave_out(&format!("device {name}")),
        }
    }
    Ok(())
}

fn quantity(item: &Element) -> Option<u64> {
    item.text_of("VirtualQuantity").or_else(|| item.text_of("Reservation"))?.parse().ok()
}

fn memory(item: &Element) -> Result<u64> {
    // Megabytes, by DSP0243, where nothing is said.
    let unit = item.text_of("AllocationUnits").map_or(Some(1 << 20), unit);
    let bytes = quantity(item).zip(unit).and_then(|(count, unit)| count.checked_mul(unit));
    bytes.ok_or_else(|| ExchangeError::damaged("how much memory the machine has makes no sense"))
}

/// `byte * 2^20`, and what programs write instead.
fn unit(text: &str) -> Option<u64> {
    let plain: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_lowercase();
    if let Some(factor) = plain.strip_prefix("byte*") {
        return match factor.split_once('^') {
            Some((base, exponent)) => base.parse::<u64>().ok()?.checked_pow(exponent.parse().ok()?),
            None => factor.parse().ok(),
        };
    }
    match plain.as_str() {
        "byte" | "bytes" => Some(1),
        "kb" | "kilobytes" => Some(1 << 10),
        "mb" | "megabytes" => Some(1 << 20),
        "gb" | "gigabytes" => Some(1 << 30),
        _ => None,
    }
}

fn disk(
    item: &Element,
    parent: Option<&Element>,
    bus: Option<u32>,
    storage: &Storage<'_>,
    machine: &mut Machine,
) -> Result<()> {
    if machine.disks.len() >= DISKS_MAX {
        return Err(ExchangeError::TooMuch { what: "disks", max: DISKS_MAX });
    }
    let name = item.text_of("ElementName").unwrap_or("a disk").to_owned();
    let resource = item.text_of("HostResource").unwrap_or_default();
    let id = resource.rsplit('/').next().unwrap_or_default();
    let described = storage.disks.get(id).copied();
    let file = match (described, resource.contains("/file/")) {
        (_, true) => storage.files.get(id).copied(),
        (Some(disk), _) => disk.attribute("fileRef").and_then(|id| storage.files.get(id).copied()),
        (None, _) => None,
    };
    let href = file.and_then(|file| file.attribute("href")).filter(|href| !href.is_empty());
    let Some(href) = href else {
        // A disk without a file is a new one.
        machine.leave_out(&format!("{name}: it is an empty disk, or its file is not listed"));
        return Ok(());
    };
    let file = file.unwrap_or(item);
    let is_plain = file.attribute("compression").is_none_or(|how| how.is_empty() || how == "identity");
    if !is_plain || file.attribute("chunkSize").is_some() {
        let why = format!("{href} is compressed or cut in pieces; write it as one plain file");
        return Err(ExchangeError::unsupported(crate::text::shown(&why)));
    }
    if described.is_some_and(|disk| disk.attribute("parentRef").is_some_and(|parent| !parent.is_empty())) {
        let why = format!("{href} is a differencing disk inside of OVF; write it as a whole one");
        return Err(ExchangeError::unsupported(crate::text::shown(&why)));
    }
    let size_bytes = described.and_then(capacity).unwrap_or(0);
    let format = described.and_then(|disk| disk.attribute("format")).and_then(format_of);
    // A guest that knows nothing of virtio starts from IDE alone.
    let is_old = matches!(bus, Some(kind::IDE | kind::OTHER_STORAGE));
    let controller = if is_old { Controller::Ide } else { Controller::Scsi };
    // IDE controllers have two places each, and their address is their number.
    let first = match controller {
        Controller::Ide if bus == Some(kind::IDE) => {
            parent.and_then(|p| p.text_of("Address")).and_then(|a| a.parse::<u8>().ok()).unwrap_or(0)
        }
        _ => 0,
    };
    let at = item.text_of("AddressOnParent").and_then(|at| at.parse::<u8>().ok());
    let wanted = at.and_then(|at| first.checked_mul(2)?.checked_add(at));
    let file = href.to_owned();
    machine.place(wanted, Disk { controller, location: 0, file, format, read_only: false, size_bytes });
    Ok(())
}

fn capacity(disk: &Element) -> Option<u64> {
    let unit = disk.attribute("capacityAllocationUnits").map_or(Some(1), unit)?;
    disk.attribute("capacity")?.parse::<u64>().ok()?.checked_mul(unit)
}

/// Formats are addresses, of which nobody keeps a list; what is known by none is told by the file's own name or bytes.
fn format_of(address: &str) -> Option<ImageFormat> {
    let address = address.to_lowercase();
    if address == "raw" {
        return Some(ImageFormat::Raw);
    }
    let known = [("vmdk", ImageFormat::Vmdk), ("qcow", ImageFormat::Qcow2), ("vhdx", ImageFormat::Vhdx)];
    known.iter().find(|(word, _)| address.contains(word)).map(|(_, format)| *format)
}

#[cfg(test)]
#[path = "ovf_tests.rs"]
mod tests;
