//! Carrying a plan out: copying what stays, marking what goes, removing what nobody builds on any more.
//!
//! What needs no room comes first, so that a full disk has some again: packs that no index names, and what earlier runs
//! marked. Then come packs of which nothing is used, for which a mark and some index files are written, and last those
//! whose rest is copied.

use std::{collections::HashSet, sync::Arc};

use super::{PruneReport, Snapshot, mark::Mark, plan::Planned, walk};
use crate::{
    BlobId, IndexId, PackId, VaultError,
    blob::{Opener, pack_file},
    format::{
        index::IndexPack,
        pack::{BlobKind, PackBlob},
    },
    index::Index,
    job::Job,
    lock::{Held, RepositoryLock, held_by_others},
    packer::{Packer, put_index, write_under},
    repo::{Identity, IndexFiles, Repository},
    storage::FileName,
    walk::Marks,
};

/// Packs on their way at once.
const UPLOADS: usize = 2;
/// Blobs of one index file.
const INDEX_BLOBS: usize = 32 << 10;
/// Index files of an eighth of that, as savers write them so that little is lost when they end suddenly, are joined once
/// there are this many.
const SMALL_INDEX_FILES: usize = 16;

pub(super) struct Pruner<'a> {
    pub(super) repository: &'a Arc<Repository>,
    pub(super) who: &'a Identity,
    pub(super) lock: &'a RepositoryLock,
    pub(super) job: &'a Job,
    pub(super) state: Snapshot,
    pub(super) used: Marks,
    /// Packs that were removed, which the index as it was looked at may still name.
    pub(super) gone: HashSet<PackId>,
    pub(super) has_rewritten_index: bool,
    pub(super) report: PruneReport,
}

