//! Where what lies on an exFAT volume, by its first sector.

use std::ops::Range;

use crate::{
    Result,
    bytes::{le16, le32, le64, u8_at},
    volume::Volume,
};

pub(crate) const MAGIC: &[u8] = b"EXFAT   ";
pub(crate) const MAGIC_OFFSET: usize = 3;
const FIRST: u64 = 2;
/// 32 MiB, by the format.
const CLUSTER_SHIFT_MAX: u8 = 25;

#[derive(Debug, Clone)]
pub(super) struct Geometry {
    pub(super) cluster_bytes: u64,
    pub(super) clusters: u64,
    pub(super) size_bytes: u64,
    table: Range<u64>,
    data: u64,
    pub(super) root_cluster: u32,
    pub(super) serial: u32,
    pub(super) is_dirty: bool,
}

impl Geometry {
    pub(super) fn read(volume: &Volume) -> Result<Self> {
        let sector = volume.bytes(0, 512)?;
        let damaged = || volume.damaged("the first sector of exFAT says what cannot be");
        let (sector_shift, cluster_shift) = (u8_at(&sector, 0x6c), u8_at(&sector, 0x6d));
        let sane = sector[MAGIC_OFFSET..].starts_with(MAGIC)
            && (9..=12).contains(&sector_shift)
            && cluster_shift <= CLUSTER_SHIFT_MAX - sector_shift;
        if !sane {
            return Err(damaged());
        }
        let bytes = |sectors: u64| sectors.checked_mul(1 << sector_shift).ok_or_else(damaged);
        let table = bytes(le32(&sector, 0x50).into())?;
        let table = table..table + bytes(le32(&sector, 0x54).into())?;
        let cluster_bytes = 1_u64 << (sector_shift + cluster_shift);
        let data = bytes(le32(&sector, 0x58).into())?;
        // No more than fit: what is said to lie behind the end does not.
        let fitting = volume.size_bytes().saturating_sub(data) / cluster_bytes;
        let clusters = u64::from(le32(&sector, 0x5c)).min(fitting);
        let flags = le16(&sector, 0x6a);
        // With two tables, a flag says which of them counts.
        let second = flags & 1 != 0 && u8_at(&sector, 0x6e) == 2;
        let length = table.end - table.start;
        Ok(Self {
            cluster_bytes,
            clusters,
            size_bytes: bytes(le64(&sector, 0x48))?,
            table: if second { table.end..table.end + length } else { table },
            data,
            root_cluster: le32(&sector, 0x60),
            serial: le32(&sector, 0x64),
            is_dirty: flags & 2 != 0,
        })
    }

    /// Where a cluster's bytes lie.
    pub(super) fn place(&self, volume: &Volume, cluster: u64) -> Result<u64> {
        let index = cluster.checked_sub(FIRST).filter(|index| *index < self.clusters);
        let index =
            index.ok_or_else(|| volume.damaged(format!("cluster {cluster} is named, and there is none")))?;
        Ok(self.data + index * self.cluster_bytes)
    }

    /// What follows a cluster; None at the end of the chain.
    pub(super) fn next(&self, volume: &Volume, cluster: u32) -> Result<Option<u32>> {
        let offset = self.table.start + u64::from(cluster) * 4;
        if offset + 4 > self.table.end {
            return Err(volume.damaged(format!("cluster {cluster} is named, and the table is shorter")));
        }
        let mut raw = [0; 4];
        volume.read(&mut raw, offset)?;
        match le32(&raw, 0) {
            u32::MAX => Ok(None),
            next => self.place(volume, next.into()).map(|_| Some(next)),
        }
    }
}
