//! What the use cases of protection are asked with and what they answer.

use std::collections::BTreeMap;

use nestling_model::{
    RepositoryName, VmId, VmPath,
    protection::{Consistency, DiskSelector, Keep, Location, RecoveryPoint, Repository, Retention, Run},
};

use super::secrets::Secrets;

/// A repository to be known from now on.
#[derive(Debug)]
pub struct NewRepository {
    pub name: RepositoryName,
    pub location: Location,
    pub secrets: Secrets,
    pub upload_bytes_per_second_max: Option<u64>,
    pub append_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryAdded {
    pub repository: Repository,
    /// A new vault was made; else one that lay there was taken over.
    pub created: bool,
}

/// What to change; what is absent stays.
#[derive(Default)]
pub struct RepositoryChange {
    pub name: Option<RepositoryName>,
    pub location: Option<Location>,
    /// The inner absence: no limit.
    pub upload_bytes_per_second_max: Option<Option<u64>>,
    pub append_only: Option<bool>,
    pub password: Option<String>,
    /// Of the storage, all of them.
    pub settings: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryContents {
    pub points: u64,
    pub machines: u64,
    /// Snapshots that cannot be read; each may be a point.
    pub unreadable: u64,
    pub stored_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryView {
    pub repository: Repository,
    /// Or why it cannot be looked into.
    pub contents: std::result::Result<RepositoryContents, String>,
}

/// A wish that machines be backed up, now.
#[derive(Debug, Clone)]
pub struct BackupWish {
    /// Names or ids.
    pub vms: Vec<String>,
    /// `None`: the only one.
    pub repository: Option<String>,
    pub consistency: Consistency,
    pub excluded_disks: Vec<DiskSelector>,
    /// Whether all is read, whatever is known of what changed.
    pub full: bool,
    pub tags: Vec<String>,
    pub keep: Keep,
    /// Applied to each machine's points after its backup; `None`: all stay.
    pub retention: Option<Retention>,
}

/// How far a run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunProgress {
    pub machine: VmPath,
    pub stage: &'static str,
    pub done: u64,
    pub total: u64,
    /// Whether these are bytes of disks.
    pub in_bytes: bool,
    pub stored_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunView {
    pub run: Run,
    /// The repository's name, or its id if this host forgot it.
    pub repository: String,
    /// Of each machine under way; none when it does not run.
    pub progress: Vec<RunProgress>,
}

/// Which points are asked for.
#[derive(Debug, Clone, Default)]
pub struct PointsWish {
    /// A machine of this host, or one that is no more, by its name or id, or a name with * and ?.
    pub vm: Option<String>,
    /// Of earlier machines of the name of the one that is here.
    pub earlier: bool,
    /// `None`: all.
    pub repository: Option<String>,
    /// The newest so many are left out: they were seen before.
    pub skip: usize,
    /// And then so many.
    pub count_max: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointView {
    pub point: RecoveryPoint,
    pub repository: String,
    /// Of all its disks, holes included; `None`: whoever saved it did not say.
    pub size_bytes: Option<u64>,
    pub tags: Vec<String>,
    /// The machine of this host that it is a point of, if there is one; its name may be another one by now.
    pub vm: Option<VmId>,
}

/// The points that could be listed, and what could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointsView {
    /// Newest first.
    pub points: Vec<PointView>,
    /// Older ones that were left out.
    pub left_out: u64,
    /// How many are of earlier machines of the name of the one that was asked for, and are not among these.
    pub earlier: u64,
    pub problems: Vec<String>,
}

/// How a point is to be marked; what is absent stays.
#[derive(Debug, Clone, Default)]
pub struct PointChange {
    pub pinned: Option<bool>,
    /// The inner absence: not protected any more.
    pub protected_until_ms: Option<Option<u64>>,
    pub add_tags: Vec<String>,
    pub remove_tags: Vec<String>,
}
