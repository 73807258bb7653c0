//! `nestling recover vm`: begins, watches, and ends with the recovery's end.

use std::time::Duration;

use clap::Args;
use nestling_api::{
    Client,
    v1::{self, ErrorCode, RunState},
};
use tokio::time::interval;

use super::{
    backup::state,
    backup_run::Signals,
    recover::{POINT, REPOSITORY},
    recover_runs::progress,
    vm_drive::Format,
};
use crate::{
    failure::{Failure, Result},
    printer::Printer,
    session::Session,
    text,
};

/// What the option --image is.
pub const IMAGE: &str =
    "Start it from the kernel of this image of the host [default: the image that it had, by name]";
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// Recover a machine from a recovery point: as a new one, or over its own disks
///
/// A new machine is made as the old one was defined at the point's instant. It keeps its id and its MAC addresses unless a
/// machine of this host has them. Its adapters are plugged into the switches that they had, or those of the same name; where
/// there is none they stay unplugged, and a warning says so. A machine that starts from a kernel of an image gets that of the
/// image of the same name: of the same version if this host has it, else of the current one, and a warning says so. If it fails
/// or is cancelled, nothing of it is left.
///
/// In place, the machine must be off, and stays defined as it is now. Its disks are read, and only what differs is written.
/// From the first byte to the last one it does not start, and neither if the recovery was cut off, until it has been recovered
/// again from this or another point.
#[derive(Debug, Args)]
pub struct RecoverVm {
    #[arg(value_name = "POINT", help = POINT)]
    point: String,
    #[arg(long, value_name = "REPOSITORY", help = REPOSITORY)]
    repository: Option<String>,
    /// Over the disks of the machine that the point is of
    #[arg(long, conflicts_with_all = ["name", "switch", "no_switch", "format", "new_identity", "image"])]
    in_place: bool,
    /// The new machine's name [default: as it was called]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Only this disk: scsi:1, ide:0, or file: and the name of its image's file, with * and ?; can be given again
    #[arg(long, value_name = "DISK")]
    disk: Vec<String>,
    #[command(flatten)]
    plugs: Plugs,
    /// What the new disks are in [default: as each was]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Give it a new id and new MAC addresses, though the old ones are free
    #[arg(long)]
    new_identity: bool,
    #[arg(long, value_name = "NAME", help = IMAGE)]
    image: Option<String>,
    /// Start it afterwards
    #[arg(long)]
    start: bool,
    /// Do not wait for its end
    #[arg(long)]
    detach: bool,
}

/// Which switches a new machine's adapters get.
#[derive(Debug, Args)]
pub struct Plugs {
    /// Plug adapters that were in switch OLD into NEW; can be given again
    #[arg(long, value_name = "OLD=NEW", value_parser = mapping, conflicts_with = "no_switch")]
    pub switch: Vec<v1::SwitchMapping>,
    /// Leave all adapters unplugged
    #[arg(long)]
    pub no_switch: bool,
}

fn mapping(text: &str) -> std::result::Result<v1::SwitchMapping, String> {
    match text.split_once('=') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => {
            Ok(v1::SwitchMapping { from: from.to_owned(), to: to.to_owned() })
        }
        _ => Err("it is written OLD=NEW".to_owned()),
    }
}

/// Begins a recovery, and watches it to its end unless that is not wanted.
pub async fn recover(session: &Session, new: &v1::NewRecovery, detach: bool) -> Result {
    let client = session.client().await?;
    // None is lost from here on: a recovery that was begun is ended, or told of.
    let signals = Signals::listen()?;
    let recovery = client.start_recovery(new).await?;
    if detach {
        session.printer.talk(&format!(
            "recovery {} has begun; `nestling recover show {0}` tells how far it is",
            recovery.number
        ));
        return session.printer.changed(&recovery);
    }
    let recovery = watch(session.printer, &client, recovery, signals).await?;
    told(session.printer, &recovery)
}

impl RecoverVm {
    pub async fn run(self, session: &Session) -> Result {
        let detach = self.detach;
        recover(session, &self.into_wire(), detach).await
    }

    fn into_wire(self) -> v1::NewRecovery {
        v1::NewRecovery {
            point: self.point,
            repository: self.repository,
            in_place: self.in_place,
            disks: self.disk,
            name: self.name,
            switches: self.plugs.switch,
            no_switch: self.plugs.no_switch,
            format: self.format.map(Format::into_wire),
            new_identity: self.new_identity,
            image: self.image,
            start: self.start,
            ..v1::NewRecovery::default()
        }
    }
}

/// Tells how far it is until it has ended. The first Ctrl-C ends the recovery, the second one only the watching.
pub async fn watch(
    printer: Printer,
    client: &Client,
    mut recovery: v1::Recovery,
    mut signals: Signals,
) -> Result<v1::Recovery> {
    let number = recovery.number.to_string();
    let mut shown = printer.progress();
    let mut tick = interval(LOOK_INTERVAL);
    let mut cancelled = false;
    while matches!(recovery.state, RunState::Waiting | RunState::Running) {
        tokio::select! {
            _ = tick.tick() => recovery = client.recovery(&number).await?,
            () = signals.next() => {
                if cancelled {
                    return Err(Failure::new(ErrorCode::Failed, format!("recovery {number} goes on")));
                }
                cancelled = true;
                printer.talk("ending the recovery; once more leaves it to itself");
                // It may have ended this very moment.
                recovery = client.cancel_recovery(&number).await.or(client.recovery(&number).await)?;
            }
        }
        if let Some(at) = &recovery.progress {
            #[expect(clippy::cast_precision_loss, reason = "a share of a bar")]
            let share = (at.total > 0).then(|| at.done as f64 / at.total as f64);
            shown.show(share, &progress(&recovery.vm, at));
        }
    }
    Ok(recovery)
}

/// Prints what came of it: the object, or a line for each disk; and the exit status.
pub fn told(printer: Printer, recovery: &v1::Recovery) -> Result {
    for warning in &recovery.warnings {
        printer.warning(&format!("{}: {warning}", recovery.vm));
    }
    if matches!(recovery.state, RunState::Succeeded | RunState::SucceededWithWarnings) {
        return printer.show(recovery, human);
    }
    let reason = recovery.reason.as_deref().unwrap_or(state(recovery.state));
    Err(Failure::new(ErrorCode::Failed, format!("{}: {reason}", recovery.vm)))
}

fn human(recovery: &v1::Recovery) -> String {
    let mut out = String::new();
    for disk in &recovery.disks {
        out.push_str(&format!(
            "{}: {} of {}, {} written to {}\n",
            text::clean(&recovery.vm),
            text::clean(&disk.name),
            text::size(disk.size_bytes),
            text::size(disk.written_bytes),
            text::clean(&disk.path)
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_has_two_sides() {
        assert_eq!(
            mapping("LAN=Lab net"),
            Ok(v1::SwitchMapping { from: "LAN".into(), to: "Lab net".into() })
        );
        for bad in ["", "LAN", "=Lab", "LAN="] {
            assert!(mapping(bad).is_err(), "{bad}");
        }
    }
}
