//! The directory where a node keeps everything, and the lock that keeps a second node out.
//!
//! ```text
//! nestling.db   definitions (see nestling-store)     images/    bootable images
//! node.lock     held while a node runs               disks/     where new disks go
//! vms/ID/       one machine's own files              run/HEX/   a machine's sockets while it has an engine
//! network/      DHCP servers' files                  *.json     what was proven about KVM
//! secrets/      what opens repositories and the mail server; its owner's alone
//! read/         sockets of disks of stopped machines while they are read
//! logs/         what runs of backups did, a file for each
//! proofs/       pictures of what was booted as a test
//! ```
//!
//! Names in here come from ids only. Paths of sockets must stay short, so `run` has eight digits of an id.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nestling_model::VmId;
use rustix::fs::{FlockOperation, flock};

use crate::{NodeError, error::Result};

#[derive(Debug)]
pub struct HomeDir {
    root: PathBuf,
    /// The kernel gives it back when the process ends, however it ends.
    _lock: HomeLock,
}

impl HomeDir {
    pub fn open(root: &Path) -> Result<Self> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder.create(root).map_err(NodeError::io("create", root))?;
        let root = fs::canonicalize(root).map_err(NodeError::io("open", root))?;
        let lock = lock(&root)?;
        let home = Self { root, _lock: lock };
        for dir in [
            home.disks(),
            home.images(),
            home.vms(),
            home.runs(),
            home.secrets(),
            home.read(),
            home.logs(),
            home.proofs(),
        ] {
            builder.create(&dir).map_err(NodeError::io("create", dir))?;
        }
        // Sockets of a node that died lead nowhere.
        sweep(&home.read(), |_| true);
        Ok(home)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn disks(&self) -> PathBuf {
        self.root.join("disks")
    }

    pub fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub fn network(&self) -> PathBuf {
        self.root.join("network")
    }

    pub fn vms(&self) -> PathBuf {
        self.root.join("vms")
    }

    pub fn runs(&self) -> PathBuf {
        self.root.join("run")
    }

    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// What runs of backups did.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Pictures of what was booted as a test.
    pub fn proofs(&self) -> PathBuf {
        self.root.join("proofs")
    }

    /// Where disks of machines without an engine are served while they are read.
    pub fn read(&self) -> PathBuf {
        self.root.join("read")
    }

    pub fn vm(&self, id: VmId) -> VmFiles {
        VmFiles(self.vms().join(id.0.to_string()))
    }

    /// Where a machine's sockets are while it has an engine.
    pub fn run(&self, id: VmId) -> PathBuf {
        self.runs().join(short(id))
    }
}

/// The digits of an id that name its directory in `run`.
pub fn short(id: VmId) -> String {
    id.0.as_bytes()[..4].iter().map(|b| format!("{b:02x}")).collect()
}

/// A machine's own files.
#[derive(Debug, Clone)]
pub struct VmFiles(PathBuf);

impl VmFiles {
    pub fn dir(&self) -> &Path {
        &self.0
    }

    /// Memory and devices of a saved machine.
    pub fn saved(&self) -> PathBuf {
        self.0.join("saved")
    }

    /// What a save that was cut short left: worth nothing.
    pub fn unfinished_save(&self) -> PathBuf {
        self.0.join("saved.part")
    }

    /// The UEFI variables.
    pub fn nvram(&self) -> PathBuf {
        self.0.join("nvram.fd")
    }

    /// First-boot settings.
    pub fn seed(&self) -> PathBuf {
        self.0.join("seed.img")
    }

    /// The disk that is made with the machine.
    pub fn disk(&self) -> PathBuf {
        self.0.join("disk.qcow2")
    }

    /// The one that is made beside that of its image.
    pub fn data_disk(&self) -> PathBuf {
        self.0.join("data.qcow2")
    }

    pub fn make(&self) -> Result<()> {
        fs::create_dir_all(&self.0).map_err(NodeError::io("create", &self.0))
    }

    /// Removes what belongs to the machine alone. Disks stay: they may hold data that nobody asked to lose.
    pub fn remove(&self) -> Result<()> {
        for path in [self.saved(), self.unfinished_save(), self.nvram(), self.seed()] {
            remove_file(&path)?;
        }
        match fs::remove_dir(&self.0) {
            Err(e)
                if !matches!(
                    e.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::DirectoryNotEmpty
                ) =>
            {
                Err(NodeError::io("remove", &self.0)(e))
            }
            _ => Ok(()),
        }
    }
}

/// Removing what is not there is no error.
pub fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(NodeError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Removes files of a directory that nobody needs any more, by their names. What cannot be removed, or is no file, is no obstacle.
pub fn sweep(dir: &Path, goes: impl Fn(&str) -> bool) {
    let found = match fs::read_dir(dir) {
        Ok(found) => found,
        Err(error) => return tracing::warn!(%error, path = %dir.display(), "old files are left"),
    };
    for entry in found.flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_socket());
        if is_file
            && entry.file_name().to_str().is_some_and(&goes)
            && let Err(error) = remove_file(&entry.path())
        {
            tracing::warn!(error = error.message(), "an old file is left");
        }
    }
}

fn lock(root: &Path) -> Result<HomeLock> {
    let path = root.join("node.lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(NodeError::io("open", &path))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut text = String::new();
        // Only for the message: without the number it is still true.
        let _ = (&mut file).take(20).read_to_string(&mut text);
        return Err(NodeError::HomeInUse { path: root.to_owned(), pid: text.trim().parse().ok() });
    }
    let written = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| {
        let pid = std::process::id();
        writeln!(file, "{pid}")
    });
    written.map_err(NodeError::io("write", &path))?;
    Ok(HomeLock(file))
}

#[derive(Debug)]
struct HomeLock(File);

/// Closing the file is not enough: a program that another thread is just starting has a copy of the handle until it
/// runs, and the lock would live as long as that.
impl Drop for HomeLock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_node_is_told_who_has_the_home() {
        let dir = tempfile::tempdir().unwrap();
        let first = HomeDir::open(dir.path()).unwrap();
        let refused = HomeDir::open(dir.path()).unwrap_err();
        let pid = std::process::id();
        assert!(matches!(refused, NodeError::HomeInUse { pid: Some(p), .. } if p == pid), "{refused}");
        drop(first);
        HomeDir::open(dir.path()).unwrap();
    }

    #[test]
    fn disks_stay_when_a_machines_own_files_go() {
        let dir = tempfile::tempdir().unwrap();
        let home = HomeDir::open(dir.path()).unwrap();
        let files = home.vm(VmId(uuid::Uuid::from_u128(5)));
        files.remove().unwrap();
        files.make().unwrap();
        fs::write(files.saved(), "x").unwrap();
        fs::write(files.disk(), "x").unwrap();
        files.remove().unwrap();
        assert!(files.disk().exists() && !files.saved().exists());
        fs::remove_file(files.disk()).unwrap();
        files.remove().unwrap();
        assert!(!files.dir().exists());
    }
}
