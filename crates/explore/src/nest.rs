//! Disks inside disks: from a disk to its volumes, from a file that is a disk image to the disk in it.
//!
//! Runs in the reader's process only: tables and images were written by guests. What an image names as its parent is looked
//! for in the volume that the image is in and nowhere else, so that no name leads out of what belongs to its owner. Names on
//! the disk may form circles, and images be cut into many files: `nestling_block` bounds a chain, [`Place`] how deep it goes.

use std::{
    io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use nestling_block::{
    BlockError, BlockSource, ImageFile, ImageFiles, ImageFormat, OpenImage, PartitionTable,
};
use serde::{Deserialize, Serialize};

use crate::{
    Content, ErrorKind, ExploreError, FileKind, FileName, FilePath, FileSource, FileSystem, Kind, Place,
    Result, VolumeId, detect, follow, open, place::InVolume,
};

/// No more of a disk's volumes are told.
const VOLUMES_MAX: usize = 256;

/// A volume of a disk, as a list of them says it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    pub id: VolumeId,
    /// Only GPT has names of partitions.
    pub name: String,
    pub size_bytes: u64,
    /// Unless it cannot be read.
    pub content: Option<Content>,
    /// Why it cannot be read.
    pub problem: Option<String>,
}

/// What a disk is divided into.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Volumes {
    pub volumes: Vec<Volume>,
    /// What is wrong with the table.
    pub problems: Vec<String>,
}

/// What a disk is divided into. A volume that cannot be read is told, and the others are still there.
pub fn volumes(disk: &Arc<dyn BlockSource>) -> Result<Volumes> {
    let table = table(disk)?;
    let mut problems = table.problems;
    if table.partitions.len() > VOLUMES_MAX {
        problems.push(format!("only the first {VOLUMES_MAX} volumes are shown"));
    }
    let about = |partition: &nestling_block::Partition| {
        let opened = partition.open(disk).map_err(|source| below(disk.name(), source));
        let found = opened.and_then(|slice| {
            let source: Arc<dyn BlockSource> = Arc::new(slice);
            detect(&source)
        });
        let (content, problem) = match found {
            Ok(content) => (Some(content), None),
            Err(error) => (None, Some(error.to_string())),
        };
        let size_bytes = partition.range.end - partition.range.start;
        Volume {
            id: VolumeId::Number(partition.number),
            name: partition.name.clone(),
            size_bytes,
            content,
            problem,
        }
    };
    let volumes = table.partitions.iter().take(VOLUMES_MAX).map(about).collect();
    Ok(Volumes { volumes, problems })
}

/// What a place is in: the innermost disk, or the volume of it.
pub fn enter(disk: &Arc<dyn BlockSource>, place: &Place) -> Result<Arc<dyn BlockSource>> {
    let mut disk = Arc::clone(disk);
    for image in place.images() {
        disk = image_disk(open(volume(&disk, &image.volume)?)?, image)?;
    }
    match place.last() {
        Some(last) => volume(&disk, &last.volume),
        None => Ok(disk),
    }
}

fn table(disk: &Arc<dyn BlockSource>) -> Result<PartitionTable> {
    PartitionTable::read(disk, None).map_err(|source| below(disk.name(), source))
}

fn volume(disk: &Arc<dyn BlockSource>, id: &VolumeId) -> Result<Arc<dyn BlockSource>> {
    let VolumeId::Number(number) = *id else {
        return Err(ExploreError::Unreadable {
            volume: disk.name().to_owned(),
            found: format!("{id}, which is put together from others"),
        });
    };
    if number == 0 {
        return Ok(Arc::clone(disk));
    }
    let table = table(disk)?;
    let found = table.partitions.iter().find(|partition| partition.number == number);
    let partition = found.ok_or_else(|| ExploreError::NotFound {
        volume: disk.name().to_owned(),
        what: format!("volume {number}{}", numbered(&table)),
    })?;
    Ok(Arc::new(partition.open(disk).map_err(|source| below(disk.name(), source))?))
}

/// Which there are instead.
fn numbered(table: &PartitionTable) -> String {
    let numbers: Vec<String> =
        table.partitions.iter().map(|partition| partition.number.to_string()).collect();
    match numbers.as_slice() {
        [] => "; the disk has none".to_owned(),
        [whole] if whole == "0" => "; the disk has no partitions, and is volume 0 as a whole".to_owned(),
        some => format!("; the disk has {}", some.get(..VOLUMES_MAX).unwrap_or(some).join(", ")),
    }
}

