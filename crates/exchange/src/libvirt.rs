//! A machine as libvirt describes it: the XML of a domain.

use nestling_block::ImageFormat;

use crate::{
    Adapter, Controller, Disk, ExchangeError, Firmware, Kernel, Machine,
    error::Result,
    place::DISKS_MAX,
    text::{file_name, mac, uuid},
    xml::{self, Element},
};

const WHAT: &str = "libvirt domain";
const ADAPTERS_MAX: usize = 256;
/// What every machine here has, what any guest can do without, and what is read elsewhere.
const WITHOUT_MEANING: [&str; 17] = [
    "disk",
    "interface",
    "emulator",
    "controller",
    "input",
    "graphics",
    "video",
    "memballoon",
    "rng",
    "console",
    "serial",
    "channel",
    "panic",
    "audio",
    "sound",
    "iommu",
    "watchdog",
];
/// Settings that limit or bind a machine.
const LIMITS: [&str; 5] = ["cputune", "memtune", "blkiotune", "numatune", "resource"];

/// Whether it is such a description at all.
pub fn is_domain(bytes: &[u8]) -> bool {
    xml::parse(bytes, WHAT).is_ok_and(|root| root.name == "domain")
}

pub fn read(bytes: &[u8]) -> Result<Machine> {
    let root = xml::parse(bytes, WHAT)?;
    if root.name != "domain" {
        return Err(ExchangeError::NotThat { what: WHAT });
    }
    let missing = |what| ExchangeError::damaged(format!("it does not say {what}"));
    let mut machine = Machine {
        name: root.text_of("name").ok_or_else(|| missing("what the machine is called"))?.to_owned(),
        id: root.text_of("uuid").and_then(uuid),
        notes: root.text_of("description").or_else(|| root.text_of("title")).unwrap_or_default().to_owned(),
        processors: root
            .text_of("vcpu")
            .map_or(Some(1), |count| count.parse().ok())
            .ok_or_else(|| missing("how many processors it has"))?,
        memory_bytes: root
            .child("memory")
            .and_then(memory)
            .ok_or_else(|| missing("how much memory it has"))?,
        ..Machine::default()
    };
    if let Some(os) = root.child("os") {
        start(os, &mut machine);
    }
    if let Some(cpu) = root.child("cpu") {
        machine.nested = cpu.all("feature").any(|feature| {
            let is_named = feature.attribute("name").is_some_and(|name| ["vmx", "svm"].contains(&name));
            is_named && feature.attribute("policy").is_none_or(|policy| policy == "require")
        });
    }
    if let Some(devices) = root.child("devices") {
        for disk in devices.all("disk") {
            read_disk(disk, &mut machine)?;
        }
        devices.all("interface").take(ADAPTERS_MAX).for_each(|interface| adapter(interface, &mut machine));
        for other in devices.children.iter().filter(|child| !WITHOUT_MEANING.contains(&child.name.as_str())) {
            machine.leave_out(&format!("device {}", other.name));
        }
    }
    for limits in root.children.iter().filter(|child| LIMITS.contains(&child.name.as_str())) {
        machine.leave_out(&format!("limits ({})", limits.name));
    }
    machine.settle();
    Ok(machine)
}

/// In KiB, where nothing is said.
fn memory(element: &Element) -> Option<u64> {
    let unit: u64 = match element.attribute("unit").unwrap_or("KiB") {
        "b" | "bytes" => 1,
        "KB" => 1000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => return None,
    };
    element.text.trim().parse::<u64>().ok()?.checked_mul(unit)
}

/// What the machine starts with.
fn start(os: &Element, machine: &mut Machine) {
    let loader = os.child("loader");
    let is_flash = loader.is_some_and(|loader| loader.attribute("type") == Some("pflash"));
    if is_flash || os.attribute("firmware") == Some("efi") {
        machine.firmware = Firmware::Uefi;
    }
    if loader.is_some_and(|loader| loader.attribute("secure") == Some("yes")) {
        machine.leave_out("secure boot");
    }
    machine.kernel = os.text_of("kernel").map(|kernel| Kernel {
        kernel: kernel.to_owned(),
        initrd: os.text_of("initrd").map(str::to_owned),
        append: os.text_of("cmdline").unwrap_or_default().to_owned(),
    });
}

