//! Runs of jobs: to begin one, because it is due or because a person asks, and to end it.

use std::{num::NonZeroU64, sync::Arc};

use nestling_identity::{Action, Identity};
use nestling_model::{
    EventKind, VmPath,
    protection::{Candidate, Cause, Job, MachineRun, Message, Run, RunId, RunStep, Warnings},
};
use uuid::Uuid;

use super::{
    conduct::{Order, Way, conduct},
    inside::{Candidates, Inside},
    job_error::JobError,
    machine::Machine,
    objectives,
    pace::Pace,
    runs::Entry,
    values::RunView,
};
use crate::{Node, NodeError, error::Result, networks::to_the_end, node::Shared};

impl Node {
    /// Runs a job now. It goes on by itself.
    pub async fn run_job(&self, who: &Identity, job: &str) -> Result<RunView> {
        self.authorize(who, Action::RunBackups)?;
        let job = self.protection.jobs.find(job)?;
        let (node, name) = (self.shared(), Message::from(who.to_string()));
        let begin = async move { node.begin_job(&job, vec![Cause::Person { name }]).await };
        let entry = to_the_end(begin).await?;
        Ok(self.run_view(&entry))
    }

    /// Asks the run of a job that is under way to end.
    pub async fn stop_job(&self, who: &Identity, job: &str) -> Result<RunView> {
        self.authorize(who, Action::RunBackups)?;
        let job = self.protection.jobs.find(job)?;
        let Some(run) = self.protection.runs.of_job(job.id) else {
            return Err(JobError::Idle(job.name).into());
        };
        self.cancel_run(who, &run.to_string()).await
    }

    /// What a run did, line by line.
    pub async fn run_log(&self, who: &Identity, run: &str) -> Result<String> {
        self.authorize(who, Action::ReadBackups)?;
        self.protection.runs.find(run)?.log.read()
    }
}

impl Shared {
    /// A job's machines as they are now, in the order of their turns.
    pub fn arranged<'a>(&self, job: &Job, machines: &'a [Candidate]) -> Vec<&'a Candidate> {
        let mut picked = job.selection.pick(machines);
        let runs = self.protection.runs.documents();
        let newest = |machine: &Candidate| objectives::newest_ms(&runs, job.policy.repository, machine.id);
        job.policy.order.arrange(&mut picked, newest);
        picked
    }

    /// Begins a run of a job. It is written down when this returns, and goes on by itself.
    pub async fn begin_job(self: &Arc<Self>, job: &Job, causes: Vec<Cause>) -> Result<Arc<Entry>> {
        let Candidates { all, problems } = self.candidates_for(job).await;
        let place = |candidate: &&Candidate| {
            let Candidate { id, path, .. } = (*candidate).clone();
            if path.levels().len() > 1 {
                return Some((Machine::Inside(Inside { id, path: path.clone() }), path));
            }
            Some((Machine::Own(self.vms.find(&id.0.to_string()).ok()?), path))
        };
        let machines: Vec<(Machine, VmPath)> = self.arranged(job, &all).iter().filter_map(place).collect();
        let mut warnings = Warnings::default();
        problems.into_iter().for_each(|problem| warnings.push(problem));
        if machines.is_empty() {
            warnings.push("no machine of this host is covered by the job");
        }
        let part = |(machine, path): &(Machine, VmPath)| MachineRun::new(path.clone(), machine.id());
        let (id, parts) = (RunId(Uuid::new_v4()), machines.iter().map(part).collect());
        let run = Run {
            job: Some(job.id),
            job_name: Some(job.name.clone()),
            warnings,
            ..Run::waiting(id, causes, job.policy.repository, parts, self.now_ms())
        };
        let entry = self.protection.runs.begin(run).await?;
        self.steps.reached("run written down");
        self.conduct_job(job, &entry, machines).await;
        Ok(entry)
    }

    async fn conduct_job(self: &Arc<Self>, job: &Job, entry: &Arc<Entry>, machines: Vec<(Machine, VmPath)>) {
        let Some(known) = self.protection.repositories.get(job.policy.repository) else {
            let now_ms = self.now_ms();
            let fail = move |run: &mut Run| {
                run.reason = Some("its repository is not known to this host any more".into());
                super::conduct::take(run.step(RunStep::Fail, now_ms));
            };
            return entry.change(&self.keeper, fail).await;
        };
        let over = [entry.cancel.clone(), self.stopping.clone()];
        let limit = job.policy.bytes_per_second_max.and_then(NonZeroU64::new);
        let way = Way {
            consistency: job.policy.consistency.clone(),
            excluded_disks: job.policy.excluded_disks.clone(),
            full: false,
            tags: Vec::new(),
            keep: job.policy.keep,
            retention: job.policy.retention,
            pace: limit.map(|limit| Arc::new(Pace::new(limit, over))),
        };
        let parallel = usize::try_from(job.policy.parallel).unwrap_or(1);
        self.events.tell(
            EventKind::BackupStarted,
            format!("job {}", job.name),
            format!("run {} begins, of {} machines", entry.number(), machines.len()),
        );
        let order = Order { known, way, machines, parallel, job: Some(job.clone()) };
        tokio::spawn(conduct(Arc::clone(self), Arc::clone(entry), order));
    }
}

impl From<JobError> for NodeError {
    fn from(error: JobError) -> Self {
        Self::Job(error)
    }
}
