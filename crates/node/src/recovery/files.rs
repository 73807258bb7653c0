//! Files out of recovery points.
//!
//! ```text
//! POINT  scsi:0/2:/home/l2.qcow2//1:/etc        what is asked for
//!    │      │    └─ place: everything from here on is read by a process of its own (nestling_explore)
//!    │      └─ a disk of the point, served to that process over NBD on a socket of its own
//!    └─ the vault: opened, and held against a prune, by the node, which alone has the password
//! ```
//!
//! What must never happen: that this process looks at a table, an image or a file system of a guest; that a reader outlives
//! its use for long (it ends when nobody asked for a while); that what it says is used as a path here.

use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use nestling_block::nbd::{Export, NbdAddress, NbdServer, ServerLimits};
use nestling_explore::{
    ComposedId, Cursor, Entry, ErrorKind, ExploreError, FileKind, FilePath, FileSystem, Place, VolumeId,
    client::{Disk, Worker, WorkerProgram},
    find,
};
use nestling_identity::{Action, Identity};
use nestling_model::protection::DiskSelector;
use nestling_vault::{Job, Point};
use uuid::Uuid;

use super::{
    files_open::OpenedFs,
    files_values::{FileBytes, FileView, FilesAt, FilesView, shown},
    reader::Reading,
    readers::{IDLE, Key, Seated},
    source::Source,
};
use crate::{
    Node, NodeError, blocking::blocking, error::Result, home::remove_file, node::Shared,
    protection::repositories::Known,
};

/// For one answer of a reader, what it reads from the repository included.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// Of a file, in one answer.
const CHUNK_BYTES_MAX: u32 = 4 << 20;
const PAGE_ENTRIES_MAX: usize = 1000;

/// A volume that is being looked into.
pub struct Opened {
    /// What it is of, for messages and for whoever asks again.
    point: Point,
    /// None: the volume is put together from several disks.
    pub(super) disk: Option<String>,
    pub(super) fs: Arc<dyn FileSystem>,
    pub(super) machine: Option<Arc<Reading>>,
    // In this order: the reader ends before what it reads from.
    _server: Option<NbdServer>,
    _source: Arc<Source>,
}

