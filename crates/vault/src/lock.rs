//! Locks, as restic has them: who works on the repository says so in a file.
//!
//! Savers, readers that must not lose what they read, and prune hold a shared lock, which keeps a stock `restic prune`
//! away. A lock that nobody renewed for half an hour is stale. Ours carry a session name that stays the same when the
//! lock is renewed, so that prune can wait for exactly those who began before it. A lock says what others may do; it
//! never replaces the order of writing that makes torn runs harmless.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread::JoinHandle,
    time::{Duration, SystemTime},
};

use crate::{
    BlobId, LockId, VaultError,
    crypto::MasterKey,
    format::{
        Timestamp,
        lock::{self, Lock},
        object::{open_object, seal_object},
    },
    id::hex,
    repo::{Identity, Repository, damaged, process_start},
    storage::{FileKind, FileName, Storage, StorageErrorKind},
};

/// As restic does it.
const RENEW: Duration = Duration::from_secs(5 * 60);
const STALE: Duration = Duration::from_secs(30 * 60);
/// Whoever could not renew for so long gives up before others may take the lock for stale.
const LOST: Duration = Duration::from_secs(25 * 60);
const LOCK_BYTES_MAX: usize = 16 << 20;
/// How often the locks are listed until two listings agree: in between one of them may be renewed.
const RELISTS: usize = 32;

/// A lock that somebody holds.
#[derive(Debug, Clone)]
pub struct Held {
    pub id: LockId,
    pub lock: Lock,
}

impl Held {
    /// The same for as long as one program works, whoever wrote the lock.
    pub fn session(&self) -> String {
        let Lock { hostname, pid, .. } = &self.lock;
        self.lock.session.clone().unwrap_or_else(|| format!("{hostname}:{pid}"))
    }

    /// Whether another program than ours holds it: it knows nothing of how we prune.
    pub fn is_foreign(&self) -> bool {
        self.lock.session.is_none()
    }

    pub(crate) fn is_stale(&self, now: &Timestamp, who: &Identity) -> bool {
        let age = now.unix_nanoseconds().saturating_sub(self.lock.time.unix_nanoseconds());
        if age > STALE.as_nanos().cast_signed() {
            return true;
        }
        // Numbers of processes mean something inside one boot of one machine, and one namespace of processes.
        let is_near = who.boot.is_some() && self.lock.boot == who.boot && self.lock.hostname == who.hostname;
        is_near && (self.process_is_gone() || self.process_is_another())
    }

    /// Whether a process that began at another time has the number now. Only times of one namespace can be compared.
    fn process_is_another(&self) -> bool {
        let now = u32::try_from(self.lock.pid).ok().and_then(process_start);
        let (Some(then), Some(now)) = (&self.lock.started, &now) else { return false };
        let (then, now) = (then.split_once(':'), now.split_once(':'));
        then.zip(now).is_some_and(|(then, now)| then.0 == now.0 && then.1 != now.1)
    }

    /// Another program's lock whose process is not on this machine, by restic's rule: the host's name decides, and two
    /// machines may have the same. Enough to remove it when somebody asks, not enough to pass it by unasked.
    pub(crate) fn seems_abandoned(&self, who: &Identity) -> bool {
        self.is_foreign() && self.lock.hostname == who.hostname && self.process_is_gone()
    }

    fn process_is_gone(&self) -> bool {
        i32::try_from(self.lock.pid).is_ok_and(|pid| pid > 0 && !process_exists(pid))
    }

    pub fn describe(&self) -> String {
        let Lock { hostname, username, pid, time, .. } = &self.lock;
        format!("{username} on {hostname} (process {pid}, since {time})")
    }
}

