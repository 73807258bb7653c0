//! A repository: opened with a password, asked for its points, its index and its blobs.
//!
//! It knows the order in which things must be read (snapshots before the index, so that what a snapshot needs is
//! found) and nothing of what disks are.

use std::{
    collections::{HashMap, HashSet},
    os::unix::fs::MetadataExt,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use crate::{
    IndexId, KeyId, PackId, SnapshotId, VaultError,
    crypto::MasterKey,
    format::{
        Timestamp,
        config::Config,
        index::{self, IndexFile, IndexPack},
        key::{KdfCost, KeyError, KeyFile},
        object::{open_object, seal_object},
        snapshot::{self, Snapshot},
    },
    index::Index,
    job::Job,
    layout::Tuning,
    lock::RepositoryLock,
    parallel::in_parallel,
    storage::{Clock, FileKind, FileName, Storage, StorageErrorKind, SystemClock},
};

/// No config, key, lock or snapshot file is longer.
const SMALL_BYTES_MAX: usize = 16 << 20;
/// restic writes index files of some 8 MiB; much longer ones are still read.
pub(crate) const INDEX_BYTES_MAX: usize = 256 << 20;
/// A list of files may name what another program just replaced; then it is listed again.
const RELISTS: usize = 8;
/// Threads that read small files at once: they mostly wait.
const READERS: usize = 8;

/// Who writes, as restic shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub hostname: String,
    pub username: String,
    pub uid: u32,
    pub gid: u32,
    /// By which others in the same boot see that a lock's holder has died.
    pub pid: u32,
    /// The boot of this machine and the namespace of processes that `pid` counts in; none where they cannot be told.
    pub boot: Option<String>,
    /// When the process began, as `process_start` says it.
    pub started: Option<String>,
}

/// When a process began, in a clock that this process's namespace of time shifts: the inode of the namespace, a colon, and
/// ticks since boot. None where it cannot be told, or where there is no such process.
pub(crate) fn process_start(pid: u32) -> Option<String> {
    // Another namespace's processes may be mounted there.
    let own = std::fs::read_link("/proc/self").ok()?;
    own.to_str().filter(|own| *own == std::process::id().to_string())?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name stands in parentheses and may hold anything. Behind it comes the third field; this is the 22nd.
    let ticks: u64 = stat.rsplit_once(')')?.1.split_whitespace().nth(22 - 3)?.parse().ok()?;
    let namespace = std::fs::metadata("/proc/self/ns/time").ok()?.ino();
    Some(format!("{namespace}:{ticks}"))
}

fn boot() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let namespace = std::fs::metadata("/proc/self/ns/pid").ok()?.ino();
    Some(format!("{}:{namespace}", boot.trim()))
}

impl Identity {
    /// This process on this host.
    pub fn current() -> Self {
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        let username =
            std::env::var("USER").unwrap_or_else(|_| if uid == 0 { "root".into() } else { uid.to_string() });
        let pid = std::process::id();
        Self { hostname, username, uid, gid, pid, boot: boot(), started: process_start(pid) }
    }
}

/// Index files and what they say.
pub(crate) type IndexFiles = Vec<(IndexId, Vec<IndexPack>)>;

/// A snapshot that is damaged, or whose reading failed. It may be a point; nobody knows of which machine.
#[derive(Debug)]
pub struct UnreadableSnapshot {
    pub id: SnapshotId,
    pub error: VaultError,
}

/// Those that can be read, and those that cannot.
pub(crate) type ReadableSnapshots = (Vec<(SnapshotId, Snapshot)>, Vec<UnreadableSnapshot>);

fn oldest_first(snapshots: HashMap<SnapshotId, Snapshot>) -> Vec<(SnapshotId, Snapshot)> {
    let mut snapshots: Vec<_> = snapshots.into_iter().collect();
    snapshots.sort_by(|a, b| a.1.time.cmp(&b.1.time).then(a.0.cmp(&b.0)));
    snapshots
}

/// An open repository. Cheap to share between threads behind an `Arc`.
pub struct Repository {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) key: MasterKey,
    pub(crate) tuning: Tuning,
    pub(crate) clock: Arc<dyn Clock>,
    config: Config,
    key_id: KeyId,
}

fn small(kind: FileKind, name: &str) -> FileName {
    FileName { kind, name: name.to_owned() }
}

