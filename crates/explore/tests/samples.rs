//! The collection of samples beside the project: every file that an independent reader found, with the same bytes.

mod support;

use std::{fs, path::Path, sync::Arc};

use nestling_block::{
    BlockSource, ImageFormat, OpenImage, PartitionTable,
    qcow2::{Links, Qcow2, Qcow2Options},
};
use nestling_explore::{ErrorKind, FileSystem, Kind, detect, find, open};
use serde_json::Value;
use support::*;

/// Each expected file of an image.
fn expected(image: &str) -> Option<Vec<(String, u64, String)>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/expected/fs_files.json");
    let all: Value = serde_json::from_slice(&fs::read(path).ok()?).expect("JSON");
    let files = all[image].as_array().expect("a list");
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    Some(files.iter().map(|f| (text(&f[0]), f[1].as_u64().expect("a number"), text(&f[2]))).collect())
}

fn check(fs: &dyn FileSystem, image: &str) {
    for (path, size, hash) in expected(image).expect("the list lies beside the images") {
        let node = find(fs, &path.parse().expect("a path")).unwrap_or_else(|e| panic!("{path}: {e}"));
        assert_eq!(fs.stat(node).expect("there").size_bytes, size, "{path}");
        assert_eq!(sha256(&content(fs, node, b"")), hash, "{path}");
    }
}

#[test]
fn ntfs_of_windows() {
    let Some((_dir, path)) = sample("fs/ntfs.bin.gz") else { return };
    let fs = open_image(&path);
    check(&*fs, "fs/ntfs.bin");
    let found = all(&*fs);
    // As many as ntfs-3g shows.
    assert_eq!(found.len(), 2061);
    assert_eq!(found.keys().filter(|path| path[0] == b"Large Directory" && path.len() == 2).count(), 2048);
    for (node, kind) in found.values() {
        assert_eq!(fs.stat(*node).expect("there").kind, *kind);
        let descriptor = fs.security_descriptor(*node).expect("readable").expect("each has one");
        assert_eq!((descriptor[0], descriptor[3] & 0x80), (1, 0x80), "self-relative");
    }
}

#[test]
fn ntfs_of_a_crate() {
    let Some((_dir, path)) = sample("fs/ntfs_crate_testfs1.raw") else { return };
    let fs = open_image(&path);
    assert_eq!(fs.summary().label, "mylabel");
    check(&*fs, "fs/ntfs_crate_testfs1.raw");
    let found = all(&*fs);
    assert!(found.len() > 500, "{}", found.len());
    found.values().for_each(|(node, kind)| assert_eq!(fs.stat(*node).expect("there").kind, *kind));
}

#[test]
fn fat_and_exfat() {
    for (name, kind) in
        [("fat12", Kind::Fat12), ("fat16", Kind::Fat16), ("fat32", Kind::Fat32), ("exfat", Kind::Exfat)]
    {
        let Some((dir, path)) = sample(&format!("fs/{name}.bin.gz")) else { continue };
        let fs = open_image(&path);
        assert_eq!(fs.summary().kind, kind);
        let found = all(&*fs);
        assert!(!found.is_empty(), "{name}");
        for (node, _) in found.values() {
            let stat = fs.stat(*node).expect("there");
            if stat.kind == nestling_explore::FileKind::File {
                assert_eq!(content(&*fs, *node, b"").len() as u64, stat.size_bytes);
            }
        }
        if kind != Kind::Exfat {
            let root = dir.path().join("tree");
            fs::create_dir(&root).expect("a directory");
            tool(dir.path(), "LC_ALL=C.UTF-8 mcopy -s -n -i image '::*' tree/");
            compare(&fs, &root, &[]);
        }
    }
}

#[test]
fn ext2_in_an_image() {
    let Some((_dir, path)) = sample("disk/dfvfs_ext2.qcow2") else { return };
    let disk: Arc<dyn BlockSource> =
        Arc::new(Qcow2::open(&path, Qcow2Options::new(Links::Refuse)).expect("an image"));
    let fs = open(disk).expect("ext2");
    assert_eq!((fs.summary().kind, &fs.summary().label[..]), (Kind::Ext2, "ext2_test"));
    check(&*fs, "disk/dfvfs_ext2.qcow2");
}

