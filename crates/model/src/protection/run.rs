//! A run of a job, or of a single wish of a person: what was done, to which machine, with which result.
//!
//! It is written down before it begins, and again whenever something in it ends. Texts and counts are bounded, because
//! what is told in them may come from guests.

use serde::{Deserialize, Serialize};

use super::{
    id::{JobId, PointId, RepositoryId, RunId},
    message::{Message, Warnings},
    point::ConsistencyReached,
    run_state::{RunRefused, RunState, RunStep, admit},
};
use crate::{
    disk::DISKS_MAX,
    name::{DiskName, JobName},
    path::VmPath,
    vm::VmId,
};

/// How many machines one run may have.
pub const RUN_MACHINES_MAX: usize = 10_000;
/// How many reasons one run may have: its schedule, a person, and each job that it follows.
pub const CAUSES_MAX: usize = 2 + super::policy::AFTER_MAX;

/// Why a run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Cause {
    /// A time of the job's schedule, in milliseconds since 1970-01-01T00:00:00Z; not when the run began.
    Schedule { time_ms: u64 },
    /// A person asked for it.
    Person { name: Message },
    /// A run of a job that this one follows has ended.
    Chain { job: JobId, run: RunId, number: u64 },
    /// A run of this job that began by itself was interrupted by the end of the node.
    Again { run: RunId, number: u64 },
}

/// Why not only what changed was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NotTracked {
    /// There is no earlier recovery point of this disk in the repository.
    FirstPoint,
    /// No earlier point carries a number that the disk's tracking knows.
    UnknownPoint,
    BitmapMissing,
    BitmapInconsistent,
    NotRecording,
    /// The disk has another size than it had.
    SizeChanged,
    GranularityChanged,
    /// The image's file is not as the engine left it: somebody else may have written to it.
    ImageTouched,
    /// The image's format keeps no tracking when the engine ends.
    EngineEnded,
    /// A recovery wrote the disk since.
    Recovered,
    /// A person wanted everything read.
    Asked,
}

impl NotTracked {
    /// For people, as the end of a sentence: "everything was compared, because ...".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FirstPoint => "it is the first recovery point of this disk here",
            Self::UnknownPoint => "the change tracking belongs to no recovery point that is left here",
            Self::BitmapMissing => "the change tracking is gone",
            Self::BitmapInconsistent => "the change tracking was not closed properly",
            Self::NotRecording => "the change tracking did not record",
            Self::SizeChanged => "the disk has another size than before",
            Self::GranularityChanged => "the change tracking counts in other units than before",
            Self::ImageTouched => "the image was written to while the machine was off",
            Self::EngineEnded => "an image of this format keeps no change tracking when the machine stops",
            Self::Recovered => "the disk was recovered since",
            Self::Asked => "it was asked for",
        }
    }
}

/// How a disk was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reading {
    /// Only what changed since a point.
    Changes { since: PointId },
    /// All that is allocated, and compared with a point.
    Compared { with: PointId, why: NotTracked },
    /// All that is allocated.
    Whole { why: NotTracked },
}

impl Reading {
    pub const fn is_incremental(&self) -> bool {
        matches!(self, Self::Changes { .. })
    }

    pub const fn why_not(&self) -> Option<NotTracked> {
        match self {
            Self::Changes { .. } => None,
            Self::Compared { why, .. } | Self::Whole { why } => Some(*why),
        }
    }
}

/// What was done with one disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskRun {
    pub name: DiskName,
    /// The disk's virtual size.
    #[serde(default)]
    pub total_bytes: u64,
    #[serde(default)]
    pub read_bytes: u64,
    /// What the repository did not have yet, where that can be told of one disk.
    #[serde(default)]
    pub new_bytes: u64,
    /// What that takes in the repository, compressed.
    #[serde(default)]
    pub stored_bytes: u64,
    /// `None` until it is known.
    #[serde(default)]
    pub reading: Option<Reading>,
}

/// How long it took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Durations {
    /// The guest's file systems stood still.
    pub frozen_ms: u64,
    /// From the first step to the instant.
    pub capture_ms: u64,
    /// From the instant until the point was durable.
    pub save_ms: u64,
}

