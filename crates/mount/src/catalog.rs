//! The folders that points stand in, made from the list of points and nothing else.
//!
//! A machine's name is a path, so a folder can be a machine with points and hold other machines as well. Whoever saved
//! may have chosen names that meet: a machine's folder goes before everything, then points, then the link to the newest,
//! so that nothing that can be read is hidden by what only points to it.

use std::{
    collections::{BTreeMap, HashMap, btree_map},
    sync::Arc,
};

use nestling_vault::{Point, SnapshotId, format::Timestamp};

use crate::names::{LATEST, child, long_point_name, parent, point_name};

/// What stands in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Another folder of machines, by its path.
    Folder(String),
    Point(SnapshotId),
    Latest,
}

#[derive(Debug, Default)]
pub(crate) struct Folder {
    pub(crate) entries: BTreeMap<String, Entry>,
    /// When the newest point in it or below it was. None: the root, of no points.
    pub(crate) time: Option<Timestamp>,
    /// The folder of its newest point. None: it is no machine.
    pub(crate) latest: Option<(String, Timestamp)>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// By path; the root's is empty.
    folders: HashMap<String, Folder>,
    points: HashMap<SnapshotId, Arc<Point>>,
    machines: usize,
}

impl Catalog {
    /// `points` are in the order of their times.
    pub(crate) fn new(points: impl IntoIterator<Item = Arc<Point>>) -> Self {
        let root = (String::new(), Folder::default());
        let mut catalog = Self { folders: HashMap::from([root]), points: HashMap::new(), machines: 0 };
        let points: Vec<Arc<Point>> = points.into_iter().collect();
        for point in &points {
            catalog.add_folders(point);
        }
        for point in points {
            catalog.add_point(point);
        }
        for folder in catalog.folders.values_mut().filter(|folder| folder.latest.is_some()) {
            catalog.machines += 1;
            folder.entries.entry(LATEST.to_owned()).or_insert(Entry::Latest);
        }
        catalog
    }

    fn add_folders(&mut self, point: &Point) {
        let mut path = String::new();
        self.folders.entry(path.clone()).or_default().time = Some(point.snapshot.time);
        for name in point.name.components() {
            let below = child(&path, name);
            let folder = self.folders.entry(path).or_default();
            folder.entries.insert(name.to_owned(), Entry::Folder(below.clone()));
            self.folders.entry(below.clone()).or_default().time = Some(point.snapshot.time);
            path = below;
        }
    }

    fn add_point(&mut self, point: Arc<Point>) {
        let folder = self.folders.entry(point.name.to_string()).or_default();
        // The second name has the whole id, which no other point has.
        for name in [point_name(&point), long_point_name(&point)] {
            if let btree_map::Entry::Vacant(place) = folder.entries.entry(name.clone()) {
                place.insert(Entry::Point(point.id));
                folder.latest = Some((name, point.snapshot.time));
                self.points.insert(point.id, point);
                return;
            }
        }
    }

    pub(crate) fn folder(&self, path: &str) -> Option<&Folder> {
        self.folders.get(path)
    }

    /// The folder that a folder stands in; the root stands in itself.
    pub(crate) fn above(path: &str) -> &str {
        parent(path).unwrap_or_default()
    }

    pub(crate) fn point(&self, id: &SnapshotId) -> Option<&Arc<Point>> {
        self.points.get(id)
    }

    /// How many points and machines there are.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.points.len(), self.machines)
    }
}

#[cfg(test)]
mod tests {
    use nestling_vault::{BlobId, format::snapshot};

    use super::*;

    fn point(name: &str, seconds: u32, id: SnapshotId) -> Arc<Point> {
        let json = format!(
            r#"{{"time":"2026-11-26T22:00:{seconds:02}Z","tree":"{}","paths":["/{name}"],"tags":["nestling"]}}"#,
            BlobId::of(b"")
        );
        let snapshot = snapshot::decode(json.as_bytes()).expect("a snapshot");
        Arc::new(Point::of(id, snapshot).expect("a point"))
    }

    fn id(digits: &str) -> SnapshotId {
        format!("{digits:0<64}").parse().expect("an id")
    }

    fn names(catalog: &Catalog, path: &str) -> Vec<String> {
        catalog.folder(path).expect("a folder").entries.keys().cloned().collect()
    }

    #[test]
    fn machines_stand_in_machines() {
        let points = [point("Lab", 1, id("aa")), point("Lab/Web01", 2, id("bb")), point("Lab", 3, id("cc"))];
        let catalog = Catalog::new(points);
        assert_eq!(names(&catalog, ""), ["Lab"]);
        let (old, new) = ("2026-11-26T22:00:01Z-aa000000", "2026-11-26T22:00:03Z-cc000000");
        assert_eq!(names(&catalog, "Lab"), [old, new, "Web01", "latest"]);
        assert_eq!(names(&catalog, "Lab/Web01"), ["2026-11-26T22:00:02Z-bb000000", "latest"]);
        let lab = catalog.folder("Lab").expect("a folder");
        assert_eq!(lab.latest.as_ref().expect("a link").0, new);
        assert_eq!(lab.entries["Web01"], Entry::Folder("Lab/Web01".to_owned()));
        assert_eq!(lab.time.expect("a time").to_string(), "2026-11-26T22:00:03Z");
        assert_eq!(catalog.counts(), (3, 2));
        assert_eq!(names(&Catalog::new([]), ""), [""; 0]);
    }

    #[test]
    fn names_that_meet_hide_no_point() {
        let (one, other) = (id("aaaaaaaa1"), id("aaaaaaaa2"));
        let catalog = Catalog::new([
            point("Lab", 1, one),
            point("Lab", 1, other),
            point("Lab/latest", 2, id("bb")),
            point("Lab/2026-11-26T22:00:01Z-aaaaaaaa", 3, id("cc")),
        ]);
        let entries = &catalog.folder("Lab").expect("a folder").entries;
        assert_eq!(entries["latest"], Entry::Folder("Lab/latest".to_owned()));
        assert!(matches!(entries["2026-11-26T22:00:01Z-aaaaaaaa"], Entry::Folder(_)));
        for id in [one, other] {
            assert_eq!(entries[&format!("2026-11-26T22:00:01Z-{id}")], Entry::Point(id));
        }
    }

    #[test]
    fn of_two_with_one_short_name_the_second_has_its_whole_id() {
        let (one, other) = (id("aaaaaaaa1"), id("aaaaaaaa2"));
        let catalog = Catalog::new([point("Lab", 1, one), point("Lab", 1, other)]);
        let lab = catalog.folder("Lab").expect("a folder");
        assert_eq!(lab.entries["2026-11-26T22:00:01Z-aaaaaaaa"], Entry::Point(one));
        let long = format!("2026-11-26T22:00:01Z-{other}");
        assert_eq!(lab.entries[&long], Entry::Point(other));
        assert_eq!(lab.latest.as_ref().expect("a link").0, long);
    }
}
