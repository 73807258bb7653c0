//! Which disk files a machine writes to and reads, and which two uses cannot be at once.
//!
//! A differencing disk is only as good as its parents: who writes to one of them destroys it, also while nothing runs. So
//! a machine's use of a disk includes all parents of it. A file is known by what its path leads to, whatever links there
//! are. A disk that is gone or damaged is known by its path alone: its machine does not start either.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nestling_hypervisor::disk::{self, DiskError};
use nestling_model::{Disk, DiskFormat};

/// A disk file, there or to be made.
#[derive(Debug, Clone)]
pub struct DiskFile {
    path: PathBuf,
    /// Device and inode.
    file: Option<(u64, u64)>,
}

impl DiskFile {
    pub fn new(path: &Path) -> Self {
        let file = fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
        Self { path: path.to_owned(), file }
    }

    pub fn is(&self, other: &Self) -> bool {
        self.path == other.path || (self.file.is_some() && self.file == other.file)
    }
}

#[derive(Debug, Clone)]
pub struct DiskUse {
    disk: DiskFile,
    writes: bool,
    parents: Vec<DiskFile>,
}

/// Why two uses cannot be at once, seen from the newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Clash {
    Same,
    /// The other one's disk, or the one named here, is above the newer one's.
    IsParentOf(PathBuf),
    /// The other one writes to this parent.
    ParentWritten(PathBuf),
}

impl DiskUse {
    /// Of a disk that is there.
    pub fn of(path: &Path, format: DiskFormat, read_only: bool) -> Result<Self, DiskError> {
        let parents = disk::parents(path, format)?.iter().map(|p| DiskFile::new(p)).collect();
        Ok(Self { disk: DiskFile::new(path), writes: !read_only, parents })
    }

    /// Of a disk that is to be made, on top of a parent that is there.
    pub fn of_new(path: &Path, parent: Option<(&Path, DiskFormat)>) -> Result<Self, DiskError> {
        let mut parents = Vec::new();
        if let Some((parent, format)) = parent {
            parents.push(DiskFile::new(parent));
            parents.extend(disk::parents(parent, format)?.iter().map(|p| DiskFile::new(p)));
        }
        Ok(Self { disk: DiskFile::new(path), writes: true, parents })
    }

    /// Of a disk that a machine has. One that is damaged or gone has no parents that could be destroyed; of others it
    /// must be known which they are.
    pub fn attached(attached: &Disk) -> Result<Self, DiskError> {
        match Self::of(&attached.path, attached.format, attached.read_only) {
            Err(DiskError::Missing(path)) if path == attached.path => Ok(Self::alone(attached)),
            Err(error @ DiskError::Corrupt { .. }) => {
                tracing::warn!(%error, "its parents are not known");
                Ok(Self::alone(attached))
            }
            // Its machine cannot start, and must not keep all others from starting; what is named is guarded all the same.
            Err(DiskError::ParentMissing(parent)) => {
                tracing::warn!(disk = %attached.path.display(), parent = %parent.display(), "a parent is missing");
                Ok(Self { parents: vec![DiskFile::new(&parent)], ..Self::alone(attached) })
            }
            known => known,
        }
    }

    /// Of a disk that a machine has, without its parents.
    pub fn alone(attached: &Disk) -> Self {
        Self { disk: DiskFile::new(&attached.path), writes: !attached.read_only, parents: Vec::new() }
    }

    pub fn writes(&self) -> bool {
        self.writes
    }

    pub fn is_new(&self) -> bool {
        self.disk.file.is_none()
    }

    pub fn path(&self) -> &Path {
        &self.disk.path
    }

    pub fn has_parent(&self, file: &DiskFile) -> bool {
        self.parents.iter().any(|p| p.is(file))
    }

    pub fn clash(&self, other: &Self) -> Option<Clash> {
        if self.disk.is(&other.disk) {
            return (self.writes || other.writes).then_some(Clash::Same);
        }
        if self.writes && other.has_parent(&self.disk) {
            return Some(Clash::IsParentOf(other.disk.path.clone()));
        }
        let written = |parent: &&DiskFile| other.writes && parent.is(&other.disk);
        self.parents.iter().find(written).map(|parent| Clash::ParentWritten(parent.path.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, writes: bool, parents: &[&str]) -> DiskUse {
        let file = |path: &str| DiskFile { path: path.into(), file: None };
        DiskUse { disk: file(path), writes, parents: parents.iter().map(|p| file(p)).collect() }
    }

    #[test]
    fn who_writes_is_alone_and_readers_share() {
        let (writer, reader) = (of("/a", true, &[]), of("/a", false, &[]));
        assert_eq!(writer.clash(&writer), Some(Clash::Same));
        assert_eq!(writer.clash(&reader), Some(Clash::Same));
        assert_eq!(reader.clash(&writer), Some(Clash::Same));
        assert_eq!(reader.clash(&reader), None);
        assert_eq!(writer.clash(&of("/b", true, &[])), None);
    }

    #[test]
    fn nobody_writes_to_a_parent_of_a_disk_in_use() {
        for child in [of("/c", true, &["/b", "/a"]), of("/c", false, &["/b", "/a"])] {
            let writer = of("/a", true, &[]);
            assert_eq!(writer.clash(&child), Some(Clash::IsParentOf("/c".into())));
            assert_eq!(child.clash(&writer), Some(Clash::ParentWritten("/a".into())));
            assert_eq!(of("/a", false, &[]).clash(&child), None);
            assert_eq!(child.clash(&of("/a", false, &[])), None);
            assert_eq!(child.clash(&of("/d", true, &["/b", "/a"])), None);
        }
    }

    #[test]
    fn a_parent_that_is_missing_is_guarded_by_its_name_and_what_is_no_disk_has_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.qcow2");
        let disk = Disk {
            path: path.clone(),
            format: DiskFormat::Qcow2,
            controller: nestling_model::Controller::Scsi,
            location: 0,
            read_only: false,
        };
        assert!(DiskUse::attached(&disk).unwrap().parents.is_empty());
        fs::write(&path, "no image at all").unwrap();
        assert!(DiskUse::attached(&disk).unwrap().parents.is_empty());
        let mut head = vec![0; 112];
        head[..8].copy_from_slice(b"QFI\xfb\0\0\0\x03");
        (head[15], head[19], head[103]) = (112, 6, 104);
        head.extend(b"parent");
        fs::write(&path, head).unwrap();
        let child = DiskUse::attached(&disk).unwrap();
        assert!(child.has_parent(&DiskFile::new(&dir.path().join("parent"))));
    }

    #[test]
    fn links_are_the_file_that_they_lead_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a"), "").unwrap();
        fs::write(path("b"), "").unwrap();
        fs::hard_link(path("a"), path("hard")).unwrap();
        std::os::unix::fs::symlink(path("a"), path("soft")).unwrap();
        let is = |a: &str, b: &str| DiskFile::new(&path(a)).is(&DiskFile::new(&path(b)));
        assert!(is("a", "hard") && is("soft", "hard") && is("none", "none"));
        assert!(!is("a", "b") && !is("none", "nothing"));
    }
}
