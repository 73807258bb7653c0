//! Our reader of qcow2 against images that QEMU's own tools made: the same bytes, and a map that agrees.

mod peers;

use std::{fs, path::Path, process::Command, sync::Arc};

use nestling_block::{
    BlockError, BlockSource, ExtentKind, ImageFormat, extents,
    qcow2::{Links, Qcow2, Qcow2Options},
};
use peers::{KIB, MIB, content, img, noise, sample, scratch};

fn io(dir: &Path, image: &str, commands: &[&str]) {
    peers::io(dir, ImageFormat::Qcow2, image, commands);
}

fn compare(dir: &Path, image: &str) {
    peers::compare(dir, ImageFormat::Qcow2, image);
}

fn open(path: &Path) -> Result<Qcow2, BlockError> {
    Qcow2::open(path, Qcow2Options::new(Links::Follow))
}

#[test]
fn every_cluster_size_and_option() {
    let (_keep, dir) = scratch();
    for (n, options) in [
        "compat=0.10",
        "compat=0.10,cluster_size=512",
        "cluster_size=512",
        "cluster_size=1k",
        "cluster_size=4k",
        "cluster_size=64k",
        "cluster_size=256k",
        "cluster_size=1M",
        "cluster_size=2M",
        "lazy_refcounts=on",
        "refcount_bits=1",
        "extended_l2=on",
        "extended_l2=on,cluster_size=16k",
        "extended_l2=on,cluster_size=2M",
        "preallocation=metadata",
        "preallocation=metadata,extended_l2=on",
        "preallocation=full",
    ]
    .iter()
    .enumerate()
    {
        let image = format!("i{n}.qcow2");
        img(&dir, &format!("convert -f raw -O qcow2 -o {options} source.raw {image}"));
        compare(&dir, &image);
    }
}

#[test]
fn compressed_images() {
    let (_keep, dir) = scratch();
    for (n, options) in [
        "compression_type=zlib",
        "compression_type=zstd",
        "compat=0.10,cluster_size=4k",
        "compression_type=zlib,cluster_size=512",
        "compression_type=zstd,cluster_size=2M",
        "compression_type=zstd,extended_l2=on,cluster_size=128k",
    ]
    .iter()
    .enumerate()
    {
        let image = format!("c{n}.qcow2");
        img(&dir, &format!("convert -c -f raw -O qcow2 -o {options} source.raw {image}"));
        compare(&dir, &image);
        io(&dir, &image, &["write -P 5 70k 3k", "write -z 1M 256k"]);
        compare(&dir, &image);
    }
}

#[test]
fn images_that_were_written_to() {
    let (_keep, dir) = scratch();
    for (n, options) in
        ["cluster_size=64k", "cluster_size=512", "extended_l2=on,cluster_size=64k", "compat=0.10"]
            .iter()
            .enumerate()
    {
        let image = format!("w{n}.qcow2");
        img(&dir, &format!("create -f qcow2 -o {options} {image} 9000k"));
        let mut next = noise(n as u64 + 1);
        let mut commands = Vec::new();
        for turn in 0..60 {
            let (offset, length) = (next() % 8500 * 1024, (1 + next() % 200) * 512);
            commands.push(match next() % 5 {
                0 => format!("write -z {offset} {length}"),
                1 => format!("discard {offset} {length}"),
                2 => format!("write -z -u {offset} {length}"),
                _ => format!("write -P {} {offset} {length}", turn + 1),
            });
        }
        io(&dir, &image, &commands.iter().map(String::as_str).collect::<Vec<_>>());
        compare(&dir, &image);
        img(&dir, &format!("snapshot -c one {image}"));
        io(&dir, &image, &["write -P 200 100k 300k", "write -P 201 5M 1k"]);
        compare(&dir, &image);
        if n != 3 {
            img(&dir, &format!("bitmap --add {image} b0"));
            compare(&dir, &image);
        }
    }
}

