//! Jobs and their plans, as people read them.

use nestling_api::v1;

use super::{backup::state, guest_steps};
use crate::text::{self, Table, fields};

fn listed(items: Option<&Vec<String>>) -> String {
    items.map(|items| items.join(", ")).unwrap_or_default()
}

fn covers(settings: &v1::JobSettings) -> String {
    let rules = settings.rules.as_deref().unwrap_or_default();
    let join = if settings.any_rule == Some(true) { " or " } else { " and " };
    let all = [listed(settings.vms.as_ref()), rules.join(join)];
    all.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(", ")
}

fn next(job: &v1::Job) -> String {
    match (job.running, job.settings.enabled, job.next_run_ms) {
        (Some(run), ..) => format!("run {run} is under way"),
        (None, Some(false), _) => "disabled".to_owned(),
        (None, _, Some(next)) => text::time(next),
        (None, _, None) => "-".to_owned(),
    }
}

fn last(job: &v1::Job) -> String {
    let Some(run) = &job.last_run else { return "-".to_owned() };
    let ended = run.ended_at_ms.map(text::time).unwrap_or_default();
    format!("{} ({}, {ended})", state(run.state), run.number)
}

pub fn table(jobs: &[v1::Job]) -> String {
    let mut table = Table::new(&["JOB", "MACHINES", "REPOSITORY", "NEXT RUN", "LAST RUN", "OBJECTIVE"]);
    for job in jobs {
        let objective = match (job.settings.objective_seconds, job.missed.len()) {
            (None | Some(0), _) => "-".to_owned(),
            (_, 0) => "kept".to_owned(),
            (_, missed) => format!("missed for {missed}"),
        };
        table.row([
            job.name.clone(),
            covers(&job.settings),
            job.settings.repository.clone().unwrap_or_default(),
            next(job),
            last(job),
            objective,
        ]);
    }
    table.text()
}

/// `last 7, daily 14`
fn retention(rules: Option<&v1::Retention>) -> String {
    let Some(rules) = rules else { return "everything stays".to_owned() };
    let v1::Retention { last, hourly, daily, weekly, monthly, yearly, within_hours } = *rules;
    let counts = [
        ("last", last),
        ("hourly", hourly),
        ("daily", daily),
        ("weekly", weekly),
        ("monthly", monthly),
        ("yearly", yearly),
        ("within hours", within_hours),
    ];
    let given: Vec<String> = counts
        .iter()
        .filter(|(_, count)| *count > 0)
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    if given.is_empty() { "everything stays".to_owned() } else { given.join(", ") }
}

fn consistency(wanted: &v1::JobConsistency) -> String {
    match (wanted.level, wanted.fail_if_inconsistent) {
        (v1::Consistency::Crash, _) => "as after a power cut".to_owned(),
        (v1::Consistency::FileSystem, true) => "file systems held still, or no backup".to_owned(),
        (v1::Consistency::FileSystem, false) => "file systems held still, or a warning".to_owned(),
        (v1::Consistency::Application, true) => "applications ready, or no backup".to_owned(),
        (v1::Consistency::Application, false) => "applications ready, or a warning".to_owned(),
    }
}

fn scripts(scripts: Option<&Vec<v1::JobScript>>) -> String {
    let line = |script: &v1::JobScript| {
        let mut words = vec![script.program.clone()];
        words.extend(script.arguments.iter().cloned());
        words.join(" ")
    };
    scripts.map(|all| all.iter().map(line).collect::<Vec<_>>().join("; ")).unwrap_or_default()
}

