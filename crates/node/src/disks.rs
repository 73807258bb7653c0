//! Use cases on disk images that no machine need know of.

use std::path::{Path, PathBuf};

use nestling_hypervisor::disk;
use nestling_identity::{Action, Identity};
use nestling_model::{
    DiskFormat,
    disk::{DISK_BYTES_MAX, DISK_BYTES_MIN},
};

use crate::{
    Node, NodeError,
    blocking::at_disks,
    error::{Object, Result},
    values::{DiskKind, DiskView, NewDisk, NewDiskKind},
};

impl Node {
    pub async fn create_disk(&self, who: &Identity, new: NewDisk) -> Result<DiskView> {
        self.authorize(who, Action::ChangeDisks)?;
        let path = new_path_of(new.path).await?;
        let (kind, bytes) = match new.kind {
            NewDiskKind::Dynamic { size_bytes } => (disk::DiskKind::Dynamic, Some(checked(size_bytes)?)),
            NewDiskKind::Fixed { size_bytes } => (disk::DiskKind::Fixed, Some(checked(size_bytes)?)),
            NewDiskKind::Differencing { parent, size_bytes } => {
                let (parent, format) = self.existing_disk(&parent, None).await?;
                let bytes = size_bytes.map(checked).transpose()?;
                (disk::DiskKind::Differencing { parent, parent_format: format }, bytes)
            }
        };
        let new = disk::NewDisk { format: DiskFormat::Qcow2, bytes, kind };
        disk::create(&self.engines.qemu().await?, &path, &new).await?;
        self.disk_view(&path).await
    }

    pub async fn disk(&self, who: &Identity, path: &Path) -> Result<DiskView> {
        self.authorize(who, Action::ReadDisks)?;
        self.disk_view(path).await
    }

    /// Makes a disk larger, also while a machine runs with it.
    pub async fn resize_disk(&self, who: &Identity, path: &Path, size_bytes: u64) -> Result<DiskView> {
        self.authorize(who, Action::ChangeDisks)?;
        checked(size_bytes)?;
        let (path, format) = self.existing_disk(path, self.known_format(path).await?).await?;
        self.vms.no_parent(&path, None).await?;
        match self.vms.disk_user(&path).await? {
            Some((now, disk)) => {
                let handle = self.vms.find(&now.vm.id.0.to_string())?;
                match now.running {
                    Some(running) => running
                        .machine
                        .resize_disk(disk.controller, disk.location, size_bytes)
                        .await
                        .map_err(|source| NodeError::Machine { vm: now.vm.name.clone(), source })?,
                    None => handle.resize_image(disk, size_bytes).await?,
                }
            }
            None => disk::resize(&self.engines.qemu().await?, &path, format, size_bytes).await?,
        }
        self.disk_view(&path).await
    }

    async fn disk_view(&self, path: &Path) -> Result<DiskView> {
        let shown = path.display().to_string();
        let path = tokio::fs::canonicalize(path)
            .await
            .map_err(|_| NodeError::NotFound { object: Object::Disk, name: shown })?;
        let info = disk::info(&self.engines.qemu().await?, &path, self.known_format(&path).await?).await?;
        Ok(DiskView {
            format: info.format,
            kind: match info.parent {
                Some(_) => DiskKind::Differencing,
                None if info.format == DiskFormat::Raw || info.file_bytes >= info.virtual_bytes => {
                    DiskKind::Fixed
                }
                None => DiskKind::Dynamic,
            },
            size_bytes: info.virtual_bytes,
            file_bytes: info.file_bytes,
            parent: info.parent,
            vm: self.vms.disk_user(&path).await?.map(|(now, _)| now.vm.name.clone()),
            path,
        })
    }

    /// The format that a machine's definition gives a disk: better than what its first bytes claim.
    async fn known_format(&self, path: &Path) -> Result<Option<DiskFormat>> {
        Ok(self.vms.disk_user(path).await?.map(|(_, disk)| disk.format))
    }
}

/// What names say of formats that new disks are not in. QEMU can make a VHDX, but neither resize it nor stack it.
const OTHER_FORMATS: [&str; 13] =
    ["vhdx", "vhd", "avhdx", "avhd", "vhds", "vmdk", "vdi", "qed", "vpc", "raw", "img", "iso", "bin"];

/// As [`new_path`], whose directory may not answer.
pub async fn new_path_of(path: PathBuf) -> Result<PathBuf> {
    at_disks(move |look| {
        look.at(&path);
        new_path(&path)
    })
    .await
}

/// Where a new disk may be: an absolute path in a directory that is there, with a name that says nothing wrong. Links in
/// it are followed once, here.
fn new_path(path: &Path) -> Result<PathBuf> {
    let invalid = |why: &str| NodeError::Invalid(format!("{}: {why}", path.display()));
    if !path.is_absolute() {
        return Err(invalid("a disk's path is absolute"));
    }
    let name = path.file_name().ok_or_else(|| invalid("a disk needs a file name"))?;
    if let Some(extension) = path.extension().and_then(|e| e.to_str())
        && OTHER_FORMATS.contains(&extension.to_ascii_lowercase().as_str())
    {
        return Err(NodeError::Invalid(format!(
            "{}: a new disk is in the format qcow2, and its name must not say .{extension}; name it {}",
            path.display(),
            path.with_extension("qcow2").display()
        )));
    }
    let dir = path.parent().ok_or_else(|| invalid("a disk needs a directory"))?;
    let dir = std::fs::canonicalize(dir).map_err(NodeError::io("open", dir))?;
    Ok(dir.join(name))
}

fn checked(size_bytes: u64) -> Result<u64> {
    if !(DISK_BYTES_MIN..=DISK_BYTES_MAX).contains(&size_bytes) || !size_bytes.is_multiple_of(512) {
        return Err(NodeError::Invalid(format!(
            "a disk has between 1 MB and 64 TB, in whole sectors of 512 bytes; {size_bytes} bytes were asked for"
        )));
    }
    Ok(size_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded() {
        assert!(checked(1 << 20).is_ok());
        for bad in [0, 512, (1 << 20) + 1, u64::MAX] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_new_disks_path_is_absolute_and_its_directory_there() {
        let dir = tempfile::tempdir().unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        let real = std::fs::canonicalize(dir.path()).unwrap();
        assert_eq!(new_path(&link.join("a.qcow2")).unwrap(), real.join("a.qcow2"));
        let lie = new_path(&link.join("a.VHDX")).unwrap_err().message();
        assert_eq!(
            lie,
            format!(
                "{0}/a.VHDX: a new disk is in the format qcow2, and its name must not say .VHDX; name it {0}/a.qcow2",
                link.display()
            )
        );
        assert!(new_path(&link.join("a")).is_ok() && new_path(&link.join("a.img")).is_err());
        for bad in ["a.qcow2", "/", "/nonexistent/a.qcow2", "/tmp/.."] {
            assert!(new_path(Path::new(bad)).is_err(), "{bad}");
        }
    }
}

#[cfg(test)]
#[path = "disks_tests.rs"]
mod with_a_node;
