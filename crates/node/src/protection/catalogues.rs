//! What is known of the points in each repository, kept between two looks, with the vault open: a page of a hundred
//! thousand points costs one listing of names.
//!
//! It serves lists, and finds points by their ids. Whoever reads a point's disks or changes anything opens the vault anew.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use nestling_model::protection::{Location, RepositoryId};
use nestling_vault::{Catalogue, Job, Repository as Vault, Summary, VaultError};

use super::repositories::Known;
use crate::{error::Result, locked::lock};

/// What nobody asked for in so long is given back when somebody asks for another one.
const KEPT: Duration = Duration::from_secs(600);

#[derive(Default)]
pub struct Catalogues(Mutex<HashMap<RepositoryId, Kept>>);

struct Kept {
    used: Instant,
    /// Held by whoever looks: a store that hangs holds up those who look at it, and nobody else.
    open: Arc<Mutex<Option<Open>>>,
}

struct Open {
    location: Location,
    vault: Arc<Vault>,
    catalogue: Catalogue<Summary>,
}

impl Catalogues {
    /// Looks at a repository, and lets `see` see what is there. `open` opens it when that is necessary. Blocks.
    pub fn look<T>(
        &self,
        known: &Known,
        open: impl FnOnce() -> Result<Arc<Vault>>,
        see: impl FnOnce(&Vault, &Catalogue<Summary>) -> std::result::Result<T, VaultError>,
    ) -> Result<T> {
        let kept = self.kept(known.repository.id);
        let mut kept = lock(&kept);
        let is_same = |open: &Open| {
            open.location == known.repository.location && open.vault.check_still_there().is_ok()
        };
        if !kept.as_ref().is_some_and(is_same) {
            // What was known goes first: it may be large.
            *kept = None;
        }
        let open = match &mut *kept {
            Some(open) => open,
            none => none.insert(Open {
                location: known.repository.location.clone(),
                vault: open()?,
                catalogue: Catalogue::new(Summary::of),
            }),
        };
        let seen = open.catalogue.look(&open.vault, &Job::default());
        seen.and_then(|_| see(&open.vault, &open.catalogue)).map_err(|error| known.failed(error))
    }

    fn kept(&self, id: RepositoryId) -> Arc<Mutex<Option<Open>>> {
        let mut all = lock(&self.0);
        let now = Instant::now();
        all.retain(|_, kept| now.duration_since(kept.used) < KEPT);
        let kept = all.entry(id).or_insert_with(|| Kept { used: now, open: Arc::default() });
        kept.used = now;
        Arc::clone(&kept.open)
    }

    pub fn forget(&self, id: RepositoryId) {
        lock(&self.0).remove(&id);
    }
}
