//! Writing a disk of a point to a target: all of it, ranges, or only what differs from what is there.
//!
//! Threads take segments; chunks that lie side by side in a pack are read at once. Every byte is checked before it is
//! written. A restore that is cut short leaves a target that is not to be used, and says so by its error.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nestling_block::{BlockSource, BlockTarget, ExtentSet};

use crate::{
    BlobId, VaultError,
    blob::{Opener, check_lengths, pack_file},
    index::{Index, Location},
    job::Job,
    layout::Chunk,
    parallel::{in_parallel_with, threads},
    reader::PointDisk,
    repo::Repository,
    save::is_zero,
};

/// Sealed bytes that are read at once at most.
const RUN_BYTES: u32 = 4 << 20;

/// What is known of the target.
pub enum Existing<'a> {
    /// It reads as zeroes everywhere: holes need not be written.
    Zeroes,
    /// Anything may be there, and all of it is written.
    Unknown,
    /// It is read first, and only what differs is written.
    Compare(&'a dyn BlockSource),
}

pub struct RestoreRequest<'a> {
    pub repository: &'a Arc<Repository>,
    pub index: &'a Arc<Index>,
    pub disk: &'a PointDisk,
    pub target: &'a dyn BlockTarget,
    pub existing: Existing<'a>,
    /// Only these bytes: none beside them is written.
    pub ranges: Option<&'a ExtentSet>,
    /// 0: as many as there are processors.
    pub threads: usize,
}

#[derive(Debug, Clone, Copy)]
pub struct RestoreReport {
    pub size_bytes: u64,
    /// Bytes of data that were written; zeroes are not counted.
    pub written_bytes: u64,
    pub duration: Duration,
}

/// Restores and returns once all of it is durable.
pub fn restore(request: &RestoreRequest<'_>, job: &Job) -> Result<RestoreReport, VaultError> {
    let begun = Instant::now();
    let geometry = request.disk.geometry;
    if request.target.size_bytes() < geometry.size_bytes {
        return Err(VaultError::Invalid(format!(
            "{} has {} bytes, and the disk has {}; give a target that is as large",
            request.target.name(),
            request.target.size_bytes(),
            geometry.size_bytes
        )));
    }
    if let Some(last) = request.ranges.and_then(|ranges| ranges.ranges().last())
        && last.end > geometry.size_bytes
    {
        return Err(VaultError::Invalid(format!(
            "bytes up to {} were asked for, and the disk has {}",
            last.end, geometry.size_bytes
        )));
    }
    let segments: Vec<u64> = (0..geometry.segments())
        .filter(|segment| request.ranges.is_none_or(|ranges| ranges.touches(geometry.segment(*segment))))
        .collect();
    job.begin_bytes(
        "restoring",
        segments.iter().map(|s| geometry.segment(*s)).map(|r| r.end - r.start).sum(),
    );
    let written = AtomicU64::new(0);
    let part = || {
        let opener = Opener::new(request.repository.storage.as_ref(), &request.repository.key);
        Ok(Part { request, opener, sealed: Vec::new(), plain: Vec::new(), written: &written })
    };
    let restore = |part: &mut Part<'_>, segment: &u64| {
        part.segment(*segment)?;
        let range = geometry.segment(*segment);
        job.advance(range.end - range.start);
        Ok(())
    };
    in_parallel_with(&segments, threads(request.threads), job, part, restore, |_| Ok(()))?;
    request.target.flush()?;
    Ok(RestoreReport {
        size_bytes: geometry.size_bytes,
        written_bytes: written.load(Relaxed),
        duration: begun.elapsed(),
    })
}

/// One segment on its way.
struct Part<'a> {
    request: &'a RestoreRequest<'a>,
    opener: Opener<'a>,
    sealed: Vec<u8>,
    plain: Vec<u8>,
    written: &'a AtomicU64,
}

