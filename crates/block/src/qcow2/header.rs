//! The first cluster of a qcow2 image, checked before anything in it is used.
//!
//! A pure function of bytes. It must never allocate by what the image says, nor let a number through that a later
//! multiplication could overflow with.

/// Enough for a header with all its extensions and the name of a backing file; QEMU keeps them in the first cluster.
pub const HEADER_BYTES_MAX: usize = 64 << 10;

const MAGIC: u32 = u32::from_be_bytes(*b"QFI\xfb");
/// QEMU's own limits.
const L1_BYTES_MAX: u64 = 32 << 20;
const BACKING_NAME_MAX: u32 = 1023;

const INCOMPATIBLE_DIRTY: u64 = 1;
const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
const INCOMPATIBLE_COMPRESSION: u64 = 1 << 3;
const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
const INCOMPATIBLE_KNOWN: u64 = (1 << 5) - 1;

const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Zlib,
    Zstd,
}

/// What a reader needs of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub version: u32,
    pub cluster_bits: u32,
    pub size_bytes: u64,
    pub l1_offset: u64,
    /// Entries that the disk's size needs; the table may be longer.
    pub l1_entries: u64,
    pub backing_name: Option<String>,
    pub backing_format: Option<String>,
    pub compression: Compression,
    pub extended_l2: bool,
    pub external_data: bool,
    pub data_file_name: Option<String>,
    /// It was not closed; reference counts may be wrong, which a reader does not use.
    pub dirty: bool,
    /// QEMU found it damaged and marked it so.
    pub corrupt: bool,
}

/// Why a header is refused, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderError {
    Damaged(u64, String),
    Unsupported(String),
}

use HeaderError::{Damaged, Unsupported};

impl Header {
    #[must_use]
    pub fn cluster_bytes(&self) -> u64 {
        1 << self.cluster_bits
    }

    /// How many bytes of the disk one L2 table describes.
    #[must_use]
    pub fn l2_covers(&self) -> u64 {
        self.l2_entries() << self.cluster_bits
    }

    #[must_use]
    pub fn l2_entries(&self) -> u64 {
        self.cluster_bytes() / self.l2_entry_bytes()
    }

    #[must_use]
    pub fn l2_entry_bytes(&self) -> u64 {
        if self.extended_l2 { 16 } else { 8 }
    }

    /// Whether these are the first bytes of a qcow2 image, whatever is wrong with the rest.
    #[must_use]
    pub fn is_magic(bytes: &[u8]) -> bool {
        be32(bytes, 0) == Ok(MAGIC)
    }

    /// Reads the image's first bytes: all of it, or [`HEADER_BYTES_MAX`].
    pub fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        if be32(bytes, 0)? != MAGIC {
            return Err(Damaged(0, "it is no qcow2 image".into()));
        }
        let version = be32(bytes, 4)?;
        if !(2..=3).contains(&version) {
            return Err(Unsupported(format!("is a qcow2 image of version {version}; known are 2 and 3")));
        }
        let cluster_bits = be32(bytes, 20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(Damaged(20, format!("clusters of 2^{cluster_bits} bytes")));
        }
        match be32(bytes, 32)? {
            0 => {}
            method => return Err(Unsupported(format!("is encrypted (method {method}); it cannot be read"))),
        }
        let (incompatible, header_length, compression) = if version == 2 {
            (0, 72, Compression::Zlib)
        } else {
            let (incompatible, header_length) = (be64(bytes, 72)?, be32(bytes, 100)?);
            (incompatible, header_length, features(bytes, incompatible, header_length)?)
        };
        let mut header = Self {
            version,
            cluster_bits,
            size_bytes: be64(bytes, 24)?,
            l1_offset: be64(bytes, 40)?,
            l1_entries: 0,
            backing_name: backing_name(bytes)?,
            backing_format: None,
            compression,
            extended_l2: incompatible & INCOMPATIBLE_EXTENDED_L2 != 0,
            external_data: incompatible & INCOMPATIBLE_DATA_FILE != 0,
            data_file_name: None,
            dirty: incompatible & INCOMPATIBLE_DIRTY != 0,
            corrupt: incompatible & INCOMPATIBLE_CORRUPT != 0,
        };
        if header.extended_l2 && cluster_bits < 14 {
            return Err(Damaged(
                20,
                format!("clusters of 2^{cluster_bits} bytes are too small for subclusters"),
            ));
        }
        header.check_table(be32(bytes, 36)?)?;
        header.read_extensions(bytes, u64::from(header_length))?;
        Ok(header)
    }

    /// The table of tables: large enough for the disk, small enough for the memory.
    fn check_table(&mut self, entries: u32) -> Result<(), HeaderError> {
        if self.size_bytes > i64::MAX.cast_unsigned() {
            return Err(Damaged(24, format!("a disk of {} bytes", self.size_bytes)));
        }
        self.l1_entries = self.size_bytes.div_ceil(self.l2_covers());
        if self.l1_entries * 8 > L1_BYTES_MAX {
            return Err(Damaged(24, format!("{} bytes are too many for this cluster size", self.size_bytes)));
        }
        if self.l1_entries > u64::from(entries) {
            return Err(Damaged(36, format!("{entries} L1 entries do not cover {} bytes", self.size_bytes)));
        }
        let in_header = self.l1_offset < self.cluster_bytes();
        if self.l1_entries > 0 && (in_header || self.l1_offset & (self.cluster_bytes() - 1) != 0) {
            return Err(Damaged(40, format!("an L1 table at byte {}", self.l1_offset)));
        }
        Ok(())
    }

    fn read_extensions(&mut self, bytes: &[u8], start: u64) -> Result<(), HeaderError> {
        // They end at the latest where the name of the backing file begins, or with the first cluster.
        let limit = match be64(bytes, 8)? {
            0 => self.cluster_bytes(),
            name => name.min(self.cluster_bytes()),
        };
        let mut at = usize::try_from(start).unwrap_or(usize::MAX);
        while (at as u64).saturating_add(8) <= limit {
            let (kind, length) = (be32(bytes, at)?, be32(bytes, at + 4)? as usize);
            if kind == EXTENSION_END {
                return Ok(());
            }
            let Some(body) = bytes.get(at + 8..).and_then(|rest| rest.get(..length)) else {
                return Err(Damaged(at as u64, format!("a header extension of {length} bytes")));
            };
            match kind {
                EXTENSION_BACKING_FORMAT => self.backing_format = Some(text(body, at)?),
                EXTENSION_DATA_FILE => self.data_file_name = Some(text(body, at)?),
                _ => {}
            }
            at += 8 + length.next_multiple_of(8);
        }
        Ok(())
    }
}

