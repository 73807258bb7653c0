//! `nestling vault forget`.

use clap::Args;
use nestling_vault::{
    ForgetPlan, Identity, Job, PlannedMachine, PlannedPoint, PointsSelector, PruneOptions, Repository,
    VaultError, retention::Retention,
};
use serde::Serialize;
use std::sync::Arc;

use super::{
    REPO,
    access::Access,
    points::now,
    prune::{self, Pruned, prune},
    work::watch,
};
use crate::{
    args::KeepRules,
    failure::{Failure, Result},
    session::Session,
};

const KEPT: &str = "points that were forgotten so far are gone; run it again for the rest";

/// Forget points: by rules of what to keep, of one machine or of all, or by name
#[derive(Debug, Args)]
#[command(
    override_usage = "\
nestling vault forget [OPTIONS] <REPO> [NAME] --keep-...
       nestling vault forget [OPTIONS] <REPO> <NAME@POINT>...",
    after_help = "\
EXIT STATUS:
  0  done
  1  failed, or it is not known how much was done
  2  the command line makes no sense
  3  the points are forgotten, and the store was too full for all of --prune"
)]
pub struct Forget {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    #[arg(value_name = "NAME|NAME@POINT", help = "With rules, the machine [default: all]; else the points")]
    points: Vec<PointsSelector>,
    #[command(flatten)]
    rules: KeepRules,
    /// Only say what would be forgotten
    #[arg(long)]
    dry_run: bool,
    /// Free what they needed at once
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Forgotten {
    /// Ids of the points that are gone; with --dry-run none.
    forgotten: Vec<String>,
    machines: Vec<Machine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    prune: Option<Pruned>,
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct Machine {
    name: String,
    points: Vec<Planned>,
}

#[derive(Serialize)]
struct Planned {
    id: String,
    time: String,
    goes: bool,
    /// Why it stays.
    reasons: Vec<String>,
}

impl Forget {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let by_rules = self.rules.counts() != Retention::default();
        let names = self.points.iter().filter(|point| matches!(point, PointsSelector::All(_))).count();
        let fits = if by_rules { names == self.points.len() && names <= 1 } else { names == 0 };
        if !fits || (!by_rules && self.points.is_empty()) {
            return Err(Failure::usage("it is not clear which points are to be forgotten").hint(
                "give rules, such as --keep-last 7, and at most one NAME; or NAME@POINT without rules",
            ));
        }
        let repository = self.access.open(printer, &self.repo)?;
        let forgotten = watch(printer, KEPT, |job| self.forget(&repository, job))?;
        printer.show(&forgotten, human)?;
        forgotten.prune.as_ref().map_or(Ok(()), prune::told)
    }

    fn forget(&self, repository: &Arc<Repository>, job: &Job) -> std::result::Result<Forgotten, VaultError> {
        let (now, who) = (now(), Identity::current());
        let rules = self.rules.counts();
        let plan = match self.points.as_slice() {
            [] => repository.forget_plan(None, &rules, now, job)?,
            [PointsSelector::All(name)] => repository.forget_plan(Some(name), &rules, now, job)?,
            named => {
                let points = repository.select_all(named, job)?;
                let ids: Vec<_> = points.iter().map(|point| point.id).collect();
                repository.forget_plan_of(&ids, now, job)?
            }
        };
        let gone = if self.dry_run { Vec::new() } else { repository.forget(&plan, now, &who, job)? };
        // Who forgot the last points just now means it.
        let options = PruneOptions { allow_empty: !gone.is_empty(), ..PruneOptions::default() };
        let prune = match self.prune && !self.dry_run {
            true => Some(prune(repository, options, false, job)?),
            false => None,
        };
        Ok(Forgotten {
            forgotten: gone.iter().map(ToString::to_string).collect(),
            machines: plan.machines.iter().map(machine).collect(),
            prune,
            text: ForgetPlan::to_string(&plan),
        })
    }
}

fn machine(machine: &PlannedMachine) -> Machine {
    let planned = |planned: &PlannedPoint| Planned {
        id: planned.point.id.to_string(),
        time: planned.point.snapshot.time.to_string(),
        goes: planned.goes(),
        reasons: planned.reasons.iter().map(ToString::to_string).collect(),
    };
    Machine { name: machine.name.to_string(), points: machine.points.iter().map(planned).collect() }
}

fn human(forgotten: &Forgotten) -> String {
    let pruned = forgotten.prune.as_ref().map(prune::human).unwrap_or_default();
    format!("{}{} points forgotten\n{pruned}", forgotten.text, forgotten.forgotten.len())
}
