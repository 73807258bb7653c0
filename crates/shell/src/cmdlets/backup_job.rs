//! New-, Get-, Set-, Enable-, Disable- and Remove-VMBackupJob.

use nestling_api::{Client, v1};

use super::backup_guest;
use super::backup_object::{JOB_TYPE, JOB_VIEW, job};
use super::common::{
    Asked, Call, FORCE, PASSTHRU, VM_TYPE, change_each, ends, fits, hyperv, is_pattern, property,
};
use crate::frame::{
    Category, Cmdlet, CmdletFuture, CmdletResult, EnumType, ErrorRecord, Example, Flow, FromPipeline, Impact,
    Input, Kind, Parameter,
};
use crate::value::Value;

const ORDER: EnumType = EnumType {
    name: "Nestling.VMBackupOrder",
    members: &[
        ("Listed", 0),
        ("Name", 1),
        ("OldestPointFirst", 2),
        ("SmallestFirst", 3),
        ("LargestFirst", 4),
    ],
};

const COUNT: Kind = Kind::Int { min: 0, max: u32::MAX as i64 };

pub const NAME: Parameter = Parameter::new("Name", Kind::Strings, "The jobs' names; wildcards are taken.")
    .alias(&["JobName"])
    .at(0)
    .mandatory()
    .in_sets(&["Name"]);

pub const OBJECT: Parameter =
    Parameter::new("VMBackupJob", Kind::Objects(JOB_TYPE), "Jobs, as Get-VMBackupJob gives them.")
        .mandatory()
        .from_pipeline(FromPipeline::Value)
        .in_sets(&["VMBackupJob"]);

const VMS: Parameter =
    Parameter::new("VMName", Kind::Strings, "The machines' names; * and ? also cover those that come later.");
const VM_OBJECTS: Parameter =
    Parameter::new("VM", Kind::Objects(VM_TYPE), "The virtual machines, as Get-VM gives them.");
const TAG: Parameter = Parameter::new(
    "Tag",
    Kind::Strings,
    "Tags; also covers machines that have one, whenever they get or lose it.",
);
const EXCLUDED: Parameter = Parameter::new("ExcludeVMName", Kind::Strings, "Machines that are left out.");
const RULE: Parameter =
    Parameter::new("Rule", Kind::Strings, "Conditions that also cover a machine, such as 'memory>=4GB'.");
const REPOSITORY: Parameter =
    Parameter::new("Repository", Kind::String, "Where to save to; the only repository when absent.");
const SCHEDULE: Parameter = Parameter::new(
    "Schedule",
    Kind::String,
    "When it runs by itself, such as 'daily at 22:30' (UTC unless a time zone is named); '' takes the schedule away.",
);
const AFTER: Parameter = Parameter::new("After", Kind::Strings, "Jobs whose success starts it.");
const COPY_TO: Parameter =
    Parameter::new("CopyTo", Kind::Strings, "Repositories that get a copy of new points.");
const KEEP: [Parameter; 7] = [
    Parameter::new("KeepLast", COUNT, "How many of the last points stay."),
    Parameter::new("KeepHourly", COUNT, "Of how many hours the last point stays."),
    Parameter::new("KeepDaily", COUNT, "Of how many days."),
    Parameter::new("KeepWeekly", COUNT, "Of how many weeks."),
    Parameter::new("KeepMonthly", COUNT, "Of how many months."),
    Parameter::new("KeepYearly", COUNT, "Of how many years."),
    Parameter::new("KeepWithinHours", COUNT, "For how many hours every point stays."),
];
const CRASH: Parameter = Parameter::new(
    "CrashConsistent",
    Kind::Bool,
    "Whether the guests are left alone; else their file systems are held still.",
);
const PARALLEL: Parameter = Parameter::new(
    "MaximumParallel",
    Kind::Int { min: 1, max: 64 },
    "How many machines are saved at once; 1 when absent.",
);
const SEQUENCE: Parameter = Parameter::new("Order", Kind::Enum(&ORDER), "In which order the machines come.");
const OBJECTIVE: Parameter = Parameter::new(
    "RecoveryPointObjective",
    Kind::TimeSpan,
    "How old a machine's newest point may become; 00:00 takes the objective away.",
);
const NOTES: Parameter = Parameter::new("Notes", Kind::String, "Notes.");

pub fn cmdlets() -> Vec<Cmdlet<Client>> {
    vec![new_cmdlet(), get_cmdlet(), set_cmdlet(), enable_cmdlet(), disable_cmdlet(), remove_cmdlet()]
}

