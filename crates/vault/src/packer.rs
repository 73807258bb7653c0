//! Packs: blobs gathered until they are worth a file, stored by threads of their own, and named by index files.
//!
//! The order makes every torn run harmless: a pack is durable before an index file names it, and index files are
//! durable before the snapshot that needs them is written. What was stored is indexed even when the job fails, so
//! that the next run does not store it again.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use crate::{
    BlobId, IndexId, PackId, VaultError,
    blob::{Sealer, pack_file},
    crypto::MasterKey,
    format::{
        index::{self, IndexFile, IndexPack},
        object::seal_object,
        pack::{self, BlobKind, PackBlob},
    },
    index::Index,
    job::Job,
    layout::Tuning,
    repo::Repository,
    storage::{FileName, Storage, StorageErrorKind},
};

/// An index file is written once this many blobs wait for one.
const INDEX_BLOBS: usize = 16 << 10;
/// Or packs of this many bytes do.
const INDEX_BYTES: u64 = 1 << 30;
/// Or a pack has waited so long, and for a fiftieth of the time that all has taken: a long run over a slow line writes
/// hundreds of index files, not thousands.
const INDEX_WAIT: Duration = Duration::from_secs(60);
const INDEX_SHARE: u32 = 50;
/// How often it is looked whether one is due while no pack comes.
const LOOK: Duration = Duration::from_secs(5);
const CLAIM_SHARDS: usize = 64;

/// A pack that is ready to be stored.
struct Pack {
    id: PackId,
    bytes: Vec<u8>,
    blobs: Vec<PackBlob>,
}

/// Gathers blobs of one kind. One per thread, so that a pack holds neighbours of the disk.
pub(crate) struct Packer<'a> {
    kind: BlobKind,
    key: &'a MasterKey,
    pack_bytes: usize,
    sealer: Sealer<'a>,
    bytes: Vec<u8>,
    blobs: Vec<PackBlob>,
}

impl<'a> Packer<'a> {
    pub(crate) fn new(kind: BlobKind, key: &'a MasterKey, tuning: &Tuning) -> Result<Self, VaultError> {
        Ok(Self {
            kind,
            key,
            pack_bytes: tuning.pack_bytes,
            sealer: Sealer::new(key, tuning.level)?,
            bytes: Vec::new(),
            blobs: Vec::new(),
        })
    }

    /// Adds a blob; hands the pack to `writer` when it is full.
    pub(crate) fn add(&mut self, id: BlobId, plain: &[u8], writer: &Writer<'_>) -> Result<(), VaultError> {
        let offset = self.bytes.len();
        let uncompressed_length = self.sealer.seal(plain, &mut self.bytes)?;
        self.note(id, offset, uncompressed_length);
        if self.bytes.len() >= self.pack_bytes { self.flush(writer) } else { Ok(()) }
    }

    /// Adds a blob that is sealed already, from another pack of the same repository.
    pub(crate) fn add_sealed(
        &mut self,
        blob: &PackBlob,
        sealed: &[u8],
        writer: &Writer<'_>,
    ) -> Result<(), VaultError> {
        let offset = self.bytes.len();
        self.bytes.extend_from_slice(sealed);
        self.note(blob.id, offset, blob.uncompressed_length);
        if self.bytes.len() >= self.pack_bytes { self.flush(writer) } else { Ok(()) }
    }

    #[expect(clippy::cast_possible_truncation, reason = "a pack is closed long before 4 GiB")]
    fn note(&mut self, id: BlobId, offset: usize, uncompressed_length: Option<u32>) {
        let length = self.bytes.len() - offset;
        self.blobs.push(PackBlob {
            id,
            kind: self.kind,
            offset: offset as u32,
            length: length as u32,
            uncompressed_length,
        });
    }

    /// Hands over what there is.
    pub(crate) fn flush(&mut self, writer: &Writer<'_>) -> Result<(), VaultError> {
        if self.blobs.is_empty() {
            return Ok(());
        }
        let blobs = std::mem::take(&mut self.blobs);
        let mut bytes = std::mem::replace(&mut self.bytes, writer.spare(self.pack_bytes));
        let body = bytes.len();
        self.key.seal_into(&pack::header(&blobs), &mut bytes)?;
        let header = u32::try_from(bytes.len() - body)
            .map_err(|_| VaultError::Invalid("the header of a pack is too long".into()))?;
        bytes.extend_from_slice(&header.to_le_bytes());
        writer.send(Pack { id: PackId::of(&bytes), bytes, blobs })
    }
}

