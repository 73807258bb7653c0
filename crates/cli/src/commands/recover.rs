//! `nestling recover`: machines and files come back out of their recovery points.

use clap::{Args, Subcommand};

use super::{put, recover_boot, recover_export, recover_files, recover_find, recover_runs, recover_vm};
use crate::{failure::Result, session::Session};

/// Recovery from recovery points
#[derive(Debug, Args)]
pub struct Recover {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Vm(recover_vm::RecoverVm),
    Ls(recover_files::Ls),
    Get(recover_files::Get),
    Put(put::Put),
    Find(recover_find::Find),
    Compare(recover_find::Compare),
    Export(recover_export::Export),
    Boot(recover_boot::Boot),
    Boots(recover_boot::Boots),
    Finish(recover_boot::Finish),
    Discard(recover_boot::Discard),
    Runs(recover_runs::Runs),
    Show(recover_runs::Show),
    Cancel(recover_runs::Cancel),
}

/// What the argument POINT is.
pub const POINT: &str = "The first digits of the point's id, as `backup points` shows them, or VM@newest";
pub const REPOSITORY: &str = "In this repository [default: all of them]";

impl Recover {
    pub async fn run(self, session: &Session) -> Result {
        match self.command {
            Command::Vm(vm) => vm.run(session).await,
            Command::Ls(ls) => ls.run(session).await,
            Command::Get(get) => get.run(session).await,
            Command::Put(put) => put.run(session).await,
            Command::Find(find) => find.run(session).await,
            Command::Compare(compare) => compare.run(session).await,
            Command::Export(export) => export.run(session).await,
            Command::Boot(boot) => boot.run(session).await,
            Command::Boots(boots) => boots.run(session).await,
            Command::Finish(finish) => finish.run(session).await,
            Command::Discard(discard) => discard.run(session).await,
            Command::Runs(runs) => runs.run(session).await,
            Command::Show(show) => show.run(session).await,
            Command::Cancel(cancel) => cancel.run(session).await,
        }
    }
}