/// What was done with one machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineRun {
    pub path: VmPath,
    pub id: VmId,
    pub state: RunState,
    #[serde(default)]
    pub started_at_ms: Option<u64>,
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
    #[serde(default)]
    pub disks: Vec<DiskRun>,
    /// What the repository did not have yet, of all disks together: what two of them share is counted once.
    #[serde(default)]
    pub new_bytes: u64,
    /// What that takes in the repository, compressed.
    #[serde(default)]
    pub stored_bytes: u64,
    #[serde(default)]
    pub durations: Durations,
    /// The recovery point that was made.
    #[serde(default)]
    pub point: Option<PointId>,
    #[serde(default)]
    pub consistency: Option<ConsistencyReached>,
    #[serde(default)]
    pub warnings: Warnings,
    /// Why it failed or was ended.
    #[serde(default)]
    pub reason: Option<Message>,
}

impl MachineRun {
    pub fn new(path: VmPath, id: VmId) -> Self {
        Self {
            path,
            id,
            state: RunState::Waiting,
            started_at_ms: None,
            ended_at_ms: None,
            disks: Vec::new(),
            new_bytes: 0,
            stored_bytes: 0,
            durations: Durations::default(),
            point: None,
            consistency: None,
            warnings: Warnings::default(),
            reason: None,
        }
    }

    /// Goes one step, at a time.
    pub fn step(&mut self, step: RunStep, now_ms: u64) -> Result<(), RunRefused> {
        self.state = admit(self.state, step)?;
        mark(self.state, &mut self.started_at_ms, &mut self.ended_at_ms, now_ms);
        Ok(())
    }
}

fn mark(state: RunState, started: &mut Option<u64>, ended: &mut Option<u64>, now_ms: u64) {
    match state {
        RunState::Running => *started = Some(now_ms),
        _ => *ended = Some(now_ms),
    }
}

/// A run as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    pub id: RunId,
    /// Counts up by one for each run of this host, whatever the clock shows.
    pub number: u64,
    /// `None`: a person asked for machines to be backed up without a job.
    #[serde(default)]
    pub job: Option<JobId>,
    /// The job's name then: the run outlives it.
    #[serde(default)]
    pub job_name: Option<JobName>,
    /// One or more: a time and the end of another job may come together, and are one run.
    pub causes: Vec<Cause>,
    pub repository: RepositoryId,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub created_at_ms: u64,
    #[serde(default)]
    pub started_at_ms: Option<u64>,
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
    pub state: RunState,
    #[serde(default)]
    pub machines: Vec<MachineRun>,
    /// Of the run as a whole: scripts, copies, retention, notices.
    #[serde(default)]
    pub warnings: Warnings,
    /// Why it failed or was ended.
    #[serde(default)]
    pub reason: Option<Message>,
    /// It has ended, and those who want to know how were not told yet.
    #[serde(default)]
    pub untold: bool,
}

/// Why a run cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RunInvalid {
    #[error("a run has at most {RUN_MACHINES_MAX} machines; {0} were chosen: split the job")]
    Machines(usize),
    #[error("a machine's part of a run has at most {DISKS_MAX} disks; there are {0}")]
    Disks(usize),
    #[error("a run has 1 to {CAUSES_MAX} causes; there are {0}")]
    Causes(usize),
}

/// Sums over a run's machines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub total_bytes: u64,
    pub read_bytes: u64,
    pub new_bytes: u64,
    pub stored_bytes: u64,
}

impl Run {
    /// One of no job, which waits.
    pub fn waiting(
        id: RunId,
        causes: Vec<Cause>,
        repository: RepositoryId,
        machines: Vec<MachineRun>,
        created_at_ms: u64,
    ) -> Self {
        Self {
            id,
            number: 0,
            job: None,
            job_name: None,
            causes,
            repository,
            created_at_ms,
            started_at_ms: None,
            ended_at_ms: None,
            state: RunState::Waiting,
            machines,
            warnings: Warnings::default(),
            reason: None,
            untold: false,
        }
    }

    pub fn validate(&self) -> Result<(), RunInvalid> {
        if self.machines.len() > RUN_MACHINES_MAX {
            return Err(RunInvalid::Machines(self.machines.len()));
        }
        if let Some(machine) = self.machines.iter().find(|machine| machine.disks.len() > DISKS_MAX) {
            return Err(RunInvalid::Disks(machine.disks.len()));
        }
        if self.causes.is_empty() || self.causes.len() > CAUSES_MAX {
            return Err(RunInvalid::Causes(self.causes.len()));
        }
        Ok(())
    }

