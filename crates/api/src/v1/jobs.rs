use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    proof::JobProof,
    protection::{Consistency, GuestSteps, Reading, Retention, RunState},
};

/// How a job is. In a change, what is absent stays; in a new job it is as usual.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct JobSettings {
    pub notes: Option<String>,
    /// A job that is not enabled runs only when a person asks for it.
    pub enabled: Option<bool>,
    /// Names of machines, with `*` and `?`, or `tag:` and a tag, or `id:` and an id. Who fits joins by itself.
    pub vms: Option<Vec<String>>,
    /// Written in the same way. What is named here is left out, whatever covers it.
    pub exclude_vms: Option<Vec<String>>,
    /// Conditions that also cover a machine: `memory>=4GB`, `state=Running`, `switch=LAN`, `name!=*test*`, `tag=prod`.
    pub rules: Option<Vec<String>>,
    /// Whether one of the rules suffices; else all of them must hold.
    pub any_rule: Option<bool>,
    pub repository: Option<String>,
    /// `every 15 minutes`, `daily at 22:30 Europe/Berlin`; empty: none.
    pub schedule: Option<String>,
    /// All counts 0: every point stays.
    pub retention: Option<Retention>,
    pub keep: Option<JobKeep>,
    pub consistency: Option<JobConsistency>,
    /// Disks to be left out: `scsi:1`, `ide:0`, `file:*scratch*`.
    pub exclude_disks: Option<Vec<String>>,
    /// What a run reads a second at most; 0: no limit.
    pub read_bytes_per_second_max: Option<u64>,
    /// How many machines are backed up at once.
    pub parallel: Option<u32>,
    pub order: Option<JobOrder>,
    pub after: Option<Vec<JobAfter>>,
    pub copies: Option<Vec<JobCopy>>,
    /// Programs of the host, before the first machine and after the last.
    pub scripts_before: Option<Vec<JobScript>>,
    pub scripts_after: Option<Vec<JobScript>>,
    pub webhooks: Option<Vec<JobWebhook>>,
    /// Through the host's mail server.
    pub mails: Option<Vec<JobMail>>,
    /// How old a machine's newest point may become; 0: no matter.
    pub objective_seconds: Option<u64>,
    /// Whether what it saved is booted as a test, and how.
    pub proof: Option<JobProof>,
}

const TAG: &str = "tag:";

impl JobSettings {
    /// What `vms` becomes when names, tags or both of them are replaced; what is not given stays.
    pub fn with_machines(
        &self,
        names: Option<Vec<String>>,
        tags: Option<Vec<String>>,
    ) -> Option<Vec<String>> {
        if names.is_none() && tags.is_none() {
            return None;
        }
        let before = |is_tag: bool| {
            let all = self.vms.iter().flatten();
            all.filter(|text| text.starts_with(TAG) == is_tag).cloned().collect::<Vec<_>>()
        };
        let tags = tags.map(|tags| tags.iter().map(|tag| format!("{TAG}{tag}")).collect());
        let mut all = names.unwrap_or_else(|| before(false));
        all.extend(tags.unwrap_or_else(|| before(true)));
        Some(all)
    }

    /// What of `vms` are no tags, and the tags without the word before them.
    pub fn machines(&self) -> (Vec<String>, Vec<String>) {
        let (mut names, mut tags) = (Vec::new(), Vec::new());
        for text in self.vms.iter().flatten() {
            match text.strip_prefix(TAG) {
                Some(tag) => tags.push(tag.to_owned()),
                None => names.push(text.clone()),
            }
        }
        (names, tags)
    }
}

/// How the points that a job makes are marked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct JobKeep {
    /// They stay until they are unpinned.
    pub pin: bool,
    /// They stay at least that long.
    pub protect_hours: Option<u32>,
}

/// What a guest's disks are worth at the instant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct JobConsistency {
    pub level: Consistency,
    /// The longest that the guest is held still; 10 when absent.
    pub freeze_seconds_max: Option<u32>,
    /// Only these mount points of the guest; all when empty.
    pub freeze_mount_points: Vec<String>,
    /// No backup at all if it can't be reached; else the backup goes on and says so.
    pub fail_if_inconsistent: bool,
    /// With the level `Application`.
    pub guest: Option<GuestSteps>,
}

/// In which order a job's machines come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum JobOrder {
    /// As they are listed, then by name.
    #[default]
    Listed,
    Name,
    /// Those first that have no recovery point, then those whose newest is oldest.
    OldestPointFirst,
    SmallestFirst,
    LargestFirst,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum JobEnd {
    /// With or without warnings.
    #[default]
    Success,
    Failure,
    Any,
}

