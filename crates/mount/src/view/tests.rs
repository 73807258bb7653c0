//! The view on a repository in memory, as the kernel would ask it.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use fuser::Errno;
use nestling_block::{BlockTarget, MemoryDisk};
use nestling_vault::{
    BlobId, DiskInput, Identity, Job, Repository, SaveRequest, SnapshotId, VaultError,
    format::{Timestamp, key::KdfCost},
    storage::{FileKind, FileName, MemoryStorage, Storage},
};

use super::{Host, View};

const MIB: u64 = 1 << 20;

/// Remembers what it was told; refuses to keep anything when it is to.
#[derive(Default)]
struct Told {
    kept: Mutex<Vec<Vec<BlobId>>>,
    lines: Mutex<Vec<String>>,
    refuses: AtomicBool,
}

impl Host for Told {
    fn keep(&self, trees: &[BlobId]) -> Result<(), VaultError> {
        if self.refuses.load(Relaxed) {
            return Err(VaultError::LockLost);
        }
        self.kept.lock().expect("a list").push(trees.to_vec());
        Ok(())
    }

    fn warn(&self, sentence: &str) {
        self.lines.lock().expect("a list").push(sentence.to_owned());
    }
}

impl Told {
    fn lines(&self) -> Vec<String> {
        std::mem::take(&mut *self.lines.lock().expect("a list"))
    }

    fn kept(&self) -> Vec<Vec<BlobId>> {
        std::mem::take(&mut *self.kept.lock().expect("a list"))
    }
}

struct Place {
    storage: Arc<MemoryStorage>,
    repository: Arc<Repository>,
    told: Arc<Told>,
}

impl Place {
    fn new() -> Self {
        let storage = Arc::new(MemoryStorage::new());
        let repository = Repository::init(storage.clone(), b"password", &Identity::current(), KdfCost::Fast)
            .expect("made");
        Self { storage, repository: Arc::new(repository), told: Arc::default() }
    }

    /// The point's tree.
    fn save(&self, name: &str, byte: u8) -> (SnapshotId, BlobId) {
        let disk = MemoryDisk::new("disk", 40 * MIB + 5);
        disk.write_at(&[byte; 1000], MIB).expect("written");
        let request = SaveRequest {
            name: &name.parse().expect("a name"),
            disks: &[DiskInput { name: "disk0", source: &disk, changed: None }],
            description: Some(&[byte]),
            time: Timestamp::from_unix_nanoseconds(i64::from(byte) * 1_000_000_000),
            tags: &[],
            parent: None,
            who: &Identity::current(),
            threads: 1,
        };
        let id = self.repository.save(&request, &Job::default()).expect("saved").point;
        (id, self.repository.snapshot(&id).expect("a snapshot").tree)
    }

    fn view(&self) -> View {
        View::new(&self.repository, self.told.clone(), &Job::default()).expect("a view")
    }

    fn remove(&self, kind: FileKind, name: &str) {
        self.storage.remove(&FileName { kind, name: name.to_owned() }).expect("removed");
    }
}

/// The number of what a path leads to.
fn find(view: &View, path: &str) -> Result<u64, Errno> {
    path.split('/').try_fold(1, |folder, name| view.lookup(folder, name).map(|node| node.number))
}

fn newest(view: &View, machine: &str, file: &str) -> Result<u64, Errno> {
    let link = view.link(find(view, &format!("{machine}/latest"))?)?;
    find(view, &format!("{machine}/{link}/{file}"))
}

#[test]
fn what_is_open_is_kept_and_nothing_else() {
    let place = Place::new();
    let (one, one_tree) = place.save("one", 1);
    let (_, two_tree) = place.save("two", 2);
    let view = place.view();
    let (first, second) = (newest(&view, "one", "disk0.raw"), newest(&view, "two", "vm.json"));
    let (first, second) = (first.expect("a disk"), second.expect("a description"));
    assert!(place.told.kept().is_empty());
    view.open(first).expect("opened");
    view.open(first).expect("opened");
    assert_eq!(place.told.kept(), [[one_tree]]);
    view.close(first);
    view.open(second).expect("opened");
    let mut kept = place.told.kept().remove(0);
    kept.sort();
    let mut both = [one_tree, two_tree];
    both.sort();
    assert_eq!(kept, both);
    view.close(first);
    view.close(second);

    // A point that was forgotten since it was listed.
    let (_, three_tree) = place.save("three", 3);
    let view = place.view();
    let first = newest(&view, "one", "disk0.raw").expect("a disk");
    place.remove(FileKind::Snapshot, &one.to_string());
    assert_eq!(view.open(first), Err(Errno::ENOENT));
    view.open(newest(&view, "three", "disk0.raw").expect("a disk")).expect("opened");
    assert_eq!(place.told.kept().last(), Some(&vec![three_tree]));
    assert_eq!(place.told.lines(), [""; 0]);

    // What cannot be kept is not opened.
    place.told.refuses.store(true, Relaxed);
    assert_eq!(view.open(newest(&view, "two", "disk0.raw").expect("a disk")), Err(Errno::EIO));
    assert_eq!(place.told.lines().len(), 1);
}

