//! What a run of a job would do now: a dry run. Nothing is done, and nothing is written down.

use std::sync::Arc;

use nestling_hypervisor::capture::{BitmapName, DiskPlace};
use nestling_identity::{Action, Identity};
use nestling_model::{
    Operation,
    protection::{Candidate, Cover, Job, NotTracked, PointId, RunId},
};
use nestling_vault::{Point, Repository};
use uuid::Uuid;

use super::{
    conduct::excluded_of,
    description::DiskAt,
    earlier::{Earlier, earlier},
    inside::Candidates,
    job_values::{JobPlan, PlannedDisk, PlannedMachine},
    repositories::{Known, answered},
    tracking::Purpose,
};
use crate::{
    Node, NodeError,
    error::{Object, Result},
    vm::{capture::CaptureWish, foresee::Foreseen},
};

impl Node {
    /// Which machines a run would save now, how, and from which point on.
    pub async fn plan_job(&self, who: &Identity, job: &str) -> Result<JobPlan> {
        self.authorize(who, Action::ReadBackups)?;
        let job = self.protection.jobs.find(job)?;
        let Candidates { all, problems } = self.candidates_for(&job).await;
        let known = self.protection.repositories.get(job.policy.repository);
        let opened = match &known {
            Some(known) => {
                let opened = self.protection.repositories.open(known).await;
                opened.map(|vault| (known.clone(), vault))
            }
            None => {
                let name = job.policy.repository.0.to_string();
                Err(NodeError::NotFound { object: Object::Repository, name })
            }
        };
        let mut machines = Vec::new();
        for machine in self.arranged(&job, &all) {
            machines.push(self.plan_machine(&job, machine, opened.as_ref().ok()).await);
        }
        let excluded = all.iter().filter_map(|machine| match job.selection.judge(machine) {
            Cover::Excluded(selector) => Some((machine.path.clone(), selector.to_string())),
            Cover::Named(_) | Cover::ByRules | Cover::No => None,
        });
        Ok(JobPlan {
            repository: known.map(|known| known.repository.name.to_string()).unwrap_or_default(),
            excluded: excluded.collect(),
            problem: opened.err().map(|error| error.message()).or_else(|| problems.into_iter().next()),
            machines,
        })
    }

    async fn plan_machine(
        &self,
        job: &Job,
        machine: &Candidate,
        opened: Option<&(Known, Arc<Repository>)>,
    ) -> PlannedMachine {
        let mut planned = PlannedMachine {
            path: machine.path.clone(),
            id: machine.id,
            named_by: match job.selection.judge(machine) {
                Cover::Named(selector) => Some(selector.to_string()),
                Cover::ByRules | Cover::Excluded(_) | Cover::No => None,
            },
            point: None,
            disks: Vec::new(),
            left_out: Vec::new(),
            problem: None,
        };
        let Some((known, vault)) = opened else { return planned };
        if machine.path.levels().len() > 1 {
            // What would be read of it, the node inside knows when it is asked for an instant.
            return planned;
        }
        match self.foresee(job, machine, known, vault).await {
            Ok((points, foreseen)) => fill(&mut planned, &points, &foreseen),
            Err(error) => planned.problem = Some(error.message()),
        }
        planned
    }

    async fn foresee(
        &self,
        job: &Job,
        machine: &Candidate,
        known: &Known,
        vault: &Arc<Repository>,
    ) -> Result<(Vec<Point>, Foreseen)> {
        let handle = self.vms.find(&machine.id.0.to_string())?;
        let (vault, of, vm) = (Arc::clone(vault), known.clone(), machine.id);
        let points: Earlier = answered(known, move || earlier(&vault, vm).map_err(|e| of.failed(e))).await?;
        let wish = CaptureWish {
            // Of no run: it begins nothing.
            run: RunId(Uuid::nil()),
            purpose: Purpose { repository: known.repository.id, above: false },
            points: points.then(),
            full: false,
            excluded: excluded_of(&job.policy.excluded_disks, &machine.path),
            consistency: job.policy.consistency.clone(),
        };
        let foreseen = handle.ask(Operation::Modify, move |owner| Box::pin(owner.foresee(wish))).await?;
        Ok((points.points, foreseen))
    }
}

fn fill(planned: &mut PlannedMachine, points: &[Point], foreseen: &Foreseen) {
    let point = foreseen.point.and_then(|number| points.get(number));
    planned.point = point.map(|point| PointId::from_bytes(point.id.0));
    let disk = |(place, bytes, since): &(DiskPlace, u64, std::result::Result<BitmapName, NotTracked>)| {
        PlannedDisk { name: place.to_string(), bytes: *bytes, why_not: since.as_ref().err().copied() }
    };
    planned.disks = foreseen.disks.iter().map(disk).collect();
    let name = |at: &DiskAt| DiskPlace { controller: at.controller, location: at.location }.to_string();
    planned.left_out = foreseen.left_out.iter().map(name).collect();
}
