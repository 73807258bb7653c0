//! Opening a disk as people name it: a path, with or without the format of what lies there, or an export's address.
//!
//! Without a format the first bytes decide. A guest that owns a raw disk can write there what it likes, so what was only
//! guessed is read but never followed: an image whose format nobody stated may not name other files.

use std::{fmt, path::Path, sync::Arc};

use crate::{
    BlockError, BlockSource, RawDisk,
    nbd::{NbdClient, NbdOptions},
    qcow2::{Header, Links, Qcow2, Qcow2Options},
};

/// How the bytes of a disk lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    Raw,
    Qcow2,
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
        let (found, links) = match (format, address) {
            (None | Some(ImageFormat::Raw), Some(_)) => (ImageFormat::Nbd, Links::Refuse),
            (Some(format), _) => (format, Links::Follow),
            (None, None) => (probe(path)?, Links::Refuse),
        };
        let source: Arc<dyn BlockSource> = match found {
            ImageFormat::Raw => Arc::new(RawDisk::open(path)?),
            ImageFormat::Nbd => {
                let options = NbdOptions { connections: NBD_CONNECTIONS, ..NbdOptions::default() };
                Arc::new(NbdClient::connect(&path.to_string_lossy().parse()?, &options)?)
            }
            ImageFormat::Qcow2 => Arc::new(Qcow2::open(path, Qcow2Options::new(links))?),
        };
        Ok(Self { source, format: found })
    }
}

fn probe(path: &Path) -> Result<ImageFormat, BlockError> {
    let disk = RawDisk::open(path)?;
    let mut magic = [0; 4];
    if BlockSource::size_bytes(&disk) < magic.len() as u64 {
        return Ok(ImageFormat::Raw);
    }
    disk.read_at(&mut magic, 0)?;
    Ok(if Header::is_magic(&magic) { ImageFormat::Qcow2 } else { ImageFormat::Raw })
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
