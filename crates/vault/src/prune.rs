//! Removing what no point needs, while others save.
//!
//! A pack is never removed in one step. First what is still needed of it is copied to new packs, then it is **marked**:
//! savers that begin from now on do not build on it. Then the sessions that are at work are written down beside the
//! mark, since they may have built on it before. Only when all of those have ended, and the points that they left were
//! looked through too, is the pack taken out of the index and removed. Whatever is needed after all is unmarked. Where
//! nobody else is at work, all of it happens in one run.
//!
//! Order that makes every torn run harmless: new packs and their index, mark, sessions, index without the pack, removal
//! of the pack, removal of the mark. A stock restic is kept out by an exclusive lock for as long as prune runs.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    BlobId, IndexId, PackId, SnapshotId, VaultError,
    blob::{Opener, pack_file},
    format::{
        Timestamp,
        index::IndexPack,
        object::seal_object,
        pack::{BlobKind, PackBlob},
    },
    id::hex,
    index::Index,
    job::Job,
    lock::{Held, RepositoryLock, held_by_others},
    packer::{Packer, put_index, write_under},
    repo::{Identity, Repository, damaged, is_not_found},
    storage::{FileKind, FileName},
    walk::{Marks, reach},
};

const MARK_BYTES_MAX: usize = 256 << 20;
/// Files that killed writers left half-written are removed at this age; one that is still written is younger.
const HALF_WRITTEN: Duration = Duration::from_secs(60 * 60);
/// Packs below a quarter of the usual size are joined once there are this many.
const SMALL_PACKS: usize = 16;

/// How much may stay unused, because removing it would mean to copy what stands beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PruneOptions {
    /// In percent of what is used; packs with more unused bytes are copied first.
    pub max_unused_percent: f64,
}

impl Default for PruneOptions {
    fn default() -> Self {
        Self { max_unused_percent: 5.0 }
    }
}

/// What is to be done, as numbers to be shown before it is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneSummary {
    pub used_bytes: u64,
    /// Bytes that no point needs, in packs that are still there.
    pub unused_bytes: u64,
    /// Packs of which nothing is needed.
    pub removed_packs: u64,
    /// Packs of which the rest is copied.
    pub repacked_packs: u64,
    /// Bytes that have to be copied for it.
    pub repacked_bytes: u64,
    /// Unused bytes that stay, since little stands beside much that is needed.
    pub kept_unused_bytes: u64,
    /// Packs that no index names: left by savers that were cut off.
    pub unindexed_packs: u64,
    /// Packs that earlier runs marked and that are removed now.
    pub marked_packs: u64,
}

/// What is to be removed. Valid for the repository that it was made for, as it was then.
pub struct PrunePlan {
    pub summary: PruneSummary,
    lock: RepositoryLock,
    state: Snapshot,
    repack: Vec<PackId>,
    remove: Vec<PackId>,
    used: Marks,
}

/// What a prune did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PruneReport {
    pub removed_packs: u64,
    pub removed_bytes: u64,
    /// Packs that wait for others to end before they can be removed.
    pub waiting_packs: u64,
    /// Who is waited for.
    pub waiting_for: Vec<String>,
}

/// The repository as it was looked at.
struct Snapshot {
    index: Index,
    files: IndexFiles,
    sizes: HashMap<PackId, u64>,
    marks: Vec<Mark>,
    seen: HashSet<SnapshotId>,
}

/// Packs that are to go, and who may still build on them.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Mark {
    #[serde(skip)]
    name: String,
    time: Timestamp,
    packs: Vec<PackId>,
    /// None: not yet written down.
    #[serde(skip)]
    sessions: Option<Vec<String>>,
}

fn extra(name: String) -> FileName {
    FileName { kind: FileKind::Extra, name }
}

/// Packs that savers must not build on any more.
pub(crate) fn marked_packs(repository: &Repository) -> Result<HashSet<PackId>, VaultError> {
    Ok(read_marks(repository)?.into_iter().flat_map(|mark| mark.packs).collect())
}

