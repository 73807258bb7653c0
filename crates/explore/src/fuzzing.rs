//! What the fuzz targets and the tests of damage drive: every reader, and the worker's protocol.
//!
//! An input for a reader is a list of changes to a volume that the tools of its file system made, so that a run
//! begins behind the marks and sizes that rubbish never gets right: three bytes say where, one how many, then come
//! the bytes. Places count only what is not zero, where structures are. Each function panics where a promise is
//! broken.

use std::{
    fs,
    path::Path,
    process::Command,
    sync::{Arc, OnceLock},
};

use nestling_block::{BlockSource, Extent, ExtentKind, MemoryDisk};

use crate::{
    FileKind, FilePath, FileSystem, Node, PLACE_DEPTH_MAX, Place, Walk, WalkLimits, open,
    volume::STEPS,
    worker::{self, protocol},
};

/// Places are counted in pieces of this.
const PIECE_BYTES: usize = 64;
/// Of one call: what a volume of a few megabytes may cost at most.
const STEPS_MAX: u64 = 1_000_000;
const WALK: WalkLimits = WalkLimits { depth: 8, entries: 300 };
const WINDOW_BYTES: u64 = 32 << 10;

/// A volume as its tools made it.
struct Base {
    bytes: Vec<u8>,
    /// Where something is.
    pieces: Vec<usize>,
}

impl Base {
    fn make(name: &str, size_bytes: u64, commands: &[&[&str]]) -> Self {
        let directory = std::env::temp_dir().join(format!("nestling-explore-{name}-{}", std::process::id()));
        fs::create_dir_all(&directory).expect("a directory");
        let image = directory.join("image");
        fs::File::create(&image).and_then(|file| file.set_len(size_bytes)).expect("an empty image");
        Self::content(&directory.join("content"));
        for command in commands {
            let done = Command::new(command[0]).args(&command[1..]).current_dir(&directory).output();
            let done = done.unwrap_or_else(|e| panic!("{}: {e}", command[0]));
            assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        let bytes = fs::read(&image).expect("an image");
        fs::remove_dir_all(&directory).expect("our own directory");
        let pieces = bytes.chunks(PIECE_BYTES).enumerate();
        let pieces =
            pieces.filter(|(_, piece)| piece.iter().any(|byte| *byte != 0)).map(|(n, _)| n * PIECE_BYTES);
        Self { pieces: pieces.collect(), bytes }
    }

    fn content(directory: &Path) {
        fs::create_dir_all(directory.join("sub/deep")).expect("directories");
        for n in 0..40 {
            fs::write(directory.join(format!("file with a long name {n}")), vec![n; usize::from(n) * 37])
                .expect("a file");
        }
        fs::write(directory.join("sub/deep/text"), b"some text ".repeat(3000)).expect("a file");
        std::os::unix::fs::symlink("sub/deep/text", directory.join("link")).expect("a link");
    }

    fn change(&self, input: &[u8]) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let mut rest = input;
        while let [a, b, c, length, after @ ..] = rest {
            let number = usize::from(*a) | usize::from(*b) << 8 | usize::from(*c & 0x3f) << 16;
            let start = self.pieces[number / PIECE_BYTES % self.pieces.len()] + number % PIECE_BYTES;
            let (new, behind) = after.split_at(after.len().min(usize::from(length % 16) + 1));
            for (place, byte) in bytes.iter_mut().skip(start).zip(new) {
                *place = *byte;
            }
            rest = behind;
        }
        bytes
    }
}

fn ext_base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    const MAKE: &[&str] = &[
        "mke2fs",
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "1024",
        "-O",
        "inline_data,^resize_inode",
        "-d",
        "content",
        "image",
    ];
    BASE.get_or_init(|| Base::make("ext", 2 << 20, &[MAKE]))
}

fn ext_tables_base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    const MAKE: &[&str] = &["mke2fs", "-q", "-F", "-t", "ext3", "-b", "1024", "-d", "content", "image"];
    BASE.get_or_init(|| Base::make("ext3", 4 << 20, &[MAKE]))
}

fn fat_base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    const MAKE: &[&str] = &["mkfs.vfat", "-F", "12", "image"];
    const FILL: &[&str] = &["sh", "-c", "mcopy -s -i image content/file* content/sub ::"];
    BASE.get_or_init(|| Base::make("fat", 512 << 10, &[MAKE, FILL]))
}

