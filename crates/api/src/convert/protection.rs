use std::collections::BTreeMap;

use nestling_model as model;
use nestling_node as node;
use node::NodeError;

use super::{guest, read, same_names};
use crate::v1;

type Model = model::protection::RunState;

same_names!(v1::RunState, Model: Waiting, Running, Succeeded, SucceededWithWarnings, Failed, Cancelled, Interrupted);

impl From<model::protection::Repository> for v1::Repository {
    fn from(repository: model::protection::Repository) -> Self {
        Self {
            id: repository.id.0,
            name: repository.name.into(),
            location: repository.location.to_string(),
            upload_bytes_per_second_max: repository.upload_bytes_per_second_max,
            append_only: repository.append_only,
            created_at_ms: repository.created_at_ms,
            contents: None,
            problem: None,
            created: None,
        }
    }
}

impl From<node::RepositoryView> for v1::Repository {
    fn from(view: node::RepositoryView) -> Self {
        let (contents, problem) = match view.contents {
            Ok(contents) => (Some(contents.into()), None),
            Err(problem) => (None, Some(problem)),
        };
        Self { contents, problem, ..view.repository.into() }
    }
}

impl From<node::RepositoryContents> for v1::RepositoryContents {
    fn from(contents: node::RepositoryContents) -> Self {
        let node::RepositoryContents { points, machines, unreadable, stored_bytes } = contents;
        Self { points, machines, unreadable, stored_bytes }
    }
}

impl From<node::RepositoryAdded> for v1::Repository {
    fn from(added: node::RepositoryAdded) -> Self {
        Self { created: Some(added.created), ..added.repository.into() }
    }
}

fn revealed(settings: &BTreeMap<String, v1::Secret>) -> BTreeMap<String, String> {
    settings.iter().map(|(name, value)| (name.clone(), value.reveal().to_owned())).collect()
}

fn location(text: &str) -> Result<model::protection::Location, NodeError> {
    text.parse().map_err(|error: model::protection::LocationInvalid| NodeError::Invalid(error.to_string()))
}

impl TryFrom<v1::NewRepository> for node::NewRepository {
    type Error = NodeError;

    fn try_from(new: v1::NewRepository) -> Result<Self, NodeError> {
        Ok(Self {
            name: new.name.parse()?,
            location: location(&new.location)?,
            secrets: node::Secrets {
                password: new.password.reveal().to_owned(),
                settings: revealed(&new.settings),
            },
            upload_bytes_per_second_max: new.upload_bytes_per_second_max,
            append_only: new.append_only,
        })
    }
}

impl TryFrom<v1::RepositoryChange> for node::RepositoryChange {
    type Error = NodeError;

    fn try_from(change: v1::RepositoryChange) -> Result<Self, NodeError> {
        Ok(Self {
            name: change.name.map(|name| name.parse()).transpose()?,
            location: change.location.as_deref().map(location).transpose()?,
            upload_bytes_per_second_max: change
                .upload_bytes_per_second_max
                .map(|limit| Some(limit).filter(|limit| *limit > 0)),
            append_only: change.append_only,
            password: change.password.map(|password| password.reveal().to_owned()),
            settings: change.settings.as_ref().map(revealed),
        })
    }
}

impl From<v1::Retention> for model::protection::Retention {
    fn from(retention: v1::Retention) -> Self {
        let v1::Retention { last, hourly, daily, weekly, monthly, yearly, within_hours } = retention;
        Self { last, hourly, daily, weekly, monthly, yearly, within_hours }
    }
}

pub(super) fn consistency(wanted: &v1::JobConsistency) -> Result<model::protection::Consistency, NodeError> {
    use model::protection::{Consistency, Freeze, OnFailure};
    let v1::JobConsistency { level, freeze_seconds_max, freeze_mount_points, fail_if_inconsistent, guest } =
        wanted;
    if guest.is_some() && *level != v1::Consistency::Application {
        return Err(NodeError::invalid(
            "applications are made ready only for the consistency of applications",
        ));
    }
    match level {
        v1::Consistency::Crash if freeze_seconds_max.is_some() || !freeze_mount_points.is_empty() => {
            Err(NodeError::invalid("a guest that is not held still has no time for that"))
        }
        v1::Consistency::Crash => Ok(Consistency::Crash),
        v1::Consistency::FileSystem | v1::Consistency::Application => {
            let usual = Freeze::default();
            let freeze = Freeze {
                seconds_max: freeze_seconds_max.unwrap_or(usual.seconds_max),
                mount_points: freeze_mount_points.clone(),
            };
            let on_failure = if *fail_if_inconsistent { OnFailure::Fail } else { OnFailure::Warn };
            Ok(match level {
                v1::Consistency::Application => {
                    guest::application(guest.clone().unwrap_or_default(), freeze, on_failure)?
                }
                _ => Consistency::FileSystem { freeze, on_failure },
            })
        }
    }
}

