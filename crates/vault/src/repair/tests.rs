//! Damage of every kind, repaired.

use nestling_block::{BlockSource, BlockTarget, ExtentKind, ExtentSet, MemoryDisk};

use super::*;
use crate::{
    Existing, RestoreRequest,
    layout::Chunk,
    restore,
    testing::{MIB, Place, noise},
};

const CHUNK: u64 = crate::layout::CHUNK_BYTES as u64;

/// Flips a bit of a blob where it is stored.
fn damage(place: &Place, id: &BlobId) {
    let index = place.repository.load_index(&Job::default()).expect("an index");
    for location in index.copies(id) {
        let (file, mut bytes) = place.get(FileKind::Pack, &location.pack.to_string());
        bytes[location.blob.offset as usize + 20] ^= 4;
        place.put(&(file, bytes));
    }
}

fn verify(place: &Place) -> crate::VerifyReport {
    place.repository.verify(DataCheck::All, &place.who, &Job::default()).expect("verified")
}

fn plan(place: &Place) -> RepairPlan {
    place.repository.repair_plan(&place.who, &Job::default()).expect("a plan")
}

fn repair(place: &Place) -> RepairReport {
    place.repository.repair(plan(place), false, &Job::default()).expect("repaired")
}

/// A disk with data at 1 MiB, 2 MiB and 70 MiB, saved for two machines.
fn place() -> (Place, MemoryDisk) {
    let place = Place::new();
    let disk = MemoryDisk::new("disk", 100 * MIB + 5000);
    for (seed, at) in [(1, 1), (2, 2), (3, 70)] {
        disk.write_at(&noise(seed, CHUNK as usize), at * MIB).expect("data");
    }
    disk.write_at(&noise(4, 3000), 100 * MIB).expect("data");
    place.save_at("a", &disk, 1);
    place.save_at("b", &disk, 2);
    (place, disk)
}

fn is_same(place: &Place, point: &Point, disk: &MemoryDisk, range: std::ops::Range<u64>) -> bool {
    let length = (range.end - range.start) as usize;
    let (mut expected, mut found) = (vec![0; length], vec![1; length]);
    disk.read_at(&mut expected, range.start).expect("the source");
    place.open(point).expect("opened").read(&mut found, range.start).is_ok() && expected == found
}

fn chunk(place: &Place, offset: u64) -> BlobId {
    chunk_of(place, "a", offset)
}

fn chunk_of(place: &Place, name: &str, offset: u64) -> BlobId {
    let disk = place.open(&place.points(name)[0]).expect("opened");
    let place = (offset % (32 * MIB) / CHUNK) as usize;
    match disk.chunks_of(offset / (32 * MIB)).expect("chunks")[place] {
        Chunk::Stored(id) => id,
        Chunk::Zero => panic!("a hole"),
    }
}

#[test]
fn a_lost_chunk_is_an_error_and_all_else_is_there() {
    let (place, disk) = place();
    damage(&place, &chunk(&place, 2 * MIB));
    assert_eq!(verify(&place).losses.len(), 2);
    let planned = plan(&place);
    let text = planned.to_string();
    assert!(text.contains(&format!("disk0: {CHUNK} bytes at byte {}", 2 * MIB)), "{text}");
    assert!(place.repository.load_index(&Job::default()).is_ok() && planned.points.len() == 2);
    let report = place.repository.repair(planned, false, &Job::default()).expect("repaired");
    assert_eq!((report.mended.len(), report.left.len(), report.removed_packs), (2, 0, 1));
    let after = verify(&place);
    assert!(after.is_clean() && after.known_losses.len() == 2, "{after:?}");
    assert!(plan(&place).is_empty());
    let point = place.points("a").remove(0);
    assert!(point.snapshot.tags.contains(&DAMAGED_TAG.to_owned()));
    assert!(is_same(&place, &point, &disk, 0..2 * MIB));
    assert!(is_same(&place, &point, &disk, 2 * MIB + CHUNK..100 * MIB + 5000));
    let opened = place.open(&point).expect("opened");
    for (offset, length) in [(2 * MIB - 1, 2), (2 * MIB + CHUNK - 1, 1), (0, 4 << 20)] {
        let error = opened.read(&mut vec![0; length], offset).expect_err("lost");
        assert!(matches!(error, VaultError::Lost { .. }), "{error}");
        assert!(opened.read_at(&mut vec![0; length], offset).is_err());
    }
    let extents = opened.extents(2 * MIB..2 * MIB + CHUNK).expect("extents");
    assert!(extents.iter().all(|extent| extent.kind == ExtentKind::Data));
}

