//! What a prune is to do, from how much of each pack is needed.

use std::collections::{HashMap, HashSet};

use super::{PruneOptions, PruneSummary, Snapshot};
use crate::{BlobId, PackId, VaultError, format::pack::BlobKind, repo::Repository, walk::Marks};

/// Packs below a quarter of the usual size are joined once there are this many.
const SMALL_PACKS: usize = 16;

pub(super) struct Planner<'a> {
    pub(super) repository: &'a Repository,
    pub(super) state: &'a Snapshot,
    pub(super) used: &'a Marks,
}

#[derive(Default)]
pub(super) struct Planned {
    pub(super) summary: PruneSummary,
    /// Packs that no index names.
    pub(super) unindexed: Vec<PackId>,
    /// Packs of which nothing is needed.
    pub(super) remove: Vec<PackId>,
    /// Packs whose rest is to be copied.
    pub(super) repack: Vec<PackId>,
}

/// Bytes of one pack.
#[derive(Default, Clone, Copy)]
struct PackUse {
    used: u64,
    unused: u64,
    trees: bool,
}

impl Planner<'_> {
    pub(super) fn plan(&self, options: PruneOptions) -> Result<Planned, VaultError> {
        let marked: HashSet<PackId> =
            self.state.marks.iter().flat_map(|mark| mark.packs.iter().copied()).collect();
        let uses = pack_uses(self.state, self.used, &marked);
        let (mut planned, mut partly) = (Planned::default(), Vec::new());
        let Planned { summary, unindexed, remove, repack } = &mut planned;
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
        let unnamed = |pack: &&PackId| !self.state.index.has_pack(pack) && !marked.contains(pack);
        unindexed.extend(self.state.sizes.keys().filter(unnamed));
        summary.unindexed_packs = unindexed.len() as u64;
        summary.marked_packs = marked.len() as u64;
        *repack = choose(partly, options, self.repository.tuning.pack_bytes as u64, summary);
        Ok(planned)
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
