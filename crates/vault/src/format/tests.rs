//! What holds for all that is decoded: what was encoded comes back, and rubbish is refused, not suffered.

use proptest::prelude::*;
use serde_json::{Map, json};

use super::{
    FormatError, Timestamp,
    compress::{Compressor, Decompressor, decompress_bounded},
    index::{self, IndexFile, IndexPack},
    key::{KdfCost, KeyError, KeyFile},
    lock, object,
    pack::{self, BlobKind, PackBlob},
    snapshot,
};
use crate::{BlobId, IndexId, PackId, crypto::MasterKey};

fn key() -> MasterKey {
    MasterKey::from_bytes(&[7; 64]).unwrap()
}

fn time() -> Timestamp {
    "2026-11-26T22:00:22.12+01:00".parse().unwrap()
}

prop_compose! {
    fn blob()(id: [u8; 32], tree: bool, length in 32_u32..1 << 20, uncompressed in prop::option::of(1..u32::MAX)) -> PackBlob {
        let kind = if tree { BlobKind::Tree } else { BlobKind::Data };
        PackBlob { id: BlobId(id), kind, offset: 0, length, uncompressed_length: uncompressed }
    }
}

/// Blobs one after the other, as they lie in a pack.
fn blobs() -> impl Strategy<Value = Vec<PackBlob>> {
    prop::collection::vec(blob(), 1..20).prop_map(|mut blobs| {
        let mut end = 0;
        for blob in &mut blobs {
            blob.offset = end;
            end += blob.length;
        }
        blobs
    })
}

fn end(blobs: &[PackBlob]) -> u64 {
    blobs.iter().map(|blob| u64::from(blob.length)).sum()
}

fn index_file() -> impl Strategy<Value = IndexFile> {
    let pack = (any::<[u8; 32]>(), blobs()).prop_map(|(id, blobs)| IndexPack { id: PackId(id), blobs });
    let supersedes = prop::collection::vec(any::<[u8; 32]>().prop_map(IndexId), 0..3);
    (supersedes, prop::collection::vec(pack, 0..5))
        .prop_map(|(supersedes, packs)| IndexFile { supersedes, packs })
}

/// Decodes `bytes` by everything that takes bytes from outside.
fn decode_all(bytes: &[u8]) {
    let _ = super::config::Config::decode(bytes);
    let _ = index::decode(bytes);
    let _ = lock::decode(bytes);
    let _ = snapshot::decode(bytes);
    let _ = super::tree::decode(bytes);
    let _ = super::tree::for_each_blob(bytes, |_, _| ());
    let _ = pack::parse_header(bytes, bytes.len() as u64);
    let _ = KeyFile::decode(bytes);
    let _ = decompress_bounded(bytes, 1 << 16, "rubbish");
    let _ = Decompressor::default().decompress(bytes, 1 << 16);
    let _ = object::open_object(&key(), bytes.to_vec(), 1 << 16);
    let _ = object::open_object(&key(), key().seal(bytes).unwrap(), 1 << 16);
    let _ = key().open_in_place(&mut bytes.to_vec());
}