pub(super) fn keep(pin: bool, protect_hours: Option<u32>) -> Result<model::protection::Keep, NodeError> {
    use model::protection::Keep;
    match (pin, protect_hours) {
        (false, None) => Ok(Keep::ByRules),
        (true, None) => Ok(Keep::Pinned),
        (false, Some(hours)) => Ok(Keep::ProtectedFor { hours }),
        (true, Some(_)) => {
            Err(NodeError::invalid("a point is pinned, or protected for a time, and not both"))
        }
    }
}

impl TryFrom<v1::NewRun> for node::BackupWish {
    type Error = NodeError;

    fn try_from(new: v1::NewRun) -> Result<Self, NodeError> {
        let wanted = v1::JobConsistency {
            level: new.consistency,
            freeze_seconds_max: new.freeze_seconds_max,
            freeze_mount_points: new.freeze_mount_points,
            fail_if_inconsistent: new.fail_if_inconsistent,
            guest: new.guest,
        };
        let excluded = new.exclude_disks.iter().map(|text| read("disk", text));
        Ok(Self {
            consistency: consistency(&wanted)?,
            excluded_disks: excluded.collect::<Result<_, _>>()?,
            vms: new.vms,
            repository: new.repository,
            full: new.full,
            tags: new.tags,
            keep: keep(new.pin, new.protect_hours)?,
            retention: new.retention.map(Into::into),
        })
    }
}

pub(super) fn texts(warnings: &model::protection::Warnings) -> Vec<String> {
    let mut texts: Vec<String> =
        warnings.messages().iter().map(|message| message.as_str().to_owned()).collect();
    if warnings.left_out() > 0 {
        texts.push(format!("and {} more", warnings.left_out()));
    }
    texts
}

impl From<model::protection::DiskRun> for v1::DiskRun {
    fn from(disk: model::protection::DiskRun) -> Self {
        use model::protection::Reading;
        let (reading, earlier) = match disk.reading {
            None => (None, None),
            Some(Reading::Changes { since }) => (Some(v1::Reading::Changes), Some(since)),
            Some(Reading::Compared { with, .. }) => (Some(v1::Reading::Compared), Some(with)),
            Some(Reading::Whole { .. }) => (Some(v1::Reading::Whole), None),
        };
        Self {
            name: disk.name.into(),
            total_bytes: disk.total_bytes,
            read_bytes: disk.read_bytes,
            new_bytes: disk.new_bytes,
            stored_bytes: disk.stored_bytes,
            reading,
            reason: disk.reading.and_then(|reading| reading.why_not()).map(|why| why.as_str().to_owned()),
            earlier_point: earlier.map(|point| point.to_string()),
        }
    }
}

fn consistency_word(reached: model::protection::ConsistencyReached) -> String {
    format!("{reached:?}")
}

impl From<model::protection::MachineRun> for v1::MachineRun {
    fn from(machine: model::protection::MachineRun) -> Self {
        Self {
            vm: machine.path.to_string(),
            vm_id: machine.id.0,
            state: machine.state.into(),
            started_at_ms: machine.started_at_ms,
            ended_at_ms: machine.ended_at_ms,
            disks: machine.disks.into_iter().map(Into::into).collect(),
            new_bytes: machine.new_bytes,
            stored_bytes: machine.stored_bytes,
            frozen_ms: machine.durations.frozen_ms,
            capture_ms: machine.durations.capture_ms,
            save_ms: machine.durations.save_ms,
            point: machine.point.map(|point| point.to_string()),
            consistency: machine.consistency.map(consistency_word),
            warnings: texts(&machine.warnings),
            reason: machine.reason.map(Into::into),
        }
    }
}

fn cause(cause: &model::protection::Cause) -> String {
    use model::protection::Cause;
    match cause {
        Cause::Schedule { .. } => "schedule".to_owned(),
        Cause::Person { name } => name.to_string(),
        Cause::Chain { number, .. } => format!("run {number}"),
        Cause::Again { number, .. } => format!("run {number}, which was interrupted"),
    }
}

impl From<node::RunView> for v1::Run {
    fn from(view: node::RunView) -> Self {
        let run = view.run;
        let mut progress = view.progress.into_iter().map(Into::into);
        Self {
            id: run.id.0,
            number: run.number,
            state: run.state.into(),
            job: run.job_name.map(Into::into),
            job_id: run.job.map(|job| job.0),
            causes: run.causes.iter().map(cause).collect(),
            repository: view.repository,
            created_at_ms: run.created_at_ms,
            started_at_ms: run.started_at_ms,
            ended_at_ms: run.ended_at_ms,
            machines: run.machines.into_iter().map(Into::into).collect(),
            warnings: texts(&run.warnings),
            reason: run.reason.map(Into::into),
            progress: progress.next(),
            more_progress: progress.collect(),
        }
    }
}

