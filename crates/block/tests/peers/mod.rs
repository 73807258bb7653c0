//! What our readers of images are held against: QEMU's own tools.

#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::print_stderr, reason = "what is skipped is told to who runs the tests")]

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    process::Command,
};

use nestling_block::{BlockSource, ExtentKind, ImageFormat, OpenImage, extents};

pub const KIB: usize = 1 << 10;
pub const MIB: usize = 1 << 20;

pub fn tool(dir: &Path, program: &str, args: &[&str]) -> String {
    let out = Command::new(program).current_dir(dir).args(args).output().expect("it is installed");
    assert!(out.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

pub fn img(dir: &Path, args: &str) -> String {
    tool(dir, "qemu-img", &args.split(' ').collect::<Vec<_>>())
}

pub fn io(dir: &Path, format: ImageFormat, image: &str, commands: &[&str]) {
    let mut args = vec!["-f", in_qemu(format)];
    for command in commands {
        args.extend(["-c", command]);
    }
    args.push(image);
    tool(dir, "qemu-io", &args);
}

/// What QEMU calls it.
pub fn in_qemu(format: ImageFormat) -> &'static str {
    match format {
        ImageFormat::Raw | ImageFormat::Nbd => "raw",
        ImageFormat::Qcow2 => "qcow2",
        ImageFormat::Vhdx => "vhdx",
        ImageFormat::Vhd => "vpc",
        ImageFormat::Vmdk => "vmdk",
    }
}

/// Numbers that look like chance and are the same each time.
pub fn noise(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// A disk with text, noise and holes of many lengths, of an odd length itself.
pub fn content() -> Vec<u8> {
    let mut bytes = vec![0; 5 * MIB + 3 * 512];
    let mut next = noise(7);
    let mut at = 0;
    while at < bytes.len() {
        let length = (512 << (next() % 11)).min(bytes.len() - at);
        match next() % 4 {
            0 => bytes[at..at + length].fill_with(|| next() as u8),
            1 => bytes[at..at + length].fill_with(|| b"the same words "[(next() % 3) as usize]),
            _ => {}
        }
        at += length;
    }
    bytes
}

/// A directory with [`content`] as `source.raw`.
pub fn scratch() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().to_owned();
    fs::write(path.join("source.raw"), content()).expect("written");
    (dir, path)
}

/// The same bytes as QEMU reads, in pieces of every kind; and the map says zero where QEMU's does, and only there
/// where there are zeroes. Gives the bytes.
pub fn compare(dir: &Path, format: ImageFormat, image: &str) -> Vec<u8> {
    let qemu = in_qemu(format);
    img(dir, &format!("convert -f {qemu} -O raw {image} {image}.raw"));
    let mut expected = Vec::new();
    File::open(dir.join(format!("{image}.raw"))).and_then(|mut f| f.read_to_end(&mut expected)).expect("raw");
    let disk = OpenImage::open(&dir.join(image), Some(format)).expect(image).source;
    let zero = compare_bytes(&*disk, &expected, image);
    let map: serde_json::Value =
        serde_json::from_str(&img(dir, &format!("map -f {qemu} --output=json {image}"))).expect("JSON");
    for entry in map.as_array().expect("an array").iter().filter(|entry| entry["zero"] == true) {
        let (start, length) = (entry["start"].as_u64().expect("n"), entry["length"].as_u64().expect("n"));
        let missed = zero[start as usize / 512..(start + length) as usize / 512].iter().any(|zero| !zero);
        assert!(!missed, "{image}: QEMU knows that {length} bytes at {start} are zero");
    }
    expected
}

/// These bytes, whole and in pieces. Gives the sectors that the map calls zero.
pub fn compare_bytes(disk: &dyn BlockSource, expected: &[u8], image: &str) -> Vec<bool> {
    let size = disk.size_bytes();
    assert_eq!(size, expected.len() as u64, "{image}");
    let mut all = vec![0xaa; expected.len()];
    disk.read_at(&mut all, 0).expect(image);
    assert!(all == expected, "{image}: other bytes");
    let mut next = noise(3);
    for _ in 0..300 {
        let length = (next() % (1 << (next() % 20))).min(size);
        let offset = next() % (size - length + 1);
        let mut part = vec![0xaa; length as usize];
        disk.read_at(&mut part, offset).expect(image);
        assert!(part == expected[offset as usize..][..length as usize], "{image}: {length} at {offset}");
    }
    let mut zero = vec![false; expected.len() / 512];
    for extent in extents(disk, 0..size) {
        let extent = extent.expect(image);
        if extent.kind == ExtentKind::Zero {
            let part = &expected[extent.offset as usize..extent.end() as usize];
            assert!(part.iter().all(|byte| *byte == 0), "{image}: {extent:?} holds data");
            zero[extent.offset as usize / 512..extent.end() as usize / 512].fill(true);
        }
    }
    zero
}

pub fn skipped(what: &str) {
    eprintln!("skipped: {what} is not there");
}

/// A sample that others made, unpacked; none, with a word about it, where the samples are not.
pub fn sample(dir: &Path, name: &str) -> Option<String> {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/disk");
    let plain = name.strip_suffix(".gz").unwrap_or(name);
    let Ok(bytes) = fs::read(samples.join(name)) else {
        skipped(name);
        return None;
    };
    let bytes = if plain == name {
        bytes
    } else {
        let mut unpacked = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).expect("it is packed");
        unpacked
    };
    fs::write(dir.join(plain), bytes).expect("written");
    Some(plain.to_owned())
}
