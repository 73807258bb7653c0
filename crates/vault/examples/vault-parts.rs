//! What saving a disk costs at least, and what chunk sizes and levels of compression give: measured on real images.
//!
//! `vault-parts parts IMAGE` does each part of a save alone, on one thread, over all data of the image: reading,
//! hashing, compressing, sealing. Their sum is what a save can at best come near to. It prints `PART<TAB>CPU_MS` for each, which
//! `scripts/bench-vault.sh` takes as it is.
//!
//! `vault-parts sizes [--every N] IMAGE...` deduplicates and compresses the images one after the other, as fixed
//! chunks of several sizes at several levels, over every Nth stretch of 32 MiB, and tells what is stored after each.
//!
//! It prints lines of tab-separated values.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for measuring, not part of the program"
)]

use std::{collections::HashSet, env, error::Error, path::Path, process::ExitCode};

use nestling_block::{BlockSource, ExtentKind, RawDisk, extents};
use nestling_vault::{BlobId, crypto::MasterKey, format::compress::Compressor};

const SIZES: [usize; 5] = [64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20];
const LEVELS: [i32; 3] = [1, 2, 3];
const STRETCH: u64 = 32 << 20;
/// What a chunk costs in lists and index files, compressed: measured on repositories.
const METADATA_BYTES: usize = 130;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// CPU seconds of this process, user and system.
fn cpu_seconds() -> f64 {
    let clock = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    clock.tv_sec as f64 + clock.tv_nsec as f64 / 1e9
}

/// Calls `each` with every chunk of the image that is not a hole or zero.
fn chunks(image: &Path, size: usize, every: u64, mut each: impl FnMut(&[u8]) -> Outcome<()>) -> Outcome<()> {
    let disk = RawDisk::open(image)?;
    let mut buffer = vec![0; size];
    let mut next = 0;
    for extent in extents(&disk, 0..disk.size_bytes()) {
        let extent = extent?;
        if extent.kind == ExtentKind::Zero {
            continue;
        }
        let mut at = next.max(extent.offset / size as u64 * size as u64);
        while at < extent.end() {
            let length = (disk.size_bytes() - at).min(size as u64);
            if (at / STRETCH).is_multiple_of(every) {
                let chunk = &mut buffer[..usize::try_from(length)?];
                disk.read_at(chunk, at)?;
                if chunk.iter().any(|byte| *byte != 0) {
                    each(chunk)?;
                }
            }
            at += length;
        }
        next = at;
    }
    Ok(())
}

fn parts(image: &Path) -> Outcome<()> {
    const SIZE: usize = 128 << 10;
    let mut begun = cpu_seconds();
    // What a pass costs, less what it shares with the one before.
    let mut lap = |name: &str, shared: f64| {
        let whole = cpu_seconds() - begun;
        println!("{name}\t{:.0}", (whole - shared).max(0.0) * 1000.0);
        begun = cpu_seconds();
        whole
    };
    chunks(image, SIZE, 1, |_| Ok(()))?;
    let read = lap("read", 0.0);
    let mut seen = HashSet::new();
    chunks(image, SIZE, 1, |chunk| {
        seen.insert(BlobId::of(chunk));
        Ok(())
    })?;
    let hashed = lap("hash", read);
    let mut compressor = Compressor::new(nestling_vault::LEVEL)?;
    let (mut out, mut stored, mut left) = (Vec::new(), 0, seen);
    chunks(image, SIZE, 1, |chunk| {
        if left.remove(&BlobId::of(chunk)) {
            out.clear();
            compressor.compress_into(chunk, &mut out)?;
            stored += out.len().min(chunk.len()) as u64;
        }
        Ok(())
    })?;
    lap("compress", hashed);
    let key = MasterKey::generate()?;
    let sample = vec![0x5a; 100 << 10];
    let mut sealed = Vec::new();
    for _ in 0..stored / sample.len() as u64 {
        sealed.clear();
        key.seal_into(&sample, &mut sealed)?;
    }
    lap("seal", 0.0);
    Ok(())
}

fn sizes(images: &[String], every: u64) -> Outcome<()> {
    for size in SIZES {
        for level in LEVELS {
            let mut compressor = Compressor::new(level)?;
            let (mut seen, mut out, mut stored) = (HashSet::new(), Vec::new(), 0_u64);
            for image in images {
                let begun = cpu_seconds();
                chunks(Path::new(image), size, every, |chunk| {
                    if seen.insert(BlobId::of(chunk)) {
                        out.clear();
                        compressor.compress_into(chunk, &mut out)?;
                        stored += (out.len().min(chunk.len()) + METADATA_BYTES) as u64;
                    }
                    Ok(())
                })?;
                println!("sizes\t{size}\t{level}\t{image}\t{stored}\t{:.2}", cpu_seconds() - begun);
            }
        }
    }
    Ok(())
}

fn run() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["parts", image] => parts(Path::new(image)),
        ["sizes", "--every", every, ..] => sizes(&arguments[3..], every.parse()?),
        ["sizes", ..] => sizes(&arguments[1..], 1),
        _ => Err("usage: vault-parts parts IMAGE | sizes [--every N] IMAGE...".into()),
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vault-parts: {error}");
            ExitCode::FAILURE
        }
    }
}
