//! A disk that is a file or a block device, byte for byte.
//!
//! Holes are found by asking the file system, so that a sparse disk is copied at the price of what is in it. What is
//! not a regular file or a block device is refused: a FIFO or a terminal would hang whoever reads it.

use std::{
    fs::{File, OpenOptions},
    num::NonZeroU64,
    ops::Range,
    os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt},
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use rustix::{
    fs::{Advice, FallocateFlags, OFlags, SeekFrom},
    io::Errno,
};

use crate::{BlockError, BlockSource, BlockTarget, Extent, ExtentKind, ExtentList, check_range};

/// Zeroes are written in pieces of this where they cannot be made any cheaper.
const ZEROES: &[u8] = &[0; 1 << 20];

#[derive(Debug)]
pub struct RawDisk {
    name: String,
    file: File,
    size_bytes: AtomicU64,
    regular: bool,
    writable: bool,
    drop_behind: bool,
}

impl RawDisk {
    /// For reading.
    pub fn open(path: &Path) -> Result<Self, BlockError> {
        Self::open_with(path, OpenOptions::new().read(true), false)
    }

    /// For reading and writing.
    pub fn open_writable(path: &Path) -> Result<Self, BlockError> {
        Self::open_with(path, OpenOptions::new().read(true).write(true), true)
    }

    /// A new file, all hole. One that is there already is left alone. The name is durable once its directory is
    /// synchronised, which is the caller's.
    pub fn create(path: &Path, size_bytes: u64) -> Result<Self, BlockError> {
        let disk = Self::open_with(path, OpenOptions::new().read(true).write(true).create_new(true), true)?;
        disk.set_size(size_bytes)?;
        Ok(disk)
    }

    fn open_with(path: &Path, options: &mut OpenOptions, writable: bool) -> Result<Self, BlockError> {
        let name = path.display().to_string();
        // Without it, opening a FIFO waits for its other end; files and devices do not care.
        let file = options
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(path)
            .map_err(|e| BlockError::io(&name, "open", 0, e))?;
        Self::from_file(name, file, writable)
    }

    /// A file that is open already.
    pub fn from_file(name: String, file: File, writable: bool) -> Result<Self, BlockError> {
        let about = file.metadata().map_err(|e| BlockError::io(&name, "look", 0, e))?;
        let regular = about.is_file();
        if !regular && !about.file_type().is_block_device() {
            return Err(BlockError::unsupported(&name, "is neither a regular file nor a block device"));
        }
        let size_bytes = if regular {
            about.len()
        } else {
            rustix::fs::seek(&file, SeekFrom::End(0)).map_err(|e| BlockError::io(&name, "measure", 0, e))?
        };
        Ok(Self { name, file, size_bytes: size_bytes.into(), regular, writable, drop_behind: false })
    }

    /// Lets go of what was read from the page cache, for a reader that reads everything once: a backup must not push
    /// out what machines use. It also lets go of what others had cached there.
    #[must_use]
    pub fn drop_behind(mut self) -> Self {
        // Advice that is not taken costs nothing but speed.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::Sequential);
        self.drop_behind = true;
        self
    }

    /// The open file, to tell whether two names are one file.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    fn size(&self) -> u64 {
        self.size_bytes.load(Ordering::Acquire)
    }

    fn error(&self, action: &'static str, offset: u64, source: impl Into<std::io::Error>) -> BlockError {
        BlockError::io(&self.name, action, offset, source)
    }

    fn writable(&self) -> Result<(), BlockError> {
        if self.writable { Ok(()) } else { Err(BlockError::ReadOnly { name: self.name.clone() }) }
    }

    /// The next stretch from `at` on: how long it is at least, and what. Data when the file system cannot tell.
    fn stretch(&self, at: u64, end: u64) -> Result<(u64, ExtentKind), BlockError> {
        let data = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => data,
            // No data from here on.
            Err(Errno::NXIO) => return Ok((end - at, ExtentKind::Zero)),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((end - at, ExtentKind::Data)),
            Err(error) => return Err(self.error("look for data", at, error)),
        };
        if data > at {
            return Ok((data - at, ExtentKind::Zero));
        }
        match rustix::fs::seek(&self.file, SeekFrom::Hole(at)) {
            Ok(hole) if hole > at => Ok((hole - at, ExtentKind::Data)),
            // The file shrinks or is being punched right now.
            Ok(_) | Err(Errno::NXIO) => Ok((end - at, ExtentKind::Data)),
            Err(error) => Err(self.error("look for a hole", at, error)),
        }
    }
}

