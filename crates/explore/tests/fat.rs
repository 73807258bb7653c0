//! FAT12, FAT16, FAT32 and exFAT as their tools make them.

mod support;

use std::{fs, path::Path, sync::Arc};

use nestling_explore::{Attributes, Cursor, FileSystem, Kind, find};
use support::*;

/// A tree that mcopy can take, whose time grows with the square of a directory: no names that differ in case alone,
/// nothing that FAT cannot hold.
fn tree(dir: &Path, entries: usize) -> std::path::PathBuf {
    let root = dir.join("tree");
    plain_tree(&root, entries);
    // mcopy cuts characters that need two units.
    fs::remove_file(root.join("emoji 🦀 crab")).expect("there");
    root
}

fn copied(options: &str, megabytes: u64, entries: usize, kind: Kind) {
    let dir = scratch();
    let root = tree(dir.path(), entries);
    if megabytes < 8 {
        fs::remove_file(root.join(format!("file of {} bytes", 3 << 20))).expect("there");
    }
    let path = image(dir.path(), "image", megabytes << 20);
    tool(dir.path(), &format!("mkfs.vfat {options} -n 'THE LABEL' -i 1234abcd image"));
    tool(dir.path(), "LC_ALL=C.UTF-8 mcopy -s -m -i image tree/* ::");
    let fs = open_image(&path);
    let summary = fs.summary();
    assert_eq!(
        (summary.kind, &summary.label[..], summary.uuid.as_deref()),
        (kind, "THE LABEL", Some("1234-ABCD"))
    );
    compare(&fs, &root, &[]);
    names(&fs);
}

fn names(fs: &Arc<dyn FileSystem>) {
    let at =
        |path: &str| find(&**fs, &path.parse().expect("a path")).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert_eq!(at("/grüSSE AUS köln.TXT".replace("SS", "ß").as_str()), at("/Grüße aus Köln.txt"));
    assert_eq!(at("/uPPER.txt"), at("/UPPER.TXT"));
    let stat = fs.stat(at("/UPPER.TXT")).expect("there");
    assert!(stat.times.modified.is_some());
    assert_eq!(stat.attributes, Attributes::Dos(Attributes::DOS_ARCHIVE));
    assert!(fs.lookup(fs.root(), b"..").expect("readable").is_none());
    assert!(fs.link_target(at("/UPPER.TXT")).is_err());
    assert!(fs.list(at("/UPPER.TXT"), Cursor::default(), 1).is_err());
    assert!(fs.read(fs.root(), b"", 0, &mut [0]).is_err());
}

#[test]
fn fat12() {
    copied("-F 12 -s 4", 4, 60, Kind::Fat12);
}

#[test]
fn fat16() {
    copied("-F 16", 64, 150, Kind::Fat16);
}

#[test]
fn fat32() {
    copied("-F 32 -s 1", 64, 250, Kind::Fat32);
    copied("-F 32 -s 8 -S 4096", 3000, 20, Kind::Fat32);
}

#[test]
fn what_was_deleted_is_not_there_and_files_lie_in_pieces() {
    let dir = scratch();
    let path = image(dir.path(), "image", 16 << 20);
    tool(dir.path(), "mkfs.vfat -F 16 -s 1 -r 2048 image");
    // Every second one deleted, so that what comes later lies between.
    for n in 0..200 {
        fs::write(dir.path().join(format!("file number {n}")), noise(n, 5000)).expect("a file");
    }
    tool(
        dir.path(),
        "mcopy -i image 'file number '* :: && for n in $(seq 0 2 198); do mdel -i image \"::file number $n\"; done",
    );
    fs::write(dir.path().join("large"), noise(777, 600_000)).expect("a file");
    tool(dir.path(), "mcopy -i image large :: && mattrib -i image +h +r +s ::large");
    let fs = open_image(&path);
    let found = all(&*fs);
    assert_eq!(found.len(), 101);
    for n in (1..200).step_by(2) {
        let node = found[&vec![format!("file number {n}").into_bytes()]].0;
        assert_eq!(content(&*fs, node, b""), noise(n, 5000));
    }
    let large = found[&vec![b"large".to_vec()]].0;
    assert!(content(&*fs, large, b"") == noise(777, 600_000));
    // From behind to the front.
    for at in (0..15).rev().map(|n| n * 40_000_u64) {
        let mut part = vec![0; 1000];
        assert_eq!(fs.read(large, b"", at, &mut part).expect("readable"), 1000);
        assert!(part == noise(777, 600_000)[at as usize..at as usize + 1000]);
    }
    assert_eq!(fs.stat(large).expect("there").attributes, Attributes::Dos(0x27));
}

#[test]
fn exfat() {
    for (options, megabytes, entries) in [("-c 4K", 64, 1500), ("-c 128K", 256, 200), ("-c 512", 32, 300)] {
        let dir = scratch();
        let root = dir.path().join("tree");
        plain_tree(&root, entries);
        let path = image(dir.path(), "image", megabytes << 20);
        tool(dir.path(), &format!("mkfs.exfat {options} -L 'the label' image"));
        // The program in user space takes only block devices.
        let Some(device) = LoopDevice::new(&path) else { return };
        let Some(mounted) = Mounted::new(dir.path(), &format!("mount.exfat-fuse {}", device.0)) else {
            return;
        };
        tool(dir.path(), "cp -r --preserve=timestamps tree/. mounted/");
        // In pieces: what was freed between others is used again.
        for n in 0..100 {
            fs::write(mounted.path.join(format!("piece {n}")), noise(n, 20_000)).expect("a file");
        }
        (0..100)
            .step_by(2)
            .for_each(|n| fs::remove_file(mounted.path.join(format!("piece {n}"))).expect("there"));
        fs::write(mounted.path.join("torn"), noise(5, 2_000_000)).expect("a file");
        drop(mounted);
        drop(device);
        for n in (1..100).step_by(2) {
            fs::write(root.join(format!("piece {n}")), noise(n, 20_000)).expect("a file");
        }
        fs::write(root.join("torn"), noise(5, 2_000_000)).expect("a file");
        let fs = open_image(&path);
        assert_eq!((fs.summary().kind, &fs.summary().label[..]), (Kind::Exfat, "the label"));
        compare(&fs, &root, &[]);
        names(&fs);
        let large = find(&*fs, &"/large directory".parse().expect("a path")).expect("there");
        let page = fs.list(large, Cursor::default(), 10).expect("a page");
        assert!(page.entries.len() == 10 && page.next.is_some());
    }
}