#[test]
fn chains_of_backing_files() {
    let (_keep, dir) = scratch();
    fs::create_dir(dir.join("sub")).expect("made");
    img(&dir, "create -f qcow2 -F raw -b ../source.raw sub/one.qcow2");
    io(&dir, "sub/one.qcow2", &["write -P 1 1M 100k", "write -z 2M 1M"]);
    compare(&dir, "sub/one.qcow2");
    // Larger than what is below it.
    img(&dir, "create -f qcow2 -F qcow2 -b sub/one.qcow2 -o extended_l2=on two.qcow2 7M");
    io(
        &dir,
        "two.qcow2",
        &["write -P 2 1100k 10k", "write -P 3 2500k 2k", "write -z 4M 6k", "write -P 4 6M 1k"],
    );
    compare(&dir, "two.qcow2");
    img(&dir, "create -f qcow2 -F qcow2 -b two.qcow2 -o cluster_size=512 three.qcow2 3M");
    io(&dir, "three.qcow2", &["write -P 5 0 1k", "write -P 6 2999k 2k"]);
    compare(&dir, "three.qcow2");
    let refused = Qcow2::open(&dir.join("three.qcow2"), Qcow2Options::new(Links::Refuse));
    assert!(refused.is_err_and(|e| e.to_string().contains("may not be followed")));
}

#[test]
fn a_chain_may_be_deep_but_no_circle() {
    let (_keep, dir) = scratch();
    img(&dir, "create -f qcow2 -F raw -b source.raw d0.qcow2");
    for n in 1..20 {
        img(&dir, &format!("create -f qcow2 -F qcow2 -b d{}.qcow2 d{n}.qcow2", n - 1));
    }
    compare(&dir, "d19.qcow2");
    img(&dir, "rebase -u -F qcow2 -b d19.qcow2 d0.qcow2");
    assert!(open(&dir.join("d19.qcow2")).is_err_and(|e| e.to_string().contains("circle")));
    img(&dir, "rebase -u -F qcow2 -b missing.qcow2 d0.qcow2");
    assert!(open(&dir.join("d19.qcow2")).is_err_and(|e| e.to_string().contains("missing.qcow2")));
    img(&dir, "rebase -u -F vdi -b source.raw d0.qcow2");
    assert!(open(&dir.join("d19.qcow2")).is_err_and(|e| e.to_string().contains("vdi")));
    img(&dir, "convert -f raw -O vmdk source.raw base.vmdk");
    img(&dir, "rebase -u -F vmdk -b base.vmdk d0.qcow2");
    compare(&dir, "d19.qcow2");
}

#[test]
fn external_data_files() {
    let (_keep, dir) = scratch();
    for (n, options) in
        ["data_file=x0.raw,data_file_raw=on", "data_file=x1.raw,extended_l2=on"].iter().enumerate()
    {
        let image = format!("x{n}.qcow2");
        img(&dir, &format!("convert -f raw -O qcow2 -o {options} source.raw {image}"));
        compare(&dir, &image);
        io(&dir, &image, &["write -P 7 0 64k", "write -z 3M 1M"]);
        compare(&dir, &image);
    }
    assert!(Qcow2::open(&dir.join("x0.qcow2"), Qcow2Options::new(Links::Refuse)).is_err());
}

