//! A repository in a directory of this machine, or of a file system mounted on it.
//!
//! A file is written under a temporary name in its own directory, its length is checked, it is synced, renamed without
//! replacing anything, and then its directory is synced: whoever sees a name sees the whole file, after `kill -9` and
//! after a power failure. Any number of processes may do this at once. Below the root no symbolic link is followed, so
//! that whoever can write into a repository cannot make us write, or read, anywhere else.

mod directory;
mod handles;
mod publish;

use std::{
    collections::HashSet,
    fs::{DirBuilder, File},
    io::{self, Read},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustix::fs::{Mode, OFlags};

use self::{directory::Directory, handles::Handles, publish::Published};
use super::{FileKind, FileName, Listed, Operation, Storage, StorageError, StorageErrorKind};

/// How many packs stay open for random reads, however many there are.
const HANDLES_MAX: usize = 128;

/// A repository in a directory.
#[derive(Debug)]
pub struct LocalStorage {
    path: PathBuf,
    root: Directory,
    handles: Handles,
    /// Directories, by their path, whose own names are known to survive a power failure.
    durable: Mutex<HashSet<String>>,
}

impl LocalStorage {
    /// The directory, which must exist, whether a repository is in it or not.
    pub fn open(path: &Path) -> Result<Self, StorageError> {
        let root = Directory::root(path).map_err(|e| failed(path, Operation::Open, e))?;
        Ok(Self {
            path: path.to_owned(),
            root,
            handles: Handles::new(HANDLES_MAX),
            durable: Mutex::default(),
        })
    }

    /// Makes the directory where it is missing, and in it those that restic makes.
    pub fn create(path: &Path) -> Result<Self, StorageError> {
        let make = || {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            if let Some(parent) = path.canonicalize()?.parent() {
                File::open(parent)?.sync_all()?;
            }
            let root = Directory::root(path)?;
            for kind in
                FileKind::ALL.into_iter().filter(|kind| !matches!(kind, FileKind::Config | FileKind::Extra))
            {
                let directory = root.below_or_new(kind.directory())?;
                if kind == FileKind::Pack {
                    (0..=255u8).try_for_each(|n| directory.make(&format!("{n:02x}")))?;
                    directory.sync()?;
                }
            }
            root.sync()
        };
        make().map_err(|e| failed(path, Operation::Open, e))?;
        Self::open(path)
    }

    /// The directory of a file; `NotFound` where it is missing.
    fn directory(&self, file: &FileName) -> io::Result<Directory> {
        match file.kind {
            FileKind::Config => self.root.again(),
            FileKind::Pack => self.root.below("data")?.below(&file.name[..2]),
            kind => self.root.below(kind.directory()),
        }
    }

    /// The same, made where it is missing, and durable itself before anything in it is reported to be.
    fn directory_or_new(&self, file: &FileName) -> io::Result<Directory> {
        match file.kind {
            FileKind::Config => self.root.again(),
            FileKind::Pack => {
                let data = self.durable_below(&self.root, "", "data")?;
                self.durable_below(&data, "data/", &file.name[..2])
            }
            kind => self.durable_below(&self.root, "", kind.directory()),
        }
    }

    fn durable_below(&self, parent: &Directory, path: &str, name: &str) -> io::Result<Directory> {
        let directory = parent.below_or_new(name)?;
        let durable = || self.durable.lock().unwrap_or_else(PoisonError::into_inner);
        if !durable().contains(&format!("{path}{name}")) {
            // Whoever made it, here or in another process, may not have synced it yet. One sync does for all that are
            // there by now.
            let there = parent.entries()?;
            parent.sync()?;
            durable().extend(there.into_iter().map(|(name, _)| format!("{path}{name}")));
        }
        Ok(directory)
    }

    /// All directories that may hold files of a kind and are there, with what names in them begin with.
    fn directories(&self, kind: FileKind) -> io::Result<Vec<(String, Directory)>> {
        if self.root.is_gone()? {
            return Err(io::Error::new(io::ErrorKind::NotFound, "its directory was removed"));
        }
        if kind == FileKind::Config {
            return Ok(vec![(String::new(), self.root.again()?)]);
        }
        let Some(directory) = found(self.root.below(kind.directory()))? else { return Ok(Vec::new()) };
        if kind != FileKind::Pack {
            return Ok(vec![(String::new(), directory)]);
        }
        let mut directories = Vec::new();
        for prefix in (0..=255u8).map(|n| format!("{n:02x}")) {
            directories.extend(found(directory.below(&prefix))?.map(|directory| (prefix, directory)));
        }
        Ok(directories)
    }

    fn open_file(&self, file: &FileName) -> io::Result<File> {
        self.directory(file)?.open(leaf(file), OFlags::RDONLY, Mode::empty())
    }

    fn read(&self, file: &FileName, limit_bytes: u64) -> io::Result<Option<Vec<u8>>> {
        let mut opened = self.open_file(file)?;
        let size = opened.metadata()?.size();
        if size > limit_bytes {
            return Ok(None);
        }
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        // It may grow while it is read, if a stranger writes to it.
        opened.by_ref().take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 != size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(Some(bytes))
    }

    fn read_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        // The kernel calls what no file can have an invalid argument.
        if offset.checked_add(buf.len() as u64).is_none_or(|end| i64::try_from(end).is_err()) {
            let size = self.open_file(file)?.metadata()?.size();
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("it has {size} bytes")));
        }
        if let Some(handle) = self.handles.get(file) {
            // An extra file may have been removed and put anew, with other bytes, by another process.
            if file.kind.names_content() || handle.metadata()?.nlink() > 0 {
                return handle.read_exact_at(buf, offset);
            }
        }
        let handle = self.handles.keep(file, self.open_file(file)?);
        handle.read_exact_at(buf, offset)
    }

    /// What a put comes to where a file lies already.
    fn settle(&self, directory: &Directory, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        let size = directory.size(leaf(file)).map_err(|e| self.failed(Operation::Put, file, e))?;
        let same = match (file.kind, size) {
            (FileKind::Config, _) => Err(StorageErrorKind::AlreadyExists),
            (_, None) => Err(StorageErrorKind::SymbolicLink),
            (FileKind::Extra, Some(size)) => {
                let there = self.read(file, size).map_err(|e| self.failed(Operation::Put, file, e))?;
                if there.as_deref() == Some(bytes) { Ok(()) } else { Err(StorageErrorKind::AlreadyExists) }
            }
            (_, Some(size)) if size != bytes.len() as u64 => Err(StorageErrorKind::Mismatch),
            _ => Ok(()),
        };
        same.map_err(|kind| self.error(kind, Operation::Put, file))?;
        // Whoever wrote it may not have come to this yet, and it is reported as durable from here on.
        directory.sync().map_err(|e| self.failed(Operation::Put, file, e))
    }

    fn sweep(&self, before: SystemTime) -> io::Result<u64> {
        let mut swept = 0;
        for kind in FileKind::ALL {
            for (_, directory) in self.directories(kind)? {
                for (name, entry) in directory.entries()? {
                    if publish::is_temporary(kind, &name) && entry.changed <= before {
                        swept += u64::from(found(directory.unlink(&name))?.is_some());
                    }
                }
            }
        }
        Ok(swept)
    }

    fn error(&self, kind: StorageErrorKind, operation: Operation, file: &FileName) -> StorageError {
        StorageError::new(kind, operation, self.describe()).on(file)
    }

    fn failed(&self, operation: Operation, file: &FileName, error: io::Error) -> StorageError {
        failed(&self.path, operation, error).on(file)
    }
}

