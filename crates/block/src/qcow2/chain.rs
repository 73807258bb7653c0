//! Opening an image with what it is made of: its backing file, that one's, and so on.
//!
//! A backing file's format is what the image above says; one that was only guessed names no other files.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Header, Qcow2, read_header};
use crate::{
    BlockError, BlockSource, ImageFormat,
    files::{Family, ImageFiles, Links, LocalFiles},
    mapped::read_padded,
    open::open_as,
};

#[derive(Debug, Clone, Copy)]
pub struct Qcow2Options {
    pub links: Links,
    /// See [`RawDisk::drop_behind`](crate::RawDisk::drop_behind).
    pub drop_behind: bool,
}

impl Qcow2Options {
    #[must_use]
    pub fn new(links: Links) -> Self {
        Self { links, drop_behind: false }
    }
}

impl Qcow2 {
    /// An image that is a file of this host, for reading.
    pub fn open(path: &Path, options: Qcow2Options) -> Result<Self, BlockError> {
        Self::open_in(&LocalFiles { drop_behind: options.drop_behind }, path, options.links)
    }

    /// An image with the files that it names, wherever they are.
    pub fn open_in(files: &dyn ImageFiles, path: &Path, links: Links) -> Result<Self, BlockError> {
        Self::open_family(&mut Family::new(files, links), path)
    }

    pub(crate) fn open_family(family: &mut Family<'_>, path: &Path) -> Result<Self, BlockError> {
        let mut images = Vec::new();
        let mut next = Some((path.to_owned(), Some(ImageFormat::Qcow2)));
        let mut below: Option<Arc<dyn BlockSource>> = None;
        // Down to the lowest first, then up again: no recursion that an image could make deep.
        while let Some((path, format)) = next.take() {
            if let Some(other) = format.filter(|format| *format != ImageFormat::Qcow2) {
                below = Some(open_as(other, family, &path)?);
                break;
            }
            let file = family.open(&path)?;
            if format.is_none() && !begins_as_qcow2(&*file)? {
                below = Some(file);
                break;
            }
            let header = read_header(&*file)?;
            allowed(&header, file.name(), family, format.is_none())?;
            let data = data_file(&header, &path, family)?;
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
            image = Some(Self::over(file, data, below.take())?);
        }
        image.ok_or_else(|| BlockError::unsupported(&path.display().to_string(), "is no qcow2 image"))
    }
}

fn begins_as_qcow2(file: &dyn BlockSource) -> Result<bool, BlockError> {
    let mut magic = [0; 4];
    read_padded(file, &mut magic, 0)?;
    Ok(Header::is_magic(&magic))
}

fn allowed(header: &Header, name: &str, family: &Family<'_>, guessed: bool) -> Result<(), BlockError> {
    if header.backing_name.is_none() && !header.external_data {
        return Ok(());
    }
    family.may_follow(name)?;
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
    family: &mut Family<'_>,
) -> Result<Option<Arc<dyn BlockSource>>, BlockError> {
    if !header.external_data {
        return Ok(None);
    }
    let image = path.display().to_string();
    let Some(name) = &header.data_file_name else {
        return Err(BlockError::unsupported(&image, "does not say where its external data file is"));
    };
    family.open(&beside(path, name, &image)?).map(Some)
}

/// None if the image does not say it.
fn backing_format(header: &Header, image: &str) -> Result<Option<ImageFormat>, BlockError> {
    Ok(Some(match header.backing_format.as_deref() {
        None => return Ok(None),
        Some("raw" | "file" | "host_device") => ImageFormat::Raw,
        Some("qcow2") => ImageFormat::Qcow2,
        Some("vhdx") => ImageFormat::Vhdx,
        Some("vpc") => ImageFormat::Vhd,
        Some("vmdk") => ImageFormat::Vmdk,
        Some(other) => {
            let what = format!("has a backing file in format {other:?}, which is not read here");
            return Err(BlockError::unsupported(image, what));
        }
    }))
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
