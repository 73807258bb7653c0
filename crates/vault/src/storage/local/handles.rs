//! Files kept open for random reads, so that such a read is one system call. Never more than a fixed number of them.

use std::{
    collections::HashMap,
    fs::File,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::storage::FileName;

#[derive(Debug)]
pub(super) struct Handles {
    max: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// With the time of the last use, counted in uses.
    files: HashMap<FileName, (Arc<File>, u64)>,
    uses: u64,
}

impl Handles {
    pub(super) fn new(max: usize) -> Self {
        Self { max, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A handle that is missing or one too many does no harm.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, file: &FileName) -> Option<Arc<File>> {
        let mut kept = self.kept();
        kept.uses += 1;
        let now = kept.uses;
        let (handle, used) = kept.files.get_mut(file)?;
        *used = now;
        Some(Arc::clone(handle))
    }

    /// Keeps a handle, in place of the one that was not used for the longest time.
    pub(super) fn keep(&self, file: &FileName, handle: File) -> Arc<File> {
        let handle = Arc::new(handle);
        let mut kept = self.kept();
        if kept.files.len() >= self.max && !kept.files.contains_key(file) {
            let oldest = kept.files.iter().min_by_key(|(_, (_, used))| *used).map(|(file, _)| file.clone());
            oldest.and_then(|oldest| kept.files.remove(&oldest));
        }
        kept.uses += 1;
        let now = kept.uses;
        kept.files.insert(file.clone(), (Arc::clone(&handle), now));
        handle
    }

    pub(super) fn forget(&self, file: &FileName) {
        self.kept().files.remove(file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::FileKind;

    #[test]
    fn the_handle_that_was_not_used_for_longest_goes() {
        let handles = Handles::new(2);
        let name = |n: u8| FileName::new(FileKind::Pack, format!("{n:02x}").repeat(32)).unwrap();
        let open = || File::open("/dev/null").unwrap();
        handles.keep(&name(1), open());
        handles.keep(&name(2), open());
        assert!(handles.get(&name(1)).is_some());
        handles.keep(&name(3), open());
        assert!(handles.get(&name(2)).is_none());
        assert!(handles.get(&name(1)).is_some() && handles.get(&name(3)).is_some());
        handles.forget(&name(1));
        assert!(handles.get(&name(1)).is_none());
    }
}