/// The disk in an image. Its format is told by its first bytes: whoever wrote them owns all that they can name.
pub(crate) fn image_disk(fs: Arc<dyn FileSystem>, image: &InVolume) -> Result<Arc<dyn BlockSource>> {
    let files = VolumeFiles { fs };
    let path = as_path(&image.path);
    let failed = |source| below(&image.path.to_string(), source);
    let format = ImageFormat::probe(&files, &path).map_err(failed)?;
    Ok(OpenImage::open_in(&files, &path, Some(format)).map_err(failed)?.source)
}

fn below(volume: &str, source: BlockError) -> ExploreError {
    match source {
        BlockError::Io { ref source, .. } if source.kind() == io::ErrorKind::NotFound => {
            ExploreError::NotFound { volume: volume.to_owned(), what: "such file".to_owned() }
        }
        source => ExploreError::Disk { volume: volume.to_owned(), source },
    }
}

/// The files of one volume, for images in it that name others.
struct VolumeFiles {
    fs: Arc<dyn FileSystem>,
}

fn as_path(path: &FilePath) -> PathBuf {
    let mut bytes = Vec::new();
    for name in path.names() {
        bytes.push(b'/');
        bytes.extend(name.as_bytes());
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
}

impl ImageFiles for VolumeFiles {
    fn open(&self, path: &Path) -> Result<ImageFile, BlockError> {
        let names: Vec<FileName> =
            path.as_os_str().as_bytes().split(|byte| *byte == b'/').map(FileName::from).collect();
        let path =
            FilePath::from(names.into_iter().filter(|name| !name.as_bytes().is_empty()).collect::<Vec<_>>());
        let shown = path.to_string();
        let failed = |error: ExploreError| match error {
            ExploreError::Disk { source, .. } => source,
            error => {
                let kind = match error.kind() {
                    ErrorKind::NotFound => io::ErrorKind::NotFound,
                    _ => io::ErrorKind::Other,
                };
                BlockError::io(&shown, "open", 0, io::Error::new(kind, error))
            }
        };
        let node = follow(&*self.fs, &path).map_err(failed)?;
        let kind = self.fs.stat(node).map_err(failed)?.kind;
        if kind != FileKind::File {
            return Err(BlockError::unsupported(&shown, format!("is a {kind} and no disk image")));
        }
        let source = FileSource::open(Arc::clone(&self.fs), node, &shown).map_err(failed)?;
        Ok(ImageFile { source: Arc::new(source), id: (0, node.0) })
    }

    /// Wherever a drive was mounted, the path in it is the same.
    fn windows_path(&self, path: &str) -> Option<PathBuf> {
        let (drive, rest) = path.split_once(':')?;
        (drive.len() == 1 && rest.starts_with('\\')).then(|| PathBuf::from(rest.replace('\\', "/")))
    }
}

impl Volume {
    /// Whether it can be gone into, by a reader here or by a machine that mounts it.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.kind().is_some_and(|kind| kind.is_readable() || kind.is_mounted())
    }

    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        self.content.as_ref().map(|content| content.kind)
    }
}

#[cfg(test)]
mod tests {
    use nestling_block::MemoryDisk;

    use super::*;

    #[test]
    fn a_volume_that_is_not_there_is_told_with_those_that_are() {
        let said = |bytes: &[u8]| {
            let disk: Arc<dyn BlockSource> = Arc::new(MemoryDisk::from_bytes("d", bytes));
            let place = "7:/etc".parse().expect("a place");
            enter(&disk, &place).map(|_| ()).expect_err("there is none").to_string()
        };
        let mut bytes = vec![0; 1 << 20];
        assert!(
            said(&bytes).contains("no volume 7; the disk has no partitions, and is volume 0"),
            "{}",
            said(&bytes)
        );
        // One partition of Linux in an MBR.
        bytes[446 + 4] = 0x83;
        bytes[446 + 8] = 8;
        bytes[446 + 12] = 64;
        bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
        assert!(said(&bytes).contains("no volume 7; the disk has 1"), "{}", said(&bytes));
    }
}
