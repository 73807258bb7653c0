//! `nestling backup points`, `set-point` and `remove-point`.

use clap::Args;
use nestling_api::v1;
use nestling_model::VmPath;
use nestling_vault::format::Timestamp;

use crate::{
    args::vm_path,
    failure::{Failure, Result, status},
    session::Session,
    text::{self, Table},
};

const POINT: &str = "The first digits of the point's id, as `backup points` shows them";
const REPOSITORY: &str = "In this repository [default: all of them]";

/// List recovery points, newest first
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  all points are listed
  1  they could not be listed
  2  the command line makes no sense
  3  a repository could not be looked into; the others' points are listed")]
pub struct Points {
    #[arg(value_name = "VM", value_parser = vm_path, help = "Only of this machine, of this host, of one that is no more or inside another one (L1/L2), by its name or id; * and ? stand for other text")]
    vm: Option<VmPath>,
    #[arg(long, value_name = "REPOSITORY", help = REPOSITORY)]
    repository: Option<String>,
    /// Those of earlier machines of VM's name instead: machines that are no more, whose name another one has now
    #[arg(long, requires = "vm")]
    earlier: bool,
    /// Without the newest so many
    #[arg(long, value_name = "N", default_value_t = 0)]
    skip: u32,
    /// At most so many
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
}

/// Keep a recovery point, protect or tag it; it has another id afterwards
#[derive(Debug, Args)]
pub struct SetPoint {
    #[arg(value_name = "POINT", help = POINT)]
    point: String,
    #[arg(long, value_name = "REPOSITORY", help = REPOSITORY)]
    repository: Option<String>,
    /// Keep it until it is unpinned, whatever the rules say
    #[arg(long, conflicts_with = "unpin")]
    pin: bool,
    /// Let the rules decide again
    #[arg(long)]
    unpin: bool,
    /// Keep it until then, such as 2027-01-31T00:00:00Z; only ever later than before
    #[arg(long, value_name = "TIME", conflicts_with = "unprotect")]
    protect_until: Option<Timestamp>,
    /// Take its protection away
    #[arg(long)]
    unprotect: bool,
    /// Give it a tag; can be given again
    #[arg(long, value_name = "TAG")]
    add_tag: Vec<String>,
    /// Take a tag from it; can be given again
    #[arg(long, value_name = "TAG")]
    remove_tag: Vec<String>,
}

/// Remove a recovery point that is neither pinned nor protected
///
/// Other points stay whole. What it alone needed is freed by `nestling vault prune`.
#[derive(Debug, Args)]
pub struct RemovePoint {
    #[arg(value_name = "POINT", help = POINT)]
    point: String,
    #[arg(long, value_name = "REPOSITORY", help = REPOSITORY)]
    repository: Option<String>,
}

impl Points {
    pub async fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let client = session.client().await?;
        let vm = self.vm.as_ref().map(ToString::to_string);
        let (repository, skip, limit) = (self.repository.as_deref(), self.skip, self.limit);
        let found = match vm.as_deref() {
            Some(vm) if self.earlier => client.earlier_points(vm, repository, skip, limit).await?,
            vm => client.points(vm, repository, skip, limit).await?,
        };
        printer.list(&found.points, |points| table(points, self.earlier))?;
        if found.left_out > 0 {
            printer.talk(&format!("{} older points are not shown", found.left_out));
        }
        if let Some(vm) = vm.filter(|_| found.earlier > 0) {
            printer.talk(&earlier(&vm, found.earlier));
        }
        for problem in &found.problems {
            printer.warning(problem);
        }
        if found.problems.is_empty() { Ok(()) } else { Err(Failure::Told(status::PARTLY)) }
    }
}

impl SetPoint {
    pub async fn run(self, session: &Session) -> Result {
        let until = self.protect_until.map(|time| time.unix_nanoseconds().max(0) / 1_000_000);
        let change = v1::PointChange {
            pinned: match (self.pin, self.unpin) {
                (false, false) => None,
                (pin, _) => Some(pin),
            },
            protect_until_ms: until.map(|ms| u64::try_from(ms).unwrap_or(u64::MAX)),
            unprotect: self.unprotect,
            add_tags: self.add_tag,
            remove_tags: self.remove_tag,
        };
        if change == v1::PointChange::default() {
            return Err(
                Failure::usage("nothing to change was given").hint("see nestling backup set-point --help")
            );
        }
        let client = session.client().await?;
        let changed = client.change_point(&self.point, self.repository.as_deref(), &change).await?;
        session.printer.show(&changed, |point| format!("{}\n", point.id))
    }
}

impl RemovePoint {
    pub async fn run(self, session: &Session) -> Result {
        Ok(session.client().await?.remove_point(&self.point, self.repository.as_deref()).await?)
    }
}

/// That there are more, and how they come back.
fn earlier(vm: &str, count: u64) -> String {
    let vm = text::clean(vm);
    let (points, are) = if count == 1 { ("point", "is") } else { ("points", "are") };
    format!(
        "{count} more {points} {are} of an earlier machine of the name '{vm}': `nestling backup points '{vm}' --earlier` shows \
         them, `nestling recover vm '{vm}@earlier' --name NAME` brings the newest back"
    )
}

/// `with_ids`: names do not tell these machines apart.
fn table(points: &[v1::Point], with_ids: bool) -> String {
    let header = [
        "POINT",
        "TAKEN",
        "MACHINE",
        "REPOSITORY",
        "SIZE",
        "STORED",
        "CONSISTENCY",
        "BOOTS",
        "KEPT",
        "TAGS",
        "MACHINE ID",
    ];
    let columns = if with_ids { header.len() } else { header.len() - 1 };
    let mut table = Table::new(&header[..columns]).right(&[4, 5]);
    for point in points {
        let id = point.vm_id.map(|id| id.to_string()).unwrap_or_default();
        let row = [
            point.id.chars().take(8).collect(),
            text::time(point.taken_at_ms),
            point.vm.clone(),
            point.repository.clone(),
            point.size_bytes.map(text::size).unwrap_or_default(),
            text::size(point.stored_bytes),
            point.consistency.clone().unwrap_or_default(),
            boots(point).to_owned(),
            kept(point),
            point.tags.join(", "),
            id,
        ];
        table.row(row.into_iter().take(columns));
    }
    table.text()
}

/// What the newest test of it found.
fn boots(point: &v1::Point) -> &'static str {
    match &point.proof {
        Some(proof) if proof.passed => "yes",
        Some(_) => "NO",
        None => "-",
    }
}

fn kept(point: &v1::Point) -> String {
    let mut words = Vec::new();
    if point.damaged {
        words.push("damaged".to_owned());
    }
    if point.pinned {
        words.push("pinned".to_owned());
    }
    words.extend(point.protected_until_ms.map(|until| format!("until {}", text::time(until))));
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_an_earlier_machine_are_told_with_how_they_come_back() {
        let told = earlier("Web 02", 3);
        assert!(told.starts_with("3 more points are of an earlier machine of the name 'Web 02'"), "{told}");
        assert!(
            told.contains("backup points 'Web 02' --earlier") && told.contains("'Web 02@earlier'"),
            "{told}"
        );
        assert!(earlier("a", 1).starts_with("1 more point is"));
        let header = |with_ids| table(&[], with_ids).contains("MACHINE ID");
        assert!(header(true) && !header(false));
    }
}
