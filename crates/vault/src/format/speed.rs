//! How fast the bulk of the work goes on one core. Run by hand, optimized:
//! `cargo test --release -p nestling-vault speed_of -- --ignored --nocapture`

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use crate::{
    BlobId, PackId,
    crypto::MasterKey,
    format::{
        Timestamp,
        compress::{Compressor, Decompressor},
        index::{self, IndexFile, IndexPack},
        pack::{BlobKind, PackBlob},
        tree::{self, Node, Tree},
    },
};

const BLOB_BYTES: usize = 256 * 1024;

/// Prints the speed of the fastest of many runs: other work on the machine makes a run slower, never faster.
fn measure(what: &str, bytes: usize, mut run: impl FnMut()) -> f64 {
    let (mut best, end) = (Duration::MAX, Instant::now() + Duration::from_millis(700));
    while Instant::now() < end {
        let start = Instant::now();
        run();
        best = best.min(start.elapsed());
    }
    let speed = bytes as f64 / best.as_secs_f64() / 1e9;
    println!("{what:40} {speed:6.2} GB/s");
    speed
}

fn ids(count: usize) -> Vec<BlobId> {
    (0..count as u64).map(|number| BlobId::of(&number.to_le_bytes())).collect()
}

#[test]
#[ignore = "measures, and checks nothing that holds on a busy machine"]
fn speed_of_blobs() {
    let key = MasterKey::generate().unwrap();
    // As compressible as programs are: random numbers of four bits in bytes.
    let blob: Vec<u8> = ids(BLOB_BYTES / 32).iter().flat_map(|id| id.0).map(|byte| byte & 15).collect();
    let mut out = Vec::new();
    measure("seal", BLOB_BYTES, || {
        out.clear();
        key.seal_into(black_box(&blob), &mut out).unwrap();
    });
    let sealed = out.clone();
    measure("open", BLOB_BYTES, || {
        out.copy_from_slice(&sealed);
        black_box(key.open_in_place(&mut out).unwrap());
    });
    measure("SHA-256", BLOB_BYTES, || {
        black_box(BlobId::of(black_box(&blob)));
    });
    for level in [1, 3] {
        let mut compressor = Compressor::new(level).unwrap();
        measure(&format!("compress, level {level}"), BLOB_BYTES, || {
            out.clear();
            compressor.compress_into(black_box(&blob), &mut out).unwrap();
        });
    }
    let (frames, mut decompressor) = (out.clone(), Decompressor::default());
    measure("decompress", BLOB_BYTES, || {
        decompressor.decompress_into(black_box(&frames), BLOB_BYTES, &mut out).unwrap();
    });
}

#[test]
#[ignore = "measures, and checks nothing that holds on a busy machine"]
fn speed_of_lists() {
    let file = Node::file("data", 1 << 30, ids(4096), Timestamp::from_unix_nanoseconds(0));
    let tree = Tree::new(vec![file]).unwrap();
    let json = tree::encode(&tree);
    measure("write a tree of 4096 blobs", json.len(), || drop(black_box(tree::encode(black_box(&tree)))));
    measure("read a tree of 4096 blobs", json.len(), || {
        drop(black_box(tree::decode(black_box(&json)).unwrap()));
    });
    measure("walk a tree of 4096 blobs", json.len(), || {
        tree::for_each_blob(black_box(&json), |_, id| {
            black_box(id);
        })
        .unwrap();
    });
    let packs = ids(10).into_iter().map(|id| {
        let blob = |(number, id): (usize, BlobId)| {
            let offset = number as u32 * 100_000;
            PackBlob { id, kind: BlobKind::Data, offset, length: 100_000, uncompressed_length: Some(262_144) }
        };
        IndexPack { id: PackId(id.0), blobs: ids(80).into_iter().enumerate().map(blob).collect() }
    });
    let file = IndexFile { supersedes: Vec::new(), packs: packs.collect() };
    let json = index::encode(&file);
    measure("write an index of 800 blobs", json.len(), || drop(black_box(index::encode(black_box(&file)))));
    measure("read an index of 800 blobs", json.len(), || {
        drop(black_box(index::decode(black_box(&json)).unwrap()));
    });
}