fn read_disk(disk: &Element, machine: &mut Machine) -> Result<()> {
    if machine.disks.len() >= DISKS_MAX {
        return Err(ExchangeError::TooMuch { what: "disks", max: DISKS_MAX });
    }
    let device = disk.attribute("device").unwrap_or("disk");
    let target = disk.attribute_of("target", "dev").unwrap_or("a disk");
    let source = disk.child("source");
    let Some(file) = source.and_then(|source| source.attribute("file")).filter(|file| !file.is_empty())
    else {
        // An empty drive is nothing to tell of.
        if device == "disk" || source.is_some() {
            machine.leave_out(&format!("{device} {target}: it is no file"));
        }
        return Ok(());
    };
    if device != "disk" {
        machine.leave_out(&format!("{device} {target} with {file}"));
        return Ok(());
    }
    // A guest that knows nothing of virtio starts from IDE alone.
    let controller = match disk.attribute_of("target", "bus") {
        Some("ide" | "sata") => Controller::Ide,
        Some("virtio" | "scsi") | None => Controller::Scsi,
        Some(other) => {
            machine.leave_out(&format!("disk {target} on {other} with {}", file_name(file)));
            return Ok(());
        }
    };
    let format = match disk.attribute_of("driver", "type") {
        Some("raw") => Some(ImageFormat::Raw),
        Some("qcow2") => Some(ImageFormat::Qcow2),
        Some("vmdk") => Some(ImageFormat::Vmdk),
        Some("vpc") => Some(ImageFormat::Vhd),
        Some("vhdx") => Some(ImageFormat::Vhdx),
        None => None,
        Some(other) => {
            let why =
                format!("disk {target} is in the format {other}, which is not read; convert it to qcow2");
            return Err(ExchangeError::unsupported(crate::text::shown(&why)));
        }
    };
    let (wanted, read_only) = (place(disk, target), disk.child("readonly").is_some());
    let file = file.to_owned();
    machine.place(wanted, Disk { controller, location: 0, file, format, read_only, size_bytes: 0 });
    Ok(())
}

/// The address says it, else the last letter of the name that the guest may give it: `sdb` is the second.
fn place(disk: &Element, target: &str) -> Option<u8> {
    let number = |name: &str| disk.attribute_of("address", name).and_then(|text| text.parse::<u8>().ok());
    if disk.attribute_of("address", "type") == Some("drive") {
        let is_ide = disk.attribute_of("target", "bus") == Some("ide");
        let bus = if is_ide { number("bus").unwrap_or(0) } else { 0 };
        return bus.checked_mul(2)?.checked_add(number("unit")?);
    }
    let is_short = target.len() == 3 && target.is_ascii();
    target.as_bytes().get(2).copied().filter(|_| is_short)?.checked_sub(b'a')
}

fn adapter(interface: &Element, machine: &mut Machine) {
    let is_plugged = interface.attribute_of("link", "state") != Some("down");
    let source = interface.child("source").filter(|_| is_plugged);
    let switch = ["network", "bridge", "dev"].iter().find_map(|name| source?.attribute(name));
    machine.adapters.push(Adapter {
        name: interface.attribute_of("alias", "name").map_or_else(|| "Network Adapter".to_owned(), alias),
        mac: interface.attribute_of("mac", "address").and_then(mac),
        switch: switch.map(str::to_owned),
    });
}