fn new_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "New-VMBackupJob",
        aliases: &[],
        class: "Nestling.Commands.NewVMBackupJob",
        summary: "Creates a backup job.",
        parameters: const {
            &[
                Parameter::new("Name", Kind::String, "The name.").at(0).mandatory(),
                VMS.at(1),
                VM_OBJECTS,
                TAG,
                EXCLUDED,
                RULE,
                REPOSITORY,
                SCHEDULE,
                AFTER,
                COPY_TO,
                KEEP[0],
                KEEP[1],
                KEEP[2],
                KEEP[3],
                KEEP[4],
                KEEP[5],
                KEEP[6],
                CRASH,
                backup_guest::APPLICATION_CONSISTENT,
                backup_guest::APPLICATION,
                backup_guest::CUT_LOGS,
                backup_guest::BEFORE,
                backup_guest::AFTER,
                backup_guest::AFTER_DURABLE,
                backup_guest::FAIL,
                PARALLEL,
                SEQUENCE,
                OBJECTIVE,
                NOTES,
                Parameter::switch("Disabled", "It runs only when it is asked for."),
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&JOB_VIEW] },
        examples: &[Example {
            code: "New-VMBackupJob -Name Nightly -VMName * -Schedule 'daily at 22:30' -KeepDaily 14 -WhatIf",
            says: "All machines, every night; -WhatIf only says so.",
        }],
        run: |call| Box::pin(new(call)),
    }
}

fn get_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Get-VMBackupJob",
        aliases: &[],
        class: "Nestling.Commands.GetVMBackupJob",
        summary: "Gets the backup jobs of this host.",
        parameters: const {
            &[Parameter::new("Name", Kind::Strings, "Names; wildcards are taken. All when absent.")
                .alias(&["JobName"])
                .at(0)]
        },
        input: Input::EachRecord,
        impact: Impact::None,
        views: const { &[&JOB_VIEW] },
        examples: &[Example {
            code: "Get-VMBackupJob | Where-Object LastResult -ne Succeeded",
            says: "Jobs whose last run has not succeeded.",
        }],
        run: |call| Box::pin(get(call)),
    }
}

fn set_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Set-VMBackupJob",
        aliases: &[],
        class: "Nestling.Commands.SetVMBackupJob",
        summary: "Changes or renames backup jobs; what is not given stays.",
        parameters: const {
            &[
                NAME,
                OBJECT,
                Parameter::new("NewName", Kind::String, "The new name."),
                VMS,
                VM_OBJECTS,
                TAG,
                EXCLUDED,
                RULE,
                REPOSITORY,
                SCHEDULE,
                AFTER,
                COPY_TO,
                KEEP[0],
                KEEP[1],
                KEEP[2],
                KEEP[3],
                KEEP[4],
                KEEP[5],
                KEEP[6],
                CRASH,
                backup_guest::APPLICATION_CONSISTENT,
                backup_guest::APPLICATION,
                backup_guest::CUT_LOGS,
                backup_guest::BEFORE,
                backup_guest::AFTER,
                backup_guest::AFTER_DURABLE,
                backup_guest::FAIL,
                PARALLEL,
                SEQUENCE,
                OBJECTIVE,
                NOTES,
                PASSTHRU,
            ]
        },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&JOB_VIEW] },
        examples: &[],
        run: |call| Box::pin(set(call)),
    }
}

fn switched(
    name: &'static str,
    class: &'static str,
    summary: &'static str,
    run: for<'a> fn(&'a mut Call<'_>) -> CmdletFuture<'a>,
) -> Cmdlet<Client> {
    Cmdlet {
        name,
        aliases: &[],
        class,
        summary,
        parameters: const { &[NAME, OBJECT, PASSTHRU] },
        input: Input::EachRecord,
        impact: Impact::Changes,
        views: const { &[&JOB_VIEW] },
        examples: &[],
        run,
    }
}

fn enable_cmdlet() -> Cmdlet<Client> {
    switched(
        "Enable-VMBackupJob",
        "Nestling.Commands.EnableVMBackupJob",
        "Lets backup jobs run by themselves; what came before is not made up for.",
        |call| Box::pin(enable(call, true)),
    )
}

fn disable_cmdlet() -> Cmdlet<Client> {
    switched(
        "Disable-VMBackupJob",
        "Nestling.Commands.DisableVMBackupJob",
        "Lets backup jobs run only when they are asked for.",
        |call| Box::pin(enable(call, false)),
    )
}

fn remove_cmdlet() -> Cmdlet<Client> {
    Cmdlet {
        name: "Remove-VMBackupJob",
        aliases: &[],
        class: "Nestling.Commands.RemoveVMBackupJob",
        summary: "Removes backup jobs; what they saved stays.",
        parameters: const { &[NAME, OBJECT, FORCE] },
        input: Input::EachRecord,
        impact: Impact::Destroys,
        views: &[],
        examples: &[],
        run: |call| Box::pin(remove(call)),
    }
}

