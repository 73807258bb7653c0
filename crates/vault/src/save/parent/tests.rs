use nestling_block::{BlockSource, BlockTarget, MemoryDisk};

use super::*;
use crate::{
    DataCheck, Job, SaveReport,
    format::pack::BlobKind,
    packer::put_index,
    storage::{FileKind, FileName, Storage},
    testing::{MIB, Place, noise},
};

const CHUNK: usize = crate::layout::CHUNK_BYTES as usize;

/// A disk with data in its first, fourth and last segment, and a point of it.
fn saved() -> (Place, MemoryDisk) {
    let place = Place::new();
    let disk = place.disk(200 * MIB);
    for at in [100, 199] {
        disk.write_at(&noise(at, 300_000), at * MIB).expect("data");
    }
    place.save_at("a", &disk, 1);
    (place, disk)
}

/// Saves with nothing said to have changed, and reads all of it.
fn save_unchanged(place: &Place, disk: &MemoryDisk) -> SaveReport {
    let parent = place.points("a").remove(0);
    let report = place.try_save("a", disk, 2, Some((&parent, &ExtentSet::new()))).expect("saved");
    let point = place.points("a").pop().expect("a point");
    let mut back = vec![0; 300_000];
    for (seed, at) in [(200 * MIB, 1000), (100, 100 * MIB), (199, 199 * MIB)] {
        place.open(&point).expect("opened").read(&mut back, at).expect("read");
        assert!(back == noise(seed, 300_000), "at {at}");
    }
    report
}

fn packs(place: &Place, kind: BlobKind) -> Vec<FileName> {
    let index = place.repository.load_index(&Job::default()).expect("an index");
    let of_kind = index.iter().filter(|copy| copy.blob.kind == kind);
    let packs: HashSet<_> = of_kind.map(|copy| copy.pack).collect();
    packs.into_iter().map(FileName::from).collect()
}

/// Takes a chunk out of the index.
fn lose(place: &Place, lost: &BlobId) {
    for listed in place.storage.list(FileKind::Index).expect("listed") {
        let id = listed.name.parse().expect("an id");
        let mut file = place.repository.index_file(&id).expect("an index file");
        file.packs.iter_mut().for_each(|pack| pack.blobs.retain(|blob| blob.id != *lost));
        place.storage.remove(&FileName::from(id)).expect("removed");
        put_index(place.storage.as_ref(), &place.repository.key, &file.packs).expect("put");
    }
}

#[test]
fn nothing_is_read_where_nothing_is_lost() {
    let (place, disk) = saved();
    let report = save_unchanged(&place, &disk);
    assert_eq!((report.read_bytes, report.read_anew, report.read_in_full.len()), (0, 0, 0));
}

#[test]
fn a_chunk_that_is_gone_is_read_from_the_disk_again_and_no_other() {
    let (place, disk) = saved();
    let mut chunk = vec![0; CHUNK];
    disk.read_at(&mut chunk, 100 * MIB).expect("read");
    lose(&place, &BlobId::of(&chunk));
    let report = save_unchanged(&place, &disk);
    let bytes = CHUNK as u64;
    assert_eq!((report.read_anew, report.read_bytes, report.new_bytes), (1, bytes, bytes));
    let report = place.repository.verify(DataCheck::None, &place.who, &Job::default()).expect("verified");
    assert!(report.is_clean(), "the point before has it again, too: {report:?}");
}

#[test]
fn where_all_data_are_gone_the_disk_is_read_in_full() {
    for rebuild in [false, true] {
        let (place, disk) = saved();
        for file in packs(&place, BlobKind::Data) {
            place.storage.remove(&file).expect("removed");
        }
        if rebuild {
            place.repository.rebuild_index(&place.who, &Job::default()).expect("rebuilt");
        }
        let report = save_unchanged(&place, &disk);
        assert!(report.read_bytes >= 900_000 && !report.read_in_full.is_empty(), "{report:?}");
    }
}

#[test]
fn trees_that_cannot_be_read_are_stored_again() {
    // Of the segments only, which lie first in their pack, and of all.
    for share in [4, 1] {
        let (place, disk) = saved();
        for name in packs(&place, BlobKind::Tree) {
            let (file, mut bytes) = place.get(FileKind::Pack, &name.name);
            let end = bytes.len() / share;
            bytes[..end].iter_mut().for_each(|byte| *byte ^= 1);
            place.put(&(file, bytes));
        }
        let report = save_unchanged(&place, &disk);
        assert!(report.read_anew > 0 || !report.read_in_full.is_empty(), "{report:?}");
    }
}
