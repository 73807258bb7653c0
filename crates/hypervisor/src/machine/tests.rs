//! Against a real QEMU without a disk: its firmware is guest enough for all that needs no guest system.

use std::{collections::BTreeMap, time::Duration};

use nestling_model::{Controller, Disk, DiskFormat, Generation, Memory, Processor, Vm};
use tempfile::TempDir;
use tokio::time::timeout;
use uuid::Uuid;

use super::*;
use crate::{
    LaunchSpec, Qemu,
    cmdline::tests::{adapter, vm},
    disk::{self, DiskKind, NewDisk},
    probe::{Accel, Engine, Nesting},
};

pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) struct Bench {
    pub qemu: Qemu,
    pub dir: TempDir,
    pub vm: Vm,
}

pub(crate) async fn bench() -> Option<Bench> {
    let qemu = match Qemu::find(None, None).await {
        Ok(qemu) => qemu,
        Err(error) => {
            eprintln!("skipped: {error}");
            return None;
        }
    };
    let vm = Vm {
        id: VmId(Uuid::new_v4()),
        processor: Processor { count: 1, ..vm().processor },
        memory: Memory { startup_bytes: 32 << 20 },
        ..vm()
    };
    Some(Bench { qemu, dir: tempfile::tempdir().unwrap(), vm })
}

impl Bench {
    pub fn run_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("run")
    }

    pub fn spec(&self) -> LaunchSpec {
        LaunchSpec {
            vm: self.vm.clone(),
            run_dir: self.run_dir(),
            engine: Engine {
                accel: Accel::Tcg,
                model: "EPYC-v1".to_owned(),
                nesting: Some(Nesting::Svm),
                reason: String::new(),
                remedy: None,
            },
            taps: BTreeMap::new(),
            user_net: true,
            cables: false,
            restore_from: None,
            nvram: self.dir.path().join("nvram"),
            stop_on_disk_error: false,
            screen: false,
            kernel_append: String::new(),
        }
    }

    pub async fn launch(&self) -> Guarded {
        Guarded(Machine::launch(&self.qemu, self.spec()).await.unwrap())
    }

    pub async fn engine_is_gone(&self) {
        let run = RunDir::new(self.run_dir()).unwrap();
        let gone = async {
            while process::Process::find(&run, self.vm.id).is_some() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, gone).await.unwrap();
    }

    async fn disk(&self, name: &str) -> Disk {
        let path = self.dir.path().join(name);
        let new = NewDisk { format: DiskFormat::Qcow2, bytes: Some(1 << 20), kind: DiskKind::Dynamic };
        disk::create(&self.qemu, &path, &new).await.unwrap();
        Disk { path, format: DiskFormat::Qcow2, controller: Controller::Scsi, location: 3, read_only: false }
    }
}

/// Leaves no QEMU behind when a test fails.
pub(crate) struct Guarded(pub Machine);

impl Drop for Guarded {
    fn drop(&mut self) {
        self.0.0.watched.kill();
    }
}

impl std::ops::Deref for Guarded {
    type Target = Machine;

