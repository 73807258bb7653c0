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

/// What `point.json` says of a disk of 64 MiB, and all of which another disk's tree can differ from it.
fn layout(disks: &str, lost: &str) -> Vec<u8> {
    format!(r#"{{"version": 1, "disks": [{disks}], "lost": [{lost}]}}"#).into_bytes()
}

fn disk(size_bytes: u64, chunk_bytes: u64) -> String {
    format!(
        r#"{{"name": "disk0", "size_bytes": {size_bytes}, "chunk_bytes": {chunk_bytes}, "segment_bytes": 33554432,
        "group_segments": 128}}"#
    )
}

#[test]
fn a_point_that_could_not_be_restored_is_told_though_every_blob_is_whole() {
    let place = Place::new();
    let saved = place.disk(64 * MIB);
    saved.write_at(&noise(3, 300_000), 40 * MIB).expect("data");
    place.save_at("a", &saved, 1);
    let index = place.repository.load_index(&Job::default()).expect("an index");
    let tree = place.repository.content(&index, &place.points("a")[0]).expect("its content").disk_trees[0];
    let good = disk(64 * MIB, 128 << 10);
    place.hand_made(&layout(&good, ""), &[("disk0", tree)]);
    let verify = || place.repository.verify(DataCheck::None, &place.who, &Job::default()).expect("verified");
    assert!(verify().is_clean());
    let all = 0..64 * MIB;
    for (json, whole, why) in [
        (layout(&format!("{good}, {good}"), ""), None, "two disks of it are called disk0"),
        (layout(&good, r#"{"disk": "disk0", "offset": 67108864, "length": 1}"#), None, "lost bytes"),
        (layout(&disk(96 * MIB, 128 << 10), ""), Some(0..96 * MIB), "not named"),
        (layout(&disk(48 * MIB, 128 << 10), ""), Some(32 * MIB..48 * MIB), "does not fit"),
        (layout(&disk(64 * MIB, 256 << 10), ""), Some(all), "does not fit"),
    ] {
        let id = place.hand_made(&json, &[("disk0", tree)]);
        let report = verify();
        let said: Vec<_> = report.defects.iter().map(|defect| &defect.what).collect();
        assert!(said.len() == 1 && said[0].contains(why), "{why}: {said:?}");
        let [loss] = &report.losses[..] else { panic!("{why}: {:?}", report.losses) };
        assert_eq!((loss.point, loss.ranges.first()), (id, whole.as_ref()));
        place.repository.remove_snapshot(&id).expect("removed");
    }
    let id = place.hand_made(&layout(&good, ""), &[]);
    assert_eq!(verify().losses.iter().map(|loss| loss.point).collect::<Vec<_>>(), [id]);
}

#[test]
fn a_version_in_whose_place_another_stands_is_not_missed() {
    let place = Place::new();
    place.save_at("a", &place.disk(MIB), 1);
    let new = place.points("a")[0].snapshot.clone();
    let old = place.hand_made(b"nonsense", &[]);
    let verify = || place.repository.verify(DataCheck::All, &place.who, &Job::default()).expect("verified");
    assert_eq!(verify().losses.len(), 1);
    let other =
        serde_json::Map::from_iter([(crate::point::REPLACES.to_owned(), vec![old.to_string()].into())]);
    place.repository.put_snapshot(&Snapshot { original: Some(old), other, ..new }).expect("put");
    assert!(verify().is_clean());
}
