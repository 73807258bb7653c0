use proptest::prelude::*;

use super::{
    sample::{FIRST, SECTOR, all, descriptor, esx, packed, sparse},
    *,
};
use crate::{ExtentKind, ImageFormat, MemoryDisk, extents, files::MemoryFiles};

/// The first is called `/v/disk.vmdk`, the next ones `/v/a`, `/v/b` and so on.
fn files(contents: &[Vec<u8>]) -> MemoryFiles {
    let names = ["disk.vmdk", "a", "b", "c", "d"].map(|name| format!("/v/{name}"));
    let disk = |bytes: &Vec<u8>| Arc::new(MemoryDisk::from_bytes("file", bytes)) as Arc<dyn BlockSource>;
    MemoryFiles(names.into_iter().zip(contents.iter().map(disk)).collect())
}

fn open(contents: &[Vec<u8>]) -> Result<Vmdk, BlockError> {
    Vmdk::open_in(&files(contents), Path::new("/v/disk.vmdk"), Links::Follow)
}

fn error(contents: &[Vec<u8>]) -> String {
    open(contents).err().map(|error| error.to_string()).unwrap_or_default()
}

/// The first byte of each sector.
fn sectors(disk: &dyn BlockSource) -> Vec<u8> {
    let mut bytes = vec![99; disk.size_bytes() as usize];
    disk.read_at(&mut bytes, 0).expect("read");
    assert!(bytes.chunks(SECTOR).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
    bytes.chunks(SECTOR).map(|sector| sector[0]).collect()
}

/// What each sector is said to be.
fn map(disk: &dyn BlockSource) -> String {
    let found: Vec<Extent> = extents(disk, 0..disk.size_bytes()).collect::<Result<_, _>>().expect("a map");
    let letter = |kind| if kind == ExtentKind::Data { "D" } else { "-" };
    found.iter().map(|extent| letter(extent.kind).repeat(extent.length as usize / SECTOR)).collect()
}

#[test]
fn tables_tell_what_is_where() {
    // Far enough from each other that the file's own holes, of 4 KiB, say nothing.
    let image = sparse(&descriptor("RW 8 SPARSE \"x\""), &[FIRST, 0, 1, FIRST + 1, 0, FIRST + 2], 3);
    let disk = open(&[image]).expect("open");
    assert_eq!(sectors(&disk), [1, 0, 0, 2, 0, 3, 0, 0]);
    assert_eq!(map(&disk), "D--D-D--");
}

#[test]
fn packed_grains() {
    let image = packed(&descriptor(""), &[true, false, true, true, false, false, false, true]);
    let disk = open(std::slice::from_ref(&image)).expect("open");
    assert_eq!(sectors(&disk), [1, 0, 3, 4, 0, 0, 0, 8]);
    assert_eq!(map(&disk), "D-DD---D");
    let mut part = [0; 700];
    disk.read_at(&mut part, 1400).expect("read");
    assert!(part[..136] == [3; 136] && part[136..648] == [4; 512] && part[648..] == [0; 52]);
    let first = FIRST as usize * SECTOR;
    for (place, value, expected) in [
        (first, 5, "where that of 0 is"),
        (first + 10, 9, "a packed grain of"),
        (first + 8, 1, "cannot be unpacked"),
        (first + 12, 1, "cannot be unpacked"),
    ] {
        let mut damaged = image.clone();
        damaged[place] = value;
        let disk = open(&[damaged]).expect("open");
        let error = disk.read_at(&mut [0; 8], 0).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    let mut methods = image.clone();
    let end = methods.len() - 2 * SECTOR;
    methods[end + 77] = 2;
    assert!(error(&[methods]).contains("compressed in a way"));
    let mut nowhere = image;
    nowhere[end + 56..end + 64].fill(0xff);
    assert!(error(&[nowhere]).contains("where its tables are"));
}

#[test]
fn unpacking_gives_a_whole_grain_or_nothing() {
    for packed in [&b""[..], &[0xff; 100], &[0x78, 0x9c], &[0x78, 0x9c, 0x03, 0x00, 0, 0, 0, 1]] {
        assert!(sparse::inflate(packed, 512, 512).is_err(), "{packed:?}");
    }
}

#[test]
fn a_descriptor_puts_files_together() {
    let lines = "RW 2 FLAT \"a\" 1\nRW 3 ZERO\nRW 6 SPARSE \"b\"\nRW 1 VMFS \"a\"\nRW 3 VMFSSPARSE \"c\"\nRW 0 ZERO\n";
    let flat: Vec<u8> = (1..=3).flat_map(|sector| [sector * 10; SECTOR]).collect();
    let contents =
        [descriptor(lines), flat, sparse(b"", &[FIRST, 0, 0, 1, FIRST + 1], 2), esx(&[34, 0, 35], 2)];
    let disk = open(&contents).expect("open");
    assert_eq!(sectors(&disk), [20, 30, 0, 0, 0, 1, 0, 0, 0, 2, 0, 10, 1, 0, 2]);
    assert_eq!(map(&disk), "DD---D---D-DD-D");
    let refused = Vmdk::open_in(&files(&contents), Path::new("/v/disk.vmdk"), Links::Refuse);
    assert!(refused.is_err_and(|error| error.to_string().contains("may not be followed")));
    assert!(error(&contents[..3]).contains("/v/c, a part of"));
    assert!(
        error(&[descriptor("RW 3 FLAT \"a\" 1"), vec![0; 3 * SECTOR]]).contains("should hold 1536 bytes")
    );
    assert!(error(&[descriptor("RW 9 SPARSE \"a\""), sparse(b"", &[], 0)]).contains("it holds 4096 bytes"));
    assert!(error(&[sparse(b"", &[], 0)]).contains("one part of an image"));
    assert!(error(&[esx(&[], 0)]).contains("one part of an image"));
    let many = "RW 1 FLAT \"a\" 0\n".repeat(1025);
    assert!(error(&[descriptor(&many), vec![0; SECTOR]]).contains("more than 1024 files"));
    let two = descriptor("RW 8 SPARSE \"x\"\nRW 8 SPARSE \"y\"");
    assert!(error(&[sparse(&two, &[], 0)]).contains("one of 2 parts"));
}

#[test]
fn what_it_says_of_itself_is_checked() {
    for (place, bytes, expected) in [
        (4, &[4][..], "version 4"),
        (20, &[3], "grains of 3"),
        (21, &[0x20], "grains of"),
        (20, &[0], "grains of 0"),
        (44, &[0], "tables of 0"),
        (46, &[1], "tables of"),
        (17, &[0x21], "a disk of"),
        (19, &[0xff], "a disk of"),
        (16, &[1], "too many"),
        (58, &[1], "not inside the file"),
        (63, &[1], "not inside the file"),
        (30, &[1], "are not inside"),
        (38, &[1], "a descriptor of"),
        (SECTOR, b"x", "no VMDK image"),
        (2 * SECTOR + 4, &[3], "two tables at the same place"),
    ] {
        let mut image = sparse(&descriptor(""), &[FIRST], 1);
        image[place..place + bytes.len()].copy_from_slice(bytes);
        let error = error(&[image]);
        assert!(error.contains(expected), "{place}: {error:?} is not {expected:?}");
    }
}

#[test]
fn places_outside_the_file_are_errors() {
    for entry in [FIRST + 1, 1000, u32::MAX] {
        let disk = open(&[sparse(&descriptor(""), &[FIRST, entry], 1)]).expect("open");
        disk.read_at(&mut [0; 8], 504).expect("the first grain");
        assert!(matches!(disk.read_at(&mut [0; 8], 512), Err(BlockError::Damaged { .. })), "{entry}");
        assert!(extents(&disk, 0..1024).any(|extent| extent.is_err()));
    }
    let mut table = sparse(&descriptor(""), &[FIRST], 1);
    table[2 * SECTOR + 2] = 1;
    assert!(open(&[table]).expect("open").read_at(&mut [0; 8], 0).is_err());
}

#[test]
fn a_parent_must_be_the_right_one() {
    let text = |cid: &str, parent: &str, name: &str| {
        let text = format!("CID={cid}\nparentCID={parent}\nparentFileNameHint=\"{name}\"\n");
        [b"# Disk DescriptorFile\n", text.as_bytes()].concat()
    };
    let below = sparse(&text("1", "ffffffff", ""), &[0, FIRST, FIRST + 1], 2);
    let child = |cid| sparse(&text("2", cid, "C:\\vms\\a"), &[FIRST, 0, 1], 1);
    let disk = open(&[child("1"), below.clone()]).expect("open");
    assert_eq!(sectors(&disk), [1, 1, 0, 0, 0, 0, 0, 0]);
    assert!(error(&[child("7"), below.clone()]).contains("not the parent"));
    assert!(error(&[child("1")]).contains("/vms/a, the parent of"));
    let own = sparse(&text("1", "1", "disk.vmdk"), &[], 0);
    assert!(error(&[own]).contains("circle"));
    let probed = ImageFormat::probe(&files(&[below]), Path::new("/v/disk.vmdk")).expect("probed");
    assert_eq!(probed, ImageFormat::Vmdk);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever an image says: no panic, and what is called zero reads as zero.
    #[test]
    fn a_damaged_image_is_an_error_or_reads_as_its_map_says(
        which in 0..4_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 0..8),
        early in prop::collection::vec((0..90_usize, any::<u8>()), 0..2),
        cut in 0..600_usize,
    ) {
        let mut contents = all().swap_remove(which);
        for (file, at, value) in changes {
            let file: &mut Vec<u8> = file.get_mut(&mut contents);
            *at.get_mut(file) = value;
        }
        for (at, value) in early {
            contents[0][at] = value;
        }
        if cut < 300 {
            let length = contents[0].len().saturating_sub(cut);
            contents[0].truncate(length);
        }
        let Ok(disk) = open(&contents) else { return Ok(()) };
        for extent in extents(&disk, 0..disk.size_bytes().min(1 << 16)) {
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