impl Node {
    /// A file or directory, and a page of what is in a directory.
    pub async fn point_files(
        &self,
        who: &Identity,
        at: FilesAt,
        from: u64,
        limit: usize,
    ) -> Result<FilesView> {
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX);
        self.ask(who, &at, move |opened, place, path| {
            let disk = opened.disk.as_deref();
            let fs = &*opened.fs;
            let node = find(fs, path)?;
            let stat = fs.stat(node)?;
            let itself = FileView::new(fs, disk, place, path.names().last().cloned(), path, &stat, true)?;
            let mut view = FilesView {
                point: opened.point.id.to_string(),
                itself,
                entries: Vec::new(),
                next: None,
                damage: Vec::new(),
            };
            if stat.kind != FileKind::Directory {
                return Ok(view);
            }
            let page = fs.list(node, Cursor(from), limit)?;
            view.damage.extend(page.damage);
            view.next = page.next.map(|next| next.0);
            for Entry { name, node, kind } in page.entries {
                let path = path.join(name.clone());
                let entry = fs
                    .stat(node)
                    .and_then(|stat| FileView::new(fs, disk, place, Some(name.clone()), &path, &stat, false));
                match entry {
                    Ok(entry) => view.entries.push(entry),
                    Err(error) if error.kind() == ErrorKind::Worker => return Err(error),
                    Err(error) => {
                        view.damage.push(format!("{path}: {error}"));
                        view.entries.push(FileView::unknown(disk, place, name, &path, kind));
                    }
                }
            }
            Ok(view)
        })
        .await
    }

    /// Bytes of a file; where there are only zeroes, how many.
    pub async fn point_bytes(
        &self,
        who: &Identity,
        at: FilesAt,
        offset: u64,
        length: u32,
    ) -> Result<FileBytes> {
        let length = length.min(CHUNK_BYTES_MAX);
        self.ask(who, &at, move |opened, _, path| {
            let fs = &*opened.fs;
            FileBytes::read(fs, find(fs, path)?, offset, length)
        })
        .await
    }

    pub(super) async fn ask<T: Send + 'static>(
        &self,
        who: &Identity,
        at: &FilesAt,
        question: impl FnOnce(&Opened, &Place, &FilePath) -> nestling_explore::Result<T> + Send + 'static,
    ) -> Result<T> {
        self.authorize_files(who)?;
        let (disk, place) = take_apart(&at.place)?;
        let Some(last) = place.last().cloned() else {
            return Err(NodeError::invalid(
                "this is a disk; a place in one of its volumes is such as scsi:0/1:/etc",
            ));
        };
        let volume = place.volume_only();
        let key = (at.point.clone(), at.repository.clone(), disk, volume.to_string());
        let opened = match self.recovery.files.get(&key) {
            Some(opened) => opened,
            None => self.open_volume(key, volume).await?,
        };
        opened.machine.iter().for_each(|machine| machine.touch());
        let shared = self.shared();
        blocking(move || {
            question(&opened, &place, &last.path).map_err(|error| {
                // The next question may be of another file, and gets another reader.
                if error.kind() == ErrorKind::Worker {
                    shared.recovery.files.end(&opened);
                    opened.machine.iter().for_each(|machine| shared.recovery.machine_died(machine));
                }
                unreadable(&opened.point, error)
            })
        })
        .await
    }

    async fn open_volume(&self, mut key: Key, volume: Place) -> Result<Arc<Seated<Opened>>> {
        let (known, point) = self.choose_point(&key.0, key.1.as_deref()).await?;
        if key.0.contains('@') {
            // Which point is the newest changes.
            key.0 = point.id.to_string();
        }
        let readers = &self.recovery.files;
        let _turn = readers.turn(&key, ANSWER_TIMEOUT).await?;
        if let Some(opened) = readers.get(&key) {
            return Ok(opened);
        }
        let source = self.open_source(&known, &point, key.2.as_deref()).await?;
        let seat = readers.seat(ANSWER_TIMEOUT).await?;
        let OpenedFs { fs, server, machine } = self.open_place(&source, key.2.as_deref(), &volume).await?;
        let disk = key.2.clone();
        let opened =
            readers.keep(key, Opened { point, disk, fs, machine, _server: server, _source: source }, seat);
        self.watch_idle();
        Ok(opened)
    }

    /// Until nothing is open any more.
    pub(super) fn watch_idle(&self) {
        if self.recovery.files_watched.swap(true, SeqCst) {
            return;
        }
        let shared = self.shared();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(IDLE / 4) => {}
                    () = shared.stopping.cancelled() => return,
                }
                // An end waits for processes.
                if end_idle(&shared).await {
                    continue;
                }
                shared.recovery.files_watched.store(false, SeqCst);
                // Something may have come after the look and before anybody else could watch it.
                if !end_idle(&shared).await || shared.recovery.files_watched.swap(true, SeqCst) {
                    return;
                }
            }
        });
    }

    pub(super) async fn open_source(
        &self,
        known: &Known,
        point: &Point,
        disk: Option<&str>,
    ) -> Result<Arc<Source>> {
        let vault = self.protection.repositories.open(known).await?;
        let (known, point) = (known.clone(), point.clone());
        let source = blocking(move || Source::read(known, vault, point, &Job::default())).await?;
        if let Some(disk) = disk
            && !source.disks.iter().any(|has| has.name == disk)
        {
            let has: Vec<String> = source.disks.iter().map(|has| shown(&has.name)).collect();
            return Err(source.refused(format!("it has no disk {}; it has {}", shown(disk), has.join(", "))));
        }
        Ok(Arc::new(source))
    }

    /// What a guest holds is as much as the guest.
    pub(super) fn authorize_files(&self, who: &Identity) -> Result<()> {
        self.authorize(who, Action::ReadBackups)?;
        self.authorize(who, Action::UseGuest)?;
        Ok(())
    }

    pub(super) fn program(&self) -> Result<WorkerProgram> {
        let program = self.settings.nestling_binary.clone().ok_or_else(|| {
            NodeError::Engine("the program that reads file systems is not known to this node".to_owned())
        })?;
        Ok(WorkerProgram { program, arguments: vec!["explore-worker".into()] })
    }

    /// Used once: the reader's connection is made before anybody else could know of it.
    pub(super) fn read_socket(&self) -> PathBuf {
        let name: String = Uuid::new_v4().simple().to_string().chars().take(12).collect();
        self.home.read().join(format!("f{name}"))
    }
}

