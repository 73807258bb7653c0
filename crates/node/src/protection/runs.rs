//! The runs of this host: those that were, and those that are under way.
//!
//! A run is a document before it begins, and again whenever a machine of it ends; how far it is in between is known to
//! this process alone. Of two runs that want one machine, the second is refused: what it asks for is being done.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use nestling_model::{
    VmId, VmName, VmPath,
    protection::{RepositoryId, Run, RunId, removable},
};
use nestling_store::{Batch, Document};
use nestling_vault::Job;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::values::RunProgress;
use crate::{
    NodeError,
    clock::now_ms,
    error::{Object, Result},
    keeper::Keeper,
};

/// So many of each job stay, and so many without a job.
const KEPT: usize = 200;

/// What is done at this moment.
struct Doing {
    /// The machine's number in the run.
    machine: usize,
    path: VmPath,
    stage: &'static str,
    job: Option<Arc<Job>>,
    disks: Vec<(String, Arc<AtomicU64>)>,
}

/// One run. Only the task that conducts it changes it.
pub struct Entry {
    run: Mutex<Run>,
    doing: Mutex<Option<Doing>>,
    /// A person wants it to end.
    pub cancel: CancellationToken,
    /// It has.
    pub ended: CancellationToken,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entry {
    fn new(run: Run) -> Self {
        let ended = CancellationToken::new();
        if run.state.has_ended() {
            ended.cancel();
        }
        Self { run: Mutex::new(run), doing: Mutex::new(None), cancel: CancellationToken::new(), ended }
    }

    /// As it is now, with what was read so far.
    pub fn run(&self) -> Run {
        let mut run = lock(&self.run).clone();
        if let Some(doing) = lock(&self.doing).as_ref()
            && let Some(machine) = run.machines.get_mut(doing.machine)
        {
            for disk in &mut machine.disks {
                let read = doing.disks.iter().find(|(name, _)| name == disk.name.as_str());
                disk.read_bytes = read.map_or(disk.read_bytes, |(_, read)| read.load(Relaxed));
            }
        }
        run
    }

    pub fn progress(&self) -> Option<RunProgress> {
        let doing = lock(&self.doing);
        let doing = doing.as_ref()?;
        let machine = doing.path.clone();
        let at = doing.job.as_ref().map(|job| job.progress()).filter(|at| !at.stage.is_empty());
        Some(match at {
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
                stage: doing.stage,
                done: 0,
                total: 0,
                in_bytes: false,
                stored_bytes: 0,
            },
        })
    }

    /// What happens now with a machine, before or after its disks are read.
    pub fn does(&self, machine: usize, path: &VmPath, stage: &'static str) {
        let doing = Doing { machine, path: path.clone(), stage, job: None, disks: Vec::new() };
        *lock(&self.doing) = Some(doing);
    }

    /// The disks of a machine are read.
    pub fn reads(&self, machine: usize, path: &VmPath, job: Arc<Job>, disks: Vec<(String, Arc<AtomicU64>)>) {
        *lock(&self.doing) =
            Some(Doing { machine, path: path.clone(), stage: "reading", job: Some(job), disks });
    }

    pub fn does_nothing(&self) {
        *lock(&self.doing) = None;
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
            self.does_nothing();
            self.ended.cancel();
        }
    }
}

pub struct Runs {
    keeper: Keeper,
    all: RwLock<BTreeMap<u64, Arc<Entry>>>,
    /// Held by whoever adds or removes some.
    turn: tokio::sync::Mutex<()>,
}