/// No job has this name.
fn no_such(name: &str) -> ErrorRecord {
    ErrorRecord::new(
        Category::ObjectNotFound,
        "VirtualizationException",
        "InvalidParameter",
        format!("There is no backup job with name \"{name}\"."),
    )
    .with_target(name, "String")
}

/// The jobs that names mean; all when there is none. A name that fits none is reported.
pub async fn named(call: &mut Call<'_>, names: Vec<String>) -> Result<Vec<v1::Job>, Flow> {
    let all = call.context().clone().jobs().await.map_err(|e| ends(&e))?;
    if names.is_empty() {
        return Ok(all);
    }
    let mut found = Vec::new();
    for name in names {
        let before = found.len();
        found.extend(all.iter().filter(|job| fits(&name, &job.name)).cloned());
        if found.len() == before && !is_pattern(&name) {
            call.write_error(no_such(&name))?;
        }
    }
    Ok(found)
}

/// The jobs that `-Name` or `-VMBackupJob` mean.
async fn jobs(call: &mut Call<'_>) -> Result<Vec<v1::Job>, Flow> {
    let mut names = call.texts("Name");
    names.extend(call.objects("VMBackupJob").iter().map(|object| property(object, "Name")));
    named(call, names).await
}

fn count(call: &Call<'_>, parameter: &'static str) -> Option<u32> {
    call.int(parameter).and_then(|n| u32::try_from(n).ok())
}

/// The rules as given, on top of those that there are.
fn retention(call: &Call<'_>, before: Option<v1::Retention>) -> Option<v1::Retention> {
    let mut rules = before.unwrap_or_default();
    let mut given = false;
    let places = [
        ("KeepLast", &mut rules.last),
        ("KeepHourly", &mut rules.hourly),
        ("KeepDaily", &mut rules.daily),
        ("KeepWeekly", &mut rules.weekly),
        ("KeepMonthly", &mut rules.monthly),
        ("KeepYearly", &mut rules.yearly),
        ("KeepWithinHours", &mut rules.within_hours),
    ];
    for (parameter, place) in places {
        if let Some(count) = count(call, parameter) {
            *place = count;
            given = true;
        }
    }
    given.then_some(rules)
}

fn listed(call: &Call<'_>, parameter: &'static str) -> Option<Vec<String>> {
    call.has(parameter).then(|| call.texts(parameter))
}

fn order(call: &Call<'_>) -> Option<v1::JobOrder> {
    Some(match call.text("Order")?.as_str() {
        "Name" => v1::JobOrder::Name,
        "OldestPointFirst" => v1::JobOrder::OldestPointFirst,
        "SmallestFirst" => v1::JobOrder::SmallestFirst,
        "LargestFirst" => v1::JobOrder::LargestFirst,
        _ => v1::JobOrder::Listed,
    })
}

/// With what there is of its other parts, where the guests are not left alone.
fn consistency(call: &Call<'_>, before: Option<&v1::JobConsistency>) -> Option<v1::JobConsistency> {
    let (crash, guest) = (call.bool("CrashConsistent"), backup_guest::steps(call));
    let fail_if_inconsistent = call.switch("FailIfInconsistent");
    if crash == Some(true) && guest.is_none() {
        return Some(v1::JobConsistency { level: v1::Consistency::Crash, ..v1::JobConsistency::default() });
    }
    if crash.is_none() && guest.is_none() && !fail_if_inconsistent {
        return None;
    }
    let mut after = before.cloned().unwrap_or_default();
    match (guest, crash) {
        (Some(guest), _) => {
            after.level = v1::Consistency::Application;
            after.guest = Some(guest);
        }
        (None, Some(_)) => {
            after.level = v1::Consistency::FileSystem;
            after.guest = None;
        }
        (None, None) if after.level == v1::Consistency::Crash => after.level = v1::Consistency::FileSystem,
        (None, None) => {}
    }
    after.fail_if_inconsistent |= fail_if_inconsistent;
    Some(after)
}

/// The jobs that are followed, each with the end that it is followed after by now.
fn followed(jobs: Vec<String>, before: &[v1::JobAfter]) -> Vec<v1::JobAfter> {
    let end = |job: &str| before.iter().find(|after| is_name(&after.job, job)).map(|after| after.end);
    let after = |job: String| v1::JobAfter { end: end(&job).unwrap_or_default(), job };
    jobs.into_iter().map(after).collect()
}

/// Where copies go, each with the rules that it has by now.
fn copies(repositories: Vec<String>, before: &[v1::JobCopy]) -> Vec<v1::JobCopy> {
    let rules = |name: &str| before.iter().find(|copy| is_name(&copy.repository, name))?.retention;
    let copy = |repository: String| v1::JobCopy { retention: rules(&repository), repository };
    repositories.into_iter().map(copy).collect()
}

