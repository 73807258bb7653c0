use std::sync::Arc;

use proptest::prelude::*;

use super::{
    sample::{SIZE_BYTES, all, disk, gpt, logical, mbr, seal},
    *,
};
use crate::{BlockTarget, Guid, MemoryDisk, sketch::Sketch};

fn read(disk: &MemoryDisk) -> PartitionTable {
    PartitionTable::read(disk, None).expect("a table")
}

/// Number, first sector of 512 bytes, sectors.
fn list(table: &PartitionTable) -> Vec<(u32, u64, u64)> {
    let sectors =
        |part: &Partition| (part.number, part.range.start / 512, (part.range.end - part.range.start) / 512);
    table.partitions.iter().map(sectors).collect()
}

#[test]
fn primary_and_logical_partitions() {
    let table = read(&disk(&logical()));
    assert_eq!((table.kind, table.sector_bytes, &table.problems[..]), (TableKind::Mbr, 512, &[][..]));
    let expected =
        [(1, 64, 64), (2, 1024, 4096), (3, 6000, 100), (5, 1032, 16), (6, 1544, 32), (7, 3080, 64)];
    assert_eq!(list(&table), expected);
    let kinds: Vec<PartitionKind> = table.partitions.iter().map(|part| part.kind).collect();
    use PartitionKind::{Data, Extended, Lvm, Swap};
    assert_eq!(kinds, [Data, Extended, Data, Data, Swap, Lvm]);
    let four = PartitionTable::read(&Sketch { size_bytes: 64 << 20, ..logical() }.disk("disk"), Some(4096));
    assert_eq!(four.expect("a table").partitions[0].range, 64 * 4096..128 * 4096);
}

#[test]
fn a_chain_that_goes_wrong_ends() {
    let chain = |second: &[(u8, u32, u32)]| {
        let mut sketch = logical();
        sketch.put((1024 + 512) * 512, &mbr(second));
        read(&disk(&sketch))
    };
    for next in [512, 0, 4096, u32::MAX] {
        let table = chain(&[(0x82, 8, 32), (5, next, 600)]);
        assert_eq!(list(&table)[3..5], [(5, 1032, 16), (6, 1544, 32)], "{next}");
        assert_eq!(table.problems, ["the chain of logical partitions goes wrong after number 6"], "{next}");
    }
    let mut sketch = logical();
    sketch.put((1024 + 512) * 512 + 510, &[0]);
    let table = read(&disk(&sketch));
    assert_eq!(table.problems, ["the chain of logical partitions is damaged after number 5"]);
    // Each link names the next sector.
    let mut long = Sketch::new(SIZE_BYTES);
    long.put(0, &mbr(&[(5, 64, 4096)]));
    for link in 0..1000_u32 {
        long.put(u64::from(64 + link) * 512, &mbr(&[(0x83, 1, 1), (5, link + 1, 9)]));
    }
    let table = read(&long.disk("disk"));
    assert_eq!((table.partitions.len(), table.problems.len()), (257, 1));
}

#[test]
fn what_is_not_inside_the_disk_is_left_out() {
    let mut sketch = Sketch::new(SIZE_BYTES);
    sketch.put(0, &mbr(&[(7, 64, 64), (7, 8000, 1000), (7, u32::MAX, u32::MAX)]));
    let table = read(&disk(&sketch));
    assert_eq!(list(&table), [(1, 64, 64)]);
    assert_eq!(table.problems, ["partition 2 is not inside the disk", "partition 3 is not inside the disk"]);
}

#[test]
fn a_volume_is_no_table() {
    let whole = |bytes: &[(u64, &[u8])], size| {
        let mut sketch = Sketch::new(size);
        bytes.iter().for_each(|(at, bytes)| sketch.put(*at, bytes));
        let table = read(&sketch.disk("disk"));
        assert_eq!(table.kind == TableKind::None, table.partitions[..].iter().any(|part| part.number == 0));
        table.kind == TableKind::None && list(&table) == [(0, 0, size / 512)]
    };
    let signature: (u64, &[u8]) = (510, &[0x55, 0xaa]);
    assert!(whole(&[], SIZE_BYTES) && whole(&[], 0) && whole(&[], 100));
    assert!(whole(&[(0, b"\xeb\x3c\x90mkfs.fat\0\x02\x04"), signature], SIZE_BYTES));
    assert!(whole(&[(0, b"\xeb\x52\x90NTFS    \0\x02\x08"), (440, &[0x41; 60]), signature], SIZE_BYTES));
    assert!(whole(&[(0, b"\xeb\x76\x90EXFAT   "), signature], SIZE_BYTES));
    let empty = read(&{
        let mut sketch = Sketch::new(SIZE_BYTES);
        sketch.put(510, &[0x55, 0xaa]);
        sketch.disk("disk")
    });
    assert!(empty.kind == TableKind::Mbr && empty.partitions.is_empty());
    // A boot loader has both: code of a volume, and a table.
    let mut both = Sketch::new(SIZE_BYTES);
    both.put(0, &mbr(&[(0x0c, 64, 64)]));
    both.put(0, b"\xeb\x3c\x90mkfs.fat\0\x02\x04");
    assert_eq!(list(&read(&both.disk("disk"))), [(1, 64, 64)]);
}

const ENTRIES: [(u8, u64, u64, &str); 3] = [(9, 40, 99, "first ü"), (0, 0, 0, ""), (8, 200, 999, "second")];

