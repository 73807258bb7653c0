//! One machine of a run: from the look at its earlier points to the new one.
//!
//! The machine's task makes the instant and takes back what came to nothing; all that takes long happens here, beside
//! it. What changes the machine meanwhile wins (it starts, it is shut down, it is saved): then the backup begins again
//! with the machine as it is. What comes after the point is durable is `finish`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use nestling_hypervisor::capture::{CaptureError, Outcome, Whole};
use nestling_model::{
    DiskName, EventKind, Operation, Switch, VmPath,
    protection::{ConsistencyReached, DiskRun, Durations, PointId, Reading, RunId},
};
use nestling_vault::{Job, Point, Repository, SaveReport, VaultError};
use tokio::{
    sync::mpsc,
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    conduct::{Way, excluded_of},
    description::{DescribedDisk, Description, SwitchThen, place_of},
    earlier::{Earlier, earlier},
    marks,
    repositories::{Known, answered},
    runs::Entry,
    saving::{Saving, SourceDisk, save},
};
use crate::{
    NodeError,
    error::Result,
    node::Shared,
    vm::{
        Handle,
        capture::{CaptureWish, Held, Seen},
    },
};

/// A machine that changes its state again and again is backed up by a later run.
const ATTEMPTS: u32 = 4;
/// For an operation on the machine to end, a guest's shutdown included.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(330);
/// For a save that shall end to do so. One that hangs on a dead store is left behind; it can do no harm.
const CANCEL_PATIENCE: Duration = Duration::from_secs(20);
const TELL_INTERVAL: Duration = Duration::from_secs(10);

pub struct Backup<'a> {
    pub node: &'a Arc<Shared>,
    pub entry: &'a Entry,
    pub known: &'a Known,
    pub way: &'a Way,
    pub handle: &'a Handle,
    pub path: &'a VmPath,
    /// Of the machine in its run.
    pub number: usize,
}

/// What the vault has.
pub struct Saved {
    pub report: SaveReport,
    /// Of an instant that an engine kept.
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

/// Images that no engine has do not change while they are served.
async fn proof(seen: &Seen) -> Result<Option<Whole>> {
    match &seen.held {
        Held::Images(_) => Ok(None),
        Held::Engine(capture) => {
            let whole = capture.whole().await;
            whole.map(Some).map_err(|source| NodeError::Capture { vm: seen.vm.name.clone(), source })
        }
    }
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

impl Backup<'_> {
    fn run_id(&self) -> RunId {
        self.entry.run().id
    }

    pub fn is_over(&self) -> bool {
        self.entry.cancel.is_cancelled() || self.node.stopping.is_cancelled()
    }

    pub async fn run(&self) -> Result<Done> {
        let mut attempt = 1;
        loop {
            let engine = self.handle.now().running;
            let error = match self.attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            self.take_back().await;
            if self.is_over() {
                return Err(NodeError::Cancelled);
            }
            // An engine that ends breaks off in many ways before it is known to have ended.
            let has_ended = engine
                .is_some_and(|engine| engine.machine.is_silent() || engine.machine.exit_now().is_some());
            if attempt == ATTEMPTS || !(has_ended || is_overtaken(&error)) {
                return Err(error);
            }
            let message = format!("begins again with the machine as it is: {}", error.message());
            self.node.events.tell(EventKind::BackupProgress, self.path.to_string(), message);
            self.entry.does(self.number, self.path, "waiting for the machine");
            self.handle.settled(SETTLE_TIMEOUT).await?;
            attempt += 1;
        }
    }

    /// What an attempt began on the machine is removed again.
    async fn take_back(&self) {
        let run = self.run_id();
        let taken = self.handle.ask(Operation::Modify, move |owner| Box::pin(owner.retire_run(run))).await;
        if let Err(error) = taken {
            // The next backup to this repository removes it.
            tracing::debug!(error = error.message(), "what a backup began is left for now");
        }
    }

    async fn attempt(&self) -> Result<Done> {
        self.entry.does(self.number, self.path, "opening the repository");
        let vault = self.unless_over(self.node.protection.repositories.open(self.known)).await?;
        self.entry.does(self.number, self.path, "looking at earlier points");
        let points = self.unless_over(self.points(&vault)).await?;
        let wish = CaptureWish {
            run: self.run_id(),
            repository: self.known.repository.id,
            points: points.then(),
            full: self.way.full,
            excluded: excluded_of(&self.way.excluded_disks, self.path),
            consistency: self.way.consistency.clone(),
        };
        let (seen, owed) = self.instant(wish).await?;
        self.node.steps.reached("instant made");
        let parent = seen.point.and_then(|number| points.points.get(number)).cloned();
        let begun = Instant::now();
        match self.save(&vault, &seen, parent.clone()).await {
            Ok(saved) => self.done(&vault, seen, parent, saved, begun.elapsed(), owed).await,
            Err(error) => Err(self.gave_up(seen, error).await),
        }
    }

    /// Waits for something, unless the run shall end.
    pub async fn unless_over<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            done = work => done,
            () = self.entry.cancel.cancelled() => Err(NodeError::Cancelled),
            () = self.node.stopping.cancelled() => Err(NodeError::Stopping),
        }
    }

    async fn points(&self, vault: &Arc<Repository>) -> Result<Earlier> {
        let (vault, known, vm) = (Arc::clone(vault), self.known.clone(), self.handle.now().vm.id);
        answered(self.known, move || earlier(&vault, vm).map_err(|e| known.failed(e))).await
    }

    /// Reads the instant into the vault.
    async fn save(&self, vault: &Arc<Repository>, seen: &Seen, parent: Option<Point>) -> Result<Saved> {
        let sources: Vec<SourceDisk> = seen
            .disks
            .iter()
            .map(|disk| SourceDisk {
                name: place_of(&disk.disk).to_string(),
                socket: disk.socket.clone(),
                export: disk.export.clone(),
                context: disk.context.clone().filter(|_| disk.since.is_ok()),
                read: Arc::new(AtomicU64::new(0)),
                pace: self.way.pace.clone(),
            })
            .collect();
        let mut tags = marks::tags(seen.vm.id, self.run_id(), seen.consistency);
        tags.extend(self.way.tags.iter().cloned());
        let saving = Saving {
            vault: Arc::clone(vault),
            name: marks::point_name(self.path)?,
            disks: sources.clone(),
            description: describe(seen, self.run_id(), &self.node.networks.defined().switches)?,
            taken_at_ms: seen.taken_at_ms,
            tags,
            parent: parent.clone(),
        };
        let disks = disk_runs(seen, &sources, parent.as_ref())?;
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
        let (report, whole) = self.watch(&job, seen, asked, work).await?;
        let read = |(disk, source): (DiskRun, &SourceDisk)| DiskRun {
            read_bytes: source.read.load(Relaxed),
            ..disk
        };
        Ok(Saved { report, whole, disks: disks.into_iter().zip(&sources).map(read).collect() })
    }

    /// Waits for the save, tells how far it is, and ends it when the run shall end. When all is read, and before there is
    /// a point, the engine is asked for the proof that it was all of the one instant.
    async fn watch(
        &self,
        job: &Job,
        seen: &Seen,
        mut asked: mpsc::Receiver<Question>,
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
                    whole = proof(seen).await;
                    // An error means that the save has ended meanwhile.
                    let _ = question.send(whole.is_ok());
                }
                () = self.entry.cancel.cancelled() => break self.cancelled(job, asked, work).await?,
                () = self.node.stopping.cancelled() => break self.cancelled(job, asked, work).await?,
                _ = tick.tick() => self.tell_progress(job),
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
    pub async fn gave_up(&self, seen: Seen, error: NodeError) -> NodeError {
        let vm = || seen.vm.name.clone();
        match seen.held {
            Held::Engine(mut capture) => {
                let trouble = match &error {
                    NodeError::Vault { source, .. } if is_read_error(source) => capture.whole().await.err(),
                    _ => None,
                };
                if let Err(error) = capture.finish(&Outcome::Failed).await {
                    tracing::debug!(%error, "a capture that failed could not be ended properly");
                }
                trouble.map_or(error, |source| NodeError::Capture { vm: vm(), source })
            }
            Held::Images(reading) => {
                let why = reading.ended().map(str::to_owned);
                reading.end().await;
                match why {
                    Some(why) => NodeError::BackupEnded { vm: vm(), why },
                    None => error,
                }
            }
        }
    }
}

