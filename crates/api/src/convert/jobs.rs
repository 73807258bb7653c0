use nestling_model::protection as model;
use nestling_node as node;
use node::NodeError;

use super::{
    guest, mail,
    proof::{proving, shown_proving},
    protection::{consistency, keep},
    read, same_names,
};
use crate::v1;

same_names!(v1::JobOrder, model::MachineOrder: Listed, Name, OldestPointFirst, SmallestFirst, LargestFirst);
same_names!(v1::JobEnd, model::AfterEnd: Success, Failure, Any);

fn read_all<T: std::str::FromStr>(what: &str, texts: Option<Vec<String>>) -> Result<Option<Vec<T>>, NodeError>
where
    T::Err: std::fmt::Display,
{
    texts.map(|texts| texts.iter().map(|text| read(what, text)).collect()).transpose()
}

/// A new kind of thing in each place of a list.
fn each<T, U>(
    items: Option<Vec<T>>,
    turn: impl Fn(T) -> Result<U, NodeError>,
) -> Result<Option<Vec<U>>, NodeError> {
    items.map(|items| items.into_iter().map(turn).collect()).transpose()
}

fn script(script: v1::JobScript) -> model::Script {
    let command = model::Command {
        program: script.program,
        arguments: script.arguments,
        seconds_max: script.seconds_max.unwrap_or(300),
    };
    let on_failure = if script.must_succeed { model::OnFailure::Fail } else { model::OnFailure::Warn };
    model::Script { command, on_failure }
}

fn notice(hook: &v1::JobWebhook) -> Result<model::Notice, NodeError> {
    Ok(model::Notice {
        to: model::Recipient::Webhook { url: read("webhook's address", &hook.url)?, secret: None },
        when: model::NoticeWhen {
            success: hook.on_success,
            warnings: hook.on_warnings,
            failure: hook.on_failure,
            missed_objective: hook.on_missed_objective,
        },
    })
}

fn mail_notice(mail: &v1::JobMail) -> Result<model::Notice, NodeError> {
    Ok(model::Notice {
        to: model::Recipient::Mail { addresses: mail::addresses(&mail.addresses)? },
        when: model::NoticeWhen {
            success: mail.on_success,
            warnings: mail.on_warnings,
            failure: mail.on_failure,
            missed_objective: mail.on_missed_objective,
        },
    })
}

fn schedule(text: &str) -> Result<Option<model::Schedule>, NodeError> {
    if text.trim().is_empty() {
        return Ok(None);
    }
    let schedule = text.parse();
    schedule.map(Some).map_err(|error: model::ScheduleError| NodeError::invalid(error.to_string()))
}

fn retention(retention: v1::Retention) -> Option<model::Retention> {
    Some(retention).filter(|r| *r != v1::Retention::default()).map(Into::into)
}

impl TryFrom<v1::JobSettings> for node::JobSettings {
    type Error = NodeError;

    fn try_from(new: v1::JobSettings) -> Result<Self, NodeError> {
        let join = |any| if any { model::Join::Any } else { model::Join::All };
        let copy = |copy: v1::JobCopy| {
            let retention = copy.retention.and_then(retention);
            Ok(node::JobCopy { repository: copy.repository, retention })
        };
        let objective = |seconds| (seconds > 0).then_some(model::Objective { seconds });
        Ok(Self {
            notes: new.notes,
            enabled: new.enabled,
            include: read_all("name of machines", new.vms)?,
            exclude: read_all("name of machines", new.exclude_vms)?,
            rules: read_all("rule", new.rules)?,
            join: new.any_rule.map(join),
            repository: new.repository,
            schedule: new.schedule.as_deref().map(schedule).transpose()?,
            retention: new.retention.map(retention),
            keep: new.keep.map(|k| keep(k.pin, k.protect_hours)).transpose()?,
            consistency: new.consistency.as_ref().map(consistency).transpose()?,
            excluded_disks: read_all("disk", new.exclude_disks)?,
            bytes_per_second_max: new.read_bytes_per_second_max.map(|l| Some(l).filter(|limit| *limit > 0)),
            parallel: new.parallel,
            order: new.order.map(Into::into),
            after: each(new.after, |after| Ok(node::JobAfter { job: after.job, end: after.end.into() }))?,
            copies: each(new.copies, copy)?,
            scripts_before: each(new.scripts_before, |s| Ok(script(s)))?,
            scripts_after: each(new.scripts_after, |s| Ok(script(s)))?,
            webhooks: each(new.webhooks, |hook| notice(&hook))?,
            mails: each(new.mails, |mail| mail_notice(&mail))?,
            objective: new.objective_seconds.map(objective),
            proving: new.proof.map(proving),
        })
    }
}

