//! The dirty bitmaps of ours in a running machine's disks.

use std::fmt;

use uuid::Uuid;

use super::DiskPlace;

/// Of every bitmap that we make. Others are never shown nor touched.
const PREFIX: &str = "nestling-";

/// The granularity of every bitmap that we make: a cluster of qcow2, and what is copied before a write.
pub const GRANULARITY: u32 = 64 << 10;

/// A bitmap's name: a random number that was made at the instant at which it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BitmapName(pub Uuid);

impl BitmapName {
    /// `None` for a bitmap that is not ours.
    pub fn parse(name: &str) -> Option<Self> {
        let number = Uuid::try_parse(name.strip_prefix(PREFIX)?).ok()?;
        let parsed = Self(number);
        (parsed.to_string() == name).then_some(parsed)
    }
}

impl fmt::Display for BitmapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", self.0.simple())
    }
}

/// What a disk records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskBitmaps {
    pub disk: DiskPlace,
    pub bytes: u64,
    pub read_only: bool,
    pub bitmaps: Vec<BitmapReport>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BitmapReport {
    pub name: BitmapName,
    pub granularity: u32,
    /// Whether it records what is written now.
    pub recording: bool,
    /// Whether it outlives this QEMU.
    pub persistent: bool,
    /// Whether something uses it, so that it can't be removed now.
    pub busy: bool,
    /// The engine died while it recorded: what it says is worth nothing, and it can only be removed.
    pub inconsistent: bool,
    /// How much of the disk it calls changed.
    pub changed_bytes: u64,
}

impl BitmapReport {
    /// Why it can't be believed; `None` when it can.
    pub fn doubt(&self) -> Option<&'static str> {
        if self.inconsistent {
            Some("QEMU did not end properly while it recorded")
        } else if !self.recording {
            Some("it was switched off")
        } else if self.granularity != GRANULARITY {
            Some("it is of another granularity than ours")
        } else {
            None
        }
    }
}