    fn deref(&self) -> &Machine {
        &self.0
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_runs_pauses_resets_and_quits() {
    let Some(bench) = bench().await else { return };
    let machine = bench.launch().await;
    assert_eq!(machine.run_state().await.unwrap(), RunState::Running);
    let mut console = machine.console().attach();
    let firmware = async {
        let mut text = String::from_utf8_lossy(&console.recent).into_owned();
        while !text.contains("SeaBIOS") {
            text.push_str(&String::from_utf8_lossy(&console.next().await.unwrap()));
        }
    };
    timeout(SOON, firmware).await.unwrap();
    machine.pause().await.unwrap();
    assert_eq!(machine.run_state().await.unwrap(), RunState::Paused);
    machine.cont().await.unwrap();
    machine.reset().await.unwrap();
    machine.power_button().await.unwrap();
    assert!(machine.usage().unwrap().resident_bytes > 1 << 20);
    assert!(matches!(machine.agent().ping().await, Err(crate::AgentError::Absent)));
    assert!(!machine.channel().is_up());
    let exit = machine.quit().await.unwrap();
    assert_eq!(exit.kind, ExitKind::Asked);
    assert_eq!(machine.exited().await, exit);
    let gone = machine.pause().await.unwrap_err();
    assert!(matches!(gone, MachineError::Gone(_)), "{gone}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_qemu_is_noticed_at_once_with_the_signal() {
    let Some(bench) = bench().await else { return };
    let machine = bench.launch().await;
    let pid = rustix::process::Pid::from_raw(machine.pid().cast_signed()).unwrap();
    let started = std::time::Instant::now();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    let exit = timeout(SOON, machine.exited()).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());
    assert_eq!(
        exit,
        Exit { kind: ExitKind::Failed, reason: "QEMU was killed by signal 9 (SIGKILL)".to_owned() }
    );
    assert!(Machine::attach(&bench.run_dir(), bench.vm.id).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_that_qemu_heeds_is_not_taken_for_a_wish_of_ours() {
    let Some(bench) = bench().await else { return };
    let machine = bench.launch().await;
    let pid = rustix::process::Pid::from_raw(machine.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let exit = timeout(SOON, machine.exited()).await.unwrap();
    assert_eq!(exit.kind, ExitKind::Failed);
    assert!(exit.reason.contains("signal from another process"), "{}", exit.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_machine_is_found_again() {
    let Some(bench) = bench().await else { return };
    let first = bench.launch().await;
    let mut spec = bench.spec();
    let again = Machine::launch(&bench.qemu, spec.clone()).await.unwrap_err();
    assert!(matches!(again, LaunchError::Runs { pid } if pid == first.pid()), "{again}");
    let other = VmId(Uuid::new_v4());
    assert!(Machine::attach(&bench.run_dir(), other).await.unwrap().is_none());
    let run = RunDir::new(bench.run_dir()).unwrap();
    assert_eq!(process::Process::find(&run, bench.vm.id).unwrap().pid(), first.pid());
    std::fs::write(run.pid(), "1\n").unwrap();
    assert_eq!(process::Process::find(&run, bench.vm.id).unwrap().pid(), first.pid());
    spec.vm.id = other;
    first.quit().await.unwrap();
    assert!(process::Process::find(&run, bench.vm.id).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_attaches_and_sees_the_end() {
    let Some(bench) = bench().await else { return };
    // The first node: a runtime of its own, which takes its connections with it.
    let (qemu, spec) = (bench.qemu.clone(), bench.spec());
    let node = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Machine::launch(&qemu, spec)).unwrap().pid()
    });
    let pid = node.join().unwrap();
    let found = Machine::attach(&bench.run_dir(), bench.vm.id).await.unwrap().unwrap();
    let machine = Guarded(found);
    assert_eq!(machine.pid(), pid);
    assert_eq!(machine.run_state().await.unwrap(), RunState::Running);
    let mut disk = bench.disk("d.qcow2").await;
    disk.location = 0;
    machine.add_disk(&disk).await.unwrap();
    let process = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    let exit = timeout(SOON, machine.exited()).await.unwrap();
    assert_eq!(exit.kind, ExitKind::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_qemu_that_does_not_answer_can_be_killed() {
    let Some(bench) = bench().await else { return };
    let machine = bench.launch().await;
    assert!(Machine::kill_stray(&bench.run_dir(), bench.vm.id).await.unwrap());
    timeout(SOON, machine.exited()).await.unwrap();
    assert!(!Machine::kill_stray(&bench.run_dir(), bench.vm.id).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn adapters_and_disks_come_and_go() {
    let Some(mut bench) = bench().await else { return };
    bench.vm.adapters = vec![adapter(1)];
    let machine = bench.launch().await;
    machine.set_link(adapter(1).id, true).await.unwrap();
    for n in 2..=8 {
        machine.add_adapter(&adapter(n), None).await.unwrap();
    }
    let full = machine.add_adapter(&adapter(9), None).await.unwrap_err();
    assert!(matches!(full, MachineError::NoFreePort));
    let twice = machine.add_adapter(&adapter(2), None).await.unwrap_err();
    assert!(twice.to_string().contains("QEMU refused"), "{twice}");
    let disk = bench.disk("a.qcow2").await;
    machine.add_disk(&disk).await.unwrap();
    machine.resize_disk(Controller::Scsi, 3, 2 << 20).await.unwrap();
    let missing = Disk { path: "/nonexistent/disk".into(), location: 4, ..disk.clone() };
    assert!(machine.add_disk(&missing).await.unwrap_err().to_string().contains("No such file"));
    let ide = Disk { controller: Controller::Ide, location: 1, ..disk };
    assert!(matches!(machine.add_disk(&ide).await, Err(MachineError::NotHotPluggable)));
    assert!(matches!(machine.remove_adapter(adapter(77).id).await, Err(MachineError::NoAdapter)));
    machine.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_saved_and_goes_on_with_what_was_plugged_in() {
    let Some(mut bench) = bench().await else { return };
    bench.vm.adapters = vec![adapter(1)];
    let machine = bench.launch().await;
    let disk = bench.disk("a.qcow2").await;
    machine.add_disk(&disk).await.unwrap();
    machine.add_adapter(&adapter(2), None).await.unwrap();
    let state = bench.dir.path().join("state");
    machine.save_to(&state).await.unwrap();
    assert_eq!(machine.run_state().await.unwrap(), RunState::Saved);
    machine.quit().await.unwrap();

    let mut spec = bench.spec();
    spec.restore_from = Some(state.clone());
    let differs = Machine::launch(&bench.qemu, spec.clone()).await.unwrap_err();
    assert!(matches!(differs, LaunchError::State(StateFileError::Differs { .. })), "{differs}");
    spec.vm.adapters.push(adapter(2));
    spec.vm.disks.push(disk);
    let machine = Guarded(Machine::launch(&bench.qemu, spec.clone()).await.unwrap());
    assert_eq!(machine.run_state().await.unwrap(), RunState::Running);
    machine.quit().await.unwrap();

    // A state cut short: the machine does not start, and nothing is left running.
    let bytes = std::fs::read(&state).unwrap();
    std::fs::write(&state, &bytes[..bytes.len() / 2]).unwrap();
    let torn = Machine::launch(&bench.qemu, spec.clone()).await.unwrap_err();
    assert!(matches!(torn, LaunchError::Restore { .. }), "{torn}");
    bench.engine_is_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_cannot_be_saved_runs_on() {
    let Some(bench) = bench().await else { return };
    let machine = bench.launch().await;
    let refused = machine.save_to(std::path::Path::new("/nonexistent/state")).await.unwrap_err();
    assert!(matches!(refused, MachineError::Save(SaveError::Io { .. })), "{refused}");
    assert_eq!(machine.run_state().await.unwrap(), RunState::Running);
    // A disk that is full at the first byte.
    let full = bench.dir.path().join("full");
    std::os::unix::fs::symlink("/dev/full", crate::durable::part(&full)).unwrap();
    let refused = machine.save_to(&full).await.unwrap_err();
    assert!(matches!(refused, MachineError::Save(SaveError::Io { .. })), "{refused}");
    assert_eq!(machine.run_state().await.unwrap(), RunState::Running);
    machine.save_to(&bench.dir.path().join("state")).await.unwrap();
    machine.quit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn why_qemu_does_not_start_is_one_sentence() {
    let Some(bench) = bench().await else { return };
    let disk = bench.disk("a.qcow2").await;
    let mut spec = bench.spec();
    spec.vm.disks = vec![Disk { path: "/nonexistent/a.qcow2".into(), ..disk.clone() }];
    let missing = Machine::launch(&bench.qemu, spec.clone()).await.unwrap_err();
    assert_eq!(missing.to_string(), "QEMU did not start: the file /nonexistent/a.qcow2 does not exist");

    std::fs::write(bench.dir.path().join("b.qcow2"), "no image").unwrap();
    spec.vm.disks = vec![Disk { path: bench.dir.path().join("b.qcow2"), ..disk.clone() }];
    let broken = Machine::launch(&bench.qemu, spec.clone()).await.unwrap_err().to_string();
    assert!(broken.contains("is damaged, of another format"), "{broken}");

    spec.vm.disks.clear();
    spec.vm.adapters = vec![adapter(1)];
    spec.taps.insert(adapter(1).id, "nt-missing".to_owned());
    let missing = Machine::launch(&bench.qemu, spec.clone()).await.unwrap_err().to_string();
    assert_eq!(missing, "the network interface nt-missing does not exist");
    (spec.vm.adapters, spec.taps) = (vec![], BTreeMap::new());

    spec.vm.disks = vec![disk.clone()];
    let first = Guarded(Machine::launch(&bench.qemu, spec.clone()).await.unwrap());
    spec.vm.id = VmId(Uuid::new_v4());
    spec.run_dir = bench.dir.path().join("run2");
    let locked = Machine::launch(&bench.qemu, spec.clone()).await.unwrap_err().to_string();
    assert_eq!(
        locked,
        format!("QEMU did not start: the disk {} is in use by another process", disk.path.display())
    );
    first.quit().await.unwrap();

    spec.vm.disks.clear();
    spec.vm.memory.startup_bytes = 1 << 50;
    let hungry = Machine::launch(&bench.qemu, spec).await.unwrap_err().to_string();
    assert!(hungry.contains("not enough free memory"), "{hungry}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_launch_that_is_given_up_leaves_no_qemu() {
    let Some(bench) = bench().await else { return };
    let launch = Machine::launch(&bench.qemu, bench.spec());
    assert!(timeout(Duration::from_millis(15), launch).await.is_err());
    bench.engine_is_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generation_2_starts_uefi_and_keeps_its_variables() {
    let Some(mut bench) = bench().await else { return };
    if bench.qemu.firmware().uefi.is_none() {
        eprintln!("skipped: no UEFI firmware");
        return;
    }
    bench.vm.generation = Generation::Two;
    bench.vm.memory.startup_bytes = 128 << 20;
    let machine = bench.launch().await;
    assert_eq!(machine.run_state().await.unwrap(), RunState::Running);
    assert!(bench.dir.path().join("nvram").metadata().unwrap().len() > 1 << 16);
    machine.quit().await.unwrap();
}
