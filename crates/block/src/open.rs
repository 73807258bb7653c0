//! Opening a disk as people name it: a path, with or without the format of what lies there, or an export's address.
//!
//! Without a format the first bytes decide. A guest that owns a raw disk can write there what it likes, so what was only
//! guessed is read but never followed: an image whose format nobody stated may not name other files.

use std::{ffi::OsStr, fmt, path::Path, sync::Arc};

use crate::{
    BlockError, BlockSource, ImageFiles, Links, LocalFiles,
    files::Family,
    mapped::read_padded,
    nbd::{NbdClient, NbdOptions},
    qcow2::{Header, Qcow2},
    vhd::{self, Vhd},
    vhdx::{self, Vhdx},
    vmdk::{self, Vmdk},
};

/// How the bytes of a disk lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    Raw,
    Qcow2,
    Vhdx,
    Vhd,
    Vmdk,
    /// As whoever serves it gives them.
    Nbd,
}

/// An export's address begins with one of these; a file of such a name is `./nbd://...`.
const NBD_SCHEMES: [&str; 2] = ["nbd://", "nbd+unix://"];
/// To one server, for readers with several threads.
const NBD_CONNECTIONS: usize = 4;

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
            Self::Vhdx => "vhdx",
            Self::Vhd => "vhd",
            Self::Vmdk => "vmdk",
            Self::Nbd => "nbd",
        })
    }
}

/// A disk that was opened by its name.
pub struct OpenImage {
    pub source: Arc<dyn BlockSource>,
    pub format: ImageFormat,
}

impl OpenImage {
    /// For reading. With `format` that is what it is read as; without, its name and its first bytes tell.
    pub fn open(path: &Path, format: Option<ImageFormat>) -> Result<Self, BlockError> {
        let address = path.to_str().filter(|text| NBD_SCHEMES.iter().any(|scheme| text.starts_with(scheme)));
        match (format, address) {
            (Some(ImageFormat::Nbd), _) | (None | Some(ImageFormat::Raw), Some(_)) => {
                let options = NbdOptions { connections: NBD_CONNECTIONS, ..NbdOptions::default() };
                let source = Arc::new(NbdClient::connect(&path.to_string_lossy().parse()?, &options)?);
                Ok(Self { source, format: ImageFormat::Nbd })
            }
            _ => Self::open_in(&LocalFiles::default(), path, format),
        }
    }

    /// The same with a file that is wherever `files` looks for it, as are those that it names: inside a file system of
    /// another disk, say. Where a name can lead nowhere but to what belongs to the image's owner anyway, they may be
    /// followed also out of an image that nobody stated the format of: then it is stated as [`ImageFormat::probe`]
    /// guessed it.
    pub fn open_in(
        files: &dyn ImageFiles,
        path: &Path,
        format: Option<ImageFormat>,
    ) -> Result<Self, BlockError> {
        let (format, links) = match format {
            Some(stated) => (stated, Links::Follow),
            None => (ImageFormat::probe(files, path)?, Links::Refuse),
        };
        let source = open_as(format, &mut Family::new(files, links), path)?;
        Ok(Self { source, format })
    }
}

/// The image at `path`, with all that belongs to it.
pub(crate) fn open_as(
    format: ImageFormat,
    family: &mut Family<'_>,
    path: &Path,
) -> Result<Arc<dyn BlockSource>, BlockError> {
    Ok(match format {
        ImageFormat::Raw => family.open(path)?,
        ImageFormat::Qcow2 => Arc::new(Qcow2::open_family(family, path)?),
        ImageFormat::Vhdx => Arc::new(Vhdx::open_family(family, path)?),
        ImageFormat::Vhd => Arc::new(Vhd::open_family(family, path)?),
        ImageFormat::Vmdk => Arc::new(Vmdk::open_family(family, path)?),
        ImageFormat::Nbd => {
            return Err(BlockError::unsupported(&path.display().to_string(), "is a file and no export"));
        }
    })
}

impl ImageFormat {
    /// What a file seems to be by its first bytes. A fixed VHD begins as its disk does and only ends with something of
    /// its own, which the owner of a raw disk could write there as well: for one to be taken for the other its name must
    /// say so too, which only the host gives.
    pub fn probe(files: &dyn ImageFiles, path: &Path) -> Result<Self, BlockError> {
        let file = files.open(path)?.source;
        let mut begin = [0; vmdk::MAGIC_BYTES];
        read_padded(&*file, &mut begin, 0)?;
        Ok(match begin {
            _ if Header::is_magic(&begin) => Self::Qcow2,
            _ if vhdx::is_magic(&begin) => Self::Vhdx,
            _ if vhd::is_magic(&begin) => Self::Vhd,
            _ if vmdk::is_magic(&begin) => Self::Vmdk,
            _ if is_named_vhd(path) && vhd::is_fixed(&*file)? => Self::Vhd,
            _ => Self::Raw,
        })
    }
}

fn is_named_vhd(path: &Path) -> bool {
    let extension = path.extension().unwrap_or(OsStr::new(""));
    ["vhd", "avhd"].iter().any(|known| extension.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_decide_unless_the_caller_does() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("disk");
        for (bytes, format) in [
            (&b"QFI\xfb and no header"[..], None),
            (&b"vhdxfile and no header"[..], None),
            (&b"conectix and no footer"[..], None),
            (&b"KDMV and no header"[..], None),
            (&b"# Disk DescriptorFile\nRW 1 FLAT \"/dev/zero\" 0\n"[..], None),
            (&b"# Disk DescriptorFile\nRW 9 ZERO\n"[..], Some(ImageFormat::Vmdk)),
            (&b"some text"[..], Some(ImageFormat::Raw)),
            (&b"Q"[..], Some(ImageFormat::Raw)),
            (&b""[..], Some(ImageFormat::Raw)),
        ] {
            std::fs::write(&path, bytes).expect("an image");
            assert_eq!(OpenImage::open(&path, None).ok().map(|image| image.format), format, "{bytes:?}");
            let raw = OpenImage::open(&path, Some(ImageFormat::Raw)).expect("any bytes are a raw disk");
            assert_eq!(raw.source.size_bytes(), bytes.len() as u64);
        }
    }
}
