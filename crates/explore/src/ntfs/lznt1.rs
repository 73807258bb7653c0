//! LZNT1, the compression of NTFS: chunks of 4 KiB, in each of them bytes and copies of what came before.

use crate::bytes::{le16, u8_at};

const CHUNK_BYTES: usize = 4096;

/// Unpacks all chunks into `out`. What they do not fill stays zero. Whether the input made sense.
pub(super) fn unpack(mut packed: &[u8], out: &mut [u8]) -> bool {
    out.fill(0);
    for chunk in out.chunks_mut(CHUNK_BYTES) {
        let head = le16(packed, 0);
        if head == 0 {
            return true;
        }
        let length = usize::from(head & 0xfff) + 1;
        let Some(body) = packed.get(2..2 + length) else { return false };
        packed = &packed[2 + length..];
        if head & 0x8000 == 0 {
            let Some(place) = chunk.get_mut(..length) else { return false };
            place.copy_from_slice(body);
        } else if !unpack_chunk(body, chunk) {
            return false;
        }
    }
    true
}

fn unpack_chunk(body: &[u8], chunk: &mut [u8]) -> bool {
    let (mut at, mut done) = (0, 0);
    while at < body.len() {
        let flags = body[at];
        at += 1;
        for bit in 0..8 {
            if at >= body.len() {
                return true;
            }
            if flags >> bit & 1 == 0 {
                let Some(place) = chunk.get_mut(done) else { return false };
                *place = u8_at(body, at);
                (at, done) = (at + 1, done + 1);
                continue;
            }
            if at + 2 > body.len() || done == 0 {
                return false;
            }
            let token = usize::from(le16(body, at));
            at += 2;
            // The further in the chunk, the more bits say how far back, and the fewer how much.
            let back_bits = (usize::BITS - (done - 1).leading_zeros()).max(4);
            let length_bits = 16 - back_bits;
            let (back, length) = ((token >> length_bits) + 1, (token & ((1 << length_bits) - 1)) + 3);
            if back > done || done + length > chunk.len() {
                return false;
            }
            for place in done..done + length {
                chunk[place] = chunk[place - back];
            }
            done += length;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_copies_and_raw_chunks() {
        // The example of the specification: "F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E ..."
        let packed = [
            0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47, 0x01,
            0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20, 0x05, 0x24,
            0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09, 0x16, 0x01, 0x48,
            0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01, 0x18, 0x90, 0x00,
        ];
        let expected = "F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D E E F# D E F# G F# D E \
                        F# G F# E D E A F# F# G A A G F# E D D E F# E D D\0";
        let mut out = vec![9; CHUNK_BYTES];
        assert!(unpack(&packed, &mut out));
        assert_eq!(std::str::from_utf8(&out[..expected.len()]), Ok(expected));
        assert!(out[expected.len()..].iter().all(|byte| *byte == 0));
        let mut out = [9; 8];
        assert!(unpack(&[2, 0x30, 1, 2, 3, 0, 0], &mut out));
        assert_eq!(out, [1, 2, 3, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn nonsense_is_told_and_harmless() {
        let mut out = [0; 16];
        assert!(!unpack(&[0xff, 0xbf, 1], &mut out), "cut off");
        assert!(!unpack(&[0x02, 0xb0, 1, 5, 0], &mut out), "a copy of nothing");
        assert!(!unpack(&[0x0f, 0x30, 1], &mut out), "cut off, raw");
        assert!(!unpack(&[0x03, 0xb0, 2, 1, 0xff, 0x0f], &mut out), "longer than the chunk");
    }

    proptest::proptest! {
        #[test]
        fn anything_may_be_unpacked(packed: Vec<u8>) {
            let mut out = vec![0; 3 * CHUNK_BYTES];
            unpack(&packed, &mut out);
        }
    }
}
