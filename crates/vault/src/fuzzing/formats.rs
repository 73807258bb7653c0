//! Decoders of plain bytes.

use std::collections::HashSet;

use serde_json::Value;

use super::{Input, time};
use crate::{
    BlobId, IndexId, PackId, SnapshotId,
    crypto::SEAL_OVERHEAD,
    format::{
        config::Config,
        index::{self, IndexFile, IndexPack},
        key::{KdfCost, KeyFile},
        lock,
        pack::{self, BlobKind, COMPRESSED_ENTRY_BYTES, PLAIN_ENTRY_BYTES, PackBlob},
        snapshot,
        tree::{self, Node, NodeKind, Tree},
    },
    index::Index,
    layout::{Chunk, Geometry, Tuning, Zeroes},
    point::{DiskLayout, LostRange, Point, PointLayout},
    retention::Candidate,
};

fn blobs() -> Vec<PackBlob> {
    let blob = |n: u8, kind, offset, length, uncompressed_length| PackBlob {
        id: BlobId([n; 32]),
        kind,
        offset,
        length,
        uncompressed_length,
    };
    vec![
        blob(1, BlobKind::Data, 0, 1000, None),
        blob(2, BlobKind::Data, 1000, 500, Some(131_072)),
        blob(3, BlobKind::Tree, 1500, 300, Some(700)),
        blob(4, BlobKind::Tree, 1800, 32, None),
    ]
}

/// The header of a pack whose blobs end where the header says.
pub fn pack_header(plain: &[u8]) -> bool {
    if let Some((rest, tail)) = plain.split_last_chunk::<{ pack::LENGTH_BYTES }>() {
        let length = plain.len() as u64;
        if let Ok(place) = pack::header_position(*tail, length) {
            assert!(place.start < place.end && place.end == rest.len() as u64);
        }
    }
    let end = blobs_end(plain);
    let Ok(blobs) = pack::parse_header(plain, end) else { return false };
    let mut at = 0;
    for blob in &blobs {
        assert_eq!(u64::from(blob.offset), at);
        assert!(blob.length as usize >= SEAL_OVERHEAD);
        at += u64::from(blob.length);
    }
    assert_eq!(at, end);
    assert!(pack::parse_header(plain, end + 1).is_err());
    assert!(blobs.len() * PLAIN_ENTRY_BYTES <= plain.len());
    assert_eq!(pack::parse_header(&pack::header(&blobs), end).expect("our own"), blobs);
    true
}

/// Where the blobs of a header end, added up in the simplest way.
fn blobs_end(mut entries: &[u8]) -> u64 {
    let mut end = 0;
    while let Some((kind, [a, b, c, d, ..])) = entries.split_first() {
        end += u64::from(u32::from_le_bytes([*a, *b, *c, *d]));
        let bytes = if *kind < 2 { PLAIN_ENTRY_BYTES } else { COMPRESSED_ENTRY_BYTES };
        entries = entries.get(bytes..).unwrap_or_default();
    }
    end
}

pub fn pack_header_seeds() -> Vec<Vec<u8>> {
    vec![pack::header(&blobs()), pack::header(&blobs()[..1])]
}

/// An index file, and the table that it becomes part of.
pub fn index(json: &[u8]) -> bool {
    let Ok(file) = index::decode(json) else { return false };
    if let Ok(value) = serde_json::from_slice::<Value>(json) {
        assert!(value.is_object() && objects(&value, "packs").all(Value::is_object));
        assert!(objects(&value, "packs").flat_map(|pack| objects(pack, "blobs")).all(Value::is_object));
    }
    assert_eq!(index::decode(&index::encode(&file)).expect("our own"), file);
    let blobs: usize = file.packs.iter().map(|pack| pack.blobs.len()).sum();
    assert!(blobs * size_of::<PackBlob>() <= json.len(), "it takes more memory than its JSON");
    let mut table = Index::default();
    table.add(&file);
    table.finish();
    let mut known = HashSet::new();
    for pack in file.packs.iter().filter(|pack| known.insert(pack.id)) {
        for blob in &pack.blobs {
            assert!(blob.length as usize >= SEAL_OVERHEAD && blob.offset.checked_add(blob.length).is_some());
            assert!(table.copies(&blob.id).any(|copy| {
                (copy.pack, copy.blob.offset, copy.blob.length) == (pack.id, blob.offset, blob.length)
            }));
        }
    }
    assert!(table.iter().all(|copy| table.position(&copy.blob.id).is_some_and(|at| at < table.len())));
    true
}

/// The members of a list, as far as there is one.
fn objects<'a>(value: &'a Value, list: &str) -> impl Iterator<Item = &'a Value> {
    value.get(list).and_then(Value::as_array).into_iter().flatten()
}

