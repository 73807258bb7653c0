//! What people are told by mail. Pure.

use std::fmt::Write;

use nestling_model::{
    protection::{Job, MachineRun, Message, Run, RunState},
    size_shown as size,
};

use super::super::{objectives::Missed, saving::timestamp};

/// What is told of at most; how many there are is told in any case.
const MACHINES_MAX: usize = 200;
/// Behind so many bytes no other one is told of, as each may have much to tell: servers refuse mails that are too large.
const BODY_BYTES_MAX: usize = 256 << 10;
/// So many are named in a subject.
const NAMES_MAX: usize = 3;

/// A mail without those whom it goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub subject: String,
    pub body: String,
}

/// A test of the server.
pub fn trial(host: &str) -> Letter {
    Letter {
        subject: format!("Test of the mail server by {host}"),
        body: format!(
            "This mail was sent by Nestling on {host}, because somebody there tries the mail server.\n\
             Backup jobs tell through it how they went.\n"
        ),
    }
}

const fn result(state: RunState) -> &'static str {
    match state {
        RunState::Waiting => "waits",
        RunState::Running => "is under way",
        RunState::Succeeded => "succeeded",
        RunState::SucceededWithWarnings => "succeeded with warnings",
        RunState::Failed => "failed",
        RunState::Cancelled => "was cancelled",
        RunState::Interrupted => "was interrupted",
    }
}

