//! The recoveries of this host: those that were, and those that are under way.
//!
//! A recovery is a document before it begins and when it has ended; how far it is in between is known to this process
//! alone. One that a node left which died is interrupted: what it left is the journal's, or `unfinished`'s, to tell.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use nestling_model::{
    VmId, VmName,
    protection::{Message, PointId, RepositoryId, RunState, Warnings},
};
use nestling_store::{Batch, Document};
use nestling_vault::Job;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::values::{RecoveredDisk, RecoveryProgress};
use crate::{
    NodeError,
    clock::now_ms,
    error::{Object, Result},
    keeper::Keeper,
    locked::lock,
};

/// So many of the newest stay.
const KEPT: usize = 200;

/// A recovery as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// Counts up by one for each recovery of this host.
    pub number: u64,
    pub state: RunState,
    /// Who wanted it.
    pub cause: Message,
    pub point: PointId,
    pub repository: RepositoryId,
    /// The machine that is made, overwritten, or exported.
    pub vm: VmName,
    #[serde(default)]
    pub vm_id: Option<Uuid>,
    pub in_place: bool,
    /// Where it is exported to, if it is.
    #[serde(default)]
    pub folder: Option<PathBuf>,
    pub started_at_ms: u64,
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
    #[serde(default)]
    pub disks: Vec<RecoveredDisk>,
    #[serde(default)]
    pub warnings: Warnings,
    #[serde(default)]
    pub reason: Option<Message>,
}

impl Document for Recovery {
    const KIND: &'static str = "recovery";
    fn id(&self) -> String {
        format!("{:020}", self.number)
    }
}

impl Recovery {
    fn end(&mut self, state: RunState) {
        self.state = state;
        self.ended_at_ms = Some(now_ms());
    }
}

/// What is done at this moment.
#[derive(Default)]
struct Doing {
    stage: &'static str,
    disk: Option<String>,
}

/// One recovery. Only the task that conducts it changes it.
pub struct Entry {
    recovery: Mutex<Recovery>,
    doing: Mutex<Doing>,
    /// All that takes long is one job, so that one wish ends it.
    pub job: Arc<Job>,
    /// Somebody wants it to end.
    pub cancel: CancellationToken,
    /// It has.
    pub ended: CancellationToken,
}

impl Entry {
    fn new(recovery: Recovery) -> Self {
        let ended = CancellationToken::new();
        if recovery.state.has_ended() {
            ended.cancel();
        }
        Self {
            recovery: Mutex::new(recovery),
            doing: Mutex::default(),
            job: Arc::default(),
            cancel: CancellationToken::new(),
            ended,
        }
    }

    pub fn recovery(&self) -> Recovery {
        lock(&self.recovery).clone()
    }

    pub fn number(&self) -> u64 {
        lock(&self.recovery).number
    }

    /// What happens now, before or after a disk is written.
    pub fn does(&self, stage: &'static str) {
        *lock(&self.doing) = Doing { stage, disk: None };
    }

    /// A disk is written; the job tells how far it is.
    pub fn writes(&self, disk: &str) {
        *lock(&self.doing) = Doing { stage: "recovering", disk: Some(disk.to_owned()) };
    }

    pub fn progress(&self) -> RecoveryProgress {
        let doing = lock(&self.doing);
        let (stage, disk) = (doing.stage, doing.disk.clone());
        let nothing = RecoveryProgress { stage, disk: disk.clone(), done: 0, total: 0, in_bytes: false };
        let at = self.job.progress();
        if disk.is_none() || !at.in_bytes {
            return nothing;
        }
        RecoveryProgress { done: at.done, total: at.total, in_bytes: true, ..nothing }
    }

    /// Something is known of it that is shown at once, and written down with its end.
    pub fn note(&self, change: impl FnOnce(&mut Recovery)) {
        change(&mut lock(&self.recovery));
    }

    pub fn warn(&self, warning: impl Into<Message>) {
        self.note(|recovery| recovery.warnings.push(warning));
    }

    /// Asks it to end.
    pub fn stop(&self) {
        self.job.cancel();
        self.cancel.cancel();
    }

