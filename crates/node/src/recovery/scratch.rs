//! A disk of a point as a machine that reads it may write to it: what it writes is kept beside, and thrown away.
//!
//! Logs of file systems are replayed there, so that files are as they were at the point's instant. What is written is
//! bounded: the machine may be in the hands of what it reads, and would fill the host's disk.

use std::{
    io,
    ops::Range,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use nestling_block::{BlockError, BlockSource, BlockTarget, Extent, Overlay, RawDisk};
use rustix::fs::{CWD, Mode, OFlags, openat};

/// Of all disks of a machine together. The log of an XFS has at most 2 GiB, and far less is written to replay it.
const WRITTEN_BYTES_MAX: u64 = 1 << 30;

/// What a machine's disks share.
#[derive(Default)]
pub struct Allowance(AtomicU64);

pub struct Scratch {
    overlay: Overlay,
    written: Arc<Allowance>,
}

impl Scratch {
    /// What is written lies in a file in `dir` that has no name, and is gone with this process.
    pub fn new(below: Arc<dyn BlockSource>, dir: &Path, written: Arc<Allowance>) -> Result<Self, BlockError> {
        let shown = format!("{} (scratch)", dir.display());
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file = openat(CWD, dir, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| BlockError::io(&shown, "create", 0, e))?;
        let scratch = RawDisk::from_file(shown, file.into(), true)?;
        Ok(Self { overlay: Overlay::new(below, scratch)?, written })
    }

    /// The sum counts what is written over twice: that errs to the safe side.
    fn take(&self, bytes: u64, offset: u64) -> Result<(), BlockError> {
        let before = self.written.0.fetch_add(bytes, Relaxed);
        if before.saturating_add(bytes) <= WRITTEN_BYTES_MAX {
            return Ok(());
        }
        let full = io::Error::new(io::ErrorKind::StorageFull, "more than a machine that reads may write");
        Err(BlockError::io(BlockSource::name(&self.overlay), "write", offset, full))
    }
}

impl BlockSource for Scratch {
    fn size_bytes(&self) -> u64 {
        BlockSource::size_bytes(&self.overlay)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        self.overlay.read_at(buf, offset)
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        self.overlay.extents(range)
    }

    fn name(&self) -> &str {
        BlockSource::name(&self.overlay)
    }
}

impl BlockTarget for Scratch {
    fn size_bytes(&self) -> u64 {
        BlockSource::size_bytes(&self.overlay)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), BlockError> {
        self.take(buf.len() as u64, offset)?;
        self.overlay.write_at(buf, offset)
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<(), BlockError> {
        self.take(range.end.saturating_sub(range.start), range.start)?;
        self.overlay.write_zeroes(range)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.overlay.flush()
    }

    fn set_size(&self, size_bytes: u64) -> Result<(), BlockError> {
        self.overlay.set_size(size_bytes)
    }

    fn name(&self) -> &str {
        BlockTarget::name(&self.overlay)
    }
}

#[cfg(test)]
mod tests {
    use nestling_block::MemoryDisk;

    use super::*;

    #[test]
    fn what_is_written_is_beside_the_disk_and_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let below: Arc<dyn BlockSource> = Arc::new(MemoryDisk::from_bytes("disk", &[7; 8192]));
        let allowance = Arc::new(Allowance::default());
        let disk = Scratch::new(Arc::clone(&below), dir.path(), Arc::clone(&allowance)).expect("made");
        disk.write_at(&[1; 512], 512).expect("written");
        let mut read = vec![0; 1024];
        disk.read_at(&mut read, 0).expect("read");
        assert!(read[..512].iter().all(|byte| *byte == 7) && read[512..].iter().all(|byte| *byte == 1));
        below.read_at(&mut read, 0).expect("read");
        assert!(read.iter().all(|byte| *byte == 7), "the disk is as it was");
        assert_eq!(std::fs::read_dir(dir.path()).expect("a list").count(), 0, "nothing has a name");
        allowance.0.store(WRITTEN_BYTES_MAX, Relaxed);
        assert!(disk.write_at(&[1; 512], 0).is_err() && disk.write_zeroes(0..512).is_err());
    }
}
