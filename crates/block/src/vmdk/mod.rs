//! Images in VMware's format VMDK, read only: one file with tables (monolithicSparse, streamOptimized with packed
//! grains), a descriptor with any number of files beside it (flat, VMFS, split, with tables of their own), and their
//! chain of parents.
//!
//! Written from VMware's Virtual Disk Format 1.1. What is made of several files needs leave to follow names, and so has
//! one that was only guessed to be VMDK none. This must never write, never believe a place or a size that an image
//! states, and never open more files than the bounds of [`files`](crate::ImageFiles) allow.

mod descriptor;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod sample;
mod sparse;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use descriptor::TEXT_BYTES_MAX;
pub use descriptor::{Descriptor, ExtentLine, ExtentType, Parent};
pub use sparse::SparseHeader;
use sparse::{ESX, HOSTED, Sparse};

use crate::{
    BlockError, BlockSource, Extent,
    files::{Family, ImageFiles, Links, LocalFiles},
    layers,
    mapped::{self, Mapped, Place, read_padded},
    pages::TABLE_CACHE_BYTES,
};

/// Enough to tell.
pub(crate) const MAGIC_BYTES: usize = 32;

/// Whether these are the first bytes of a VMDK image or its descriptor, whatever is wrong with the rest.
#[must_use]
pub fn is_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(HOSTED) || bytes.starts_with(ESX) || descriptor::is_text(bytes)
}

/// An open image with all that is below it.
pub struct Vmdk {
    name: String,
    descriptor: Descriptor,
    size_bytes: u64,
    parts: Vec<Part>,
    below: Option<Arc<dyn BlockSource>>,
}

/// A stretch of the disk.
struct Part {
    range: Range<u64>,
    content: Content,
}

enum Content {
    Zero,
    /// From this byte of the file on.
    Flat(Arc<dyn BlockSource>, u64),
    Sparse(Box<Sparse>),
}

/// One image, before what is below it is known.
struct Layer {
    name: String,
    descriptor: Descriptor,
    parts: Vec<Part>,
}

impl Vmdk {
    /// An image that is a file of this host, for reading.
    pub fn open(path: &Path, links: Links) -> Result<Self, BlockError> {
        Self::open_in(&LocalFiles::default(), path, links)
    }

    /// An image with the files and parents that it names, wherever they are.
    pub fn open_in(files: &dyn ImageFiles, path: &Path, links: Links) -> Result<Self, BlockError> {
        Self::open_family(&mut Family::new(files, links), path)
    }

    pub(crate) fn open_family(family: &mut Family<'_>, path: &Path) -> Result<Self, BlockError> {
        layers::open::<Layer>(family, path)
    }

    #[must_use]
    pub fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn part(&self, at: u64) -> Result<&Part, BlockError> {
        let number = self.parts.partition_point(|part| part.range.end <= at);
        self.parts.get(number).ok_or_else(|| BlockError::damaged(&self.name, at, "its parts do not cover it"))
    }
}

impl Layer {
    /// One file that holds all: its descriptor is inside it, and what that says of files is of no account.
    fn alone(file: Arc<dyn BlockSource>) -> Result<Self, BlockError> {
        let name = file.name().to_owned();
        let header = sparse::read_header(&*file)?;
        if header.descriptor == 0 || header.descriptor_bytes == 0 {
            let what = "is one part of an image; name the descriptor that lies beside it";
            return Err(BlockError::unsupported(&name, what));
        }
        let text = read_text(&*file, header.descriptor, header.descriptor_bytes)?;
        let descriptor = Descriptor::parse(&text).map_err(|fault| fault.of(&name, header.descriptor))?;
        if descriptor.extents.len() > 1 {
            let what = format!("is one of {} parts, and has the descriptor of all", descriptor.extents.len());
            return Err(BlockError::unsupported(&name, what));
        }
        let content = Content::Sparse(Box::new(Sparse::new(file, header, TABLE_CACHE_BYTES)?));
        Ok(Self { name, descriptor, parts: vec![Part { range: 0..header.size_bytes, content }] })
    }