fn after(all: Option<&Vec<v1::JobAfter>>) -> String {
    let one = |after: &v1::JobAfter| {
        let end = format!("{:?}", after.end).to_lowercase();
        format!("{} ({end})", after.job)
    };
    all.map(|all| all.iter().map(one).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

fn copies(all: Option<&Vec<v1::JobCopy>>) -> String {
    let one = |copy: &v1::JobCopy| format!("{} ({})", copy.repository, retention(copy.retention.as_ref()));
    all.map(|all| all.iter().map(one).collect::<Vec<_>>().join(", ")).unwrap_or_default()
}

fn some(number: Option<u64>, shown: impl Fn(u64) -> String) -> String {
    number.filter(|number| *number > 0).map(shown).unwrap_or_default()
}

fn tests(proof: &v1::JobProof) -> String {
    match (proof.enabled, proof.every_hours) {
        (false, _) => String::new(),
        (true, None) => format!("each new point, by {}", super::proof::signs(&proof.signs)),
        (true, Some(hours)) => {
            format!("each machine every {hours} hours, by {}", super::proof::signs(&proof.signs))
        }
    }
}

fn marks(keep: v1::JobKeep) -> String {
    match (keep.pin, keep.protect_hours) {
        (true, _) => "pinned".to_owned(),
        (false, Some(hours)) => format!("protected for {hours} hours"),
        (false, None) => String::new(),
    }
}

/// `https://hooks.example/a (after warnings, failure, a missed objective)`
fn told(set: &v1::JobSettings) -> String {
    let after = |ends: [(bool, &str); 4]| {
        let wanted = ends.iter().filter(|(is_wanted, _)| *is_wanted).map(|(_, end)| *end);
        wanted.collect::<Vec<_>>().join(", ")
    };
    let ends = |success, warnings, failure, missed| {
        after([
            (success, "success"),
            (warnings, "warnings"),
            (failure, "failure"),
            (missed, "a missed objective"),
        ])
    };
    let hooks = set.webhooks.iter().flatten().map(|hook| {
        let ends = ends(hook.on_success, hook.on_warnings, hook.on_failure, hook.on_missed_objective);
        format!("{} (after {ends})", hook.url)
    });
    let mails = set.mails.iter().flatten().map(|mail| {
        let ends = ends(mail.on_success, mail.on_warnings, mail.on_failure, mail.on_missed_objective);
        format!("{} (after {ends})", mail.addresses.join(", "))
    });
    hooks.chain(mails).collect::<Vec<_>>().join("; ")
}

pub fn details(job: &v1::Job) -> String {
    let set = &job.settings;
    let mut out = fields(&[
        ("Job", job.name.clone()),
        ("Id", job.id.to_string()),
        ("Notes", set.notes.clone().unwrap_or_default()),
        ("Machines", covers(set)),
        ("But not", listed(set.exclude_vms.as_ref())),
        ("Repository", set.repository.clone().unwrap_or_default()),
        ("Schedule", set.schedule.clone().unwrap_or_default()),
        ("Next run", next(job)),
        ("Last run", last(job)),
        ("After", after(set.after.as_ref())),
        ("Retention", retention(set.retention.as_ref())),
        ("New points", set.keep.map(marks).unwrap_or_default()),
        ("Consistency", set.consistency.as_ref().map(consistency).unwrap_or_default()),
        (
            "In the guest",
            set.consistency
                .as_ref()
                .and_then(|c| c.guest.as_ref())
                .map(guest_steps::shown)
                .unwrap_or_default(),
        ),
        ("Disks left out", listed(set.exclude_disks.as_ref())),
        ("Reads at most", some(set.read_bytes_per_second_max, |limit| format!("{}/s", text::size(limit)))),
        ("At once", set.parallel.map(|n| text::count(n, "machine")).unwrap_or_default()),
        ("Order", set.order.map(|order| format!("{order:?}")).unwrap_or_default()),
        ("Copies to", copies(set.copies.as_ref())),
        ("Runs before", scripts(set.scripts_before.as_ref())),
        ("Runs after", scripts(set.scripts_after.as_ref())),
        ("Tells", told(set)),
        ("Tests", set.proof.as_ref().map(tests).unwrap_or_default()),
        ("Objective", some(set.objective_seconds, |seconds| text::duration(seconds.saturating_mul(1000)))),
    ]);
    for missed in &job.missed {
        let newest = match missed.newest_point_ms {
            Some(ms) => format!("its newest point is of {}", text::time(ms)),
            None => "it has no point".to_owned(),
        };
        let late = text::duration(missed.late_ms);
        out.push_str(&text::clean(&format!("Objective missed for {} since {late}: {newest}\n", missed.vm)));
    }
    out
}

pub fn plan(plan: &v1::JobPlan) -> String {
    let mut table = Table::new(&["MACHINE", "BECAUSE OF", "DISK", "SIZE", "WOULD BE READ"]).right(&[3]);
    for machine in &plan.machines {
        let by = machine.named_by.clone().unwrap_or_else(|| "the rules".to_owned());
        if let Some(problem) = &machine.problem {
            table.row([machine.vm.clone(), by, "-".to_owned(), "-".to_owned(), format!("not: {problem}")]);
            continue;
        }
        if machine.disks.is_empty() {
            let inside = "what the node inside finds changed".to_owned();
            table.row([machine.vm.clone(), by.clone(), "-".to_owned(), "-".to_owned(), inside]);
        }
        for disk in &machine.disks {
            let size = text::size(disk.total_bytes);
            table.row([machine.vm.clone(), by.clone(), disk.name.clone(), size, how(machine, disk)]);
        }
        for disk in &machine.left_out {
            let out = "left out".to_owned();
            table.row([machine.vm.clone(), by.clone(), disk.clone(), "-".to_owned(), out]);
        }
    }
    let mut out = table.text();
    for excluded in &plan.excluded {
        out.push_str(&text::clean(&format!("{} is excluded by {}\n", excluded.vm, excluded.by)));
    }
    if let Some(problem) = &plan.problem {
        out.push_str(&text::clean(&format!("It would fail: {problem}\n")));
    }
    out
}

fn how(machine: &v1::PlannedMachine, disk: &v1::PlannedDisk) -> String {
    let point: String = machine.earlier_point.iter().flat_map(|point| point.chars().take(8)).collect();
    let reason = disk.reason.as_deref().unwrap_or_default();
    match disk.reading {
        v1::Reading::Changes => format!("what changed since {point}"),
        v1::Reading::Compared => format!("all, compared with {point}: {reason}"),
        v1::Reading::Whole => format!("all: {reason}"),
    }
}
