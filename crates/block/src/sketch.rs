//! A large file of which little is there, as few bytes: so that a fuzzer can change what counts of an image that begins
//! with megabytes of nothing.

use crate::{BlockTarget, MemoryDisk, fields::Fields};

const PAGE: u64 = 4096;

#[derive(Debug, Clone)]
pub(crate) struct Sketch {
    pub(crate) size_bytes: u64,
    pub(crate) pieces: Vec<(u64, Vec<u8>)>,
}

impl Sketch {
    pub(crate) fn new(size_bytes: u64) -> Self {
        Self { size_bytes, pieces: Vec::new() }
    }

    pub(crate) fn put(&mut self, offset: u64, bytes: &[u8]) {
        self.pieces.push((offset, bytes.to_vec()));
    }

    pub(crate) fn disk(&self, name: &str) -> MemoryDisk {
        let disk = MemoryDisk::new(name, self.size_bytes);
        for (offset, bytes) in self.pieces.iter().filter(|(offset, _)| *offset < self.size_bytes) {
            let room = (self.size_bytes - offset).min(bytes.len() as u64);
            disk.write_at(&bytes[..room as usize], *offset).expect("inside");
        }
        disk
    }

    /// Its size and then each piece: page, place in the page, length, bytes; all numbers have two bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let two = |number: u64| u16::try_from(number).expect("a small file").to_le_bytes();
        let mut all = two(self.size_bytes.div_ceil(PAGE)).to_vec();
        for (offset, bytes) in &self.pieces {
            for number in [offset / PAGE, offset % PAGE, bytes.len() as u64] {
                all.extend(two(number));
            }
            all.extend(bytes);
        }
        all
    }

    pub(crate) fn decode(bytes: &[u8]) -> Self {
        let fields = Fields(bytes);
        let mut found = Self::new(u64::from(fields.le16(0)) * PAGE);
        let mut at = 2;
        while at < bytes.len() {
            let offset = u64::from(fields.le16(at)) * PAGE + u64::from(fields.le16(at + 2)) % PAGE;
            let piece = fields.part(at + 6, fields.le16(at + 4).into());
            found.put(offset, piece);
            at += 6 + piece.len();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlockSource;

    #[test]
    fn written_and_read_it_is_the_same() {
        let mut sketch = Sketch::new(1 << 20);
        sketch.put(70_000, b"here");
        sketch.put((1 << 20) - 2, b"cut");
        let disk = Sketch::decode(&sketch.encode()).disk("sketch");
        let mut bytes = [0; 6];
        disk.read_at(&mut bytes, 69_999).expect("read");
        assert_eq!((&bytes, BlockSource::size_bytes(&disk)), (b"\0here\0", 1 << 20));
    }
}
