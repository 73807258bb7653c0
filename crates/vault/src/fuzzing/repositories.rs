//! A whole repository that somebody with the password wrote, and what everybody does with one: list, read, verify, rebuild
//! the index, repair, prune.
//!
//! The input is a list of files. What they name by its content stands there as `#` and a letter, for a mutation of the
//! content would change the name and leave nothing that fits.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use nestling_block::{BlockSource, BlockTarget, MemoryDisk};

use super::{Input, counted, time};
use crate::{
    BlobId, DataCheck, DiskInput, Identity, IndexId, Job, LockId, PackId, PointDisk, PruneOptions, ReadCache,
    Repository, SaveRequest, SnapshotId, Tuning, VaultError,
    blob::{Opener, Sealer, pack_file},
    format::{
        index::{self, IndexFile, IndexPack},
        key::KdfCost,
        object::seal_object,
        pack::{self, BlobKind, PackBlob},
        snapshot, tree,
    },
    hex,
    storage::{FileKind, FileName, MemoryStorage, Storage},
};

/// What a piece of the input is: the lower bits of a byte.
const DATA: u8 = 0;
const TREE: u8 = 1;
const SNAPSHOT: u8 = 2;
const INDEX: u8 = 3;
const LOCK: u8 = 4;
const MARK: u8 = 5;
const SESSIONS: u8 = 6;
const PACK: u8 = 7;
/// What else there is to it: the upper bits.
const REPEATED: u8 = 0x20;
const UNINDEXED: u8 = 0x40;
const DAMAGED: u8 = 0x80;

const PIECES_MAX: usize = 64;
const PLAIN_BYTES_MAX: usize = 16 << 10;
const WINDOW_BYTES: u64 = 64 << 10;

struct Piece {
    what: u8,
    plain: Vec<u8>,
}

/// The pieces, with names in the place of `#` and a letter.
fn pieces(bytes: &[u8]) -> Vec<Piece> {
    let mut input = Input(bytes);
    let (mut pieces, mut names) = (Vec::new(), Vec::new());
    while !input.0.is_empty() && pieces.len() < PIECES_MAX {
        let (what, text) = (input.u8(), input.counted());
        let times = if what & REPEATED == 0 { 1 } else { usize::from(input.u16()) };
        let mut plain = named(&text.repeat(times.min(PLAIN_BYTES_MAX / text.len().max(1))), &names);
        plain.truncate(PLAIN_BYTES_MAX);
        if what & 7 <= TREE {
            names.push(hex(&BlobId::of(&plain).0));
        }
        pieces.push(Piece { what, plain });
    }
    pieces
}

fn named(text: &[u8], names: &[String]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        let name =
            rest.as_slice().first().and_then(|letter| names.get(usize::from(letter.wrapping_sub(b'A'))));
        match name.filter(|_| *byte == b'#') {
            Some(name) => {
                rest.next();
                out.extend_from_slice(name.as_bytes());
            }
            None => out.push(*byte),
        }
    }
    out
}

/// One pack of all blobs of a kind, with a flipped bit in those that are to be damaged.
fn put_pack(repository: &Repository, pieces: &[Piece], kind: BlobKind) -> Result<(), VaultError> {
    let mut sealer = Sealer::new(&repository.key, 1)?;
    let (mut bytes, mut blobs, mut damaged) = (Vec::new(), Vec::new(), Vec::new());
    let (mut seen, mut is_indexed) = (HashSet::new(), true);
    let number = if kind == BlobKind::Data { DATA } else { TREE };
    for Piece { what, plain } in pieces.iter().filter(|piece| piece.what & 7 == number) {
        let (id, offset) = (BlobId::of(plain), bytes.len());
        if !seen.insert(id) {
            continue;
        }
        let uncompressed_length = sealer.seal(plain, &mut bytes)?;
        let length = (bytes.len() - offset) as u32;
        blobs.push(PackBlob { id, kind, offset: offset as u32, length, uncompressed_length });
        damaged.extend((what & DAMAGED != 0).then_some(offset + 20));
        is_indexed &= what & UNINDEXED == 0;
    }
    if blobs.is_empty() {
        return Ok(());
    }
    let end = bytes.len();
    repository.key.seal_into(&pack::header(&blobs), &mut bytes)?;
    bytes.extend(((bytes.len() - end) as u32).to_le_bytes());
    let id = PackId::of(&bytes);
    for at in damaged {
        bytes[at] ^= 1;
    }
    repository.storage.put(&pack_file(id), &bytes)?;
    if is_indexed {
        let file = IndexFile { supersedes: Vec::new(), packs: vec![IndexPack { id, blobs }] };
        put_object(repository, INDEX, &index::encode(&file))?;
    }
    Ok(())
}

