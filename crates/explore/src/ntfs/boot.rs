//! The first sector.

use crate::{
    Result,
    bytes::{le16, le64, u8_at},
    volume::Volume,
};

pub(crate) const MAGIC: &[u8] = b"NTFS    ";
pub(crate) const MAGIC_OFFSET: usize = 3;
const CLUSTER_BYTES_MAX: u64 = 2 << 20;
const RECORD_BYTES_MAX: u64 = 64 << 10;

#[derive(Debug, Clone, Copy)]
pub(super) struct Boot {
    pub(super) cluster_bytes: u64,
    pub(super) size_bytes: u64,
    /// Where the master file table begins.
    pub(super) table_cluster: u64,
    pub(super) record_bytes: u64,
    pub(super) serial: u64,
}

impl Boot {
    pub(super) fn read(volume: &Volume) -> Result<Self> {
        let bytes = volume.bytes(0, 512)?;
        let sector = u64::from(le16(&bytes, 0xb));
        let per_cluster = match u8_at(&bytes, 0xd) {
            count @ 0..=0x80 => u64::from(count),
            // Large clusters are a power of two, as a negative exponent.
            exponent => 1_u64.checked_shl(256 - u32::from(exponent)).unwrap_or_default(),
        };
        let cluster_bytes = sector.saturating_mul(per_cluster);
        let found = Self {
            cluster_bytes,
            size_bytes: le64(&bytes, 0x28).saturating_mul(sector),
            table_cluster: le64(&bytes, 0x30),
            record_bytes: size(u8_at(&bytes, 0x40), cluster_bytes),
            serial: le64(&bytes, 0x48),
        };
        let power = |value: u64, from: u64, to: u64| value.is_power_of_two() && (from..=to).contains(&value);
        let sane = power(sector, 256, 4096)
            && power(found.cluster_bytes, 256, CLUSTER_BYTES_MAX)
            && power(found.record_bytes, 512, RECORD_BYTES_MAX)
            && found.table_cluster < found.size_bytes / found.cluster_bytes;
        if bytes[MAGIC_OFFSET..].starts_with(MAGIC) && sane {
            Ok(found)
        } else {
            Err(volume.damaged("the boot sector of NTFS says what cannot be"))
        }
    }
}

/// Clusters, or a power of two as a negative exponent.
fn size(field: u8, cluster_bytes: u64) -> u64 {
    match field.cast_signed() {
        clusters @ 0.. => u64::from(clusters.cast_unsigned()).saturating_mul(cluster_bytes),
        exponent => 1_u64.checked_shl(exponent.unsigned_abs().into()).unwrap_or_default(),
    }
}
