//! The file system without the kernel: what stands where, how large it is, and its bytes.
//!
//! The list of points is looked at again when somebody lists or looks something up and the last look is some seconds old;
//! one thread looks, the others go on with what is known. Errors are told here, each once, and become the number that a
//! program gets.

use std::{
    cell::Cell,
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, TryLockError},
    time::{Duration, Instant},
};

use fuser::Errno;
use nestling_vault::{
    BlobId, Catalogue, DESCRIPTION_FILE, Geometry, Job, Point, PointContent, PointDisk, Repository,
    SnapshotId, UnreadableSnapshot, VaultError, format::Timestamp,
};

use crate::{
    catalog::{Catalog, Entry},
    contents::Contents,
    inodes::{Inodes, Key},
    keeper::Keeper,
    locked,
    names::disk_file,
};

const LOOK_AGAIN: Duration = Duration::from_secs(3);
/// A damaged point is left out for so long, and then tried again: it may have been repaired.
const LEFT_OUT: Duration = Duration::from_secs(60);
/// How long somebody waits for a file's size on the disk to be counted.
const COUNT: Duration = Duration::from_millis(500);
/// What was told is told again once so much else was.
const TOLD: usize = 4096;

/// What the file system needs of whoever mounts it.
pub trait Host: Send + Sync + 'static {
    /// These trees are read from now on, and no others: a prune must leave them.
    fn keep(&self, trees: &[BlobId]) -> Result<(), VaultError>;

    /// A sentence for the log: something could not be read.
    fn warn(&self, sentence: &str);
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Folder,
    File,
    Link,
}

/// What the kernel is told of a file or folder.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) size_bytes: u64,
    /// What is not holes. Never too little.
    pub(crate) stored_bytes: u64,
    pub(crate) time: Option<Timestamp>,
    /// Whether `stored_bytes` is known to the byte.
    pub(crate) is_counted: bool,
}

#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) number: u64,
    pub(crate) kind: Kind,
    pub(crate) name: String,
}

/// See the module.
pub struct View {
    repository: Arc<Repository>,
    host: Arc<dyn Host>,
    contents: Contents,
    keeper: Keeper,
    looked: Mutex<Looked>,
    state: Mutex<State>,
    counted: Mutex<HashMap<(SnapshotId, usize), Counted>>,
    told: Mutex<HashSet<String>>,
}

/// The last look at the repository, held while there is one.
struct Looked {
    at: Option<Instant>,
    catalogue: Catalogue<Arc<Point>>,
}

struct State {
    points: Vec<Arc<Point>>,
    /// Damaged points, and since when they are not listed.
    left_out: HashMap<SnapshotId, Instant>,
    catalog: Arc<Catalog>,
    inodes: Inodes,
}

/// How much of a disk is stored, as far as it was counted.
#[derive(Clone, Copy, Default)]
struct Counted {
    segments: u64,
    bytes: u64,
}

fn time_of(point: &Point) -> Option<Timestamp> {
    Some(point.snapshot.time)
}

fn title(point: &Point) -> String {
    format!("{}@{}", point.name, point.short_id())
}

impl View {
    /// Reads the list of points.
    pub fn new(repository: &Arc<Repository>, host: Arc<dyn Host>, job: &Job) -> Result<Self, VaultError> {
        let (points, left_out) = (Vec::new(), HashMap::new());
        let state = State { points, left_out, catalog: Arc::new(Catalog::new([])), inodes: Inodes::new() };
        let view = Self {
            repository: repository.clone(),
            contents: Contents::new(repository),
            keeper: Keeper::new(repository, &host),
            host,
            looked: Mutex::new(Looked { at: None, catalogue: Catalogue::new(Arc::new) }),
            state: Mutex::new(state),
            counted: Mutex::default(),
            told: Mutex::default(),
        };
        view.look_now(&mut locked(&view.looked), job)?;
        Ok(view)
    }

    /// How many points and machines there are.
    pub fn counts(&self) -> (usize, usize) {
        self.catalog().counts()
    }

    fn catalog(&self) -> Arc<Catalog> {
        locked(&self.state).catalog.clone()
    }

