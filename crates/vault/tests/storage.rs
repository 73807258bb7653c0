//! Every storage keeps the same promises.

use std::sync::Arc;

use nestling_vault::storage::{
    AppendOnly, Counting, Faults, Limits, LocalStorage, MemoryStorage, RetryPolicy, Retrying,
    SimulatedStorage, Throttled, conformance,
};

#[test]
fn a_local_directory_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    conformance::run(&|| {
        count.set(count.get() + 1);
        Arc::new(LocalStorage::create(&directory.path().join(count.get().to_string())).unwrap())
    });
}

/// Directories are made when they are needed.
#[test]
fn an_empty_local_directory_conforms() {
    let directory = tempfile::tempdir().unwrap();
    let count = std::cell::Cell::new(0);
    conformance::run(&|| {
        count.set(count.get() + 1);
        let path = directory.path().join(count.get().to_string());
        std::fs::create_dir(&path).unwrap();
        Arc::new(LocalStorage::open(&path).unwrap())
    });
}

#[test]
fn memory_conforms() {
    conformance::run(&|| Arc::new(MemoryStorage::new()));
}

#[test]
fn a_simulated_store_without_faults_conforms() {
    conformance::run(&|| Arc::new(SimulatedStorage::new(1, Faults::NONE)));
}

#[test]
fn wrappers_conform() {
    conformance::run(&|| Arc::new(Counting::new(MemoryStorage::new())));
    conformance::run(&|| Arc::new(Retrying::new(MemoryStorage::new(), RetryPolicy::default())));
    conformance::run(&|| Arc::new(Throttled::new(MemoryStorage::new(), Limits::default())));
    let appending = AppendOnly::new(MemoryStorage::new());
    for (name, case) in conformance::CASES.iter().filter(|(name, _)| *name == "nothing is replaced") {
        println!("{name}");
        case(&appending);
    }
}
