//! The image that keeps what a guest overwrites: a qcow2 image in a file that has no name.
//!
//! QEMU gets the file as an open descriptor and so needs no right to the directory, and the space comes back when the last
//! process that holds it ends, however it ends. The image lies in a *room* of a fixed size within the file: QEMU itself
//! refuses to write beyond, so that nobody has to watch it grow.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::fs::{Mode, OFlags, StatVfs, open, statvfs};
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{CaptureError, DiskPlace, Fleecing, FleecingUse, answers, plan::DiskPlan};
use crate::Machine;

/// For an image's own tables and some hundred clusters.
const BYTES_MIN: u64 = 16 << 20;
const CLUSTER: u64 = 64 << 10;
/// Less than this left of the room, or of the file system, means full: a write there takes a cluster and at times tables.
const SLACK_BYTES: u64 = 1 << 20;
/// A guest's write waits no longer than this for its old bytes to be kept. Guests give a disk 30 seconds.
///
/// QEMU before 9.1 counts it in nanoseconds with 32 bits: of 17 seconds, 4.1 are left there, which will do; of the
/// rounder numbers nearby, next to nothing is.
const COPY_SECONDS_MAX: u32 = 17;
const CREATE_TIMEOUT: Duration = Duration::from_secs(60);
const CREATE_LOOK: Duration = Duration::from_millis(5);

/// The file behind a fleecing image, held here only to look at how full it is.
#[derive(Debug)]
pub(super) struct KeptFile {
    disk: DiskPlace,
    file: File,
    dir: PathBuf,
    bytes_max: u64,
}

impl KeptFile {
    pub fn disk(&self) -> DiskPlace {
        self.disk
    }

    pub fn in_use(&self) -> FleecingUse {
        let bytes = self.file.metadata().map_or(0, |m| m.blocks() * 512);
        FleecingUse { disk: self.disk, bytes, bytes_max: self.bytes_max }
    }

    /// Why it could not keep something, when it could not.
    pub fn why_not(&self) -> CaptureError {
        let disk = self.disk;
        if self.in_use().bytes + SLACK_BYTES > self.bytes_max {
            return CaptureError::Full { disk, bytes_max: self.bytes_max };
        }
        let free = rustix::fs::fstatvfs(&self.file).map_or(u64::MAX, |fs| free_bytes(&fs));
        if free < SLACK_BYTES {
            return CaptureError::HostFull { disk, dir: self.dir.clone() };
        }
        CaptureError::Broken { disk, seconds: COPY_SECONDS_MAX }
    }
}

fn free_bytes(fs: &StatVfs) -> u64 {
    fs.f_bavail.saturating_mul(fs.f_frsize)
}

/// What can be looked at before anything is made.
pub(super) fn check(fleecing: &Fleecing) -> Result<(), CaptureError> {
    let Fleecing { dir, bytes_max } = fleecing;
    if *bytes_max < BYTES_MIN {
        return Err(CaptureError::TooSmall { bytes_max: *bytes_max, min: BYTES_MIN });
    }
    let fs = statvfs(dir).map_err(|e| CaptureError::Fleecing { dir: dir.clone(), source: e.into() })?;
    let free = free_bytes(&fs);
    if free < BYTES_MIN {
        return Err(CaptureError::NoRoom { dir: dir.clone(), free, needed: BYTES_MIN });
    }
    Ok(())
}

/// As much as is given, but no more than the whole disk and its tables can need.
fn room_bytes(bytes_max: u64, disk_bytes: u64) -> u64 {
    let whole = disk_bytes.saturating_add(disk_bytes / 512).saturating_add(BYTES_MIN);
    bytes_max.min(whole) / CLUSTER * CLUSTER
}

