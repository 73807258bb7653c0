//! A volume that Linux mounts, read-only, as a file system of this crate.
//!
//! Paths in it are opened from its own root, and neither links nor other mounts on the way are followed: a volume shows
//! nothing of the machine that reads it.

use std::{
    ffi::CStr,
    fs,
    mem::MaybeUninit,
    ops::Range,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nestling_block::{Extent, ExtentKind, ExtentList};
use rustix::{
    fs::{
        Advice, AtFlags, CWD, FileType, Mode, OFlags, RawDir, ResolveFlags, SeekFrom, Statx, StatxFlags,
        StatxTimestamp, fadvise, fstatvfs, getxattr, listxattr, openat, openat2, readlinkat, seek, statx,
    },
    io::{Errno, pread},
    mount::{MountFlags, mount as mount_device},
};

use crate::{
    Attributes, Content, Cursor, Entry, ErrorKind, ExploreError, ExtendedAttribute, FileKind, FileName,
    FileSystem, Kind, Node, Page, Result, Stat, Summary, Times, Timestamp,
};

use super::{
    devices::Device,
    nodes::{Nodes, ROOT},
    tools,
};

const MOUNTS: &str = "/mnt";
const LIST_BYTES: usize = 32 << 10;
/// What Linux has at most.
const XATTR_BYTES_MAX: usize = 64 << 10;
/// Of all values of a file, below what an answer may hold.
const XATTRS_BYTES_MAX: usize = 1 << 20;

/// A way to mount, and what a user should know when it was taken.
type Way = (&'static CStr, Option<&'static str>);

/// The module, the kernel's name, and ways to mount in the order in which they are tried.
fn ways(kind: Kind) -> Option<(&'static str, &'static str, &'static [Way])> {
    const LOG: &str = "its log could not be replayed: what was written last may be missing or wrong";
    Some(match kind {
        // A point may be of another's copy: the same identifier twice is no reason.
        Kind::Xfs => ("xfs", "xfs", &[(c"nouuid", None), (c"nouuid,norecovery", Some(LOG))]),
        Kind::Btrfs => (
            "btrfs",
            "btrfs",
            &[
                (c"subvolid=5", None),
                (c"subvolid=5,degraded", Some("a device of it is missing")),
                (c"subvolid=5,rescue=all", Some("it is damaged, and read as far as it goes")),
            ],
        ),
        Kind::Iso9660 => ("isofs", "iso9660", &[(c"", None)]),
        Kind::Squashfs => ("squashfs", "squashfs", &[(c"", None)]),
        _ => return None,
    })
}

/// Mounts what is on a device.
pub(super) fn mount(device: &Device, content: &Content) -> Result<Arc<dyn FileSystem>> {
    let refused = |what: String| ExploreError::Told {
        kind: ErrorKind::Unsupported,
        what: format!("{}: {what}", content.kind),
    };
    let Some((module, name, ways)) = ways(content.kind) else {
        return Err(refused("is not mounted".to_owned()));
    };
    tools::load(&[module])?;
    if content.kind == Kind::Btrfs {
        // It may have more devices than this one; the kernel finds only those that it was told of.
        let _ = tools::run("btrfs", &["device", "scan"], b"")?;
    }
    let target = PathBuf::from(MOUNTS).join(&device.name);
    let failed = |e: std::io::Error| refused(format!("{}: {e}", target.display()));
    fs::create_dir_all(&target).map_err(failed)?;
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    let mut last = Errno::NODEV;
    for (options, note) in ways {
        match mount_device(device.path(), &target, name, flags, Some(*options)) {
            Ok(()) => {
                let notes = note.iter().map(|note| (*note).to_owned()).collect();
                return Mounted::open(&target, content, notes).map(|fs| Arc::new(fs) as Arc<dyn FileSystem>);
            }
            Err(error) => last = error,
        }
    }
    Err(ExploreError::Told {
        kind: if matches!(last, Errno::NODEV | Errno::OPNOTSUPP) {
            ErrorKind::Unsupported
        } else {
            ErrorKind::Damaged
        },
        what: format!("{} cannot be mounted: {}", content.kind, std::io::Error::from(last)),
    })
}

struct Mounted {
    root: OwnedFd,
    summary: Summary,
    nodes: Mutex<Nodes>,
    /// What was read last is mostly what is read next.
    last: Mutex<Option<(Node, Arc<OwnedFd>)>>,
}

impl Mounted {
    fn open(root: &Path, content: &Content, notes: Vec<String>) -> Result<Self> {
        let about = content.kind.to_string();
        let failed = |error: Errno| told(&about, "its root", error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, root, flags, Mode::empty()).map_err(failed)?;
        let space = fstatvfs(&root).map_err(failed)?;
        let summary = Summary {
            kind: content.kind,
            label: content.label.clone(),
            uuid: content.uuid.clone(),
            size_bytes: space.f_blocks.saturating_mul(space.f_frsize),
            free_bytes: Some(space.f_bfree.saturating_mul(space.f_frsize)),
            block_bytes: u32::try_from(space.f_bsize).unwrap_or_default(),
            notes,
        };
        Ok(Self { root, summary, nodes: Mutex::new(Nodes::new()), last: Mutex::default() })
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, node: Node) -> Result<Arc<Path>> {
        self.nodes().path(node).ok_or_else(|| ExploreError::NotFound {
            volume: self.summary.label_or_kind(),
            what: format!("node {}", node.0),
        })
    }

    fn told(&self, path: &Path, error: Errno) -> ExploreError {
        use std::os::unix::ffi::OsStrExt;
        let shown = FileName::from(path.as_os_str().as_bytes());
        told(&self.summary.label_or_kind(), &shown.to_string(), error)
    }

    fn open_path(&self, path: &Path, flags: OFlags) -> Result<OwnedFd> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        openat2(&self.root, path, flags, Mode::empty(), resolve).map_err(|error| self.told(path, error))
    }

    fn about(&self, path: &Path) -> Result<(OwnedFd, Statx)> {
        let file = self.open_path(path, OFlags::PATH)?;
        let wanted = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
        let stat = statx(&file, "", AtFlags::EMPTY_PATH, wanted).map_err(|error| self.told(path, error))?;
        Ok((file, stat))
    }

    /// A file's bytes: its descriptor and size.
    fn file(&self, node: Node, stream: &[u8]) -> Result<(Arc<OwnedFd>, Arc<Path>)> {
        let path = self.path(node)?;
        if !stream.is_empty() {
            return Err(self.told(&path, Errno::NOENT));
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, file)) = last.as_ref().filter(|(of, _)| *of == node) {
            return Ok((Arc::clone(file), path));
        }
        let (_, stat) = self.about(&path)?;
        if FileKind::of_mode(stat.stx_mode) != FileKind::File {
            return Err(ExploreError::WrongKind {
                volume: self.summary.label_or_kind(),
                what: format!("node {}", node.0),
                wanted: "a file",
            });
        }
        let file = Arc::new(self.open_path(&path, OFlags::RDONLY | OFlags::NONBLOCK)?);
        *last = Some((node, Arc::clone(&file)));
        Ok((file, path))
    }
}