impl From<model::Retention> for v1::Retention {
    fn from(retention: model::Retention) -> Self {
        let model::Retention { last, hourly, daily, weekly, monthly, yearly, within_hours } = retention;
        Self { last, hourly, daily, weekly, monthly, yearly, within_hours }
    }
}

fn texts<T: ToString>(items: &[T]) -> Option<Vec<String>> {
    Some(items.iter().map(ToString::to_string).collect())
}

pub(super) fn shown_consistency(consistency: &model::Consistency) -> v1::JobConsistency {
    match consistency {
        model::Consistency::Crash => {
            v1::JobConsistency { level: v1::Consistency::Crash, ..v1::JobConsistency::default() }
        }
        model::Consistency::FileSystem { freeze, on_failure }
        | model::Consistency::Application { freeze, on_failure, .. } => v1::JobConsistency {
            level: match consistency {
                model::Consistency::Application { .. } => v1::Consistency::Application,
                _ => v1::Consistency::FileSystem,
            },
            freeze_seconds_max: Some(freeze.seconds_max),
            freeze_mount_points: freeze.mount_points.clone(),
            fail_if_inconsistent: *on_failure == model::OnFailure::Fail,
            guest: guest::shown(consistency),
        },
    }
}

fn shown_keep(keep: model::Keep) -> v1::JobKeep {
    match keep {
        model::Keep::ByRules => v1::JobKeep::default(),
        model::Keep::Pinned => v1::JobKeep { pin: true, protect_hours: None },
        model::Keep::ProtectedFor { hours } => v1::JobKeep { pin: false, protect_hours: Some(hours) },
    }
}

fn shown_script(script: &model::Script) -> v1::JobScript {
    v1::JobScript {
        program: script.command.program.clone(),
        arguments: script.command.arguments.clone(),
        seconds_max: Some(script.command.seconds_max),
        must_succeed: script.on_failure == model::OnFailure::Fail,
    }
}

fn shown_notice(notice: &model::Notice) -> Option<v1::JobWebhook> {
    let model::Recipient::Webhook { url, .. } = &notice.to else { return None };
    let model::NoticeWhen { success, warnings, failure, missed_objective } = notice.when;
    Some(v1::JobWebhook {
        url: url.to_string(),
        on_success: success,
        on_warnings: warnings,
        on_failure: failure,
        on_missed_objective: missed_objective,
    })
}

fn shown_mail(notice: &model::Notice) -> Option<v1::JobMail> {
    let model::Recipient::Mail { addresses } = &notice.to else { return None };
    let model::NoticeWhen { success, warnings, failure, missed_objective } = notice.when;
    Some(v1::JobMail {
        addresses: addresses.iter().map(ToString::to_string).collect(),
        on_success: success,
        on_warnings: warnings,
        on_failure: failure,
        on_missed_objective: missed_objective,
    })
}

