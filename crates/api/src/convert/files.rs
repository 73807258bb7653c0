use std::fmt::Write as _;

use nestling_node as node;

use super::same_names;
use crate::v1;

same_names!(v1::RecoveryFileKind, node::FileKind: File, Directory, Link, BlockDevice, CharDevice, Fifo, Socket, Unknown);

impl From<node::VolumeView> for v1::RecoveryVolume {
    fn from(view: node::VolumeView) -> Self {
        let node::VolumeView { place, content, label, name, size_bytes, is_readable, problem } = view;
        Self { place, content, label, name, size_bytes, readable: is_readable, problem }
    }
}

impl From<node::FileView> for v1::RecoveryFile {
    fn from(view: node::FileView) -> Self {
        let attribute = |(name, value): (node::FileName, Vec<u8>)| v1::RecoveryFileAttribute {
            name: name.to_string(),
            value: hex(&value),
        };
        Self {
            place: view.place,
            name: view.name.map(|name| name.to_string()).unwrap_or_default(),
            kind: view.kind.into(),
            size_bytes: view.size_bytes,
            mode: view.mode,
            uid: view.uid,
            gid: view.gid,
            modified: view
                .modified
                .map(|node::FileTime { seconds, nanoseconds }| v1::RecoveryFileTime { seconds, nanoseconds }),
            link_target: view.link_target.as_deref().map(link),
            attributes: view.attributes.into_iter().map(attribute).collect(),
        }
    }
}

impl From<node::FilesView> for v1::RecoveryFiles {
    fn from(view: node::FilesView) -> Self {
        let node::FilesView { point, itself, entries, next, damage } = view;
        Self {
            point,
            itself: itself.into(),
            entries: entries.into_iter().map(Into::into).collect(),
            next,
            damage,
        }
    }
}

same_names!(v1::FileChange, node::Change: Added, Removed, Changed);

impl From<node::FoundFiles> for v1::FoundFiles {
    fn from(found: node::FoundFiles) -> Self {
        let node::FoundFiles { files, is_cut, damage } = found;
        Self { files: files.into_iter().map(Into::into).collect(), is_cut, damage }
    }
}

impl From<node::ChangedFile> for v1::ChangedFile {
    fn from(changed: node::ChangedFile) -> Self {
        let node::ChangedFile { change, path, kind, sizes: (old_size_bytes, new_size_bytes) } = changed;
        Self { change: change.into(), path, kind: kind.into(), old_size_bytes, new_size_bytes }
    }
}

impl From<node::Comparison> for v1::PointComparison {
    fn from(comparison: node::Comparison) -> Self {
        let node::Comparison { changes, is_cut, damage } = comparison;
        Self { changes: changes.into_iter().map(Into::into).collect(), is_cut, damage }
    }
}

impl From<node::UnlockView> for v1::UnlockedVolumes {
    fn from(view: node::UnlockView) -> Self {
        let node::UnlockView { opened, locked } = view;
        Self { opened, locked }
    }
}

/// The bytes that pairs of hexadecimal digits stand for.
pub fn unhex(text: &str) -> Result<Vec<u8>, node::NodeError> {
    let wrong =
        || node::NodeError::Invalid("the key is not written as pairs of hexadecimal digits".to_owned());
    // A sign would be taken for a digit.
    if !text.bytes().all(|byte| byte.is_ascii_hexdigit()) || !text.len().is_multiple_of(2) {
        return Err(wrong());
    }
    let pairs = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap_or_default());
    pairs.map(|pair| u8::from_str_radix(pair, 16).map_err(|_| wrong())).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Each name as names are written, but those that lead somewhere.
fn link(target: &[u8]) -> String {
    let name = |part: &[u8]| match part {
        b"" => String::new(),
        b"." => ".".to_owned(),
        b".." => "..".to_owned(),
        part => node::FileName::from(part).to_string(),
    };
    target.split(|byte| *byte == b'/').map(name).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_one_line_that_can_be_read_back() {
        assert_eq!(link(b"/usr/../b\nc"), "/usr/../b\\x0ac");
        assert_eq!(hex(&[0, 0xff]), "00ff");
    }
}
