//! A configuration that a real Hyper-V wrote, from the collection of samples beside the project.

use std::{fs, io::Write, path::Path};

use nestling_block::ImageFormat;
use nestling_exchange::{Adapter, Controller, Disk, Firmware, read_vmcx};

/// None is told as skipped.
fn sample(name: &str) -> Option<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    let found = fs::read(path).ok();
    if found.is_none() {
        let mut error = std::io::stderr();
        let _ = writeln!(error, "skipped: {name} is not there");
    }
    found
}

#[test]
fn a_configuration_of_hyper_v() {
    let Some(bytes) = sample("disk/test.vmcx") else { return };
    let machine = read_vmcx(&bytes).expect("a machine");
    assert_eq!(
        (machine.name.as_str(), machine.processors, machine.memory_bytes),
        ("Other Location", 1, 1 << 30)
    );
    assert_eq!((machine.firmware, machine.nested, machine.notes.as_str()), (Firmware::Bios, false, ""));
    assert_eq!(machine.id, Some(0x2828_74fc_59d6_4f30_bc04_5fdd_909c_82e0));
    let disk = Disk {
        controller: Controller::Ide,
        location: 0,
        file: "C:\\Users\\Public\\Documents\\Hyper-V\\Virtual Hard Disks\\Other Location.vhdx".into(),
        format: Some(ImageFormat::Vhdx),
        read_only: false,
        size_bytes: 0,
    };
    assert_eq!(machine.disks, [disk]);
    assert_eq!(machine.adapters, [Adapter { name: "Network Adapter".into(), mac: None, switch: None }]);
    assert!(machine.left_out.is_empty(), "{:?}", machine.left_out);
}

/// The state of a machine that ran has the same container, and is no configuration.
#[test]
fn a_runtime_state_is_none() {
    let Some(bytes) = sample("disk/test.VMRS") else { return };
    assert!(read_vmcx(&bytes).is_err());
}