fn shown_settings(view: &node::JobView) -> v1::JobSettings {
    let (job, policy) = (&view.job, &view.job.policy);
    let after = view.after.iter().zip(&policy.after);
    let copies = view.copies.iter().zip(&policy.copies);
    v1::JobSettings {
        notes: Some(job.notes.clone()),
        enabled: Some(job.enabled),
        vms: texts(&job.selection.include),
        exclude_vms: texts(&job.selection.exclude),
        rules: texts(&job.selection.rules.rules),
        any_rule: Some(job.selection.rules.join == model::Join::Any),
        repository: Some(view.repository.clone()),
        schedule: Some(job.schedule.as_ref().map(ToString::to_string).unwrap_or_default()),
        retention: Some(policy.retention.map(Into::into).unwrap_or_default()),
        keep: Some(shown_keep(policy.keep)),
        consistency: Some(shown_consistency(&policy.consistency)),
        exclude_disks: Some(policy.excluded_disks.iter().map(|e| e.disk.to_string()).collect()),
        read_bytes_per_second_max: Some(policy.bytes_per_second_max.unwrap_or(0)),
        parallel: Some(policy.parallel),
        order: Some(policy.order.into()),
        after: Some(after.map(|(job, a)| v1::JobAfter { job: job.clone(), end: a.end.into() }).collect()),
        copies: Some(
            copies
                .map(|(repository, copy)| v1::JobCopy {
                    repository: repository.clone(),
                    retention: copy.retention.map(Into::into),
                })
                .collect(),
        ),
        scripts_before: Some(policy.scripts_before.iter().map(shown_script).collect()),
        scripts_after: Some(policy.scripts_after.iter().map(shown_script).collect()),
        webhooks: Some(policy.notices.iter().filter_map(shown_notice).collect()),
        mails: Some(policy.notices.iter().filter_map(shown_mail).collect()),
        objective_seconds: Some(policy.objective.map_or(0, |objective| objective.seconds)),
        proof: Some(shown_proving(policy.proving.as_ref())),
    }
}

impl From<node::JobView> for v1::Job {
    fn from(view: node::JobView) -> Self {
        let settings = shown_settings(&view);
        let last = |run: node::JobRun| v1::JobRun {
            number: run.number,
            state: run.state.into(),
            ended_at_ms: run.ended_at_ms,
        };
        let missed = |missed: node::Missed| v1::JobMissed {
            vm: missed.path.to_string(),
            vm_id: missed.vm.0,
            newest_point_ms: missed.newest_ms,
            late_ms: missed.late_ms,
        };
        Self {
            id: view.job.id.0,
            name: view.job.name.into(),
            settings,
            created_at_ms: view.job.created_at_ms,
            next_run_ms: view.next_ms,
            running: view.running,
            last_run: view.last.map(last),
            missed: view.missed.into_iter().map(missed).collect(),
        }
    }
}

impl From<node::PlannedMachine> for v1::PlannedMachine {
    fn from(machine: node::PlannedMachine) -> Self {
        let reading = |disk: &node::PlannedDisk| match (disk.why_not, machine.point) {
            (None, _) => v1::Reading::Changes,
            (Some(_), Some(_)) => v1::Reading::Compared,
            (Some(_), None) => v1::Reading::Whole,
        };
        let disk = |disk: &node::PlannedDisk| v1::PlannedDisk {
            name: disk.name.clone(),
            total_bytes: disk.bytes,
            reading: reading(disk),
            reason: disk.why_not.map(|why| why.as_str().to_owned()),
        };
        Self {
            vm: machine.path.to_string(),
            vm_id: machine.id.0,
            named_by: machine.named_by,
            earlier_point: machine.point.map(|point| point.to_string()),
            disks: machine.disks.iter().map(disk).collect(),
            left_out: machine.left_out,
            problem: machine.problem,
        }
    }
}

impl From<node::JobPlan> for v1::JobPlan {
    fn from(plan: node::JobPlan) -> Self {
        let excluded = plan.excluded.into_iter();
        Self {
            repository: plan.repository,
            machines: plan.machines.into_iter().map(Into::into).collect(),
            excluded: excluded.map(|(vm, by)| v1::ExcludedMachine { vm: vm.to_string(), by }).collect(),
            problem: plan.problem,
        }
    }
}