impl Pruner<'_> {
    pub(super) fn run(&mut self, planned: Planned) -> Result<(), VaultError> {
        let Planned { unindexed, mut remove, repack, .. } = planned;
        let live = self.live()?;
        if live.is_empty() {
            // Who stored these has ended, and nobody builds on what no index names: they need no mark.
            self.remove_due(&live, unindexed)?;
        } else {
            remove.extend(unindexed);
            self.remove_due(&live, Vec::new())?;
        }
        self.retire(remove)?;
        if !repack.is_empty() {
            self.repack(&repack)?;
            self.lock.check()?;
            self.retire(repack)?;
        }
        if !self.has_rewritten_index {
            rewrite_index(self.repository, &self.state.files, &HashSet::new())?;
        }
        Ok(())
    }

    fn live(&self) -> Result<Vec<Held>, VaultError> {
        held_by_others(self.repository, self.who, self.lock.session())
    }

    /// Marks packs, and removes those of all marks that nobody is at work on any more.
    fn retire(&mut self, packs: Vec<PackId>) -> Result<(), VaultError> {
        if !packs.is_empty() {
            self.state.marks.push(Mark::put(self.repository, packs)?);
        }
        let live = self.live()?;
        for mark in self.state.marks.iter_mut().filter(|mark| mark.sessions.is_none()) {
            mark.seal(self.repository, live.iter().map(Held::session).collect())?;
        }
        self.remove_due(&live, Vec::new())
    }

    /// Copies what is needed of `packs` to new packs, each blob once and checked. Copies in packs that go do not count.
    fn repack(&self, packs: &[PackId]) -> Result<(), VaultError> {
        let (repository, state) = (self.repository, &self.state);
        let wanted: HashSet<PackId> = packs.iter().copied().collect();
        let marked = state.marks.iter().flat_map(|mark| &mark.packs);
        let leaving: HashSet<PackId> = wanted.iter().chain(&self.gone).chain(marked).copied().collect();
        self.job.begin("copying what is still needed", packs.len() as u64);
        // An empty index: what is copied is in the repository, and copied all the same.
        let none = Index::default();
        write_under(&|| self.lock.check(), repository, &none, UPLOADS, self.job, |writer| {
            let mut opener = Opener::new(repository.storage.as_ref(), &repository.key);
            let new = |kind| Packer::new(kind, &repository.key, &repository.tuning);
            let (mut data, mut trees) = (new(BlobKind::Data)?, new(BlobKind::Tree)?);
            let mut plain = Vec::new();
            for pack in
                state.files.iter().flat_map(|(_, packs)| packs).filter(|pack| wanted.contains(&pack.id))
            {
                self.job.check()?;
                for blob in &pack.blobs {
                    let needed = state.index.position(&blob.id).is_some_and(|p| self.used.is_marked(p));
                    if !needed || stays(state, &blob.id, &leaving) || !writer.claim(&blob.id) {
                        continue;
                    }
                    let sealed = read_sealed(repository, pack.id, blob)?;
                    opener.open(pack.id, blob, &mut sealed.clone(), &mut plain)?;
                    let packer = if blob.kind == BlobKind::Tree { &mut trees } else { &mut data };
                    packer.add_sealed(blob, &sealed, writer)?;
                }
                self.job.advance(1);
            }
            data.flush(writer)?;
            trees.flush(writer)
        })?;
        Ok(())
    }

    /// Removes the packs of every mark whose sessions have all ended, and of `unindexed` those that still no index names.
    fn remove_due(&mut self, live: &[Held], unindexed: Vec<PackId>) -> Result<(), VaultError> {
        let sessions: HashSet<String> = live.iter().map(Held::session).collect();
        let (due, waiting): (Vec<Mark>, Vec<Mark>) =
            std::mem::take(&mut self.state.marks).into_iter().partition(|mark| mark.is_due(&sessions));
        self.report.waiting_packs = waiting.iter().map(|mark| mark.packs.len() as u64).sum();
        self.report.waiting_for = match waiting.is_empty() {
            true => Vec::new(),
            false => live.iter().map(Held::describe).collect(),
        };
        self.state.marks = waiting;
        if due.is_empty() && unindexed.is_empty() {
            return Ok(());
        }
        self.look_again()?;
        let mut dead = self.dead(&due)?;
        dead.extend(unindexed.into_iter().filter(|pack| !self.state.index.has_pack(pack)));
        self.remove_packs(&dead)?;
        due.iter().try_for_each(|mark| mark.remove(self.repository))
    }

    /// Takes packs out of the index and removes them: first those for which no index file has to be written.
    fn remove_packs(&mut self, dead: &HashSet<PackId>) -> Result<(), VaultError> {
        self.job.begin("removing packs", dead.len() as u64);
        self.lock.check()?;
        let (emptied, files): (IndexFiles, IndexFiles) = std::mem::take(&mut self.state.files)
            .into_iter()
            .partition(|(_, packs)| packs.iter().all(|pack| dead.contains(&pack.id)));
        for (id, _) in &emptied {
            self.repository.storage.remove(&FileName::from(*id))?;
        }
        let named: HashSet<PackId> = files.iter().flat_map(|(_, packs)| packs).map(|pack| pack.id).collect();
        self.state.files = files;
        let (later, at_once): (Vec<PackId>, Vec<PackId>) = dead.iter().partition(|pack| named.contains(pack));
        self.remove_pack_files(&at_once)?;
        rewrite_index(self.repository, &self.state.files, dead)?;
        self.has_rewritten_index = true;
        self.remove_pack_files(&later)
    }

    fn remove_pack_files(&mut self, packs: &[PackId]) -> Result<(), VaultError> {
        for pack in packs {
            self.job.check()?;
            self.lock.check_age()?;
            self.gone.insert(*pack);
            self.repository.storage.remove(&pack_file(*pack))?;
            self.report.removed_packs += 1;
            self.report.removed_bytes += self.state.sizes.get(pack).copied().unwrap_or_default();
            self.job.advance(1);
        }
        Ok(())
    }

    /// Points and index files that came since the repository was looked at.
    fn look_again(&mut self) -> Result<(), VaultError> {
        let before = self.live()?;
        let snapshots = self.repository.snapshots(self.job)?;
        let after = self.live()?;
        let (index, files) = self.repository.load_index_and_files(self.job)?;
        let mut fresh = Marks::new(&index);
        // What was found before is not walked again: its marks are carried over by name.
        let Snapshot { index: old, seen, .. } = &self.state;
        for (position, location) in
            old.iter().enumerate().filter(|(position, _)| self.used.is_marked(*position))
        {
            debug_assert_eq!(old.position(&location.blob.id), Some(position));
            if let Some(position) = index.position(&location.blob.id) {
                fresh.mark(position);
            }
        }
        let new = snapshots.iter().filter(|(id, _)| !seen.contains(id)).map(|(_, snapshot)| snapshot.tree);
        let kept = before.iter().chain(&after).flat_map(|held| held.lock.keeps.iter().copied());
        walk(self.repository, &index, new.chain(kept), &mut fresh, self.job)?;
        self.state.index = index;
        self.state.files = files;
        self.used = fresh;
        Ok(())
    }

    /// The packs of `due` that nothing needs: of what is needed, another copy stays.
    fn dead(&self, due: &[Mark]) -> Result<HashSet<PackId>, VaultError> {
        let mut dead: HashSet<PackId> = due.iter().flat_map(|mark| mark.packs.iter().copied()).collect();
        let mut rescued = HashSet::new();
        for (position, location) in self.state.index.iter().enumerate() {
            self.job.check()?;
            // Positions of further copies are never marked, so each blob is looked at once.
            if !self.used.is_marked(position) {
                continue;
            }
            let mut copies = self.state.index.copies(&location.blob.id);
            if copies.all(|copy| dead.contains(&copy.pack)) {
                rescued.insert(location.pack);
            }
        }
        dead.retain(|pack| !rescued.contains(pack));
        // Sealed but never indexed, and indexed since: its saver has ended, and what it left was looked through.
        Ok(dead)
    }
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