fn read_marks(repository: &Repository) -> Result<Vec<Mark>, VaultError> {
    let names: Vec<String> =
        repository.storage.list(FileKind::Extra)?.into_iter().map(|listed| listed.name).collect();
    let mut marks = Vec::new();
    for name in names.iter().filter_map(|name| name.strip_prefix("mark-")?.strip_suffix(".packs")) {
        let file = format!("mark-{name}.packs");
        let json = match repository.object(FileKind::Extra, &file, MARK_BYTES_MAX) {
            Ok(json) => json,
            Err(error) if is_not_found(&error) => continue,
            Err(error) => return Err(error),
        };
        let parse = |error: serde_json::Error| {
            damaged(&file, crate::format::FormatError::invalid("mark", error.to_string()))
        };
        let mut mark: Mark = serde_json::from_slice(&json).map_err(parse)?;
        mark.name = name.to_owned();
        let file = format!("mark-{name}.sessions");
        if names.contains(&file) {
            match repository.object(FileKind::Extra, &file, MARK_BYTES_MAX) {
                Ok(json) => mark.sessions = Some(serde_json::from_slice(&json).map_err(parse)?),
                Err(error) if is_not_found(&error) => {}
                Err(error) => return Err(error),
            }
        }
        marks.push(mark);
    }
    Ok(marks)
}

/// Removes sessions whose mark is gone: a removal may be undone by a power failure or come too early.
fn sweep_sessions(repository: &Repository) -> Result<(), VaultError> {
    let names: Vec<String> =
        repository.storage.list(FileKind::Extra)?.into_iter().map(|listed| listed.name).collect();
    for name in &names {
        let mark = name.strip_suffix(".sessions").map(|mark| format!("{mark}.packs"));
        if mark.is_some_and(|mark| mark.starts_with("mark-") && !names.contains(&mark)) {
            repository.storage.remove(&extra(name.clone()))?;
        }
    }
    Ok(())
}

fn put_extra<T: Serialize>(repository: &Repository, name: String, value: &T) -> Result<(), VaultError> {
    let json = serde_json::to_vec(value).map_err(|error| VaultError::Invalid(error.to_string()))?;
    let sealed = seal_object(&repository.key, &json).map_err(|source| damaged(&name, source))?;
    Ok(repository.storage.put(&extra(name), &sealed)?)
}

impl Repository {
    /// Looks at everything and says what can go. Nothing is changed; other programs are kept out until the plan is
    /// dropped or acted on.
    pub fn prune_plan(
        self: &Arc<Self>,
        options: PruneOptions,
        who: &Identity,
        job: &Job,
    ) -> Result<PrunePlan, VaultError> {
        self.check_writable()?;
        let lock = RepositoryLock::exclusive(self, who)?;
        let (state, used) = look(self, who, &lock, job)?;
        Ok(Planner { repository: self, state: &state, used: &used }
            .plan(options)?
            .into_plan(lock, state, used))
    }

    /// Does what the plan says.
    pub fn prune(
        self: &Arc<Self>,
        plan: PrunePlan,
        who: &Identity,
        job: &Job,
    ) -> Result<PruneReport, VaultError> {
        let PrunePlan { lock, mut state, repack, mut remove, mut used, .. } = plan;
        repack_packs(self, &state, &used, (&repack, &remove), &lock, job)?;
        lock.check()?;
        remove.extend(repack);
        if !remove.is_empty() {
            let mut random = [0; 16];
            crate::crypto::random(&mut random)?;
            let mark = Mark {
                name: hex(&random),
                time: Timestamp::from(SystemTime::now()),
                packs: remove,
                sessions: None,
            };
            put_extra(self, format!("mark-{}.packs", mark.name), &mark)?;
            state.marks.push(mark);
        }
        let live = held_by_others(self, who, lock.session())?;
        for mark in state.marks.iter_mut().filter(|mark| mark.sessions.is_none()) {
            let sessions: Vec<String> = live.iter().map(Held::session).collect();
            put_extra(self, format!("mark-{}.sessions", mark.name), &sessions)?;
            mark.sessions = Some(sessions);
        }
        let report =
            Finisher { repository: self, who, lock: &lock, live, job }.finish(&mut state, &mut used)?;
        sweep_sessions(self)?;
        self.storage.sweep_temporary(HALF_WRITTEN)?;
        lock.check()?;
        Ok(report)
    }
}

