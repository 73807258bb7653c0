//! `nestling recover find` and `compare`: files by name across points, and what differs between two.

use clap::Args;
use nestling_api::{
    Client, FilesAt,
    v1::{ChangedFile, ErrorCode, FileChange, Point, RecoveryFile, RecoveryVolume},
};
use nestling_explore::Kind;
use nestling_model::VmPath;
use nestling_vault::format::Timestamp;
use serde::Serialize;

use super::{
    recover::{POINT, REPOSITORY},
    recover_files::is_disk,
};
use crate::{
    args::vm_path,
    failure::{Failure, Result, status},
    printer::Printer,
    session::Session,
    text::{self, Table},
};

/// Find files by name in the recovery points of a machine, newest first
///
/// All volumes are gone through that can be read, or what --place names. A disk image that is a file there is found by its name
/// and not gone into: --place names the disk inside, such as scsi:0/1:/vms/a.qcow2// for all of its volumes.
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  all points were looked into
  1  none could be
  2  the command line makes no sense
  3  something could not be looked into, or there is more; the rest is shown")]
pub struct Find {
    #[arg(value_name = "VM", value_parser = vm_path, help = "The machine, of this host, one that is no more or one inside another (L1/L2), by its name or id")]
    vm: VmPath,
    /// What the name looks like, with * and ?; case does not matter
    #[arg(long, value_name = "PATTERN")]
    name: String,
    /// Only below this place, such as scsi:0/2:/home; with // behind a disk image in all volumes of the disk inside
    #[arg(long, value_name = "PLACE")]
    place: Option<String>,
    /// Only in points from this time on: 2026-11-27, or 2026-11-27T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    after: Option<u64>,
    /// Only in points before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    before: Option<u64>,
    #[arg(long, value_name = "REPOSITORY", help = REPOSITORY)]
    repository: Option<String>,
}

/// Compare the files of two recovery points: which came, went, and changed
///
/// A file has changed when its kind, size, time, permissions or owner are not the same; its bytes are not read.
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  everything was compared
  1  nothing could be
  2  the command line makes no sense
  3  something could not be read, or there is more; the rest is shown")]
pub struct Compare {
    #[arg(value_name = "POINT1", help = POINT)]
    first: String,
    #[arg(value_name = "POINT2", help = "The second point, in the same repository")]
    second: String,
    #[arg(value_name = "PLACE", help = "Below it, as `recover ls` shows it: scsi:0/2:/etc")]
    place: String,
    #[arg(long, value_name = "REPOSITORY", help = REPOSITORY)]
    repository: Option<String>,
}

/// So many points are asked for at a time.
const PAGE: u32 = 1000;

/// A time, or a day, which begins at midnight in UTC; in milliseconds since 1970.
fn time(text: &str) -> std::result::Result<u64, String> {
    let whole = if text.contains('T') { text.to_owned() } else { format!("{text}T00:00:00Z") };
    let time: Timestamp =
        whole.parse().map_err(|_| "it is written 2026-11-27, or 2026-11-27T12:00:00Z".to_owned())?;
    u64::try_from(time.unix_nanoseconds() / 1_000_000).map_err(|_| "it is before 1970".to_owned())
}

/// A file and the point that it is in.
#[derive(Serialize)]
struct Found {
    point: String,
    taken_at_ms: u64,
    #[serde(flatten)]
    file: RecoveryFile,
}

impl Find {
    pub async fn run(self, session: &Session) -> Result {
        let (client, vm) = (session.client().await?, self.vm.to_string());
        let mut search = Search {
            client,
            printer: session.printer,
            found: Vec::new(),
            looked: false,
            missed: 0,
            earlier: 0,
        };
        let meant = search.points(&vm, &self).await?;
        if meant.is_empty() && search.missed == 0 {
            return Err(nothing(&vm, search.earlier));
        }
        let mut shown = session.printer.progress();
        for (number, point) in (0..).zip(&meant) {
            let total = u32::try_from(meant.len()).unwrap_or(u32::MAX);
            shown.step(number, total, &format!("looking into {}", text::time(point.taken_at_ms)));
            search.look(point, &self).await;
        }
        drop(shown);
        search.printer.list(&search.found, found)?;
        match (search.missed, search.looked) {
            (0, _) => Ok(()),
            (_, true) => Err(Failure::Told(status::PARTLY)),
            (_, false) => Err(Failure::Told(status::FAILED)),
        }
    }
}

