//! `nestling vault prune`.

use std::sync::Arc;

use clap::Args;
use nestling_vault::{Identity, Job, PruneOptions, PruneReport, PruneSummary, Repository, VaultError};
use serde::Serialize;

use super::{REPO, access::Access, work::watch};
use crate::{
    failure::{Failure, Result, status},
    session::Session,
    text::{self, fields},
};

/// Free what no point needs any more; others may go on saving meanwhile
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  what the plan says was done
  1  nothing was done, or it is not known what
  2  the command line makes no sense
  3  the store was full: what could be removed is gone, the rest of the plan was not done")]
pub struct Prune {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// How much may stay unused, in percent of what is used: freeing it would mean copying much. With 100 nothing is
    /// copied, not even to join many small packs [default: 5]
    #[arg(long, value_name = "PERCENT", value_parser = unused_percent)]
    max_unused: Option<f64>,
    /// Remove all data of a repository that has no point and no other snapshot
    #[arg(long)]
    allow_empty: bool,
    #[command(flatten)]
    access: Access,
}

/// From 0, which frees everything, to 100.
fn unused_percent(text: &str) -> std::result::Result<f64, String> {
    let number = text.trim_end_matches('%').parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
    number.ok_or_else(|| "a share is from 0 to 100".to_owned())
}

#[derive(Serialize)]
pub struct Pruned {
    plan: Plan,
    /// Absent when nothing was to be done but the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<Done>,
}

#[derive(Serialize)]
struct Plan {
    used_bytes: u64,
    unused_bytes: u64,
    removed_packs: u64,
    repacked_packs: u64,
    joined_packs: u64,
    repacked_bytes: u64,
    kept_unused_bytes: u64,
    unindexed_packs: u64,
    marked_packs: u64,
}

#[derive(Serialize)]
struct Done {
    removed_packs: u64,
    removed_bytes: u64,
    /// Packs that go with a later run, when those who are at work now have ended.
    waiting_packs: u64,
    waiting_for: Vec<String>,
    /// Why the rest of the plan was not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    unfinished: Option<String>,
}

impl Prune {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let repository = self.access.open(printer, &self.repo)?;
        let default = PruneOptions::default();
        let options = PruneOptions {
            max_unused_percent: self.max_unused.unwrap_or(default.max_unused_percent),
            allow_empty: self.allow_empty,
        };
        let pruned = watch(printer, KEPT, |job| prune(&repository, options, self.dry_run, job))?;
        printer.show(&pruned, human)?;
        told(&pruned)
    }
}

/// Whether all of it was done, as the exit status.
pub fn told(pruned: &Pruned) -> Result {
    match &pruned.done {
        Some(Done { unfinished: Some(_), .. }) => Err(Failure::Told(status::PARTLY)),
        _ => Ok(()),
    }
}

pub const KEPT: &str = "nothing that a point needs is gone; run it again to free the rest";

pub fn prune(
    repository: &Arc<Repository>,
    options: PruneOptions,
    dry_run: bool,
    job: &Job,
) -> std::result::Result<Pruned, VaultError> {
    let who = Identity::current();
    let plan = repository.prune_plan(options, &who, job)?;
    let summary = plan.summary;
    let done = if dry_run { None } else { Some(repository.prune(plan, &who, job)?) };
    Ok(Pruned { plan: planned(summary), done: done.map(finished) })
}

fn planned(summary: PruneSummary) -> Plan {
    let PruneSummary {
        used_bytes,
        unused_bytes,
        removed_packs,
        repacked_packs,
        joined_packs,
        repacked_bytes,
        kept_unused_bytes,
        unindexed_packs,
        marked_packs,
    } = summary;
    Plan {
        used_bytes,
        unused_bytes,
        removed_packs,
        repacked_packs,
        joined_packs,
        repacked_bytes,
        kept_unused_bytes,
        unindexed_packs,
        marked_packs,
    }
}

fn finished(report: PruneReport) -> Done {
    let PruneReport { removed_packs, removed_bytes, waiting_packs, waiting_for, unfinished } = report;
    Done { removed_packs, removed_bytes, waiting_packs, waiting_for, unfinished }
}

pub fn human(pruned: &Pruned) -> String {
    let plan = &pruned.plan;
    let mut lines = vec![
        ("Used", text::size(plan.used_bytes)),
        ("Unused", text::size(plan.unused_bytes)),
        ("Stays unused", text::size(plan.kept_unused_bytes)),
    ];
    match &pruned.done {
        None => {
            lines.push(("Would be removed", format!("{} packs", plan.removed_packs + plan.marked_packs)));
            let (packs, size) = (plan.repacked_packs, text::size(plan.repacked_bytes));
            let joined = match plan.joined_packs {
                0 => String::new(),
                joined => format!(", {joined} of them small ones that are joined"),
            };
            lines.push(("Would be repacked", format!("{packs} packs, {size} copied{joined}")));
        }
        Some(done) => {
            let size = text::size(done.removed_bytes);
            lines.push(("Removed", format!("{} packs, {size}", done.removed_packs)));
            if done.waiting_packs > 0 {
                let waiting = format!("{} packs for {}", done.waiting_packs, done.waiting_for.join(", "));
                lines.push(("Waiting", waiting));
            }
            if let Some(why) = &done.unfinished {
                lines.push(("Not finished", text::clean(why)));
            }
        }
    }
    fields(&lines)
}
