//! Use cases about recovery points: to list them, to keep them, to remove them.
//!
//! What is listed comes from the repositories themselves, so that points which other hosts made, or which were made
//! before this host was set up anew, are seen too.

use std::sync::Arc;

use futures_util::future::join_all;
use nestling_identity::{Action, Identity};
use nestling_model::{
    EventKind, VmId, VmPath,
    protection::{PathPattern, PointId, RecoveryPoint, Warnings},
};
use nestling_vault::{
    Catalogue, Job, Listed, Point, PointName, Repository as Vault, Retag, Summary, VaultError,
};

use super::{
    marks,
    repositories::{Known, answered},
    saving::{milliseconds, timestamp},
    values::{PointChange, PointView, PointsView, PointsWish},
};
use crate::{
    Node, NodeError,
    clock::now_ms,
    error::{Object, Result},
    networks::to_the_end,
};

/// How many points one answer may hold.
pub const POINTS_MAX: usize = 5000;
/// So many digits of an id are never two points' by chance, and few enough to be typed.
const ID_DIGITS_MIN: usize = 4;

/// Whose points.
#[derive(Clone)]
pub enum Whose {
    All,
    Machine(VmId),
    /// Of others that were called as the one that is here is now: earlier machines of its name.
    Earlier {
        name: String,
        here: VmId,
    },
    /// Of a machine that this host does not have.
    Name(String),
    /// With * and ? in it.
    Like(PathPattern),
}

impl Whose {
    pub fn is(&self, name: &PointName, tags: &[String]) -> bool {
        match self {
            Self::All => true,
            Self::Machine(vm) => marks::vm_of_tags(tags) == Some(*vm),
            Self::Earlier { name: wanted, here } => {
                name.as_str().to_lowercase() == *wanted && marks::vm_of_tags(tags) != Some(*here)
            }
            Self::Name(wanted) => name.as_str().to_lowercase() == *wanted,
            Self::Like(pattern) => name.as_str().parse().is_ok_and(|path| pattern.matches(&path)),
        }
    }

    pub fn count(&self, catalogue: &Catalogue<Summary>) -> usize {
        catalogue.newest_first().filter(|entry| self.is(entry.name(), &entry.kept.tags)).count()
    }
}

/// The newest of the points of one repository that are asked for.
struct Found {
    newest: Vec<Arc<Listed<Summary>>>,
    /// How many there are.
    count: usize,
    /// And how many there are of earlier machines of that name.
    earlier: usize,
    unreadable: usize,
}

impl Found {
    fn among(
        catalogue: &Catalogue<Summary>,
        whose: &Whose,
        earlier: Option<&Whose>,
        count_max: usize,
    ) -> Self {
        let (mut newest, mut count) = (Vec::new(), 0);
        for entry in catalogue.newest_first().filter(|entry| whose.is(entry.name(), &entry.kept.tags)) {
            count += 1;
            if newest.len() < count_max {
                newest.push(Arc::clone(entry));
            }
        }
        let earlier = earlier.map_or(0, |whose| whose.count(catalogue));
        Self { newest, count, earlier, unreadable: catalogue.unreadable() }
    }
}

impl Node {
    /// The points of a machine, or of all. A repository that can't be reached is a problem beside them, and no failure.
    pub async fn points(&self, who: &Identity, wish: PointsWish) -> Result<PointsView> {
        self.authorize(who, Action::ReadBackups)?;
        let (mut whose, mut others) = (self.whose(wish.vm.as_deref()), None);
        match wish.vm.as_deref().and_then(|vm| self.earlier(vm)) {
            Some(earlier) if wish.earlier => whose = earlier,
            earlier => others = earlier,
        }
        let count_max = wish.count_max.clamp(1, POINTS_MAX);
        let until = wish.skip.saturating_add(count_max);
        let see = move |_: &Vault, catalogue: &Catalogue<Summary>| {
            Ok(Found::among(catalogue, &whose, others.as_ref(), until))
        };
        let (mut count, mut earlier, mut entries, mut problems) = (0, 0, Vec::new(), Vec::new());
        for (known, found) in self.look_into(wish.repository.as_deref(), see).await? {
            match found {
                Ok(found) => {
                    count += found.count;
                    earlier += found.earlier;
                    if found.unreadable > 0 {
                        let (name, unreadable) = (&known.repository.name, found.unreadable);
                        problems.push(format!(
                            "repository '{name}': {unreadable} snapshots cannot be read, each of which may be a point"
                        ));
                    }
                    entries.extend(found.newest.into_iter().map(|entry| (known.clone(), entry)));
                }
                Err(error) => problems.push(error.message()),
            }
        }
        entries.sort_by_key(|(_, entry)| std::cmp::Reverse((entry.time(), entry.id())));
        let page = entries.iter().skip(wish.skip).take(count_max);
        Ok(PointsView {
            points: page.filter_map(|(known, entry)| self.point_view(known, entry)).collect(),
            left_out: count.saturating_sub(until) as u64,
            earlier: earlier as u64,
            problems,
        })
    }

