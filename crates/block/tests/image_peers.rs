//! Our readers of VHDX, VHD and VMDK against images that QEMU's own tools and Windows made: the same bytes, and a map
//! that agrees.

mod peers;

use std::{fs, path::Path, process::Command, sync::Arc};

use nestling_block::{
    BlockError, BlockSource, ExtentKind, ImageFormat, Links, MemoryDisk, OpenImage, RawDisk, extents,
    vhd::Vhd, vhdx::Vhdx, vmdk::Vmdk,
};
use peers::{KIB, MIB, compare, compare_bytes, content, img, in_qemu, io, noise, sample, scratch};

fn open(path: &Path, format: ImageFormat) -> Result<Arc<dyn BlockSource>, BlockError> {
    OpenImage::open(path, Some(format)).map(|image| image.source)
}

fn guessed(path: &Path) -> Result<ImageFormat, BlockError> {
    OpenImage::open(path, None).map(|image| image.format)
}

/// Made of the source, then empty and written to at random.
fn made_and_written(format: ImageFormat, all: &[&str]) {
    let (_keep, dir) = scratch();
    let qemu = in_qemu(format);
    for (n, options) in all.iter().enumerate() {
        let image = format!("i{n}.{format}");
        img(&dir, &format!("convert -f raw -O {qemu} -o {options} source.raw {image}"));
        let found = compare(&dir, format, &image);
        let source = content();
        assert!(
            found.starts_with(&source) && found[source.len()..].iter().all(|byte| *byte == 0),
            "{options}"
        );
        if options.contains("streamOptimized") {
            continue;
        }
        let image = format!("w{n}.{format}");
        img(&dir, &format!("create -f {qemu} -o {options} {image} 9000k"));
        let mut next = noise(n as u64 + 1);
        let commands: Vec<String> = (0..60)
            .map(|turn| {
                let (offset, length) = (next() % 8500 * 1024, (1 + next() % 200) * 512);
                match next() % 5 {
                    0 if format == ImageFormat::Vmdk => format!("write -z {offset} {length}"),
                    _ => format!("write -P {} {offset} {length}", turn + 1),
                }
            })
            .collect();
        io(&dir, format, &image, &commands.iter().map(String::as_str).collect::<Vec<_>>());
        compare(&dir, format, &image);
    }
}

#[test]
fn vhdx_images() {
    made_and_written(
        ImageFormat::Vhdx,
        &[
            "subformat=dynamic",
            "subformat=fixed",
            "subformat=dynamic,block_size=1M",
            "subformat=dynamic,block_size=2M,log_size=4M",
            "subformat=fixed,block_size=8M",
            "subformat=dynamic,block_size=256M",
            "subformat=dynamic,block_size=1M,block_state_zero=off",
        ],
    );
}

#[test]
fn vhd_images() {
    made_and_written(
        ImageFormat::Vhd,
        &[
            "subformat=dynamic",
            "subformat=fixed",
            "subformat=dynamic,force_size=on",
            "subformat=fixed,force_size=on",
        ],
    );
}

#[test]
fn vmdk_images() {
    made_and_written(
        ImageFormat::Vmdk,
        &[
            "subformat=monolithicSparse",
            "subformat=monolithicFlat",
            "subformat=twoGbMaxExtentSparse",
            "subformat=twoGbMaxExtentFlat",
            "subformat=streamOptimized",
            "subformat=monolithicSparse,zeroed_grain=on",
            "subformat=monolithicSparse,compat6=on",
        ],
    );
}

