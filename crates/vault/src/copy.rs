//! Points copied into another repository, with another key.
//!
//! Only what the other one lacks is read; every blob is opened, checked and sealed anew. Names of trees and chunks are
//! those of their plain bytes, so they are the same there. The snapshots come last, when all that they need is durable:
//! a copy that was cut off has left packs that the next one finds, and no point that lacks anything.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    BlobId, PackId, PointName, SnapshotId, VaultError,
    blob::{Opener, pack_file},
    format::{
        Timestamp,
        pack::{BlobKind, PackBlob},
        snapshot::Snapshot,
    },
    index::Index,
    job::Job,
    lock::RepositoryLock,
    packer::{Packer, Stored, Writer, write_under},
    parallel::{in_parallel_with, threads},
    point::{Point, REPLACES},
    prune::marked_packs,
    repo::{Identity, Repository},
    walk::{Marks, reach},
};

const UPLOADS: usize = 2;
/// Points that the lock names at once: it is written anew every few minutes, and everybody reads it.
const BATCH: usize = if cfg!(test) { 2 } else { 1000 };
/// Sealed bytes that are read at once at most.
const RUN_BYTES: u64 = 4 << 20;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Points that were copied: their ids here and there.
    pub copied: Vec<(SnapshotId, SnapshotId)>,
    /// Points that were there already, by their ids there.
    pub present: Vec<SnapshotId>,
    /// Plain bytes that the other repository lacked.
    pub copied_bytes: u64,
    pub stored: Stored,
}

impl Repository {
    /// Copies `points` of this repository to another one.
    pub fn copy_points(
        self: &Arc<Self>,
        points: &[Point],
        destination: &Arc<Repository>,
        who: &Identity,
        job: &Job,
    ) -> Result<CopyReport, VaultError> {
        destination.check_writable()?;
        if self.id() == destination.id() {
            return Err(VaultError::Invalid(format!(
                "{} and {} are the same repository; give another one to copy to",
                self.describe(),
                destination.describe()
            )));
        }
        job.begin("comparing repositories", 0);
        let (lock, there) = (RepositoryLock::shared(self, who)?, RepositoryLock::shared(destination, who)?);
        let (mut report, mut wanted) = (CopyReport::default(), Vec::new());
        let known = destination.points(None, job)?;
        let known: HashMap<Content<'_>, SnapshotId> =
            known.iter().map(|point| (Content::of(point), point.id)).collect();
        for point in points {
            match known.get(&Content::of(point)) {
                Some(id) => report.present.push(*id),
                None => wanted.push(point),
            }
        }
        // In this order nothing is built on that prune may take away there.
        let leaving = marked_packs(destination)?;
        for batch in wanted.chunks(BATCH) {
            let trees: Vec<BlobId> = batch.iter().map(|point| point.snapshot.tree).collect();
            lock.keep_only(&trees)?;
            for point in batch {
                // Still there after the lock names its tree: prune will not take what it needs.
                self.snapshot(&point.id)?;
            }
            // What the batch before copied is in it.
            let present = destination.load_index_to_build_on(&leaving, job)?;
            let copy = Copy::new(self, destination, batch, &present, job)?;
            let check = || lock.check().and_then(|()| there.check());
            let (_, stored) =
                write_under(&check, destination, &present, UPLOADS, job, |writer| copy.run(writer))?;
            for point in batch {
                let id = destination.put_snapshot_under(&check, &renamed(point))?;
                report.copied.push((point.id, id));
            }
            report.stored.packs += stored.packs;
            report.stored.blobs += stored.blobs;
            report.stored.bytes += stored.bytes;
            report.copied_bytes += copy.bytes.load(Relaxed);
        }
        Ok(report)
    }
}

/// By what two points are the same, whatever their tags are. A version from which a repair, or `restic rewrite`, left
/// something out has another tree, and stands for no other.
#[derive(PartialEq, Eq, Hash)]
struct Content<'a> {
    identity: SnapshotId,
    name: &'a PointName,
    time: Timestamp,
    tree: BlobId,
}

impl<'a> Content<'a> {
    fn of(point: &'a Point) -> Self {
        let Point { name, snapshot, .. } = point;
        Self { identity: point.identity(), name, time: snapshot.time, tree: snapshot.tree }
    }
}

/// The snapshot as it is written to the other repository, where the ones before it are not known.
fn renamed(point: &Point) -> Snapshot {
    let mut snapshot = Snapshot { original: Some(point.identity()), parent: None, ..point.snapshot.clone() };
    snapshot.other.remove(REPLACES);
    snapshot
}

