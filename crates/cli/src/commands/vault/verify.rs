//! `nestling vault verify`.

use clap::Args;
use nestling_vault::{DataCheck, Identity, VerifyReport};
use serde::Serialize;

use super::{NO_POINTS, REPO, access::Access, work::watch};
use crate::{
    failure::{Failure, Result, status},
    session::Session,
    text::{self, Table},
};

/// Check that everything is there and is what was saved; nothing is changed
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  everything that was looked at is whole
  1  it could not be checked
  2  the command line makes no sense
  3  it was checked, and something is damaged")]
pub struct Verify {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    /// Read all data too, instead of only what holds them together
    #[arg(long, conflicts_with = "share")]
    all_data: bool,
    /// Read this much of the data, chosen by chance
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    share: Option<f64>,
    #[command(flatten)]
    access: Access,
}

/// More than 0, at most 100.
fn percent(text: &str) -> std::result::Result<f64, String> {
    let number =
        text.trim_end_matches('%').parse().ok().filter(|percent| *percent > 0.0 && *percent <= 100.0);
    number.ok_or_else(|| "a share is more than 0 and at most 100".to_owned())
}

#[derive(Serialize)]
struct Verified {
    clean: bool,
    points: u64,
    packs: u64,
    stored_packs: u64,
    read_bytes: u64,
    unindexed_packs: u64,
    defects: Vec<Defect>,
    losses: Vec<Loss>,
    /// Points that a newer version of this program wrote, told where something is damaged.
    newer_points: Vec<String>,
}

#[derive(Serialize)]
struct Defect {
    object: String,
    what: String,
}

/// What can't be read any more.
#[derive(Serialize)]
struct Loss {
    point: String,
    name: String,
    /// Empty: all of the point.
    disk: String,
    ranges: Vec<Lost>,
}

#[derive(Serialize)]
struct Lost {
    offset: u64,
    length: u64,
}

impl Verify {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let data = match (self.all_data, self.share) {
            (true, _) => DataCheck::All,
            (false, Some(percent)) => DataCheck::Percent(percent),
            (false, None) => DataCheck::None,
        };
        let repository = self.access.open(printer, &self.repo)?;
        let kept = "nothing was changed, and nothing is known of what was not looked at";
        let report = watch(printer, kept, |job| repository.verify(data, &Identity::current(), job))?;
        if report.is_without_points() {
            printer.warning(NO_POINTS);
        }
        printer.show(&record(&report), human)?;
        if report.is_clean() { Ok(()) } else { Err(Failure::Told(status::PARTLY)) }
    }
}

fn record(report: &VerifyReport) -> Verified {
    let defect = |d: &nestling_vault::Defect| Defect { object: d.object.clone(), what: d.what.clone() };
    let loss = |loss: &nestling_vault::Loss| Loss {
        point: loss.point.to_string(),
        name: loss.name.clone(),
        disk: loss.disk.clone(),
        ranges: loss.ranges.iter().map(|r| Lost { offset: r.start, length: r.end - r.start }).collect(),
    };
    Verified {
        clean: report.is_clean(),
        points: report.points,
        packs: report.packs,
        stored_packs: report.stored_packs,
        read_bytes: report.read_bytes,
        unindexed_packs: report.unindexed_packs,
        defects: report.defects.iter().map(defect).collect(),
        losses: report.losses.iter().map(loss).collect(),
        newer_points: report.newer_points.iter().map(ToString::to_string).collect(),
    }
}

fn human(verified: &Verified) -> String {
    let mut text = String::new();
    for defect in &verified.defects {
        text.push_str(&format!("{}: {}\n", text::clean(&defect.object), text::clean(&defect.what)));
    }
    if !verified.losses.is_empty() {
        text.push_str("\nThis cannot be read any more:\n");
        let mut table = Table::new(&["POINT", "NAME", "DISK", "FROM", "BYTES"]).right(&[3, 4]);
        for loss in &verified.losses {
            let point: String = loss.point.chars().take(8).collect();
            if loss.ranges.is_empty() {
                table.row([point, loss.name.clone(), loss.disk.clone(), "all".into(), "-".into()]);
                continue;
            }
            for lost in &loss.ranges {
                let (from, bytes) = (lost.offset.to_string(), lost.length.to_string());
                table.row([point.clone(), loss.name.clone(), loss.disk.clone(), from, bytes]);
            }
        }
        text.push_str(&table.text());
        text.push('\n');
    }
    for point in &verified.newer_points {
        let point: String = point.chars().take(8).collect();
        text.push_str(&format!(
            "{point} was written by a newer version of this program and was not looked into\n"
        ));
    }
    let said = match verified.clean {
        true => "nothing is damaged".to_owned(),
        false => format!("{} defects; `nestling vault repair` keeps what is whole", verified.defects.len()),
    };
    let data = match verified.packs {
        0 => "their chunks are listed; none was read (--all-data reads them)".to_owned(),
        packs => format!("{packs} packs, {} of data read", text::size(verified.read_bytes)),
    };
    text.push_str(&format!("{} points; {data}: {said}\n", verified.points));
    text
}
