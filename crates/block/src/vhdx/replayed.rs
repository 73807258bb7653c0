//! A file as it is once its log was carried out, without being written to.

use std::{
    collections::BTreeMap,
    ops::{Bound, Range},
    sync::Arc,
};

use super::log::SECTOR;
use crate::{
    BlockError, BlockSource, Extent, ExtentKind, ExtentList, check_range,
    mapped::{push_other, read_padded},
};

/// A log that is longer in memory than some megabytes is none that a writer makes.
const PATCHES_MAX: usize = 1 << 17;

/// What lies over the file at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patch {
    Zero,
    /// 4 KiB that are in the log at byte `sector` of the file, where their first and last bytes made room for numbers.
    Page {
        sector: u64,
        leading: [u8; 8],
        trailing: [u8; 4],
    },
}

/// What a log writes, the last for each place. Places are whole sectors.
#[derive(Debug)]
pub(super) struct Patches {
    /// By where they begin: where they end, and what is there. They do not overlap.
    by_start: BTreeMap<u64, (u64, Patch)>,
    size_bytes: u64,
}

impl Patches {
    pub(super) fn new(size_bytes: u64) -> Self {
        Self { by_start: BTreeMap::new(), size_bytes }
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Lays a patch over all that was there before. Whether there is room for it.
    pub(super) fn put(&mut self, range: Range<u64>, patch: Patch) -> bool {
        if range.is_empty() {
            return true;
        }
        // Only zeroes are longer than a sector, so that only they can be cut.
        if let Some((&start, &(end, before))) = self.by_start.range(..range.start).next_back()
            && end > range.start
        {
            self.by_start.insert(start, (range.start, before));
            if end > range.end {
                self.by_start.insert(range.end, (end, before));
            }
        }
        while let Some((&start, &(end, before))) = self.by_start.range(range.clone()).next() {
            self.by_start.remove(&start);
            if end > range.end {
                self.by_start.insert(range.end, (end, before));
            }
        }
        self.by_start.insert(range.start, (range.end, patch));
        self.by_start.len() <= PATCHES_MAX
    }

    /// What is at `at`, from where its patch begins, and up to where that is so.
    fn at(&self, at: u64, end: u64) -> (Option<(u64, Patch)>, u64) {
        if let Some((&start, &(stop, patch))) = self.by_start.range(..=at).next_back()
            && stop > at
        {
            return (Some((start, patch)), stop.min(end));
        }
        let next = self.by_start.range((Bound::Excluded(at), Bound::Unbounded)).next();
        (None, next.map_or(end, |(start, _)| *start).min(end))
    }
}

pub(super) struct Replayed {
    file: Arc<dyn BlockSource>,
    patches: Patches,
}

impl Replayed {
    pub(super) fn new(file: Arc<dyn BlockSource>, patches: Patches) -> Self {
        Self { file, patches }
    }

    fn page(&self, patch: Patch) -> Result<[u8; SECTOR as usize], BlockError> {
        let mut bytes = [0; SECTOR as usize];
        if let Patch::Page { sector, leading, trailing } = patch {
            self.file.read_at(&mut bytes, sector)?;
            bytes[..8].copy_from_slice(&leading);
            bytes[4092..].copy_from_slice(&trailing);
        }
        Ok(bytes)
    }
}

impl BlockSource for Replayed {
    fn size_bytes(&self) -> u64 {
        self.patches.size_bytes
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), BlockError> {
        check_range(self.name(), self.size_bytes(), offset, buf.len() as u64)?;
        let end = offset + buf.len() as u64;
        let (mut at, mut rest) = (offset, buf);
        while at < end {
            let (found, next) = self.patches.at(at, end);
            let (piece, others) = rest.split_at_mut((next - at) as usize);
            match found {
                Some((_, Patch::Zero)) => piece.fill(0),
                Some((start, patch)) => {
                    let begin = (at - start) as usize;
                    piece.copy_from_slice(&self.page(patch)?[begin..begin + piece.len()]);
                }
                None => read_padded(&*self.file, piece, at)?,
            }
            at = next;
            rest = others;
        }
        Ok(())
    }

    fn extents(&self, range: Range<u64>) -> Result<Vec<Extent>, BlockError> {
        let length = range.end.saturating_sub(range.start);
        check_range(self.name(), self.size_bytes(), range.start, length)?;
        let mut list = ExtentList::new(range.clone());
        while !list.is_done() {
            let at = list.position();
            let (found, next) = self.patches.at(at, range.end);
            match found {
                Some((_, patch)) => {
                    let kind = if patch == Patch::Zero { ExtentKind::Zero } else { ExtentKind::Data };
                    list.push(next - at, kind);
                }
                None => {
                    push_other(&mut list, &*self.file, &(at..next))?;
                    // The file said no more for now.
                    if list.position() < next {
                        break;
                    }
                }
            }
        }
        Ok(list.finish())
    }

    fn name(&self) -> &str {
        self.file.name()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{MemoryDisk, extents};

    proptest! {
        #[test]
        fn the_last_patch_counts(steps in prop::collection::vec((0..24_u64, 0..9_u64), 0..40)) {
            // Behind the file's 16 sectors, the log's own data.
            let bytes: Vec<u8> = (0..16 + 40).flat_map(|n| [100 + n as u8; SECTOR as usize]).collect();
            let mut model = bytes[..16 * SECTOR as usize].to_vec();
            model.resize(40 * SECTOR as usize, 0);
            model[16 * SECTOR as usize..].copy_from_slice(&bytes[16 * SECTOR as usize..40 * SECTOR as usize]);
            let mut patches = Patches::new(40 * SECTOR);
            for (n, (at, count)) in steps.into_iter().enumerate() {
                let start = (at * SECTOR) as usize;
                if count == 0 {
                    let sector = (16 + n as u64) * SECTOR;
                    patches.put(at * SECTOR..(at + 1) * SECTOR, Patch::Page { sector, leading: [1; 8], trailing: [2; 4] });
                    model[start..start + 4096].fill(116 + n as u8);
                    model[start..start + 8].fill(1);
                    model[start + 4092..start + 4096].fill(2);
                } else {
                    patches.put(at * SECTOR..(at + count) * SECTOR, Patch::Zero);
                    model[start..start + (count * SECTOR) as usize].fill(0);
                }
            }
            let disk = Replayed::new(Arc::new(MemoryDisk::from_bytes("file", &bytes)), patches);
            let mut read = vec![9; model.len()];
            disk.read_at(&mut read, 0).expect("read");
            prop_assert!(read == model);
            let mut odd = vec![9; 9000];
            disk.read_at(&mut odd, 5000).expect("read");
            prop_assert!(odd == model[5000..14000]);
            for extent in extents(&disk, 0..40 * SECTOR) {
                let extent = extent.expect("a map");
                let part = &model[extent.offset as usize..extent.end() as usize];
                prop_assert!(extent.kind == ExtentKind::Data || part.iter().all(|byte| *byte == 0));
            }
        }
    }
}
