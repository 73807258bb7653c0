//! Images in the format VHD of Virtual PC and older Hyper-V, read only: fixed, dynamic, and differencing with their
//! chain of parents.
//!
//! Written from Microsoft's specification 1.0. A footer at the end of the file says what it is; those that grow have a copy
//! of it in front, which counts where the end is damaged. The bitmap of sectors in each block counts only in a
//! differencing disk; in others a block holds all of its sectors. This must never write, never believe a place or a
//! size that an image states, and never follow a name in an image unless it was told to.

mod header;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod sample;

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use header::{COOKIE, FOOTER_BYTES, HEADER_BYTES};
pub use header::{Footer, Header, Kind, Locator};

use crate::{
    BlockError, BlockSource, Extent,
    fields::utf16,
    files::{Family, ImageFiles, Links, LocalFiles},
    layers::{self, Layer as _},
    mapped::{self, Mapped, Place, read_padded},
    pages::{Look, Pages, TABLE_CACHE_BYTES},
};

const SECTOR: u64 = 512;
/// An entry of a block that is not here.
const ABSENT: u32 = u32::MAX;
/// Longer is no path of Windows.
const NAME_BYTES_MAX: u32 = 64 << 10;

/// Whether these are the first bytes of a VHD file that grows, whatever is wrong with the rest. A fixed one begins as
/// its disk does: see [`is_fixed`].
#[must_use]
pub fn is_magic(bytes: &[u8]) -> bool {
    bytes.starts_with(COOKIE)
}

/// Whether the file ends with the footer of a fixed disk that fits in every way. Who owns the disk can write one there,
/// so that it tells nothing of a file whose name does not say the same.
pub fn is_fixed(file: &dyn BlockSource) -> Result<bool, BlockError> {
    let Some(begin) = file.size_bytes().checked_sub(FOOTER_BYTES as u64) else { return Ok(false) };
    let mut bytes = [0; FOOTER_BYTES];
    file.read_at(&mut bytes, begin)?;
    let fits =
        |footer: Footer| footer.kind == Kind::Fixed && footer.is_sum_right && footer.size_bytes == begin;
    Ok(Footer::parse(&bytes).is_ok_and(fits))
}

/// An open image with all that is below it.
pub struct Vhd {
    name: String,
    footer: Footer,
    /// None of a fixed disk.
    header: Option<Header>,
    pages: Pages,
    below: Option<Arc<dyn BlockSource>>,
}

/// One file, before what is below it is known.
struct Layer {
    footer: Footer,
    header: Option<Header>,
    file: Arc<dyn BlockSource>,
    /// Of the parent: from here, and on the host that made it.
    relative: Vec<String>,
    whole: Vec<String>,
}

impl Vhd {
    /// An image that is a file of this host, for reading.
    pub fn open(path: &Path, links: Links) -> Result<Self, BlockError> {
        Self::open_in(&LocalFiles::default(), path, links)
    }

    /// An image with the parents that it names, wherever they are.
    pub fn open_in(files: &dyn ImageFiles, path: &Path, links: Links) -> Result<Self, BlockError> {
        Self::open_family(&mut Family::new(files, links), path)
    }

    pub(crate) fn open_family(family: &mut Family<'_>, path: &Path) -> Result<Self, BlockError> {
        layers::open::<Layer>(family, path)
    }

    /// An image in any source. `below` must be there exactly if it is a differencing disk; that it is the right one is
    /// the caller's to find out, by [`Vhd::footer`] and [`Vhd::header`].
    pub fn over(file: Arc<dyn BlockSource>, below: Option<Arc<dyn BlockSource>>) -> Result<Self, BlockError> {
        Layer::of(file)?.over(below)
    }

    #[must_use]
    pub fn footer(&self) -> &Footer {
        &self.footer
    }

    #[must_use]
    pub fn header(&self) -> Option<&Header> {
        self.header.as_ref()
    }

    /// Whether a sum is wrong: the file was damaged, or changed by a tool that forgot it.
    #[must_use]
    pub fn is_suspect(&self) -> bool {
        !self.footer.is_sum_right || self.header.as_ref().is_some_and(|header| !header.is_sum_right)
    }

    /// What is at byte `at`, as far as one block tells.
    fn part(
        &self,
        look: &mut Look<'_>,
        header: &Header,
        at: u64,
        end: u64,
    ) -> Result<(Place, u64), BlockError> {
        let (block, inside) = (at / header.block_bytes, at % header.block_bytes);
        let mut length = (header.block_bytes - inside).min(end - at);
        let entry_at = header.table_offset.saturating_add(4 * block);
        let entry = u32::from_be_bytes(look.bytes(entry_at)?);
        if entry == ABSENT {
            return Ok((Place::Below, length));
        }
        let bitmap = u64::from(entry) * SECTOR;
        let wrong = || {
            let what = format!("a block at byte {bitmap}, which is not inside the file");
            BlockError::damaged(&self.name, entry_at, what)
        };
        if bitmap == 0 || bitmap + header.bitmap_bytes() > self.pages.source().size_bytes() {
            return Err(wrong());
        }
        if self.below.is_some() {
            let skipped = inside % SECTOR;
            let limit = (skipped + length).div_ceil(SECTOR);
            let (here, count) = look.bit_run(bitmap, inside / SECTOR, limit, true)?;
            length = (count * SECTOR - skipped).min(length);
            if !here {
                return Ok((Place::Below, length));
            }
        }
        let place = bitmap + header.bitmap_bytes() + inside;
        if place + length > self.pages.source().size_bytes() {
            return Err(wrong());
        }
        Ok((Place::At(place), length))
    }
}

