//! The journal (JBD2), replayed in memory: which block of the volume is to be read from where in the journal.
//!
//! As at a mount, what counts are transactions with their commit block, from the one that the journal's superblock
//! names on; what a later one revokes is not replayed. Each block of the journal is looked at twice at the most.

use std::{collections::HashMap, ops::Range, sync::Arc};

use nestling_block::{BlockError, BlockSource, Extent, ExtentKind, ExtentList, check_range};

use crate::{
    Result,
    bytes::{be16, be32, join, part, u8_at},
};

use super::{Ext, inode::Inode};

const MAGIC: u32 = 0xc03b_3998;
const HEAD_BYTES: usize = 12;
/// 4 GiB with the usual size of blocks: no tool makes larger ones.
const BLOCKS_MAX: u32 = 1 << 20;
/// Entries of revoke blocks in all.
const REVOKED_MAX: usize = 1 << 20;
const NOTES_MAX: usize = 4;

mod block {
    pub(super) const DESCRIPTOR: u32 = 1;
    pub(super) const COMMIT: u32 = 2;
    pub(super) const SUPER_V1: u32 = 3;
    pub(super) const SUPER_V2: u32 = 4;
    pub(super) const REVOKE: u32 = 5;
}

mod feature {
    pub(super) const BITS_64: u32 = 0x2;
    pub(super) const CHECKSUM_V2: u32 = 0x8;
    pub(super) const CHECKSUM_V3: u32 = 0x10;
    pub(super) const FAST_COMMIT: u32 = 0x20;
    pub(super) const KNOWN: u32 = 0x1 | BITS_64 | 0x4 | CHECKSUM_V2 | CHECKSUM_V3 | FAST_COMMIT;
}

mod tag {
    pub(super) const ESCAPED: u32 = 1;
    pub(super) const SAME_UUID: u32 = 2;
    pub(super) const LAST: u32 = 8;
}

pub(super) struct Replay {
    pub(super) source: Replayed,
    pub(super) notes: Vec<String>,
}

/// A block of the volume as a transaction wrote it.
#[derive(Debug, Clone, Copy)]
struct Written {
    block: u64,
    /// Where it lies on the volume now.
    at: u64,
    /// Its first bytes were the journal's magic, and were put to zero.
    escaped: bool,
    sequence: u32,
}

pub(super) fn replay(ext: &Ext) -> Result<Replay> {
    let inode = ext.inode(ext.superblock.journal_inode.into())?;
    let mut journal = Journal::open(ext, &inode)?;
    let mut written = Vec::new();
    let mut revoked = HashMap::new();
    if journal.start != 0 {
        journal.scan(&mut written, &mut revoked)?;
    }
    written.retain(|w| revoked.get(&w.block).is_none_or(|sequence: &u32| later(w.sequence, *sequence)));
    // Sorting is stable: of several writes, the last is the one that counts.
    written.sort_by_key(|w| w.block);
    written.reverse();
    written.dedup_by_key(|w| w.block);
    written.reverse();
    let source = Replayed {
        source: Arc::clone(ext.volume.source()),
        block_bytes: ext.superblock.block_bytes,
        written,
    };
    journal.notes.insert(0, format!("its journal was replayed in memory: {} blocks", source.written.len()));
    Ok(Replay { source, notes: journal.notes })
}

/// Numbers of transactions go round.
fn later(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() > 0
}

struct Journal<'a> {
    ext: &'a Ext,
    inode: &'a Inode,
    /// Blocks of the log: from the first, up to the end.
    log: Range<u32>,
    start: u32,
    sequence: u32,
    features: u32,
    seed: u32,
    notes: Vec<String>,
}

