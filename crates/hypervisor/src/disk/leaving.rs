//! Images that come from other programs and go to them: machines here run on few of those formats.

use std::{fmt, path::Path};

use nestling_model::DiskFormat;

use super::{DiskError, WORK_TIMEOUT, tool::Img};
use crate::Qemu;

/// Sectors, of which all of these formats count a disk's size.
const SECTOR_BYTES: u64 = 512;

/// How the bytes of a disk lie in a file that is written here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageFormat {
    Raw,
    Qcow2,
    Vhdx,
    Vmdk,
}

impl ImageFormat {
    /// QEMU's name for it, and the ending of its files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
        }
    }
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<DiskFormat> for ImageFormat {
    fn from(format: DiskFormat) -> Self {
        match format {
            DiskFormat::Qcow2 => Self::Qcow2,
            DiskFormat::Raw => Self::Raw,
        }
    }
}

/// Makes an image that reads as zeroes and grows as it is written to, in a folder that is this program's alone. A VMDK knows
/// its own name, so that it must be made under the name that it is to have.
pub async fn create_leaving(
    qemu: &Qemu,
    path: &Path,
    format: ImageFormat,
    bytes: u64,
) -> Result<(), DiskError> {
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(DiskError::Exists(path.to_owned()));
    }
    let mut img = Img::new(qemu, path, format);
    img.args(["create", "-q", "-f", format.as_str()]);
    match format {
        ImageFormat::Vhdx => drop(img.args(["-o", "subformat=dynamic"])),
        ImageFormat::Vmdk => drop(img.args(["-o", "subformat=monolithicSparse"])),
        ImageFormat::Raw | ImageFormat::Qcow2 => {}
    }
    img.path(path)?.args([bytes.next_multiple_of(SECTOR_BYTES).to_string().as_str()]);
    img.run(WORK_TIMEOUT).await
}
