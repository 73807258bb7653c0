//! Volumes that were made to do harm: circles, names that are none, sizes that cannot be.

mod support;

use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use nestling_block::{BlockSource, MemoryDisk};
use nestling_explore::{Cursor, FilePath, FileSystem, Walk, WalkLimits, find, open};
use support::*;

fn ext(dir: &Path, fill: impl FnOnce(&Path)) -> PathBuf {
    let root = dir.join("tree");
    fs::create_dir_all(root.join("sub/below")).expect("directories");
    fill(&root);
    let path = image(dir, "image", 8 << 20);
    tool(dir, "mke2fs -q -F -t ext4 -b 1024 -O ^has_journal,^metadata_csum -d tree image");
    path
}

/// The paths that a walk finds, and how many errors it tells.
fn walked(fs: &dyn FileSystem) -> (Vec<String>, Vec<String>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    for item in Walk::new(fs, fs.root(), FilePath::default(), WalkLimits::default()) {
        match item {
            Ok(item) => found.push(item.path().to_string()),
            Err(error) => errors.push(error.to_string()),
        }
        assert!(found.len() + errors.len() < 10_000, "it ends");
    }
    (found, errors)
}

fn replace(path: &Path, old: &[u8], new: &[u8]) {
    let mut bytes = fs::read(path).expect("an image");
    let places: Vec<usize> =
        bytes.windows(old.len()).enumerate().filter(|(_, w)| *w == old).map(|(n, _)| n).collect();
    assert!(!places.is_empty(), "it is there");
    for place in places {
        bytes[place..place + new.len()].copy_from_slice(new);
    }
    fs::write(path, bytes).expect("written");
}

#[test]
fn directories_inside_themselves_are_entered_once() {
    let dir = scratch();
    let path = ext(dir.path(), |_| {});
    tool(dir.path(), "debugfs -w -R 'ln <2> sub/below/round' image && debugfs -w -R 'ln sub sub/self' image");
    let fs = open_image(&path);
    let (found, mut errors) = walked(&*fs);
    assert!(found.contains(&"/sub/below".to_owned()), "{found:?}");
    assert_eq!(errors.len(), 2, "{errors:?}");
    // Whoever asks for one directory after the other ends, too.
    for path in ["/sub/self", "/sub/self/below", "/sub/below/round"] {
        errors.push(find(&*fs, &path.parse().expect("a path")).expect_err("refused").to_string());
    }
    assert!(errors.iter().all(|error| error.contains("goes round")), "{errors:?}");
    // Also on FAT, where a directory has no number but its place.
    let dir = scratch();
    let path = image(dir.path(), "image", 8 << 20);
    tool(dir.path(), "mkfs.vfat -F 16 -s 1 image && mmd -i image ::a ::a/b");
    let fs = open_image(&path);
    let at = |path: &str| find(&*fs, &path.parse().expect("a path")).expect("there").0 as usize * 32;
    let (outer, inner) = (at("/a"), at("/a/b"));
    let mut bytes = fs::read(&path).expect("an image");
    let cluster = [bytes[outer + 26], bytes[outer + 27]];
    bytes[inner + 26..inner + 28].copy_from_slice(&cluster);
    fs::write(&path, bytes).expect("written");
    let fs = open_image(&path);
    assert!(find(&*fs, &"/a/b/b".parse().expect("a path")).is_err());
    let (found, errors) = walked(&*fs);
    assert_eq!(found, ["/a", "/a/b"]);
    assert!(errors.len() == 1 && errors[0].contains("goes round"), "{errors:?}");
}

#[test]
fn names_are_data() {
    let dir = scratch();
    let names = ["aa-up-bb", "dots-here", "nul-in-it", "escape-me"];
    let path = ext(dir.path(), |root| {
        names.iter().for_each(|name| fs::write(root.join("sub").join(name), name).expect("a file"));
        fs::create_dir(root.join("sub/zz-etc-pp")).expect("a directory");
    });
    replace(&path, b"aa-up-bb", b"../../bb");
    replace(&path, b"nul-in-it", b"nul\0in-it");
    replace(&path, b"escape-me", b"esc\x1b[2J\n\r");
    replace(&path, b"zz-etc-pp", b"/etc/pass");
    let fs = open_image(&path);
    let sub = fs.lookup(fs.root(), b"sub").expect("readable").expect("there");
    let page = fs.list(sub, Cursor::default(), 100).expect("a page");
    let usable: Vec<String> =
        page.entries.iter().filter(|e| e.name.is_usable()).map(|e| e.name.to_string()).collect();
    let all: Vec<String> = page.entries.iter().map(|entry| entry.name.to_string()).collect();
    for shown in [
        "..\\x2f..\\x2fbb",
        "nul\\x00in-it",
        "esc\\x1b[2J\\x0a\\x0d",
        "\\x2fetc\\x2fpass",
        "dots-here",
        "below",
    ] {
        assert!(all.contains(&shown.to_owned()), "{shown} of {all:?}");
    }
    assert_eq!(usable.len(), 3, "{usable:?}");
    // Each can be looked up by its text, which is no path of the host.
    for entry in &page.entries {
        let path = format!("/sub/{}", entry.name).parse().expect("our own");
        assert_eq!(find(&*fs, &path).expect("found"), entry.node);
    }
    assert!("/sub/../sub".parse::<FilePath>().is_err());
}

