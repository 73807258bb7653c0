//! `nestling vm guest|exec|copy-in`: what the guest agent in a machine does for us.

use std::{io::Read, path::PathBuf};

use clap::Args;
use nestling_api::v1;
use nestling_model::VmPath;

use crate::{
    args::{VM, vm_path},
    failure::{Failure, Result},
    session::Session,
    text::{Table, fields},
};

/// The most that a program in a guest can be given to read.
const INPUT_BYTES_MAX: u64 = 512 << 10;

/// Show what the guest says of itself
#[derive(Debug, Args)]
pub struct Guest {
    #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
    vm: VmPath,
}

/// Run a program in the guest
#[derive(Debug, Args)]
#[command(after_help = "\
EXIT STATUS:
  that of the program; 128 and the signal's number when a signal ended it
  1  it could not be run
  2  the command line makes no sense")]
pub struct Exec {
    #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
    vm: VmPath,
    /// How long it may take
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout: u32,
    /// Give it this command's standard input
    #[arg(long)]
    stdin: bool,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<String>,
}

/// Copy a file of this host into the guest
#[derive(Debug, Args)]
pub struct CopyIn {
    #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
    vm: VmPath,
    #[arg(value_name = "FILE", help = "The file here")]
    source: PathBuf,
    /// The file's whole path in the guest
    #[arg(value_name = "GUEST-PATH")]
    destination: String,
}

impl Guest {
    pub async fn run(self, session: &Session) -> Result {
        let (client, vm) = session.at(&self.vm).await?;
        session.printer.show(&client.guest(vm).await?, details)
    }
}

fn details(guest: &v1::Guest) -> String {
    let mut out = fields(&[
        ("Host name", guest.hostname.clone().unwrap_or_default()),
        ("System", guest.os.clone().unwrap_or_default()),
        ("Kernel", guest.kernel.clone().unwrap_or_default()),
        ("Agent", guest.agent_version.clone()),
    ]);
    let mut table = Table::new(&["INTERFACE", "MAC", "ADDRESSES"]);
    for interface in &guest.interfaces {
        table.row([
            interface.name.clone(),
            interface.mac.clone().unwrap_or_default(),
            interface.addresses.join(", "),
        ]);
    }
    out.push('\n');
    out.push_str(&table.text());
    out
}

impl Exec {
    pub async fn run(self, session: &Session) -> Result {
        let (client, vm) = session.at(&self.vm).await?;
        let mut program = self.program.into_iter();
        let exec = v1::Exec {
            program: program.next().unwrap_or_default(),
            arguments: program.collect(),
            input: if self.stdin { read_input()? } else { String::new() },
            timeout_seconds: Some(self.timeout),
        };
        let result = client.exec(vm, &exec).await?;
        if session.printer.is_json() {
            session.printer.objects([&result])?;
        } else {
            session.printer.error_bytes(result.stderr.as_bytes());
            session.printer.data(&result.stdout)?;
        }
        if result.truncated {
            session.printer.warning("the guest agent cut the output");
        }
        match exit_status(&result) {
            0 => Ok(()),
            status => Err(Failure::Told(status)),
        }
    }
}

/// The status with which a shell would report the program's end.
fn exit_status(result: &v1::ExecResult) -> u8 {
    match (result.exit_code, result.signal) {
        (Some(0), _) => 0,
        // Only the low byte fits; what does not fit must not look like success.
        (Some(code), _) => u8::try_from(code & 0xff).ok().filter(|code| *code != 0).unwrap_or(1),
        (None, Some(signal)) => u8::try_from(signal.clamp(0, 127)).unwrap_or(0) + 128,
        (None, None) => 1,
    }
}

fn read_input() -> Result<String> {
    let mut input = Vec::new();
    let read = std::io::stdin().lock().take(INPUT_BYTES_MAX + 1).read_to_end(&mut input);
    read.map_err(|e| Failure::new(v1::ErrorCode::Failed, format!("can't read standard input: {e}")))?;
    if input.len() as u64 > INPUT_BYTES_MAX {
        return Err(Failure::usage(format!("standard input has more than {} KB", INPUT_BYTES_MAX >> 10))
            .hint("copy it into the guest first: nestling vm copy-in"));
    }
    String::from_utf8(input).map_err(|_| {
        Failure::usage("standard input is not UTF-8")
            .hint("copy it into the guest first: nestling vm copy-in")
    })
}

impl CopyIn {
    pub async fn run(self, session: &Session) -> Result {
        let failed = |e: &std::io::Error| Failure::file("read", &self.source, e);
        let file = tokio::fs::File::open(&self.source).await.map_err(|e| failed(&e))?;
        if file.metadata().await.map_err(|e| failed(&e))?.is_dir() {
            return Err(failed(&std::io::ErrorKind::IsADirectory.into()));
        }
        let (client, vm) = session.at(&self.vm).await?;
        Ok(client.copy_file(vm, &self.destination, file).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_status_is_passed_on() {
        let result = |exit_code, signal| v1::ExecResult {
            exit_code,
            signal,
            stdout: String::new(),
            stderr: String::new(),
            truncated: false,
        };
        for (exit_code, signal, status) in [
            (Some(0), None, 0),
            (Some(7), None, 7),
            (Some(256), None, 1),
            (Some(-1), None, 255),
            (None, Some(9), 137),
            (None, Some(1000), 255),
            (None, Some(-5), 128),
            (None, None, 1),
        ] {
            assert_eq!(exit_status(&result(exit_code, signal)), status, "{exit_code:?} {signal:?}");
        }
    }
}
