//! After damage: keep all that is whole, and say precisely what is lost.
//!
//! First a plan that can be read, then the act. Whole blobs of damaged packs are copied to new ones; points that lost bytes are
//! replaced by points whose `point.json` names those, so that reading them is an error and never a zero that nobody
//! saved; the index is written without the damaged packs; then they go. In this order whoever stops in between leaves
//! something that repair can be run on again. Nobody else may be at work. Points of which not even that can be told are
//! removed only on request.

use std::{collections::HashSet, fmt, sync::Arc};

use crate::{
    BlobId, PackId, SnapshotId, VaultError,
    blob::{Opener, check_lengths, pack_file},
    format::{index::IndexPack, pack::BlobKind, snapshot::Snapshot},
    index::Index,
    job::Job,
    lock::RepositoryLock,
    mend::{Body, Mender, Regrown, Target},
    packer::{Packer, Stored, Writer, write},
    point::{DAMAGED_TAG, LostRange, Point, split_versions},
    prune::{marked_packs, rewrite_index},
    repo::{Identity, Repository},
    retag::in_place_of,
    storage::{FileKind, FileName},
    verify::{DataCheck, Examined},
    walk::{Marks, reach},
};

/// A pack that is not there, or not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedPack {
    pub pack: PackId,
    /// Blobs in it that are whole, and that are not.
    pub whole: u64,
    pub damaged: u64,
}

/// What becomes of a point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// All but this stays.
    Mended { lost: Vec<LostRange>, is_description_lost: bool },
    /// It cannot be told what was in it.
    Lost(String),
}

#[derive(Debug, Clone)]
pub struct DamagedPoint {
    pub point: Point,
    pub fate: Fate,
}

/// What is to be done. Others are kept out until it is dropped or acted on.
pub struct RepairPlan {
    pub packs: Vec<DamagedPack>,
    pub points: Vec<DamagedPoint>,
    pub unreadable_snapshots: Vec<SnapshotId>,
    /// Points of a newer version of this program, which are left to that.
    pub newer_points: Vec<Point>,
    /// Damaged snapshots of other programs, which are left to those.
    pub foreign_snapshots: Vec<SnapshotId>,
    /// The notes of an interrupted prune cannot be read; they go, and the next prune begins anew.
    pub are_marks_unreadable: bool,
    bodies: Vec<(Point, Vec<SnapshotId>, Body)>,
    lock: RepositoryLock,
    examined: Examined,
}

impl RepairPlan {
    /// Nothing is damaged.
    pub fn is_empty(&self) -> bool {
        self.packs.is_empty()
            && self.points.is_empty()
            && self.unreadable_snapshots.is_empty()
            && self.foreign_snapshots.is_empty()
            && !self.are_marks_unreadable
            && self.examined.lost.is_empty()
    }
}

impl fmt::Display for RepairPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for DamagedPack { pack, whole, damaged } in &self.packs {
            writeln!(f, "pack {pack}: {whole} chunks are whole and are copied, {damaged} are damaged")?;
        }
        for DamagedPoint { point, fate } in &self.points {
            write!(f, "{}@{} of {}: ", point.name, point.short_id(), point.snapshot.time)?;
            match fate {
                Fate::Lost(why) => writeln!(f, "lost: {why}")?,
                Fate::Mended { lost, is_description_lost } => {
                    writeln!(f, "loses")?;
                    for LostRange { disk, offset, length } in lost {
                        writeln!(f, "  {disk}: {length} bytes at byte {offset}")?;
                    }
                    if *is_description_lost {
                        writeln!(f, "  the machine's description")?;
                    }
                }
            }
        }
        for point in &self.newer_points {
            let (name, id) = (&point.name, point.short_id());
            writeln!(f, "{name}@{id}: is of a newer version of this program, and left as it is")?;
        }
        for id in &self.unreadable_snapshots {
            writeln!(f, "snapshot {id}: cannot be read")?;
        }
        for id in &self.foreign_snapshots {
            writeln!(f, "snapshot {id}: is damaged, and of another program, which may repair it")?;
        }
        if self.are_marks_unreadable {
            writeln!(f, "the notes of an interrupted prune cannot be read and are removed")?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Blobs that were copied from damaged packs.
    pub salvaged: u64,
    pub stored: Stored,
    /// Points that were mended: their ids before and now.
    pub mended: Vec<(SnapshotId, SnapshotId)>,
    /// Lost points and unreadable snapshots that were removed.
    pub removed: Vec<SnapshotId>,
    /// Those that are still there, since nobody asked to remove them.
    pub left: Vec<SnapshotId>,
    pub removed_packs: u64,
}