type Runs = Vec<(PackId, Vec<PackBlob>)>;

struct Copy<'a> {
    source: &'a Repository,
    destination: &'a Repository,
    index: Index,
    /// What is to be copied, by the packs that it lies in, in the order in which it lies there.
    runs: Runs,
    job: &'a Job,
    bytes: AtomicU64,
}

impl<'a> Copy<'a> {
    fn new(
        source: &'a Repository,
        destination: &'a Repository,
        points: &[&Point],
        present: &Index,
        job: &'a Job,
    ) -> Result<Self, VaultError> {
        let index = source.load_index(job)?;
        let mut marks = Marks::new(&index);
        let roots = points.iter().map(|point| point.snapshot.tree);
        let broken = reach(source, &index, roots, &mut marks, job)?;
        if !broken.is_empty() {
            return Err(VaultError::Invalid(format!(
                "{}: {} trees and {} chunks that the points need are missing or damaged, so nothing is copied; \
                 'vault verify' names them, 'vault repair' keeps what is whole",
                source.describe(),
                broken.trees.len(),
                broken.missing.len()
            )));
        }
        let mut by_pack: HashMap<PackId, Vec<PackBlob>> = HashMap::new();
        for (position, location) in index.iter().enumerate() {
            if marks.is_marked(position) && !present.holds(&location.blob.id) {
                by_pack.entry(location.pack).or_default().push(location.blob);
            }
        }
        let mut runs: Runs = by_pack.into_iter().collect();
        runs.sort_by_key(|(pack, _)| *pack);
        for (_, blobs) in &mut runs {
            blobs.sort_by_key(|blob| blob.offset);
        }
        Ok(Self { source, destination, index, runs, job, bytes: AtomicU64::new(0) })
    }

    fn run(&self, writer: &Writer<'_>) -> Result<(), VaultError> {
        let length = |blob: &PackBlob| u64::from(blob.plain_length());
        let total = self.runs.iter().flat_map(|(_, blobs)| blobs).map(length).sum();
        self.job.begin("copying", total);
        let packer = || Packer::new(BlobKind::Data, &self.destination.key, &self.destination.tuning);
        in_parallel_with(
            &self.runs,
            threads(0),
            self.job,
            packer,
            |packer, (pack, blobs)| self.pack(*pack, blobs, packer, writer),
            |mut packer| packer.flush(writer),
        )
    }

    /// Copies blobs of one pack; what lies side by side is read at once.
    fn pack(
        &self,
        pack: PackId,
        mut blobs: &[PackBlob],
        packer: &mut Packer<'_>,
        writer: &Writer<'_>,
    ) -> Result<(), VaultError> {
        let mut opener = Opener::new(self.source.storage.as_ref(), &self.source.key);
        let (mut sealed, mut plain) = (Vec::new(), Vec::new());
        while let Some(first) = blobs.first() {
            self.job.check()?;
            let start = u64::from(first.offset);
            let end = |blob: &PackBlob| u64::from(blob.offset) + u64::from(blob.length);
            let follows = |n: &usize| {
                u64::from(blobs[*n].offset) == end(&blobs[*n - 1]) && end(&blobs[*n]) - start <= RUN_BYTES
            };
            let count = 1 + (1..blobs.len()).take_while(follows).count();
            let (here, rest) = blobs.split_at(count);
            // A single blob that is too long to be one is refused when it is opened by itself.
            let length = here.last().map_or(0, end) - start;
            let fits = length <= RUN_BYTES;
            sealed.resize(if fits { usize::try_from(length).unwrap_or_default() } else { 0 }, 0);
            let file = pack_file(pack);
            let read = fits && self.source.storage.get_range(&file, start, &mut sealed).is_ok();
            for blob in here {
                let from = (blob.offset - first.offset) as usize;
                let part = sealed.get_mut(from..from + blob.length as usize);
                let opened = part.filter(|_| read).map(|part| opener.open(pack, blob, part, &mut plain));
                // Another copy may be whole.
                if !matches!(opened, Some(Ok(()))) {
                    opener.load(&self.index, &blob.id, &mut plain)?;
                }
                self.store(blob, &plain, packer, writer)?;
            }
            blobs = rest;
        }
        Ok(())
    }

