//! The programs of Linux that put volumes together.
//!
//! What they say is made from names and texts on the disks: bounded, and shown to people only.

use std::{
    io::{Read, Write},
    process::{Command, Stdio},
};

use crate::{ExploreError, Result};

const SAID_BYTES_MAX: u64 = 4096;

/// Runs a program with `input`, and gives what it complained about if it failed. It has no deadline of its own: whoever
/// asked the machine has one, and ends the machine.
pub(super) fn run(
    program: &str,
    arguments: &[&str],
    input: &[u8],
) -> Result<std::result::Result<(), String>> {
    let failed = |e: std::io::Error| ExploreError::WorkerStart {
        volume: "the disks".to_owned(),
        what: format!("{program}: {e}"),
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not want it closes it.
        let _ = stdin.write_all(input);
    }
    let mut said = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.by_ref().take(SAID_BYTES_MAX).read_to_end(&mut said).map_err(failed)?;
        std::io::copy(&mut stderr, &mut std::io::sink()).map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    if status.success() {
        return Ok(Ok(()));
    }
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Ok(Err(if said.is_empty() { format!("{program}: {status}") } else { said }))
}

/// Loads modules of the kernel. Those that are built in, or that this kernel lacks, are no failure here: what needs them
/// fails, and says why.
pub(super) fn load(modules: &[&str]) -> Result<()> {
    let mut arguments = vec!["-a"];
    arguments.extend(modules);
    run("modprobe", &arguments, b"").map(drop)
}
