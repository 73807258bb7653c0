//! `nestling vault stats`.

use clap::Args;
use nestling_vault::RepositoryStats;
use serde::Serialize;

use super::{NO_POINTS, REPO, access::Access, points::KEPT, work::watch};
use crate::{
    failure::{Failure, Result, status},
    session::Session,
    text::{self, Table, fields},
};

/// Show what a repository takes, what was saved by which means, and each machine's share
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  all of it was counted
  1  it could not be counted
  2  the command line makes no sense
  3  some of it could not be read; the rest was counted")]
pub struct Stats {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    #[command(flatten)]
    access: Access,
}

#[derive(Serialize)]
struct Counted {
    /// All files of the repository.
    total_bytes: u64,
    points: u64,
    /// Snapshots of other programs.
    foreign_snapshots: u64,
    chunks: u64,
    trees: u64,
    /// Bytes of chunks, counted for every point that names them.
    referenced_bytes: u64,
    /// The same, each chunk counted once.
    unique_bytes: u64,
    /// What those take in the repository.
    stored_bytes: u64,
    tree_stored_bytes: u64,
    /// What prune could free.
    unused_bytes: u64,
    saved_by_deduplication_bytes: u64,
    saved_by_compression_bytes: u64,
    index_memory_bytes: u64,
    /// Snapshots, points, trees and chunks that could not be read.
    unreadable: u64,
    machines: Vec<Machine>,
}

#[derive(Serialize)]
struct Machine {
    name: String,
    points: u64,
    disk_bytes: u64,
    referenced_bytes: u64,
    /// What forgetting the machine would free.
    own_stored_bytes: u64,
}

impl Stats {
    pub fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        let repository = self.access.open(printer, &self.repo)?;
        let stats = watch(printer, KEPT, |job| repository.stats(job))?;
        if stats.is_without_points() {
            printer.warning(NO_POINTS);
        }
        printer.show(&record(&stats), human)?;
        if stats.unreadable == 0 { Ok(()) } else { Err(Failure::Told(status::PARTLY)) }
    }
}

fn record(stats: &RepositoryStats) -> Counted {
    let machine = |machine: &nestling_vault::MachineStats| Machine {
        name: machine.name.to_string(),
        points: machine.points,
        disk_bytes: machine.disk_bytes,
        referenced_bytes: machine.referenced_bytes,
        own_stored_bytes: machine.own_stored_bytes,
    };
    Counted {
        total_bytes: stats.total_bytes(),
        points: stats.points,
        foreign_snapshots: stats.foreign_snapshots,
        chunks: stats.chunks,
        trees: stats.trees,
        referenced_bytes: stats.referenced_bytes,
        unique_bytes: stats.unique_bytes,
        stored_bytes: stats.stored_bytes,
        tree_stored_bytes: stats.tree_stored_bytes,
        unused_bytes: stats.unused_bytes,
        saved_by_deduplication_bytes: stats.saved_by_deduplication_bytes(),
        saved_by_compression_bytes: stats.saved_by_compression_bytes(),
        index_memory_bytes: stats.index_memory_bytes,
        unreadable: stats.unreadable,
        machines: stats.machines.iter().map(machine).collect(),
    }
}

fn human(counted: &Counted) -> String {
    let unreadable = (counted.unreadable > 0).then(|| format!("{}; see verify", counted.unreadable));
    let mut said = fields(&[
        ("Takes", text::size(counted.total_bytes)),
        ("Points", counted.points.to_string()),
        ("Data of all points", text::size(counted.referenced_bytes)),
        ("Each chunk once", text::size(counted.unique_bytes)),
        ("Compressed", text::size(counted.stored_bytes)),
        ("Unused", text::size(counted.unused_bytes)),
        ("Unreadable", unreadable.unwrap_or_default()),
    ]);
    let mut table = Table::new(&["NAME", "POINTS", "DISKS", "DATA", "OWN"]).right(&[1, 2, 3, 4]);
    for machine in &counted.machines {
        table.row([
            machine.name.clone(),
            machine.points.to_string(),
            text::size(machine.disk_bytes),
            text::size(machine.referenced_bytes),
            text::size(machine.own_stored_bytes),
        ]);
    }
    said.push('\n');
    said.push_str(&table.text());
    said
}
