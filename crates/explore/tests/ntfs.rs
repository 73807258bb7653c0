//! NTFS as mkntfs and ntfs-3g make it, and as Windows did.

mod support;

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use nestling_explore::{Attributes, Cursor, FileKind, FileSystem, Kind, find};
use support::*;

fn make(dir: &Path, options: &str, megabytes: u64) -> PathBuf {
    let path = image(dir, "image", megabytes << 20);
    tool(dir, &format!("mkntfs -q -F -Q {options} image"));
    path
}

fn mount(dir: &Path) -> Option<Mounted> {
    Mounted::new(dir, "ntfs-3g -o compression,streams_interface=windows,acl image")
}

fn node(fs: &dyn FileSystem, path: &str) -> nestling_explore::Node {
    find(fs, &path.parse().expect("a path")).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What Linux tells about a file there, by the name that ntfs-3g has for it.
fn xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 70_000];
    let count = rustix::fs::getxattr(path, name, &mut value).expect("an attribute");
    value.truncate(count);
    value
}

#[test]
fn trees_of_every_cluster_size() {
    for (cluster, entries) in [(512, 3000), (4096, 1500), (65_536, 300)] {
        let dir = scratch();
        let tree = dir.path().join("tree");
        plain_tree(&tree, entries);
        let path = make(dir.path(), &format!("-c {cluster} -L 'the label'"), 96);
        let Some(mounted) = mount(dir.path()) else { return };
        tool(dir.path(), "cp -rp tree/. mounted/");
        drop(mounted);
        let fs = open_image(&path);
        assert_eq!((fs.summary().kind, &fs.summary().label[..]), (Kind::Ntfs, "the label"));
        assert_eq!(fs.summary().block_bytes, cluster);
        compare(&fs, &tree, &[]);
        for (path, host) in all_below(&tree) {
            let stat = fs.stat(all(&*fs)[&path].0).expect("there");
            let modified = stat.times.modified.expect("a time");
            let metadata = host.metadata().expect("metadata");
            // To 100 ns.
            let expected = (metadata.mtime(), metadata.mtime_nsec() / 100 * 100);
            assert_eq!((modified.seconds, i64::from(modified.nanoseconds)), expected, "{}", host.display());
            if path.len() > 1 {
                break;
            }
        }
        assert_eq!(node(&*fs, "/uPPer.txt"), node(&*fs, "/UPPER.TXT"), "cases are not told apart");
        assert_eq!(fs.lookup(fs.root(), b"none").expect("readable"), None);
    }
}

#[test]
fn compressed_files() {
    let dir = scratch();
    let path = make(dir.path(), "-c 4096", 64);
    let Some(mounted) = mount(dir.path()) else { return };
    let packed = mounted.path.join("packed");
    fs::create_dir(&packed).expect("a directory");
    rustix::fs::setxattr(&packed, "system.ntfs_attrib_be", &[0, 0, 8, 0], rustix::fs::XattrFlags::empty())
        .expect("an attribute");
    let text: Vec<u8> =
        (0..40_000).flat_map(|n| format!("line {n} of a text that can be packed\n").into_bytes()).collect();
    let mixed = [&text[..100_000], &noise(5, 200_000), &vec![0; 300_000], &text[..70_001]].concat();
    let contents = [
        ("text", text),
        ("noise", noise(3, 200_000)),
        ("mixed", mixed),
        ("short", b"abc".repeat(500)),
        ("zero", vec![0; 500_000]),
    ];
    for (name, bytes) in &contents {
        fs::write(packed.join(name), bytes).expect("a file");
    }
    drop(mounted);
    let fs = open_image(&path);
    for (name, bytes) in &contents {
        let node = node(&*fs, &format!("/packed/{name}"));
        assert!(content(&*fs, node, b"") == *bytes, "{name}");
        let stat = fs.stat(node).expect("there");
        let Attributes::Dos(flags) = stat.attributes else { panic!("of NTFS") };
        assert!(flags & Attributes::DOS_COMPRESSED != 0, "{name}");
        let mut part = vec![0; 5000.min(bytes.len())];
        let at = bytes.len() as u64 / 2;
        let count = fs.read(node, b"", at, &mut part).expect("readable");
        assert!(part[..count] == bytes[at as usize..at as usize + count], "{name}");
    }
    let text = fs.stat(node(&*fs, "/packed/text")).expect("there");
    assert!(text.allocated_bytes < text.size_bytes / 2, "it is packed at all");
    let zero = node(&*fs, "/packed/zero");
    assert!(
        fs.extents(zero, b"", 0..500_000)
            .expect("a map")
            .iter()
            .any(|e| e.kind == nestling_block::ExtentKind::Zero)
    );
}

