//! The runs of this host: those that were, and those that are under way.
//!
//! A run is a document before it begins, and again whenever a machine of it ends; how far it is in between is known to
//! this process alone. A person who wants a machine that is in a run is refused: what is asked for is being done. A job is
//! not: its machine waits for its turn (`turns`).

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use nestling_model::{
    VmId, VmPath,
    protection::{JobId, RepositoryId, Run, RunId, removable},
};
use nestling_store::{Batch, Document};
use nestling_vault::Job;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    job_error::JobError,
    log::{self, RunLog},
    values::RunProgress,
};
use crate::{
    NodeError,
    error::{Object, Result},
    keeper::Keeper,
    locked::lock,
};

/// So many of each job stay, and so many without a job.
const KEPT: usize = 200;

/// What is done with a machine at this moment.
struct Doing {
    path: VmPath,
    stage: &'static str,
    job: Option<Arc<Job>>,
    disks: Vec<(String, Arc<AtomicU64>)>,
}

/// One run. Only the task that conducts it changes it.
pub struct Entry {
    run: Mutex<Run>,
    /// By the machine's number in the run.
    doing: Mutex<BTreeMap<usize, Doing>>,
    pub log: RunLog,
    /// It shall end.
    pub cancel: CancellationToken,
    /// Why, if no person wants it.
    why: OnceLock<&'static str>,
    /// It has.
    pub ended: CancellationToken,
}

impl Doing {
    fn progress(&self) -> RunProgress {
        let machine = self.path.clone();
        match self.job.as_ref().map(|job| job.progress()).filter(|at| !at.stage.is_empty()) {
            Some(at) => RunProgress {
                machine,
                stage: at.stage,
                done: at.done,
                total: at.total,
                in_bytes: at.in_bytes,
                stored_bytes: at.stored_bytes,
            },
            None => RunProgress {
                machine,
                stage: self.stage,
                done: 0,
                total: 0,
                in_bytes: false,
                stored_bytes: 0,
            },
        }
    }
}

impl Entry {
    fn new(run: Run, log: RunLog) -> Self {
        let ended = CancellationToken::new();
        if run.state.has_ended() {
            ended.cancel();
        }
        Self {
            run: Mutex::new(run),
            doing: Mutex::default(),
            log,
            cancel: CancellationToken::new(),
            why: OnceLock::new(),
            ended,
        }
    }

    pub fn number(&self) -> u64 {
        lock(&self.run).number
    }

    /// Ends it for a reason that makes it fail.
    pub fn end_because(&self, why: &'static str) {
        // The first one that was given counts.
        let _ = self.why.set(why);
        self.cancel.cancel();
    }

    pub fn why_ended(&self) -> Option<&'static str> {
        self.why.get().copied()
    }

    /// As it is now, with what was read so far.
    pub fn run(&self) -> Run {
        let mut run = lock(&self.run).clone();
        for (number, doing) in lock(&self.doing).iter() {
            for disk in run.machines.get_mut(*number).into_iter().flat_map(|machine| &mut machine.disks) {
                let read = doing.disks.iter().find(|(name, _)| name == disk.name.as_str());
                disk.read_bytes = read.map_or(disk.read_bytes, |(_, read)| read.load(Relaxed));
            }
        }
        run
    }

    /// How far each machine under way is.
    pub fn progress(&self) -> Vec<RunProgress> {
        lock(&self.doing).values().map(Doing::progress).collect()
    }

    /// What happens now with a machine, before or after its disks are read.
    pub fn does(&self, machine: usize, path: &VmPath, stage: &'static str) {
        let doing = Doing { path: path.clone(), stage, job: None, disks: Vec::new() };
        lock(&self.doing).insert(machine, doing);
    }

    /// The disks of a machine are read.
    pub fn reads(&self, machine: usize, path: &VmPath, job: Arc<Job>, disks: Vec<(String, Arc<AtomicU64>)>) {
        let doing = Doing { path: path.clone(), stage: "reading", job: Some(job), disks };
        lock(&self.doing).insert(machine, doing);
    }

    pub fn does_nothing(&self, machine: usize) {
        lock(&self.doing).remove(&machine);
    }

    /// Changes the run. What is so is shown even when it cannot be made durable: the next node finds out anew.
    pub async fn change(&self, keeper: &Keeper, change: impl FnOnce(&mut Run)) {
        let changed = {
            let mut run = lock(&self.run);
            change(&mut run);
            run.clone()
        };
        if let Err(error) = keeper.put(&changed).await {
            tracing::error!(
                run = changed.number,
                error = error.message(),
                "what a run did is not written down"
            );
        }
        if changed.state.has_ended() {
            lock(&self.doing).clear();
            self.ended.cancel();
        }
    }
}

