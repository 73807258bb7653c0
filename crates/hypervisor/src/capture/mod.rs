//! One instant of a running machine's disks, readable over NBD while its guest goes on writing.
//!
//! For each disk QEMU gets a filter between the guest's device and the image, which copies what the guest is about to
//! overwrite into a *fleecing image* first. That image lies over the disk's own: what it lacks is still as it was.
//!
//! ```text
//!   guest's device                                   NBD client
//!         │                                              │  export "scsi-0", and what changed since an earlier instant
//!   capture-filter-scsi-0 ───── old bytes ────► capture-kept-scsi-0   (qcow2 in a file without a name, of a bounded size)
//!         │                                              │  the rest
//!         └─────────────────► scsi-0 ◄───────────────────┘
//! ```
//!
//! The filters go in while the processors stand still, for milliseconds, and at that same instant the new bitmaps begin.
//! (A backup job of QEMU's would need no stop, but before QEMU 10.1 it fails the *guest's* write when the old bytes
//! cannot be kept.) Everything is named with one prefix, so that what a dead node left is found by asking QEMU alone.
//!
//! **What must never happen:** that a guest's write fails, or waits without bound, because of a capture: what cannot be
//! kept ends the capture. From then on reads may give newer bytes, so nothing counts as captured before
//! [`Capture::whole`] says so. That a change is not recorded: the older bitmap goes on recording until the caller says that
//! the newer point is durable, and what is exported is a copy of it, made at the instant. That a file is left: the fleecing
//! image never has a name, so that it goes with the last process that holds it.

mod answers;
mod begin;
mod bitmaps;
mod end;
mod error;
mod fleecing;
mod names;
mod plan;
mod probe;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

#[cfg(feature = "fuzzing")]
pub(crate) use self::answers::read_answer;
pub(crate) use self::end::Captures;
pub use self::{
    bitmaps::{BitmapName, BitmapReport, DiskBitmaps, GRANULARITY},
    end::Cleared,
    error::CaptureError,
    names::DiskPlace,
};
use nestling_model::VmId;

use crate::Machine;

/// What is to be captured; all disks at one instant.
#[derive(Debug, Clone)]
pub struct CaptureRequest {
    pub disks: Vec<DiskRequest>,
    pub fleecing: Fleecing,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskRequest {
    pub disk: DiskPlace,
    /// A bitmap that begins at the instant, with nothing in it: persistent where the image can keep it (qcow2), else as long as
    /// this QEMU runs. Not for read-only disks.
    pub begin: Option<BitmapName>,
    /// What has changed since this bitmap began is exported beside the disk. The bitmap itself goes on recording.
    pub since: Option<BitmapName>,
}

/// Where the old bytes of what a guest overwrites are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleecing {
    pub dir: PathBuf,
    /// For each disk; a guest that overwrites more ends the capture.
    pub bytes_max: u64,
}

/// All that a capture needs, made ready while the guest runs, so that the instant itself is short: what is frozen for it
/// is to be frozen after this. Dropped, it is undone.
#[derive(Debug)]
pub struct PreparedCapture {
    held: Held,
    plans: Vec<plan::DiskPlan>,
}

/// A capture under way. What it serves stays the same until [`Capture::finish`]; if it is dropped instead, it ends as
/// failed.
#[derive(Debug)]
pub struct Capture {
    held: Held,
    socket: PathBuf,
    disks: Vec<CapturedDisk>,
    stopped_for: Option<Duration>,
}

/// What must be given back, in whatever state it is.
#[derive(Debug)]
struct Held {
    machine: Machine,
    /// Tells this capture from others of the same machine.
    number: u64,
    /// What begins, or has begun, at the instant.
    begun: Vec<(DiskPlace, BitmapName)>,
    files: Vec<fleecing::KeptFile>,
    finished: bool,
}

