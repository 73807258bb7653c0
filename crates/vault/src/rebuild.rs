//! The index anew, from what the packs say of themselves.
//!
//! Only headers are read. The new index files are durable before the old ones go, so whoever stops in between leaves a
//! repository that says some things twice and forgets nothing. A pack whose header is damaged is told, and what the old
//! index says of it is kept: its blobs may be whole, and repair finds out.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    IndexId, PackId, VaultError,
    blob::pack_file,
    format::{
        FormatError,
        index::IndexPack,
        pack::{self, LENGTH_BYTES, PackBlob},
    },
    job::Job,
    lock::RepositoryLock,
    packer::put_index,
    parallel::in_parallel,
    repo::{Identity, Repository, damaged},
    storage::{FileKind, FileName},
    verify::{Defect, PACK_BYTES_MAX},
};

/// Headers of usual packs are read with one request.
const TAIL_BYTES: u64 = 16 << 10;
const READERS: usize = 8;
/// Blobs of one index file.
const INDEX_BLOBS: usize = 32 << 10;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RebuildReport {
    pub packs: u64,
    pub blobs: u64,
    /// Packs whose header is damaged, and index files that could not be read.
    pub defects: Vec<Defect>,
    /// Of the packs with a damaged header, those that the old index knew.
    pub kept_from_old_index: u64,
    pub new_index_files: u64,
    pub removed_index_files: u64,
}

impl Repository {
    /// Rebuilds the index. Nobody else may be at work.
    pub fn rebuild_index(self: &Arc<Self>, who: &Identity, job: &Job) -> Result<RebuildReport, VaultError> {
        self.check_writable()?;
        let lock = RepositoryLock::alone(self, who)?;
        let old: Vec<IndexId> = self.list(FileKind::Index)?;
        let packs: Vec<(PackId, u64)> = self
            .storage
            .list(FileKind::Pack)?
            .into_iter()
            .filter_map(|file| Some((file.name.parse().ok()?, file.size)))
            .collect();
        job.begin("reading the packs' headers", packs.len() as u64);
        let new = Mutex::new(New {
            repository: self,
            waiting: Vec::new(),
            blobs: 0,
            report: RebuildReport::default(),
        });
        let bad = Mutex::new(HashSet::new());
        in_parallel(&packs, READERS, job, |(pack, size)| {
            match self.pack_header(*pack, *size) {
                Ok(blobs) => new.lock().unwrap_or_else(PoisonError::into_inner).add(*pack, blobs)?,
                Err(error) if error.is_damage() => {
                    bad.lock().unwrap_or_else(PoisonError::into_inner).insert(*pack);
                    new.lock().unwrap_or_else(PoisonError::into_inner).defect(format!("pack {pack}"), &error);
                }
                Err(error) => return Err(error),
            }
            job.advance(1);
            Ok(())
        })?;
        let mut new = new.into_inner().unwrap_or_else(PoisonError::into_inner);
        let bad = bad.into_inner().unwrap_or_else(PoisonError::into_inner);
        self.keep_known(&old, bad, &mut new)?;
        new.flush()?;
        lock.check()?;
        for id in &old {
            self.storage.remove(&FileName::from(*id))?;
        }
        lock.check()?;
        Ok(RebuildReport { removed_index_files: old.len() as u64, ..new.report })
    }

