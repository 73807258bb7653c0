//! Bit rot: every kind of file, damaged in every way, is found out and never read as something else.

use std::sync::Arc;

use nestling_block::{BlockTarget, MemoryDisk};
use nestling_vault::{
    DataCheck, DiskInput, Identity, Job, PointDisk, ReadCache, Repository, SaveRequest, VaultError,
    format::{Timestamp, key::KdfCost},
    storage::{FileKind, FileName, MemoryStorage, Storage},
};

const PASSWORD: &[u8] = b"correct horse";
const SIZE: u64 = 36 << 20;

type Files = Vec<(FileName, Vec<u8>)>;

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..length).map(next).collect()
}

fn disk(seed: u64) -> MemoryDisk {
    let disk = MemoryDisk::new("disk", SIZE);
    // Two chunks of one length, so that packs swapped with each other have blobs at the same places.
    disk.write_at(&noise(seed, 512 << 10), 1 << 20).expect("data");
    disk.write_at(&noise(seed + 1, 5000), 35 << 20).expect("data");
    disk
}

fn expected(seed: u64) -> &'static [u8] {
    static BOTH: std::sync::LazyLock<[Vec<u8>; 2]> = std::sync::LazyLock::new(|| [10, 20].map(whole));
    &BOTH[usize::from(seed == 20)]
}

fn whole(seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; SIZE as usize];
    bytes[1 << 20..(1 << 20) + (512 << 10)].copy_from_slice(&noise(seed, 512 << 10));
    bytes[35 << 20..(35 << 20) + 5000].copy_from_slice(&noise(seed + 1, 5000));
    bytes
}

/// A repository with two points, two keys and two locks, as its files.
fn files() -> Files {
    let (storage, who) = (Arc::new(MemoryStorage::new()), Identity::current());
    let repository = Repository::init(storage.clone(), PASSWORD, &who, KdfCost::Fast).expect("a repository");
    repository.add_key(b"battery staple", &who, KdfCost::Fast).expect("a key");
    let repository = Arc::new(repository);
    for (name, seed) in [("a", 10), ("b", 20)] {
        let request = SaveRequest {
            name: &name.parse().expect("a name"),
            disks: &[DiskInput { name: "disk0", source: &disk(seed), changed: None }],
            description: Some(name.as_bytes()),
            time: Timestamp::from_unix_nanoseconds(1_000_000_000),
            tags: &[],
            parent: None,
            who: &who,
            threads: 1,
        };
        repository.save(&request, &Job::default()).expect("saved");
    }
    let _one = nestling_vault::RepositoryLock::shared(&repository, &who).expect("a lock");
    let _two = nestling_vault::RepositoryLock::shared(&repository, &who).expect("a lock");
    all(storage.as_ref())
}

fn all(storage: &dyn Storage) -> Files {
    let mut files = Vec::new();
    for kind in FileKind::ALL {
        for listed in storage.list(kind).expect("listed") {
            let file = FileName { kind, name: listed.name };
            let bytes = storage.get(&file, u64::MAX).expect("read");
            files.push((file, bytes));
        }
    }
    files
}

/// What became of a repository in which something is damaged.
fn is_found_out(files: &Files) -> Result<bool, VaultError> {
    let storage = Arc::new(MemoryStorage::new());
    for (file, bytes) in files {
        storage.put(file, bytes)?;
    }
    let repository = Arc::new(Repository::open(storage, PASSWORD)?);
    let job = Job::default();
    let mut is_found_out = false;
    let index = Arc::new(repository.load_index(&job)?);
    for point in repository.points(None, &job)? {
        let seed = if point.name.as_str() == "a" { 10 } else { 20 };
        let disk = PointDisk::open(&repository, &index, &point, None, &ReadCache::new(1 << 20))?;
        let (mut bytes, expected) = (vec![1; 256 << 10], expected(seed));
        for offset in (0..SIZE).step_by(bytes.len()) {
            match disk.read(&mut bytes, offset) {
                Ok(()) => {
                    let at = offset as usize;
                    assert!(bytes == expected[at..at + bytes.len()], "a wrong byte at {offset}");
                }
                Err(_) => is_found_out = true,
            }
        }
    }
    let report = repository.verify(DataCheck::All, &Identity::current(), &job)?;
    assert!(!is_found_out || !report.losses.is_empty(), "what cannot be read is told: {report:?}");
    Ok(is_found_out || !report.is_clean())
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    Flip(usize),
    Truncate(usize),
    Zero,
    Grow,
    Empty,
    Swap,
    Remove,
}

