//! `nestling vault points` and `nestling vault show`.

use std::time::SystemTime;

use clap::Args;
use nestling_api::v1::{ErrorBody, ErrorCode};
use nestling_vault::{
    Point, PointList, PointName, PointSelector, UnreadableSnapshot, format::Timestamp, retention::Candidate,
};
use serde::Serialize;

use super::{REPO, access::Access, work::watch};
use crate::{
    failure::{Failure, Result, status},
    session::Session,
    text::{self, Table, fields},
};

/// What a reader that was cancelled leaves.
pub const KEPT: &str = "nothing was changed";

/// List the points of a machine, or of all, oldest first
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  all points are listed
  1  they could not be listed
  2  the command line makes no sense
  3  some snapshots cannot be read, each of which may be a point; the others are listed")]
pub struct Points {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    #[arg(value_name = "NAME", help = "Only of this machine")]
    name: Option<PointName>,
    #[command(flatten)]
    access: Access,
}

/// Show what is known of a point
#[derive(Debug, Args)]
pub struct Show {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    #[arg(value_name = "NAME[@POINT]", help = super::POINT)]
    point: PointSelector,
    /// Write only the description that it was saved with, as it is
    #[arg(long, conflicts_with = "json")]
    description: bool,
    #[command(flatten)]
    access: Access,
}

/// A point as programs read it.
#[derive(Serialize)]
pub struct PointRecord {
    pub id: String,
    pub name: String,
    pub time: String,
    /// Bytes of all its disks; absent when whoever saved it did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size_bytes: Option<u64>,
    /// What the repository grew by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stored_bytes: Option<u64>,
    pub tags: Vec<String>,
    pub pinned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protected_until: Option<String>,
    pub hostname: String,
    pub username: String,
}

impl PointRecord {
    pub fn of(point: &Point) -> Self {
        let candidate = Candidate::of(point);
        Self {
            id: point.id.to_string(),
            name: point.name.to_string(),
            time: point.snapshot.time.to_string(),
            size_bytes: point.size_bytes(),
            stored_bytes: point.stored_bytes(),
            tags: point.snapshot.tags.clone(),
            pinned: candidate.pinned,
            protected_until: candidate.protected_until.map(|time| time.to_string()),
            hostname: point.snapshot.hostname.clone(),
            username: point.snapshot.username.clone(),
        }
    }
}

#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    point: PointRecord,
    disks: Vec<Disk>,
    /// Whether it was saved with a description.
    description: bool,
}

#[derive(Serialize)]
struct Disk {
    name: String,
    size_bytes: u64,
}

impl Points {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let repository = self.access.open(printer, &self.repo)?;
        let list = watch(printer, KEPT, |job| repository.list_points(self.name.as_ref(), job))?;
        let PointList { points, unreadable } = list;
        for UnreadableSnapshot { id, error } in &unreadable {
            let (code, message) = (ErrorCode::Failed, error.to_string());
            printer.error(&ErrorBody { code, message, hint: None, object: Some(id.to_string()) });
        }
        if printer.is_json() {
            let records: Vec<PointRecord> = points.iter().map(PointRecord::of).collect();
            printer.objects(&records)?;
        } else {
            if points.is_empty() {
                printer.talk("there are no points");
            }
            printer.data(&table(&points))?;
        }
        if unreadable.is_empty() { Ok(()) } else { Err(Failure::Told(status::PARTLY)) }
    }
}

fn table(points: &[Point]) -> String {
    let mut table = Table::new(&["POINT", "NAME", "TIME", "SIZE", "STORED", "TAGS"]).right(&[3, 4]);
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), text::size);
    for point in points {
        table.row([
            point.short_id(),
            point.name.to_string(),
            time(point.snapshot.time),
            size(point.size_bytes()),
            size(point.stored_bytes()),
            point.snapshot.tags.iter().skip(1).map(String::as_str).collect::<Vec<_>>().join(", "),
        ]);
    }
    table.text()
}

/// A time for people: UTC, to the second.
pub fn time(time: Timestamp) -> String {
    text::time(u64::try_from(time.unix_nanoseconds() / 1_000_000).unwrap_or(0))
}

pub fn now() -> Timestamp {
    Timestamp::from(SystemTime::now())
}

impl Show {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let repository = self.access.open(printer, &self.repo)?;
        let (point, content, description) = watch(printer, KEPT, |job| {
            let point = repository.select(&self.point, job)?;
            let index = repository.load_index(job)?;
            let content = repository.content(&index, &point)?;
            let description = if self.description { repository.description(&index, &point)? } else { None };
            Ok((point, content, description))
        })?;
        if self.description {
            let description = description.ok_or_else(|| {
                let message = format!("{} was saved without a description", self.point);
                Failure::new(ErrorCode::NotFound, message)
            })?;
            return printer.bytes(&description);
        }
        let disk = |disk: &nestling_vault::DiskLayout| Disk {
            name: disk.name.clone(),
            size_bytes: disk.geometry.size_bytes,
        };
        let shown = Shown {
            point: PointRecord::of(&point),
            disks: content.layout.disks.iter().map(disk).collect(),
            description: content.description_bytes.is_some(),
        };
        printer.show(&shown, |shown| human(&point, shown))
    }
}

fn human(point: &Point, shown: &Shown) -> String {
    let record = &shown.point;
    let size = |bytes: Option<u64>| bytes.map(text::size).unwrap_or_default();
    let disks = shown.disks.iter().map(|disk| format!("{} ({})", disk.name, text::size(disk.size_bytes)));
    fields(&[
        ("Point", record.id.clone()),
        ("Name", record.name.clone()),
        ("Time", time(point.snapshot.time)),
        ("Saved by", format!("{}@{}", record.username, record.hostname)),
        ("Size", size(record.size_bytes)),
        ("Stored", size(record.stored_bytes)),
        ("Tags", record.tags.join(", ")),
        ("Disks", disks.collect::<Vec<_>>().join(", ")),
        ("Description", if shown.description { "yes" } else { "no" }.to_owned()),
    ])
}
