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
const FIXED: &str = "hash_seed=6e657374-6c69-4e67-a000-000000000001,root_owner=0:0,nodiscard";
const SMALL_JOURNAL_MIB: u32 = 16;
const FEW_INODES_BYTES: u32 = 256 << 10;

pub struct Root {
    path: PathBuf,
}

impl Root {
    pub fn create(path: &Path) -> Result<Self, ImageError> {
        merged_usr(path)?;
        Ok(Self { path: path.to_owned() })
    }

    pub fn existing(path: &Path) -> Self {
        Self { path: path.to_owned() }
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

    /// Makes nothing younger than this, as reproducible builds do; links keep their times, which nothing reads.
    pub fn clamp_times(&self, unix_secs: u64) -> Result<(), ImageError> {
        let limit = SystemTime::UNIX_EPOCH + Duration::from_secs(unix_secs);
        let mut waiting = vec![self.path.clone()];
        while let Some(dir) = waiting.pop() {
            for entry in fs::read_dir(&dir).at("list", &dir)? {
                let path = entry.at("list", &dir)?.path();
                let kind = path.symlink_metadata().at("examine", &path)?.file_type();
                if kind.is_dir() {
                    waiting.push(path);
                } else if kind.is_file() {
                    clamp_time(&path, limit)?;
                }
            }
            clamp_time(&dir, limit)?;
        }
        Ok(())
    }

    /// Writes the tree as a file system that fills `disk`, which becomes `bytes` long and sparse. For disks of
    /// few and large files: inode tables are small, because a guest must read them.
    pub fn write_ext4(
        &self,
        disk: &Path,
        bytes: u64,
        label: &str,
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        let file = File::create(disk).at("create", disk)?;
        file.set_len(bytes).at("resize", disk)?;
        self.mkfs(label, progress)
            .args(["-J", &format!("size={SMALL_JOURNAL_MIB}"), "-i", &FEW_INODES_BYTES.to_string()])
            .arg("-E")
            .arg(FIXED)
            .arg("-d")
            .arg(&self.path)
            .arg(disk)
            .run()?;
        Ok(())
    }

    /// Writes the tree as a file system into a part of `disk`.
    pub fn write_ext4_at(
        &self,
        disk: &Path,
        offset_bytes: u64,
        bytes: u64,
        label: &str,
        progress: &dyn Progress,
    ) -> Result<(), ImageError> {
        // GRUB of Debian 12 does not read file systems with these features.
        self.mkfs(label, progress)
            .args(["-O", "^metadata_csum_seed,^orphan_file", "-E"])
            .arg(format!("{FIXED},offset={offset_bytes}"))
            .arg("-d")
            .arg(&self.path)
            .arg(disk)
            .arg(format!("{}k", bytes / 1024))
            .run()?;
        Ok(())
    }

    fn mkfs<'a>(&self, label: &str, progress: &'a dyn Progress) -> Tool<'a> {
        let doing = format!("writing the file system '{label}'");
        as_root("mkfs.ext4", &doing, progress).args([
            "-q",
            "-F",
            "-b",
            "4096",
            "-m",
            "0",
            "-L",
            label,
            "-U",
            FILE_SYSTEM_UUID,
        ])
    }
}

fn clamp_time(path: &Path, limit: SystemTime) -> Result<(), ImageError> {
    let file = File::open(path).at("open", path)?;
    if file.metadata().and_then(|metadata| metadata.modified()).at("examine", path)? > limit {
        file.set_modified(limit).at("set the time of", path)?;
    }
    Ok(())
}

/// Files must belong to root inside the image. Who is not root builds in a user namespace where they do.
fn as_root<'a>(program: &str, doing: &str, progress: &'a dyn Progress) -> Tool<'a> {
    if rustix::process::geteuid().is_root() {
        Tool::new(program, doing, progress)
    } else {
        Tool::new("unshare", doing, progress).args(["--map-root-user", program])
    }
}
