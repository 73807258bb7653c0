//! A machine as Hyper-V keeps it: the file `.vmcx`.
//!
//! What a device is, the manifest says by the device's class; its settings are below its own id. What is not known here by
//! its class is told by its name.

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod sample;
mod storage;

use nestling_block::ImageFormat;
use storage::{Entry, Tree};

use crate::{
    Adapter, Controller, Disk, ExchangeError, Firmware, Machine,
    error::Result,
    place::DISKS_MAX,
    text::{mac, uuid},
};

const IDE: &str = "83f8638b-8dca-4152-9eda-2ca8b33039b4";
const SCSI: &str = "d422512d-2bf2-4752-809d-7b82b5fcb1b4";
const ETHERNET: &str = "2fc216b0-d2e2-4967-9b6d-b8a5c9ca2778";
const FLOPPY: &str = "8f0d2762-0b00-4e04-af4f-19010527cb93";
const SERIAL: &str = "8e3a359f-559a-4b6a-98a9-1690a6100ed7";
/// What an adapter may have set at its switch's port, and does not have here unless it is set again.
const PORT_FEATURES: [(&str, &str); 4] = [
    ("952C5004-4465-451C-8CB8-FA9AB382B773", "its VLAN"),
    ("776E0BA7-94A1-41C8-8F28-951F524251B5", "its port security (MAC spoofing, DHCP guard, router guard)"),
    ("24AD3CE1-69BD-4978-B2AC-DAAD389D699C", "its bandwidth limits"),
    ("998BEF4A-5D55-492A-9C43-8B2F5EAE9F2B", "its access lists"),
];
const DEVICES_MAX: usize = 1024;

/// Reads a configuration.
pub fn read(bytes: &[u8]) -> Result<Machine> {
    if bytes.len() > crate::DESCRIPTION_BYTES_MAX {
        return Err(ExchangeError::TooMuch { what: "bytes", max: crate::DESCRIPTION_BYTES_MAX });
    }
    let tree = storage::read(bytes)?;
    let root = tree.find("configuration").ok_or_else(|| ExchangeError::damaged("it has no configuration"))?;
    let missing = |what| ExchangeError::damaged(format!("it does not say {what}"));
    let name = tree.text(root, "properties/name").ok_or_else(|| missing("what the machine is called"))?;
    let processors = tree.number(root, "settings/processors/count").and_then(|n| u32::try_from(n).ok());
    let megabytes = tree.number(root, "settings/memory/bank/size");
    let mut machine = Machine {
        name: name.to_owned(),
        id: tree.text(root, "properties/global_id").and_then(uuid),
        notes: tree.text(root, "properties/notes").unwrap_or_default().to_owned(),
        processors: processors.ok_or_else(|| missing("how many processors it has"))?,
        nested: tree.is_on(root, "settings/processors/nested_virtualization/enabled"),
        memory_bytes: megabytes
            .and_then(|n| n.checked_mul(1 << 20))
            .ok_or_else(|| missing("how much memory it has"))?,
        firmware: if tree.number(root, "properties/subtype") == Some(1) {
            Firmware::Uefi
        } else {
            Firmware::Bios
        },
        ..Machine::default()
    };
    devices(&tree, root, &mut machine)?;
    settings(&tree, root, &mut machine);
    machine.settle();
    Ok(machine)
}

/// The devices in the order of the manifest, which is the one in which the guest has them.
fn devices(tree: &Tree, root: &Entry, machine: &mut Machine) -> Result<()> {
    let manifest =
        tree.below(root, "manifest").ok_or_else(|| ExchangeError::damaged("it lists no devices"))?;
    let mut listed: Vec<&Entry> =
        tree.children(manifest).filter(|entry| entry.key.starts_with("vdev")).collect();
    if listed.len() > DEVICES_MAX {
        return Err(ExchangeError::TooMuch { what: "devices", max: DEVICES_MAX });
    }
    listed.sort_by(|a, b| a.key.cmp(&b.key));
    for device in listed {
        let class = tree.text(device, "device").unwrap_or_default().to_lowercase();
        let instance = tree.text(device, "instance").unwrap_or_default();
        let own = tree.below(root, &format!("_{instance}_"));
        match (class.as_str(), own) {
            (IDE, Some(own)) => drives(tree, own, Controller::Ide, machine)?,
            (SCSI, Some(own)) => drives(tree, own, Controller::Scsi, machine)?,
            (ETHERNET, Some(own)) => adapter(tree, own, machine),
            (FLOPPY, Some(own)) => floppy(tree, own, machine),
            (SERIAL, Some(own)) => serial(tree, own, machine),
            _ => {
                let name = tree.text(device, "name").unwrap_or_default();
                // What every machine has is Microsoft's own.
                if !name.is_empty() && (!name.starts_with("Microsoft ") || name.contains("TPM")) {
                    machine.leave_out(&format!("device {name}"));
                }
            }
        }
    }
    Ok(())
}

fn drives(tree: &Tree, own: &Entry, controller: Controller, machine: &mut Machine) -> Result<()> {
    for (number, at) in numbered(tree, own, "controller") {
        for (drive, entry) in numbered(tree, at, "drive") {
            let Some(path) = tree.text(entry, "pathname") else { continue };
            let wanted = match controller {
                Controller::Ide => number.checked_mul(2).and_then(|first| first.checked_add(drive)),
                Controller::Scsi => Some(drive),
            };
            match tree.text(entry, "type").unwrap_or_default() {
                "VHD" => {
                    if machine.disks.len() >= DISKS_MAX {
                        return Err(ExchangeError::TooMuch { what: "disks", max: DISKS_MAX });
                    }
                    let (file, location) = (path.to_owned(), 0);
                    let (format, read_only, size_bytes) = (format_of(path), false, 0);
                    machine.place(wanted, Disk { controller, location, file, format, read_only, size_bytes });
                }
                "ISO" => machine.leave_out(&format!("DVD drive with {path}")),
                other => machine.leave_out(&format!("drive of the kind {other} with {path}")),
            }
        }
    }
    Ok(())
}