/// Whether anything is left.
async fn end_idle(shared: &Arc<Shared>) -> bool {
    let shared = Arc::clone(shared);
    let ending = tokio::task::spawn_blocking(move || {
        // Both, and files first: they hold machines.
        let (files, machines) = (shared.recovery.files.end_idle(), shared.recovery.machines.end_idle());
        files || machines
    });
    ending.await.unwrap_or(false)
}

/// `scsi:0/2:/etc`: the disk as points call it, and the place in it. What is put together from several disks is on none:
/// `lvm/data/files:/etc`.
pub(super) fn take_apart(text: &str) -> Result<(Option<String>, Place)> {
    let invalid =
        |why: String| NodeError::invalid(format!("{text:?} is no place in a recovery point: {why}"));
    if text.is_empty() {
        return Ok((None, Place::default()));
    }
    if ComposedId::is_meant(text) {
        return Ok((None, text.parse().map_err(|error: ExploreError| invalid(error.to_string()))?));
    }
    let (disk, place) = text.split_once('/').unwrap_or((text, ""));
    let Ok(DiskSelector::Place { .. }) = disk.parse() else {
        return Err(invalid(how_it_begins(disk)));
    };
    let place: Place = place.parse().map_err(|error: ExploreError| invalid(error.to_string()))?;
    if place.outermost().is_some_and(|outer| matches!(outer.volume, VolumeId::Composed(_))) {
        return Err(invalid("a volume that is put together from disks stands without a disk".to_owned()));
    }
    Ok((Some(disk.to_lowercase().replacen(':', "-", 1)), place))
}

/// What is often left out is the volume.
fn how_it_begins(first: &str) -> String {
    let is_disk = |disk: &str| matches!(disk.parse(), Ok(DiskSelector::Place { .. }));
    match first.strip_suffix(':').filter(|disk| is_disk(disk)) {
        Some(disk) => format!(
            "between disk and path stands a volume; {disk}/1:/ is the disk's first partition, and {disk}/0:/ all of a disk that \
             has no partitions"
        ),
        None => "it begins with a disk and a volume of it, such as scsi:0/1:/etc, or scsi:0/0:/etc of a disk without partitions"
            .to_owned(),
    }
}

/// A reader that has gone to what `place` is in.
pub(super) fn start(
    source: &Source,
    disk: &str,
    place: &Place,
    program: &WorkerProgram,
    socket: &std::path::Path,
) -> Result<(Worker, NbdServer)> {
    let bytes = source.disk(disk).map_err(|error| source.failed(error))?;
    let exports = vec![Export::read_only(disk, Arc::new(bytes))];
    let path = socket.to_owned();
    let server = NbdServer::start(&NbdAddress::Unix(path.clone()), exports, ServerLimits::default());
    let server = server.map_err(|source| NodeError::Export { path, source })?;
    let connected = UnixStream::connect(socket);
    remove_file(socket)?;
    let connected = connected.map_err(NodeError::io("connect to", socket))?;
    let about = Disk { socket: connected, export: disk.to_owned(), name: shown(disk) };
    let worker = Worker::start(program, about, ANSWER_TIMEOUT).and_then(|worker| worker.enter(place));
    Ok((worker.map_err(|error| unreadable(&source.point, error))?, server))
}

pub(super) fn unreadable(point: &Point, error: ExploreError) -> NodeError {
    NodeError::Files { point: point.short_id(), vm: point.name.to_string(), source: Box::new(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_begins_with_a_disk() {
        let apart = |text: &str| take_apart(text).ok().map(|(disk, place)| (disk, place.to_string()));
        assert_eq!(apart(""), Some((None, String::new())));
        assert_eq!(apart("scsi:0"), Some((Some("scsi-0".to_owned()), String::new())));
        assert_eq!(apart("lvm/a/b:/c"), Some((None, "lvm/a/b:/c".to_owned())));
        assert_eq!(apart("ide:1/2:/a//0:/b"), Some((Some("ide-1".to_owned()), "2:/a//0:/b".to_owned())));
        let why = |text: &str| take_apart(text).unwrap_err().message();
        let without = why("scsi:0:/docs");
        assert!(without.contains("scsi:0/1:/") && without.contains("scsi:0/0:/"), "{without}");
        assert!(why("/docs").contains("scsi:0/0:/etc"), "{}", why("/docs"));
        for text in
            ["/", "2:/a", "scsi-0/1:/", "scsi:99", "scsi:0/x", "../scsi:0", "lvm/a", "scsi:0/lvm/a/b:/"]
        {
            assert_eq!(apart(text), None, "{text}");
        }
    }
}
