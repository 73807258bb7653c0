//! Small partition tables, made byte by byte: for tests of what a disk may say, which no program would write.

use crate::{BlockSource, BlockTarget, MemoryDisk, crc::ETHERNET, fields::Fields, sketch::Sketch};

/// Of the disks here.
pub(crate) const SIZE_BYTES: u64 = 4 << 20;

/// A sector with these entries: type, first sector, sectors.
pub(crate) fn mbr(entries: &[(u8, u32, u32)]) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    for (number, (id, first, sectors)) in entries.iter().enumerate() {
        let at = 446 + 16 * number;
        bytes[at + 4] = *id;
        bytes[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
        bytes[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
    }
    bytes[510..].copy_from_slice(&[0x55, 0xaa]);
    bytes
}

/// Two primary partitions and three logical ones.
pub(crate) fn logical() -> Sketch {
    let mut sketch = Sketch::new(SIZE_BYTES);
    sketch.put(0, &mbr(&[(7, 64, 64), (5, 1024, 4096), (0x83, 6000, 100)]));
    sketch.put(1024 * 512, &mbr(&[(0x83, 8, 16), (5, 512, 600)]));
    sketch.put((1024 + 512) * 512, &mbr(&[(0x82, 8, 32), (5, 2048, 600)]));
    sketch.put((1024 + 2048) * 512, &mbr(&[(0x8e, 8, 64)]));
    sketch
}

/// A table in front and at the end, with these entries: the first byte of the type, first and last sector, name.
pub(crate) fn gpt(sector_bytes: u64, entries: &[(u8, u64, u64, &str)]) -> Sketch {
    let mut sketch = Sketch::new(SIZE_BYTES);
    let last = SIZE_BYTES / sector_bytes - 1;
    sketch.put(0, &mbr(&[(0xee, 1, u32::MAX)]));
    let mut list = Vec::new();
    for (id, first, last, name) in entries {
        let mut entry = vec![*id; 16];
        entry.extend([list.len() as u8 + 1; 16]);
        entry.extend(first.to_le_bytes());
        entry.extend(last.to_le_bytes());
        entry.extend([0; 8]);
        entry.extend(name.encode_utf16().flat_map(u16::to_le_bytes));
        entry.resize(128, 0);
        list.extend(entry);
    }
    for (place, list_at) in [(1, 2), (last, last - 1)] {
        let mut header = b"EFI PART\0\0\x01\0".to_vec();
        header.extend(92_u32.to_le_bytes());
        header.extend([0; 8]);
        for number in [place, last + 1 - place, 3, last - 2] {
            header.extend(number.to_le_bytes());
        }
        header.extend([7; 16]);
        header.extend(list_at.to_le_bytes());
        for number in [entries.len() as u32, 128, 0] {
            header.extend(number.to_le_bytes());
        }
        sketch.put(place * sector_bytes, &header);
        sketch.put(list_at * sector_bytes, &list);
    }
    sketch
}

/// Makes all checksums right, of whatever is there.
pub(crate) fn seal(disk: &MemoryDisk) {
    let size_bytes = BlockSource::size_bytes(disk);
    for sector_bytes in [512, 4096] {
        for place in [1, (size_bytes / sector_bytes).saturating_sub(1)] {
            let mut header = vec![0; sector_bytes as usize];
            if disk.read_at(&mut header, place * sector_bytes).is_err() || !header.starts_with(b"EFI PART") {
                continue;
            }
            let fields = Fields(&header);
            let length = u64::from(fields.le32(80)).saturating_mul(fields.le32(84).into()).min(64 << 10);
            let mut list = vec![0; length as usize];
            if disk.read_at(&mut list, fields.le64(72).saturating_mul(sector_bytes)).is_ok() {
                header[88..92].copy_from_slice(&ETHERNET.update(0, &list).to_le_bytes());
            }
            let length = (Fields(&header).le32(12) as usize).min(header.len());
            let right = ETHERNET.without(&header[..length], 16).to_le_bytes();
            header[16..20].copy_from_slice(&right);
            disk.write_at(&header, place * sector_bytes).expect("inside");
        }
    }
}

pub(crate) fn disk(sketch: &Sketch) -> MemoryDisk {
    let disk = sketch.disk("disk");
    seal(&disk);
    disk
}

/// One of each kind.
pub(crate) fn all() -> Vec<Sketch> {
    let entries = [(9, 40, 99, "first"), (0, 0, 0, ""), (8, 200, 999, "second")];
    let mut whole = Sketch::new(SIZE_BYTES);
    whole.put(0, b"\xeb\x3c\x90mkfs.fat\0\x02\x04");
    whole.put(510, &[0x55, 0xaa]);
    vec![logical(), gpt(512, &entries), gpt(4096, &entries), whole]
}
