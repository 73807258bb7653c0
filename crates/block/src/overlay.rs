//! Writes that are kept beside a disk which must not change.
//!
//! A machine that is booted from a backup writes; the backup may not notice. What is written goes to a sparse scratch
//! file, at its own place, and a bitmap in memory says which blocks of the scratch file count. So the scratch file dies
//! with the process that serves it: it is a place to write, not a disk to keep. This must never write to what is below.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{
    BlockError, BlockSource, BlockTarget, Extent, ExtentKind, ExtentList, RawDisk, check_range, extents,
};

/// Guests write whole blocks of this, so that what is below is seldom copied.
const BLOCK_BYTES: u64 = 4096;
const WORDS: usize = 64;
const PAGE_BLOCKS: u64 = WORDS as u64 * 64;

/// A disk over another one.
pub struct Overlay {
    name: String,
    below: Arc<dyn BlockSource>,
    scratch: RawDisk,
    /// Read-locked by who writes whole blocks or those that are here already, write-locked by who has to copy from
    /// below first: between its reading and its writing, nobody may write the rest of the same block.
    copying: RwLock<()>,
    written: RwLock<Bitmap>,
}

/// Which blocks are in the scratch file. As large as what was written, not as the disk.
#[derive(Default)]
struct Bitmap {
    pages: HashMap<u64, Box<[u64; WORDS]>>,
}

impl Bitmap {
    fn has(&self, block: u64) -> bool {
        let bit = block % PAGE_BLOCKS;
        self.pages
            .get(&(block / PAGE_BLOCKS))
            .is_some_and(|page| page[(bit / 64) as usize] >> (bit % 64) & 1 == 1)
    }

    fn add(&mut self, blocks: Range<u64>) {
        for block in blocks {
            let bit = block % PAGE_BLOCKS;
            let page = self.pages.entry(block / PAGE_BLOCKS).or_insert_with(|| Box::new([0; WORDS]));
            page[(bit / 64) as usize] |= 1 << (bit % 64);
        }
    }

    /// To which byte it goes on as it is at `at`, and whether that is written.
    fn run(&self, at: u64, end: u64) -> (bool, u64) {
        let mut block = at / BLOCK_BYTES;
        let here = self.has(block);
        while block * BLOCK_BYTES < end && self.has(block) == here {
            // Where nothing of a page is written, it is passed at once.
            let unwritten = !here && !self.pages.contains_key(&(block / PAGE_BLOCKS));
            block = if unwritten { (block / PAGE_BLOCKS + 1) * PAGE_BLOCKS } else { block + 1 };
        }
        (here, (block * BLOCK_BYTES).min(end))
    }
}

impl Overlay {
    /// `scratch` must be a new file, writable; it gets the size of the disk.
    pub fn new(below: Arc<dyn BlockSource>, scratch: RawDisk) -> Result<Self, BlockError> {
        scratch.set_size(0)?;
        scratch.set_size(below.size_bytes())?;
        Ok(Self {
            name: format!("{} (with writes in {})", below.name(), BlockSource::name(&scratch)),
            below,
            scratch,
            copying: RwLock::default(),
            written: RwLock::default(),
        })
    }

    /// How much of the disk was written, in whole blocks.
    #[must_use]
    pub fn written_bytes(&self) -> u64 {
        let bits = |page: &[u64; WORDS]| page.iter().map(|word| u64::from(word.count_ones())).sum::<u64>();
        self.bitmap().pages.values().map(|page| bits(page)).sum::<u64>() * BLOCK_BYTES
    }

    fn size(&self) -> u64 {
        self.below.size_bytes()
    }

