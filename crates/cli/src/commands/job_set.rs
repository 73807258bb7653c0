//! `nestling job create` and `job set`: what a job is made of, as arguments.

use clap::{Args, ValueEnum};
use nestling_api::v1;

use super::guest_steps::GuestSteps;
use crate::{
    args::KeepRulesWithin,
    commands::proof_run::JobProof,
    failure::{Failure, Result},
    session::Session,
    text::parse_size,
};

/// Create a backup job
///
/// Its machines are chosen anew for each run, so that new ones join by themselves. Without a schedule it runs after other
/// jobs (--after) or when it is asked for (`job run`).
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Create {
    /// The job's name
    name: String,
    /// Let it run only when it is asked for
    #[arg(long)]
    disabled: bool,
    #[command(flatten)]
    settings: Settings,
}

/// Change or rename a job; what is not given stays
///
/// Of what can be given again, all is replaced by what is given. A rule of what is kept is taken away with 0 (--keep-daily 0).
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub struct Set {
    /// The job's name, or its id
    job: String,
    /// Its new name
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Take something away; can be given again
    #[arg(long, value_name = "WHAT")]
    clear: Vec<Clear>,
    #[command(flatten)]
    settings: Settings,
}

const AFTER_HELP: &str = "\
SCHEDULES:
  every 15 minutes                        daily at 22:30 Europe/Berlin
  every 4 hours from 22:30                weekly on mon,thu at 03:00
  monthly on first mon,last day at 01:00  cron 0 3 * * 1-5
  then, in any order: a time zone; during mon-fri 20:00-06:00 (a run starts only then);
  except sun and 12:00-13:00 (nothing of it runs then); missed now, missed skip or
  missed within 4 hours (what becomes of a run that could not start in time)
  Times are UTC unless a time zone is named.

RULES:
  name, path, tag, state, memory, disk, processors, generation, switch and nesting, compared with
  = != >= <= > or <: memory>=4GB, state=Running, switch=LAN, tag=prod, name!=*test*

EXIT STATUS:
  0  done
  1  failed
  2  the command line makes no sense";

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clear {
    Vms,
    Tags,
    ExcludedVms,
    Rules,
    Schedule,
    Retention,
    Marks,
    ExcludedDisks,
    ReadLimit,
    After,
    Copies,
    ScriptsBefore,
    ScriptsAfter,
    Webhooks,
    Mails,
    Objective,
    Proof,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    Listed,
    Name,
    OldestPointFirst,
    SmallestFirst,
    LargestFirst,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum On {
    Success,
    Warnings,
    Failure,
    MissedObjective,
}

#[derive(Debug, Args)]
struct Settings {
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    notes: Option<String>,
    /// Machines, by a name in which * and ? stand for other text, or id: and an id; can be given again
    #[arg(long, value_name = "NAME")]
    vm: Vec<String>,
    /// Also machines with this tag (`vm set --tag`), whenever they get or lose it; can be given again
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Machines that are left out in any case, by a name as above, or tag: and a tag; can be given again
    #[arg(long, value_name = "NAME")]
    exclude_vm: Vec<String>,
    /// Also machines for which this holds; can be given again, and then all must hold
    #[arg(long, value_name = "RULE")]
    rule: Vec<String>,
    /// One of the rules suffices
    #[arg(long, requires = "rule")]
    any_rule: bool,
    /// Where to [default: the only repository]
    #[arg(long, value_name = "REPOSITORY")]
    repository: Option<String>,
    /// When it runs by itself
    #[arg(long, value_name = "SCHEDULE")]
    schedule: Option<String>,
    /// Run it after another job's end, JOB or JOB:success, JOB:failure or JOB:any; can be given again
    #[arg(long, value_name = "JOB[:END]")]
    after: Vec<String>,
    #[command(flatten)]
    rules: KeepRulesWithin,
    /// Keep its points until they are unpinned, whatever the rules say
    #[arg(long, conflicts_with = "protect_hours")]
    pin: bool,
    /// Keep its points at least so long, whatever the rules say
    #[arg(long, value_name = "N")]
    protect_hours: Option<u32>,
    #[command(flatten)]
    way: Way,
    #[command(flatten)]
    around: Around,
    #[command(flatten)]
    proof: JobProof,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "How machines are saved")]