impl Layer {
    fn of(file: Arc<dyn BlockSource>) -> Result<Self, BlockError> {
        let name = file.name().to_owned();
        let footer = read_footer(&*file)?;
        let mut layer = Self { footer, header: None, file, relative: Vec::new(), whole: Vec::new() };
        if footer.kind == Kind::Fixed {
            if footer.size_bytes >= layer.file.size_bytes() {
                let what = format!("a disk of {} bytes, which is longer than its file", footer.size_bytes);
                return Err(BlockError::damaged(&name, 0, what));
            }
            return Ok(layer);
        }
        let mut bytes = [0; HEADER_BYTES];
        layer.file.read_at(&mut bytes, footer.header_offset)?;
        let header = Header::parse(&bytes, footer.size_bytes)
            .map_err(|fault| fault.of(&name, footer.header_offset))?;
        let table_bytes = 4 * footer.size_bytes.div_ceil(header.block_bytes);
        let end = header.table_offset.checked_add(table_bytes);
        if end.is_none_or(|end| end > layer.file.size_bytes()) {
            let what = format!("a table of {table_bytes} bytes that is not inside the file");
            return Err(BlockError::damaged(&name, header.table_offset, what));
        }
        if footer.kind == Kind::Differencing {
            layer.read_names(&header)?;
        }
        layer.header = Some(header);
        Ok(layer)
    }

    /// All names of the parent that mean anything here.
    fn read_names(&mut self, header: &Header) -> Result<(), BlockError> {
        for locator in &header.locators {
            let names = match &locator.code {
                b"W2ru" => &mut self.relative,
                b"W2ku" => &mut self.whole,
                _ => continue,
            };
            if locator.length > NAME_BYTES_MAX {
                let what = format!("a parent's name of {} bytes", locator.length);
                return Err(BlockError::damaged(self.file.name(), locator.offset, what));
            }
            let mut bytes = vec![0; locator.length as usize];
            self.file.read_at(&mut bytes, locator.offset)?;
            names.extend(utf16(&bytes, u16::from_le_bytes));
        }
        self.relative.extend(header.parent_name.clone());
        Ok(())
    }
}

/// The footer at the end, or its copy in front: the first that is whole, else the first that there is.
fn read_footer(file: &dyn BlockSource) -> Result<Footer, BlockError> {
    let size = file.size_bytes();
    let mut suspect = None;
    let mut refused = None;
    // Before 2004, footers were one byte shorter.
    for begin in [size.checked_sub(512), size.checked_sub(511), Some(0)].into_iter().flatten() {
        let mut bytes = [0; FOOTER_BYTES];
        read_padded(file, &mut bytes, begin)?;
        match Footer::parse(&bytes) {
            Ok(footer) if footer.is_sum_right => return Ok(footer),
            Ok(footer) => {
                suspect.get_or_insert(footer);
            }
            Err(fault) if is_magic(&bytes) => {
                refused.get_or_insert(fault.of(file.name(), begin));
            }
            Err(_) => {}
        }
    }
    match (suspect, refused) {
        (Some(footer), _) => Ok(footer),
        (None, Some(error)) => Err(error),
        (None, None) => {
            let end = size.saturating_sub(FOOTER_BYTES as u64);
            Err(BlockError::damaged(file.name(), end, "it is no VHD file: it does not end with a footer"))
        }
    }
}

impl layers::Layer for Layer {
    type Image = Vhd;

    fn read(_family: &mut Family<'_>, _path: &Path, file: Arc<dyn BlockSource>) -> Result<Self, BlockError> {
        Self::of(file)
    }

    fn name(&self) -> &str {
        self.file.name()
    }

    fn parent(&self, family: &Family<'_>, path: &Path) -> Option<Vec<PathBuf>> {
        (self.footer.kind == Kind::Differencing)
            .then(|| family.windows_places(path, &self.relative, &self.whole))
    }

    fn is_made_over(&self, parent: &Self) -> bool {
        self.header.as_ref().is_some_and(|header| header.parent_id == parent.footer.id)
    }

    fn over(self, below: Option<Arc<dyn BlockSource>>) -> Result<Vhd, BlockError> {
        let name = self.file.name().to_owned();
        layers::check_below(&name, self.footer.kind == Kind::Differencing, below.is_some())?;
        let Self { footer, header, file, .. } = self;
        Ok(Vhd { name, footer, header, pages: Pages::new(file, TABLE_CACHE_BYTES), below })
    }
}

impl Mapped for Vhd {
    fn stretch(&self, at: u64, end: u64) -> Result<(Place, u64), BlockError> {
        let Some(header) = &self.header else { return Ok((Place::At(at), end - at)) };
        let mut look = self.pages.look();
        mapped::joined(at, end, |at| self.part(&mut look, header, at, end))
    }

    fn data(&self, _at: u64) -> Result<&dyn BlockSource, BlockError> {
        Ok(&**self.pages.source())
    }

    fn below(&self) -> Option<&dyn BlockSource> {
        self.below.as_deref()
    }
}

impl BlockSource for Vhd {
    fn size_bytes(&self) -> u64 {
        self.footer.size_bytes
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
