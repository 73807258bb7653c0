//! What tests share: homes in temporary directories, nodes that live and die on runtimes of their own, networks of
//! their own, and no engine left behind.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use nestling_identity::Identity;
use nestling_model::{
    Boot, ConfigVersion, Controller, Disk, DiskFormat, Generation, Memory, Operation, Processor, StartAction,
    StopAction, Vm, VmId, VmName, VmState,
};
use nestling_store::{Backend, Change, Document, SqliteBackend};
use nestling_vault::{Point, SnapshotId};
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{UnshareFlags, unshare_unsafe};
use uuid::Uuid;

use crate::{EngineChoice, NewVm, Node, NodeError, Settings, VmView, vm::RanBefore};

pub const ME: Identity = Identity::Parent;

pub fn settings() -> Settings {
    Settings { engine: EngineChoice::Emulation, ..Settings::default() }
}

/// A home whose engines end with it. The thread has a network namespace of its own from here on.
pub struct TestHome {
    dir: tempfile::TempDir,
}

impl TestHome {
    pub fn new() -> Self {
        if rustix::process::geteuid().is_root() {
            // SAFETY: only this thread changes its namespace; threads that it starts later share the new one.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
        }
        Self { dir: tempfile::Builder::new().prefix("n").tempdir().unwrap() }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// One life of a node: when it ends, nothing of it is left but what it wrote and the engines.
    pub fn life<T>(&self, work: impl AsyncFnOnce(Node) -> T) -> T {
        self.life_with(settings(), work)
    }

    pub fn life_with<T>(&self, settings: Settings, work: impl AsyncFnOnce(Node) -> T) -> T {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let node = Node::open(self.path(), settings).await.unwrap();
            work(node).await
        })
    }

    pub fn open_error(&self) -> NodeError {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(Node::open(self.path(), settings())).err().expect("it opened")
    }

    /// The processes of all engines.
    pub fn engines(&self) -> Vec<u32> {
        let runs = fs::read_dir(self.path().join("run")).into_iter().flatten().flatten();
        let pid = |dir: PathBuf| fs::read_to_string(dir.join("pid")).ok()?.trim().parse::<u32>().ok();
        runs.filter_map(|entry| pid(entry.path())).filter(|pid| self.owns(*pid)).collect()
    }

    fn owns(&self, pid: u32) -> bool {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let home = self.path().as_os_str().as_encoded_bytes();
        arguments.windows(home.len()).any(|w| w == home)
    }

    /// SIGKILL to every engine; returns when they are gone.
    pub fn kill_engines(&self) {
        self.signal_engines(Signal::KILL);
        wait(|| self.engines().is_empty());
    }

    /// As if the host had been started anew since.
    pub fn forget_boot(&self) {
        let mut backend = SqliteBackend::open(self.path()).unwrap();
        let id = RanBefore::default().id();
        backend.apply(&[Change { kind: RanBefore::KIND, id, body: None }]).unwrap();
    }

    pub fn signal_engines(&self, signal: Signal) {
        for pid in self.engines() {
            // One that ended meanwhile needs no signal.
            let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), signal);
        }
    }
}

impl Drop for TestHome {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.kill_engines();
            return;
        }
        self.signal_engines(Signal::KILL);
    }
}

/// Emulated machines on a busy host are slow; what hangs does not come at all.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for something that comes soon.
pub fn wait(mut done: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done() {
        assert!(Instant::now() < end, "it did not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub fn name(text: &str) -> VmName {
    text.parse().unwrap()
}

/// The smallest machine: its firmware finds nothing to start, and waits.
pub fn small(text: &str) -> NewVm {
    NewVm { memory_startup_bytes: Some(32 << 20), ..NewVm::named(name(text)) }
}

pub async fn started(node: &Node, text: &str) -> VmView {
    node.create_vm(&ME, small(text)).await.unwrap();
    node.operate(&ME, text, Operation::Start).await.unwrap()
}

/// Waits until a machine is in a state.
pub async fn reaches(node: &Node, vm: &str, state: VmState) {
    let mut now = node.vms.find(vm).unwrap().watch();
    let reached = tokio::time::timeout(PATIENCE, now.wait_for(|n| n.vm.state == state)).await;
    if let Ok(reached) = reached {
        reached.expect("the machine's task lives");
        return;
    }
    let last = node.vms.find(vm).unwrap().now();
    panic!("'{vm}' is {:?} and not {state:?}: {:?}", last.vm.state, last.vm.state_reason);
}

/// Whether tests can change networks here.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: needs root for a network namespace");
    }
    root
}

/// Waits until no operation runs on a machine.
pub async fn settles(node: &Node, vm: &str) {
    let mut now = node.vms.find(vm).unwrap().watch();
    let settled = tokio::time::timeout(PATIENCE, now.wait_for(|n| n.vm.state.is_settled())).await;
    settled.expect("in time").expect("the machine's task lives");
}

/// Tries until it succeeds.
pub async fn eventually(mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done().await {
        assert!(Instant::now() < end, "it did not come");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A machine as it is defined, with one disk.
pub fn sample_vm(text: &str) -> Vm {
    Vm {
        id: VmId(Uuid::from_u128(1)),
        name: name(text),
        generation: Generation::Two,
        version: ConfigVersion::LATEST,
        created_at_ms: 1,
        notes: String::new(),
        tags: Vec::new(),
        processor: Processor { count: 1, expose_virtualization_extensions: false },
        memory: Memory { startup_bytes: 32 << 20 },
        adapters: Vec::new(),
        disks: vec![Disk {
            path: "/d/a.qcow2".into(),
            format: DiskFormat::Qcow2,
            controller: Controller::Scsi,
            location: 0,
            read_only: false,
        }],
        boot: Boot::Firmware,
        start_action: StartAction::Nothing,
        start_delay_seconds: 0,
        stop_action: StopAction::Save,
        state: VmState::Off,
        state_reason: None,
    }
}

/// A recovery point with nothing in it.
pub fn point(name: &str, tags: &[String]) -> Point {
    let tags = [&["nestling".to_owned()], tags].concat();
    let json = serde_json::json!({
        "time": "2026-11-27T00:00:00Z",
        "tree": "0".repeat(64),
        "paths": [format!("/{name}")],
        "tags": tags,
    });
    let snapshot = nestling_vault::format::snapshot::decode(json.to_string().as_bytes()).unwrap();
    Point::of(SnapshotId([1; 32]), snapshot).unwrap()
}
