//! What the tests of readers share: a tree of files of many kinds, the tools that put it on a volume, and the
//! comparison of what lies there with what is read.

#![allow(dead_code, reason = "each test takes what it needs")]

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{Read, Write},
    os::unix::{ffi::OsStrExt, fs::FileExt, fs::MetadataExt, fs::symlink},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread::sleep,
    time::{Duration, Instant},
};

use nestling_block::{BlockSource, ExtentKind, RawDisk};
use nestling_explore::{FileKind, FileName, FilePath, FileSource, FileSystem, Node, Walk, WalkLimits, open};
use sha2::{Digest, Sha256};

pub fn tool(dir: &Path, command: &str) -> String {
    let out = Command::new("sh").current_dir(dir).args(["-c", command]).output().expect("a shell");
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

/// An empty image.
pub fn image(dir: &Path, name: &str, size_bytes: u64) -> PathBuf {
    let path = dir.join(name);
    File::create(&path).and_then(|file| file.set_len(size_bytes)).expect("an image");
    path
}

pub fn disk(path: &Path) -> Arc<dyn BlockSource> {
    Arc::new(RawDisk::open(path).expect("an image"))
}

pub fn open_image(path: &Path) -> Arc<dyn FileSystem> {
    open(disk(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Numbers that look like chance and are the same each time.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

/// What any file system can hold: files of many sizes, names of many kinds, a large directory, depth.
pub fn plain_tree(root: &Path, entries: usize) {
    fs::create_dir_all(root).expect("a directory");
    for (n, size) in
        [0, 1, 59, 60, 61, 160, 511, 512, 513, 4095, 4096, 4097, 65_535, 65_537, 300_000, 3 << 20]
            .into_iter()
            .enumerate()
    {
        fs::write(root.join(format!("file of {size} bytes")), noise(n as u64, size)).expect("a file");
    }
    for name in [
        "Grüße aus Köln.txt",
        "日本語のファイル名",
        "emoji 🦀 crab",
        "UPPER.TXT",
        "lower.txt",
        "Mixed Case.Text",
        "a.b.c.d",
        "no-extension",
    ] {
        fs::write(root.join(name), name).expect("a file");
    }
    fs::write(root.join("n".repeat(120) + &"ü".repeat(60)), "long name").expect("a file");
    fs::create_dir_all(root.join("empty directory")).expect("a directory");
    fs::create_dir_all(root.join("a/b/c/d/e/f/g")).expect("directories");
    fs::write(root.join("a/b/c/d/e/f/g/deep"), noise(99, 10_000)).expect("a file");
    let large = root.join("large directory");
    fs::create_dir_all(&large).expect("a directory");
    for n in 0..entries {
        fs::write(large.join(format!("entry number {n} of many")), format!("{n}")).expect("a file");
    }
}

/// What Linux has besides: links, owners, times, devices, names of any bytes, holes.
pub fn unix_tree(root: &Path) {
    symlink("a/b/c", root.join("link to a directory")).expect("a link");
    symlink("/".to_owned() + &"long/".repeat(60), root.join("long link")).expect("a link");
    symlink("../../..", root.join("a/link upwards")).expect("a link");
    fs::hard_link(root.join("lower.txt"), root.join("a/second name")).expect("a link");
    let strange = std::ffi::OsStr::from_bytes(b"not utf-8 \xff\xfe \n newline");
    fs::write(root.join(strange), "strange").expect("a file");
    fs::write(root.join("m".repeat(255)), "longest").expect("a file");
    let sparse = File::create(root.join("sparse")).expect("a file");
    sparse.set_len(50 << 20).expect("long");
    for at in [1 << 20, 17 << 20, (40 << 20) + 5] {
        sparse.write_all_at(&noise(at, 10_000), at).expect("written");
    }
    let mode: fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o4751);
    fs::set_permissions(root.join("UPPER.TXT"), mode).expect("a mode");
    tool(
        root,
        "mkfifo fifo; touch -h -d '2001-02-03 04:05:06.123456789 UTC' lower.txt; \
        touch -d '1950-06-07 08:09:10 UTC' no-extension",
    );
    if rustix::process::geteuid().is_root() {
        tool(root, "mknod null c 1 3; mknod disk b 259 70000; chown 70000:80000 lower.txt");
    }
}

/// All that is in a file system.
pub fn all(fs: &dyn FileSystem) -> BTreeMap<Vec<Vec<u8>>, (Node, FileKind)> {
    let mut found = BTreeMap::new();
    for item in Walk::new(fs, fs.root(), FilePath::default(), WalkLimits::default()) {
        let item = item.unwrap_or_else(|e| panic!("{e}"));
        let path = item.path().names().iter().map(|name| name.as_bytes().to_vec()).collect();
        assert!(found.insert(path, (item.entry.node, item.entry.kind)).is_none(), "{} twice", item.path());
    }
    found
}

/// All below a directory, as the kernel shows it.
pub fn all_below(root: &Path) -> BTreeMap<Vec<Vec<u8>>, PathBuf> {
    let mut found = BTreeMap::new();
    let mut rest = vec![root.to_owned()];
    while let Some(directory) = rest.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let names =
                path.strip_prefix(root).expect("below").iter().map(|name| name.as_bytes().to_vec()).collect();
            if path.symlink_metadata().expect("metadata").is_dir() {
                rest.push(path.clone());
            }
            found.insert(names, path);
        }
    }
    found
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A file's bytes, read in pieces of odd lengths.
pub fn content(fs: &dyn FileSystem, node: Node, stream: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 100_003];
    loop {
        let count = fs.read(node, stream, bytes.len() as u64, &mut piece).unwrap_or_else(|e| panic!("{e}"));
        bytes.extend(&piece[..count]);
        if count < piece.len() {
            return bytes;
        }
    }
}

/// Everything in the one is in the other and has the same bytes; `skip` is not looked for.
pub fn compare(fs: &Arc<dyn FileSystem>, root: &Path, skip: &[&str]) {
    let (mut expected, mut found) = (all_below(root), all(&**fs));
    let left_out = |path: &Vec<Vec<u8>>| skip.iter().any(|name| path[0] == name.as_bytes());
    expected.retain(|path, _| !left_out(path));
    found.retain(|path, _| !left_out(path));
    let names = |path: &Vec<Vec<u8>>| {
        FilePath::from(path.iter().map(|n| FileName::from(&n[..])).collect::<Vec<_>>()).to_string()
    };
    let missing: Vec<String> = expected.keys().filter(|path| !found.contains_key(*path)).map(names).collect();
    let more: Vec<String> = found.keys().filter(|path| !expected.contains_key(*path)).map(names).collect();
    assert!(missing.is_empty() && more.is_empty(), "missing: {missing:?}\nmore: {more:?}");
    for (path, host) in &expected {
        let (node, kind) = found[path];
        let metadata = host.symlink_metadata().expect("metadata");
        let stat = fs.stat(node).unwrap_or_else(|e| panic!("{}: {e}", names(path)));
        assert_eq!(stat.kind, kind, "{}", names(path));
        assert_eq!(metadata.is_dir(), kind == FileKind::Directory, "{}", names(path));
        if metadata.is_file() {
            assert_eq!(kind, FileKind::File);
            assert_eq!(stat.size_bytes, metadata.len(), "{}", names(path));
            let bytes = content(&**fs, node, b"");
            assert_eq!(sha256(&bytes), sha256(&fs::read(host).expect("a file")), "{}", names(path));
            compare_pieces(fs, node, &bytes);
        }
        assert_eq!(
            nestling_explore::find(&**fs, &names(path).parse().expect("our own")).expect("found"),
            node
        );
    }
}

/// A file as a disk: any piece is the same, and what is called a hole is zero.
fn compare_pieces(fs: &Arc<dyn FileSystem>, node: Node, bytes: &[u8]) {
    let source = FileSource::open(Arc::clone(fs), node, "file").expect("a file");
    assert_eq!(source.size_bytes(), bytes.len() as u64);
    for extent in nestling_block::extents(&source, 0..bytes.len() as u64) {
        let extent = extent.expect("a map");
        let part = &bytes[extent.offset as usize..extent.end() as usize];
        assert!(extent.kind == ExtentKind::Data || part.iter().all(|byte| *byte == 0), "a hole that is none");
    }
    let length = bytes.len();
    for (start, end) in
        [(length / 3, length / 2), (length.saturating_sub(5), length), (length / 7, length / 7 + length / 9)]
    {
        let mut part = vec![0xaa; end - start];
        source.read_at(&mut part, start as u64).expect("inside");
        assert!(part == bytes[start..end], "{start}..{end}");
    }
}

/// What the kernel knows of a file, compared with what the reader says.
pub fn compare_metadata(fs: &dyn FileSystem, root: &Path) {
    let found = all(fs);
    for (path, host) in all_below(root) {
        let metadata = host.symlink_metadata().expect("metadata");
        let stat = fs.stat(found[&path].0).expect("there");
        let name = host.display();
        assert_eq!(u32::from(stat.mode.expect("a mode")), metadata.mode() & 0o7777, "{name}");
        assert_eq!((stat.uid, stat.gid), (Some(metadata.uid()), Some(metadata.gid())), "{name}");
        // mke2fs keeps whole seconds.
        let modified = stat.times.modified.expect("a time");
        assert_eq!(modified.seconds, metadata.mtime(), "{name}");
        if metadata.is_symlink() {
            let target = fs::read_link(&host).expect("a link");
            assert_eq!(fs.link_target(stat.node).expect("a link"), target.as_os_str().as_bytes(), "{name}");
        }
        if let Some((major, minor)) = stat.device {
            assert_eq!(
                (major, minor),
                (rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev())),
                "{name}"
            );
        }
    }
}

