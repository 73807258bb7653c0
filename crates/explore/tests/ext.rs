//! ext2, ext3 and ext4 as mke2fs and debugfs make them.

mod support;

use std::{fs, path::Path};

use nestling_explore::{Attributes, Cursor, FileKind, Kind, NamePattern, Walk, WalkLimits, follow};
use support::*;

fn tree(dir: &Path, entries: usize) -> std::path::PathBuf {
    let root = dir.join("tree");
    plain_tree(&root, entries);
    unix_tree(&root);
    root
}

fn make(dir: &Path, options: &str, megabytes: u64) -> std::path::PathBuf {
    let path = image(dir, "image", megabytes << 20);
    tool(dir, &format!("mke2fs -q -F {options} -d tree image"));
    path
}

fn check(options: &str, kind: Kind) {
    check_without(options, kind, &["lost+found"]);
}

fn check_without(options: &str, kind: Kind, skip: &[&str]) {
    let dir = scratch();
    let root = tree(dir.path(), 700);
    let fs = open_image(&make(dir.path(), options, 160));
    assert_eq!(fs.summary().kind, kind, "{options}");
    assert_eq!(fs.summary().notes, Vec::<String>::new());
    compare(&fs, &root, skip);
    compare_metadata(&*fs, &root);
}

#[test]
fn ext2() {
    check("-t ext2 -L label -U 12345678-1234-1234-1234-123456789abc", Kind::Ext2);
}

#[test]
fn ext2_of_small_blocks_without_types_of_entries() {
    check("-t ext2 -b 1024 -I 128 -O ^filetype,^sparse_super,^resize_inode", Kind::Ext2);
}

#[test]
fn ext3() {
    check("-t ext3 -b 1024", Kind::Ext3);
}

#[test]
fn ext4() {
    check("-t ext4 -b 4096", Kind::Ext4);
}

#[test]
fn ext4_without_journal_and_with_short_files_in_inodes() {
    // mke2fs forgets the hole at the end of a file there.
    let options = "-t ext4 -b 1024 -I 512 -O ^has_journal,inline_data";
    check_without(options, Kind::Ext4, &["lost+found", "sparse"]);
}

#[test]
fn ext4_with_groups_of_descriptors_and_clusters() {
    check("-t ext4 -b 1024 -g 1024 -O ^resize_inode,meta_bg,bigalloc,^64bit", Kind::Ext4);
    check("-t ext4 -b 2048 -O 64bit,metadata_csum,sparse_super2,large_dir", Kind::Ext4);
}

#[test]
fn label_and_uuid() {
    let dir = scratch();
    tree(dir.path(), 1);
    let fs =
        open_image(&make(dir.path(), "-t ext4 -L 'the label' -U 12345678-1234-1234-1234-123456789abc", 64));
    let summary = fs.summary();
    assert_eq!(summary.label, "the label");
    assert_eq!(summary.uuid.as_deref(), Some("12345678-1234-1234-1234-123456789abc"));
    assert_eq!(summary.size_bytes, 64 << 20);
    assert!(summary.free_bytes.is_some_and(|free| (1..64 << 20).contains(&free)));
}

#[test]
fn extended_attributes_and_access_lists() {
    let dir = scratch();
    let root = dir.path().join("tree");
    plain_tree(&root, 1);
    fs::create_dir_all(&root).expect("a directory");
    let file = root.join("lower.txt");
    let set = |name: &str, value: &[u8]| {
        rustix::fs::setxattr(&file, name, value, rustix::fs::XattrFlags::empty()).expect("an attribute");
    };
    let list: Vec<u8> = [
        2_u32.to_le_bytes().to_vec(),
        entry(1, 6, None),
        entry(2, 4, Some(1234)),
        entry(4, 4, None),
        entry(0x10, 6, None),
        entry(0x20, 4, None),
    ]
    .concat();
    set("user.short", b"value");
    set("user.long", &noise(1, 800));
    set("user.empty", b"");
    set("system.posix_acl_access", &list);
    for options in ["-t ext4 -I 256", "-t ext4 -I 1024", "-t ext3 -I 128", "-t ext4 -O ea_inode"] {
        let fs = open_image(&make(dir.path(), options, 64));
        let node = fs.lookup(fs.root(), b"lower.txt").expect("readable").expect("there");
        let mut found: Vec<(String, Vec<u8>)> = fs
            .extended_attributes(node)
            .expect("readable")
            .into_iter()
            .map(|a| (a.name.to_string(), a.value))
            .collect();
        found.sort();
        let expected = [
            ("system.posix_acl_access", list.clone()),
            ("user.empty", Vec::new()),
            ("user.long", noise(1, 800)),
            ("user.short", b"value".to_vec()),
        ];
        assert_eq!(found, expected.map(|(name, value)| (name.to_owned(), value)), "{options}");
    }
    // In an inode of its own, where a block is too small.
    set("user.large", &noise(2, 2500));
    let fs = open_image(&make(dir.path(), "-t ext4 -b 1024 -O ea_inode", 64));
    let node = fs.lookup(fs.root(), b"lower.txt").expect("readable").expect("there");
    let found = fs.extended_attributes(node).expect("readable");
    assert!(found.iter().any(|a| a.name.as_bytes() == b"user.large" && a.value == noise(2, 2500)));
}

