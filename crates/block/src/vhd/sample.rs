//! Small VHD images, made byte by byte: for tests of what an image may say, which no program would write.

use super::header::{COOKIE, FOOTER_BYTES, HEADER_BYTES, sum};

pub(crate) const BLOCK: u64 = 4096;
/// Behind the copy of the footer and the header.
pub(crate) const TABLE_AT: u64 = 1536;
/// In sectors: behind the table.
pub(crate) const FIRST: u32 = 4;
/// Of a block: its bitmap, and its bytes.
pub(crate) const STEP: u32 = 9;

pub(crate) fn footer(kind: u8, size_bytes: u64, id: u8) -> Vec<u8> {
    let mut bytes = vec![0; FOOTER_BYTES];
    bytes[..8].copy_from_slice(COOKIE);
    bytes[12..16].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
    let header = if kind == 2 { u64::MAX } else { FOOTER_BYTES as u64 };
    bytes[16..24].copy_from_slice(&header.to_be_bytes());
    bytes[48..56].copy_from_slice(&size_bytes.to_be_bytes());
    bytes[63] = kind;
    bytes[68..84].fill(id);
    seal_at(&mut bytes, 0, FOOTER_BYTES, 64);
    bytes
}

pub(crate) fn fixed(disk: &[u8]) -> Vec<u8> {
    [disk, &footer(2, disk.len() as u64, 1)].concat()
}

/// A disk of 8 blocks and 100 bytes that grows, with this table; so many blocks follow, full of their number, from 1 on.
pub(crate) fn dynamic(table: &[u32], blocks: u8) -> Vec<u8> {
    growing(3, 1, table, blocks, &[])
}

/// The same over a parent with the identity 1. Of each block's sectors the first byte of the bitmap tells.
pub(crate) fn differencing(table: &[u32], blocks: u8, names: &[([u8; 4], &str)]) -> Vec<u8> {
    growing(4, 2, table, blocks, names)
}

fn growing(kind: u8, id: u8, table: &[u32], blocks: u8, names: &[([u8; 4], &str)]) -> Vec<u8> {
    let footer = footer(kind, 8 * BLOCK + 100, id);
    let mut header = vec![0; HEADER_BYTES];
    header[..8].copy_from_slice(b"cxsparse");
    header[8..16].fill(0xff);
    header[16..24].copy_from_slice(&TABLE_AT.to_be_bytes());
    header[24..28].copy_from_slice(&0x0001_0000_u32.to_be_bytes());
    header[28..32].copy_from_slice(&9_u32.to_be_bytes());
    header[32..36].copy_from_slice(&(BLOCK as u32).to_be_bytes());
    header[40..56].fill(1);
    let mut entries = vec![0xff; 512];
    for (number, entry) in table.iter().enumerate() {
        entries[4 * number..4 * number + 4].copy_from_slice(&entry.to_be_bytes());
    }
    let mut content = Vec::new();
    for block in 1..=blocks {
        let mut bitmap = vec![0; 512];
        bitmap[0] = 0b1010_0001;
        content.extend(bitmap);
        content.extend(vec![block; BLOCK as usize]);
    }
    for (number, (code, name)) in names.iter().enumerate() {
        let text: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let place = TABLE_AT as usize + entries.len() + content.len();
        let entry = 576 + 24 * number;
        header[entry..entry + 4].copy_from_slice(code);
        header[entry + 8..entry + 12].copy_from_slice(&(text.len() as u32).to_be_bytes());
        header[entry + 16..entry + 24].copy_from_slice(&(place as u64).to_be_bytes());
        content.extend(text);
    }
    seal_at(&mut header, 0, HEADER_BYTES, 36);
    [footer.clone(), header, entries, content, footer].concat()
}

fn seal_at(bytes: &mut [u8], begin: usize, length: usize, hole: usize) {
    if let Some(part) = begin.checked_add(length).and_then(|end| bytes.get_mut(begin..end)) {
        let right = sum(part, hole).to_be_bytes();
        part[hole..hole + 4].copy_from_slice(&right);
    }
}

/// Makes the sums right that a reader looks at.
pub(crate) fn seal(bytes: &mut [u8]) {
    let end = bytes.len().saturating_sub(FOOTER_BYTES);
    seal_at(bytes, end, FOOTER_BYTES, 64);
    seal_at(bytes, 0, FOOTER_BYTES, 64);
    seal_at(bytes, FOOTER_BYTES, HEADER_BYTES, 36);
}

/// One of each kind, and whether something is below it.
pub(crate) fn all() -> Vec<(bool, Vec<u8>)> {
    let names = [(*b"W2ru", ".\\base.vhd"), (*b"W2ku", "C:\\base.vhd")];
    let table = [FIRST, u32::MAX, FIRST + STEP];
    vec![
        (false, fixed(&[7; 1000])),
        (false, dynamic(&[FIRST, FIRST + STEP, u32::MAX, FIRST + 2 * STEP], 3)),
        (true, differencing(&table, 2, &names)),
    ]
}
