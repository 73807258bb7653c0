//! The point that is recovered from: chosen, opened, and held so that no prune takes away what is read.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use nestling_model::{
    Controller, VmId,
    protection::{DiskSelector, PointId},
};
use nestling_vault::{
    CACHE_BYTES, Catalogue, Identity, Index, Job, Point, PointDisk, ReadCache, Repository as Vault,
    RepositoryLock, Summary, VaultError,
    storage::StorageErrorKind::{Denied, NoSpace, ReadOnly},
};

use super::book::Entry;
use crate::{
    Node, NodeError,
    blocking::blocking,
    error::{Object, Result},
    protection::{
        description::{DescribedDisk, Description},
        marks,
        points::Whose,
        repositories::Known,
    },
};

const NEWEST: [&str; 2] = ["newest", "latest"];
const EARLIER: &str = "earlier";

/// What one repository has of what is asked for.
struct Candidates {
    newest: Option<Point>,
    /// The machines that there are points of.
    of: BTreeSet<Option<VmId>>,
    /// Points of earlier machines of that name.
    earlier: usize,
    unreadable: usize,
}

impl Candidates {
    fn among(
        vault: &Vault,
        catalogue: &Catalogue<Summary>,
        whose: &Whose,
        others: Option<&Whose>,
    ) -> std::result::Result<Self, VaultError> {
        let meant = || catalogue.newest_first().filter(|entry| whose.is(entry.name(), &entry.kept.tags));
        Ok(Self {
            newest: meant().next().map(|entry| entry.read(vault)).transpose()?,
            of: meant().map(|entry| marks::vm_of_tags(&entry.kept.tags)).collect(),
            earlier: others.map_or(0, |others| others.count(catalogue)),
            unreadable: catalogue.unreadable(),
        })
    }
}

impl Node {
    /// The point that is meant by the first digits of its id, by `VM@newest`, by `VM@DIGITS`, or, where a machine has the name
    /// of one that is no more, by `VM@earlier`.
    pub(crate) async fn choose_point(&self, text: &str, repository: Option<&str>) -> Result<(Known, Point)> {
        let Some((vm, which)) = text.rsplit_once('@') else { return self.find_point(text, repository).await };
        if which == EARLIER {
            let whose = self.earlier(vm).unwrap_or_else(|| self.whose(Some(vm)));
            return self.newest_of(vm, whose, None, repository).await;
        }
        let (whose, earlier) = (self.whose(Some(vm)), self.earlier(vm));
        if NEWEST.contains(&which) {
            return self.newest_of(vm, whose, earlier, repository).await;
        }
        let (known, point) = self.find_point(which, repository).await?;
        let is_of = |whose: &Whose| whose.is(&point.name, &point.snapshot.tags);
        if is_of(&whose) || earlier.as_ref().is_some_and(is_of) {
            return Ok((known, point));
        }
        Err(NodeError::NotFound { object: Object::Point, name: which.chars().take(80).collect() })
    }

    /// `others`: those that are told of when there is none; without, all must be of one machine.
    async fn newest_of(
        &self,
        vm: &str,
        whose: Whose,
        others: Option<Whose>,
        repository: Option<&str>,
    ) -> Result<(Known, Point)> {
        let must_be_one = others.is_none() && matches!(whose, Whose::Earlier { .. });
        let see = move |vault: &Vault, catalogue: &Catalogue<Summary>| {
            Candidates::among(vault, catalogue, &whose, others.as_ref())
        };
        let shown: String = vm.chars().take(80).collect();
        let (mut newest, mut of, mut earlier) = (None::<(Known, Point)>, BTreeSet::new(), 0);
        for (known, found) in self.look_into(repository, see).await? {
            // What cannot be seen may be newer.
            let found = found?;
            if found.unreadable > 0 {
                return Err(NodeError::Invalid(format!(
                    "which point is the newest cannot be told: {} snapshots of repository '{}' cannot be read; name \
                     a point by its id",
                    found.unreadable, known.repository.name
                )));
            }
            earlier += found.earlier;
            of.extend(found.of);
            let Some(point) = found.newest else { continue };
            if newest.as_ref().is_none_or(|(_, newest)| point.snapshot.time > newest.snapshot.time) {
                newest = Some((known, point));
            }
        }
        if must_be_one && of.len() > 1 {
            return Err(NodeError::Invalid(format!(
                "there are points of {} earlier machines of the name '{shown}'; name one by its id, as `nestling backup \
                 points {shown} --earlier` shows it",
                of.len()
            )));
        }
        newest.ok_or(NodeError::NoPoint { vm: shown, earlier })
    }
}

/// A disk of the point that stands for a machine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceDisk {
    pub name: String,
    pub controller: Controller,
    pub location: u8,
    pub size_bytes: u64,
}

/// An open point.
pub struct Source {
    pub known: Known,
    pub point: Point,
    pub disks: Vec<SourceDisk>,
    description: Option<Description>,
    vault: Arc<Vault>,
    index: Arc<Index>,
    cache: Arc<ReadCache>,
    /// `None` where nothing can be written.
    lock: Option<RepositoryLock>,
}

impl Drop for Source {
    /// To take a lock away may wait for a store that hangs.
    fn drop(&mut self) {
        let lock = self.lock.take();
        std::thread::spawn(move || drop(lock));
    }
}

impl Source {
    /// Opens it, unless the recovery shall end meanwhile.
    pub async fn open(node: &Node, entry: &Entry, known: Known, point: Point) -> Result<Arc<Self>> {
        let vault = entry.unless_over(node.protection.repositories.open(&known)).await?;
        let job = Arc::clone(&entry.job);
        let source = entry.unless_over(blocking(move || Self::read(known, vault, point, &job))).await?;
        if source.lock.is_none() {
            entry.warn(
                "the repository could not be locked: a prune at the same time could take away what is read",
            );
        }
        Ok(Arc::new(source))
    }

