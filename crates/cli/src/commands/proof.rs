//! `nestling proof`: recovery points are booted as a test, and what came of it.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use nestling_api::v1::{self, ErrorCode, RunState};

use super::{
    backup::state,
    proof_run::{self, good},
};
use crate::{
    failure::{Failure, Result},
    session::Session,
    text::{self, Table, fields},
};

/// Tests that recovery points boot
#[derive(Debug, Args)]
pub struct Proof {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<proof_run::Run>),
    /// List the proofs that were made and those under way, newest first
    List,
    /// Show what a proof found of each recovery point
    Show {
        #[arg(value_name = "PROOF", help = PROOF)]
        proof: String,
    },
    /// End a proof; the machines that it runs are removed
    Cancel {
        #[arg(value_name = "PROOF", help = PROOF)]
        proof: String,
    },
    Screen(Screen),
}

const PROOF: &str = "The proof's number, as `proof list` tells it";

/// Write the picture of a machine's screen, taken at the end of its test, into a file
#[derive(Debug, Args)]
struct Screen {
    #[arg(value_name = "PROOF", help = PROOF)]
    proof: String,
    /// The machine's name, as `proof show` tells it
    vm: String,
    /// A PNG file; one that is there is replaced
    file: PathBuf,
}

impl Proof {
    pub async fn run(self, session: &Session) -> Result {
        let printer = session.printer;
        match self.command {
            Command::Run(run) => run.run(session).await,
            Command::List => printer.list(&session.client().await?.proofs().await?, table),
            Command::Show { proof } => printer.show(&session.client().await?.proof(&proof).await?, details),
            Command::Cancel { proof } => {
                printer.changed(&session.client().await?.cancel_proof(&proof).await?)
            }
            Command::Screen(screen) => screen.run(session).await,
        }
    }
}

impl Screen {
    async fn run(self, session: &Session) -> Result {
        let client = session.client().await?;
        let proof = client.proof(&self.proof).await?;
        let wanted = self.vm.to_lowercase();
        let place = proof.points.iter().position(|point| point.vm.to_lowercase() == wanted);
        let place = place.ok_or_else(|| {
            Failure::new(ErrorCode::NotFound, format!("proof {} has no point of '{}'", proof.number, self.vm))
        })?;
        let png = client.proof_screen(&self.proof, place).await?;
        std::fs::write(&self.file, png).map_err(|error| Failure::file("write", &self.file, &error))
    }
}

fn table(proofs: &[v1::Proof]) -> String {
    let columns = ["PROOF", "BEGAN", "ASKED FOR BY", "MACHINES", "BOOT", "REPOSITORY", "STATE"];
    let mut table = Table::new(&columns).right(&[0]);
    for proof in proofs {
        let boot = proof.points.iter().filter(|point| good(point.state)).count();
        table.row([
            proof.number.to_string(),
            text::time(proof.started_at_ms),
            proof.cause.clone(),
            machines(proof),
            format!("{boot} of {}", proof.points.len()),
            proof.repository.clone(),
            state(proof.state).to_owned(),
        ]);
    }
    table.text()
}

fn machines(proof: &v1::Proof) -> String {
    match proof.points.as_slice() {
        [] => "-".to_owned(),
        [only] => only.vm.clone(),
        [first, rest @ ..] => format!("{} and {} more", first.vm, rest.len()),
    }
}

/// `7.3 s`
pub fn seconds(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// What is waited for.
pub fn signs(signs: &v1::ProofSigns) -> String {
    let mut words = Vec::new();
    if signs.agent {
        words.push("its agent".to_owned());
    }
    words.extend(signs.console.as_ref().map(|text| format!("\"{text}\" on its console")));
    words.extend(signs.ports.iter().map(|port| format!("TCP port {port}")));
    if words.is_empty() && signs.in_guest.is_none() {
        words.push("its agent or a login prompt".to_owned());
    }
    words.extend(signs.in_guest.as_ref().map(|program| format!("{} in it", program.program)));
    words.extend(signs.on_host.as_ref().map(|program| format!("{} on the host", program.program)));
    words.join(", ")
}

fn details(proof: &v1::Proof) -> String {
    let mut out = fields(&[
        ("Proof", proof.number.to_string()),
        ("State", state(proof.state).to_owned()),
        ("Asked for by", proof.cause.clone()),
        ("Job", proof.job.clone().unwrap_or_default()),
        ("Repository", proof.repository.clone()),
        ("Waits for", signs(&proof.signs)),
        ("At most", proof.signs.seconds_max.map(|s| text::duration(u64::from(s) * 1000)).unwrap_or_default()),
        ("Began", text::time(proof.started_at_ms)),
        ("Ended", proof.ended_at_ms.map(text::time).unwrap_or_default()),
    ]);
    let mut table = Table::new(&["MACHINE", "POINT", "TAKEN", "STATE", "UP AFTER", "SCREEN", "FOUND"]);
    for point in &proof.points {
        table.row([
            point.vm.clone(),
            point.point.chars().take(8).collect(),
            text::time(point.taken_at_ms),
            state(point.state).to_owned(),
            point.ready_ms.map_or_else(|| "-".to_owned(), seconds),
            if point.has_screen { "yes" } else { "no" }.to_owned(),
            found(point),
        ]);
    }
    out.push_str(&table.text());
    for point in proof.points.iter().filter(|point| point.state == RunState::Failed) {
        out.push_str(&text::clean(&format!("\nThe console of {} ended:\n", point.vm)));
        point.console.iter().for_each(|line| out.push_str(&text::clean(&format!("  {line}\n"))));
    }
    out
}

fn found(point: &v1::PointProof) -> String {
    let told = [&point.reason, &point.seen, &point.stage].into_iter().flatten().next();
    told.cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_is_told_in_words() {
        let program = v1::Program { program: "/bin/x".into(), arguments: Vec::new(), seconds_max: None };
        assert_eq!(signs(&v1::ProofSigns::default()), "its agent or a login prompt");
        let both =
            v1::ProofSigns { console: Some("up".into()), on_host: Some(program), ..Default::default() };
        assert_eq!(signs(&both), "\"up\" on its console, /bin/x on the host");
        let ports = v1::ProofSigns { agent: true, ports: vec![22, 5432], ..Default::default() };
        assert_eq!(signs(&ports), "its agent, TCP port 22, TCP port 5432");
        assert_eq!(seconds(7390), "7.3 s");
    }
}
