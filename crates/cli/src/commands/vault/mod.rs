//! `nestling vault`: the repository of recovery points, on plain disk images, with no machine and no node.
//!
//! Each command opens the repository, lets the vault's crate do the work and prints what that says. No node is asked or
//! started, so a backup can be read where nothing else works any more.

mod access;
mod copy;
mod diff;
mod forget;
mod hold;
mod init;
mod mend;
mod mount;
mod nbd;
mod points;
mod prune;
mod restore;
mod retag;
mod save;
mod stats;
mod told;
mod verify;
mod work;

use clap::{Args, Subcommand};
use nestling_api::v1::ErrorCode;

use crate::{
    failure::{Failure, Result},
    session::Session,
};

/// A repository of recovery points of disks, which needs no machine and no node
#[derive(Debug, Args)]
pub struct Vault {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Init(init::Init),
    Keys(init::Keys),
    Save(save::Save),
    Points(points::Points),
    Show(points::Show),
    Diff(diff::Diff),
    Restore(restore::Restore),
    Nbd(nbd::Nbd),
    Mount(mount::Mount),
    Verify(verify::Verify),
    Forget(forget::Forget),
    Prune(prune::Prune),
    Pin(retag::Pin),
    Unpin(retag::Unpin),
    Protect(retag::Protect),
    Unprotect(retag::Unprotect),
    Tag(retag::Tag),
    Copy(copy::Copy),
    Stats(stats::Stats),
    RebuildIndex(mend::RebuildIndex),
    Repair(mend::Repair),
    Unlock(mend::Unlock),
}

/// What a repository without points is warned of with.
const NO_POINTS: &str = "there are data, and neither a point nor another snapshot that needs them; if there should be \
                         points, put a copy of the 'snapshots' folder back before anything is pruned";

const REPO: &str =
    "The repository: a directory, s3:HOST/BUCKET/PREFIX, s3://BUCKET/PREFIX, azure://... or gs://...";
const POINT: &str = "The machine and its point: the first digits of its id [default: the newest]";
const DISK: &str = "The machine, its point [default: the newest] and its disk [default: the only one]";

impl Vault {
    pub fn run(self, session: &Session) -> Result {
        if !session.inside.is_empty() {
            return Err(Failure::usage("`nestling vault` works on this host alone, so --in can't be used"));
        }
        // The password must not end up in a core dump.
        rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).map_err(
            |e| Failure::new(ErrorCode::Failed, format!("can't keep secrets out of core dumps: {e}")),
        )?;
        match self.command {
            Command::Init(init) => init.run(session),
            Command::Keys(keys) => keys.run(session),
            Command::Save(save) => save.run(session),
            Command::Points(points) => points.run(session),
            Command::Show(show) => show.run(session),
            Command::Diff(diff) => diff.run(session),
            Command::Restore(restore) => restore.run(session),
            Command::Nbd(nbd) => nbd.run(session),
            Command::Mount(mount) => mount.run(session),
            Command::Verify(verify) => verify.run(session),
            Command::Forget(forget) => forget.run(session),
            Command::Prune(prune) => prune.run(session),
            Command::Pin(pin) => pin.run(session),
            Command::Unpin(unpin) => unpin.run(session),
            Command::Protect(protect) => protect.run(session),
            Command::Unprotect(unprotect) => unprotect.run(session),
            Command::Tag(tag) => tag.run(session),
            Command::Copy(copy) => copy.run(session),
            Command::Stats(stats) => stats.run(session),
            Command::RebuildIndex(rebuild) => rebuild.run(session),
            Command::Repair(repair) => repair.run(session),
            Command::Unlock(unlock) => unlock.run(session),
        }
    }
}