impl Repository {
    /// Makes a new repository. Fails where there is one already, and changes nothing then.
    pub fn init(
        storage: Arc<dyn Storage>,
        password: &[u8],
        who: &Identity,
        cost: KdfCost,
    ) -> Result<Self, VaultError> {
        let place = storage.describe();
        let config_file = small(FileKind::Config, "");
        match storage.get(&config_file, SMALL_BYTES_MAX as u64) {
            Ok(_) => return Err(VaultError::AlreadyExists { place }),
            Err(error) if error.kind == StorageErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let key = MasterKey::generate()?;
        let config = Config::generate().map_err(|source| damaged("the new config file", source))?;
        // The config makes it a repository, so it comes last: a torn run leaves a key that nobody looks for.
        let key_id = put_key(storage.as_ref(), &key, password, who, cost)?;
        let sealed = config.seal(&key).map_err(|source| damaged("the new config file", source))?;
        match storage.put(&config_file, &sealed) {
            Ok(()) => Ok(Self::with(storage, key, config, key_id)),
            Err(error) => {
                if error.kind != StorageErrorKind::AlreadyExists {
                    // The config may be there although its answer was lost, and then nothing else opens it.
                    return Err(error.into());
                }
                // Somebody else was first: this key opens nothing.
                storage.remove(&small(FileKind::Key, &key_id.to_string()))?;
                Err(VaultError::AlreadyExists { place })
            }
        }
    }

    pub fn open(storage: Arc<dyn Storage>, password: &[u8]) -> Result<Self, VaultError> {
        let place = storage.describe();
        let sealed = storage.get(&small(FileKind::Config, ""), SMALL_BYTES_MAX as u64).map_err(|error| {
            if error.kind == StorageErrorKind::NotFound {
                VaultError::NoRepository { place: place.clone() }
            } else {
                error.into()
            }
        })?;
        let (key_id, key) = find_key(storage.as_ref(), password)?;
        let config = Config::open(&key, sealed).map_err(|source| damaged("config", source))?;
        if !(1..=2).contains(&config.version) {
            return Err(VaultError::Version { place, version: config.version });
        }
        Ok(Self::with(storage, key, config, key_id))
    }

    fn with(storage: Arc<dyn Storage>, key: MasterKey, config: Config, key_id: KeyId) -> Self {
        let clock = Arc::new(SystemClock::default());
        Self { storage, key, tuning: Tuning::default(), clock, config, key_id }
    }

    /// Cuts, packs and compresses what is saved from now on otherwise than usual.
    #[must_use]
    pub fn with_tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }

    /// Measures time otherwise than by the machine.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// The repository's own name: the same for all who use it.
    pub fn id(&self) -> &str {
        &self.config.id
    }

    pub fn describe(&self) -> String {
        self.storage.describe()
    }

    /// Fails when this is not what lies there any more: another repository does, or the password that opened this one was
    /// taken away. For who keeps it open for long.
    pub fn check_still_there(&self) -> Result<(), VaultError> {
        let sealed = self.storage.get(&small(FileKind::Config, ""), SMALL_BYTES_MAX as u64)?;
        let config = Config::open(&self.key, sealed).map_err(|source| damaged("config", source))?;
        if config.id != self.config.id {
            return Err(VaultError::NoRepository { place: self.describe() });
        }
        self.storage.get(&small(FileKind::Key, &self.key_id.to_string()), SMALL_BYTES_MAX as u64)?;
        Ok(())
    }

    /// Version 1 repositories have no compression, and are only read.
    pub(crate) fn check_writable(&self) -> Result<(), VaultError> {
        if self.config.version == 2 {
            return Ok(());
        }
        Err(VaultError::Invalid(format!(
            "{} has version 1, which has no compression; 'restic migrate upgrade_repo_v2' makes it version 2",
            self.describe()
        )))
    }

    /// The key files, by name, and which one opened this.
    pub fn keys(&self) -> Result<Vec<(KeyId, KeyFile, bool)>, VaultError> {
        let mut keys = Vec::new();
        for (id, file) in key_files(self.storage.as_ref())? {
            keys.push((id, file, id == self.key_id));
        }
        Ok(keys)
    }

    /// Adds a password. All keys open the same repository.
    pub fn add_key(&self, password: &[u8], who: &Identity, cost: KdfCost) -> Result<KeyId, VaultError> {
        put_key(self.storage.as_ref(), &self.key, password, who, cost)
    }