/// Makes a disk's fleecing image and the filter that fills it, which nothing goes through yet.
pub(super) async fn make(
    machine: &Machine,
    plan: &DiskPlan,
    fleecing: &Fleecing,
) -> Result<KeptFile, CaptureError> {
    let disk = plan.disk;
    let dir = fleecing.dir.clone();
    let bytes_max = room_bytes(fleecing.bytes_max, plan.bytes);
    let failed = |source| CaptureError::Fleecing { dir: dir.clone(), source };
    let file = unnamed(&dir).map_err(failed)?;
    let descriptor = file.try_clone().map_err(failed)?;
    let set = machine.add_fd(&disk.file(), OwnedFd::from(descriptor)).await?;
    // Before QEMU looks, which then never does again.
    file.set_len(bytes_max).map_err(failed)?;
    // Lost with its process in any case, so that nothing need ever be flushed; and nobody else can open it.
    let cache = json!({"no-flush": true});
    let add = |node| machine.execute("blockdev-add", node);
    add(json!({"driver": "file", "node-name": disk.file(), "filename": format!("/dev/fdset/{set}"),
               "locking": "off", "cache": cache}))
    .await?;
    add(json!({"driver": "raw", "node-name": disk.room(), "file": disk.file(), "size": bytes_max, "cache": cache}))
        .await?;
    create(machine, disk, plan.bytes).await?;
    add(json!({"driver": "qcow2", "node-name": disk.kept(), "file": disk.room(), "backing": disk.node(),
               "cache": cache}))
    .await?;
    // Without `discard`, what the guest gives back would stay allocated as long as the filter is there.
    add(json!({"driver": "copy-before-write", "node-name": disk.filter(), "file": disk.node(), "target": disk.kept(),
               "on-cbw-error": "break-snapshot", "cbw-timeout": COPY_SECONDS_MAX, "discard": "unmap"}))
    .await?;
    Ok(KeptFile { disk, file, dir, bytes_max })
}

async fn create(machine: &Machine, disk: DiskPlace, bytes: u64) -> Result<(), CaptureError> {
    let job = disk.kept();
    let options = json!({"driver": "qcow2", "file": disk.room(), "size": bytes.next_multiple_of(512)});
    machine.execute("blockdev-create", json!({"job-id": job, "options": options})).await?;
    let deadline = Instant::now() + CREATE_TIMEOUT;
    let ended = loop {
        let found = answers::jobs(machine).await?.into_iter().find(|j| j.id == job);
        match found {
            Some(found) if found.status == "concluded" => break found.error,
            None => break Some("QEMU forgot it".to_owned()),
            _ if Instant::now() > deadline => {
                return Err(CaptureError::Image { disk, why: "it takes too long".to_owned() });
            }
            _ => sleep(CREATE_LOOK).await,
        }
    };
    machine.execute("job-dismiss", json!({"id": job})).await?;
    ended.map_or(Ok(()), |why| Err(CaptureError::Image { disk, why }))
}

/// A file that only its descriptors lead to.
fn unnamed(dir: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    match open(dir, flags, Mode::RUSR | Mode::WUSR) {
        Ok(descriptor) => Ok(descriptor.into()),
        // Not every file system has such files, NFS for one; there it has a name for a moment.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR | rustix::io::Errno::INVAL) => {
            let path = dir.join(format!(".capture-{}", Uuid::new_v4().simple()));
            let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_room_holds_the_whole_disk_or_what_is_given() {
        assert_eq!(room_bytes(1 << 40, 1 << 30), (1 << 30) + (1 << 21) + BYTES_MIN);
        assert_eq!(room_bytes(BYTES_MIN + 1, 1 << 40), BYTES_MIN);
        assert_eq!(room_bytes(u64::MAX, u64::MAX) % CLUSTER, 0);
    }

    #[test]
    fn a_file_without_a_name_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = unnamed(dir.path()).unwrap();
        file.write_all(&[1; 8192]).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let disk = DiskPlace { controller: nestling_model::Controller::Scsi, location: 0 };
        let kept = KeptFile { disk, file, dir: dir.path().to_owned(), bytes_max: BYTES_MIN };
        assert!(kept.in_use().bytes >= 8192 && matches!(kept.why_not(), CaptureError::Broken { .. }));
        let full = KeptFile { bytes_max: SLACK_BYTES, ..kept };
        assert!(matches!(full.why_not(), CaptureError::Full { .. }));
    }

    #[test]
    fn too_little_room_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let of = |dir: &Path, bytes_max| check(&Fleecing { dir: dir.to_owned(), bytes_max });
        assert!(of(dir.path(), BYTES_MIN).is_ok());
        assert!(matches!(of(dir.path(), BYTES_MIN - 1), Err(CaptureError::TooSmall { .. })));
        assert!(matches!(of(&dir.path().join("absent"), BYTES_MIN), Err(CaptureError::Fleecing { .. })));
    }
}