pub fn index_seeds() -> Vec<Vec<u8>> {
    let pack = |n: u8, blobs| IndexPack { id: PackId([n; 32]), blobs };
    let file = IndexFile {
        supersedes: vec![IndexId([9; 32])],
        packs: vec![pack(5, blobs()), pack(6, blobs()[..1].to_vec())],
    };
    vec![index::encode(&file), index::encode(&IndexFile::default()), br#"{"packs":null,"new":[{}]}"#.to_vec()]
}

/// A tree. What can be read is also walked, so that prune keeps what it needs.
pub fn tree(json: &[u8]) -> bool {
    let mut walked = HashSet::new();
    let walk = tree::for_each_blob(json, |kind, id| {
        walked.insert((kind, id));
    });
    let Ok(tree) = tree::decode(json) else { return false };
    walk.expect("what can be read can be walked");
    for node in &tree.nodes {
        let is_name = !node.name.is_empty() && !node.name.contains(['/', '\0']) && node.name.len() <= 255;
        assert!(is_name && node.name != "." && node.name != "..");
        assert!(tree.find(&node.name) == Some(node), "each name is there once");
        match &node.kind {
            NodeKind::Dir { subtree } => assert!(walked.contains(&(BlobKind::Tree, *subtree))),
            NodeKind::File { content, .. } => {
                assert!(content.iter().all(|id| walked.contains(&(BlobKind::Data, *id))));
            }
            NodeKind::Other(_) => {}
        }
    }
    let bytes = tree::encode(&tree);
    let again = tree::decode(&bytes).expect("our own");
    assert_eq!(again, tree);
    assert_eq!(tree::encode(&again), bytes);
    true
}

pub fn tree_seeds() -> Vec<Vec<u8>> {
    let (a, b) = (BlobId([1; 32]), BlobId([2; 32]));
    let ours = Tree::new(vec![
        Node::dir("000000", a, time()),
        Node::file("data", 300, vec![a, b, a], time()),
        Node::file("na\u{ef}ve \"\\\n\u{7f}\u{200b}", 0, Vec::new(), time()),
    ]);
    let link = format!(
        r#"{{"nodes":[{{"name":"l","type":"symlink","mode":134218239,"mtime":"{0}","atime":"{0}","ctime":"{0}",
        "uid":1,"gid":2,"user":"u","inode":3,"device_id":4,"links":1,"linktarget":"../x","linktarget_raw":"eA==",
        "extended_attributes":[{{"name":"user.x","value":"eA=="}}],"generic_attributes":{{"a":1}},"content":null,
        "error":"e"}}]}}"#,
        time()
    );
    vec![tree::encode(&ours.expect("a tree")), tree::encode(&Tree::default()), link.into_bytes()]
}

/// A snapshot, and the recovery point that it may be.
pub fn snapshot(json: &[u8]) -> bool {
    let Ok(found) = snapshot::decode(json) else { return false };
    let again = snapshot::encode(&found).expect("what was read is written");
    assert_eq!(snapshot::decode(&again).expect("our own"), found);
    if let Some(point) = Point::of(SnapshotId([1; 32]), found) {
        let parts: Vec<&str> = point.name.components().collect();
        assert!(parts.len() <= 16 && !parts.iter().any(|part| ["", ".", ".."].contains(part)));
        assert_eq!([point.name.path()], point.snapshot.paths[..]);
        let candidate = Candidate::of(&point);
        assert!(candidate.protected_until.is_none() || candidate.id == point.id);
        let _ = (point.size_bytes(), point.stored_bytes(), point.identity());
    }
    true
}

pub fn snapshot_seeds() -> Vec<Vec<u8>> {
    let (tree, other) = (BlobId([1; 32]), SnapshotId([2; 32]));
    let ours = format!(
        r#"{{"time":"{0}","parent":"{other}","tree":"{tree}","paths":["/Server2016/Web01"],"hostname":"h",
        "username":"u","uid":1,"gid":2,"tags":["nestling","pin","protect-until={0}"],"original":"{other}",
        "program_version":"nestling 1","summary":{{"total_bytes_processed":1,"share":0.1}},"replaces":["{other}"]}}"#,
        time()
    );
    let least = format!(r#"{{"time":"0001-01-01T00:00:00Z","tree":"{tree}","paths":null}}"#);
    vec![ours.into_bytes(), least.into_bytes()]
}

/// A config or a lock.
pub fn small_file(json: &[u8]) -> bool {
    let mut is_taken = false;
    if let Ok(config) = Config::decode(json) {
        is_taken = true;
        assert!(config.id.parse::<BlobId>().is_ok());
        assert!(config.chunker_polynomial.bytes().all(|digit| digit.is_ascii_hexdigit()));
        assert_eq!(Config::decode(&config.encode().expect("written")).expect("our own"), config);
    }
    if let Ok(held) = lock::decode(json) {
        is_taken = true;
        let again = lock::encode(&held).expect("what was read is written");
        assert_eq!(lock::decode(&again).expect("our own"), held);
    }
    if is_taken && let Ok(value) = serde_json::from_slice::<Value>(json) {
        assert!(value.is_object());
    }
    is_taken
}

