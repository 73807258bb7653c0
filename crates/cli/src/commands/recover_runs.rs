//! `nestling recover runs`, `show` and `cancel`.

use clap::Args;
use nestling_api::v1;

use super::backup::state;
use crate::{
    failure::Result,
    session::Session,
    text::{self, Table, fields},
};

const NUMBER: &str = "The recovery's number, as `recover runs` tells it";

/// List the recoveries that were made and those under way, newest first
#[derive(Debug, Args)]
pub struct Runs {}

/// Show a recovery: which disks came back, and what went wrong
#[derive(Debug, Args)]
pub struct Show {
    #[arg(value_name = "NUMBER", help = NUMBER)]
    number: String,
}

/// End a recovery
///
/// Of a new machine nothing is left. A machine that was being recovered in place does not start until it is recovered again.
#[derive(Debug, Args)]
pub struct Cancel {
    #[arg(value_name = "NUMBER", help = NUMBER)]
    number: String,
}

impl Runs {
    pub async fn run(self, session: &Session) -> Result {
        session.printer.list(&session.client().await?.recoveries().await?, table)
    }
}

impl Show {
    pub async fn run(self, session: &Session) -> Result {
        session.printer.show(&session.client().await?.recovery(&self.number).await?, details)
    }
}

impl Cancel {
    pub async fn run(self, session: &Session) -> Result {
        session.printer.changed(&session.client().await?.cancel_recovery(&self.number).await?)
    }
}

fn table(recoveries: &[v1::Recovery]) -> String {
    let mut table =
        Table::new(&["NUMBER", "BEGAN", "MACHINE", "POINT", "REPOSITORY", "HOW", "WRITTEN", "STATE"])
            .right(&[0, 6]);
    for recovery in recoveries {
        table.row([
            recovery.number.to_string(),
            text::time(recovery.started_at_ms),
            recovery.vm.clone(),
            recovery.point.chars().take(8).collect(),
            recovery.repository.clone(),
            how(recovery).to_owned(),
            text::size(recovery.disks.iter().map(|disk| disk.written_bytes).sum()),
            state(recovery.state).to_owned(),
        ]);
    }
    table.text()
}

fn how(recovery: &v1::Recovery) -> &'static str {
    match (&recovery.export_folder, recovery.in_place) {
        (Some(_), _) => "export",
        (None, true) => "in place",
        (None, false) => "new machine",
    }
}

/// What is done at this moment.
pub fn progress(vm: &str, progress: &v1::RecoveryProgress) -> String {
    let what = match &progress.disk {
        Some(disk) => format!("{vm}: {} {disk}", progress.stage),
        None => format!("{vm}: {}", progress.stage),
    };
    if progress.total == 0 || !progress.in_bytes {
        return what;
    }
    format!("{what}: {} of {}", text::size(progress.done), text::size(progress.total))
}

fn details(recovery: &v1::Recovery) -> String {
    let now = recovery.progress.as_ref().map(|at| progress(&recovery.vm, at));
    let mut out = fields(&[
        ("Recovery", recovery.number.to_string()),
        ("State", state(recovery.state).to_owned()),
        ("Asked for by", recovery.cause.clone()),
        ("Machine", recovery.vm.clone()),
        ("How", how(recovery).to_owned()),
        ("Point", recovery.point.clone()),
        ("Repository", recovery.repository.clone()),
        ("Began", text::time(recovery.started_at_ms)),
        ("Ended", recovery.ended_at_ms.map(text::time).unwrap_or_default()),
        ("Now", now.unwrap_or_default()),
        ("Reason", recovery.reason.clone().unwrap_or_default()),
    ]);
    for warning in &recovery.warnings {
        out.push_str(&format!("Warning: {}\n", text::clean(warning)));
    }
    if !recovery.disks.is_empty() {
        let mut table = Table::new(&["DISK", "SIZE", "WRITTEN", "FILE"]).right(&[1, 2]);
        for disk in &recovery.disks {
            table.row([
                disk.name.clone(),
                text::size(disk.size_bytes),
                text::size(disk.written_bytes),
                disk.path.clone(),
            ]);
        }
        out.push_str(&table.text());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_is_told_in_bytes_where_they_are_known() {
        let at = |disk: Option<&str>, total| v1::RecoveryProgress {
            stage: "recovering".into(),
            disk: disk.map(str::to_owned),
            done: 1 << 20,
            total,
            in_bytes: true,
        };
        assert_eq!(progress("P", &at(None, 0)), "P: recovering");
        assert_eq!(progress("P", &at(Some("scsi-0"), 2 << 20)), "P: recovering scsi-0: 1 MB of 2 MB");
    }
}
