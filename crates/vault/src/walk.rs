//! From the points down to every blob that they need.
//!
//! Prune keeps what this finds and removes the rest, so it errs on one side only: what cannot be read is reported and
//! never counted as unneeded.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    BlobId, VaultError,
    blob::Opener,
    format::{pack::BlobKind, tree},
    index::Index,
    job::Job,
    parallel::in_parallel,
    repo::Repository,
};

/// Trees that are read at once.
const READERS: usize = 4;

/// One bit for each copy in an index, by `Index::position` of its blob.
#[derive(Debug, Clone)]
pub(crate) struct Marks(Vec<u64>);

impl Marks {
    pub(crate) fn new(index: &Index) -> Self {
        Self(vec![0; index.len().div_ceil(64)])
    }

    /// Whether it was not marked before.
    pub(crate) fn mark(&mut self, position: usize) -> bool {
        let (word, bit) = (position / 64, 1 << (position % 64));
        let new = self.0[word] & bit == 0;
        self.0[word] |= bit;
        new
    }

    /// The marked positions, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = usize> {
        let bits = |word: u64| (0..64_usize).filter(move |bit| word & (1 << bit) != 0);
        let words = self.0.iter().enumerate().filter(|(_, word)| **word != 0);
        words.flat_map(move |(number, word)| bits(*word).map(move |bit| number * 64 + bit))
    }

    pub(crate) fn is_marked(&self, position: usize) -> bool {
        self.0[position / 64] & (1 << (position % 64)) != 0
    }
}

/// What a walk could not find or read.
#[derive(Debug, Default)]
pub(crate) struct Broken {
    /// Trees that could not be read, with what they are needed for lost from sight.
    pub(crate) trees: Vec<(BlobId, VaultError)>,
    /// Chunks that no index names.
    pub(crate) missing: Vec<BlobId>,
}

impl Broken {
    pub(crate) fn is_empty(&self) -> bool {
        self.trees.is_empty() && self.missing.is_empty()
    }
}

/// Marks everything that the trees `roots` need. What is marked already is not walked again.
pub(crate) fn reach(
    repository: &Repository,
    index: &Index,
    roots: impl IntoIterator<Item = BlobId>,
    marks: &mut Marks,
    job: &Job,
) -> Result<Broken, VaultError> {
    let walk = Walk {
        repository,
        index,
        state: Mutex::new(State {
            marks,
            broken: Broken::default(),
            next: Vec::new(),
            unknown: HashSet::new(),
        }),
    };
    for root in roots {
        walk.tree_found(root);
    }
    // Level by level: what a level finds is the next one.
    loop {
        let level = std::mem::take(&mut walk.state().next);
        if level.is_empty() {
            break;
        }
        in_parallel(&level, READERS, job, |id| walk.read(*id))?;
    }
    Ok(walk.state.into_inner().unwrap_or_else(PoisonError::into_inner).broken)
}

struct State<'a> {
    marks: &'a mut Marks,
    broken: Broken,
    next: Vec<BlobId>,
    /// Blobs that no index names, told once.
    unknown: HashSet<BlobId>,
}

struct Walk<'a> {
    repository: &'a Repository,
    index: &'a Index,
    state: Mutex<State<'a>>,
}

impl<'a> Walk<'a> {
    fn state(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tree_found(&self, id: BlobId) {
        let mut state = self.state();
        match self.index.position(&id) {
            Some(position) => {
                if state.marks.mark(position) {
                    state.next.push(id);
                }
            }
            None => {
                if state.unknown.insert(id) {
                    state.broken.trees.push((id, VaultError::BlobMissing(id)));
                }
            }
        }
    }

    fn read(&self, id: BlobId) -> Result<(), VaultError> {
        let mut opener = Opener::new(self.repository.storage.as_ref(), &self.repository.key);
        let (mut bytes, mut trees, mut chunks) = (Vec::new(), Vec::new(), Vec::new());
        // Trees of others are walked as well, whatever their names and nodes are: all that they need must stay.
        let walked = opener.load(self.index, &id, &mut bytes).and_then(|()| {
            let each = |kind, id| match kind {
                BlobKind::Tree => trees.push(id),
                BlobKind::Data => chunks.push(id),
            };
            tree::for_each_blob(&bytes, each)
                .map_err(|source| VaultError::Damaged { file: format!("tree {id}"), source })
        });
        match walked {
            Ok(()) => {}
            // What the store could not give now may be whole; nothing may be concluded from it.
            Err(VaultError::Storage(error)) if !error.says_damaged() => return Err(error.into()),
            Err(error) => {
                self.state().broken.trees.push((id, error));
                return Ok(());
            }
        }
        for tree in trees {
            self.tree_found(tree);
        }
        self.chunks_found(&chunks);
        Ok(())
    }

    fn chunks_found(&self, content: &[BlobId]) {
        let mut state = self.state();
        for id in content {
            match self.index.position(id) {
                Some(position) => {
                    state.marks.mark(position);
                }
                None => {
                    if state.unknown.insert(*id) {
                        state.broken.missing.push(*id);
                    }
                }
            }
        }
    }
}