    /// A machine of this host by its name or id, one that is no more by either, or all that are called alike.
    pub(crate) fn whose(&self, vm: Option<&str>) -> Whose {
        let Some(vm) = vm else { return Whose::All };
        match (self.vms.find(vm), vm.parse()) {
            (Ok(handle), _) => Whose::Machine(handle.now().vm.id),
            (Err(_), Ok(pattern)) if vm.contains(['*', '?']) => Whose::Like(pattern),
            (Err(_), _) => {
                vm.parse().map_or_else(|_| Whose::Name(vm.to_lowercase()), |id| Whose::Machine(VmId(id)))
            }
        }
    }

    /// Earlier machines of the name of one that is here.
    pub(crate) fn earlier(&self, vm: &str) -> Option<Whose> {
        let now = self.vms.find(vm).ok()?.now();
        let path: VmPath = now.vm.name.as_str().parse().ok()?;
        let name = marks::point_name(&path).ok()?.as_str().to_lowercase();
        Some(Whose::Earlier { name, here: now.vm.id })
    }

    /// What can be seen of the points in the repositories: in one, or in all.
    pub(crate) async fn look_into<T: Send + 'static>(
        &self,
        repository: Option<&str>,
        see: impl FnOnce(&Vault, &Catalogue<Summary>) -> std::result::Result<T, VaultError>
        + Clone
        + Send
        + 'static,
    ) -> Result<Vec<(Known, Result<T>)>> {
        let known = match repository {
            Some(name) => vec![self.protection.repositories.find(name)?],
            None => self.protection.repositories.all(),
        };
        let look = async |known: Known| {
            let (repositories, of, see) =
                (Arc::clone(&self.protection.repositories), known.clone(), see.clone());
            let found = answered(&known, move || repositories.look(&of, see)).await;
            (known, found)
        };
        Ok(join_all(known.into_iter().map(look)).await)
    }

    /// `None` for a point whose name no machine can have: another program made it.
    fn point_view(&self, known: &Known, entry: &Listed<Summary>) -> Option<PointView> {
        let machine: VmPath = entry.name().as_str().parse().ok()?;
        let vm = marks::vm_of_tags(&entry.kept.tags);
        let marked = entry.marks();
        let here = vm.filter(|vm| self.vms.find(&vm.0.to_string()).is_ok());
        Some(PointView {
            point: RecoveryPoint {
                id: PointId::from_bytes(entry.id().0),
                repository: known.repository.id,
                machine,
                machine_id: vm,
                taken_at_ms: milliseconds(entry.time()),
                job: None,
                run: marks::run_of_tags(&entry.kept.tags),
                consistency: marks::consistency_of_tags(&entry.kept.tags),
                disks: Vec::new(),
                new_bytes: 0,
                stored_bytes: entry.kept.stored_bytes.unwrap_or(0),
                pinned: marked.pinned,
                protected_until_ms: marked.protected_until.map(milliseconds),
                damaged: entry.is_damaged(),
                proof: self.proof.book.verdict(known.repository.id, PointId::from_bytes(entry.identity().0)),
                warnings: Warnings::default(),
            },
            repository: known.repository.name.to_string(),
            size_bytes: entry.kept.size_bytes,
            tags: marks::other_tags(&entry.kept.tags),
            vm: here,
        })
    }

    /// The one point whose id begins so.
    pub(crate) async fn find_point(&self, id: &str, repository: Option<&str>) -> Result<(Known, Point)> {
        let missing = || NodeError::NotFound { object: Object::Point, name: id.chars().take(80).collect() };
        let is_id = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if id.len() < ID_DIGITS_MIN || !id.bytes().all(is_id) {
            return Err(NodeError::Invalid(format!(
                "a recovery point is named by at least {ID_DIGITS_MIN} digits of its id, as `nestling backup points` shows them"
            )));
        }
        let digits = id.to_owned();
        let see = move |vault: &Vault, catalogue: &Catalogue<Summary>| {
            let fitting =
                catalogue.newest_first().filter(|entry| entry.id().to_string().starts_with(&digits));
            // Two are as many too many as a hundred are.
            fitting.take(2).map(|entry| entry.read(vault)).collect::<std::result::Result<Vec<_>, _>>()
        };
        let (mut found, mut unseen) = (Vec::new(), None);
        for (known, points) in self.look_into(repository, see).await? {
            match points {
                Ok(fitting) => found.extend(fitting.into_iter().map(|point| (known.clone(), point))),
                Err(error) => unseen = Some(error),
            }
        }
        match (found.pop(), found.is_empty(), unseen) {
            (Some(only), true, _) => Ok(only),
            (Some(_), false, _) => {
                Err(NodeError::Invalid(format!("{id} begins the ids of several points; give more digits")))
            }
            (None, _, Some(error)) => Err(error),
            (None, _, None) => Err(missing()),
        }
    }

    /// Marks a point. It has another id afterwards, if anything was changed.
    pub async fn change_point(
        &self,
        who: &Identity,
        id: &str,
        repository: Option<&str>,
        change: PointChange,
    ) -> Result<PointView> {
        self.authorize(who, Action::ChangePoints)?;
        let changes = retags(change)?;
        let (known, point) = self.find_point(id, repository).await?;
        let changed = self
            .with_vault(&known, move |vault| {
                vault.retag(&point, &changes, &nestling_vault::Identity::current(), &Job::default())
            })
            .await?;
        self.events.tell(
            EventKind::PointChanged,
            changed.name.as_str(),
            format!("recovery point {}", changed.short_id()),
        );
        let missing = || NodeError::NotFound { object: Object::Point, name: id.to_owned() };
        self.point_view(&known, &Listed::of(changed, Summary::of)).ok_or_else(missing)
    }

    /// Removes a point; one that is pinned or protected is refused. What it alone needed is freed by a prune.
    pub async fn remove_point(&self, who: &Identity, id: &str, repository: Option<&str>) -> Result<()> {
        self.authorize(who, Action::ChangePoints)?;
        let (known, point) = self.find_point(id, repository).await?;
        let identity = PointId::from_bytes(point.identity().0);
        if let Some(vm) = self.recovery.instant.using_point(known.repository.id, identity) {
            return Err(self.runs_from_vault(vm));
        }
        let (name, short) = (point.name.to_string(), point.short_id());
        self.with_vault(&known, move |vault| {
            let (now, job) = (timestamp(now_ms()), Job::default());
            let plan = vault.forget_plan_of(&[point.id], now, &job)?;
            vault.forget(&plan, now, &nestling_vault::Identity::current(), &job).map(drop)
        })
        .await?;
        self.events.tell(EventKind::PointRemoved, name, format!("recovery point {short}"));
        Ok(())
    }

    /// Changes something in a vault, to the end.
    async fn with_vault<T: Send + 'static>(
        &self,
        known: &Known,
        work: impl FnOnce(&Arc<Vault>) -> std::result::Result<T, VaultError> + Send + 'static,
    ) -> Result<T> {
        let (node, known) = (self.shared(), known.clone());
        to_the_end(async move {
            let vault = node.protection.repositories.open(&known).await?;
            let of = known.clone();
            answered(&known, move || work(&vault).map_err(|e| of.failed(e))).await
        })
        .await
    }
}

fn retags(change: PointChange) -> Result<Vec<Retag>> {
    let PointChange { pinned, protected_until_ms, add_tags, remove_tags } = change;
    marks::check_tags(&add_tags)?;
    marks::check_tags(&remove_tags)?;
    let mut changes = Vec::new();
    changes.extend(pinned.map(|pinned| if pinned { Retag::Pin } else { Retag::Unpin }));
    changes.extend(protected_until_ms.map(|until| match until {
        Some(ms) => Retag::ProtectUntil(timestamp(ms)),
        None => Retag::Unprotect,
    }));
    changes.extend(add_tags.into_iter().map(Retag::Add));
    changes.extend(remove_tags.into_iter().map(Retag::Remove));
    Ok(changes)
}
