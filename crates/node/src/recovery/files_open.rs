//! From a place in a point to the file system there: by a process of its own where a reader of ours reads it, else by a
//! machine that mounts it.
//!
//! ```text
//! scsi:0/1:/etc                     process, or machine with all disks of the point if it holds XFS, btrfs, encryption
//! lvm/data/files:/etc               machine with all disks
//! scsi:0/2:/l2.qcow2//1:/etc        process; where the last volume needs one, a machine with the disk that the process opened
//! lvm/data/vms:/l2.qcow2//1:/etc    machine with all disks, whose readers open the image
//! ```

use std::{path::Path, sync::Arc};

use nestling_block::nbd::NbdServer;
use nestling_explore::{
    ErrorKind, ExploreError, FileSystem, Kind, Place, VolumeId,
    client::{Mount, Worker, WorkerProgram},
};

use super::{
    files::{start, unreadable},
    reader::{Below, Reading},
    source::Source,
};
use crate::{Node, NodeError, blocking::blocking, error::Result};

/// A file system, and what it lives on.
pub struct OpenedFs {
    pub fs: Arc<dyn FileSystem>,
    /// Of the process that reads it.
    pub server: Option<NbdServer>,
    pub machine: Option<Arc<Reading>>,
}

/// What a process of its own found at a place.
enum Found {
    Read(Arc<dyn FileSystem>, NbdServer),
    /// The disk that the volume is on, as the process reads it.
    Disk(Arc<Worker>, NbdServer),
    /// What is on the way, or the volume itself, a machine with the point's disks has to mount.
    Mounted,
}

/// Whether only a machine opens it.
fn needs_machine(kind: Kind) -> bool {
    kind.is_mounted() || kind == Kind::Luks
}

fn is_composed(place: &Place) -> bool {
    matches!(place.last().map(|last| &last.volume), Some(VolumeId::Composed(_)))
}

/// The same volume as a machine that has its disk alone calls it.
fn alone(place: &Place) -> Place {
    place.last().map(|last| Place::default().volume(last.volume.clone())).unwrap_or_default()
}

impl Node {
    /// Opens the volume that `place` is in. Without a disk it is one that is put together from all of them.
    pub(super) async fn open_place(
        &self,
        source: &Arc<Source>,
        disk: Option<&str>,
        place: &Place,
    ) -> Result<OpenedFs> {
        let Some(disk) = disk else { return self.open_mounted(source, None, place).await };
        let found = {
            let (source, disk, place) = (Arc::clone(source), disk.to_owned(), place.clone());
            let (socket, program) = (self.read_socket(), self.program()?);
            blocking(move || look(&source, &disk, &place, &program, &socket)).await?
        };
        match found {
            Found::Read(fs, server) => Ok(OpenedFs { fs, server: Some(server), machine: None }),
            Found::Mounted => self.open_mounted(source, Some(disk), place).await,
            Found::Disk(worker, server) => {
                let reading = self.reader_of_disk(source, disk, place, &worker, server).await?;
                self.mount(source, reading, 0, alone(place)).await
            }
        }
    }

    /// By the machine that has all disks of the point, or by another one for a disk inside its volumes.
    async fn open_mounted(
        &self,
        source: &Arc<Source>,
        disk: Option<&str>,
        place: &Place,
    ) -> Result<OpenedFs> {
        let reading = self.reader_of_point(source).await?;
        let is_inside = !place.images().is_empty();
        if !(is_inside && is_composed(place)) {
            let number = disk_number(source, disk)?;
            match self.mount(source, Arc::clone(&reading), number, place.volume_only()).await {
                Err(error) if is_inside && is_unsupported(&error) => {}
                mounted => return mounted,
            }
        }
        let inner = self.reader_inside(source, reading, disk, place).await?;
        self.mount(source, inner, 0, alone(place)).await
    }

    /// The machine that reads the disk which `place` is in, whatever is on it.
    pub(super) async fn reader_for(
        &self,
        source: &Arc<Source>,
        disk: Option<&str>,
        place: &Place,
    ) -> Result<Arc<Reading>> {
        let inside = place.disk();
        if inside.images().is_empty() {
            return self.reader_of_point(source).await;
        }
        let found = match disk {
            Some(disk) => {
                let (source, disk) = (Arc::clone(source), disk.to_owned());
                let (socket, program) = (self.read_socket(), self.program()?);
                blocking(move || look_at_disk(&source, &disk, &inside, &program, &socket)).await?
            }
            None => None,
        };
        match disk.zip(found) {
            Some((disk, (worker, server))) => {
                self.reader_of_disk(source, disk, place, &Arc::new(worker), server).await
            }
            None => self.reader_inside(source, self.reader_of_point(source).await?, disk, place).await,
        }
    }

