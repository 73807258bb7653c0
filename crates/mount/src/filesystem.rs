//! The kernel's questions, answered by the view.
//!
//! Several threads answer, each one question at a time, so that one that waits for a slow store holds up nobody else. What
//! the kernel asks for ahead of readers is limited to fewer than there are threads, and can never take all of them.

use std::{
    collections::HashMap,
    ffi::OsStr,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyLseek, ReplyOpen, Request,
};
use nestling_vault::format::Timestamp;

use crate::{
    locked,
    view::{Kind, Listed, Node, View},
};

/// Threads that answer.
pub(crate) const THREADS: usize = 16;
/// Of them, those that the kernel may occupy with what it reads ahead.
const BACKGROUND: u16 = 8;
/// How long the kernel relies on what it was told: points come and go, and nothing else changes.
const KNOWN: Duration = Duration::from_secs(1);
/// `stat` counts in these.
const BLOCK_BYTES: u64 = 512;
/// What reading is best done in.
const READ_BYTES: u32 = 128 << 10;
/// As Linux numbers them.
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;

type Ended = Box<dyn FnOnce() + Send>;

pub(crate) struct FileSystem {
    view: Arc<View>,
    owner: (u32, u32),
    /// What is being listed, as it was when that began.
    listings: Mutex<HashMap<u64, Arc<Vec<Listed>>>>,
    next_listing: AtomicU64,
    ended: Mutex<Option<Ended>>,
}

impl FileSystem {
    /// `ended` is called once nobody asks any more.
    pub(crate) fn new(view: Arc<View>, ended: impl FnOnce() + Send + 'static) -> Self {
        Self {
            view,
            owner: (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
            listings: Mutex::default(),
            next_listing: AtomicU64::new(1),
            ended: Mutex::new(Some(Box::new(ended))),
        }
    }

    fn attributes(&self, node: &Node) -> FileAttr {
        let time = node.time.map_or(SystemTime::UNIX_EPOCH, system_time);
        let perm = match node.kind {
            Kind::Folder => 0o555,
            Kind::File => 0o444,
            Kind::Link => 0o777,
        };
        FileAttr {
            ino: INodeNo(node.number),
            size: node.size_bytes,
            blocks: node.stored_bytes.div_ceil(BLOCK_BYTES),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: file_type(node.kind),
            perm,
            // Of a folder too: how many are below it is not said.
            nlink: 1,
            uid: self.owner.0,
            gid: self.owner.1,
            rdev: 0,
            blksize: READ_BYTES,
            flags: 0,
        }
    }
}

/// What is still being counted is asked for again.
fn known(node: &Node) -> Duration {
    if node.is_counted { KNOWN } else { Duration::ZERO }
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::Folder => FileType::Directory,
        Kind::File => FileType::RegularFile,
        Kind::Link => FileType::Symlink,
    }
}

/// Years 0 to 9999, all of which it holds.
fn system_time(time: Timestamp) -> SystemTime {
    let nanoseconds = time.unix_nanoseconds();
    let absolute = nanoseconds.unsigned_abs();
    let seconds = u64::try_from(absolute / 1_000_000_000).unwrap_or_default();
    let rest = u32::try_from(absolute % 1_000_000_000).unwrap_or_default();
    let distance = Duration::new(seconds, rest);
    let epoch = SystemTime::UNIX_EPOCH;
    let found = if nanoseconds < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
    found.unwrap_or(epoch)
}

impl Filesystem for FileSystem {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // An older kernel asks one by one.
        let _ = config.add_capabilities(InitFlags::FUSE_PARALLEL_DIROPS);
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn destroy(&mut self) {
        if let Some(ended) = locked(&self.ended).take() {
            ended();
        }
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        // All names are UTF-8.
        match name.to_str().ok_or(Errno::ENOENT).and_then(|name| self.view.lookup(parent.0, name)) {
            Ok(node) => {
                let attributes = self.attributes(&node);
                reply.entry_with_ttls(&known(&node), &KNOWN, &attributes, Generation(0));
            }
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.view.node(ino.0) {
            Ok(node) => reply.attr(&known(&node), &self.attributes(&node)),
            Err(error) => reply.error(error),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.view.link(ino.0) {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(error),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.view.open(ino.0) {
            // A number stands for the same bytes for ever.
            Ok(()) => reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.view.read(ino.0, offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        }
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let hole = match whence {
            SEEK_DATA => false,
            SEEK_HOLE => true,
            _ => return reply.error(Errno::EINVAL),
        };
        let found = u64::try_from(offset).map_err(|_| Errno::ENXIO).and_then(|offset| {
            let found = self.view.seek(ino.0, offset, hole)?;
            i64::try_from(found).map_err(|_| Errno::EOVERFLOW)
        });
        match found {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(error),
        }
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.view.close(ino.0);
        reply.ok();
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.view.list(ino.0) {
            Ok(listing) => {
                let handle = self.next_listing.fetch_add(1, Relaxed);
                locked(&self.listings).insert(handle, Arc::new(listing));
                reply.opened(FileHandle(handle), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let Some(listing) = locked(&self.listings).get(&fh.0).cloned() else {
            return reply.error(Errno::EBADF);
        };
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        for (place, entry) in listing.iter().enumerate().skip(from) {
            if reply.add(INodeNo(entry.number), place as u64 + 1, file_type(entry.kind), &entry.name) {
                // The rest is asked for from there on.
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(&self, _: &Request, _: INodeNo, fh: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        locked(&self.listings).remove(&fh.0);
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_told_as_well() {
        let at = |text: &str| system_time(text.parse().expect("a time"));
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(at("1970-01-01T00:00:01.5Z"), epoch + Duration::from_millis(1500));
        assert_eq!(at("1969-12-31T23:59:58.5Z"), epoch - Duration::from_millis(1500));
        assert!(at("0001-01-01T00:00:00Z") < epoch - Duration::from_secs(1 << 35));
    }
}