#[test]
fn the_first_bytes_tell_what_it_is_and_nothing_is_followed_then() {
    let (_keep, dir) = scratch();
    for (image, qemu, options, expected) in [
        ("a.img", "vhdx", "subformat=dynamic", Some(ImageFormat::Vhdx)),
        ("b.img", "vpc", "subformat=dynamic", Some(ImageFormat::Vhd)),
        ("c.img", "vpc", "subformat=fixed,force_size=on", Some(ImageFormat::Raw)),
        ("c.vhd", "vpc", "subformat=fixed,force_size=on", Some(ImageFormat::Vhd)),
        ("d.img", "vmdk", "subformat=monolithicSparse", Some(ImageFormat::Vmdk)),
        ("e.img", "vmdk", "subformat=streamOptimized", Some(ImageFormat::Vmdk)),
        ("f.img", "vmdk", "subformat=monolithicFlat", None),
    ] {
        img(&dir, &format!("convert -f raw -O {qemu} -o {options} source.raw {image}"));
        assert_eq!(guessed(&dir.join(image)).ok(), expected, "{image}");
    }
    let refused = guessed(&dir.join("f.img")).expect_err("it names another file");
    assert!(refused.to_string().contains("may not be followed"), "{refused}");
}

#[test]
fn vmdk_chains() {
    let (_keep, dir) = scratch();
    fs::create_dir(dir.join("sub")).expect("made");
    img(&dir, "convert -f raw -O vmdk -o subformat=twoGbMaxExtentSparse source.raw base.vmdk");
    img(&dir, "create -f vmdk -F vmdk -b base.vmdk one.vmdk");
    io(&dir, ImageFormat::Vmdk, "one.vmdk", &["write -P 1 1M 100k", "write -P 2 3000k 512"]);
    compare(&dir, ImageFormat::Vmdk, "one.vmdk");
    img(&dir, "create -f vmdk -F vmdk -b one.vmdk -o zeroed_grain=on two.vmdk");
    io(&dir, ImageFormat::Vmdk, "two.vmdk", &["write -P 3 1100k 1k", "write -z 2M 128k"]);
    compare(&dir, ImageFormat::Vmdk, "two.vmdk");
    let refused = Vmdk::open(&dir.join("two.vmdk"), Links::Refuse);
    assert!(refused.is_err_and(|error| error.to_string().contains("may not be followed")));
    // The parent is written to, and is no longer what it was.
    io(&dir, ImageFormat::Vmdk, "base.vmdk", &["write -P 9 0 64k"]);
    let error = open(&dir.join("two.vmdk"), ImageFormat::Vmdk).err().expect("changed").to_string();
    assert!(error.contains("not the parent"), "{error}");
    fs::remove_file(dir.join("base.vmdk")).expect("removed");
    let error = open(&dir.join("two.vmdk"), ImageFormat::Vmdk).err().expect("gone").to_string();
    assert!(error.contains("base.vmdk, the parent of"), "{error}");
}

/// Cut into pieces of 2 GiB, of which a little is written around each edge.
#[test]
fn vmdk_disks_of_several_pieces() {
    let (_keep, dir) = scratch();
    for subformat in ["twoGbMaxExtentSparse", "twoGbMaxExtentFlat", "monolithicSparse"] {
        let image = format!("{subformat}.vmdk");
        img(&dir, &format!("create -f vmdk -o subformat={subformat} {image} 5G"));
        let writes = [
            "write -P 1 0 1k",
            "write -P 2 2097140k 64k",
            "write -P 3 4194300k 8k",
            "write -P 4 5242876k 4k",
        ];
        io(&dir, ImageFormat::Vmdk, &image, &writes);
        let disk = open(&dir.join(&image), ImageFormat::Vmdk).expect("open");
        assert_eq!(disk.size_bytes(), 5 << 30);
        for (value, offset, length) in [(1, 0, 1), (2, 2_097_140, 64), (3, 4_194_300, 8), (4, 5_242_876, 4)] {
            let mut bytes = vec![0; length * KIB];
            disk.read_at(&mut bytes, offset * KIB as u64).expect("read");
            assert!(bytes.iter().all(|byte| *byte == value), "{image} {value}");
        }
        let map: Vec<_> = extents(&*disk, 0..5 << 30).collect::<Result<_, _>>().expect("a map");
        let data: u64 = map.iter().filter(|e| e.kind == ExtentKind::Data).map(|extent| extent.length).sum();
        assert!((77 * KIB as u64..MIB as u64).contains(&data), "{image}: {map:?}");
    }
}

