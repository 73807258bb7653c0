//! What the fuzz targets drive: everything here that reads bytes of others.
//!
//! Each takes any bytes, panics where a promise is broken, and says whether the bytes were taken for what they should be. Its
//! seeds are, so that a run does not begin with rubbish; the tests hold them to it.

use std::{path::Path, sync::Arc};

use nestling_block::{ImageFiles, MemoryDisk};

use crate::{
    Adapter, Archive, Controller, Disk, Machine, archive, hyperv::sample::Sketch, read_libvirt, read_ovf,
    read_vmcx, write_libvirt, write_ovf,
};

/// What holds for every machine that is read, whatever described it.
fn look(machine: &Machine) {
    assert!(
        machine.left_out.len() <= 50 && machine.left_out.iter().all(|what| !what.contains(char::is_control))
    );
    let places: Vec<_> =
        machine.disks.iter().map(|d| (d.controller == Controller::Ide, d.location)).collect();
    for (number, place) in places.iter().enumerate() {
        assert!(!places[..number].contains(place), "two disks at one place");
        assert!(place.1 < if place.0 { 4 } else { 16 });
    }
    assert!(machine.disks.iter().all(|disk| !disk.file_name().contains(['/', '\\'])));
    assert!(machine.adapters.iter().filter_map(|a| a.mac).all(|mac| mac[0] & 1 == 0 && mac != [0; 6]));
}

pub fn vmcx(bytes: &[u8]) -> bool {
    let Ok(machine) = read_vmcx(bytes) else { return false };
    look(&machine);
    true
}

pub fn vmcx_seeds() -> Vec<Vec<u8>> {
    vec![Sketch::machine().file()]
}

pub fn ovf(bytes: &[u8]) -> bool {
    let Ok(machine) = read_ovf(bytes) else { return false };
    look(&machine);
    let again = read_ovf(write_ovf(&machine).as_bytes());
    assert!(
        again.is_ok_and(|again| again.disks.len() == machine.disks.len()) || machine.memory_bytes < 1 << 20
    );
    true
}

pub fn ovf_seeds() -> Vec<Vec<u8>> {
    vec![write_ovf(&sample()).into_bytes()]
}

pub fn libvirt(bytes: &[u8]) -> bool {
    let Ok(machine) = read_libvirt(bytes) else { return false };
    look(&machine);
    let again = read_libvirt(write_libvirt(&machine, "/f").as_bytes());
    // A name may be nothing but what no document can hold.
    let is_named = machine.name.chars().any(|c| !c.is_control() && !c.is_whitespace());
    assert!(again.is_ok_and(|again| again.disks.len() == machine.disks.len()) || !is_named);
    true
}

pub fn libvirt_seeds() -> Vec<Vec<u8>> {
    vec![write_libvirt(&sample(), "/f").into_bytes()]
}

pub fn ova(bytes: &[u8]) -> bool {
    let Ok(archive) = Archive::read(Arc::new(MemoryDisk::from_bytes("archive", bytes))) else { return false };
    assert!(archive.members().len() <= 1024);
    for member in archive.members() {
        let Ok(file) = archive.open(Path::new(&member.name)) else { continue };
        let size = file.source.size_bytes();
        let mut content = vec![0; size.min(4096) as usize];
        file.source.read_at(&mut content, 0).expect("it lies inside the archive");
        assert!(size <= bytes.len() as u64);
    }
    archive.description().is_ok()
}

pub fn ova_seeds() -> Vec<Vec<u8>> {
    let description = write_ovf(&sample());
    vec![archive::sample(&[("m.ovf", description.as_bytes()), ("a.vmdk", &[7; 700])])]
}

fn sample() -> Machine {
    let disk = Disk {
        controller: Controller::Scsi,
        location: 2,
        file: "a.vmdk".into(),
        format: Some(nestling_block::ImageFormat::Vmdk),
        read_only: false,
        size_bytes: 1 << 30,
    };
    let adapter = Adapter { name: "Front".into(), mac: Some([2, 0, 0, 0, 0, 1]), switch: Some("LAN".into()) };
    Machine {
        name: "Web".into(),
        notes: "a note".into(),
        processors: 2,
        memory_bytes: 1 << 30,
        disks: vec![disk],
        adapters: vec![adapter],
        ..Machine::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_taken() {
        assert!(vmcx_seeds().iter().all(|seed| vmcx(seed)));
        assert!(ovf_seeds().iter().all(|seed| ovf(seed)));
        assert!(libvirt_seeds().iter().all(|seed| libvirt(seed)));
        assert!(ova_seeds().iter().all(|seed| ova(seed)));
    }
}
