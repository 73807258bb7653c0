//! Locks that nobody holds any more: listed, and removed.
//!
//! A lock whose holder still works must never go by itself: only what is stale by restic's own rule does, unless
//! somebody who knows that nobody is at work asks for all.

use std::time::SystemTime;

use crate::{
    LockId, VaultError,
    format::Timestamp,
    lock::{Held, lock_file, read_lock},
    repo::{Identity, Repository},
    storage::FileKind,
};

/// One lock file.
#[derive(Debug, Clone)]
pub struct LockInfo {
    pub id: LockId,
    /// None: it cannot be read, so that nobody knows whose it is.
    pub held: Option<Held>,
    /// Its holder is dead, as far as this machine can tell, or has not renewed it for half an hour.
    pub is_stale: bool,
}

impl LockInfo {
    pub fn describe(&self) -> String {
        match &self.held {
            Some(held) => {
                let kind = if held.lock.exclusive { "exclusive" } else { "shared" };
                let stale = if self.is_stale { ", stale" } else { "" };
                format!("{} ({kind}{stale})", held.describe())
            }
            None => "cannot be read".to_owned(),
        }
    }
}

impl Repository {
    /// All locks, stock restic's too.
    pub fn locks(&self, who: &Identity) -> Result<Vec<LockInfo>, VaultError> {
        let now = Timestamp::from(SystemTime::now());
        let mut locks = Vec::new();
        for id in self.list::<LockId>(FileKind::Lock)? {
            match read_lock(self, id) {
                Ok(Some(held)) => {
                    let is_stale = held.is_stale(&now, who) || held.seems_abandoned(who);
                    locks.push(LockInfo { id, held: Some(held), is_stale });
                }
                Ok(None) => {}
                Err(error) if error.is_damage() || error.is_io() => {
                    locks.push(LockInfo { id, held: None, is_stale: false });
                }
                Err(error) => return Err(error),
            }
        }
        locks.sort_by_key(|lock| (lock.held.as_ref().map(|held| held.lock.time), lock.id));
        Ok(locks)
    }

    /// Removes stale locks, or all of them, which is only right when nobody is at work. The ones that were removed.
    pub fn unlock(&self, all: bool, who: &Identity) -> Result<Vec<LockInfo>, VaultError> {
        let mut locks = self.locks(who)?;
        locks.retain(|lock| all || lock.is_stale);
        for lock in &locks {
            self.storage.remove(&lock_file(lock.id))?;
        }
        Ok(locks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        format::{lock, object::seal_object},
        lock::RepositoryLock,
        storage::{FileName, Storage},
        testing::Place,
    };

    fn put(place: &Place, held: &Held, age_seconds: i64) {
        put_as(place, held, age_seconds, "another", 1);
    }

    fn put_as(place: &Place, held: &Held, age_seconds: i64, hostname: &str, pid: i64) {
        let now = Timestamp::from(SystemTime::now()).unix_nanoseconds();
        let time = i64::try_from(now).expect("now") - age_seconds * 1_000_000_000;
        let other = lock::Lock {
            time: Timestamp::from_unix_nanoseconds(time),
            hostname: hostname.into(),
            pid,
            session: None,
            boot: None,
            ..held.lock.clone()
        };
        let sealed =
            seal_object(&place.repository.key, &lock::encode(&other).expect("json")).expect("sealed");
        let file = FileName::from(LockId::of(&sealed));
        place.storage.put(&file, &sealed).expect("put");
    }

    #[test]
    fn stale_locks_go_and_others_stay() {
        let place = Place::new();
        let own = RepositoryLock::shared(&place.repository, &place.who).expect("a lock");
        let held = place.repository.locks(&place.who).expect("locks").remove(0).held.expect("readable");
        put(&place, &held, 31 * 60);
        put(&place, &held, 60);
        let junk = FileName { kind: FileKind::Lock, name: "ab".repeat(32) };
        place.storage.put(&junk, &[1; 100]).expect("put");
        let locks = place.repository.locks(&place.who).expect("locks");
        assert_eq!((locks.len(), locks.iter().filter(|lock| lock.is_stale).count()), (4, 1));
        assert!(locks.iter().any(|lock| lock.describe() == "cannot be read"));
        // What cannot be read is in force, and says how to go on.
        let error = RepositoryLock::shared(&place.repository, &place.who).map(drop).expect_err("refused");
        assert!(error.to_string().contains("vault unlock --all"), "{error}");
        assert_eq!(place.repository.unlock(false, &place.who).expect("unlocked").len(), 1);
        own.check().expect("a lock in force stays");
        assert_eq!(place.repository.unlock(true, &place.who).expect("unlocked").len(), 3);
        assert!(matches!(own.check(), Err(VaultError::LockLost)));
        assert!(place.repository.locks(&place.who).expect("locks").is_empty());
    }

    #[test]
    fn a_killed_restic_keeps_us_out_until_somebody_unlocks() {
        let place = Place::new();
        let own = RepositoryLock::shared(&place.repository, &place.who).expect("a lock");
        let held = place.repository.locks(&place.who).expect("locks").remove(0).held.expect("readable");
        let mut ended = std::process::Command::new("true").spawn().expect("a process");
        ended.wait().expect("it ends");
        let (here, pid) = (&*place.who.hostname, i64::from(ended.id()));
        for (hostname, pid) in [(here, pid), (here, i64::from(std::process::id())), ("another", pid)] {
            put_as(&place, &held, 60, hostname, pid);
        }
        assert!(matches!(
            RepositoryLock::alone(&place.repository, &place.who),
            Err(VaultError::Locked { .. })
        ));
        let removed = place.repository.unlock(false, &place.who).expect("unlocked");
        let removed: Vec<_> = removed
            .iter()
            .flat_map(|lock| &lock.held)
            .map(|held| (&*held.lock.hostname, held.lock.pid))
            .collect();
        assert_eq!(removed, [(here, pid)]);
        own.check().expect("ours stays");
    }

    #[test]
    fn who_must_be_alone_waits_for_all_and_keeps_all_out() {
        let place = Place::new();
        let shared = RepositoryLock::shared(&place.repository, &place.who).expect("a lock");
        assert!(RepositoryLock::alone(&place.repository, &place.who).is_err());
        drop(shared);
        let alone = RepositoryLock::alone(&place.repository, &place.who).expect("alone");
        assert!(RepositoryLock::shared(&place.repository, &place.who).is_err());
        assert!(RepositoryLock::exclusive(&place.repository, &place.who).is_err());
        drop(alone);
        assert!(place.repository.locks(&place.who).expect("locks").is_empty());
    }
}
