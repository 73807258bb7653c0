//! How a job's machines are backed up.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    consistency::{Consistency, ConsistencyInvalid},
    id::{JobId, RepositoryId},
    notice::{NOTICES_MAX, Notice, NoticeInvalid, Recipient},
    objective::{Objective, ObjectiveInvalid},
    pattern::PathPattern,
    proof::{Proving, SignsInvalid},
    repository::UPLOAD_BYTES_PER_SECOND_MIN,
    retention::{Keep, Retention, RetentionInvalid},
    script::{CommandInvalid, SCRIPTS_MAX, Script},
    selection::Candidate,
};
use crate::{
    disk::{Controller, DISKS_MAX},
    name::{NameError, Pattern},
};

/// How many machines one job may back up at once.
pub const PARALLEL_MAX: u32 = 64;
pub const COPIES_MAX: usize = 8;
pub const EXCLUDED_DISKS_MAX: usize = 256;
/// How many jobs one job may follow.
pub const AFTER_MAX: usize = 16;

/// A machine's disk: `scsi:1`, `ide:0`, or `file:*scratch*` by the name of its image's file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DiskSelector {
    Place { controller: Controller, location: u8 },
    File(Pattern),
}

/// Why a text names no disk.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskSelectorError {
    #[error("\"{0}\" names no disk; write scsi:1, ide:0, or file: and the name of its file, with * and ?")]
    Form(String),
    #[error("a disk is chosen by the name of its file, in which * and ? stand for other text")]
    File(#[source] NameError),
}

impl DiskSelector {
    /// Whether it names the disk at a place whose image has this file name.
    pub fn matches(&self, controller: Controller, location: u8, file: &str) -> bool {
        match self {
            Self::Place { controller: c, location: l } => *c == controller && *l == location,
            Self::File(pattern) => pattern.matches(file),
        }
    }
}

impl FromStr for DiskSelector {
    type Err = DiskSelectorError;

    fn from_str(text: &str) -> Result<Self, DiskSelectorError> {
        let form = || DiskSelectorError::Form(crate::shown(text, 80));
        let (kind, rest) = text.split_once(':').ok_or_else(form)?;
        let place = |controller, count: usize| {
            let location = rest.parse::<u8>().ok().filter(|l| usize::from(*l) < count).ok_or_else(form)?;
            Ok(Self::Place { controller, location })
        };
        match kind.to_ascii_lowercase().as_str() {
            "scsi" => place(Controller::Scsi, DISKS_MAX),
            "ide" => place(Controller::Ide, 4),
            "file" => rest.parse().map(Self::File).map_err(DiskSelectorError::File),
            _ => Err(form()),
        }
    }
}

impl fmt::Display for DiskSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Place { controller: Controller::Scsi, location } => write!(f, "scsi:{location}"),
            Self::Place { controller: Controller::Ide, location } => write!(f, "ide:{location}"),
            Self::File(pattern) => write!(f, "file:{pattern}"),
        }
    }
}

impl TryFrom<String> for DiskSelector {
    type Error = DiskSelectorError;

    fn try_from(text: String) -> Result<Self, DiskSelectorError> {
        text.parse()
    }
}

impl From<DiskSelector> for String {
    fn from(selector: DiskSelector) -> Self {
        selector.to_string()
    }
}

/// Disks that are not backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskExclude {
    /// Of which machines; `None`: of all.
    #[serde(default)]
    pub machine: Option<PathPattern>,
    pub disk: DiskSelector,
}

/// In which order a job's machines come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MachineOrder {
    /// As the selection lists them, then by name.
    #[default]
    Listed,
    Name,
    /// Those first that have no recovery point, then those whose newest is oldest.
    OldestPointFirst,
    SmallestFirst,
    LargestFirst,
}

impl MachineOrder {
    /// Puts machines, as [`Selection::pick`](super::Selection::pick) gave them, in order. `newest_point_ms` says when
    /// a machine's newest recovery point was taken.
    pub fn arrange(self, machines: &mut [&Candidate], newest_point_ms: impl Fn(&Candidate) -> Option<u64>) {
        match self {
            Self::Listed => {}
            Self::Name => machines.sort_by_cached_key(|machine| machine.path.to_string().to_lowercase()),
            Self::OldestPointFirst => machines.sort_by_cached_key(|machine| newest_point_ms(machine)),
            Self::SmallestFirst => machines.sort_by_key(|machine| machine.disk_bytes),
            Self::LargestFirst => machines.sort_by_key(|machine| std::cmp::Reverse(machine.disk_bytes)),
        }
    }
}

/// After which end of a job another follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AfterEnd {
    /// With or without warnings.
    #[default]
    Success,
    /// Interrupted counts as failed; what a person cancelled does not.
    Failure,
    Any,
}

/// A job that this one follows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    pub job: JobId,
    #[serde(default)]
    pub end: AfterEnd,
}

