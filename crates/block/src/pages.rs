//! Tables inside a file, read page by page and kept in a small cache: an image of 64 TiB has tables of hundreds of
//! megabytes, of which a reader needs a few kilobytes at a time.

use std::sync::Arc;

use crate::{BlockError, BlockSource, cache::Cache};

const PAGE_BYTES: u64 = 64 << 10;
/// What all tables of one image may take.
pub(crate) const TABLE_CACHE_BYTES: usize = 16 << 20;

pub(crate) struct Pages {
    source: Arc<dyn BlockSource>,
    cache: Cache<Vec<u8>>,
}

impl Pages {
    pub(crate) fn new(source: Arc<dyn BlockSource>, budget_bytes: usize) -> Self {
        Self { source, cache: Cache::new(budget_bytes, PAGE_BYTES as usize) }
    }

    pub(crate) fn source(&self) -> &Arc<dyn BlockSource> {
        &self.source
    }

    /// For several entries that lie beside each other.
    pub(crate) fn look(&self) -> Look<'_> {
        Look { pages: self, held: None }
    }

    fn page(&self, number: u64) -> Result<Arc<Vec<u8>>, BlockError> {
        if let Some(page) = self.cache.get(number) {
            return Ok(page);
        }
        let begin = number * PAGE_BYTES;
        let length = self.source.size_bytes().saturating_sub(begin).min(PAGE_BYTES);
        let mut bytes = vec![0; length as usize];
        self.source.read_at(&mut bytes, begin)?;
        let page = Arc::new(bytes);
        self.cache.insert(number, Arc::clone(&page));
        Ok(page)
    }
}

/// Holds the page that was read last, so that the next entry costs no lock.
pub(crate) struct Look<'a> {
    pages: &'a Pages,
    held: Option<(u64, Arc<Vec<u8>>)>,
}

impl Look<'_> {
    /// `N` bytes at `offset`. What is not inside the file is an error.
    pub(crate) fn bytes<const N: usize>(&mut self, offset: u64) -> Result<[u8; N], BlockError> {
        let (number, begin) = (offset / PAGE_BYTES, (offset % PAGE_BYTES) as usize);
        if !matches!(&self.held, Some((held, _)) if *held == number) {
            // Behind the end the source says what is wrong.
            if offset >= self.pages.source.size_bytes() {
                self.pages.source.read_at(&mut [0; N], offset)?;
            }
            self.held = Some((number, self.pages.page(number)?));
        }
        let page = self.held.as_ref().map_or(&[][..], |(_, page)| &page[..]);
        if let Some(found) = page.get(begin..).and_then(|rest| rest.first_chunk()) {
            return Ok(*found);
        }
        // It lies on two pages, or is cut by the end of the file.
        let mut bytes = [0; N];
        self.pages.source.read_at(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// The bits of a bitmap at `base`, from number `first` on: what the first is, and how many are the same, counted
    /// up to `limit`. The bit of each byte that counts first is its lowest, or with `high_first` its highest.
    pub(crate) fn bit_run(
        &mut self,
        base: u64,
        first: u64,
        limit: u64,
        high_first: bool,
    ) -> Result<(bool, u64), BlockError> {
        let mut kind = None;
        let mut at = first;
        while at - first < limit {
            let [byte] = self.bytes(base + at / 8)?;
            // So that the lowest bit is always the next.
            let byte = if high_first { byte.reverse_bits() } else { byte } >> (at % 8);
            let is_set = *kind.get_or_insert(byte & 1 == 1);
            let same = if is_set { byte.trailing_ones() } else { byte.trailing_zeros() };
            let left = 8 - at % 8;
            at += u64::from(same).min(left);
            if u64::from(same) < left {
                break;
            }
        }
        Ok((kind.unwrap_or_default(), (at - first).min(limit)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;

    #[test]
    fn entries_at_the_edge_of_a_page_and_behind_the_end() {
        let mut bytes = vec![0; PAGE_BYTES as usize + 6];
        bytes[PAGE_BYTES as usize - 2..].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let pages = Pages::new(Arc::new(MemoryDisk::from_bytes("file", &bytes)), TABLE_CACHE_BYTES);
        let mut look = pages.look();
        assert_eq!(look.bytes::<4>(PAGE_BYTES - 2).expect("read"), [1, 2, 3, 4]);
        assert_eq!(look.bytes::<4>(PAGE_BYTES + 2).expect("read"), [5, 6, 7, 8]);
        for offset in [PAGE_BYTES + 4, PAGE_BYTES + 6, 1 << 40, u64::MAX] {
            assert!(look.bytes::<4>(offset).is_err(), "{offset}");
        }
    }

    #[test]
    fn runs_of_bits() {
        let pages =
            Pages::new(Arc::new(MemoryDisk::from_bytes("file", &[0b1111_0000, 0xff, 0b0000_0111, 0])), 0);
        let run = |first, limit, high| pages.look().bit_run(0, first, limit, high).expect("read");
        assert_eq!(run(0, 32, false), (false, 4));
        assert_eq!(run(4, 32, false), (true, 15));
        assert_eq!(run(4, 7, false), (true, 7));
        assert_eq!(run(19, 13, false), (false, 13));
        assert_eq!(run(0, 32, true), (true, 4));
        assert_eq!(run(4, 8, true), (false, 4));
        assert_eq!(run(8, 24, true), (true, 8));
        assert_eq!(run(0, 0, true), (false, 0));
        assert!(pages.look().bit_run(0, 24, 100, false).is_err());
    }
}
