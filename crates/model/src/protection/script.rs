//! Programs that are run around a backup, on the host or in a guest.
//!
//! A program and its arguments are handed over one by one: there is no shell in between that could read them otherwise.

use serde::{Deserialize, Serialize};

use super::consistency::OnFailure;

/// The longest time that a program can be given, in seconds: a day.
pub const SECONDS_MAX: u32 = 24 * 3600;
pub const ARGUMENTS_MAX: usize = 64;
pub const ARGUMENT_BYTES_MAX: usize = 4096;
/// How many programs may be run at one place.
pub const SCRIPTS_MAX: usize = 16;

/// A program, what it is told and how long it may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    pub program: String,
    #[serde(default)]
    pub arguments: Vec<String>,
    #[serde(default = "Command::default_seconds")]
    pub seconds_max: u32,
}

/// Why a program cannot be run so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandInvalid {
    #[error("a program is needed")]
    NoProgram,
    #[error("the program \"{0}\" is given with its whole path, from /")]
    Relative(String),
    #[error("the program \"{program}\" may run for 1 to {SECONDS_MAX} seconds; {asked} were asked for")]
    Seconds { program: String, asked: u32 },
    #[error("the program \"{0}\" has more than {ARGUMENTS_MAX} arguments")]
    Arguments(String),
    #[error(
        "the program \"{0}\" or one of its arguments is longer than {ARGUMENT_BYTES_MAX} bytes or has a zero character"
    )]
    Text(String),
    #[error("at most {SCRIPTS_MAX} programs can be run at one place")]
    TooMany,
}

impl Command {
    const fn default_seconds() -> u32 {
        300
    }

    /// A program of a guest, which may be Windows and name programs its own way.
    pub fn validate_in_guest(&self) -> Result<(), CommandInvalid> {
        let shown = || crate::shown(&self.program, 80);
        if self.program.is_empty() {
            return Err(CommandInvalid::NoProgram);
        }
        if self.seconds_max == 0 || self.seconds_max > SECONDS_MAX {
            return Err(CommandInvalid::Seconds { program: shown(), asked: self.seconds_max });
        }
        if self.arguments.len() > ARGUMENTS_MAX {
            return Err(CommandInvalid::Arguments(shown()));
        }
        let is_bad = |text: &String| text.len() > ARGUMENT_BYTES_MAX || text.contains('\0');
        if is_bad(&self.program) || self.arguments.iter().any(is_bad) {
            return Err(CommandInvalid::Text(shown()));
        }
        Ok(())
    }

    pub fn validate_on_host(&self) -> Result<(), CommandInvalid> {
        self.validate_in_guest()?;
        if !self.program.starts_with('/') {
            return Err(CommandInvalid::Relative(crate::shown(&self.program, 80)));
        }
        Ok(())
    }
}

/// A program of the host that is run before or after a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Script {
    #[serde(flatten)]
    pub command: Command,
    /// What becomes of the run when it fails or takes too long.
    #[serde(default)]
    pub on_failure: OnFailure,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(program: &str) -> Command {
        Command { program: program.to_owned(), arguments: Vec::new(), seconds_max: 10 }
    }

    #[test]
    fn a_program_of_the_host_has_a_whole_path_and_limits() {
        assert_eq!(command("/bin/true").validate_on_host(), Ok(()));
        assert!(matches!(command("true").validate_on_host(), Err(CommandInvalid::Relative(_))));
        assert_eq!(command(r"C:\scripts\before.cmd").validate_in_guest(), Ok(()));
        assert_eq!(command("").validate_in_guest(), Err(CommandInvalid::NoProgram));
        let endless = Command { seconds_max: 0, ..command("/bin/sleep") };
        assert!(matches!(endless.validate_on_host(), Err(CommandInvalid::Seconds { .. })));
        let zero = Command { arguments: vec!["a\0b".to_owned()], ..command("/bin/true") };
        assert!(matches!(zero.validate_on_host(), Err(CommandInvalid::Text(_))));
    }
}