/// Index files without the packs that go, and one for many small ones. Of each old one, all that stays is in new ones
/// before it is removed; and each makes room for the next.
pub(crate) fn rewrite_index(
    repository: &Repository,
    files: &IndexFiles,
    dead: &HashSet<PackId>,
) -> Result<(), VaultError> {
    let is_small =
        |packs: &[IndexPack]| packs.iter().map(|pack| pack.blobs.len()).sum::<usize>() < INDEX_BLOBS / 8;
    let many_small = files.iter().filter(|(_, packs)| is_small(packs)).count() >= SMALL_INDEX_FILES;
    let is_rewritten = |packs: &[IndexPack]| {
        many_small && is_small(packs) || packs.iter().any(|pack| dead.contains(&pack.id))
    };
    let mut rewrite = Rewrite { repository, part: Vec::new(), blobs: 0, replaced: Vec::new() };
    for (id, packs) in files.iter().filter(|(_, packs)| is_rewritten(packs)) {
        for pack in packs.iter().filter(|pack| !dead.contains(&pack.id)) {
            rewrite.add(pack)?;
        }
        rewrite.replaced.push(*id);
        if rewrite.blobs >= INDEX_BLOBS / 2 {
            rewrite.flush()?;
        }
        if rewrite.part.is_empty() {
            rewrite.remove_replaced()?;
        }
    }
    rewrite.flush()?;
    rewrite.remove_replaced()
}

/// Index files on their way.
struct Rewrite<'a> {
    repository: &'a Repository,
    part: Vec<IndexPack>,
    blobs: usize,
    /// Files all of whose packs were added.
    replaced: Vec<IndexId>,
}

impl Rewrite<'_> {
    fn add(&mut self, pack: &IndexPack) -> Result<(), VaultError> {
        self.blobs += pack.blobs.len();
        self.part.push(pack.clone());
        if self.blobs >= INDEX_BLOBS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), VaultError> {
        self.blobs = 0;
        let part = std::mem::take(&mut self.part);
        if !part.is_empty() {
            put_index(self.repository.storage.as_ref(), &self.repository.key, &part)?;
        }
        Ok(())
    }

    /// To be called when nothing of them waits to be written.
    fn remove_replaced(&mut self) -> Result<(), VaultError> {
        for id in self.replaced.drain(..) {
            self.repository.storage.remove(&FileName::from(id))?;
        }
        Ok(())
    }
}
