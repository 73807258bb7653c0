//! Our NBD ends against the world's: QEMU's tools, libnbd's and nbdkit.

use std::{
    ffi::OsStr,
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use nestling_block::{
    BlockSource, BlockTarget, Extent, ExtentKind, MemoryDisk, Overlay, RawDisk, extents,
    nbd::{Export, NbdAddress, NbdClient, NbdOptions, NbdServer, NbdUri, ServerLimits},
};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB + 512;

fn run(dir: &Path, program: &str, args: &[&str]) -> String {
    let out = Command::new("timeout")
        .args(["60", program])
        .args(args)
        .current_dir(dir)
        .output()
        .expect("it is installed");
    let (said, failed) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success(), "{program} {args:?}: {said}{failed}");
    said.into_owned()
}

/// 64 MiB and a sector, with data here and there.
fn disk() -> MemoryDisk {
    let disk = MemoryDisk::new("disk", SIZE);
    for (offset, length) in
        [(0, 4096), (5 * MIB, 3 * MIB as usize), (20 * MIB + 12288, 70_000), (64 * MIB, 512)]
    {
        let bytes: Vec<u8> = (0..length).map(|n| (n * 7 + n / 251) as u8 | 1).collect();
        disk.write_at(&bytes, offset).expect("written");
    }
    disk
}

fn all(source: &dyn BlockSource) -> Vec<u8> {
    let mut bytes = vec![0; source.size_bytes() as usize];
    source.read_at(&mut bytes, 0).expect("read");
    bytes
}

fn map(source: &dyn BlockSource) -> Vec<Extent> {
    extents(source, 0..source.size_bytes()).collect::<Result<_, _>>().expect("a map")
}

struct Served {
    dir: tempfile::TempDir,
    _server: NbdServer,
}

fn serve(exports: Vec<Export>) -> Served {
    let dir = tempfile::tempdir().expect("a directory");
    let address = NbdAddress::Unix(dir.path().join("s"));
    let server = NbdServer::start(&address, exports, ServerLimits::default()).expect("listening");
    Served { dir, _server: server }
}

impl Served {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn uri(&self, export: &str) -> String {
        NbdUri { address: NbdAddress::Unix(self.path().join("s")), export: export.into() }.to_string()
    }
}

#[test]
fn qemu_img_copies_and_maps() {
    let source = Arc::new(disk());
    let served = serve(vec![Export::read_only("d", Arc::clone(&source) as Arc<dyn BlockSource>)]);
    run(served.path(), "qemu-img", &["convert", "-f", "raw", "-O", "raw", &served.uri("d"), "copy.raw"]);
    let copy = RawDisk::open(&served.path().join("copy.raw")).expect("open");
    // QEMU knows disks of whole sectors only; ours is one.
    assert!(all(&copy) == all(&*source));
    let text = run(served.path(), "qemu-img", &["map", "-f", "raw", "--output=json", &served.uri("d")]);
    let entries: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let found: Vec<Extent> = entries
        .as_array()
        .expect("an array")
        .iter()
        .map(|e| Extent {
            offset: e["start"].as_u64().expect("n"),
            length: e["length"].as_u64().expect("n"),
            kind: if e["zero"] == true { ExtentKind::Zero } else { ExtentKind::Data },
        })
        .collect();
    // What QEMU tells begins with whole sectors; so do our blocks.
    assert_eq!(found, map(&*source));
}