    /// Blocks.
    pub(super) fn read(known: Known, vault: Arc<Vault>, point: Point, job: &Job) -> Result<Self> {
        let failed = |error| unreadable(&known, &point, error);
        let lock = locked(&vault, &point).map_err(failed)?;
        let index = Arc::new(vault.load_index(job).map_err(failed)?);
        let content = vault.content(&index, &point).map_err(failed)?;
        let description = vault.description(&index, &point).map_err(failed)?;
        let description = description.and_then(|json| Description::read(&json));
        let disks = content.layout.disks.iter().filter_map(|disk| {
            let (controller, location) = place(&disk.name)?;
            Some(SourceDisk {
                name: disk.name.clone(),
                controller,
                location,
                size_bytes: disk.geometry.size_bytes,
            })
        });
        let disks = disks.collect();
        Ok(Self { known, point, disks, description, vault, index, cache: ReadCache::new(CACHE_BYTES), lock })
    }

    pub fn id(&self) -> PointId {
        PointId::from_bytes(self.point.id.0)
    }

    /// What the point says of its machine, of which nothing is to be believed.
    pub fn description(&self) -> Result<&Description> {
        self.description.as_ref().ok_or_else(|| {
            self.refused(
                "it does not say of which machine it is; its disks can be restored: nestling vault restore",
            )
        })
    }

    pub fn described(&self, disk: &SourceDisk) -> Option<&DescribedDisk> {
        self.description.as_ref()?.disks.iter().find(|described| described.name == disk.name)
    }

    pub fn refused(&self, why: impl Into<String>) -> NodeError {
        NodeError::NotRecoverable {
            point: self.point.short_id(),
            vm: self.point.name.to_string(),
            why: why.into(),
        }
    }

    /// An error of the vault that came while this point was read.
    pub fn failed(&self, error: VaultError) -> NodeError {
        unreadable(&self.known, &self.point, error)
    }

    /// The disks that are wanted; all of them if none is named.
    pub fn wanted(&self, wanted: &[DiskSelector]) -> Result<Vec<SourceDisk>> {
        if let Some(nothing) =
            wanted.iter().find(|selector| !self.disks.iter().any(|disk| self.is(disk, selector)))
        {
            let has: Vec<&str> = self.disks.iter().map(|disk| disk.name.as_str()).collect();
            return Err(self.refused(format!("it has no disk {nothing}; it has {}", has.join(", "))));
        }
        let is_wanted =
            |disk: &&SourceDisk| wanted.is_empty() || wanted.iter().any(|selector| self.is(disk, selector));
        let disks: Vec<SourceDisk> = self.disks.iter().filter(is_wanted).cloned().collect();
        if disks.is_empty() {
            return Err(self.refused("it has no disk that belongs to a machine"));
        }
        Ok(disks)
    }

    fn is(&self, disk: &SourceDisk, selector: &DiskSelector) -> bool {
        let defined = self.description.as_ref().and_then(|description| {
            description
                .vm
                .disks
                .iter()
                .find(|d| (d.controller, d.location) == (disk.controller, disk.location))
        });
        let file = defined.and_then(|defined| defined.path.file_name()).map(Path::new);
        let file = file.map(|file| file.display().to_string()).unwrap_or_default();
        selector.matches(disk.controller, disk.location, &file)
    }

    /// A disk's bytes. Blocks.
    pub fn disk(&self, name: &str) -> std::result::Result<PointDisk, VaultError> {
        PointDisk::open(&self.vault, &self.index, &self.point, Some(name), &self.cache)
    }

    pub fn vault(&self) -> &Arc<Vault> {
        &self.vault
    }

    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }
}

/// Where a disk is, by what it is called in points.
pub(super) fn place(name: &str) -> Option<(Controller, u8)> {
    let (controller, location) = name.split_once('-')?;
    match format!("{controller}:{location}").parse().ok()? {
        DiskSelector::Place { controller, location } => Some((controller, location)),
        DiskSelector::File(_) => None,
    }
}

/// What is read stays, even when the point is forgotten meanwhile. Reading must not fail because nothing can be written:
/// that is when what is stored is needed most.
fn locked(vault: &Arc<Vault>, point: &Point) -> std::result::Result<Option<RepositoryLock>, VaultError> {
    let lock = RepositoryLock::shared(vault, &Identity::current());
    let held = lock.and_then(|lock| lock.keep(point.snapshot.tree).map(|()| lock));
    match held {
        Err(VaultError::Storage(error)) if matches!(error.kind, Denied | NoSpace | ReadOnly) => Ok(None),
        held => {
            let lock = held?;
            // Still there after the lock names it: prune has seen one of the two.
            vault.snapshot(&point.id)?;
            Ok(Some(lock))
        }
    }
}

fn unreadable(known: &Known, point: &Point, error: VaultError) -> NodeError {
    match error {
        VaultError::Cancelled => NodeError::Cancelled,
        error if error.is_damage() => NodeError::PointDamaged {
            point: point.short_id(),
            vm: point.name.to_string(),
            source: Box::new(error),
        },
        error => known.failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_where_its_name_says() {
        assert_eq!(place("scsi-0"), Some((Controller::Scsi, 0)));
        assert_eq!(place("ide-3"), Some((Controller::Ide, 3)));
        for other in ["", "scsi", "scsi-", "scsi-99", "sata-0", "file-a", "scsi-0-1", "../scsi-0"] {
            assert_eq!(place(other), None, "{other}");
        }
    }
}