/// Names that a person gives begin so; others are libvirt's own.
fn alias(name: &str) -> String {
    name.strip_prefix("ua-").unwrap_or("Network Adapter").to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DOMAIN: &str = "<domain type='kvm'><name>Web</name><uuid>282874fc-59d6-4f30-bc04-5fdd909c82e0</uuid>
        <description>a note</description><memory unit='GiB'>2</memory><vcpu placement='static'>4</vcpu>
        <os firmware='efi'><type>hvm</type><loader secure='yes'/></os>
        <cpu mode='custom'><feature policy='require' name='vmx'/></cpu><cputune/>
        <devices><emulator>/usr/bin/qemu</emulator>
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/v/web os.qcow2'/><target dev='vda' bus='virtio'/></disk>
        <disk type='file' device='disk'><source file='/v/data.img'/><target dev='sdd' bus='scsi'/>
          <address type='drive' controller='0' bus='0' target='0' unit='2'/><readonly/></disk>
        <disk type='block' device='disk'><source dev='/dev/sdb'/><target dev='vdb' bus='virtio'/></disk>
        <disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
        <disk type='file' device='cdrom'><source file='/v/x.iso'/><target dev='sdb' bus='sata'/></disk>
        <interface type='network'><mac address='52:54:00:01:02:03'/><source network='default'/></interface>
        <interface type='bridge'><source bridge='br0'/><alias name='ua-Back'/></interface>
        <hostdev/></devices></domain>";

    #[test]
    fn a_domain_is_read() {
        let machine = read(DOMAIN.as_bytes()).expect("a machine");
        assert_eq!((machine.name.as_str(), machine.notes.as_str(), machine.processors), ("Web", "a note", 4));
        assert_eq!((machine.memory_bytes, machine.firmware, machine.nested), (2 << 30, Firmware::Uefi, true));
        let disks: Vec<_> = machine
            .disks
            .iter()
            .map(|d| (d.file_name(), d.controller, d.location, d.format, d.read_only))
            .collect();
        let scsi = Controller::Scsi;
        assert_eq!(
            disks,
            [("web os.qcow2", scsi, 0, Some(ImageFormat::Qcow2), false), ("data.img", scsi, 2, None, true)]
        );
        let adapters: Vec<_> = machine
            .adapters
            .iter()
            .map(|a| (a.name.as_str(), a.mac.is_some(), a.switch.as_deref()))
            .collect();
        assert_eq!(adapters, [("Network Adapter", true, Some("default")), ("Back", false, Some("br0"))]);
        let told = machine.left_out.join("; ");
        for what in
            ["disk vdb: it is no file", "cdrom sdb with /v/x.iso", "device hostdev", "limits", "secure boot"]
        {
            assert!(told.contains(what), "{what}: {told}");
        }
        assert_eq!(machine.left_out.len(), 5);
    }

    #[test]
    fn a_place_comes_from_the_address_or_the_name() {
        let at = |target: &str, address: &str| {
            let text = format!("<disk><target dev='{target}' bus='ide'/>{address}</disk>");
            place(&xml::parse(text.as_bytes(), WHAT).expect("a disk"), target)
        };
        assert_eq!(
            (at("hdc", ""), at("vda", ""), at("sdaa", ""), at("x", "")),
            (Some(2), Some(0), None, None)
        );
        assert_eq!(at("hda", "<address type='drive' bus='1' unit='1'/>"), Some(3));
    }

    #[test]
    fn what_cannot_be_taken_is_refused() {
        let error = |from: &str, to: &str| {
            read(DOMAIN.replace(from, to).as_bytes()).expect_err("refused").to_string()
        };
        assert!(error("domain", "network").contains("no libvirt domain"));
        assert!(error("<name>Web</name>", "").contains("is called"));
        assert!(error("'GiB'", "'ells'").contains("memory"));
        assert!(error("type='qcow2'", "type='qed'").contains("format qed"));
        assert!(!is_domain(b"<network/>") && is_domain(DOMAIN.as_bytes()));
    }

    proptest! {
        #[test]
        fn no_change_makes_it_panic(at in any::<prop::sample::Index>(), with in "[<>/0-9a-z' ]{0,6}") {
            let mut bytes = DOMAIN.as_bytes().to_vec();
            let at = at.index(bytes.len());
            bytes.splice(at..(at + 1), with.bytes());
            let _ = read(&bytes);
        }
    }
}
