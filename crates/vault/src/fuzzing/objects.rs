//! What lies behind a seal: objects, blobs, and packs of them.

use std::sync::{Arc, LazyLock};

use super::{Input, KEY, counted};
use crate::{
    BlobId, Identity, PackId, Repository,
    blob::{Opener, check_lengths, pack_file},
    format::{
        compress::{Compressor, Decompressor, decompress_bounded},
        key::KdfCost,
        object::{open_object, seal_object},
        pack::{self, BlobKind, PackBlob},
    },
    storage::{MemoryStorage, Storage},
    verify::pack_check::PackCheck,
};

const OBJECT_BYTES_MAX: usize = 64 << 10;

/// An object, whatever was sealed. Without a seal, and with a broken one, nothing is given out.
pub fn object(plain: &[u8]) -> bool {
    assert!(open_object(&KEY, plain.to_vec(), OBJECT_BYTES_MAX).is_err());
    let mut sealed = KEY.seal(plain).expect("sealed");
    let outcome = open_object(&KEY, sealed.clone(), OBJECT_BYTES_MAX);
    let at = plain.len() % sealed.len();
    sealed[at] ^= 1;
    assert!(open_object(&KEY, sealed, OBJECT_BYTES_MAX).is_err());
    let Ok(json) = outcome else { return false };
    assert!(json.len() <= OBJECT_BYTES_MAX);
    let again = seal_object(&KEY, &json).expect("sealed");
    assert_eq!(open_object(&KEY, again, OBJECT_BYTES_MAX).expect("our own"), json);
    true
}

fn compressed(plain: &[u8]) -> Vec<u8> {
    Compressor::new(3).and_then(|mut compressor| compressor.compress(plain)).expect("compressed")
}

/// A frame that does not say how long its content is.
fn streamed(plain: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(plain, 3).expect("compressed")
}

pub fn object_seeds() -> Vec<Vec<u8>> {
    let json = br#"{"packs":[]}"#;
    let with = |frames: Vec<u8>| [&[2], &frames[..]].concat();
    let two = [compressed(json), streamed(json)].concat();
    vec![json.to_vec(), b"[1]".to_vec(), with(compressed(json)), with(streamed(json)), with(two)]
}

/// A compressed blob that is said to have as many bytes as the first three say.
pub fn blob(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let expected = u32::from(input.u16()) | u32::from(input.u8()) << 16;
    let body = input.0;
    let sealed = KEY.seal(body).expect("sealed");
    let length = u32::try_from(sealed.len()).expect("a short blob");
    let storage = MemoryStorage::new();
    let mut opener = Opener::new(&storage, &KEY);
    let mut open = |id, out: &mut Vec<u8>| {
        let uncompressed_length = Some(expected).filter(|length| *length != 0);
        let blob = PackBlob { id, kind: BlobKind::Data, offset: 0, length, uncompressed_length };
        let is_opened = opener.open(PackId([1; 32]), &blob, &mut sealed.clone(), out).is_ok();
        assert!(!is_opened || BlobId::of(out) == id);
        is_opened
    };
    let mut out = Vec::new();
    assert!(!open(BlobId([1; 32]), &mut out), "a name that nothing has");
    let mut decompressor = Decompressor::default();
    let Ok(plain) = decompressor.decompress(body, expected as usize) else { return false };
    assert!(plain.len() == expected as usize && plain.capacity() <= plain.len() + 4096);
    if expected != 0 {
        assert!(open(BlobId::of(&plain), &mut out) && out == plain);
        assert!(decompress_bounded(body, plain.len() - 1, "blob").is_err());
    }
    assert!(decompressor.decompress(body, plain.len() + 1).is_err());
    // Streams have a limit of their own to what they keep in mind, and may refuse what fits as a whole.
    assert!(!decompress_bounded(body, plain.len(), "blob").is_ok_and(|bounded| bounded != plain));
    assert_eq!(decompressor.decompress(&compressed(&plain), plain.len()).expect("our own"), plain);
    true
}

pub fn blob_seeds() -> Vec<Vec<u8>> {
    let with = |length: u32, body: Vec<u8>| [&length.to_le_bytes()[..3], &body].concat();
    let text = b"one two three one two three one two three";
    let two = [compressed(text), streamed(text)].concat();
    let length = u32::try_from(text.len()).expect("a short text");
    vec![
        with(length, compressed(text)),
        with(length, streamed(text)),
        with(2 * length, two),
        with(1 << 20, compressed(&vec![0; 1 << 20])),
        with(0, Vec::new()),
    ]
}

