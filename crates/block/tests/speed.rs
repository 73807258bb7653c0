//! How fast it is. Run with `cargo test --release -p nestling-block --test speed -- --ignored --nocapture --test-threads=1`.

use std::{
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use nestling_block::{
    BlockSource, BlockTarget, MemoryDisk, RawDisk, extents,
    nbd::{Export, NbdAddress, NbdClient, NbdOptions, NbdServer, NbdUri, ServerLimits},
    qcow2::{Links, Qcow2, Qcow2Options},
};

const MIB: u64 = 1 << 20;

#[expect(clippy::print_stdout, reason = "it is what this is for")]
fn report(what: &str, bytes: u64, took: Duration) {
    println!("{what}: {:.0} MiB/s", bytes as f64 / MIB as f64 / took.as_secs_f64());
}

/// Reads all of it in pieces, with so many threads.
fn read_all(source: &dyn BlockSource, piece: u64, threads: u64) -> Duration {
    let before = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                let mut buf = vec![0; piece as usize];
                let mut at = thread * piece;
                while at + piece <= source.size_bytes() {
                    source.read_at(&mut buf, at).expect("read");
                    at += threads * piece;
                }
            });
        }
    });
    before.elapsed()
}

#[expect(clippy::print_stdout, reason = "it is what this is for")]
fn latency(what: &str, source: &dyn BlockSource) {
    let mut buf = vec![0; 4096];
    let mut times: Vec<Duration> = (0..20_000_u64)
        .map(|n| {
            let before = Instant::now();
            source.read_at(&mut buf, n * 7919 % (source.size_bytes() / 4096) * 4096).expect("read");
            before.elapsed()
        })
        .collect();
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 1000].as_secs_f64() * 1e6;
    println!("{what}: 4 KiB read, median {:.1} us, 99 % {:.1} us", at(500), at(990));
}

fn memory() -> Arc<MemoryDisk> {
    let disk = MemoryDisk::new("m", 256 * MIB);
    let bytes: Vec<u8> = (0..MIB).map(|n| (n % 253) as u8 | 1).collect();
    for n in 0..256 {
        disk.write_at(&bytes, n * MIB).expect("written");
    }
    Arc::new(disk)
}

#[test]
#[ignore = "measures, and checks nothing that holds on a busy machine"]
fn nbd() {
    let dir = tempfile::tempdir().expect("a directory");
    let address = NbdAddress::Unix(dir.path().join("s"));
    let exports = vec![Export::read_only("m", memory() as Arc<dyn BlockSource>)];
    let _server = NbdServer::start(&address, exports, ServerLimits::default()).expect("listening");
    let uri = NbdUri { address, export: "m".into() };
    let client = |connections| {
        NbdClient::connect(&uri, &NbdOptions { connections, ..NbdOptions::default() }).expect("connected")
    };
    latency("nbd server and client", &client(1));
    for (connections, threads) in [(1, 1), (1, 4), (4, 4)] {
        let client = client(connections);
        let what = format!("nbd, {connections} connections, {threads} threads");
        report(&format!("{what}, 64 KiB"), 256 * MIB, read_all(&client, 64 << 10, threads));
        report(&format!("{what}, 1 MiB"), 256 * MIB, read_all(&client, MIB, threads));
    }
    let before = Instant::now();
    let status = Command::new("nbdcopy").args([&uri.to_string(), "null:"]).status().expect("it is installed");
    assert!(status.success());
    report("nbdcopy to null", 256 * MIB, before.elapsed());
}

fn image(dir: &Path, args: &[&str]) -> Qcow2 {
    let out = Command::new("qemu-img").current_dir(dir).args(args).status().expect("it is installed");
    assert!(out.success());
    Qcow2::open(&dir.join(args[args.len() - 1]), Qcow2Options::new(Links::Follow)).expect("open")
}

#[test]
#[ignore = "measures, and checks nothing that holds on a busy machine"]
fn qcow2() {
    let dir = tempfile::tempdir().expect("a directory");
    let source = RawDisk::create(&dir.path().join("d.raw"), 1024 * MIB).expect("created");
    let words: Vec<u8> = (0..MIB).map(|n| (n * n / 977 % 256) as u8).collect();
    for n in 0..256 {
        source.write_at(&words, n * 4 * MIB).expect("written");
    }
    report("raw", 1024 * MIB, read_all(&source, MIB, 2));
    let plain = image(dir.path(), &["convert", "-f", "raw", "-O", "qcow2", "d.raw", "plain.qcow2"]);
    latency("qcow2", &plain);
    report("qcow2, a quarter of it data", 1024 * MIB, read_all(&plain, MIB, 2));
    let before = Instant::now();
    let data: u64 = extents(&plain, 0..1024 * MIB)
        .map(|extent| extent.expect("a map"))
        .filter(|extent| extent.kind == nestling_block::ExtentKind::Data)
        .map(|extent| extent.length)
        .sum();
    println!("qcow2: map of 1 GiB in {:?}, {} MiB data", before.elapsed(), data / MIB);
    for kind in ["zlib", "zstd"] {
        let options = format!("compression_type={kind}");
        let name = format!("{kind}.qcow2");
        let packed =
            image(dir.path(), &["convert", "-c", "-f", "raw", "-O", "qcow2", "-o", &options, "d.raw", &name]);
        report(&format!("qcow2 of {kind}, the data alone"), 256 * MIB, read_all(&packed, MIB, 2));
    }
}