/// What a writer stored.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    pub packs: u64,
    pub blobs: u64,
    /// Bytes of packs and index files.
    pub bytes: u64,
}

#[derive(Default)]
struct State {
    pending: Pending,
    stored: Stored,
    error: Option<VaultError>,
    /// Memory of packs that were stored, for the next ones: the system clears fresh memory page by page.
    spare: Vec<Vec<u8>>,
}

/// Packs that no index file names yet.
#[derive(Default)]
struct Pending {
    packs: Vec<IndexPack>,
    blobs: usize,
    bytes: u64,
    /// When the first of them was stored.
    since: Option<Duration>,
}

impl State {
    /// Whether so much waits that losing it to a sudden end would cost more than an index file does.
    fn is_due(&self, now: Duration, begun: Duration) -> bool {
        let Pending { blobs, bytes, since, .. } = &self.pending;
        let wait = INDEX_WAIT.max(now.saturating_sub(begun) / INDEX_SHARE);
        let has_waited = since.is_some_and(|since| now.saturating_sub(since) >= wait);
        *blobs >= INDEX_BLOBS || *bytes >= INDEX_BYTES || has_waited
    }
}

/// Where packers send their packs. Made by [`write`].
pub(crate) struct Writer<'a> {
    index: &'a Index,
    key: &'a MasterKey,
    job: &'a Job,
    sender: SyncSender<Pack>,
    state: &'a Mutex<State>,
    claimed: &'a [Mutex<HashSet<BlobId>>],
    trees: Mutex<Packer<'a>>,
    distrusts_trees: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<'a> Writer<'a> {
    pub(crate) fn key(&self) -> &'a MasterKey {
        self.key
    }

    /// Whether the caller is to store this blob: it is in no pack yet, and no other thread has taken it on.
    pub(crate) fn claim(&self, id: &BlobId) -> bool {
        !self.index.holds(id) && self.take_on(id)
    }

    fn take_on(&self, id: &BlobId) -> bool {
        lock(&self.claimed[usize::from(id.0[1]) % CLAIM_SHARDS]).insert(*id)
    }

    /// As `claim`, for trees and for what describes a point.
    pub(crate) fn claim_small(&self, id: &BlobId) -> bool {
        if self.distrusts_trees.load(Relaxed) { self.take_on(id) } else { self.claim(id) }
    }

    /// From now on trees, and what describes a point, are stored whether they are there or not: some were found damaged.
    pub(crate) fn distrust_trees(&self) {
        self.distrusts_trees.store(true, Relaxed);
    }

    /// Stores a tree unless it is there.
    pub(crate) fn tree(&self, bytes: &[u8]) -> Result<BlobId, VaultError> {
        let id = BlobId::of(bytes);
        if self.claim_small(&id) {
            lock(&self.trees).add(id, bytes, self)?;
        }
        Ok(id)
    }

    /// Memory for a pack. There is never more of it than packs were at work and on their way at once.
    fn spare(&self, pack_bytes: usize) -> Vec<u8> {
        let spare = lock(self.state).spare.pop();
        spare.unwrap_or_else(|| Vec::with_capacity(pack_bytes + (1 << 20).min(pack_bytes)))
    }

    fn send(&self, pack: Pack) -> Result<(), VaultError> {
        self.job.check()?;
        if lock(self.state).error.is_some() {
            return Err(VaultError::Stopped);
        }
        self.sender.send(pack).map_err(|_| VaultError::Stopped)
    }
}

/// What must hold when an index file is written.
pub(crate) type Check<'a> = &'a (dyn Fn() -> Result<(), VaultError> + Sync);

