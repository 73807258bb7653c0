use proptest::prelude::*;

use super::{
    sample::{BLOCK, FIRST, STEP, TABLE_AT, all, differencing, dynamic, fixed, footer, seal},
    *,
};
use crate::{ExtentKind, ImageFormat, MemoryDisk, extents, files::MemoryFiles};

fn memory(name: &str, bytes: &[u8]) -> Arc<dyn BlockSource> {
    Arc::new(MemoryDisk::from_bytes(name, bytes))
}

fn open(bytes: &[u8]) -> Result<Vhd, BlockError> {
    Vhd::over(memory("image.vhd", bytes), None)
}

fn bytes_of(disk: &dyn BlockSource) -> Vec<u8> {
    let mut bytes = vec![99; disk.size_bytes() as usize];
    disk.read_at(&mut bytes, 0).expect("read");
    bytes
}

#[test]
fn a_fixed_disk_is_all_but_its_footer() {
    let content: Vec<u8> = (0..5000_u32).map(|n| n as u8).collect();
    let disk = open(&fixed(&content)).expect("open");
    assert!(bytes_of(&disk) == content && !disk.is_suspect());
    assert!(disk.read_at(&mut [0; 2], 4999).is_err());
    // The footer of old programs is one byte shorter.
    let mut short = fixed(&content);
    short.pop();
    assert!(bytes_of(&open(&short).expect("open")) == content);
    for size in [5512, 1 << 40, u64::MAX] {
        let longer = [&content[..], &footer(2, size, 1)].concat();
        assert!(open(&longer).is_err_and(|error| error.to_string().contains("a disk of")), "{size}");
    }
}

#[test]
fn the_table_tells_what_is_where() {
    let disk = open(&dynamic(&[FIRST, FIRST + STEP, u32::MAX, FIRST + 2 * STEP], 3)).expect("open");
    let found = bytes_of(&disk);
    assert_eq!(found.len() as u64, 8 * BLOCK + 100);
    let firsts: Vec<u8> =
        found.chunks(BLOCK as usize).map(|block| block[4095.min(block.len() - 1)]).collect();
    assert_eq!(firsts, [1, 2, 0, 3, 0, 0, 0, 0, 0]);
    let map: Vec<Extent> = extents(&disk, 0..disk.size_bytes()).collect::<Result<_, _>>().expect("a map");
    let expected = [
        Extent::data(0, 2 * BLOCK),
        Extent::zero(2 * BLOCK, BLOCK),
        Extent::data(3 * BLOCK, BLOCK),
        Extent::zero(4 * BLOCK, 4 * BLOCK + 100),
    ];
    assert_eq!(map, expected);
}

#[test]
fn either_footer_is_enough_and_a_wrong_sum_is_told() {
    let image = dynamic(&[FIRST], 1);
    let cut = &image[..image.len() - 512];
    assert!(open(cut).is_ok_and(|disk| !disk.is_suspect()));
    let mut front = image.clone();
    front[0] = 0;
    assert!(open(&front).is_ok_and(|disk| !disk.is_suspect()));
    // The end says nothing that is whole: the copy counts.
    let mut end = image.clone();
    let last = end.len() - 512;
    end[last + 55] = 1;
    assert!(open(&end).is_ok_and(|disk| !disk.is_suspect() && disk.size_bytes() == 8 * BLOCK + 100));
    front[last + 90] = 1;
    assert!(open(&front).is_ok_and(|disk| disk.is_suspect()));
    let mut header = image;
    header[512 + 900] = 1;
    assert!(open(&header).is_ok_and(|disk| disk.is_suspect()));
    assert!(open(&[0; 2000]).is_err_and(|error| error.to_string().contains("no VHD file")));
    assert!(open(b"conectix").is_err());
}

#[test]
fn what_it_says_of_itself_is_checked() {
    for (place, bytes, expected) in [
        (13, &[2][..], "version"),
        (63, &[5], "a kind that is not known"),
        (48, &[1], "a disk of"),
        (18, &[1], "are not inside"),
        (512, b"x", "no header"),
        (512 + 25, &[2], "VHD header of version"),
        (512 + 29, &[0, 0, 8], "do not cover"),
        (512 + 34, &[1], "blocks of"),
        (512 + 32, &[0x20, 0, 0, 0], "blocks of"),
        (512 + 34, &[0, 0], "blocks of"),
        (512 + 18, &[1], "not inside the file"),
        (512 + 16, &[0xff; 8], "not inside the file"),
    ] {
        let mut image = dynamic(&[FIRST], 1);
        image.truncate(image.len() - 512);
        image[place..place + bytes.len()].copy_from_slice(bytes);
        seal(&mut image);
        let error = open(&image).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(expected), "{place}: {error:?} is not {expected:?}");
    }
}