/// Everything that prune decides by, in the order that misses nobody: sessions, points, sessions again, index.
fn look(
    repository: &Repository,
    who: &Identity,
    lock: &RepositoryLock,
    job: &Job,
) -> Result<(Snapshot, Marks), VaultError> {
    job.begin("looking at the repository", 0);
    let before = held_by_others(repository, who, lock.session())?;
    let snapshots = repository.snapshots(job)?;
    let after = held_by_others(repository, who, lock.session())?;
    let marks = read_marks(repository)?;
    let (index, files) = read_index(repository, job)?;
    let listed = repository.storage.list(FileKind::Pack)?;
    let sizes = listed.into_iter().filter_map(|pack| Some((pack.name.parse().ok()?, pack.size))).collect();
    let roots = snapshots.iter().map(|(_, snapshot)| snapshot.tree);
    let kept = before.iter().chain(&after).flat_map(|held| held.lock.keeps.iter().copied());
    let mut used = Marks::new(&index);
    walk(repository, &index, roots.chain(kept), &mut used, job)?;
    let seen = snapshots.iter().map(|(id, _)| *id).collect();
    Ok((Snapshot { index, files, sizes, marks, seen }, used))
}

pub(crate) type IndexFiles = Vec<(IndexId, Vec<IndexPack>)>;

/// The index, and which file says what.
pub(crate) fn read_index(repository: &Repository, job: &Job) -> Result<(Index, IndexFiles), VaultError> {
    let files = Mutex::new(Vec::new());
    repository.index_files(job, |id, file| {
        files.lock().unwrap_or_else(PoisonError::into_inner).push((id, file.packs));
        Ok(())
    })?;
    let files = files.into_inner().unwrap_or_else(PoisonError::into_inner);
    let mut index = Index::default();
    for (_, packs) in &files {
        for pack in packs {
            index.add_pack(pack.id, &pack.blobs);
        }
    }
    index.finish();
    Ok((index, files))
}

/// Prune must know all that is needed; in a damaged repository it does not.
fn walk(
    repository: &Repository,
    index: &Index,
    roots: impl IntoIterator<Item = BlobId>,
    used: &mut Marks,
    job: &Job,
) -> Result<(), VaultError> {
    let broken = reach(repository, index, roots, used, job)?;
    if broken.is_empty() {
        return Ok(());
    }
    Err(VaultError::Invalid(format!(
        "{}: {} trees and {} chunks that points need are missing or damaged, so nothing is removed; \
         'vault verify' names them, 'vault repair' keeps what is whole",
        repository.describe(),
        broken.trees.len(),
        broken.missing.len()
    )))
}

struct Planner<'a> {
    repository: &'a Repository,
    state: &'a Snapshot,
    used: &'a Marks,
}

struct Planned {
    summary: PruneSummary,
    repack: Vec<PackId>,
    remove: Vec<PackId>,
}

impl Planned {
    fn into_plan(self, lock: RepositoryLock, state: Snapshot, used: Marks) -> PrunePlan {
        PrunePlan { summary: self.summary, lock, state, repack: self.repack, remove: self.remove, used }
    }
}

/// Bytes of one pack.
#[derive(Default, Clone, Copy)]
struct PackUse {
    used: u64,
    unused: u64,
    trees: bool,
}