fn failed(path: &Path, operation: Operation, error: io::Error) -> StorageError {
    StorageError::from_io(error, operation, &path.display().to_string())
}

/// The name of a file in its directory.
fn leaf(file: &FileName) -> &str {
    if file.kind == FileKind::Config { "config" } else { &file.name }
}

/// Nothing where there is nothing.
fn found<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Storage for LocalStorage {
    fn describe(&self) -> String {
        self.path.display().to_string()
    }

    fn put(&self, file: &FileName, bytes: &[u8]) -> Result<(), StorageError> {
        file.check(&self.describe())?;
        let failed = |error| self.failed(Operation::Put, file, error);
        let directory = self.directory_or_new(file).map_err(failed)?;
        if directory.holds(leaf(file)).map_err(failed)? {
            return self.settle(&directory, file, bytes);
        }
        match publish::publish(&directory, leaf(file), bytes).map_err(failed)? {
            Published::New => Ok(()),
            Published::WasThere => self.settle(&directory, file, bytes),
        }
    }

    fn get(&self, file: &FileName, limit_bytes: u64) -> Result<Vec<u8>, StorageError> {
        file.check(&self.describe())?;
        self.read(file, limit_bytes)
            .map_err(|e| self.failed(Operation::Get, file, e))?
            .ok_or_else(|| self.error(StorageErrorKind::TooLarge, Operation::Get, file))
    }

    fn get_range(&self, file: &FileName, offset: u64, buf: &mut [u8]) -> Result<(), StorageError> {
        file.check(&self.describe())?;
        self.read_range(file, offset, buf).map_err(|e| self.failed(Operation::Get, file, e))
    }

    fn list(&self, kind: FileKind) -> Result<Vec<Listed>, StorageError> {
        let list = || {
            let mut listed = Vec::new();
            for (prefix, directory) in self.directories(kind)? {
                if kind == FileKind::Config {
                    let size = found(directory.size("config"))?.flatten();
                    listed.extend(size.map(|size| Listed { name: String::new(), size }));
                    continue;
                }
                let entries = directory.entries()?.into_iter();
                let ours = entries
                    .filter(|(name, entry)| entry.is_file && kind.accepts(name) && name.starts_with(&prefix));
                listed.extend(ours.map(|(name, entry)| Listed { name, size: entry.size }));
            }
            Ok(listed)
        };
        list().map_err(|e| failed(&self.path, Operation::List, e))
    }

    fn names(&self, kind: FileKind) -> Result<Vec<String>, StorageError> {
        if kind == FileKind::Config {
            return Ok(self.list(kind)?.into_iter().map(|listed| listed.name).collect());
        }
        let names = || {
            let mut names = Vec::new();
            for (prefix, directory) in self.directories(kind)? {
                let mut found = directory.files()?;
                found.retain(|name| kind.accepts(name) && name.starts_with(&prefix));
                names.append(&mut found);
            }
            Ok(names)
        };
        names().map_err(|e| failed(&self.path, Operation::List, e))
    }

    fn remove(&self, file: &FileName) -> Result<(), StorageError> {
        file.check(&self.describe())?;
        self.handles.forget(file);
        let remove = || {
            let Some(directory) = found(self.directory(file))? else { return Ok(()) };
            if found(directory.unlink(leaf(file)))?.is_none() {
                return Ok(());
            }
            // Packs go last when garbage is collected, and thousands of them: one that comes back is garbage again.
            let may_come_back = matches!(file.kind, FileKind::Pack | FileKind::Lock | FileKind::Extra);
            if may_come_back { Ok(()) } else { directory.sync() }
        };
        remove().map_err(|e| self.failed(Operation::Remove, file, e))
    }

    fn sweep_temporary(&self, older_than: Duration) -> Result<u64, StorageError> {
        let Some(before) = SystemTime::now().checked_sub(older_than) else { return Ok(0) };
        self.sweep(before).map_err(|e| failed(&self.path, Operation::Sweep, e))
    }
}