#[test]
fn places_outside_the_file_are_errors() {
    for entry in [0, FIRST + STEP + 1, 1000, u32::MAX - 1] {
        let disk = open(&dynamic(&[FIRST, entry], 1)).expect("open");
        let mut bytes = [0; 8];
        disk.read_at(&mut bytes, BLOCK - 8).expect("the first block");
        assert!(matches!(disk.read_at(&mut bytes, BLOCK), Err(BlockError::Damaged { .. })), "{entry}");
        assert!(extents(&disk, 0..3 * BLOCK).any(|extent| extent.is_err()));
    }
}

#[test]
fn sectors_come_from_where_the_bitmap_says() {
    // 0b1010_0001, the highest bit first: the first, the third and the last of eight.
    let image = differencing(&[FIRST, u32::MAX, FIRST + STEP], 2, &[]);
    let disk = Vhd::over(memory("child", &image), Some(memory("below", &[7; 3 * 4096]))).expect("open");
    let found = bytes_of(&disk);
    let sectors: Vec<u8> = found.chunks(512).take(25).map(|sector| sector[0]).collect();
    let here = |block: u8| [block, 7, block, 7, 7, 7, 7, block];
    assert_eq!(sectors, [&here(1)[..], &[7; 8], &here(2), &[0]].concat());
    let mut part = [0; 600];
    disk.read_at(&mut part, 1000).expect("read");
    assert!(part[..24] == [7; 24] && part[24..536] == [1; 512] && part[536..] == [7; 64]);
}

#[test]
fn a_parent_is_found_where_it_may_be_and_must_be_the_right_one() {
    let names = [(*b"W2ru", ".\\sub\\p.vhd"), (*b"W2ku", "C:\\vms\\p.vhd"), (*b"MacX", "file://p")];
    let child = differencing(&[FIRST], 1, &names);
    let below = dynamic(&[u32::MAX, FIRST], 1);
    let family = |place: &str, parent: &[u8]| {
        MemoryFiles(vec![("/x/c.avhd".into(), memory("child", &child)), (place.into(), memory("p", parent))])
    };
    let open = |files: &MemoryFiles, links| Vhd::open_in(files, Path::new("/x/c.avhd"), links);
    for place in ["/x/sub/p.vhd", "/vms/p.vhd", "/x/p.vhd"] {
        let files = family(place, &below);
        let disk = open(&files, Links::Follow).expect(place);
        assert_eq!(bytes_of(&disk)[BLOCK as usize - 1..BLOCK as usize + 1], [1, 1]);
        assert!(
            open(&files, Links::Refuse).is_err_and(|error| error.to_string().contains("may not be followed"))
        );
    }
    let error = |files| open(&files, Links::Follow).err().expect("refused").to_string();
    assert!(error(family("/x/other", &below)).contains("/x/sub/p.vhd, the parent of child"));
    assert!(error(family("/x/p.vhd", &child)).contains("not the parent"));
    let mut long = child.clone();
    long[512 + 576 + 8..512 + 576 + 12].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
    let files = MemoryFiles(vec![("/x/c.avhd".into(), memory("child", &long))]);
    assert!(error(files).contains("a parent's name of"));
}

#[test]
fn a_raw_disk_is_not_taken_for_one_that_it_looks_like() {
    let image = fixed(&[7; 4096]);
    let probe = |name: &str, bytes: &[u8]| {
        let files = MemoryFiles(vec![(name.to_owned(), memory(name, bytes))]);
        ImageFormat::probe(&files, Path::new(name)).expect("probed")
    };
    assert_eq!(probe("/d/disk.VHD", &image), ImageFormat::Vhd);
    // The guest wrote a footer at the end of its disk.
    for name in ["/d/disk.img", "/d/disk", "/d/disk.vhd.raw"] {
        assert_eq!(probe(name, &image), ImageFormat::Raw, "{name}");
    }
    let mut damaged = image;
    damaged[4096 + 100] = 1;
    assert_eq!(probe("/d/disk.vhd", &damaged), ImageFormat::Raw);
    let shorter = [&[7; 4096][..], &footer(2, 4000, 1)].concat();
    assert_eq!(probe("/d/disk.vhd", &shorter), ImageFormat::Raw);
    assert_eq!(probe("/d/disk.vhd", &[7; 100]), ImageFormat::Raw);
    assert_eq!(probe("/d/disk", &dynamic(&[], 0)), ImageFormat::Vhd);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever an image says: no panic, and what is called zero reads as zero.
    #[test]
    fn a_damaged_image_is_an_error_or_reads_as_its_map_says(
        which in 0..3_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        table in prop::collection::vec((0..9_usize, 0..30_u32), 0..4),
        cut in 0..3_usize,
    ) {
        let (has_below, mut bytes) = all().swap_remove(which);
        for (entry, value) in table {
            let at = TABLE_AT as usize + 4 * entry;
            if let Some(place) = bytes.get_mut(at..at + 4) {
                place.copy_from_slice(&value.to_be_bytes());
            }
        }
        for (at, value) in changes {
            *at.get_mut(&mut bytes) = value;
        }
        bytes.truncate(bytes.len() - 512 * cut);
        seal(&mut bytes);
        let Ok(disk) = Vhd::over(memory("image", &bytes), has_below.then(|| memory("below", &[1; 3000]))) else {
            return Ok(());
        };
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