pub struct Runs {
    keeper: Keeper,
    logs: PathBuf,
    /// Those that a node left of whose end nobody was told.
    untold: Mutex<Vec<Arc<Entry>>>,
    all: RwLock<BTreeMap<u64, Arc<Entry>>>,
    /// Held by whoever adds or removes some.
    turn: tokio::sync::Mutex<()>,
}

impl Runs {
    /// Ends as interrupted what a node left that died.
    pub async fn open(keeper: Keeper, logs: PathBuf, stored: Vec<Run>, now_ms: u64) -> Result<Self> {
        let (mut all, mut untold) = (BTreeMap::new(), Vec::new());
        for mut run in stored {
            let (number, was_left) = (run.number, !run.state.has_ended());
            if was_left {
                // A state that has not ended can be interrupted.
                run.interrupt(now_ms).map_err(|e| NodeError::Internal(e.to_string()))?;
                run.untold = run.job.is_some();
                keeper.put(&run).await?;
            }
            let is_untold = run.untold;
            let entry = Arc::new(Entry::new(run, RunLog::new(&logs, number)));
            if was_left {
                entry.log.say("the node ended in the middle of the run");
            }
            if is_untold {
                untold.push(Arc::clone(&entry));
            }
            all.insert(number, entry);
        }
        log::sweep(&logs, |run| all.contains_key(&run));
        Ok(Self {
            keeper,
            logs,
            untold: Mutex::new(untold),
            all: RwLock::new(all),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    /// Those that a node left of whose end nobody was told; once.
    pub fn take_untold(&self) -> Vec<Arc<Entry>> {
        std::mem::take(&mut *lock(&self.untold))
    }

    /// What is written down of them.
    pub fn documents(&self) -> Vec<Run> {
        self.all().iter().map(|entry| lock(&entry.run).clone()).collect()
    }

    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// By its number, or by the text of its id.
    pub fn find(&self, run: &str) -> Result<Arc<Entry>> {
        let missing = || NodeError::NotFound { object: Object::Run, name: run.chars().take(80).collect() };
        if let Ok(number) = run.parse::<u64>() {
            let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
            return all.get(&number).cloned().ok_or_else(missing);
        }
        let id = RunId(Uuid::parse_str(run).map_err(|_| missing())?);
        self.all().into_iter().find(|entry| lock(&entry.run).id == id).ok_or_else(missing)
    }

    fn unfinished<T>(&self, look: impl Fn(&Run) -> Option<T>) -> Option<T> {
        self.all().iter().find_map(|entry| {
            let run = lock(&entry.run);
            if run.state.has_ended() { None } else { look(&run) }
        })
    }

    /// The run that saves to a repository now.
    pub fn using(&self, repository: RepositoryId) -> Option<u64> {
        self.unfinished(|run| (run.repository == repository).then_some(run.number))
    }

    fn backing_up(&self, vm: VmId) -> Option<u64> {
        self.unfinished(|run| {
            let is = run.machines.iter().any(|machine| machine.id == vm && !machine.state.has_ended());
            is.then_some(run.number)
        })
    }

    /// The run of a job that is under way.
    pub fn of_job(&self, job: JobId) -> Option<u64> {
        self.unfinished(|run| (run.job == Some(job)).then_some(run.number))
    }

    /// Writes a run down, with the next number. Refused while its job runs, or without a job one of its machines.
    pub async fn begin(&self, run: Run) -> Result<Arc<Entry>> {
        let _turn = self.turn.lock().await;
        match (run.job, &run.job_name) {
            (Some(job), Some(name)) => {
                if let Some(run) = self.of_job(job) {
                    return Err(JobError::Runs { job: name.clone(), run }.into());
                }
            }
            _ => {
                for machine in &run.machines {
                    if let Some(run) = self.backing_up(machine.id) {
                        return Err(NodeError::BackupRuns { vm: machine.path.split().1.clone(), run });
                    }
                }
            }
        }
        self.write_down(run).await
    }

    /// The same, of a run whose machines wait for their turn.
    pub async fn begin_in_turn(&self, run: Run) -> Result<Arc<Entry>> {
        let _turn = self.turn.lock().await;
        self.write_down(run).await
    }

    async fn write_down(&self, mut run: Run) -> Result<Arc<Entry>> {
        let last = self.all.read().unwrap_or_else(PoisonError::into_inner).keys().next_back().copied();
        run.number = last.unwrap_or(0) + 1;
        run.validate().map_err(|e| NodeError::Invalid(e.to_string()))?;
        self.keeper.put(&run).await?;
        let number = run.number;
        let entry = Arc::new(Entry::new(run, RunLog::new(&self.logs, number)));
        // A number comes again when all runs were forgotten.
        entry.log.remove();
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&entry));
        Ok(entry)
    }

    /// Forgets the oldest of too many.
    pub async fn forget_old(&self) {
        let _turn = self.turn.lock().await;
        let runs = self.documents();
        let old = removable(&runs, KEPT);
        let mut batch = Batch::default();
        let gone: Vec<&Run> = runs.iter().filter(|run| old.contains(&run.id)).collect();
        gone.iter().for_each(|run| batch.delete::<Run>(run.id()));
        if gone.is_empty() {
            return;
        }
        match self.keeper.apply(batch).await {
            Ok(()) => {
                let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
                let gone = gone.iter().filter_map(|run| all.remove(&run.number));
                gone.for_each(|entry| entry.log.remove());
            }
            Err(error) => tracing::warn!(error = error.message(), "old runs are kept"),
        }
    }

    /// The node ends: waits until what is under way has given back what it holds, but not for ever.
    pub async fn settle(&self, patience: Duration) {
        let all = async {
            for entry in self.all() {
                entry.ended.cancelled().await;
            }
        };
        if timeout(patience, all).await.is_err() {
            tracing::warn!("a backup does not end in time; the next node clears up");
        }
    }
}

#[cfg(test)]
mod tests {
    use nestling_model::protection::{Cause, MachineRun, RunState, RunStep};
    use nestling_store::Store;