#[test]
fn huge_empty_disks_cost_nothing() {
    let (_keep, dir) = scratch();
    img(&dir, "create -f vhdx -o block_size=32M huge.vhdx 64T");
    io(&dir, ImageFormat::Vhdx, "huge.vhdx", &["write -P 1 40T 4k"]);
    let disk = open(&dir.join("huge.vhdx"), ImageFormat::Vhdx).expect("open");
    let map: Vec<_> = extents(&*disk, 0..64 << 40).collect::<Result<_, _>>().expect("a map");
    let data: Vec<_> = map.iter().filter(|extent| extent.kind == ExtentKind::Data).collect();
    assert!(data.iter().any(|extent| extent.offset == 40 << 40), "{map:?}");
    assert!(data.iter().map(|extent| extent.length).sum::<u64>() <= 32 << 20, "{map:?}");
    img(&dir, "create -f vpc huge.vhd 2040G");
    let disk = open(&dir.join("huge.vhd"), ImageFormat::Vhd).expect("open");
    assert!(
        extents(&*disk, 0..disk.size_bytes()).all(|extent| extent.expect("a map").kind == ExtentKind::Zero)
    );
}

/// The sum that VHDX has, bit by bit.
fn castagnoli(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(
            sum ^ u32::from(*byte),
            |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 },
        )
    })
}

/// QEMU leaves old entries in its log. The file is made as it was right before the last was carried out: the header says
/// that the log counts, and the page of the block table that it holds is gone.
#[test]
fn a_log_is_replayed_as_qemu_replays_it() {
    let (_keep, dir) = scratch();
    img(&dir, "create -f vhdx -o block_size=1M,subformat=dynamic log.vhdx 40M");
    let writes: Vec<String> = (0..30).map(|n| format!("write -P {} {}k 100k", n + 1, n * 1200)).collect();
    io(&dir, ImageFormat::Vhdx, "log.vhdx", &writes.iter().map(String::as_str).collect::<Vec<_>>());
    let path = dir.join("log.vhdx");
    let mut image = fs::read(&path).expect("read");
    let number = |at: usize| u64::from_le_bytes(image[at..at + 8].try_into().expect("eight bytes"));
    let headers = [64 * KIB, 128 * KIB];
    let newer = headers.into_iter().max_by_key(|at| number(at + 8)).expect("two");
    let (log, table) = (number(newer + 72) as usize, number(192 * KIB + 32) as usize);
    // Each has a log of its own.
    let entries = (log..log + MIB).step_by(4096).filter(|at| image[*at..].starts_with(b"loge"));
    let entry = entries.max_by_key(|at| number(at + 16)).expect("an entry");
    image.copy_within(entry + 32..entry + 48, newer + 48);
    image[newer + 4..newer + 8].fill(0);
    let sum = castagnoli(&image[newer..newer + 4096]).to_le_bytes();
    image[newer + 4..newer + 8].copy_from_slice(&sum);
    image[table..table + 4096].fill(0);
    fs::write(&path, &image).expect("written");
    fs::write(dir.join("mended.vhdx"), &image).expect("written");
    // It tells by its status that there was something to mend.
    let _ = Command::new("qemu-img").current_dir(&dir).args(["check", "-r", "all", "mended.vhdx"]).output();
    let expected = compare(&dir, ImageFormat::Vhdx, "mended.vhdx");
    compare_bytes(&*open(&path, ImageFormat::Vhdx).expect("open"), &expected, "log.vhdx");
    assert!((0..30).all(|n| expected[n * 1200 * KIB] == n as u8 + 1), "all writes are there");
    assert!(fs::read(&path).expect("read") == image, "nothing was written");
}

#[test]
fn images_that_were_cut_off() {
    let (_keep, dir) = scratch();
    for (format, options) in [
        (ImageFormat::Vhdx, "subformat=fixed"),
        (ImageFormat::Vhd, "subformat=dynamic"),
        (ImageFormat::Vmdk, "subformat=monolithicSparse"),
        (ImageFormat::Vmdk, "subformat=streamOptimized"),
    ] {
        img(&dir, &format!("convert -f raw -O {} -o {options} source.raw cut", in_qemu(format)));
        let whole = fs::read(dir.join("cut")).expect("read");
        fs::write(dir.join("cut"), &whole[..whole.len() / 3 * 2]).expect("written");
        let outcome = open(&dir.join("cut"), format).and_then(|disk| {
            let mut bytes = vec![0; disk.size_bytes() as usize];
            disk.read_at(&mut bytes, 0)
        });
        assert!(matches!(outcome, Err(BlockError::Damaged { .. })), "{format} {options}: {outcome:?}");
    }
}