impl Planner<'_> {
    fn plan(&self, options: PruneOptions) -> Result<Planned, VaultError> {
        let marked: HashSet<PackId> =
            self.state.marks.iter().flat_map(|mark| mark.packs.iter().copied()).collect();
        let uses = pack_uses(self.state, self.used, &marked);
        let mut summary = PruneSummary::default();
        let (mut remove, mut partly) = (Vec::new(), Vec::new());
        for (pack, found) in &uses {
            if !self.state.sizes.contains_key(pack) {
                return Err(VaultError::Invalid(format!(
                    "{}: pack {pack} is in the index and not in the store, so nothing is removed; run 'vault repair'",
                    self.repository.describe()
                )));
            }
            summary.used_bytes += found.used;
            summary.unused_bytes += found.unused;
            match found {
                PackUse { used: 0, .. } => remove.push(*pack),
                _ => partly.push((*pack, *found)),
            }
        }
        summary.removed_packs = remove.len() as u64;
        for pack in self.state.sizes.keys() {
            if !self.state.index.has_pack(pack) && !marked.contains(pack) {
                summary.unindexed_packs += 1;
                remove.push(*pack);
            }
        }
        summary.marked_packs = marked.len() as u64;
        let repack = choose(partly, options, self.repository.tuning.pack_bytes as u64, &mut summary);
        Ok(Planned { summary, repack, remove })
    }
}

/// How much of each pack is needed. Of a blob with several copies, the first one outside the marked packs counts.
fn pack_uses(state: &Snapshot, used: &Marks, marked: &HashSet<PackId>) -> HashMap<PackId, PackUse> {
    let mut uses: HashMap<PackId, PackUse> = state
        .index
        .packs()
        .iter()
        .filter(|pack| !marked.contains(pack))
        .map(|pack| (*pack, PackUse::default()))
        .collect();
    let mut counted: Option<BlobId> = None;
    for location in state.index.iter() {
        let Some(entry) = uses.get_mut(&location.pack) else { continue };
        let id = location.blob.id;
        let needed = counted != Some(id) && state.index.position(&id).is_some_and(|p| used.is_marked(p));
        let bytes = u64::from(location.blob.length);
        entry.trees |= location.blob.kind == BlobKind::Tree;
        if needed {
            entry.used += bytes;
            counted = Some(id);
        } else {
            entry.unused += bytes;
        }
    }
    uses
}

/// Which packs are worth copying: those with the largest unused share, until little enough stays unused, and small ones.
fn choose(
    mut partly: Vec<(PackId, PackUse)>,
    options: PruneOptions,
    pack_bytes: u64,
    summary: &mut PruneSummary,
) -> Vec<PackId> {
    let allowed = (summary.used_bytes as f64 * options.max_unused_percent / 100.0) as u64;
    let mut unused: u64 = partly.iter().map(|(_, found)| found.unused).sum();
    // By share, compared as fractions; then by name, so that a plan can be repeated.
    partly.sort_by(|(a_id, a), (b_id, b)| {
        let share = |x: &PackUse, y: &PackUse| u128::from(x.unused) * u128::from(y.used + y.unused);
        share(b, a).cmp(&share(a, b)).then(a_id.cmp(b_id))
    });
    let is_small = |found: &PackUse| found.used + found.unused < pack_bytes / 4;
    let many_small = [false, true].map(|trees| {
        partly.iter().filter(|(_, found)| found.trees == trees && is_small(found)).count() >= SMALL_PACKS
    });
    let mut repack = Vec::new();
    for (pack, found) in partly {
        let join = is_small(&found) && many_small[usize::from(found.trees)];
        if (unused > allowed && found.unused > 0) || join {
            unused -= found.unused;
            summary.repacked_bytes += found.used;
            repack.push(pack);
        } else {
            summary.kept_unused_bytes += found.unused;
        }
    }
    summary.repacked_packs = repack.len() as u64;
    repack
}