    fn of_files(family: &mut Family<'_>, path: &Path, file: &dyn BlockSource) -> Result<Self, BlockError> {
        let name = file.name().to_owned();
        let text = read_text(file, 0, file.size_bytes())?;
        let descriptor = Descriptor::parse(&text).map_err(|fault| fault.of(&name, 0))?;
        let budget_bytes = TABLE_CACHE_BYTES / descriptor.extents.len().max(1);
        let mut parts = Vec::new();
        let mut begin = 0;
        for line in &descriptor.extents {
            let range = begin..begin + line.length_bytes;
            begin = range.end;
            let content = match &line.kind {
                ExtentType::Zero => Content::Zero,
                ExtentType::Flat { file, offset } => {
                    family.may_follow(&name)?;
                    let file = family.open_part(&name, &family.places(path, file))?;
                    check_length(&*file, *offset, line.length_bytes)?;
                    Content::Flat(file, *offset)
                }
                ExtentType::Sparse { file } => {
                    family.may_follow(&name)?;
                    let file = family.open_part(&name, &family.places(path, file))?;
                    let header = sparse::read_header(&*file)?;
                    if header.size_bytes < line.length_bytes {
                        let what = format!("it holds {} bytes, and {name} says more", header.size_bytes);
                        return Err(BlockError::damaged(file.name(), 12, what));
                    }
                    Content::Sparse(Box::new(Sparse::new(file, header, budget_bytes)?))
                }
            };
            if !range.is_empty() {
                parts.push(Part { range, content });
            }
        }
        Ok(Self { name, descriptor, parts })
    }
}

fn check_length(file: &dyn BlockSource, offset: u64, length: u64) -> Result<(), BlockError> {
    match offset.checked_add(length) {
        Some(end) if end <= file.size_bytes() => Ok(()),
        _ => {
            let what = format!("it ends here, and should hold {length} bytes from byte {offset} on");
            Err(BlockError::damaged(file.name(), file.size_bytes(), what))
        }
    }
}

fn read_text(file: &dyn BlockSource, offset: u64, length: u64) -> Result<Vec<u8>, BlockError> {
    if length > TEXT_BYTES_MAX {
        let what = format!("a descriptor of {length} bytes");
        return Err(BlockError::damaged(file.name(), offset, what));
    }
    let mut text = vec![0; length as usize];
    file.read_at(&mut text, offset)?;
    Ok(text)
}

impl layers::Layer for Layer {
    type Image = Vmdk;

    fn read(family: &mut Family<'_>, path: &Path, file: Arc<dyn BlockSource>) -> Result<Self, BlockError> {
        let mut begin = [0; 4];
        read_padded(&*file, &mut begin, 0)?;
        if [HOSTED, ESX].contains(&&begin) { Self::alone(file) } else { Self::of_files(family, path, &*file) }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn parent(&self, family: &Family<'_>, path: &Path) -> Option<Vec<PathBuf>> {
        self.descriptor.parent.as_ref().map(|parent| family.places(path, &parent.name))
    }

    fn is_made_over(&self, parent: &Self) -> bool {
        self.descriptor.parent.as_ref().is_some_and(|it| parent.descriptor.cid == Some(it.cid))
    }

    fn over(self, below: Option<Arc<dyn BlockSource>>) -> Result<Vmdk, BlockError> {
        let Self { name, descriptor, parts } = self;
        layers::check_below(&name, descriptor.parent.is_some(), below.is_some())?;
        let size_bytes = parts.last().map_or(0, |part| part.range.end);
        Ok(Vmdk { name, descriptor, size_bytes, parts, below })
    }
}

impl Mapped for Vmdk {
    fn stretch(&self, at: u64, end: u64) -> Result<(Place, u64), BlockError> {
        let part = self.part(at)?;
        let (inside, end) = (at - part.range.start, end.min(part.range.end) - part.range.start);
        match &part.content {
            Content::Zero => Ok((Place::Zero, end - inside)),
            Content::Flat(_, offset) => Ok((Place::At(offset + inside), end - inside)),
            Content::Sparse(sparse) => sparse.stretch(inside, end),
        }
    }

    fn data(&self, at: u64) -> Result<&dyn BlockSource, BlockError> {
        match &self.part(at)?.content {
            Content::Flat(file, _) => Ok(&**file),
            Content::Sparse(sparse) => Ok(sparse.data()),
            Content::Zero => Err(BlockError::damaged(&self.name, at, "there are only zeroes")),
        }
    }

    fn below(&self) -> Option<&dyn BlockSource> {
        self.below.as_deref()
    }
}

impl BlockSource for Vmdk {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        mapped::read(self, buf, offset)
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        mapped::extents(self, range)
    }

    fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests;
