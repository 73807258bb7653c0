//! The vocabulary of protection: repositories, jobs with their schedules and selections, runs, recovery points.
//!
//! Like all of this crate these are values, and what can be decided from values alone is decided here: when a schedule
//! comes, which machines a job covers, what starts now, whose objective is missed. The time is always an argument, in
//! milliseconds since 1970-01-01T00:00:00Z. Nothing here ever holds a secret: it is named, and lies elsewhere.

pub mod consistency;
pub mod due;
pub mod history;
pub mod id;
pub mod job;
pub mod location;
pub mod message;
pub mod notice;
pub mod objective;
pub mod pattern;
pub mod point;
pub mod policy;
pub mod proof;
pub mod repository;
pub mod retention;
pub mod rule;
pub mod run;
pub mod run_state;
pub mod schedule;
pub mod script;
pub mod selection;

#[cfg(test)]
mod samples;
#[cfg(test)]
mod stored_tests;

pub use consistency::{Application, Consistency, Freeze, OnFailure, VssMode};
pub use due::{CLOCK_SLACK_MS, Due, due};
pub use history::removable;
pub use id::{IdError, JobId, PointId, RepositoryId, RunId};
pub use job::{Job, JobInvalid, Known};
pub use location::{Location, LocationInvalid};
pub use message::{Message, Warnings};
pub use notice::{
    MailAddress, MailServer, MailTls, Notice, NoticeInvalid, NoticeWhen, Recipient, SecretName, WebUrl,
};
pub use objective::{MissedObjective, Objective, missed_objective};
pub use pattern::PathPattern;
pub use point::{ConsistencyReached, PointDisk, Proof, RecoveryPoint};
pub use policy::{
    After, AfterEnd, CopyTo, DiskExclude, DiskSelector, JobPolicy, MachineOrder, PolicyInvalid,
};
pub use proof::{PointProof, ProofRun, Proving, Signs, SignsInvalid};
pub use repository::{Repository, RepositoryInvalid};
pub use retention::{Keep, Retention, RetentionInvalid};
pub use rule::{Comparison, Fact, Rule, RuleError};
pub use run::{Cause, DiskRun, Durations, MachineRun, NotTracked, Reading, Run, RunInvalid};
pub use run_state::{RunRefused, RunState, RunStep};
pub use schedule::{MissedRun, Schedule, ScheduleError, ScheduleProblem, Zone};
pub use script::{Command, CommandInvalid, Script};
pub use selection::{Candidate, Cover, Join, Rules, Selection, SelectionInvalid, Selector, SelectorError};
