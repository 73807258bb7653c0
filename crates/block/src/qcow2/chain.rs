//! Opening an image with what it is made of: its backing file, that one's, and so on.
//!
//! Names in images come from whoever made them, and a guest that owns a raw disk can make it look like a qcow2 image.
//! So names are followed only if the caller said so, and never out of an image whose format was guessed.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Header, Qcow2, read_header};
use crate::{BlockError, BlockSource, RawDisk};

/// Images above each other, the first included.
pub const CHAIN_MAX: usize = 200;

/// Whether names that an image states are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// An image with a backing file or a data file of its own is refused: for what comes from outside.
    Refuse,
    /// They are opened, by any path: for images that this host made.
    Follow,
}

#[derive(Debug, Clone, Copy)]
pub struct Qcow2Options {
    pub links: Links,
    /// See [`RawDisk::drop_behind`].
    pub drop_behind: bool,
}

impl Qcow2Options {
    #[must_use]
    pub fn new(links: Links) -> Self {
        Self { links, drop_behind: false }
    }
}

/// What is open already, as device and inode.
type Seen = Vec<(u64, u64)>;

impl Qcow2 {
    /// An image that is a file, for reading.
    pub fn open(path: &Path, options: Qcow2Options) -> Result<Self, BlockError> {
        let mut images = Vec::new();
        let mut seen = Seen::new();
        let mut next = Some((path.to_owned(), Format::Qcow2));
        let mut below: Option<Arc<dyn BlockSource>> = None;
        // Down to the lowest first, then up again: no recursion that an image could make deep.
        while let Some((path, format)) = next.take() {
            let file = open_file(&path, options, &mut seen)?;
            let guessed = format == Format::Guess;
            let is_qcow2 = match format {
                Format::Raw => false,
                Format::Qcow2 => true,
                Format::Guess => begins_as_qcow2(&file)?,
            };
            if !is_qcow2 {
                below = Some(Arc::new(file));
                break;
            }
            let header = read_header(&file)?;
            allowed(&header, file.name(), options, guessed)?;
            let data = data_file(&header, &path, options, &mut seen)?;
            if let Some(name) = &header.backing_name {
                next = Some((beside(&path, name, file.name())?, backing_format(&header, file.name())?));
            }
            images.push((file, data));
        }
        let mut image = None;
        while let Some((file, data)) = images.pop() {
            if let Some(done) = image.take() {
                below = Some(Arc::new(done));
            }
            image = Some(Self::over(Arc::new(file), data, below.take())?);
        }
        image.ok_or_else(|| BlockError::unsupported(&path.display().to_string(), "is no qcow2 image"))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Raw,
    Qcow2,
    Guess,
}

fn open_file(path: &Path, options: Qcow2Options, seen: &mut Seen) -> Result<RawDisk, BlockError> {
    let file = RawDisk::open(path)?;
    let about = file.file().metadata().map_err(|e| BlockError::io(file.name(), "look", 0, e))?;
    let id = (about.dev(), about.ino());
    if seen.contains(&id) {
        return Err(BlockError::unsupported(file.name(), "is below itself: its backing files form a circle"));
    }
    if seen.len() >= CHAIN_MAX {
        return Err(BlockError::unsupported(
            file.name(),
            format!("has more than {CHAIN_MAX} images above it"),
        ));
    }
    seen.push(id);
    Ok(if options.drop_behind { file.drop_behind() } else { file })
}

fn begins_as_qcow2(file: &RawDisk) -> Result<bool, BlockError> {
    let mut magic = [0; 4];
    if BlockSource::size_bytes(file) < 4 {
        return Ok(false);
    }
    file.read_at(&mut magic, 0)?;
    Ok(Header::is_magic(&magic))
}

fn allowed(header: &Header, name: &str, options: Qcow2Options, guessed: bool) -> Result<(), BlockError> {
    if header.backing_name.is_none() && !header.external_data {
        return Ok(());
    }
    if options.links == Links::Refuse {
        return Err(BlockError::unsupported(name, "names other files, which may not be followed here"));
    }
    if guessed {
        let what = "names other files, but the image above does not say that this is qcow2; \
                    say so with `qemu-img rebase -u -F qcow2`";
        return Err(BlockError::unsupported(name, what));
    }
    Ok(())
}

fn data_file(
    header: &Header,
    path: &Path,
    options: Qcow2Options,
    seen: &mut Seen,
) -> Result<Option<Arc<dyn BlockSource>>, BlockError> {
    if !header.external_data {
        return Ok(None);
    }
    let image = path.display().to_string();
    let Some(name) = &header.data_file_name else {
        return Err(BlockError::unsupported(&image, "does not say where its external data file is"));
    };
    Ok(Some(Arc::new(open_file(&beside(path, name, &image)?, options, seen)?)))
}

fn backing_format(header: &Header, image: &str) -> Result<Format, BlockError> {
    match header.backing_format.as_deref() {
        None => Ok(Format::Guess),
        Some("raw" | "file" | "host_device") => Ok(Format::Raw),
        Some("qcow2") => Ok(Format::Qcow2),
        Some(other) => Err(BlockError::unsupported(
            image,
            format!("has a backing file in format {other:?}, which is not read here"),
        )),
    }
}

/// A name in an image is meant from where the image is.
fn beside(image: &Path, name: &str, image_name: &str) -> Result<PathBuf, BlockError> {
    let plain = name.strip_prefix("file:").unwrap_or(name);
    // QEMU takes what has a colon before the first slash for a protocol.
    let protocol = plain.split('/').next().is_some_and(|first| first.contains(':'));
    if protocol || plain.is_empty() {
        return Err(BlockError::unsupported(image_name, format!("lies over {name:?}, which is no file")));
    }
    Ok(image.parent().unwrap_or(Path::new("")).join(plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_meant_from_the_image() {
        let from = |name| beside(Path::new("/a/b.qcow2"), name, "b");
        assert_eq!(from("c").expect("a path"), Path::new("/a/c"));
        assert_eq!(from("file:../c").expect("a path"), Path::new("/a/../c"));
        assert_eq!(from("/x/y:z").expect("a path"), Path::new("/x/y:z"));
        assert!(from("nbd://host/x").is_err());
        assert!(from("json:{}").is_err());
        assert_eq!(beside(Path::new("b"), "c", "b").expect("a path"), Path::new("c"));
    }
}
