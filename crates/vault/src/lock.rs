//! Locks, as restic has them: who works on the repository says so in a file.
//!
//! Savers, readers that must not lose what they read, and prune hold a shared lock, which keeps a stock `restic prune`
//! away. A lock that nobody renewed for half an hour is stale. Ours carry a session name that stays the same when the
//! lock is renewed, so that prune can wait for exactly those who began before it. A lock says what others may do; it
//! never replaces the order of writing that makes torn runs harmless.

use std::{
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
    repo::{Identity, Repository, damaged},
    storage::{FileKind, FileName, Storage, StorageErrorKind},
};

/// As restic does it.
const RENEW: Duration = Duration::from_secs(5 * 60);
const STALE: Duration = Duration::from_secs(30 * 60);
const LOCK_BYTES_MAX: usize = 1 << 20;
/// How often the locks are listed again because one of them was renewed meanwhile.
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
        let dead = |pid: i64| i32::try_from(pid).is_ok_and(|pid| pid > 0 && !process_exists(pid));
        self.lock.hostname == who.hostname && dead(self.lock.pid)
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
    let now = Timestamp::from(SystemTime::now());
    for _ in 0..RELISTS {
        let mut held = Vec::new();
        let mut vanished = false;
        for id in repository.list::<LockId>(FileKind::Lock)? {
            match read_lock(repository, id) {
                Ok(Some(found)) if !found.is_stale(&now, who) => held.push(found),
                Ok(Some(_)) => {}
                // Its holder has ended, or renewed it under a name that was not there yet when they were listed.
                Ok(None) => vanished = true,
                Err(error) if error.is_damage() => {
                    return Err(VaultError::LockUnreadable { file: id.to_string(), source: Box::new(error) });
                }
                Err(error) => return Err(error),
            }
        }
        if !vanished {
            return Ok(held);
        }
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
    current: Mutex<Held>,
    ended: Mutex<bool>,
    wake: Condvar,
}

fn guard<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RepositoryLock {
    /// A shared lock. Refused while another program holds an exclusive one; one of ours does not stand in the way,
    /// since its owner knows that savers may come.
    pub fn shared(repository: &Arc<Repository>, who: &Identity) -> Result<Self, VaultError> {
        let lock = Self::put(repository, who, false)?;
        let holder = held(repository, who)?.into_iter().find(|h| h.lock.exclusive && h.is_foreign());
        match holder {
            None => Ok(lock),
            Some(holder) => Err(VaultError::Locked { holder: holder.describe() }),
        }
    }

    /// An exclusive lock against other programs: refused while one of them holds any lock. Ours go on.
    pub fn exclusive(repository: &Arc<Repository>, who: &Identity) -> Result<Self, VaultError> {
        let lock = Self::put(repository, who, true)?;
        let own = guard(&lock.shared.current).id;
        let others = held(repository, who)?;
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
        let lock = Self::put_as(repository, who, true, None)?;
        let own = guard(&lock.shared.current).id;
        match held(repository, who)?.into_iter().find(|h| h.id != own) {
            None => Ok(lock),
            Some(holder) => Err(VaultError::Locked { holder: holder.describe() }),
        }
    }

    fn put(repository: &Arc<Repository>, who: &Identity, exclusive: bool) -> Result<Self, VaultError> {
        let mut random = [0; 16];
        crate::crypto::random(&mut random)?;
        Self::put_as(repository, who, exclusive, Some(hex(&random)))
    }

    /// Without a session, nobody knows the lock from one of another program.
    fn put_as(
        repository: &Arc<Repository>,
        who: &Identity,
        exclusive: bool,
        session: Option<String>,
    ) -> Result<Self, VaultError> {
        let lock = Lock {
            time: Timestamp::from(SystemTime::now()),
            exclusive,
            hostname: who.hostname.clone(),
            username: who.username.clone(),
            pid: i64::from(who.pid),
            uid: who.uid,
            gid: who.gid,
            session,
            keeps: Vec::new(),
            other: serde_json::Map::new(),
        };
        let id = write(repository, &lock)?;
        let session = Held { id, lock: lock.clone() }.session();
        let shared = Arc::new(Shared {
            repository: repository.clone(),
            lost: AtomicBool::new(false),
            current: Mutex::new(Held { id, lock }),
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
        self.keep_all(&[tree])
    }

    pub(crate) fn keep_all(&self, trees: &[BlobId]) -> Result<(), VaultError> {
        let mut current = guard(&self.shared.current);
        let mut lock = current.lock.clone();
        lock.keeps.extend_from_slice(trees);
        self.shared.replace(&mut current, lock)
    }

    /// Fails when the lock was not there all the time. Called before what relies on it is reported.
    pub fn check(&self) -> Result<(), VaultError> {
        if self.shared.lost.load(Relaxed) {
            return Err(VaultError::LockLost);
        }
        let id = guard(&self.shared.current).id;
        match read(self.shared.repository.storage.as_ref(), &self.shared.repository.key, id)? {
            Some(_) => Ok(()),
            None => Err(VaultError::LockLost),
        }
    }
}

fn write(repository: &Repository, lock: &Lock) -> Result<LockId, VaultError> {
    let new = |source| damaged("a new lock file", source);
    let sealed = seal_object(&repository.key, &lock::encode(lock).map_err(new)?).map_err(new)?;
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
            // A store that is away for a moment is asked again; the lock counts until it is stale.
            let there = read(self.repository.storage.as_ref(), &self.repository.key, current.id);
            if matches!(there, Ok(None)) {
                self.lost.store(true, Relaxed);
                return;
            }
            let fresh = Lock { time: Timestamp::from(SystemTime::now()), ..current.lock.clone() };
            // What fails now is tried again in five minutes, several times before the lock is stale.
            let _ = self.replace(&mut current, fresh);
        }
    }

    /// The new lock is there before the old one goes.
    fn replace(&self, current: &mut Held, lock: Lock) -> Result<(), VaultError> {
        let id = write(&self.repository, &lock)?;
        let old = std::mem::replace(current, Held { id, lock });
        Ok(self.repository.storage.remove(&lock_file(old.id))?)
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
        let id = guard(&self.shared.current).id;
        // What cannot be removed becomes stale; there is nobody left to tell.
        let _ = self.shared.repository.storage.remove(&lock_file(id));
    }
}
