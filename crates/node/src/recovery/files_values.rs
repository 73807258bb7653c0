//! What is told about files in recovery points. Names are in their escaped text everywhere.

use nestling_block::{Extent, ExtentKind};
use nestling_explore::{
    FileKind, FileName, FilePath, FileSystem, Node, Place, Result, Stat, Timestamp, Volume,
};

/// Where: a point, and a place in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesAt {
    pub point: String,
    pub repository: Option<String>,
    /// Such as `scsi:0/2:/etc` or `lvm/data/files:/etc`; empty for the point itself.
    pub place: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeView {
    /// To be asked for.
    pub place: String,
    /// What it holds, for people.
    pub content: String,
    pub label: String,
    /// What its partition is called.
    pub name: String,
    pub size_bytes: u64,
    pub is_readable: bool,
    pub problem: Option<String>,
}

/// What a key opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnlockView {
    /// Encrypted volumes that are open now.
    pub opened: u32,
    /// Those that need another key.
    pub locked: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileView {
    pub place: String,
    /// None of a volume's root.
    pub name: Option<FileName>,
    pub kind: FileKind,
    pub size_bytes: u64,
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub modified: Option<Timestamp>,
    pub link_target: Option<Vec<u8>>,
    /// Names and values.
    pub attributes: Vec<(FileName, Vec<u8>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesView {
    /// The whole id of the point that it is in.
    pub point: String,
    pub itself: FileView,
    pub entries: Vec<FileView>,
    /// Where the next page begins.
    pub next: Option<u64>,
    /// What could not be read, so that entries may be missing, or say too little.
    pub damage: Vec<String>,
}

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileBytes {
    /// None at the file's end.
    Bytes(Vec<u8>),
    /// So many zeroes: as far as they are known to reach, which may be farther than was asked for.
    Zeroes(u64),
}

impl FileBytes {
    /// At most `length` bytes of a file from an offset on.
    pub(super) fn read(fs: &dyn FileSystem, node: Node, offset: u64, length: u32) -> Result<Self> {
        let size_bytes = fs.stat(node)?.size_bytes;
        let end = offset.saturating_add(u64::from(length)).min(size_bytes);
        if offset >= end {
            return Ok(Self::Bytes(Vec::new()));
        }
        // Of a file in many pieces not all is asked where there is something to read.
        if zeroes(&fs.extents(node, b"", offset..end)?, offset) >= end - offset {
            let reach = zeroes(&fs.extents(node, b"", offset..size_bytes)?, offset);
            return Ok(Self::Zeroes(reach.clamp(end - offset, size_bytes - offset)));
        }
        let mut bytes = vec![0; usize::try_from(end - offset).unwrap_or_default()];
        let count = fs.read(node, b"", offset, &mut bytes)?;
        bytes.truncate(count);
        Ok(Self::Bytes(bytes))
    }
}

/// How far the zeroes reach with which extents begin.
fn zeroes(extents: &[Extent], from: u64) -> u64 {
    let mut end = from;
    for extent in extents {
        if extent.kind != ExtentKind::Zero || extent.offset > end {
            break;
        }
        end = end.max(extent.end());
    }
    end - from
}

/// A disk as people call it.
pub(super) fn shown(disk: &str) -> String {
    disk.replacen('-', ":", 1)
}

/// What can be asked for again. A volume that is put together from several disks is on none of them.
fn place_text(disk: Option<&str>, place: &Place) -> String {
    match disk {
        Some(disk) => format!("{}/{place}", shown(disk)),
        None => place.to_string(),
    }
}

impl VolumeView {
    /// A disk of which it is told what is wrong with how it is divided.
    pub(super) fn of_disk(disk: Option<&str>, at: &Place, problem: String) -> Self {
        Self { place: place_text(disk, at), ..Self::unreadable(disk, problem) }
    }

    pub(super) fn new(disk: Option<&str>, at: &Place, volume: Volume) -> Self {
        let is_readable = volume.is_readable();
        let content = volume.content.as_ref();
        Self {
            place: place_text(disk, &at.volume(volume.id.clone())),
            content: content.map(|content| content.kind.to_string()).unwrap_or_default(),
            label: content.map(|content| content.label.clone()).unwrap_or_default(),
            is_readable,
            name: volume.name,
            size_bytes: volume.size_bytes,
            problem: volume.problem,
        }
    }

    /// A disk, or all disks, of which nothing more can be told.
    pub(super) fn unreadable(disk: Option<&str>, problem: String) -> Self {
        Self {
            place: disk.map(shown).unwrap_or_default(),
            content: String::new(),
            label: String::new(),
            name: String::new(),
            size_bytes: 0,
            is_readable: false,
            problem: Some(problem),
        }
    }
}

impl FileView {
    pub(super) fn new(
        fs: &dyn FileSystem,
        disk: Option<&str>,
        place: &Place,
        name: Option<FileName>,
        path: &FilePath,
        stat: &Stat,
        with_attributes: bool,
    ) -> Result<Self> {
        let link_target = match stat.kind {
            FileKind::Link => Some(fs.link_target(stat.node)?),
            _ => None,
        };
        let attributes = if with_attributes { fs.extended_attributes(stat.node)? } else { Vec::new() };
        Ok(Self {
            place: place_text(disk, &place.at(path.clone())),
            name,
            kind: stat.kind,
            size_bytes: stat.size_bytes,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            modified: stat.times.modified,
            link_target,
            attributes: attributes.into_iter().map(|found| (found.name, found.value)).collect(),
        })
    }

    /// One of which no more could be read.
    pub(super) fn unknown(
        disk: Option<&str>,
        place: &Place,
        name: FileName,
        path: &FilePath,
        kind: FileKind,
    ) -> Self {
        Self {
            place: place_text(disk, &place.at(path.clone())),
            name: Some(name),
            kind,
            size_bytes: 0,
            mode: None,
            uid: None,
            gid: None,
            modified: None,
            link_target: None,
            attributes: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use nestling_explore::{Attributes, Cursor, Page, Summary, Times};

    use super::*;

    const MIB: u64 = 1 << 20;

    /// One file, of which what is not a hole is full of ones.
    struct OneFile {
        size_bytes: u64,
        data: Range<u64>,
    }

    impl FileSystem for OneFile {
        fn summary(&self) -> &Summary {
            unreachable!("nobody asks for it")
        }
        fn root(&self) -> Node {
            Node(1)
        }
        fn lookup(&self, _: Node, _: &[u8]) -> Result<Option<Node>> {
            Ok(None)
        }
        fn list(&self, _: Node, _: Cursor, _: usize) -> Result<Page> {
            unreachable!("it is no directory")
        }
        fn stat(&self, node: Node) -> Result<Stat> {
            Ok(Stat {
                node,
                kind: FileKind::File,
                size_bytes: self.size_bytes,
                allocated_bytes: 0,
                mode: None,
                uid: None,
                gid: None,
                times: Times::default(),
                links: 1,
                attributes: Attributes::Ext(0),
                device: None,
            })
        }
        fn read(&self, _: Node, _: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
            for (at, byte) in (offset..).zip(buf.iter_mut()) {
                *byte = u8::from(self.data.contains(&at));
            }
            Ok(buf.len())
        }
        fn extents(&self, _: Node, _: &[u8], range: Range<u64>) -> Result<Vec<Extent>> {
            let part = |from: u64, to: u64| from.max(range.start)..to.min(range.end);
            let (before, data, after) = (
                part(0, self.data.start),
                part(self.data.start, self.data.end),
                part(self.data.end, self.size_bytes),
            );
            let length = |part: &Range<u64>| part.end.saturating_sub(part.start);
            let all = [
                Extent::zero(before.start, length(&before)),
                Extent::data(data.start, length(&data)),
                Extent::zero(after.start, length(&after)),
            ];
            Ok(all.into_iter().filter(|extent| extent.length > 0).collect())
        }
        fn link_target(&self, _: Node) -> Result<Vec<u8>> {
            Ok(Vec::new())
        }
    }

    #[test]
    fn a_hole_is_told_as_a_whole_however_large_it_is() {
        let tib = 1 << 40;
        let file = OneFile { size_bytes: 15 * tib, data: 10 * tib..10 * tib + 3 };
        let read = |offset| FileBytes::read(&file, Node(1), offset, 4 << 20).unwrap();
        assert_eq!(read(0), FileBytes::Zeroes(10 * tib));
        assert_eq!(read(MIB), FileBytes::Zeroes(10 * tib - MIB));
        let FileBytes::Bytes(bytes) = read(10 * tib - 1) else { panic!("these are no zeroes") };
        assert_eq!((bytes.len(), &bytes[..6]), (4 << 20, &[0, 1, 1, 1, 0, 0][..]));
        assert_eq!(read(10 * tib + 3), FileBytes::Zeroes(5 * tib - 3));
        assert_eq!(read(15 * tib), FileBytes::Bytes(Vec::new()));
    }

    #[test]
    fn what_is_wrong_with_a_partition_table_is_shown_with_its_disk() {
        let of =
            |disk| VolumeView::of_disk(disk, &Place::default(), "the table at the end is damaged".into());
        let view = of(Some("scsi-0"));
        assert_eq!((view.place.as_str(), view.is_readable), ("scsi:0/", false));
        assert_eq!(view.problem.as_deref(), Some("the table at the end is damaged"));
        assert_eq!(of(None).place, "");
    }
}