struct Search {
    client: Client,
    printer: Printer,
    found: Vec<Found>,
    /// Something could be looked into.
    looked: bool,
    missed: u32,
    /// Points of earlier machines of that name.
    earlier: u64,
}

impl Search {
    /// The points of the time that is meant, newest first.
    async fn points(&mut self, vm: &str, find: &Find) -> Result<Vec<Point>> {
        let (mut meant, mut skip) = (Vec::new(), 0);
        loop {
            let page = self.client.points(Some(vm), find.repository.as_deref(), skip, Some(PAGE)).await?;
            if skip == 0 {
                self.earlier = page.earlier;
                page.problems.iter().for_each(|problem| self.miss(problem));
            }
            let oldest = page.points.last().map(|point| point.taken_at_ms);
            skip = skip.saturating_add(PAGE);
            meant.extend(page.points.into_iter().filter(|point| {
                find.after.is_none_or(|after| point.taken_at_ms >= after)
                    && find.before.is_none_or(|before| point.taken_at_ms < before)
            }));
            let is_old = |oldest| find.after.is_some_and(|after| oldest < after);
            if page.left_out == 0 || oldest.is_some_and(is_old) {
                return Ok(meant);
            }
        }
    }

    fn miss(&mut self, what: &str) {
        self.missed += 1;
        self.printer.warning(what);
    }

    async fn look(&mut self, point: &Point, find: &Find) {
        let short: String = point.id.chars().take(8).collect();
        let named = find.place.as_deref().unwrap_or_default();
        let places = match is_disk(named) {
            false => vec![named.to_owned()],
            true => match self.client.point_volumes(at(point, named)).await {
                // Of a disk with nothing on it there is nothing to be looked for.
                Ok(volumes) if !named.is_empty() && volumes.iter().all(is_empty) => {
                    self.looked = true;
                    return;
                }
                Ok(volumes) => {
                    volumes.into_iter().filter(|volume| volume.readable).map(|volume| volume.place).collect()
                }
                Err(error) => return self.miss(&format!("{short}: {}", error.message)),
            },
        };
        for place in places {
            match self.client.find_point_files(at(point, &place), &find.name).await {
                Ok(answer) => {
                    self.looked = true;
                    let (id, taken_at_ms) = (point.id.clone(), point.taken_at_ms);
                    let files = answer.files.into_iter();
                    self.found.extend(files.map(|file| Found { point: id.clone(), taken_at_ms, file }));
                    answer.damage.iter().for_each(|what| self.miss(&format!("{short}: {what}")));
                    if answer.is_cut {
                        self.miss(&format!(
                            "{short}: {place}: there are more; name a narrower place or pattern"
                        ));
                    }
                }
                Err(error) => match self.is_empty(point, &place).await {
                    true => self.looked = true,
                    false => self.miss(&format!("{short}: {}", error.message)),
                },
            }
        }
    }

    /// Whether nothing is on the volume that a place is in.
    async fn is_empty(&self, point: &Point, place: &str) -> bool {
        let Ok(volumes) = self.client.point_volumes(at(point, disk_of(place))).await else { return false };
        volumes.iter().any(|volume| is_empty(volume) && place.starts_with(volume.place.trim_end_matches('/')))
    }
}

fn is_empty(volume: &RecoveryVolume) -> bool {
    volume.problem.is_none() && volume.content == Kind::Empty.to_string()
}

/// The disk that a place in a volume is on.
fn disk_of(place: &str) -> &str {
    let end = place.rfind("//").map(|at| at + 2).or(place.find('/'));
    end.and_then(|end| place.get(..end)).unwrap_or(place)
}

