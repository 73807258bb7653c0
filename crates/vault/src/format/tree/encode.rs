//! Writing trees as Go's `encoding/json` writes restic's: its order of fields, its escapes, its omissions.

use super::{Node, NodeKind, Rare, Tree, name};
use crate::format::json::{write_id, write_number, write_string};

/// The JSON of a tree. Nodes are written in the order of their names; that no name is there twice is up to the caller
/// (see [`Tree::new`]).
pub fn encode(tree: &Tree) -> Vec<u8> {
    let blobs: usize = tree.nodes.iter().map(|node| content(node).len()).sum();
    let mut out = Vec::with_capacity(16 + tree.nodes.len() * 320 + blobs * 67);
    out.extend_from_slice(b"{\"nodes\":[");
    let mut nodes: Vec<&Node> = tree.nodes.iter().collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    for (number, node) in nodes.into_iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        write_node(node, &mut out);
    }
    out.extend_from_slice(b"]}\n");
    out
}

fn content(node: &Node) -> &[crate::BlobId] {
    match &node.kind {
        NodeKind::File { content, .. } => content,
        _ => &[],
    }
}

fn write_node(node: &Node, out: &mut Vec<u8>) {
    let nothing = Rare::default();
    let rare = node.rare.as_deref().unwrap_or(&nothing);
    let (kind, size) = match &node.kind {
        NodeKind::Dir { .. } => ("dir", rare.size),
        NodeKind::File { size, .. } => ("file", *size),
        NodeKind::Other(kind) => (kind.as_str(), rare.size),
    };
    out.extend_from_slice(b"{\"name\":");
    write_string(&name::quote(&node.name), out);
    text(",\"type\":", kind, out);
    number(",\"mode\":", node.mode.into(), out);
    for (field, time) in [("mtime", node.mtime), ("atime", node.atime), ("ctime", node.ctime)] {
        out.extend_from_slice(format!(",\"{field}\":\"{time}\"").as_bytes());
    }
    out.extend_from_slice(format!(",\"uid\":{},\"gid\":{}", node.uid, node.gid).as_bytes());
    optional_text(",\"user\":", &node.user, out);
    optional_text(",\"group\":", &node.group, out);
    number(",\"inode\":", node.inode, out);
    number(",\"device_id\":", rare.device_id, out);
    number(",\"size\":", size, out);
    number(",\"links\":", node.links, out);
    optional_text(",\"linktarget\":", &rare.link_target, out);
    optional_text(",\"linktarget_raw\":", &rare.link_target_raw, out);
    raw(",\"extended_attributes\":", &rare.extended_attributes, out);
    raw(",\"generic_attributes\":", &rare.generic_attributes, out);
    number(",\"device\":", rare.device, out);
    write_content(node, rare, out);
    if let NodeKind::Dir { subtree } = &node.kind {
        out.extend_from_slice(b",\"subtree\":");
        write_id(&subtree.0, out);
    }
    optional_text(",\"error\":", &rare.error, out);
    out.push(b'}');
}

fn write_content(node: &Node, rare: &Rare, out: &mut Vec<u8>) {
    out.extend_from_slice(b",\"content\":");
    let blobs = content(node);
    let is_file = matches!(node.kind, NodeKind::File { .. });
    if blobs.is_empty() && is_file == rare.unusual_content {
        out.extend_from_slice(b"null");
        return;
    }
    out.push(b'[');
    for (number, id) in blobs.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        write_id(&id.0, out);
    }
    out.push(b']');
}

fn text(field: &str, value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(field.as_bytes());
    write_string(value, out);
}

fn optional_text(field: &str, value: &str, out: &mut Vec<u8>) {
    if !value.is_empty() {
        text(field, value, out);
    }
}

fn raw(field: &str, value: &str, out: &mut Vec<u8>) {
    if !value.is_empty() {
        out.extend_from_slice(field.as_bytes());
        out.extend_from_slice(value.as_bytes());
    }
}

fn number(field: &str, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        out.extend_from_slice(field.as_bytes());
        write_number(value, out);
    }
}