#[test]
fn images_that_are_not_as_they_should_be() {
    let (_keep, dir) = scratch();
    img(&dir, "create -f qcow2 -o lazy_refcounts=on l.qcow2 1M");
    // It dies without closing the image.
    let out = Command::new("qemu-io")
        .current_dir(&dir)
        .args(["-f", "qcow2", "-c", "write -P 3 0 64k", "-c", "flush", "-c", "sigraise 9", "l.qcow2"])
        .output()
        .expect("it runs");
    assert!(!out.status.success());
    let disk = open(&dir.join("l.qcow2")).expect("open");
    assert!(disk.is_dirty() && !disk.is_corrupt());
    let mut bytes = [0; 4096];
    disk.read_at(&mut bytes, 0).expect("read");
    assert_eq!(bytes, [3; 4096]);

    let mut image = fs::read(dir.join("l.qcow2")).expect("read");
    image[79] |= 2;
    fs::write(dir.join("k.qcow2"), &image).expect("written");
    assert!(open(&dir.join("k.qcow2")).expect("open").is_corrupt());
    // Cut short by a copy that was broken off.
    fs::write(dir.join("k.qcow2"), &image[..5 * 64 * KIB]).expect("written");
    let cut = open(&dir.join("k.qcow2"));
    assert!(cut.and_then(|disk| disk.read_at(&mut bytes, 0)).is_err());

    // QEMU's other method, LUKS, measures how fast the processor is first, and gives up on a busy machine.
    let encrypted = dir.join("e.qcow2");
    img(
        &dir,
        "create -f qcow2 --object secret,id=s,data=abc -o encrypt.format=aes,encrypt.key-secret=s e.qcow2 1M",
    );
    assert!(open(&encrypted).is_err_and(|e| e.to_string().contains("encrypted")));
    let mut image = fs::read(&encrypted).expect("read");
    image[32..36].copy_from_slice(&2_u32.to_be_bytes());
    fs::write(&encrypted, &image).expect("written");
    assert!(open(&encrypted).is_err_and(|e| e.to_string().contains("encrypted")));
    assert!(open(&dir.join("source.raw")).is_err_and(|e| e.to_string().contains("no qcow2 image")));
}

#[test]
fn a_guest_cannot_make_its_raw_disk_an_image_that_is_followed() {
    let (_keep, dir) = scratch();
    fs::write(dir.join("secret"), vec![42; MIB]).expect("written");
    img(&dir, "create -f qcow2 -F raw -b secret evil.raw");
    // Without a declared format, as old tools did it.
    img(&dir, "create -f qcow2 over.qcow2 1M");
    img(&dir, "rebase -u -b evil.raw -F raw over.qcow2");
    let disk = open(&dir.join("over.qcow2")).expect("open");
    let mut first = [0; 4];
    disk.read_at(&mut first, 0).expect("read");
    assert_eq!(&first, b"QFI\xfb", "raw was said, and raw it is");
    let mut image = fs::read(dir.join("over.qcow2")).expect("read");
    let at = image.windows(4).position(|four| four == 0xe279_2aca_u32.to_be_bytes()).expect("the format");
    image[at] = 0x11;
    fs::write(dir.join("over.qcow2"), image).expect("written");
    assert!(open(&dir.join("over.qcow2")).is_err_and(|e| e.to_string().contains("does not say")));
}

#[test]
fn several_threads_read_one_image() {
    let (_keep, dir) = scratch();
    img(&dir, "convert -c -f raw -O qcow2 source.raw t.qcow2");
    let disk = Arc::new(open(&dir.join("t.qcow2")).expect("open"));
    let expected = Arc::new(content());
    std::thread::scope(|scope| {
        for seed in 1..5 {
            let (disk, expected) = (Arc::clone(&disk), Arc::clone(&expected));
            scope.spawn(move || {
                let mut next = noise(seed);
                for _ in 0..200 {
                    let offset = next() as usize % (expected.len() - 9000);
                    let mut part = vec![0; 9000];
                    disk.read_at(&mut part, offset as u64).expect("read");
                    assert!(part == expected[offset..offset + 9000]);
                }
            });
        }
    });
}

#[test]
fn a_huge_empty_disk_costs_nothing() {
    let (_keep, dir) = scratch();
    img(&dir, "create -f qcow2 -o cluster_size=2M huge.qcow2 64T");
    io(&dir, "huge.qcow2", &["write -P 1 40T 4k"]);
    let disk = open(&dir.join("huge.qcow2")).expect("open");
    let map: Vec<_> = extents(&disk, 0..64 << 40).collect::<Result<_, _>>().expect("a map");
    assert_eq!(map.iter().filter(|e| e.kind == ExtentKind::Data).count(), 1, "{map:?}");
    assert!(map[1].offset == 40 << 40 && map.len() == 3);
}

/// Images that others made, where the samples are.
#[test]
fn samples() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["image.qcow2", "dfvfs_ext2.qcow2"] {
        if let Some(image) = sample(dir.path(), name) {
            compare(dir.path(), &image);
        }
    }
}
