//! One entry of an L2 table: where a cluster lies, as a pure function of its bytes.

use super::header::Header;

const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;
const COPIED: u64 = 1 << 63;
const COMPRESSED: u64 = 1 << 62;
const ZERO: u64 = 1;
pub(super) const SUBCLUSTERS: u64 = 32;

/// Where the bytes of a stretch inside one cluster are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Whatever is below this image: its backing file, or zeroes.
    Below,
    Zero,
    /// At this byte of the data file.
    At(u64),
    /// The whole cluster, packed into at most so many bytes from this byte on.
    Packed {
        offset: u64,
        length: u64,
    },
}

/// A whole entry; `bitmap` is the second half of an extended one.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    pub entry: u64,
    pub bitmap: u64,
}

impl Entry {
    /// What is at byte `inside` of its cluster, and to which byte that is so. An error says what is wrong.
    pub fn place(self, header: &Header, inside: u64) -> Result<(Place, u64), String> {
        let cluster = header.cluster_bytes();
        if self.entry & COMPRESSED != 0 {
            return self.packed(header).map(|place| (place, cluster));
        }
        let offset = self.entry & OFFSET_MASK;
        if offset & (cluster - 1) != 0 {
            return Err(format!("a cluster at byte {offset}, which is no multiple of {cluster}"));
        }
        // In a data file of its own, the first cluster may lie at byte 0; elsewhere the header is there.
        let allocated = offset != 0 || (header.external_data && self.entry & COPIED != 0);
        if header.extended_l2 {
            return self.subcluster(header, inside, allocated.then_some(offset));
        }
        let place = match (self.entry & ZERO != 0, allocated) {
            (true, _) if header.version == 2 => return Err("a zero cluster in an image of version 2".into()),
            (true, _) => Place::Zero,
            (false, true) => Place::At(offset + inside),
            (false, false) => Place::Below,
        };
        Ok((place, cluster))
    }

    fn packed(self, header: &Header) -> Result<Place, String> {
        if header.external_data {
            return Err("a compressed cluster in an image with a data file of its own".into());
        }
        let split = 62 - (header.cluster_bits - 8);
        let offset = self.entry & ((1 << split) - 1);
        let sectors = (self.entry & !(COPIED | COMPRESSED)) >> split;
        Ok(Place::Packed { offset, length: (sectors + 1) * 512 - offset % 512 })
    }

    fn subcluster(self, header: &Header, inside: u64, offset: Option<u64>) -> Result<(Place, u64), String> {
        let size = header.cluster_bytes() / SUBCLUSTERS;
        let (allocated, zero) = (self.bitmap & u64::from(u32::MAX), self.bitmap >> 32);
        if allocated & zero != 0 || (offset.is_none() && allocated != 0) {
            return Err(format!("subclusters that contradict each other ({:#x})", self.bitmap));
        }
        let state = |n: u64| (allocated >> n & 1, zero >> n & 1);
        let first = inside / size;
        let alike = (first..SUBCLUSTERS).take_while(|n| state(*n) == state(first)).count() as u64;
        let place = match (state(first), offset) {
            ((1, _), Some(offset)) => Place::At(offset + inside),
            ((_, 1), _) => Place::Zero,
            _ => Place::Below,
        };
        Ok((place, (first + alike) * size))
    }
}

/// Where an L2 table lies by its L1 entry; none if nothing of its part of the disk is here.
pub fn l2_offset(l1_entry: u64, header: &Header) -> Result<Option<u64>, String> {
    let offset = l1_entry & OFFSET_MASK;
    if offset & (header.cluster_bytes() - 1) != 0 {
        return Err(format!("an L2 table at byte {offset}, which is no multiple of the cluster size"));
    }
    Ok((offset != 0).then_some(offset))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::qcow2::header::Compression;

    fn header(cluster_bits: u32, extended_l2: bool, external_data: bool, version: u32) -> Header {
        Header {
            version,
            cluster_bits,
            size_bytes: 1 << 30,
            l1_offset: 0,
            l1_entries: 0,
            backing_name: None,
            backing_format: None,
            compression: Compression::Zlib,
            extended_l2,
            external_data,
            data_file_name: None,
            dirty: false,
            corrupt: false,
        }
    }

    proptest! {
        #[test]
        fn any_entry_gives_a_place_that_moves_on(
            entry: u64, bitmap: u64, bits in 14..=21_u32, extended: bool, external: bool,
            version in 2..=3_u32, inside: u64,
        ) {
            let header = header(bits, extended, external, version);
            let inside = inside % header.cluster_bytes();
            let _ = l2_offset(entry, &header);
            if let Ok((place, end)) = (Entry { entry, bitmap }).place(&header, inside) {
                prop_assert!(end > inside && end <= header.cluster_bytes());
                if let Place::Packed { length, .. } = place {
                    prop_assert!(length <= 2 * header.cluster_bytes() + 512);
                }
            }
        }
    }

    #[test]
    fn subclusters_of_one_state_are_one_stretch() {
        let header = header(16, true, false, 3);
        let entry = Entry { entry: 0x50000, bitmap: 0b11 | (0b100 << 32) };
        assert_eq!(entry.place(&header, 0), Ok((Place::At(0x50000), 4096)));
        assert_eq!(entry.place(&header, 100), Ok((Place::At(0x50064), 4096)));
        assert_eq!(entry.place(&header, 4096), Ok((Place::Zero, 6144)));
        assert_eq!(entry.place(&header, 6144), Ok((Place::Below, 65536)));
        assert!(Entry { entry: 0, bitmap: 1 }.place(&header, 0).is_err());
        assert!(Entry { entry: 0x50000, bitmap: 1 | 1 << 32 }.place(&header, 0).is_err());
    }
}