    use super::*;

    fn run(vm: u128) -> Run {
        let machine = MachineRun::new("a".parse().unwrap(), VmId(Uuid::from_u128(vm)));
        Run {
            id: RunId(Uuid::new_v4()),
            number: 0,
            job: None,
            job_name: None,
            causes: vec![Cause::Person { name: "me".into() }],
            repository: RepositoryId(Uuid::from_u128(9)),
            created_at_ms: 1,
            started_at_ms: None,
            ended_at_ms: None,
            state: RunState::Waiting,
            machines: vec![machine],
            warnings: Default::default(),
            reason: None,
            untold: false,
        }
    }

    /// With the directory of their logs.
    async fn runs(stored: Vec<Run>) -> (Runs, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(Store::in_memory());
        (Runs::open(keeper, dir.path().to_owned(), stored, 5).await.unwrap(), dir)
    }

    #[tokio::test]
    async fn one_machine_is_in_one_run_at_a_time() {
        let (runs, _logs) = runs(Vec::new()).await;
        let first = runs.begin(run(1)).await.unwrap();
        assert_eq!(first.run().number, 1);
        let refused = runs.begin(run(1)).await.err().unwrap();
        assert_eq!(refused.code(), crate::ErrorKind::InUse);
        assert!(refused.message().contains("run 1"), "{}", refused.message());
        runs.begin(run(2)).await.unwrap();
        assert_eq!(runs.using(RepositoryId(Uuid::from_u128(9))), Some(1));
        first.change(&runs.keeper, |run| run.step(RunStep::Cancel, 5).unwrap()).await;
        assert_eq!(runs.begin(run(1)).await.unwrap().run().number, 3);
        assert_eq!(runs.find("2").unwrap().run().number, 2);
        let of_job = Run {
            job: Some(JobId(Uuid::from_u128(4))),
            job_name: Some("nightly".parse().unwrap()),
            ..run(1)
        };
        assert_eq!(
            runs.begin(of_job.clone()).await.unwrap().number(),
            4,
            "a job's machine waits for its turn"
        );
        let refused = runs.begin(of_job).await.err().unwrap();
        assert_eq!(refused.code(), crate::ErrorKind::InUse, "{}", refused.message());
        assert!(runs.find("9").is_err() && runs.find("x").is_err());
    }

