//! What the fuzz targets drive: everything here that reads bytes of a file or a peer.
//!
//! Each takes any bytes, panics where a promise is broken, and says whether the bytes were taken for what they should
//! be. Its seeds are, so that a run does not begin with rubbish; the tests hold them to it.

mod formats;

use std::{ops::Range, sync::Arc};

pub use formats::{partitions, partitions_seeds, vhd, vhd_seeds, vhdx, vhdx_seeds, vmdk, vmdk_seeds};
use serde_json::{Map, Value};

pub use crate::nbd::fuzzing::{
    nbd_client, nbd_client_seeds, nbd_server, nbd_server_seeds, nbd_wire, nbd_wire_seeds,
};
use crate::{
    BlockSource, ExtentKind, ExtentSet, MemoryDisk, extents,
    qcow2::{Header, Qcow2, sample},
};

/// A list of changed extents, for a disk whose size is a power of two that the first byte says.
pub fn changed(bytes: &[u8]) -> bool {
    let Some((size, json)) = bytes.split_first() else { return false };
    let size_bytes = 1_u64 << (size & 63);
    let Ok(set) = ExtentSet::parse(json, size_bytes) else { return false };
    let listed: Vec<Map<String, Value>> = serde_json::from_slice(json).expect("an array of objects");
    let mut named = ExtentSet::new();
    for entry in &listed {
        let member = |name| entry.get(name).and_then(Value::as_u64).expect("a number");
        assert_eq!(entry.len(), 2);
        named.insert(member("offset")..member("offset") + member("length"));
    }
    assert_eq!(set, named);
    assert!(set.ranges().iter().all(|range| range.start < range.end && range.end <= size_bytes));
    assert!(set.ranges().windows(2).all(|two| two[0].end < two[1].start));
    assert_eq!(ExtentSet::parse(set.to_json().as_bytes(), size_bytes).expect("our own"), set);
    let blocks = set.align(4096, size_bytes);
    assert!(set.subtract(&blocks).is_empty() && blocks.bytes() >= set.bytes());
    true
}

pub fn changed_seeds() -> Vec<Vec<u8>> {
    let set: ExtentSet = [0..65_536, 1_048_576..1_052_672, 1 << 40..1 << 41].into_iter().collect();
    [set.to_json(), ExtentSet::new().to_json(), "[ { \"length\":1 , \"offset\": 2 }\n]".to_owned()]
        .iter()
        .map(|json| [&[50], json.as_bytes()].concat())
        .collect()
}

/// An image. The first byte says whether there is something below it, and a data file of its own.
pub fn qcow2(bytes: &[u8]) -> bool {
    let Some((what, image)) = bytes.split_first() else { return false };
    let other = |bytes: &[u8]| Arc::new(MemoryDisk::from_bytes("other", bytes)) as Arc<dyn BlockSource>;
    let below = (what & 1 != 0).then(|| other(&[1; 3000]));
    let data = (what & 2 != 0).then(|| other(&[2; 40_000]));
    let file = Arc::new(MemoryDisk::from_bytes("image", image));
    let Ok(disk) = Qcow2::over(file, data, below) else { return false };
    let size = disk.size_bytes();
    assert_eq!(Header::parse(image).expect("it was opened").size_bytes, size);
    assert!(disk.read_at(&mut [0; 2], size - 1.min(size)).is_err(), "behind the end");
    look_at_both_ends(&disk);
    true
}

fn look_at_both_ends(disk: &dyn BlockSource) {
    let size = disk.size_bytes();
    look(disk, 0..size.min(WINDOW_BYTES));
    look(disk, size.saturating_sub(WINDOW_BYTES)..size);
}

/// As much of a disk is looked at.
const WINDOW_BYTES: u64 = 64 << 10;

/// What is called zero reads as zero, and the whole reads as its parts do.
fn look(disk: &dyn BlockSource, window: Range<u64>) {
    let mut whole = vec![9; (window.end - window.start) as usize];
    let outcome = disk.read_at(&mut whole, window.start);
    let mut at = window.start;
    for extent in extents(disk, window.clone()) {
        let Ok(extent) = extent else { return };
        assert!(extent.offset == at && extent.length > 0 && extent.end() <= window.end);
        at = extent.end();
        let mut part = vec![8; extent.length as usize];
        let read = disk.read_at(&mut part, extent.offset);
        if extent.kind == ExtentKind::Zero {
            read.as_ref().expect("a hole can be read");
            assert!(part.iter().all(|byte| *byte == 0));
        }
        if outcome.is_ok() {
            read.expect("a part of what can be read");
            let begin = (extent.offset - window.start) as usize;
            assert!(part == whole[begin..begin + part.len()]);
        }
    }
    assert_eq!(at, window.end);
}

pub fn qcow2_seeds() -> Vec<Vec<u8>> {
    sample::all().into_iter().map(|(what, image)| [&[what], &image[..]].concat()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_taken() {
        assert!(changed_seeds().iter().all(|seed| changed(seed)));
        assert!(qcow2_seeds().iter().all(|seed| qcow2(seed)));
        assert!(vhdx_seeds().iter().all(|seed| vhdx(seed)));
        assert!(vhd_seeds().iter().all(|seed| vhd(seed)));
        assert!(vmdk_seeds().iter().all(|seed| vmdk(seed)));
        assert!(partitions_seeds().iter().all(|seed| partitions(seed)));
    }
}
