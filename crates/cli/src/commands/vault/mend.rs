//! `nestling vault rebuild-index`, `nestling vault repair` and `nestling vault unlock`.

use clap::Args;
use std::sync::Arc;

use nestling_vault::{
    DamagedPoint, Fate, Identity, Job, LockInfo, RebuildReport, RepairPlan, RepairReport, Repository,
    VaultError,
};
use serde::Serialize;

use super::{REPO, access::Access, work::watch};
use crate::{
    failure::{Failure, Result, status},
    session::Session,
    text,
};

/// Build the index anew from what is in the packs; nobody else may be at work
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  done
  1  failed
  2  the command line makes no sense
  3  done, and some packs are damaged")]
pub struct RebuildIndex {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    #[command(flatten)]
    access: Access,
}

/// Keep all that is whole after damage, and say to the chunk what is lost; nobody else may be at work
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  nothing was damaged
  1  failed
  2  the command line makes no sense
  3  something is damaged; without --dry-run, all that is whole was kept")]
pub struct Repair {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Also remove points of which nothing can be kept
    #[arg(long, conflicts_with = "dry_run")]
    remove_lost: bool,
    #[command(flatten)]
    access: Access,
}

/// Remove locks that nobody holds any more
#[derive(Debug, Args)]
pub struct Unlock {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    /// All locks, which is only right when nobody is at work
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Rebuilt {
    packs: u64,
    blobs: u64,
    kept_from_old_index: u64,
    new_index_files: u64,
    removed_index_files: u64,
    defects: Vec<Defect>,
}

#[derive(Serialize)]
struct Defect {
    object: String,
    what: String,
}

#[derive(Serialize)]
struct Lock {
    id: String,
    holder: String,
    stale: bool,
}

impl RebuildIndex {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let repository = self.access.open(printer, &self.repo)?;
        let kept = "the old index is there; run it again";
        let report = watch(printer, kept, |job| repository.rebuild_index(&Identity::current(), job))?;
        printer.show(&record(&report), human)?;
        if report.defects.is_empty() { Ok(()) } else { Err(Failure::Told(status::PARTLY)) }
    }
}

fn record(report: &RebuildReport) -> Rebuilt {
    let defect = |d: &nestling_vault::Defect| Defect { object: d.object.clone(), what: d.what.clone() };
    Rebuilt {
        packs: report.packs,
        blobs: report.blobs,
        kept_from_old_index: report.kept_from_old_index,
        new_index_files: report.new_index_files,
        removed_index_files: report.removed_index_files,
        defects: report.defects.iter().map(defect).collect(),
    }
}

fn human(rebuilt: &Rebuilt) -> String {
    let mut said = String::new();
    for defect in &rebuilt.defects {
        said.push_str(&format!("{}: {}\n", text::clean(&defect.object), text::clean(&defect.what)));
    }
    let Rebuilt { packs, blobs, new_index_files, removed_index_files, .. } = rebuilt;
    said.push_str(&format!(
        "{blobs} blobs in {packs} packs, {new_index_files} index files written, {removed_index_files} removed\n"
    ));
    said
}

#[derive(Serialize)]
struct Repaired {
    clean: bool,
    packs: Vec<Pack>,
    points: Vec<Damaged>,
    unreadable_snapshots: Vec<String>,
    foreign_snapshots: Vec<String>,
    /// Absent when nothing was to be done but the plan.
    #[serde(skip_serializing_if = "Option::is_none")]
    done: Option<Done>,
    #[serde(skip)]
    text: String,
}

#[derive(Serialize)]
struct Pack {
    pack: String,
    whole: u64,
    damaged: u64,
}

#[derive(Serialize)]
struct Damaged {
    id: String,
    name: String,
    /// Why nothing of it can be kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    lost_as_a_whole: Option<String>,
    /// Bytes that can't be read any more.
    lost: Vec<Lost>,
    is_description_lost: bool,
}

#[derive(Serialize)]
struct Lost {
    disk: String,
    offset: u64,
    length: u64,
}

