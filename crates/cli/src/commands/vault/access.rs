//! How a repository is opened: where it is, with which password, and within which bounds.
//!
//! A password comes from a file, the environment or the terminal, never from an argument, which everybody on the host
//! could read. It is wiped after use and must never reach a message.

use std::{
    fs::File,
    io::Read,
    num::NonZeroU64,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use nestling_api::v1::ErrorCode;
use nestling_vault::{
    Repository,
    storage::{
        AppendOnly, Limits, Location, RetryPolicy, Retrying, Storage, StorageOptions, Throttled, open,
    },
};
use rustix::stdio::stdin;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    failure::{Failure, Result},
    printer::Printer,
    terminal::RawTerminal,
    text::parse_size,
};

const PASSWORD_VARIABLE: &str = "NESTLING_VAULT_PASSWORD";
const OTHER_PASSWORD_VARIABLE: &str = "NESTLING_VAULT_PASSWORD2";
const PASSWORD_BYTES_MAX: usize = 4096;

/// Wiped when it goes.
pub type Password = Zeroizing<Vec<u8>>;

#[derive(Debug, Args)]
#[command(next_help_heading = "Repository options")]
pub struct Access {
    /// The password is the first line of this file [default: NESTLING_VAULT_PASSWORD, else it is asked for]
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,

    /// Move no more than this in a second, each way
    #[arg(long, value_name = "SIZE", value_parser = rate)]
    bwlimit: Option<NonZeroU64>,

    /// Add to the repository and remove nothing from it
    #[arg(long)]
    append_only: bool,
}

fn rate(text: &str) -> std::result::Result<NonZeroU64, String> {
    NonZeroU64::new(parse_size(text)?).ok_or_else(|| "nothing could move".to_owned())
}

impl Access {
    pub fn open(&self, printer: Printer, repo: &str) -> Result<Arc<Repository>> {
        let told = self.told(printer)?;
        self.open_with(printer, repo, told)
    }

    /// Another repository in the same command, within the same bounds.
    pub fn open_other(&self, printer: Printer, repo: &str, file: Option<&Path>) -> Result<Arc<Repository>> {
        let told = match file {
            Some(file) => Some(read_file(printer, file)?),
            None => of_environment(OTHER_PASSWORD_VARIABLE),
        };
        self.open_with(printer, repo, told)
    }

    fn open_with(&self, printer: Printer, repo: &str, told: Option<Password>) -> Result<Arc<Repository>> {
        let storage = self.storage(repo, false)?;
        let password = match told {
            Some(password) => password,
            None => ask(printer, &format!("password for {repo}"))?,
        };
        Ok(Arc::new(Repository::open(storage, &password)?))
    }

    /// Where a new repository is to be, and its password.
    pub fn create(&self, printer: Printer, repo: &str) -> Result<(Arc<dyn Storage>, Password)> {
        let password = match self.told(printer)? {
            Some(password) => password,
            None => ask_twice(printer, &format!("new password for {repo}"))?,
        };
        Ok((self.storage(repo, true)?, password))
    }

    fn storage(&self, repo: &str, create: bool) -> Result<Arc<dyn Storage>> {
        let is_local = matches!(repo.parse()?, Location::Local(_));
        let mut storage = open(repo, &StorageOptions { create, ..StorageOptions::default() })?;
        if !is_local {
            storage = Arc::new(Retrying::new(storage, RetryPolicy::default()));
        }
        let storage: Arc<dyn Storage> = match self.bwlimit {
            None => storage,
            limit => {
                let limits = Limits { up_bytes_per_second: limit, down_bytes_per_second: limit };
                Arc::new(Throttled::new(storage, limits))
            }
        };
        Ok(if self.append_only { Arc::new(AppendOnly::new(storage)) } else { storage })
    }

    /// The password, if it need not be asked for.
    fn told(&self, printer: Printer) -> Result<Option<Password>> {
        match &self.password_file {
            Some(file) => read_file(printer, file).map(Some),
            None => Ok(of_environment(PASSWORD_VARIABLE)),
        }
    }
}

pub fn of_environment(variable: &str) -> Option<Password> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty())?;
    Some(Zeroizing::new(value.into_encoded_bytes()))
}

