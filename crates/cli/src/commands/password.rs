//! Where a password comes from: a file, the environment or the terminal, never an argument, which everybody on the host
//! could read. It is wiped after use and must never reach a message.

use std::{
    fs::{File, Metadata},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use nestling_api::v1::{self, ErrorCode};
use nestling_vault::{PASSWORD_BYTES_MAX, Password, PasswordError, first_line};
use rustix::stdio::stdin;
use zeroize::Zeroizing;

use crate::{
    failure::{Failure, Result},
    printer::Printer,
    terminal::RawTerminal,
};

pub const PASSWORD_VARIABLE: &str = "NESTLING_VAULT_PASSWORD";

pub fn of_environment(variable: &str) -> Option<Password> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty())?;
    Some(Zeroizing::new(value.into_encoded_bytes()))
}

/// The first line of a file, without its end.
pub fn read_file(printer: Printer, path: &Path) -> Result<Password> {
    let failed = |e: std::io::Error| Failure::file("read the password from", path, &e);
    let file = File::open(path).map_err(failed)?;
    warn_of_others(printer, path, &file.metadata().map_err(failed)?, "password");
    first_line(file).map_err(|error| match error {
        PasswordError::Io(error) => failed(error),
        other => Failure::new(ErrorCode::Invalid, format!("{}: {other}", path.display())),
    })
}

/// Mounted secrets are readable by others on purpose, so it is told and not refused.
pub fn warn_of_others(printer: Printer, path: &Path, about: &Metadata, what: &str) {
    if about.is_file() && about.permissions().mode() & 0o044 != 0 {
        printer.warning(&format!(
            "others can read the {what} in {}; `chmod 600` keeps it from them",
            path.display()
        ));
    }
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
pub fn ask(printer: Printer, prompt: &str) -> Result<Password> {
    ask_with(printer, prompt, &format!("set {PASSWORD_VARIABLE} or give --password-file"))
}

/// The same, with what to do where there is no terminal.
pub fn ask_with(printer: Printer, prompt: &str, hint: &str) -> Result<Password> {
    let terminal = RawTerminal::enter()
        .map_err(|e| Failure::new(ErrorCode::Failed, format!("can't use the terminal: {e}")))?;
    let Some(_terminal) = terminal else {
        return Err(Failure::usage("no password, and no terminal to ask for it").hint(hint));
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

/// For the node to keep.
pub fn secret(password: &Password) -> Result<v1::Secret> {
    let text =
        str::from_utf8(password).map_err(|_| Failure::usage("a node keeps only passwords that are UTF-8"))?;
    Ok(v1::Secret::new(text))
}