impl Part<'_> {
    fn segment(&mut self, segment: u64) -> Result<(), VaultError> {
        let disk = self.request.disk;
        let chunks = disk.chunks_of(segment)?;
        let mut run: Vec<(Range<u64>, Location)> = Vec::new();
        let mut zeroes: Option<Range<u64>> = None;
        for (range, chunk) in disk.geometry.chunks(disk.geometry.segment(segment)).zip(chunks.iter()) {
            if self.request.ranges.is_some_and(|ranges| !ranges.touches(range.clone())) {
                continue;
            }
            for piece in self.request.pieces(range.clone()) {
                disk.check_lost(piece)?;
            }
            match chunk {
                Chunk::Zero => match &mut zeroes {
                    Some(before) if before.end == range.start => before.end = range.end,
                    _ => self.zero(zeroes.replace(range))?,
                },
                Chunk::Stored(id) => {
                    if self.is_there(id, &range)? {
                        continue;
                    }
                    let location = self.request.index.lookup(id).ok_or(VaultError::BlobMissing(*id))?;
                    if !run.last().is_none_or(|(_, last)| follows(last, &location, &run)) {
                        self.run(&run)?;
                        run.clear();
                    }
                    run.push((range, location));
                }
            }
        }
        self.run(&run)?;
        self.zero(zeroes)
    }

    /// Whether the target holds this chunk already.
    fn is_there(&mut self, id: &BlobId, range: &Range<u64>) -> Result<bool, VaultError> {
        let Existing::Compare(existing) = &self.request.existing else { return Ok(false) };
        self.plain.resize(usize::try_from(range.end - range.start).unwrap_or_default(), 0);
        existing.read_at(&mut self.plain, range.start)?;
        Ok(BlobId::of(&self.plain) == *id)
    }

    fn zero(&mut self, range: Option<Range<u64>>) -> Result<(), VaultError> {
        let Some(range) = range else { return Ok(()) };
        match &self.request.existing {
            Existing::Zeroes => {}
            Existing::Unknown => {
                for piece in self.request.pieces(range) {
                    self.request.target.write_zeroes(piece)?;
                }
            }
            Existing::Compare(existing) => {
                let chunks = self.request.disk.geometry.chunks(range);
                for chunk in chunks.flat_map(|chunk| self.request.pieces(chunk)) {
                    self.plain.resize(usize::try_from(chunk.end - chunk.start).unwrap_or_default(), 0);
                    existing.read_at(&mut self.plain, chunk.start)?;
                    if !is_zero(&self.plain) {
                        self.request.target.write_zeroes(chunk)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Chunks that lie side by side in one pack.
    fn run(&mut self, run: &[(Range<u64>, Location)]) -> Result<(), VaultError> {
        let (Some((_, first)), Some((_, last))) = (run.first(), run.last()) else { return Ok(()) };
        let mut fits = run.iter().map(|(_, location)| check_lengths(location.pack, &location.blob));
        let storage = self.request.repository.storage.as_ref();
        let is_read = fits.all(|fits| fits.is_ok()) && {
            self.sealed.resize((last.blob.offset - first.blob.offset + last.blob.length) as usize, 0);
            storage.get_range(&pack_file(first.pack), u64::from(first.blob.offset), &mut self.sealed).is_ok()
        };
        for (range, location) in run {
            let opened = if is_read {
                let from = (location.blob.offset - first.blob.offset) as usize;
                let sealed = &mut self.sealed[from..from + location.blob.length as usize];
                self.opener.open(location.pack, &location.blob, sealed, &mut self.plain)
            } else {
                Err(VaultError::Stopped)
            };
            // One bad copy, or one bad place of a pack, does not lose what has another copy or lies beside it.
            if opened.is_err() {
                self.opener.load(self.request.index, &location.blob.id, &mut self.plain)?;
            }
            if self.plain.len() as u64 != range.end - range.start {
                let why = "it has another length than its place on the disk".to_owned();
                return Err(VaultError::BlobDamaged { blob: location.blob.id, pack: location.pack, why });
            }
            self.write(range)?;
        }
        Ok(())
    }

    /// Writes of the opened chunk at `range` what was asked for.
    #[expect(clippy::cast_possible_truncation, reason = "places inside a chunk")]
    fn write(&self, range: &Range<u64>) -> Result<(), VaultError> {
        for piece in self.request.pieces(range.clone()) {
            let (from, to) = ((piece.start - range.start) as usize, (piece.end - range.start) as usize);
            self.request.target.write_at(&self.plain[from..to], piece.start)?;
            self.written.fetch_add(piece.end - piece.start, Relaxed);
        }
        Ok(())
    }
}

impl RestoreRequest<'_> {
    /// What of `range` was asked for.
    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let whole = self.ranges.is_none().then(|| range.clone());
        whole.into_iter().chain(self.ranges.into_iter().flat_map(move |ranges| ranges.within(range.clone())))
    }
}

/// Whether `next` begins where the run ends, and the run stays within bounds.
fn follows(last: &Location, next: &Location, run: &[(Range<u64>, Location)]) -> bool {
    let end = last.blob.offset.checked_add(last.blob.length);
    let length = run.first().zip(end).map(|((_, first), end)| end.saturating_sub(first.blob.offset));
    last.pack == next.pack
        && end == Some(next.blob.offset)
        && length.is_some_and(|length| length.saturating_add(next.blob.length) <= RUN_BYTES)
}

#[cfg(test)]
mod tests {
    use nestling_block::MemoryDisk;

    use super::*;
    use crate::testing::{MIB, Place, noise};

    #[test]
    fn a_range_is_written_and_no_byte_beside_it() {
        let place = Place::new();
        let source = MemoryDisk::new("disk", MIB);
        source.write_at(&noise(1, 300_000), 100_000).expect("data");
        place.save_at("a", &source, 1);
        let index = Arc::new(place.repository.load_index(&Job::default()).expect("an index"));
        let disk = place.open(&place.points("a")[0]).expect("opened");
        // Data, a hole, and one that begins in data and ends in a hole.
        let ranges: ExtentSet =
            [150_000..150_001, 250_000..280_000, 350_000..500_000, 600_001..900_002].into_iter().collect();
        for compare in [false, true] {
            let target = MemoryDisk::new("target", MIB);
            target.write_at(&vec![7; MIB as usize], 0).expect("newer bytes");
            let request = RestoreRequest {
                repository: &place.repository,
                index: &index,
                disk: &disk,
                target: &target,
                existing: if compare { Existing::Compare(&target) } else { Existing::Unknown },
                ranges: Some(&ranges),
                threads: 1,
            };
            restore(&request, &Job::default()).expect("restored");
            let (mut saved, mut found) = (vec![0; MIB as usize], vec![0; MIB as usize]);
            source.read_at(&mut saved, 0).expect("read");
            target.read_at(&mut found, 0).expect("read");
            for (at, (saved, found)) in (0..).zip(saved.iter().zip(&found)) {
                let expected = if ranges.touches(at..at + 1) { saved } else { &7 };
                assert_eq!(found, expected, "byte {at}");
            }
        }
    }
}