#[test]
fn a_restore_stops_at_what_is_lost_and_brings_the_rest_on_request() {
    let (place, _) = place();
    damage(&place, &chunk(&place, 2 * MIB));
    repair(&place);
    let opened = place.open(&place.points("a")[0]).expect("opened");
    let index = Arc::new(place.repository.load_index(&Job::default()).expect("an index"));
    let whole: ExtentSet = std::iter::once(0..100 * MIB + 5000).collect();
    let target = MemoryDisk::new("target", whole.bytes());
    let rest = whole.subtract(opened.lost());
    for (ranges, is_good) in [(None, false), (Some(&rest), true)] {
        let request = RestoreRequest {
            repository: &place.repository,
            index: &index,
            disk: &opened,
            target: &target,
            existing: Existing::Unknown,
            ranges,
            threads: 1,
        };
        assert_eq!(restore(&request, &Job::default()).is_ok(), is_good);
    }
    let mut bytes = vec![0; CHUNK as usize];
    target.read_at(&mut bytes, 70 * MIB).expect("read");
    assert_eq!(bytes, noise(3, CHUNK as usize));
}

#[test]
fn a_save_on_a_mended_point_reads_what_was_lost() {
    let (place, disk) = place();
    damage(&place, &chunk(&place, 2 * MIB));
    repair(&place);
    let parent = place.points("a").remove(0);
    let changed: ExtentSet = std::iter::once(70 * MIB..70 * MIB + 10).collect();
    let report = place.try_save("a", &disk, 9, Some((&parent, &changed))).expect("saved");
    assert_eq!(report.read_bytes, 2 * CHUNK);
    let newest = place.points("a").pop().expect("a point");
    assert!(place.open(&newest).expect("opened").lost().is_empty());
    assert!(is_same(&place, &newest, &disk, 0..100 * MIB + 5000));
    let (old, new) = (place.open(&parent).expect("old"), place.open(&newest).expect("new"));
    let found = crate::diff(&old, &new, &Job::default()).expect("compared");
    assert_eq!(found.changed, std::iter::once(2 * MIB..2 * MIB + CHUNK).collect());
}

#[test]
fn lost_trees_cost_their_part_and_lost_holes_nothing() {
    let (place, disk) = place();
    let opened = place.open(&place.points("a")[0]).expect("opened");
    let segments = opened.segments(0).expect("segments");
    // Segment 1 is a hole, segment 2 has data at 70 MiB.
    damage(&place, &segments[1]);
    damage(&place, &crate::layout::Zeroes::of(opened.geometry()).blobs()[0].0);
    let report = repair(&place);
    assert!(report.mended.is_empty(), "{report:?}");
    assert!(verify(&place).is_clean());
    assert!(is_same(&place, &place.points("a")[0], &disk, 0..100 * MIB + 5000));
    damage(&place, &segments[2]);
    let report = repair(&place);
    assert_eq!(report.mended.len(), 2);
    assert!(verify(&place).is_clean());
    let point = place.points("b").remove(0);
    let lost = place.open(&point).expect("opened").lost().clone();
    assert_eq!(lost, std::iter::once(64 * MIB..96 * MIB).collect());
    assert!(is_same(&place, &point, &disk, 0..64 * MIB));
    assert!(is_same(&place, &point, &disk, 96 * MIB..100 * MIB + 5000));
    // Damage upon damage adds up.
    damage(&place, &chunk(&place, MIB));
    repair(&place);
    let lost = place.open(&place.points("a")[0]).expect("opened").lost().clone();
    assert_eq!(lost, [MIB..MIB + CHUNK, 64 * MIB..96 * MIB].into_iter().collect());
}

