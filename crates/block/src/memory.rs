//! A disk in memory, for tests and for small things. It keeps only blocks that were written.
//!
//! It must never be given to an outsider to write without a limit: it grows up to its size.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use crate::{BlockError, BlockSource, BlockTarget, Extent, ExtentKind, ExtentList, check_range};

const BLOCK_BYTES: u64 = 4096;

#[derive(Debug)]
pub struct MemoryDisk {
    name: String,
    inner: RwLock<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    size_bytes: u64,
    /// By number; a block that is absent is zero.
    blocks: BTreeMap<u64, Box<[u8]>>,
}

impl MemoryDisk {
    /// All zero.
    #[must_use]
    pub fn new(name: &str, size_bytes: u64) -> Self {
        Self { name: name.to_owned(), inner: RwLock::new(Inner { size_bytes, ..Inner::default() }) }
    }

    /// With these bytes; blocks of zeroes are holes.
    #[must_use]
    pub fn from_bytes(name: &str, bytes: &[u8]) -> Self {
        let mut inner = Inner { size_bytes: bytes.len() as u64, ..Inner::default() };
        for (number, chunk) in (0..).zip(bytes.chunks(BLOCK_BYTES as usize)) {
            if chunk.iter().any(|byte| *byte != 0) {
                let mut block = zero_block();
                block[..chunk.len()].copy_from_slice(chunk);
                inner.blocks.insert(number, block);
            }
        }
        Self { name: name.to_owned(), inner: RwLock::new(inner) }
    }

    // Nothing panics while a lock is held, and every state in between is a valid one.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn zero_block() -> Box<[u8]> {
    vec![0; BLOCK_BYTES as usize].into_boxed_slice()
}

/// The blocks that `length` bytes from `offset` on touch: number, the bytes inside it, and where they lie in the buffer.
fn pieces(offset: u64, length: usize) -> impl Iterator<Item = (u64, Range<usize>, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = offset + done as u64;
        let begin = (at % BLOCK_BYTES) as usize;
        let count = (BLOCK_BYTES as usize - begin).min(length - done);
        let piece = (at / BLOCK_BYTES, begin..begin + count, done..done + count);
        done += count;
        (count > 0).then_some(piece)
    })
}

impl BlockSource for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        self.read().size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        let inner = self.read();
        check_range(&self.name, inner.size_bytes, offset, buf.len() as u64)?;
        for (number, inside, place) in pieces(offset, buf.len()) {
            match inner.blocks.get(&number) {
                Some(block) => buf[place].copy_from_slice(&block[inside]),
                None => buf[place].fill(0),
            }
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let inner = self.read();
        check_range(&self.name, inner.size_bytes, range.start, range.end.saturating_sub(range.start))?;
        let mut list = ExtentList::new(range.clone());
        let blocks = range.start / BLOCK_BYTES..range.end.div_ceil(BLOCK_BYTES);
        if !range.is_empty() {
            for number in inner.blocks.range(blocks).map(|(number, _)| *number) {
                let begin = (number * BLOCK_BYTES).max(range.start);
                let hole = begin - list.position();
                if !list.push(hole, ExtentKind::Zero)
                    || !list.push((number + 1) * BLOCK_BYTES - begin, ExtentKind::Data)
                {
                    return Ok(list.finish());
                }
            }
            list.push(range.end - list.position(), ExtentKind::Zero);
        }
        Ok(list.finish())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl BlockTarget for MemoryDisk {
    fn size_bytes(&self) -> u64 {
        self.read().size_bytes
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), BlockError> {
        let mut inner = self.write();
        check_range(&self.name, inner.size_bytes, offset, buf.len() as u64)?;
        for (number, inside, place) in pieces(offset, buf.len()) {
            inner.blocks.entry(number).or_insert_with(zero_block)[inside].copy_from_slice(&buf[place]);
        }
        Ok(())
    }

    fn write_zeroes(&self, range: Range<u64>) -> Result<(), BlockError> {
        let mut inner = self.write();
        let length = range.end.saturating_sub(range.start);
        check_range(&self.name, inner.size_bytes, range.start, length)?;
        inner.zero(range);
        Ok(())
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn set_size(&self, size_bytes: u64) -> Result<(), BlockError> {
        let mut inner = self.write();
        let old = inner.size_bytes;
        // What is cut off must not come back when the disk grows again.
        inner.zero(size_bytes..old);
        inner.size_bytes = size_bytes;
        Ok(())
    }

    fn name(&self) -> &str {
        &self.name
    }
}

impl Inner {
    fn zero(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (first, last) = (range.start / BLOCK_BYTES, range.end.div_ceil(BLOCK_BYTES));
        let touched: Vec<u64> = self.blocks.range(first..last).map(|(number, _)| *number).collect();
        for number in touched {
            let block = number * BLOCK_BYTES;
            let (begin, end) = (range.start.max(block) - block, range.end.min(block + BLOCK_BYTES) - block);
            if end - begin == BLOCK_BYTES {
                self.blocks.remove(&number);
            } else if let Some(bytes) = self.blocks.get_mut(&number) {
                bytes[begin as usize..end as usize].fill(0);
            }
        }
    }
}
