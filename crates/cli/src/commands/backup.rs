//! `nestling backup`: machines are backed up, and what came of it.

use clap::{Args, Subcommand};
use nestling_api::v1::{self, RunState};
use nestling_model::VmPath;

use super::{backup_points, backup_run};
use crate::{
    args::vm_path,
    failure::Result,
    session::Session,
    text::{self, Table, fields},
};

/// Backups of machines, and their recovery points
#[derive(Debug, Args)]
pub struct Backup {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(backup_run::Run),
    Runs(Runs),
    /// Show a run: what was read, saved, and why
    Show {
        #[arg(value_name = "RUN", help = RUN)]
        run: String,
    },
    /// Show what a run did, line by line
    Log {
        #[arg(value_name = "RUN", help = RUN)]
        run: String,
    },
    /// End a run; what it has saved of the machine under way serves the next one
    Cancel {
        #[arg(value_name = "RUN", help = RUN)]
        run: String,
    },
    Points(backup_points::Points),
    SetPoint(backup_points::SetPoint),
    RemovePoint(backup_points::RemovePoint),
}

const RUN: &str = "The run's number, as `backup runs` tells it";

/// List the backups that were made and those under way, newest first
#[derive(Debug, Args)]
struct Runs {
    #[arg(value_name = "VM", value_parser = vm_path, help = "Only those of this machine")]
    vm: Option<VmPath>,
}

impl Backup {
    pub async fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        match self.command {
            Command::Run(run) => run.run(session).await,
            Command::Runs(Runs { vm: None }) => {
                printer.list(&session.client().await?.runs(None, None).await?, table)
            }
            Command::Runs(Runs { vm: Some(path) }) => {
                let runs = session.client().await?.runs(Some(&path.to_string()), None).await?;
                printer.list(&runs, table)
            }
            Command::Show { run } => printer.show(&session.client().await?.run(&run).await?, details),
            Command::Log { run } => {
                let log = session.client().await?.run_log(&run).await?;
                printer.show(&log, |log| text::clean(&log.text))
            }
            Command::Cancel { run } => printer.changed(&session.client().await?.cancel_run(&run).await?),
            Command::Points(points) => points.run(session).await,
            Command::SetPoint(set) => set.run(session).await,
            Command::RemovePoint(remove) => remove.run(session).await,
        }
    }
}

pub fn state(state: RunState) -> &'static str {
    match state {
        RunState::Waiting => "waiting",
        RunState::Running => "running",
        RunState::Succeeded => "succeeded",
        RunState::SucceededWithWarnings => "succeeded with warnings",
        RunState::Failed => "failed",
        RunState::Cancelled => "cancelled",
        RunState::Interrupted => "interrupted",
    }
}

fn machines(run: &v1::Run) -> String {
    match run.machines.as_slice() {
        [] => "-".to_owned(),
        [only] => only.vm.clone(),
        [first, rest @ ..] => format!("{} and {} more", first.vm, rest.len()),
    }
}

pub fn table(runs: &[v1::Run]) -> String {
    let columns = ["RUN", "BEGAN", "JOB", "MACHINES", "REPOSITORY", "READ", "STORED", "STATE"];
    let mut table = Table::new(&columns).right(&[0, 5, 6]);
    for run in runs {
        let read = run.machines.iter().flat_map(|machine| &machine.disks).map(|disk| disk.read_bytes).sum();
        table.row([
            run.number.to_string(),
            text::time(run.created_at_ms),
            run.job.clone().unwrap_or_else(|| "-".to_owned()),
            machines(run),
            run.repository.clone(),
            text::size(read),
            text::size(run.machines.iter().map(|machine| machine.stored_bytes).sum()),
            state(run.state).to_owned(),
        ]);
    }
    table.text()
}

fn time(ms: Option<u64>) -> String {
    ms.map(text::time).unwrap_or_default()
}

/// How far a machine is; `more` are under way beside it.
pub fn progress(progress: &v1::RunProgress, more: usize) -> String {
    let at = stage(progress);
    if more == 0 { at } else { format!("{at} (and {more} more machines)") }
}

fn stage(progress: &v1::RunProgress) -> String {
    match (progress.total, progress.in_bytes) {
        (0, _) => format!("{}: {}", progress.vm, progress.stage),
        (total, true) => {
            format!(
                "{}: {} {} of {}",
                progress.vm,
                progress.stage,
                text::size(progress.done),
                text::size(total)
            )
        }
        (total, false) => format!("{}: {} {} of {total}", progress.vm, progress.stage, progress.done),
    }
}