/// What an error of Linux means here.
fn told(volume: &str, what: &str, error: Errno) -> ExploreError {
    let volume = volume.to_owned();
    match error {
        Errno::NOENT => ExploreError::NotFound { volume, what: what.to_owned() },
        Errno::NOTDIR | Errno::LOOP => {
            ExploreError::WrongKind { volume, what: what.to_owned(), wanted: "a directory" }
        }
        Errno::NAMETOOLONG => {
            ExploreError::Limit { volume, what: "the length of a path".to_owned(), limit: 4096 }
        }
        Errno::IO | Errno::BADMSG | Errno::UCLEAN => {
            ExploreError::Damaged { volume, what: format!("{what}: {}", std::io::Error::from(error)) }
        }
        error => {
            ExploreError::Unsupported { volume, what: format!("{what}: {}", std::io::Error::from(error)) }
        }
    }
}

impl FileSystem for Mounted {
    fn summary(&self) -> &Summary {
        &self.summary
    }

    fn root(&self) -> Node {
        ROOT
    }

    fn lookup(&self, directory: Node, name: &[u8]) -> Result<Option<Node>> {
        let within = self.path(directory)?;
        if !FileName::from(name).is_usable() {
            return Ok(None);
        }
        let node = self.nodes().node(&within, name);
        match self.about(&self.path(node)?) {
            Ok(_) => Ok(Some(node)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn list(&self, directory: Node, from: Cursor, limit: usize) -> Result<Page> {
        let path = self.path(directory)?;
        let opened = self.open_path(&path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        seek(&opened, SeekFrom::Start(from.0)).map_err(|error| self.told(&path, error))?;
        let mut buffer = [MaybeUninit::uninit(); LIST_BYTES];
        let mut entries = RawDir::new(&opened, &mut buffer);
        let mut page = Page::default();
        while let Some(entry) = entries.next() {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => {
                    page.damage = Some(self.told(&path, error).to_string());
                    return Ok(page);
                }
            };
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            page.entries.push(Entry {
                name: FileName::from(name),
                node: self.nodes().node(&path, name),
                kind: kind_of(entry.file_type()),
            });
            if page.entries.len() >= limit {
                page.next = Some(Cursor(entry.next_entry_cookie()));
                break;
            }
        }
        Ok(page)
    }

    fn stat(&self, node: Node) -> Result<Stat> {
        let (_, stat) = self.about(&self.path(node)?)?;
        let kind = FileKind::of_mode(stat.stx_mode);
        let is_device = matches!(kind, FileKind::BlockDevice | FileKind::CharDevice);
        let created = stat.stx_mask & StatxFlags::BTIME.bits() != 0;
        Ok(Stat {
            node,
            kind,
            size_bytes: if kind == FileKind::Directory { 0 } else { stat.stx_size },
            allocated_bytes: stat.stx_blocks.saturating_mul(512),
            mode: Some(stat.stx_mode & 0o7777),
            uid: Some(stat.stx_uid),
            gid: Some(stat.stx_gid),
            times: Times {
                modified: Some(time(&stat.stx_mtime)),
                accessed: Some(time(&stat.stx_atime)),
                changed: Some(time(&stat.stx_ctime)),
                created: created.then(|| time(&stat.stx_btime)),
            },
            links: stat.stx_nlink,
            attributes: Attributes::Ext(0),
            device: is_device.then_some((stat.stx_rdev_major, stat.stx_rdev_minor)),
        })
    }

    fn read(&self, node: Node, stream: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (file, path) = self.file(node, stream)?;
        let mut done = 0;
        while done < buf.len() {
            match pread(&*file, &mut buf[done..], offset.saturating_add(done as u64)) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                Err(error) => return Err(self.told(&path, error)),
            }
        }
        // Nobody asks for it again, and the machine's memory is the host's. What stays is no failure.
        let _ = fadvise(&*file, 0, std::num::NonZeroU64::new(offset), Advice::DontNeed);
        Ok(done)
    }

    fn extents(&self, node: Node, stream: &[u8], range: Range<u64>) -> Result<Vec<Extent>> {
        let (file, _) = self.file(node, stream)?;
        let mut list = ExtentList::new(range.clone());
        while !list.is_done() {
            let at = list.position();
            // Past the last data there is none; where the map is not told, everything is data.
            let data = match seek(&*file, SeekFrom::Data(at)) {
                Ok(data) => data.clamp(at, range.end),
                Err(Errno::NXIO) => range.end,
                Err(_) => at,
            };
            if data > at {
                list.push(data - at, ExtentKind::Zero);
                continue;
            }
            let hole = seek(&*file, SeekFrom::Hole(at)).unwrap_or(range.end);
            list.push(hole.clamp(at + 1, range.end) - at, ExtentKind::Data);
        }
        Ok(list.finish())
    }

    fn link_target(&self, node: Node) -> Result<Vec<u8>> {
        let path = self.path(node)?;
        let (file, stat) = self.about(&path)?;
        if FileKind::of_mode(stat.stx_mode) != FileKind::Link {
            return Err(ExploreError::WrongKind {
                volume: self.summary.label_or_kind(),
                what: format!("node {}", node.0),
                wanted: "a symbolic link",
            });
        }
        let target = readlinkat(&file, "", Vec::new()).map_err(|error| self.told(&path, error))?;
        Ok(target.into_bytes())
    }

    fn extended_attributes(&self, node: Node) -> Result<Vec<ExtendedAttribute>> {
        let path = self.path(node)?;
        let (file, _) = self.about(&path)?;
        // A descriptor that only stands for a path has no attributes of its own.
        let itself = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut names = vec![0_u8; XATTR_BYTES_MAX];
        let count = match listxattr(&itself, &mut names[..]) {
            Ok(count) => count,
            Err(Errno::OPNOTSUPP) => 0,
            Err(error) => return Err(self.told(&path, error)),
        };
        let mut value = vec![0_u8; XATTR_BYTES_MAX];
        let (mut found, mut bytes) = (Vec::new(), 0);
        for name in names[..count].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let length = match getxattr(&itself, name, &mut value[..]) {
                Ok(length) => length,
                Err(Errno::NODATA | Errno::OPNOTSUPP) => continue,
                Err(error) => return Err(self.told(&path, error)),
            };
            bytes += length;
            if bytes > XATTRS_BYTES_MAX {
                let what = "extended attributes of a file".to_owned();
                let volume = self.summary.label_or_kind();
                return Err(ExploreError::Limit { volume, what, limit: XATTRS_BYTES_MAX as u64 });
            }
            found.push(ExtendedAttribute { name: FileName::from(name), value: value[..length].to_vec() });
        }
        Ok(found)
    }
}

fn kind_of(kind: FileType) -> FileKind {
    // The type's bits lie in the low half.
    FileKind::of_mode(kind.as_raw_mode() as u16)
}

fn time(time: &StatxTimestamp) -> Timestamp {
    Timestamp { seconds: time.tv_sec, nanoseconds: time.tv_nsec.min(999_999_999) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What any directory of this machine has, seen as a volume: no kernel has to mount anything for that.
    fn mounted(root: &Path) -> Mounted {
        let content = Content { kind: Kind::Xfs, label: String::new(), uuid: None };
        Mounted::open(root, &content, Vec::new()).expect("opened")
    }

    #[test]
    fn a_directory_is_a_file_system() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("sub")).expect("made");
        let bytes: Vec<u8> = (0..300_000_u32).map(|n| (n >> 3) as u8).collect();
        fs::write(dir.path().join("sub/file"), &bytes).expect("written");
        std::os::unix::fs::symlink("/proc", dir.path().join("out")).expect("linked");
        let fs = mounted(dir.path());
        let sub = fs.lookup(ROOT, b"sub").expect("looked up").expect("there");
        let page = fs.list(sub, Cursor(0), 10).expect("listed");
        assert_eq!(page.entries.len(), 1);
        let file = page.entries[0].node;
        assert_eq!(fs.lookup(sub, b"file").expect("looked up"), Some(file));
        let stat = fs.stat(file).expect("known");
        assert_eq!((stat.kind, stat.size_bytes), (FileKind::File, 300_000));
        let mut read = vec![0; 300_001];
        assert_eq!(fs.read(file, b"", 0, &mut read).expect("read"), 300_000);
        assert_eq!(read[..300_000], bytes);
        assert_eq!(fs.read(file, b"", 299_999, &mut read).expect("read"), 1);
        let zeroes = fs.extents(file, b"", 0..300_000).expect("mapped");
        assert!(zeroes.iter().all(|extent| extent.kind == ExtentKind::Data), "{zeroes:?}");
        let out = fs.lookup(ROOT, b"out").expect("looked up").expect("there");
        assert_eq!(fs.link_target(out).expect("a link"), b"/proc");
        assert_eq!(fs.lookup(out, b"self").map_err(|error| error.kind()), Err(ErrorKind::WrongKind));
        assert!(fs.read(out, b"", 0, &mut read).is_err() && fs.read(sub, b"", 0, &mut read).is_err());
        for name in [&b".."[..], b".", b"a/b", b""] {
            assert_eq!(fs.lookup(ROOT, name).expect("looked up"), None);
        }
    }

    #[test]
    fn pages_are_taken_one_after_another() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut names: Vec<String> = (0..50).map(|n| format!("file-{n}")).collect();
        for name in &names {
            fs::write(dir.path().join(name), "").expect("written");
        }
        let fs = mounted(dir.path());
        let (mut from, mut found) = (Cursor(0), Vec::new());
        loop {
            let page = fs.list(ROOT, from, 7).expect("listed");
            assert!(page.entries.len() <= 7);
            found.extend(page.entries.into_iter().map(|entry| entry.name.to_string()));
            let Some(next) = page.next else { break };
            from = next;
        }
        names.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, names);
    }
}