static REPOSITORY: LazyLock<Arc<Repository>> = LazyLock::new(|| {
    let storage = Arc::new(MemoryStorage::new());
    let repository = Repository::init(storage, b"password", &Identity::current(), KdfCost::Fast);
    Arc::new(repository.expect("a repository"))
});

/// A blob of a pack as the input tells it.
struct Made {
    blob: PackBlob,
    is_whole: bool,
}

/// How a blob is made; bits of a byte.
const TREE: u8 = 1;
const COMPRESSED: u8 = 2;
/// With a length and a content that are the input's own.
const RAW: u8 = 4;
const MISNAMED: u8 = 8;

fn make(input: &mut Input<'_>, bytes: &mut Vec<u8>, key: &crate::crypto::MasterKey) -> Made {
    let (how, body) = (input.u8(), input.counted());
    let is_raw = how & RAW != 0;
    let claimed = if is_raw { u32::from(input.u16()) } else { body.len() as u32 };
    let uncompressed_length = Some(claimed).filter(|length| how & COMPRESSED != 0 && *length != 0);
    let body = match uncompressed_length {
        Some(_) if !is_raw => compressed(body),
        _ => body.to_vec(),
    };
    let plain = match uncompressed_length {
        Some(length) => Decompressor::default().decompress(&body, length as usize).ok(),
        None => Some(body.clone()),
    };
    let named = plain.filter(|_| how & MISNAMED == 0).map(|plain| BlobId::of(&plain));
    let offset = bytes.len() as u32;
    key.seal_into(&body, bytes).expect("sealed");
    let blob = PackBlob {
        id: named.unwrap_or(BlobId([how; 32])),
        kind: if how & TREE == 0 { BlobKind::Data } else { BlobKind::Tree },
        offset,
        length: bytes.len() as u32 - offset,
        uncompressed_length,
    };
    Made { blob, is_whole: named.is_some() }
}

/// A pack with a changed byte: exactly the blobs that are not whole any more are told, however it is read. So what
/// is salvaged from it is all that is whole.
pub fn pack(bytes: &[u8]) -> bool {
    let mut input = Input(bytes);
    let (at, change, count) = (input.u16(), input.u8(), input.u8() % 8);
    let repository = &*REPOSITORY;
    let mut bytes = Vec::new();
    let mut made: Vec<Made> = (0..count).map(|_| make(&mut input, &mut bytes, &repository.key)).collect();
    let blobs: Vec<PackBlob> = made.iter().map(|made| made.blob).collect();
    let blobs_end = bytes.len();
    repository.key.seal_into(&pack::header(&blobs), &mut bytes).expect("sealed");
    bytes.extend(((bytes.len() - blobs_end) as u32).to_le_bytes());
    let id = PackId::of(&bytes);
    let at = usize::from(at) % bytes.len();
    bytes[at] ^= change;
    let is_changed = change != 0;
    for Made { blob, is_whole } in &mut made {
        let place = blob.offset as usize..(blob.offset + blob.length) as usize;
        *is_whole &= !(is_changed && place.contains(&at));
    }
    repository.storage.put(&pack_file(id), &bytes).expect("put");
    let size = bytes.len() as u64;
    let header = repository.pack_header(id, size);
    assert_eq!(header.is_ok(), count > 0 && !(is_changed && at >= blobs_end));
    assert!(header.is_err() || header.is_ok_and(|found| found == blobs));
    let bad: Vec<BlobId> = made.iter().filter(|made| !made.is_whole).map(|made| made.blob.id).collect();
    for whole_bytes_max in [0, 1 << 30] {
        let mut check = PackCheck::new(repository, id, size, whole_bytes_max).expect("a check");
        check.run(&blobs).expect("checked");
        assert_eq!(check.bad, bad);
        assert!(check.defects.is_empty() == (bad.is_empty() && !is_changed && count > 0));
        assert!(check.unsure.is_none() && check.bytes <= 2 * size);
    }
    for blob in &blobs {
        check_lengths(id, blob).expect("a length that a blob can have");
    }
    repository.storage.remove(&pack_file(id)).expect("removed");
    bad.is_empty() && count > 0
}

pub fn pack_seeds() -> Vec<Vec<u8>> {
    let one = |how: u8, body: &[u8]| [&[how], &counted(body)[..]].concat();
    let blobs = [
        one(0, b"a chunk"),
        one(COMPRESSED, &[0; 1000]),
        one(TREE | COMPRESSED, br#"{"nodes":[]}"#),
        [one(COMPRESSED | RAW, &streamed(b"text")), vec![4, 0]].concat(),
        one(0, b""),
    ];
    let head = |change, count| vec![1, 0, change, count];
    vec![[head(0, 5), blobs.concat()].concat(), [head(0, 1), blobs[0].clone()].concat()]
}
