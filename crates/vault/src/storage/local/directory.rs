//! A directory held open: everything in it is named relative to it, and no symbolic link is followed.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{self, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, Stat},
    io::Errno,
};

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An open directory of a repository.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

/// What a directory says of a name in it.
pub(super) struct Entry {
    pub(super) is_file: bool,
    pub(super) size: u64,
    pub(super) changed: SystemTime,
}

impl Directory {
    /// The root itself may be reached over symbolic links: its user named it.
    pub(super) fn root(path: &Path) -> io::Result<Self> {
        Ok(Self(fs::open(path, OPEN, Mode::empty())?))
    }

    pub(super) fn again(&self) -> io::Result<Self> {
        Ok(Self(self.0.try_clone()?))
    }

    pub(super) fn below(&self, name: &str) -> io::Result<Self> {
        match fs::openat(&self.0, name, OPEN | OFlags::NOFOLLOW, Mode::empty()) {
            // What the kernel says of a link where a directory was wanted.
            Err(Errno::NOTDIR) => Err(Errno::LOOP.into()),
            other => Ok(Self(other?)),
        }
    }

    pub(super) fn below_or_new(&self, name: &str) -> io::Result<Self> {
        match self.below(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.make(name)?;
                self.below(name)
            }
            other => other,
        }
    }

    pub(super) fn make(&self, name: &str) -> io::Result<()> {
        match fs::mkdirat(&self.0, name, Mode::RWXU) {
            Err(Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Whether the directory was removed while it was open: nothing is in it then, which must not pass for empty.
    pub(super) fn is_gone(&self) -> io::Result<bool> {
        Ok(fs::fstat(&self.0)?.st_nlink == 0)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        match fs::fsync(&self.0) {
            // A file system that cannot sync directories (some network and FUSE ones) keeps their order itself.
            Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
            other => Ok(other?),
        }
    }

    pub(super) fn open(&self, name: &str, flags: OFlags, mode: Mode) -> io::Result<File> {
        Ok(File::from(fs::openat(&self.0, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, mode)?))
    }

    fn stat(&self, name: &str) -> io::Result<Stat> {
        Ok(fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Whether anything has this name.
    pub(super) fn holds(&self, name: &str) -> io::Result<bool> {
        Ok(super::found(self.stat(name))?.is_some())
    }

    /// The size of a regular file; nothing for what is none.
    pub(super) fn size(&self, name: &str) -> io::Result<Option<u64>> {
        let entry = entry(&self.stat(name)?);
        Ok(entry.is_file.then_some(entry.size))
    }

    /// The names of its files.
    pub(super) fn files(&self) -> io::Result<Vec<String>> {
        let mut files = Vec::new();
        for item in Dir::read_from(self.0.as_fd())? {
            let item = item?;
            let Ok(name) = item.file_name().to_str() else { continue };
            let is_file = match item.file_type() {
                FileType::RegularFile => true,
                // Some file systems do not say.
                FileType::Unknown => super::found(self.stat(name))?.is_some_and(|stat| entry(&stat).is_file),
                _ => false,
            };
            if is_file {
                files.push(name.to_owned());
            }
        }
        Ok(files)
    }

    /// All that has a name in UTF-8; what vanishes meanwhile is left out.
    pub(super) fn entries(&self) -> io::Result<Vec<(String, Entry)>> {
        let mut entries = Vec::new();
        for item in Dir::read_from(self.0.as_fd())? {
            let item = item?;
            let Ok(name) = item.file_name().to_str() else { continue };
            if name != "." && name != ".." {
                let stat = super::found(self.stat(name))?;
                entries.extend(stat.map(|stat| (name.to_owned(), entry(&stat))));
            }
        }
        Ok(entries)
    }

    pub(super) fn unlink(&self, name: &str) -> io::Result<()> {
        Ok(fs::unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Gives a file its other name, unless something has that name.
    pub(super) fn rename_to_new(&self, from: &str, to: &str) -> Result<(), Errno> {
        fs::renameat_with(&self.0, from, &self.0, to, RenameFlags::NOREPLACE)
    }

    /// Gives a file a second name, unless something has that name.
    pub(super) fn link_to_new(&self, from: &str, to: &str) -> Result<(), Errno> {
        fs::linkat(&self.0, from, &self.0, to, AtFlags::empty())
    }
}

fn entry(stat: &Stat) -> Entry {
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    Entry {
        is_file: FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        changed: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
    }
}
