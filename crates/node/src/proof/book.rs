//! The proofs of this host: those that were, and those that are under way.
//!
//! A proof is a document before it begins, and again whenever a point of it ends; what is done in between is known to this
//! process alone. Pictures are files of the home, named by the proof and the point's place in it.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use nestling_hypervisor::write_durably;
use nestling_model::{
    VmId,
    protection::{Message, PointId, PointProof, Proof, ProofRun, RepositoryId, RunState, Signs},
};
use nestling_store::{Batch, Document};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::values::ProofProgress;
use crate::{
    NodeError,
    error::{Object, Result},
    home,
    keeper::Keeper,
    locked::lock,
};

/// So many of the newest stay.
const KEPT: usize = 200;

/// One proof. Only the task that conducts it changes it.
pub struct Entry {
    run: Mutex<ProofRun>,
    /// By the point's place in the proof.
    doing: Mutex<BTreeMap<usize, &'static str>>,
    /// Somebody wants it to end.
    pub cancel: CancellationToken,
    /// It has.
    pub ended: CancellationToken,
}

impl Entry {
    fn new(run: ProofRun) -> Self {
        let ended = CancellationToken::new();
        if run.state.has_ended() {
            ended.cancel();
        }
        Self { run: Mutex::new(run), doing: Mutex::default(), cancel: CancellationToken::new(), ended }
    }

    pub fn run(&self) -> ProofRun {
        lock(&self.run).clone()
    }

    pub fn number(&self) -> u64 {
        lock(&self.run).number
    }

    pub fn signs(&self) -> Signs {
        lock(&self.run).signs.clone()
    }

    /// Changes what is known here alone, until a point ends.
    pub fn note(&self, change: impl FnOnce(&mut ProofRun)) {
        change(&mut lock(&self.run));
    }

    pub fn does(&self, point: usize, stage: &'static str) {
        lock(&self.doing).insert(point, stage);
    }

    pub fn does_nothing(&self, point: usize) {
        lock(&self.doing).remove(&point);
    }

    pub fn progress(&self) -> Vec<ProofProgress> {
        let run = lock(&self.run);
        let doing = lock(&self.doing);
        let told = doing.iter().filter_map(|(number, stage)| {
            Some(ProofProgress { machine: run.points.get(*number)?.machine.clone(), stage })
        });
        told.collect()
    }
}

type Verdicts = HashMap<(RepositoryId, PointId), Proof>;

pub struct Proofs {
    keeper: Keeper,
    dir: PathBuf,
    all: RwLock<BTreeMap<u64, Arc<Entry>>>,
    /// What the newest proof of each point found.
    verdicts: RwLock<Verdicts>,
    /// Held by whoever adds or removes some.
    turn: tokio::sync::Mutex<()>,
}

impl Proofs {
    /// Ends as interrupted what a node left that died.
    pub async fn open(keeper: Keeper, dir: PathBuf, stored: Vec<ProofRun>, now_ms: u64) -> Result<Self> {
        let mut all = BTreeMap::new();
        for mut run in stored {
            if !run.state.has_ended() {
                run.end(RunState::Interrupted, now_ms);
                keeper.put(&run).await?;
            }
            all.insert(run.number, Arc::new(Entry::new(run)));
        }
        let proofs = Self {
            keeper,
            dir,
            verdicts: RwLock::new(verdicts(&all)),
            all: RwLock::new(all),
            turn: tokio::sync::Mutex::new(()),
        };
        proofs.sweep(true);
        Ok(proofs)
    }

