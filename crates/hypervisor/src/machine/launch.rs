//! Starts a QEMU and brings its guest to run.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::DirBuilderExt,
            net::{UnixDatagram, UnixListener},
            process::CommandExt,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use nestling_model::Generation;
use rustix::net::netdevice::name_to_index;
use serde_json::json;
use tokio::{net::UnixStream, time::timeout};

use super::{
    Exit, Machine, Record, Watched, complaint, exit,
    operations::MachineError,
    process::Process,
    save,
    state_file::{Shape, StateFile, StateFileError, disks},
};
use crate::{
    Qemu,
    cmdline::{SpecError, command_line},
    durable,
    qmp::{Qmp, QmpError},
    spec::{LaunchSpec, RunDir, Slots},
};

/// From the start of the program to the first word of its monitor, on a host where everything is slow.
const GREETING_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error(transparent)]
    Spec(#[from] SpecError),
    #[error("the virtual machine already runs as process {pid}")]
    Runs { pid: u32 },
    #[error("QEMU did not start: {0}")]
    Refused(String),
    #[error("QEMU did not answer within {} seconds of its start: {said}", GREETING_TIMEOUT.as_secs())]
    Silent { said: String },
    #[error("the saved state can't be used")]
    State(#[from] StateFileError),
    #[error("the saved state {} could not be restored: {why}", path.display())]
    Restore { path: PathBuf, why: String },
    #[error("the guest could not be started")]
    Start(#[source] MachineError),
    #[error("{} could not be {done}", path.display())]
    Io { done: &'static str, path: PathBuf, source: io::Error },
}

impl LaunchError {
    fn io(done: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { done, path: path.to_owned(), source }
    }
}

/// Ends the process unless the launch comes to its end, also when the launch is given up by its caller.
struct Newborn(Option<Watched>);

impl Drop for Newborn {
    fn drop(&mut self) {
        if let Some(watched) = &self.0 {
            watched.kill();
        }
    }
}

impl Machine {
    /// Starts the machine. Its guest runs when this returns, from its beginning or from a saved state.
    pub async fn launch(qemu: &Qemu, spec: LaunchSpec) -> Result<Self, LaunchError> {
        let run = RunDir::new(&spec.run_dir).map_err(SpecError::Socket)?;
        clear(&run, &spec)?;
        let shape = Shape::of(&spec);
        let state = match &spec.restore_from {
            Some(path) => {
                let state = StateFile::open(path)?;
                state.check(&shape, &spec.vm)?;
                Some(state)
            }
            None => None,
        };
        let slots = state.as_ref().map_or_else(|| Slots::of(&spec.vm.adapters), |s| s.slots().clone());
        spec.taps.values().try_for_each(|ifname| interface_exists(ifname))?;
        let mut command = Command::new(qemu.system());
        command.args(command_line(&spec, &slots, qemu)?);
        if spec.vm.generation == Generation::Two {
            make_nvram(qemu, &spec.nvram)?;
        }
        let record = Record { vm_id: spec.vm.id, slots, disks: disks(&spec.vm), shape };
        record.write(&run).map_err(LaunchError::io("written", &run.spec()))?;

        let process = spawn(command, &run)?;
        let watched = exit::watch(process, &run);
        let mut newborn = Newborn(Some(watched.clone()));
        let qmp = first_word(&run, &watched).await?;
        watched.qmp.set(qmp.clone()).ok();
        let machine = Self::assemble(run, watched, qmp, record).await;
        if let Some(state) = state {
            save::restore(&machine, state).await?;
        }
        machine.begin(&spec).await.map_err(LaunchError::Start)?;
        newborn.0 = None;
        Ok(machine)
    }

    async fn begin(&self, spec: &LaunchSpec) -> Result<(), MachineError> {
        for adapter in spec.vm.adapters.iter().filter(|a| a.switch.is_none() && !spec.cables) {
            self.set_link(adapter.id, false).await?;
        }
        self.cont().await
    }
}

fn clear(run: &RunDir, spec: &LaunchSpec) -> Result<(), LaunchError> {
    if let Some(process) = Process::find(run, spec.vm.id) {
        return Err(LaunchError::Runs { pid: process.pid() });
    }
    let dir = run.path();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(LaunchError::io("made", dir))?;
    for path in [run.qmp(), run.console(), run.agent(), run.channel(), run.nbd(), run.pid()] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(LaunchError::io("removed", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// QEMU would make a missing interface itself, plugged into nothing, and nobody would notice.
pub(super) fn interface_exists(ifname: &str) -> Result<(), SpecError> {
    // Any socket will do to ask by.
    let found = UnixDatagram::unbound().map(|socket| name_to_index(socket, ifname));
    match found {
        Ok(Ok(_)) => Ok(()),
        _ => Err(SpecError::InterfaceMissing(ifname.to_owned())),
    }
}

fn make_nvram(qemu: &Qemu, nvram: &Path) -> Result<(), LaunchError> {
    let Some((_, template)) = &qemu.firmware().uefi else { return Ok(()) };
    if nvram.exists() {
        return Ok(());
    }
    let bytes = fs::read(template).map_err(LaunchError::io("read", template))?;
    durable::write(nvram, &bytes).map_err(LaunchError::io("written", nvram))
}

/// The monitor's socket listens before QEMU runs, so that connecting needs no waiting for it to appear.
fn spawn(mut command: Command, run: &RunDir) -> Result<Process, LaunchError> {
    let listener = UnixListener::bind(run.qmp()).map_err(LaunchError::io("made", &run.qmp()))?;
    let log = run.stderr();
    fs::remove_file(&log).ok();
    let log_file =
        File::options().create(true).append(true).open(&log).map_err(LaunchError::io("made", &log))?;
    let program = PathBuf::from(command.get_program());
    command
        .stdin(OwnedFd::from(listener))
        .stdout(Stdio::null())
        .stderr(log_file)
        .current_dir("/")
        .env_clear();
    // SAFETY: setsid is async-signal-safe and touches no memory.
    #[expect(unsafe_code, reason = "a session of its own keeps QEMU alive when the node's terminal closes")]
    unsafe {
        command.pre_exec(|| Ok(rustix::process::setsid().map(drop)?));
    }
    tracing::debug!(?command, "starting QEMU");
    let child = command.spawn().map_err(LaunchError::io("run", &program))?;
    Process::open(child.id()).map_err(LaunchError::io("followed", &program))
}

async fn first_word(run: &RunDir, watched: &Watched) -> Result<Qmp, LaunchError> {
    let greeted = async {
        let stream = UnixStream::connect(run.qmp())
            .await
            .map_err(|e| QmpError::Closed { why: format!("it can't be connected to: {e}") })?;
        Qmp::greet(stream).await
    };
    let Exit { reason, .. } = tokio::select! {
        greeted = timeout(GREETING_TIMEOUT, greeted) => match greeted {
            Ok(Ok(qmp)) => return Ok(qmp),
            // It closes the socket because it ends, and the log says why.
            Ok(Err(error)) => match timeout(Duration::from_secs(5), watched.exited()).await {
                Ok(exit) => exit,
                Err(_) => return Err(LaunchError::Refused(error.to_string())),
            },
            Err(_) => {
                let log = complaint::read(&run.stderr()).await;
                return Err(LaunchError::Silent { said: complaint::sentence(&log) });
            }
        },
        exit = watched.exited() => exit,
    };
    let log = complaint::read(&run.stderr()).await;
    Err(LaunchError::Refused(match log.trim() {
        "" => reason,
        log => complaint::sentence(log),
    }))
}

impl Record {
    pub(super) fn write(&self, run: &RunDir) -> io::Result<()> {
        durable::write(&run.spec(), json!(self).to_string().as_bytes())
    }

    pub(super) fn read(run: &RunDir) -> io::Result<Self> {
        Ok(serde_json::from_slice(&fs::read(run.spec())?)?)
    }
}
