//! Where a disk of a point has holes: for who copies it sparsely, or tells how much of it is there.
//!
//! Answered from the lists of chunks alone. What was lost counts as data, so that it is come upon and not skipped.

use crate::{VaultError, reader::PointDisk};

impl PointDisk {
    /// The first byte from `offset` on that is no hole. None: there is none.
    pub fn next_data(&self, offset: u64) -> Result<Option<u64>, VaultError> {
        self.next(offset, false)
    }

    /// The first byte from `offset` on that is in a hole; the disk's end where there is none.
    pub fn next_hole(&self, offset: u64) -> Result<u64, VaultError> {
        Ok(self.next(offset, true)?.unwrap_or(self.geometry.size_bytes))
    }

    fn next(&self, offset: u64, hole: bool) -> Result<Option<u64>, VaultError> {
        for segment in offset / self.geometry.segment_bytes..self.geometry.segments() {
            let chunks = self.chunks_of(segment)?;
            let found =
                self.geometry.chunks(self.geometry.segment(segment)).zip(chunks.iter()).find(
                    |(range, chunk)| range.end > offset && self.is_hole(**chunk, range.clone()) == hole,
                );
            if let Some((range, _)) = found {
                return Ok(Some(range.start.max(offset)));
            }
        }
        Ok(None)
    }

    /// How many bytes of a segment are no holes.
    pub fn data_bytes(&self, segment: u64) -> Result<u64, VaultError> {
        let chunks = self.chunks_of(segment)?;
        let ranges = self.geometry.chunks(self.geometry.segment(segment)).zip(chunks.iter());
        let data = ranges.filter(|(range, chunk)| !self.is_hole(**chunk, range.clone()));
        Ok(data.map(|(range, _)| range.end - range.start).sum())
    }
}

#[cfg(test)]
mod tests {
    use nestling_block::{BlockTarget, MemoryDisk};

    use crate::testing::{MIB, Place, noise};

    const CHUNK: u64 = 128 << 10;

    #[test]
    fn holes_and_data_are_found_across_segments() {
        let place = Place::new();
        let size = 100 * MIB + 1000;
        let source = MemoryDisk::new("disk", size);
        source.write_at(&noise(1, 1000), MIB + 5).expect("data");
        source.write_at(&noise(2, 1000), size - 1000).expect("data");
        place.save_at("a", &source, 1);
        let disk = place.open(&place.points("a")[0]).expect("opened");
        let data = |offset| disk.next_data(offset).expect("data");
        let hole = |offset| disk.next_hole(offset).expect("a hole");
        assert_eq!((data(0), hole(0)), (Some(MIB), 0));
        assert_eq!((data(MIB + 7), hole(MIB + 7)), (Some(MIB + 7), MIB + CHUNK));
        assert_eq!((data(MIB + CHUNK), hole(MIB + CHUNK)), (Some(100 * MIB), MIB + CHUNK));
        assert_eq!((data(size - 1), hole(size - 1)), (Some(size - 1), size));
        assert_eq!((data(size), hole(size)), (None, size));
        let segments: Vec<u64> = (0..4).map(|segment| disk.data_bytes(segment).expect("counted")).collect();
        assert_eq!(segments, [CHUNK, 0, 0, 1000]);
        place.save_at("b", &MemoryDisk::new("disk", MIB), 1);
        let empty = place.open(&place.points("b")[0]).expect("opened");
        assert_eq!((empty.next_data(0).expect("data"), empty.next_hole(5).expect("a hole")), (None, 5));
    }
}