    pub fn all(&self) -> Vec<Arc<Entry>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub fn find(&self, number: &str) -> Result<Arc<Entry>> {
        let missing =
            || NodeError::NotFound { object: Object::Proof, name: number.chars().take(80).collect() };
        let wanted: u64 = number.parse().map_err(|_| missing())?;
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&wanted).cloned().ok_or_else(missing)
    }

    /// Whether a proof waits for ports of its guests that answer.
    pub fn knocks(&self, number: u64) -> bool {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&number).is_some_and(|entry| !entry.signs().ports.is_empty())
    }

    /// What the newest proof of a point found, by the id that the point was saved under.
    pub fn verdict(&self, repository: RepositoryId, identity: PointId) -> Option<Proof> {
        let verdicts = self.verdicts.read().unwrap_or_else(PoisonError::into_inner);
        verdicts.get(&(repository, identity)).cloned()
    }

    /// When a point of a machine was proven last, well or not.
    pub fn last_ms(&self, repository: RepositoryId, vm: VmId) -> Option<u64> {
        let of = |entry: &Arc<Entry>| {
            let run = lock(&entry.run);
            let own = run.points.iter().filter(|point| point.machine_id == Some(vm) && says_something(point));
            let ended = own.filter_map(|point| point.ended_at_ms).max();
            ended.filter(|_| run.repository == repository)
        };
        self.all().iter().filter_map(of).max()
    }

    /// Writes a proof down, with the next number.
    pub async fn begin(&self, mut run: ProofRun) -> Result<Arc<Entry>> {
        let _turn = self.turn.lock().await;
        let last = self.all.read().unwrap_or_else(PoisonError::into_inner).keys().next_back().copied();
        run.number = last.unwrap_or(0) + 1;
        self.keeper.put(&run).await?;
        let (number, entry) = (run.number, Arc::new(Entry::new(run)));
        self.all.write().unwrap_or_else(PoisonError::into_inner).insert(number, Arc::clone(&entry));
        Ok(entry)
    }

    /// Changes a proof. What is so is shown even when it cannot be made durable.
    pub async fn change(&self, entry: &Entry, change: impl FnOnce(&mut ProofRun)) {
        let changed = {
            let mut run = lock(&entry.run);
            change(&mut run);
            run.clone()
        };
        if let Err(error) = self.keeper.put(&changed).await {
            tracing::error!(
                number = changed.number,
                error = error.message(),
                "what a proof found is not written down"
            );
        }
        {
            let mut verdicts = self.verdicts.write().unwrap_or_else(PoisonError::into_inner);
            note(&mut verdicts, &changed);
        }
        if changed.state.has_ended() {
            entry.ended.cancel();
        }
    }

    /// Forgets the oldest of too many, with their pictures.
    pub async fn forget_old(&self) {
        let _turn = self.turn.lock().await;
        let old: Vec<ProofRun> = self.all().iter().rev().skip(KEPT).map(|entry| entry.run()).collect();
        let old: Vec<&ProofRun> = old.iter().filter(|run| run.state.has_ended()).collect();
        if old.is_empty() {
            return;
        }
        let mut batch = Batch::default();
        old.iter().for_each(|run| batch.delete::<ProofRun>(run.id()));
        if let Err(error) = self.keeper.apply(batch).await {
            tracing::warn!(error = error.message(), "old proofs are kept");
            return;
        }
        {
            let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
            old.iter().for_each(|run| drop(all.remove(&run.number)));
            *self.verdicts.write().unwrap_or_else(PoisonError::into_inner) = verdicts(&all);
        }
        self.sweep(false);
    }

    /// The node ends: waits until what is under way has given back what it holds, but not for ever.
    pub async fn settle(&self, patience: Duration) {
        let all = async {
            for entry in self.all() {
                entry.ended.cancelled().await;
            }
        };
        if timeout(patience, all).await.is_err() {
            tracing::warn!("a proof does not end in time; the next node clears up");
        }
    }

    pub fn picture(&self, number: u64, point: usize) -> PathBuf {
        self.dir.join(format!("{number}-{point}.png"))
    }

    /// Keeps a picture. Blocks.
    pub fn keep_picture(&self, number: u64, point: usize, bytes: &[u8]) -> Result<()> {
        let path = self.picture(number, point);
        // An unfinished one is swept by the next node.
        write_durably(&path, bytes).map_err(NodeError::io("write", path))
    }

    /// Removes pictures of proofs that are not known any more, and unfinished ones if nobody writes any now.
    fn sweep(&self, unfinished: bool) {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        home::sweep(&self.dir, |name| {
            let is_whole = !unfinished || name.ends_with(".png");
            let number = name.split('-').next().and_then(|number| number.parse().ok());
            !is_whole || !number.is_some_and(|number: u64| all.contains_key(&number))
        });
    }
}

/// Whether a point has been seen to boot, or not to.
fn says_something(point: &PointProof) -> bool {
    point.state.is_success() || point.state == RunState::Failed
}

fn verdicts(all: &BTreeMap<u64, Arc<Entry>>) -> Verdicts {
    let mut verdicts = Verdicts::new();
    all.values().for_each(|entry| note(&mut verdicts, &lock(&entry.run)));
    verdicts
}

/// Of two proofs, the one that ended later counts.
fn note(verdicts: &mut Verdicts, run: &ProofRun) {
    for point in run.points.iter().filter(|point| says_something(point)) {
        let at_ms = point.ended_at_ms.unwrap_or(run.started_at_ms);
        let key = (run.repository, point.identity);
        if verdicts.get(&key).is_none_or(|known| known.at_ms <= at_ms) {
            let passed = point.state.is_success();
            verdicts.insert(key, Proof { at_ms, passed, message: message(run.number, point) });
        }
    }
}

fn message(number: u64, point: &PointProof) -> Message {
    let text = |message: &Option<Message>| message.as_ref().map(ToString::to_string).unwrap_or_default();
    match point.ready_ms.filter(|_| point.state.is_success()) {
        Some(ms) => Message::from(format!(
            "proof {number}: up after {}.{} s: {}",
            ms / 1000,
            ms % 1000 / 100,
            text(&point.seen)
        )),
        None => Message::from(format!("proof {number}: {}", text(&point.reason))),
    }
}