/// A job whose end starts this one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobAfter {
    pub job: String,
    #[serde(default)]
    pub end: JobEnd,
}

/// A second place for each new point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobCopy {
    pub repository: String,
    /// Everything stays there when absent.
    #[serde(default)]
    pub retention: Option<Retention>,
}

/// A program of the host; there is no shell in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobScript {
    /// With its whole path.
    pub program: String,
    #[serde(default)]
    pub arguments: Vec<String>,
    /// 300 when absent.
    #[serde(default)]
    pub seconds_max: Option<u32>,
    /// Whether the run fails with it; else there is a warning.
    #[serde(default)]
    pub must_succeed: bool,
}

/// An address that gets an object in JSON when a run has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobWebhook {
    pub url: String,
    #[serde(default)]
    pub on_success: bool,
    #[serde(default = "yes")]
    pub on_warnings: bool,
    #[serde(default = "yes")]
    pub on_failure: bool,
    #[serde(default = "yes")]
    pub on_missed_objective: bool,
}

/// People who get a mail when a run has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobMail {
    /// `name@example.org`; each gets a mail of its own.
    pub addresses: Vec<String>,
    #[serde(default)]
    pub on_success: bool,
    #[serde(default = "yes")]
    pub on_warnings: bool,
    #[serde(default = "yes")]
    pub on_failure: bool,
    #[serde(default = "yes")]
    pub on_missed_objective: bool,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewJob {
    pub name: String,
    #[serde(default)]
    pub settings: JobSettings,
}

/// What to change; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct JobChange {
    pub name: Option<String>,
    pub settings: JobSettings,
}

/// A backup job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    pub id: Uuid,
    pub name: String,
    /// All of them.
    pub settings: JobSettings,
    pub created_at_ms: u64,
    /// When it comes next by its schedule.
    #[serde(default)]
    pub next_run_ms: Option<u64>,
    /// The number of its run that is under way.
    #[serde(default)]
    pub running: Option<u64>,
    /// The last run that has ended.
    #[serde(default)]
    pub last_run: Option<JobRun>,
    /// Machines whose newest point is older than the objective allows.
    #[serde(default)]
    pub missed: Vec<JobMissed>,
}

/// A run in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobRun {
    pub number: u64,
    pub state: RunState,
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobMissed {
    pub vm: String,
    pub vm_id: Uuid,
    /// Absent: it has no point.
    #[serde(default)]
    pub newest_point_ms: Option<u64>,
    /// How long ago it had to be followed by another.
    pub late_ms: u64,
}

/// What a run of a job would do now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JobPlan {
    pub repository: String,
    /// In the order of their turns.
    pub machines: Vec<PlannedMachine>,
    #[serde(default)]
    pub excluded: Vec<ExcludedMachine>,
    /// Why it would fail.
    #[serde(default)]
    pub problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedMachine {
    pub vm: String,
    pub vm_id: Uuid,
    /// What names it; absent: the rules.
    #[serde(default)]
    pub named_by: Option<String>,
    /// The earlier point that it counts from or is compared with.
    #[serde(default)]
    pub earlier_point: Option<String>,
    pub disks: Vec<PlannedDisk>,
    /// Disks that are left out.
    #[serde(default)]
    pub left_out: Vec<String>,
    /// Why it would fail.
    #[serde(default)]
    pub problem: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlannedDisk {
    pub name: String,
    pub total_bytes: u64,
    pub reading: Reading,
    /// Why not only what changed would be read.
    #[serde(default)]
    pub reason: Option<String>,
}

/// A machine that would be covered, and what excludes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExcludedMachine {
    pub vm: String,
    pub by: String,
}

/// What a run did, for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunLog {
    /// Lines that begin with their time.
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn names_and_tags_are_replaced_each_by_itself() {
        let before = JobSettings { vms: Some(texts(&["tag:prod", "web*"])), ..JobSettings::default() };
        assert_eq!(before.with_machines(None, None), None);
        assert_eq!(before.with_machines(Some(texts(&["db*"])), None), Some(texts(&["db*", "tag:prod"])));
        assert_eq!(
            before.with_machines(None, Some(texts(&["a", "b"]))),
            Some(texts(&["web*", "tag:a", "tag:b"]))
        );
        assert_eq!(before.with_machines(None, Some(Vec::new())), Some(texts(&["web*"])));
        assert_eq!(before.machines(), (texts(&["web*"]), texts(&["prod"])));
    }
}
