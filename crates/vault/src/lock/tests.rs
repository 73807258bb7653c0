use std::sync::atomic::AtomicU64;

use nestling_block::{BlockError, BlockSource, Extent};

use super::*;
use crate::{
    DiskInput, Job, SaveRequest,
    storage::{Listed, StorageError},
    testing::{MIB, PASSWORD, Place},
};

const MINUTE: Duration = Duration::from_secs(60);

fn shared(place: &Place) -> RepositoryLock {
    RepositoryLock::shared(&place.repository, &place.who).expect("a lock")
}

fn locks(place: &Place) -> usize {
    place.storage.list(FileKind::Lock).expect("listed").len()
}

#[test]
fn a_lock_that_nobody_renewed_is_given_up_before_it_is_stale() {
    let place = Place::new();
    let lock = shared(&place);
    lock.age(24 * MINUTE);
    lock.check().expect("in time");
    lock.age(2 * MINUTE);
    assert_eq!(held(&place.repository, &place.who).expect("listed").len(), 1, "others respect it");
    assert!(matches!(lock.check(), Err(VaultError::LockLost)));
    assert!(matches!(lock.keep(BlobId([1; 32])), Err(VaultError::LockLost)), "and it is not renewed");
    assert_eq!(locks(&place), 1);
    drop(lock);
    assert_eq!(locks(&place), 0);
}

#[test]
fn by_the_clock_that_counts_sleep_too() {
    let now = Instant::now();
    let later = |wall, boot| Instant { wall: now.wall + wall * MINUTE, boot: now.boot + boot * MINUTE };
    assert!(!now.is_too_old(&later(24, 24)));
    assert!(now.is_too_old(&later(26, 0)) && now.is_too_old(&later(0, 26)));
    let set_back = Instant { wall: now.wall - 60 * MINUTE, boot: now.boot };
    assert!(!now.is_too_old(&set_back));
}

#[test]
fn who_sets_a_stale_lock_aside_removes_it() {
    for alone in [true, false] {
        let place = Place::new();
        let sleeper = shared(&place);
        sleeper.age(31 * MINUTE);
        // A saver lets it lie, since it ignores shared locks anyway.
        drop(shared(&place));
        assert_eq!(locks(&place), 1);
        let own = match alone {
            true => RepositoryLock::alone(&place.repository, &place.who),
            false => RepositoryLock::exclusive(&place.repository, &place.who),
        };
        let own = own.expect("a lock");
        assert_eq!(locks(&place), 1, "only its own");
        own.check().expect("held");
        assert!(matches!(sleeper.check(), Err(VaultError::LockLost)));
    }
}

#[test]
fn a_renewal_beside_a_removal_notices() {
    let place = Place::new();
    let lock = shared(&place);
    place.repository.unlock(true, &place.who).expect("removed");
    assert!(matches!(lock.keep(BlobId([1; 32])), Err(VaultError::LockLost)));
    assert_eq!(locks(&place), 0, "no other lock takes its place");
}

#[test]
fn only_of_the_same_boot_and_namespace_a_process_is_known_to_be_dead() {
    let place = Place::new();
    let dead = Identity { pid: i32::MAX.cast_unsigned(), ..place.who.clone() };
    assert!(dead.boot.is_some());
    for (boot, is_stale) in [(dead.boot.clone(), true), (Some("other:1".into()), false), (None, false)] {
        let lock = RepositoryLock::shared(&place.repository, &Identity { boot, ..dead.clone() });
        let found = guard(&lock.expect("a lock").shared.current).held.clone();
        let now = Timestamp::from(SystemTime::now());
        assert_eq!(found.is_stale(&now, &place.who), is_stale, "{found:?}");
        assert!(!found.is_stale(&now, &Identity { boot: None, ..place.who.clone() }));
    }
}

