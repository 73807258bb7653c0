//! What every storage must do, as cases that each implementation runs in its tests.
//!
//! It asks only what [`Storage`] promises, so that the engine above may rely on it wherever the files lie. A case gets
//! a storage with nothing in it, and panics where a promise is broken.

use std::{sync::Arc, thread, time::Duration};

use super::{FileKind, FileName, Storage, StorageErrorKind};

type Case = fn(&dyn Storage);

/// All cases by name.
pub const CASES: &[(&str, Case)] = &[
    ("what was stored is read back", what_was_stored_is_read_back),
    ("ranges are filled or fail", ranges_are_filled_or_fail),
    ("nothing is replaced", nothing_is_replaced),
    ("what is missing is told", what_is_missing_is_told),
    ("a limit is kept", a_limit_is_kept),
    ("listings show what is there", listings_show_what_is_there),
    ("what was removed is gone", what_was_removed_is_gone),
    ("names that are none are refused", names_that_are_none_are_refused),
    ("writers at once agree", writers_at_once_agree),
    ("one config wins", one_config_wins),
    ("nothing temporary is left", nothing_temporary_is_left),
];

/// Runs every case on a storage of its own.
pub fn run(fresh: &dyn Fn() -> Arc<dyn Storage>) {
    for (name, case) in CASES {
        let storage = fresh();
        assert!(!storage.describe().is_empty(), "{name}: the place has a name");
        let outcome = thread::scope(|scope| scope.spawn(|| case(&*storage)).join());
        if let Err(panic) = outcome {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
            panic!("{}: {name}: {text}", storage.describe());
        }
    }
}

fn file(kind: FileKind, n: u8) -> FileName {
    let name = match kind {
        FileKind::Config => String::new(),
        FileKind::Extra => format!("extra-{n}.x"),
        _ => format!("{n:02x}").repeat(32),
    };
    FileName { kind, name }
}

fn content(length: usize, n: u8) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(31) >> 3) as u8 ^ n).collect()
}

#[track_caller]
fn stored(storage: &dyn Storage, file: &FileName, bytes: &[u8]) {
    if let Err(error) = storage.put(file, bytes) {
        panic!("{error}");
    }
}

#[track_caller]
fn kind_of<T>(result: Result<T, super::StorageError>) -> Option<StorageErrorKind> {
    result.err().map(|error| error.kind)
}

#[track_caller]
fn assert_holds(storage: &dyn Storage, file: &FileName, bytes: &[u8]) {
    match storage.get(file, bytes.len() as u64) {
        Ok(there) => assert!(there == bytes, "{file} holds other bytes than were stored"),
        Err(error) => panic!("{error}"),
    }
}

fn what_was_stored_is_read_back(storage: &dyn Storage) {
    for kind in FileKind::ALL {
        for (n, length) in [0, 1, 4096, (1 << 20) + 3].into_iter().enumerate() {
            let file = file(kind, n as u8);
            if n > 0 && kind == FileKind::Config {
                break;
            }
            let bytes = content(length, n as u8);
            stored(storage, &file, &bytes);
            assert_holds(storage, &file, &bytes);
        }
    }
}

fn ranges_are_filled_or_fail(storage: &dyn Storage) {
    let (pack, bytes) = (file(FileKind::Pack, 1), content(10_000, 1));
    stored(storage, &pack, &bytes);
    for (offset, length) in [(0, 1), (0, 10_000), (9_999, 1), (5_000, 5_000), (17, 4_096), (3, 0)] {
        let mut buf = vec![0; length];
        let read = storage.get_range(&pack, offset as u64, &mut buf);
        assert_eq!(kind_of(read), None, "{length} bytes from {offset}");
        assert!(buf == bytes[offset..offset + length], "{length} bytes from {offset}");
    }
    for (offset, length) in
        [(0, 10_001), (9_999, 2), (10_000, 1), (1 << 40, 1), (i64::MAX as u64, 2), (u64::MAX, 2)]
    {
        let read = storage.get_range(&pack, offset, &mut vec![0; length]);
        assert_eq!(kind_of(read), Some(StorageErrorKind::UnexpectedEnd), "{length} bytes from {offset}");
    }
    let read = storage.get_range(&file(FileKind::Pack, 2), 0, &mut [0]);
    assert_eq!(kind_of(read), Some(StorageErrorKind::NotFound));
}