fn process_exists(pid: i32) -> bool {
    rustix::process::Pid::from_raw(pid)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// The locks that are in force: not stale, and readable. One that cannot be read is in force, since it may be new.
pub fn held(repository: &Repository, who: &Identity) -> Result<Vec<Held>, VaultError> {
    survey(repository, who, |_| false)
}

/// The same, for who acts on a stale lock not being in force: it is removed before anything else is read, so that its
/// holder, if it lives, learns of it. Locks of `own`, the session that asks, are left out and stay.
pub(crate) fn held_by_others(
    repository: &Repository,
    who: &Identity,
    own: &str,
) -> Result<Vec<Held>, VaultError> {
    let is_other = |held: &Held| held.session() != own;
    Ok(survey(repository, who, is_other)?.into_iter().filter(is_other).collect())
}

/// Lists the locks until two listings agree: one alone may miss a lock that is renewed meanwhile under both its names.
fn survey(
    repository: &Repository,
    who: &Identity,
    removes: impl Fn(&Held) -> bool,
) -> Result<Vec<Held>, VaultError> {
    let now = Timestamp::from(SystemTime::now());
    let mut known: HashMap<LockId, Held> = HashMap::new();
    let mut before: Option<HashSet<LockId>> = None;
    for _ in 0..RELISTS {
        let mut listed: HashSet<LockId> = repository.list(FileKind::Lock)?.into_iter().collect();
        if before.as_ref() == Some(&listed) && listed.iter().all(|id| known.contains_key(id)) {
            let mut held: Vec<Held> = known.into_values().filter(|held| listed.contains(&held.id)).collect();
            held.retain(|held| !held.is_stale(&now, who));
            held.sort_by_key(|held| (held.lock.time, held.id));
            return Ok(held);
        }
        for id in listed.clone() {
            match known.get(&id).map_or_else(|| read_lock(repository, id), |_| Ok(None)) {
                Ok(Some(found)) if found.is_stale(&now, who) && removes(&found) => {
                    repository.storage.remove(&lock_file(id))?;
                    listed.remove(&id);
                }
                Ok(Some(found)) => drop(known.insert(id, found)),
                // Known already; or its holder has ended, or renewed it under a name that was not there yet.
                Ok(None) => {}
                Err(error) if error.is_damage() => {
                    return Err(VaultError::LockUnreadable { file: id.to_string(), source: Box::new(error) });
                }
                Err(error) => return Err(error),
            }
        }
        before = Some(listed);
    }
    let holder = "others who come and go faster than they can be listed".to_owned();
    Err(VaultError::Locked { holder })
}

pub(crate) fn read_lock(repository: &Repository, id: LockId) -> Result<Option<Held>, VaultError> {
    read(repository.storage.as_ref(), &repository.key, id)
}

fn read(storage: &dyn Storage, key: &MasterKey, id: LockId) -> Result<Option<Held>, VaultError> {
    let file = lock_file(id);
    let sealed = match storage.get(&file, LOCK_BYTES_MAX as u64) {
        Ok(sealed) => sealed,
        Err(error) if error.kind == StorageErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if LockId::of(&sealed) != id {
        let source = crate::format::FormatError::invalid("lock", "its bytes are not those of its name");
        return Err(damaged(&file.to_string(), source));
    }
    let json =
        open_object(key, sealed, LOCK_BYTES_MAX).map_err(|source| damaged(&file.to_string(), source))?;
    let lock = lock::decode(&json).map_err(|source| damaged(&file.to_string(), source))?;
    Ok(Some(Held { id, lock }))
}

pub(crate) fn lock_file(id: LockId) -> FileName {
    FileName { kind: FileKind::Lock, name: id.to_string() }
}

/// A lock of this process. Renewed until it is dropped, then removed.
pub struct RepositoryLock {
    shared: Arc<Shared>,
    renewer: Option<JoinHandle<()>>,
    session: String,
}

struct Shared {
    repository: Arc<Repository>,
    lost: AtomicBool,
    current: Mutex<Current>,
    ended: Mutex<bool>,
    wake: Condvar,
}

/// The lock as it was written last.
struct Current {
    held: Held,
    written: Instant,
}

/// By a clock that people set, as others see the lock's age, and by one that counts while the machine sleeps.
#[derive(Debug, Clone, Copy)]
struct Instant {
    wall: SystemTime,
    boot: Duration,
}

impl Instant {
    fn now() -> Self {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let seconds = u64::try_from(boot.tv_sec).unwrap_or_default();
        Self { wall: SystemTime::now(), boot: Duration::from_secs(seconds) }
    }

    fn is_too_old(&self, now: &Self) -> bool {
        let wall = now.wall.duration_since(self.wall).unwrap_or_default();
        wall.max(now.boot.saturating_sub(self.boot)) > LOST
    }
}

fn guard<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RepositoryLock {
    /// A shared lock. Refused while another program holds an exclusive one; one of ours does not stand in the way,
    /// since its owner knows that savers may come.
    pub fn shared(repository: &Arc<Repository>, who: &Identity) -> Result<Self, VaultError> {
        Self::shared_keeping(repository, who, Vec::new())
    }

    /// The same, which names trees from its beginning on, as `keep` does later.
    pub(crate) fn shared_keeping(
        repository: &Arc<Repository>,
        who: &Identity,
        trees: Vec<BlobId>,
    ) -> Result<Self, VaultError> {
        let lock = Self::put(repository, who, false, trees)?;
        let keeps_out = |h: &Held| h.lock.exclusive && h.is_foreign();
        let holder = survey(repository, who, keeps_out)?.into_iter().find(keeps_out);
        match holder {
            None => Ok(lock),
            Some(holder) => Err(VaultError::Locked { holder: holder.describe() }),
        }
    }

    /// An exclusive lock against other programs: refused while one of them holds any lock. Ours go on.
    pub fn exclusive(repository: &Arc<Repository>, who: &Identity) -> Result<Self, VaultError> {
        let lock = Self::put(repository, who, true, Vec::new())?;
        let own = guard(&lock.shared.current).held.id;
        let others = survey(repository, who, |h| h.id != own)?;
        let in_the_way = others
            .iter()
            .find(|h| h.id != own && (h.is_foreign() || (h.lock.exclusive && h.session() != lock.session)));
        match in_the_way {
            None => Ok(lock),
            Some(holder) => Err(VaultError::Locked { holder: holder.describe() }),
        }
    }

    /// A lock that keeps everybody out, of our own too, as restic's exclusive one does: for what changes the ground that
    /// others stand on. Refused while anybody holds any lock.
    pub(crate) fn alone(repository: &Arc<Repository>, who: &Identity) -> Result<Self, VaultError> {
        let lock = Self::put_as(repository, who, true, None, Vec::new())?;
        let own = guard(&lock.shared.current).held.id;
        match survey(repository, who, |h| h.id != own)?.into_iter().find(|h| h.id != own) {
            None => Ok(lock),
            Some(holder) => Err(VaultError::Locked { holder: holder.describe() }),
        }
    }

    fn put(
        repository: &Arc<Repository>,
        who: &Identity,
        exclusive: bool,
        keeps: Vec<BlobId>,
    ) -> Result<Self, VaultError> {
        let mut random = [0; 16];
        crate::crypto::random(&mut random)?;
        Self::put_as(repository, who, exclusive, Some(hex(&random)), keeps)
    }

    /// Without a session, nobody knows the lock from one of another program.
    fn put_as(
        repository: &Arc<Repository>,
        who: &Identity,
        exclusive: bool,
        session: Option<String>,
        keeps: Vec<BlobId>,
    ) -> Result<Self, VaultError> {
        let written = Instant::now();
        let lock = Lock {
            time: Timestamp::from(written.wall),
            exclusive,
            hostname: who.hostname.clone(),
            username: who.username.clone(),
            pid: i64::from(who.pid),
            uid: who.uid,
            gid: who.gid,
            session,
            boot: who.boot.clone(),
            started: who.started.clone(),
            keeps,
            other: serde_json::Map::new(),
        };
        let id = write(repository, &lock)?;
        let session = Held { id, lock: lock.clone() }.session();
        let shared = Arc::new(Shared {
            repository: repository.clone(),
            lost: AtomicBool::new(false),
            current: Mutex::new(Current { held: Held { id, lock }, written }),
            ended: Mutex::new(false),
            wake: Condvar::new(),
        });
        let renewer = {
            let shared = shared.clone();
            std::thread::spawn(move || shared.renew())
        };
        Ok(Self { shared, renewer: Some(renewer), session })
    }

    pub fn session(&self) -> &str {
        &self.session
    }

    /// Names a tree that this session builds on, so that prune keeps it even when its point is forgotten meanwhile.
    pub fn keep(&self, tree: BlobId) -> Result<(), VaultError> {
        let mut current = guard(&self.shared.current);
        let mut lock = current.held.lock.clone();
        lock.keeps.push(tree);
        self.shared.replace(&mut current, lock)
    }

    /// The same for these trees instead of those named before.
    pub fn keep_only(&self, trees: &[BlobId]) -> Result<(), VaultError> {
        let mut current = guard(&self.shared.current);
        let lock = Lock { keeps: trees.to_vec(), ..current.held.lock.clone() };
        self.shared.replace(&mut current, lock)
    }

    /// Fails when the lock was not there all the time. Called before and after what relies on it.
    pub fn check(&self) -> Result<(), VaultError> {
        let current = guard(&self.shared.current);
        self.shared.check_age(&current)?;
        self.shared.check_there(&current)
    }

    /// As `check`, by the clocks alone: for what is done thousands of times.
    pub(crate) fn check_age(&self) -> Result<(), VaultError> {
        self.shared.check_age(&guard(&self.shared.current))
    }

    /// As if the lock had been written so long ago, and nothing done since.
    #[cfg(test)]
    pub(crate) fn age(&self, by: Duration) {
        let mut current = guard(&self.shared.current);
        current.written.wall -= by;
        let mut lock = current.held.lock.clone();
        lock.time = Timestamp::from(current.written.wall);
        let id = write(&self.shared.repository, &lock).expect("written");
        let old = std::mem::replace(&mut current.held, Held { id, lock });
        self.shared.repository.storage.remove(&lock_file(old.id)).expect("removed");
    }
}

fn write(repository: &Repository, lock: &Lock) -> Result<LockId, VaultError> {
    let new = |source| damaged("a new lock file", source);
    let sealed = seal_object(&repository.key, &lock::encode(lock).map_err(new)?).map_err(new)?;
    if sealed.len() > LOCK_BYTES_MAX {
        // Nobody could read it, so it would keep everybody out.
        return Err(VaultError::Invalid("too many points at once; name fewer of them".to_owned()));
    }
    let id = LockId::of(&sealed);
    repository.storage.put(&lock_file(id), &sealed)?;
    Ok(id)
}

impl Shared {
    /// Writes the lock anew from time to time.
    fn renew(&self) {
        let mut ended = guard(&self.ended);
        loop {
            let (guard_, timeout) = self
                .wake
                .wait_timeout_while(ended, RENEW, |ended| !*ended)
                .unwrap_or_else(PoisonError::into_inner);
            ended = guard_;
            if !timeout.timed_out() {
                return;
            }
            let mut current = guard(&self.current);
            // A store that is away for a moment is asked again in five minutes, several times before the lock is lost.
            let lock = current.held.lock.clone();
            if matches!(self.replace(&mut current, lock), Err(VaultError::LockLost)) {
                return;
            }
        }
    }

    fn lose(&self) -> VaultError {
        self.lost.store(true, Relaxed);
        VaultError::LockLost
    }

    /// Who slept, or could not reach the store, until others might take the lock for stale has lost it.
    fn check_age(&self, current: &Current) -> Result<(), VaultError> {
        if self.lost.load(Relaxed) || current.written.is_too_old(&Instant::now()) {
            return Err(self.lose());
        }
        Ok(())
    }

    fn check_there(&self, current: &Current) -> Result<(), VaultError> {
        match read(self.repository.storage.as_ref(), &self.repository.key, current.held.id)? {
            Some(_) => Ok(()),
            None => Err(self.lose()),
        }
    }

    /// The new lock is there before the old one goes. The old one is still there then: so whoever removes it sees the
    /// new one afterwards.
    fn replace(&self, current: &mut Current, lock: Lock) -> Result<(), VaultError> {
        self.check_age(current)?;
        // Who sleeps from here on wrote an old lock.
        let written = Instant::now();
        let lock = Lock { time: Timestamp::from(written.wall), ..lock };
        let id = write(&self.repository, &lock)?;
        if let Err(error) = self.check_there(current) {
            // What cannot be removed becomes stale; the error that counts is the first.
            let _ = self.repository.storage.remove(&lock_file(id));
            return Err(error);
        }
        let old = std::mem::replace(current, Current { held: Held { id, lock }, written });
        Ok(self.repository.storage.remove(&lock_file(old.held.id))?)
    }
}

impl Drop for RepositoryLock {
    fn drop(&mut self) {
        *guard(&self.shared.ended) = true;
        self.shared.wake.notify_all();
        if let Some(renewer) = self.renewer.take() {
            // A renewer that panicked leaves a lock behind, which becomes stale.
            let _ = renewer.join();
        }
        let id = guard(&self.shared.current).held.id;
        // What cannot be removed becomes stale; there is nobody left to tell.
        let _ = self.shared.repository.storage.remove(&lock_file(id));
    }
}

#[cfg(test)]
mod tests;
