//! `nestling vault rebuild-index` and `nestling vault unlock`.

use clap::Args;
use nestling_vault::{Identity, LockInfo, RebuildReport};
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
