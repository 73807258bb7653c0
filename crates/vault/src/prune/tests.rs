use nestling_block::BlockTarget;

use super::*;
use crate::{
    DataCheck, RepositoryLock,
    storage::{FileName, Operation, Storage, StorageErrorKind},
    testing::{MIB, Place, noise},
};

const CHUNK: usize = crate::layout::CHUNK_BYTES as usize;
const ALL: PruneOptions = PruneOptions { max_unused_percent: 0.0, allow_empty: false };

fn prune_with(place: &Place, options: PruneOptions) -> Result<PruneReport, VaultError> {
    let plan = place.repository.prune_plan(options, &place.who, &Job::default())?;
    place.repository.prune(plan, &place.who, &Job::default())
}

fn prune(place: &Place) -> PruneReport {
    prune_with(place, ALL).expect("pruned")
}

fn is_clean(place: &Place) -> bool {
    place.repository.verify(DataCheck::All, &place.who, &Job::default()).expect("verified").is_clean()
}

fn bytes(place: &Place) -> u64 {
    let sizes = |kind| place.storage.list(kind).expect("listed").into_iter().map(|listed| listed.size);
    FileKind::ALL.into_iter().filter(|kind| *kind != FileKind::Config).flat_map(sizes).sum()
}

fn packs(place: &Place) -> usize {
    place.storage.list(FileKind::Pack).expect("listed").len()
}

/// The place as seen by a program on a disk where nothing but locks fits any more.
fn full(place: &Place) -> Place {
    place.through(place.hooked(|operation, file| match operation {
        Operation::Put if file.kind != FileKind::Lock => Err(StorageErrorKind::NoSpace),
        _ => Ok(()),
    }))
}

fn forget(place: &Place, name: &str) {
    for point in place.points(name) {
        place.repository.remove_snapshot(&point.id).expect("removed");
    }
}

/// A pack that no index names.
fn put_junk(place: &Place) -> FileName {
    let junk = noise(7, 100_000);
    let file = FileName::from(PackId::of(&junk));
    place.storage.put(&file, &junk).expect("put");
    file
}

#[test]
fn where_nothing_can_be_copied_what_is_wholly_unused_goes() {
    let place = Place::new();
    let disk = place.disk(64 * MIB);
    for chunk in 0..20 {
        disk.write_at(&noise(chunk, CHUNK), (chunk + 8) * MIB).expect("data");
    }
    place.save_at("a", &disk, 1);
    let old = place.points("a").remove(0);
    disk.write_at(&noise(99, CHUNK), 8 * MIB).expect("data");
    place.save_at("a", &disk, 2);
    place.repository.remove_snapshot(&old.id).expect("removed");
    place.save_at("b", &place.disk(65 * MIB), 3);
    forget(&place, "b");
    let (used, storage) = (bytes(&place), place.storage.clone());
    let limit = used + 100_000;
    let narrow = place.through(place.hooked(move |operation, file| {
        let all = FileKind::ALL.into_iter().filter(|kind| *kind != FileKind::Config);
        let sizes = all.flat_map(|kind| storage.list(kind).expect("listed")).map(|listed| listed.size);
        let is_full = file.kind == FileKind::Pack && sizes.sum::<u64>() + 2 * MIB > limit;
        if operation == Operation::Put && is_full { Err(StorageErrorKind::NoSpace) } else { Ok(()) }
    }));
    let report = prune(&narrow);
    assert!(report.removed_packs > 0 && report.removed_bytes > 300_000, "{report:?}");
    assert!(report.unfinished.as_ref().is_some_and(|why| why.contains("no space")), "{report:?}");
    assert!(is_clean(&place) && bytes(&place) < used - 200_000);
    // Nothing is left that could be removed: now it is an error.
    let again = prune_with(&narrow, ALL);
    assert!(again.as_ref().is_err_and(VaultError::is_no_space), "{again:?}");
    let report = prune(&place);
    assert!(report.removed_packs > 0 && report.unfinished.is_none(), "{report:?}");
    assert!(is_clean(&place));
}

#[test]
fn on_a_full_disk_what_was_marked_and_what_no_index_names_goes() {
    let place = Place::new();
    place.save_at("a", &place.disk(64 * MIB), 1);
    place.save_at("b", &place.disk(65 * MIB), 2);
    forget(&place, "b");
    let lock = RepositoryLock::shared(&place.repository, &place.who).expect("a lock");
    let waiting = prune(&place).waiting_packs;
    drop(lock);
    let (before, junk) = (packs(&place), put_junk(&place));
    let report = prune(&full(&place));
    assert!(waiting > 0 && report.removed_packs == waiting + 1, "{report:?}");
    assert_eq!((packs(&place), report.unfinished), (before - waiting as usize, None));
    assert!(place.storage.get(&junk, MIB).is_err() && is_clean(&place));
    assert!(place.storage.list(FileKind::Extra).expect("listed").is_empty());
}