#[test]
fn a_description_is_lost_by_itself() {
    let (place, disk) = place();
    damage(&place, &BlobId::of(b"{}"));
    let report = repair(&place);
    assert_eq!(report.mended.len(), 2);
    let point = place.points("a").remove(0);
    let index = place.repository.load_index(&Job::default()).expect("an index");
    assert_eq!(place.repository.description(&index, &point).expect("content"), None);
    assert!(is_same(&place, &point, &disk, 0..100 * MIB + 5000));
    assert!(verify(&place).is_clean());
}

#[test]
fn what_cannot_be_mended_is_named_and_goes_only_on_request() {
    let (place, _) = place();
    let point = place.points("a").remove(0);
    damage(&place, &point.snapshot.tree);
    let (file, bytes) = place.file_of(&place.points("b")[0].id);
    place.put(&(file, vec![0; bytes.len()]));
    let report = repair(&place);
    assert_eq!((report.left.len(), report.mended.len()), (2, 0));
    assert!(report.left.contains(&point.id));
    let planned = plan(&place);
    let text = planned.to_string();
    assert!(text.contains("lost: ") && text.contains("cannot be read"), "{text}");
    let report = place.repository.repair(planned, true, &Job::default()).expect("repaired");
    assert_eq!(report.removed.len(), 2);
    assert!(verify(&place).is_clean() && place.points("a").is_empty());
}

#[test]
fn a_version_before_a_lost_one_stays() {
    let (place, disk) = place();
    let first = place.points("a").remove(0);
    let file = place.file_of(&first.id);
    // A mended version whose root is lost, and the one before it as a crash leaves it.
    let tree = BlobId::of(b"nowhere");
    let mended = Snapshot { tree, ..first.snapshot.clone() };
    let mended = place.repository.put_snapshot(&in_place_of(mended, &first, &[])).expect("put");
    assert_eq!(place.points("a").iter().map(|point| point.id).collect::<Vec<_>>(), [mended]);
    assert_eq!(repair(&place).left, [mended]);
    assert_eq!(place.file_of(&first.id), file);
    let report = place.repository.repair(plan(&place), true, &Job::default()).expect("repaired");
    assert_eq!(report.removed, [mended]);
    let point = place.points("a").remove(0);
    assert!(point.id == first.id && is_same(&place, &point, &disk, 0..100 * MIB + 5000));
}

