//! Descriptions that go with a machine's disks when it leaves: OVF for most programs, libvirt's XML for hosts with QEMU.
//!
//! What is written is read again by this crate as the same machine; the tests hold it to that.

use nestling_block::ImageFormat;

use crate::ovf::kind::{DISK, ETHERNET, IDE, MEMORY, PROCESSOR, SCSI};
use crate::{
    Controller, Disk, Firmware, Machine,
    text::{mac_text, uuid_text},
    xml::escaped,
};

/// libvirt's XML. Disks lie in `folder`, by an absolute path, which libvirt wants.
#[must_use]
pub fn libvirt(machine: &Machine, folder: &str) -> String {
    let mut out = String::from("<domain type='kvm'>\n");
    let mut line = |text: String| {
        out.push_str(&text);
        out.push('\n');
    };
    line(format!("  <name>{}</name>", escaped(&machine.name)));
    if let Some(id) = machine.id {
        line(format!("  <uuid>{}</uuid>", uuid_text(id)));
    }
    if !machine.notes.is_empty() {
        line(format!("  <description>{}</description>", escaped(&machine.notes)));
    }
    line(format!("  <memory unit='bytes'>{}</memory>", machine.memory_bytes));
    line(format!("  <vcpu>{}</vcpu>", machine.processors));
    line(libvirt_os(machine));
    line("  <features><acpi/><apic/></features>".to_owned());
    match machine.nested {
        true => line("  <cpu mode='host-model'><feature policy='require' name='vmx'/></cpu>".to_owned()),
        false => line("  <cpu mode='host-model'/>".to_owned()),
    }
    line("  <devices>".to_owned());
    machine.disks.iter().for_each(|disk| line(libvirt_disk(disk, folder)));
    for adapter in &machine.adapters {
        let mac = adapter.mac.map(|mac| format!("<mac address='{}'/>", mac_text(mac))).unwrap_or_default();
        // A network must have a name there, also that of an adapter that is not plugged in.
        let switch = escaped(adapter.switch.as_deref().unwrap_or("default"));
        let link = if adapter.switch.is_none() { "<link state='down'/>" } else { "" };
        let name = escaped(&adapter.name);
        line(format!(
            "    <interface type='network'>{mac}<source network='{switch}'/>{link}<model type='virtio'/><alias name='ua-{name}'/></interface>"
        ));
    }
    line("    <serial type='pty'/>".to_owned());
    line("  </devices>".to_owned());
    line("</domain>".to_owned());
    out
}

fn libvirt_os(machine: &Machine) -> String {
    let (firmware, chassis) = match machine.firmware {
        Firmware::Bios => ("", "pc"),
        Firmware::Uefi => (" firmware='efi'", "q35"),
    };
    let mut out = format!("  <os{firmware}><type arch='x86_64' machine='{chassis}'>hvm</type>");
    if let Some(kernel) = &machine.kernel {
        out.push_str(&format!("<kernel>{}</kernel>", escaped(&kernel.kernel)));
        if let Some(initrd) = &kernel.initrd {
            out.push_str(&format!("<initrd>{}</initrd>", escaped(initrd)));
        }
        out.push_str(&format!("<cmdline>{}</cmdline>", escaped(&kernel.append)));
    }
    out.push_str("</os>");
    out
}

fn libvirt_disk(disk: &Disk, folder: &str) -> String {
    let kind = match disk.format {
        Some(ImageFormat::Qcow2) => "qcow2",
        Some(ImageFormat::Vhdx) => "vhdx",
        Some(ImageFormat::Vhd) => "vpc",
        Some(ImageFormat::Vmdk) => "vmdk",
        Some(ImageFormat::Raw | ImageFormat::Nbd) | None => "raw",
    };
    let letter = char::from(b'a' + disk.location.min(25));
    let (bus, target) = match disk.controller {
        Controller::Ide => ("ide", format!("hd{letter}")),
        Controller::Scsi => ("virtio", format!("vd{letter}")),
    };
    let read_only = if disk.read_only { "<readonly/>" } else { "" };
    let file = escaped(&format!("{folder}/{}", disk.file));
    format!(
        "    <disk type='file' device='disk'><driver name='qemu' type='{kind}'/><source file='{file}'/><target dev='{target}' bus='{bus}'/>{read_only}</disk>"
    )
}

/// The number of the first item of each kind.
const CONTROLLERS_FROM: u32 = 10;
const DISKS_FROM: u32 = 100;
const ADAPTERS_FROM: u32 = 200;