/// Names of jobs and repositories are the same in capitals.
fn is_name(name: &str, other: &str) -> bool {
    name.to_lowercase() == other.to_lowercase()
}

/// What the parameters say; `before` is what there is.
fn settings(call: &Call<'_>, before: &v1::JobSettings) -> v1::JobSettings {
    let mut names = listed(call, "VMName");
    if call.has("VM") {
        let ids = call.objects("VM").into_iter().map(|vm| format!("id:{}", property(vm, "Id")));
        names = Some(names.into_iter().flatten().chain(ids).collect());
    }
    let seconds = match call.value("RecoveryPointObjective") {
        Some(Value::TimeSpan(span)) => u64::try_from(span.ms / 1000).ok(),
        _ => None,
    };
    v1::JobSettings {
        notes: call.text("Notes"),
        vms: before.with_machines(names, listed(call, "Tag")),
        exclude_vms: listed(call, "ExcludeVMName"),
        rules: listed(call, "Rule"),
        repository: call.text("Repository"),
        schedule: call.text("Schedule"),
        retention: retention(call, before.retention),
        consistency: consistency(call, before.consistency.as_ref()),
        parallel: count(call, "MaximumParallel"),
        order: order(call),
        after: listed(call, "After").map(|jobs| followed(jobs, before.after.as_deref().unwrap_or_default())),
        copies: listed(call, "CopyTo")
            .map(|names| copies(names, before.copies.as_deref().unwrap_or_default())),
        objective_seconds: seconds,
        ..v1::JobSettings::default()
    }
}

async fn new(call: &mut Call<'_>) -> CmdletResult {
    let mut settings = settings(call, &v1::JobSettings::default());
    settings.enabled = call.switch("Disabled").then_some(false);
    let new = v1::NewJob { name: call.text("Name").unwrap_or_default(), settings };
    if !call.should_process(&new.name, None)? {
        return Ok(());
    }
    let made = call.context().clone().create_job(&new).await.map_err(|e| ends(&e))?;
    call.emit(job(&made));
    Ok(())
}

async fn get(call: &mut Call<'_>) -> CmdletResult {
    let names = call.texts("Name");
    for found in named(call, names).await? {
        call.emit(job(&found));
    }
    Ok(())
}

async fn change(call: &mut Call<'_>, found: Vec<v1::Job>, change: &v1::JobChange) -> CmdletResult {
    let deed = |client: Client, job: v1::Job| async move {
        client.change_job(&job.id.to_string(), change).await.map_err(|e| hyperv(&e))
    };
    change_each(call, found, |job| job.name.clone().into(), deed, |_, changed| job(changed)).await
}

async fn set(call: &mut Call<'_>) -> CmdletResult {
    let name = call.text("NewName");
    let found = jobs(call).await?;
    for one in found {
        let wanted = v1::JobChange { name: name.clone(), settings: settings(call, &one.settings) };
        change(call, vec![one], &wanted).await?;
    }
    Ok(())
}

async fn enable(call: &mut Call<'_>, enabled: bool) -> CmdletResult {
    let wanted = v1::JobChange {
        settings: v1::JobSettings { enabled: Some(enabled), ..v1::JobSettings::default() },
        ..v1::JobChange::default()
    };
    let found = jobs(call).await?;
    change(call, found, &wanted).await
}

async fn remove(call: &mut Call<'_>) -> CmdletResult {
    let asked = |job: &v1::Job| {
        let question = format!("Remove-VMBackupJob will remove the backup job \"{}\".", job.name);
        Asked::removal(&job.name, question)
    };
    let deed = |client: Client, job: v1::Job| async move {
        client.remove_job(&job.id.to_string()).await.map_err(|e| hyperv(&e))
    };
    let found = jobs(call).await?;
    change_each(call, found, asked, deed, |removed, ()| job(removed)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_again_keeps_its_rules_and_its_end() {
        let rules = Some(v1::Retention { last: 3, ..v1::Retention::default() });
        let before = [v1::JobCopy { repository: "Far".to_owned(), retention: rules }];
        let found = copies(vec!["far".to_owned(), "near".to_owned()], &before);
        assert_eq!((found[0].retention, found[1].retention), (rules, None));
        let before = [v1::JobAfter { job: "First".to_owned(), end: v1::JobEnd::Any }];
        let found = followed(vec!["first".to_owned(), "Second".to_owned()], &before);
        assert_eq!((found[0].end, found[1].end), (v1::JobEnd::Any, v1::JobEnd::Success));
    }
}