impl<'a> Journal<'a> {
    fn open(ext: &'a Ext, inode: &'a Inode) -> Result<Self> {
        let damaged = |what: &str| ext.volume.damaged(format!("the journal: {what}"));
        let mut bytes = vec![0; ext.superblock.block_bytes as usize];
        ext.read_blocks(inode, 0, &mut bytes)?;
        let kind = be32(&bytes, 4);
        if be32(&bytes, 0) != MAGIC || !matches!(kind, block::SUPER_V1 | block::SUPER_V2) {
            return Err(damaged("its superblock is not there"));
        }
        if u64::from(be32(&bytes, 0xc)) != ext.superblock.block_bytes {
            return Err(damaged("its blocks have another size than those of the volume"));
        }
        let features = if kind == block::SUPER_V2 { be32(&bytes, 0x28) } else { 0 };
        let mut notes = Vec::new();
        if features & !feature::KNOWN != 0 {
            return Err(ext
                .volume
                .unsupported(format!("its journal has features that no reader here knows: {features:#x}")));
        }
        let mut end = be32(&bytes, 0x10);
        if end > BLOCKS_MAX {
            return Err(ext.volume.limit("blocks of the journal", BLOCKS_MAX.into()));
        }
        if features & feature::FAST_COMMIT != 0 {
            let own = match be32(&bytes, 0x54) {
                0 => 256,
                count => count,
            };
            end = end.saturating_sub(own);
            notes.push(
                "fast commits of its journal are not replayed: the last seconds may be missing".to_owned(),
            );
        }
        let log = be32(&bytes, 0x14)..end;
        let start = be32(&bytes, 0x1c);
        if log.start == 0 || log.is_empty() || start != 0 && !log.contains(&start) {
            return Err(damaged("its superblock says what cannot be"));
        }
        let seed = crc32c(!0, &bytes[0x30..0x40]);
        Ok(Self { ext, inode, log, start, sequence: be32(&bytes, 0x18), features, seed, notes })
    }

    fn has_checksums(&self) -> bool {
        self.features & (feature::CHECKSUM_V2 | feature::CHECKSUM_V3) != 0
    }

    fn place(&self, number: u32) -> Result<u64> {
        let stretch = self.ext.stretch(self.inode, number.into())?;
        let blocks = self.ext.volume.size_bytes() / self.ext.superblock.block_bytes;
        let inside = stretch.block.filter(|block| *block < blocks);
        inside.ok_or_else(|| self.ext.volume.damaged("the journal has a hole, or lies outside of the volume"))
    }

    fn next(&self, number: u32) -> u32 {
        if number + 1 >= self.log.end { self.log.start } else { number + 1 }
    }

    /// From the first transaction to the last that is complete.
    fn scan(&mut self, written: &mut Vec<Written>, revoked: &mut HashMap<u64, u32>) -> Result<()> {
        let mut at = self.start;
        let mut sequence = self.sequence;
        // What belongs to a transaction whose commit block was not seen yet.
        let (mut open, mut open_revoked) = (Vec::new(), Vec::new());
        let mut left = self.log.len();
        while left > 0 {
            left -= 1;
            let bytes = self.ext.block(self.place(at)?)?;
            if be32(&bytes, 0) != MAGIC || be32(&bytes, 8) != sequence {
                break;
            }
            at = self.next(at);
            match be32(&bytes, 4) {
                block::DESCRIPTOR if self.tail_holds(&bytes) => {
                    let tags = self.tags(&bytes);
                    let Some(rest) = left.checked_sub(tags.len()) else { break };
                    left = rest;
                    for (number, escaped, checksum) in tags {
                        let place = self.place(at)?;
                        at = self.next(at);
                        if self.data_holds(place, sequence, checksum)? {
                            open.push(Written { block: number, at: place, escaped, sequence });
                        }
                    }
                }
                block::REVOKE if self.tail_holds(&bytes) => {
                    open_revoked.extend(self.revoked(&bytes));
                    if open_revoked.len() + revoked.len() > REVOKED_MAX {
                        return Err(self
                            .ext
                            .volume
                            .limit("blocks that the journal revokes", REVOKED_MAX as u64));
                    }
                }
                block::COMMIT if self.commit_holds(&bytes) => {
                    written.append(&mut open);
                    for number in open_revoked.drain(..) {
                        revoked.insert(number, sequence);
                    }
                    sequence = sequence.wrapping_add(1);
                }
                _ => break,
            }
        }
        Ok(())
    }

    /// What a descriptor block says follows it: the block's number, whether it is escaped, its checksum.
    fn tags(&self, bytes: &[u8]) -> Vec<(u64, bool, u32)> {
        let v3 = self.features & feature::CHECKSUM_V3 != 0;
        let wide = self.features & feature::BITS_64 != 0;
        let size = match (v3, wide) {
            (true, _) => 16,
            (false, true) => 12 + 2 * usize::from(self.features & feature::CHECKSUM_V2 != 0),
            (false, false) => 8 + 2 * usize::from(self.features & feature::CHECKSUM_V2 != 0),
        };
        let end = bytes.len() - if self.has_checksums() { 4 } else { 0 };
        let mut found = Vec::new();
        let mut at = HEAD_BYTES;
        while at + size <= end {
            let Some(tag) = part(bytes, at, size) else { break };
            let (flags, high, checksum) = if v3 {
                (be32(tag, 4), be32(tag, 8), be32(tag, 12))
            } else {
                (be16(tag, 6).into(), be32(tag, 8), be16(tag, 4).into())
            };
            let number = join(if wide { high } else { 0 }, be32(tag, 0));
            found.push((number, flags & tag::ESCAPED != 0, checksum));
            at += size + if flags & tag::SAME_UUID == 0 { 16 } else { 0 };
            if flags & tag::LAST != 0 {
                break;
            }
        }
        found
    }

