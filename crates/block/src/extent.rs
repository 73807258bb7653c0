//! Stretches of a disk, and lists of them that cannot be wrong.
//!
//! The list merges neighbours and stays bounded by construction: a disk of 64 TiB with a hole in every other cluster
//! must not become a list of a billion entries.

use std::ops::Range;

/// No list of extents that is answered at once is longer than this.
pub const EXTENTS_MAX: usize = 1 << 16;

/// What is known about a stretch without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// May hold anything, zeroes too.
    Data,
    /// A hole, or known to be zero: reading it gives nothing but zeroes.
    Zero,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    pub offset: u64,
    pub length: u64,
    pub kind: ExtentKind,
}

impl Extent {
    #[must_use]
    pub fn data(offset: u64, length: u64) -> Self {
        Self { offset, length, kind: ExtentKind::Data }
    }

    #[must_use]
    pub fn zero(offset: u64, length: u64) -> Self {
        Self { offset, length, kind: ExtentKind::Zero }
    }

    /// Where the next one begins.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.length)
    }

    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.offset..self.end()
    }
}

/// Builds the answer of [`BlockSource::extents`](crate::BlockSource::extents): in order, without gap or overlap,
/// neighbours of different kinds, bounded.
#[derive(Debug)]
pub struct ExtentList {
    range: Range<u64>,
    found: Vec<Extent>,
}

impl ExtentList {
    #[must_use]
    pub fn new(range: Range<u64>) -> Self {
        Self { range, found: Vec::new() }
    }

    /// Where the next extent has to begin.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.found.last().map_or(self.range.start, Extent::end)
    }

    /// Whether nothing more is wanted: the range is covered, or the list is full.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.position() >= self.range.end || self.found.len() >= EXTENTS_MAX
    }

    /// Adds the next `length` bytes, cut at the end of the range. Whether more is wanted.
    pub fn push(&mut self, length: u64, kind: ExtentKind) -> bool {
        let (offset, room) = (self.position(), self.range.end.saturating_sub(self.position()));
        let length = length.min(room);
        if length > 0 {
            match self.found.last_mut() {
                Some(last) if last.kind == kind => last.length += length,
                _ => self.found.push(Extent { offset, length, kind }),
            }
        }
        !self.is_done()
    }

    #[must_use]
    pub fn finish(self) -> Vec<Extent> {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_of_one_kind_become_one_and_the_end_is_cut() {
        let mut list = ExtentList::new(10..100);
        assert!(list.push(10, ExtentKind::Data));
        assert!(list.push(0, ExtentKind::Zero));
        assert!(list.push(10, ExtentKind::Data));
        assert!(!list.push(u64::MAX, ExtentKind::Zero));
        assert_eq!(list.finish(), [Extent::data(10, 20), Extent::zero(30, 70)]);
    }

    #[test]
    fn a_list_is_bounded() {
        let mut list = ExtentList::new(0..u64::MAX);
        while list.push(1, ExtentKind::Data) && list.push(1, ExtentKind::Zero) {}
        assert_eq!(list.finish().len(), EXTENTS_MAX);
    }
}
