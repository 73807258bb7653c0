//! The command line: one value from which parsing, help and the list of exit statuses come.

use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};
use nestling_api::v1;
use nestling_model::VmPath;
use nestling_vault::retention::Retention;

use crate::commands::{
    backup, console, disk, doctor, events, host, image, import, job, mail, nat, node, proof, recover,
    repository, shell, switch, tree, vault, vm,
};

/// What every command's help ends with, unless it says something of its own.
const EXIT_STATUS: &str = "\
EXIT STATUS:
  0  done
  1  failed
  2  the command line makes no sense";

/// What it says besides where several machines can be named.
const EXIT_STATUS_PARTLY: &str = "\n  3  partly done: it failed for some of the machines";

/// Nested virtualization: virtual machines, and virtual machines inside them.
#[derive(Debug, Parser)]
#[command(
    name = "nestling",
    bin_name = "nestling",
    version,
    max_term_width = 100,
    after_help = "\
Virtual machines are named by their path: `L1/L2` is L2 inside L1.

EXIT STATUS:
  0  done
  1  failed
  2  the command line makes no sense
  3  partly done"
)]
pub struct Cli {
    /// Run a line of PowerShell syntax
    #[arg(short = 'c', value_name = "PIPELINE", allow_hyphen_values = true, conflicts_with_all = ["file", "json"])]
    pub line: Option<String>,

    /// Run a script of PowerShell syntax; `-` is standard input
    #[arg(short = 'f', value_name = "SCRIPT", conflicts_with = "json")]
    pub file: Option<PathBuf>,

    #[command(flatten)]
    pub global: Global,

    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Do it inside this virtual machine, to any depth
    #[arg(long = "in", value_name = "PATH", value_parser = vm_path, global = true)]
    pub inside: Option<VmPath>,

    /// Write data and errors as JSON objects, one a line
    #[arg(long, global = true)]
    pub json: bool,

    /// Where the node keeps its state [default: /var/lib/nestling for root, else $XDG_STATE_HOME/nestling]
    #[arg(long, value_name = "DIRECTORY", env = "NESTLING_HOME", hide_env_values = true, global = true)]
    pub home: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    Shell(shell::Shell),
    Doctor(doctor::Doctor),
    Tree(tree::Tree),
    Vm(vm::Vm),
    Console(console::Console),
    Switch(switch::Switch),
    Nat(nat::Nat),
    Disk(disk::Disk),
    Image(image::Image),
    Import(import::Import),
    Host(host::Host),
    Events(events::Events),
    Backup(Box<backup::Backup>),
    Job(Box<job::Job>),
    Mail(mail::Mail),
    Recover(Box<recover::Recover>),
    Proof(Box<proof::Proof>),
    Repository(repository::Repository),
    Vault(vault::Vault),
    Node(node::Node),
    /// Read file systems for the program that started this; no command for people
    #[command(hide = true)]
    ExploreWorker,
    /// Mount volumes inside a machine that was started for nothing else; no command for people
    #[command(hide = true)]
    ExploreMachine,
}

/// The command with its help complete.
pub fn command() -> clap::Command {
    with_exit_status(Cli::command())
}

fn with_exit_status(command: clap::Command) -> clap::Command {
    let partly = if command.get_arguments().any(|a| a.get_id() == "vms") { EXIT_STATUS_PARTLY } else { "" };
    let command = match command.get_after_help() {
        None => command.after_help(format!("{EXIT_STATUS}{partly}")),
        Some(_) => command,
    };
    command.mut_subcommands(|sub| with_exit_status(sub.disable_help_subcommand(true)))
}

/// Parses this process's command line.
pub fn parse() -> Result<Cli, clap::Error> {
    let cli = Cli::from_arg_matches(&command().try_get_matches()?)?;
    if cli.command.is_some() && (cli.line.is_some() || cli.file.is_some()) {
        let message = "a command can't be combined with -c or -f";
        return Err(command().error(clap::error::ErrorKind::ArgumentConflict, message));
    }
    Ok(cli)
}

/// What the argument VM is.
pub const VM: &str = "The machine's path, such as L1/L2";
pub const VMS: &str = "The machines' paths, such as L1/L2";

/// A machine's path, with the whole reason when it is none.
pub fn vm_path(text: &str) -> Result<VmPath, String> {
    text.parse().map_err(|error: nestling_model::path::PathError| {
        use std::error::Error as _;
        error.source().map_or_else(|| error.to_string(), |why| format!("{error}: {why}"))
    })
}

/// Which of a machine's points stay.
#[derive(Debug, Clone, Copy, Args)]
pub struct KeepRules {
    /// Keep the last N points
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Keep the last point of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    keep_hourly: Option<u32>,
    /// Of each of the last N days
    #[arg(long, value_name = "N")]
    keep_daily: Option<u32>,
    /// Of each of the last N weeks
    #[arg(long, value_name = "N")]
    keep_weekly: Option<u32>,
    /// Of each of the last N months
    #[arg(long, value_name = "N")]
    keep_monthly: Option<u32>,
    /// Of each of the last N years
    #[arg(long, value_name = "N")]
    keep_yearly: Option<u32>,
}

impl KeepRules {
    /// What is not given keeps nothing.
    pub fn counts(self) -> Retention {
        let count = Option::unwrap_or_default;
        Retention {
            last: count(self.keep_last),
            hourly: count(self.keep_hourly),
            daily: count(self.keep_daily),
            weekly: count(self.keep_weekly),
            monthly: count(self.keep_monthly),
            yearly: count(self.keep_yearly),
        }
    }
}

/// The same, with a time for which every point stays.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Which points stay")]
pub struct KeepRulesWithin {
    #[command(flatten)]
    rules: KeepRules,
    /// Keep every point that is younger
    #[arg(long, value_name = "HOURS")]
    keep_within: Option<u32>,
}

impl KeepRulesWithin {
    /// Laid over the rules that there are. `None` if no rule was given.
    pub fn over(self, before: v1::Retention) -> Option<v1::Retention> {
        let Self { rules, keep_within } = self;
        let mut after = before;
        let mut is_given = false;
        for (given, count) in [
            (rules.keep_last, &mut after.last),
            (rules.keep_hourly, &mut after.hourly),
            (rules.keep_daily, &mut after.daily),
            (rules.keep_weekly, &mut after.weekly),
            (rules.keep_monthly, &mut after.monthly),
            (rules.keep_yearly, &mut after.yearly),
            (keep_within, &mut after.within_hours),
        ] {
            is_given |= given.is_some();
            *count = given.unwrap_or(*count);
        }
        is_given.then_some(after)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnOff {
    #[value(alias = "true")]
    On,
    #[value(alias = "false")]
    Off,
}

impl OnOff {
    pub fn is_on(self) -> bool {
        self == Self::On
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        command().debug_assert();
    }
}