#[test]
fn qemu_writes_through_it_and_over_it() {
    let source = Arc::new(disk());
    let served = serve(vec![
        Export::read_only("base", Arc::clone(&source) as Arc<dyn BlockSource>),
        Export::writable("rw", Arc::clone(&source)),
    ]);
    let commands = [
        "write -P 9 1M 1M",
        "write -f -P 8 10M 64k",
        "write -z 5M 1M",
        "write -z -u 6M 64k",
        "discard 7M 4k",
        "flush",
        "read -P 9 1M 1M",
        "read -P 8 10M 64k",
        "read -P 0 5M 1M",
        "read -P 0 30M 32M",
    ];
    let uri = served.uri("rw");
    let mut args = vec!["-f", "raw"];
    args.extend(commands.iter().flat_map(|command| ["-c", *command]));
    args.push(&uri);
    let said = run(served.path(), "qemu-io", &args);
    assert!(!said.contains("failed") && !said.contains("error"), "{said}");
    let mut bytes = vec![0; MIB as usize];
    source.read_at(&mut bytes, MIB).expect("read");
    assert!(bytes.iter().all(|byte| *byte == 9));

    // As the backing file of an overlay: that is how a backup is booted.
    let base = served.uri("base");
    run(served.path(), "qemu-img", &["create", "-q", "-f", "qcow2", "-F", "raw", "-b", &base, "over.qcow2"]);
    run(
        served.path(),
        "qemu-io",
        &["-f", "qcow2", "-c", "write -P 3 2M 5k", "-c", "read -P 9 1M 64k", "over.qcow2"],
    );
    run(served.path(), "qemu-img", &["convert", "-f", "qcow2", "-O", "raw", "over.qcow2", "flat.raw"]);
    let mut expected = all(&*source);
    expected[2 * MIB as usize..2 * MIB as usize + 5120].fill(3);
    let flat = all(&RawDisk::open(&served.path().join("flat.raw")).expect("open"));
    assert!(flat == expected);
}

#[test]
fn libnbd_lists_maps_and_copies() {
    let source = Arc::new(disk());
    let served = serve(vec![
        Export {
            description: "a disk".into(),
            ..Export::read_only("d", Arc::clone(&source) as Arc<dyn BlockSource>)
        },
        Export::writable("w", Arc::new(MemoryDisk::new("w", SIZE))),
    ]);
    let list = run(served.path(), "nbdinfo", &["--list", "--json", &served.uri("")]);
    let list: serde_json::Value = serde_json::from_str(&list).expect("JSON");
    assert_eq!(list["exports"].as_array().expect("an array").len(), 2, "{list}");
    let about = run(served.path(), "nbdinfo", &["--json", &served.uri("d")]);
    let about: serde_json::Value = serde_json::from_str(&about).expect("JSON");
    let export = &about["exports"][0];
    assert_eq!(export["export-size"], SIZE);
    assert_eq!(export["contexts"], serde_json::json!(["base:allocation"]));
    assert_eq!((&export["can_multi_conn"], &export["is_read_only"]), (&true.into(), &true.into()));
    let text = run(served.path(), "nbdinfo", &["--json", "--map", &served.uri("d")]);
    let entries: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let found: Vec<Extent> = entries
        .as_array()
        .expect("an array")
        .iter()
        .map(|e| Extent {
            offset: e["offset"].as_u64().expect("n"),
            length: e["length"].as_u64().expect("n"),
            kind: if e["type"] == 3 { ExtentKind::Zero } else { ExtentKind::Data },
        })
        .collect();
    assert_eq!(found, map(&*source));
    run(served.path(), "nbdcopy", &[&served.uri("d"), "copy.raw"]);
    assert!(all(&RawDisk::open(&served.path().join("copy.raw")).expect("open")) == all(&*source));
    run(served.path(), "nbdcopy", &["--connections=4", "--requests=16", &served.uri("d"), &served.uri("w")]);
    let options = NbdOptions::default();
    let back = NbdClient::connect(&served.uri("w").parse().expect("a URI"), &options).expect("connected");
    assert!(all(&back) == all(&*source));
}

