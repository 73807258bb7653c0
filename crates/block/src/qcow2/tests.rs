use proptest::prelude::*;

use super::{
    sample::{CLUSTER, image},
    *,
};
use crate::{MemoryDisk, extents};

fn open(bytes: &[u8], below: Option<Arc<dyn BlockSource>>) -> Result<Qcow2, BlockError> {
    Qcow2::over(Arc::new(MemoryDisk::from_bytes("image", bytes)), None, below)
}

#[test]
fn tables_tell_what_is_where() {
    let c = CLUSTER as u64;
    let disk = open(&image(&[3 * c, 4 * c, 0, 1, 6 * c], 7), None).expect("open");
    let map: Vec<Extent> = extents(&disk, 0..64 * c).collect::<Result<_, _>>().expect("a map");
    assert_eq!(
        map,
        [
            Extent::data(0, 2 * c),
            Extent::zero(2 * c, 2 * c),
            Extent::data(4 * c, c),
            Extent::zero(5 * c, 59 * c)
        ]
    );
    let mut all = vec![9; 64 * CLUSTER];
    disk.read_at(&mut all, 0).expect("read");
    let firsts: Vec<u8> = all.chunks(CLUSTER).take(6).map(|cluster| cluster[0]).collect();
    assert_eq!(firsts, [3, 4, 0, 0, 6, 0]);
}

#[test]
fn what_is_not_here_is_below_and_behind_its_end_is_zero() {
    let c = CLUSTER as u64;
    let below = Arc::new(MemoryDisk::from_bytes("below", &[7; 700]));
    let disk = open(&image(&[1], 3), Some(below)).expect("open");
    let mut all = vec![9; 3 * CLUSTER];
    disk.read_at(&mut all, 0).expect("read");
    assert!(all[..CLUSTER].iter().all(|b| *b == 0));
    assert!(all[CLUSTER..700].iter().all(|b| *b == 7));
    assert!(all[700..].iter().all(|b| *b == 0));
    let map = disk.extents(0..64 * c).expect("a map");
    assert_eq!(map, [Extent::zero(0, c), Extent::data(c, 700 - c), Extent::zero(700, 64 * c - 700)]);
}

#[test]
fn places_outside_the_file_are_errors() {
    let c = CLUSTER as u64;
    for entry in [100 * c, 0x00ff_ffff_ffff_fe00, (1 << 62) | 0xff_ffff, 3 * c] {
        let disk = open(&image(&[entry], 3), None).expect("open");
        let error = disk.read_at(&mut [0; 8], 0).expect_err("outside");
        assert!(matches!(error, BlockError::Damaged { .. }), "{entry:x} {error}");
    }
    // The second of two that go on from each other.
    let disk = open(&image(&[7 * c, 8 * c], 8), None).expect("open");
    assert!(disk.extents(0..2 * c).is_err() && disk.read_at(&mut [0; 2 * CLUSTER], 0).is_err());
    let mut table = image(&[], 3);
    table[CLUSTER..CLUSTER + 8].copy_from_slice(&(3 * c).to_be_bytes());
    assert!(open(&table, None).is_err());
    let mut twice = image(&[], 4);
    twice[31] = 1;
    twice[24..32].copy_from_slice(&(128 * c).to_be_bytes());
    twice[39] = 2;
    twice[CLUSTER + 8..CLUSTER + 16].copy_from_slice(&(2 * c).to_be_bytes());
    assert!(open(&twice, None).is_err_and(|e| e.to_string().contains("same place")));
}

#[test]
fn packed_rubbish_is_an_error() {
    let mut out = [0; 512];
    for compression in [Compression::Zlib, Compression::Zstd] {
        assert!(inflate(compression, &[0xff; 100], &mut out).is_err());
        assert!(inflate(compression, &[], &mut out).is_err());
    }
    // A frame that wants a window of 2 GiB.
    assert!(inflate(Compression::Zstd, &[0x28, 0xb5, 0x2f, 0xfd, 0, 0xa8, 1, 0, 0], &mut out).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever an image says: no panic, and what is called zero reads as zero.
    #[test]
    fn a_damaged_image_is_an_error_or_reads_as_its_map_says(
        entries in prop::collection::vec(
            prop_oneof![
                (0..9_u64).prop_map(|n| n * 512),
                (0..9_u64).prop_map(|n| n * 512 + 1),
                any::<u64>(),
                (0..4096_u64).prop_map(|n| 1 << 62 | n),
            ],
            0..64,
        ),
        changes in prop::collection::vec((0..1100_usize, any::<u8>()), 0..4),
        below: bool,
    ) {
        let mut bytes = image(&entries, 8);
        for (at, value) in changes {
            bytes[at] = value;
        }
        let under: Arc<dyn BlockSource> = Arc::new(MemoryDisk::from_bytes("below", &[1; 3000]));
        let Ok(disk) = open(&bytes, below.then_some(under)) else { return Ok(()) };
        let size = disk.size_bytes().min(1 << 16);
        for extent in extents(&disk, 0..size) {
            let Ok(extent) = extent else { break };
            let mut data = vec![9; extent.length as usize];
            let read = disk.read_at(&mut data, extent.offset);
            if extent.kind == ExtentKind::Zero {
                prop_assert!(read.is_ok(), "{:?}", read);
                prop_assert!(data.iter().all(|byte| *byte == 0));
            }
        }
    }
}
