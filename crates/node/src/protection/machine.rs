//! One machine of a run: from the look at its earlier points to the new one.
//!
//! The machine's task makes the instant and takes back what came to nothing; all that takes long happens here, beside
//! it. What changes the machine meanwhile wins (it starts, it is shut down, it is saved): then the backup begins again
//! with the machine as it is. A machine inside another one is captured by the node inside, which lends the instant
//! (`inside`). What comes after the point is durable is `finish`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nestling_hypervisor::capture::Whole;
use nestling_model::{
    DiskName, EventKind, Switch, VmId, VmPath,
    protection::{ConsistencyReached, DiskRun, Durations, NotTracked, PointId, Reading, RunId},
};
use nestling_vault::{Job, Point, Repository, SaveReport, VaultError};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    capturing::{Capturing, has_ended, is_overtaken, proof, unless_over},
    conduct::{Way, excluded_of},
    description::{DescribedDisk, Description, SwitchThen, place_of},
    earlier::{Earlier, earlier},
    guest::owed::Owed,
    inside::{Borrowed, Inside, Moves, Patience},
    marks,
    repositories::{Known, answered},
    runs::Entry,
    saving::{Saving, Served, SourceDisk, save},
    tracking::Purpose,
};
use crate::{
    NodeError,
    error::Result,
    node::Shared,
    vm::{
        Handle,
        capture::{CaptureWish, Seen},
    },
};

/// A machine that changes its state again and again is backed up by a later run.
const ATTEMPTS: u32 = 4;
/// For an operation on the machine to end, a guest's shutdown included.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(330);
/// Before a machine inside another one is tried again: what it goes on to, the node inside waits for.
const AGAIN_DELAY: Duration = Duration::from_secs(2);
/// For a save that shall end to do so. One that hangs on a dead store is left behind; it can do no harm.
const CANCEL_PATIENCE: Duration = Duration::from_secs(20);
const TELL_INTERVAL: Duration = Duration::from_secs(10);

/// Where a machine of a run is.
#[derive(Clone)]
pub enum Machine {
    /// On this host.
    Own(Arc<Handle>),
    /// Inside a machine of this host, however deep.
    Inside(Inside),
}

impl Machine {
    pub fn id(&self) -> VmId {
        match self {
            Self::Own(handle) => handle.now().vm.id,
            Self::Inside(inside) => inside.id,
        }
    }
}

pub struct Backup<'a> {
    pub node: &'a Arc<Shared>,
    pub entry: &'a Entry,
    pub known: &'a Known,
    pub way: &'a Way,
    pub machine: &'a Machine,
    pub path: &'a VmPath,
    /// Of the machine in its run.
    pub number: usize,
}

/// Who keeps an instant.
pub enum Holder {
    Own { seen: Box<Seen>, owed: Option<Owed> },
    Inside(Borrowed),
}

/// One disk of an instant.
pub struct TakenDisk {
    pub name: DiskName,
    pub bytes: u64,
    /// Whether only what changed is read, or why not.
    pub since: std::result::Result<(), NotTracked>,
    pub served: Served,
}

/// One instant of a machine's disks, wherever it is.
pub struct Taken {
    pub holder: Holder,
    pub vm: VmId,
    pub description: Vec<u8>,
    pub taken_at_ms: u64,
    pub disks: Vec<TakenDisk>,
    /// The number of the point that it counts from or is compared with.
    pub point: Option<usize>,
    pub consistency: ConsistencyReached,
    pub frozen_for: Duration,
    pub took: Duration,
    pub warnings: Vec<String>,
}

/// What the vault has.
pub struct Saved {
    pub report: SaveReport,
    /// Of an instant that an engine of this host kept.
    pub whole: Option<Whole>,
    pub disks: Vec<DiskRun>,
}

/// Whether all that was read was of the one instant.
type Question = std::sync::mpsc::SyncSender<bool>;

/// Asked by the save, on a thread of its own.
fn confirmed(ask: &mpsc::Sender<Question>) -> std::result::Result<(), VaultError> {
    let (question, answer) = std::sync::mpsc::sync_channel(1);
    ask.blocking_send(question).map_err(|_| VaultError::Cancelled)?;
    if answer.recv() == Ok(true) { Ok(()) } else { Err(VaultError::Cancelled) }
}