    /// Goes one step, at a time.
    pub fn step(&mut self, step: RunStep, now_ms: u64) -> Result<(), RunRefused> {
        self.state = admit(self.state, step)?;
        mark(self.state, &mut self.started_at_ms, &mut self.ended_at_ms, now_ms);
        Ok(())
    }

    /// How a run ends whose machines have all ended: as the worst of them. No machine at all is a warning: who asked
    /// for backups and gets none must be told.
    pub fn outcome(&self) -> RunStep {
        let is_any = |state: RunState| self.machines.iter().any(|machine| machine.state == state);
        if is_any(RunState::Failed) || is_any(RunState::Interrupted) {
            RunStep::Fail
        } else if is_any(RunState::Cancelled) {
            RunStep::Cancel
        } else if is_any(RunState::SucceededWithWarnings)
            || !self.warnings.is_empty()
            || self.machines.is_empty()
        {
            RunStep::SucceedWithWarnings
        } else {
            RunStep::Succeed
        }
    }

    /// Ends what a node that died left unfinished, machines included.
    pub fn interrupt(&mut self, now_ms: u64) -> Result<(), RunRefused> {
        self.step(RunStep::Interrupt, now_ms)?;
        for machine in self.machines.iter_mut().filter(|machine| !machine.state.has_ended()) {
            machine.step(RunStep::Interrupt, now_ms)?;
        }
        Ok(())
    }

    pub fn totals(&self) -> Totals {
        let mut sum = Totals::default();
        for machine in &self.machines {
            sum.new_bytes = sum.new_bytes.saturating_add(machine.new_bytes);
            sum.stored_bytes = sum.stored_bytes.saturating_add(machine.stored_bytes);
            for disk in &machine.disks {
                sum.total_bytes = sum.total_bytes.saturating_add(disk.total_bytes);
                sum.read_bytes = sum.read_bytes.saturating_add(disk.read_bytes);
            }
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protection::samples::{machine_run, run};

    fn ended(states: &[RunState]) -> Run {
        let machines = states.iter().map(|state| MachineRun { state: *state, ..machine_run() }).collect();
        Run { machines, state: RunState::Running, ..run(1, 1) }
    }

    #[test]
    fn a_run_ends_as_the_worst_of_its_machines() {
        use RunState::{Cancelled, Failed, Interrupted, Succeeded, SucceededWithWarnings};
        for (states, outcome) in [
            (&[Succeeded, Succeeded][..], RunStep::Succeed),
            (&[Succeeded, SucceededWithWarnings], RunStep::SucceedWithWarnings),
            (&[SucceededWithWarnings, Failed, Cancelled], RunStep::Fail),
            (&[Succeeded, Interrupted], RunStep::Fail),
            (&[Succeeded, Cancelled], RunStep::Cancel),
            (&[], RunStep::SucceedWithWarnings),
        ] {
            assert_eq!(ended(states).outcome(), outcome, "{states:?}");
        }
        let mut warned = ended(&[Succeeded]);
        warned.warnings.push("the copy is late");
        assert_eq!(warned.outcome(), RunStep::SucceedWithWarnings);
    }

    #[test]
    fn times_are_noted_with_the_steps() {
        let mut run = Run { machines: vec![machine_run()], ..run(1, 1) };
        run.step(RunStep::Begin, 5).unwrap();
        assert_eq!((run.started_at_ms, run.ended_at_ms), (Some(5), None));
        run.machines.push(MachineRun { state: RunState::Succeeded, ..machine_run() });
        run.interrupt(9).unwrap();
        assert_eq!((run.state, run.ended_at_ms), (RunState::Interrupted, Some(9)));
        let states: Vec<RunState> = run.machines.iter().map(|machine| machine.state).collect();
        assert_eq!(states, [RunState::Interrupted, RunState::Succeeded]);
        assert!(run.step(RunStep::Begin, 10).is_err());
        assert_eq!(run.ended_at_ms, Some(9));
    }

    #[test]
    fn counts_have_bounds() {
        let run = run(1, 1);
        assert_eq!(run.validate(), Ok(()));
        assert_eq!(Run { causes: Vec::new(), ..run.clone() }.validate(), Err(RunInvalid::Causes(0)));
        let machines = vec![machine_run(); RUN_MACHINES_MAX + 1];
        assert_eq!(Run { machines, ..run }.validate(), Err(RunInvalid::Machines(10_001)));
    }
}