impl Repository {
    /// Reads everything and says what is damaged and what becomes of it. Changes nothing.
    pub fn repair_plan(self: &Arc<Self>, who: &Identity, job: &Job) -> Result<RepairPlan, VaultError> {
        self.check_writable()?;
        let lock = RepositoryLock::alone(self, who)?;
        let examined = self.examine(DataCheck::All, job)?;
        if let Some(why) = &examined.unsure {
            return Err(VaultError::Unsure(why.clone()));
        }
        self.check_index(&examined)?;
        let mut packs: Vec<DamagedPack> =
            examined.bad_packs.iter().map(|pack| DamagedPack { pack: *pack, whole: 0, damaged: 0 }).collect();
        packs.sort_by_key(|pack| pack.pack);
        for location in examined.index.iter() {
            if let Ok(at) = packs.binary_search_by_key(&location.pack, |pack| pack.pack) {
                let is_bad = examined.bad_copies.contains(&(location.pack, location.blob.id));
                packs[at].damaged += u64::from(is_bad);
                packs[at].whole += u64::from(!is_bad);
            }
        }
        let mut plan = RepairPlan {
            packs,
            points: Vec::new(),
            newer_points: Vec::new(),
            unreadable_snapshots: examined.unreadable_snapshots.clone(),
            foreign_snapshots: self.damaged_foreign(&examined, job)?,
            are_marks_unreadable: match marked_packs(self) {
                Err(error) if error.is_damage() => true,
                outcome => outcome.map(|_| false)?,
            },
            bodies: Vec::new(),
            lock,
            examined,
        };
        if !plan.examined.lost.is_empty() || !plan.examined.report.losses.is_empty() {
            self.plan_points(&mut plan, job)?;
        }
        Ok(plan)
    }

    /// What no index names may lie in a pack that no index names: nothing is given up before that is known.
    fn check_index(&self, examined: &Examined) -> Result<(), VaultError> {
        if examined.lost.iter().all(|id| examined.index.contains(id)) {
            return Ok(());
        }
        for listed in self.storage.list(FileKind::Pack)? {
            let Ok(pack) = listed.name.parse::<PackId>() else { continue };
            if examined.index.has_pack(&pack) {
                continue;
            }
            match self.pack_header(pack, listed.size) {
                Err(error) if error.is_damage() => {}
                Err(error) => return Err(error),
                Ok(_) => {
                    return Err(VaultError::Invalid(format!(
                        "{}: chunks that points need are in no index, and there are packs that no index names; \
                         run 'vault rebuild-index' first",
                        self.describe()
                    )));
                }
            }
        }
        Ok(())
    }

    fn damaged_foreign(&self, examined: &Examined, job: &Job) -> Result<Vec<SnapshotId>, VaultError> {
        let mut damaged = Vec::new();
        if examined.lost.is_empty() {
            return Ok(damaged);
        }
        let lost: Vec<usize> = examined.lost.iter().filter_map(|id| examined.index.position(id)).collect();
        for (id, snapshot) in &examined.foreign {
            let mut marks = Marks::new(&examined.index);
            let broken = reach(self, &examined.index, [snapshot.tree], &mut marks, job)?;
            if let Some((_, error)) = broken.trees.iter().find(|(_, error)| error.is_io()) {
                return Err(VaultError::Unsure(error.to_string()));
            }
            if !broken.is_empty() || lost.iter().any(|position| marks.is_marked(*position)) {
                damaged.push(*id);
            }
        }
        Ok(damaged)
    }

