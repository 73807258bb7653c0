//! Opening an image with its parents, for formats whose parents have the same format: VHD, VHDX and VMDK.
//!
//! A parent is taken only if it is the one that its child was made over, as the format tells it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::{BlockError, BlockSource, files::Family};

/// One image of a chain, before what is below it is known.
pub(crate) trait Layer: Sized {
    type Image: BlockSource + 'static;

    /// From its file, which is at `path`; other files that hold its bytes are opened through the family.
    fn read(family: &mut Family<'_>, path: &Path, file: Arc<dyn BlockSource>) -> Result<Self, BlockError>;

    fn name(&self) -> &str;

    /// Where its parent may be, the best place first. None if it has none.
    fn parent(&self, family: &Family<'_>, path: &Path) -> Option<Vec<PathBuf>>;

    /// Whether that is the parent that it was made over, unchanged since.
    fn is_made_over(&self, parent: &Self) -> bool;

    fn over(self, below: Option<Arc<dyn BlockSource>>) -> Result<Self::Image, BlockError>;
}

pub(crate) fn open<L: Layer>(family: &mut Family<'_>, path: &Path) -> Result<L::Image, BlockError> {
    let mut above: Vec<L> = Vec::new();
    let mut path = path.to_owned();
    let mut file = family.open(&path)?;
    // Down to the lowest first, then up again: no recursion that an image could make deep.
    let mut lowest = loop {
        let layer = L::read(family, &path, file)?;
        if let Some(child) = above.last()
            && !child.is_made_over(&layer)
        {
            let what = format!(
                "is not the parent that {} was made over, or was changed since; bring the right one back",
                child.name()
            );
            return Err(BlockError::unsupported(layer.name(), what));
        }
        let Some(places) = layer.parent(family, &path) else { break layer };
        family.may_follow(layer.name())?;
        (path, file) = family.open_parent(layer.name(), &places)?;
        above.push(layer);
    };
    let mut below: Option<Arc<dyn BlockSource>> = None;
    while let Some(next) = above.pop() {
        below = Some(Arc::new(lowest.over(below)?));
        lowest = next;
    }
    lowest.over(below)
}

/// Refuses an image that needs what is below it and has not got it, or the other way round.
pub(crate) fn check_below(name: &str, needs: bool, has: bool) -> Result<(), BlockError> {
    match (needs, has) {
        (true, false) => Err(BlockError::unsupported(name, "needs its parent")),
        (false, true) => Err(BlockError::unsupported(name, "has no parent and got one")),
        _ => Ok(()),
    }
}