struct Way {
    /// Ask nothing of the guests: their disks are as after a power cut
    #[arg(long, conflicts_with_all = ["file_system_consistent", "freeze_seconds", "or_fail"])]
    crash_consistent: bool,
    /// Hold the guests' file systems still for the instant (the default); without an agent go on, and warn
    #[arg(long)]
    file_system_consistent: bool,
    /// The longest that a guest is held still [default: 10]
    #[arg(long, value_name = "N")]
    freeze_seconds: Option<u32>,
    /// No backup of a machine at all if its guest cannot be treated as is wanted
    #[arg(long)]
    or_fail: bool,
    #[command(flatten)]
    guest: GuestSteps,
    /// Leave a disk out: scsi:1, ide:0, or file: and the name of its image's file, with * and ?; can be given again
    #[arg(long, value_name = "DISK")]
    exclude_disk: Vec<String>,
    /// How many machines are saved at once [default: 1]
    #[arg(long, value_name = "N")]
    parallel: Option<u32>,
    /// In which order they come [default: listed]
    #[arg(long, value_name = "ORDER")]
    order: Option<Order>,
    /// Read at most so much a second, of all machines together, such as 50MB
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    read_limit: Option<u64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Around the run")]
struct Around {
    /// Copy new points to this repository; can be given again
    #[arg(long, value_name = "REPOSITORY")]
    copy_to: Vec<String>,
    /// Which points stay there, such as last=7,daily=14 [default: all]
    #[arg(long, value_name = "RULES", value_parser = copy_rules, requires = "copy_to")]
    copy_keep: Option<v1::Retention>,
    /// Run a program of the host before the first machine, its whole path and arguments split at blanks; can be given again
    #[arg(long, value_name = "PROGRAM")]
    script_before: Vec<String>,
    /// Run a program of the host after the last machine, whatever became of them; can be given again
    #[arg(long, value_name = "PROGRAM")]
    script_after: Vec<String>,
    /// How long each of the programs given here may take [default: 300]
    #[arg(long, value_name = "N")]
    script_seconds: Option<u32>,
    /// The run fails when one of the programs given here does; else it is a warning
    #[arg(long)]
    script_or_fail: bool,
    /// Tell this address how runs went, by a POST of JSON; can be given again
    #[arg(long, value_name = "URL")]
    webhook: Vec<String>,
    /// After which ends it is told [default: warnings,failure,missed-objective]
    #[arg(long, value_name = "ENDS", value_delimiter = ',', requires = "webhook")]
    webhook_on: Vec<On>,
    /// Send this address a mail on how runs went, through the host's mail server (`mail set`); can be given again
    #[arg(long, value_name = "ADDRESS")]
    mail: Vec<String>,
    /// After which ends it is sent [default: warnings,failure,missed-objective]
    #[arg(long, value_name = "ENDS", value_delimiter = ',', requires = "mail")]
    mail_on: Vec<On>,
    /// Warn when a machine's newest point is older, such as 90m, 4h or 2d
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    objective: Option<u64>,
}

fn some<T>(items: Vec<T>) -> Option<Vec<T>> {
    Some(items).filter(|items| !items.is_empty())
}

impl Settings {
    /// Of what has several parts, those that are not given are as before.
    fn over(self, before: &v1::JobSettings) -> Result<v1::JobSettings> {
        let Self { way, around, proof, .. } = self;
        let any_rule = (!self.rule.is_empty()).then_some(self.any_rule);
        let keep = v1::JobKeep { pin: self.pin, protect_hours: self.protect_hours };
        Ok(v1::JobSettings {
            notes: self.notes,
            vms: before.with_machines(some(self.vm), some(self.tag)),
            exclude_vms: some(self.exclude_vm),
            rules: some(self.rule),
            any_rule,
            repository: self.repository,
            schedule: self.schedule,
            retention: self.rules.over(before.retention.unwrap_or_default()),
            keep: Some(keep).filter(|keep| *keep != v1::JobKeep::default()),
            after: some(after(&self.after, before.after.as_deref().unwrap_or_default())?),
            consistency: way.over(before.consistency.clone().unwrap_or_default()),
            exclude_disks: some(way.exclude_disk),
            read_bytes_per_second_max: way.read_limit,
            parallel: way.parallel,
            order: way.order.map(order),
            copies: some(around.copies(before.copies.as_deref().unwrap_or_default())),
            scripts_before: some(around.scripts(&around.script_before)),
            scripts_after: some(around.scripts(&around.script_after)),
            webhooks: some(around.webhooks()),
            mails: around.mails(),
            objective_seconds: around.objective,
            proof: proof.into_wire(),
            ..v1::JobSettings::default()
        })
    }
}

impl Way {
    /// A level that is given is without what the one before had; each part is as before where it is not given.
    fn over(&self, before: v1::JobConsistency) -> Option<v1::JobConsistency> {
        let level = [
            (self.crash_consistent, v1::Consistency::Crash),
            (self.file_system_consistent, v1::Consistency::FileSystem),
            (self.guest.application_consistent, v1::Consistency::Application),
        ];
        let level = level.into_iter().find(|(is_given, _)| *is_given).map(|(_, level)| level);
        if level == Some(v1::Consistency::Crash) {
            return Some(v1::JobConsistency {
                level: v1::Consistency::Crash,
                ..v1::JobConsistency::default()
            });
        }
        if level.is_none() && !self.or_fail && self.freeze_seconds.is_none() {
            return None;
        }
        let mut after = before;
        match level {
            Some(level) => {
                after.level = level;
                after.fail_if_inconsistent = false;
                after.guest = self.guest.to_wire();
            }
            None if after.level == v1::Consistency::Crash => after.level = v1::Consistency::FileSystem,
            None => {}
        }
        after.fail_if_inconsistent |= self.or_fail;
        after.freeze_seconds_max = self.freeze_seconds.or(after.freeze_seconds_max);
        Some(after)
    }
}

impl Around {
    /// A place that has its rules already keeps them, unless others are given.
    fn copies(&self, before: &[v1::JobCopy]) -> Vec<v1::JobCopy> {
        let copy = |repository: &String| {
            let known = before.iter().find(|copy| is_name(&copy.repository, repository));
            let retention = self.copy_keep.or_else(|| known?.retention);
            v1::JobCopy { repository: repository.clone(), retention }
        };
        self.copy_to.iter().map(copy).collect()
    }

