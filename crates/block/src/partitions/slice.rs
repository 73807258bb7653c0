//! A range of a disk as a disk of its own.

use std::{ops::Range, sync::Arc};

use crate::{BlockError, BlockSource, Extent, check_range};

/// See [`Slice::new`].
pub struct Slice {
    name: String,
    below: Arc<dyn BlockSource>,
    range: Range<u64>,
}

impl Slice {
    /// `name` is for messages. What is not inside the disk is an error.
    pub fn new(name: String, below: Arc<dyn BlockSource>, range: Range<u64>) -> Result<Self, BlockError> {
        let length = range.end.saturating_sub(range.start);
        check_range(below.name(), below.size_bytes(), range.start, length)?;
        Ok(Self { name, below, range: range.start..range.start + length })
    }

    fn check(&self, offset: u64, length: u64) -> Result<(), BlockError> {
        check_range(&self.name, self.size_bytes(), offset, length)
    }
}

impl BlockSource for Slice {
    fn size_bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        self.check(offset, buf.len() as u64)?;
        self.below.read_at(buf, self.range.start + offset)
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        self.check(range.start, range.end.saturating_sub(range.start))?;
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let mut found = self.below.extents(self.range.start + range.start..self.range.start + range.end)?;
        for extent in &mut found {
            extent.offset -= self.range.start;
        }
        Ok(found)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ExtentKind, MemoryDisk};

    #[test]
    fn a_slice_knows_nothing_but_its_range() {
        let mut bytes = vec![0; 40_000];
        bytes[8192..12288].fill(7);
        let disk: Arc<dyn BlockSource> = Arc::new(MemoryDisk::from_bytes("disk", &bytes));
        let slice = Slice::new("part".into(), Arc::clone(&disk), 8000..30_000).expect("inside");
        assert_eq!(slice.size_bytes(), 22_000);
        let mut all = vec![1; 22_000];
        slice.read_at(&mut all, 0).expect("read");
        assert!(all == bytes[8000..30_000]);
        let map = slice.extents(0..22_000).expect("a map");
        assert_eq!(map[1], Extent { offset: 192, length: 4096, kind: ExtentKind::Data });
        for (offset, length) in [(22_000, 1), (0, 22_001), (u64::MAX, 1)] {
            assert!(slice.read_at(&mut vec![0; length], offset).is_err());
        }
        assert!(slice.extents(21_999..22_001).is_err() && slice.extents(22_000..22_000).is_ok());
        assert!(Slice::new("part".into(), disk, 39_999..40_001).is_err());
    }
}
