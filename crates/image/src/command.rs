//! Runs the distribution's tools (apt, mkfs, qemu-img ...) for a build.
//!
//! A program that fails must never go unnoticed, its output must never fill our memory, and a cancelled build
//! must never leave it running.

use crate::{ImageError, Progress};
use std::ffi::OsStr;
use std::io::Read;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Standard output beyond this is an error; of standard error the end is kept, where the reason stands.
const STDOUT_LIMIT_BYTES: usize = 16 << 20;
const STDERR_KEPT_BYTES: usize = 4096;
const CANCEL_CHECK_INTERVAL: Duration = Duration::from_millis(100);
const TIMEOUT: Duration = Duration::from_secs(1800);

/// Builds are reproducible only if every tool takes its time from here. The day has no meaning.
pub const EPOCH_SECS: u64 = 1_704_067_200;

/// The package that has a tool, for the error that says what to install.
const PACKAGES: &[(&str, &str)] = &[
    ("apt-get", "apt"),
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
    ("tar", "tar"),
    ("mkfs.ext4", "e2fsprogs"),
    ("mkfs.vfat", "dosfstools"),
    ("mcopy", "mtools"),
    ("mmd", "mtools"),
    ("sfdisk", "fdisk"),
    ("lz4", "lz4"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
    ("gzip", "gzip"),
    ("qemu-img", "qemu-utils"),
    ("mmdebstrap", "mmdebstrap"),
    ("unshare", "util-linux"),
    ("sh", "dash"),
];

pub struct Tool<'a> {
    doing: String,
    program: String,
    command: Command,
    progress: &'a dyn Progress,
}

impl<'a> Tool<'a> {
    /// `doing` is what the user reads when it fails: "building the file system of 'host'".
    pub fn new(program: &str, doing: impl Into<String>, progress: &'a dyn Progress) -> Self {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .env("HOME", "/nonexistent")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("SOURCE_DATE_EPOCH", EPOCH_SECS.to_string())
            .env("E2FSPROGS_FAKE_TIME", EPOCH_SECS.to_string())
            .stdin(Stdio::null());
        for name in ["http_proxy", "https_proxy", "no_proxy", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        Self { doing: doing.into(), program: program.to_owned(), command, progress }
    }

    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Runs it to its end and returns standard output; an exit status other than 0 is an error.
    pub fn run(mut self) -> Result<Vec<u8>, ImageError> {
        self.command.stdout(Stdio::piped());
        self.command.stderr(Stdio::piped());
        let mut child = self.command.spawn().map_err(|source| self.not_started(source))?;
        let (sender, receiver) = channel::<(bool, Vec<u8>)>();
        // A reader blocks in `read` and ends when the program closes its end, which `stop` makes sure of.
        let readers = [
            child.stdout.take().map(|pipe| spawn_reader(pipe, true, sender.clone())),
            child.stderr.take().map(|pipe| spawn_reader(pipe, false, sender.clone())),
        ];
        drop(sender);
        let collected = self.collect(&mut child, &receiver);
        for reader in readers.into_iter().flatten() {
            // The reader only copies bytes; if it panicked, its output is missing and the status still counts.
            reader.join().ok();
        }
        let (stdout, stderr) = collected?;
        let status = child.wait().map_err(|source| self.not_started(source))?;
        if status.success() { Ok(stdout) } else { Err(self.failed(status.to_string(), &stderr)) }
    }

    fn collect(
        &self,
        child: &mut Child,
        receiver: &Receiver<(bool, Vec<u8>)>,
    ) -> Result<(Vec<u8>, Vec<u8>), ImageError> {
        let deadline = Instant::now() + TIMEOUT;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        loop {
            match receiver.recv_timeout(CANCEL_CHECK_INTERVAL) {
                Ok((true, chunk)) => stdout.extend(chunk),
                Ok((false, chunk)) => {
                    stderr.extend(chunk);
                    let excess = stderr.len().saturating_sub(STDERR_KEPT_BYTES);
                    stderr.drain(..excess);
                }
                Err(RecvTimeoutError::Disconnected) => return Ok((stdout, stderr)),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if self.progress.is_cancelled() {
                stop(child);
                return Err(ImageError::Cancelled);
            }
            if Instant::now() > deadline {
                stop(child);
                return Err(self.failed(format!("took longer than {} s", TIMEOUT.as_secs()), &stderr));
            }
            if stdout.len() > STDOUT_LIMIT_BYTES {
                stop(child);
                return Err(self.failed(format!("printed more than {STDOUT_LIMIT_BYTES} bytes"), &stderr));
            }
        }
    }

    fn not_started(&self, source: std::io::Error) -> ImageError {
        if source.kind() == std::io::ErrorKind::NotFound
            && let Some((_, package)) = PACKAGES.iter().find(|(tool, _)| *tool == self.program)
        {
            return ImageError::MissingTool { program: self.program.clone(), package };
        }
        ImageError::Io { action: "run", path: PathBuf::from(&self.program), source }
    }

    fn failed(&self, status: String, stderr: &[u8]) -> ImageError {
        let output = String::from_utf8_lossy(stderr).trim().to_owned();
        ImageError::Command { doing: self.doing.clone(), program: self.program.clone(), status, output }
    }
}

fn spawn_reader(
    mut pipe: impl Read + Send + 'static,
    is_stdout: bool,
    sender: std::sync::mpsc::Sender<(bool, Vec<u8>)>,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 16 << 10];
        while let Ok(count) = pipe.read(&mut buffer) {
            if count == 0 || sender.send((is_stdout, buffer[..count].to_vec())).is_err() {
                break;
            }
        }
    })
}

/// Ends the program. Both errors mean that it has ended already.
fn stop(child: &mut Child) {
    child.kill().ok();
    child.wait().ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Silent;

    struct Cancelled;
    impl Progress for Cancelled {
        fn step(&self, _: u32, _: u32, _: &str) {}
        fn is_cancelled(&self) -> bool {
            true
        }
    }

    #[test]
    fn failure_carries_the_end_of_stderr() {
        let script = "head -c 100000 /dev/zero | tr '\\0' x >&2; echo the reason >&2; exit 3";
        let error = Tool::new("sh", "testing", &Silent).args(["-c", script]).run().unwrap_err();
        let text = error.to_string();
        assert!(
            text.starts_with("testing failed: 'sh' exit status: 3: ") && text.ends_with("the reason"),
            "{text}"
        );
        assert!(text.len() < STDERR_KEPT_BYTES + 100);
    }

    #[test]
    fn cancellation_ends_the_program_at_once() {
        let begun = Instant::now();
        let result = Tool::new("sleep", "testing", &Cancelled).arg("60").run();
        assert!(matches!(result, Err(ImageError::Cancelled)));
        assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn a_missing_tool_names_its_package() {
        let error =
            Tool::new("mkfs.ext4", "testing", &Silent).not_started(std::io::ErrorKind::NotFound.into());
        assert!(error.to_string().contains("apt-get install e2fsprogs"));
    }
}