    fn plan_points(&self, plan: &mut RepairPlan, job: &Job) -> Result<(), VaultError> {
        let (current, older) = split_versions(plan.examined.points.clone());
        job.begin("finding what is lost", current.len() as u64);
        let opener = Opener::new(self.storage.as_ref(), &self.key);
        let mut mender = Mender::new(opener, &plan.examined.index, &plan.examined.lost);
        for point in current {
            job.check()?;
            match mender.survey(&point) {
                Ok(body) if body.is_whole() => {}
                Ok(body) => {
                    let fate =
                        Fate::Mended { lost: body.lost(), is_description_lost: body.is_description_lost };
                    plan.points.push(DamagedPoint { point: point.clone(), fate });
                    let older = older.iter().filter(|other| other.is_version_of(&point));
                    let older = older.map(|other| other.id).collect();
                    plan.bodies.push((point, older, body));
                }
                Err(VaultError::NewerLayout { .. }) => plan.newer_points.push(point),
                Err(error) if error.is_damage() => {
                    plan.points.push(DamagedPoint { point, fate: Fate::Lost(error.to_string()) });
                }
                Err(error) => return Err(error),
            }
            job.advance(1);
        }
        Ok(())
    }

    /// Does what the plan says. `remove_lost` also removes what cannot be mended.
    pub fn repair(
        self: &Arc<Self>,
        plan: RepairPlan,
        remove_lost: bool,
        job: &Job,
    ) -> Result<RepairReport, VaultError> {
        let (_, files) = self.load_index_and_files(job)?;
        let mut clean = Index::default();
        for pack in files.iter().flat_map(|(_, packs)| packs) {
            if !plan.examined.bad_packs.contains(&pack.id) {
                clean.add_pack(pack.id, &pack.blobs);
            }
        }
        clean.finish();
        let mut report = RepairReport::default();
        let packs = files.iter().flat_map(|(_, packs)| packs);
        let act = Act { repository: self, plan: &plan, job };
        let (trees, stored) = write(self, &clean, 2, job, |writer| {
            report.salvaged = act.salvage(packs, writer)?;
            act.mend(writer)
        })?;
        report.stored = stored;
        plan.lock.check()?;
        for ((point, older, _), tree) in plan.bodies.iter().zip(trees) {
            let mut tags = point.snapshot.tags.clone();
            tags.retain(|tag| tag != DAMAGED_TAG);
            tags.push(DAMAGED_TAG.to_owned());
            let new = Snapshot { tree, tags, ..point.snapshot.clone() };
            let id = self.put_snapshot(&in_place_of(new, point, older))?;
            report.mended.push((point.id, id));
            self.remove_snapshot(&point.id)?;
        }
        let is_lost = |damaged: &&DamagedPoint| matches!(damaged.fate, Fate::Lost(_));
        let lost: Vec<&Point> = plan.points.iter().filter(is_lost).map(|damaged| &damaged.point).collect();
        // Nobody else is here, so versions that do not count any more, and may be damaged, can go at once; but not
        // where what counts cannot be read and one before it may be all that is left.
        let unread: HashSet<SnapshotId> =
            lost.iter().copied().chain(&plan.newer_points).map(Point::identity).collect();
        for older in split_versions(plan.examined.points.clone()).1 {
            if !unread.contains(&older.identity()) {
                self.remove_snapshot(&older.id)?;
            }
        }
        report.left =
            lost.iter().map(|point| point.id).chain(plan.unreadable_snapshots.iter().copied()).collect();
        if remove_lost {
            report.removed = std::mem::take(&mut report.left);
            report.removed.iter().try_for_each(|id| self.remove_snapshot(id))?;
        }
        rewrite_index(self, &files, &plan.examined.bad_packs)?;
        for pack in &plan.examined.bad_packs {
            self.storage.remove(&pack_file(*pack))?;
            report.removed_packs += 1;
        }
        if plan.are_marks_unreadable {
            for listed in self.storage.list(FileKind::Extra)? {
                if listed.name.starts_with("mark-") {
                    self.storage.remove(&FileName { kind: FileKind::Extra, name: listed.name })?;
                }
            }
        }
        plan.lock.check()?;
        // Now others may come again.
        drop(plan);
        Ok(report)
    }
}

