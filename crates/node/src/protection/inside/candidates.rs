//! The machines inside machines, as a job's selection sees them.
//!
//! Nodes inside are asked when a run begins, or when somebody wants to know what a run would do, and only those that may have
//! a machine of the job. One that cannot be asked then does not make its machines be forgotten: those of the job's runs that
//! are written down are taken to be there still, and fail in words.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures_util::{
    future::join_all,
    stream::{FuturesUnordered, StreamExt},
};
use nestling_model::{
    Generation, VmId, VmName, VmPath, VmState,
    path::PATH_LEVELS_MAX,
    protection::{Candidate, Job, JobId, Message, Run, Selection, Selector},
};
use tokio::time::{Instant, timeout_at};

use super::{
    super::candidates::looks_at_disks,
    id_inside,
    port::{Answer, MachineInside, NodesInside, Way},
};
use crate::node::Shared;

/// For a node inside, with all below it, to tell of its machines.
const TOLD_TIMEOUT: Duration = Duration::from_secs(60);
/// So many machines below each machine of this host are looked at.
pub const MACHINES_INSIDE_MAX: usize = 2000;
/// Nodes below each machine of this host that are asked at once.
const ASKED_MAX: usize = 8;
/// What is told to people of each machine of this host.
const PROBLEMS_MAX: usize = 16;

/// What a selection looks at.
pub struct Candidates {
    pub all: Vec<Candidate>,
    /// What is told to people: hosts that could not be asked for machines that were named.
    pub problems: Vec<String>,
}

/// Of one host.
struct Told {
    machines: Vec<Candidate>,
    problems: Vec<String>,
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
            problems.extend(told.problems);
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
        let ask = match self.way_into(host.path.levels()) {
            Ok((way, _)) => {
                move |hosts: &[VmName]| port.machines(&Way { hosts: hosts.to_vec(), ..way.clone() })
            }
            Err(error) => {
                let unknown = vec![(host.path.clone(), Some(error.message()))];
                return told(&job.selection, Below { unknown, ..Below::default() }, remembered);
            }
        };
        let below = below(&ask, &job.selection, Place { path: host.path.clone(), id: host.id }).await;
        told(&job.selection, below, remembered)
    }
}

/// With the machines that are remembered of hosts which were not asked, so that a run does not forget them.
fn told(selection: &Selection, below: Below, remembered: &[Candidate]) -> Told {
    let Below { mut machines, unknown, mut problems } = below;
    for (host, why) in unknown {
        let is_below = |machine: &&Candidate| {
            machine.path.levels().len() > host.levels().len()
                && machine.path.levels().starts_with(host.levels())
        };
        let is_new = |machine: &&Candidate| {
            !machines.iter().any(|other| other.id == machine.id || other.path == machine.path)
        };
        let left: Vec<Candidate> = remembered.iter().filter(is_below).filter(is_new).cloned().collect();
        let is_named = selection.include.iter().any(|selector| is_literal(selector, &host));
        let is_missed = is_named && !left.iter().any(|machine| selection.covers(machine));
        if let Some(why) = why.filter(|_| is_missed && problems.len() < PROBLEMS_MAX) {
            let problem = format!("'{host}': its machines are not known: {why}");
            problems.push(problem);
        }
        machines.extend(left);
    }
    problems.iter_mut().for_each(|text| *text = Message::from(text.as_str()).to_string());
    Told { machines, problems }
}

/// Whether a machine inside a host is named word for word.
fn is_literal(selector: &Selector, host: &VmPath) -> bool {
    let Selector::Path(pattern) = selector else { return false };
    pattern.leads_into(host) && !pattern.to_string().contains(['*', '?'])
}

/// A node inside that is to be asked.
struct Place {
    path: VmPath,
    id: VmId,
}

/// What was told below a host.
#[derive(Default)]
struct Below {
    machines: Vec<Candidate>,
    /// Hosts whose machines are not known, or not all of them, and why, unless that is among the problems.
    unknown: Vec<(VmPath, Option<String>)>,
    problems: Vec<String>,
}

impl Below {
    /// Takes what a node inside told. Those of its machines that have to be asked, too.
    fn take(&mut self, place: &Place, mut told: Vec<MachineInside>, selection: &Selection) -> Vec<Place> {
        let left = MACHINES_INSIDE_MAX.saturating_sub(self.machines.len());
        if told.len() > left {
            if self.problems.is_empty() {
                let first = place.path.levels().first().map_or("", VmName::as_str);
                self.problems.push(format!(
                    "'{first}': it tells of more than {MACHINES_INSIDE_MAX} machines inside; those of '{}' are not all known",
                    place.path
                ));
            }
            self.unknown.push((place.path.clone(), None));
            told.truncate(left);
        }
        let mut deeper = Vec::new();
        for machine in told {
            let Some(candidate) = candidate(&machine, &place.path, place.id) else { continue };
            if candidate.path.levels().len() < PATH_LEVELS_MAX && selection.looks_into(&candidate.path) {
                let (path, id) = (candidate.path.clone(), candidate.id);
                if machine.hosts_nestling && machine.state == VmState::Running {
                    deeper.push(Place { path, id });
                } else {
                    let why = "no node answers inside the virtual machine".to_owned();
                    self.unknown.push((path, Some(why)));
                }
            }
            self.machines.push(candidate);
        }
        deeper
    }
}

type Ask<'a> = dyn Fn(&[VmName]) -> Answer<Vec<MachineInside>> + Send + Sync + 'a;

