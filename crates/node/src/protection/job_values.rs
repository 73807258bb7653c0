//! What the use cases of jobs are asked with and what they answer.

use nestling_model::{
    VmId, VmPath,
    protection::{
        AfterEnd, Consistency, DiskSelector, Job, Join, Keep, MachineOrder, NotTracked, Notice, Objective,
        PointId, Proving, Retention, Rule, RunState, Schedule, Script, Selector,
    },
};

use super::objectives::Missed;

/// How a job is to be; what is absent stays as it is, or is as usual in a new one.
#[derive(Debug, Clone, Default)]
pub struct JobSettings {
    pub notes: Option<String>,
    pub enabled: Option<bool>,
    pub include: Option<Vec<Selector>>,
    pub exclude: Option<Vec<Selector>>,
    pub rules: Option<Vec<Rule>>,
    pub join: Option<Join>,
    pub repository: Option<String>,
    pub schedule: Option<Option<Schedule>>,
    pub retention: Option<Option<Retention>>,
    pub keep: Option<Keep>,
    pub consistency: Option<Consistency>,
    pub excluded_disks: Option<Vec<DiskSelector>>,
    pub bytes_per_second_max: Option<Option<u64>>,
    pub parallel: Option<u32>,
    pub order: Option<MachineOrder>,
    pub after: Option<Vec<JobAfter>>,
    pub copies: Option<Vec<JobCopy>>,
    pub scripts_before: Option<Vec<Script>>,
    pub scripts_after: Option<Vec<Script>>,
    pub webhooks: Option<Vec<Notice>>,
    pub mails: Option<Vec<Notice>>,
    pub objective: Option<Option<Objective>>,
    pub proving: Option<Option<Proving>>,
}

/// A job that another one follows, by its name or id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobAfter {
    pub job: String,
    pub end: AfterEnd,
}

/// A second place for what a job saves, by its name or id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobCopy {
    pub repository: String,
    pub retention: Option<Retention>,
}

/// A run in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRun {
    pub number: u64,
    pub state: RunState,
    pub ended_at_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobView {
    pub job: Job,
    pub repository: String,
    /// The names of the repositories of its copies, and of the jobs that it follows, in its order.
    pub copies: Vec<String>,
    pub after: Vec<String>,
    /// When it comes next by its schedule.
    pub next_ms: Option<u64>,
    /// The number of its run that is under way.
    pub running: Option<u64>,
    /// The last one that has ended.
    pub last: Option<JobRun>,
    pub missed: Vec<Missed>,
}

/// What a run of a job would do now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobPlan {
    pub repository: String,
    /// In their order.
    pub machines: Vec<PlannedMachine>,
    /// Machines that would be covered, were they not excluded, and what excludes them.
    pub excluded: Vec<(VmPath, String)>,
    /// Why it would fail.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedMachine {
    pub path: VmPath,
    pub id: VmId,
    /// What names it; `None`: the rules.
    pub named_by: Option<String>,
    /// The earlier point that it counts from or is compared with.
    pub point: Option<PointId>,
    pub disks: Vec<PlannedDisk>,
    pub left_out: Vec<String>,
    /// Why it would fail.
    pub problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedDisk {
    pub name: String,
    pub bytes: u64,
    /// Why not only what changed would be read.
    pub why_not: Option<NotTracked>,
}
