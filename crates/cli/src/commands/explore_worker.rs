//! `nestling explore-worker`: the process that reads a disk of others, started by whoever wants to look into one; and
//! `nestling explore-machine`, the same inside a machine that mounts what no reader here reads.
//!
//! The worker's standard input and output are sockets, and nobody but that program reads what it says, so it talks past the
//! printer.

use std::io::{Write, stderr};

use nestling_explore::{
    Result, machine,
    worker::{Limits, serve},
};

use crate::failure::status;

pub fn run() -> u8 {
    ended(serve(&Limits::default()))
}

pub fn run_in_machine() -> u8 {
    ended(machine::serve())
}

fn ended(end: Result<()>) -> u8 {
    match end {
        Ok(()) => status::DONE,
        Err(error) => {
            // Nobody may be left to hear it.
            let _ = writeln!(stderr(), "{error}");
            status::FAILED
        }
    }
}
