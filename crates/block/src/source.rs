//! The two ports of this crate: a disk that is read, a disk that is written.

use std::{ops::Range, sync::Arc};

use crate::{BlockError, Extent};

/// A disk that can be read at any place by several threads at once.
pub trait BlockSource: Send + Sync {
    /// The size that a machine sees.
    fn size_bytes(&self) -> u64;

    /// Fills all of `buf` from `offset` on. What is not inside the disk is an error.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError>;

    /// What lies in `range`, which must be inside the disk: in order from its start, without gap or overlap,
    /// neighbours of different kinds. The answer covers all of the range, or ends early after
    /// [`EXTENTS_MAX`](crate::EXTENTS_MAX) extents or less; it is never empty unless the range is. Who wants all of
    /// it uses [`extents`]. Answered from maps alone: data are never read for it.
    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError>;

    /// Which file or export this is, for messages.
    fn name(&self) -> &str;
}

/// A disk that can be written at any place by several threads at once. What overlaps and is written at the same time
/// comes in any order.
pub trait BlockTarget: Send + Sync {
    fn size_bytes(&self) -> u64;

    /// Writes all of `buf`. What is not inside the disk is an error, and nothing is written.
    fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), BlockError>;

    /// Makes the range read as zeroes, and frees its room where that can be.
    fn write_zeroes(&self, range: Range<u64>) -> Result<(), BlockError>;

    /// Returns once all that was written before is durable.
    fn flush(&self) -> Result<(), BlockError>;

    /// Grows with zeroes, or cuts off the end.
    fn set_size(&self, size_bytes: u64) -> Result<(), BlockError>;

    /// Which file or export this is, for messages.
    fn name(&self) -> &str;
}

macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<T: BlockSource + ?Sized> BlockSource for $pointer {
            fn size_bytes(&self) -> u64 {
                (**self).size_bytes()
            }
            fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
                (**self).read_at(buf, offset)
            }
            fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
                (**self).extents(range)
            }
            fn name(&self) -> &str {
                (**self).name()
            }
        }

        impl<T: BlockTarget + ?Sized> BlockTarget for $pointer {
            fn size_bytes(&self) -> u64 {
                (**self).size_bytes()
            }
            fn write_at(&self, buf: &[u8], offset: u64) -> Result<(), BlockError> {
                (**self).write_at(buf, offset)
            }
            fn write_zeroes(&self, range: Range<u64>) -> Result<(), BlockError> {
                (**self).write_zeroes(range)
            }
            fn flush(&self) -> Result<(), BlockError> {
                (**self).flush()
            }
            fn set_size(&self, size_bytes: u64) -> Result<(), BlockError> {
                (**self).set_size(size_bytes)
            }
            fn name(&self) -> &str {
                (**self).name()
            }
        }
    )*};
}

forward!(&T, Arc<T>, Box<T>);

/// Refuses what is not inside a disk of `size_bytes`. Every implementation begins with it.
pub fn check_range(name: &str, size_bytes: u64, offset: u64, length: u64) -> Result<(), BlockError> {
    match offset.checked_add(length) {
        Some(end) if end <= size_bytes => Ok(()),
        _ => Err(BlockError::OutOfRange { name: name.to_owned(), offset, length, size_bytes }),
    }
}

/// All of `range`, extent by extent, asked for piece by piece. Ends after the first error.
pub fn extents<S: BlockSource + ?Sized>(source: &S, range: Range<u64>) -> Extents<'_, S> {
    Extents { source, next: range.start, end: range.end, known: Vec::new().into_iter(), held: None }
}

/// See [`extents`].
pub struct Extents<'a, S: ?Sized> {
    source: &'a S,
    /// Where the next question begins.
    next: u64,
    end: u64,
    known: std::vec::IntoIter<Extent>,
    /// The last one, which the next answer may go on with.
    held: Option<Extent>,
}

impl<S: BlockSource + ?Sized> Extents<'_, S> {
    fn fetch(&mut self) -> Result<Option<Extent>, BlockError> {
        if let Some(extent) = self.known.next() {
            return Ok(Some(extent));
        }
        if self.next >= self.end {
            return Ok(None);
        }
        let found = self.source.extents(self.next..self.end)?;
        // An answer that does not move on would be asked for without end.
        let Some(last) = found.last().filter(|last| last.end() > self.next) else {
            return Err(BlockError::damaged(self.source.name(), self.next, "its map has a gap"));
        };
        self.next = last.end();
        self.known = found.into_iter();
        Ok(self.known.next())
    }
}

impl<S: BlockSource + ?Sized> Iterator for Extents<'_, S> {
    type Item = Result<Extent, BlockError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            match (self.fetch(), self.held.take()) {
                (Ok(Some(extent)), None) => self.held = Some(extent),
                (Ok(Some(extent)), Some(held)) if held.kind == extent.kind && held.end() == extent.offset => {
                    self.held = Some(Extent { length: held.length + extent.length, ..held });
                }
                (Ok(Some(extent)), Some(held)) => {
                    self.held = Some(extent);
                    return Some(Ok(held));
                }
                (Ok(None), held) => return held.map(Ok),
                (Err(error), _) => {
                    self.next = self.end;
                    self.known = Vec::new().into_iter();
                    return Some(Err(error));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ExtentKind;

    /// Answers with so many bytes at a time, all of one kind for each 10 bytes.
    struct Slow(u64);

    impl BlockSource for Slow {
        fn size_bytes(&self) -> u64 {
            100
        }
        fn read_at(&self, _buf: &mut [u8], _offset: u64) -> Result<(), BlockError> {
            Ok(())
        }
        fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
            let end = range.end.min(range.start + self.0).min(range.start / 10 * 10 + 10);
            let kind = if (range.start / 10).is_multiple_of(2) { ExtentKind::Data } else { ExtentKind::Zero };
            let length = end - range.start;
            Ok(if length == 0 { Vec::new() } else { vec![Extent { offset: range.start, length, kind }] })
        }
        fn name(&self) -> &str {
            "slow"
        }
    }

    #[test]
    fn answers_in_pieces_become_whole_extents() {
        let found: Vec<Extent> = extents(&Slow(3), 5..35).collect::<Result<_, _>>().expect("a map");
        let expected = [Extent::data(5, 5), Extent::zero(10, 10), Extent::data(20, 10), Extent::zero(30, 5)];
        assert_eq!(found, expected);
        assert_eq!(extents(&Slow(3), 5..5).count(), 0);
    }

    #[test]
    fn a_source_that_does_not_answer_is_asked_once() {
        let mut all = extents(&Slow(0), 0..100);
        assert!(all.next().is_some_and(|answer| answer.is_err()));
        assert!(all.next().is_none());
    }
}