pub fn small_file_seeds() -> Vec<Vec<u8>> {
    let config = Config { version: 2, id: "0f".repeat(32), chunker_polynomial: "3027fdfb419915".to_owned() };
    let keeps = BlobId([1; 32]);
    let lock = format!(
        r#"{{"time":"{}","exclusive":false,"hostname":"h","username":"u","pid":7,"uid":1,"gid":1,
        "session":"{}","boot":"b:1","keeps":["{keeps}"],"other":1.5}}"#,
        time(),
        "0f".repeat(16)
    );
    vec![config.encode().expect("a config"), lock.into_bytes()]
}

/// A key file. It is opened where that costs next to nothing.
pub fn key_file(json: &[u8]) -> bool {
    let Ok(file) = KeyFile::decode(json) else { return false };
    // Text of fields that are not known may be anything.
    if let Ok(value) = serde_json::from_slice::<Value>(json) {
        assert!(value.is_object());
    }
    assert_eq!(KeyFile::decode(&file.encode().expect("written")).expect("our own"), file);
    let work = u128::from(file.n) * u128::from(file.r) * u128::from(file.p);
    if !(1 << 10..=1 << 24).contains(&work) {
        let is_opened = file.open(b"password").is_ok();
        assert!(!(is_opened && work > 1 << 24), "no guess of a password may cost as much");
    }
    true
}

pub fn key_file_seeds() -> Vec<Vec<u8>> {
    let file = KeyFile::create(b"password", &super::KEY, "host", "user", &time(), KdfCost::Fast);
    vec![file.and_then(|file| file.encode()).expect("a key file")]
}

/// `point.json`: whatever passes can be counted with.
pub fn point(json: &[u8]) -> bool {
    let Ok(layout) = PointLayout::read(json, SnapshotId([1; 32])) else { return false };
    for DiskLayout { name, geometry } in &layout.disks {
        assert_eq!(layout.disks.iter().filter(|disk| disk.name == *name).count(), 1);
        let size = geometry.size_bytes;
        let lost = layout.lost(name);
        assert!(lost.ranges().iter().all(|range| range.end <= size));
        let (segments, groups) = (geometry.segments(), geometry.groups());
        if let (Some(segment), Some(group)) = (segments.checked_sub(1), groups.checked_sub(1)) {
            assert_eq!(geometry.segment(segment).end, size);
            assert_eq!((geometry.group(group).end, geometry.group_bytes(group).end), (segments, size));
            assert_eq!(geometry.place(segment).0, group);
            assert_eq!(geometry.chunk_at(size - 1).end, size);
            let chunks = geometry.segment(segment);
            assert_eq!(geometry.chunks(chunks).last().expect("a chunk").end, size);
        }
    }
    let again = serde_json::to_vec(&layout).expect("written");
    assert_eq!(PointLayout::read(&again, SnapshotId([1; 32])).expect("our own"), layout);
    true
}

pub fn point_seeds() -> Vec<Vec<u8>> {
    let geometry = |size| Geometry::new(size, &Tuning::default()).expect("a geometry");
    let disk = |name: &str, size| DiskLayout { name: name.to_owned(), geometry: geometry(size) };
    let lost = vec![LostRange { disk: "disk0".to_owned(), offset: 131_072, length: 131_072 }];
    let layout = PointLayout { version: 1, disks: vec![disk("disk0", 1 << 37), disk("disk1", 1001)], lost };
    let empty = PointLayout { version: 1, disks: Vec::new(), lost: Vec::new() };
    [layout, empty].map(|layout| serde_json::to_vec(&layout).expect("written")).to_vec()
}

/// The content list of a segment, each byte one entry.
pub fn segment(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let chunk_bytes = 4096 << (input.u8() & 3);
    let size_bytes = u64::from(input.u32() % (1 << 20));
    let geometry = Geometry { size_bytes, chunk_bytes, segment_bytes: 1 << 20, group_segments: 1 };
    geometry.check().expect("a geometry");
    let zeroes = Zeroes::of(&geometry);
    let ids = zeroes.blobs().map(|(id, _)| id);
    let content: Vec<BlobId> = input
        .0
        .iter()
        .map(|byte| ids.get(usize::from(*byte)).copied().unwrap_or(BlobId([*byte; 32])))
        .collect();
    let Some(chunks) = zeroes.decode(&content, size_bytes) else { return false };
    assert_eq!(chunks.len() as u64, size_bytes.div_ceil(u64::from(chunk_bytes)));
    let stored = chunks.iter().filter(|chunk| matches!(chunk, Chunk::Stored(_))).count();
    assert!(stored <= content.len());
    let (again, _) = zeroes.encode(&chunks, size_bytes);
    assert_eq!(zeroes.decode(&again, size_bytes), Some(chunks));
    true
}

pub fn segment_seeds() -> Vec<Vec<u8>> {
    // 128 whole chunks of 4 KiB as one run, some stored ones, holes, and a short one.
    let size = (128 + 3) * 4096 + 100_u32;
    let with = |content: &[u8]| [&[0], &size.to_le_bytes()[..], content].concat();
    vec![with(&[0, 9, 1, 8, 2]), with(&[9, 1, 0, 8, 7])]
}
