//! Where a disk is restored to: a new file, an existing one, a block device.
//!
//! A new file has another name until it is whole, so that nobody takes half a disk for one. What is there already is
//! only touched when the caller said how. A file is never made larger or smaller than it is: the end that would be cut
//! off, or left over, belongs to somebody.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
};

use nestling_block::{BlockError, BlockSource, BlockTarget, RawDisk};

use crate::{Existing, VaultError, hex};

/// What may happen to what is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onto {
    /// Nothing: there must be nothing.
    Nothing,
    /// A file is replaced once the new one is whole; a device is overwritten.
    Overwrite,
    /// It is read, and only what differs is written.
    Compare,
}

/// An open output. Dropped before it is finished, a new file goes away again.
pub struct Output {
    disk: RawDisk,
    existing: Onto,
    /// The name until it is whole, and the one from then on.
    rename: Option<(PathBuf, PathBuf)>,
}

impl Output {
    pub fn open(path: &Path, onto: Onto, size_bytes: u64) -> Result<Self, VaultError> {
        let there = match fs::metadata(path) {
            Ok(about) => Some(about.file_type()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(path, "look", error)),
        };
        let is_device = there.is_some_and(|kind| kind.is_block_device());
        let shown = path.display();
        match (onto, there) {
            (Onto::Nothing, Some(_)) => Err(VaultError::OutputExists { path: shown.to_string() }),
            (Onto::Compare, None) => Err(VaultError::Invalid(format!(
                "{shown} is not there, so nothing can be compared with it; restore to a new file instead"
            ))),
            (Onto::Compare, Some(_)) => Self::existing(path, Onto::Compare, size_bytes, is_device),
            (Onto::Overwrite, Some(_)) if is_device => {
                Self::existing(path, Onto::Overwrite, size_bytes, true)
            }
            (Onto::Overwrite, Some(kind)) if !kind.is_file() => Err(VaultError::Invalid(format!(
                "{shown} is neither a regular file nor a block device; choose another place"
            ))),
            // A link stays, and what it points to is replaced.
            (_, Some(_)) => {
                Self::new_file(&fs::canonicalize(path).map_err(|e| failed(path, "look", e))?, size_bytes)
            }
            (_, None) => Self::new_file(path, size_bytes),
        }
    }

    fn existing(path: &Path, onto: Onto, size_bytes: u64, is_device: bool) -> Result<Self, VaultError> {
        let disk = RawDisk::open_writable(path)?;
        let found = BlockTarget::size_bytes(&disk);
        if found < size_bytes || (!is_device && found != size_bytes) {
            return Err(VaultError::Invalid(format!(
                "{} has {found} bytes, and the disk has {size_bytes}; give a target that is as large",
                path.display()
            )));
        }
        Ok(Self { disk, existing: onto, rename: None })
    }

    fn new_file(path: &Path, size_bytes: u64) -> Result<Self, VaultError> {
        let name = path.file_name().ok_or_else(|| {
            VaultError::Invalid(format!("{} is no name of a file; give one", path.display()))
        })?;
        let mut random = [0; 8];
        crate::crypto::random(&mut random)?;
        let temporary = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), hex(&random)));
        let disk = RawDisk::create(&temporary, size_bytes)?;
        Ok(Self { disk, existing: Onto::Nothing, rename: Some((temporary, path.to_owned())) })
    }

    pub fn target(&self) -> &dyn BlockTarget {
        &self.disk
    }

    /// What a restore may assume of it.
    pub fn contents(&self) -> Existing<'_> {
        match self.existing {
            Onto::Nothing => Existing::Zeroes,
            Onto::Overwrite => Existing::Unknown,
            Onto::Compare => Existing::Compare(&self.disk as &dyn BlockSource),
        }
    }

    /// Gives a new file its name, durably. Call it after a restore that succeeded.
    pub fn finish(mut self) -> Result<(), VaultError> {
        let Some((temporary, path)) = &self.rename else { return Ok(()) };
        fs::rename(temporary, path).map_err(|e| failed(path, "rename", e))?;
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        self.rename = None;
        File::open(&directory).and_then(|d| d.sync_all()).map_err(|e| failed(&directory, "sync", e))
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.rename {
            // What cannot be removed has a name that says what it is.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn failed(path: &Path, action: &'static str, error: io::Error) -> VaultError {
    BlockError::io(&path.display().to_string(), action, 0, error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_file_has_its_name_only_when_it_is_whole() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("disk");
        drop(Output::open(&path, Onto::Nothing, 100).expect("an output"));
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 0);

        let output = Output::open(&path, Onto::Nothing, 100).expect("an output");
        output.target().write_at(b"new", 0).expect("written");
        assert!(!path.exists());
        output.finish().expect("renamed");
        assert_eq!(fs::read(&path).expect("the disk")[..4], *b"new\0");
        assert!(matches!(Output::open(&path, Onto::Nothing, 100), Err(VaultError::OutputExists { .. })));

        let output = Output::open(&path, Onto::Overwrite, 50).expect("an output");
        assert_eq!(fs::metadata(&path).expect("the old one").len(), 100);
        output.finish().expect("renamed");
        assert_eq!(fs::metadata(&path).expect("the new one").len(), 50);
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1);
    }

    #[test]
    fn what_is_there_is_compared_only_when_it_is_as_large() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("disk");
        assert!(Output::open(&path, Onto::Compare, 100).is_err());
        fs::write(&path, [1; 100]).expect("a file");
        for size_bytes in [99, 101] {
            assert!(Output::open(&path, Onto::Compare, size_bytes).is_err());
        }
        let output = Output::open(&path, Onto::Compare, 100).expect("an output");
        assert!(matches!(output.contents(), Existing::Compare(_)));
        drop(output);
        assert_eq!(fs::read(&path).expect("still there"), [1; 100]);
        assert!(Output::open(directory.path(), Onto::Overwrite, 100).is_err());
    }
}