    fn scripts(&self, lines: &[String]) -> Vec<v1::JobScript> {
        let script = |line: &String| {
            let v1::Program { program, arguments, seconds_max } =
                v1::Program::split(line, self.script_seconds);
            v1::JobScript { program, arguments, seconds_max, must_succeed: self.script_or_fail }
        };
        lines.iter().map(script).collect()
    }

    fn webhooks(&self) -> Vec<v1::JobWebhook> {
        let on = ends(&self.webhook_on);
        let hook = |url: &String| v1::JobWebhook {
            url: url.clone(),
            on_success: on.contains(&On::Success),
            on_warnings: on.contains(&On::Warnings),
            on_failure: on.contains(&On::Failure),
            on_missed_objective: on.contains(&On::MissedObjective),
        };
        self.webhook.iter().map(hook).collect()
    }

    fn mails(&self) -> Option<Vec<v1::JobMail>> {
        let on = ends(&self.mail_on);
        let mail = |addresses| v1::JobMail {
            addresses,
            on_success: on.contains(&On::Success),
            on_warnings: on.contains(&On::Warnings),
            on_failure: on.contains(&On::Failure),
            on_missed_objective: on.contains(&On::MissedObjective),
        };
        some(self.mail.clone()).map(|addresses| vec![mail(addresses)])
    }
}

/// After which ends somebody is told: those that are given, else the usual ones.
fn ends(given: &[On]) -> &[On] {
    if given.is_empty() { &[On::Warnings, On::Failure, On::MissedObjective] } else { given }
}

fn order(order: Order) -> v1::JobOrder {
    match order {
        Order::Listed => v1::JobOrder::Listed,
        Order::Name => v1::JobOrder::Name,
        Order::OldestPointFirst => v1::JobOrder::OldestPointFirst,
        Order::SmallestFirst => v1::JobOrder::SmallestFirst,
        Order::LargestFirst => v1::JobOrder::LargestFirst,
    }
}

/// Names of jobs and repositories are the same in capitals.
fn is_name(name: &str, other: &str) -> bool {
    name.to_lowercase() == other.to_lowercase()
}

/// `nightly`, `nightly:any`. A name may have a colon in it. An end that is not given is as before.
fn after(texts: &[String], before: &[v1::JobAfter]) -> Result<Vec<v1::JobAfter>> {
    let one = |text: &String| {
        let (job, end) = match text.rsplit_once(':') {
            Some((job, "success")) => (job, Some(v1::JobEnd::Success)),
            Some((job, "failure")) => (job, Some(v1::JobEnd::Failure)),
            Some((job, "any")) => (job, Some(v1::JobEnd::Any)),
            _ => (text.as_str(), None),
        };
        if job.is_empty() {
            return Err(Failure::usage("--after lacks the name of a job"));
        }
        let known = before.iter().find(|after| is_name(&after.job, job));
        let end = end.or_else(|| Some(known?.end)).unwrap_or_default();
        Ok(v1::JobAfter { job: job.to_owned(), end })
    };
    texts.iter().map(one).collect()
}

/// `last=7,daily=14`
fn copy_rules(text: &str) -> std::result::Result<v1::Retention, String> {
    let mut rules = v1::Retention::default();
    for part in text.split(',') {
        let (name, count) =
            part.split_once('=').ok_or_else(|| format!("\"{part}\" is no rule; write last=7,daily=14"))?;
        let count = count.trim().parse().map_err(|_| format!("\"{count}\" is no number"))?;
        let place = match name.trim() {
            "last" => &mut rules.last,
            "hourly" => &mut rules.hourly,
            "daily" => &mut rules.daily,
            "weekly" => &mut rules.weekly,
            "monthly" => &mut rules.monthly,
            "yearly" => &mut rules.yearly,
            "within" => &mut rules.within_hours,
            other => {
                return Err(format!(
                    "\"{other}\" is no rule; there are last, hourly, daily, weekly, monthly, yearly and within (hours)"
                ));
            }
        };
        *place = count;
    }
    Ok(rules)
}

/// `90m`, `4h`, `2d`, or seconds.
fn seconds(text: &str) -> std::result::Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        other => return Err(format!("\"{other}\" is no unit of time; use m, h or d")),
    };
    let number: u64 = digits.parse().map_err(|_| "a time is a number with m, h or d behind it".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "that is too long".to_owned())
}

