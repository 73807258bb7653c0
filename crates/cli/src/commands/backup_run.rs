//! `nestling backup run`: begins, watches, and ends with the run's end.

use std::time::Duration;

use clap::Args;
use nestling_api::{
    Client,
    v1::{self, ErrorBody, ErrorCode, RunState},
};
use nestling_model::VmPath;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::interval,
};

use super::{
    backup::{progress, state},
    guest_steps::GuestSteps,
};
use crate::{
    args::{KeepRulesWithin, VMS, vm_path},
    failure::{Failure, Result, status},
    printer::Printer,
    session::Session,
};

const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// Back machines up now, one after the other
///
/// A machine that runs goes on running. Its disks are saved as they are at one instant; unless --crash-consistent is given,
/// its file systems are written out and held still for that instant, through its guest agent. Only what changed since the
/// last point in the repository is read, where that is known.
///
/// Of a saved machine the disks are saved, and not the state that its memory is in: recovered, it starts as after a power cut.
///
/// A machine inside another one, such as L1/L2, is captured by the node inside and saved in this host's repository, through the
/// guest channel; to have the node inside do it by itself, with a repository of its own: nestling --in L1 backup run L2.
///
/// While a machine is backed up, a second backup of it is refused. Nothing else is: if it is started, stopped or saved
/// meanwhile, the backup begins again with the machine as it is then.
#[derive(Debug, Args)]
pub struct Run {
    #[arg(value_name = "VM", required = true, value_parser = vm_path, help = VMS)]
    vms: Vec<VmPath>,
    /// Where to [default: the only repository]
    #[arg(long, value_name = "REPOSITORY")]
    repository: Option<String>,
    /// Ask nothing of the guest: its disks are as after a power cut
    #[arg(long, conflicts_with_all = ["file_system_consistent", "freeze_seconds", "or_fail"])]
    crash_consistent: bool,
    /// Hold the guest's file systems still for the instant (the default); without an agent go on, and warn
    #[arg(long)]
    file_system_consistent: bool,
    /// The longest that the guest is held still [default: 10]
    #[arg(long, value_name = "N")]
    freeze_seconds: Option<u32>,
    /// No backup at all if the guest cannot be treated as is wanted
    #[arg(long)]
    or_fail: bool,
    #[command(flatten)]
    guest: GuestSteps,
    /// Leave a disk out: scsi:1, ide:0, or file: and the name of its image's file, with * and ?; can be given again
    #[arg(long, value_name = "DISK")]
    exclude_disk: Vec<String>,
    /// Read everything, whatever is known of what changed
    #[arg(long)]
    full: bool,
    /// A tag for the new points; can be given again
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Keep the new points until they are unpinned, whatever the rules say
    #[arg(long, conflicts_with = "protect_hours")]
    pin: bool,
    /// Keep the new points at least so long, whatever the rules say
    #[arg(long, value_name = "N")]
    protect_hours: Option<u32>,
    #[command(flatten)]
    rules: KeepRulesWithin,
    /// Do not wait for its end
    #[arg(long)]
    detach: bool,
}

impl Run {
    pub async fn run(self, session: &Session) -> Result {
        let client = session.client().await?;
        let detach = self.detach;
        // None is lost from here on: a run that was begun is ended, or told of.
        let signals = Signals::listen()?;
        let run = client.start_run(&self.into_wire()).await?;
        if detach {
            return detached(session.printer, &run);
        }
        let run = watch(session.printer, &client, run, signals).await?;
        told(session.printer, &run)
    }

    fn into_wire(self) -> v1::NewRun {
        let none = v1::Retention::default();
        v1::NewRun {
            vms: self.vms.iter().map(ToString::to_string).collect(),
            repository: self.repository,
            consistency: if self.crash_consistent {
                v1::Consistency::Crash
            } else if self.guest.application_consistent {
                v1::Consistency::Application
            } else {
                v1::Consistency::FileSystem
            },
            guest: self.guest.to_wire(),
            freeze_seconds_max: self.freeze_seconds,
            freeze_mount_points: Vec::new(),
            fail_if_inconsistent: self.or_fail,
            exclude_disks: self.exclude_disk,
            full: self.full,
            tags: self.tag,
            pin: self.pin,
            protect_hours: self.protect_hours,
            retention: self.rules.over(none).filter(|rules| *rules != none),
        }
    }
}

