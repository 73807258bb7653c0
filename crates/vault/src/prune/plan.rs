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

/// Which packs are worth copying: small ones, where there are many, and those with the largest unused share, until little
/// enough stays unused. None where all may stay unused.
fn choose(
    mut partly: Vec<(PackId, PackUse)>,
    options: PruneOptions,
    pack_bytes: u64,
    summary: &mut PruneSummary,
) -> Vec<PackId> {
    summary.kept_unused_bytes = partly.iter().map(|(_, found)| found.unused).sum();
    if options.max_unused_percent >= 100.0 {
        return Vec::new();
    }
    // By share, compared as fractions; then by name, so that a plan can be repeated.
    partly.sort_by(|(a_id, a), (b_id, b)| {
        let share = |x: &PackUse, y: &PackUse| u128::from(x.unused) * u128::from(y.used + y.unused);
        share(b, a).cmp(&share(a, b)).then(a_id.cmp(b_id))
    });
    let small = |found: &PackUse| found.used + found.unused < pack_bytes / 4;
    let many_small = [false, true].map(|trees| {
        partly.iter().filter(|(_, found)| found.trees == trees && small(found)).count() >= SMALL_PACKS
    });
    // At least four of them make one, so there are always fewer afterwards.
    let (join, rest): (Vec<_>, Vec<_>) =
        partly.into_iter().partition(|(_, found)| small(found) && many_small[usize::from(found.trees)]);
    summary.joined_packs = join.len() as u64;
    let joined_unused: u64 = join.iter().map(|(_, found)| found.unused).sum();
    // What is joined leaves nothing unused, so less has to be copied for that alone.
    let mut unused = summary.kept_unused_bytes - joined_unused;
    let allowed = (summary.used_bytes as f64 * options.max_unused_percent / 100.0) as u64;
    let freed = rest.into_iter().take_while(|(_, found)| {
        let is_worth_it = unused > allowed && found.unused > 0;
        unused -= if is_worth_it { found.unused } else { 0 };
        is_worth_it
    });
    let chosen: Vec<(PackId, PackUse)> = freed.chain(join).collect();
    summary.kept_unused_bytes -= chosen.iter().map(|(_, found)| found.unused).sum::<u64>();
    summary.repacked_bytes = chosen.iter().map(|(_, found)| found.used).sum();
    summary.repacked_packs = chosen.len() as u64;
    chosen.into_iter().map(|(pack, _)| pack).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn chosen(packs: &[PackUse], max_unused_percent: f64) -> PruneSummary {
        let named = |(number, found): (usize, &PackUse)| (PackId::of(&number.to_le_bytes()), *found);
        let used_bytes = packs.iter().map(|found| found.used).sum();
        let mut summary = PruneSummary { used_bytes, ..PruneSummary::default() };
        let options = PruneOptions { max_unused_percent, allow_empty: false };
        choose(packs.iter().enumerate().map(named).collect(), options, 16 * MIB, &mut summary);
        summary
    }

    #[test]
    fn only_as_much_is_copied_as_there_is_unused_or_to_join() {
        let large = PackUse { used: 15 * MIB, unused: MIB, trees: false };
        let small = PackUse { used: MIB, unused: MIB, trees: false };
        let few = [vec![large; 4], vec![small; 15]].concat();
        let many = [vec![large; 4], vec![small; 16]].concat();
        for (packs, percent, (repacked, joined, kept)) in [
            (&few, 100.0, (0, 0, 19)),
            (&few, 0.0, (19, 0, 0)),
            // 75 MiB are used, so 3.75 of 19 may stay.
            (&few, 5.0, (16, 0, 3)),
            (&many, 100.0, (0, 0, 20)),
            (&many, 50.0, (16, 16, 4)),
            // What is joined is enough: 4 of 76 MiB stay.
            (&many, 6.0, (16, 16, 4)),
            (&many, 0.0, (20, 16, 0)),
        ] {
            let found = chosen(packs, percent);
            let told = (found.repacked_packs, found.joined_packs, found.kept_unused_bytes / MIB);
            assert_eq!(told, (repacked, joined, kept), "{percent}% of {} packs", packs.len());
        }
        // Trees are joined with trees alone.
        let mixed: Vec<PackUse> =
            (0..30).map(|n| PackUse { unused: 0, trees: n % 2 == 0, ..small }).collect();
        assert_eq!(chosen(&mixed, 5.0).repacked_packs, 0);
    }
}