#[test]
fn an_overlay_takes_writes_and_the_base_stays() {
    let dir = tempfile::tempdir().expect("a directory");
    let base = Arc::new(disk());
    let before = all(&*base);
    let scratch = RawDisk::create(&dir.path().join("scratch"), 0).expect("created");
    let overlay =
        Arc::new(Overlay::new(Arc::clone(&base) as Arc<dyn BlockSource>, scratch).expect("an overlay"));
    let served = serve(vec![Export::writable("o", Arc::clone(&overlay))]);
    let uri = served.uri("o");
    let args =
        ["-f", "raw", "-c", "write -P 4 100 5000", "-c", "write -z 5M 2M", "-c", "read -P 0 5M 2M", &uri];
    run(served.path(), "qemu-io", &args);
    let mut expected = before.clone();
    expected[100..5100].fill(4);
    expected[5 * MIB as usize..7 * MIB as usize].fill(0);
    assert!(all(&*overlay) == expected);
    assert!(all(&*base) == before);
    assert!(overlay.written_bytes() <= 3 * MIB);
}

/// A server of someone else's; ended with the test.
struct Peer {
    child: Child,
    socket: PathBuf,
}

impl Peer {
    fn start(dir: &Path, program: &str, args: &[&str], socket: &str) -> Self {
        // qemu-nbd wants the whole path.
        let whole = dir.join(socket);
        let args = args.iter().map(|arg| if *arg == socket { whole.as_os_str() } else { OsStr::new(arg) });
        let child = Command::new(program)
            .args(args)
            .current_dir(dir)
            .stdin(Stdio::null())
            .spawn()
            .expect("it is installed");
        let peer = Self { child, socket: dir.join(socket) };
        let deadline = Instant::now() + Duration::from_secs(20);
        // A socket has its name before anything listens to it.
        while UnixStream::connect(&peer.socket).is_err() {
            assert!(Instant::now() < deadline, "{program} does not listen");
            thread::sleep(Duration::from_millis(5));
        }
        peer
    }

