use super::*;

fn file(kind: FileKind, n: u8) -> FileName {
    FileName::new(kind, format!("{n:02x}").repeat(32)).unwrap()
}

/// Every fault there is, often.
const ALL: Faults = Faults {
    refused: 100,
    answer_lost: 100,
    torn: 100,
    late: 100,
    repeated: 100,
    torn_visible: 0,
    late_operations_max: 5,
    errors: &[StorageErrorKind::Unreachable, StorageErrorKind::Io],
};

/// A few hundred operations, and what callers saw of them.
fn run(storage: &SimulatedStorage) -> Vec<String> {
    let mut seen = Vec::new();
    for n in 0..100u8 {
        let pack = file(FileKind::Pack, n % 40);
        seen.push(format!("{:?}", storage.put(&pack, &[n % 40; 30]).map_err(|e| e.kind)));
        let mut buf = [0; 7];
        let read = storage.get_range(&pack, 3, &mut buf).map_err(|e| e.kind);
        seen.push(format!("{read:?} {buf:?}"));
        seen.push(format!("{:?}", storage.list(FileKind::Pack).map_err(|e| e.kind)));
        if n % 3 == 0 {
            seen.push(format!("{:?}", storage.remove(&pack).map_err(|e| e.kind)));
        }
    }
    seen
}

#[test]
fn a_seed_repeats_a_run() {
    for seed in 0..20 {
        let (first, second) = (SimulatedStorage::new(seed, ALL), SimulatedStorage::new(seed, ALL));
        assert_eq!(run(&first), run(&second));
        assert_eq!(first.log(), second.log());
        assert_eq!(
            first.survivors_of_power_failure().list(FileKind::Pack).unwrap(),
            second.survivors_of_power_failure().list(FileKind::Pack).unwrap()
        );
    }
    let (one, other) = (SimulatedStorage::new(1, ALL), SimulatedStorage::new(2, ALL));
    assert_ne!(run(&one), run(&other));
}

#[test]
fn every_fault_takes_place() {
    let storage = SimulatedStorage::new(7, Faults { torn_visible: 100, ..ALL });
    run(&storage);
    let log = storage.log();
    for fault in
        [Fault::Refused, Fault::AnswerLost, Fault::Torn, Fault::Late, Fault::Repeated, Fault::TornVisible]
    {
        assert!(log.iter().any(|logged| logged.fault == Some(fault)), "{fault:?}");
    }
    assert!(log.iter().any(|logged| logged.fault.is_none()));
    assert!(log.iter().zip(1..).all(|(logged, number)| logged.number == number));
}

/// What is promised: a file that was reported as stored is there, whole, until somebody removes it.
#[test]
fn what_was_reported_as_stored_is_never_lost_or_changed() {
    for seed in 0..500 {
        let storage = SimulatedStorage::new(seed, ALL);
        let mut stored = Vec::new();
        for n in 0..60 {
            let pack = file(FileKind::Pack, n);
            if storage.put(&pack, &[n; 20]).is_ok() {
                stored.push((pack, [n; 20]));
            }
        }
        let survivors = [storage.survivors(), storage.survivors_of_power_failure()];
        for (pack, bytes) in &stored {
            for survivor in &survivors {
                assert_eq!(survivor.get(pack, 20).unwrap(), bytes, "seed {seed}: {pack}");
            }
        }
        // And nothing is there in part.
        let listed = survivors[0].list(FileKind::Pack).unwrap();
        assert!(listed.iter().all(|listed| listed.size == 20), "seed {seed}");
    }
}

#[test]
fn a_late_put_arrives_after_a_timeout() {
    let late = Faults { late: 1000, late_operations_max: 3, ..Faults::NONE };
    let storage = SimulatedStorage::new(3, late);
    let pack = file(FileKind::Pack, 1);
    assert_eq!(storage.put(&pack, b"bytes").unwrap_err().kind, StorageErrorKind::Timeout);
    let arrived = (0..4).any(|_| storage.get(&pack, 5).is_ok());
    assert!(arrived);
    // It does the same in what a new process finds.
    let storage = SimulatedStorage::new(4, late);
    storage.put(&pack, b"bytes").unwrap_err();
    let survivors = storage.survivors();
    assert!((0..4).any(|_| survivors.get(&pack, 5).is_ok()));
    assert!((0..4).all(|_| storage.survivors_of_power_failure().get(&pack, 5).is_err()));
}

#[test]
fn a_repeated_put_brings_back_what_was_removed() {
    let storage = SimulatedStorage::new(5, Faults { repeated: 1000, late_operations_max: 0, ..Faults::NONE });
    let pack = file(FileKind::Pack, 1);
    storage.put(&pack, b"bytes").unwrap();
    let calm = storage.another_client(0, Faults::NONE);
    calm.remove(&pack).unwrap();
    // The repetition was due before the removal: at one operation's distance it is harmless.
    assert_eq!(calm.get(&pack, 5).unwrap_err().kind, StorageErrorKind::NotFound);
    let brought_back = (0..50).any(|seed| {
        let faults = Faults { repeated: 1000, late_operations_max: 4, ..Faults::NONE };
        let storage = SimulatedStorage::new(seed, faults);
        storage.put(&pack, b"bytes").unwrap();
        let calm = storage.another_client(0, Faults::NONE);
        calm.remove(&pack).unwrap();
        (0..5).any(|_| calm.get(&pack, 5).is_ok())
    });
    assert!(brought_back);
}

