//! The points of a repository, kept from one look at it to the next: a snapshot never changes, so that of a hundred thousand
//! only the new ones are read.
//!
//! What is kept of each is up to whoever looks. A [`Summary`], which lists are made of, takes with all else some 600 bytes, a fifth of
//! a whole snapshot. It must never be what a point is read or written anew by: it lacks what other writers put into the snapshot.

use std::{collections::HashMap, sync::Arc};

use crate::{
    PointName, Repository, SnapshotId, VaultError,
    format::{Timestamp, snapshot::Snapshot},
    job::Job,
    point::{DAMAGED_TAG, Point, Version, replaced},
    repo::UnreadableSnapshot,
    retention::Candidate,
};

/// A point, and what is kept of it.
#[derive(Debug, Clone)]
pub struct Listed<T> {
    version: Version,
    pub kept: T,
}

/// What lists show of a point besides its name and its time.
#[derive(Debug, Clone)]
pub struct Summary {
    pub tags: Box<[String]>,
    /// Bytes of all its disks, as whoever saved it counted them.
    pub size_bytes: Option<u64>,
    /// What the repository grew by when it was saved.
    pub stored_bytes: Option<u64>,
}

impl Summary {
    pub fn of(point: Point) -> Self {
        Self {
            size_bytes: point.size_bytes(),
            stored_bytes: point.stored_bytes(),
            tags: point.snapshot.tags.into(),
        }
    }
}

impl<T> Listed<T> {
    pub fn of(point: Point, keep: impl FnOnce(Point) -> T) -> Self {
        Self { version: point.version(), kept: keep(point) }
    }

    /// The whole point.
    pub fn read(&self, repository: &Repository) -> Result<Point, VaultError> {
        let id = self.id();
        let missing = || VaultError::NoSuchPoint(format!("{}@{id}", self.name()));
        Point::of(id, repository.snapshot(&id)?).ok_or_else(missing)
    }

    pub fn id(&self) -> SnapshotId {
        self.version.id
    }

    /// The id that it was saved under.
    pub fn identity(&self) -> SnapshotId {
        self.version.identity()
    }

    pub fn name(&self) -> &PointName {
        &self.version.name
    }

    pub fn time(&self) -> Timestamp {
        self.version.time
    }
}

impl Listed<Summary> {
    pub fn is_damaged(&self) -> bool {
        self.kept.tags.iter().any(|tag| tag == DAMAGED_TAG)
    }