/// The files with one of them damaged; nothing when that changes nothing.
fn damaged(files: &Files, number: usize, damage: Damage) -> Option<Files> {
    let mut files = files.clone();
    let bytes = &mut files[number].1;
    match damage {
        Damage::Flip(at) => bytes[at] ^= 0x10,
        Damage::Truncate(length) => bytes.truncate(length),
        Damage::Zero => bytes.fill(0),
        Damage::Grow => bytes.push(0),
        Damage::Empty => bytes.clear(),
        Damage::Remove => drop(files.remove(number)),
        Damage::Swap => {
            let kind = files[number].0.kind;
            let is_other = |n: &usize| *n != number && files[*n].0.kind == kind;
            let other = (0..files.len()).find(is_other)?;
            let mine = std::mem::take(&mut files[number].1);
            files[number].1 = std::mem::replace(&mut files[other].1, mine);
        }
    }
    Some(files)
}

/// Places that stand for all kinds of bytes of a file: its start, its seals, its middle, its end.
fn positions(length: usize) -> Vec<usize> {
    let mut places = vec![0, 1, 15, 16, 17, length / 4, length / 3, length / 2, length * 3 / 4];
    places.extend((1..=60).step_by(4).map(|n| length.saturating_sub(n)));
    places.retain(|place| *place < length);
    places.sort_unstable();
    places.dedup();
    places
}

fn damages(length: usize) -> Vec<Damage> {
    let mut damages: Vec<Damage> = positions(length).into_iter().map(Damage::Flip).collect();
    damages.extend([1, length / 2, length - 1].map(Damage::Truncate));
    damages.extend([Damage::Zero, Damage::Grow, Damage::Empty, Damage::Swap, Damage::Remove]);
    damages
}

/// Whether the loss of the file is no damage: nobody needs it.
fn may_pass(file: &FileName, damage: Damage) -> bool {
    // With one key gone, the other one opens; a lock that is gone is one that was given back; a snapshot that is gone is
    // a point that was forgotten: nothing in the repository says that it was there.
    matches!(file.kind, FileKind::Key | FileKind::Lock | FileKind::Snapshot)
        && matches!(damage, Damage::Remove)
}

#[test]
fn every_damage_is_found_out_and_no_wrong_byte_is_read() {
    let files = files();
    for kind in
        [FileKind::Config, FileKind::Key, FileKind::Lock, FileKind::Snapshot, FileKind::Index, FileKind::Pack]
    {
        assert!(files.iter().any(|(file, _)| file.kind == kind), "{kind}");
    }
    assert!(!is_found_out(&files).expect("whole"));
    let mut count = 0;
    for (number, (file, bytes)) in files.iter().enumerate() {
        for damage in damages(bytes.len()) {
            let Some(damaged) = damaged(&files, number, damage) else { continue };
            count += 1;
            match is_found_out(&damaged) {
                Ok(true) => {}
                Ok(false) => assert!(may_pass(file, damage), "{file}: {damage:?} was not found out"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(text.len() > 20 && text.len() < 800, "{file}: {damage:?}: {text}");
                }
            }
        }
    }
    assert!(count > 250, "{count}");
}

#[test]
fn a_blob_in_a_missing_pack_and_in_a_rotten_one_is_lost() {
    let mut files = files();
    // The same point again in other packs: the files of a second repository of the same key cannot be had, so the packs
    // are written twice by an index that is lost in between.
    let (storage, who) = (Arc::new(MemoryStorage::new()), Identity::current());
    for (file, bytes) in
        files.iter().filter(|(file, _)| !matches!(file.kind, FileKind::Index | FileKind::Lock))
    {
        storage.put(file, bytes).expect("put");
    }
    let before: Vec<FileName> = files.iter().map(|(file, _)| file.clone()).collect();
    let repository = Arc::new(Repository::open(storage.clone(), PASSWORD).expect("opened"));
    let request = SaveRequest {
        name: &"a".parse().expect("a name"),
        disks: &[DiskInput { name: "disk0", source: &disk(10), changed: None }],
        description: None,
        time: Timestamp::from_unix_nanoseconds(2_000_000_000),
        tags: &[],
        parent: None,
        who: &who,
        threads: 1,
    };
    repository.save(&request, &Job::default()).expect("saved");
    repository.rebuild_index(&who, &Job::default()).expect("rebuilt");
    files = all(storage.as_ref());
    assert!(!is_found_out(&files).expect("whole"));
    let is_pack = |file: &FileName| file.kind == FileKind::Pack && file.path().starts_with("data/");
    // Old packs rot, new ones go.
    files.retain(|(file, _)| !is_pack(file) || before.contains(file));
    for (_, bytes) in files.iter_mut().filter(|(file, _)| is_pack(file)) {
        bytes[20] ^= 1;
    }
    assert!(is_found_out(&files).map_or(true, |found| found));
}