fn clear(what: Clear, before: &v1::JobSettings, settings: &mut v1::JobSettings) {
    // Names and tags are one list, of which one may go.
    let now = settings.vms.clone().or_else(|| before.vms.clone());
    let now = v1::JobSettings { vms: now, ..v1::JobSettings::default() };
    match what {
        Clear::Vms => settings.vms = now.with_machines(Some(Vec::new()), None),
        Clear::Tags => settings.vms = now.with_machines(None, Some(Vec::new())),
        Clear::ExcludedVms => settings.exclude_vms = Some(Vec::new()),
        Clear::Rules => settings.rules = Some(Vec::new()),
        Clear::Schedule => settings.schedule = Some(String::new()),
        Clear::Retention => settings.retention = Some(v1::Retention::default()),
        Clear::Marks => settings.keep = Some(v1::JobKeep::default()),
        Clear::ExcludedDisks => settings.exclude_disks = Some(Vec::new()),
        Clear::ReadLimit => settings.read_bytes_per_second_max = Some(0),
        Clear::After => settings.after = Some(Vec::new()),
        Clear::Copies => settings.copies = Some(Vec::new()),
        Clear::ScriptsBefore => settings.scripts_before = Some(Vec::new()),
        Clear::ScriptsAfter => settings.scripts_after = Some(Vec::new()),
        Clear::Webhooks => settings.webhooks = Some(Vec::new()),
        Clear::Mails => settings.mails = Some(Vec::new()),
        Clear::Objective => settings.objective_seconds = Some(0),
        Clear::Proof => settings.proof = Some(v1::JobProof::default()),
    }
}