/// Whether the machine went on to another state, with which it can be tried again.
fn is_overtaken(error: &NodeError) -> bool {
    matches!(
        error,
        NodeError::Interrupted { .. }
            | NodeError::State { .. }
            | NodeError::NoEngine(_)
            | NodeError::BackupEnded { .. }
            | NodeError::Capture {
                source: CaptureError::Gone(_) | CaptureError::Ended { .. } | CaptureError::State { .. },
                ..
            }
    )
}

/// Whether the disks could not be read, and not the repository written.
fn is_read_error(error: &VaultError) -> bool {
    matches!(error, VaultError::Block(_))
}

fn describe(seen: &Seen, run: RunId, switches: &[Switch]) -> Result<Vec<u8>> {
    let mut described = Description::new(seen.vm.clone(), seen.taken_at_ms, seen.consistency, run);
    described.disks =
        seen.disks.iter().map(|disk| DescribedDisk::new(&disk.disk, disk.bytes, disk.begun)).collect();
    described.left_out.clone_from(&seen.left_out);
    let is_used = |switch: &&Switch| seen.vm.adapters.iter().any(|adapter| adapter.switch == Some(switch.id));
    let then = |switch: &Switch| SwitchThen { id: switch.id, name: switch.name.to_string() };
    described.switches = switches.iter().filter(is_used).map(then).collect();
    described.to_json().map_err(|e| NodeError::Internal(e.to_string()))
}

fn disk_runs(seen: &Seen, sources: &[SourceDisk], parent: Option<&Point>) -> Result<Vec<DiskRun>> {
    let parent = parent.map(|parent| PointId::from_bytes(parent.id.0));
    let disk_run = |(disk, source): (&crate::vm::capture::SeenDisk, &SourceDisk)| {
        let name: DiskName = source.name.parse()?;
        let reading = match (disk.since, parent) {
            (Ok(_), Some(since)) => Reading::Changes { since },
            (Err(why), Some(with)) => Reading::Compared { with, why },
            (Err(why), None) => Reading::Whole { why },
            (Ok(_), None) => return Err(NodeError::Internal("changes are counted from no point".to_owned())),
        };
        Ok(DiskRun {
            name,
            total_bytes: disk.bytes,
            read_bytes: 0,
            new_bytes: 0,
            stored_bytes: 0,
            reading: Some(reading),
        })
    };
    seen.disks.iter().zip(sources).map(disk_run).collect()
}
