//! The `nestling` program: parses the command line, asks the node through the API's client, prints the answer.
//!
//! It wires everything and must never hold logic of its own: what it can do, any other client of the API
//! can do too. Commands run on one thread and start nothing that they do not need, because most of them
//! take less time than a runtime with many threads takes to start.

mod args;
mod commands;
mod failure;
mod home;
mod log;
mod printer;
mod session;
mod start;
mod terminal;
mod text;

use std::{
    panic,
    process::{self, ExitCode},
};

use nestling_api::v1::{ErrorBody, ErrorCode};

use args::{Cli, Command};
use commands::shell::Input;
use failure::{Failure, Result, status};
use printer::Printer;
use session::Session;

fn main() -> ExitCode {
    panics_end_the_program();
    let cli = match args::parse() {
        Ok(cli) => cli,
        Err(error) => return ExitCode::from(not_parsed(&error)),
    };
    // Before anything else: what it is to give up is everything that the others need.
    match cli.command {
        Some(Command::ExploreWorker) => return ExitCode::from(commands::explore_worker::run()),
        Some(Command::ExploreMachine) => return ExitCode::from(commands::explore_worker::run_in_machine()),
        _ => {}
    }
    let printer = Printer::new(cli.global.json);
    ExitCode::from(match run(cli, printer) {
        // Whoever closed our output has what they wanted: `nestling vm list | head -1` is no failure.
        Ok(()) | Err(Failure::BrokenPipe) => status::DONE,
        Err(Failure::Told(status)) => status,
        Err(Failure::Usage(error)) => {
            printer.error(&error);
            status::USAGE
        }
        Err(Failure::Error(error)) => {
            printer.error(&error);
            status::FAILED
        }
    })
}

/// What a panic leaves half done nobody may go on with, in whatever thread it was: a node that is started again finds its
/// machines running and its journal. It is not `panic = "abort"` in the profile, because tests cannot be built with that,
/// so that everything would be built twice.
fn panics_end_the_program() {
    let report = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        report(info);
        process::abort();
    }));
}

fn run(cli: Cli, printer: Printer) -> Result {
    let home = home::find(cli.global.home)?;
    let inside = cli.global.inside.map(|path| path.levels().to_vec()).unwrap_or_default();
    let session = Session { home, inside, printer };
    let Some(command) = cli.command else {
        let input = match (cli.line, cli.file) {
            (Some(line), _) => Input::Line(line),
            (None, Some(file)) => Input::Script(file),
            (None, None) => {
                printer.talk(&args::command().render_help().to_string());
                return Err(Failure::Told(status::USAGE));
            }
        };
        return on_one_thread(commands::shell::run(&session, input));
    };
    match command {
        Command::Node(node) => node.run(&session),
        Command::Doctor(doctor) => on_many_threads(doctor.run(&session)),
        Command::Shell(_) => on_one_thread(commands::shell::run(&session, Input::Interactive)),
        Command::Tree(tree) => on_one_thread(tree.run(&session)),
        Command::Vm(vm) => on_one_thread(vm.run(&session)),
        Command::Console(console) => on_one_thread(console.run(&session)),
        Command::Switch(switch) => on_one_thread(switch.run(&session)),
        Command::Nat(nat) => on_one_thread(nat.run(&session)),
        Command::Disk(disk) => on_one_thread(disk.run(&session)),
        Command::Backup(backup) => on_one_thread(backup.run(&session)),
        Command::Job(job) => on_one_thread(job.run(&session)),
        Command::Mail(mail) => on_one_thread(mail.run(&session)),
        Command::Recover(recover) => on_one_thread(recover.run(&session)),
        Command::Proof(proof) => on_one_thread(proof.run(&session)),
        Command::Repository(repository) => on_one_thread(repository.run(&session)),
        Command::Import(import) => on_one_thread(import.run(&session)),
        Command::Image(image) => on_one_thread(image.run(&session)),
        Command::Host(host) => on_one_thread(host.run(&session)),
        Command::Events(events) => on_one_thread(events.run(&session)),
        Command::Vault(vault) => vault.run(&session),
        Command::ExploreWorker | Command::ExploreMachine => Err(Failure::Told(status::USAGE)),
    }
}

/// Runs a client's work.
pub fn on_one_thread(work: impl Future<Output = Result>) -> Result {
    on_runtime(tokio::runtime::Builder::new_current_thread(), work)
}

/// Runs a node's work.
pub fn on_many_threads(work: impl Future<Output = Result>) -> Result {
    on_runtime(tokio::runtime::Builder::new_multi_thread(), work)
}

fn on_runtime(mut builder: tokio::runtime::Builder, work: impl Future<Output = Result>) -> Result {
    let runtime = builder
        .enable_all()
        .build()
        .map_err(|e| Failure::new(ErrorCode::Failed, format!("can't start: {e}")))?;
    let result = runtime.block_on(work);
    // A thread that still reads the terminal does not keep the program.
    runtime.shutdown_background();
    result
}

/// Prints help, the version or what is wrong with the command line.
fn not_parsed(error: &clap::Error) -> u8 {
    use clap::error::ErrorKind;
    let is_help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !is_help && std::env::args_os().any(|a| a == "--json") {
        let text = error.to_string();
        let message = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        let hint = Some("see nestling --help".to_owned());
        Printer::new(true).error(&ErrorBody { code: ErrorCode::Invalid, message, hint, object: None });
        return status::USAGE;
    }
    // Nobody is left to be told when the output is gone.
    let _ = error.print();
    if is_help { status::DONE } else { status::USAGE }
}