    /// What the old index says of packs that do not say it themselves.
    fn keep_known(
        &self,
        old: &[IndexId],
        mut bad: HashSet<PackId>,
        new: &mut New<'_>,
    ) -> Result<(), VaultError> {
        for id in old {
            match self.index_file(id) {
                Ok(file) => {
                    for pack in file.packs {
                        if bad.remove(&pack.id) {
                            new.report.kept_from_old_index += 1;
                            new.add(pack.id, pack.blobs)?;
                        }
                    }
                }
                Err(error) if error.is_damage() => new.defect(format!("index/{id}"), &error),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What a pack of `size` bytes says of itself.
    pub(crate) fn pack_header(&self, pack: PackId, size: u64) -> Result<Vec<PackBlob>, VaultError> {
        let file = format!("pack {pack}");
        let wrong = |source| damaged(&file, source);
        if size > PACK_BYTES_MAX {
            return Err(wrong(FormatError::TooLarge { what: "pack", limit_bytes: PACK_BYTES_MAX }));
        }
        let mut tail = vec![0; usize::try_from(size.min(TAIL_BYTES)).unwrap_or_default()];
        self.storage.get_range(&pack_file(pack), size - tail.len() as u64, &mut tail)?;
        let last = tail.last_chunk::<LENGTH_BYTES>().copied().unwrap_or_default();
        let place = pack::header_position(last, size).map_err(wrong)?;
        let length = usize::try_from(place.end - place.start).unwrap_or_default();
        let have = tail.len() - LENGTH_BYTES.min(tail.len());
        let mut sealed = match have.checked_sub(length) {
            Some(from) => tail[from..have].to_vec(),
            None => {
                let mut sealed = vec![0; length];
                self.storage.get_range(&pack_file(pack), place.start, &mut sealed)?;
                sealed
            }
        };
        let plain = self.key.open_in_place(&mut sealed).map_err(|error| wrong(error.into()))?;
        pack::parse_header(plain, place.start).map_err(wrong)
    }
}

/// Index files on their way.
struct New<'a> {
    repository: &'a Repository,
    waiting: Vec<IndexPack>,
    blobs: usize,
    report: RebuildReport,
}

impl New<'_> {
    fn add(&mut self, id: PackId, blobs: Vec<PackBlob>) -> Result<(), VaultError> {
        self.report.packs += 1;
        self.report.blobs += blobs.len() as u64;
        self.blobs += blobs.len();
        self.waiting.push(IndexPack { id, blobs });
        if self.blobs >= INDEX_BLOBS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), VaultError> {
        self.blobs = 0;
        if self.waiting.is_empty() {
            return Ok(());
        }
        let packs = std::mem::take(&mut self.waiting);
        put_index(self.repository.storage.as_ref(), &self.repository.key, &packs)?;
        self.report.new_index_files += 1;
        Ok(())
    }

    fn defect(&mut self, object: String, error: &VaultError) {
        self.report.defects.push(Defect { object, what: error.to_string() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DataCheck,
        storage::Storage,
        testing::{MIB, Place},
    };

    fn names(place: &Place, kind: FileKind) -> Vec<String> {
        place.storage.list(kind).expect("listed").into_iter().map(|file| file.name).collect()
    }

    fn rebuild(place: &Place) -> RebuildReport {
        place.repository.rebuild_index(&place.who, &Job::default()).expect("rebuilt")
    }

    fn is_clean(place: &Place) -> bool {
        place.repository.verify(DataCheck::All, &place.who, &Job::default()).expect("verified").is_clean()
    }

    #[test]
    fn an_index_that_is_gone_or_damaged_comes_back() {
        let place = Place::new();
        place.save_at("a", &place.disk(64 * MIB), 1);
        place.save_at("b", &place.disk(65 * MIB), 2);
        let old = names(&place, FileKind::Index);
        let (first, bytes) = place.get(FileKind::Index, &old[0]);
        place.put(&(first, vec![7; bytes.len()]));
        let error = place.repository.load_index(&Job::default()).expect_err("refused");
        assert!(error.to_string().contains("rebuild-index"), "{error}");
        let report = rebuild(&place);
        assert_eq!(report.packs, names(&place, FileKind::Pack).len() as u64);
        assert_eq!((report.defects.len(), report.removed_index_files), (1, old.len() as u64));
        assert!(is_clean(&place));
        for name in names(&place, FileKind::Index) {
            place.storage.remove(&FileName { kind: FileKind::Index, name }).expect("removed");
        }
        assert!(!is_clean(&place));
        assert!(rebuild(&place).defects.is_empty());
        assert!(is_clean(&place));
    }

    #[test]
    fn wherever_a_rebuild_is_cut_off_nothing_is_forgotten() {
        for count in 0.. {
            let place = Place::new();
            place.save_at("a", &place.disk(64 * MIB), 1);
            let outcome = place.fused(count).rebuild_index(&place.who, &Job::default());
            place.repository.unlock(true, &place.who).expect("unlocked");
            assert!(is_clean(&place), "{count}");
            if outcome.is_ok() {
                return;
            }
        }
    }

    #[test]
    fn a_pack_with_a_damaged_header_is_told_and_what_was_known_of_it_kept() {
        let place = Place::new();
        place.save_at("a", &place.disk(64 * MIB), 1);
        for name in names(&place, FileKind::Pack) {
            let (file, mut bytes) = place.get(FileKind::Pack, &name);
            let at = bytes.len() - 10;
            bytes[at] ^= 1;
            place.put(&(file, bytes));
        }
        let packs = names(&place, FileKind::Pack).len();
        let report = rebuild(&place);
        assert_eq!((report.defects.len(), report.kept_from_old_index), (packs, packs as u64));
        let point = place.points("a").remove(0);
        let mut back = vec![0; 300_000];
        place.open(&point).expect("opened").read(&mut back, 1000).expect("its chunks are whole");
        assert_eq!(back, crate::testing::noise(64 * MIB, 300_000));
        // Rubbish of any length is told, never fatal.
        for bytes in [vec![], vec![1], vec![0xff; 4], vec![1; 37], vec![0xff; 20_000]] {
            let file = FileName::from(PackId::of(&bytes));
            place.storage.put(&file, &bytes).expect("put");
        }
        assert_eq!(rebuild(&place).defects.len(), packs + 5);
    }
}
