use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nestling_block::BlockTarget;

use super::*;
use crate::{
    PruneOptions,
    storage::{FileName, Storage},
    testing::{MIB, Place, noise},
};

fn prune(place: &Place) -> crate::PruneReport {
    let options = PruneOptions { max_unused_percent: 0.0, allow_empty: false };
    let plan = place.repository.prune_plan(options, &place.who, &Job::default()).expect("a plan");
    place.repository.prune(plan, &place.who, &Job::default()).expect("pruned")
}

/// A repository in which an earlier prune marked packs, of which one is wholly and one partly unused.
fn marked() -> Arc<Place> {
    let place = Place::new();
    let disk = place.disk(64 * MIB);
    place.save_at("a", &disk, 1);
    let old = place.points("a").remove(0);
    disk.write_at(&noise(9, 200_000), 0).expect("data");
    place.save_at("a", &disk, 2);
    place.repository.remove_snapshot(&old.id).expect("removed");
    let lock = RepositoryLock::shared(&place.repository, &place.who).expect("a lock");
    assert!(prune(&place).waiting_packs > 0);
    drop(lock);
    Arc::new(place)
}

#[test]
fn what_a_prune_removes_meanwhile_is_no_damage() {
    for at in 0.. {
        let (place, asked) = (marked(), Arc::new(AtomicU64::new(0)));
        let hooked = {
            let (place, asked) = (place.clone(), asked.clone());
            place.clone().hooked(move |_, _| {
                if asked.fetch_add(1, Relaxed) == at {
                    assert!(prune(&place).removed_packs > 0);
                }
                Ok(())
            })
        };
        let report = hooked.verify(DataCheck::All, &place.who, &Job::default()).expect("verified");
        assert!(report.is_clean(), "a prune at {at}: {report:?}");
        assert!(report.packs > 0 && report.read_bytes > 300_000, "{report:?}");
        if asked.load(Relaxed) <= at {
            assert!(at > 20, "only {at} operations were tried");
            return;
        }
    }
}

#[test]
fn what_is_damaged_is_told_once_beside_others_that_change_the_repository() {
    let place = Arc::new(Place::new());
    place.save_at("a", &place.disk(64 * MIB), 1);
    let packs = place.storage.list(FileKind::Pack).expect("listed");
    let largest = packs.iter().max_by_key(|pack| pack.size).expect("a pack");
    let (file, mut bytes) = place.get(FileKind::Pack, &largest.name);
    bytes[100] ^= 1;
    place.put(&(file, bytes));
    let quiet = place.repository.verify(DataCheck::All, &place.who, &Job::default()).expect("verified");
    assert!(!quiet.is_clean());
    let saves = AtomicU64::new(1);
    let busy = {
        let place = place.clone();
        place.clone().hooked(move |_, file: &FileName| {
            if file.kind == FileKind::Pack && file.name.is_empty() {
                let number = saves.fetch_add(1, Relaxed);
                place.save_at("b", &place.disk((64 + number) * MIB), number.cast_signed());
            }
            Ok(())
        })
    };
    let report = busy.verify(DataCheck::All, &place.who, &Job::default()).expect("verified");
    assert_eq!((report.defects, report.losses), (quiet.defects, quiet.losses));
}