/// OVF 1.1, with its files beside it.
#[must_use]
pub fn ovf(machine: &Machine) -> String {
    let mut out = String::from(concat!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n",
        "<Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\"\n",
        "    xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData\"\n",
        "    xmlns:vssd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData\"\n",
        "    xmlns:vmw=\"http://www.vmware.com/schema/ovf\">\n",
    ));
    let (mut files, mut disks) = (String::new(), String::new());
    for (number, disk) in machine.disks.iter().enumerate() {
        let (href, format) = (escaped(&disk.file), format_address(disk.format));
        files.push_str(&format!("    <File ovf:id=\"file{number}\" ovf:href=\"{href}\"/>\n"));
        disks.push_str(&format!(
            "    <Disk ovf:diskId=\"disk{number}\" ovf:fileRef=\"file{number}\" ovf:capacity=\"{}\" ovf:capacityAllocationUnits=\"byte\" ovf:format=\"{format}\"/>\n",
            disk.size_bytes
        ));
    }
    out.push_str(&format!("  <References>\n{files}  </References>\n"));
    out.push_str(&format!("  <DiskSection>\n    <Info>The disks</Info>\n{disks}  </DiskSection>\n"));
    let mut networks: Vec<&str> = machine.adapters.iter().filter_map(|a| a.switch.as_deref()).collect();
    networks.sort_unstable();
    networks.dedup();
    out.push_str("  <NetworkSection>\n    <Info>The switches</Info>\n");
    for network in networks {
        out.push_str(&format!("    <Network ovf:name=\"{}\"/>\n", escaped(network)));
    }
    out.push_str("  </NetworkSection>\n");
    out.push_str(&virtual_system(machine));
    out.push_str("</Envelope>\n");
    out
}

fn virtual_system(machine: &Machine) -> String {
    let name = escaped(&machine.name);
    let mut out = format!(
        "  <VirtualSystem ovf:id=\"machine\">\n    <Info>A virtual machine</Info>\n    <Name>{name}</Name>\n"
    );
    if !machine.notes.is_empty() {
        let notes = escaped(&machine.notes);
        out.push_str(&format!("    <AnnotationSection>\n      <Info>Notes</Info>\n      <Annotation>{notes}</Annotation>\n    </AnnotationSection>\n"));
    }
    out.push_str("    <VirtualHardwareSection>\n      <Info>The hardware</Info>\n");
    out.push_str(&format!("      <System><vssd:ElementName>Hardware</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID><vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier><vssd:VirtualSystemType>vmx-13</vssd:VirtualSystemType></System>\n"));
    items(machine).iter().for_each(|item| out.push_str(&item.xml()));
    let mut config = |key: &str, value: &str| {
        out.push_str(&format!(
            "      <vmw:Config ovf:required=\"false\" vmw:key=\"{key}\" vmw:value=\"{value}\"/>\n"
        ));
    };
    if machine.firmware == Firmware::Uefi {
        config("firmware", "efi");
    }
    if machine.nested {
        config("nestedHVEnabled", "true");
    }
    out.push_str("    </VirtualHardwareSection>\n  </VirtualSystem>\n");
    out
}

/// One thing that the machine has.
#[derive(Default)]
struct Item {
    number: u32,
    kind: u32,
    name: String,
    /// More of its elements, in the order of their names, which OVF wants.
    more: Vec<(&'static str, String)>,
}

impl Item {
    fn xml(&self) -> String {
        let mut elements = self.more.clone();
        elements.push(("ElementName", self.name.clone()));
        elements.push(("InstanceID", self.number.to_string()));
        elements.push(("ResourceType", self.kind.to_string()));
        elements.sort_by_key(|(name, _)| *name);
        let mut out = String::from("      <Item>");
        for (name, text) in elements {
            out.push_str(&format!("<rasd:{name}>{}</rasd:{name}>", escaped(&text)));
        }
        out.push_str("</Item>\n");
        out
    }
}

fn items(machine: &Machine) -> Vec<Item> {
    let text = |text: &str| text.to_owned();
    let mut items = vec![
        Item {
            number: 1,
            kind: PROCESSOR,
            name: format!("{} processors", machine.processors),
            more: vec![("VirtualQuantity", machine.processors.to_string())],
        },
        Item {
            number: 2,
            kind: MEMORY,
            name: text("Memory"),
            more: vec![
                ("AllocationUnits", text("byte * 2^20")),
                ("VirtualQuantity", (machine.memory_bytes >> 20).to_string()),
            ],
        },
    ];
    // One SCSI controller, and of the IDE ones, which have two places each, those that are needed.
    let mut controllers: Vec<(u32, u32)> = machine.disks.iter().map(controller_of).collect();
    controllers.sort_unstable();
    controllers.dedup();
    for (kind, address) in controllers {
        let (name, sub) = if kind == IDE { ("IDE", "PIIX4") } else { ("SCSI", "lsilogic") };
        items.push(Item {
            number: number_of(kind, address),
            kind,
            name: format!("{name} controller {address}"),
            more: vec![("Address", address.to_string()), ("ResourceSubType", text(sub))],
        });
    }
    for (number, disk) in (0_u32..).zip(&machine.disks) {
        let (kind, address) = controller_of(disk);
        let place = if kind == IDE { disk.location % 2 } else { disk.location };
        items.push(Item {
            number: DISKS_FROM + number,
            kind: DISK,
            name: format!("Disk {number}"),
            more: vec![
                ("AddressOnParent", place.to_string()),
                ("HostResource", format!("ovf:/disk/disk{number}")),
                ("Parent", number_of(kind, address).to_string()),
            ],
        });
    }
    for (number, adapter) in (0_u32..).zip(&machine.adapters) {
        let mut more = vec![("AutomaticAllocation", text("true")), ("ResourceSubType", text("E1000"))];
        more.extend(adapter.mac.map(|mac| ("Address", mac_text(mac))));
        more.extend(adapter.switch.clone().map(|switch| ("Connection", switch)));
        let name = adapter.name.clone();
        items.push(Item { number: ADAPTERS_FROM + number, kind: ETHERNET, name, more });
    }
    items
}

/// The kind of a disk's controller, and its number among those of its kind.
fn controller_of(disk: &Disk) -> (u32, u32) {
    match disk.controller {
        Controller::Ide => (IDE, u32::from(disk.location / 2)),
        Controller::Scsi => (SCSI, 0),
    }
}

fn number_of(kind: u32, address: u32) -> u32 {
    CONTROLLERS_FROM + kind * 2 + address
}

/// Formats are addresses; for raw disks nobody has one.
fn format_address(format: Option<ImageFormat>) -> &'static str {
    match format {
        Some(ImageFormat::Vmdk) => {
            "http://www.vmware.com/interfaces/specifications/vmdk.html#monolithicSparse"
        }
        Some(ImageFormat::Qcow2) => "http://www.gnome.org/~markmc/qcow-image-format.html",
        Some(ImageFormat::Vhdx) => "https://learn.microsoft.com/openspecs/windows_protocols/ms-vhdx",
        Some(ImageFormat::Vhd) => "http://technet.microsoft.com/en-us/virtualserver/bb676673.aspx",
        Some(ImageFormat::Raw | ImageFormat::Nbd) | None => "raw",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Adapter, Kernel, read_libvirt, read_ovf};

