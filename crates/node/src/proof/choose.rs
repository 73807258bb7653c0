//! Which points are proven: the newest ones of machines, of a job's machines, and single ones; in the order in which they
//! were named, each once.

use std::{collections::HashSet, sync::Arc};

use nestling_model::{
    VmId, VmPath,
    protection::{Job, PathPattern, PointId},
};
use nestling_vault::{Listed, Point, PointName, Summary, VaultError};

use super::values::ProofWish;
use crate::{
    Node, NodeError,
    error::{Object, Result},
    protection::{
        marks,
        repositories::{Known, answered},
    },
};

pub struct Chosen {
    pub known: Known,
    pub points: Vec<Point>,
    pub job: Option<Job>,
}

/// Whose newest point it is: a machine's, or, of points that do not say, a name's.
#[derive(PartialEq, Eq, Hash)]
enum Owner {
    Machine(VmId),
    Name(String),
}

fn owner(name: &PointName, tags: &[String]) -> Owner {
    marks::vm_of_tags(tags).map_or_else(|| Owner::Name(name.as_str().to_lowercase()), Owner::Machine)
}

impl Node {
    pub(super) async fn choose(&self, wish: &ProofWish) -> Result<Chosen> {
        let job = wish.job.as_deref().map(|job| self.protection.jobs.find(job)).transpose()?;
        let of_job = job.as_ref().map(|job| job.policy.repository.0.to_string());
        let repository = wish.repository.clone().or(of_job);
        let known = self.protection.repositories.chosen(repository.as_deref())?;
        let mut points = Vec::new();
        if job.is_some() || !wish.machines.is_empty() {
            let newest = self.newest(&known).await?;
            if let Some(job) = &job {
                points.extend(self.of_job(job, &newest).await?);
            }
            for pattern in &wish.machines {
                points.extend(self.named(pattern, &newest)?);
            }
        }
        for text in &wish.points {
            let (_, point) = self.choose_point(text, Some(known.repository.name.as_str())).await?;
            points.push(point);
        }
        let mut seen = Vec::new();
        points.retain(|point| {
            let is_new = !seen.contains(&point.id);
            seen.push(point.id);
            is_new
        });
        Ok(Chosen { known, points, job })
    }

    /// The newest point of each machine that has one.
    async fn newest(&self, known: &Known) -> Result<Vec<Point>> {
        let (repositories, of) = (Arc::clone(&self.protection.repositories), known.clone());
        let (mut newest, unreadable) = answered(known, move || {
            repositories.look(&of, |vault, catalogue| {
                let mut owners = HashSet::new();
                let is_first =
                    |listed: &&Arc<Listed<Summary>>| owners.insert(owner(listed.name(), &listed.kept.tags));
                let newest = catalogue.newest_first().filter(is_first).map(|listed| listed.read(vault));
                Ok((newest.collect::<std::result::Result<Vec<Point>, VaultError>>()?, catalogue.unreadable()))
            })
        })
        .await?;
        if unreadable > 0 {
            return Err(NodeError::Invalid(format!(
                "which points are the newest cannot be told: {unreadable} snapshots of repository '{}' cannot be read; name points \
                 by their ids",
                known.repository.name
            )));
        }
        newest.sort_by_cached_key(|point| (point.name.as_str().to_lowercase(), point.id.to_string()));
        Ok(newest)
    }

    async fn of_job(&self, job: &Job, newest: &[Point]) -> Result<Vec<Point>> {
        let all = self.candidates_for(job).await.all;
        let point = |vm: VmId| newest.iter().find(|point| marks::vm_of(point) == Some(vm)).cloned();
        let points: Vec<Point> =
            self.arranged(job, &all).into_iter().filter_map(|machine| point(machine.id)).collect();
        if points.is_empty() {
            return Err(NodeError::Invalid(format!("no machine of job '{}' has a recovery point", job.name)));
        }
        Ok(points)
    }

    /// A machine is known by what it was called then and by what it is called now.
    fn named(&self, pattern: &PathPattern, newest: &[Point]) -> Result<Vec<Point>> {
        let now = |point: &Point| -> Option<VmPath> {
            let handle = self.vms.find(&marks::vm_of(point)?.0.to_string()).ok()?;
            handle.now().vm.name.as_str().parse().ok()
        };
        let then = |point: &Point| point.name.as_str().parse::<VmPath>().ok();
        let fits = |point: &&Point| {
            [now(point), then(point)].into_iter().flatten().any(|path| pattern.matches(&path))
        };
        let points: Vec<Point> = newest.iter().filter(fits).cloned().collect();
        if points.is_empty() {
            return Err(NodeError::NotFound { object: Object::Point, name: format!("of '{pattern}'") });
        }
        Ok(points)
    }
}

/// The id that a point was saved under.
pub fn identity(point: &Point) -> PointId {
    PointId::from_bytes(point.identity().0)
}