/// Copies what is needed of `packs` to new packs, each blob once and checked. Copies in packs that go do not count.
fn repack_packs(
    repository: &Arc<Repository>,
    state: &Snapshot,
    used: &Marks,
    (packs, removed): (&[PackId], &[PackId]),
    lock: &RepositoryLock,
    job: &Job,
) -> Result<(), VaultError> {
    let wanted: HashSet<PackId> = packs.iter().copied().collect();
    let marked = state.marks.iter().flat_map(|mark| &mark.packs);
    let leaving: HashSet<PackId> = wanted.iter().chain(removed).chain(marked).copied().collect();
    job.begin("copying what is still needed", packs.len() as u64);
    // An empty index: what is copied is in the repository, and copied all the same.
    let none = Index::default();
    let storage = repository.storage.as_ref();
    write_under(&|| lock.check(), repository, &none, 2, job, |writer| {
        let mut opener = Opener::new(storage, &repository.key)?;
        let mut packers = [BlobKind::Data, BlobKind::Tree]
            .map(|kind| Packer::new(kind, &repository.key, &repository.tuning));
        let mut plain = Vec::new();
        for pack in state.files.iter().flat_map(|(_, packs)| packs).filter(|pack| wanted.contains(&pack.id)) {
            job.check()?;
            for blob in &pack.blobs {
                let needed = state.index.position(&blob.id).is_some_and(|p| used.is_marked(p));
                if !needed || stays(state, &blob.id, &leaving) || !writer.claim(&blob.id) {
                    continue;
                }
                let sealed = read_sealed(repository, pack.id, blob)?;
                opener.open(pack.id, blob, &mut sealed.clone(), &mut plain)?;
                let packer = match &mut packers[usize::from(blob.kind == BlobKind::Tree)] {
                    Ok(packer) => packer,
                    Err(_) => return Err(VaultError::Stopped),
                };
                packer.add_sealed(blob, &sealed, writer)?;
            }
            job.advance(1);
        }
        for packer in packers {
            packer?.flush(writer)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Whether a copy of the blob lies in a pack that is not about to go.
fn stays(state: &Snapshot, id: &BlobId, leaving: &HashSet<PackId>) -> bool {
    state.index.copies(id).any(|copy| !leaving.contains(&copy.pack))
}

fn read_sealed(repository: &Repository, pack: PackId, blob: &PackBlob) -> Result<Vec<u8>, VaultError> {
    let mut sealed = vec![0; blob.length as usize];
    repository.storage.get_range(&pack_file(pack), u64::from(blob.offset), &mut sealed)?;
    Ok(sealed)
}

struct Finisher<'a> {
    repository: &'a Arc<Repository>,
    who: &'a Identity,
    lock: &'a RepositoryLock,
    live: Vec<Held>,
    job: &'a Job,
}

impl Finisher<'_> {
    /// Removes the packs of every mark whose sessions have all ended.
    fn finish(self, state: &mut Snapshot, used: &mut Marks) -> Result<PruneReport, VaultError> {
        let live: HashSet<String> = self.live.iter().map(Held::session).collect();
        let is_due =
            |mark: &Mark| mark.sessions.as_ref().is_some_and(|s| s.iter().all(|s| !live.contains(s)));
        let (due, waiting): (Vec<Mark>, Vec<Mark>) =
            std::mem::take(&mut state.marks).into_iter().partition(is_due);
        let mut report = PruneReport {
            waiting_packs: waiting.iter().map(|mark| mark.packs.len() as u64).sum(),
            waiting_for: if waiting.is_empty() {
                Vec::new()
            } else {
                self.live.iter().map(Held::describe).collect()
            },
            ..PruneReport::default()
        };
        if due.is_empty() {
            return Ok(report);
        }
        self.look_again(state, used)?;
        let dead = self.dead(state, used, &due)?;
        self.job.begin("removing packs", dead.len() as u64);
        self.lock.check()?;
        rewrite_index(self.repository, &state.files, &dead)?;
        for pack in &dead {
            self.job.check()?;
            self.lock.check_age()?;
            self.repository.storage.remove(&pack_file(*pack))?;
            report.removed_packs += 1;
            report.removed_bytes += state.sizes.get(pack).copied().unwrap_or_default();
            self.job.advance(1);
        }
        for mark in &due {
            // A mark without sessions gets new ones; sessions without a mark would be left for ever.
            self.repository.storage.remove(&extra(format!("mark-{}.sessions", mark.name)))?;
            self.repository.storage.remove(&extra(format!("mark-{}.packs", mark.name)))?;
        }
        Ok(report)
    }

    /// Points and index files that came since the repository was looked at.
    fn look_again(&self, state: &mut Snapshot, used: &mut Marks) -> Result<(), VaultError> {
        let before = held_by_others(self.repository, self.who, self.lock.session())?;
        let snapshots = self.repository.snapshots(self.job)?;
        let after = held_by_others(self.repository, self.who, self.lock.session())?;
        let (index, files) = read_index(self.repository, self.job)?;
        let mut fresh = Marks::new(&index);
        // What was found before is not walked again: its marks are carried over by name.
        for (position, location) in
            state.index.iter().enumerate().filter(|(position, _)| used.is_marked(*position))
        {
            debug_assert_eq!(state.index.position(&location.blob.id), Some(position));
            if let Some(position) = index.position(&location.blob.id) {
                fresh.mark(position);
            }
        }
        let new =
            snapshots.iter().filter(|(id, _)| !state.seen.contains(id)).map(|(_, snapshot)| snapshot.tree);
        let kept = before.iter().chain(&after).flat_map(|held| held.lock.keeps.iter().copied());
        walk(self.repository, &index, new.chain(kept), &mut fresh, self.job)?;
        state.index = index;
        state.files = files;
        *used = fresh;
        Ok(())
    }

    /// The packs of `due` that nothing needs: of what is needed, another copy stays.
    fn dead(&self, state: &Snapshot, used: &Marks, due: &[Mark]) -> Result<HashSet<PackId>, VaultError> {
        let mut dead: HashSet<PackId> = due.iter().flat_map(|mark| mark.packs.iter().copied()).collect();
        let mut rescued = HashSet::new();
        for (position, location) in state.index.iter().enumerate() {
            self.job.check()?;
            // Positions of further copies are never marked, so each blob is looked at once.
            if !used.is_marked(position) {
                continue;
            }
            let mut copies = state.index.copies(&location.blob.id);
            if copies.all(|copy| dead.contains(&copy.pack)) {
                rescued.insert(location.pack);
            }
        }
        dead.retain(|pack| !rescued.contains(pack));
        // Sealed but never indexed, and indexed since: its saver has ended, and what it left was looked through.
        Ok(dead)
    }
}

/// Index files without the packs that go. The new ones are there before the old ones are removed.
pub(crate) fn rewrite_index(
    repository: &Repository,
    files: &IndexFiles,
    dead: &HashSet<PackId>,
) -> Result<(), VaultError> {
    let (storage, key) = (repository.storage.as_ref(), &repository.key);
    let (mut part, mut blobs, mut replaced) = (Vec::new(), 0, Vec::new());
    for (id, packs) in files {
        if !packs.iter().any(|pack| dead.contains(&pack.id)) {
            continue;
        }
        replaced.push(*id);
        for pack in packs.iter().filter(|pack| !dead.contains(&pack.id)) {
            blobs += pack.blobs.len();
            part.push(pack.clone());
            if blobs >= 32 << 10 {
                put_index(storage, key, std::mem::take(&mut part))?;
                blobs = 0;
            }
        }
    }
    if !part.is_empty() {
        put_index(storage, key, part)?;
    }
    for id in replaced {
        storage.remove(&FileName { kind: FileKind::Index, name: id.to_string() })?;
    }
    Ok(())
}