#[test]
fn a_gpt_in_sectors_of_either_size() {
    for size in [512, 4096] {
        let table = read(&disk(&gpt(size, &ENTRIES)));
        assert_eq!((table.kind, table.sector_bytes, table.problems.len()), (TableKind::Gpt, size, 0));
        assert_eq!(table.partitions.len(), 2);
        let [first, third] = [&table.partitions[0], &table.partitions[1]];
        assert_eq!(
            (first.number, first.name.as_str(), &first.range),
            (1, "first ü", &(40 * size..100 * size))
        );
        assert_eq!((third.number, third.range.end), (3, 1000 * size));
        assert_eq!(first.type_id, Some(TypeId::Gpt(Guid([9; 16]))));
    }
}

#[test]
fn either_copy_is_enough_and_both_damaged_is_an_error() {
    let last = SIZE_BYTES - 512;
    for place in [512 + 16, 512 + 24, 512 + 88, 1024 + 40, 512] {
        let damaged = disk(&gpt(512, &ENTRIES));
        damaged.write_at(&[0xff], place).expect("written");
        let table = read(&damaged);
        assert_eq!((table.partitions.len(), table.problems.len()), (2, 1), "{place}");
        damaged.write_at(&[0xff], last + 16).expect("written");
        let error = PartitionTable::read(&damaged, None).expect_err("damaged").to_string();
        assert!(error.contains("GPT"), "{error}");
    }
    // Without the entry that protects it, it is what an older use of the disk left there.
    let mut left = gpt(512, &ENTRIES);
    left.put(0, &mbr(&[(0x83, 64, 64)]));
    assert_eq!(list(&read(&disk(&left))), [(1, 64, 64)]);
    let mut none = Sketch::new(SIZE_BYTES);
    none.put(0, &mbr(&[(0xee, 1, 100)]));
    assert_eq!(read(&none.disk("disk")).kind, TableKind::Mbr);
}

#[test]
fn numbers_of_a_gpt_are_bounded() {
    for (place, bytes) in [
        (512 + 12, &[91_u8, 0, 0, 0][..]),
        (512 + 12, &[1, 2, 0, 0]),
        (512 + 12, &[0xff; 4]),
        (512 + 24, &[2]),
        (512 + 72, &[0xff; 8]),
        (512 + 72, &[0, 0x20]),
        (512 + 80, &[0xff; 4]),
        (512 + 84, &[127, 0, 0, 0]),
        (512 + 84, &[0, 0, 0, 0x40]),
        (512 + 84, &[132, 0, 0, 0]),
    ] {
        let wrong = gpt(512, &ENTRIES).disk("disk");
        wrong.write_at(bytes, place).expect("written");
        wrong.write_at(b"x", SIZE_BYTES - 512).expect("written");
        seal(&wrong);
        assert!(PartitionTable::read(&wrong, None).is_err(), "{place} {bytes:?}");
    }
    let wild = [
        (9, 40, u64::MAX, ""),
        (9, u64::MAX / 512 + 1, 5, ""),
        (9, 99, 98, ""),
        (9, 8000, 8192, ""),
        (9, 8, 8, ""),
    ];
    let table = read(&disk(&gpt(512, &wild)));
    assert_eq!((list(&table), table.problems.len()), (vec![(5, 8, 1)], 4));
}

#[test]
fn a_partition_is_a_disk_of_its_own() {
    let mut sketch = logical();
    sketch.put(1544 * 512, b"here");
    let disk: Arc<dyn BlockSource> = Arc::new(sketch.disk("disk"));
    let table = PartitionTable::read(&*disk, None).expect("a table");
    let part = table.partitions[4].open(&disk).expect("inside");
    let mut begin = [0; 4];
    part.read_at(&mut begin, 0).expect("read");
    assert_eq!((&begin, part.size_bytes(), part.name()), (b"here", 32 * 512, "disk (partition 6)"));
}

#[test]
fn types_are_known_by_their_text() {
    let esp = Guid::parse("C12A7328-F81F-11D2-BA4B-00A0C93EC93B").expect("a GUID");
    assert_eq!(TypeId::Gpt(esp).kind(), PartitionKind::EfiSystem);
    assert_eq!(TypeId::Gpt(esp).to_string(), "C12A7328-F81F-11D2-BA4B-00A0C93EC93B");
    assert_eq!((TypeId::Mbr(7).kind(), TypeId::Mbr(7).to_string()), (PartitionKind::Data, "07".into()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn whatever_a_disk_says_partitions_lie_inside_it(
        which in 0..4_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..512_usize, any::<u8>()), 0..8),
        pages in 0..1024_u64,
    ) {
        let mut sketch = all().swap_remove(which);
        for (piece, at, value) in changes {
            let piece = piece.get(&sketch.pieces).0;
            sketch.pieces.push((piece + at as u64, vec![value]));
        }
        if pages < 300 {
            sketch.size_bytes = pages * 4096;
        }
        let disk: Arc<dyn BlockSource> = Arc::new(disk(&sketch));
        let Ok(table) = PartitionTable::read(&*disk, None) else { return Ok(()) };
        for part in &table.partitions {
            prop_assert!(part.range.start < part.range.end || table.kind == TableKind::None);
            prop_assert!(part.open(&disk).is_ok());
        }
    }
}