    /// Whether it is pinned or protected.
    pub fn marks(&self) -> Candidate {
        Candidate::marked(self.id(), self.time(), &self.kept.tags)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Catalogue<T> {
    keep: fn(Point) -> T,
    /// `None`: a snapshot of somebody else's.
    all: HashMap<SnapshotId, Option<Arc<Listed<T>>>>,
    /// Those that count, oldest first.
    current: Vec<Arc<Listed<T>>>,
    unreadable: usize,
}

impl<T: Send + Sync> Catalogue<T> {
    /// Empty, until it is looked.
    pub fn new(keep: fn(Point) -> T) -> Self {
        Self { keep, all: HashMap::new(), current: Vec::new(), unreadable: 0 }
    }

    /// Looks at the repository; gives the snapshots that cannot be read. After an error it is as complete as the looks before
    /// were.
    pub fn look(
        &mut self,
        repository: &Repository,
        job: &Job,
    ) -> Result<Vec<UnreadableSnapshot>, VaultError> {
        if repository.has_only(&self.all)? {
            self.unreadable = 0;
            return Ok(Vec::new());
        }
        let keep = self.keep;
        let listed = |id, snapshot: Snapshot| Some(Arc::new(Listed::of(Point::of(id, snapshot)?, keep)));
        let looked = repository.update_from_snapshots(&mut self.all, listed, job);
        self.arrange();
        let unreadable = looked?;
        self.unreadable = unreadable.len();
        Ok(unreadable)
    }

    fn arrange(&mut self) {
        let listed = || self.all.values().flatten();
        let replaced = replaced(listed().map(|listed| &listed.version));
        let mut current: Vec<Arc<Listed<T>>> =
            listed().filter(|listed| !replaced.contains(&listed.id())).cloned().collect();
        current.sort_unstable_by_key(|listed| (listed.time(), listed.id()));
        self.current = current;
    }

    /// The points that can be read.
    pub fn newest_first(&self) -> impl DoubleEndedIterator<Item = &Arc<Listed<T>>> {
        self.current.iter().rev()
    }

    /// How many snapshots cannot be read, each of which may be a point.
    pub fn unreadable(&self) -> usize {
        self.unreadable
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Identity, Retag,
        format::key::KdfCost,
        retention::PIN_TAG,
        storage::{Access, FileKind, FileName, Storage},
        testing::{MIB, PASSWORD, Place},
    };

    fn ids(catalogue: &Catalogue<Summary>) -> Vec<SnapshotId> {
        let mut ids: Vec<SnapshotId> = catalogue.newest_first().map(|listed| listed.id()).collect();
        ids.reverse();
        ids
    }

    #[test]
    fn a_catalogue_that_is_looked_at_again_says_what_a_list_made_anew_does() {
        let place = Place::new();
        let mut catalogue = Catalogue::new(Summary::of);
        let mut agree = |place: &Place| {
            catalogue.look(&place.repository, &Job::default()).unwrap();
            let listed = place.repository.list_points(None, &Job::default()).unwrap();
            let expected: Vec<SnapshotId> = listed.points.iter().map(|point| point.id).collect();
            assert_eq!(ids(&catalogue), expected);
            for (entry, point) in catalogue.newest_first().zip(listed.points.iter().rev()) {
                assert_eq!(entry.name(), &point.name);
                assert_eq!((entry.time(), entry.identity()), (point.snapshot.time, point.identity()));
                assert_eq!(entry.kept.tags[..], point.snapshot.tags[..]);
                assert_eq!(entry.kept.size_bytes, point.size_bytes());
                assert_eq!(entry.kept.stored_bytes, point.stored_bytes());
                assert_eq!(entry.marks(), Candidate::of(point));
            }
            assert_eq!(catalogue.unreadable(), listed.unreadable.len());
            expected.len()
        };
        assert_eq!(agree(&place), 0);
        let disk = place.disk(MIB);
        for (at, name) in [(200, "b"), (100, "a"), (300, "c/d")] {
            place.save_at(name, &disk, at);
        }
        assert_eq!(agree(&place), 3);
        // Another version of a point stands in its place, and somebody else's snapshot is none.
        let point = place.points("a").remove(0);
        let older = FileName { kind: FileKind::Snapshot, name: point.id.to_string() };
        let sealed = place.storage.get(&older, 1 << 20).unwrap();
        let pinned = place.repository.retag(&point, &[Retag::Pin], &place.who, &Job::default()).unwrap();
        assert!(pinned.snapshot.tags.iter().any(|tag| tag == PIN_TAG));
        place.repository.put_snapshot(&Snapshot { tags: Vec::new(), ..point.snapshot }).unwrap();
        assert_eq!(agree(&place), 3);
        // The older version is back, as after a change of tags that was cut off: it is not listed beside the newer one.
        place.storage.put(&older, &sealed).unwrap();
        assert_eq!(agree(&place), 3);
        let file = FileName { kind: FileKind::Snapshot, name: place.points("b")[0].id.to_string() };
        place.storage.remove(&file).unwrap();
        assert_eq!(agree(&place), 2);
        let broken = FileName { kind: FileKind::Snapshot, name: SnapshotId::of(b"x").to_string() };
        place.storage.put(&broken, b"x").unwrap();
        assert_eq!(agree(&place), 2);
    }

    #[test]
    fn what_was_open_is_found_to_be_there_no_longer() {
        let place = Place::new();
        place.repository.check_still_there().unwrap();
        let config = FileName { kind: FileKind::Config, name: String::new() };
        let other = Place::new().storage.get(&config, 1 << 20).unwrap();
        place.storage.remove(&config).unwrap();
        place.repository.check_still_there().unwrap_err();
        place.storage.put(&config, &other).unwrap();
        place.repository.check_still_there().unwrap_err();
    }

    /// A hundred thousand points of a thousand machines, in the directory that `NESTLING_CATALOGUE` names; they stay there,
    /// with the password `correct horse`, to be listed by other means.
    #[test]
    #[ignore = "measures, and checks nothing that holds on a busy machine"]
    fn a_hundred_thousand_points() {
        let (temporary, named) = (tempfile::tempdir().unwrap(), std::env::var("NESTLING_CATALOGUE"));
        let place = named.unwrap_or_else(|_| temporary.path().join("vault").to_str().unwrap().to_owned());
        let storage = Access::default().create(&place).unwrap();
        let who = Identity::current();
        let repository = Repository::init(storage, PASSWORD, &who, KdfCost::Standard).unwrap();
        let sample = Place::new();
        sample.save_at("sample", &sample.disk(MIB), 1);
        let like = sample.points("sample").remove(0).snapshot;
        for number in 0..100_000_u64 {
            let machine = number % 1000;
            let mut snapshot = like.clone();
            snapshot.time =
                Timestamp::from_unix_nanoseconds(i64::try_from(number).unwrap() * 900_000_000_000);
            snapshot.paths = vec![format!("/machine-{machine:03}")];
            snapshot.tags.extend([
                format!("vm=00000000-0000-4000-8000-{machine:012}"),
                format!("run=00000000-0000-4000-9000-{number:012}"),
                "consistency=crash".to_owned(),
            ]);
            repository.put_snapshot(&snapshot).unwrap();
        }
        let mut catalogue = Catalogue::new(Summary::of);
        for look in ["the first look", "the second look"] {
            let began = std::time::Instant::now();
            catalogue.look(&repository, &Job::default()).unwrap();
            println!("{look} at {} points: {:?}", catalogue.current.len(), began.elapsed());
        }
    }
}
