//! Disk images, made and looked at by qemu-img.
//!
//! A format is never guessed from content alone: a guest can write anything into a raw disk, also the head of another
//! format that names a file of the host as its parent. This module must never overwrite a file.

mod bitmaps;
mod chain;
mod leaving;
mod overlay;
mod served;
mod tool;

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    time::Duration,
};

#[cfg(feature = "fuzzing")]
pub(crate) use bitmaps::read_bitmaps;
pub use bitmaps::{StoredBitmap, add_bitmap, bitmaps, merge_bitmap, remove_bitmap};
pub use chain::parents;
pub use leaving::{ImageFormat, create_leaving};
use nestling_model::DiskFormat;
pub use overlay::{Below, create_on_export};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde::Deserialize;
pub use served::{ServedDisk, serve, serve_writable};
use tool::Img;

use crate::{Qemu, capture::BitmapName, durable};

/// For what only looks at an image's head.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);
/// For what may write or read a whole disk.
const WORK_TIMEOUT: Duration = Duration::from_secs(3600);

#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    #[error("{} exists already", .0.display())]
    Exists(PathBuf),
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    #[error("the parent disk {} does not exist", .0.display())]
    ParentMissing(PathBuf),
    #[error("there is no space left for {}", .0.display())]
    NoSpace(PathBuf),
    #[error("{} is damaged or no {format} image: {why}", path.display())]
    Corrupt { path: PathBuf, format: &'static str, why: String },
    #[error("{} is in use by another process; turn the virtual machine that has it off", .0.display())]
    InUse(PathBuf),
    #[error("{} may be opened only by another user", .0.display())]
    Forbidden(PathBuf),
    #[error(
        "{} is raw by its name and qcow2 by its content, which a guest may have written; say which it is",
        .0.display()
    )]
    Ambiguous(PathBuf),
    #[error("{} is of a format that is not supported; convert it (qemu-img convert -O qcow2)", .0.display())]
    Unsupported(PathBuf),
    #[error("{} has {has} bytes; a disk can be made larger, not smaller ({asked} bytes were asked for)", path.display())]
    Shrinks { path: PathBuf, has: u64, asked: u64 },
    #[error("the path {} is not UTF-8, or no absolute path", .0.display())]
    Path(PathBuf),
    #[error("{} has no bitmap {bitmap}", path.display())]
    NoBitmap { path: PathBuf, bitmap: BitmapName },
    #[error("{} has a bitmap {bitmap} already", path.display())]
    BitmapExists { path: PathBuf, bitmap: BitmapName },
    #[error(
        "bitmap {bitmap} of {} cannot be believed: QEMU did not end properly while it recorded; remove it",
        path.display()
    )]
    BadBitmap { path: PathBuf, bitmap: BitmapName },
    #[error("qemu-img failed on {}: {why}", path.display())]
    Failed { path: PathBuf, why: String },
    #[error("{} could not be {done}", path.display())]
    Io { done: &'static str, path: PathBuf, source: io::Error },
}