proptest! {
    #[test]
    fn rubbish_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        decode_all(&bytes);
    }

    #[test]
    fn what_was_damaged_is_read_or_refused_without_a_panic(index in index_file(), at in any::<prop::sample::Index>(), byte: u8, cut: bool) {
        let mut bytes = index::encode(&index);
        // The last byte is only the end of the line.
        let at = at.index(bytes.len() - 1);
        bytes[at] = byte;
        if cut {
            bytes.truncate(at);
            prop_assert!(index::decode(&bytes).is_err());
        }
        decode_all(&bytes);
    }

    #[test]
    fn an_index_comes_back(index in index_file()) {
        prop_assert_eq!(index::decode(&index::encode(&index)).unwrap(), index);
    }

    #[test]
    fn a_header_comes_back_and_fills_its_pack(blobs in blobs(), off in 1_u64..100) {
        let (plain, end) = (pack::header(&blobs), end(&blobs));
        prop_assert!(pack::parse_header(&plain, end + off).is_err());
        prop_assert!(pack::parse_header(&plain, end.saturating_sub(off)).is_err());
        prop_assert!(pack::parse_header(&plain[..plain.len() - 1], end).is_err());
        prop_assert_eq!(pack::parse_header(&plain, end).unwrap(), blobs);
    }

    #[test]
    fn compressed_content_comes_back(content in prop::collection::vec(0_u8..4, 0..5000), level in -3..25) {
        let mut frames = Compressor::new(level).unwrap().compress(&content).unwrap();
        let mut decompressor = Decompressor::default();
        prop_assert_eq!(&decompressor.decompress(&frames, content.len()).unwrap(), &content);
        prop_assert!(decompressor.decompress(&frames, content.len() + 1).is_err());
        if !content.is_empty() {
            prop_assert!(decompressor.decompress(&frames, content.len() - 1).is_err());
            prop_assert!(decompress_bounded(&frames, content.len() - 1, "content").is_err());
        }
        // Two frames are one content.
        frames.extend_from_within(..);
        prop_assert_eq!(decompressor.decompress(&frames, content.len() * 2).unwrap(), [&content[..], &content].concat());
    }

    #[test]
    fn an_object_comes_back(json in "[\\{\\[][ -~]{0,200}") {
        let sealed = object::seal_object(&key(), json.as_bytes()).unwrap();
        prop_assert_eq!(&object::open_object(&key(), sealed.clone(), 201).unwrap(), json.as_bytes());
        let plain = key().seal(json.as_bytes()).unwrap();
        prop_assert_eq!(&object::open_object(&key(), plain.clone(), 201).unwrap(), json.as_bytes());
        for sealed in [sealed, plain] {
            let refused = object::open_object(&key(), sealed, json.len() - 1);
            let is_too_large = matches!(refused, Err(FormatError::TooLarge { .. }));
            prop_assert!(is_too_large);
        }
    }

    #[test]
    fn a_time_comes_back(nanoseconds: i64, hours in -23_i32..=23, minutes in 0..60) {
        let time = Timestamp::from_unix_nanoseconds(nanoseconds);
        prop_assert_eq!(time.unix_nanoseconds(), i128::from(nanoseconds));
        prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        let zoned = format!("2026-11-26T22:00:22.120003{hours:+03}:{minutes:02}").replace("+00:00", "Z").replace("-00:00", "Z");
        prop_assert_eq!(zoned.parse::<Timestamp>().unwrap().to_string(), zoned);
    }

    #[test]
    fn what_is_no_time_is_refused(text in "[0-9TZ:.+-]{0,40}") {
        if let Ok(time) = text.parse::<Timestamp>() {
            prop_assert_eq!(time.to_string().parse::<Timestamp>().unwrap(), time);
        }
    }
}

#[test]
fn times_are_written_as_go_does() {
    for text in ["0001-01-01T00:00:00Z", "2026-11-26T22:00:22.128987569Z", "9999-12-31T23:59:59.9-11:30"] {
        assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), text);
    }
    assert_eq!(
        "2026-01-01T00:00:00.120+00:00".parse::<Timestamp>().unwrap().to_string(),
        "2026-01-01T00:00:00.12Z"
    );
    assert_eq!(time().to_utc().to_string(), "2026-11-26T21:00:22.12Z");
}

#[test]
fn a_bomb_takes_no_more_memory_than_the_limit() {
    let zeros = vec![0; 64 << 20];
    let bomb = Compressor::new(3).unwrap().compress(&zeros).unwrap();
    assert!(bomb.len() < 10_000);
    assert!(matches!(decompress_bounded(&bomb, 1 << 20, "bomb"), Err(FormatError::TooLarge { .. })));
    assert!(Decompressor::default().decompress(&bomb, 1 << 20).is_err());
    // One that does not say how long it is.
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
    std::io::Write::write_all(&mut encoder, &zeros).unwrap();
    let bomb = encoder.finish().unwrap();
    assert!(matches!(decompress_bounded(&bomb, 1 << 20, "bomb"), Err(FormatError::TooLarge { .. })));
    assert!(Decompressor::default().decompress(&bomb, 1 << 20).is_err());
    assert_eq!(decompress_bounded(&bomb, 64 << 20, "content").unwrap(), zeros);
}

#[test]
fn a_header_lies_where_the_last_bytes_say() {
    let at = |length: u32, pack: u64| pack::header_position(length.to_le_bytes(), pack);
    assert_eq!(at(69, 1000).unwrap(), 927..996);
    assert_eq!(at(69, 73).unwrap(), 0..69);
    for (length, pack) in
        [(0, 1000), (68, 1000), (69, 72), (69, 3), (69, 0), (u32::MAX, u64::MAX), ((16 << 20) + 1, 1 << 40)]
    {
        assert!(at(length, pack).is_err(), "{length} {pack}");
    }
    assert!(at(16 << 20, 1 << 40).is_ok());
}