    fn store(
        &self,
        blob: &PackBlob,
        plain: &[u8],
        packer: &mut Packer<'_>,
        writer: &Writer<'_>,
    ) -> Result<(), VaultError> {
        match blob.kind {
            BlobKind::Tree => {
                writer.tree(plain)?;
            }
            BlobKind::Data if writer.claim(&blob.id) => packer.add(blob.id, plain, writer)?,
            BlobKind::Data => {}
        }
        self.bytes.fetch_add(plain.len() as u64, Relaxed);
        self.job.advance(plain.len() as u64);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        DataCheck, Retag,
        testing::{MIB, Place, noise},
    };

    fn copy(from: &Place, to: &Place) -> Result<CopyReport, VaultError> {
        let points = from.points("a");
        from.repository.copy_points(&points, &to.repository, &to.who, &Job::default())
    }

    #[test]
    fn points_are_the_same_there_and_only_what_is_missing_moves() {
        let (from, to) = (Place::new(), Place::new());
        let disk = from.disk(64 * MIB);
        from.save_at("a", &disk, 1);
        let first = copy(&from, &to).expect("copied");
        assert_eq!((first.copied.len(), first.present.len()), (1, 0));
        assert!(to.repository.verify(DataCheck::All, &to.who, &Job::default()).expect("verified").is_clean());
        let (here, there) = (from.points("a").remove(0), to.points("a").remove(0));
        assert_eq!((here.snapshot.tree, here.id), (there.snapshot.tree, there.identity()));
        let mut back = vec![0; 300_000];
        to.open(&there).expect("opened").read(&mut back, 1000).expect("read");
        assert_eq!(back, noise(64 * MIB, 300_000));
        let again = copy(&from, &to).expect("again");
        assert_eq!((again.copied.len(), again.present, again.copied_bytes), (0, vec![there.id], 0));
        // Neither other tags nor a second point that shares all make data move.
        from.repository.retag(&here, &[Retag::Pin], &from.who, &Job::default()).expect("pinned");
        from.save_at("a", &disk, 2);
        let second = copy(&from, &to).expect("copied");
        assert_eq!((second.copied.len(), second.present.len(), second.copied_bytes), (1, 1, 0));
        assert!(copy(&from, &from).is_err());
    }

    #[test]
    fn a_version_that_lacks_something_stands_for_no_whole_one() {
        let (from, to) = (Place::new(), Place::new());
        from.save_at("a", &from.disk(64 * MIB), 1);
        copy(&from, &to).expect("copied");
        // As a repair leaves it.
        let there = to.points("a").remove(0);
        to.save_at("a", &to.disk(2 * MIB), 1);
        let other = to.points("a").into_iter().find(|point| point.id != there.id).expect("another");
        let mended = Snapshot { tree: other.snapshot.tree, ..there.snapshot.clone() };
        to.repository.put_snapshot(&mended).expect("put");
        for id in [there.id, other.id] {
            to.repository.remove_snapshot(&id).expect("removed");
        }
        let report = copy(&from, &to).expect("copied");
        assert_eq!((report.copied.len(), report.present.len()), (1, 0));
        let again = copy(&from, &to).expect("again");
        assert_eq!((again.copied.len(), again.present), (0, vec![report.copied[0].1]));
    }

    #[test]
    fn more_points_than_a_lock_names_are_copied_in_batches() {
        let (from, to) = (Place::new(), Place::new());
        for second in 1..=5 {
            from.save_at("a", &from.disk(second * MIB), i64::try_from(second).expect("small"));
        }
        assert_eq!(copy(&from, &to).expect("copied").copied.len(), 5);
        assert_eq!(to.points("a").len(), 5);
        assert!(to.repository.verify(DataCheck::All, &to.who, &Job::default()).expect("verified").is_clean());
    }

    #[test]
    fn a_copy_that_was_cut_off_left_no_point_and_goes_on() {
        let (from, to) = (Place::new(), Place::new());
        from.save_at("a", &from.disk(64 * MIB), 1);
        let job = Job::default();
        job.cancel();
        let outcome = from.repository.copy_points(&from.points("a"), &to.repository, &to.who, &job);
        assert!(matches!(outcome, Err(VaultError::Cancelled)));
        assert!(to.points("a").is_empty());
        // All packs are there, the snapshot is not.
        let first = copy(&from, &to).expect("copied");
        to.repository.remove_snapshot(&first.copied[0].1).expect("removed");
        let again = copy(&from, &to).expect("again");
        assert_eq!((again.copied.len(), again.copied_bytes, again.stored.packs), (1, 0, 0));
    }
}
