//! `nestling vault copy`.

use std::path::PathBuf;

use clap::Args;
use nestling_vault::{CopyReport, Identity, PointsSelector};
use serde::Serialize;

use super::{REPO, access::Access, work::watch};
use crate::{
    failure::Result,
    session::Session,
    text::{self, fields},
};

const KEPT: &str = "what was copied is there for the next run, which copies the rest";

/// Copy points to another repository, and of them only what it lacks
#[derive(Debug, Args)]
pub struct Copy {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    #[arg(
        value_name = "NAME[@POINT]",
        help = "All points of a machine, or one [default: all points of all]"
    )]
    points: Vec<PointsSelector>,
    /// The repository to copy to
    #[arg(long, value_name = "REPO")]
    to: String,
    /// Its password is the first line of this file [default: NESTLING_VAULT_PASSWORD2, else it is asked for]
    #[arg(long, value_name = "FILE")]
    to_password_file: Option<PathBuf>,
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Copied {
    copied: Vec<Pair>,
    /// Points that were there already, by their ids there.
    present: Vec<String>,
    /// Bytes that the other repository did not have, before compression.
    copied_bytes: u64,
    stored_bytes: u64,
}

#[derive(Serialize)]
struct Pair {
    from: String,
    to: String,
}

impl Copy {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let from = self.access.open(printer, &self.repo)?;
        let to = self.access.open_other(printer, &self.to, self.to_password_file.as_deref())?;
        let report = watch(printer, KEPT, |job| {
            let points = from.select_all(&self.points, job)?;
            from.copy_points(&points, &to, &Identity::current(), job)
        })?;
        printer.show(&record(&report), human)
    }
}

fn record(report: &CopyReport) -> Copied {
    let pairs = report.copied.iter().map(|(from, to)| Pair { from: from.to_string(), to: to.to_string() });
    Copied {
        copied: pairs.collect(),
        present: report.present.iter().map(ToString::to_string).collect(),
        copied_bytes: report.copied_bytes,
        stored_bytes: report.stored.bytes,
    }
}

fn human(copied: &Copied) -> String {
    fields(&[
        ("Copied", format!("{} points, {}", copied.copied.len(), text::size(copied.copied_bytes))),
        ("There already", format!("{} points", copied.present.len())),
        ("Stored", text::size(copied.stored_bytes)),
    ])
}
