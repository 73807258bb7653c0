//! Numbers and texts at fixed places of a structure that was read as a whole.
//!
//! Behind the end of the bytes there are zeroes, so that a wrong place is never a panic. Who must know whether a
//! structure is whole checks its length first.

use crate::Guid;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Fields<'a> {
    pub(crate) fn array<const N: usize>(self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        for (place, byte) in bytes.iter_mut().zip(self.0.get(at..).unwrap_or_default()) {
            *place = *byte;
        }
        bytes
    }

    /// At most `length` bytes.
    pub(crate) fn part(self, at: usize, length: usize) -> &'a [u8] {
        let rest = self.0.get(at..).unwrap_or_default();
        &rest[..length.min(rest.len())]
    }

    pub(crate) fn le16(self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(crate) fn le32(self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(crate) fn le64(self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    pub(crate) fn be32(self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    pub(crate) fn be64(self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }

    pub(crate) fn guid(self, at: usize) -> Guid {
        Guid(self.array(at))
    }
}

/// UTF-16 up to its first zero; none if it is no text.
pub(crate) fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16) -> Option<String> {
    let units = bytes.as_chunks::<2>().0.iter().map(|pair| unit(*pair)).take_while(|unit| *unit != 0);
    char::decode_utf16(units).collect::<Result<String, _>>().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_the_end_is_zero() {
        let fields = Fields(&[1, 2, 3]);
        assert_eq!((fields.le32(1), fields.be32(1), fields.le16(9)), (0x0302, 0x0203_0000, 0));
        assert_eq!((fields.part(1, 9), fields.part(4, 1)), (&[2, 3][..], &[][..]));
        assert_eq!(fields.le64(usize::MAX), 0);
    }

    #[test]
    fn texts_end_with_a_zero() {
        assert_eq!(utf16(b"a\0b\0\0\0c\0", u16::from_le_bytes).as_deref(), Some("ab"));
        assert_eq!(utf16(b"\0a\0bx", u16::from_be_bytes).as_deref(), Some("ab"));
        assert_eq!(utf16(&[0, 0xd8, b'a', 0], u16::from_le_bytes), None);
    }
}