fn nothing_is_replaced(storage: &dyn Storage) {
    for kind in FileKind::ALL {
        let (file, bytes) = (file(kind, 1), content(100, 1));
        stored(storage, &file, &bytes);
        let again = kind_of(storage.put(&file, &bytes));
        let config = (kind == FileKind::Config).then_some(StorageErrorKind::AlreadyExists);
        assert_eq!(again, config, "the same {file}");
        let shorter = kind_of(storage.put(&file, &bytes[..99]));
        let expected =
            if kind.names_content() { StorageErrorKind::Mismatch } else { StorageErrorKind::AlreadyExists };
        assert_eq!(shorter, Some(expected), "a shorter {file}");
        if kind == FileKind::Extra {
            let other = kind_of(storage.put(&file, &content(100, 2)));
            assert_eq!(other, Some(StorageErrorKind::AlreadyExists), "another {file}");
        }
        assert_holds(storage, &file, &bytes);
    }
}

fn what_is_missing_is_told(storage: &dyn Storage) {
    for kind in FileKind::ALL {
        let file = file(kind, 1);
        assert_eq!(kind_of(storage.get(&file, 10)), Some(StorageErrorKind::NotFound), "{file}");
        assert_eq!(
            kind_of(storage.get_range(&file, 0, &mut [0])),
            Some(StorageErrorKind::NotFound),
            "{file}"
        );
        assert_eq!(kind_of(storage.remove(&file)), None, "removing {file} that is not there");
    }
}

fn a_limit_is_kept(storage: &dyn Storage) {
    let key = file(FileKind::Key, 1);
    stored(storage, &key, &content(1000, 1));
    assert_eq!(kind_of(storage.get(&key, 999)), Some(StorageErrorKind::TooLarge));
    assert_eq!(kind_of(storage.get(&key, 0)), Some(StorageErrorKind::TooLarge));
    assert_eq!(kind_of(storage.get(&key, 1000)), None);
    assert_eq!(kind_of(storage.get(&key, u64::MAX)), None);
    let message = storage.get(&key, 999).map_err(|e| e.to_string()).expect_err("it is too large");
    assert!(message.contains(&key.name) && message.contains(&storage.describe()), "{message}");
}

fn listed(storage: &dyn Storage, kind: FileKind) -> Vec<(String, u64)> {
    let mut listed: Vec<_> = match storage.list(kind) {
        Ok(listed) => listed.into_iter().map(|file| (file.name, file.size)).collect(),
        Err(error) => panic!("{error}"),
    };
    listed.sort();
    let mut names = storage.names(kind).expect("listed");
    names.sort();
    assert!(names.iter().eq(listed.iter().map(|(name, _)| name)), "{names:?}, and not {listed:?}");
    listed
}

fn listings_show_what_is_there(storage: &dyn Storage) {
    for kind in FileKind::ALL {
        assert_eq!(listed(storage, kind), [], "of kind {kind}");
    }
    for kind in FileKind::ALL {
        let count = if kind == FileKind::Config { 1 } else { 5 };
        let files: Vec<_> = (0..count).map(|n| (file(kind, n * 50), usize::from(n) * 7)).collect();
        for (file, length) in &files {
            stored(storage, file, &content(*length, 0));
        }
        let mut expected: Vec<_> =
            files.iter().map(|(file, length)| (file.name.clone(), *length as u64)).collect();
        expected.sort();
        assert_eq!(listed(storage, kind), expected, "of kind {kind}");
    }
}