/// A second place for each new recovery point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyTo {
    pub repository: RepositoryId,
    /// `None`: everything stays there.
    #[serde(default)]
    pub retention: Option<Retention>,
    #[serde(default)]
    pub keep: Keep,
}

/// How a job's machines are backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobPolicy {
    pub repository: RepositoryId,
    /// `None`: everything stays.
    #[serde(default)]
    pub retention: Option<Retention>,
    #[serde(default)]
    pub keep: Keep,
    #[serde(default)]
    pub consistency: Consistency,
    #[serde(default)]
    pub excluded_disks: Vec<DiskExclude>,
    /// Bytes a second that a run reads at most; `None`: as fast as it goes.
    #[serde(default)]
    pub bytes_per_second_max: Option<u64>,
    /// How many machines are backed up at once.
    #[serde(default = "one")]
    pub parallel: u32,
    #[serde(default)]
    pub order: MachineOrder,
    /// Jobs whose end starts this one.
    #[serde(default)]
    pub after: Vec<After>,
    #[serde(default)]
    pub copies: Vec<CopyTo>,
    /// Programs of the host, before the first machine and after the last.
    #[serde(default)]
    pub scripts_before: Vec<Script>,
    #[serde(default)]
    pub scripts_after: Vec<Script>,
    #[serde(default)]
    pub notices: Vec<Notice>,
    /// How old a machine's newest recovery point may become.
    #[serde(default)]
    pub objective: Option<Objective>,
    /// Its new points are booted as a test.
    #[serde(default)]
    pub proving: Option<Proving>,
}

const fn one() -> u32 {
    1
}

