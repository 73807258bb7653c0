//! Our reading of partition tables against the tools that make them.

mod peers;

use std::{
    fs::{File, OpenOptions},
    io::Write,
    os::unix::fs::FileExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
};

use nestling_block::{
    BlockSource, ImageFormat, OpenImage, PartitionKind, PartitionTable, RawDisk, TableKind,
};
use peers::{MIB, sample, skipped, tool};

/// Where administrators' tools are is not always where a test looks for programs.
fn program(name: &str) -> Option<String> {
    let found = ["/usr/sbin", "/sbin", "/usr/bin"]
        .iter()
        .map(|dir| format!("{dir}/{name}"))
        .find(|path| Path::new(path).exists());
    if found.is_none() {
        skipped(name);
    }
    found
}

fn empty(dir: &Path, name: &str, size: usize) {
    File::create(dir.join(name)).and_then(|file| file.set_len(size as u64)).expect("made");
}

fn read(dir: &Path, name: &str) -> PartitionTable {
    PartitionTable::read(&RawDisk::open(&dir.join(name)).expect("open"), None).expect("a table")
}

/// Writes a table as `sfdisk` takes it from its input.
fn sfdisk(dir: &Path, name: &str, script: &str) {
    let sfdisk = program("sfdisk").expect("it is installed");
    let mut child = Command::new(sfdisk)
        .args(["--quiet", "--no-reread", name])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    child.stdin.take().expect("its input").write_all(script.as_bytes()).expect("written");
    assert!(child.wait().expect("it ends").success(), "{script}");
}

/// As `sfdisk` lists it: number, first sector, sectors, type.
fn listed(dir: &Path, name: &str) -> Vec<(u32, u64, u64, String)> {
    let sfdisk = program("sfdisk").expect("it is installed");
    let json: serde_json::Value = serde_json::from_str(&tool(dir, &sfdisk, &["-J", name])).expect("JSON");
    let table = &json["partitiontable"];
    let number = |value: &serde_json::Value| value.as_u64().expect("a number");
    table["partitions"]
        .as_array()
        .expect("partitions")
        .iter()
        .map(|part| {
            let node = part["node"].as_str().expect("a name").rsplit(|c: char| !c.is_ascii_digit()).next();
            let n = node.and_then(|digits| digits.parse().ok()).expect("a number");
            (
                n,
                number(&part["start"]),
                number(&part["size"]),
                part["type"].as_str().expect("a type").to_uppercase(),
            )
        })
        .collect()
}

fn compare(dir: &Path, name: &str, kind: TableKind) -> PartitionTable {
    let table = read(dir, name);
    assert_eq!((table.kind, &table.problems[..]), (kind, &[][..]), "{name}");
    let ours: Vec<(u32, u64, u64, String)> = table
        .partitions
        .iter()
        .map(|part| {
            let text = part.type_id.expect("a type").to_string();
            let type_id =
                if kind == TableKind::Mbr { text.trim_start_matches('0').to_uppercase() } else { text };
            let (start, end) = (part.range.start / 512, part.range.end / 512);
            (part.number, start, end - start, type_id)
        })
        .collect();
    assert_eq!(ours, listed(dir, name), "{name}");
    table
}

#[test]
fn tables_that_sfdisk_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    for (name, script, kind) in [
        ("a", "label: dos\n,10M,7,*\n,20M,83\n", TableKind::Mbr),
        ("b", "label: dos\n,10M\n,40M,5\n,,8e\n,5M,82\n,6M,83\n,7M,fd\n", TableKind::Mbr),
        ("c", "label: dos\n,10M,c\n,,f\n", TableKind::Mbr),
        ("d", "label: gpt\n,10M,U\n,20M,L\n,5M,S\n,,V\n", TableKind::Gpt),
        ("e", "label: gpt\nsize=1M, name=\"a long name of a partition, ü\"\n", TableKind::Gpt),
    ] {
        empty(dir, name, 64 * MIB);
        sfdisk(dir, name, script);
        compare(dir, name, kind);
    }
    let table = read(dir, "e");
    assert_eq!(table.partitions[0].name, "a long name of a partition, ü");
    let kinds: Vec<PartitionKind> = read(dir, "d").partitions.iter().map(|part| part.kind).collect();
    assert_eq!(
        kinds,
        [PartitionKind::EfiSystem, PartitionKind::Data, PartitionKind::Swap, PartitionKind::Lvm]
    );
}