#[test]
fn times_have_nanoseconds_and_years_behind_2038() {
    let dir = scratch();
    let root = dir.path().join("tree");
    fs::create_dir_all(&root).expect("a directory");
    fs::write(root.join("file"), "x").expect("a file");
    let path = make(dir.path(), "-t ext4 -I 256", 64);
    // 123456789 ns, and once round the 32 bits of seconds.
    let extra = 123_456_789_u32 << 2 | 1;
    let set = format!(
        "debugfs -w -R 'sif file mtime_lo 0x10' image && debugfs -w -R 'sif file mtime_extra {extra}' image"
    );
    tool(dir.path(), &set);
    let fs = open_image(&path);
    let node = fs.lookup(fs.root(), b"file").expect("readable").expect("there");
    let modified = fs.stat(node).expect("there").times.modified.expect("a time");
    assert_eq!((modified.seconds, modified.nanoseconds), ((1 << 32) + 16, 123_456_789));
}

/// An entry of an access list.
fn entry(tag: u16, permissions: u16, id: Option<u32>) -> Vec<u8> {
    [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.unwrap_or(u32::MAX).to_le_bytes()].concat()
}

#[test]
fn holes_are_told() {
    let dir = scratch();
    tree(dir.path(), 1);
    for options in ["-t ext4", "-t ext2"] {
        let fs = open_image(&make(dir.path(), options, 64));
        let node = fs.lookup(fs.root(), b"sparse").expect("readable").expect("there");
        let extents = fs.extents(node, b"", 0..50 << 20).expect("a map");
        let data: u64 =
            extents.iter().filter(|e| e.kind == nestling_block::ExtentKind::Data).map(|e| e.length).sum();
        assert!((30_000..60_000).contains(&data), "{options}: {data}");
        let stat = fs.stat(node).expect("there");
        assert!(stat.allocated_bytes < 200_000 && stat.size_bytes == 50 << 20);
    }
}

#[test]
fn what_was_deleted_is_not_there() {
    let dir = scratch();
    tree(dir.path(), 50);
    let path = make(dir.path(), "-t ext4 -O ^has_journal", 64);
    tool(dir.path(), "debugfs -w -R 'rm \"/large directory/entry number 7 of many\"' image");
    let fs = open_image(&path);
    let directory = fs.lookup(fs.root(), b"large directory").expect("readable").expect("there");
    assert_eq!(fs.list(directory, Cursor::default(), 1000).expect("a page").entries.len(), 49);
    assert_eq!(fs.lookup(directory, b"entry number 7 of many").expect("readable"), None);
    assert!(fs.lookup(directory, b"entry number 8 of many").expect("readable").is_some());
}

#[test]
fn pages_hold_each_entry_once() {
    let dir = scratch();
    tree(dir.path(), 5000);
    let fs = open_image(&make(dir.path(), "-t ext4 -b 1024 -N 8000", 64));
    let directory = fs.lookup(fs.root(), b"large directory").expect("readable").expect("there");
    let mut names = std::collections::BTreeSet::new();
    let (mut from, mut pages) = (Cursor::default(), 0);
    loop {
        let page = fs.list(directory, from, 97).expect("a page");
        assert!(page.entries.len() <= 97);
        for entry in page.entries {
            assert!(names.insert(entry.name), "twice");
        }
        pages += 1;
        let Some(next) = page.next else { break };
        from = next;
    }
    assert!(names.len() == 5000 && pages >= 52);
    // Places that no page gave are harmless.
    for from in [1, 13, 5000, u64::MAX] {
        fs.list(directory, Cursor(from), 10).expect("a page");
    }
}