/// Refuses what cannot be read rightly; gives the kind of compression.
fn features(bytes: &[u8], incompatible: u64, header_length: u32) -> Result<Compression, HeaderError> {
    if incompatible & !INCOMPATIBLE_KNOWN != 0 {
        let unknown = incompatible & !INCOMPATIBLE_KNOWN;
        return Err(Unsupported(format!("needs features of qcow2 that are not known here ({unknown:#x})")));
    }
    let least = if incompatible & INCOMPATIBLE_COMPRESSION != 0 { 112 } else { 104 };
    if header_length < least || header_length as usize > HEADER_BYTES_MAX || !header_length.is_multiple_of(8)
    {
        return Err(Damaged(100, format!("a header of {header_length} bytes")));
    }
    if incompatible & INCOMPATIBLE_COMPRESSION == 0 {
        return Ok(Compression::Zlib);
    }
    match bytes.get(104) {
        Some(0) => Ok(Compression::Zlib),
        Some(1) => Ok(Compression::Zstd),
        other => Err(Unsupported(format!("is compressed in a way that is not known here ({other:?})"))),
    }
}

fn backing_name(bytes: &[u8]) -> Result<Option<String>, HeaderError> {
    let (offset, length) = (be64(bytes, 8)?, be32(bytes, 16)?);
    if offset == 0 || length == 0 {
        return Ok(None);
    }
    if length > BACKING_NAME_MAX {
        return Err(Damaged(16, format!("a backing file's name of {length} bytes")));
    }
    let at = usize::try_from(offset).unwrap_or(usize::MAX);
    match bytes.get(at..).and_then(|rest| rest.get(..length as usize)) {
        Some(name) => text(name, at).map(Some),
        None => Err(Damaged(8, format!("a backing file's name at byte {offset}"))),
    }
}

fn text(bytes: &[u8], at: usize) -> Result<String, HeaderError> {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(Damaged(at as u64, "a name that is no text".into())),
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Result<[u8; N], HeaderError> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or_else(|| Damaged(at as u64, "the header ends here".into()))
}

fn be32(bytes: &[u8], at: usize) -> Result<u32, HeaderError> {
    array(bytes, at).map(u32::from_be_bytes)
}

fn be64(bytes: &[u8], at: usize) -> Result<u64, HeaderError> {
    array(bytes, at).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A version 3 header of an empty 1 GiB disk.
    fn good() -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        bytes[..4].copy_from_slice(b"QFI\xfb");
        bytes[4..8].copy_from_slice(&3_u32.to_be_bytes());
        bytes[20..24].copy_from_slice(&16_u32.to_be_bytes());
        bytes[24..32].copy_from_slice(&(1_u64 << 30).to_be_bytes());
        bytes[36..40].copy_from_slice(&2_u32.to_be_bytes());
        bytes[40..48].copy_from_slice(&0x30000_u64.to_be_bytes());
        bytes[100..104].copy_from_slice(&112_u32.to_be_bytes());
        bytes
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Header::parse(&bytes);
        }

        #[test]
        fn a_header_with_errors_never_panics(
            changes in prop::collection::vec((0..200_usize, any::<u8>()), 1..6),
            cut in 0..1024_usize,
        ) {
            let mut bytes = good();
            for (at, value) in changes {
                bytes[at] = value;
            }
            let _ = Header::parse(&bytes);
            let _ = Header::parse(&bytes[..cut]);
        }
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        assert_eq!(Header::parse(&good()).expect("good").l1_entries, 2);
        for (at, value, expected) in [
            (35, 1, "encrypted"),
            (7, 4, "version 4"),
            (79, 0x20, "not known here"),
            (23, 22, "2^22"),
            (23, 8, "2^8"),
            (24, 0x80, "a disk of"),
            (24, 0x7f, "too many"),
            (39, 1, "do not cover"),
            (47, 1, "an L1 table"),
            (103, 8, "a header of 8"),
        ] {
            let mut bytes = good();
            bytes[at] = value;
            let error = format!("{:?}", Header::parse(&bytes).expect_err("refused"));
            assert!(error.contains(expected), "{error}");
        }
    }
}