#[test]
fn chains_that_go_round_end() {
    let dir = scratch();
    let path = image(dir.path(), "image", 8 << 20);
    fs::write(dir.path().join("file"), noise(1, 100_000)).expect("a file");
    tool(dir.path(), "mkfs.vfat -F 16 -s 1 -R 1 image && mcopy -i image file :: && mmd -i image ::large");
    let fs = open_image(&path);
    let slot = |name: &[u8]| fs.lookup(fs.root(), name).expect("readable").expect("there").0 as usize * 32;
    let mut bytes = fs::read(&path).expect("an image");
    for name in [&b"file"[..], b"large"] {
        let cluster = u16::from_le_bytes([bytes[slot(name) + 26], bytes[slot(name) + 27]]);
        let entry = 512 + 2 * usize::from(cluster);
        bytes[entry..entry + 2].copy_from_slice(&cluster.to_le_bytes());
    }
    fs::write(&path, bytes).expect("written");
    let fs = open_image(&path);
    let file = fs.lookup(fs.root(), b"file").expect("readable").expect("there");
    let found = content(&*fs, file, b"");
    assert!(found.len() == 100_000 && found.chunks(512).all(|chunk| *chunk == noise(1, 512)[..chunk.len()]));
    let large = fs.lookup(fs.root(), b"large").expect("readable").expect("there");
    assert!(fs.list(large, Cursor::default(), 100).expect("a page").next.is_none());
    assert!(fs.lookup(large, b"none").expect("it ends").is_none());
}

/// Every size, count and place at the front of a volume is all ones in turn, then all zeroes: opening ends, and so
/// does all else.
#[test]
fn absurd_numbers_are_refused_or_harmless() {
    let dir = scratch();
    let ext_path =
        ext(dir.path(), |root| fs::write(root.join("sub/file"), noise(1, 20_000)).expect("a file"));
    let other = scratch();
    fs::write(other.path().join("file"), noise(1, 20_000)).expect("a file");
    image(other.path(), "fat", 8 << 20);
    image(other.path(), "exfat", 8 << 20);
    image(other.path(), "ntfs", 8 << 20);
    tool(
        other.path(),
        "mkfs.vfat fat && mcopy -i fat file :: && mkfs.exfat exfat && mkntfs -q -F -Q ntfs && ntfscp -q ntfs file file",
    );
    let at = |name: &str| other.path().join(name);
    for (path, head) in
        [(ext_path, 1024..1536), (at("fat"), 0..96), (at("exfat"), 0..128), (at("ntfs"), 0..96)]
    {
        let file = fs::File::options().read(true).write(true).open(&path).expect("an image");
        for place in head.step_by(2) {
            let mut before = [0; 2];
            file.read_exact_at(&mut before, place).expect("read");
            for value in [0, 0xff, 0x7f] {
                file.write_all_at(&[value; 2], place).expect("written");
                let Ok(fs) = open(disk(&path)) else { continue };
                let limits = WalkLimits { depth: 5, entries: 50 };
                for item in Walk::new(&*fs, fs.root(), FilePath::default(), limits).flatten() {
                    let _ = fs.read(item.entry.node, b"", 0, &mut [0; 5000]);
                    let _ = fs.extents(item.entry.node, b"", 0..u64::MAX);
                }
            }
            file.write_all_at(&before, place).expect("written");
        }
    }
}

#[test]
fn a_volume_that_is_cut_off_is_read_as_far_as_it_goes() {
    let dir = scratch();
    let path = ext(dir.path(), |root| {
        fs::write(root.join("sub/file"), noise(1, 3 << 20)).expect("a file");
    });
    let bytes = fs::read(&path).expect("an image");
    for length in [0, 1, 511, 1024, 1500, 2048, 100_000, 2 << 20, bytes.len() - 1] {
        let source: Arc<dyn BlockSource> = Arc::new(MemoryDisk::from_bytes("cut", &bytes[..length]));
        let Ok(fs) = open(source) else { continue };
        let _ = walked(&*fs);
    }
}
