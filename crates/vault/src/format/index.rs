//! Indexes: which blobs lie in which packs, so that no pack has to be opened to find one.
//!
//! restic's design document, "Indexing". An index file has up to 8 MiB of JSON, and a large repository has thousands of
//! them, so they are read pack by pack (0.8 GB/s on one core of a Xeon, see `speed.rs`). A pack must
//! never be listed in two index files in parts.

use std::fmt;

use nestling_block::JsonObject;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    FormatError, json,
    pack::{BlobKind, PackBlob},
};
use crate::{BlobId, IndexId, PackId, crypto::SEAL_OVERHEAD};

const WHAT: &str = "index";

/// What an index file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IndexFile {
    /// Index files that this one replaces; written by old versions of restic only.
    pub supersedes: Vec<IndexId>,
    pub packs: Vec<IndexPack>,
}

/// A pack and all that lies in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexPack {
    pub id: PackId,
    pub blobs: Vec<PackBlob>,
}

/// The JSON of an index, to be sealed as an object. The same index always gives the same bytes.
pub fn encode(index: &IndexFile) -> Vec<u8> {
    let blobs: usize = index.packs.iter().map(|pack| pack.blobs.len()).sum();
    let mut out = Vec::with_capacity(64 + index.packs.len() * 100 + blobs * 170);
    out.push(b'{');
    if !index.supersedes.is_empty() {
        out.extend_from_slice(b"\"supersedes\":[");
        separated(&index.supersedes, &mut out, |id, out| json::write_id(&id.0, out));
        out.extend_from_slice(b"],");
    }
    out.extend_from_slice(b"\"packs\":[");
    separated(&index.packs, &mut out, |pack, out| {
        out.extend_from_slice(b"{\"id\":");
        json::write_id(&pack.id.0, out);
        out.extend_from_slice(b",\"blobs\":[");
        separated(&pack.blobs, out, write_blob);
        out.extend_from_slice(b"]}");
    });
    out.extend_from_slice(b"]}\n");
    out
}

fn separated<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    for (number, item) in items.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        write(item, out);
    }
}

fn write_blob(blob: &PackBlob, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"id\":");
    json::write_id(&blob.id.0, out);
    out.extend_from_slice(match blob.kind {
        BlobKind::Data => b",\"type\":\"data\",\"offset\":".as_slice(),
        BlobKind::Tree => b",\"type\":\"tree\",\"offset\":",
    });
    json::write_number(blob.offset.into(), out);
    out.extend_from_slice(b",\"length\":");
    json::write_number(blob.length.into(), out);
    if let Some(length) = blob.uncompressed_length.filter(|length| *length != 0) {
        out.extend_from_slice(b",\"uncompressed_length\":");
        json::write_number(length.into(), out);
    }
    out.push(b'}');
}

/// An index from its JSON. Takes less memory than the JSON has.
pub fn decode(json: &[u8]) -> Result<IndexFile, FormatError> {
    let mut packs = Vec::new();
    let supersedes = decode_each(json, |pack| packs.push(pack))?;
    Ok(IndexFile { supersedes, packs })
}

/// As [`decode`], but gives the packs one by one; returns what the index supersedes. When it fails, some packs were
/// given already.
pub fn decode_each(json: &[u8], each: impl FnMut(IndexPack)) -> Result<Vec<IndexId>, FormatError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let supersedes = deserializer.deserialize_map(FileVisitor(each)).map_err(FormatError::json(WHAT))?;
    deserializer.end().map_err(FormatError::json(WHAT))?;
    Ok(supersedes)
}

struct FileVisitor<F>(F);

impl<'de, F: FnMut(IndexPack)> Visitor<'de> for FileVisitor<F> {
    type Value = Vec<IndexId>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an index")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Field {
            Supersedes,
            Packs,
            // Among others rustic's packs_to_delete: those packs hold nothing that is in use.
            #[serde(other)]
            Other,
        }
        let (mut supersedes, mut has_packs) = (None, false);
        while let Some(field) = map.next_key()? {
            match field {
                Field::Supersedes => supersedes = map.next_value::<Option<_>>()?,
                Field::Packs => {
                    if std::mem::replace(&mut has_packs, true) {
                        return Err(serde::de::Error::duplicate_field("packs"));
                    }
                    map.next_value_seed(PacksSeed(&mut self.0))?;
                }
                Field::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if !has_packs {
            return Err(serde::de::Error::missing_field("packs"));
        }
        Ok(supersedes.unwrap_or_default())
    }
}

struct PacksSeed<'a, F>(&'a mut F);

impl<'de, F: FnMut(IndexPack)> DeserializeSeed<'de> for PacksSeed<'_, F> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(IndexPack)> Visitor<'de> for PacksSeed<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of packs")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut packs: A) -> Result<(), A::Error> {
        while let Some(JsonObject(PackJson { id, blobs })) = packs.next_element()? {
            (self.0)(IndexPack { id, blobs: blobs.into_iter().map(|blob| blob.0).collect() });
        }
        Ok(())
    }
}

#[derive(Deserialize)]
struct PackJson {
    id: PackId,
    #[serde(default, deserialize_with = "json::null_as_default")]
    blobs: Vec<BlobJson>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindJson {
    Data,
    Tree,
}

#[derive(Deserialize)]
struct Fields {
    id: BlobId,
    #[serde(rename = "type")]
    kind: KindJson,
    offset: u32,
    length: u32,
    #[serde(default)]
    uncompressed_length: u32,
}

#[derive(Deserialize)]
#[serde(try_from = "JsonObject<Fields>")]
struct BlobJson(PackBlob);

impl TryFrom<JsonObject<Fields>> for BlobJson {
    type Error = String;
    fn try_from(JsonObject(fields): JsonObject<Fields>) -> Result<Self, String> {
        let Fields { id, kind, offset, length, uncompressed_length } = fields;
        if (length as usize) < SEAL_OVERHEAD || offset.checked_add(length).is_none() {
            return Err(format!("a blob of {length} bytes at {offset} cannot be"));
        }
        let kind = match kind {
            KindJson::Data => BlobKind::Data,
            KindJson::Tree => BlobKind::Tree,
        };
        let uncompressed_length = Some(uncompressed_length).filter(|length| *length != 0);
        Ok(Self(PackBlob { id, kind, offset, length, uncompressed_length }))
    }
}