    fn disks() -> impl Strategy<Value = Vec<Disk>> {
        let formats = [ImageFormat::Raw, ImageFormat::Qcow2, ImageFormat::Vhdx, ImageFormat::Vmdk];
        let disk = (
            any::<bool>(),
            "[a-z &<']{1,9}",
            prop::sample::select(formats.to_vec()),
            1_u64..1 << 40,
            any::<bool>(),
        );
        prop::collection::vec(disk, 0..4).prop_map(|disks| {
            let mut machine = Machine::default();
            for (is_ide, file, format, size_bytes, read_only) in disks {
                let controller = if is_ide { Controller::Ide } else { Controller::Scsi };
                let file = format!("{file}.x");
                machine.place(
                    None,
                    Disk { controller, location: 0, file, format: Some(format), read_only, size_bytes },
                );
            }
            machine.disks
        })
    }

    fn adapter() -> impl Strategy<Value = Adapter> {
        let (name, mac, switch) =
            ("[a-zA-Z &<'\"]{0,9}x", any::<Option<[u8; 5]>>(), prop::option::of("[a-z &<'\"]{0,9}x"));
        (name, mac, switch).prop_map(|(name, mac, switch)| Adapter {
            name: name.trim().to_owned(),
            mac: mac.map(|[a, b, c, d, e]| [2, a, b, c, d, e]),
            switch: switch.map(|switch| switch.trim().to_owned()),
        })
    }

    fn machine() -> impl Strategy<Value = Machine> {
        let kernel = prop::option::of(("/[a-z &]{1,9}x", prop::option::of("/[a-z]{1,9}"), "[a-z=<& ]{0,9}x"));
        let adapters = prop::collection::vec(adapter(), 0..3);
        (
            "[a-zA-Z0-9 &<>'\"]{0,20}x",
            any::<u128>(),
            "([a-z &<>]{0,20}x)?",
            1_u32..99,
            any::<bool>(),
            32_u64..1 << 20,
            kernel,
            disks(),
            adapters,
        )
            .prop_map(|(name, id, notes, processors, nested, megabytes, kernel, disks, adapters)| {
                Machine {
                    name: name.trim().to_owned(),
                    id: Some(id.max(1)),
                    notes: notes.trim().to_owned(),
                    processors,
                    nested,
                    memory_bytes: megabytes << 20,
                    firmware: if disks.iter().any(|d| d.controller == Controller::Ide) {
                        Firmware::Bios
                    } else {
                        Firmware::Uefi
                    },
                    kernel: kernel.map(|(kernel, initrd, append)| Kernel {
                        kernel,
                        initrd,
                        append: append.trim().to_owned(),
                    }),
                    disks,
                    adapters,
                    left_out: Vec::new(),
                }
            })
    }

    proptest! {
        #[test]
        fn what_is_written_for_libvirt_is_read_as_the_same(machine in machine()) {
            let read = read_libvirt(libvirt(&machine, "/f").as_bytes()).expect("our own");
            let mut expected = machine;
            expected.disks.iter_mut().for_each(|d| {
                d.size_bytes = 0;
                d.file = format!("/f/{}", d.file);
            });
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn what_is_written_as_ovf_is_read_as_the_same(machine in machine()) {
            let read = read_ovf(ovf(&machine).as_bytes()).expect("our own");
            let mut expected = machine;
            (expected.id, expected.kernel) = (None, None);
            expected.disks.iter_mut().for_each(|d| d.read_only = false);
            prop_assert_eq!(read, expected);
        }
    }
}