fn what_was_removed_is_gone(storage: &dyn Storage) {
    for kind in FileKind::ALL {
        let (file, bytes) = (file(kind, 1), content(10, 1));
        stored(storage, &file, &bytes);
        assert_eq!(kind_of(storage.get_range(&file, 0, &mut [0; 10])), None, "{file}");
        assert_eq!(kind_of(storage.remove(&file)), None, "{file}");
        assert_eq!(kind_of(storage.get(&file, 10)), Some(StorageErrorKind::NotFound), "{file}");
        let range = storage.get_range(&file, 0, &mut [0; 10]);
        assert_eq!(kind_of(range), Some(StorageErrorKind::NotFound), "{file}");
        assert_eq!(listed(storage, kind), [], "{file}");
        assert_eq!(kind_of(storage.remove(&file)), None, "{file} a second time");
        // Its name is free again.
        stored(storage, &file, &content(20, 2));
        assert_holds(storage, &file, &content(20, 2));
    }
}

fn names_that_are_none_are_refused(storage: &dyn Storage) {
    let upper = "AB".repeat(32);
    let bad = [
        (FileKind::Config, "config"),
        (FileKind::Pack, ""),
        (FileKind::Pack, "ab"),
        (FileKind::Pack, upper.as_str()),
        (FileKind::Key, "../config"),
        (FileKind::Extra, ""),
        (FileKind::Extra, ".."),
        (FileKind::Extra, "a/b"),
        (FileKind::Extra, "é"),
    ];
    for (kind, name) in bad {
        let file = FileName { kind, name: name.to_owned() };
        let refused = Some(StorageErrorKind::InvalidName);
        assert_eq!(kind_of(storage.put(&file, b"x")), refused, "{file}");
        assert_eq!(kind_of(storage.get(&file, 1)), refused, "{file}");
        assert_eq!(kind_of(storage.get_range(&file, 0, &mut [0])), refused, "{file}");
        assert_eq!(kind_of(storage.remove(&file)), refused, "{file}");
    }
}

fn writers_at_once_agree(storage: &dyn Storage) {
    const WRITERS: u8 = 6;
    thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                // Each has a pack of its own, and all have the same one and the same index.
                for n in [writer, 200] {
                    stored(storage, &file(FileKind::Pack, n), &content(50_000, n));
                    assert_holds(storage, &file(FileKind::Pack, n), &content(50_000, n));
                }
                stored(storage, &file(FileKind::Index, 1), &content(500, 1));
                let _ = storage.remove(&file(FileKind::Lock, writer));
            });
        }
    });
    assert_eq!(listed(storage, FileKind::Pack).len(), usize::from(WRITERS) + 1);
    assert_eq!(listed(storage, FileKind::Index).len(), 1);
}

fn one_config_wins(storage: &dyn Storage) {
    let outcomes: Vec<_> = thread::scope(|scope| {
        let writers: Vec<_> = (0..6)
            .map(|n| scope.spawn(move || kind_of(storage.put(&FileName::config(), &content(300, n)))))
            .collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer")).collect()
    });
    let won: Vec<_> = (0..6).filter(|n| outcomes[usize::from(*n)].is_none()).collect();
    assert_eq!(won.len(), 1, "{outcomes:?}");
    assert!(outcomes.iter().flatten().all(|kind| *kind == StorageErrorKind::AlreadyExists), "{outcomes:?}");
    assert_holds(storage, &FileName::config(), &content(300, won[0]));
}

fn nothing_temporary_is_left(storage: &dyn Storage) {
    for kind in FileKind::ALL {
        stored(storage, &file(kind, 1), &content(1000, 1));
        let _ = storage.put(&file(kind, 1), &content(999, 1));
    }
    assert_eq!(storage.sweep_temporary(Duration::ZERO).map_err(|e| e.to_string()), Ok(0));
    for kind in FileKind::ALL {
        assert_holds(storage, &file(kind, 1), &content(1000, 1));
    }
}