#[test]
fn a_header_of_impossible_blobs_is_refused() {
    let good = PackBlob {
        id: BlobId([1; 32]),
        kind: BlobKind::Data,
        offset: 0,
        length: 32,
        uncompressed_length: None,
    };
    assert!(pack::parse_header(&pack::header(&[good]), 32).is_ok());
    assert!(pack::parse_header(&pack::header(&[PackBlob { length: 31, ..good }]), 31).is_err());
    let mut unknown = pack::header(&[good]);
    unknown[0] = 4;
    assert!(pack::parse_header(&unknown, 32).is_err());
    // Two of nearly 4 GiB: the third would begin where no offset reaches.
    let large = PackBlob { length: u32::MAX, ..good };
    assert!(pack::parse_header(&pack::header(&[large, large, large]), 3 * u64::from(u32::MAX)).is_err());
}

#[test]
fn an_index_bears_what_others_write_and_no_nonsense() {
    let id = "0a".repeat(32);
    let decode = |blob: &str| {
        let text = format!(
            r#"{{"packs_to_delete":[{{"id":"x","blobs":[1]}}],"new":{{}},"packs":[{{"time":null,"id":"{id}","blobs":[{blob}]}}]}}"#
        );
        index::decode(text.as_bytes())
    };
    let fields = |rest: &str| format!(r#"{{"extra":[{{}}],"id":"{id}","type":"tree",{rest}}}"#);
    let index = decode(&fields(r#""offset":5,"length":32,"uncompressed_length":0"#)).unwrap();
    assert_eq!(index.packs[0].blobs[0].uncompressed_length, None);
    assert_eq!(index::decode(br#"{"supersedes":null,"packs":null}"#).unwrap(), IndexFile::default());
    for bad in [
        r#""offset":5"#,
        r#""offset":5,"length":31"#,
        r#""offset":4294967295,"length":32"#,
        r#""offset":4294967296,"length":32"#,
        r#""offset":-1,"length":32"#,
        r#""offset":0.5,"length":32"#,
        r#""offset":5,"length":32,"length":33"#,
    ] {
        assert!(decode(&fields(bad)).is_err(), "{bad}");
    }
    for bad in ["", "{}", "[]", r#"{"packs":[]} x"#, r#"{"packs":[{}]}"#] {
        assert!(index::decode(bad.as_bytes()).is_err(), "{bad}");
    }
    assert!(index::decode("[".repeat(100_000).as_bytes()).is_err());
    assert!(index::decode(format!(r#"{{"x":{}"#, "[".repeat(100_000)).as_bytes()).is_err());
}

#[test]
fn a_snapshot_keeps_what_it_does_not_know() {
    let mut text = json!({
        "time": "2026-11-26T22:00:22.128987569+01:00", "tree": "0a".repeat(32), "paths": ["/a"], "hostname": "h",
        "tags": ["one"], "original": "0b".repeat(32), "program_version": "restic 0.18.0",
        "summary": {"files_new": 1, "unknown": [null]}, "label": "of rustic", "delete": {"After": "never"},
    });
    let mut snapshot = snapshot::decode(text.to_string().as_bytes()).unwrap();
    snapshot.tags.push("two".into());
    text["tags"] = json!(["one", "two"]);
    let written: serde_json::Value = serde_json::from_slice(&snapshot::encode(&snapshot).unwrap()).unwrap();
    assert_eq!(written, text);
    assert!(snapshot::decode(br#"{"time":"2026-11-26T22:00:22Z","tree":null,"paths":null}"#).is_err());
}

#[test]
fn a_lock_carries_a_session_that_others_may_leave_out() {
    let text =
        r#"{"time":"2026-11-26T22:00:22Z","exclusive":true,"hostname":"h","username":"u","pid":-1,"new":1}"#;
    let mut lock = lock::decode(text.as_bytes()).unwrap();
    assert_eq!((lock.session.clone(), lock.pid, lock.uid), (None, -1, 0));
    assert_eq!(lock::encode(&lock).unwrap(), text.as_bytes());
    lock.session = Some("s".into());
    lock.other = Map::new();
    assert_eq!(lock::decode(&lock::encode(&lock).unwrap()).unwrap(), lock);
}

#[test]
fn a_password_opens_its_key_file_and_no_other_does() {
    let master = MasterKey::generate().unwrap();
    let file = KeyFile::create(b"secret", &master, "host", "user", &time(), KdfCost::Fast).unwrap();
    let file = KeyFile::decode(&file.encode().unwrap()).unwrap();
    let mut sealed = master.seal(b"content").unwrap();
    assert_eq!(file.open(b"secret").unwrap().open_in_place(&mut sealed).unwrap(), b"content");
    for wrong in [&b"Secret"[..], b"", b"secret "] {
        assert!(matches!(file.open(wrong), Err(KeyError::WrongPassword)), "{wrong:?}");
    }
    let standard = KeyFile::create(b"secret", &master, "", "", &time(), KdfCost::Standard).unwrap();
    assert_eq!((standard.n, standard.r, standard.p), (32768, 8, 3));
}

#[test]
fn a_key_file_that_would_take_all_memory_is_refused_before_it_does() {
    let master = MasterKey::generate().unwrap();
    let good = KeyFile::create(b"secret", &master, "", "", &time(), KdfCost::Fast).unwrap();
    for (n, r, p) in [
        (1 << 40, 8, 1),
        (1 << 19, 8, 1),
        (u64::MAX, 8, 1),
        (1 << 63, u32::MAX, u32::MAX),
        (2, u32::MAX, 1),
        (2, 1 << 22, 1),
        (2, 8, u32::MAX),
        (2, 1, 1 << 23),
        (1 << 15, 8, 1 << 10),
        (3, 8, 1),
        (1, 8, 1),
        (0, 8, 1),
        (2, 0, 1),
        (2, 8, 0),
    ] {
        let file = KeyFile { n, r, p, ..good.clone() };
        assert!(matches!(file.open(b"secret"), Err(KeyError::Cost { .. })), "N={n} r={r} p={p}");
    }
    assert!(matches!(
        KeyFile { kdf: "none".into(), ..good.clone() }.open(b"secret"),
        Err(KeyError::Invalid(_))
    ));
    assert!(matches!(
        KeyFile { salt: vec![0; 63], ..good.clone() }.open(b"secret"),
        Err(KeyError::Invalid(_))
    ));
    assert!(KeyFile { data: vec![0; 31], ..good }.open(b"secret").is_err());
    assert!(KeyFile::decode(&vec![b' '; super::key::MAX_BYTES + 1]).is_err());
}

#[test]
fn a_list_of_values_is_no_object() {
    let id = "0a".repeat(32);
    let config = format!(r#"[2,"{id}","3027fdfb419915"]"#);
    assert!(super::config::Config::decode(config.as_bytes()).is_err());
    let key = r#"["2026-11-26T22:00:22Z","u","h","scrypt",2,8,1,"",""]"#;
    assert!(KeyFile::decode(key.as_bytes()).is_err());
    let blob = format!(r#"{{"id":"{id}","type":"data","offset":0,"length":32}}"#);
    let pack = |pack: &str| format!(r#"{{"packs":[{pack}]}}"#);
    let object = pack(&format!(r#"{{"id":"{id}","blobs":[{blob}]}}"#));
    assert!(index::decode(object.as_bytes()).is_ok());
    for list in [
        pack(&format!(r#"["{id}",[{blob}]]"#)),
        pack(&format!(r#"{{"id":"{id}","blobs":[["{id}","data",0,32,0]]}}"#)),
    ] {
        assert!(index::decode(list.as_bytes()).is_err(), "{list}");
    }
}

#[test]
fn an_index_with_two_lists_of_packs_is_refused() {
    assert!(index::decode(br#"{"packs":[],"packs":[]}"#).is_err());
}

#[test]
fn numbers_of_other_writers_stay_as_they_are() {
    let id = "0a".repeat(32);
    // Read without care for the last bit, these change each time that they are read and written.
    for number in
        ["1.7976931348623155e308", "5.0000000000000123e-300", "0.30000000000000004", "31.245270191439438"]
    {
        let text =
            format!(r#"{{"time":"2026-11-26T22:00:22Z","tree":"{id}","paths":[],"of_others":{number}}}"#);
        let found = snapshot::decode(text.as_bytes()).unwrap();
        assert_eq!(found.other["of_others"].as_f64(), number.parse().ok());
        assert_eq!(snapshot::decode(&snapshot::encode(&found).unwrap()).unwrap(), found);
    }
}
