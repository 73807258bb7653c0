//! A machine of ours in the words of others.

use std::{fs::File, io::Write, path::Path};

use nestling_block::ImageFormat as TheirFormat;
use nestling_exchange::{
    Adapter, Controller as TheirController, Disk, Firmware, Kernel, Machine, write_libvirt, write_ovf,
};
use nestling_hypervisor::disk::ImageFormat;
use nestling_model::{Boot, Controller, Generation, SwitchId, Vm};

use crate::{NodeError, blocking::blocking, error::Result};

/// The machine in two languages. Names of files never come from names of machines.
const OVF: &str = "machine.ovf";
const LIBVIRT: &str = "machine.xml";

/// The machine; the caller adds its disks, as they were written.
pub fn describe(vm: &Vm, switch: impl Fn(SwitchId) -> Option<String>) -> Machine {
    Machine {
        name: vm.name.to_string(),
        id: Some(vm.id.0.as_u128()),
        notes: vm.notes.clone(),
        processors: vm.processor.count,
        nested: vm.processor.expose_virtualization_extensions,
        memory_bytes: vm.memory.startup_bytes,
        firmware: match vm.generation {
            Generation::One => Firmware::Bios,
            Generation::Two => Firmware::Uefi,
        },
        kernel: match &vm.boot {
            Boot::Firmware => None,
            Boot::Kernel { kernel, initrd, append } => Some(Kernel {
                kernel: kernel.display().to_string(),
                initrd: initrd.as_ref().map(|initrd| initrd.display().to_string()),
                append: append.clone(),
            }),
        },
        disks: Vec::new(),
        adapters: vm
            .adapters
            .iter()
            .map(|adapter| Adapter {
                name: adapter.name.clone(),
                mac: Some(adapter.mac.octets()),
                switch: adapter.switch.and_then(&switch),
            })
            .collect(),
        left_out: Vec::new(),
    }
}

/// What one of the descriptions cannot say, for whoever reads that one alone.
pub const KERNEL_ONLY_FOR_LIBVIRT: &str =
    "machine.ovf cannot say that the machine starts from a kernel of its host; machine.xml does";

/// One of its disks, in a file beside the description.
pub fn disk(
    at: (Controller, u8),
    file: String,
    format: ImageFormat,
    read_only: bool,
    size_bytes: u64,
) -> Disk {
    let controller = match at.0 {
        Controller::Ide => TheirController::Ide,
        Controller::Scsi => TheirController::Scsi,
    };
    let format = Some(match format {
        ImageFormat::Raw => TheirFormat::Raw,
        ImageFormat::Qcow2 => TheirFormat::Qcow2,
        ImageFormat::Vhdx => TheirFormat::Vhdx,
        ImageFormat::Vmdk => TheirFormat::Vmdk,
    });
    Disk { controller, location: at.1, file, format, read_only, size_bytes }
}

/// Writes both descriptions into `part`, which will be called `folder`. They are durable afterwards.
pub async fn write(machine: &Machine, part: &Path, folder: &Path) -> Result<()> {
    let texts = [(OVF, write_ovf(machine)), (LIBVIRT, write_libvirt(machine, &folder.display().to_string()))];
    let part = part.to_owned();
    blocking(move || {
        for (name, text) in texts {
            let path = part.join(name);
            let written = File::create_new(&path).and_then(|mut file| {
                file.write_all(text.as_bytes())?;
                file.sync_all()
            });
            written.map_err(NodeError::io("write", path))?;
        }
        Ok(())
    })
    .await
}