    /// Waits for something, unless it shall end.
    pub async fn unless_over<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.cancel.cancelled() => Err(NodeError::Cancelled),
        }
    }

    /// How it ended is shown even when that cannot be made durable.
    pub async fn end(&self, keeper: &Keeper, state: RunState, reason: Option<String>) {
        let ended = {
            let mut recovery = lock(&self.recovery);
            recovery.reason = reason.map(Message::from);
            recovery.end(state);
            recovery.clone()
        };
        if let Err(error) = keeper.put(&ended).await {
            tracing::error!(
                number = ended.number,
                error = error.message(),
                "what a recovery did is not written down"
            );
        }
        self.ended.cancel();
    }
}

pub struct Recoveries {
    keeper: Keeper,
    all: RwLock<BTreeMap<u64, Arc<Entry>>>,
    /// Held by whoever adds or removes some.
    turn: tokio::sync::Mutex<()>,
}

impl Recoveries {
    /// Ends as interrupted what a node left that died.
    pub async fn open(keeper: Keeper, stored: Vec<Recovery>) -> Result<Self> {
        let mut all = BTreeMap::new();
        for mut recovery in stored {
            if !recovery.state.has_ended() {
                recovery.end(RunState::Interrupted);
                keeper.put(&recovery).await?;
            }
            all.insert(recovery.number, Arc::new(Entry::new(recovery)));
        }
        Ok(Self { keeper, all: RwLock::new(all), turn: tokio::sync::Mutex::new(()) })
    }

    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn find(&self, number: &str) -> Result<Arc<Entry>> {
        let missing =
            || NodeError::NotFound { object: Object::Recovery, name: number.chars().take(80).collect() };
        let wanted: u64 = number.parse().map_err(|_| missing())?;
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&wanted).cloned().ok_or_else(missing)
    }

    /// The recovery that reads a repository now.
    pub fn using(&self, repository: RepositoryId) -> Option<u64> {
        self.all().iter().find_map(|entry| {
            let recovery = lock(&entry.recovery);
            let is = !recovery.state.has_ended() && recovery.repository == repository;
            is.then_some(recovery.number)
        })
    }

    /// Whether one has written a machine's disk since then. One that stayed in the vault at first has not told its disks.
    pub fn has_written(&self, vm: VmId, disk: &str, since_ms: u64) -> bool {
        self.all().iter().any(|entry| {
            let recovery = lock(&entry.recovery);
            recovery.vm_id == Some(vm.0)
                && recovery.folder.is_none()
                && recovery.state.is_success()
                && recovery.ended_at_ms.is_some_and(|ended| ended >= since_ms)
                && (recovery.disks.is_empty() || recovery.disks.iter().any(|has| has.name == disk))
        })
    }

    /// Writes a recovery down, with the next number.
    pub async fn begin(&self, mut recovery: Recovery) -> Result<Arc<Entry>> {
        let _turn = self.turn.lock().await;
        let last = self.all.read().unwrap_or_else(PoisonError::into_inner).keys().next_back().copied();
        recovery.number = last.unwrap_or(0) + 1;
        self.keeper.put(&recovery).await?;
        let (number, entry) = (recovery.number, Arc::new(Entry::new(recovery)));
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&entry));
        self.forget_old().await;
        Ok(entry)
    }

    async fn forget_old(&self) {
        let all = self.all();
        let old: Vec<Recovery> = all.iter().rev().skip(KEPT).map(|entry| entry.recovery()).collect();
        let old: Vec<&Recovery> = old.iter().filter(|recovery| recovery.state.has_ended()).collect();
        if old.is_empty() {
            return;
        }
        let mut batch = Batch::default();
        old.iter().for_each(|recovery| batch.delete::<Recovery>(recovery.id()));
        match self.keeper.apply(batch).await {
            Ok(()) => {
                let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
                old.iter().for_each(|recovery| drop(all.remove(&recovery.number)));
            }
            Err(error) => tracing::warn!(error = error.message(), "old recoveries are kept"),
        }
    }

    /// The node ends: what is under way is asked to, and waited for, but not for ever.
    pub async fn settle(&self, patience: Duration) {
        let under_way: Vec<_> =
            self.all().into_iter().filter(|entry| !entry.recovery().state.has_ended()).collect();
        // All at once: each has the whole time for its end.
        under_way.iter().for_each(|entry| entry.stop());
        let all = async {
            for entry in &under_way {
                entry.ended.cancelled().await;
            }
        };
        if timeout(patience, all).await.is_err() {
            tracing::warn!("a recovery does not end in time; the next node clears up");
        }
    }
}

