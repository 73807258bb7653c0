//! Stock restic reads what we write: it checks every byte, lists the points and restores the disks.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use nestling_block::{BlockSource, ExtentSet, RawDisk};
use nestling_vault::{
    DiskInput, Existing, Identity, Job, PointDisk, PointName, ReadCache, Repository, RestoreRequest, Retag,
    SaveRequest,
    format::{Timestamp, key::KdfCost},
    restore,
    storage::LocalStorage,
};

const PASSWORD: &str = "correct horse";
const MIB: usize = 1 << 20;

struct Place {
    directory: tempfile::TempDir,
    repository: Arc<Repository>,
}

/// Bytes that look random, are the same each time and cannot be compressed.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn text(seed: u64, length: usize) -> Vec<u8> {
    noise(seed, length).into_iter().map(|byte| b'a' + byte % 16).collect()
}

/// 200 MiB and a bit: text, noise, holes large and small, and an end that is no multiple of anything.
fn image() -> Vec<u8> {
    let mut image = vec![0; 200 * MIB + 12_345];
    image[..3 * MIB].copy_from_slice(&text(1, 3 * MIB));
    image[10 * MIB..14 * MIB].copy_from_slice(&noise(2, 4 * MIB));
    image[40 * MIB + 700..41 * MIB].copy_from_slice(&text(3, MIB - 700));
    for number in 0..20 {
        let at = (100 + number) * MIB + 4096 * number;
        image[at..at + 4096].copy_from_slice(&text(number as u64 + 10, 4096));
    }
    let end = image.len();
    image[end - 100..].copy_from_slice(&noise(4, 100));
    image
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let storage = Arc::new(LocalStorage::create(&directory.path().join("repo")).expect("a storage"));
        let repository = Repository::init(storage, PASSWORD.as_bytes(), &Identity::current(), KdfCost::Fast)
            .expect("a repository");
        Self { directory, repository: Arc::new(repository) }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).expect("a file");
        path
    }

    fn save(&self, name: &str, image: &Path, changed: Option<&ExtentSet>) -> nestling_vault::SaveReport {
        let name: PointName = name.parse().expect("a name");
        let source = RawDisk::open(image).expect("an image");
        let job = Job::default();
        let parent = changed.map(|_| self.repository.find_point(&name, None, &job).expect("a parent"));
        let report = self.repository.save(
            &SaveRequest {
                name: &name,
                disks: &[DiskInput { name: "disk0", source: &source, changed }],
                description: Some(br#"{"processors":2}"#),
                time: Timestamp::from(std::time::SystemTime::now()),
                tags: &["nightly".to_owned()],
                parent: parent.as_ref(),
                who: &Identity::current(),
                threads: 2,
            },
            &job,
        );
        report.expect("saved")
    }

    fn disk(&self, name: &str) -> PointDisk {
        let job = Job::default();
        let index = Arc::new(self.repository.load_index(&job).expect("an index"));
        let point = self.repository.find_point(&name.parse().expect("a name"), None, &job).expect("a point");
        PointDisk::open(&self.repository, &index, &point, None, &ReadCache::new(1 << 20)).expect("a disk")
    }

    /// Standard output of restic.
    fn restic(&self, arguments: &[&str]) -> String {
        let output = Command::new("restic")
            .arg("-r")
            .arg(self.path("repo"))
            .args(["--no-cache", "--quiet"])
            .args(arguments)
            .env("RESTIC_PASSWORD", PASSWORD)
            .output()
            .expect("restic runs");
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "restic {arguments:?}: {out}{error}");
        out.into_owned()
    }
}

fn restic_is_there() -> bool {
    Command::new("restic").arg("version").output().is_ok_and(|output| output.status.success())
}

/// restic learned it with 0.15.
fn restic_restores_sparse() -> bool {
    let help = Command::new("restic").args(["restore", "--help"]).output().expect("restic runs");
    String::from_utf8_lossy(&help.stdout).contains("--sparse")
}

