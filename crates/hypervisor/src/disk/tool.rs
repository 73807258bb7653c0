//! One run of qemu-img: bounded in time and output, its complaints sorted.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::de::DeserializeOwned;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::Command,
    time::timeout,
};

use super::{DiskError, ImageFormat};
use crate::Qemu;

const OUTPUT_BYTES_MAX: u64 = 1 << 20;
const SHOWN_CHARS_MAX: usize = 400;

pub(super) struct Img {
    command: Command,
    /// What an error is about.
    path: PathBuf,
    format: ImageFormat,
}

struct Ran {
    success: bool,
    stdout: Vec<u8>,
    stderr: String,
}

impl Img {
    pub fn new(qemu: &Qemu, path: &Path, format: impl Into<ImageFormat>) -> Self {
        let mut command = Command::new(qemu.img());
        // English, whatever the caller speaks: its words are sorted below.
        command.env_clear().env("LC_ALL", "C").kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self { command, path: path.to_owned(), format: format.into() }
    }

    pub fn args<const N: usize>(&mut self, args: [&str; N]) -> &mut Self {
        self.command.args(args);
        self
    }

    /// Absolute, so that it is neither an option nor the name of a protocol.
    pub fn path(&mut self, path: &Path) -> Result<&mut Self, DiskError> {
        if !path.is_absolute() || path.to_str().is_none() {
            return Err(DiskError::Path(path.to_owned()));
        }
        self.command.arg(path);
        Ok(self)
    }

    pub async fn run(self, after: Duration) -> Result<(), DiskError> {
        let (path, format) = (self.path.clone(), self.format);
        let ran = self.ran(after).await?;
        if ran.success { Ok(()) } else { Err(sort(path, format, &ran.stderr)) }
    }

    pub async fn json<T: DeserializeOwned>(self, after: Duration) -> Result<T, DiskError> {
        let (path, format) = (self.path.clone(), self.format);
        let ran = self.ran(after).await?;
        if !ran.success {
            return Err(sort(path, format, &ran.stderr));
        }
        parse(path, &ran)
    }

    /// As [`Self::json`], for a command whose status tells what it found.
    pub async fn report<T: DeserializeOwned>(self, after: Duration) -> Result<T, DiskError> {
        let (path, format) = (self.path.clone(), self.format);
        let ran = self.ran(after).await?;
        match parse(path.clone(), &ran) {
            Err(_) if !ran.success => Err(sort(path, format, &ran.stderr)),
            parsed => parsed,
        }
    }

    async fn ran(mut self, after: Duration) -> Result<Ran, DiskError> {
        let path = self.path;
        let failed = |why: String| DiskError::Failed { path: path.clone(), why };
        let mut child = self.command.spawn().map_err(|e| failed(format!("it does not run: {e}")))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (stdout, stderr, status) = tokio::join!(all(stdout), all(stderr), child.wait());
            Ok::<_, std::io::Error>((stdout?, stderr?, status?))
        };
        let (stdout, stderr, status) = timeout(after, work)
            .await
            .map_err(|_| failed(format!("it did not end within {} seconds", after.as_secs())))?
            .map_err(|e| failed(e.to_string()))?;
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        Ok(Ran { success: status.success(), stdout, stderr })
    }
}

/// What comes beyond the bound is read and dropped, so that the program can end.
async fn all(pipe: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(mut pipe) = pipe {
        (&mut pipe).take(OUTPUT_BYTES_MAX).read_to_end(&mut kept).await?;
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(kept)
}

fn parse<T: DeserializeOwned>(path: PathBuf, ran: &Ran) -> Result<T, DiskError> {
    serde_json::from_slice(&ran.stdout)
        .map_err(|e| DiskError::Failed { path, why: format!("its answer makes no sense: {e}") })
}

pub(super) fn sort(path: PathBuf, format: ImageFormat, stderr: &str) -> DiskError {
    let line = stderr.lines().next().unwrap_or_default();
    let line = ["qemu-img: ", "qemu-nbd: "].iter().find_map(|tool| line.strip_prefix(tool)).unwrap_or(line);
    let why: String = line.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect();
    let has = |text: &str| stderr.contains(text);
    if has("No space left on device") {
        DiskError::NoSpace(path)
    } else if has("Failed to get") && has("lock") {
        DiskError::InUse(path)
    } else if has("No such file or directory") {
        DiskError::Missing(path)
    } else if has("Permission denied") {
        DiskError::Forbidden(path)
    } else if has("Image is not in") || has("corrupt") || has("Invalid") {
        DiskError::Corrupt { path, format: format.as_str(), why }
    } else {
        DiskError::Failed { path, why }
    }
}