    /// Removes a password. Who copied the repository's key while it was valid can still read; the data are not sealed anew.
    /// Nobody else may be at work, so that two who remove different keys do not remove the last ones.
    pub fn remove_key(self: &Arc<Self>, id: &KeyId, who: &Identity) -> Result<(), VaultError> {
        let lock = RepositoryLock::alone(self, who)?;
        let keys = key_files(self.storage.as_ref())?;
        if !keys.iter().any(|(known, _)| known == id) {
            return Err(VaultError::NoSuchKey(id.to_string()));
        }
        if keys.len() == 1 {
            return Err(VaultError::LastKey(id.to_string()));
        }
        if *id == self.key_id {
            return Err(VaultError::KeyInUse(id.to_string()));
        }
        lock.check()?;
        Ok(self.storage.remove(&small(FileKind::Key, &id.to_string()))?)
    }

    pub(crate) fn index_file(&self, id: &IndexId) -> Result<IndexFile, VaultError> {
        let damaged = |source| VaultError::IndexDamaged { file: format!("index/{id}"), source };
        let json =
            self.object(FileKind::Index, &id.to_string(), INDEX_BYTES_MAX).map_err(|error| match error {
                VaultError::Damaged { source, .. } => damaged(source),
                error => error,
            })?;
        index::decode(&json).map_err(damaged)
    }

    /// What all index files say.
    pub fn load_index(&self, job: &Job) -> Result<Index, VaultError> {
        let mut index: Index = self.gather_index(job, |index: &mut Index, _, file| index.add(&file))?;
        index.finish();
        Ok(index)
    }

    /// The same, and which file says what.
    pub(crate) fn load_index_and_files(&self, job: &Job) -> Result<(Index, IndexFiles), VaultError> {
        let (mut index, files): (Index, IndexFiles) =
            self.gather_index(job, |(index, files): &mut (Index, IndexFiles), id, file| {
                index.add(&file);
                files.push((id, file.packs));
            })?;
        index.finish();
        Ok((index, files))
    }