/// A new recovery point, and what it cost.
pub struct Done {
    pub point: PointId,
    pub consistency: ConsistencyReached,
    pub disks: Vec<DiskRun>,
    pub new_bytes: u64,
    pub stored_bytes: u64,
    pub durations: Durations,
    pub warnings: Vec<String>,
}

impl<'a> Backup<'a> {
    fn run_id(&self) -> RunId {
        self.entry.run().id
    }

    pub fn is_over(&self) -> bool {
        self.entry.cancel.is_cancelled() || self.node.stopping.is_cancelled()
    }

    /// The steps on a machine of this host.
    pub fn capturing(&self, handle: &'a Handle) -> Capturing<'a> {
        let Self { node, entry, way, path, number, .. } = *self;
        Capturing { node, entry, handle, path, number, consistency: &way.consistency }
    }

    pub async fn run(&self) -> Result<Done> {
        let (mut attempt, mut patience) = (1, Patience::new(Instant::now()));
        loop {
            let engine = match self.machine {
                Machine::Own(handle) => handle.now().running,
                Machine::Inside(_) => None,
            };
            let error = match self.attempt(&mut patience).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            if let Machine::Own(handle) = self.machine {
                self.capturing(handle).take_back().await;
            }
            if self.is_over() {
                return Err(NodeError::Cancelled);
            }
            if attempt == ATTEMPTS || !(has_ended(engine.as_deref()) || is_overtaken(&error)) {
                return Err(error);
            }
            let message = format!("begins again with the machine as it is: {}", error.message());
            self.node.events.tell(EventKind::BackupProgress, self.path.to_string(), message);
            self.entry.does(self.number, self.path, "waiting for the machine");
            match self.machine {
                Machine::Own(handle) => handle.settled(SETTLE_TIMEOUT).await?,
                Machine::Inside(_) => {
                    self.unless_over(async {
                        tokio::time::sleep(AGAIN_DELAY).await;
                        Ok(())
                    })
                    .await?;
                }
            }
            attempt += 1;
        }
    }

    async fn attempt(&self, patience: &mut Patience) -> Result<Done> {
        self.entry.does(self.number, self.path, "opening the repository");
        let vault = self.unless_over(self.node.protection.repositories.open(self.known)).await?;
        self.entry.does(self.number, self.path, "looking at earlier points");
        let points = self.unless_over(self.points(&vault)).await?;
        let taken = match self.machine {
            Machine::Own(handle) => self.take(handle, &points).await?,
            Machine::Inside(inside) => self.borrow(inside, &points, patience).await?,
        };
        self.node.steps.reached("instant made");
        let parent = taken.point.and_then(|number| points.points.get(number)).cloned();
        let begun = Instant::now();
        let moves = Moves::new(patience, begun);
        match self.save(&vault, &taken, parent.clone(), moves).await {
            Ok(saved) => self.done(&vault, taken, parent, saved, begun.elapsed()).await,
            Err(error) => Err(self.gave_up(taken, error).await),
        }
    }

    /// Waits for something, unless the run shall end.
    pub async fn unless_over<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        unless_over(self.node, self.entry, work).await
    }

    async fn points(&self, vault: &Arc<Repository>) -> Result<Earlier> {
        let (vault, known, vm) = (Arc::clone(vault), self.known.clone(), self.machine.id());
        answered(self.known, move || earlier(&vault, vm).map_err(|e| known.failed(e))).await
    }

    /// One instant of a machine of this host.
    async fn take(&self, handle: &'a Handle, points: &Earlier) -> Result<Taken> {
        let wish = CaptureWish {
            run: self.run_id(),
            purpose: Purpose { repository: self.known.repository.id, above: false },
            points: points.then(),
            full: self.way.full,
            excluded: excluded_of(&self.way.excluded_disks, self.path),
            consistency: self.way.consistency.clone(),
        };
        let (seen, owed) = self.capturing(handle).instant(wish).await?;
        let described = describe(&seen, self.run_id(), &self.node.networks.defined().switches);
        let disks = seen.disks.iter().map(TakenDisk::of).collect::<Result<Vec<_>>>();
        let (description, disks) = match described.and_then(|description| Ok((description, disks?))) {
            Ok(both) => both,
            Err(error) => return Err(self.capturing(handle).gave_up(seen, error, false).await),
        };
        Ok(Taken {
            vm: seen.vm.id,
            description,
            taken_at_ms: seen.taken_at_ms,
            disks,
            point: seen.point,
            consistency: seen.consistency,
            frozen_for: seen.frozen_for,
            took: seen.took,
            warnings: seen.warnings.clone(),
            holder: Holder::Own { seen: Box::new(seen), owed },
        })
    }

