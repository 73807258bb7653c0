//! Runs the test guest in a QEMU of its own, under a deadline, and leaves no process behind.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout, timeout_at};

use super::facts::KvmDevice;
use super::guest::{End, Exercise, judge, last_stage, rom};
use super::{Accel, ProbeOutcome, ProbeRequest};

/// What is kept of each of QEMU's outputs; the rest is read and dropped, so that QEMU never waits for us.
const MOST_OUTPUT_BYTES: usize = 32 * 1024;
/// How long a killed QEMU may take to be gone before it is left to the runtime's reaper.
const BURIAL: Duration = Duration::from_secs(2);

/// Runs one guest and says what it proved.
pub async fn probe(request: &ProbeRequest) -> ProbeOutcome {
    if request.accel == Accel::Kvm {
        match KvmDevice::look() {
            KvmDevice::Usable => {}
            KvmDevice::Missing => return ProbeOutcome::NoDevice,
            KvmDevice::Forbidden => return ProbeOutcome::NoPermission,
        }
    }
    run(request, request.nesting.into()).await
}

/// The first line of `qemu --version`: names the version and the build.
pub async fn qemu_version(qemu: &Path) -> io::Result<String> {
    let mut command = command(qemu);
    command.arg("--version").stdin(Stdio::null());
    let output = timeout(ProbeRequest::DEADLINE_NESTED, command.output())
        .await
        .map_err(|_elapsed| io::Error::new(io::ErrorKind::TimedOut, "qemu --version did not end"))??;
    let text = String::from_utf8_lossy(&output.stdout);
    match text.lines().next() {
        Some(line) if output.status.success() && !line.is_empty() => Ok(line.chars().take(200).collect()),
        _ => Err(io::Error::other(format!("{} --version said nothing ({})", qemu.display(), output.status))),
    }
}

async fn run(request: &ProbeRequest, exercise: Exercise) -> ProbeOutcome {
    let deadline = Instant::now() + request.deadline;
    let mut child = match start(request, exercise) {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return ProbeOutcome::QemuMissing { path: request.qemu.clone() };
        }
        Err(error) => {
            return ProbeOutcome::Refused { reason: format!("{}: {error}", request.qemu.display()) };
        }
    };
    let (mut report, mut complaints) = (Output::default(), Output::default());
    let end = timeout_at(deadline, follow(&mut child, &mut report, &mut complaints)).await;
    // Gone on every path; after a normal end this only collects what has already ended.
    if timeout(BURIAL, child.kill()).await.is_err() {
        tracing::warn!(pid = child.id(), "a test guest's QEMU does not die");
    }
    match end {
        Ok(Ok(end)) => judge(end, &report.text(), &complaints.text()),
        Ok(Err(error)) => ProbeOutcome::Refused { reason: format!("could not follow QEMU: {error}") },
        Err(_elapsed) => ProbeOutcome::Hung {
            after: request.deadline,
            stage: last_stage(&report.text()).unwrap_or("nothing").to_owned(),
        },
    }
}