#[test]
fn a_number_that_another_process_has_now_keeps_no_lock() {
    let place = Place::new();
    let (namespace, ticks) = place.who.started.as_ref().and_then(|at| at.split_once(':')).expect("a start");
    let ticks: u64 = ticks.parse().expect("a number");
    for (started, is_stale) in [
        (place.who.started.clone(), false),
        (Some(format!("{namespace}:{}", ticks + 1)), true),
        (Some(format!("{namespace}0:{}", ticks + 1)), false),
        (Some("rubbish".to_owned()), false),
        (None, false),
    ] {
        let lock = RepositoryLock::shared(&place.repository, &Identity { started, ..place.who.clone() });
        let found = guard(&lock.expect("a lock").shared.current).held.clone();
        assert_eq!(found.is_stale(&Timestamp::from(SystemTime::now()), &place.who), is_stale, "{found:?}");
        assert!(
            !found
                .is_stale(&Timestamp::from(SystemTime::now()), &Identity { boot: None, ..place.who.clone() })
        );
    }
    assert_eq!(process_start(std::process::id()), place.who.started);
    assert_eq!(process_start(u32::MAX), None);
}

/// A disk during whose reading all locks are removed, as of a saver that sleeps.
struct Sleepy<'a>(&'a Place);

impl BlockSource for Sleepy<'_> {
    fn name(&self) -> &str {
        "disk"
    }

    fn size_bytes(&self) -> u64 {
        MIB
    }

    fn read_at(&self, buf: &mut [u8], _: u64) -> Result<(), BlockError> {
        buf.fill(7);
        self.0.repository.unlock(true, &self.0.who).expect("removed");
        Ok(())
    }

    fn extents(&self, range: std::ops::Range<u64>) -> Result<Vec<Extent>, BlockError> {
        Ok(vec![Extent::data(range.start, range.end - range.start)])
    }
}

#[test]
fn a_saver_that_lost_its_lock_leaves_nothing_that_others_build_on() {
    let place = Place::new();
    let request = SaveRequest {
        name: &"a".parse().expect("a name"),
        disks: &[DiskInput { name: "disk0", source: &Sleepy(&place), changed: None }],
        description: None,
        time: Timestamp::from_unix_nanoseconds(1),
        tags: &[],
        parent: None,
        who: &place.who,
        threads: 1,
    };
    let saved = place.repository.save(&request, &Job::default());
    assert!(matches!(saved, Err(VaultError::LockLost)), "{saved:?}");
    for kind in [FileKind::Index, FileKind::Snapshot] {
        assert!(place.storage.list(kind).expect("listed").is_empty(), "{kind}");
    }
}

#[test]
fn what_the_index_names_and_the_store_lacks_is_saved_again() {
    let place = Place::new();
    let disk = place.disk(MIB);
    place.save_at("a", &disk, 1);
    for listed in place.storage.list(FileKind::Pack).expect("listed") {
        place.storage.remove(&FileName { kind: FileKind::Pack, name: listed.name }).expect("removed");
    }
    place.save_at("a", &disk, 2);
    let mut back = vec![0; 300_000];
    let point = place.points("a").pop().expect("a point");
    place.open(&point).expect("opened").read(&mut back, 1000).expect("whole");
}

/// A store whose every other listing of a kind misses everything.
#[derive(Debug)]
struct Blind(Arc<crate::storage::MemoryStorage>, AtomicU64);

impl Storage for Blind {
    fn describe(&self) -> String {
        self.0.describe()
    }

    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        self.0.put(file, bytes)
    }

    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError> {
        self.0.get(file, limit_bytes)
    }

    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        self.0.get_range(file, offset, buf)
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError> {
        if matches!(kind, FileKind::Lock | FileKind::Snapshot) && self.1.fetch_add(1, Relaxed) == 0 {
            return Ok(Vec::new());
        }
        self.0.list(kind)
    }

    fn remove(&self, file: &FileName) -> Result<(), StorageError> {
        self.0.remove(file)
    }

    fn sweep_temporary(&self, older_than: Duration) -> Result<u64, StorageError> {
        self.0.sweep_temporary(older_than)
    }
}

#[test]
fn one_listing_that_misses_a_name_under_renewal_is_not_enough() {
    let place = Place::new();
    place.save_at("a", &place.disk(MIB), 1);
    let _lock = shared(&place);
    let blind = || Repository::open(Arc::new(Blind(place.storage.clone(), AtomicU64::new(0))), PASSWORD);
    assert_eq!(held(&blind().expect("opened"), &place.who).expect("listed").len(), 1);
    assert_eq!(blind().expect("opened").snapshots(&Job::default()).expect("listed").len(), 1);
}