#[derive(Serialize)]
struct Done {
    salvaged: u64,
    stored_bytes: u64,
    mended: Vec<Mended>,
    removed: Vec<String>,
    /// Points of which nothing can be kept, and which are still there.
    left: Vec<String>,
    removed_packs: u64,
}

#[derive(Serialize)]
struct Mended {
    from: String,
    to: String,
}

impl Repair {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let repository = self.access.open(printer, &self.repo)?;
        let kept = "nothing that was whole is gone; run it again";
        let repaired = watch(printer, kept, |job| self.repair(&repository, job))?;
        printer.show(&repaired, |repaired| repaired.text.clone())?;
        if repaired.clean { Ok(()) } else { Err(Failure::Told(status::PARTLY)) }
    }

    fn repair(&self, repository: &Arc<Repository>, job: &Job) -> std::result::Result<Repaired, VaultError> {
        let plan = repository.repair_plan(&Identity::current(), job)?;
        let mut repaired = planned(&plan);
        if !repaired.clean && !self.dry_run {
            let done = finished(&repository.repair(plan, self.remove_lost, job)?);
            repaired.text.push_str(&format!(
                "{} points mended, {} removed, {} left; {} chunks copied\n",
                done.mended.len(),
                done.removed.len(),
                done.left.len(),
                done.salvaged
            ));
            repaired.done = Some(done);
        }
        Ok(repaired)
    }
}

fn planned(plan: &RepairPlan) -> Repaired {
    let packs = plan.packs.iter();
    let ids = |ids: &[nestling_vault::SnapshotId]| ids.iter().map(ToString::to_string).collect();
    let clean = plan.is_empty();
    Repaired {
        clean,
        packs: packs
            .map(|pack| Pack { pack: pack.pack.to_string(), whole: pack.whole, damaged: pack.damaged })
            .collect(),
        points: plan.points.iter().map(damaged).collect(),
        unreadable_snapshots: ids(&plan.unreadable_snapshots),
        foreign_snapshots: ids(&plan.foreign_snapshots),
        done: None,
        text: if clean { "nothing is damaged\n".to_owned() } else { text::clean(&plan.to_string()) },
    }
}

fn damaged(damaged: &DamagedPoint) -> Damaged {
    let lost = |lost: &nestling_vault::LostRange| Lost {
        disk: lost.disk.clone(),
        offset: lost.offset,
        length: lost.length,
    };
    let (id, name) = (damaged.point.id.to_string(), damaged.point.name.to_string());
    match &damaged.fate {
        Fate::Lost(why) => Damaged {
            id,
            name,
            lost_as_a_whole: Some(why.clone()),
            lost: Vec::new(),
            is_description_lost: true,
        },
        Fate::Mended { lost: ranges, is_description_lost } => Damaged {
            id,
            name,
            lost_as_a_whole: None,
            lost: ranges.iter().map(lost).collect(),
            is_description_lost: *is_description_lost,
        },
    }
}

fn finished(report: &RepairReport) -> Done {
    let ids = |ids: &[nestling_vault::SnapshotId]| ids.iter().map(ToString::to_string).collect();
    let mended = |(from, to): &(nestling_vault::SnapshotId, nestling_vault::SnapshotId)| Mended {
        from: from.to_string(),
        to: to.to_string(),
    };
    Done {
        salvaged: report.salvaged,
        stored_bytes: report.stored.bytes,
        mended: report.mended.iter().map(mended).collect(),
        removed: ids(&report.removed),
        left: ids(&report.left),
        removed_packs: report.removed_packs,
    }
}

impl Unlock {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let repository = self.access.open(printer, &self.repo)?;
        let removed = repository.unlock(self.all, &Identity::current())?;
        let lock =
            |lock: &LockInfo| Lock { id: lock.id.to_string(), holder: lock.describe(), stale: lock.is_stale };
        let removed: Vec<Lock> = removed.iter().map(lock).collect();
        printer.list(&removed, |locks| {
            let lines =
                locks.iter().map(|lock| format!("removed the lock of {}\n", text::clean(&lock.holder)));
            if locks.is_empty() { "no lock was removed\n".to_owned() } else { lines.collect() }
        })
    }
}
