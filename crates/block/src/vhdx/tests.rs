use proptest::prelude::*;

use super::{
    log::SECTOR,
    sample::{
        BITMAP_ENTRY, LOG_AT, PARTLY, PRESENT as HERE, Sample, TABLE_AT, Write, all, at, entry,
        log as put_log, seal,
    },
    *,
};
use crate::{BlockTarget, CHAIN_MAX, ExtentKind, MemoryDisk, extents, files::MemoryFiles};

const PLAIN: Sample<'_> = Sample {
    size_bytes: 6 * MIB + 512,
    entries: &[(0, at(5, HERE)), (1, at(6, HERE)), (2, 2), (4, at(4, HERE)), (5, 3)],
    data_write: 1,
    parent: &[],
    log: false,
};

const LINKAGE: &str = "{01010101-0101-0101-0101-010101010101}";

fn open(disk: MemoryDisk) -> Result<Vhdx, BlockError> {
    Vhdx::over(Arc::new(disk), None)
}

fn byte(disk: &dyn BlockSource, offset: u64) -> u8 {
    let mut one = [99];
    disk.read_at(&mut one, offset).expect("read");
    one[0]
}

fn map(disk: &dyn BlockSource) -> Vec<Extent> {
    extents(disk, 0..disk.size_bytes()).collect::<Result<_, _>>().expect("a map")
}

#[test]
fn the_table_tells_what_is_where() {
    let disk = open(PLAIN.disk(8)).expect("open");
    assert_eq!(disk.size_bytes(), 6 * MIB + 512);
    let firsts: Vec<u8> = (0..6).map(|block| byte(&disk, block * MIB)).collect();
    assert_eq!(firsts, [5, 6, 0, 0, 4, 0]);
    assert_eq!(byte(&disk, MIB - 1), 5);
    assert_eq!(byte(&disk, 6 * MIB + 511), 0);
    // A block that nobody wrote to in between is a hole of the file.
    let data: Vec<Extent> = map(&disk).into_iter().filter(|extent| extent.kind == ExtentKind::Data).collect();
    assert!(data.iter().any(|extent| extent.offset == 4 * MIB));
    assert!(
        data.iter()
            .all(|extent| extent.end() <= 2 * MIB || extent.offset >= 4 * MIB && extent.end() <= 5 * MIB)
    );
    assert!(disk.read_at(&mut [0; 2], 6 * MIB + 511).is_err());
}

#[test]
fn the_newer_header_counts_and_one_that_is_whole_is_enough() {
    let image = PLAIN.disk(8);
    image.write_at(&[7; 16], HEADERS[1] + 32).expect("written");
    seal(&image);
    assert_eq!(open(image).expect("open").header().data_write, crate::Guid([7; 16]));
    for (broken, found) in [(HEADERS[1], 1), (HEADERS[0], 2)] {
        let image = PLAIN.disk(8);
        image.write_at(&[1], broken + 200).expect("written");
        assert_eq!(open(image).expect("open").header().sequence, found);
    }
    for places in [HEADERS, REGION_TABLES] {
        let image = PLAIN.disk(8);
        image.write_at(&[1], places[0] + 200).expect("written");
        image.write_at(&[1], places[1] + 200).expect("written");
        assert!(open(image).is_err_and(|error| error.to_string().contains("neither of both")));
    }
    let image = PLAIN.disk(8);
    image.write_at(&[1], REGION_TABLES[0] + 200).expect("written");
    assert!(open(image).is_ok());
    let image = PLAIN.disk(8);
    image.write_at(&[1, 0, 0, 0, 0, 0, 0, 0], HEADERS[1] + 8).expect("written");
    image.write_at(&[7; 16], HEADERS[1] + 32).expect("written");
    seal(&image);
    assert!(open(image).is_err_and(|error| error.to_string().contains("of one age")));
}