impl From<node::RunProgress> for v1::RunProgress {
    fn from(progress: node::RunProgress) -> Self {
        Self {
            vm: progress.machine.to_string(),
            stage: progress.stage.to_owned(),
            done: progress.done,
            total: progress.total,
            in_bytes: progress.in_bytes,
            stored_bytes: progress.stored_bytes,
        }
    }
}

impl From<node::PointView> for v1::Point {
    fn from(view: node::PointView) -> Self {
        let point = view.point;
        Self {
            id: point.id.to_string(),
            repository: view.repository,
            vm: point.machine.to_string(),
            vm_id: point.machine_id.map(|id| id.0),
            is_here: view.vm.is_some(),
            taken_at_ms: point.taken_at_ms,
            run_id: point.run.map(|id| id.0),
            consistency: point.consistency.map(consistency_word),
            size_bytes: view.size_bytes,
            stored_bytes: point.stored_bytes,
            pinned: point.pinned,
            protected_until_ms: point.protected_until_ms,
            damaged: point.damaged,
            proof: point.proof.map(Into::into),
            tags: view.tags,
        }
    }
}

impl From<node::PointsView> for v1::Points {
    fn from(view: node::PointsView) -> Self {
        Self {
            points: view.points.into_iter().map(Into::into).collect(),
            left_out: view.left_out,
            earlier: view.earlier,
            problems: view.problems,
        }
    }
}

impl TryFrom<v1::PointChange> for node::PointChange {
    type Error = NodeError;

    fn try_from(change: v1::PointChange) -> Result<Self, NodeError> {
        let protected_until_ms = match (change.protect_until_ms, change.unprotect) {
            (Some(_), true) => {
                return Err(NodeError::invalid("a point can't be protected and no longer protected at once"));
            }
            (Some(until), false) => Some(Some(until)),
            (None, true) => Some(None),
            (None, false) => None,
        };
        Ok(Self {
            pinned: change.pinned,
            protected_until_ms,
            add_tags: change.add_tags,
            remove_tags: change.remove_tags,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> v1::NewRun {
        serde_json::from_value(serde_json::json!({"vms": ["a"]})).unwrap()
    }

    #[test]
    fn a_backup_is_consistent_unless_it_is_said_otherwise() {
        use model::protection::{Consistency, Keep, OnFailure};
        let wish = node::BackupWish::try_from(run()).unwrap();
        assert_eq!(wish.consistency, Consistency::default());
        assert_eq!((wish.keep, wish.full), (Keep::ByRules, false));
        let strict = node::BackupWish::try_from(v1::NewRun { fail_if_inconsistent: true, ..run() }).unwrap();
        assert!(matches!(strict.consistency, Consistency::FileSystem { on_failure: OnFailure::Fail, .. }));
        let found = v1::NewRun { consistency: v1::Consistency::Application, ..run() };
        let found = node::BackupWish::try_from(found).unwrap().consistency;
        let Consistency::Application { applications, .. } = found else { panic!("{found:?}") };
        assert_eq!(applications, [model::protection::Application::Found { cut_logs: false }]);
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let crash = v1::Consistency::Crash;
        for bad in [
            v1::NewRun { consistency: crash, freeze_seconds_max: Some(5), ..run() },
            v1::NewRun { guest: Some(v1::GuestSteps::default()), ..run() },
            v1::NewRun { pin: true, protect_hours: Some(1), ..run() },
            v1::NewRun { exclude_disks: vec!["sata:1".into()], ..run() },
        ] {
            assert!(node::BackupWish::try_from(bad).is_err());
        }
        let change = v1::PointChange { protect_until_ms: Some(1), unprotect: true, ..Default::default() };
        assert!(node::PointChange::try_from(change).is_err());
    }

    #[test]
    fn secrets_do_not_show() {
        let new = v1::NewRepository {
            name: "r".into(),
            location: "/r".into(),
            password: v1::Secret::new("hunter2"),
            settings: BTreeMap::from([("aws_secret_access_key".into(), v1::Secret::new("hunter3"))]),
            upload_bytes_per_second_max: None,
            append_only: false,
        };
        assert!(!format!("{new:?}").contains("hunter"));
        let new = node::NewRepository::try_from(new).unwrap();
        assert!(!format!("{new:?}").contains("hunter"));
    }

    #[test]
    fn no_limit_is_a_wish_too() {
        let change = |limit| {
            let change = v1::RepositoryChange { upload_bytes_per_second_max: limit, ..Default::default() };
            node::RepositoryChange::try_from(change).unwrap().upload_bytes_per_second_max
        };
        assert_eq!((change(None), change(Some(0)), change(Some(9))), (None, Some(None), Some(Some(9))));
    }
}