fn details(run: &v1::Run) -> String {
    let mut out = fields(&[
        ("Run", run.number.to_string()),
        ("State", state(run.state).to_owned()),
        ("Job", run.job.clone().unwrap_or_default()),
        ("Asked for by", run.causes.join(", ")),
        ("Repository", run.repository.clone()),
        ("Began", time(run.started_at_ms)),
        ("Ended", time(run.ended_at_ms)),
        ("Now", run.progress.as_ref().map(|at| progress(at, run.more_progress.len())).unwrap_or_default()),
        ("Reason", run.reason.clone().unwrap_or_default()),
        ("Warnings", run.warnings.join("; ")),
    ]);
    for machine in &run.machines {
        out.push('\n');
        out.push_str(&machine_details(machine));
    }
    out
}

fn machine_details(machine: &v1::MachineRun) -> String {
    let took = |ms: u64| if ms > 0 { format!("{}.{:03} s", ms / 1000, ms % 1000) } else { String::new() };
    let mut out = fields(&[
        ("Machine", machine.vm.clone()),
        ("State", state(machine.state).to_owned()),
        ("Point", machine.point.clone().unwrap_or_default()),
        ("Consistency", machine.consistency.clone().unwrap_or_default()),
        ("Began", time(machine.started_at_ms)),
        ("Ended", time(machine.ended_at_ms)),
        ("Frozen for", took(machine.frozen_ms)),
        ("Instant after", took(machine.capture_ms)),
        ("Saved in", took(machine.save_ms)),
        ("New", if machine.point.is_some() { text::size(machine.new_bytes) } else { String::new() }),
        ("Stored", if machine.point.is_some() { text::size(machine.stored_bytes) } else { String::new() }),
        ("Reason", machine.reason.clone().unwrap_or_default()),
    ]);
    for warning in &machine.warnings {
        out.push_str(&format!("Warning: {}\n", text::clean(warning)));
    }
    if !machine.disks.is_empty() {
        let mut table =
            Table::new(&["DISK", "SIZE", "READ", "PER SECOND", "NEW", "HOW"]).right(&[1, 2, 3, 4]);
        for disk in &machine.disks {
            table.row([
                disk.name.clone(),
                text::size(disk.total_bytes),
                text::size(disk.read_bytes),
                rate(disk.read_bytes, machine.save_ms),
                if disk.new_bytes > 0 { text::size(disk.new_bytes) } else { String::new() },
                how(disk),
            ]);
        }
        out.push_str(&table.text());
    }
    out
}

/// So many bytes a second; empty where nobody knows.
pub fn rate(bytes: u64, ms: u64) -> String {
    bytes
        .saturating_mul(1000)
        .checked_div(ms)
        .map(|rate| format!("{}/s", text::size(rate)))
        .unwrap_or_default()
}

fn how(disk: &v1::DiskRun) -> String {
    let point: String = disk.earlier_point.iter().flat_map(|point| point.chars().take(8)).collect();
    let reason = disk.reason.as_deref().unwrap_or("it was asked for");
    match disk.reading {
        None => String::new(),
        Some(v1::Reading::Changes) => format!("what changed since {point}"),
        Some(v1::Reading::Compared) => format!("all, compared with {point}: {reason}"),
        Some(v1::Reading::Whole) => format!("all: {reason}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_disk_was_read_is_told_with_the_reason() {
        let disk = |reading, reason: Option<&str>| v1::DiskRun {
            name: "scsi-0".into(),
            total_bytes: 1,
            read_bytes: 1,
            new_bytes: 0,
            stored_bytes: 0,
            reading: Some(reading),
            reason: reason.map(Into::into),
            earlier_point: Some("0123456789".into()),
        };
        assert_eq!(how(&disk(v1::Reading::Changes, None)), "what changed since 01234567");
        let compared = disk(v1::Reading::Compared, Some("the change tracking is gone"));
        assert_eq!(how(&compared), "all, compared with 01234567: the change tracking is gone");
    }

    #[test]
    fn how_far_it_is_is_told_in_bytes_where_they_are_known() {
        let at = |total, in_bytes| v1::RunProgress {
            vm: "Web01".into(),
            stage: "saving".into(),
            done: 1 << 20,
            total,
            in_bytes,
            stored_bytes: 0,
        };
        assert_eq!(progress(&at(0, false), 0), "Web01: saving");
        assert_eq!(progress(&at(2 << 20, true), 0), "Web01: saving 1 MB of 2 MB");
        assert_eq!(progress(&at(0, false), 2), "Web01: saving (and 2 more machines)");
        assert_eq!((rate(3 << 20, 1500), rate(1, 0)), ("2 MB/s".into(), String::new()));
    }
}
