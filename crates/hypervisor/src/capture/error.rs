//! Why a capture, or a wish about bitmaps, failed.

use std::{io, path::PathBuf};

use super::{BitmapName, DiskPlace};
use crate::MachineError;

#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    #[error("the virtual machine is being backed up already; wait for that backup to end, or stop it")]
    Busy,
    #[error("no disks were given to back up")]
    NoDisks,
    #[error("disk {disk} was given twice")]
    Twice { disk: DiskPlace },
    #[error("the virtual machine has no disk {disk} that runs")]
    NoDisk { disk: DiskPlace },
    #[error("disk {disk} is read-only: nothing in it can change, so that no change can be recorded")]
    ReadOnly { disk: DiskPlace },
    #[error(
        "the virtual machine is {state}, in which no disk can be captured; try again when it runs or is paused"
    )]
    State { state: String },
    #[error("disk {disk} has no bitmap {bitmap}; compare the whole disk instead")]
    NoBitmap { disk: DiskPlace, bitmap: BitmapName },
    #[error(
        "bitmap {bitmap} of disk {disk} cannot be believed: {why}; remove it and compare the whole disk instead"
    )]
    BadBitmap { disk: DiskPlace, bitmap: BitmapName, why: &'static str },
    #[error("disk {disk} has a bitmap {bitmap} already; choose another number")]
    BitmapExists { disk: DiskPlace, bitmap: BitmapName },
    #[error("{} has {free} bytes free, of which a backup needs at least {needed} to keep what the guest overwrites; make room, or give another directory", dir.display())]
    NoRoom { dir: PathBuf, free: u64, needed: u64 },
    #[error("{bytes_max} bytes are too few to keep what the guest overwrites; give at least {min}")]
    TooSmall { bytes_max: u64, min: u64 },
    #[error("in {}, no file could be made to keep what the guest overwrites", dir.display())]
    Fleecing { dir: PathBuf, source: io::Error },
    #[error("QEMU could not make the fleecing image of disk {disk}: {why}")]
    Image { disk: DiskPlace, why: String },
    #[error(
        "the guest overwrote more of disk {disk} than fits in the {bytes_max} bytes that were given to keep it; the guest is \
         not affected; give more, or back up when less is written"
    )]
    Full { disk: DiskPlace, bytes_max: u64 },
    #[error(
        "{} has no space left to keep what the guest overwrites on disk {disk}; the guest's write was done all the same; make \
         room, or give another directory", dir.display()
    )]
    HostFull { disk: DiskPlace, dir: PathBuf },
    #[error(
        "what the guest overwrote on disk {disk} could not be read or kept within {seconds} seconds; the guest's write was \
         done all the same; look whether the host's disks are slow or broken, and back up again"
    )]
    Broken { disk: DiskPlace, seconds: u32 },
    #[error("QEMU does not tell whether the backup of disk {disk} is whole")]
    Unknown { disk: DiskPlace, source: io::Error },
    #[error("the proof that the backup is whole is another backup's")]
    OtherProof,
    #[error("the backup was ended: {why}")]
    Ended { why: String },
    #[error("the virtual machine is gone: {0}")]
    Gone(String),
    #[error(transparent)]
    Machine(MachineError),
    #[error("QEMU's answer to {command} makes no sense: {why}")]
    Nonsense { command: &'static str, why: String },
}

impl From<MachineError> for CaptureError {
    fn from(error: MachineError) -> Self {
        match error {
            MachineError::Gone(why) => Self::Gone(why),
            other => Self::Machine(other),
        }
    }
}
