//! A root file system under construction: a directory that becomes an ext4 file system without any mount.
//!
//! The file system is written by `mkfs.ext4 -d`, with fixed identifiers and times.

use crate::command::Tool;
use crate::error::IoContext;
use crate::packages::merged_usr;
use crate::{ImageError, Progress};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Any constant will do: a VM's file systems are told apart by their disks.
const FILE_SYSTEM_UUID: &str = "6e657374-6c69-4e67-a000-000000000001";
const JOURNAL_MIB: u32 = 16;
/// An inode per 256 KiB: the node stores few and large files, and inode tables must be read.
const BYTES_PER_INODE: u32 = 256 << 10;

pub struct Root {
    path: PathBuf,
}

impl Root {
    pub fn create(path: &Path) -> Result<Self, ImageError> {
        merged_usr(path)?;
        Ok(Self { path: path.to_owned() })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn contains(&self, path: &str) -> bool {
        self.path.join(path).symlink_metadata().is_ok()
    }

    pub fn directory(&self, path: &str) -> Result<(), ImageError> {
        let full = self.path.join(path);
        fs::create_dir_all(&full).at("create", full)
    }

    pub fn file(&self, path: &str, mode: u32, data: impl AsRef<[u8]>) -> Result<(), ImageError> {
        let full = self.with_parent(path)?;
        fs::write(&full, data).at("write", &full)?;
        fs::set_permissions(&full, Permissions::from_mode(mode)).at("set the mode of", &full)
    }

    pub fn copy(&self, path: &str, mode: u32, source: &Path) -> Result<(), ImageError> {
        let full = self.with_parent(path)?;
        fs::copy(source, &full).at("copy", source)?;
        fs::set_permissions(&full, Permissions::from_mode(mode)).at("set the mode of", &full)
    }

    pub fn symlink(&self, path: &str, target: &str) -> Result<(), ImageError> {
        let full = self.with_parent(path)?;
        std::os::unix::fs::symlink(target, &full).at("link", full)
    }

    fn with_parent(&self, path: &str) -> Result<PathBuf, ImageError> {
        let full = self.path.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        Ok(full)
    }

    /// Gives every file and directory the same time; links keep theirs, which nothing reads.
    pub fn set_times(&self, unix_secs: u64) -> Result<(), ImageError> {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_secs);
        let mut waiting = vec![self.path.clone()];
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(&dir).at("list", &dir)? {
                let entry = entry.at("list", &dir)?;
                let kind = entry.file_type().at("examine", entry.path())?;
                if kind.is_dir() {
                    waiting.push(entry.path());
                } else if kind.is_file() {
                    File::open(entry.path())
                        .and_then(|file| file.set_modified(time))
                        .at("set the time of", entry.path())?;
                }
            }
            File::open(&dir).and_then(|file| file.set_modified(time)).at("set the time of", &dir)?;
        }
        Ok(())
    }

    /// Writes the tree as a file system that fills `disk`, which becomes `bytes` long and sparse.
    pub fn write_ext4(
        &self,
        disk: &Path,
        bytes: u64,
        label: &str,
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        let file = File::create(disk).at("create", disk)?;
        file.set_len(bytes).at("resize", disk)?;
        let doing = format!("writing the file system '{label}'");
        as_root("mkfs.ext4", &doing, progress)
            .args(["-q", "-F", "-m", "0", "-L", label, "-U", FILE_SYSTEM_UUID])
            .args(["-J", &format!("size={JOURNAL_MIB}"), "-i", &BYTES_PER_INODE.to_string()])
            .args(["-E", &format!("hash_seed={FILE_SYSTEM_UUID},root_owner=0:0,nodiscard"), "-d"])
            .arg(&self.path)
            .arg(disk)
            .run()?;
        Ok(())
    }
}

/// Files must belong to root inside the image. Who is not root builds in a user namespace where they do.
fn as_root<'a>(program: &str, doing: &str, progress: &'a dyn Progress) -> Tool<'a> {
    if rustix::process::geteuid().is_root() {
        Tool::new(program, doing, progress)
    } else {
        Tool::new("unshare", doing, progress).args(["--map-root-user", program])
    }
}
