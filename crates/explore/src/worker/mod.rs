//! The process that reads a disk of others: it has a socket to the disk and one to its client, and nothing else.
//!
//! The program that holds this crate runs [`serve`] as a command of its own, started by [`client`](crate::client)
//! with those sockets as standard input and output. One process reads one disk, and in it one
//! place, however deep: partition tables and disk images are looked at here and nowhere else. It ends when the client goes.

mod confine;
#[cfg(any(test, feature = "fuzzing"))]
mod fuzzing;
pub(crate) mod protocol;
pub(crate) mod session;

use std::{
    io,
    os::{fd::AsFd, unix::net::UnixStream},
};

pub use confine::{Limits, confine};

use crate::{ExploreError, Result};

use session::Session;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use fuzzing::{answer_seeds, fuzz_requests, request_seeds};

/// Gives up what is not needed, then answers until the client closes. Returns why it cannot go on.
pub fn serve(limits: &Limits) -> Result<()> {
    let (disk, control) = standard_streams()?;
    confine(limits)?;
    answer(disk, &control)
}

/// What [`serve`] begins with: the disk's socket and the client's.
pub fn standard_streams() -> Result<(UnixStream, UnixStream)> {
    let failed = |e: io::Error| ExploreError::WorkerStart {
        volume: "a disk".to_owned(),
        what: format!("standard input and output are not the sockets that its client gives: {e}"),
    };
    let disk = UnixStream::from(io::stdin().as_fd().try_clone_to_owned().map_err(failed)?);
    let control = UnixStream::from(io::stdout().as_fd().try_clone_to_owned().map_err(failed)?);
    for socket in [&disk, &control] {
        socket.peer_addr().map_err(failed)?;
    }
    Ok((disk, control))
}

/// Answers until the client closes.
pub fn answer(disk: UnixStream, control: &UnixStream) -> Result<()> {
    Session::new(disk).run(control)
}
