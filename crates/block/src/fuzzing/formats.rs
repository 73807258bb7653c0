//! Images of other programs, and tables of partitions.
//!
//! Their structures have sums, behind which no change would get. So one bit says that the sums are made right first.

use std::{path::Path, sync::Arc};

use super::look_at_both_ends;
use crate::{
    BlockSource, Links, MemoryDisk, PartitionTable, TableKind,
    fields::Fields,
    files::MemoryFiles,
    mapped::DISK_BYTES_MAX,
    partitions,
    sketch::Sketch,
    vhd::{self, Vhd},
    vhdx::{self, Vhdx},
    vmdk::{self, Vmdk},
};

const HAS_BELOW: u8 = 1;
const SEALED: u8 = 2;

fn below(what: u8) -> Option<Arc<dyn BlockSource>> {
    (what & HAS_BELOW != 0)
        .then(|| Arc::new(MemoryDisk::from_bytes("below", &[1; 3000])) as Arc<dyn BlockSource>)
}

fn look(disk: &dyn BlockSource) {
    let size = disk.size_bytes();
    assert!(size <= DISK_BYTES_MAX);
    assert!(disk.read_at(&mut [0; 2], size - 1.min(size)).is_err(), "behind the end");
    look_at_both_ends(disk);
}

/// Whether there is something below it and the sums are made right, and an image as a sketch.
pub fn vhdx(bytes: &[u8]) -> bool {
    let Some((what, image)) = bytes.split_first() else { return false };
    let file = Sketch::decode(image).disk("image");
    if what & SEALED != 0 {
        vhdx::sample::seal(&file);
    }
    let Ok(disk) = Vhdx::over(Arc::new(file), below(*what)) else { return false };
    assert_eq!(disk.metadata().parent.is_some(), what & HAS_BELOW != 0);
    look(&disk);
    true
}

pub fn vhdx_seeds() -> Vec<Vec<u8>> {
    vhdx::sample::all()
        .into_iter()
        .map(|(has_below, sketch)| [vec![SEALED | u8::from(has_below)], sketch.encode()].concat())
        .collect()
}

/// Whether there is something below it and the sums are made right, and an image.
pub fn vhd(bytes: &[u8]) -> bool {
    let Some((what, image)) = bytes.split_first() else { return false };
    let mut image = image.to_vec();
    if what & SEALED != 0 {
        vhd::sample::seal(&mut image);
    }
    let file = Arc::new(MemoryDisk::from_bytes("image", &image));
    let Ok(disk) = Vhd::over(file, below(*what)) else { return false };
    look(&disk);
    true
}

pub fn vhd_seeds() -> Vec<Vec<u8>> {
    vhd::sample::all()
        .into_iter()
        .map(|(has_below, image)| [vec![SEALED | u8::from(has_below)], image].concat())
        .collect()
}

/// Files, each with its length in two bytes before it: the image, and what it may name as `a`, `b` and so on.
pub fn vmdk(bytes: &[u8]) -> bool {
    let mut files = MemoryFiles(Vec::new());
    let mut rest = bytes;
    for name in ["/v/disk.vmdk", "/v/a", "/v/b", "/v/c"] {
        let length = usize::from(Fields(rest).le16(0));
        let content = Fields(rest).part(2, length);
        files.0.push((name.to_owned(), Arc::new(MemoryDisk::from_bytes(name, content))));
        rest = rest.get(2 + content.len()..).unwrap_or_default();
    }
    let Ok(disk) = Vmdk::open_in(&files, Path::new("/v/disk.vmdk"), Links::Follow) else { return false };
    look(&disk);
    true
}

pub fn vmdk_seeds() -> Vec<Vec<u8>> {
    let file = |content: &Vec<u8>| {
        let length = u16::try_from(content.len()).expect("a small file");
        [&length.to_le_bytes(), &content[..]].concat()
    };
    vmdk::sample::all().iter().map(|files| files.iter().flat_map(file).collect()).collect()
}

/// Whether the sums are made right, and a disk as a sketch.
pub fn partitions(bytes: &[u8]) -> bool {
    let Some((what, disk)) = bytes.split_first() else { return false };
    let disk = Sketch::decode(disk).disk("disk");
    if what & SEALED != 0 {
        partitions::sample::seal(&disk);
    }
    let disk: Arc<dyn BlockSource> = Arc::new(disk);
    let Ok(table) = PartitionTable::read(&*disk, None) else { return false };
    assert!(table.problems.len() <= 16 && table.partitions.len() <= 8192);
    for partition in &table.partitions {
        assert_eq!(partition.number == 0, table.kind == TableKind::None);
        let volume = partition.open(&disk).expect("it lies inside the disk");
        assert_eq!(volume.size_bytes(), partition.range.end - partition.range.start);
    }
    true
}

pub fn partitions_seeds() -> Vec<Vec<u8>> {
    partitions::sample::all().iter().map(|sketch| [vec![SEALED], sketch.encode()].concat()).collect()
}