fn exfat_base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    const MAKE: &[&str] = &["mkfs.exfat", "-c", "4K", "image"];
    BASE.get_or_init(|| {
        let mut base = Base::make("exfat", 4 << 20, &[MAKE]);
        exfat_fill(&mut base);
        base
    })
}

/// No tool writes files to a volume that is not mounted.
fn exfat_fill(base: &mut Base) {
    let sector = u64::from(crate::bytes::le32(&base.bytes, 0x58)) << base.bytes[0x6c];
    let root = crate::bytes::le32(&base.bytes, 0x60) as usize;
    let at = sector as usize + (root - 2) * 4096;
    let free = (0..4096).step_by(32).find(|slot| base.bytes[at + slot] == 0).expect("a free slot");
    let mut set = [0; 3 * 32];
    (set[0], set[1], set[32], set[33], set[35], set[64]) = (0x85, 2, 0xc0, 3, 4, 0xc1);
    set[4] = 0x20;
    set[32 + 20..32 + 24].copy_from_slice(&(root as u32 + 1).to_le_bytes());
    (set[32 + 8], set[32 + 9], set[32 + 24], set[32 + 25]) = (0, 2, 0, 4);
    for (n, unit) in "file".encode_utf16().enumerate() {
        set[66 + 2 * n..68 + 2 * n].copy_from_slice(&unit.to_le_bytes());
    }
    base.bytes[at + free..at + free + set.len()].copy_from_slice(&set);
    base.pieces.push(at + free);
}

fn ntfs_base() -> &'static Base {
    static BASE: OnceLock<Base> = OnceLock::new();
    const MAKE: &[&str] =
        &["mkntfs", "-q", "-F", "-Q", "-s", "512", "-c", "512", "-p", "0", "-H", "0", "-S", "0", "image"];
    const FILL: &[&str] =
        &["sh", "-c", "for f in content/file*[05]; do ntfscp -q image \"$f\" \"${f#content/}\"; done"];
    const STREAM: &[&str] =
        &["ntfscp", "-q", "-N", "stream", "image", "content/sub/deep/text", "file with a long name 0"];
    BASE.get_or_init(|| Base::make("ntfs", 2 << 20, &[MAKE, FILL, STREAM]))
}

pub fn ext(input: &[u8]) -> bool {
    let base = if input.first().is_some_and(|first| first & 1 != 0) { ext_tables_base() } else { ext_base() };
    volume(&base.change(input.get(1..).unwrap_or_default()))
}

pub fn fat(input: &[u8]) -> bool {
    volume(&fat_base().change(input))
}

pub fn exfat(input: &[u8]) -> bool {
    volume(&exfat_base().change(input))
}

pub fn ntfs(input: &[u8]) -> bool {
    volume(&ntfs_base().change(input))
}

/// Changes nothing, and something.
#[must_use]
pub fn volume_seeds() -> Vec<Vec<u8>> {
    vec![vec![0], vec![1], vec![0, 0, 1, 0, 3, 1, 2, 3, 4], vec![1, 200, 0, 0, 1, 255, 255]]
}

/// Opens any volume and looks at all that is there. Whether it was opened.
pub fn volume(bytes: &[u8]) -> bool {
    let source: Arc<dyn BlockSource> = Arc::new(MemoryDisk::from_bytes("volume", bytes));
    let Ok(fs) = bounded(|| open(source)) else { return false };
    let root = fs.root();
    let mut walk = Walk::new(&*fs, root, FilePath::default(), WALK);
    let _ = bounded(|| fs.lookup(root, b"file"));
    while let Some(item) = bounded(|| walk.next()) {
        let Ok(found) = item else { continue };
        look_at(&*fs, found.entry.node);
    }
    true
}

fn bounded<T>(act: impl FnOnce() -> T) -> T {
    let before = STEPS.get();
    let result = act();
    let steps = STEPS.get() - before;
    assert!(steps < STEPS_MAX, "{steps} steps");
    result
}

/// What may fail is left to fail; what is said must hold.
fn look_at(fs: &dyn FileSystem, node: Node) {
    let Ok(stat) = bounded(|| fs.stat(node)) else { return };
    let _ = bounded(|| fs.extended_attributes(node));
    let _ = bounded(|| fs.security_descriptor(node));
    let _ = bounded(|| fs.reparse_point(node));
    if stat.kind == FileKind::Link {
        let _ = bounded(|| fs.link_target(node));
    }
    look_at_bytes(fs, node, b"", stat.size_bytes);
    for stream in bounded(|| fs.streams(node)).unwrap_or_default().iter().take(4) {
        look_at_bytes(fs, node, stream.name.as_bytes(), stream.size_bytes);
    }
}

