//! What all images have in common whose map says, stretch by stretch, where the bytes of a disk are.
//!
//! A format tells one stretch at a time; reading and listing extents are the same for all of them and are here. Holes
//! are never read, and extents come from maps alone.

use std::ops::Range;

use crate::{BlockError, BlockSource, Extent, ExtentKind, ExtentList, check_range};

/// One call of `extents` looks at no more stretches than this.
const STEPS_MAX: usize = 4096;
/// No disk in any format is larger: VHDX's own limit.
pub(crate) const DISK_BYTES_MAX: u64 = 64 << 40;

/// Where the bytes of a stretch are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Whatever is below this image, or zeroes.
    Below,
    Zero,
    /// From this byte of [`Mapped::data`] on.
    At(u64),
}

impl Place {
    /// Whether `next` goes on with what begins here, `length` bytes further on.
    fn goes_on(self, next: Self, length: u64) -> bool {
        match (self, next) {
            (Self::At(first), Self::At(next)) => first.checked_add(length) == Some(next),
            _ => self == next,
        }
    }
}

pub(crate) trait Mapped: BlockSource {
    /// What is at byte `at` of the disk, and for how many bytes: at least one, and none behind `end`. A place that is
    /// told is inside [`Mapped::data`].
    fn stretch(&self, at: u64, end: u64) -> Result<(Place, u64), BlockError>;

    /// What [`Place::At`] at byte `at` of the disk means.
    fn data(&self, at: u64) -> Result<&dyn BlockSource, BlockError>;

    /// The image that this one goes on from.
    fn below(&self) -> Option<&dyn BlockSource>;
}

/// One stretch is put together from no more pieces than this.
const PIECES_MAX: usize = 8192;

/// The stretch from `at` on, put together from pieces that go on from each other. `piece` tells what is at a byte, and for
/// how many bytes.
pub(crate) fn joined(
    at: u64,
    end: u64,
    mut piece: impl FnMut(u64) -> Result<(Place, u64), BlockError>,
) -> Result<(Place, u64), BlockError> {
    let (first, mut length) = piece(at)?;
    for _ in 0..PIECES_MAX {
        if at + length >= end {
            break;
        }
        // What is wrong further on is told when it is reached.
        let Ok((next, more)) = piece(at + length) else { break };
        if !first.goes_on(next, length) {
            break;
        }
        length += more;
    }
    Ok((first, length))
}

pub(crate) fn read<M: Mapped>(disk: &M, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
    check_range(disk.name(), disk.size_bytes(), offset, buf.len() as u64)?;
    let end = offset + buf.len() as u64;
    let (mut at, mut rest) = (offset, buf);
    while at < end {
        let (place, length) = disk.stretch(at, end)?;
        let (piece, others) = rest.split_at_mut(length as usize);
        match (place, disk.below()) {
            (Place::Zero, _) | (Place::Below, None) => piece.fill(0),
            (Place::Below, Some(below)) => read_padded(below, piece, at)?,
            (Place::At(place), _) => disk.data(at)?.read_at(piece, place)?,
        }
        at += length;
        rest = others;
    }
    Ok(())
}

pub(crate) fn extents<M: Mapped>(disk: &M, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
    let length = range.end.saturating_sub(range.start);
    check_range(disk.name(), disk.size_bytes(), range.start, length)?;
    let mut list = ExtentList::new(range.clone());
    for _ in 0..STEPS_MAX {
        if list.is_done() {
            break;
        }
        let at = list.position();
        let (place, length) = disk.stretch(at, range.end)?;
        match (place, disk.below()) {
            (Place::Zero, _) | (Place::Below, None) => {
                list.push(length, ExtentKind::Zero);
            }
            (Place::Below, Some(below)) => push_other(&mut list, below, &(at..at + length))?,
            // What was allocated and never written is a hole in the file.
            (Place::At(place), _) => push_other(&mut list, disk.data(at)?, &(place..place + length))?,
        }
    }
    Ok(list.finish())
}

/// Reads what is there; behind the end there are zeroes.
pub(crate) fn read_padded<S: BlockSource + ?Sized>(
    source: &S,
    buf: &mut [u8],
    offset: u64,
) -> Result<(), BlockError> {
    let there = source.size_bytes().saturating_sub(offset).min(buf.len() as u64) as usize;
    let (inside, behind) = buf.split_at_mut(there);
    behind.fill(0);
    if inside.is_empty() { Ok(()) } else { source.read_at(inside, offset) }
}

/// Adds what another source says of `range`, which may end behind it: there are zeroes.
pub(crate) fn push_other(
    list: &mut ExtentList,
    other: &dyn BlockSource,
    range: &Range<u64>,
) -> Result<(), BlockError> {
    let size = other.size_bytes();
    let known = range.start.min(size)..range.end.min(size);
    let mut at = range.start;
    if !known.is_empty() {
        for extent in other.extents(known.clone())? {
            at = extent.end();
            if !list.push(extent.length, extent.kind) {
                return Ok(());
            }
        }
    }
    if at >= known.end {
        list.push(range.end - at, ExtentKind::Zero);
    }
    Ok(())
}