    #[tokio::test]
    async fn what_a_node_left_that_died_is_interrupted() {
        let left = Run { number: 7, state: RunState::Running, ..run(1) };
        let (runs, _logs) = runs(vec![left]).await;
        let found = runs.find("7").unwrap();
        assert_eq!(
            (found.run().state, found.run().machines[0].state),
            (RunState::Interrupted, RunState::Interrupted)
        );
        assert_eq!(runs.begin(run(1)).await.unwrap().run().number, 8);
    }

    #[tokio::test]
    async fn runs_of_whose_end_nobody_was_told_are_left_to_the_next_node() {
        let job = Some(JobId(Uuid::from_u128(4)));
        let ended = Run { state: RunState::Succeeded, job, ..run(1) };
        let stored = vec![
            Run { number: 1, ..ended.clone() },
            Run { number: 2, untold: true, ..ended.clone() },
            Run { number: 3, state: RunState::Running, ..ended },
            Run { number: 4, state: RunState::Running, ..run(2) },
        ];
        let (runs, _logs) = runs(stored).await;
        let numbers = || runs.take_untold().iter().map(|entry| entry.number()).collect::<Vec<_>>();
        assert_eq!((numbers(), numbers()), (vec![2, 3], vec![]));
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_are_forgotten() {
        let stored = (1..=KEPT as u64 + 3).map(|number| Run { number, state: RunState::Succeeded, ..run(1) });
        let (runs, _logs) = runs(stored.collect()).await;
        runs.forget_old().await;
        assert_eq!((runs.all().len(), runs.all()[0].run().number), (KEPT, 4));
    }

    #[tokio::test]
    async fn what_was_read_so_far_is_seen() {
        let (runs, _logs) = runs(Vec::new()).await;
        let entry = runs.begin(run(1)).await.unwrap();
        assert_eq!(entry.progress(), []);
        let path: VmPath = "a".parse().unwrap();
        entry.does(0, &path, "looking");
        assert_eq!(entry.progress()[0].stage, "looking");
        entry.does(2, &path, "waiting");
        assert_eq!(entry.progress().len(), 2, "of each machine under way");
        entry.does_nothing(2);
        let disk = nestling_model::protection::DiskRun {
            name: "scsi-0".parse().unwrap(),
            total_bytes: 10,
            read_bytes: 0,
            new_bytes: 0,
            stored_bytes: 0,
            reading: None,
        };
        entry.change(&runs.keeper, |run| run.machines[0].disks.push(disk)).await;
        let read = Arc::new(AtomicU64::new(0));
        entry.reads(0, &path, Arc::default(), vec![("scsi-0".to_owned(), Arc::clone(&read))]);
        read.store(7, Relaxed);
        assert_eq!(entry.run().machines[0].disks[0].read_bytes, 7);
    }
}