impl BlockSource for RawDisk {
    fn size_bytes(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        check_range(&self.name, self.size(), offset, buf.len() as u64)?;
        self.file.read_exact_at(buf, offset).map_err(|e| self.error("read", offset, e))?;
        if let (true, Some(length)) = (self.drop_behind, NonZeroU64::new(buf.len() as u64)) {
            let _ = rustix::fs::fadvise(&self.file, offset, Some(length), Advice::DontNeed);
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        check_range(&self.name, self.size(), range.start, range.end.saturating_sub(range.start))?;
        let mut list = ExtentList::new(range.clone());
        while !list.is_done() {
            let (length, kind) = if self.regular {
                self.stretch(list.position(), range.end)?
            } else {
                (range.end - range.start, ExtentKind::Data)
            };
            list.push(length, kind);
        }
        Ok(list.finish())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl BlockTarget for RawDisk {
    fn size_bytes(&self) -> u64 {
        self.size()
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), BlockError> {
        self.writable()?;
        check_range(&self.name, self.size(), offset, buf.len() as u64)?;
        self.file.write_all_at(buf, offset).map_err(|e| self.error("write", offset, e))
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<(), BlockError> {
        self.writable()?;
        let length = range.end.saturating_sub(range.start);
        check_range(&self.name, self.size(), range.start, length)?;
        if length == 0 {
            return Ok(());
        }
        let keep = FallocateFlags::KEEP_SIZE;
        for flags in [FallocateFlags::PUNCH_HOLE | keep, FallocateFlags::ZERO_RANGE | keep] {
            match rustix::fs::fallocate(&self.file, flags, range.start, length) {
                Ok(()) => return Ok(()),
                // A device takes whole sectors only, a file system may know neither.
                Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
                Err(error) => return Err(self.error("write zeroes", range.start, error)),
            }
        }
        let mut at = range.start;
        while at < range.end {
            let piece = (range.end - at).min(ZEROES.len() as u64);
            self.file
                .write_all_at(&ZEROES[..piece as usize], at)
                .map_err(|e| self.error("write zeroes", at, e))?;
            at += piece;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.file.sync_data().map_err(|e| self.error("flush", 0, e))
    }

    fn set_size(&self, size_bytes: u64) -> Result<(), BlockError> {
        self.writable()?;
        if !self.regular {
            return Err(BlockError::unsupported(&self.name, "a device keeps its size"));
        }
        self.file.set_len(size_bytes).map_err(|e| self.error("resize", size_bytes, e))?;
        self.size_bytes.store(size_bytes, Ordering::Release);
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extents;

    fn scratch() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    #[test]
    fn what_was_written_is_read_and_holes_stay_holes() {
        let dir = scratch();
        let disk = RawDisk::create(&dir.path().join("d"), 16 << 20).expect("created");
        disk.write_at(b"here", 5 << 20).expect("written");
        disk.flush().expect("flushed");
        let found: Vec<Extent> = extents(&disk, 0..16 << 20).collect::<Result<_, _>>().expect("a map");
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0].kind, ExtentKind::Zero);
        assert!(found[1].kind == ExtentKind::Data && found[1].range().contains(&(5 << 20)));
        assert!(found[1].length <= 64 << 10);
        let mut back = [1; 6];
        disk.read_at(&mut back, (5 << 20) - 1).expect("read");
        assert_eq!(&back, b"\0here\0");
        disk.write_zeroes(5 << 20..(6 << 20) + 1).expect("punched");
        assert_eq!(disk.extents(0..16 << 20).expect("a map"), [Extent::zero(0, 16 << 20)]);
    }

    #[test]
    fn the_end_is_an_error_and_so_is_writing_without_leave() {
        let dir = scratch();
        let path = dir.path().join("d");
        RawDisk::create(&path, 100).expect("created");
        let disk = RawDisk::open(&path).expect("open").drop_behind();
        assert!(disk.read_at(&mut [0; 100], 0).is_ok());
        assert!(matches!(disk.read_at(&mut [0; 1], 100), Err(BlockError::OutOfRange { .. })));
        assert!(matches!(disk.read_at(&mut [0; 2], u64::MAX), Err(BlockError::OutOfRange { .. })));
        assert!(matches!(disk.write_at(&[0], 0), Err(BlockError::ReadOnly { .. })));
        assert!(RawDisk::create(&path, 5).is_err(), "an existing file is left alone");
    }

    #[test]
    fn a_pipe_and_a_directory_are_refused_at_once() {
        let dir = scratch();
        assert!(RawDisk::open(dir.path()).is_err());
        assert!(RawDisk::open(Path::new("/dev/zero")).is_err());
        let fifo = dir.path().join("fifo");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, 0o600.into(), 0)
            .expect("a fifo");
        assert!(RawDisk::open(&fifo).is_err());
    }
}
