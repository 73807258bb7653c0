//! `nestling vault pin`, `unpin`, `protect`, `unprotect` and `tag`: what a point is tagged with.

use clap::Args;
use nestling_vault::{Identity, PointSelector, Retag, format::Timestamp};

use super::{
    POINT, REPO,
    access::Access,
    points::{KEPT, PointRecord},
    work::watch,
};
use crate::{failure::Result, session::Session};

/// What all of them name.
#[derive(Debug, Args)]
struct Target {
    #[arg(value_name = "REPO", help = REPO)]
    repo: String,
    #[arg(value_name = "NAME[@POINT]", help = POINT)]
    point: PointSelector,
}

/// Keep a point until it is unpinned, whatever the rules say
#[derive(Debug, Args)]
pub struct Pin {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    access: Access,
}

/// Let rules decide about a point again
#[derive(Debug, Args)]
pub struct Unpin {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    access: Access,
}

/// Keep a point until a date, whatever the rules say
#[derive(Debug, Args)]
pub struct Protect {
    #[command(flatten)]
    target: Target,
    /// Until then, such as 2027-01-31T00:00:00Z; only ever later than before
    #[arg(long, value_name = "TIME")]
    until: Timestamp,
    #[command(flatten)]
    access: Access,
}

/// Take a point's protection away
#[derive(Debug, Args)]
pub struct Unprotect {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    access: Access,
}

/// Give tags to a point, and take others away
#[derive(Debug, Args)]
pub struct Tag {
    #[command(flatten)]
    target: Target,
    #[arg(long, value_name = "TAG", required_unless_present = "remove", help = "Give it this tag")]
    add: Vec<String>,
    #[arg(long, value_name = "TAG", help = "Take this tag away")]
    remove: Vec<String>,
    #[command(flatten)]
    access: Access,
}

impl Pin {
    pub fn run(self, session: &Session) -> Result {
        retag(session, &self.target, &self.access, &[Retag::Pin])
    }
}

impl Unpin {
    pub fn run(self, session: &Session) -> Result {
        retag(session, &self.target, &self.access, &[Retag::Unpin])
    }
}

impl Protect {
    pub fn run(self, session: &Session) -> Result {
        retag(session, &self.target, &self.access, &[Retag::ProtectUntil(self.until)])
    }
}

impl Unprotect {
    pub fn run(self, session: &Session) -> Result {
        retag(session, &self.target, &self.access, &[Retag::Unprotect])
    }
}

impl Tag {
    pub fn run(self, session: &Session) -> Result {
        let changes = self.remove.into_iter().map(Retag::Remove).chain(self.add.into_iter().map(Retag::Add));
        retag(session, &self.target, &self.access, &changes.collect::<Vec<_>>())
    }
}

fn retag(session: &Session, target: &Target, access: &Access, changes: &[Retag]) -> Result {
    let printer = session.printer;
    let repository = access.open(printer, &target.repo)?;
    let after = watch(printer, KEPT, |job| {
        let point = repository.select(&target.point, job)?;
        repository.retag(&point, changes, &Identity::current(), job)
    })?;
    printer.talk(&format!("it is {}@{} now", after.name, after.short_id()));
    printer.changed(&PointRecord::of(&after))
}