#[test]
fn streams_descriptors_and_links() {
    let dir = scratch();
    let path = make(dir.path(), "", 64);
    let Some(mounted) = mount(dir.path()) else { return };
    let at = |name: &str| mounted.path.join(name);
    fs::write(at("file"), "own bytes").expect("a file");
    fs::write(at("file:stream"), noise(1, 100_000)).expect("a stream");
    fs::write(at("file:kurz"), "short").expect("a stream");
    fs::hard_link(at("file"), at("second name")).expect("a link");
    std::os::unix::fs::symlink("file", at("link")).expect("a link");
    let descriptor = xattr(&at("file"), "system.ntfs_acl");
    drop(mounted);
    let fs = open_image(&path);
    let file = node(&*fs, "/file");
    let mut streams = fs.streams(file).expect("readable");
    streams.sort_by(|a, b| a.name.cmp(&b.name));
    let names: Vec<(String, u64)> = streams.iter().map(|s| (s.name.to_string(), s.size_bytes)).collect();
    assert_eq!(names, [("kurz".to_owned(), 5), ("stream".to_owned(), 100_000)]);
    assert_eq!(content(&*fs, file, b"stream"), noise(1, 100_000));
    assert_eq!(content(&*fs, file, b"STREAM"), noise(1, 100_000));
    assert_eq!(content(&*fs, file, b""), b"own bytes");
    assert!(fs.read(file, b"other", 0, &mut [0]).is_err());
    let source = nestling_explore::FileSource::open_stream(Arc::clone(&fs), file, b"stream", "stream")
        .expect("a stream");
    assert_eq!(nestling_block::BlockSource::size_bytes(&source), 100_000);
    assert_eq!(fs.security_descriptor(file).expect("readable").as_deref(), Some(&descriptor[..]));
    let stat = fs.stat(file).expect("there");
    assert_eq!((stat.links, stat.kind), (2, FileKind::File));
    assert_eq!(node(&*fs, "/second name"), file);
}

#[test]
fn reparse_points_are_links() {
    let dir = scratch();
    let path = make(dir.path(), "", 32);
    let Some(mounted) = mount(dir.path()) else { return };
    let target: Vec<u8> = "C:\\Users\\x".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let n = target.len() as u16;
    let names = [0_u16, n, 0, n].iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let data = [&names[..], &[1, 0, 0, 0], &target].concat();
    let reparse =
        [&0xa000_000c_u32.to_le_bytes()[..], &(data.len() as u16).to_le_bytes(), &[0, 0], &data].concat();
    fs::write(mounted.path.join("link"), "").expect("a file");
    rustix::fs::setxattr(
        mounted.path.join("link"),
        "system.ntfs_reparse_data",
        &reparse,
        rustix::fs::XattrFlags::empty(),
    )
    .expect("an attribute");
    drop(mounted);
    let fs = open_image(&path);
    let link = node(&*fs, "/link");
    assert_eq!(fs.stat(link).expect("there").kind, FileKind::Link);
    assert_eq!(fs.link_target(link).expect("a link"), b"C:\\Users\\x");
    let found = fs.reparse_point(link).expect("readable").expect("there");
    assert_eq!((found.tag, found.data), (0xa000_000c, data));
    assert_eq!(all(&*fs)[&vec![b"link".to_vec()]].1, FileKind::Link);
}

