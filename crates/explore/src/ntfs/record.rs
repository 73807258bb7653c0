//! File records of the master file table, and the attributes in them.

use crate::{
    Result,
    bytes::{le16, le32, le64, part, u8_at},
    volume::Volume,
};

/// Every so many bytes of a record end with a number that tells a torn write, whatever the disk's sectors are.
const STRIDE: usize = 512;
pub(super) const RECORD_MASK: u64 = (1 << 48) - 1;

pub(super) mod kind {
    pub(crate) const STANDARD_INFORMATION: u32 = 0x10;
    pub(crate) const ATTRIBUTE_LIST: u32 = 0x20;
    pub(crate) const FILE_NAME: u32 = 0x30;
    pub(crate) const SECURITY_DESCRIPTOR: u32 = 0x50;
    pub(crate) const VOLUME_NAME: u32 = 0x60;
    pub(crate) const VOLUME_INFORMATION: u32 = 0x70;
    pub(crate) const DATA: u32 = 0x80;
    pub(crate) const INDEX_ROOT: u32 = 0x90;
    pub(crate) const INDEX_ALLOCATION: u32 = 0xa0;
    pub(crate) const BITMAP: u32 = 0xb0;
    pub(crate) const REPARSE_POINT: u32 = 0xc0;
    pub(crate) const EA: u32 = 0xe0;
    pub(super) const END: u32 = u32::MAX;
}

pub(super) mod flag {
    pub(crate) const COMPRESSED: u16 = 0x00ff;
    pub(crate) const ENCRYPTED: u16 = 0x4000;
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) number: u64,
    bytes: Vec<u8>,
}

impl Record {
    /// Takes the bytes of a record as they lie on disk.
    pub(super) fn parse(volume: &Volume, number: u64, mut bytes: Vec<u8>) -> Result<Self> {
        if !bytes.starts_with(b"FILE") {
            return Err(volume.damaged(format!("record {number} of the master file table is none")));
        }
        if !mend(&mut bytes) {
            return Err(
                volume.damaged(format!("record {number} of the master file table was not written whole"))
            );
        }
        Ok(Self { number, bytes })
    }

    pub(super) fn sequence(&self) -> u16 {
        le16(&self.bytes, 0x10)
    }

    pub(super) fn is_in_use(&self) -> bool {
        le16(&self.bytes, 0x16) & 1 != 0
    }

    pub(super) fn is_directory(&self) -> bool {
        le16(&self.bytes, 0x16) & 2 != 0
    }

    /// The record that this one goes on from; zero when it is the first of its file.
    pub(super) fn base(&self) -> u64 {
        le64(&self.bytes, 0x20) & RECORD_MASK
    }

    pub(super) fn reference(&self) -> u64 {
        self.number | u64::from(self.sequence()) << 48
    }

    /// Up to the end, or to what makes no sense.
    pub(super) fn attributes(&self) -> impl Iterator<Item = Attribute<'_>> {
        let mut at = usize::from(le16(&self.bytes, 0x14));
        std::iter::from_fn(move || {
            let length = le32(&self.bytes, at.checked_add(4)?) as usize;
            if le32(&self.bytes, at) == kind::END || length < 0x18 || !length.is_multiple_of(8) {
                return None;
            }
            let bytes = part(&self.bytes, at, length)?;
            at += length;
            Some(Attribute { bytes })
        })
    }
}

/// Puts back what the numbers at the end of each stride replaced. Whether all of it was written at once.
pub(super) fn mend(bytes: &mut [u8]) -> bool {
    let (offset, count) = (usize::from(le16(bytes, 4)), usize::from(le16(bytes, 6)));
    let strides = bytes.len() / STRIDE;
    let Some(array) = part(bytes, offset, count * 2).map(<[u8]>::to_vec) else { return false };
    if count != strides + 1 || strides == 0 {
        return false;
    }
    let (number, originals) = array.split_at(2);
    for (stride, original) in bytes.chunks_exact_mut(STRIDE).zip(originals.chunks_exact(2)) {
        let end = &mut stride[STRIDE - 2..];
        if end != number {
            return false;
        }
        end.copy_from_slice(original);
    }
    true
}

/// One attribute, or a piece of one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attribute<'a> {
    bytes: &'a [u8],
}

impl<'a> Attribute<'a> {
    pub(super) fn kind(&self) -> u32 {
        le32(self.bytes, 0)
    }

    pub(super) fn flags(&self) -> u16 {
        le16(self.bytes, 0xc)
    }

    pub(super) fn id(&self) -> u16 {
        le16(self.bytes, 0xe)
    }

    /// UTF-16, as it lies there.
    pub(super) fn name(&self) -> &'a [u8] {
        part(self.bytes, le16(self.bytes, 0xa).into(), 2 * usize::from(u8_at(self.bytes, 9)))
            .unwrap_or_default()
    }

    pub(super) fn is_resident(&self) -> bool {
        u8_at(self.bytes, 8) == 0
    }

    /// What lies in the record itself.
    pub(super) fn value(&self) -> Option<&'a [u8]> {
        part(self.bytes, le16(self.bytes, 0x14).into(), le32(self.bytes, 0x10) as usize)
            .filter(|_| self.is_resident())
    }

    pub(super) fn first_cluster(&self) -> u64 {
        if self.is_resident() { 0 } else { le64(self.bytes, 0x10) }
    }

    pub(super) fn unit_shift(&self) -> u8 {
        u8_at(self.bytes, 0x22)
    }

    pub(super) fn allocated_bytes(&self) -> u64 {
        if self.flags() != 0 && le16(self.bytes, 0x20) >= 0x48 {
            le64(self.bytes, 0x40)
        } else {
            le64(self.bytes, 0x28)
        }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        le64(self.bytes, 0x30)
    }

    pub(super) fn initialized_bytes(&self) -> u64 {
        le64(self.bytes, 0x38)
    }

    /// Where its clusters lie, encoded.
    pub(super) fn mapping(&self) -> &'a [u8] {
        self.bytes
            .get(usize::from(le16(self.bytes, 0x20))..)
            .filter(|_| !self.is_resident())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn torn_writes_are_seen() {
        let mut record = vec![0; 1024];
        record[4..8].copy_from_slice(&[0x30, 0, 3, 0]);
        record[0x30..0x36].copy_from_slice(&[7, 7, 1, 2, 3, 4]);
        record[510..512].copy_from_slice(&[7, 7]);
        record[1022..].copy_from_slice(&[7, 7]);
        let mut whole = record.clone();
        assert!(mend(&mut whole));
        assert_eq!((&whole[510..512], &whole[1022..]), (&[1, 2][..], &[3, 4][..]));
        let mut torn = record.clone();
        torn[1022] = 6;
        assert!(!mend(&mut torn));
        let mut outside = record;
        outside[4..6].copy_from_slice(&[0xff, 0xff]);
        assert!(!mend(&mut outside));
    }
}