/// The children `KEY0`, `KEY1` and so on, in the order of their numbers.
fn numbered<'a>(tree: &'a Tree, of: &'a Entry, key: &str) -> Vec<(u8, &'a Entry)> {
    let mut found: Vec<(u8, &Entry)> = tree
        .children(of)
        .filter_map(|entry| Some((entry.key.strip_prefix(key)?.parse().ok()?, entry)))
        .collect();
    found.sort_by_key(|(number, _)| *number);
    found
}

fn format_of(path: &str) -> Option<ImageFormat> {
    let (_, ending) = path.rsplit_once('.')?;
    match ending.to_ascii_lowercase().as_str() {
        "vhdx" | "avhdx" => Some(ImageFormat::Vhdx),
        "vhd" | "avhd" => Some(ImageFormat::Vhd),
        _ => None,
    }
}

fn adapter(tree: &Tree, own: &Entry, machine: &mut Machine) {
    let name = tree.text(own, "FriendlyName").unwrap_or("Network Adapter").to_owned();
    let is_static = tree.is_on(own, "MacAddressIsStatic");
    let address = tree.text(own, "MacAddress").and_then(mac);
    // The switch's own name lies beside its id, which means nothing on another host.
    let switch = tree.text(own, "Connection/AltSwitchName").or_else(|| tree.text(own, "SwitchName"));
    let switch = switch.filter(|_| tree.is_on(own, "IsConnected")).map(str::to_owned);
    for (id, what) in PORT_FEATURES {
        if tree.below(own, &format!("Connection/Feature_{id}")).is_some() {
            machine.leave_out(&format!("adapter {name}: {what}"));
        }
    }
    machine.adapters.push(Adapter { name, mac: address.filter(|_| is_static), switch });
}

fn floppy(tree: &Tree, own: &Entry, machine: &mut Machine) {
    if let Some(path) = tree.text(own, "controller0/drive0/pathname") {
        machine.leave_out(&format!("floppy disk {path}"));
    }
}

fn serial(tree: &Tree, own: &Entry, machine: &mut Machine) {
    for (number, port) in numbered(tree, own, "port") {
        if let Some(connection) = tree.text(port, "connection") {
            machine.leave_out(&format!("serial port {} with {connection}", u16::from(number) + 1));
        }
    }
}

/// What the machine has set and cannot have here.
fn settings(tree: &Tree, root: &Entry, machine: &mut Machine) {
    if tree.is_on(root, "settings/memory/bank/dynamic_memory_enabled") {
        machine.leave_out("dynamic memory: it gets its startup memory");
    }
    if tree.children(root).any(|entry| tree.is_on(entry, "secure_boot_enabled")) {
        machine.leave_out("secure boot");
    }
    if tree.number(root, "global_settings/snapshots/list/size").is_some_and(|count| count > 0) {
        machine.leave_out("checkpoints: it gets the state that its disks are in now");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{sample::Sketch, *};

    #[test]
    fn a_machine_is_read_with_its_devices() {
        let machine = read(&Sketch::machine().file()).expect("a configuration");
        assert_eq!((machine.name.as_str(), machine.processors, machine.memory_bytes), ("Web 01", 4, 2 << 30));
        assert_eq!((machine.firmware, machine.nested), (Firmware::Uefi, true));
        assert_eq!(machine.notes.chars().count(), 3000, "a value in an object of its own");
        let places: Vec<_> =
            machine.disks.iter().map(|d| (d.controller, d.location, d.file_name())).collect();
        assert_eq!(
            places,
            [
                (Controller::Scsi, 0, "os.vhdx"),
                (Controller::Scsi, 3, "data_1.avhdx"),
                (Controller::Scsi, 1, "other.vhd")
            ]
        );
        assert_eq!(machine.disks[2].format, Some(ImageFormat::Vhd));
        let adapter =
            Adapter { name: "Front".into(), mac: Some([0, 0x15, 0x5d, 1, 2, 3]), switch: Some("LAN".into()) };
        assert_eq!(machine.adapters, [adapter]);
        let told = machine.left_out.join("; ");
        for what in
            ["DVD drive with C:\\x.iso", "its VLAN", "dynamic memory", "device Virtual Pci Express Port"]
        {
            assert!(told.contains(what), "{what}: {told}");
        }
    }

    #[test]
    fn what_is_no_configuration_or_was_not_closed_is_told() {
        let file = Sketch::machine().file();
        let error = |file: &[u8]| read(file).expect_err("refused").to_string();
        assert!(error(b"").contains("no Hyper-V configuration"));
        let mut both = file.clone();
        both[12] ^= 1;
        both[0x1000 + 12] ^= 1;
        assert!(error(&both).contains("no Hyper-V configuration"), "neither head is whole");
        let mut one = file.clone();
        one[12] ^= 1;
        assert!(read(&one).is_ok(), "the other head is");
        let mut open = file.clone();
        open[sample::LOG_AT + 8] = 1;
        assert!(error(&open).contains("was not closed"));
        assert!(error(&file[..0x3800]).contains("damaged"));
    }

    proptest! {
        #[test]
        fn no_change_makes_it_panic(at in 0_usize..20_000, byte in any::<u8>(), cut in 0_usize..20_000) {
            let mut file = Sketch::machine().file();
            let length = file.len();
            file[at % length] = byte;
            let _ = read(&file);
            file.truncate(cut % length);
            let _ = read(&file);
        }
    }
}