/// The machines of a node inside, and those inside of them: level by level, a few nodes at once, and no more machines than the
/// bound in all, however many nodes the guest makes up. `ask` is told the machines to pass through inside the first one.
async fn below(ask: &Ask<'_>, selection: &Selection, host: Place) -> Below {
    let deadline = Instant::now() + TOLD_TIMEOUT;
    let mut told = Below::default();
    let (mut waiting, mut asked) = (VecDeque::from([host]), FuturesUnordered::new());
    loop {
        while asked.len() < ASKED_MAX
            && let Some(place) = waiting.pop_front()
        {
            let answer = ask(place.path.levels().get(1..).unwrap_or_default());
            asked.push(async move { (place, timeout_at(deadline, answer).await) });
        }
        let Some((place, answer)) = asked.next().await else { return told };
        match answer {
            Ok(Ok(machines)) => waiting.extend(told.take(&place, machines, selection)),
            Ok(Err(why)) => told.unknown.push((place.path, Some(why.message))),
            Err(_) => {
                let why = "the node inside has not answered in time".to_owned();
                told.unknown.push((place.path, Some(why)));
            }
        }
    }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use futures_util::future::FutureExt;
    use nestling_model::protection::{MachineRun, RepositoryId, RunId, Warnings};
    use uuid::Uuid;

    use super::{super::port::Refused, *};
    use crate::ErrorKind;

    fn machine(number: u128, name: &str, hosts_nestling: bool) -> MachineInside {
        MachineInside {
            id: VmId(Uuid::from_u128(number)),
            name: name.parse().unwrap(),
            tags: Vec::new(),
            state: VmState::Running,
            memory_bytes: 1 << 30,
            processors: 1,
            generation: Generation::Two,
            switches: Vec::new(),
            nesting: hosts_nestling,
            hosts_nestling,
        }
    }

    fn selection(include: &str) -> Selection {
        Selection { include: vec![include.parse().unwrap()], ..Selection::default() }
    }

    fn outermost() -> Place {
        Place { path: "L1".parse().unwrap(), id: VmId(Uuid::from_u128(1)) }
    }

    fn paths(machines: &[Candidate]) -> Vec<String> {
        machines.iter().map(|machine| machine.path.to_string()).collect()
    }

    fn run_of(job: JobId, path: &str) -> Run {
        let machines = vec![MachineRun::new(path.parse().unwrap(), VmId(Uuid::from_u128(70)))];
        let waiting = Run::waiting(
            RunId(Uuid::from_u128(8)),
            Vec::new(),
            RepositoryId(Uuid::from_u128(9)),
            machines,
            0,
        );
        Run { job: Some(job), warnings: Warnings::default(), ..waiting }
    }

    /// Below L1, which answers, is L2, of which `answer` decides.
    async fn told_of_l2(include: &str, runs_nestling: bool, has_run: bool) -> Told {
        let ask = |hosts: &[VmName]| {
            let told = if hosts.is_empty() {
                Ok(vec![machine(2, "L2", runs_nestling), machine(3, "other", false)])
            } else {
                Err(Refused::new(ErrorKind::GuestAbsent, "no\nanswer"))
            };
            std::future::ready(told).boxed()
        };
        let job = JobId(Uuid::from_u128(5));
        let runs =
            if has_run { vec![run_of(job, "L1/L2/L3"), run_of(job, "L1/gone/L3")] } else { Vec::new() };
        let selection = selection(include);
        told(&selection, below(&ask, &selection, outermost()).await, &remembered(job, &runs))
    }

    #[tokio::test]
    async fn a_machine_further_inside_is_not_forgotten_when_its_host_does_not_answer() {
        for runs_nestling in [true, false] {
            let told = told_of_l2("L1/L2/*", runs_nestling, true).await;
            // What is in a machine that is gone is gone with it.
            assert_eq!(paths(&told.machines), ["L1/L2", "L1/other", "L1/L2/L3"], "{runs_nestling}");
            assert!(told.problems.is_empty(), "it will fail in words");
            let told = told_of_l2("L1/L2/x", runs_nestling, false).await;
            assert!(
                told.problems.len() == 1 && told.problems[0].starts_with("'L1/L2': "),
                "{:?}",
                told.problems
            );
            assert!(!told.problems[0].contains('\n'));
        }
    }

    #[tokio::test]
    async fn however_many_machines_a_guest_makes_up_few_nodes_are_asked_at_once_and_all_is_bounded() {
        let (now, most, asked) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        let counters = Arc::new((now, most, asked));
        let seen = Arc::clone(&counters);
        let ask = move |_: &[VmName]| {
            let counters = Arc::clone(&seen);
            async move {
                let (now, most, asked) = &*counters;
                asked.fetch_add(1, Relaxed);
                most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
                tokio::task::yield_now().await;
                now.fetch_sub(1, Relaxed);
                Ok((0..100).map(|number| machine(number, &format!("m{number}"), true)).collect())
            }
            .boxed()
        };
        let selection = selection("L1/*/*/*/*/*/*/*");
        let below = below(&ask, &selection, outermost()).await;
        assert_eq!((below.machines.len(), below.problems.len()), (MACHINES_INSIDE_MAX, 1));
        assert!(counters.1.load(Relaxed) <= ASKED_MAX);
        assert!(counters.2.load(Relaxed) <= MACHINES_INSIDE_MAX + 1);
        let told = told(&selection, below, &[]);
        assert_eq!(told.problems.len(), 1, "{:?}", told.problems);
    }
}
