//! What a run did, line by line, for administrators to read afterwards: a file of the home for each run.
//!
//! It is for people alone: nothing is ever decided by it, and a line that cannot be written costs no backup. What guests and
//! programs say in it is made harmless, and a log is never longer than [`LOG_BYTES_MAX`].

use std::{
    fs::File,
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Mutex,
};

use nestling_model::protection::{DiskRun, MachineRun, Message, Reading};

use super::saving::timestamp;
use crate::{
    NodeError,
    clock::now_ms,
    error::Result,
    home::{self, remove_file},
    locked::lock,
};

pub const LOG_BYTES_MAX: u64 = 1 << 20;

/// The log of one run.
pub struct RunLog {
    path: PathBuf,
    /// Whether it has come to its end.
    is_full: Mutex<bool>,
}

impl RunLog {
    pub fn new(dir: &Path, run: u64) -> Self {
        Self { path: dir.join(format!("{run}.log")), is_full: Mutex::new(false) }
    }

    /// Writes lines, each with the time.
    pub fn say(&self, text: &str) {
        let mut is_full = lock(&self.is_full);
        if *is_full {
            return;
        }
        match self.write(text) {
            Ok(full) => *is_full = full,
            Err(error) => tracing::warn!(%error, path = %self.path.display(), "a run's log is not written"),
        }
    }

    fn write(&self, text: &str) -> io::Result<bool> {
        let mut file = File::options().create(true).append(true).mode(0o600).open(&self.path)?;
        let time = timestamp(now_ms());
        let lines: String =
            text.lines().map(|line| format!("{time}  {}\n", Message::from(line).as_str())).collect();
        let is_full = file.metadata()?.len() + lines.len() as u64 > LOG_BYTES_MAX;
        let end = format!("{time}  the log ends here: it is as long as it may be\n");
        file.write_all(if is_full { end.as_bytes() } else { lines.as_bytes() })?;
        Ok(is_full)
    }

    /// Empty for a run that wrote none.
    pub fn read(&self) -> Result<String> {
        let mut text = Vec::new();
        match File::open(&self.path) {
            Ok(file) => {
                let read = file.take(2 * LOG_BYTES_MAX).read_to_end(&mut text);
                read.map_err(NodeError::io("read", &self.path))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(NodeError::io("read", &self.path)(error)),
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    pub fn remove(&self) {
        if let Err(error) = remove_file(&self.path) {
            tracing::warn!(error = error.message(), "the log of a run that was forgotten is left");
        }
    }

    /// What became of a machine.
    pub fn machine(&self, machine: &MachineRun) {
        let mut lines = vec![format!("{}: {}", machine.path, machine.state)];
        if let Some(point) = machine.point {
            lines.push(format!(
                "{}: recovery point {point}, {} bytes new, {} bytes stored, saved in {}.{:03} s",
                machine.path,
                machine.new_bytes,
                machine.stored_bytes,
                machine.durations.save_ms / 1000,
                machine.durations.save_ms % 1000,
            ));
        }
        lines.extend(
            machine.disks.iter().map(|disk| format!("{}: {}", machine.path, disk_line(machine, disk))),
        );
        let told = machine.warnings.messages().iter().map(|w| format!("{}: warning: {w}", machine.path));
        lines.extend(told);
        lines.extend(machine.reason.as_ref().map(|reason| format!("{}: {reason}", machine.path)));
        self.say(&lines.join("\n"));
    }
}

fn disk_line(machine: &MachineRun, disk: &DiskRun) -> String {
    let how = match disk.reading {
        Some(Reading::Changes { since }) => format!("what changed since {since}"),
        Some(Reading::Compared { with, why }) => format!("all, compared with {with}: {}", why.as_str()),
        Some(Reading::Whole { why }) => format!("all: {}", why.as_str()),
        None => "nothing".to_owned(),
    };
    let rate = rate(disk.read_bytes, machine.durations.save_ms);
    let rate = rate.map(|rate| format!(" ({rate} bytes a second)")).unwrap_or_default();
    format!("{}: {} of {} bytes read{rate}, {how}", disk.name, disk.read_bytes, disk.total_bytes)
}

fn rate(bytes: u64, ms: u64) -> Option<u64> {
    bytes.saturating_mul(1000).checked_div(ms)
}

/// Removes the logs of runs that are not known any more. What else lies there is somebody's, and stays.
pub fn sweep(dir: &Path, exists: impl Fn(u64) -> bool) {
    home::sweep(dir, |name| run_of(name).is_some_and(|run| !exists(run)));
}

/// The run that a log is of, by the log's name.
fn run_of(name: &str) -> Option<u64> {
    let run: u64 = name.strip_suffix(".log")?.parse().ok()?;
    (name == format!("{run}.log")).then_some(run)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_are_harmless_and_a_log_comes_to_an_end() {
        let dir = tempfile::tempdir().unwrap();
        let log = RunLog::new(dir.path(), 7);
        assert_eq!(log.read().unwrap(), "");
        log.say("one\n\u{1b}[31mred");
        let text = log.read().unwrap();
        assert_eq!(text.lines().count(), 2);
        assert!(text.lines().all(|line| line.starts_with("20")) && !text.contains('\u{1b}'), "{text}");
        let line = "x".repeat(400);
        for _ in 0..2 * LOG_BYTES_MAX / 400 {
            log.say(&line);
        }
        let text = log.read().unwrap();
        assert!(text.len() as u64 <= LOG_BYTES_MAX + 200);
        assert!(text.ends_with("as long as it may be\n"), "{}", &text[text.len() - 100..]);
        sweep(dir.path(), |run| run == 7);
        assert_ne!(log.read().unwrap(), "");
        sweep(dir.path(), |_| false);
        assert_eq!(log.read().unwrap(), "");
    }

    #[test]
    fn what_is_no_log_of_a_run_stays_and_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        let foreign = ["7", "7.txt", "07.log", "+7.log", "notes.log", ".log"];
        foreign.iter().for_each(|name| fs::write(dir.path().join(name), "mine").unwrap());
        fs::create_dir(dir.path().join("8.log")).unwrap();
        std::os::unix::fs::symlink("notes.log", dir.path().join("9.log")).unwrap();
        fs::write(dir.path().join("10.log"), "old").unwrap();
        sweep(dir.path(), |_| false);
        assert!(foreign.iter().all(|name| dir.path().join(name).exists()));
        assert!(dir.path().join("8.log").is_dir() && dir.path().join("9.log").is_symlink());
        assert!(!dir.path().join("10.log").exists());
        sweep(&dir.path().join("gone"), |_| false);
    }
}