/// One disk of a capture, as an NBD client finds it.
///
/// What is a hole is told by two questions, not one: QEMU looks into the fleecing image and then below it, and a guest that
/// discards in between makes it call a hole what was none. Who asks for the same range twice, the second time when the first
/// answer is there, and believes only holes of both, is always right: if the second answer came from below, nothing had been
/// touched yet when the first was given. For the same reason reads are to be whole (`NBD_CMD_FLAG_DF`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapturedDisk {
    pub disk: DiskPlace,
    /// The name of its export on [`Capture::socket`].
    pub export: String,
    pub bytes: u64,
    /// For `qemu:dirty-bitmap:NAME`: the map of what changed since [`DiskRequest::since`], if that was asked for.
    pub changed: Option<ChangedMap>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChangedMap {
    /// The bitmap's name on the wire, which is not that of the bitmap it was copied from.
    pub context: String,
    pub granularity: u32,
    /// How much of the disk it calls changed.
    pub bytes: u64,
}

/// What became of the point that was made of a capture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is durable: the new bitmaps stay, and these older ones are removed.
    Durable { whole: Whole, remove: Vec<(DiskPlace, BitmapName)> },
    /// There is none: the new bitmaps are removed.
    Failed,
}

/// The proof that what was read of a capture is what was there at its instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Whole {
    vm: VmId,
    number: u64,
}

/// How much of a disk's fleecing image is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FleecingUse {
    pub disk: DiskPlace,
    pub bytes: u64,
    pub bytes_max: u64,
}

impl Machine {
    /// Makes a capture ready, of a machine whose guest runs or is paused. One at a time: a second is refused.
    ///
    /// Whole or not at all: when this or the instant fails, nothing of it is left in QEMU and the guest goes on as before.
    pub async fn prepare_capture(&self, request: CaptureRequest) -> Result<PreparedCapture, CaptureError> {
        begin::prepare(self, request).await
    }

    /// A capture without anything to be done between its preparation and its instant.
    pub async fn capture(&self, request: CaptureRequest) -> Result<Capture, CaptureError> {
        self.prepare_capture(request).await?.instant().await
    }

    /// Whether a capture is under way.
    pub fn is_captured(&self) -> bool {
        self.captures().is_active()
    }

    /// Ends a capture that is under way, for `why`: whoever reads it gets an error, and [`Capture::whole`] tells.
    /// Bitmaps stay as they are, for [`Capture::finish`] to decide on.
    pub async fn end_capture(&self, why: &str) -> Result<(), CaptureError> {
        end::by_machine(self, why).await
    }

    /// Removes what the captures of a node that has died left in QEMU, and lets a guest go on that was stopped for its
    /// instant. Bitmaps that a capture began stay: whether its point became durable, only the caller knows.
    /// [`Machine::attach`] does this by itself.
    pub async fn clear_captures(&self) -> Result<Cleared, CaptureError> {
        end::clear(self).await
    }

    /// Our bitmaps of every disk, in the order of the disks' names.
    pub async fn bitmaps(&self) -> Result<Vec<DiskBitmaps>, CaptureError> {
        bitmaps::report(self).await
    }

    /// Removes bitmaps, all or none; those that are not there count as removed.
    pub async fn remove_bitmaps(&self, bitmaps: &[(DiskPlace, BitmapName)]) -> Result<(), CaptureError> {
        bitmaps::remove(self, bitmaps).await
    }
}

impl PreparedCapture {
    /// The instant: all disks as they are now, and whatever bitmaps begin.
    pub async fn instant(self) -> Result<Capture, CaptureError> {
        begin::instant(self).await
    }
}

impl Capture {
    /// Where QEMU serves it; only processes of this user get there.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn disks(&self) -> &[CapturedDisk] {
        &self.disks
    }

    /// How long the guest stood still for the instant, by this side's clock; `None` if it was paused anyway.
    pub fn stopped_for(&self) -> Option<Duration> {
        self.stopped_for
    }

    pub fn fleecing(&self) -> Vec<FleecingUse> {
        self.held.files.iter().map(fleecing::KeptFile::in_use).collect()
    }

    /// Proves that all that was read until now is as it was at the instant. Asked after the last read, and before the point
    /// that is made of them counts; and when a read has failed, for what this error says of why.
    pub async fn whole(&self) -> Result<Whole, CaptureError> {
        end::whole(&self.held, &self.socket).await
    }

    /// Ends it and does with the bitmaps what the outcome says. May be tried again as long as it fails; the machine's
    /// end ends the capture too ([`CaptureError::Gone`]), and the bitmaps are then in the images.
    pub async fn finish(&mut self, outcome: &Outcome) -> Result<(), CaptureError> {
        end::finish(&mut self.held, outcome).await
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        end::dropped(self);
    }
}
