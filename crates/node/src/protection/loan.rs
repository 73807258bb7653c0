//! What a node says that lends the instant of a machine to the host above, and what it is asked with.
//!
//! ```text
//!   asked ► Preparing ► Ready ► Ending ► Ended
//!                │        │                ▲
//!                └────────┴── given back, cancelled, nobody asks any more
//! ```

use std::{ops::Range, time::Duration};

use nestling_hypervisor::capture::{BitmapName, DiskPlace};
use nestling_model::{
    Controller,
    protection::{Consistency, DiskSelector, NotTracked, PointId, RepositoryId},
};
use uuid::Uuid;

use super::basis::DiskThen;

/// No more is read at once.
pub const LOAN_READ_BYTES_MAX: u64 = 4 << 20;
/// No list of stretches of a disk that is answered at once is longer.
pub const LOAN_STRETCHES_MAX: usize = 1 << 15;
/// How long an answer may be waited for until there is something new.
pub const LOAN_WAIT_MAX: Duration = Duration::from_secs(20);

/// A wish for one instant of a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoanWish {
    /// Its name or its id.
    pub vm: String,
    /// The repository that it is for, which the node does not know.
    pub repository: RepositoryId,
    /// The machine's points there, newest first, as far as they were read.
    pub points: Vec<LoanPoint>,
    pub full: bool,
    pub excluded: Vec<DiskSelector>,
    pub consistency: Consistency,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoanPoint {
    pub id: PointId,
    pub disks: Vec<DiskThen>,
}

impl LoanPoint {
    pub fn disk(controller: Controller, location: u8, bytes: u64, tracking: Option<Uuid>) -> DiskThen {
        DiskThen { place: DiskPlace { controller, location }, bytes, bitmap: tracking.map(BitmapName) }
    }

    /// What each disk was made of.
    pub fn parts(&self) -> impl Iterator<Item = (Controller, u8, u64, Option<Uuid>)> + '_ {
        let parts = |disk: &DiskThen| {
            (disk.place.controller, disk.place.location, disk.bytes, disk.bitmap.map(|name| name.0))
        };
        self.disks.iter().map(parts)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoanState {
    /// The guest is made ready, and the instant made.
    Preparing,
    /// It can be read.
    Ready,
    /// It is being given back.
    Ending,
    Ended,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoanView {
    pub id: Uuid,
    pub state: LoanState,
    /// Once it can be read.
    pub instant: Option<LentInstant>,
    /// Of its end.
    pub warnings: Vec<String>,
    /// Why it ended without a point.
    pub reason: Option<String>,
    /// The machine went on to another state, with which it can be tried again.
    pub again: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LentInstant {
    /// What the point is to say of the machine.
    pub description: String,
    /// How long ago it was.
    pub age: Duration,
    /// Which of the points it counts from or is compared with.
    pub point: Option<usize>,
    pub disks: Vec<LentDisk>,
    pub frozen_for: Duration,
    pub took: Duration,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LentDisk {
    pub name: String,
    pub bytes: u64,
    /// Whether it is known what changed since the point, or why not.
    pub since: std::result::Result<(), NotTracked>,
}

/// Parts of a disk, in order: those that hold data, or those that changed. All up to `until` is told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretches {
    pub ranges: Vec<Range<u64>>,
    pub until: u64,
}