impl Runs {
    /// Ends as interrupted what a node left that died.
    pub async fn open(keeper: Keeper, stored: Vec<Run>) -> Result<Self> {
        let mut all = BTreeMap::new();
        for mut run in stored {
            if !run.state.has_ended() {
                // A state that has not ended can be interrupted.
                run.interrupt(now_ms()).map_err(|e| NodeError::Internal(e.to_string()))?;
                keeper.put(&run).await?;
            }
            all.insert(run.number, Arc::new(Entry::new(run)));
        }
        Ok(Self { keeper, all: RwLock::new(all), turn: tokio::sync::Mutex::new(()) })
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

    /// Writes a run down, with the next number. `names` are those of its machines, for a refusal.
    pub async fn begin(&self, mut run: Run, names: &[VmName]) -> Result<Arc<Entry>> {
        let _turn = self.turn.lock().await;
        for (machine, vm) in run.machines.iter().zip(names) {
            if let Some(run) = self.backing_up(machine.id) {
                return Err(NodeError::BackupRuns { vm: vm.clone(), run });
            }
        }
        let last = self.all.read().unwrap_or_else(PoisonError::into_inner).keys().next_back().copied();
        run.number = last.unwrap_or(0) + 1;
        run.validate().map_err(|e| NodeError::Invalid(e.to_string()))?;
        self.keeper.put(&run).await?;
        let (number, entry) = (run.number, Arc::new(Entry::new(run)));
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&entry));
        Ok(entry)
    }

    /// Forgets the oldest of too many.
    pub async fn forget_old(&self) {
        let _turn = self.turn.lock().await;
        let runs: Vec<Run> = self.all().iter().map(|entry| lock(&entry.run).clone()).collect();
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
                gone.iter().for_each(|run| drop(all.remove(&run.number)));
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
        }
    }

    fn names() -> Vec<VmName> {
        vec!["a".parse().unwrap()]
    }

    async fn runs(stored: Vec<Run>) -> Runs {
        Runs::open(Keeper::new(Store::in_memory()), stored).await.unwrap()
    }

    #[tokio::test]
    async fn one_machine_is_in_one_run_at_a_time() {
        let runs = runs(Vec::new()).await;
        let first = runs.begin(run(1), &names()).await.unwrap();
        assert_eq!(first.run().number, 1);
        let refused = runs.begin(run(1), &names()).await.err().unwrap();
        assert_eq!(refused.code(), crate::ErrorKind::InUse);
        assert!(refused.message().contains("run 1"), "{}", refused.message());
        runs.begin(run(2), &names()).await.unwrap();
        assert_eq!(runs.using(RepositoryId(Uuid::from_u128(9))), Some(1));
        first.change(&runs.keeper, |run| run.step(RunStep::Cancel, 5).unwrap()).await;
        assert_eq!(runs.begin(run(1), &names()).await.unwrap().run().number, 3);
        assert_eq!(runs.find("2").unwrap().run().number, 2);
        assert!(runs.find("9").is_err() && runs.find("x").is_err());
    }

    #[tokio::test]
    async fn what_a_node_left_that_died_is_interrupted() {
        let left = Run { number: 7, state: RunState::Running, ..run(1) };
        let runs = runs(vec![left]).await;
        let found = runs.find("7").unwrap();
        assert_eq!(
            (found.run().state, found.run().machines[0].state),
            (RunState::Interrupted, RunState::Interrupted)
        );
        assert_eq!(runs.begin(run(1), &names()).await.unwrap().run().number, 8);
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_are_forgotten() {
        let stored = (1..=KEPT as u64 + 3).map(|number| Run { number, state: RunState::Succeeded, ..run(1) });
        let runs = runs(stored.collect()).await;
        runs.forget_old().await;
        assert_eq!((runs.all().len(), runs.all()[0].run().number), (KEPT, 4));
    }

    #[tokio::test]
    async fn what_was_read_so_far_is_seen() {
        let runs = runs(Vec::new()).await;
        let entry = runs.begin(run(1), &names()).await.unwrap();
        assert_eq!(entry.progress(), None);
        let path: VmPath = "a".parse().unwrap();
        entry.does(0, &path, "looking");
        assert_eq!(entry.progress().unwrap().stage, "looking");
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
