//! Where what lies on a FAT volume, by its first sector.

use std::ops::Range;

use crate::{
    Result,
    bytes::{le16, le32, part, u8_at},
    detect::{Content, Kind},
    volume::Volume,
};

pub(super) const SLOT_BYTES: u64 = 32;
const CLUSTER_BYTES_MAX: u64 = 1 << 20;
/// Clusters begin with this number.
const FIRST: u64 = 2;

#[derive(Debug, Clone)]
pub(crate) struct Geometry {
    pub(super) kind: Kind,
    pub(super) cluster_bytes: u64,
    pub(super) clusters: u64,
    pub(super) size_bytes: u64,
    table: Range<u64>,
    /// The root of FAT12 and FAT16, which is no chain.
    pub(super) fixed_root: Range<u64>,
    pub(super) root_cluster: u32,
    data: u64,
    serial: u32,
    label: Vec<u8>,
}

impl Geometry {
    /// None when it is no first sector of FAT.
    pub(crate) fn parse(sector: &[u8]) -> Option<Self> {
        let sector_bytes = u64::from(le16(sector, 0xb));
        let per_cluster = u64::from(u8_at(sector, 0xd));
        let (reserved, tables) = (u64::from(le16(sector, 0xe)), u64::from(u8_at(sector, 0x10)));
        let root_bytes = u64::from(le16(sector, 0x11)) * SLOT_BYTES;
        let short_table = u64::from(le16(sector, 0x16));
        let is_32 = short_table == 0;
        let table_sectors = if is_32 { le32(sector, 0x24).into() } else { short_table };
        let sectors = match le16(sector, 0x13) {
            0 => u64::from(le32(sector, 0x20)),
            short => short.into(),
        };
        let media = u8_at(sector, 0x15);
        let jump = matches!(sector.first(), Some(0xeb | 0xe9));
        let sane = sector_bytes.is_power_of_two()
            && (512..=4096).contains(&sector_bytes)
            && per_cluster.is_power_of_two()
            && per_cluster * sector_bytes <= CLUSTER_BYTES_MAX
            && reserved > 0
            && (1..=4).contains(&tables)
            && (media == 0xf0 || media >= 0xf8)
            && jump;
        if !sane || table_sectors == 0 {
            return None;
        }
        let table = reserved * sector_bytes..(reserved + table_sectors) * sector_bytes;
        let root = (reserved + tables * table_sectors) * sector_bytes;
        let data = root + root_bytes.next_multiple_of(sector_bytes);
        let cluster_bytes = per_cluster * sector_bytes;
        let size_bytes = sectors * sector_bytes;
        let clusters = size_bytes.checked_sub(data)? / cluster_bytes;
        let kind = match clusters {
            0 => return None,
            _ if is_32 => Kind::Fat32,
            1..4085 => Kind::Fat12,
            4085..65_525 => Kind::Fat16,
            _ => return None,
        };
        if is_32 == (root_bytes != 0) {
            return None;
        }
        let extended = if is_32 { 0x40 } else { 0x24 };
        let has_names = matches!(u8_at(sector, extended + 2), 0x28 | 0x29);
        let named = |bytes: &[u8]| bytes.trim_ascii_end().to_vec();
        Some(Self {
            kind,
            cluster_bytes,
            clusters: clusters.min(0x0fff_fff5),
            size_bytes,
            table,
            fixed_root: root..root + root_bytes,
            root_cluster: if is_32 { le32(sector, 0x2c) } else { 0 },
            data,
            serial: if has_names { le32(sector, extended + 3) } else { 0 },
            label: part(sector, extended + 7, 11).filter(|_| has_names).map(named).unwrap_or_default(),
        })
    }

    pub(crate) fn content(&self) -> Content {
        Content { kind: self.kind, label: self.label(), uuid: Some(self.serial()) }
    }

    /// As the first sector has it; what counts is in the root.
    pub(super) fn label(&self) -> String {
        let label = String::from_utf8_lossy(&self.label);
        if label == "NO NAME" { String::new() } else { label.into_owned() }
    }

    /// As DOS shows it.
    pub(super) fn serial(&self) -> String {
        format!("{:04X}-{:04X}", self.serial >> 16, self.serial & 0xffff)
    }

    /// Where a cluster's bytes lie.
    pub(super) fn place(&self, cluster: u32) -> Option<u64> {
        let index = u64::from(cluster).checked_sub(FIRST).filter(|index| *index < self.clusters)?;
        Some(self.data + index * self.cluster_bytes)
    }

    /// Whether directories may lie there.
    pub(super) fn holds_slots(&self, offset: u64) -> bool {
        self.fixed_root.contains(&offset) || offset >= self.data
    }

    /// What follows a cluster; None at the end of the chain.
    pub(super) fn next(&self, volume: &Volume, cluster: u32) -> Result<Option<u32>> {
        let number = u64::from(cluster);
        let (offset, bytes, end) = match self.kind {
            Kind::Fat12 => (number + number / 2, 2, 0xff8),
            Kind::Fat16 => (number * 2, 2, 0xfff8),
            _ => (number * 4, 4, 0x0fff_fff8),
        };
        let offset = self.table.start + offset;
        if offset + bytes > self.table.end {
            return Err(volume.damaged(format!("cluster {cluster} is named, and the table is shorter")));
        }
        let mut raw = [0; 4];
        volume.read(&mut raw[..bytes as usize], offset)?;
        let value = match self.kind {
            Kind::Fat12 if number % 2 == 1 => u32::from(le16(&raw, 0) >> 4),
            Kind::Fat12 => u32::from(le16(&raw, 0) & 0xfff),
            Kind::Fat16 => le16(&raw, 0).into(),
            _ => le32(&raw, 0) & 0x0fff_ffff,
        };
        if value >= end {
            return Ok(None);
        }
        if self.place(value).is_none() {
            return Err(volume.damaged(format!("cluster {cluster} is followed by {value}, which is none")));
        }
        Ok(Some(value))
    }
}