#[test]
fn holes_and_files_in_many_pieces() {
    let dir = scratch();
    let path = make(dir.path(), "-c 4096", 128);
    let Some(mounted) = mount(dir.path()) else { return };
    // Thousands of pieces do not fit in one record, so that lists of attributes are needed.
    let file = File::create(mounted.path.join("islands")).expect("a file");
    for n in 0..3000_u64 {
        file.write_all_at(&noise(n, 4096), n * 20_480).expect("written");
    }
    drop(file);
    let islands = fs::read(mounted.path.join("islands")).expect("a file");
    for n in 0..300 {
        let name = format!("file:stream number {n} with quite a long name so that the record is soon full");
        fs::write(mounted.path.join("file"), "x").expect("a file");
        fs::write(mounted.path.join(name), format!("{n}")).expect("a stream");
    }
    drop(mounted);
    let fs = open_image(&path);
    let islands_node = node(&*fs, "/islands");
    assert!(content(&*fs, islands_node, b"") == islands);
    let size = islands.len() as u64;
    let extents = fs.extents(islands_node, b"", 0..size).expect("a map");
    let data: u64 =
        extents.iter().filter(|e| e.kind == nestling_block::ExtentKind::Data).map(|e| e.length).sum();
    assert_eq!((extents.len(), data), (5999, 3000 * 4096));
    let file = node(&*fs, "/file");
    assert_eq!(fs.streams(file).expect("readable").len(), 300);
    let last = b"stream number 299 with quite a long name so that the record is soon full";
    assert_eq!(content(&*fs, file, last), b"299");
}

#[test]
fn what_was_deleted_is_not_there() {
    let dir = scratch();
    let path = make(dir.path(), "", 64);
    let Some(mounted) = mount(dir.path()) else { return };
    let large = mounted.path.join("large");
    fs::create_dir(&large).expect("a directory");
    (0..2000).for_each(|n| fs::write(large.join(format!("file {n}")), "x").expect("a file"));
    (0..2000)
        .filter(|n| n % 3 != 0)
        .for_each(|n| fs::remove_file(large.join(format!("file {n}"))).expect("there"));
    drop(mounted);
    let fs = open_image(&path);
    let large = node(&*fs, "/large");
    let (mut names, mut from) = (std::collections::BTreeSet::new(), Cursor::default());
    loop {
        let page = fs.list(large, from, 61).expect("a page");
        assert!(page.damage.is_none());
        page.entries.into_iter().for_each(|entry| assert!(names.insert(entry.name.to_string())));
        let Some(next) = page.next else { break };
        from = next;
    }
    let expected: std::collections::BTreeSet<String> =
        (0..2000).step_by(3).map(|n| format!("file {n}")).collect();
    assert_eq!(names, expected);
    assert!(fs.lookup(large, b"file 1").expect("readable").is_none());
    assert!(fs.lookup(large, b"file 1998").expect("readable").is_some());
    assert!(fs.lookup(fs.root(), b"$MFT").expect("readable").is_some(), "not listed, but there");
}

#[test]
fn names_that_are_no_unicode() {
    let dir = scratch();
    let path = make(dir.path(), "", 32);
    let Some(mounted) = mount(dir.path()) else { return };
    // Found and changed on the volume: half of a surrogate pair, as Windows lets a program have it.
    fs::write(mounted.path.join("marker-X"), "bytes").expect("a file");
    drop(mounted);
    let mut bytes = fs::read(&path).expect("an image");
    let units = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    let (old, prefix) = (units("marker-X"), units("marker-").len());
    let places: Vec<usize> =
        bytes.windows(old.len()).enumerate().filter(|(_, w)| **w == old).map(|(n, _)| n).collect();
    for place in places {
        bytes[place + prefix..place + old.len()].copy_from_slice(&0xd83d_u16.to_le_bytes());
    }
    fs::write(&path, bytes).expect("written");
    let fs = open_image(&path);
    let page = fs.list(fs.root(), Cursor::default(), 100).expect("a page");
    let entry =
        page.entries.iter().find(|entry| entry.name.as_bytes().starts_with(b"marker-")).expect("listed");
    assert_eq!(entry.name.as_bytes(), b"marker-\xed\xa0\xbd");
    assert_eq!(entry.name.to_string(), "marker-\\xed\\xa0\\xbd");
    assert_eq!(fs.lookup(fs.root(), entry.name.as_bytes()).expect("readable"), Some(entry.node));
    assert_eq!(content(&*fs, entry.node, b""), b"bytes");
}
