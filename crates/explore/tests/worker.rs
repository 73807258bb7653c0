//! A reader in a process of its own: what it reads is the same, and what goes wrong in it costs one process.
//!
//! Its own program, because the process's standard streams are sockets: started with a word, it is the worker.

mod support;

use std::{
    fs,
    io::{Read, Write},
    os::unix::net::UnixStream,
    panic::catch_unwind,
    path::Path,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use nestling_block::{
    BlockSource, MemoryDisk, RawDisk,
    nbd::{Export, NbdAddress, NbdServer, ServerLimits},
};
use nestling_explore::{
    Cursor, ErrorKind, ExploreError, FileSource, Kind, Place, Result,
    client::{Disk, Worker, WorkerProgram},
    find, open,
    worker::{Limits, answer, confine, serve, standard_streams},
};
use support::*;

const TESTS: &[(&str, fn())] = &[
    ("a_file_system_is_the_same_in_another_process", a_file_system_is_the_same_in_another_process),
    ("a_disk_inside_a_disk_in_two_processes", a_disk_inside_a_disk_in_two_processes),
    ("three_disks_deep_in_one_process", three_disks_deep_in_one_process),
    ("images_lead_nowhere_else", images_lead_nowhere_else),
    ("a_process_that_crashes_is_an_error", a_process_that_crashes_is_an_error),
    ("a_process_that_hangs_is_ended", a_process_that_hangs_is_ended),
    ("a_process_that_grows_is_ended", a_process_that_grows_is_ended),
    ("a_process_may_do_nothing_else", a_process_may_do_nothing_else),
    ("a_process_that_lies_is_ended", a_process_that_lies_is_ended),
    ("a_process_ends_with_its_client", a_process_ends_with_its_client),
    ("a_program_that_is_not_there_is_told", a_program_that_is_not_there_is_told),
    ("memory_stays_small", memory_stays_small),
    ("a_process_outlives_the_thread_that_started_it", a_process_outlives_the_thread_that_started_it),
    ("a_disk_is_read_through_a_process", a_disk_is_read_through_a_process),
    (
        "a_machine_that_dies_is_an_error_with_its_last_words",
        a_machine_that_dies_is_an_error_with_its_last_words,
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(word) = arguments.first().and_then(|first| first.strip_prefix("worker-")) {
        return if be_a_worker(word).is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut out = std::io::stdout();
    let wanted: Vec<_> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let (mut passed, mut failed, mut left_out) = (0, 0, 0);
    for (name, test) in TESTS {
        if !wanted.is_empty() && !wanted.iter().any(|filter| name.contains(filter.as_str())) {
            left_out += 1;
            continue;
        }
        let done = arguments.iter().any(|a| a == "--list") || catch_unwind(test).is_ok();
        if done {
            passed += 1;
        } else {
            failed += 1;
        }
        let _ = writeln!(out, "test {name} ... {}", if done { "ok" } else { "FAILED" });
    }
    let result = if failed == 0 { "ok" } else { "FAILED" };
    let _ = writeln!(
        out,
        "\ntest result: {result}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {left_out} filtered out"
    );
    ExitCode::from(u8::from(failed > 0))
}

/// As the word says: right, or in a way that a reader with a fault would behave once it has read something.
fn be_a_worker(word: &str) -> Result<()> {
    if word == "serve" {
        return serve(&Limits::default());
    }
    let (disk, mut control) = standard_streams()?;
    confine(&Limits { address_bytes: 256 << 20, ..Limits::default() })?;
    // The first request.
    let mut head = [0; 8];
    control.read_exact(&mut head).expect("a request");
    match word {
        "crash" => panic!("a fault \x1b[31m in a reader"),
        "hang" => loop {
            std::hint::spin_loop();
        },
        "grow" => {
            let mut held = Vec::new();
            loop {
                held.push(vec![1_u8; 1 << 20]);
            }
        }
        "open" => drop(fs::File::open("/etc/passwd")),
        "connect" => drop(UnixStream::connect("/nowhere")),
        "execute" => drop(std::process::Command::new("/bin/true").status()),
        "thread" => drop(std::thread::Builder::new().spawn(|| {})),
        "lie" => control.write_all(&[0xff; 64]).expect("sent"),
        "other" => control.write_all(b"\x09\0\0\0\0\0\0\0\"Nothing\"").expect("sent"),
        "more" => control.write_all(b"\x0f\0\0\0\xff\xff\xff\x00{\"Extents\":[[1]").expect("sent"),
        _ => panic!("no such word"),
    }
    // Whoever gets here was not stopped: it goes on as if nothing had been.
    answer(disk, &control)
}

struct Served {
    dir: tempfile::TempDir,
    _server: NbdServer,
}

fn served(source: Arc<dyn BlockSource>) -> Served {
    let dir = scratch();
    let address = NbdAddress::Unix(dir.path().join("socket"));
    let export = Export::read_only("volume", source);
    Served {
        _server: NbdServer::start(&address, vec![export], ServerLimits::default()).expect("listening"),
        dir,
    }
}

impl Served {
    fn start(&self, word: &str, timeout: Duration) -> Result<Worker> {
        let program = WorkerProgram {
            program: std::env::current_exe().expect("this program"),
            arguments: vec![format!("worker-{word}").into()],
        };
        let socket = UnixStream::connect(self.dir.path().join("socket")).expect("connected");
        Worker::start(&program, Disk { socket, export: "volume".into(), name: "the disk".into() }, timeout)
    }

    fn failure(&self, word: &str) -> ExploreError {
        self.start(word, Duration::from_secs(60)).err().expect("it fails")
    }
}

fn small() -> Served {
    let dir = scratch();
    let path = image(dir.path(), "image", 1 << 20);
    tool(dir.path(), "mkfs.vfat image");
    served(Arc::new(RawDisk::open(&path).expect("an image")))
}

const PATIENCE: Duration = Duration::from_secs(120);

fn ext_image(dir: &Path, entries: usize, megabytes: u64) -> std::path::PathBuf {
    let root = dir.join("tree");
    plain_tree(&root, entries);
    unix_tree(&root);
    let path = image(dir, "image", megabytes << 20);
    tool(dir, "mke2fs -q -F -t ext4 -d tree image");
    path
}

fn a_file_system_is_the_same_in_another_process() {
    let dir = scratch();
    let path = ext_image(dir.path(), 3000, 128);
    let served = served(disk(&path));
    let worker = Arc::new(served.start("serve", PATIENCE).expect("started"));
    assert_eq!(worker.size_bytes(), 128 << 20);
    assert_eq!(worker.detect().expect("readable").kind, Kind::Ext4);
    let fs = worker.open().expect("opened");
    assert_eq!(fs.summary(), open_image(&path).summary());
    compare(&fs, &dir.path().join("tree"), &["lost+found"]);
    compare_metadata(&*fs, &dir.path().join("tree"));
    // What is refused is a refusal, and the process lives on.
    assert_eq!(
        fs.list(nestling_explore::Node(12345), Cursor::default(), 1).map_err(|e| e.kind()),
        Err(ErrorKind::NotFound)
    );
    assert_eq!(fs.read(fs.root(), b"", 0, &mut [0]).map_err(|e| e.kind()), Err(ErrorKind::WrongKind));
    assert!(fs.stat(fs.root()).is_ok());
}

fn a_disk_inside_a_disk_in_two_processes() {
    let dir = scratch();
    let inner = scratch();
    let image_path = image(inner.path(), "inner", 4 << 20);
    fs::write(inner.path().join("innermost"), noise(3, 10_000)).expect("a file");
    tool(inner.path(), "mkfs.vfat inner && mcopy -i inner innermost ::");
    let root = dir.path().join("tree");
    fs::create_dir(&root).expect("a directory");
    fs::copy(&image_path, root.join("disk.raw")).expect("copied");
    let outer = image(dir.path(), "image", 64 << 20);
    tool(dir.path(), "mke2fs -q -F -t ext4 -d tree image");
    let first = served(disk(&outer));
    let outer_fs = Arc::new(first.start("serve", PATIENCE).expect("started")).open().expect("opened");
    let node = find(&*outer_fs, &"/disk.raw".parse().expect("a path")).expect("there");
    let source = FileSource::open(outer_fs, node, "image/disk.raw").expect("a file");
    let second = served(Arc::new(source));
    let fs = Arc::new(second.start("serve", PATIENCE).expect("started")).open().expect("opened");
    let node = find(&*fs, &"/innermost".parse().expect("a path")).expect("there");
    assert_eq!(content(&*fs, node, b""), noise(3, 10_000));
}

/// A GPT disk whose first partition is an ext4 volume with what is in `tree`.
fn partitioned(dir: &Path, tree: &Path, name: &str, megabytes: u64) -> std::path::PathBuf {
    let path = image(dir, name, (megabytes + 2) << 20);
    let volume = format!("{name}.volume");
    image(dir, &volume, megabytes << 20);
    tool(dir, &format!("mke2fs -q -F -t ext4 -d {} {volume}", tree.display()));
    tool(dir, &format!("sgdisk -n 1:2048:+{megabytes}M -c 1:nest {name}"));
    tool(dir, &format!("dd if={volume} of={name} bs=1M seek=1 conv=notrunc,sparse 2>&1; rm {volume}"));
    path
}

fn entered(served: &Served, place: &str) -> Result<Arc<Worker>> {
    let worker = served.start("serve", PATIENCE).expect("started");
    Ok(Arc::new(worker.enter(&place.parse()?)?))
}

fn file_at(served: &Served, place: &str) -> Result<Vec<u8>> {
    let fs = entered(served, place)?.open()?;
    let place: Place = place.parse()?;
    let node = find(&*fs, &place.last().expect("a path").path)?;
    Ok(content(&*fs, node, b""))
}

fn a_process_outlives_the_thread_that_started_it() {
    let served = served(Arc::new(MemoryDisk::from_bytes("volume", &[7; 4096])));
    let worker = std::thread::scope(|scope| {
        scope.spawn(|| served.start("serve", PATIENCE).expect("started")).join().expect("no panic")
    });
    assert_eq!(worker.detect().expect("it lives").kind, Kind::Unknown);
}

fn a_disk_is_read_through_a_process() {
    let bytes: Vec<u8> = noise(3, 9 << 20);
    let served = served(Arc::new(MemoryDisk::from_bytes("volume", &bytes)));
    let worker =
        Arc::new(served.start("serve", PATIENCE).expect("started").enter(&Place::default()).expect("there"));
    let disk = worker.disk();
    assert_eq!(disk.size_bytes(), bytes.len() as u64);
    let mut read = vec![0; bytes.len() - 1];
    disk.read_at(&mut read, 1).expect("read");
    assert!(read == bytes[1..], "the bytes are the disk's");
    assert!(disk.read_at(&mut read, 2).is_err());
    assert_eq!(disk.extents(0..4096).expect("mapped").iter().map(|extent| extent.length).sum::<u64>(), 4096);
}

fn a_machine_that_dies_is_an_error_with_its_last_words() {
    let (control, port) = UnixStream::pair().expect("sockets");
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "echo 'Kernel panic - not syncing: \u{1b}[31m an oops' >&2"])
        .stdout(std::os::fd::OwnedFd::from(port));
    let error = Worker::start_machine(command, control, "disks", PATIENCE).err().expect("it died");
    assert_eq!(error.kind(), ErrorKind::Worker);
    let told = error.to_string();
    assert!(told.contains("Kernel panic - not syncing:") && !told.contains('\u{1b}'), "{told}");
    // One that is silent is ended.
    let (control, port) = UnixStream::pair().expect("sockets");
    let mut command = std::process::Command::new("sleep");
    command.arg("600").stdout(std::os::fd::OwnedFd::from(port));
    let begun = Instant::now();
    let error =
        Worker::start_machine(command, control, "disks", Duration::from_millis(200)).err().expect("silent");
    assert!(matches!(error, ExploreError::WorkerSilent { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

/// ext4 on a GPT disk in a differencing qcow2, in ext4 on a GPT disk in a VHDX, in ext4 on a GPT disk.
fn three_disks_deep_in_one_process() {
    let dir = scratch();
    let folder = |name: &str| {
        let path = dir.path().join(name);
        fs::create_dir(&path).expect("a directory");
        path
    };
    let (innermost, middle, outer) = (folder("innermost"), folder("middle"), folder("outer"));
    fs::write(innermost.join("secret"), noise(7, 300_000)).expect("a file");
    partitioned(dir.path(), &innermost, "l3.raw", 16);
    tool(
        &middle,
        "qemu-img convert -O qcow2 ../l3.raw base.qcow2 && qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 l3.qcow2",
    );
    partitioned(dir.path(), &middle, "l2.raw", 24);
    tool(&outer, "qemu-img convert -O vhdx ../l2.raw l2.vhdx");
    let served = served(disk(&partitioned(dir.path(), &outer, "l1.raw", 96)));

    let found = file_at(&served, "1:/l2.vhdx//1:/l3.qcow2//1:/secret").expect("readable");
    assert_eq!(found, noise(7, 300_000));
    let worker = entered(&served, "1:/l2.vhdx//1:/l3.qcow2//").expect("a disk");
    assert_eq!(worker.size_bytes(), 18 << 20);
    let volumes = worker.volumes().expect("a table").volumes;
    assert_eq!(volumes.len(), 1);
    assert!(volumes[0].is_readable() && volumes[0].name == "nest", "{volumes:?}");
    for (place, kind) in [
        ("2:/", ErrorKind::NotFound),
        ("1:/l2.vhd//", ErrorKind::NotFound),
        ("1:/l2.vhdx//1:/lost+found//", ErrorKind::Disk),
    ] {
        assert_eq!(entered(&served, place).err().map(|error| error.kind()), Some(kind), "{place}");
    }
}

/// Its own parent, a parent outside of the volume, and none.
fn images_lead_nowhere_else() {
    let dir = scratch();
    let tree = dir.path().join("tree");
    fs::create_dir(&tree).expect("a directory");
    tool(
        &tree,
        "qemu-img create -q -f qcow2 circle 1M && qemu-img rebase -u -F qcow2 -b circle circle
         qemu-img create -q -f qcow2 -u -F raw -b /etc/passwd outside 1M
         qemu-img create -q -f qcow2 -u -F raw -b ../../../../../etc/passwd above 1M
         ln -s /etc/passwd link",
    );
    let served = served(disk(&partitioned(dir.path(), &tree, "disk", 16)));
    for image in ["circle", "outside", "above", "link"] {
        let error = entered(&served, &format!("1:/{image}//")).err().expect("refused");
        assert!(matches!(error.kind(), ErrorKind::Disk | ErrorKind::NotFound), "{image}: {error}");
    }
    // The volume is still there for others.
    assert!(entered(&served, "1:/").expect("a volume").open().is_ok());
}

fn a_process_that_crashes_is_an_error() {
    let error = small().failure("crash");
    assert_eq!(error.kind(), ErrorKind::Worker);
    let text = error.to_string();
    assert!(text.contains("the disk") && text.contains("a fault") && !text.contains('\x1b'), "{text}");
}

fn a_process_that_hangs_is_ended() {
    let before = Instant::now();
    let error = small().start("hang", Duration::from_secs(2)).err().expect("it fails");
    assert!(matches!(error, ExploreError::WorkerSilent { seconds: 2, .. }), "{error}");
    assert!(before.elapsed() < PATIENCE);
}

fn a_process_that_grows_is_ended() {
    let error = small().failure("grow");
    assert!(matches!(error, ExploreError::WorkerDied { .. }), "{error}");
    assert!(error.to_string().contains("memory allocation"), "{error}");
}

fn a_process_may_do_nothing_else() {
    for word in ["open", "connect", "execute", "thread"] {
        let error = small().failure(word);
        assert!(error.to_string().contains("signal 31"), "{word}: {error}");
    }
}

fn a_process_that_lies_is_ended() {
    for word in ["lie", "other", "more"] {
        let error = small().failure(word);
        assert!(matches!(error, ExploreError::WorkerProtocol { .. }), "{word}: {error}");
    }
}

fn a_process_ends_with_its_client() {
    let served = small();
    let worker = served.start("serve", PATIENCE).expect("started");
    let process = format!("/proc/{}", worker.process_id());
    assert!(Path::new(&process).exists());
    drop(worker);
    assert!(!Path::new(&process).exists(), "it was waited for");
    let served = small();
    let worker = Arc::new(served.start("serve", PATIENCE).expect("started"));
    let fs = worker.open().expect("opened");
    let id = rustix::process::Pid::from_raw(worker.process_id().cast_signed()).expect("a process");
    rustix::process::kill_process(id, rustix::process::Signal::KILL).expect("there");
    for _ in 0..2 {
        let error = fs.stat(fs.root()).expect_err("it is dead");
        assert!(
            matches!(&error, ExploreError::WorkerDied { what, .. } if what.contains("signal 9")),
            "{error}"
        );
    }
}

fn a_program_that_is_not_there_is_told() {
    let program = WorkerProgram { program: "/nowhere/program".into(), arguments: Vec::new() };
    let (socket, _other) = UnixStream::pair().expect("sockets");
    let disk = Disk { socket, export: String::new(), name: "the disk".into() };
    let error = Worker::start(&program, disk, PATIENCE).err().expect("it fails");
    assert!(
        matches!(error, ExploreError::WorkerStart { .. }) && error.to_string().contains("/nowhere"),
        "{error}"
    );
}

/// The most that a process ever had, of a volume whose files are read as a whole.
fn memory_stays_small() {
    let dir = scratch();
    let path = ext_image(dir.path(), 20_000, 400);
    let served = served(disk(&path));
    let worker = Arc::new(served.start("serve", PATIENCE).expect("started"));
    let fs = worker.open().expect("opened");
    for (node, kind) in all(&*fs).into_values() {
        if kind == nestling_explore::FileKind::File && fs.stat(node).expect("there").size_bytes > 100_000 {
            content(&*fs, node, b"");
        }
    }
    let status = fs::read_to_string(format!("/proc/{}/status", worker.process_id())).expect("alive");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("known");
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 128 << 10, "{kib} KiB");
    let _ = open(disk(&path)).expect("still a volume");
}