    fn revoked(&self, bytes: &[u8]) -> Vec<u64> {
        let wide = self.features & feature::BITS_64 != 0;
        let end = (be32(bytes, 12) as usize).min(bytes.len());
        bytes
            .get(16..end)
            .unwrap_or_default()
            .chunks_exact(if wide { 8 } else { 4 })
            .map(|entry| if wide { join(be32(entry, 0), be32(entry, 4)) } else { be32(entry, 0).into() })
            .collect()
    }

    /// Descriptor and revoke blocks end with their checksum.
    fn tail_holds(&self, bytes: &[u8]) -> bool {
        if !self.has_checksums() {
            return true;
        }
        let (body, tail) = bytes.split_at(bytes.len() - 4);
        crc32c(crc32c(self.seed, body), &[0; 4]) == be32(tail, 0)
    }

    fn commit_holds(&self, bytes: &[u8]) -> bool {
        if !self.has_checksums() {
            return true;
        }
        let mut zeroed = bytes.to_vec();
        zeroed[16..20].fill(0);
        crc32c(self.seed, &zeroed) == be32(bytes, 16) && u8_at(bytes, 0) != 0
    }

    fn data_holds(&mut self, place: u64, sequence: u32, checksum: u32) -> Result<bool> {
        if !self.has_checksums() {
            return Ok(true);
        }
        let data = self.ext.block(place)?;
        let found = crc32c(crc32c(self.seed, &sequence.to_be_bytes()), &data);
        let holds = if self.features & feature::CHECKSUM_V3 != 0 {
            found == checksum
        } else {
            found & 0xffff == checksum
        };
        if !holds && self.notes.len() < NOTES_MAX {
            self.notes.push(format!(
                "a block of its journal is damaged and was left out (block {place} of the volume)"
            ));
        }
        Ok(holds)
    }
}

/// The volume with the journal's blocks in their place.
pub(super) struct Replayed {
    source: Arc<dyn BlockSource>,
    block_bytes: u64,
    /// By block.
    written: Vec<Written>,
}

impl Replayed {
    /// Those that touch a range.
    fn touched(&self, range: &Range<u64>) -> &[Written] {
        let first = range.start / self.block_bytes;
        let last = range.end.div_ceil(self.block_bytes);
        let begin = self.written.partition_point(|w| w.block < first);
        let end = self.written.partition_point(|w| w.block < last);
        &self.written[begin..end.max(begin)]
    }
}

impl BlockSource for Replayed {
    fn size_bytes(&self) -> u64 {
        self.source.size_bytes()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        self.source.read_at(buf, offset)?;
        let range = offset..offset + buf.len() as u64;
        for w in self.touched(&range) {
            let start = w.block * self.block_bytes;
            let (begin, end) = (start.max(range.start), (start + self.block_bytes).min(range.end));
            let piece = &mut buf[(begin - offset) as usize..(end - offset) as usize];
            self.source.read_at(piece, w.at * self.block_bytes + (begin - start))?;
            if w.escaped {
                for (place, at) in piece.iter_mut().zip(begin - start..4) {
                    *place = MAGIC.to_be_bytes()[at as usize];
                }
            }
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        // Readers of file systems do not ask for it.
        check_range(self.name(), self.size_bytes(), range.start, range.end.saturating_sub(range.start))?;
        let mut list = ExtentList::new(range);
        list.push(u64::MAX, ExtentKind::Data);
        Ok(list.finish())
    }

    fn name(&self) -> &str {
        self.source.name()
    }
}

/// Castagnoli's, without the inversion at the end, as JBD2 uses it.
fn crc32c(seed: u32, bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut n = 0;
        while n < 256 {
            let mut value = n as u32;
            let mut bit = 0;
            while bit < 8 {
                value = value >> 1 ^ if value & 1 != 0 { 0x82f6_3b78 } else { 0 };
                bit += 1;
            }
            table[n] = value;
            n += 1;
        }
        table
    };
    bytes.iter().fold(seed, |sum, byte| sum >> 8 ^ TABLE[(sum as u8 ^ byte) as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_castagnolis() {
        assert_eq!(!crc32c(!0, b"123456789"), 0xe306_9283);
    }

    #[test]
    fn numbers_of_transactions_go_round() {
        assert!(later(1, u32::MAX) && !later(u32::MAX, 1) && !later(5, 5));
    }
}