fn command(qemu: &Path) -> Command {
    let mut command = Command::new(qemu);
    command.env_clear().kill_on_drop(true);
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

fn start(request: &ProbeRequest, exercise: Exercise) -> io::Result<Child> {
    // The image goes in as standard input and the report comes out as standard output: no file is left anywhere.
    let mut image = File::from(memfd_create("nestling-probe", MemfdFlags::CLOEXEC)?);
    image.write_all(&rom(exercise))?;
    image.seek(SeekFrom::Start(0))?;
    command(&request.qemu)
        .args(["-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-machine", "q35", "-m", "32", "-accel", request.accel.as_str(), "-cpu"])
        .arg(OsStr::new(&request.cpu))
        .args(["-bios", "/proc/self/fd/0", "-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
        .args(["-chardev", "file,id=report,path=/proc/self/fd/1"])
        .args(["-device", "isa-debugcon,iobase=0xe9,chardev=report"])
        .stdin(Stdio::from(image))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
}

/// Reads both outputs until QEMU ends, or until KVM gives the guest up: QEMU would then keep it, stopped, for ever.
async fn follow(child: &mut Child, report: &mut Output, complaints: &mut Output) -> io::Result<End> {
    let (Some(mut stdout), Some(mut stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("its outputs are not pipes"));
    };
    let (mut reporting, mut complaining, mut given_up) = (true, true, false);
    while reporting || complaining {
        tokio::select! {
            open = report.take_from(&mut stdout), if reporting => reporting = open?,
            open = complaints.take_from(&mut stderr), if complaining => {
                complaining = open?;
                if !given_up && complaints.text().contains("KVM internal error") {
                    given_up = true;
                    child.start_kill()?;
                }
            }
        }
    }
    let status = child.wait().await?;
    if given_up {
        return Ok(End::InternalError);
    }
    Ok(match (status.code(), status.signal()) {
        (Some(code), _) => End::Exit(code),
        (None, signal) => End::Signal(signal.unwrap_or(0)),
    })
}

/// One of QEMU's outputs, bounded.
#[derive(Default)]
struct Output(Vec<u8>);

impl Output {
    /// Takes what has come; false once the other side is closed.
    async fn take_from(&mut self, pipe: &mut (impl AsyncRead + Unpin)) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let n = pipe.read(&mut buffer).await?;
        let room = MOST_OUTPUT_BYTES.saturating_sub(self.0.len());
        self.0.extend_from_slice(&buffer[..n.min(room)]);
        Ok(n > 0)
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::{Engine, Nesting};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    fn request(qemu: &str, cpu: &str, nesting: Option<Nesting>) -> ProbeRequest {
        ProbeRequest {
            qemu: PathBuf::from(qemu),
            accel: Accel::Tcg,
            cpu: cpu.to_owned(),
            nesting,
            deadline: ProbeRequest::DEADLINE_NESTED,
        }
    }

    /// A real QEMU, when this machine has one.
    fn tcg(cpu: &str, nesting: Option<Nesting>) -> Option<ProbeRequest> {
        let qemu = "/usr/bin/qemu-system-x86_64";
        if !Path::new(qemu).exists() {
            eprintln!("skipped: no QEMU");
            return None;
        }
        Some(request(qemu, cpu, nesting))
    }

    /// A program that stands in for QEMU.
    fn script(dir: &Path, text: &str) -> String {
        let path = dir.join("qemu");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path.to_string_lossy().into_owned()
    }

    #[tokio::test]
    async fn the_guest_passes_under_tcg() {
        let Some(request) = tcg(&Engine::tcg_cpu(false), None) else { return };
        assert_eq!(probe(&request).await, ProbeOutcome::Proven);
    }

    #[tokio::test]
    async fn the_guest_runs_a_guest_of_its_own_under_tcg() {
        let Some(request) = tcg(&Engine::tcg_cpu(true), Some(Nesting::Svm)) else { return };
        assert_eq!(probe(&request).await, ProbeOutcome::Proven);
    }

    #[tokio::test]
    async fn the_guest_runs_a_guest_without_nested_paging() {
        let Some(request) = tcg("EPYC-v1,+svm,-npt", Some(Nesting::Svm)) else { return };
        assert_eq!(probe(&request).await, ProbeOutcome::Proven);
    }

    #[tokio::test]
    async fn extensions_switched_off_are_noticed() {
        let Some(request) = tcg(&Engine::tcg_cpu(false), Some(Nesting::Svm)) else { return };
        assert_eq!(probe(&request).await, ProbeOutcome::NoNesting);
        let Some(request) = tcg(&Engine::tcg_cpu(true), Some(Nesting::Vmx)) else { return };
        assert_eq!(probe(&request).await, ProbeOutcome::NoNesting);
    }

    #[tokio::test]
    async fn a_processor_without_long_mode_is_wrong() {
        let Some(request) = tcg("qemu32", None) else { return };
        let detail = "a wrong result in stage \"protected mode\"".to_owned();
        assert_eq!(probe(&request).await, ProbeOutcome::Wrong { detail });
    }

    #[tokio::test]
    async fn an_unknown_model_is_refused_with_qemus_words() {
        let Some(request) = tcg("NoSuchProcessor", None) else { return };
        let outcome = probe(&request).await;
        assert!(
            matches!(&outcome, ProbeOutcome::Refused { reason } if reason.contains("NoSuchProcessor")),
            "{outcome:?}"
        );
    }

    #[tokio::test]
    async fn a_guest_that_never_ends_is_ended() {
        let Some(mut request) = tcg("qemu64", None) else { return };
        request.deadline = Duration::from_secs(2);
        let started = Instant::now();
        let outcome = run(&request, Exercise::Spin).await;
        assert_eq!(outcome, ProbeOutcome::Hung { after: request.deadline, stage: "real mode".to_owned() });
        assert!(started.elapsed() < Duration::from_secs(4));
    }

    #[tokio::test]
    async fn a_missing_qemu_is_named() {
        let request = request("/nonexistent/qemu", "host", None);
        let path = PathBuf::from("/nonexistent/qemu");
        assert_eq!(probe(&request).await, ProbeOutcome::QemuMissing { path });
        assert_eq!(qemu_version(&request.qemu).await.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn an_internal_error_of_kvm_is_not_waited_out() {
        let dir = tempfile::tempdir().unwrap();
        let text = "echo 'long mode'; echo 'KVM internal error. Suberror: 1' >&2; exec sleep 30";
        let request = request(&script(dir.path(), text), "host", None);
        let started = Instant::now();
        let outcome = probe(&request).await;
        assert!(started.elapsed() < Duration::from_secs(10));
        let detail = "KVM internal error in stage \"long mode\"".to_owned();
        assert_eq!(outcome, ProbeOutcome::Wrong { detail });
    }

    #[tokio::test]
    async fn a_flood_of_output_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let text = "head -c 3000000 /dev/zero | tr '\\0' x >&2; exit 1";
        let request = request(&script(dir.path(), text), "host", None);
        let outcome = probe(&request).await;
        assert!(matches!(&outcome, ProbeOutcome::Refused { reason } if reason.len() < 400), "{outcome:?}");
    }
}
