//! The machines inside machines, as a job's selection sees them.
//!
//! Nodes inside are asked when a run begins, or when somebody wants to know what a run would do, and only those that may have
//! a machine of the job. One that cannot be asked then does not make its machines be forgotten: those of the job's runs that
//! are written down are taken to be there still, and fail in words.

use std::{sync::Arc, time::Duration};

use futures_util::future::{BoxFuture, FutureExt, join_all};
use nestling_model::{
    Generation, VmId, VmPath, VmState,
    path::PATH_LEVELS_MAX,
    protection::{Candidate, Job, JobId, Message, Run, Selector},
};
use tokio::time::timeout;

use super::{
    super::candidates::looks_at_disks,
    id_inside,
    port::{MachineInside, NodesInside, Way},
};
use crate::node::Shared;

/// For a node inside, with all below it, to tell of its machines.
const TOLD_TIMEOUT: Duration = Duration::from_secs(60);
/// So many machines of each node inside are looked at.
const MACHINES_MAX: usize = 1000;

/// What a selection looks at.
pub struct Candidates {
    pub all: Vec<Candidate>,
    /// What is told to people: hosts that could not be asked for machines that were named.
    pub problems: Vec<String>,
}

/// Of one host.
struct Told {
    machines: Vec<Candidate>,
    problem: Option<String>,
}

impl Shared {
    /// The machines that a job may cover now: all of this host, and those inside where the job speaks of such.
    pub async fn candidates_for(&self, job: &Job) -> Candidates {
        let mut all = self.candidates(looks_at_disks(job)).await;
        let Some(port) = self.settings.nodes_inside.clone() else {
            return Candidates { all, problems: Vec::new() };
        };
        let remembered = remembered(job.id, &self.protection.runs.documents());
        let hosts: Vec<Candidate> =
            all.iter().filter(|host| job.selection.looks_into(&host.path)).cloned().collect();
        let told = hosts.iter().map(|host| self.ask_host(&port, job, host, &remembered));
        let mut problems = Vec::new();
        for told in join_all(told).await {
            all.extend(told.machines);
            problems.extend(told.problem);
        }
        Candidates { all, problems }
    }

    /// What is known of a job's machines inside without asking anybody.
    pub fn remembered_inside(&self, job: JobId, runs: &[Run]) -> Vec<Candidate> {
        let is_here = |machine: &Candidate| {
            let host = machine.path.levels().first();
            host.is_some_and(|host| self.vms.find(host.as_str()).is_ok())
        };
        remembered(job, runs).into_iter().filter(is_here).collect()
    }

    async fn ask_host(
        &self,
        port: &Arc<dyn NodesInside>,
        job: &Job,
        host: &Candidate,
        remembered: &[Candidate],
    ) -> Told {
        let names = host.path.levels();
        let left = || -> Vec<Candidate> {
            let is_below = |machine: &&Candidate| machine.path.levels().starts_with(names);
            remembered.iter().filter(is_below).cloned().collect()
        };
        let is_named = job.selection.include.iter().any(|selector| is_literal(selector, &host.path));
        let unreached = |why: String| {
            let machines = left();
            let is_missed = is_named && !machines.iter().any(|machine| job.selection.covers(machine));
            let problem = format!("'{}': its machines are not known: {why}", host.path);
            Told { machines, problem: is_missed.then(|| Message::from(problem).to_string()) }
        };
        let way = match self.way_into(names) {
            Ok((way, _)) => way,
            Err(error) => return unreached(error.message()),
        };
        let asked = below(Arc::clone(port), job.clone(), way, host.path.clone(), host.id);
        match timeout(TOLD_TIMEOUT, asked).await {
            Ok(Ok(machines)) => Told { machines, problem: None },
            Ok(Err(why)) => unreached(why),
            Err(_) => unreached("the node inside has not answered in time".to_owned()),
        }
    }
}

/// Whether a machine inside a host is named word for word.
fn is_literal(selector: &Selector, host: &VmPath) -> bool {
    let Selector::Path(pattern) = selector else { return false };
    pattern.leads_into(host) && !pattern.to_string().contains(['*', '?'])
}

/// The machines of a node inside, and those inside of them; of those that do not answer, none.
fn below(
    port: Arc<dyn NodesInside>,
    job: Job,
    way: Way,
    host: VmPath,
    id: VmId,
) -> BoxFuture<'static, Result<Vec<Candidate>, String>> {
    async move {
        let mut told = port.machines(&way).await.map_err(|why| why.message)?;
        told.truncate(MACHINES_MAX);
        let mut found = Vec::new();
        let mut deeper = Vec::new();
        for machine in told {
            let Some(candidate) = candidate(&machine, &host, id) else { continue };
            let is_host = machine.hosts_nestling && machine.state == VmState::Running;
            if is_host
                && candidate.path.levels().len() < PATH_LEVELS_MAX
                && job.selection.looks_into(&candidate.path)
            {
                let mut way = way.clone();
                way.hosts.push(machine.name);
                let (path, id) = (candidate.path.clone(), candidate.id);
                deeper.push(below(Arc::clone(&port), job.clone(), way, path, id));
            }
            found.push(candidate);
        }
        for inside in join_all(deeper).await {
            match inside {
                Ok(inside) => found.extend(inside),
                Err(why) => tracing::debug!(why, "a node further inside does not tell of its machines"),
            }
            found.truncate(MACHINES_MAX);
        }
        Ok(found)
    }
    .boxed()
}

/// `None` for one that is too deep to have a path.
fn candidate(machine: &MachineInside, host: &VmPath, id: VmId) -> Option<Candidate> {
    Some(Candidate {
        id: id_inside(id, machine.id),
        path: format!("{host}/{}", machine.name).parse().ok()?,
        tags: machine.tags.clone(),
        state: machine.state,
        memory_bytes: machine.memory_bytes,
        disk_bytes: 0,
        processors: machine.processors,
        generation: machine.generation,
        switches: machine.switches.clone(),
        images: Vec::new(),
        nesting: machine.nesting,
    })
}

/// The machines inside that runs of a job had, each as the newest run calls it. Whether another one is the job's cannot be told:
/// its tags and all else that is asked for are not known.
fn remembered(job: JobId, runs: &[Run]) -> Vec<Candidate> {
    let mut found: Vec<Candidate> = Vec::new();
    let mut newest_first: Vec<&Run> = runs.iter().filter(|run| run.job == Some(job)).collect();
    newest_first.sort_by_key(|run| std::cmp::Reverse(run.number));
    for machine in newest_first.iter().flat_map(|run| &run.machines) {
        let is_known = |other: &Candidate| other.id == machine.id || other.path == machine.path;
        if machine.path.levels().len() > 1 && !found.iter().any(is_known) {
            found.push(Candidate {
                id: machine.id,
                path: machine.path.clone(),
                tags: Vec::new(),
                // What is not known any more.
                state: VmState::Off,
                memory_bytes: 0,
                disk_bytes: 0,
                processors: 1,
                generation: Generation::Two,
                switches: Vec::new(),
                images: Vec::new(),
                nesting: false,
            });
        }
    }
    found
}