#[test]
fn walks_and_links() {
    let dir = scratch();
    tree(dir.path(), 10);
    let fs = open_image(&make(dir.path(), "-t ext4", 64));
    let walk = || Walk::new(&*fs, fs.root(), nestling_explore::FilePath::default(), WalkLimits::default());
    let pattern: NamePattern = "entry*7 of?many".parse().expect("a pattern");
    let found: Vec<String> =
        walk().search(pattern).map(|f| f.expect("readable").path().to_string()).collect();
    assert_eq!(found, ["/large directory/entry number 7 of many"]);
    let shallow = WalkLimits { depth: 3, ..WalkLimits::default() };
    let walk = Walk::new(&*fs, fs.root(), nestling_explore::FilePath::default(), shallow);
    assert_eq!(walk.filter(Result::is_err).count(), 1, "deeper than the limit");
    let at = |path: &str| follow(&*fs, &path.parse().expect("a path"));
    let deep = at("/link to a directory/d/e/f/g/deep").expect("through the link");
    assert_eq!(content(&*fs, deep, b""), noise(99, 10_000));
    assert_eq!(
        at("/a/link upwards/UPPER.TXT").expect("not above the root"),
        at("/UPPER.TXT").expect("there")
    );
    assert!(at("/long link").is_err());
    assert!(nestling_explore::find(&*fs, &"/link to a directory/d".parse().expect("a path")).is_err());
    let link = fs.lookup(fs.root(), b"long link").expect("readable").expect("there");
    assert_eq!(fs.stat(link).expect("there").kind, FileKind::Link);
    assert!(matches!(fs.stat(link).expect("there").attributes, Attributes::Ext(_)));
}

/// A journal as debugfs writes it: it was not written back, and what it says counts.
fn journal(options: &str, checksums: &str) {
    let dir = scratch();
    let root = dir.path().join("tree");
    fs::create_dir_all(&root).expect("a directory");
    for name in ["changed", "revoked", "escaped", "kept"] {
        fs::write(root.join(name), vec![b'-'; 1024]).expect("a file");
    }
    let path = make(dir.path(), options, 64);
    let block = |name: &str| {
        let text = tool(dir.path(), &format!("debugfs -R 'blocks /{name}' image"));
        text.trim().to_owned()
    };
    fs::write(dir.path().join("new"), vec![b'+'; 1024]).expect("written");
    let escaped = [&[0xc0, 0x3b, 0x39, 0x98][..], &[b'!'; 1020]].concat();
    fs::write(dir.path().join("magic"), &escaped).expect("written");
    fs::write(
        dir.path().join("commands"),
        format!(
            "jo {checksums}\njw -b {} new\njw -b {} new\njw -r {}\njw -b {} magic\njc\n",
            block("changed"),
            block("revoked"),
            block("revoked"),
            block("escaped"),
        ),
    )
    .expect("written");
    tool(dir.path(), "debugfs -w -f commands image");
    let fs = open_image(&path);
    assert!(fs.summary().notes.iter().any(|note| note.contains("replayed")), "{:?}", fs.summary().notes);
    let read = |fs: &dyn nestling_explore::FileSystem, name: &[u8]| {
        let node = fs.lookup(fs.root(), name).expect("readable").expect("there");
        content(fs, node, b"")
    };
    assert_eq!(read(&*fs, b"changed"), [b'+'; 1024], "{options}");
    assert_eq!(read(&*fs, b"revoked"), [b'-'; 1024]);
    assert_eq!(read(&*fs, b"escaped"), escaped);
    assert_eq!(read(&*fs, b"kept"), [b'-'; 1024]);
    // The tool comes to the same.
    tool(dir.path(), "e2fsck -fy image || [ $? = 1 ]");
    let mended = open_image(&path);
    assert!(mended.summary().notes.is_empty());
    for name in [&b"changed"[..], b"revoked", b"escaped", b"kept"] {
        assert_eq!(read(&*mended, name), read(&*fs, name));
    }
}

#[test]
fn a_journal_is_replayed() {
    journal("-t ext3 -b 1024", "");
    journal("-t ext4 -b 1024 -O ^64bit,^metadata_csum", "");
}

#[test]
fn a_journal_with_checksums_is_replayed() {
    journal("-t ext4 -b 1024 -O 64bit,metadata_csum", "-c");
}

#[test]
fn samples() {
    for (name, kind) in [("ext4", Kind::Ext4), ("ext4_sparse", Kind::Ext4), ("ext4_symlink_test", Kind::Ext4)]
    {
        let Some((_dir, path)) = sample(&format!("fs/{name}.bin.gz")) else { continue };
        let fs = open_image(&path);
        assert_eq!(fs.summary().kind, kind);
        let dump = path.parent().expect("a directory").join("dump");
        fs::create_dir_all(&dump).expect("a directory");
        tool(&dump, "debugfs -R 'rdump / .' ../image");
        compare(&fs, &dump, &["lost+found"]);
    }
}