/// As [`write`], for who holds a lock that others may take for stale: `check` tells whether it was lost, before an index
/// file names packs that nobody knew of, and after.
pub(crate) fn write_under<T>(
    check: Check<'_>,
    repository: &Repository,
    index: &Index,
    uploads: usize,
    job: &Job,
    work: impl FnOnce(&Writer<'_>) -> Result<T, VaultError>,
) -> Result<(T, Stored), VaultError> {
    let state = Mutex::new(State::default());
    Upload { repository, job, state: &state, check, begun: repository.clock.now() }.all(index, uploads, work)
}

/// Lets `work` store blobs, with `uploads` packs on their way at once, and returns when all of it is durable and
/// indexed, or with the first error.
pub(crate) fn write<T>(
    repository: &Repository,
    index: &Index,
    uploads: usize,
    job: &Job,
    work: impl FnOnce(&Writer<'_>) -> Result<T, VaultError>,
) -> Result<(T, Stored), VaultError> {
    write_under(&|| Ok(()), repository, index, uploads, job, work)
}

struct Upload<'a> {
    repository: &'a Repository,
    job: &'a Job,
    state: &'a Mutex<State>,
    check: Check<'a>,
    begun: Duration,
}

impl Upload<'_> {
    /// All of a writer's life.
    fn all<T>(
        &self,
        index: &Index,
        uploads: usize,
        work: impl FnOnce(&Writer<'_>) -> Result<T, VaultError>,
    ) -> Result<(T, Stored), VaultError> {
        let Self { repository: Repository { key, tuning, .. }, job, state, .. } = *self;
        let claimed: Vec<_> = (0..CLAIM_SHARDS).map(|_| Mutex::new(HashSet::new())).collect();
        let (sender, receiver) = sync_channel(1);
        let receiver = Mutex::new(receiver);
        let outcome = std::thread::scope(|scope| -> Result<T, VaultError> {
            for _ in 0..uploads.max(1) {
                scope.spawn(|| self.run(&receiver));
            }
            let trees = Mutex::new(Packer::new(BlobKind::Tree, key, tuning)?);
            let writer = Writer {
                index,
                key,
                job,
                sender,
                state,
                claimed: &claimed,
                trees,
                distrusts_trees: AtomicBool::new(false),
            };
            let outcome = work(&writer)?;
            lock(&writer.trees).flush(&writer)?;
            Ok(outcome)
        });
        // The threads have ended: what they stored is named even when the job failed.
        let indexed = self.index_pending();
        let mut state = lock(state);
        if let Some(error) = state.error.take() {
            return Err(error);
        }
        let outcome = outcome?;
        indexed?;
        Ok((outcome, state.stored))
    }

    fn run(&self, receiver: &Mutex<Receiver<Pack>>) {
        loop {
            // The guard ends with the statement, so that threads take turns.
            let received = lock(receiver).recv_timeout(LOOK);
            if matches!(received, Err(RecvTimeoutError::Disconnected)) {
                return;
            }
            if lock(self.state).error.is_some() {
                continue;
            }
            let done = received.map_or(Ok(()), |pack| self.store(pack)).and_then(|()| {
                let is_due = lock(self.state).is_due(self.repository.clock.now(), self.begun);
                if is_due { self.index_pending() } else { Ok(()) }
            });
            if let Err(error) = done {
                lock(self.state).error.get_or_insert(error);
            }
        }
    }

    fn store(&self, mut pack: Pack) -> Result<(), VaultError> {
        self.repository.storage.put(&pack_file(pack.id), &pack.bytes)?;
        let bytes = pack.bytes.len() as u64;
        self.job.stored(bytes);
        pack.bytes.clear();
        let mut state = lock(self.state);
        state.spare.push(pack.bytes);
        state.stored.packs += 1;
        state.stored.blobs += pack.blobs.len() as u64;
        state.stored.bytes += bytes;
        state.pending.blobs += pack.blobs.len();
        state.pending.bytes += bytes;
        state.pending.since.get_or_insert_with(|| self.repository.clock.now());
        state.pending.packs.push(IndexPack { id: pack.id, blobs: pack.blobs });
        Ok(())
    }

    fn index_pending(&self) -> Result<(), VaultError> {
        let packs = std::mem::take(&mut lock(self.state).pending).packs;
        if packs.is_empty() {
            return Ok(());
        }
        (self.check)()?;
        let Repository { storage, key, .. } = self.repository;
        let (file, sealed) = seal_index(key, &packs)?;
        if let Err(error) = storage.put(&file, &sealed) {
            if error.kind == StorageErrorKind::NoSpace {
                self.make_way(&file, packs);
            }
            return Err(error.into());
        }
        if let Err(error) = (self.check)() {
            // Its packs may be gone by now. Savers look whether they are there, so it may also stay.
            let _ = storage.remove(&file);
            return Err(error);
        }
        lock(self.state).stored.bytes += sealed.len() as u64;
        Ok(())
    }

    /// On a full store, one pack makes way for the file that names the others, and for the lock of who is to free more.
    /// The job has failed already, so that nothing will be built on that pack.
    fn make_way(&self, refused: &FileName, mut packs: Vec<IndexPack>) {
        // Where even this fails, the next prune removes what no index names; the error that counts is the first.
        let Some(last) = packs.pop() else { return };
        let Repository { storage, key, .. } = self.repository;
        let removed = storage.remove(refused).and_then(|()| storage.remove(&pack_file(last.id)));
        if removed.is_ok() && !packs.is_empty() {
            let _ = put_index(storage.as_ref(), key, &packs);
        }
    }
}

/// Writes one index file.
pub(crate) fn put_index(
    storage: &dyn Storage,
    key: &MasterKey,
    packs: &[IndexPack],
) -> Result<(), VaultError> {
    let (file, sealed) = seal_index(key, packs)?;
    Ok(storage.put(&file, &sealed)?)
}

fn seal_index(key: &MasterKey, packs: &[IndexPack]) -> Result<(FileName, Vec<u8>), VaultError> {
    let json = index::encode(&IndexFile { supersedes: Vec::new(), packs: packs.to_vec() });
    let sealed = seal_object(key, &json)
        .map_err(|source| VaultError::Damaged { file: "a new index file".into(), source })?;
    Ok((IndexId::of(&sealed).into(), sealed))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nestling_block::{BlockTarget, MemoryDisk};

    use super::*;
    use crate::{
        DataCheck,
        storage::{FileKind, Operation, TestClock},
        testing::{Place, noise, take_one},
    };

    const CHUNK: usize = crate::layout::CHUNK_BYTES as usize;

    #[test]
    fn a_minute_of_work_is_lost_or_a_fiftieth() {
        let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
        let mut state = State::default();
        assert!(!state.is_due(minutes(1000), minutes(0)));
        state.pending.since = Some(minutes(1000));
        assert!(!state.is_due(minutes(1000), minutes(1000)) && state.is_due(minutes(1001), minutes(1000)));
        assert!(!state.is_due(minutes(1019), minutes(0)) && state.is_due(minutes(1021), minutes(0)));
        state.pending.bytes = INDEX_BYTES;
        assert!(state.is_due(minutes(1000), minutes(1000)));
    }

    /// A save of sixty packs, each of which takes ten seconds, of a program that ends after so many.
    fn save_slowly(
        place: &mut Place,
        packs: u64,
        disk: &MemoryDisk,
    ) -> Result<crate::SaveReport, VaultError> {
        let clock = Arc::new(TestClock::default());
        let left = std::sync::atomic::AtomicU64::new(packs);
        place.set_clock(clock.clone());
        let slow = place.hooked(move |operation, file| {
            use crate::storage::Clock;
            if operation == Operation::Put && file.kind == FileKind::Pack {
                clock.sleep(Duration::from_secs(10));
                take_one(&left).then_some(()).ok_or(StorageErrorKind::Crashed)?;
            }
            let is_dead = left.load(std::sync::atomic::Ordering::Relaxed) == 0 && operation != Operation::Get;
            if is_dead { Err(StorageErrorKind::Crashed) } else { Ok(()) }
        });
        place.through(slow).try_save("a", disk, 1, None)
    }

    #[test]
    fn a_save_that_was_killed_is_gone_on_with() {
        let tuning = Tuning { pack_bytes: CHUNK, ..Tuning::default() };
        let disk = MemoryDisk::new("disk", 60 * CHUNK as u64);
        disk.write_at(&noise(1, 60 * CHUNK), 0).expect("data");
        let mut place = Place::tuned(tuning);
        save_slowly(&mut place, 40, &disk).expect_err("killed");
        place.repository.unlock(true, &place.who).expect("unlocked");
        let report = place.repository.verify(DataCheck::All, &place.who, &Job::default()).expect("verified");
        assert!(report.is_clean() && (1..=9).contains(&report.unindexed_packs), "{report:?}");
        assert!(place.save_at("a", &disk, 1).new_bytes <= 30 * CHUNK as u64);

        let mut place = Place::tuned(tuning);
        save_slowly(&mut place, 1000, &disk).expect("saved");
        let files = place.storage.list(FileKind::Index).expect("listed").len();
        assert!((8..=12).contains(&files), "{files} index files");
    }
}
