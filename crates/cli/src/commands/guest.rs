//! `nestling vm guest|exec|copy-in`: what the guest agent in a machine does for us.

use std::{
    io::Read,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use nestling_api::{
    Client,
    v1::{self, ErrorCode, VmState},
};
use nestling_model::VmPath;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    args::{VM, vm_path},
    failure::{Failure, Result},
    session::Session,
    text::{Table, fields},
};

/// The most that a program in a guest can be given to read.
const INPUT_BYTES_MAX: u64 = 512 << 10;

/// From one look for an agent to the next.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

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
    /// Give it this command's standard input: text, at most 512 KB of it
    #[arg(long)]
    stdin: bool,
    /// Wait until the guest's agent answers, at most so long [default: 120]
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "120",
        value_parser = clap::value_parser!(u32).range(1..=3600))]
    wait: Option<u32>,
    /// The program and its arguments
    #[arg(value_name = "PROGRAM", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    program: Vec<String>,
}

/// Copy a file of this host into the guest
///
/// One file, of any size. A directory goes in as an archive: pack it with `tar -C DIRECTORY -cf a.tar .`, copy a.tar in, and
/// unpack it there with `vm exec VM -- tar -C /where -xf /tmp/a.tar`.
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
        if let Some(seconds) = self.wait {
            wait_for_agent(&client, vm, Duration::from_secs(seconds.into())).await?;
        }
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

/// Until a guest's agent answers, or it is clear that none will.
async fn wait_for_agent(client: &Client, vm: &str, patience: Duration) -> Result {
    let end = Instant::now() + patience;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Ok(Err(absent)) = timeout(left.max(LOOK_INTERVAL), client.guest(vm)).await else { return Ok(()) };
        let state = match client.vm(vm).await {
            Ok(vm) => Some(vm.state),
            // The host that it is in may itself be starting.
            Err(error) if error.code == ErrorCode::GuestAbsent => None,
            Err(error) => return Err(error.into()),
        };
        let is_over = end.saturating_duration_since(Instant::now()) < LOOK_INTERVAL;
        if is_over || !may_come(absent.code, state) {
            // What else may be wrong with it is told by what is asked of it next.
            return match absent.code {
                ErrorCode::GuestAbsent | ErrorCode::Timeout => Err(absent.into()),
                _ => Ok(()),
            };
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// Whether an agent that does not answer now may do so later.
fn may_come(code: ErrorCode, state: Option<VmState>) -> bool {
    let is_silent = matches!(code, ErrorCode::GuestAbsent | ErrorCode::Timeout);
    is_silent && !matches!(state, Some(VmState::Off | VmState::Saved))
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
            return Err(one_file(&self.source, &self.vm, &self.destination));
        }
        let (client, vm) = session.at(&self.vm).await?;
        Ok(client.copy_file(vm, &self.destination, file).await?)
    }
}

/// What a directory needs instead.
fn one_file(source: &Path, vm: &VmPath, destination: &str) -> Failure {
    let source = source.display();
    Failure::usage(format!("{source} is a directory, and one file is copied")).hint(format!(
        "pack it: tar -C '{source}' -cf /tmp/a.tar .; nestling vm copy-in '{vm}' /tmp/a.tar /tmp/a.tar; nestling vm exec '{vm}' \
         -- tar -C '{destination}' -xf /tmp/a.tar"
    ))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        exec: Exec,
    }

    #[test]
    fn what_is_waited_for_stands_before_the_program() {
        let parsed = |words: &[&str]| {
            let exec = Line::try_parse_from([&["x"], words].concat()).map(|line| line.exec);
            exec.map(|exec| (exec.wait, exec.program.join(" "))).ok()
        };
        let ls = |wait| Some((wait, "ls -l".to_owned()));
        assert_eq!(parsed(&["Web", "--", "ls", "-l"]), ls(None));
        assert_eq!(parsed(&["Web", "--wait", "--", "ls", "-l"]), ls(Some(120)));
        assert_eq!(parsed(&["--wait=5", "Web", "ls", "-l"]), ls(Some(5)));
        assert_eq!(parsed(&["Web", "--wait=0", "ls"]), None);
    }

    #[test]
    fn only_what_may_still_come_is_waited_for() {
        for (code, state, comes) in [
            (ErrorCode::GuestAbsent, Some(VmState::Running), true),
            (ErrorCode::Timeout, Some(VmState::Running), true),
            (ErrorCode::GuestAbsent, None, true),
            (ErrorCode::GuestAbsent, Some(VmState::Off), false),
            (ErrorCode::GuestAbsent, Some(VmState::Saved), false),
            (ErrorCode::Denied, Some(VmState::Running), false),
        ] {
            assert_eq!(may_come(code, state), comes, "{code:?} {state:?}");
        }
    }

    #[test]
    fn a_directory_is_told_how_it_gets_in() {
        let Failure::Usage(body) = one_file(Path::new("/etc"), &"L1/Web".parse().expect("a path"), "/srv")
        else {
            panic!("it is a slip on the command line")
        };
        let hint = body.hint.unwrap_or_default();
        assert!(body.message.contains("one file") && hint.contains("tar -C '/etc'"), "{hint}");
        assert!(hint.contains("vm exec 'L1/Web' -- tar -C '/srv'"), "{hint}");
    }

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
