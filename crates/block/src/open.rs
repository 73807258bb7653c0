//! Opening a disk as people name it: a path, with or without the format of what lies there.
//!
//! Without a format the first bytes decide. A guest that owns a raw disk can write there what it likes, so what was only
//! guessed is read but never followed: an image whose format nobody stated may not name other files.

use std::{fmt, path::Path, sync::Arc};

use crate::{
    BlockError, BlockSource, RawDisk,
    qcow2::{Header, Links, Qcow2, Qcow2Options},
};

/// How the bytes of a disk lie in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ImageFormat {
    Raw,
    Qcow2,
}

impl fmt::Display for ImageFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        })
    }
}

/// A disk that was opened by its name.
pub struct OpenImage {
    pub source: Arc<dyn BlockSource>,
    pub format: ImageFormat,
}

impl OpenImage {
    /// For reading. With `format` that is what it is read as; without, its first bytes tell.
    pub fn open(path: &Path, format: Option<ImageFormat>) -> Result<Self, BlockError> {
        let (found, links) = match format {
            Some(format) => (format, Links::Follow),
            None => (probe(path)?, Links::Refuse),
        };
        let source: Arc<dyn BlockSource> = match found {
            ImageFormat::Raw => Arc::new(RawDisk::open(path)?),
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
