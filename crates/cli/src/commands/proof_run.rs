//! `nestling proof run`: begins, watches, and ends with the proof's end.

use std::time::Duration;

use clap::Args;
use nestling_api::{
    Client,
    v1::{self, ErrorBody, ErrorCode, RunState},
};
use tokio::time::interval;

use super::{backup::state, backup_run::Signals, proof::seconds};
use crate::{
    failure::{Failure, Result, status},
    printer::Printer,
    session::Session,
    text,
};

const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// Boot the newest recovery points of machines as a test
///
/// Of each point a machine is started straight from the repository, under a name that begins with proof- and with an
/// identity of its own; its network adapters stay unplugged. As soon as the guest shows that it is up, a picture of its
/// screen is taken and the machine is removed. How long that took is the time in which it would have been back. The result
/// is kept on this host, and `backup points` shows it.
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  0  all of them boot
  1  none of them does, or there was no proof
  2  the command line makes no sense
  3  some of them do not boot; the others do")]
pub struct Run {
    /// Machines, by a name in which * and ? stand for other text, also of machines that are no more
    #[arg(value_name = "VM", required_unless_present_any = ["job", "point"])]
    machines: Vec<String>,
    /// The machines of a job, in its order
    #[arg(long, value_name = "JOB")]
    job: Option<String>,
    /// This point: the first digits of its id, or VM@newest; can be given again
    #[arg(long, value_name = "POINT")]
    point: Vec<String>,
    /// In this repository [default: the job's, or the only one]
    #[arg(long, value_name = "REPOSITORY")]
    repository: Option<String>,
    #[command(flatten)]
    signs: Signs,
    /// How many machines run at once [default: 1]
    #[arg(long, value_name = "N")]
    parallel: Option<u32>,
    /// Do not wait for its end
    #[arg(long)]
    detach: bool,
}

/// What shows that a guest is up.
#[derive(Debug, Args)]
#[command(next_help_heading = "What shows that a guest is up (without any: its agent or a login prompt)")]
struct Signs {
    /// Its agent answers
    #[arg(long)]
    agent: bool,
    /// This text is on its serial console
    #[arg(long, value_name = "TEXT")]
    console: Option<String>,
    /// This TCP port of it answers, whatever address it has; can be given up to 8 times, and all must answer
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    port: Vec<u16>,
    /// A program, run in it by its agent, ends with 0; its path and arguments are split at blanks
    #[arg(long, value_name = "PROGRAM")]
    guest_program: Option<String>,
    /// A program of the host ends with 0; it finds the machine's name in NESTLING_PROOF_VM
    #[arg(long, value_name = "PROGRAM")]
    host_program: Option<String>,
    /// How long it may take to come up, in seconds [default: 600]
    #[arg(long, value_name = "N")]
    timeout: Option<u32>,
}

/// That a job tests what it saved.
#[derive(Debug, Args)]
#[command(next_help_heading = "Whether what was saved is tested")]
pub struct JobProof {
    /// Boot each new point as a test, as `proof run` does; the run fails when one does not boot
    #[arg(long)]
    prove: bool,
    /// The same, but each machine only once in so many hours
    #[arg(long, value_name = "HOURS", conflicts_with = "prove")]
    prove_every: Option<u32>,
    /// A guest is up when its agent answers, and no login prompt suffices
    #[arg(long)]
    prove_agent: bool,
    /// A guest is up when this text is on its serial console
    #[arg(long, value_name = "TEXT")]
    prove_console: Option<String>,
    /// A guest is up when this TCP port of it answers; can be given up to 8 times, and all must answer
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    prove_port: Vec<u16>,
    /// And when this program, run in it by its agent, ends with 0
    #[arg(long, value_name = "PROGRAM")]
    prove_guest_program: Option<String>,
    /// And when this program of the host does
    #[arg(long, value_name = "PROGRAM")]
    prove_host_program: Option<String>,
    /// How long a guest may take to come up, in seconds [default: 600]
    #[arg(long, value_name = "N")]
    prove_timeout: Option<u32>,
}

impl JobProof {
    /// `None` if nothing was given. What is given replaces all that was.
    pub fn into_wire(self) -> Option<v1::JobProof> {
        let signs = v1::ProofSigns {
            agent: self.prove_agent,
            console: self.prove_console,
            ports: self.prove_port,
            in_guest: self.prove_guest_program.as_deref().map(program),
            on_host: self.prove_host_program.as_deref().map(program),
            seconds_max: self.prove_timeout,
        };
        let is_given = self.prove || self.prove_every.is_some() || signs != v1::ProofSigns::default();
        is_given.then_some(v1::JobProof { enabled: true, signs, every_hours: self.prove_every })
    }
}