/// A sample of the collection beside the project, unpacked; None is told as skipped.
pub fn sample(name: &str) -> Option<(tempfile::TempDir, PathBuf)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    let Ok(bytes) = fs::read(&path) else {
        let mut error = std::io::stderr();
        let _ = writeln!(error, "skipped: {name} is not there");
        return None;
    };
    let dir = scratch();
    let image = dir.path().join("image");
    let mut plain = Vec::new();
    if name.ends_with(".gz") {
        flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_end(&mut plain).expect("gzip");
    } else {
        plain = bytes;
    }
    fs::write(&image, plain).expect("written");
    Some((dir, image))
}

/// A volume that a program in user space has mounted; unmounted when dropped.
pub struct Mounted {
    pub path: PathBuf,
    /// The image or device that the program has open.
    source: PathBuf,
}

impl Mounted {
    /// None, told as skipped, where such programs cannot mount.
    pub fn new(dir: &Path, command: &str) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() || !rustix::process::geteuid().is_root() {
            let mut error = std::io::stderr();
            let _ = writeln!(error, "skipped: {command}: no FUSE here");
            return None;
        }
        let path = dir.join("mounted");
        fs::create_dir_all(&path).expect("a directory");
        tool(dir, &format!("{command} mounted >&2"));
        let source = command.rsplit(' ').next().expect("a word");
        let source = dir.join(source).canonicalize().expect("it is there");
        Some(Self { path, source })
    }
}

impl Drop for Mounted {
    /// The program writes the last of it when nobody sees the volume any more.
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.path).status();
        let end = Instant::now() + Duration::from_secs(60);
        while is_open(&self.source) && Instant::now() < end {
            sleep(Duration::from_millis(5));
        }
    }
}

/// Whether any program has a file open.
fn is_open(path: &Path) -> bool {
    let numbers = fs::read_dir("/proc").expect("/proc").flatten().map(|process| process.path().join("fd"));
    let files = numbers.filter_map(|fds| fs::read_dir(fds).ok()).flatten().flatten();
    files.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|open| open == path)
}

/// An image as a block device; gone when dropped.
pub struct LoopDevice(pub String);

impl LoopDevice {
    /// None, told as skipped, where there are no such devices.
    pub fn new(image: &Path) -> Option<Self> {
        let out =
            Command::new("losetup").args(["--find", "--show"]).arg(image).output().expect("it is installed");
        if !out.status.success() {
            let mut error = std::io::stderr();
            let _ = writeln!(error, "skipped: {}: no loop devices here", image.display());
            return None;
        }
        Some(Self(String::from_utf8_lossy(&out.stdout).trim().to_owned()))
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        // It ends when its last user has gone.
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}