    /// Looks at the repository again if that is due.
    fn look(&self) {
        let mut looked = match self.looked.try_lock() {
            Ok(looked) => looked,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // Another thread does.
            Err(TryLockError::WouldBlock) => return,
        };
        if looked.at.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
            return;
        }
        if let Err(error) = self.look_now(&mut looked, &Job::default()) {
            self.tell(&error.to_string(), &format!("the points are shown as they were: {error}"));
        }
    }

    fn look_now(&self, looked: &mut Looked, job: &Job) -> Result<(), VaultError> {
        looked.at = Some(Instant::now());
        let outcome = looked.catalogue.look(&self.repository, job);
        // After it, too: a store that answers slowly is not asked without pause.
        looked.at = Some(Instant::now());
        for UnreadableSnapshot { id, error } in outcome? {
            self.tell(&error.to_string(), &format!("point {id} is left out: {error}"));
        }
        let mut state = locked(&self.state);
        let before = state.left_out.len();
        state.left_out.retain(|_, since| since.elapsed() < LEFT_OUT);
        let points: Vec<Arc<Point>> =
            looked.catalogue.newest_first().rev().map(|listed| Arc::clone(&listed.kept)).collect();
        let known: HashSet<SnapshotId> = state.points.iter().map(|point| point.id).collect();
        let is_new = points.iter().any(|point| !known.contains(&point.id));
        if is_new {
            self.contents.expect_new();
        }
        if is_new || points.len() != known.len() || state.left_out.len() != before {
            state.points = points;
            self.rebuild(&mut state);
        }
        Ok(())
    }

    fn rebuild(&self, state: &mut State) {
        let shown = state.points.iter().filter(|point| !state.left_out.contains_key(&point.id));
        let catalog = Arc::new(Catalog::new(shown.cloned()));
        let is_there = |id: &SnapshotId| catalog.point(id).is_some() || self.keeper.point(id).is_some();
        state.inodes.retain(|key| match key {
            Key::Folder(path) | Key::Latest(path) => catalog.folder(path).is_some(),
            Key::Point(id) | Key::Disk(id, _) | Key::Description(id) => is_there(id),
        });
        locked(&self.counted).retain(|(id, _), _| is_there(id));
        state.catalog = catalog;
    }

    /// A line for the log, unless `what` was told before.
    fn tell(&self, what: &str, sentence: &str) {
        let mut told = locked(&self.told);
        if told.len() >= TOLD {
            told.clear();
        }
        if told.insert(what.to_owned()) {
            drop(told);
            self.host.warn(sentence);
        }
    }

    fn key(&self, number: u64) -> Result<Key, Errno> {
        locked(&self.state).inodes.key(number).cloned().ok_or(Errno::ENOENT)
    }

    fn number(&self, key: &Key) -> u64 {
        locked(&self.state).inodes.number(key)
    }

    fn point(&self, id: &SnapshotId) -> Result<Arc<Point>, Errno> {
        let listed = self.catalog().point(id).cloned();
        listed.or_else(|| self.keeper.point(id)).ok_or(Errno::ENOENT)
    }

    /// What is in a point. One that is damaged is left out of the lists from then on.
    fn content(&self, point: &Point) -> Result<Arc<PointContent>, Errno> {
        self.contents.content(point).map_err(|error| {
            if error.says_missing() && self.is_forgotten(point) {
                return Errno::ENOENT;
            }
            let what = title(point);
            if error.is_damage() || matches!(error, VaultError::NewerLayout { .. }) {
                self.tell(&format!("{what}: {error}"), &format!("{what} is left out: {error}"));
                let mut state = locked(&self.state);
                state.left_out.insert(point.id, Instant::now());
                self.rebuild(&mut state);
                return Errno::EIO;
            }
            self.failed(&what, "it cannot be looked into", &error)
        })
    }

    fn is_forgotten(&self, point: &Point) -> bool {
        self.repository.snapshot(&point.id).is_err_and(|error| error.says_missing())
    }

    fn failed(&self, what: &str, how: &str, error: &VaultError) -> Errno {
        self.tell(&format!("{what}: {error}"), &format!("{what}: {how}: {error}"));
        Errno::EIO
    }

    /// What a folder has under a name.
    pub(crate) fn lookup(&self, folder: u64, name: &str) -> Result<Node, Errno> {
        self.look();
        let key = match self.key(folder)? {
            Key::Folder(path) => {
                let catalog = self.catalog();
                let entries = &catalog.folder(&path).ok_or(Errno::ENOENT)?.entries;
                key_of(entries.get(name).ok_or(Errno::ENOENT)?, &path)
            }
            Key::Point(id) => {
                let files = self.files(&id)?;
                files.into_iter().find(|(file, _)| file == name).ok_or(Errno::ENOENT)?.1
            }
            _ => return Err(Errno::ENOTDIR),
        };
        self.describe(self.number(&key), &key)
    }

    pub(crate) fn node(&self, number: u64) -> Result<Node, Errno> {
        self.describe(number, &self.key(number)?)
    }

    fn describe(&self, number: u64, key: &Key) -> Result<Node, Errno> {
        let plain = |kind, size_bytes, time| Node {
            number,
            kind,
            size_bytes,
            stored_bytes: size_bytes,
            time,
            is_counted: true,
        };
        Ok(match key {
            Key::Folder(path) => {
                plain(Kind::Folder, 0, self.catalog().folder(path).ok_or(Errno::ENOENT)?.time)
            }
            Key::Latest(path) => {
                let (name, time) = self.latest(path)?;
                plain(Kind::Link, name.len() as u64, Some(time))
            }
            Key::Point(id) => plain(Kind::Folder, 0, Some(self.point(id)?.snapshot.time)),
            Key::Description(id) => {
                let point = self.point(id)?;
                let size_bytes = self.content(&point)?.description_bytes.ok_or(Errno::ENOENT)?;
                plain(Kind::File, size_bytes, time_of(&point))
            }
            Key::Disk(id, disk) => {
                let point = self.point(id)?;
                let content = self.content(&point)?;
                let geometry = content.layout.disks.get(*disk).ok_or(Errno::ENOENT)?.geometry;
                let (stored_bytes, is_counted) = self.stored(&point, *disk, &geometry);
                let node = plain(Kind::File, geometry.size_bytes, time_of(&point));
                Node { stored_bytes, is_counted, ..node }
            }
        })
    }

    fn latest(&self, path: &str) -> Result<(String, Timestamp), Errno> {
        self.catalog().folder(path).and_then(|folder| folder.latest.clone()).ok_or(Errno::ENOENT)
    }

    pub(crate) fn link(&self, number: u64) -> Result<String, Errno> {
        match self.key(number)? {
            Key::Latest(path) => Ok(self.latest(&path)?.0),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The files of a point. Of two disks of one name, the first is what can be opened.
    fn files(&self, id: &SnapshotId) -> Result<Vec<(String, Key)>, Errno> {
        let point = self.point(id)?;
        let content = self.content(&point)?;
        let mut names = HashSet::new();
        let disks = content.layout.disks.iter().enumerate();
        let disks = disks.filter(|(_, disk)| names.insert(&disk.name));
        let mut files: Vec<_> =
            disks.map(|(place, disk)| (disk_file(&disk.name), Key::Disk(*id, place))).collect();
        let description = content.description_bytes.map(|_| Key::Description(*id));
        files.extend(description.map(|key| (DESCRIPTION_FILE.to_owned(), key)));
        Ok(files)
    }

    /// All that is in a folder, itself and the one above included.
    pub(crate) fn list(&self, folder: u64) -> Result<Vec<Listed>, Errno> {
        self.look();
        let key = self.key(folder)?;
        let (above, entries) = match &key {
            Key::Folder(path) => {
                let catalog = self.catalog();
                let entries = catalog.folder(path).ok_or(Errno::ENOENT)?.entries.iter();
                let entries = entries.map(|(name, entry)| (name.clone(), key_of(entry, path))).collect();
                (Catalog::above(path).to_owned(), entries)
            }
            Key::Point(id) => (self.point(id)?.name.to_string(), self.files(id)?),
            _ => return Err(Errno::ENOTDIR),
        };
        let mut state = locked(&self.state);
        let around = [(".".to_owned(), key), ("..".to_owned(), Key::Folder(above))];
        let all = around.into_iter().chain(entries);
        Ok(all
            .map(|(name, key)| Listed { number: state.inodes.number(&key), kind: kind_of(&key), name })
            .collect())
    }

    /// The point that a file belongs to, and its disk; no disk is the description.
    fn file(&self, number: u64) -> Result<(Arc<Point>, Option<usize>), Errno> {
        match self.key(number)? {
            Key::Disk(id, disk) => Ok((self.point(&id)?, Some(disk))),
            Key::Description(id) => Ok((self.point(&id)?, None)),
            Key::Latest(_) => Err(Errno::ELOOP),
            Key::Folder(_) | Key::Point(_) => Err(Errno::EISDIR),
        }
    }

    /// Followed by one `close`, unless it fails.
    pub(crate) fn open(&self, number: u64) -> Result<(), Errno> {
        let (point, _) = self.file(number)?;
        self.keeper.open(&point).map_err(|error| {
            if error.says_missing() && self.is_forgotten(&point) {
                return Errno::ENOENT;
            }
            self.failed(&title(&point), "its files cannot be opened", &error)
        })?;
        // The number stays for as long as the file is open, unless it went just before.
        self.key(number).map(drop).inspect_err(|_| self.keeper.close(&point.id))
    }

    pub(crate) fn close(&self, number: u64) {
        if let Ok((point, _)) = self.file(number) {
            self.keeper.close(&point.id);
        }
    }

    /// Bytes of a file, fewer at its end.
    pub(crate) fn read(&self, number: u64, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        let (point, disk) = self.file(number)?;
        let Some(disk) = disk else {
            let all = self.description(&point)?;
            let from = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
            return Ok(all[from..all.len().min(from.saturating_add(count as usize))].to_vec());
        };
        let read = self.contents.on_disk(&point, disk, |disk| {
            let left = disk.geometry().size_bytes.saturating_sub(offset);
            let mut bytes = vec![0; usize::try_from(left).unwrap_or(usize::MAX).min(count as usize)];
            if left > 0 {
                disk.read(&mut bytes, offset)?;
            }
            Ok(bytes)
        });
        let how = || format!("bytes {offset} to {} cannot be read", offset.saturating_add(count.into()));
        read.map_err(|error| self.failed(&self.disk_title(&point, disk), &how(), &error))
    }

    fn disk_title(&self, point: &Point, disk: usize) -> String {
        let content = self.contents.content(point).ok();
        let name = content.as_ref().and_then(|content| content.layout.disks.get(disk));
        name.map_or_else(|| title(point), |disk| format!("{}:{}", title(point), disk.name))
    }

    fn description(&self, point: &Point) -> Result<Arc<Vec<u8>>, Errno> {
        let file = || format!("{}: {DESCRIPTION_FILE}", title(point));
        self.contents.description(point).map_err(|error| self.failed(&file(), "it cannot be read", &error))
    }

    /// The first byte from `offset` on that is data, or that is in a hole.
    pub(crate) fn seek(&self, number: u64, offset: u64, hole: bool) -> Result<u64, Errno> {
        let (point, disk) = self.file(number)?;
        let found = match disk {
            None => {
                let size_bytes = self.description(&point)?.len() as u64;
                (offset < size_bytes).then_some(if hole { size_bytes } else { offset })
            }
            Some(disk) => {
                let seek = |disk: &PointDisk| match hole {
                    _ if offset >= disk.geometry().size_bytes => Ok(None),
                    true => disk.next_hole(offset).map(Some),
                    false => disk.next_data(offset),
                };
                let how = "its holes cannot be found";
                let found = self.contents.on_disk(&point, disk, seek);
                found.map_err(|error| self.failed(&self.disk_title(&point, disk), how, &error))?
            }
        };
        found.ok_or(Errno::ENXIO)
    }

    /// How much of a disk is stored, and whether that was counted to its end. What was not yet counts as stored, and who
    /// asks again counts on: on a slow store, a large disk has more lists than anybody waits for.
    fn stored(&self, point: &Point, disk: usize, geometry: &Geometry) -> (u64, bool) {
        let key = (point.id, disk);
        let counted = Cell::new(locked(&self.counted).get(&key).copied().unwrap_or_default());
        let is_done = || counted.get().segments >= geometry.segments();
        if !is_done() {
            let deadline = Instant::now() + COUNT;
            // What cannot be read stays as it is here; who reads it is told.
            let _ = self.contents.on_disk(point, disk, |disk| {
                while !is_done() && Instant::now() < deadline {
                    let Counted { segments, bytes } = counted.get();
                    let bytes = bytes + disk.data_bytes(segments)?;
                    counted.set(Counted { segments: segments + 1, bytes });
                }
                Ok(())
            });
            locked(&self.counted).insert(key, counted.get());
        }
        let Counted { segments, bytes } = counted.get();
        let rest = geometry.size_bytes.saturating_sub(segments.saturating_mul(geometry.segment_bytes));
        (bytes + rest, is_done())
    }
}

fn key_of(entry: &Entry, folder: &str) -> Key {
    match entry {
        Entry::Folder(path) => Key::Folder(path.clone()),
        Entry::Point(id) => Key::Point(*id),
        Entry::Latest => Key::Latest(folder.to_owned()),
    }
}

fn kind_of(key: &Key) -> Kind {
    match key {
        Key::Folder(_) | Key::Point(_) => Kind::Folder,
        Key::Disk(..) | Key::Description(_) => Kind::File,
        Key::Latest(_) => Kind::Link,
    }
}

#[cfg(test)]
mod tests;
