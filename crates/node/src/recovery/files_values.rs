//! What is told about files in recovery points. Names are in their escaped text everywhere.

use nestling_explore::{FileKind, FileName, FilePath, FileSystem, Place, Result, Stat, Timestamp, Volume};

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

/// What can be asked for again. A volume that is put together from several disks is on none of them.
fn place_text(disk: Option<&str>, place: &Place) -> String {
    match disk {
        Some(disk) => format!("{}/{place}", disk.replacen('-', ":", 1)),
        None => place.to_string(),
    }
}

impl VolumeView {
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
            place: disk.map(|disk| disk.replacen('-', ":", 1)).unwrap_or_default(),
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