#[test]
fn tables_that_others_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    if let Some(sgdisk) = program("sgdisk") {
        empty(dir, "s", 64 * MIB);
        tool(
            dir,
            &sgdisk,
            &["-S", "256", "-n", "1:2048:+10M", "-t", "1:ef02", "-n", "200:0:0", "-t", "200:fd00", "s"],
        );
        let table = compare(dir, "s", TableKind::Gpt);
        assert_eq!((table.partitions[1].number, table.partitions[1].kind), (200, PartitionKind::Raid));
        // A hybrid has both tables; the GPT counts.
        tool(dir, &sgdisk, &["-h", "1", "s"]);
        assert_eq!(read(dir, "s").kind, TableKind::Gpt);
    }
    if let Some(parted) = program("parted") {
        for (name, label) in [("p", "gpt"), ("q", "msdos")] {
            empty(dir, name, 64 * MIB);
            let part = if label == "gpt" { "first" } else { "primary" };
            tool(dir, &parted, &["-s", name, "mklabel", label, "mkpart", part, "ext4", "1MiB", "20MiB"]);
            compare(dir, name, if label == "gpt" { TableKind::Gpt } else { TableKind::Mbr });
        }
    }
}

#[test]
fn a_gpt_whose_front_is_gone_is_read_from_its_end() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    empty(dir, "g", 64 * MIB);
    sfdisk(dir, "g", "label: gpt\n,10M,U\n,20M,L\n");
    let whole = read(dir, "g");
    let file = OpenOptions::new().write(true).open(dir.join("g")).expect("open");
    for damage in [512 + 60, 1024 + 60] {
        file.write_all_at(&[0xa5; 8], damage).expect("written");
        let table = read(dir, "g");
        assert_eq!((&table.partitions, table.problems.len()), (&whole.partitions, 1));
    }
    file.set_len(40 * MIB as u64).expect("cut off");
    assert!(PartitionTable::read(&RawDisk::open(&dir.join("g")).expect("open"), None).is_err());
}

#[test]
fn a_file_system_on_the_whole_disk() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path();
    for (name, make, args) in [
        ("fat", "mkfs.fat", &[][..]),
        ("fat32", "mkfs.fat", &["-F", "32"]),
        ("ext4", "mke2fs", &["-q", "-t", "ext4"]),
        ("ntfs", "mkntfs", &["-q", "-F", "-f"]),
    ] {
        let Some(make) = program(make) else { continue };
        empty(dir, name, 64 * MIB);
        tool(dir, &make, &[args, &[name]].concat());
        let table = read(dir, name);
        assert_eq!((table.kind, table.partitions.len()), (TableKind::None, 1), "{name}");
        assert_eq!(table.partitions[0].range, 0..64 << 20);
    }
}

/// A disk of Windows, where the samples are.
#[test]
fn a_partition_inside_an_image() {
    let dir = tempfile::tempdir().expect("a directory");
    for name in ["fixed.vhdx.gz", "dynamic.vhd.gz"] {
        let Some(image) = sample(dir.path(), name) else { continue };
        let disk: Arc<dyn BlockSource> = OpenImage::open(&dir.path().join(&image), None).expect(name).source;
        let table = PartitionTable::read(&*disk, None).expect(name);
        assert_eq!((table.kind, table.partitions.len()), (TableKind::Mbr, 1), "{name}: {table:?}");
        assert_eq!(
            (table.partitions[0].range.start, table.partitions[0].kind),
            (128 * 512, PartitionKind::Data)
        );
        let volume = table.partitions[0].open(&disk).expect("inside");
        let mut begin = [0; 8];
        volume.read_at(&mut begin, 3).expect("read");
        assert_eq!(&begin, b"NTFS    ", "{name}");
    }
    let Some(image) = sample(dir.path(), "dfvfs_ext2.qcow2") else { return };
    let disk = OpenImage::open(&dir.path().join(image), Some(ImageFormat::Qcow2)).expect("open").source;
    assert_eq!(PartitionTable::read(&*disk, None).expect("no table").kind, TableKind::None);
}
