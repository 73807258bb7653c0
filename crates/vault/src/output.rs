//! Where a disk is restored to: a new file, an existing one, a block device.
//!
//! A new file has another name until it is whole, so that nobody takes half a disk for one. What is there already is
//! only touched when the caller said how. A file is never made larger or smaller than it is: the end that would be cut
//! off, or left over, belongs to somebody.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nestling_block::{BlockError, BlockSource, BlockTarget, RawDisk};
use rustix::{
    fs::{AtFlags, CWD, OFlags, RenameFlags, linkat, renameat, renameat_with, statat, unlinkat},
    io::Errno,
    path::Arg,
};

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
    /// A file with that name goes when the new one is whole.
    replaces: bool,
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
                let path = fs::canonicalize(path).map_err(|e| failed(path, "look", e))?;
                let mode = fs::metadata(&path).map_err(|e| failed(&path, "look", e))?.permissions().mode();
                Self::new_file(&path, size_bytes, Some(mode))
            }
            // A link to nothing.
            (_, None) if fs::symlink_metadata(path).is_ok() => {
                Err(VaultError::OutputExists { path: shown.to_string() })
            }
            (_, None) => Self::new_file(path, size_bytes, None),
        }
    }

    /// Whether a file that is there is replaced as a whole, with all that is in it.
    pub fn replaces_file(&self) -> bool {
        self.replaces
    }

    fn existing(path: &Path, onto: Onto, size_bytes: u64, is_device: bool) -> Result<Self, VaultError> {
        let disk = if is_device { open_device(path)? } else { RawDisk::open_writable(path)? };
        let found = BlockTarget::size_bytes(&disk);
        if found < size_bytes || (!is_device && found != size_bytes) {
            return Err(VaultError::Invalid(format!(
                "{} has {found} bytes, and the disk has {size_bytes}; give a target that is as large",
                path.display()
            )));
        }
        Ok(Self { disk, existing: onto, rename: None, replaces: false })
    }

    /// `replaced`: the permissions of the file whose place it takes.
    fn new_file(path: &Path, size_bytes: u64, replaced: Option<u32>) -> Result<Self, VaultError> {
        let name = path.file_name().ok_or_else(|| {
            VaultError::Invalid(format!("{} is no name of a file; give one", path.display()))
        })?;
        let mut random = [0; 8];
        crate::crypto::random(&mut random)?;
        let temporary = path.with_file_name(format!(".{}.{}", name.to_string_lossy(), hex(&random)));
        // What a machine's disk holds is not for everybody on the host.
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&temporary);
        let file = file.map_err(|e| failed(&temporary, "create", e))?;
        let mode = replaced.map(|mode| fs::Permissions::from_mode(mode & 0o777));
        let mode = mode.map_or(Ok(()), |mode| file.set_permissions(mode));
        let disk = RawDisk::from_file(temporary.display().to_string(), file, true)?;
        let rename = Some((temporary.clone(), path.to_owned()));
        let output = Self { disk, existing: Onto::Nothing, rename, replaces: replaced.is_some() };
        mode.map_err(|e| failed(&temporary, "set the permissions of", e))?;
        output.disk.set_size(size_bytes)?;
        Ok(output)
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
        if self.replaces {
            fs::rename(temporary, path).map_err(|e| failed(path, "rename", e))?;
        } else {
            rename_new(CWD, temporary, path).map_err(|error| match error {
                Errno::EXIST => VaultError::OutputExists { path: path.display().to_string() },
                error => failed(path, "rename", error.into()),
            })?;
        }
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

/// A device that the kernel itself uses, such as one with a mounted file system, is refused.
fn open_device(path: &Path) -> Result<RawDisk, VaultError> {
    let flags = (OFlags::EXCL | OFlags::NONBLOCK).bits().cast_signed();
    match OpenOptions::new().read(true).write(true).custom_flags(flags).open(path) {
        Ok(file) => Ok(RawDisk::from_file(path.display().to_string(), file, true)?),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(VaultError::Invalid(format!(
            "{} is in use: it is mounted, or part of another device; unmount it first, or choose another one",
            path.display()
        ))),
        Err(error) => Err(failed(path, "open", error)),
    }
}

/// Gives a file of a folder another name; `EXIST` when there is one of that name already.
pub fn rename_new(folder: impl AsFd, from: impl Arg + Copy, to: impl Arg + Copy) -> Result<(), Errno> {
    match renameat_with(&folder, from, &folder, to, RenameFlags::NOREPLACE) {
        // Not every file system knows this.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => rename_by_link(&folder, from, to),
        outcome => outcome,
    }
}

/// A link does not replace either.
fn rename_by_link(folder: impl AsFd, from: impl Arg + Copy, to: impl Arg + Copy) -> Result<(), Errno> {
    match linkat(&folder, from, &folder, to, AtFlags::empty()) {
        Ok(()) => unlinkat(&folder, from, AtFlags::empty()),
        Err(Errno::EXIST) => Err(Errno::EXIST),
        Err(_) if statat(&folder, to, AtFlags::SYMLINK_NOFOLLOW).is_ok() => Err(Errno::EXIST),
        // Not every file system knows links.
        Err(_) => renameat(&folder, from, &folder, to),
    }
}

fn failed(path: &Path, action: &'static str, error: io::Error) -> VaultError {
    BlockError::io(&path.display().to_string(), action, 0, error).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Way = fn(&File, &str) -> Result<(), Errno>;

    #[test]
    fn a_name_is_given_once_however_it_is_given() {
        let directory = tempfile::tempdir().expect("a directory");
        let folder = File::open(directory.path()).expect("it is there");
        let ways: [Way; 2] = [
            |folder, name| rename_new(folder, "hidden", name),
            |folder, name| rename_by_link(folder, "hidden", name),
        ];
        for (way, name) in ways.into_iter().zip(["a", "b"]) {
            let hidden = directory.path().join("hidden");
            fs::write(&hidden, name).expect("written");
            way(&folder, name).expect("a name");
            assert!(!hidden.exists());
            fs::write(&hidden, "other").expect("written");
            assert_eq!(way(&folder, name), Err(Errno::EXIST));
            assert_eq!(fs::read_to_string(directory.path().join(name)).expect("read"), name);
        }
    }

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
    fn a_file_that_appeared_meanwhile_stays() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("disk");
        for onto in [Onto::Nothing, Onto::Overwrite] {
            let output = Output::open(&path, onto, 100).expect("an output");
            assert!(!output.replaces_file());
            fs::write(&path, b"somebody's").expect("a file");
            assert!(matches!(output.finish(), Err(VaultError::OutputExists { .. })));
            assert_eq!(fs::read(&path).expect("a file"), b"somebody's");
            assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1);
            fs::remove_file(&path).expect("removed");
        }
        std::os::unix::fs::symlink("nowhere", &path).expect("a link");
        assert!(matches!(Output::open(&path, Onto::Overwrite, 100), Err(VaultError::OutputExists { .. })));
    }

    #[test]
    fn a_new_file_is_its_owners_and_a_replaced_one_is_whose_it_was() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("disk");
        let mode = || fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
        Output::open(&path, Onto::Nothing, 100).expect("an output").finish().expect("renamed");
        assert_eq!(mode(), 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).expect("set");
        let output = Output::open(&path, Onto::Overwrite, 100).expect("an output");
        assert!(output.replaces_file());
        output.finish().expect("renamed");
        assert_eq!(mode(), 0o664);
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