    async fn mount(
        &self,
        source: &Arc<Source>,
        reading: Arc<Reading>,
        disk: u32,
        place: Place,
    ) -> Result<OpenedFs> {
        let (of, machine) = (Arc::clone(source), Arc::clone(&reading.machine));
        let mounted = blocking(move || {
            machine.mount(Mount { disk, place }).map_err(|error| unreadable(&of.point, error))
        });
        let fs = mounted.await.inspect_err(|error| self.end_if_dead(&reading, error))?;
        Ok(OpenedFs { fs, server: None, machine: Some(reading) })
    }

    /// The next question may be about something else, and gets another machine.
    pub(super) fn end_if_dead(&self, reading: &Arc<Reading>, error: &NodeError) {
        if matches!(error, NodeError::Files { source, .. } if source.kind() == ErrorKind::Worker) {
            self.recovery.machine_died(reading);
        }
    }

    /// A machine for the disk inside a volume that another machine mounts.
    pub(super) async fn reader_inside(
        &self,
        source: &Arc<Source>,
        reading: Arc<Reading>,
        disk: Option<&str>,
        place: &Place,
    ) -> Result<Arc<Reading>> {
        let at = Mount { disk: disk_number(source, disk)?, place: place.disk() };
        let machine = Arc::clone(&reading.machine);
        let of = Arc::clone(source);
        let inside = blocking(move || machine.mount_disk(at).map_err(|error| unreadable(&of.point, error)));
        let inside = inside.await.inspect_err(|error| self.end_if_dead(&reading, error))?;
        let below = Below { source: Arc::clone(source), _server: None, machine: Some(reading) };
        self.reader(context(disk, &place.disk()), move || Ok(vec![inside]), below).await
    }

    /// A machine for the disk inside a disk that a process of its own opened.
    pub(super) async fn reader_of_disk(
        &self,
        source: &Arc<Source>,
        disk: &str,
        place: &Place,
        worker: &Arc<Worker>,
        server: NbdServer,
    ) -> Result<Arc<Reading>> {
        let below = Below { source: Arc::clone(source), _server: Some(server), machine: None };
        let inside = worker.disk();
        self.reader(context(Some(disk), &place.disk()), move || Ok(vec![inside]), below).await
    }
}

/// What a machine is found again by.
pub(super) fn context(disk: Option<&str>, place: &Place) -> String {
    if place.images().is_empty() { String::new() } else { format!("{}/{place}", disk.unwrap_or_default()) }
}

/// A disk's number in the machine of the point; what lies on none of them alone is asked for at the first.
pub(super) fn disk_number(source: &Source, disk: Option<&str>) -> Result<u32> {
    let Some(disk) = disk else { return Ok(0) };
    let found = source.disks.iter().zip(0..).find(|(has, _)| has.name == disk).map(|(_, number)| number);
    found.ok_or_else(|| source.refused(format!("it has no disk {disk}")))
}

/// Goes to a place in a process of its own. Blocks.
fn look(source: &Source, disk: &str, place: &Place, program: &WorkerProgram, socket: &Path) -> Result<Found> {
    let go = |place: &Place| start(source, disk, place, program, socket);
    let failed = |error| unreadable(&source.point, error);
    let its_disk = || go(&place.disk()).map(|(worker, server)| Found::Disk(Arc::new(worker), server));
    if is_composed(place) {
        return its_disk();
    }
    let (worker, server) = match look_at_disk(source, disk, place, program, socket)? {
        Some((worker, server)) => (worker, server),
        None => return Ok(Found::Mounted),
    };
    match worker.detect().map_err(failed)?.kind {
        kind if kind.is_part() => Err(failed(ExploreError::Told {
            kind: ErrorKind::Unsupported,
            what: format!("holds {kind}; list the recovery point to see the volumes on it"),
        })),
        kind if !needs_machine(kind) => Ok(Found::Read(Arc::new(worker).open().map_err(failed)?, server)),
        _ if place.images().is_empty() => Ok(Found::Mounted),
        _ => {
            drop(worker);
            server.stop();
            its_disk()
        }
    }
}

/// A process that has gone there. `None`: a machine has to mount the outermost volume.
pub(super) type FoundDisk = Option<(Worker, NbdServer)>;

/// What `place` is in, by a process of its own, unless the outermost volume is what only a machine mounts. Blocks.
pub(super) fn look_at_disk(
    source: &Source,
    disk: &str,
    place: &Place,
    program: &WorkerProgram,
    socket: &Path,
) -> Result<FoundDisk> {
    let go = |place: &Place| start(source, disk, place, program, socket);
    let error = match go(place) {
        Ok((worker, server)) => return Ok(Some((worker, server))),
        Err(error) => error,
    };
    let Some(outer) = place.outermost().filter(|_| is_unsupported(&error) && !place.images().is_empty())
    else {
        return Err(error);
    };
    let (worker, server) = go(&Place::default().volume(outer.volume.clone()))?;
    let kind = worker.detect().map(|content| content.kind);
    drop(worker);
    server.stop();
    if kind.is_ok_and(needs_machine) { Ok(None) } else { Err(error) }
}

fn is_unsupported(error: &NodeError) -> bool {
    matches!(error, NodeError::Files { source, .. } if source.kind() == ErrorKind::Unsupported)
}