/// What is called zero reads as zero, and nothing is behind the end.
fn look_at_bytes(fs: &dyn FileSystem, node: Node, stream: &[u8], size: u64) {
    let mut behind = [1];
    assert!(!matches!(fs.read(node, stream, size, &mut behind), Ok(count) if count > 0), "behind the end");
    for start in [0, size.saturating_sub(WINDOW_BYTES)] {
        let end = size.min(start + WINDOW_BYTES);
        let mut whole = vec![7; (end - start) as usize];
        let read = bounded(|| fs.read(node, stream, start, &mut whole));
        let Ok(extents) = bounded(|| fs.extents(node, stream, start..end)) else { continue };
        let mut at = start;
        for Extent { offset, length, kind } in extents {
            assert!(offset == at && length > 0 && offset + length <= end, "the map has a gap");
            at = offset + length;
            let part = &whole[(offset - start) as usize..(at - start) as usize];
            let is_zero = part.iter().all(|byte| *byte == 0);
            assert!(kind == ExtentKind::Data || read.is_err() || is_zero, "a hole has bytes");
        }
        if let Ok(count) = read {
            assert_eq!(count as u64, end - start, "less than there is");
        }
    }
}

/// A client's bytes to a worker, whose answers are taken by a client again.
pub fn worker_requests(input: &[u8]) -> bool {
    let source: Arc<dyn BlockSource> = Arc::new(MemoryDisk::from_bytes("volume", &fat_base().bytes));
    worker::fuzz_requests(input, source)
}

#[must_use]
pub fn worker_request_seeds() -> Vec<Vec<u8>> {
    worker::request_seeds()
}

/// The text of a place: what is taken is written, and taken again as the same.
pub fn place(input: &[u8]) -> bool {
    let Some(place) = std::str::from_utf8(input).ok().and_then(|text| text.parse::<Place>().ok()) else {
        return false;
    };
    assert!(place.images().len() <= PLACE_DEPTH_MAX);
    assert_eq!(place.to_string().parse::<Place>().ok().as_ref(), Some(&place));
    true
}

#[must_use]
pub fn place_seeds() -> Vec<Vec<u8>> {
    ["", "2:/a b/c", "1:/x.qcow2//5:/y\\x2fz.vhdx//0:/etc", "7", "lvm/a/b:/c//md/d/1:/e"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}

/// A worker's bytes to its client.
pub fn worker_answers(input: &[u8]) -> bool {
    let mut rest = input;
    let mut taken = false;
    while let Ok(Some(message)) =
        protocol::receive::<protocol::Answer>(&mut rest, protocol::ANSWER_BYTES_MAX, protocol::DATA_BYTES_MAX)
    {
        let mut again = Vec::new();
        protocol::send(&mut again, &message.body, &message.data).expect("it was taken");
        let back = protocol::receive(&mut &again[..], u32::MAX, u32::MAX).expect("our own").expect("our own");
        assert_eq!(message, back);
        taken = true;
    }
    taken
}

#[must_use]
pub fn worker_answer_seeds() -> Vec<Vec<u8>> {
    worker::answer_seeds()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn seeds_are_taken() {
        for reader in [ext, fat, exfat, ntfs] {
            assert!(reader(&[]));
        }
        assert!(ext(&[1]), "with tables");
        for seed in volume_seeds() {
            ext(&seed);
        }
        assert!(worker_request_seeds().iter().all(|seed| worker_requests(seed)));
        assert!(place_seeds().iter().all(|seed| place(seed)));
        assert!(worker_answer_seeds().iter().all(|seed| worker_answers(seed)));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

        #[test]
        fn damage_never_panics_and_never_takes_long(
            input in proptest::collection::vec(any::<u8>(), 1..80),
            reader in 0_usize..4,
        ) {
            [ext, fat, exfat, ntfs][reader](&input);
        }

        #[test]
        fn any_bytes_may_come_to_a_worker_or_its_client(input: Vec<u8>) {
            worker_requests(&input);
            worker_answers(&input);
            place(&input);
        }
    }
}