/// How a new disk gets its space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskKind {
    /// As it is written to.
    Dynamic,
    /// All at once.
    Fixed,
    /// Only for what differs from its parent, which must not be written to from then on.
    Differencing { parent: PathBuf, parent_format: DiskFormat },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDisk {
    pub format: DiskFormat,
    /// What the guest sees; a differencing disk may leave it to its parent.
    pub bytes: Option<u64>,
    pub kind: DiskKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskInfo {
    pub format: DiskFormat,
    pub virtual_bytes: u64,
    /// The space that the file takes.
    pub file_bytes: u64,
    pub parent: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckReport {
    /// Places where data is lost.
    pub corruptions: u64,
    /// Clusters that take space for nothing.
    pub leaks: u64,
}

/// Makes a disk. Whole or not at all, and never in the place of another file.
pub async fn create(qemu: &Qemu, path: &Path, disk: &NewDisk) -> Result<(), DiskError> {
    if fs::symlink_metadata(path).is_ok() {
        return Err(DiskError::Exists(path.to_owned()));
    }
    let part = durable::part(path);
    let made = make(qemu, path, &part, disk).await;
    if made.is_err() {
        fs::remove_file(&part).ok();
    }
    made
}

async fn make(qemu: &Qemu, path: &Path, part: &Path, disk: &NewDisk) -> Result<(), DiskError> {
    let mut img = Img::new(qemu, path, disk.format);
    img.args(["create", "-q", "-f", disk.format.as_str()]);
    match (&disk.kind, disk.format) {
        (DiskKind::Differencing { .. }, DiskFormat::Raw) => {
            return Err(DiskError::Unsupported(path.to_owned()));
        }
        (DiskKind::Differencing { parent, parent_format }, DiskFormat::Qcow2) => {
            if !parent.is_absolute() {
                return Err(DiskError::Path(parent.clone()));
            }
            if !parent.is_file() {
                return Err(DiskError::ParentMissing(parent.clone()));
            }
            img.args(["-F", parent_format.as_str(), "-b"]).path(parent)?;
        }
        (DiskKind::Fixed, _) => drop(img.args(["-o", "preallocation=falloc"])),
        (DiskKind::Dynamic, _) => {}
    }
    img.path(part)?;
    match (disk.bytes, &disk.kind) {
        (Some(bytes), _) => drop(img.args([bytes.to_string().as_str()])),
        (None, DiskKind::Differencing { .. }) => {}
        (None, _) => {
            return Err(DiskError::Failed { path: path.to_owned(), why: "it has no size".to_owned() });
        }
    }
    img.run(WORK_TIMEOUT).await?;
    let file = File::open(part).map_err(io_error("opened", part))?;
    file.sync_all().map_err(io_error("written", part))?;
    // Refuses to replace what has come there in the meantime.
    match renameat_with(CWD, part, CWD, path, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::EXIST) => return Err(DiskError::Exists(path.to_owned())),
        renamed => renamed.map_err(|e| io_error("named", path)(e.into()))?,
    }
    durable::sync_dir_of(path).map_err(io_error("written", path))
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct RawInfo {
    virtual_size: u64,
    #[serde(default)]
    actual_size: u64,
    full_backing_filename: Option<String>,
    backing_filename: Option<String>,
}

/// Looks at a disk, also one in use. Without a format, name and content must agree on one.
pub async fn info(qemu: &Qemu, path: &Path, format: Option<DiskFormat>) -> Result<DiskInfo, DiskError> {
    let format = match format {
        Some(format) => format,
        None => recognise(path)?,
    };
    let mut img = Img::new(qemu, path, format);
    img.args(["info", "--output=json", "--force-share", "-f", format.as_str()]).path(path)?;
    let raw: RawInfo = img.json(LOOK_TIMEOUT).await?;
    Ok(DiskInfo {
        format,
        virtual_bytes: raw.virtual_size,
        file_bytes: raw.actual_size,
        parent: raw.full_backing_filename.or(raw.backing_filename).map(PathBuf::from),
    })
}

#[cfg(feature = "fuzzing")]
pub(crate) fn read_info(bytes: &[u8]) {
    let _ = serde_json::from_slice::<RawInfo>(bytes);
    let _ = serde_json::from_slice::<RawCheck>(bytes);
}

/// The format that a file's name and content agree on.
pub(crate) fn recognise(path: &Path) -> Result<DiskFormat, DiskError> {
    let mut head = Vec::new();
    let file = File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DiskError::Missing(path.to_owned()),
        io::ErrorKind::PermissionDenied => DiskError::Forbidden(path.to_owned()),
        _ => io_error("opened", path)(error),
    })?;
    file.take(16).read_to_end(&mut head).map_err(io_error("read", path))?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let foreign = [&b"KDMV"[..], b"# Disk DescriptorFile", b"vhdxfile", b"conectix", b"QED\0", b"<<< "];
    let named_raw = matches!(extension.as_str(), "raw" | "img" | "iso" | "bin");
    match head.starts_with(b"QFI\xfb") {
        true if named_raw => Err(DiskError::Ambiguous(path.to_owned())),
        true => Ok(DiskFormat::Qcow2),
        false if named_raw => Ok(DiskFormat::Raw),
        false if extension == "qcow2" => Err(DiskError::Corrupt {
            path: path.to_owned(),
            format: "qcow2",
            why: "it does not begin as one".to_owned(),
        }),
        false if foreign.iter().any(|magic| head.starts_with(&magic[..magic.len().min(16)])) => {
            Err(DiskError::Unsupported(path.to_owned()))
        }
        false => Ok(DiskFormat::Raw),
    }
}

/// Makes a disk that no machine runs on larger.
pub async fn resize(qemu: &Qemu, path: &Path, format: DiskFormat, bytes: u64) -> Result<(), DiskError> {
    let has = info(qemu, path, Some(format)).await?.virtual_bytes;
    if bytes < has {
        return Err(DiskError::Shrinks { path: path.to_owned(), has, asked: bytes });
    }
    let mut img = Img::new(qemu, path, format);
    img.args(["resize", "-q", "-f", format.as_str()]).path(path)?.args([bytes.to_string().as_str()]);
    img.run(WORK_TIMEOUT).await
}

#[derive(Deserialize)]
struct RawCheck {
    #[serde(default)]
    corruptions: u64,
    #[serde(default)]
    leaks: u64,
    #[serde(default, rename = "check-errors")]
    check_errors: u64,
}

/// Looks through a disk that no machine runs on; a raw one has nothing to be checked.
pub async fn check(qemu: &Qemu, path: &Path, format: DiskFormat) -> Result<CheckReport, DiskError> {
    if format == DiskFormat::Raw {
        info(qemu, path, Some(format)).await?;
        return Ok(CheckReport { corruptions: 0, leaks: 0 });
    }
    let mut img = Img::new(qemu, path, format);
    img.args(["check", "--output=json", "-f", format.as_str()]).path(path)?;
    let raw: RawCheck = img.report(WORK_TIMEOUT).await?;
    Ok(CheckReport { corruptions: raw.corruptions + raw.check_errors, leaks: raw.leaks })
}

fn io_error(done: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    move |source| match source.kind() {
        io::ErrorKind::StorageFull => DiskError::NoSpace(path.to_owned()),
        _ => DiskError::Io { done, path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod bitmap_tests;
#[cfg(test)]
mod tests;