fn put_object(repository: &Repository, what: u8, json: &[u8]) -> Result<(), VaultError> {
    let wrong = |error: crate::format::FormatError| VaultError::Invalid(error.to_string());
    let sealed = seal_object(&repository.key, json).map_err(wrong)?;
    let mark = |end| FileName { kind: FileKind::Extra, name: format!("mark-{}.{end}", "0".repeat(32)) };
    let file = match what {
        SNAPSHOT => SnapshotId::of(&sealed).into(),
        INDEX => IndexId::of(&sealed).into(),
        LOCK => LockId::of(&sealed).into(),
        MARK => mark("packs"),
        _ => mark("sessions"),
    };
    repository.storage.remove(&file)?;
    Ok(repository.storage.put(&file, &sealed)?)
}

fn fill(repository: &Repository, pieces: &[Piece]) -> Result<(), VaultError> {
    put_pack(repository, pieces, BlobKind::Data)?;
    put_pack(repository, pieces, BlobKind::Tree)?;
    for Piece { what, plain } in pieces {
        match what & 7 {
            DATA | TREE => {}
            PACK => repository.storage.put(&pack_file(PackId::of(plain)), plain)?,
            what => put_object(repository, what, plain)?,
        }
    }
    Ok(())
}

fn new_repository() -> Arc<Repository> {
    let storage = Arc::new(MemoryStorage::new());
    let repository = Repository::init(storage, b"password", &Identity::current(), KdfCost::Fast);
    let tuning = Tuning { chunk_bytes: 4096, segment_bytes: 8192, group_segments: 2, ..Tuning::default() };
    Arc::new(repository.expect("a repository").with_tuning(tuning))
}

/// Whether it is a repository with a disk that can be read.
pub fn repository(bytes: &[u8]) -> bool {
    let repository = new_repository();
    fill(&repository, &pieces(bytes)).expect("files in memory");
    let is_read = read(&repository).unwrap_or_default();
    // Where it is locked, or says what cannot be, it is refused and left as it is.
    let _ = mend(&repository);
    is_read
}

/// Lists and reads all; whether there is a disk, and all of it can be read.
fn read(repository: &Arc<Repository>) -> Result<bool, VaultError> {
    let job = Job::default();
    let index = Arc::new(repository.load_index(&job)?);
    let mut is_read = false;
    for point in repository.points(None, &job)? {
        let content = repository.content(&index, &point)?;
        for disk in &content.layout.disks {
            let disk =
                PointDisk::open(repository, &index, &point, Some(&disk.name), &ReadCache::new(1 << 20))?;
            let end = disk.size_bytes().min(WINDOW_BYTES);
            let mut bytes = vec![0; end as usize];
            disk.read(&mut bytes, 0)?;
            for extent in disk.extents(0..end).expect("a map of what can be read") {
                let zero = bytes[extent.offset as usize..extent.end() as usize].iter().all(|byte| *byte == 0);
                assert!(zero || extent.kind == nestling_block::ExtentKind::Data);
            }
            is_read = true;
        }
    }
    Ok(is_read)
}

/// Verifies, makes the index anew, repairs, prunes. After that every point is whole, or says what it lost. What else lies in
/// a point's folder may stay damaged: nobody reads it.
fn mend(repository: &Arc<Repository>) -> Result<(), VaultError> {
    let (who, job) = (Identity::current(), Job::default());
    repository.verify(DataCheck::All, &who, &job)?;
    repository.rebuild_index(&who, &job)?;
    let plan = repository.repair_plan(&who, &job)?;
    let is_left = !plan.newer_points.is_empty() || !plan.foreign_snapshots.is_empty();
    let _ = plan.to_string();
    repository.repair(plan, true, &job)?;
    let report = repository.verify(DataCheck::All, &who, &job)?;
    assert!(is_left || report.losses.is_empty(), "repaired, and {report:?}");
    let plan = repository.prune_plan(PruneOptions::default(), &who, &job)?;
    repository.prune(plan, &who, &job)?;
    let report = repository.verify(DataCheck::All, &who, &job)?;
    assert!(is_left || report.losses.is_empty(), "pruned, and {report:?}");
    Ok(())
}

