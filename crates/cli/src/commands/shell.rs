//! `nestling -c`, `-f` and `nestling shell`: PowerShell syntax, by the shell's engine.

use std::{
    io::{self, BufRead, IsTerminal, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use nestling_api::{Client, v1::ErrorCode};
use nestling_shell::{
    Engine,
    format::{Answer, Output},
    lang::MAX_SOURCE_BYTES,
};
use tokio::sync::Notify;

use super::prompt;
use crate::{
    failure::{Failure, Result, status},
    printer::{Printer, width},
    session::Session,
};

/// PowerShell syntax, interactively, with history and completion
#[derive(Debug, Args)]
#[command(after_help = "\
A line or a script runs with `nestling -c LINE` or `nestling -f SCRIPT`. Get-Help and Get-Command tell more.

EXIT STATUS:
  0  done
  1  something failed
  2  the command line makes no sense
  or the number that the script gave to `exit`")]
pub struct Shell {}

/// What is to be run.
pub enum Input {
    Line(String),
    Script(PathBuf),
    Interactive,
}

pub async fn run(session: &Session, input: Input) -> Result {
    if session.printer.is_json() {
        return Err(Failure::usage("--json is not for PowerShell syntax").hint("pipe into ConvertTo-Json"));
    }
    let (text, name) = match input {
        Input::Line(line) => (line, None),
        Input::Script(path) => {
            let name = path.display().to_string();
            (read_script(&path)?, Some(name))
        }
        Input::Interactive if io::stdin().is_terminal() => return interactive(session).await,
        Input::Interactive => (read_script(Path::new("-"))?, None),
    };
    let (mut engine, closed) = engine(session).await?;
    let outcome = tokio::select! {
        outcome = engine.run(&text, name.as_deref()) => outcome,
        () = closed.notified() => return Err(Failure::BrokenPipe),
    };
    ended(outcome.status())
}

fn ended(status: i32) -> Result {
    match status {
        0 => Ok(()),
        // Only the low byte fits; what does not fit must not look like success.
        other => {
            Err(Failure::Told(u8::try_from(other & 0xff).ok().filter(|s| *s != 0).unwrap_or(status::FAILED)))
        }
    }
}

/// The engine on the session's node, and what tells that nobody reads its output any more.
async fn engine(session: &Session) -> Result<(Engine<Client>, Arc<Notify>)> {
    let closed = Arc::new(Notify::new());
    let output = Screen { printer: session.printer, closed: closed.clone() };
    let registry = Arc::new(nestling_shell::cmdlets::registry());
    Ok((Engine::new(registry, session.client().await?, Box::new(output)), closed))
}

async fn interactive(session: &Session) -> Result {
    let (mut engine, closed) = engine(session).await?;
    let mut prompt =
        prompt::Prompt::new(&session.home, engine.registry().clone(), session.printer.is_coloured());
    loop {
        let Some(line) = prompt.read(engine.context()).await? else { return Ok(()) };
        let outcome = tokio::select! {
            outcome = engine.run(&line, None) => outcome,
            _ = tokio::signal::ctrl_c() => continue,
            () = closed.notified() => return Err(Failure::BrokenPipe),
        };
        if let Some(status) = outcome.exit
            && !engine.leave()
        {
            return ended(status);
        }
    }
}

/// A script's text; `-` is standard input.
fn read_script(path: &Path) -> Result<String> {
    let failed = |e: io::Error| Failure::file("read", path, &e);
    let mut bytes = Vec::new();
    let limit = MAX_SOURCE_BYTES as u64 + 1;
    if path == Path::new("-") {
        io::stdin().lock().take(limit).read_to_end(&mut bytes).map_err(failed)?;
    } else {
        std::fs::File::open(path).map_err(failed)?.take(limit).read_to_end(&mut bytes).map_err(failed)?;
    }
    if bytes.len() > MAX_SOURCE_BYTES {
        let why = format!("{} is larger than {} KB", path.display(), MAX_SOURCE_BYTES >> 10);
        return Err(Failure::new(ErrorCode::Invalid, why));
    }
    decode(&bytes).ok_or_else(|| {
        Failure::new(ErrorCode::Invalid, format!("{} is neither UTF-8 nor UTF-16 text", path.display()))
    })
}

/// Text as Windows' editors save it: UTF-8 with or without its mark, or UTF-16 with one.
fn decode(bytes: &[u8]) -> Option<String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let pairs = bytes.chunks_exact(2);
        let is_whole = pairs.remainder().is_empty();
        let units: Vec<u16> = pairs.map(|pair| unit([pair[0], pair[1]])).collect();
        is_whole.then(|| String::from_utf16(&units).ok()).flatten()
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8(rest.to_vec()).ok(),
        all => String::from_utf8(all.to_vec()).ok(),
    }
}

/// The engine's output through the printer.
struct Screen {
    printer: Printer,
    closed: Arc<Notify>,
}

impl Output for Screen {
    fn data(&mut self, text: &str) {
        if self.printer.data(text).is_err() {
            self.closed.notify_one();
        }
    }

    fn talk(&mut self, text: &str) {
        self.printer.error_bytes(text.as_bytes());
    }

    fn width(&self) -> usize {
        width()
    }

    fn confirm(&mut self, question: &str) -> Option<Answer> {
        if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
            return None;
        }
        let mut input = io::stdin().lock();
        loop {
            self.talk(&format!("{question}\n[Y] Yes  [A] Yes to All  [N] No (default is \"Y\"): "));
            let _ = io::stderr().flush();
            let mut line = String::new();
            if input.by_ref().take(1024).read_line(&mut line).ok()? == 0 {
                return None;
            }
            match line.trim().to_ascii_lowercase().as_str() {
                "" | "y" | "yes" => return Some(Answer::Yes),
                "a" => return Some(Answer::YesToAll),
                "n" | "no" => return Some(Answer::No),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_read_as_windows_saves_them() {
        let utf16 = |unit: fn(u16) -> [u8; 2], mark: [u8; 2]| {
            mark.into_iter().chain("Get-VM ü".encode_utf16().flat_map(unit)).collect::<Vec<u8>>()
        };
        for bytes in [
            "Get-VM ü".as_bytes().to_vec(),
            "\u{feff}Get-VM ü".as_bytes().to_vec(),
            utf16(u16::to_le_bytes, [0xff, 0xfe]),
            utf16(u16::to_be_bytes, [0xfe, 0xff]),
        ] {
            assert_eq!(decode(&bytes).as_deref(), Some("Get-VM ü"));
        }
        assert_eq!(decode(b"\xff\xfeabc"), None);
        assert_eq!(decode(b"\x80"), None);
    }

    #[test]
    fn a_status_that_does_not_fit_is_no_success() {
        assert!(ended(0).is_ok());
        assert!(matches!(ended(3), Err(Failure::Told(3))));
        assert!(matches!(ended(256), Err(Failure::Told(1))));
        assert!(matches!(ended(-1), Err(Failure::Told(255))));
    }
}