    /// Reads the instant into the vault.
    async fn save(
        &self,
        vault: &Arc<Repository>,
        taken: &Taken,
        parent: Option<Point>,
        moves: Moves,
    ) -> Result<Saved> {
        if parent.is_none() && taken.disks.iter().any(|disk| disk.since.is_ok()) {
            return Err(NodeError::Internal("changes are counted from no point".to_owned()));
        }
        let source = |disk: &TakenDisk| SourceDisk {
            name: disk.name.to_string(),
            served: disk.served.clone(),
            read: Arc::new(AtomicU64::new(0)),
            pace: self.way.pace.clone(),
        };
        let sources: Vec<SourceDisk> = taken.disks.iter().map(source).collect();
        let mut tags = marks::tags(taken.vm, self.run_id(), taken.consistency);
        tags.extend(self.way.tags.iter().cloned());
        let saving = Saving {
            vault: Arc::clone(vault),
            name: marks::point_name(self.path)?,
            disks: sources.clone(),
            description: taken.description.clone(),
            taken_at_ms: taken.taken_at_ms,
            tags,
            parent: parent.clone(),
        };
        let since = parent.as_ref().map(|parent| PointId::from_bytes(parent.id.0));
        let disks: Vec<DiskRun> = taken.disks.iter().map(|disk| disk.run(since)).collect();
        let shown = disks.clone();
        self.entry.change(&self.node.keeper, |run| run.machines[self.number].disks = shown).await;
        let job = Arc::new(Job::default());
        let counters = sources.iter().map(|source| (source.name.clone(), Arc::clone(&source.read))).collect();
        self.entry.reads(self.number, self.path, Arc::clone(&job), counters);
        let (ask, asked) = mpsc::channel(1);
        job.confirm_with(move || confirmed(&ask));
        let work = {
            let job = Arc::clone(&job);
            tokio::task::spawn_blocking(move || save(&saving, &job))
        };
        let (report, whole) = self.watch(&job, taken, asked, moves, work).await?;
        let read = |(disk, source): (DiskRun, &SourceDisk)| DiskRun {
            read_bytes: source.read.load(Relaxed),
            ..disk
        };
        Ok(Saved { report, whole, disks: disks.into_iter().zip(&sources).map(read).collect() })
    }