fn program(line: &str) -> v1::Program {
    v1::Program::split(line, None)
}

pub fn good(state: RunState) -> bool {
    matches!(state, RunState::Succeeded | RunState::SucceededWithWarnings)
}

impl Run {
    pub async fn run(self, session: &Session) -> Result {
        let client = session.client().await?;
        let (printer, detach) = (session.printer, self.detach);
        // None is lost from here on: a proof that was begun is ended, or told of.
        let signals = Signals::listen()?;
        let proof = client.start_proof(&self.into_wire()).await?;
        if detach {
            let number = proof.number;
            printer.talk(&format!(
                "proof {number} has begun; `nestling proof show {number}` tells how far it is"
            ));
            return printer.changed(&proof);
        }
        let proof = watch(printer, &client, proof, signals).await?;
        told(printer, &proof)
    }

    fn into_wire(self) -> v1::NewProof {
        v1::NewProof {
            vms: self.machines,
            job: self.job,
            points: self.point,
            repository: self.repository,
            signs: v1::ProofSigns {
                agent: self.signs.agent,
                console: self.signs.console,
                ports: self.signs.port,
                in_guest: self.signs.guest_program.as_deref().map(program),
                on_host: self.signs.host_program.as_deref().map(program),
                seconds_max: self.signs.timeout,
            },
            parallel: self.parallel,
        }
    }
}

/// Tells how far it is until it has ended. The first Ctrl-C ends the proof, the second one only the watching.
async fn watch(
    printer: Printer,
    client: &Client,
    mut proof: v1::Proof,
    mut signals: Signals,
) -> Result<v1::Proof> {
    let number = proof.number.to_string();
    let mut shown = printer.progress();
    let mut tick = interval(LOOK_INTERVAL);
    let mut cancelled = false;
    while matches!(proof.state, RunState::Waiting | RunState::Running) {
        tokio::select! {
            _ = tick.tick() => proof = client.proof(&number).await?,
            () = signals.next() => {
                if cancelled {
                    return Err(Failure::new(ErrorCode::Failed, format!("proof {number} goes on")));
                }
                cancelled = true;
                printer.talk("ending the proof; once more leaves it to itself");
                // It may have ended this very moment.
                proof = client.cancel_proof(&number).await.or(client.proof(&number).await)?;
            }
        }
        let ended = proof.points.iter().filter(|point| point.ended_at_ms.is_some()).count();
        if let Some((point, stage)) =
            proof.points.iter().find_map(|point| Some((point, point.stage.as_ref()?)))
        {
            #[expect(clippy::cast_precision_loss, reason = "a share of a bar")]
            let share = ended as f64 / proof.points.len().max(1) as f64;
            let words = format!("{}: {stage} ({ended} of {} done)", point.vm, proof.points.len());
            shown.show(Some(share), &words);
        }
    }
    Ok(proof)
}

/// Prints what came of it: the object, or a line for each machine; and the exit status.
fn told(printer: Printer, proof: &v1::Proof) -> Result {
    for point in &proof.points {
        for warning in &point.warnings {
            printer.warning(&format!("{}: {warning}", point.vm));
        }
        if !good(point.state) {
            let reason = point.reason.as_deref().unwrap_or(state(point.state));
            let message = format!("{}: recovery point {:.8} is not proven: {reason}", point.vm, point.point);
            let (hint, object) = (None, Some(point.vm.clone()));
            printer.error(&ErrorBody { code: ErrorCode::Failed, message, hint, object });
        }
    }
    printer.show(proof, human)?;
    match proof.points.iter().filter(|point| good(point.state)).count() {
        all if all == proof.points.len() => Ok(()),
        0 => Err(Failure::Told(status::FAILED)),
        _ => Err(Failure::Told(status::PARTLY)),
    }
}

fn human(proof: &v1::Proof) -> String {
    let mut out = String::new();
    for point in proof.points.iter().filter(|point| good(point.state)) {
        let line = format!(
            "{}@{:.8}: up after {}, {}\n",
            point.vm,
            point.point,
            point.ready_ms.map(seconds).unwrap_or_default(),
            point.seen.clone().unwrap_or_default()
        );
        out.push_str(&text::clean(&line));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_split_at_blanks() {
        let split = program(" /usr/bin/pg_isready  -q ");
        assert_eq!(
            (split.program.as_str(), split.arguments.as_slice()),
            ("/usr/bin/pg_isready", &["-q".to_owned()][..])
        );
    }
}