    /// Lets `add` take in all index files, which several threads read. What prune replaces meanwhile is listed again.
    fn gather_index<T: Default + Send>(
        &self,
        job: &Job,
        add: impl Fn(&mut T, IndexId, IndexFile) + Sync,
    ) -> Result<T, VaultError> {
        let mut relists = 0;
        loop {
            let names: Vec<IndexId> = self.list(FileKind::Index)?;
            let gathered = Mutex::new(T::default());
            let outcome = in_parallel(&names, READERS, job, |id| {
                let file = self.index_file(id)?;
                add(&mut gathered.lock().unwrap_or_else(PoisonError::into_inner), *id, file);
                Ok(())
            });
            match outcome {
                Ok(()) => return Ok(gathered.into_inner().unwrap_or_else(PoisonError::into_inner)),
                Err(error) if is_not_found(&error) && relists < RELISTS => relists += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// All snapshots, ours and others', oldest first. One that cannot be read is an error that names it: for who must know
    /// all of them.
    pub fn snapshots(&self, job: &Job) -> Result<Vec<(SnapshotId, Snapshot)>, VaultError> {
        let mut found = HashMap::new();
        match self.update_snapshots(&mut found, job)?.pop() {
            Some(UnreadableSnapshot { error, .. }) => Err(error),
            None => Ok(oldest_first(found)),
        }
    }

    /// The snapshots that can be read, oldest first, and those that cannot.
    pub(crate) fn readable_snapshots(&self, job: &Job) -> Result<ReadableSnapshots, VaultError> {
        let mut found = HashMap::new();
        let unreadable = self.update_snapshots(&mut found, job)?;
        Ok((oldest_first(found), unreadable))
    }

    /// Whether the snapshots that lie there are the ones in `found`, and no others.
    pub(crate) fn has_only<T>(&self, found: &HashMap<SnapshotId, T>) -> Result<bool, VaultError> {
        let listed: Vec<SnapshotId> = self.list(FileKind::Snapshot)?;
        Ok(listed.len() == found.len() && listed.iter().all(|id| found.contains_key(id)))
    }

    /// Makes `found` hold the snapshots that can be read, and gives those that cannot. A snapshot never changes, so what is in
    /// it already is not read again.
    pub(crate) fn update_snapshots(
        &self,
        found: &mut HashMap<SnapshotId, Snapshot>,
        job: &Job,
    ) -> Result<Vec<UnreadableSnapshot>, VaultError> {
        self.update_from_snapshots(found, |_, snapshot| snapshot, job)
    }

    /// The same, for who keeps something else of each snapshot.
    pub(crate) fn update_from_snapshots<T: Send>(
        &self,
        found: &mut HashMap<SnapshotId, T>,
        kept_of: impl Fn(SnapshotId, Snapshot) -> T + Sync,
        job: &Job,
    ) -> Result<Vec<UnreadableSnapshot>, VaultError> {
        let mut unreadable: HashMap<SnapshotId, VaultError> = HashMap::new();
        // What was found before was listed once already.
        let mut before: Option<HashSet<SnapshotId>> =
            (!found.is_empty()).then(|| found.keys().copied().collect());
        for _ in 0..=RELISTS {
            let listed: HashSet<SnapshotId> = self.list(FileKind::Snapshot)?.into_iter().collect();
            // One listing alone may miss a snapshot that is replaced meanwhile under both its names.
            let is_settled = before.as_ref() == Some(&listed);
            before = Some(listed.clone());
            found.retain(|id, _| listed.contains(id));
            unreadable.retain(|id, _| listed.contains(id));
            let is_known = |id: &SnapshotId| found.contains_key(id) || unreadable.contains_key(id);
            let names: Vec<SnapshotId> = listed.into_iter().filter(|id| !is_known(id)).collect();
            let new = Mutex::new((Vec::with_capacity(names.len().min(1 << 20)), false));
            in_parallel(&names, READERS, job, |id| {
                let outcome = self.snapshot(id).map(|snapshot| kept_of(*id, snapshot));
                let mut new = new.lock().unwrap_or_else(PoisonError::into_inner);
                match outcome {
                    Err(error) if is_not_found(&error) => new.1 = true,
                    Err(error) if !error.is_damage() && !error.is_io() => return Err(error),
                    outcome => new.0.push((*id, outcome)),
                }
                Ok(())
            })?;
            let (new, vanished) = new.into_inner().unwrap_or_else(PoisonError::into_inner);
            for (id, outcome) in new {
                match outcome {
                    Ok(kept) => drop(found.insert(id, kept)),
                    Err(error) => drop(unreadable.insert(id, error)),
                }
            }
            // Forgotten since it was listed, or replaced by one that the list may not have.
            if is_settled && !vanished {
                break;
            }
        }
        let mut unreadable: Vec<_> =
            unreadable.into_iter().map(|(id, error)| UnreadableSnapshot { id, error }).collect();
        unreadable.sort_by_key(|unreadable| unreadable.id);
        Ok(unreadable)
    }

    pub fn snapshot(&self, id: &SnapshotId) -> Result<Snapshot, VaultError> {
        let json = self.object(FileKind::Snapshot, &id.to_string(), SMALL_BYTES_MAX)?;
        snapshot::decode(&json).map_err(|source| damaged(&format!("snapshots/{id}"), source))
    }

    pub(crate) fn put_snapshot(&self, snapshot: &Snapshot) -> Result<SnapshotId, VaultError> {
        let new = |source| damaged("a new snapshot file", source);
        let sealed = seal_object(&self.key, &snapshot::encode(snapshot).map_err(new)?).map_err(new)?;
        let id = SnapshotId::of(&sealed);
        self.storage.put(&small(FileKind::Snapshot, &id.to_string()), &sealed)?;
        Ok(id)
    }

    /// The same, for who relies on locks: when one was lost before the snapshot was there, others may have removed what it
    /// needs, so it goes again.
    pub(crate) fn put_snapshot_under(
        &self,
        check: &dyn Fn() -> Result<(), VaultError>,
        snapshot: &Snapshot,
    ) -> Result<SnapshotId, VaultError> {
        check()?;
        let id = self.put_snapshot(snapshot)?;
        if let Err(error) = check() {
            // Where it cannot be removed, the error that counts is still the first: nothing is reported as saved.
            let _ = self.remove_snapshot(&id);
            return Err(error);
        }
        Ok(id)
    }

    /// What all index files say, for who builds on it: nothing counts as held that lies in a pack that is marked, or
    /// that is not there. The marks were read before.
    pub(crate) fn load_index_to_build_on(
        &self,
        marked: &HashSet<PackId>,
        job: &Job,
    ) -> Result<Index, VaultError> {
        let mut index = self.load_index(job)?;
        let there: HashSet<PackId> = self.list(FileKind::Pack)?.into_iter().collect();
        index.leave(marked);
        index.lack(&there);
        Ok(index)
    }

    pub(crate) fn remove_snapshot(&self, id: &SnapshotId) -> Result<(), VaultError> {
        Ok(self.storage.remove(&small(FileKind::Snapshot, &id.to_string()))?)
    }

    /// The JSON of a sealed file, whose name is checked against its bytes where the name is a hash of them.
    pub(crate) fn object(
        &self,
        kind: FileKind,
        name: &str,
        limit_bytes: usize,
    ) -> Result<Vec<u8>, VaultError> {
        let file = small(kind, name);
        let sealed = self.storage.get(&file, limit_bytes as u64)?;
        if kind != FileKind::Extra && SnapshotId::of(&sealed).to_string() != name {
            let source = crate::format::FormatError::invalid("file", "its bytes are not those of its name");
            return Err(damaged(&format!("{file}"), source));
        }
        open_object(&self.key, sealed, limit_bytes).map_err(|source| damaged(&format!("{file}"), source))
    }

    /// The names of all files of a kind.
    pub(crate) fn list<I: std::str::FromStr>(&self, kind: FileKind) -> Result<Vec<I>, VaultError> {
        Ok(self.storage.names(kind)?.into_iter().filter_map(|name| name.parse().ok()).collect())
    }
}

pub(crate) fn damaged(file: &str, source: crate::format::FormatError) -> VaultError {
    VaultError::Damaged { file: file.to_owned(), source }
}

pub(crate) fn is_not_found(error: &VaultError) -> bool {
    matches!(error, VaultError::Storage(error) if error.kind == StorageErrorKind::NotFound)
}

fn put_key(
    storage: &dyn Storage,
    key: &MasterKey,
    password: &[u8],
    who: &Identity,
    cost: KdfCost,
) -> Result<KeyId, VaultError> {
    if password.is_empty() {
        return Err(VaultError::Invalid("an empty password protects nothing; choose another one".into()));
    }
    let new = |source| VaultError::Key { file: "a new key file".to_owned(), source };
    let file = KeyFile::create(
        password,
        key,
        &who.hostname,
        &who.username,
        &Timestamp::from(SystemTime::now()),
        cost,
    )
    .map_err(new)?;
    let bytes = file.encode().map_err(new)?;
    let id = KeyId::of(&bytes);
    storage.put(&small(FileKind::Key, &id.to_string()), &bytes)?;
    Ok(id)
}

fn key_files(storage: &dyn Storage) -> Result<Vec<(KeyId, KeyFile)>, VaultError> {
    let mut keys = Vec::new();
    for listed in storage.list(FileKind::Key)? {
        let Ok(id) = listed.name.parse::<KeyId>() else { continue };
        match storage.get(&small(FileKind::Key, &listed.name), SMALL_BYTES_MAX as u64) {
            Ok(bytes) => {
                keys.push((
                    id,
                    KeyFile::decode(&bytes)
                        .map_err(|source| VaultError::Key { file: format!("keys/{id}"), source }),
                ));
            }
            Err(error) if error.kind == StorageErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    keys.sort_by_key(|(id, _)| *id);
    // One damaged key file does not lock out the holders of the others.
    let any_good = keys.iter().any(|(_, file)| file.is_ok());
    keys.into_iter().filter(|(_, file)| file.is_ok() || !any_good).map(|(id, file)| Ok((id, file?))).collect()
}

fn find_key(storage: &dyn Storage, password: &[u8]) -> Result<(KeyId, MasterKey), VaultError> {
    let place = storage.describe();
    let keys = key_files(storage)?;
    if keys.is_empty() {
        return Err(VaultError::NoKey { place });
    }
    let mut last = VaultError::WrongPassword { place };
    for (id, file) in keys {
        match file.open(password) {
            Ok(key) => return Ok((id, key)),
            Err(KeyError::WrongPassword) => {}
            Err(source) => last = VaultError::Key { file: format!("keys/{id}"), source },
        }
    }
    Err(last)
}
