use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::proof::PointVerdict;

/// A text that is never shown: a password, a key. Sent to a node, and never answered by one.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, format = Password)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A vault that the host knows by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Repository {
    pub id: Uuid,
    pub name: String,
    /// A directory, `s3:...`, `azure://...` or `gs://...`.
    pub location: String,
    #[serde(default)]
    pub upload_bytes_per_second_max: Option<u64>,
    /// Nothing in it is removed from this host.
    #[serde(default)]
    pub append_only: bool,
    pub created_at_ms: u64,
    /// What is in it; only when one repository is asked for, and it answers.
    #[serde(default)]
    pub contents: Option<RepositoryContents>,
    /// Why it can't be looked into; only when one repository is asked for.
    #[serde(default)]
    pub problem: Option<String>,
    /// After it was added: whether a new vault was made. False: one that lay there was taken over.
    #[serde(default)]
    pub created: Option<bool>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RepositoryContents {
    pub points: u64,
    /// Different names among the points.
    pub machines: u64,
    /// Snapshots that can't be read, each of which may be a point.
    pub unreadable: u64,
    pub stored_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewRepository {
    pub name: String,
    pub location: String,
    pub password: Secret,
    /// Of an object store, by the names of the environment's variables in small letters.
    #[serde(default)]
    pub settings: BTreeMap<String, Secret>,
    #[serde(default)]
    pub upload_bytes_per_second_max: Option<u64>,
    #[serde(default)]
    pub append_only: bool,
}

/// What to change; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct RepositoryChange {
    pub name: Option<String>,
    pub location: Option<String>,
    pub password: Option<Secret>,
    /// All of them: those that are not named are taken away.
    pub settings: Option<BTreeMap<String, Secret>>,
    /// 0: no limit any more.
    pub upload_bytes_per_second_max: Option<u64>,
    pub append_only: Option<bool>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Consistency {
    /// As after a power cut.
    Crash,
    /// File systems are written out and held still for the instant, through the guest agent.
    #[default]
    FileSystem,
    /// Applications are made ready, too, as `guest` says.
    Application,
}

/// An application of a guest that is made ready without scripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum GuestApplication {
    PostgreSql,
    /// MySQL, too.
    MariaDb,
}

/// A program and how long it may take; there is no shell in between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Program {
    /// Its path, where it runs.
    pub program: String,
    #[serde(default)]
    pub arguments: Vec<String>,
    /// 300 when absent.
    #[serde(default)]
    pub seconds_max: Option<u32>,
}

impl Program {
    /// Its path and its arguments, split at blanks.
    pub fn split(line: &str, seconds_max: Option<u32>) -> Self {
        let mut words = line.split_whitespace().map(str::to_owned);
        Self { program: words.next().unwrap_or_default(), arguments: words.collect(), seconds_max }
    }
}

/// What is done in a guest so that its applications are ready at the instant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct GuestSteps {
    /// Those that must run there. Absent: those that are found there; empty: none.
    pub applications: Option<Vec<GuestApplication>>,
    /// Whether logs that the backup has made needless are removed there, once the point is durable.
    pub cut_logs: bool,
    /// PostgreSQL's directory of archived logs; what its archive_command names when absent.
    pub postgresql_archive: Option<String>,
    /// Run there before the instant, after it (whatever became of it), and once the point is durable.
    pub before: Vec<Program>,
    pub after: Vec<Program>,
    pub after_durable: Vec<Program>,
}

/// Which points of a machine stay: the last so many, and the last one of each hour, day, week, month and year.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Retention {
    pub last: u32,
    pub hourly: u32,
    pub daily: u32,
    pub weekly: u32,
    pub monthly: u32,
    pub yearly: u32,
    /// Every point that is younger stays.
    pub within_hours: u32,
}

/// Machines to be backed up now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewRun {
    /// Names or ids.
    pub vms: Vec<String>,
    /// The only one when absent.
    #[serde(default)]
    pub repository: Option<String>,
    #[serde(default)]
    pub consistency: Consistency,
    /// The longest that the guest is held still; 10 when absent.
    #[serde(default)]
    pub freeze_seconds_max: Option<u32>,
    /// Only these mount points of the guest; all when empty.
    #[serde(default)]
    pub freeze_mount_points: Vec<String>,
    /// No backup at all if the consistency can't be reached; else the backup goes on and says so.
    #[serde(default)]
    pub fail_if_inconsistent: bool,
    /// With the consistency `Application`.
    #[serde(default)]
    pub guest: Option<GuestSteps>,
    /// Disks to be left out: `scsi:1`, `ide:0`, `file:*scratch*`.
    #[serde(default)]
    pub exclude_disks: Vec<String>,
    /// Read everything, whatever is known of what changed.
    #[serde(default)]
    pub full: bool,
    #[serde(default)]
    pub tags: Vec<String>,
    /// The new points stay until they are unpinned.
    #[serde(default)]
    pub pin: bool,
    /// The new points stay at least that long.
    #[serde(default)]
    pub protect_hours: Option<u32>,
    /// Applied to each machine's points after its backup; all stay when absent.
    #[serde(default)]
    pub retention: Option<Retention>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum RunState {
    Waiting,
    Running,
    Succeeded,
    SucceededWithWarnings,
    Failed,
    Cancelled,
    Interrupted,
}