/// A repository that was saved to, taken apart.
pub fn repository_seeds() -> Vec<Vec<u8>> {
    let seed = taken_apart(&saved()).expect("a repository");
    let mark = format!(r#"{{"time":"{}","packs":[]}}"#, time());
    let pieces = [(DATA | DAMAGED, "x"), (MARK, &mark), (SESSIONS, "[]")];
    let more = pieces.map(|(what, text)| [&[what], &counted(text.as_bytes())[..]].concat());
    let damaged = [&seed[..], &more.concat()].concat();
    vec![seed, damaged]
}

fn saved() -> Arc<Repository> {
    let repository = new_repository();
    let disk = MemoryDisk::new("disk", 5 * 4096 + 100);
    disk.write_at(&[b'x'; 8192], 4096).expect("data");
    disk.write_at(b"tail", 5 * 4096).expect("data");
    let request = SaveRequest {
        name: &"L1/Web01".parse().expect("a name"),
        disks: &[DiskInput { name: "disk0", source: &disk, changed: None }],
        description: Some(b"{}"),
        time: time(),
        tags: &[],
        parent: None,
        who: &Identity::current(),
        threads: 1,
    };
    repository.save(&request, &Job::default()).expect("saved");
    repository
}

fn taken_apart(repository: &Repository) -> Result<Vec<u8>, VaultError> {
    let job = Job::default();
    let index = repository.load_index(&job)?;
    let mut opener = Opener::new(repository.storage.as_ref(), &repository.key);
    let mut left: Vec<(u8, BlobId, Vec<u8>)> = Vec::new();
    for location in index.iter() {
        let mut plain = Vec::new();
        opener.load_at(&location, &mut plain)?;
        let what = if location.blob.kind == BlobKind::Data { DATA } else { TREE };
        left.push((what, location.blob.id, plain));
    }
    let (mut letters, mut out) = (HashMap::new(), Vec::new());
    // What is named comes before what names it.
    while let Some(at) = left.iter().position(|(what, _, plain)| {
        let mut is_ready = true;
        let each = |_, id| is_ready &= letters.contains_key(&id);
        *what == DATA || tree::for_each_blob(plain, each).is_ok() && is_ready
    }) {
        let (what, id, plain) = left.remove(at);
        out.extend(piece(what, &plain, &letters));
        letters.insert(id, char::from(b'A' + letters.len() as u8));
    }
    for (_, snapshot) in repository.snapshots(&job)? {
        let json = snapshot::encode(&snapshot).expect("a snapshot");
        out.extend(piece(SNAPSHOT, &json, &letters));
    }
    Ok(out)
}

fn piece(what: u8, plain: &[u8], letters: &HashMap<BlobId, char>) -> Vec<u8> {
    let text = letters.iter().fold(String::from_utf8_lossy(plain).into_owned(), |text, (id, letter)| {
        text.replace(&id.to_string(), &format!("#{letter}"))
    });
    match plain {
        [first, rest @ ..] if rest.len() > 99 && rest.iter().all(|byte| byte == first) => {
            let times = plain.len() as u16;
            [&[what | REPEATED], &counted(&[*first])[..], &times.to_le_bytes()].concat()
        }
        _ => [&[what], &counted(text.as_bytes())[..]].concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What fuzzing found: such a chunk was told by verify, and repair left it as it was.
    #[test]
    fn a_chunk_that_is_longer_than_its_place_is_repaired() {
        let (times, more) = (4096_u16.to_le_bytes(), 12288_u16.to_le_bytes());
        let zeroes = |times: [u8; 2]| [&[DATA | REPEATED, 1, 0, 0], &times[..]].concat();
        for seed in repository_seeds() {
            let at = seed.windows(6).position(|found| found == zeroes(times)).expect("a chunk of zeroes");
            let longer = [&seed[..at], &zeroes(more), &seed[at + 6..]].concat();
            assert!(!repository(&longer), "it reads as if nothing were wrong");
        }
    }
}
