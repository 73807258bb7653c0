//! Small VMDK images, made byte by byte: for tests of what an image may say, which no program would write.

use std::io::Write;

pub(crate) const SECTOR: usize = 512;
/// A grain is one sector, and a table has this many entries.
pub(crate) const ENTRIES: usize = 4;
/// Sectors of header, descriptor, directory and two tables; grains come behind.
pub(crate) const FIRST: u32 = 5;

pub(crate) fn descriptor(lines: &str) -> Vec<u8> {
    format!("# Disk DescriptorFile\nversion=1\nCID=00000001\nparentCID=ffffffff\n{lines}").into_bytes()
}

/// A disk of two tables; so many grains follow, full of their number, from 1 on.
pub(crate) fn sparse(text: &[u8], entries: &[u32], grains: u8) -> Vec<u8> {
    let mut bytes = vec![0; FIRST as usize * SECTOR];
    bytes[..4].copy_from_slice(b"KDMV");
    bytes[4] = 1;
    bytes[8] = 1 << 2;
    bytes[12] = 2 * ENTRIES as u8;
    bytes[20] = 1;
    if !text.is_empty() {
        bytes[28] = 1;
        bytes[36] = 1;
    }
    bytes[44] = ENTRIES as u8;
    bytes[56] = 2;
    bytes[SECTOR..SECTOR + text.len()].copy_from_slice(text);
    for (number, table) in [3_u32, 4].into_iter().enumerate() {
        bytes[2 * SECTOR + 4 * number..][..4].copy_from_slice(&table.to_le_bytes());
    }
    for (number, entry) in entries.iter().enumerate() {
        let place = (3 + number / ENTRIES) * SECTOR + number % ENTRIES * 4;
        bytes[place..place + 4].copy_from_slice(&entry.to_le_bytes());
    }
    for grain in 1..=grains {
        bytes.extend([grain; SECTOR]);
    }
    bytes
}

/// The same with packed grains, one for each entry that is not 0, and with its header at the end.
pub(crate) fn packed(text: &[u8], entries: &[bool]) -> Vec<u8> {
    let mut places = Vec::new();
    let mut grains = Vec::new();
    for (number, _) in entries.iter().enumerate() {
        places.push(if entries[number] { FIRST + grains.len() as u32 / SECTOR as u32 } else { 0 });
        if entries[number] {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(&[number as u8 + 1; SECTOR]).expect("packed");
            let content = encoder.finish().expect("packed");
            grains.extend((number as u64).to_le_bytes());
            grains.extend((content.len() as u32).to_le_bytes());
            grains.extend(content);
            grains.resize(grains.len().next_multiple_of(SECTOR), 0);
        }
    }
    let mut bytes = sparse(text, &places, 0);
    bytes[4] = 3;
    bytes[8..12].copy_from_slice(&0x3_0001_u32.to_le_bytes());
    bytes[77] = 1;
    let footer = bytes[..SECTOR].to_vec();
    bytes[56..64].fill(0xff);
    bytes.extend(grains);
    bytes.extend(footer);
    bytes.extend([0; SECTOR]);
    bytes
}

/// VMFS sparse: no descriptor inside, and tables of 4096 entries.
pub(crate) fn esx(entries: &[u32], grains: u8) -> Vec<u8> {
    let mut bytes = vec![0; 34 * SECTOR];
    bytes[..4].copy_from_slice(b"COWD");
    bytes[4] = 1;
    bytes[12] = 8;
    bytes[16] = 1;
    bytes[20] = 1;
    bytes[SECTOR] = 2;
    for (number, entry) in entries.iter().enumerate() {
        bytes[2 * SECTOR + 4 * number..][..4].copy_from_slice(&entry.to_le_bytes());
    }
    for grain in 1..=grains {
        bytes.extend([grain; SECTOR]);
    }
    bytes
}

/// Sets of files: the first is the image, the next ones are called `a`, `b` and so on.
pub(crate) fn all() -> Vec<Vec<Vec<u8>>> {
    let plain = descriptor("RW 8 SPARSE \"x\"\n");
    let child =
        String::from_utf8(plain.clone()).expect("text").replace("parentCID=ffffffff", "parentCID=00000001");
    let child = format!("{child}parentFileNameHint=\"a\"\n").into_bytes();
    let several = "RW 2 FLAT \"a\" 1\nRW 3 ZERO\nRW 8 SPARSE \"b\"\nRW 2 VMFS \"a\"\nRW 8 VMFSSPARSE \"c\"\n";
    let grains = [FIRST, 0, 1, FIRST + 1, 0, FIRST + 2];
    vec![
        vec![sparse(&plain, &grains, 3)],
        vec![packed(&plain, &[true, false, true, true, false, false, false, true])],
        vec![sparse(&child, &grains, 3), sparse(&plain, &[FIRST; 8], 1)],
        vec![descriptor(several), vec![7; 2000], sparse(b"", &grains, 3), esx(&[34, 0, 35], 2)],
    ]
}