#[test]
fn a_point_of_a_newer_version_is_no_damage() {
    let (place, _) = place();
    let job = Job::default();
    let newer = place.hand_made(br#"{"version": 2, "disks": "elsewhere"}"#, &[]);
    damage(&place, &chunk_of(&place, "b", 2 * MIB));
    let report = verify(&place);
    assert_eq!((report.newer_points, report.losses.len()), (vec![newer], 2));
    let planned = plan(&place);
    assert!(planned.to_string().contains("newer version") && planned.points.len() == 2, "{planned}");
    let report = place.repository.repair(planned, true, &job).expect("repaired");
    assert!(report.removed.is_empty() && report.mended.len() == 2, "{report:?}");
    place.file_of(&newer);
    let index = place.repository.load_index(&job).expect("an index");
    let point = place.points("a").into_iter().find(|point| point.id == newer).expect("still there");
    let error = place.repository.content(&index, &point).expect_err("not known");
    assert!(matches!(error, VaultError::NewerLayout { version: 2, .. }), "{error}");
}

#[test]
fn a_point_that_is_not_laid_out_as_one_is_lost_and_told() {
    let (place, _) = place();
    let ours =
        place.hand_made(br#"{"version": 1, "disks": []}"#, &[("disk0", place.points("b")[0].snapshot.tree)]);
    assert!(plan(&place).is_empty());
    let bad = place.hand_made(br#"{"version": 0, "disks": []}"#, &[]);
    let planned = plan(&place);
    assert_eq!(planned.points.iter().map(|damaged| damaged.point.id).collect::<Vec<_>>(), [bad]);
    let report = place.repository.repair(planned, true, &Job::default()).expect("repaired");
    assert_eq!(report.removed, [bad]);
    place.file_of(&ours);
    assert!(verify(&place).is_clean());
}

#[test]
fn nothing_is_given_up_before_the_index_is_whole() {
    let (place, _) = place();
    for listed in place.repository.storage.list(FileKind::Index).expect("listed") {
        let file = FileName { kind: FileKind::Index, name: listed.name };
        place.repository.storage.remove(&file).expect("removed");
    }
    let error = place.repository.repair_plan(&place.who, &Job::default()).map(drop).expect_err("refused");
    assert!(error.to_string().contains("rebuild-index"), "{error}");
    place.repository.rebuild_index(&place.who, &Job::default()).expect("rebuilt");
    assert!(plan(&place).is_empty());
}

#[test]
fn wherever_a_repair_is_cut_off_it_goes_on() {
    for count in 0.. {
        let (place, disk) = place();
        damage(&place, &chunk(&place, 2 * MIB));
        let fuse = place.fused(count);
        let job = Job::default();
        let outcome = fuse.repair_plan(&place.who, &job).and_then(|plan| fuse.repair(plan, false, &job));
        place.repository.unlock(true, &place.who).expect("unlocked");
        if place.repository.repair_plan(&place.who, &job).is_err() {
            place.repository.rebuild_index(&place.who, &job).expect("rebuilt");
        }
        repair(&place);
        let report = verify(&place);
        assert!(report.is_clean() && report.known_losses.len() == 2, "{count}: {report:?}");
        for name in ["a", "b"] {
            let [point] = &place.points(name)[..] else { panic!("{count}: one point") };
            let lost = place.open(point).expect("opened").lost().clone();
            assert_eq!(lost, std::iter::once(2 * MIB..2 * MIB + CHUNK).collect(), "{count}");
            assert!(is_same(&place, point, &disk, 70 * MIB..71 * MIB));
        }
        if outcome.is_ok() {
            assert!(count > 8, "{count} changes are fewer than it makes");
            return;
        }
    }
}

#[test]
fn what_may_be_readable_another_time_is_not_given_up() {
    let (place, _) = place();
    let job = Job::default();
    let index = place.repository.load_index(&job).expect("an index");
    let mut files: Vec<FileName> = index.packs().iter().map(|pack| pack_file(*pack)).collect();
    files.push(place.file_of(&place.points("a")[0].id).0);
    for file in files {
        for count in [1, 2, 1000] {
            let failing = place.failing(&file, count);
            let report = failing.verify(DataCheck::All, &place.who, &job).expect("verified");
            assert!(!report.is_clean(), "{file}");
            let failing = place.failing(&file, count);
            let error = failing.repair_plan(&place.who, &job).map(drop).expect_err("refused");
            assert!(matches!(error, VaultError::Unsure(_)), "{error}");
        }
    }
    assert!(plan(&place).is_empty());
}

#[test]
fn a_pack_that_is_gone_takes_only_what_was_in_it() {
    let (place, disk) = place();
    let index = place.repository.load_index(&Job::default()).expect("an index");
    let pack = index.lookup(&chunk(&place, MIB)).expect("a place").pack;
    place.repository.storage.remove(&pack_file(pack)).expect("removed");
    let report = repair(&place);
    assert_eq!(report.mended.len(), 2, "{report:?}");
    assert!(verify(&place).is_clean());
    let point = place.points("a").remove(0);
    assert!(is_same(&place, &point, &disk, 0..MIB));
    assert!(!is_same(&place, &point, &disk, 0..MIB + 1));
}