/// There is no point to be looked into.
fn nothing(vm: &str, earlier: u64) -> Failure {
    let what = format!("there is no recovery point of '{vm}' of that time");
    let failure = Failure::new(ErrorCode::NotFound, what);
    match earlier {
        0 => failure,
        count => failure.hint(format!(
            "{count} are of an earlier machine of that name: `nestling backup points '{vm}' --earlier` shows them with its id, \
             which stands for it here"
        )),
    }
}

fn at<'a>(point: &'a Point, place: &'a str) -> FilesAt<'a> {
    FilesAt { point: &point.id, repository: Some(&point.repository), place }
}

fn found(all: &[Found]) -> String {
    let mut table = Table::new(&["POINT", "TAKEN", "SIZE", "MODIFIED", "PLACE"]).right(&[2]);
    for Found { point, taken_at_ms, file } in all {
        let seconds = file.modified.and_then(|time| u64::try_from(time.seconds).ok());
        table.row([
            point.chars().take(8).collect(),
            text::time(*taken_at_ms),
            text::size(file.size_bytes),
            seconds.and_then(|s| s.checked_mul(1000)).map(text::time).unwrap_or_default(),
            file.place.clone(),
        ]);
    }
    table.text()
}

impl Compare {
    pub async fn run(self, session: &Session) -> Result {
        let client = session.client().await?;
        let at = FilesAt { point: &self.first, repository: self.repository.as_deref(), place: &self.place };
        let compared = client.compare_points(at, &self.second).await?;
        session.printer.list(&compared.changes, changes)?;
        compared.damage.iter().for_each(|what| session.printer.warning(what));
        if compared.is_cut {
            session.printer.warning("there are more; name a narrower place");
        }
        if compared.damage.is_empty() && !compared.is_cut {
            Ok(())
        } else {
            Err(Failure::Told(status::PARTLY))
        }
    }
}

fn changes(all: &[ChangedFile]) -> String {
    let mut table = Table::new(&["CHANGE", "OLD SIZE", "NEW SIZE", "PATH"]).right(&[1, 2]);
    for changed in all {
        let change = match changed.change {
            FileChange::Added => "added",
            FileChange::Removed => "removed",
            FileChange::Changed => "changed",
        };
        table.row([
            change.to_owned(),
            changed.old_size_bytes.map(text::size).unwrap_or_default(),
            changed.new_size_bytes.map(text::size).unwrap_or_default(),
            changed.path.clone(),
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_with_nothing_on_it_is_told_from_one_that_cannot_be_read() {
        let volume = |content: &str, problem: Option<&str>| RecoveryVolume {
            place: "scsi:0/0:/".into(),
            content: content.into(),
            label: String::new(),
            name: String::new(),
            size_bytes: 1,
            readable: false,
            problem: problem.map(str::to_owned),
        };
        assert!(is_empty(&volume("nothing (zeroes)", None)));
        assert!(!is_empty(&volume("nothing (zeroes)", Some("it cannot be read"))));
        assert!(!is_empty(&volume("an encrypted volume (LUKS)", None)) && !is_empty(&volume("", None)));
        assert_eq!(disk_of("scsi:0/0:/a/b"), "scsi:0");
        assert_eq!(disk_of("scsi:0/0:/a.qcow2//1:/b"), "scsi:0/0:/a.qcow2//");
    }

    #[test]
    fn points_of_an_earlier_machine_are_told_of() {
        let hint = |earlier| match nothing("Web", earlier) {
            Failure::Error(body) => body.hint,
            _ => None,
        };
        assert_eq!(hint(0), None);
        assert!(hint(2).is_some_and(|hint| hint.contains("2 are of an earlier machine")));
    }

    #[test]
    fn a_time_is_a_day_or_an_instant() {
        assert_eq!(time("1970-01-02"), Ok(86_400_000));
        assert_eq!(time("1970-01-01T00:00:01Z"), Ok(1000));
        for bad in ["", "yesterday", "1969-01-01", "2026-13-01"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
