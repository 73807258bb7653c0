//! A volume as readers see it: bytes at any place, through a bounded cache.
//!
//! Readers jump between small structures that lie close together, and the disk below may be a backup where each read
//! costs a chunk to be unpacked. What is larger than a line is read past the cache: it is a file's bytes, which
//! nobody asks for again.

use std::sync::Arc;

use crate::{
    ExploreError, Result,
    kept::{Kept, kept},
};
use nestling_block::BlockSource;

pub(crate) const LINE_BYTES: u64 = 64 << 10;
const CACHE_BYTES: u64 = 32 << 20;

#[cfg(any(test, feature = "fuzzing"))]
thread_local! {
    /// How often this thread read something, for tests that hold readers to a bound.
    pub(crate) static STEPS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

pub(crate) struct Volume {
    source: Arc<dyn BlockSource>,
    lines: Kept<u64, Arc<[u8]>>,
}

impl Volume {
    pub(crate) fn new(source: Arc<dyn BlockSource>) -> Self {
        Self { source, lines: kept((CACHE_BYTES / LINE_BYTES) as usize) }
    }

    pub(crate) fn name(&self) -> &str {
        self.source.name()
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.source.size_bytes()
    }

    pub(crate) fn source(&self) -> &Arc<dyn BlockSource> {
        &self.source
    }

    /// Fills `buf`. A place outside of the volume is damage: some structure named it.
    pub(crate) fn read(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        #[cfg(any(test, feature = "fuzzing"))]
        STEPS.set(STEPS.get() + 1);
        let end = offset.checked_add(buf.len() as u64).filter(|end| *end <= self.size_bytes()).ok_or_else(
            || self.damaged(format!("something is said to lie at byte {offset}, outside of the volume")),
        )?;
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let inside = at % LINE_BYTES;
            let whole = (rest.len() as u64 / LINE_BYTES * LINE_BYTES) as usize;
            let count = if inside == 0 && whole > 0 {
                self.source.read_at(&mut rest[..whole], at).map_err(|e| self.disk(e))?;
                whole
            } else {
                let line = self.line(at / LINE_BYTES)?;
                let count = rest.len().min((LINE_BYTES - inside) as usize);
                rest[..count].copy_from_slice(&line[inside as usize..inside as usize + count]);
                count
            };
            at += count as u64;
            rest = &mut rest[count..];
        }
        debug_assert_eq!(at, end);
        Ok(())
    }

    /// The length must be bounded by the caller.
    pub(crate) fn bytes(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.read(&mut bytes, offset)?;
        Ok(bytes)
    }

    fn line(&self, number: u64) -> Result<Arc<[u8]>> {
        if let Some(line) = self.lines.get(&number) {
            return Ok(line);
        }
        let start = number * LINE_BYTES;
        let mut bytes = vec![0; LINE_BYTES.min(self.size_bytes() - start) as usize];
        self.source.read_at(&mut bytes, start).map_err(|e| self.disk(e))?;
        let line: Arc<[u8]> = bytes.into();
        self.lines.insert(number, Arc::clone(&line));
        Ok(line)
    }

    fn disk(&self, source: nestling_block::BlockError) -> ExploreError {
        ExploreError::Disk { volume: self.name().to_owned(), source }
    }

    pub(crate) fn damaged(&self, what: impl Into<String>) -> ExploreError {
        ExploreError::Damaged { volume: self.name().to_owned(), what: what.into() }
    }

    pub(crate) fn unsupported(&self, what: impl Into<String>) -> ExploreError {
        ExploreError::Unsupported { volume: self.name().to_owned(), what: what.into() }
    }

    pub(crate) fn not_found(&self, what: impl Into<String>) -> ExploreError {
        ExploreError::NotFound { volume: self.name().to_owned(), what: what.into() }
    }

    pub(crate) fn wrong_kind(&self, what: impl Into<String>, wanted: &'static str) -> ExploreError {
        ExploreError::WrongKind { volume: self.name().to_owned(), what: what.into(), wanted }
    }

    pub(crate) fn limit(&self, what: impl Into<String>, limit: u64) -> ExploreError {
        ExploreError::Limit { volume: self.name().to_owned(), what: what.into(), limit }
    }
}

#[cfg(test)]
mod tests {
    use nestling_block::MemoryDisk;

    use super::*;

    #[test]
    fn any_piece_is_the_disks_own() {
        let bytes: Vec<u8> = (0..300_001_u32).map(|n| ((n * 7) >> 3) as u8).collect();
        let volume = Volume::new(Arc::new(MemoryDisk::from_bytes("v", &bytes)));
        for (at, length) in
            [(0, 300_001), (65_535, 2), (65_536, 65_536), (1, 200_000), (299_999, 2), (300_001, 0)]
        {
            assert_eq!(volume.bytes(at as u64, length).expect("inside"), &bytes[at..at + length]);
        }
        assert!(volume.bytes(300_000, 2).is_err());
        assert!(volume.bytes(u64::MAX, 2).is_err());
    }
}
