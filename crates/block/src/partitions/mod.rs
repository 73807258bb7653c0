//! How a disk is divided: MBR with logical partitions, GPT, or not at all.
//!
//! A table is read as far as it is whole: a partition that does not lie inside the disk is left out and told, and the others
//! stay. Whoever owns the disk wrote the table, so that counts and chains have limits, and partitions may lie on each
//! other: each is only a range of the same disk. Nothing in a partition is looked at here.

mod gpt;
mod kinds;
mod mbr;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod sample;
mod slice;

use std::{ops::Range, sync::Arc};

pub use kinds::{PartitionKind, TypeId};
use mbr::SECTOR_BYTES;
pub use slice::Slice;

use crate::{BlockError, BlockSource};

/// No more of what is wrong is told.
const PROBLEMS_MAX: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableKind {
    Mbr,
    Gpt,
    /// The whole disk is one volume.
    None,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// As Linux and the tools count: logical ones from 5 on; 0 is the whole disk.
    pub number: u32,
    pub kind: PartitionKind,
    /// Only GPT has names.
    pub name: String,
    /// In bytes of the disk.
    pub range: Range<u64>,
    /// None of a whole disk.
    pub type_id: Option<TypeId>,
}

/// What a disk is divided into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionTable {
    pub kind: TableKind,
    /// What the table counts in.
    pub sector_bytes: u64,
    /// In the order of the table.
    pub partitions: Vec<Partition>,
    /// What is wrong with the table, for people.
    pub problems: Vec<String>,
}

/// What was found until now.
#[derive(Default)]
struct Found {
    partitions: Vec<Partition>,
    problems: Vec<String>,
}

impl Found {
    fn add(&mut self, source: &dyn BlockSource, partition: Partition) {
        let Range { start, end } = partition.range;
        if start >= end || end > source.size_bytes() {
            self.problem(format!("partition {} is not inside the disk", partition.number));
        } else {
            self.partitions.push(partition);
        }
    }

    fn problem(&mut self, what: String) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(what);
        }
    }
}

impl PartitionTable {
    /// `sector_bytes` is the size of the disk's sectors, where it is known (VHDX says it); else a GPT tells it, and an
    /// MBR is taken to count in 512 bytes. An error if the disk cannot be read, or if it says that it has a GPT and both
    /// copies are damaged.
    pub fn read(source: &dyn BlockSource, sector_bytes: Option<u64>) -> Result<Self, BlockError> {
        let sector_bytes = sector_bytes.filter(|size| gpt::SECTOR_SIZES.contains(size));
        let mut found = Found::default();
        let size_bytes = source.size_bytes();
        if size_bytes < SECTOR_BYTES as u64 {
            return Ok(Self::whole(size_bytes, sector_bytes));
        }
        let mut sector = [0; SECTOR_BYTES];
        source.read_at(&mut sector, 0)?;
        let Some(entries) = mbr::entries(&sector) else { return Ok(Self::whole(size_bytes, sector_bytes)) };
        // A GPT without the entry that protects it is one that somebody left behind.
        if mbr::is_protective(&entries)
            && let Some(sector_bytes) = gpt::read(source, sector_bytes, &mut found)?
        {
            return Ok(Self::of(TableKind::Gpt, sector_bytes, found));
        }
        let sector_bytes = sector_bytes.unwrap_or(SECTOR_BYTES as u64);
        if !mbr::is_table(&sector, &entries, size_bytes / sector_bytes) {
            return Ok(Self::whole(size_bytes, Some(sector_bytes)));
        }
        mbr::read(source, &entries, sector_bytes, &mut found)?;
        Ok(Self::of(TableKind::Mbr, sector_bytes, found))
    }

    fn of(kind: TableKind, sector_bytes: u64, found: Found) -> Self {
        Self { kind, sector_bytes, partitions: found.partitions, problems: found.problems }
    }

    fn whole(size_bytes: u64, sector_bytes: Option<u64>) -> Self {
        let whole = Partition {
            number: 0,
            kind: PartitionKind::Whole,
            name: String::new(),
            range: 0..size_bytes,
            type_id: None,
        };
        Self {
            kind: TableKind::None,
            sector_bytes: sector_bytes.unwrap_or(SECTOR_BYTES as u64),
            partitions: vec![whole],
            problems: Vec::new(),
        }
    }
}

impl Partition {
    /// Its bytes, as a disk of their own.
    pub fn open(&self, disk: &Arc<dyn BlockSource>) -> Result<Slice, BlockError> {
        let name = match self.number {
            0 => disk.name().to_owned(),
            number => format!("{} (partition {number})", disk.name()),
        };
        Slice::new(name, Arc::clone(disk), self.range.clone())
    }
}

#[cfg(test)]
mod tests;