#[test]
fn beside_a_saver_a_pack_that_no_index_names_waits_for_it() {
    let place = Place::new();
    place.save_at("a", &place.disk(64 * MIB), 1);
    let junk = put_junk(&place);
    let lock = RepositoryLock::shared(&place.repository, &place.who).expect("a lock");
    assert_eq!(prune(&place).waiting_packs, 1);
    place.storage.get(&junk, MIB).expect("its saver may be about to name it");
    drop(lock);
    assert_eq!(prune(&place).removed_packs, 1);
}

#[test]
fn a_save_that_a_full_disk_ends_leaves_room_and_keeps_what_it_can() {
    let tuning = crate::Tuning { pack_bytes: 2 * CHUNK, ..crate::Tuning::default() };
    let place = Place::tuned(tuning);
    place.save_at("a", &place.disk(MIB), 1);
    let (before, index_files) = (packs(&place), place.storage.list(FileKind::Index).expect("listed").len());
    let refused = std::sync::atomic::AtomicBool::new(false);
    let narrow = place.through(place.hooked(move |operation, file| {
        let first = operation == Operation::Put
            && file.kind == FileKind::Index
            && !refused.swap(true, std::sync::atomic::Ordering::Relaxed);
        if first { Err(StorageErrorKind::NoSpace) } else { Ok(()) }
    }));
    let disk = nestling_block::MemoryDisk::new("disk", 4 * MIB);
    disk.write_at(&noise(5, 20 * CHUNK), 0).expect("data");
    let saved = narrow.try_save("b", &disk, 2, None);
    assert!(saved.as_ref().is_err_and(VaultError::is_no_space), "{saved:?}");
    assert_eq!(place.storage.list(FileKind::Index).expect("listed").len(), index_files + 1);
    let report = place.repository.verify(DataCheck::All, &place.who, &Job::default()).expect("verified");
    assert_eq!((report.is_clean(), report.unindexed_packs), (true, 0));
    let kept = packs(&place) - before;
    let again = place.save_at("b", &disk, 2);
    assert!(kept > 5 && again.new_bytes <= 4 * CHUNK as u64, "{kept} {again:?}");
}

#[test]
fn a_repository_whose_snapshots_are_gone_is_emptied_only_on_purpose() {
    let place = Place::new();
    prune(&place);
    place.save_at("a", &place.disk(64 * MIB), 1);
    let point = place.points("a").remove(0);
    let snapshot = place.file_of(&point.id);
    forget(&place, "a");
    let before = packs(&place);
    let error = prune_with(&place, ALL).expect_err("refused");
    assert!(matches!(error, VaultError::NoSnapshots { .. }), "{error}");
    assert_eq!(packs(&place), before);
    let report = place.repository.verify(DataCheck::None, &place.who, &Job::default()).expect("verified");
    assert!(report.is_clean() && report.is_without_points(), "{report:?}");
    place.put(&snapshot);
    assert_eq!((prune(&place).removed_packs, is_clean(&place)), (0, true));
    forget(&place, "a");
    let report = prune_with(&place, PruneOptions { allow_empty: true, ..ALL }).expect("pruned");
    assert_eq!((report.removed_packs, packs(&place)), (before as u64, 0));
}

#[test]
fn many_small_index_files_become_one_and_nothing_is_forgotten_wherever_that_is_cut_off() {
    let index_files = |place: &Place| place.storage.list(FileKind::Index).expect("listed").len();
    let mut cut = 0;
    loop {
        let place = Place::new();
        for second in 1..=17 {
            let disk = nestling_block::MemoryDisk::new("disk", MIB);
            disk.write_at(&noise(second, 1000), 0).expect("data");
            place.save_at("a", &disk, second.cast_signed());
        }
        assert_eq!(index_files(&place), 17);
        let options = PruneOptions { max_unused_percent: 100.0, ..ALL };
        let outcome = prune_with(&place.through(place.fused(cut)), options);
        place.repository.unlock(true, &place.who).expect("unlocked");
        assert!(is_clean(&place), "{cut}");
        if outcome.is_ok() {
            assert!(index_files(&place) <= 2, "{}", index_files(&place));
            return;
        }
        cut += 1;
    }
}