#[test]
fn bytes_end_where_the_file_ends() {
    let place = Place::new();
    place.save("one", 7);
    let view = place.view();
    let disk = newest(&view, "one", "disk0.raw").expect("a disk");
    let node = view.node(disk).expect("known");
    assert_eq!((node.size_bytes, node.stored_bytes, node.is_counted), (40 * MIB + 5, 128 << 10, true));
    assert_eq!(view.read(disk, MIB + 998, 4).expect("read"), [7, 7, 0, 0]);
    assert_eq!(view.read(disk, 40 * MIB + 3, 100).expect("read"), [0, 0]);
    assert_eq!(view.read(disk, u64::MAX, 100).expect("read"), [0; 0]);
    assert_eq!((view.seek(disk, 0, false), view.seek(disk, MIB, true)), (Ok(MIB), Ok(MIB + (128 << 10))));
    assert_eq!(view.seek(disk, 2 * MIB, false), Err(Errno::ENXIO));
    assert_eq!(view.seek(disk, 40 * MIB + 5, true), Err(Errno::ENXIO));

    let about = newest(&view, "one", "vm.json").expect("a description");
    assert_eq!((view.read(about, 0, 10), view.read(about, 1, 10)), (Ok(vec![7]), Ok(vec![])));
    assert_eq!((view.seek(about, 0, true), view.seek(about, 1, false)), (Ok(1), Err(Errno::ENXIO)));

    assert_eq!(view.read(1, 0, 10), Err(Errno::EISDIR));
    assert_eq!(view.read(12345, 0, 10), Err(Errno::ENOENT));
    assert_eq!(find(&view, "one/latest/disk0.raw"), Err(Errno::ENOTDIR));
    assert_eq!(newest(&view, "one", "disk0"), Err(Errno::ENOENT));
}

#[test]
fn a_lost_pack_is_told_once_and_leaves_its_point_out() {
    let place = Place::new();
    place.save("one", 1);
    let packs = |place: &Place| -> Vec<String> {
        let listed = place.storage.list(FileKind::Pack).expect("listed");
        listed.into_iter().map(|file| file.name).collect()
    };
    let before = packs(&place);
    place.save("two", 2);
    let view = place.view();
    for pack in packs(&place).iter().filter(|pack| !before.contains(pack)) {
        place.remove(FileKind::Pack, pack);
    }
    assert_eq!(newest(&view, "two", "disk0.raw"), Err(Errno::EIO));
    let told = place.told.lines();
    assert!(told.len() == 1 && told[0].starts_with("two@") && told[0].contains("is left out"), "{told:?}");
    assert_eq!(newest(&view, "two", "disk0.raw"), Err(Errno::ENOENT));
    let disk = newest(&view, "one", "disk0.raw").expect("a disk");
    assert_eq!(view.read(disk, MIB, 1).expect("read"), [1]);
    assert_eq!(view.counts(), (1, 1));
    let names: Vec<_> = view.list(1).expect("listed").into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, [".", "..", "one"]);
    assert_eq!(place.told.lines(), [""; 0]);
}

#[test]
fn what_an_old_index_does_not_know_is_looked_up_in_a_new_one() {
    let place = Place::new();
    place.save("one", 1);
    let view = place.view();
    newest(&view, "one", "disk0.raw").expect("the index is read");
    place.save("two", 2);
    // As if the last look were long ago.
    super::locked(&view.looked).at = None;
    let disk = newest(&view, "two", "disk0.raw").expect("a disk");
    assert_eq!(view.read(disk, MIB, 1).expect("read"), [2]);
    assert_eq!(place.told.lines(), [""; 0]);
}