#[test]
fn what_no_reader_reads_is_told() {
    let Some((_dir, path)) = sample("fs/xfs.bin.gz") else { return };
    assert_eq!(detect(&disk(&path)).expect("readable").kind, Kind::Xfs);
    let error = open(disk(&path)).err().expect("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("holds XFS"), "{error}");
}

/// A sample that is a disk image, opened by the name that it has there.
fn image_of(name: &str, format: ImageFormat) -> Option<(tempfile::TempDir, Arc<dyn BlockSource>)> {
    let (dir, path) = sample(name)?;
    let named = dir.path().join(Path::new(name.trim_end_matches(".gz")).file_name().expect("a name"));
    fs::rename(path, &named).expect("renamed");
    let disk = OpenImage::open(&named, Some(format)).unwrap_or_else(|e| panic!("{name}: {e}")).source;
    Some((dir, disk))
}

/// The bytes of a volume, where its own tools find them.
fn dump(dir: &Path, volume: &dyn BlockSource) {
    let mut bytes = vec![0; volume.size_bytes() as usize];
    volume.read_at(&mut bytes, 0).expect("readable");
    fs::write(dir.join("image"), bytes).expect("written");
}

/// The same ext2 as in qcow2.
#[test]
fn ext2_in_images_of_others() {
    for (name, format) in
        [("disk/dfvfs_ext2.vhd", ImageFormat::Vhd), ("disk/dfvfs_ext2.vmdk", ImageFormat::Vmdk)]
    {
        let Some((_dir, disk)) = image_of(name, format) else { continue };
        let fs = open(disk).unwrap_or_else(|e| panic!("{name}: {e}"));
        check(&*fs, "disk/dfvfs_ext2.qcow2");
    }
}

#[test]
fn files_in_images_are_those_that_their_own_tools_find() {
    for (name, format) in [("disk/image.qcow2", ImageFormat::Qcow2), ("disk/image.vmdk", ImageFormat::Vmdk)] {
        let Some((dir, disk)) = image_of(name, format) else { continue };
        dump(dir.path(), &*disk);
        let found = dir.path().join("dump");
        fs::create_dir(&found).expect("a directory");
        tool(&found, "debugfs -R 'rdump / .' ../image");
        compare(&open(disk).unwrap_or_else(|e| panic!("{name}: {e}")), &found, &["lost+found"]);
    }
}

/// Disks that Windows made: a partition with NTFS in each.
#[test]
fn ntfs_in_images_of_hyper_v() {
    for (name, format) in [
        ("disk/fixed.vhdx.gz", ImageFormat::Vhdx),
        ("disk/dynamic.vhdx.gz", ImageFormat::Vhdx),
        ("disk/fixed.vhd.gz", ImageFormat::Vhd),
        ("disk/dynamic.vhd.gz", ImageFormat::Vhd),
    ] {
        let Some((dir, disk)) = image_of(name, format) else { continue };
        let table = PartitionTable::read(&*disk, None).expect(name);
        let volume: Arc<dyn BlockSource> = Arc::new(table.partitions[0].open(&disk).expect("inside"));
        dump(dir.path(), &*volume);
        let fs = open(volume).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(fs.summary().kind, Kind::Ntfs);
        let Some(mounted) = Mounted::new(dir.path(), "ntfs-3g -o ro image") else { return };
        compare(&fs, &mounted.path, &[]);
    }
}

/// No list of an independent reader is left out above.
#[test]
fn every_list_has_its_test() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/expected/fs_files.json");
    let Ok(bytes) = fs::read(path) else { return };
    let all: Value = serde_json::from_slice(&bytes).expect("JSON");
    let mut listed: Vec<&String> = all.as_object().expect("an object").keys().collect();
    listed.sort();
    assert_eq!(listed, ["disk/dfvfs_ext2.qcow2", "fs/ntfs.bin", "fs/ntfs_crate_testfs1.raw"]);
}
