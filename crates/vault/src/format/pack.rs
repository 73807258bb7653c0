//! Packs: many sealed blobs in one file, and at its end what they are.
//!
//! restic's design document, "Pack Format": `blobs || sealed header || length of the sealed header (u32, little
//! endian)`. A header has an entry of 37 or 41 bytes per blob, in the order of the blobs: type, sealed length, plain
//! length when compressed, SHA-256 of the plain content. The offsets are the sums of the lengths: blobs have no gaps.

use std::ops::Range;

use super::FormatError;
use crate::{BlobId, crypto::SEAL_OVERHEAD};

/// Bytes of the length at the very end of a pack.
pub const LENGTH_BYTES: usize = 4;
/// The most bytes that a sealed header may have, 16 MiB: restic's limit.
pub const MAX_HEADER_BYTES: u32 = 16 * 1024 * 1024;
/// Bytes of a header's entry of a blob that is stored as it is.
pub const PLAIN_ENTRY_BYTES: usize = 1 + 4 + 32;
/// Bytes of a header's entry of a compressed blob.
pub const COMPRESSED_ENTRY_BYTES: usize = PLAIN_ENTRY_BYTES + 4;
/// The most blobs that a pack may have, so that its header is within the limit.
pub const MAX_BLOBS: usize = (MAX_HEADER_BYTES as usize - SEAL_OVERHEAD) / COMPRESSED_ENTRY_BYTES;

const WHAT: &str = "header of a pack";

/// What a blob is part of. A pack has blobs of one kind only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlobKind {
    /// Content of files.
    Data,
    /// A directory.
    Tree,
}

/// A blob's place in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackBlob {
    pub id: BlobId,
    pub kind: BlobKind,
    /// Bytes from the start of the pack.
    pub offset: u32,
    /// Bytes in the pack: sealed.
    pub length: u32,
    /// Bytes once decompressed; `None` for a blob that is stored as it is.
    pub uncompressed_length: Option<u32>,
}

impl PackBlob {
    /// Bytes of the plain content.
    pub fn plain_length(&self) -> u32 {
        self.uncompressed_length.unwrap_or(self.length.saturating_sub(SEAL_OVERHEAD as u32))
    }
}

/// The plain header of a pack of `blobs`, which lie in this order and without gaps from the start of the pack. It is
/// to be sealed and followed by the sealed length.
pub fn header(blobs: &[PackBlob]) -> Vec<u8> {
    let mut out = Vec::with_capacity(blobs.len() * COMPRESSED_ENTRY_BYTES);
    for blob in blobs {
        // A length of zero cannot be told from "not compressed" by restic.
        let uncompressed = blob.uncompressed_length.filter(|length| *length != 0);
        out.push(match (blob.kind, uncompressed) {
            (BlobKind::Data, None) => 0,
            (BlobKind::Tree, None) => 1,
            (BlobKind::Data, Some(_)) => 2,
            (BlobKind::Tree, Some(_)) => 3,
        });
        out.extend_from_slice(&blob.length.to_le_bytes());
        if let Some(length) = uncompressed {
            out.extend_from_slice(&length.to_le_bytes());
        }
        out.extend_from_slice(&blob.id.0);
    }
    out
}

/// The blobs that a plain header lists. They must fill the pack exactly up to `blobs_end`, where the sealed header
/// begins (see [`header_position`]).
pub fn parse_header(plain: &[u8], blobs_end: u64) -> Result<Vec<PackBlob>, FormatError> {
    let mut blobs = Vec::with_capacity(plain.len() / PLAIN_ENTRY_BYTES);
    let (mut rest, mut end) = (plain, 0_u64);
    while !rest.is_empty() {
        let number = blobs.len();
        let (blob, after) = parse_entry(rest, end).ok_or_else(|| {
            FormatError::invalid(WHAT, format!("entry {number} is cut off or out of range"))
        })?;
        end += u64::from(blob.length);
        blobs.push(blob);
        rest = after;
    }
    if end != blobs_end {
        let why = format!("its blobs have {end} bytes, but {blobs_end} are there");
        return Err(FormatError::invalid(WHAT, why));
    }
    Ok(blobs)
}

fn parse_entry(entry: &[u8], offset: u64) -> Option<(PackBlob, &[u8])> {
    let (&[kind], rest) = entry.split_first_chunk()?;
    let (length, rest) = rest.split_first_chunk()?;
    let (kind, compressed) = match kind {
        0 => (BlobKind::Data, false),
        1 => (BlobKind::Tree, false),
        2 => (BlobKind::Data, true),
        3 => (BlobKind::Tree, true),
        _ => return None,
    };
    let (uncompressed_length, rest) = if compressed {
        let (length, rest) = rest.split_first_chunk()?;
        (Some(u32::from_le_bytes(*length)).filter(|length| *length != 0), rest)
    } else {
        (None, rest)
    };
    let (id, rest) = rest.split_first_chunk()?;
    let length = u32::from_le_bytes(*length);
    if (length as usize) < SEAL_OVERHEAD {
        return None;
    }
    let offset = u32::try_from(offset).ok()?;
    Some((PackBlob { id: BlobId(*id), kind, offset, length, uncompressed_length }, rest))
}

/// Where the sealed header lies in a pack of `pack_length` bytes whose last four are `tail`; it starts where the blobs
/// end.
pub fn header_position(tail: [u8; LENGTH_BYTES], pack_length: u64) -> Result<Range<u64>, FormatError> {
    let length = u32::from_le_bytes(tail);
    let why = if (length as usize) < SEAL_OVERHEAD + PLAIN_ENTRY_BYTES {
        format!("its length, {length} bytes, is too short")
    } else if length > MAX_HEADER_BYTES {
        format!("its length, {length} bytes, is above the limit of {MAX_HEADER_BYTES}")
    } else {
        let place = pack_length
            .checked_sub(LENGTH_BYTES as u64)
            .and_then(|end| end.checked_sub(length.into()).map(|start| start..end));
        match place {
            Some(place) => return Ok(place),
            None => format!("its length, {length} bytes, is above that of the pack, {pack_length}"),
        }
    };
    Err(FormatError::invalid(WHAT, why))
}
