//! `nestling recover boot`, `boots`, `finish` and `discard`: machines that run straight from the vault.

use std::time::Duration;

use clap::Args;
use nestling_api::{
    Client,
    v1::{self, ErrorCode},
};
use nestling_model::VmPath;
use tokio::time::interval;

use super::{
    backup_run::Signals,
    recover::{POINT, REPOSITORY},
    recover_vm::{IMAGE, Plugs, recover},
};
use crate::{
    args::{VM, vm_path},
    failure::{Failure, Result},
    printer::Printer,
    session::Session,
    text::{self, Table},
};

const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// Start a machine straight from a recovery point, within seconds
///
/// The machine is a new one, made as by `recover vm`. Its disks stay in the repository, and what it writes is kept beside it.
/// While the repository does not answer, the machine waits for it. `recover finish` brings the disks over while it runs,
/// `recover discard` throws the machine away.
#[derive(Debug, Args)]
pub struct Boot {
    #[arg(value_name = "POINT", help = POINT)]
    point: String,
    #[arg(long, value_name = "REPOSITORY", help = REPOSITORY)]
    repository: Option<String>,
    /// The new machine's name [default: as it was called]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    plugs: Plugs,
    /// Give it a new id and new MAC addresses, though the old ones are free
    #[arg(long)]
    new_identity: bool,
    #[arg(long, value_name = "NAME", help = IMAGE)]
    image: Option<String>,
    /// Make it, and do not start it
    #[arg(long)]
    no_start: bool,
}

/// List the machines that run from a recovery point
#[derive(Debug, Args)]
pub struct Boots {}

/// Bring over the disks of a machine that runs from a recovery point, while it runs
///
/// Ctrl-C ends the watching, and not what is watched: that goes on, also when the node is started anew.
#[derive(Debug, Args)]
pub struct Finish {
    #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
    vm: VmPath,
    /// Do not wait for its end
    #[arg(long)]
    detach: bool,
}

/// Turn off a machine that runs from a recovery point, and remove it with all that it wrote
#[derive(Debug, Args)]
pub struct Discard {
    #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
    vm: VmPath,
}

impl Boot {
    pub async fn run(self, session: &Session) -> Result {
        recover(session, &self.into_wire(), false).await
    }

    fn into_wire(self) -> v1::NewRecovery {
        v1::NewRecovery {
            point: self.point,
            repository: self.repository,
            in_place: false,
            disks: Vec::new(),
            name: self.name,
            switches: self.plugs.switch,
            no_switch: self.plugs.no_switch,
            format: None,
            new_identity: self.new_identity,
            instant: true,
            image: self.image,
            start: !self.no_start,
            export_folder: None,
            export_format: None,
        }
    }
}

impl Boots {
    pub async fn run(self, session: &Session) -> Result {
        session.printer.list(&session.client().await?.instant_boots().await?, table)
    }
}

impl Finish {
    pub async fn run(self, session: &Session) -> Result {
        let (client, vm) = session.at(&self.vm).await?;
        let mut signals = Signals::listen()?;
        let begun = client.finish_instant_boot(vm).await?;
        if self.detach {
            return session.printer.changed(&begun);
        }
        tokio::select! {
            done = finished(session.printer, &client, &begun) => done,
            () = signals.next() => {
                let message = format!("'{}': its disks are still being brought over", begun.vm);
                Err(Failure::new(ErrorCode::Failed, message))
            }
        }
    }
}

impl Discard {
    pub async fn run(self, session: &Session) -> Result {
        let (client, vm) = session.at(&self.vm).await?;
        session.printer.changed(&client.discard_instant_boot(vm).await?)
    }
}

/// Tells how far it is until it is done.
async fn finished(printer: Printer, client: &Client, begun: &v1::InstantBoot) -> Result {
    let mut shown = printer.progress();
    let mut tick = interval(LOOK_INTERVAL);
    loop {
        tick.tick().await;
        let all = client.instant_boots().await?;
        let Some(now) = all.iter().find(|boot| boot.vm_id == begun.vm_id) else {
            drop(shown);
            printer.talk(&closing(&begun.vm));
            return printer.changed(&client.vm(&begun.vm_id.to_string()).await?);
        };
        if let Some(problem) = &now.problem {
            return Err(Failure::new(ErrorCode::Failed, format!("{}: {problem}", now.vm)));
        }
        #[expect(clippy::cast_precision_loss, reason = "a share of a bar")]
        let share = (now.total_bytes > 0).then(|| now.done_bytes as f64 / now.total_bytes as f64);
        shown.show(share, &progress(now));
    }
}

fn closing(vm: &str) -> String {
    format!("{}: all of its disks are here; it needs the recovery point no more", text::clean(vm))
}

fn progress(boot: &v1::InstantBoot) -> String {
    let disk = boot.disks.first().map(String::as_str).unwrap_or_default();
    let words = format!("{}: bringing over {disk}", boot.vm);
    if boot.total_bytes == 0 {
        return words;
    }
    format!("{words}: {} of {}", text::size(boot.done_bytes), text::size(boot.total_bytes))
}

fn table(boots: &[v1::InstantBoot]) -> String {
    let mut table = Table::new(&["MACHINE", "POINT", "REPOSITORY", "DISKS", "STATE"]);
    for boot in boots {
        table.row([
            boot.vm.clone(),
            boot.point.chars().take(8).collect(),
            boot.repository.clone(),
            boot.disks.join(", "),
            match (&boot.problem, boot.finishing) {
                _ if boot.proof.is_some() => {
                    format!("runs for proof {}, and goes with it", boot.proof.unwrap_or_default())
                }
                (Some(problem), _) => problem.clone(),
                (None, true) => progress(boot),
                (None, false) => "runs from the point".to_owned(),
            },
        ]);
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_told() {
        assert_eq!(closing("a"), "a: all of its disks are here; it needs the recovery point no more");
    }
}