struct Act<'a> {
    repository: &'a Arc<Repository>,
    plan: &'a RepairPlan,
    job: &'a Job,
}

impl Act<'_> {
    /// Copies the whole blobs of damaged packs.
    fn salvage<'p>(
        &self,
        packs: impl Iterator<Item = &'p IndexPack>,
        writer: &Writer<'_>,
    ) -> Result<u64, VaultError> {
        let Examined { bad_packs, bad_copies, .. } = &self.plan.examined;
        let (storage, key) = (self.repository.storage.as_ref(), &self.repository.key);
        self.job.begin("copying what is whole", bad_packs.len() as u64);
        let mut opener = Opener::new(storage, key);
        let mut data = Packer::new(BlobKind::Data, key, &self.repository.tuning)?;
        let mut trees = Packer::new(BlobKind::Tree, key, &self.repository.tuning)?;
        let (mut salvaged, mut plain) = (0, Vec::new());
        for pack in packs.filter(|pack| bad_packs.contains(&pack.id)) {
            for blob in pack.blobs.iter().filter(|blob| !bad_copies.contains(&(pack.id, blob.id))) {
                self.job.check()?;
                if !writer.claim(&blob.id) {
                    continue;
                }
                check_lengths(pack.id, blob)?;
                let mut sealed = vec![0; blob.length as usize];
                storage.get_range(&pack_file(pack.id), u64::from(blob.offset), &mut sealed)?;
                opener.open(pack.id, blob, &mut sealed.clone(), &mut plain)?;
                let packer = if blob.kind == BlobKind::Tree { &mut trees } else { &mut data };
                packer.add_sealed(blob, &sealed, writer)?;
                salvaged += 1;
            }
            self.job.advance(1);
        }
        data.flush(writer)?;
        trees.flush(writer)?;
        Ok(salvaged)
    }

    /// Writes the points without what they lost. Their new roots.
    fn mend(&self, writer: &Writer<'_>) -> Result<Vec<BlobId>, VaultError> {
        let Examined { index, lost, points, .. } = &self.plan.examined;
        let opener = Opener::new(self.repository.storage.as_ref(), &self.repository.key);
        let mut mender = Mender::new(opener, index, lost);
        let mut packer = Packer::new(BlobKind::Data, writer.key(), &self.repository.tuning)?;
        let mut target = Target { writer, packer: &mut packer };
        self.job.begin("mending points", self.plan.bodies.len() as u64);
        // What can be known without having been stored serves the points that are whole as well.
        if !lost.is_empty() {
            for point in points {
                match mender.survey(point) {
                    Ok(_) | Err(VaultError::NewerLayout { .. }) => {}
                    Err(error) if error.is_damage() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        for regrown in mender.regrown.values() {
            match regrown {
                Regrown::Zeroes(length) => target.data(&vec![0; *length as usize])?,
                Regrown::Tree(tree) => drop(writer.tree(tree)?),
            }
        }
        let mut roots = Vec::new();
        for (point, _, body) in &self.plan.bodies {
            self.job.check()?;
            roots.push(mender.mend(point, body, &mut target)?);
            self.job.advance(1);
        }
        packer.flush(writer)?;
        Ok(roots)
    }
}

#[cfg(test)]
mod tests;
