//! Checksums of 32 bits, as disk formats have them: VHDX the polynomial of Castagnoli, GPT that of Ethernet.
//!
//! They tell damage from what is whole; whoever means harm computes them as well.

/// Reflected polynomials.
pub(crate) const CASTAGNOLI: Crc32 = Crc32::new(0x82f6_3b78);
pub(crate) const ETHERNET: Crc32 = Crc32::new(0xedb8_8320);

pub(crate) struct Crc32 {
    table: [u32; 256],
}

impl Crc32 {
    const fn new(polynomial: u32) -> Self {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut value = byte as u32;
            let mut bit = 0;
            while bit < 8 {
                value = if value & 1 == 1 { value >> 1 ^ polynomial } else { value >> 1 };
                bit += 1;
            }
            table[byte] = value;
            byte += 1;
        }
        Self { table }
    }

    /// Goes on with `bytes` after those that gave `before`; of nothing it is 0.
    pub(crate) fn update(&self, before: u32, bytes: &[u8]) -> u32 {
        !bytes.iter().fold(!before, |sum, byte| self.table[usize::from(sum as u8 ^ byte)] ^ sum >> 8)
    }

    /// Of `bytes` as if the four at `hole` were 0: where a structure keeps its own checksum.
    pub(crate) fn without(&self, bytes: &[u8], hole: usize) -> u32 {
        let (before, rest) = bytes.split_at(hole.min(bytes.len()));
        let after = rest.get(4..).unwrap_or_default();
        let sum = self.update(self.update(0, before), &[0; 4][..rest.len().min(4)]);
        self.update(sum, after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_sums() {
        assert_eq!(CASTAGNOLI.update(0, b"123456789"), 0xe306_9283);
        assert_eq!(ETHERNET.update(0, b"123456789"), 0xcbf4_3926);
        assert_eq!(ETHERNET.update(ETHERNET.update(0, b"1234"), b"56789"), 0xcbf4_3926);
        assert_eq!(ETHERNET.without(b"ab\x01\x02\x03\x04c", 2), ETHERNET.update(0, b"ab\0\0\0\0c"));
        assert_eq!(ETHERNET.without(b"ab\x01", 2), ETHERNET.update(0, b"ab\0"));
    }
}