/// Images that others made, where the samples are.
#[test]
fn samples_that_qemu_reads() {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, format) in [
        ("fixed.vhdx.gz", ImageFormat::Vhdx),
        ("dynamic.vhdx.gz", ImageFormat::Vhdx),
        ("fixed.vhd.gz", ImageFormat::Vhd),
        ("dynamic.vhd.gz", ImageFormat::Vhd),
        ("dfvfs_ext2.vhd", ImageFormat::Vhd),
        ("dfvfs_ext2.vmdk", ImageFormat::Vmdk),
        ("image.vmdk", ImageFormat::Vmdk),
    ] {
        if let Some(image) = sample(dir.path(), name) {
            assert_eq!(guessed(&dir.path().join(&image)).expect(name), format);
            compare(dir.path(), format, &image);
        }
    }
}

/// A child and its parent, whose sums were forgotten when somebody changed them by hand.
#[test]
fn a_sample_over_its_parent() {
    let dir = tempfile::tempdir().expect("a directory");
    let (Some(parent), Some(child)) =
        (sample(dir.path(), "dfvfs_image.vhd"), sample(dir.path(), "dfvfs_image-differential.vhd"))
    else {
        return;
    };
    let child = dir.path().join(child);
    let error = Vhd::open(&child, Links::Follow).err().expect("its parent has another name").to_string();
    assert!(error.contains("image.vhd, the parent of"), "{error}");
    fs::rename(dir.path().join(parent), dir.path().join("image.vhd")).expect("renamed");
    let disk = Vhd::open(&child, Links::Follow).expect("open");
    assert!(disk.is_suspect() && disk.size_bytes() == 104_448);
    // All of its only block is here, behind a bitmap of 512 bytes.
    let bytes = fs::read(&child).expect("read");
    compare_bytes(&disk, &bytes[5 * 512..5 * 512 + 104_448], "dfvfs_image-differential.vhd");
    assert!(Vhd::open(&dir.path().join("image.vhd"), Links::Refuse).is_ok());
    assert!(Vhd::open(&child, Links::Refuse).is_err());
}

#[test]
fn a_sample_whose_parent_is_not_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let Some(name) = sample(dir.path(), "differencing.avhdx.gz") else { return };
    let path = dir.path().join(name);
    let error = Vhdx::open(&path, Links::Follow).err().expect("no parent").to_string();
    assert!(
        error.contains("Generation 1_49C4BAF3-4B25-4406-8C4B-D39E65C32385.avhdx, the parent of"),
        "{error}"
    );
    let error = Vhdx::open(&path, Links::Refuse).err().expect("not allowed").to_string();
    assert!(error.contains("may not be followed"), "{error}");
    // Over a parent of nothing, all that it holds can be read.
    let file: Arc<dyn BlockSource> = Arc::new(RawDisk::open(&path).expect("open"));
    assert!(Vhdx::over(Arc::clone(&file), None).is_err());
    let disk = Vhdx::over(file, Some(Arc::new(MemoryDisk::new("nothing", 0)))).expect("open");
    let parent = disk.metadata().parent.clone().expect("a parent");
    assert_eq!(parent.linkage[0].to_string(), "FF34003B-11ED-4CF8-A166-B2BE05E20B80");
    let mut held = 0;
    for extent in extents(&disk, 0..disk.size_bytes()) {
        let extent = extent.expect("a map");
        if extent.kind == ExtentKind::Data {
            held += extent.length;
            let mut bytes = vec![0; extent.length as usize];
            disk.read_at(&mut bytes, extent.offset).expect("read");
        }
    }
    assert!(held > 0);
}
