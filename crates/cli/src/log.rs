//! The node's own log: structured, to standard error, which is the home's `node.log` when a command started
//! the node.

use std::{
    env, fs,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
};

use tracing_subscriber::{EnvFilter, fmt};

use crate::{
    failure::{Failure, Result},
    start::log_path,
};

/// How large a log may be when a node starts before it is put aside.
const LOG_BYTES_MAX: u64 = 10 << 20;

/// `NESTLING_LOG` says what is logged (`info` when unset), `NESTLING_LOG_FORMAT=json` makes each line an object.
pub fn init() -> Result {
    let wanted = env::var("NESTLING_LOG").ok().filter(|level| !level.is_empty());
    let filter = EnvFilter::try_new(wanted.as_deref().unwrap_or("info"))
        .map_err(|e| Failure::usage(format!("NESTLING_LOG can't be used: {e}")).hint("try info or debug"))?;
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    match env::var("NESTLING_LOG_FORMAT").as_deref() {
        Ok("json") => log.json().init(),
        Ok("" | "text") | Err(_) => log.init(),
        Ok(other) => {
            return Err(
                Failure::usage(format!("NESTLING_LOG_FORMAT can't be \"{other}\"")).hint("use json or text")
            );
        }
    }
    Ok(())
}

/// Puts a large log aside and goes on in a fresh one. Only for the holder of the home's lock: two that do
/// this at once would lose the old log.
pub fn rotate(home: &Path) -> std::io::Result<()> {
    let path = log_path(home);
    let Ok(file) = fs::metadata(&path) else { return Ok(()) };
    // Standard error may be something else: a terminal, a service manager's log.
    let stderr = rustix::fs::fstat(std::io::stderr().as_fd())?;
    let is_ours = (stderr.st_dev, stderr.st_ino) == (file.dev(), file.ino());
    if file.len() <= LOG_BYTES_MAX || !is_ours {
        return Ok(());
    }
    fs::rename(&path, path.with_extension("log.1"))?;
    let fresh = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&path)?;
    rustix::stdio::dup2_stderr(&fresh)?;
    Ok(())
}