#[test]
fn what_it_says_of_itself_is_checked() {
    let metadata = 2 * MIB + (64 << 10);
    for (place, bytes, expected) in [
        (0, &b"vhdxfilf"[..], "no VHDX file"),
        (HEADERS[1] + 66, &[2], "version 2"),
        (REGION_TABLES[0] + 8, &[0, 8], "2048 regions"),
        (REGION_TABLES[0] + 32, &[0, 0, 0x20], "lies on another"),
        (REGION_TABLES[0] + 32, &[0, 1, 0x30], "a region of"),
        (REGION_TABLES[0] + 32, &[0, 0, 0, 1], "not inside the file"),
        (REGION_TABLES[0] + 40, &[0, 0, 0], "too few"),
        (REGION_TABLES[0] + 16, &[1], "not known here"),
        (2 * MIB, b"Metadata", "no metadata"),
        (2 * MIB + 10, &[0, 8], "2048 items"),
        (2 * MIB + 32, &[1], "not known here"),
        (2 * MIB + 32 + 16, &[0, 0, 0], "an item of"),
        (2 * MIB + 32 + 20, &[4], "block size"),
        (metadata, &[0, 0, 8], "blocks of"),
        (metadata, &[0, 0, 0, 0x20], "blocks of"),
        (metadata + 4096, &[1], "a disk of"),
        (metadata + 4096 + 5, &[0x41], "a disk of"),
        (metadata + 4096 + 5, &[0x3f], "too few"),
        (metadata + 8192, &[1], "sectors of"),
        (metadata + 4, &[2], "its parent"),
    ] {
        let image = PLAIN.disk(8);
        image.write_at(bytes, place).expect("written");
        seal(&image);
        let error = open(image).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{place:#x}: {error:?} is not {expected:?}");
    }
}

#[test]
fn places_outside_the_file_are_errors() {
    for entry in
        [at(8, HERE), at(0, HERE), at(7, PARTLY), u64::MAX, at(7, 4), at(7, 5), u64::MAX << 20 | HERE]
    {
        let disk = open(Sample { entries: &[(0, at(7, HERE)), (1, entry)], ..PLAIN }.disk(8)).expect("open");
        assert_eq!(byte(&disk, MIB - 1), 7);
        assert!(matches!(disk.read_at(&mut [0; 8], MIB), Err(BlockError::Damaged { .. })), "{entry:x}");
        assert!(disk.read_at(&mut [0; 8], MIB - 4).is_err());
        assert!(extents(&disk, 0..2 * MIB).any(|extent| extent.is_err()));
    }
}

fn child(entries: &[(u64, u64)], name: &str) -> MemoryDisk {
    let parent =
        [("parent_linkage", LINKAGE), ("relative_path", name), ("absolute_win32_path", "C:\\old\\p.vhdx")];
    Sample { size_bytes: 3 * MIB, entries, data_write: 2, parent: &parent, log: false }.disk(8)
}

#[test]
fn sectors_come_from_where_the_bitmap_says() {
    let image = child(&[(0, at(5, PARTLY)), (2, at(6, HERE)), (BITMAP_ENTRY, at(4, HERE))], "p");
    // The megabyte's own mark goes; then sectors 1, 2 and the last of the first block.
    image.write_at(&[0; 64], 4 * MIB).expect("written");
    image.write_at(&[0b110], 4 * MIB).expect("written");
    image.write_at(&[0x80], 4 * MIB + 255).expect("written");
    image.write_at(&[8; 4 * 512], 5 * MIB).expect("written");
    let below: Arc<dyn BlockSource> = Arc::new(MemoryDisk::from_bytes("below", &[1; 2 * MIB as usize + 100]));
    let disk = Vhdx::over(Arc::new(image), Some(below)).expect("open");
    let at_sectors: Vec<u8> = [0, 1, 2, 3, 2046, 2047].map(|n| byte(&disk, n * 512 + 511)).to_vec();
    assert_eq!(at_sectors, [1, 8, 8, 1, 1, 5]);
    assert_eq!((byte(&disk, MIB), byte(&disk, 2 * MIB), byte(&disk, 3 * MIB - 1)), (1, 6, 6));
    let mut part = [0; 1024];
    disk.read_at(&mut part, 300).expect("read");
    assert!(part[..212].iter().all(|byte| *byte == 1) && part[212..].iter().all(|byte| *byte == 8));
    let found = map(&disk);
    assert_eq!(found[0], Extent::data(0, 2 * MIB + 4096), "{found:?}");
}

#[test]
fn a_bitmap_that_is_missing_is_an_error() {
    for entries in [&[(0, at(5, PARTLY))][..], &[(0, at(5, PARTLY)), (BITMAP_ENTRY, at(9, HERE))]] {
        let below: Arc<dyn BlockSource> = Arc::new(MemoryDisk::new("below", 3 * MIB));
        let disk = Vhdx::over(Arc::new(child(entries, "p")), Some(below)).expect("open");
        assert!(disk.read_at(&mut [0; 8], 0).is_err());
    }
}

#[test]
fn a_log_is_carried_out_before_anything_is_read() {
    let image = Sample { entries: &[], log: true, ..PLAIN }.disk(8);
    let mut table = entry(7, 250, &[Write::Page(TABLE_AT, 0), Write::Zeroes(6 * MIB, 8192)]);
    // The page of the table: its begin is in the descriptor.
    table[64 + 8..64 + 16].copy_from_slice(&at(6, HERE).to_le_bytes());
    put_log(&image, 250, &table);
    // Around the end of the log.
    put_log(&image, 252, &entry(8, 250, &[Write::Page(6 * MIB + 4096, 77), Write::Page(6 * MIB, 78)]));
    put_log(&image, 255, &entry(9, 250, &[Write::Page(6 * MIB + 4096, 79), Write::Zeroes(7 * MIB, 4096)]));
    // Older, and torn.
    put_log(&image, 10, &entry(3, 10, &[Write::Zeroes(TABLE_AT, MIB)]));
    seal(&image);
    put_log(&image, 20, &entry(100, 20, &[Write::Zeroes(TABLE_AT, MIB)]));
    let disk = open(image).expect("open");
    assert_eq!((byte(&disk, 0), byte(&disk, 4095), byte(&disk, 4096), byte(&disk, 8192)), (78, 78, 79, 0));
    assert_eq!(byte(&disk, MIB - 1), 6);
    let found = map(&disk);
    assert!(found[0] == Extent::data(0, 8192) && found[1].kind == ExtentKind::Zero, "{found:?}");
}

#[test]
fn a_log_that_is_not_whole_is_an_error() {
    let with = |entries: &[(u64, Vec<u8>)]| {
        let image = Sample { log: true, ..PLAIN }.disk(8);
        entries.iter().for_each(|(sector, entry)| put_log(&image, *sector, entry));
        seal(&image);
        open(image).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let write = [Write::Page(5 * MIB, 1)];
    assert!(with(&[]).contains("no whole sequence"));
    assert!(with(&[(0, entry(1, 5, &write))]).contains("no whole sequence"), "its tail is not there");
    assert!(with(&[(0, entry(1, 0, &write)), (2, entry(3, 0, &write))]).is_empty(), "two sequences");
    let mut longer = entry(1, 0, &write);
    longer[48..56].copy_from_slice(&(9 * MIB).to_le_bytes());
    assert!(with(&[(0, longer)]).contains("cut off"));
    let mut endless = entry(1, 0, &write);
    endless[56..64].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    assert!(with(&[(0, endless)]).contains("a log that makes it"));
    assert!(with(&[(0, entry(1, 0, &[Write::Page(8 * MIB, 1)]))]).contains("a log that writes"));
    assert!(with(&[(0, entry(1, 0, &[Write::Zeroes(4096, u64::MAX - 4095)]))]).contains("a log that writes"));
    assert!(with(&[(0, entry(1, 0, &[Write::Page(5 * MIB + 1, 1)]))]).contains("a log that writes"));
    // Each claims all that is behind it, and the sums are right.
    let all: Vec<(u64, Vec<u8>)> = (0..6)
        .map(|sector| {
            let mut one = entry(sector + 1, sector, &[]);
            one[8..12].copy_from_slice(&((256 - sector as u32) * 4096).to_le_bytes());
            (sector, one)
        })
        .collect();
    assert!(with(&all).contains("lie on each other"));
}

#[test]
fn a_log_where_none_can_be() {
    let with = |place: u64, bytes: &[u8]| {
        let image = Sample { log: true, ..PLAIN }.disk(8);
        put_log(&image, 8, &entry(1, 8, &[]));
        seal(&image);
        // The same where the metadata are.
        let mut sealed = [0; SECTOR as usize];
        image.read_at(&mut sealed, LOG_AT + 8 * SECTOR).expect("read");
        image.write_at(&sealed, 2 * MIB + 8 * SECTOR).expect("written");
        image.write_at(bytes, HEADERS[1] + place).expect("written");
        seal(&image);
        open(image).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(with(66, &[1]), "");
    assert!(with(64, &[1]).contains("a log of version 1"));
    for (place, bytes) in
        [(72, &[0, 0, 0, 1][..]), (72, &[1]), (72, &[0xff; 8]), (68, &[0, 0, 0, 0x7f]), (68, &[0; 4])]
    {
        assert!(with(place, bytes).contains("a log of"), "{place} {bytes:?}");
    }
    assert!(with(72, &[0, 0, 0x20]).contains("not inside the file"));
}

fn family(files: Vec<(String, MemoryDisk)>) -> MemoryFiles {
    MemoryFiles(
        files.into_iter().map(|(name, disk)| (name, Arc::new(disk) as Arc<dyn BlockSource>)).collect(),
    )
}

#[test]
fn a_parent_is_found_where_it_may_be_and_must_be_the_right_one() {
    let below = || Sample { entries: &[(1, at(5, HERE))], size_bytes: 3 * MIB, ..PLAIN }.disk(8);
    let top = Path::new("/vms/a/top.avhdx");
    let with = |place: &str, parent: MemoryDisk| {
        let child = child(&[(0, at(6, HERE))], "..\\base\\p.vhdx");
        family(vec![("/vms/a/top.avhdx".into(), child), (place.into(), parent)])
    };
    for place in ["/vms/a/../base/p.vhdx", "/old/p.vhdx", "/vms/a/p.vhdx"] {
        let files = with(place, below());
        let disk = Vhdx::open_in(&files, top, Links::Follow).expect(place);
        assert_eq!((byte(&disk, 0), byte(&disk, MIB), byte(&disk, 2 * MIB)), (6, 5, 0), "{place}");
        let refused = Vhdx::open_in(&files, top, Links::Refuse).err().map(|error| error.to_string());
        assert!(refused.is_some_and(|error| error.contains("may not be followed")));
    }
    let error =
        |files: MemoryFiles| Vhdx::open_in(&files, top, Links::Follow).err().expect("refused").to_string();
    let missing = error(with("/other", below()));
    assert!(missing.contains("/vms/a/../base/p.vhdx, the parent of"), "{missing}");
    let other = Sample { data_write: 3, ..PLAIN }.disk(8);
    assert!(error(with("/vms/a/p.vhdx", other)).contains("not the parent"));
    assert!(error(with("/vms/a/p.vhdx", MemoryDisk::new("raw", MIB))).contains("no VHDX file"));
}

#[test]
fn a_chain_may_be_deep_but_no_circle() {
    // Each is its own parent's child, as they all have one identity.
    let parent = |name: &str| {
        let locator = [("parent_linkage", LINKAGE), ("relative_path", name)];
        Sample { size_bytes: MIB, entries: &[], data_write: 1, parent: &locator, log: false }.disk(4)
    };
    let files = family(vec![("/a".into(), parent("b")), ("/b".into(), parent("a"))]);
    let error = Vhdx::open_in(&files, Path::new("/a"), Links::Follow).err().expect("refused").to_string();
    assert!(error.contains("circle"), "{error}");
    let chain = |images: usize| {
        let link = |number: usize| (format!("/{number}"), parent(&(number + 1).to_string()));
        let mut files: Vec<(String, MemoryDisk)> = (0..images).map(link).collect();
        let entries = [(0, at(4, HERE))];
        let lowest = Sample { size_bytes: MIB, entries: &entries, data_write: 1, parent: &[], log: false };
        files[images - 1].1 = lowest.disk(5);
        Vhdx::open_in(&family(files), Path::new("/0"), Links::Follow)
    };
    let error = chain(CHAIN_MAX + 1).err().expect("refused").to_string();
    assert!(error.contains("more than 200 images"), "{error}");
    assert_eq!(byte(&chain(CHAIN_MAX).expect("open"), 0), 4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever an image says: no panic, and what is called zero reads as zero.
    #[test]
    fn a_damaged_image_is_an_error_or_reads_as_its_map_says(
        which in 0..3_usize,
        changes in prop::collection::vec((0..400_usize, any::<u8>(), any::<prop::sample::Index>()), 0..6),
    ) {
        let (has_below, mut sketch) = all().swap_remove(which);
        for (at, value, piece) in changes {
            let piece = piece.get(&sketch.pieces).0;
            sketch.pieces.push((piece + at as u64, vec![value]));
        }
        let image = sketch.disk("image");
        seal(&image);
        let below: Arc<dyn BlockSource> = Arc::new(MemoryDisk::from_bytes("below", &[1; 3000]));
        let Ok(disk) = Vhdx::over(Arc::new(image), has_below.then_some(below)) else { return Ok(()) };
        for extent in extents(&disk, 0..disk.size_bytes().min(3 * MIB)) {
            let Ok(extent) = extent else { break };
            let mut data = vec![9; extent.length.min(1 << 16) as usize];
            let read = disk.read_at(&mut data, extent.offset);
            if extent.kind == ExtentKind::Zero {
                prop_assert!(read.is_ok(), "{:?}", read);
                prop_assert!(data.iter().all(|byte| *byte == 0));
            }
        }
    }
}

#[test]
fn seeds_are_small() {
    assert!(all().iter().all(|(_, sketch)| sketch.encode().len() < 24 << 10));
}