/// Why a policy cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyInvalid {
    #[error("the retention cannot be")]
    Retention(#[source] RetentionInvalid),
    #[error("the retention of a copy cannot be")]
    CopyRetention(#[source] RetentionInvalid),
    #[error("the consistency cannot be")]
    Consistency(#[source] ConsistencyInvalid),
    #[error("a job excludes at most {EXCLUDED_DISKS_MAX} disks; name several with * and ?")]
    ExcludedDisks,
    #[error(
        "the limit is at least {UPLOAD_BYTES_PER_SECOND_MIN} bytes a second; {0} were asked for (leave it out for no limit)"
    )]
    Bandwidth(u64),
    #[error("a job backs up 1 to {PARALLEL_MAX} machines at once; {0} were asked for")]
    Parallel(u32),
    #[error("a job follows at most {AFTER_MAX} others, each once")]
    After,
    #[error(
        "a job copies to at most {COPIES_MAX} repositories, each once, and not to the one that it saves to"
    )]
    Copies,
    #[error("a script cannot be run")]
    Script(#[source] CommandInvalid),
    #[error("a notice cannot be sent")]
    Notice(#[source] NoticeInvalid),
    #[error("the recovery point objective cannot be")]
    Objective(#[source] ObjectiveInvalid),
    #[error("what it saves cannot be proven so")]
    Proving(#[source] SignsInvalid),
}

fn has_twice<T: PartialEq>(items: &[T]) -> bool {
    items.iter().enumerate().any(|(number, item)| items[..number].contains(item))
}

impl JobPolicy {
    /// Whether somebody is told by mail.
    pub fn sends_mail(&self) -> bool {
        self.notices.iter().any(|notice| matches!(notice.to, Recipient::Mail { .. }))
    }

    /// The policy of a job that says nothing but where to save.
    pub fn new(repository: RepositoryId) -> Self {
        Self {
            repository,
            retention: None,
            keep: Keep::default(),
            consistency: Consistency::default(),
            excluded_disks: Vec::new(),
            bytes_per_second_max: None,
            parallel: one(),
            order: MachineOrder::default(),
            after: Vec::new(),
            copies: Vec::new(),
            scripts_before: Vec::new(),
            scripts_after: Vec::new(),
            notices: Vec::new(),
            objective: None,
            proving: None,
        }
    }

    /// Whether a machine's disk is left out.
    pub fn excludes(&self, machine: &Candidate, controller: Controller, location: u8, file: &str) -> bool {
        self.excluded_disks.iter().any(|exclude| {
            exclude.machine.as_ref().is_none_or(|pattern| pattern.matches(&machine.path))
                && exclude.disk.matches(controller, location, file)
        })
    }

    pub fn validate(&self) -> Result<(), PolicyInvalid> {
        if let Some(retention) = &self.retention {
            retention.validate().map_err(PolicyInvalid::Retention)?;
        }
        self.keep.validate().map_err(PolicyInvalid::Retention)?;
        self.consistency.validate().map_err(PolicyInvalid::Consistency)?;
        if self.excluded_disks.len() > EXCLUDED_DISKS_MAX {
            return Err(PolicyInvalid::ExcludedDisks);
        }
        if let Some(limit) = self.bytes_per_second_max.filter(|l| *l < UPLOAD_BYTES_PER_SECOND_MIN) {
            return Err(PolicyInvalid::Bandwidth(limit));
        }
        if self.parallel == 0 || self.parallel > PARALLEL_MAX {
            return Err(PolicyInvalid::Parallel(self.parallel));
        }
        let followed: Vec<JobId> = self.after.iter().map(|after| after.job).collect();
        if followed.len() > AFTER_MAX || has_twice(&followed) {
            return Err(PolicyInvalid::After);
        }
        self.validate_copies()?;
        self.validate_around()
    }

    fn validate_copies(&self) -> Result<(), PolicyInvalid> {
        let places: Vec<RepositoryId> = self.copies.iter().map(|copy| copy.repository).collect();
        if places.len() > COPIES_MAX || has_twice(&places) || places.contains(&self.repository) {
            return Err(PolicyInvalid::Copies);
        }
        for copy in &self.copies {
            if let Some(retention) = &copy.retention {
                retention.validate().map_err(PolicyInvalid::CopyRetention)?;
            }
            copy.keep.validate().map_err(PolicyInvalid::CopyRetention)?;
        }
        Ok(())
    }

    fn validate_around(&self) -> Result<(), PolicyInvalid> {
        for scripts in [&self.scripts_before, &self.scripts_after] {
            if scripts.len() > SCRIPTS_MAX {
                return Err(PolicyInvalid::Script(CommandInvalid::TooMany));
            }
            for script in scripts {
                script.command.validate_on_host().map_err(PolicyInvalid::Script)?;
            }
        }
        if self.notices.len() > NOTICES_MAX {
            return Err(PolicyInvalid::Notice(NoticeInvalid::TooMany));
        }
        self.notices.iter().try_for_each(|notice| notice.validate().map_err(PolicyInvalid::Notice))?;
        if let Some(proving) = &self.proving {
            proving.validate().map_err(PolicyInvalid::Proving)?;
        }
        self.objective.map_or(Ok(()), |objective| objective.validate().map_err(PolicyInvalid::Objective))
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::protection::samples::candidate;

    fn policy() -> JobPolicy {
        JobPolicy::new(RepositoryId(Uuid::from_u128(1)))
    }

    #[test]
    fn disks_are_named_by_place_or_file() {
        let mut policy = policy();
        let exclude = |machine: Option<&str>, disk: &str| DiskExclude {
            machine: machine.map(|m| m.parse().unwrap()),
            disk: disk.parse().unwrap(),
        };
        policy.excluded_disks = vec![exclude(Some("db*"), "scsi:1"), exclude(None, "file:*SWAP*")];
        let excludes =
            |machine, location, file| policy.excludes(&candidate(machine), Controller::Scsi, location, file);
        assert!(excludes("db1", 1, "data.qcow2"));
        assert!(!excludes("db1", 0, "data.qcow2"));
        assert!(!excludes("web1", 1, "data.qcow2"));
        assert!(excludes("web1", 0, "my-swap.raw"));
        for bad in ["", "scsi", "scsi:16", "ide:4", "nvme:0", "file:", "file:a/b", "scsi:-1"] {
            assert!(bad.parse::<DiskSelector>().is_err(), "{bad}");
        }
        for good in ["scsi:15", "ide:3", "file:a*"] {
            assert_eq!(good.parse::<DiskSelector>().unwrap().to_string(), good);
        }
    }

    #[test]
    fn machines_come_in_the_order_asked_for() {
        let machines: Vec<Candidate> = ["b", "A", "c"]
            .iter()
            .zip([5, 9, 1])
            .map(|(name, disk_bytes)| Candidate { disk_bytes, ..candidate(name) })
            .collect();
        let newest = |machine: &Candidate| match machine.path.to_string().as_str() {
            "b" => Some(10),
            "A" => Some(3),
            _ => None,
        };
        let order = |order: MachineOrder| {
            let mut picked: Vec<&Candidate> = machines.iter().collect();
            order.arrange(&mut picked, newest);
            picked.iter().map(|machine| machine.path.to_string()).collect::<String>()
        };
        assert_eq!(order(MachineOrder::Listed), "bAc");
        assert_eq!(order(MachineOrder::Name), "Abc");
        assert_eq!(order(MachineOrder::OldestPointFirst), "cAb");
        assert_eq!(order(MachineOrder::SmallestFirst), "cbA");
        assert_eq!(order(MachineOrder::LargestFirst), "Abc");
    }

    #[test]
    fn what_cannot_be_is_refused() {
        assert_eq!(policy().validate(), Ok(()));
        let copy = CopyTo { repository: policy().repository, retention: None, keep: Keep::ByRules };
        let refused = [
            JobPolicy { parallel: 0, ..policy() },
            JobPolicy { bytes_per_second_max: Some(1), ..policy() },
            JobPolicy { copies: vec![copy], ..policy() },
            JobPolicy { retention: Some(Retention::default()), ..policy() },
            JobPolicy { objective: Some(Objective { seconds: 0 }), ..policy() },
        ];
        for (number, policy) in refused.iter().enumerate() {
            assert!(policy.validate().is_err(), "{number}");
        }
    }
}