/// How a disk was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Reading {
    /// Only what changed since a point.
    Changes,
    /// All that is allocated, and compared with a point.
    Compared,
    /// All that is allocated.
    Whole,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskRun {
    /// What the disk is called in the point.
    pub name: String,
    pub total_bytes: u64,
    pub read_bytes: u64,
    /// What the repository did not have yet, where that can be told of one disk.
    #[serde(default)]
    pub new_bytes: u64,
    /// What that takes there.
    #[serde(default)]
    pub stored_bytes: u64,
    #[serde(default)]
    pub reading: Option<Reading>,
    /// Why not only what changed was read.
    #[serde(default)]
    pub reason: Option<String>,
    /// The point that it counts from, or was compared with.
    #[serde(default)]
    pub earlier_point: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MachineRun {
    pub vm: String,
    pub vm_id: Uuid,
    pub state: RunState,
    #[serde(default)]
    pub started_at_ms: Option<u64>,
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
    #[serde(default)]
    pub disks: Vec<DiskRun>,
    /// What the repository did not have yet.
    #[serde(default)]
    pub new_bytes: u64,
    /// What that takes there.
    #[serde(default)]
    pub stored_bytes: u64,
    /// How long the guest's file systems stood still.
    #[serde(default)]
    pub frozen_ms: u64,
    /// From the first step to the instant.
    #[serde(default)]
    pub capture_ms: u64,
    /// From the instant to the durable point.
    #[serde(default)]
    pub save_ms: u64,
    #[serde(default)]
    pub point: Option<String>,
    /// `Crash`, `FileSystem`, `Application` or `Off`.
    #[serde(default)]
    pub consistency: Option<String>,
    #[serde(default)]
    pub warnings: Vec<String>,
    /// Why it failed.
    #[serde(default)]
    pub reason: Option<String>,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RunProgress {
    pub vm: String,
    pub stage: String,
    pub done: u64,
    /// 0: not known.
    pub total: u64,
    /// Whether these are bytes of disks.
    pub in_bytes: bool,
    pub stored_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Run {
    pub id: Uuid,
    pub number: u64,
    pub state: RunState,
    /// The job that it is a run of, by its name then.
    #[serde(default)]
    pub job: Option<String>,
    #[serde(default)]
    pub job_id: Option<Uuid>,
    /// Who or what wanted it.
    pub causes: Vec<String>,
    pub repository: String,
    pub created_at_ms: u64,
    #[serde(default)]
    pub started_at_ms: Option<u64>,
    #[serde(default)]
    pub ended_at_ms: Option<u64>,
    pub machines: Vec<MachineRun>,
    #[serde(default)]
    pub warnings: Vec<String>,
    #[serde(default)]
    pub reason: Option<String>,
    /// While it runs.
    #[serde(default)]
    pub progress: Option<RunProgress>,
    /// Of further machines that are under way at the same time.
    #[serde(default)]
    pub more_progress: Vec<RunProgress>,
}

/// A recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Point {
    pub id: String,
    pub repository: String,
    /// The machine's name then.
    pub vm: String,
    /// The machine's id; absent for a point that was saved without a node.
    #[serde(default)]
    pub vm_id: Option<Uuid>,
    /// Whether the machine is one of this host.
    #[serde(default)]
    pub is_here: bool,
    /// The instant.
    pub taken_at_ms: u64,
    #[serde(default)]
    pub run_id: Option<Uuid>,
    /// `Crash`, `FileSystem`, `Application` or `Off`.
    #[serde(default)]
    pub consistency: Option<String>,
    /// Of all its disks, holes included.
    #[serde(default)]
    pub size_bytes: Option<u64>,
    /// What the repository grew by.
    #[serde(default)]
    pub stored_bytes: u64,
    #[serde(default)]
    pub pinned: bool,
    #[serde(default)]
    pub protected_until_ms: Option<u64>,
    #[serde(default)]
    pub damaged: bool,
    /// What this host's newest test of it found.
    #[serde(default)]
    pub proof: Option<PointVerdict>,
    #[serde(default)]
    pub tags: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Points {
    /// Newest first.
    pub points: Vec<Point>,
    /// Older ones that were left out.
    #[serde(default)]
    pub left_out: u64,
    /// So many more are of earlier machines of the name that was asked for.
    #[serde(default)]
    pub earlier: u64,
    /// What could not be looked at.
    #[serde(default)]
    pub problems: Vec<String>,
}

/// What to change; what is absent stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct PointChange {
    pub pinned: Option<bool>,
    /// Only ever prolongs.
    pub protect_until_ms: Option<u64>,
    /// Take the protection away.
    pub unprotect: bool,
    pub add_tags: Vec<String>,
    pub remove_tags: Vec<String>,
}