/// Leaves a run to itself.
pub fn detached(printer: Printer, run: &v1::Run) -> Result {
    let number = run.number;
    printer.talk(&format!("run {number} has begun; `nestling backup show {number}` tells how far it is"));
    printer.changed(run)
}

/// Wishes that the program ends.
pub struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    pub fn listen() -> Result<Self> {
        let failed =
            |e: std::io::Error| Failure::new(ErrorCode::Failed, format!("can't wait for signals: {e}"));
        let interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        Ok(Self { interrupt, terminate: signal(SignalKind::terminate()).map_err(failed)? })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Tells how far it is until it has ended. The first Ctrl-C ends the run, the second one only the watching.
pub async fn watch(
    printer: Printer,
    client: &Client,
    mut run: v1::Run,
    mut signals: Signals,
) -> Result<v1::Run> {
    let number = run.number.to_string();
    let mut shown = printer.progress();
    let mut tick = interval(LOOK_INTERVAL);
    let mut cancelled = false;
    while matches!(run.state, RunState::Waiting | RunState::Running) {
        tokio::select! {
            _ = tick.tick() => run = client.run(&number).await?,
            () = signals.next() => {
                if cancelled {
                    return Err(Failure::new(ErrorCode::Failed, format!("run {number} goes on")));
                }
                cancelled = true;
                printer.talk("ending the run; once more leaves it to itself");
                // It may have ended this very moment.
                run = client.cancel_run(&number).await.or(client.run(&number).await)?;
            }
        }
        if let Some(at) = &run.progress {
            #[expect(clippy::cast_precision_loss, reason = "a share of a bar")]
            let share = (at.total > 0).then(|| at.done as f64 / at.total as f64);
            shown.show(share, &progress(at, run.more_progress.len()));
        }
    }
    Ok(run)
}

/// Prints what came of it: the object, or a line for each machine; and the exit status.
pub fn told(printer: Printer, run: &v1::Run) -> Result {
    let good = |state| matches!(state, RunState::Succeeded | RunState::SucceededWithWarnings);
    for machine in &run.machines {
        for warning in &machine.warnings {
            printer.warning(&format!("{}: {warning}", machine.vm));
        }
        if !good(machine.state) {
            let reason = machine.reason.as_deref().unwrap_or(state(machine.state));
            let message = format!("{}: {reason}", machine.vm);
            let object = Some(machine.vm.clone());
            printer.error(&ErrorBody { code: ErrorCode::Failed, message, hint: None, object });
        }
    }
    run.warnings.iter().for_each(|warning| printer.warning(warning));
    if let Some(reason) = &run.reason {
        let (message, object) = (reason.clone(), run.job.clone());
        printer.error(&ErrorBody { code: ErrorCode::Failed, message, hint: None, object });
    }
    printer.show(run, human)?;
    let failed = run.machines.iter().filter(|machine| !good(machine.state)).count();
    match failed {
        0 if good(run.state) => Ok(()),
        0 => Err(Failure::Told(status::FAILED)),
        all if all == run.machines.len() => Err(Failure::Told(status::FAILED)),
        _ => Err(Failure::Told(status::PARTLY)),
    }
}

fn human(run: &v1::Run) -> String {
    use crate::text::size;
    let mut out = String::new();
    for machine in &run.machines {
        let Some(point) = &machine.point else { continue };
        let point: String = point.chars().take(8).collect();
        let read = machine.disks.iter().map(|disk| disk.read_bytes).sum();
        out.push_str(&format!(
            "{}@{point}: {} read, {} new, {} stored\n",
            machine.vm,
            size(read),
            size(machine.new_bytes),
            size(machine.stored_bytes)
        ));
    }
    out
}