#[cfg(test)]
mod tests {
    use nestling_store::Store;

    use super::*;

    fn recovery(number: u64, state: RunState) -> Recovery {
        Recovery {
            number,
            state,
            cause: "me".into(),
            point: PointId::from_bytes([1; 32]),
            repository: RepositoryId(Uuid::from_u128(9)),
            vm: "vm".parse().unwrap(),
            vm_id: None,
            in_place: true,
            folder: None,
            started_at_ms: 1,
            ended_at_ms: None,
            disks: Vec::new(),
            warnings: Warnings::default(),
            reason: None,
        }
    }

    #[tokio::test]
    async fn what_a_node_left_that_died_is_interrupted_and_numbers_go_on() {
        let keeper = Keeper::new(Store::in_memory());
        let left = vec![recovery(4, RunState::Running)];
        let book = Recoveries::open(keeper.clone(), left).await.unwrap();
        let found = book.find("4").unwrap();
        assert_eq!(found.recovery().state, RunState::Interrupted);
        assert!(found.ended.is_cancelled() && book.find("5").is_err() && book.find("x").is_err());
        let next = book.begin(recovery(0, RunState::Running)).await.unwrap();
        assert_eq!((next.number(), book.using(RepositoryId(Uuid::from_u128(9)))), (5, Some(5)));
        next.end(&keeper, RunState::Failed, Some("why".into())).await;
        assert_eq!(book.using(RepositoryId(Uuid::from_u128(9))), None);
        assert_eq!(next.recovery().reason.unwrap().as_str(), "why");
    }

    #[tokio::test]
    async fn what_was_written_since_is_known() {
        let vm = VmId(Uuid::from_u128(7));
        let disk =
            RecoveredDisk { name: "scsi-0".into(), path: "/d".into(), size_bytes: 1, written_bytes: 1 };
        let mut one = recovery(1, RunState::Succeeded);
        (one.vm_id, one.ended_at_ms, one.disks) = (Some(vm.0), Some(100), vec![disk]);
        let failed = Recovery { number: 2, state: RunState::Failed, ended_at_ms: Some(900), ..one.clone() };
        let book = Recoveries::open(Keeper::new(Store::in_memory()), vec![one, failed]).await.unwrap();
        assert!(book.has_written(vm, "scsi-0", 100));
        assert!(!book.has_written(vm, "scsi-0", 101), "the point is newer");
        assert!(!book.has_written(vm, "scsi-1", 1), "another disk");
        assert!(!book.has_written(VmId(Uuid::from_u128(8)), "scsi-0", 1), "another machine");
    }

    #[tokio::test]
    async fn at_the_end_all_are_asked_to_end_before_one_is_waited_for() {
        let keeper = Keeper::new(Store::in_memory());
        let book = Recoveries::open(keeper.clone(), Vec::new()).await.unwrap();
        let first = book.begin(recovery(0, RunState::Running)).await.unwrap();
        let second = book.begin(recovery(0, RunState::Running)).await.unwrap();
        // The first one hangs for as long as nobody asked the second one.
        let (waits, asked) = (Arc::clone(&first), second.cancel.clone());
        let ends = async {
            asked.cancelled().await;
            waits.end(&keeper, RunState::Interrupted, None).await;
            second.end(&keeper, RunState::Interrupted, None).await;
        };
        let settled = async { tokio::join!(book.settle(Duration::from_secs(60)), ends) };
        timeout(Duration::from_secs(20), settled).await.expect("both were asked");
        assert!(first.ended.is_cancelled() && second.ended.is_cancelled());
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_are_forgotten() {
        let stored = (1..=KEPT as u64 + 3).map(|number| recovery(number, RunState::Succeeded));
        let book = Recoveries::open(Keeper::new(Store::in_memory()), stored.collect()).await.unwrap();
        book.begin(recovery(0, RunState::Running)).await.unwrap();
        assert_eq!((book.all().len(), book.all()[0].number()), (KEPT, 5));
    }
}
