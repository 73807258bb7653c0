//! Use cases about recovery points: to list them, to keep them, to remove them.
//!
//! What is listed comes from the repositories themselves, so that points which other hosts made, or which were made
//! before this host was set up anew, are seen too.

use std::sync::Arc;

use futures_util::future::join_all;
use nestling_identity::{Action, Identity};
use nestling_model::{
    EventKind, VmId, VmPath,
    protection::{PointId, RecoveryPoint, Warnings},
};
use nestling_vault::{DAMAGED_TAG, Job, Point, Repository, Retag, VaultError, retention::Candidate};

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
pub enum Whose {
    All,
    Machine(VmId),
    /// Of a machine that this host does not have.
    Name(String),
}

impl Whose {
    pub fn is(&self, point: &Point) -> bool {
        match self {
            Self::All => true,
            Self::Machine(vm) => marks::vm_of(point) == Some(*vm),
            Self::Name(name) => point.name.as_str().to_lowercase() == *name,
        }
    }
}

impl Node {
    /// The points of a machine, or of all. A repository that can't be reached is a problem beside them, and no failure.
    pub async fn points(&self, who: &Identity, wish: PointsWish) -> Result<PointsView> {
        self.authorize(who, Action::ReadBackups)?;
        let whose = self.whose(wish.vm.as_deref());
        let looked = self.look_into(wish.repository.as_deref()).await?;
        let mut view = PointsView { points: Vec::new(), left_out: 0, problems: Vec::new() };
        for (known, found) in looked {
            match found {
                Ok((points, unreadable)) => {
                    view.points.extend(
                        points.iter().filter(|p| whose.is(p)).filter_map(|p| self.point_view(&known, p)),
                    );
                    if unreadable > 0 {
                        let name = &known.repository.name;
                        view.problems.push(format!(
                            "repository '{name}': {unreadable} snapshots cannot be read, each of which may be a point"
                        ));
                    }
                }
                Err(error) => view.problems.push(error.message()),
            }
        }
        view.points.sort_by_key(|view| std::cmp::Reverse((view.point.taken_at_ms, view.point.id)));
        let count_max = wish.count_max.clamp(1, POINTS_MAX);
        view.left_out = view.points.len().saturating_sub(count_max) as u64;
        view.points.truncate(count_max);
        Ok(view)
    }

    /// A machine of this host by its name or id, or the name of one that is no more.
    pub(crate) fn whose(&self, vm: Option<&str>) -> Whose {
        match vm.map(|vm| (vm, self.vms.find(vm))) {
            None => Whose::All,
            Some((_, Ok(handle))) => Whose::Machine(handle.now().vm.id),
            Some((vm, Err(_))) => Whose::Name(vm.to_lowercase()),
        }
    }

    /// What is in the repositories: in one, or in all. Each with its points and how many snapshots cannot be read.
    pub(crate) async fn look_into(
        &self,
        repository: Option<&str>,
    ) -> Result<Vec<(Known, Result<(Vec<Point>, usize)>)>> {
        let known = match repository {
            Some(name) => vec![self.protection.repositories.find(name)?],
            None => self.protection.repositories.all(),
        };
        let look = async |known: Known| {
            let found = self.list(&known).await;
            (known, found)
        };
        Ok(join_all(known.into_iter().map(look)).await)
    }

    async fn list(&self, known: &Known) -> Result<(Vec<Point>, usize)> {
        let vault = self.protection.repositories.open(known).await?;
        let of = known.clone();
        answered(known, move || {
            let list = vault.list_points(None, &Job::default()).map_err(|e| of.failed(e))?;
            Ok((list.points, list.unreadable.len()))
        })
        .await
    }

    /// `None` for a point whose name no machine can have: another program made it.
    fn point_view(&self, known: &Known, point: &Point) -> Option<PointView> {
        let machine: VmPath = point.name.as_str().parse().ok()?;
        let vm = marks::vm_of(point);
        let marked = Candidate::of(point);
        let here = vm.filter(|vm| self.vms.find(&vm.0.to_string()).is_ok());
        Some(PointView {
            point: RecoveryPoint {
                id: PointId::from_bytes(point.id.0),
                repository: known.repository.id,
                machine,
                machine_id: vm,
                taken_at_ms: milliseconds(point.snapshot.time),
                job: None,
                run: marks::run_of(point),
                consistency: marks::consistency_of(point),
                disks: Vec::new(),
                new_bytes: 0,
                stored_bytes: point.stored_bytes().unwrap_or(0),
                pinned: marked.pinned,
                protected_until_ms: marked.protected_until.map(milliseconds),
                damaged: point.snapshot.tags.iter().any(|tag| tag == DAMAGED_TAG),
                proof: self.proof.book.verdict(known.repository.id, PointId::from_bytes(point.identity().0)),
                warnings: Warnings::default(),
            },
            repository: known.repository.name.to_string(),
            size_bytes: point.size_bytes(),
            tags: marks::others(point),
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
        let (mut found, mut unseen) = (Vec::new(), None);
        for (known, points) in self.look_into(repository).await? {
            match points {
                Ok((points, _)) => {
                    let fitting = points.into_iter().filter(|point| point.id.to_string().starts_with(id));
                    found.extend(fitting.map(|point| (known.clone(), point)));
                }
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
        self.point_view(&known, &changed).ok_or_else(missing)
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
        work: impl FnOnce(&Arc<Repository>) -> std::result::Result<T, VaultError> + Send + 'static,
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