#[test]
fn a_disk_comes_back_by_ourselves_and_by_restic() {
    let place = Place::new();
    let bytes = image();
    let path = place.write("disk.raw", &bytes);
    let report = place.save("Server2016/Web01", &path, None);
    assert_eq!(report.size_bytes, bytes.len() as u64);

    let disk = place.disk("Server2016/Web01");
    let mut back = vec![1; bytes.len()];
    disk.read_at(&mut back, 0).expect("reads");
    assert!(back == bytes);
    let out = place.path("back.raw");
    let target = RawDisk::create(&out, bytes.len() as u64).expect("a target");
    let index = Arc::new(place.repository.load_index(&Job::default()).expect("an index"));
    let request = RestoreRequest {
        repository: &place.repository,
        index: &index,
        disk: &disk,
        target: &target,
        existing: Existing::Zeroes,
        ranges: None,
        threads: 2,
    };
    restore(&request, &Job::default()).expect("restored");
    assert!(fs::read(&out).expect("back") == bytes);

    if !restic_is_there() {
        eprintln!("skipped: restic is not installed");
        return;
    }
    place.restic(&["check", "--read-data"]);
    let listed = place.restic(&["snapshots", "--json"]);
    assert!(listed.contains(r#""paths":["/Server2016/Web01"]"#) && listed.contains("nightly"), "{listed}");
    let target = place.path("restored");
    let sparse = restic_restores_sparse();
    let mut arguments = vec!["restore", "latest", "--target", target.to_str().expect("a path")];
    arguments.extend(sparse.then_some("--sparse"));
    place.restic(&arguments);
    let mut segments: Vec<PathBuf> = Vec::new();
    collect(&target.join("Server2016/Web01/disk0"), &mut segments);
    segments.sort();
    let joined: Vec<u8> = segments.iter().flat_map(|path| fs::read(path).expect("a segment")).collect();
    assert!(joined == bytes, "restic's files, joined in the order of their names, are the disk");
    let allocated: u64 = segments
        .iter()
        .map(|path| std::os::unix::fs::MetadataExt::blocks(&fs::metadata(path).expect("a segment")) * 512)
        .sum();
    assert!(!sparse || allocated < 40 * MIB as u64, "holes are holes: {allocated}");
}

fn collect(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        if entry.path().is_dir() { collect(&entry.path(), found) } else { found.push(entry.path()) }
    }
}

#[test]
fn what_did_not_change_is_neither_read_nor_stored() {
    let place = Place::new();
    let mut bytes = image();
    let path = place.write("disk.raw", &bytes);
    let full = place.save("web", &path, None);
    assert!(full.read_bytes > 8 * MIB as u64);
    let again = place.save("web", &path, None);
    assert_eq!((again.new_bytes, again.stored.packs), (0, 0));

    bytes[11 * MIB..11 * MIB + 10].fill(7);
    fs::write(&path, &bytes).expect("a change");
    let changed: ExtentSet = std::iter::once(11 * MIB as u64..11 * MIB as u64 + 65_536).collect();
    let next = place.save("web", &path, Some(&changed));
    assert!(next.read_in_full.is_empty());
    assert_eq!((next.read_bytes, next.new_bytes), (128 << 10, 128 << 10));
    let mut back = vec![1; bytes.len()];
    place.disk("web").read_at(&mut back, 0).expect("reads");
    assert!(back == bytes);
    if restic_is_there() {
        place.restic(&["check", "--read-data"]);
        assert_eq!(place.restic(&["snapshots", "--json"]).matches("\"short_id\"").count(), 3);
    }
}

#[test]
fn pins_and_forgotten_points_are_what_restic_sees() {
    let place = Place::new();
    let path = place.write("disk.raw", &text(1, 3 * MIB));
    let (first, second) = (place.save("web", &path, None).point, place.save("web", &path, None).point);
    let (job, who) = (Job::default(), Identity::current());
    let now = Timestamp::from(std::time::SystemTime::now());
    let point = place.repository.find_point(&"web".parse().expect("a name"), Some(&first.to_string()), &job);
    let pinned = place
        .repository
        .retag(&point.expect("a point"), &[Retag::Pin, Retag::Add("gold".into())], &who, &job)
        .expect("pinned");
    let plan = place.repository.forget_plan_of(&[second], now, &job).expect("a plan");
    place.repository.forget(&plan, now, &who, &job).expect("forgotten");
    if !restic_is_there() {
        return;
    }
    let listed = place.restic(&["snapshots", "--json"]);
    assert_eq!(listed.matches("\"short_id\"").count(), 1, "{listed}");
    assert!(listed.contains(&pinned.id.to_string()) && listed.contains(r#""pin","gold""#), "{listed}");
    assert!(listed.contains(&format!(r#""original":"{first}""#)), "{listed}");
    // restic's own change of tags gives a point again, under its first id.
    place.restic(&["tag", "--add", "silver", "latest"]);
    let points = place.repository.points(None, &job).expect("points");
    assert_eq!(points.iter().map(nestling_vault::Point::identity).collect::<Vec<_>>(), [first]);
    assert!(points[0].snapshot.tags.contains(&"silver".to_owned()));
    place.restic(&["check", "--read-data"]);
}

/// The commands of docs/vault-format.md, as they stand there.
#[test]
fn three_commands_of_stock_tools_bring_a_disk_back() {
    if !restic_is_there() {
        return;
    }
    let place = Place::new();
    let bytes = image();
    let path = place.write("disk.raw", &bytes);
    let report = place.save("Server2016/Web 01", &path, None);
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/vault-format.md"));
    let text = text.expect("the document");
    let blocks: Vec<&str> =
        text.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(blocks.len(), 2);
    for block in blocks {
        let script = block
            .replace("DIR/NAME/DISK", "'restored/Server2016/Web 01/disk0'")
            .replace("/NAME/DISK", "'/Server2016/Web 01/disk0'")
            .replace("/NAME", "'/Server2016/Web 01'")
            .replace("REPO", "repo")
            .replace("DIR", "restored")
            .replace(" ID ", &format!(" {} ", report.point))
            .replace("disk.raw", "back.raw");
        let output = Command::new("sh")
            .args(["-euc", &script])
            .current_dir(place.directory.path())
            .env("RESTIC_PASSWORD", PASSWORD)
            .output()
            .expect("a shell");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}: {error}");
        let back = place.path("back.raw");
        assert!(fs::read(&back).expect("the image") == bytes, "{script}: {error}");
        let blocks = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&back).expect("the image"));
        assert!(blocks * 512 < 40 * MIB as u64, "it is sparse: {blocks}");
        fs::remove_file(back).expect("removed");
    }
}

#[test]
fn a_copied_a_rebuilt_and_a_repaired_repository_pass_restics_check() {
    let (here, there) = (Place::new(), Place::new());
    let path = here.write("disk.raw", &image());
    here.save("web", &path, None);
    let (job, who) = (Job::default(), Identity::current());
    let points = here.repository.points(None, &job).expect("points");
    here.repository.copy_points(&points, &there.repository, &who, &job).expect("copied");
    let report = there.repository.rebuild_index(&who, &job).expect("rebuilt");
    assert!(report.defects.is_empty() && report.packs > 0);
    if !restic_is_there() {
        return;
    }
    there.restic(&["check", "--read-data"]);
    let target = there.path("restored");
    there.restic(&["restore", "latest", "--target", target.to_str().expect("a path")]);
    let mut segments: Vec<PathBuf> = Vec::new();
    collect(&target.join("web/disk0"), &mut segments);
    segments.sort();
    let joined: Vec<u8> = segments.iter().flat_map(|path| fs::read(path).expect("a segment")).collect();
    assert!(joined == image());

    // A byte of the largest pack rots.
    let mut packs = Vec::new();
    collect(&there.path("repo/data"), &mut packs);
    packs.sort_by_key(|path| fs::metadata(path).expect("a pack").len());
    let pack = packs.pop().expect("a pack");
    let mut bytes = fs::read(&pack).expect("a pack");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let writable = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    fs::set_permissions(&pack, writable).expect("writable");
    fs::write(&pack, bytes).expect("damaged");
    let plan = there.repository.repair_plan(&who, &job).expect("a plan");
    assert_eq!((plan.packs.len(), plan.points.len()), (1, 1), "{plan}");
    let report = there.repository.repair(plan, false, &job).expect("repaired");
    assert_eq!(report.mended.len(), 1);
    there.restic(&["check", "--read-data"]);
    let listed = there.restic(&["snapshots", "--json"]);
    assert!(listed.contains("damaged") && listed.matches("\"short_id\"").count() == 1, "{listed}");
    there.restic(&["restore", "latest", "--target", there.path("again").to_str().expect("a path")]);
    there.restic(&["prune"]);
    there.restic(&["check", "--read-data"]);
}