/// `web1, web2, web3 and 4 more`
fn names(all: &[String]) -> String {
    let shown = all.iter().take(NAMES_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMES_MAX) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// Those that the subject names: what went wrong, if anything did.
fn machines(run: &Run) -> String {
    let path = |machine: &MachineRun| machine.path.to_string();
    let all: Vec<String> = run.machines.iter().map(path).collect();
    let bad: Vec<String> =
        run.machines.iter().filter(|machine| !machine.state.is_success()).map(path).collect();
    match (all.len(), bad.len()) {
        (0, _) => "no machine".to_owned(),
        (count, 1..) if count > 1 => format!("{} ({} of {count} machines)", names(&bad), bad.len()),
        _ => names(&all),
    }
}

/// How a run of a job has ended.
pub fn ended(host: &str, job: &Job, run: &Run, repository: &str) -> Letter {
    let subject = format!("{} {} on {host}: {}", job.name, result(run.state), machines(run));
    let sum = run.totals();
    let mut lines = vec![
        ("Job", job.name.to_string()),
        ("Result", result(run.state).to_owned()),
        ("Host", host.to_owned()),
        ("Run", run.number.to_string()),
        ("Repository", repository.to_owned()),
    ];
    lines.extend(run.reason.as_ref().map(|reason| ("Reason", reason.to_string())));
    lines.extend(run.started_at_ms.map(|ms| ("Began", time(ms))));
    lines.extend(run.ended_at_ms.map(|ms| ("Ended", time(ms))));
    lines.extend(between(run.started_at_ms, run.ended_at_ms).map(|ms| ("Took", duration(ms))));
    lines.push(("Read", size(sum.read_bytes)));
    lines.push(("New", format!("{}, {} in the repository", size(sum.new_bytes), size(sum.stored_bytes))));
    let mut body = String::new();
    for (name, value) in lines {
        line(&mut body, &format!("{:<12}{value}", format!("{name}:")));
    }
    let good = run.machines.iter().filter(|machine| machine.state.is_success()).count();
    line(&mut body, &format!("\nMachines: {good} of {} have a new recovery point", run.machines.len()));
    let mut told = 0;
    for one in worst_first(&run.machines).into_iter().take(MACHINES_MAX) {
        machine(&mut body, one);
        told += 1;
        if body.len() > BODY_BYTES_MAX {
            break;
        }
    }
    more(&mut body, run.machines.len() - told);
    let warnings = run.warnings.messages();
    if !warnings.is_empty() {
        line(&mut body, "\nWarnings of the run:");
        warnings.iter().for_each(|warning| line(&mut body, &format!("  {warning}")));
    }
    line(&mut body, &format!("\nMore is told there by: nestling backup log {}", run.number));
    Letter { subject, body }
}

/// In their order, but those first that somebody has to look at.
pub fn worst_first(machines: &[MachineRun]) -> Vec<&MachineRun> {
    let mut sorted: Vec<&MachineRun> = machines.iter().collect();
    sorted.sort_by_key(|machine| machine.state.is_success());
    sorted
}

fn machine(body: &mut String, machine: &MachineRun) {
    let took = between(machine.started_at_ms, machine.ended_at_ms);
    let took = took.map(|ms| format!(" in {}", duration(ms))).unwrap_or_default();
    let state = result(machine.state);
    line(body, &format!("\n{}: {state}{took}", machine.path));
    if let Some(reason) = &machine.reason {
        line(body, &format!("  Reason: {reason}"));
    }
    if let Some(point) = machine.point {
        let short: String = point.to_string().chars().take(8).collect();
        let read = machine.disks.iter().fold(0_u64, |sum, disk| sum.saturating_add(disk.read_bytes));
        let (read, new, stored) = (size(read), size(machine.new_bytes), size(machine.stored_bytes));
        line(body, &format!("  Recovery point {short}: {read} read, {new} new, {stored} in the repository"));
    }
    for warning in machine.warnings.messages() {
        line(body, &format!("  Warning: {warning}"));
    }
}

fn more(body: &mut String, count: usize) {
    if count > 0 {
        line(body, &format!("\n... and {count} more machines"));
    }
}

/// Machines of a job have no recovery point that is young enough.
pub fn late(host: &str, job: &Job, missed: &[Missed]) -> Letter {
    let paths: Vec<String> = missed.iter().map(|missed| missed.path.to_string()).collect();
    let subject = format!("{} misses its recovery point objective on {host}: {}", job.name, names(&paths));
    let allowed = job.policy.objective.map_or(0, |objective| objective.seconds.saturating_mul(1000));
    let mut body = String::new();
    line(&mut body, &format!("Job {} on {host} wants a recovery point of each of its machines", job.name));
    line(&mut body, &format!("that is no older than {}. That is missed for:", duration(allowed)));
    for missed in missed.iter().take(MACHINES_MAX) {
        let newest = match missed.newest_ms {
            Some(ms) => format!("its newest recovery point is of {}", time(ms)),
            None => "it has no recovery point".to_owned(),
        };
        line(
            &mut body,
            &format!("\n{}: {newest}; one is due since {}", missed.path, duration(missed.late_ms)),
        );
    }
    more(&mut body, missed.len().saturating_sub(MACHINES_MAX));
    line(&mut body, &format!("\nMore is told there by: nestling job show '{}'", job.name));
    Letter { subject, body }
}

/// One line, whatever is in it; what begins with a line end has an empty one before it.
fn line(body: &mut String, text: &str) {
    let (empty, text) = text.strip_prefix('\n').map_or(("", text), |text| ("\n", text));
    let indent = text.len() - text.trim_start_matches(' ').len();
    let harmless = Message::from(text);
    // Writing to a text cannot fail.
    let _ = writeln!(body, "{empty}{}{harmless}", " ".repeat(indent));
}

fn between(from: Option<u64>, to: Option<u64>) -> Option<u64> {
    Some(to?.saturating_sub(from?))
}

/// To the second.
fn time(ms: u64) -> String {
    timestamp(ms / 1000 * 1000).to_string()
}

/// `4.1 s`, `3 min 12 s`, `26 h`, `2 days 1 h`
fn duration(ms: u64) -> String {
    let seconds = ms / 1000;
    let two = |big: u64, of: &str, small: u64, rest: &str| match small {
        0 => format!("{big} {of}"),
        _ => format!("{big} {of} {small} {rest}"),
    };
    match seconds {
        0..60 => format!("{seconds}.{} s", ms % 1000 / 100),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..172_800 => two(seconds / 3600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86_400, "days", seconds / 3600 % 24, "h"),
    }
}