    fn client(&self, export: &str, options: &NbdOptions) -> NbdClient {
        let uri = NbdUri { address: NbdAddress::Unix(self.socket.clone()), export: export.into() };
        NbdClient::connect(&uri, options).expect("connected")
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn source_file(dir: &Path) -> Vec<u8> {
    let bytes = all(&disk());
    let file = RawDisk::create(&dir.join("d.raw"), SIZE).expect("created");
    for extent in map(&disk()).iter().filter(|extent| extent.kind == ExtentKind::Data) {
        file.write_at(&bytes[extent.offset as usize..extent.end() as usize], extent.offset).expect("written");
    }
    bytes
}

#[test]
fn qemu_nbd_is_read_and_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let expected = source_file(dir.path());
    let args = ["-f", "raw", "-x", "d", "-k", "q", "--shared=4", "--persistent", "--read-only", "d.raw"];
    let peer = Peer::start(dir.path(), "qemu-nbd", &args, "q");
    let client = peer.client("d", &NbdOptions { connections: 4, ..NbdOptions::default() });
    assert!(!client.is_writable() && client.knows_extents());
    assert!(all(&client) == expected);
    assert_eq!(map(&client), map(&RawDisk::open(&dir.path().join("d.raw")).expect("open")));
    thread::scope(|scope| {
        for worker in 0..8_usize {
            let (client, expected) = (&client, &expected);
            scope.spawn(move || {
                for turn in 0..40 {
                    let at = (worker * 991 + turn * 37) * 4099 % (expected.len() - 9000);
                    let mut part = vec![0; 9000];
                    client.read_at(&mut part, at as u64).expect("read");
                    assert!(part == expected[at..at + 9000]);
                }
            });
        }
    });
    drop((client, peer));
    fs::write(dir.path().join("w.raw"), vec![1; 1 << 20]).expect("written");
    let peer = Peer::start(dir.path(), "qemu-nbd", &["-f", "raw", "-k", "w", "--persistent", "w.raw"], "w");
    let client = peer.client("", &NbdOptions::default());
    client.write_at(&[5; 10_000], 4096).expect("written");
    client.write_zeroes(65536..131_072).expect("zeroed");
    client.flush().expect("flushed");
    let bytes = fs::read(dir.path().join("w.raw")).expect("read");
    assert!(bytes[4096..14_096].iter().all(|byte| *byte == 5));
    assert!(bytes[65536..131_072].iter().all(|byte| *byte == 0) && bytes[131_072] == 1);
}

#[test]
fn a_dirty_bitmap_of_qemus_is_told_exactly() {
    let dir = tempfile::tempdir().expect("a directory");
    run(dir.path(), "qemu-img", &["create", "-q", "-f", "qcow2", "b.qcow2", "8G"]);
    run(dir.path(), "qemu-img", &["bitmap", "--add", "b.qcow2", "b0"]);
    let writes = ["-c", "write -P 1 1M 64k", "-c", "write -P 2 3G 1k", "-c", "write -P 3 8191M 128k"];
    run(dir.path(), "qemu-io", &[&["-f", "qcow2"], &writes[..], &["b.qcow2"]].concat());
    let args = ["-f", "qcow2", "-x", "d", "-B", "b0", "-k", "q", "--persistent", "--read-only", "b.qcow2"];
    let peer = Peer::start(dir.path(), "qemu-nbd", &args, "q");
    let client = peer.client("d", &NbdOptions { dirty_bitmap: Some("b0".into()), ..NbdOptions::default() });
    let dirty = client.dirty(0..8 << 30).expect("a bitmap");
    let at = |start: u64, length: u64| start..start + length;
    assert_eq!(dirty.ranges(), [at(MIB, 65536), at(3 << 30, 65536), at(8191 * MIB, 131_072)]);
    let inside = client.dirty((1 << 20) + 5..(1 << 20) + 6).expect("a bitmap");
    assert_eq!(inside.bytes(), 1);
    let data: u64 = map(&client).iter().filter(|e| e.kind == ExtentKind::Data).map(|e| e.length).sum();
    assert!(data <= 4 * 65536, "{data}");
}

#[test]
fn nbdkit_is_read_and_reads() {
    let dir = tempfile::tempdir().expect("a directory");
    let expected = source_file(dir.path());
    // With what it agrees to by default, with simple answers only, and with blocks of 4 KiB only.
    let ways: [&[&str]; 3] = [
        &["-f", "-U", "k0", "-r", "file", "d.raw"],
        &["-f", "-U", "k1", "--no-sr", "file", "d.raw"],
        &[
            "-f",
            "-U",
            "k2",
            "--filter=blocksize-policy",
            "file",
            "d.raw",
            "blocksize-minimum=512",
            "blocksize-error-policy=error",
        ],
    ];
    for (number, args) in ways.iter().enumerate() {
        let peer = Peer::start(dir.path(), "nbdkit", args, &format!("k{number}"));
        let client = peer.client("", &NbdOptions { connections: 2, ..NbdOptions::default() });
        assert!(all(&client) == expected, "{args:?}");
        let mut part = [0; 777];
        client.read_at(&mut part, 5 * MIB + 11).expect("read");
        assert!(part == expected[5 * MIB as usize + 11..][..777]);
        let found = map(&client);
        assert_eq!(found.iter().map(|extent| extent.length).sum::<u64>(), SIZE);
        let zero = found.iter().filter(|extent| extent.kind == ExtentKind::Zero).count();
        assert_eq!(zero > 0, client.knows_extents(), "{args:?}: {found:?}");
    }
    // Our server, seen through nbdkit's client.
    let source = Arc::new(disk());
    let served = serve(vec![Export::read_only("d", Arc::clone(&source) as Arc<dyn BlockSource>)]);
    let uri = format!("uri={}", served.uri("d"));
    let peer = Peer::start(served.path(), "nbdkit", &["-f", "-U", "k", "-r", "nbd", &uri], "k");
    let client = peer.client("", &NbdOptions::default());
    assert!(all(&client) == expected);
    assert_eq!(map(&client), map(&*source));
}