#[test]
fn a_crash_cuts_after_every_operation_and_in_every_way() {
    let operations = |storage: &SimulatedStorage| -> Result<(), StorageError> {
        storage.put(&file(FileKind::Pack, 1), b"one")?;
        storage.put(&file(FileKind::Index, 2), b"two")?;
        storage.remove(&file(FileKind::Pack, 1))?;
        storage.put(&file(FileKind::Snapshot, 3), b"three")
    };
    let whole = SimulatedStorage::new(0, Faults::NONE);
    operations(&whole).unwrap();
    assert_eq!(whole.operations(), 4);
    for after in 0..4 {
        for cut in Cut::ALL {
            let storage = SimulatedStorage::new(0, Faults::NONE);
            storage.crash_after_with(after, cut);
            assert_eq!(operations(&storage).unwrap_err().kind, StorageErrorKind::Crashed);
            assert_eq!(storage.operations(), after + 1);
            assert_eq!(storage.list(FileKind::Pack).unwrap_err().kind, StorageErrorKind::Crashed);

            let survivors = storage.survivors();
            let done = after + u64::from(cut == Cut::Done);
            assert_eq!(survivors.list(FileKind::Index).unwrap().len() as u64, u64::from(done >= 2));
            assert_eq!(survivors.list(FileKind::Snapshot).unwrap().len() as u64, u64::from(done >= 4));
            let pack = survivors.list(FileKind::Pack).unwrap().len() as u64;
            assert_eq!(pack, u64::from((1..3).contains(&done)), "after {after}, {cut:?}");
            let torn = survivors.sweep_temporary(Duration::ZERO).unwrap();
            assert_eq!(torn, u64::from(cut == Cut::Torn && after != 2), "after {after}, {cut:?}");
        }
    }
}

#[test]
fn clients_of_one_store_crash_by_themselves() {
    let one = SimulatedStorage::new(0, Faults::NONE);
    let other = one.another_client(0, Faults::NONE);
    one.crash_after(1);
    one.put(&file(FileKind::Pack, 1), b"one").unwrap();
    other.put(&file(FileKind::Pack, 2), b"two").unwrap();
    one.list(FileKind::Pack).unwrap_err();
    assert_eq!(other.list(FileKind::Pack).unwrap().len(), 2);
    let clients: Vec<_> = one.log().iter().map(|logged| logged.client).collect();
    assert_eq!(clients, [0, 1, 0, 1]);
}

#[test]
fn only_removals_that_are_not_promised_come_back() {
    let returned = |kind: FileKind| {
        (0..50).any(|seed| {
            let storage = SimulatedStorage::new(seed, Faults::NONE);
            storage.put(&file(kind, 1), b"bytes").unwrap();
            storage.remove(&file(kind, 1)).unwrap();
            assert!(storage.survivors().list(kind).unwrap().is_empty());
            !storage.survivors_of_power_failure().list(kind).unwrap().is_empty()
        })
    };
    assert!(returned(FileKind::Pack) && returned(FileKind::Lock) && returned(FileKind::Extra));
    assert!(!returned(FileKind::Key) && !returned(FileKind::Snapshot) && !returned(FileKind::Index));
}

#[test]
fn torn_writes_are_swept_when_they_are_old() {
    let storage = SimulatedStorage::new(0, Faults { torn: 1000, ..Faults::NONE });
    storage.put(&file(FileKind::Pack, 1), b"bytes").unwrap_err();
    assert!(storage.list(FileKind::Pack).unwrap().is_empty());
    assert_eq!(storage.sweep_temporary(Duration::from_secs(60)).unwrap(), 0);
    storage.advance(Duration::from_secs(60));
    assert_eq!(storage.sweep_temporary(Duration::from_secs(60)).unwrap(), 1);
    assert_eq!(storage.sweep_temporary(Duration::from_secs(60)).unwrap(), 0);
}

/// What callers on several threads cannot tell apart from a real store.
#[test]
fn threads_may_share_a_store_that_goes_wrong() {
    let storage = SimulatedStorage::new(9, ALL);
    thread::scope(|scope| {
        for thread in 0..4u8 {
            let storage = &storage;
            scope.spawn(move || {
                for n in 0..50 {
                    let pack = file(FileKind::Pack, thread * 50 + n);
                    if storage.put(&pack, &[n; 20]).is_ok() {
                        assert_eq!(storage.survivors().get(&pack, 20).unwrap(), [n; 20]);
                    }
                    let _ = storage.list(FileKind::Pack);
                }
            });
        }
    });
    assert_eq!(storage.operations(), 400);
    assert!(storage.log().iter().zip(1..).all(|(logged, number)| logged.number == number));
}

#[test]
fn damage_is_seen_by_readers() {
    let storage = SimulatedStorage::new(0, Faults::NONE);
    let pack = file(FileKind::Pack, 1);
    storage.put(&pack, b"bytes").unwrap();
    assert!(storage.damage(&pack, |bytes| bytes[0] ^= 1));
    assert_eq!(storage.get(&pack, 5).unwrap(), b"cytes");
    assert!(!storage.damage(&file(FileKind::Pack, 2), |_| {}));
}