/// The first line of a file, without its end.
pub fn read_file(printer: Printer, path: &Path) -> Result<Password> {
    let failed = |e: std::io::Error| Failure::file("read the password from", path, &e);
    let file = File::open(path).map_err(failed)?;
    let about = file.metadata().map_err(failed)?;
    // Mounted secrets are readable by others on purpose, so it is told and not refused.
    if about.is_file() && about.permissions().mode() & 0o044 != 0 {
        printer.warning(&format!(
            "others can read the password in {}; `chmod 600` keeps it from them",
            path.display()
        ));
    }
    // One buffer that never grows: what is moved elsewhere would not be wiped.
    let mut line = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX + 1));
    file.take(PASSWORD_BYTES_MAX as u64 + 1).read_to_end(&mut line).map_err(failed)?;
    let end = line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len());
    if end > PASSWORD_BYTES_MAX {
        let message = format!("the first line of {} is longer than any password", path.display());
        return Err(Failure::new(ErrorCode::Invalid, message));
    }
    line[end..].zeroize();
    line.truncate(end);
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    if line.is_empty() {
        let message = format!("the first line of {} is empty, and should be the password", path.display());
        return Err(Failure::new(ErrorCode::Invalid, message));
    }
    Ok(line)
}

pub fn ask_twice(printer: Printer, prompt: &str) -> Result<Password> {
    let first = ask(printer, prompt)?;
    if *first == *ask(printer, "the same again")? {
        Ok(first)
    } else {
        Err(Failure::usage("the two passwords differ"))
    }
}

/// A line that the terminal does not show.
fn ask(printer: Printer, prompt: &str) -> Result<Password> {
    let terminal = RawTerminal::enter()
        .map_err(|e| Failure::new(ErrorCode::Failed, format!("can't use the terminal: {e}")))?;
    let Some(_terminal) = terminal else {
        return Err(Failure::usage("no password, and no terminal to ask for it")
            .hint(format!("set {PASSWORD_VARIABLE} or give --password-file")));
    };
    printer.error_bytes(format!("{}: ", crate::text::clean(prompt)).as_bytes());
    let read = read_keys();
    printer.error_bytes(b"\r\n");
    read
}

/// What is typed up to Enter. Backspace, Ctrl-U and Ctrl-C do what they do everywhere.
fn read_keys() -> Result<Password> {
    let failed =
        |e: rustix::io::Errno| Failure::new(ErrorCode::Failed, format!("can't read the terminal: {e}"));
    let mut typed = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES_MAX));
    loop {
        let mut key = Zeroizing::new([0]);
        let read = match rustix::io::read(stdin(), &mut *key) {
            Err(rustix::io::Errno::INTR) => continue,
            read => read.map_err(failed)?,
        };
        match (read, key[0]) {
            (0, _) | (_, 0x03 | 0x04) => return Err(Failure::new(ErrorCode::Failed, "cancelled")),
            (_, b'\r' | b'\n') => return Ok(typed),
            (_, 0x15) => typed.clear(),
            (_, 0x08 | 0x7f) => {
                // A character may have several bytes.
                while typed.pop().is_some_and(|byte| byte & 0xc0 == 0x80) {}
            }
            (_, byte) if typed.len() < PASSWORD_BYTES_MAX => typed.push(byte),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line_of_a_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let read = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).expect("written");
            read_file(Printer::new(true), file.path()).ok().map(|password| password.to_vec())
        };
        for text in ["correct horse", "correct horse\n", "correct horse\r\nand more\n"] {
            assert_eq!(read(text.as_bytes()).as_deref(), Some(&b"correct horse"[..]), "{text:?}");
        }
        assert_eq!(read(b" a "), Some(b" a ".to_vec()));
        assert_eq!(read(&[b'a'; PASSWORD_BYTES_MAX]).map(|p| p.len()), Some(PASSWORD_BYTES_MAX));
        for bad in [&b""[..], b"\n", b"\r\nx", &[b'a'; PASSWORD_BYTES_MAX + 1]] {
            assert_eq!(read(bad), None);
        }
    }
}