    fn bitmap(&self) -> RwLockReadGuard<'_, Bitmap> {
        self.written.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn bitmap_mut(&self) -> RwLockWriteGuard<'_, Bitmap> {
        self.written.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, range: &Range<u64>) -> Result<(), BlockError> {
        check_range(&self.name, self.size(), range.start, range.end.saturating_sub(range.start))
    }

    /// Does `write` to the scratch file for `range`, after the rest of its first and last block is there.
    fn change(
        &self,
        range: &Range<u64>,
        write: impl FnOnce() -> Result<(), BlockError>,
    ) -> Result<(), BlockError> {
        let blocks = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        {
            let _shared = self.copying.read().unwrap_or_else(PoisonError::into_inner);
            if self.partial(range).is_empty() {
                write()?;
                // Only now, so that nobody reads of the scratch file what is not there yet.
                self.bitmap_mut().add(blocks);
                return Ok(());
            }
        }
        let _alone = self.copying.write().unwrap_or_else(PoisonError::into_inner);
        for block in self.partial(range) {
            let (start, end) = (block * BLOCK_BYTES, ((block + 1) * BLOCK_BYTES).min(self.size()));
            let mut bytes = vec![0; (end - start) as usize];
            self.below.read_at(&mut bytes, start)?;
            self.scratch.write_at(&bytes, start)?;
        }
        write()?;
        self.bitmap_mut().add(blocks);
        Ok(())
    }

    /// The blocks that `range` covers in part and that are not here yet.
    fn partial(&self, range: &Range<u64>) -> Vec<u64> {
        let bitmap = self.bitmap();
        let (first, last) = (range.start / BLOCK_BYTES, (range.end - 1) / BLOCK_BYTES);
        let mut found = Vec::new();
        if !range.start.is_multiple_of(BLOCK_BYTES) && !bitmap.has(first) {
            found.push(first);
        }
        let cut = !range.end.is_multiple_of(BLOCK_BYTES) && range.end < self.size();
        if cut && !bitmap.has(last) && found.first() != Some(&last) {
            found.push(last);
        }
        found
    }
}

impl BlockSource for Overlay {
    fn size_bytes(&self) -> u64 {
        self.size()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        let end = offset.saturating_add(buf.len() as u64);
        self.check(&(offset..end))?;
        let mut at = offset;
        while at < end {
            let (here, next) = self.bitmap().run(at, end);
            let piece = &mut buf[(at - offset) as usize..(next - offset) as usize];
            let from: &dyn BlockSource = if here { &self.scratch } else { &self.below };
            from.read_at(piece, at)?;
            at = next;
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        self.check(&range)?;
        let mut list = ExtentList::new(range.clone());
        while !list.is_done() {
            let at = list.position();
            let (here, next) = self.bitmap().run(at, range.end);
            let other: &dyn BlockSource = if here { &self.scratch } else { &self.below };
            for extent in extents(other, at..next) {
                let extent = extent?;
                if !list.push(extent.length, extent.kind) {
                    break;
                }
            }
        }
        Ok(list.finish())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl BlockTarget for Overlay {
    fn size_bytes(&self) -> u64 {
        self.size()
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), BlockError> {
        let range = offset..offset.saturating_add(buf.len() as u64);
        self.check(&range)?;
        if range.is_empty() { Ok(()) } else { self.change(&range, || self.scratch.write_at(buf, offset)) }
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<(), BlockError> {
        self.check(&range)?;
        // What is zero already needs no bitmap: a disk of 64 TiB that is wiped stays small here.
        for extent in extents(self, range) {
            let extent = extent?;
            if extent.kind == ExtentKind::Data {
                self.change(&extent.range(), || self.scratch.write_zeroes(extent.range()))?;
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        // It dies with this process, so there is nothing that must outlive a power cut.
        Ok(())
    }

    fn set_size(&self, _size_bytes: u64) -> Result<(), BlockError> {
        Err(BlockError::unsupported(&self.name, "keeps the size of what is below it"))
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;

    fn overlay(bytes: &[u8]) -> (tempfile::TempDir, Overlay) {
        let dir = tempfile::tempdir().expect("a directory");
        let scratch = RawDisk::create(&dir.path().join("scratch"), 0).expect("created");
        (dir, Overlay::new(Arc::new(MemoryDisk::from_bytes("below", bytes)), scratch).expect("an overlay"))
    }

    #[test]
    fn two_writers_in_one_block_keep_each_others_bytes() {
        let (_dir, disk) = overlay(&[5; 4096 * 64]);
        std::thread::scope(|scope| {
            for half in 0..2_u64 {
                let disk = &disk;
                scope.spawn(move || {
                    for block in 0..64 {
                        disk.write_at(&[half as u8 + 1; 2048], block * 4096 + half * 2048).expect("written");
                    }
                });
            }
        });
        let mut all = vec![0; 4096 * 64];
        disk.read_at(&mut all, 0).expect("read");
        assert!(
            all.chunks(2048).zip((1..=2).cycle()).all(|(part, value)| part.iter().all(|byte| *byte == value))
        );
        assert_eq!(disk.written_bytes(), 4096 * 64);
    }
}
