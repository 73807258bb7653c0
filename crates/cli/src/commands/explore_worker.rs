//! `nestling explore-worker`: the process that reads a disk of others, started by whoever wants to look into one.
//!
//! Its standard input and output are sockets, and nobody but that program reads what it says, so it talks past the printer.

use std::io::{Write, stderr};

use nestling_explore::worker::{Limits, serve};

use crate::failure::status;

pub fn run() -> u8 {
    match serve(&Limits::default()) {
        Ok(()) => status::DONE,
        Err(error) => {
            // Nobody may be left to hear it.
            let _ = writeln!(stderr(), "{error}");
            status::FAILED
        }
    }
}