    /// Waits for the save, tells how far it is, and ends it when the run shall end. When all is read, and before there is
    /// a point, whoever keeps the instant is asked for the proof that it was all of the one instant.
    async fn watch(
        &self,
        job: &Job,
        taken: &Taken,
        mut asked: mpsc::Receiver<Question>,
        mut moves: Moves,
        mut work: JoinHandle<std::result::Result<SaveReport, VaultError>>,
    ) -> Result<(SaveReport, Option<Whole>)> {
        let mut tick = interval(TELL_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.tick().await;
        let mut whole = Ok(None);
        let done = loop {
            tokio::select! {
                done = &mut work => break done.map_err(|e| NodeError::Internal(e.to_string()))?,
                Some(question) = asked.recv() => {
                    whole = match &taken.holder {
                        Holder::Own { seen, .. } => proof(seen).await,
                        Holder::Inside(borrowed) => self.unless_over(borrowed.confirm()).await.map(|()| None),
                    };
                    // An error means that the save has ended meanwhile.
                    let _ = question.send(whole.is_ok());
                }
                () = self.entry.cancel.cancelled() => break self.cancelled(job, asked, work).await?,
                () = self.node.stopping.cancelled() => break self.cancelled(job, asked, work).await?,
                _ = tick.tick() => {
                    self.tell_progress(job);
                    if let Holder::Inside(borrowed) = &taken.holder
                        && let Err(why) = moves.look(job.progress(), borrowed.is_waited_for(), Instant::now())
                    {
                        let late = borrowed.is_late(why);
                        match self.cancelled(job, asked, work).await {
                            Ok(Ok(done)) => break Ok(done),
                            _ => return Err(late),
                        }
                    }
                }
            }
        };
        // Why there is no proof says more than that the save ended for it.
        let whole = whole?;
        Ok((done.map_err(|e| self.known.failed(e))?, whole))
    }

    async fn cancelled<T>(
        &self,
        job: &Job,
        asked: mpsc::Receiver<Question>,
        work: JoinHandle<T>,
    ) -> Result<T> {
        job.cancel();
        // Nobody answers any more, so there will be no point.
        drop(asked);
        match timeout(CANCEL_PATIENCE, work).await {
            // It may have come to its end just before.
            Ok(done) => done.map_err(|e| NodeError::Internal(e.to_string())),
            Err(_) => Err(NodeError::Cancelled),
        }
    }

    fn tell_progress(&self, job: &Job) {
        let at = job.progress();
        if at.total == 0 {
            return;
        }
        let message =
            format!("{}: {} %", at.stage, u128::from(at.done.min(at.total)) * 100 / u128::from(at.total));
        self.node.events.tell(EventKind::BackupProgress, self.path.to_string(), message);
    }

    /// There is no point: what was begun is given back, and the reason is found.
    async fn gave_up(&self, taken: Taken, error: NodeError) -> NodeError {
        let unread = matches!(&error, NodeError::Vault { source, .. } if is_read_error(source));
        match (taken.holder, self.machine) {
            (Holder::Own { seen, .. }, Machine::Own(handle)) => {
                self.capturing(handle).gave_up(*seen, error, unread).await
            }
            (Holder::Inside(borrowed), _) => borrowed.gave_up(error, unread).await,
            // What was taken of a machine of this host is given back by its handle alone.
            (Holder::Own { .. }, Machine::Inside(_)) => error,
        }
    }
}

impl TakenDisk {
    pub fn of(disk: &crate::vm::capture::SeenDisk) -> Result<Self> {
        let context = disk.context.clone().filter(|_| disk.since.is_ok());
        Ok(Self {
            name: place_of(&disk.disk).to_string().parse()?,
            bytes: disk.bytes,
            since: disk.since.map(drop),
            served: Served::Nbd { socket: disk.socket.clone(), export: disk.export.clone(), context },
        })
    }

    pub fn run(&self, parent: Option<PointId>) -> DiskRun {
        let reading = match (self.since, parent) {
            (Ok(()), Some(since)) => Reading::Changes { since },
            (Err(why), Some(with)) => Reading::Compared { with, why },
            (Err(why), None) => Reading::Whole { why },
            (Ok(()), None) => Reading::Whole { why: NotTracked::UnknownPoint },
        };
        DiskRun {
            name: self.name.clone(),
            total_bytes: self.bytes,
            read_bytes: 0,
            new_bytes: 0,
            stored_bytes: 0,
            reading: Some(reading),
        }
    }
}

/// Whether the disks could not be read, and not the repository written.
fn is_read_error(error: &VaultError) -> bool {
    matches!(error, VaultError::Block(_))
}

/// What the point says of the machine.
pub fn describe(seen: &Seen, run: RunId, switches: &[Switch]) -> Result<Vec<u8>> {
    let mut described = Description::new(seen.vm.clone(), seen.taken_at_ms, seen.consistency, run);
    described.disks =
        seen.disks.iter().map(|disk| DescribedDisk::new(&disk.disk, disk.bytes, disk.begun)).collect();
    described.left_out.clone_from(&seen.left_out);
    let is_used = |switch: &&Switch| seen.vm.adapters.iter().any(|adapter| adapter.switch == Some(switch.id));
    let then = |switch: &Switch| SwitchThen { id: switch.id, name: switch.name.to_string() };
    described.switches = switches.iter().filter(is_used).map(then).collect();
    described.to_json().map_err(|e| NodeError::Internal(e.to_string()))
}
