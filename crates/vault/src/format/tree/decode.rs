//! Reading trees.

use std::{borrow::Cow, fmt};

use nestling_block::JsonObject;
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{FormatError, Node, NodeKind, Rare, Timestamp, Tree, WHAT, name};
use crate::{
    BlobId,
    format::{json, pack::BlobKind},
};

/// A tree from its JSON. Its nodes are in order, and their names are checked: not empty, not `.` or `..`, without
/// slash and zero byte, at most 255 bytes of UTF-8. Fields that are not known are passed over.
pub fn decode(json: &[u8]) -> Result<Tree, FormatError> {
    #[derive(Deserialize)]
    struct TreeJson {
        #[serde(deserialize_with = "json::null_as_default")]
        nodes: Vec<NodeJson>,
    }
    let JsonObject::<TreeJson>(tree) = serde_json::from_slice(json).map_err(FormatError::json(WHAT))?;
    let tree = Tree { nodes: tree.nodes.into_iter().map(|node| node.0).collect() };
    tree.check()?;
    Ok(tree)
}

#[derive(Deserialize)]
#[serde(try_from = "JsonObject<Fields<'de>>")]
struct NodeJson(Node);

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default)]
    mode: u32,
    mtime: Timestamp,
    atime: Timestamp,
    ctime: Timestamp,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
    #[serde(default)]
    user: String,
    #[serde(default)]
    group: String,
    #[serde(default)]
    inode: u64,
    #[serde(default)]
    device_id: u64,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    links: u64,
    #[serde(default)]
    linktarget: String,
    #[serde(default)]
    linktarget_raw: String,
    #[serde(default, borrow)]
    extended_attributes: Option<&'a RawValue>,
    #[serde(default, borrow)]
    generic_attributes: Option<&'a RawValue>,
    #[serde(default)]
    device: u64,
    #[serde(default)]
    content: Option<Vec<BlobId>>,
    #[serde(default)]
    subtree: Option<BlobId>,
    #[serde(default)]
    error: String,
}

impl TryFrom<JsonObject<Fields<'_>>> for NodeJson {
    type Error = String;
    fn try_from(JsonObject(fields): JsonObject<Fields<'_>>) -> Result<Self, String> {
        let Some(name) = name::unquote(&fields.name) else {
            let shown: String = fields.name.chars().take(80).collect();
            return Err(format!("the name {shown:?} is not quoted as it should be, or not UTF-8"));
        };
        let raw = |value: Option<&RawValue>| value.map_or_else(String::new, |value| value.get().to_owned());
        let mut rare = Rare {
            device_id: fields.device_id,
            size: 0,
            link_target: fields.linktarget,
            link_target_raw: fields.linktarget_raw,
            extended_attributes: raw(fields.extended_attributes),
            generic_attributes: raw(fields.generic_attributes),
            device: fields.device,
            unusual_content: false,
            error: fields.error,
        };
        let kind = match (&*fields.kind, fields.subtree) {
            ("file", _) => {
                rare.unusual_content = fields.content.is_none();
                NodeKind::File { size: fields.size, content: fields.content.unwrap_or_default() }
            }
            (kind, subtree) => {
                rare.size = fields.size;
                rare.unusual_content = fields.content.is_some();
                if fields.content.is_some_and(|content| !content.is_empty()) {
                    return Err(format!("{name:?} has content but is no file"));
                }
                match subtree {
                    Some(subtree) if kind == "dir" => NodeKind::Dir { subtree },
                    None if kind != "dir" => NodeKind::Other(kind.to_owned()),
                    _ => {
                        return Err(format!(
                            "{name:?} is a directory without a tree, or a tree without a directory"
                        ));
                    }
                }
            }
        };
        let rare = (rare != Rare::default()).then(|| Box::new(rare));
        let Fields { mode, mtime, atime, ctime, uid, gid, user, group, inode, links, .. } = fields;
        Ok(Self(Node { name, kind, mode, mtime, atime, ctime, uid, gid, user, group, inode, links, rare }))
    }
}

/// Tells of every blob that a tree needs: the content of its files, and the trees of its directories. Minds neither
/// names nor anything else, so that a tree that [`decode`] refuses still keeps its blobs from being deleted.
pub fn for_each_blob(json: &[u8], mut each: impl FnMut(BlobKind, BlobId)) -> Result<(), FormatError> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    Walk { each: &mut each, level: Level::Tree }
        .deserialize(&mut deserializer)
        .and_then(|()| deserializer.end())
        .map_err(FormatError::json(WHAT))
}

#[derive(Clone, Copy)]
enum Level {
    Tree,
    Nodes,
    Node,
    Content,
}

struct Walk<'a, F> {
    each: &'a mut F,
    level: Level,
}

impl<'de, F: FnMut(BlobKind, BlobId)> DeserializeSeed<'de> for Walk<'_, F> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        match self.level {
            Level::Tree | Level::Node => deserializer.deserialize_map(self),
            // A list, or null.
            Level::Nodes | Level::Content => deserializer.deserialize_any(self),
        }
    }
}

impl<'de, F: FnMut(BlobKind, BlobId)> Visitor<'de> for Walk<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.level {
            Level::Tree => "a tree",
            Level::Nodes => "a list of nodes",
            Level::Node => "a node",
            Level::Content => "a list of blobs",
        })
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        #[derive(Deserialize)]
        #[serde(field_identifier, rename_all = "snake_case")]
        enum Field {
            Nodes,
            Content,
            Subtree,
            #[serde(other)]
            Other,
        }
        if matches!(self.level, Level::Nodes | Level::Content) {
            return Err(serde::de::Error::invalid_type(serde::de::Unexpected::Map, &self));
        }
        let mut has_nodes = false;
        while let Some(field) = map.next_key()? {
            match (self.level, field) {
                (Level::Tree, Field::Nodes) => {
                    has_nodes = true;
                    map.next_value_seed(Walk { each: self.each, level: Level::Nodes })?;
                }
                (Level::Node, Field::Content) => {
                    map.next_value_seed(Walk { each: self.each, level: Level::Content })?;
                }
                (Level::Node, Field::Subtree) => {
                    if let Some(id) = map.next_value::<Option<BlobId>>()? {
                        (self.each)(BlobKind::Tree, id);
                    }
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        if matches!(self.level, Level::Tree) && !has_nodes {
            return Err(serde::de::Error::missing_field("nodes"));
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        match self.level {
            Level::Nodes => {
                while items.next_element_seed(Walk { each: self.each, level: Level::Node })?.is_some() {}
            }
            _ => {
                while let Some(id) = items.next_element()? {
                    (self.each)(BlobKind::Data, id);
                }
            }
        }
        Ok(())
    }
}
