//! `nestling console`: a machine's serial console in this terminal.

use std::{io, time::Duration};

use clap::Args;
use nestling_api::{
    client::{Console as Wires, ConsoleReader},
    v1::ErrorCode,
};
use nestling_model::VmPath;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    signal::unix::{SignalKind, signal},
    time::{Instant, timeout_at},
};

use crate::{
    args::{VM, vm_path},
    failure::{Failure, Result},
    printer::Printer,
    session::Session,
    terminal::RawTerminal,
};

/// Ctrl-]
const DETACH: u8 = 0x1d;

/// With `--log`, and after the end of what is typed: how long output may take to begin, to go on, and in all. A node
/// inside an emulated machine needs more than a moment for either.
const LOG_FIRST: Duration = Duration::from_secs(2);
const LOG_NEXT: Duration = Duration::from_millis(300);
const LOG_ALL: Duration = Duration::from_secs(10);

/// The most that a node keeps of a console's output.
const LOG_BYTES_MAX: usize = 64 << 10;

/// Attach to a machine's serial console; detach with Ctrl-]
///
/// When the input is a file or a pipe, its end ends the command, once the machine has answered.
#[derive(Debug, Args)]
pub struct Console {
    #[arg(value_name = "VM", value_parser = vm_path, help = VM)]
    vm: VmPath,
    /// Print the recent output and end
    #[arg(long)]
    log: bool,
}

impl Console {
    pub async fn run(self, session: &Session) -> Result {
        let (client, vm) = session.at(&self.vm).await?;
        let wires = client.console(vm).await?;
        if self.log {
            return log(wires, session.printer).await;
        }
        session.printer.talk(&format!("Connected to {}. Detach with Ctrl-].", self.vm));
        let raw = RawTerminal::enter().map_err(|e| lost(&e))?;
        let ended = attach(wires, session.printer).await;
        drop(raw);
        if matches!(ended, Ok(End::Detached)) {
            session.printer.talk(&format!("\nDetached from {}.", self.vm));
        }
        match ended? {
            End::Detached | End::Input => Ok(()),
            End::Closed => {
                session.printer.talk("The console has closed.");
                Ok(())
            }
            End::Signal(status) => Err(Failure::Told(status)),
        }
    }
}

enum End {
    Detached,
    /// Nothing more is typed.
    Input,
    Closed,
    /// With the status that says so.
    Signal(u8),
}

async fn log(wires: Wires, printer: Printer) -> Result {
    let Wires { mut reader, writer } = wires;
    show_recent(&mut reader, printer).await?;
    drop(writer);
    Ok(())
}

/// Shows what is there or comes soon.
async fn show_recent(reader: &mut ConsoleReader, printer: Printer) -> Result {
    let end = Instant::now() + LOG_ALL;
    let mut next = LOG_FIRST;
    let mut buffer = vec![0; 16 << 10];
    let mut seen = 0;
    while seen < LOG_BYTES_MAX {
        let until = end.min(Instant::now() + next);
        match timeout_at(until, reader.read(&mut buffer)).await {
            Err(_) | Ok(Ok(0)) => break,
            Ok(Ok(length)) => {
                printer.bytes(&buffer[..length])?;
                seen += length;
            }
            Ok(Err(error)) => return Err(lost(&error)),
        }
        next = LOG_NEXT;
    }
    Ok(())
}

async fn attach(wires: Wires, printer: Printer) -> Result<End> {
    let Wires { mut reader, mut writer } = wires;
    let of = |kind| signal(kind).map_err(|e| lost(&e));
    let (mut terminate, mut hangup, mut interrupt) =
        (of(SignalKind::terminate())?, of(SignalKind::hangup())?, of(SignalKind::interrupt())?);
    let status = |kind: SignalKind| Ok(End::Signal(128 + u8::try_from(kind.as_raw_value()).unwrap_or(0)));
    let typed = async {
        let ended = tokio::select! {
            ended = show(&mut reader, printer) => ended?,
            ended = type_in(tokio::io::stdin(), &mut writer) => ended?,
        };
        if matches!(ended, End::Input) {
            show_recent(&mut reader, printer).await?;
        }
        Ok(ended)
    };
    tokio::select! {
        ended = typed => ended,
        _ = terminate.recv() => status(SignalKind::terminate()),
        _ = hangup.recv() => status(SignalKind::hangup()),
        _ = interrupt.recv() => status(SignalKind::interrupt()),
    }
}

/// Shows what the machine writes, until it ends.
async fn show(reader: &mut ConsoleReader, printer: Printer) -> Result<End> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match reader.read(&mut buffer).await.map_err(|e| lost(&e))? {
            0 => return Ok(End::Closed),
            length => printer.bytes(&buffer[..length])?,
        }
    }
}

/// Passes on what is typed, until Ctrl-] or its end.
async fn type_in(mut input: impl AsyncRead + Unpin, writer: &mut (impl AsyncWrite + Unpin)) -> Result<End> {
    let mut buffer = [0; 1024];
    loop {
        let length = input.read(&mut buffer).await.map_err(|e| lost(&e))?;
        if length == 0 {
            return Ok(End::Input);
        }
        let (typed, detach) = until_detach(&buffer[..length]);
        writer.write_all(typed).await.map_err(|e| lost(&e))?;
        writer.flush().await.map_err(|e| lost(&e))?;
        if detach {
            return Ok(End::Detached);
        }
    }
}

fn until_detach(typed: &[u8]) -> (&[u8], bool) {
    match typed.iter().position(|byte| *byte == DETACH) {
        Some(at) => (&typed[..at], true),
        None => (typed, false),
    }
}

fn lost(error: &io::Error) -> Failure {
    Failure::new(ErrorCode::Failed, format!("the console was lost: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_the_detach_key_is_still_typed() {
        assert_eq!(until_detach(b"ls\n"), (&b"ls\n"[..], false));
        assert_eq!(until_detach(b"ls\n\x1drest"), (&b"ls\n"[..], true));
    }

    #[tokio::test]
    async fn typing_ends_with_the_input() {
        let typed = async |input: &[u8]| {
            let mut written = Vec::new();
            let ended = timeout_at(Instant::now() + LOG_ALL, type_in(input, &mut written)).await;
            (written, ended.expect("it ends").expect("it is no failure"))
        };
        assert!(matches!(typed(b"ls\n").await, (written, End::Input) if written == b"ls\n"));
        assert!(matches!(typed(b"").await, (written, End::Input) if written.is_empty()));
        assert!(matches!(typed(b"ls\n\x1dps\n").await, (written, End::Detached) if written == b"ls\n"));
    }
}
