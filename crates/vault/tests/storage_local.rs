//! A repository in a directory, on file systems that fill up, become read-only or hold surprises, and with writers
//! that are killed.

#![expect(clippy::unwrap_used, reason = "what a test cannot do without ends it")]

use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nestling_vault::storage::{FileKind, FileName, LocalStorage, Storage, StorageErrorKind};
use tempfile::TempDir;

fn file(kind: FileKind, n: u32) -> FileName {
    FileName::new(kind, format!("{n:064x}")).unwrap()
}

fn repository() -> (TempDir, LocalStorage) {
    let directory = tempfile::tempdir().unwrap();
    let storage = LocalStorage::create(directory.path()).unwrap();
    (directory, storage)
}

/// Every file below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

fn is_temporary(path: &Path) -> bool {
    path.to_string_lossy().contains("-tmp-")
}

/// A small file system in a file. Unmounted, and its loop device detached, when it goes out of scope.
struct Mounted {
    directory: TempDir,
}

impl Mounted {
    /// Nothing, with a line that says so, where this user cannot mount.
    fn new(test: &str, mebibytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let image = directory.path().join("image");
        fs::File::create(&image).unwrap().set_len(mebibytes << 20).unwrap();
        fs::create_dir(directory.path().join("mount")).unwrap();
        let mounted = Self { directory };
        let made = run("mkfs.ext4", &["-q", "-m", "0", &image.display().to_string()])
            && run(
                "mount",
                &["-o", "loop", &image.display().to_string(), &mounted.path().display().to_string()],
            );
        if !made {
            // Not captured, so that a run says what it did not look at.
            let _ = writeln!(io::stderr(), "skipped: {test}: no file system could be mounted");
        }
        made.then_some(mounted)
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("mount")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // Nothing to unmount where mounting failed. Lazily, should a panic have left a file open.
        let path = self.path().display().to_string();
        if run("mountpoint", &["-q", &path]) && !run("umount", &[&path]) {
            run("umount", &["--lazy", &path]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let output = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    output.is_ok_and(|status| status.success())
}

#[test]
fn a_full_file_system_is_told_and_loses_nothing() {
    let Some(mounted) = Mounted::new("a_full_file_system_is_told_and_loses_nothing", 16) else { return };
    let storage = LocalStorage::create(&mounted.path().join("repository")).unwrap();
    let content = vec![7; 1 << 20];
    let mut stored = 0;
    let error = loop {
        match storage.put(&file(FileKind::Pack, stored), &content) {
            Ok(()) => stored += 1,
            Err(error) => break error,
        }
        assert!(stored < 32, "more was stored than there is room for");
    };
    assert_eq!(error.kind, StorageErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("free some or add some"), "{error}");
    assert!(!error.kind.is_transient());
    assert!(stored > 2);
    assert_eq!(storage.list(FileKind::Pack).unwrap().len(), stored as usize);
    for n in 0..stored {
        assert_eq!(storage.get(&file(FileKind::Pack, n), 1 << 20).unwrap(), content);
    }
    assert!(!files(&mounted.path()).iter().any(|path| is_temporary(path)), "what was torn is gone");
    // With room again it goes on.
    storage.remove(&file(FileKind::Pack, 0)).unwrap();
    storage.put(&file(FileKind::Pack, stored), &content).unwrap();
}

#[test]
fn a_file_system_that_became_read_only_is_told() {
    let Some(mounted) = Mounted::new("a_file_system_that_became_read_only_is_told", 16) else { return };
    let storage = LocalStorage::create(&mounted.path().join("repository")).unwrap();
    storage.put(&file(FileKind::Pack, 1), b"pack").unwrap();
    let path = mounted.path().display().to_string();
    assert!(run("mount", &["-o", "remount,ro", &path]));
    for error in [
        storage.put(&file(FileKind::Pack, 2), b"pack").unwrap_err(),
        storage.put(&FileName::config(), b"config").unwrap_err(),
        storage.remove(&file(FileKind::Pack, 1)).unwrap_err(),
    ] {
        assert_eq!(error.kind, StorageErrorKind::ReadOnly, "{error}");
        assert!(error.to_string().contains("mount it writable"), "{error}");
    }
    // Readers go on, and a repository that was never written to through this process opens as well.
    assert_eq!(storage.get(&file(FileKind::Pack, 1), 4).unwrap(), b"pack");
    let reader = LocalStorage::open(&mounted.path().join("repository")).unwrap();
    reader.get_range(&file(FileKind::Pack, 1), 1, &mut [0; 3]).unwrap();
    assert!(run("mount", &["-o", "remount,rw", &path]));
    storage.put(&file(FileKind::Pack, 2), b"pack").unwrap();
}

#[test]
fn only_the_owner_reads_and_nobody_writes() {
    let (directory, storage) = repository();
    for kind in FileKind::ALL {
        let file = if kind == FileKind::Config { FileName::config() } else { file(kind, 1) };
        storage.put(&file, b"bytes").unwrap();
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    let all = files(directory.path());
    assert_eq!(all.len(), 7);
    assert!(all.iter().all(|path| mode(path) == 0o400), "{all:?}");
    for name in ["data", "data/00", "data/ff", "keys", "locks", "snapshots", "index", "nestling"] {
        assert_eq!(mode(&directory.path().join(name)), 0o700, "{name}");
    }
}

#[test]
fn symbolic_links_lead_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let storage = LocalStorage::open(directory.path()).unwrap();
    // A directory of the repository, one below it, and a file.
    symlink(outside.path(), directory.path().join("index")).unwrap();
    fs::create_dir(directory.path().join("data")).unwrap();
    symlink(outside.path(), directory.path().join("data/00")).unwrap();
    fs::create_dir(directory.path().join("keys")).unwrap();
    let secret = outside.path().join("secret");
    fs::write(&secret, b"secret").unwrap();
    symlink(&secret, directory.path().join("keys").join(file(FileKind::Key, 1).name)).unwrap();

    for file in [file(FileKind::Index, 1), file(FileKind::Pack, 1), file(FileKind::Key, 1)] {
        for error in [
            storage.put(&file, b"bytes").unwrap_err(),
            storage.get(&file, 100).unwrap_err(),
            storage.get_range(&file, 0, &mut [0; 6]).unwrap_err(),
        ] {
            assert_eq!(error.kind, StorageErrorKind::SymbolicLink, "{error}");
        }
    }
    assert!(storage.list(FileKind::Key).unwrap().is_empty());
    assert_eq!(storage.list(FileKind::Pack).unwrap_err().kind, StorageErrorKind::SymbolicLink);
    assert_eq!(files(outside.path()), [secret]);
    // Its user may name the root by a link.
    let link = outside.path().join("repository");
    symlink(directory.path(), &link).unwrap();
    LocalStorage::open(&link).unwrap().put(&file(FileKind::Snapshot, 1), b"bytes").unwrap();
}

#[test]
fn foreign_names_are_left_out() {
    let (directory, storage) = repository();
    storage.put(&file(FileKind::Pack, 1), b"pack").unwrap();
    let name = file(FileKind::Pack, 1).name;
    for foreign in ["data/00/README", "data/README", "index/x", "notes", &format!("data/01/{name}")] {
        fs::write(directory.path().join(foreign), b"x").unwrap();
    }
    fs::create_dir(directory.path().join("data/00").join("0".repeat(64))).unwrap();
    assert!(storage.list(FileKind::Index).unwrap().is_empty());
    let listed = storage.list(FileKind::Pack).unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
}

#[test]
fn a_repository_that_was_removed_does_not_pass_for_empty() {
    let (directory, storage) = repository();
    storage.put(&file(FileKind::Pack, 1), b"pack").unwrap();
    fs::remove_dir_all(directory.path()).unwrap();
    assert_eq!(storage.list(FileKind::Pack).unwrap_err().kind, StorageErrorKind::NotFound);
    assert!(storage.put(&file(FileKind::Pack, 2), b"pack").is_err());
    assert_eq!(LocalStorage::open(directory.path()).unwrap_err().kind, StorageErrorKind::NotFound);
}

#[test]
fn torn_writes_are_swept_when_they_are_old() {
    let (directory, storage) = repository();
    let name = file(FileKind::Pack, 1).name;
    // As a killed writer of ours and a killed restic leave them.
    let torn = [
        format!("data/00/{name}-tmp-_0123456789abcdef"),
        format!("index/{name}-tmp-123456"),
        "config-tmp-_0123456789abcdef".to_owned(),
    ];
    for torn in &torn {
        fs::write(directory.path().join(torn), b"x").unwrap();
    }
    fs::write(directory.path().join("data/00/mine"), b"x").unwrap();
    assert_eq!(storage.sweep_temporary(Duration::from_secs(3600)).unwrap(), 0);
    assert!(storage.list(FileKind::Pack).unwrap().is_empty());
    assert_eq!(storage.sweep_temporary(Duration::ZERO).unwrap(), 3);
    assert_eq!(files(directory.path()), [directory.path().join("data/00/mine")]);
}

/// More files than are kept open, read at random by several threads while others come and go.
#[test]
fn random_reads_of_many_files_use_few_handles() {
    let (directory, storage) = repository();
    for n in 0..150 {
        storage.put(&file(FileKind::Pack, n), &[n as u8; 64]).unwrap();
    }
    thread::scope(|scope| {
        for thread in 0..4 {
            let storage = &storage;
            scope.spawn(move || {
                for i in 0..600 {
                    let n = (i * 7 + thread * 31) % 150;
                    let mut buf = [0; 16];
                    storage.get_range(&file(FileKind::Pack, n), u64::from(i) % 48, &mut buf).unwrap();
                    assert_eq!(buf, [n as u8; 16]);
                }
            });
        }
    });
    // Other tests of this process open files at the same time, elsewhere; a handle may be closed while it is looked at.
    let handles =
        fs::read_dir("/proc/self/fd").unwrap().filter_map(|handle| fs::read_link(handle.ok()?.path()).ok());
    let open = handles.filter(|file| file.starts_with(directory.path().join("data"))).count();
    assert!((1..=128).contains(&open), "{open} of 150 files are open");
}

#[test]
fn an_extra_file_that_another_process_replaced_is_read_anew() {
    let (directory, storage) = repository();
    let hints = FileName::new(FileKind::Extra, "hints").unwrap();
    storage.put(&hints, b"old").unwrap();
    let mut buf = [0; 3];
    storage.get_range(&hints, 0, &mut buf).unwrap();
    let other = LocalStorage::open(directory.path()).unwrap();
    other.remove(&hints).unwrap();
    other.put(&hints, b"new").unwrap();
    storage.get_range(&hints, 0, &mut buf).unwrap();
    assert_eq!(&buf, b"new");
}

/// Content of which a torn copy is seen at once.
fn content(n: u32) -> Vec<u8> {
    (0..200_000u32).map(|i| (i.wrapping_mul(n + 1) >> 5) as u8).collect()
}

const WRITER: &str = "NESTLING_TEST_WRITER";

/// Not a test of its own: what the process that is killed does. It says what it has stored.
#[test]
fn writer() {
    let Ok(path) = std::env::var(WRITER) else { return };
    let storage = LocalStorage::open(Path::new(&path)).unwrap();
    for n in 0.. {
        storage.put(&file(FileKind::Pack, n), &content(n)).unwrap();
        println!("stored {n}");
    }
}

/// Two writers store the same names in the same repository, and are killed in the middle, again and again.
#[test]
fn killed_writers_leave_whole_files_only() {
    let (directory, storage) = repository();
    for round in 0..20u32 {
        let mut writers = [(); 2].map(|()| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "writer", "--nocapture"])
                .env(WRITER, directory.path())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        });
        let lines = BufReader::new(writers[0].stdout.take().unwrap()).lines().map_while(Result::ok);
        // Killed after it reported so many, at whatever it does next.
        let wanted = round % 5 + 1;
        let said = lines.filter_map(|line| line.rsplit_once("stored ")?.1.parse::<u32>().ok());
        let last = said.take(wanted as usize).last().expect("it stores something");
        for writer in &mut writers {
            writer.kill().unwrap();
            writer.wait().unwrap();
        }
        for listed in storage.list(FileKind::Pack).unwrap() {
            let n = u32::from_str_radix(&listed.name[56..], 16).unwrap();
            assert!(storage.get(&file(FileKind::Pack, n), 1 << 20).unwrap() == content(n), "{n} is torn");
        }
        for n in 0..=last {
            storage.get(&file(FileKind::Pack, n), 1 << 20).unwrap();
        }
        // The next ones start from nothing again, but for what was torn.
        for n in storage.list(FileKind::Pack).unwrap() {
            storage.remove(&FileName::new(FileKind::Pack, n.name).unwrap()).unwrap();
        }
    }
    let torn = files(directory.path());
    assert!(torn.iter().all(|path| is_temporary(path)), "{torn:?}");
    assert_eq!(storage.sweep_temporary(Duration::ZERO).unwrap(), torn.len() as u64);
}