impl Create {
    pub async fn run(self, session: &Session) -> Result {
        let mut settings = self.settings.over(&v1::JobSettings::default())?;
        settings.enabled = self.disabled.then_some(false);
        let new = v1::NewJob { name: self.name, settings };
        session.printer.changed(&session.client().await?.create_job(&new).await?)
    }
}

impl Set {
    pub async fn run(self, session: &Session) -> Result {
        let client = session.client().await?;
        let before = client.job(&self.job).await?;
        let mut change = v1::JobChange { name: self.name, settings: self.settings.over(&before.settings)? };
        self.clear.into_iter().for_each(|what| clear(what, &before.settings, &mut change.settings));
        if change == v1::JobChange::default() {
            return Err(Failure::usage("nothing to change was given").hint("see nestling job set --help"));
        }
        // By its id: it may be renamed meanwhile.
        session.printer.changed(&client.change_job(&before.id.to_string(), &change).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_words_are_read_or_refused() {
        assert_eq!((seconds("90m"), seconds("4h"), seconds("2d")), (Ok(5400), Ok(14_400), Ok(172_800)));
        for bad in ["", "h", "4w", "-1h", "99999999999999999999h", "999999999999999999d"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        let rules = copy_rules("last=7,within=48").unwrap();
        assert_eq!((rules.last, rules.within_hours, rules.daily), (7, 48, 0));
        for bad in ["", "last", "last=x", "first=1"] {
            assert!(copy_rules(bad).is_err(), "{bad}");
        }
        let after = |text: &str| after(&[text.to_owned()], &[]).map(|mut all| all.remove(0));
        assert_eq!(after("a:b:any").unwrap().job, "a:b");
        assert_eq!(after("a:b").unwrap().end, v1::JobEnd::Success);
        assert!(after(":any").is_err());
    }

    #[derive(Debug, clap::Parser)]
    struct Words {
        #[command(flatten)]
        set: Set,
    }

    /// What `job set J` with these words changes of a job.
    fn set(words: &str, before: &v1::JobSettings) -> v1::JobSettings {
        let words = ["set", "J"].into_iter().chain(words.split_whitespace());
        let set = <Words as clap::Parser>::try_parse_from(words).unwrap().set;
        set.settings.over(before).unwrap()
    }

    #[test]
    fn a_rule_that_is_set_leaves_the_others_as_they_are() {
        let rules = v1::Retention { last: 7, daily: 14, within_hours: 48, ..v1::Retention::default() };
        let before = v1::JobSettings { retention: Some(rules), ..v1::JobSettings::default() };
        let after = |words: &str| set(words, &before).retention;
        assert_eq!(after("--keep-daily 30"), Some(v1::Retention { daily: 30, ..rules }));
        assert_eq!(after("--keep-daily 0"), Some(v1::Retention { daily: 0, ..rules }));
        assert_eq!(after("--keep-within 1"), Some(v1::Retention { within_hours: 1, ..rules }));
        assert_eq!(after("--parallel 2"), None);
    }

    #[test]
    fn names_and_tags_are_set_and_cleared_each_by_itself() {
        let texts = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        let before = v1::JobSettings { vms: texts(&["web*", "tag:prod"]), ..v1::JobSettings::default() };
        assert_eq!(set("--tag gold --tag a", &before).vms, texts(&["web*", "tag:gold", "tag:a"]));
        assert_eq!(set("--vm db*", &before).vms, texts(&["db*", "tag:prod"]));
        assert_eq!(set("--parallel 2", &before).vms, None);
        let cleared = |what, words: &str| {
            let mut after = set(words, &before);
            clear(what, &before, &mut after);
            after.vms
        };
        assert_eq!(cleared(Clear::Tags, "--parallel 2"), texts(&["web*"]));
        assert_eq!(cleared(Clear::Vms, "--tag gold"), texts(&["tag:gold"]));
    }

    #[test]
    fn mails_are_sent_after_the_ends_that_are_given() {
        let mails = |words: &str| set(words, &v1::JobSettings::default()).mails;
        assert_eq!(mails("--parallel 2"), None);
        let usual = mails("--mail a@example.org --mail b@example.org").unwrap().remove(0);
        assert_eq!(usual.addresses, ["a@example.org", "b@example.org"]);
        assert!(!usual.on_success && usual.on_warnings && usual.on_failure && usual.on_missed_objective);
        let all = mails("--mail a@example.org --mail-on success,failure").unwrap().remove(0);
        assert!(all.on_success && all.on_failure && !all.on_warnings && !all.on_missed_objective);
    }

    #[test]
    fn a_part_that_is_set_leaves_the_other_parts_as_they_are() {
        let strict = v1::JobConsistency {
            level: v1::Consistency::FileSystem,
            freeze_seconds_max: Some(20),
            freeze_mount_points: vec!["/data".to_owned()],
            fail_if_inconsistent: true,
            guest: None,
        };
        let rules = Some(v1::Retention { last: 3, ..v1::Retention::default() });
        let before = v1::JobSettings {
            consistency: Some(strict.clone()),
            copies: Some(vec![v1::JobCopy { repository: "Far".to_owned(), retention: rules }]),
            after: Some(vec![v1::JobAfter { job: "First".to_owned(), end: v1::JobEnd::Any }]),
            ..v1::JobSettings::default()
        };
        let after = |words: &str| set(words, &before);
        let longer = v1::JobConsistency { freeze_seconds_max: Some(30), ..strict.clone() };
        assert_eq!(after("--freeze-seconds 30").consistency, Some(longer));
        let lenient = v1::JobConsistency { fail_if_inconsistent: false, ..strict.clone() };
        assert_eq!(after("--file-system-consistent").consistency, Some(lenient));
        assert_eq!(after("--file-system-consistent --or-fail").consistency, Some(strict));
        assert_eq!(after("--crash-consistent").consistency.unwrap().level, v1::Consistency::Crash);
        let ready = after("--application-consistent --cut-logs").consistency.unwrap();
        assert!(ready.level == v1::Consistency::Application && ready.guest.clone().unwrap().cut_logs);
        let before = v1::JobSettings { consistency: Some(ready.clone()), ..v1::JobSettings::default() };
        let longer = set("--freeze-seconds 30", &before).consistency.unwrap();
        assert_eq!((longer.level, longer.guest), (ready.level, ready.guest));
        assert_eq!(set("--file-system-consistent", &before).consistency.unwrap().guest, None);

        let copies = after("--copy-to far --copy-to near").copies.unwrap();
        assert_eq!((copies[0].retention, copies[1].retention), (rules, None));
        let copies = after("--copy-to far --copy-keep daily=2").copies.unwrap();
        assert_eq!(copies[0].retention.unwrap().daily, 2);
        let followed = after("--after first --after Second").after.unwrap();
        assert_eq!((followed[0].end, followed[1].end), (v1::JobEnd::Any, v1::JobEnd::Success));
        assert_eq!(after("--after first:failure").after.unwrap()[0].end, v1::JobEnd::Failure);
    }
}
