//! Against a real QEMU whose guest is its firmware; what a guest would write is written through the guest's own device.

use std::{future::Future, path::Path, process::Output};

use nestling_model::{Controller, Disk, DiskFormat};
use serde_json::{Value, json};
use tokio::process::Command;
use uuid::Uuid;

use super::*;
use crate::{
    ExitKind, MachineError, RunState,
    disk::{self, DiskKind, NewDisk},
    machine::tests::{Bench, Guarded, SOON, bench},
};

const MIB: u64 = 1 << 20;
const KIB64: u64 = 64 << 10;
const DISK_BYTES: u64 = 64 * MIB;

struct Nest {
    bench: Bench,
    machine: Guarded,
}

fn scsi(location: u8) -> DiskPlace {
    DiskPlace { controller: Controller::Scsi, location }
}

fn name(n: u128) -> BitmapName {
    BitmapName(Uuid::from_u128(n))
}

async fn add_disk(bench: &mut Bench, location: u8, format: DiskFormat) {
    let path = bench.dir.path().join(format!("{location}.{}", format.as_str()));
    let new = NewDisk { format, bytes: Some(DISK_BYTES), kind: DiskKind::Dynamic };
    disk::create(&bench.qemu, &path, &new).await.unwrap();
    let controller = Controller::Scsi;
    bench.vm.disks.push(Disk { path, format, controller, location, read_only: false });
}

/// Two qcow2 disks, and a directory for fleecing images.
async fn with_disks() -> Option<Bench> {
    let mut bench = bench().await?;
    for location in [0, 3] {
        add_disk(&mut bench, location, DiskFormat::Qcow2).await;
    }
    std::fs::create_dir(bench.dir.path().join("f")).unwrap();
    Some(bench)
}

async fn nest() -> Option<Nest> {
    Some(Nest::launch(with_disks().await?).await)
}

impl Nest {
    async fn launch(bench: Bench) -> Self {
        let machine = bench.launch().await;
        Self { bench, machine }
    }

    /// As a node that comes back.
    async fn attach(bench: Bench) -> Self {
        let machine = Machine::attach(&bench.run_dir(), bench.vm.id).await.unwrap().unwrap();
        Self { bench, machine: Guarded(machine) }
    }

    /// Leaves the machine running.
    fn leave(self) -> Bench {
        std::mem::forget(self.machine);
        self.bench
    }

    fn fleecing(&self) -> Fleecing {
        Fleecing { dir: self.bench.dir.path().join("f"), bytes_max: 128 * MIB }
    }

    fn request(&self, begin: Option<u128>, since: Option<u128>) -> CaptureRequest {
        let ask =
            |location| DiskRequest { disk: scsi(location), begin: begin.map(name), since: since.map(name) };
        CaptureRequest { disks: vec![ask(0), ask(3)], fleecing: self.fleecing() }
    }

    async fn capture(&self, begin: Option<u128>, since: Option<u128>) -> Capture {
        self.machine.capture(self.request(begin, since)).await.unwrap()
    }

    /// What a guest does with its disk, in qemu-io's words.
    async fn guest(&self, location: u8, does: &str) {
        let device = format!("{}/virtio-backend", scsi(location).device());
        let line = format!("qemu-io -d {device} \"{does}\"");
        let said =
            self.machine.execute("human-monitor-command", json!({"command-line": line})).await.unwrap();
        assert_eq!(said, "", "{line}");
    }

    fn image(&self, location: u8) -> &Path {
        &self.bench.vm.disks.iter().find(|d| d.location == location).unwrap().path
    }

    async fn ours(&self) -> Vec<(u8, u128, u64)> {
        let disks = self.machine.bitmaps().await.unwrap();
        let of = |disk: &DiskBitmaps| {
            let location = disk.disk.location;
            disk.bitmaps
                .iter()
                .map(move |b| (location, b.name.0.as_u128(), b.changed_bytes))
                .collect::<Vec<_>>()
        };
        disks.iter().flat_map(of).collect()
    }

    async fn nothing_is_left(&self) {
        let nodes = answers::nodes(&self.machine).await.unwrap();
        let left: Vec<&str> =
            nodes.iter().filter(|n| n.is_of_a_capture()).map(|n| n.node_name.as_str()).collect();
        assert!(left.is_empty(), "{left:?}");
        let kept = nodes.iter().flat_map(|n| &n.dirty_bitmaps).filter_map(|b| b.name.as_deref());
        assert!(kept.clone().all(|b| BitmapName::parse(b).is_some()), "{:?}", kept.collect::<Vec<_>>());
        assert!(answers::jobs(&self.machine).await.unwrap().is_empty());
        assert!(answers::fd_sets(&self.machine).await.unwrap().iter().all(|s| !s.is_of_a_capture()));
        assert!(!self.machine.nbd_socket().exists());
        assert_eq!(std::fs::read_dir(self.fleecing().dir).unwrap().count(), 0);
        let devices = answers::devices(&self.machine).await.unwrap();
        assert!(devices.iter().all(|d| !d.node.starts_with(names::PREFIX)), "{devices:?}");
    }
}

fn tool(nest: &Nest, tool: &str) -> Command {
    let mut command = Command::new(nest.bench.qemu.img().with_file_name(tool));
    command.kill_on_drop(true);
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Looks at a place of a captured disk; its complaint if it cannot be read, or holds another byte.
async fn holds(nest: &Nest, capture: &Capture, location: u8, byte: u8, at: &str) -> Result<(), String> {
    let disk = capture.disks().iter().find(|d| d.disk == scsi(location)).unwrap();
    let uri = format!("nbd+unix:///{}?socket={}", disk.export, capture.socket().display());
    look(nest, &uri, "raw", byte, at).await
}

async fn look(nest: &Nest, image: &str, format: &str, byte: u8, at: &str) -> Result<(), String> {
    let read = format!("read -P {byte} {at}");
    let ran = tool(nest, "qemu-io").args(["-r", "-f", format, "-c", &read, image]).output().await.unwrap();
    let said = text(&ran);
    let good =
        ran.status.success() && said.contains("read ") && !said.contains("Pattern verification failed");
    if good { Ok(()) } else { Err(said) }
}

/// The stretches that the exported map calls changed, as offset and length.
async fn changed(nest: &Nest, socket: &Path, export: &str, context: &str) -> Vec<(u64, u64)> {
    let options = format!(
        "driver=nbd,server.type=unix,server.path={},export={export},x-dirty-bitmap=qemu:dirty-bitmap:{context}",
        socket.display()
    );
    let mut map = tool(nest, "qemu-img");
    let ran = map.args(["map", "--output=json", "--image-opts", &options]).output().await.unwrap();
    assert!(ran.status.success(), "{}", text(&ran));
    let stretches: Vec<Value> = serde_json::from_slice(&ran.stdout).unwrap();
    // What is dirty is called "no data" there.
    let dirty = stretches.iter().filter(|s| s["data"] == false);
    dirty.map(|s| (s["start"].as_u64().unwrap(), s["length"].as_u64().unwrap())).collect()
}

async fn changed_of(nest: &Nest, capture: &Capture, location: u8) -> Vec<(u64, u64)> {
    let disk = capture.disks().iter().find(|d| d.disk == scsi(location)).unwrap();
    let map = disk.changed.as_ref().unwrap();
    let found = changed(nest, capture.socket(), &disk.export, &map.context).await;
    assert_eq!(found.iter().map(|(_, length)| length).sum::<u64>(), map.bytes);
    found
}

async fn durable(capture: &Capture, remove: &[u128]) -> Outcome {
    let of_both = remove.iter().flat_map(|n| [(scsi(0), name(*n)), (scsi(3), name(*n))]);
    Outcome::Durable { whole: capture.whole().await.unwrap(), remove: of_both.collect() }
}

/// Finishes as the node does with a point that is durable.
async fn done(mut capture: Capture, remove: &[u128]) {
    let outcome = durable(&capture, remove).await;
    capture.finish(&outcome).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_instant_stays_and_what_changed_since_the_last_is_told() {
    let Some(nest) = nest().await else { return };
    for location in [0, 3] {
        nest.guest(location, "write -P 1 0 8M").await;
    }
    let mut first = nest.capture(Some(1), None).await;
    assert!(first.stopped_for().unwrap() < Duration::from_secs(5), "{:?}", first.stopped_for());
    assert_eq!((first.disks()[0].bytes, &first.disks()[0].changed), (DISK_BYTES, &None));
    // Overwritten, zeroed, given back, and written where there was nothing.
    nest.guest(0, "write -P 2 1M 1M").await;
    nest.guest(0, "write -z -u 3M 64k").await;
    nest.guest(0, "discard 5M 64k").await;
    nest.guest(3, "write -P 2 40M 4k").await;
    for (location, at) in [(0, "0 8M"), (3, "0 8M")] {
        holds(&nest, &first, location, 1, at).await.unwrap();
        holds(&nest, &first, location, 0, "8M 56M").await.unwrap();
    }
    let used = first.fleecing();
    assert!(used[0].bytes > MIB && used[0].bytes < 4 * MIB && used[1].bytes < MIB, "{used:?}");
    let outcome = durable(&first, &[]).await;
    first.finish(&outcome).await.unwrap();
    first.finish(&outcome).await.unwrap();
    nest.nothing_is_left().await;
    assert_eq!(nest.ours().await, [(0, 1, MIB + 2 * KIB64), (3, 1, KIB64)]);

    nest.guest(0, "write -P 3 60M 1k").await;
    let second = nest.capture(Some(2), Some(1)).await;
    // Of the next run, not of this one.
    nest.guest(0, "write -P 4 20M 64k").await;
    let expected = [(MIB, MIB), (3 * MIB, KIB64), (5 * MIB, KIB64), (60 * MIB, KIB64)];
    assert_eq!(changed_of(&nest, &second, 0).await, expected);
    assert_eq!(changed_of(&nest, &second, 3).await, [(40 * MIB, KIB64)]);
    holds(&nest, &second, 0, 2, "1M 1M").await.unwrap();
    holds(&nest, &second, 0, 0, "20M 64k").await.unwrap();
    done(second, &[1]).await;
    nest.nothing_is_left().await;
    assert_eq!(nest.ours().await, [(0, 2, KIB64), (3, 2, 0)]);
    assert_eq!(nest.machine.run_state().await.unwrap(), RunState::Running);
    nest.machine.quit().await.unwrap();
    look(&nest, nest.image(0).to_str().unwrap(), "qcow2", 4, "20M 64k").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_capture_loses_no_change() {
    let Some(nest) = nest().await else { return };
    done(nest.capture(Some(1), None).await, &[]).await;
    nest.guest(0, "write -P 1 0 64k").await;
    let mut failed = nest.capture(Some(2), Some(1)).await;
    nest.guest(0, "write -P 2 1M 64k").await;
    failed.finish(&Outcome::Failed).await.unwrap();
    nest.nothing_is_left().await;
    // Dropped, as by a task that panics.
    drop(nest.capture(Some(3), Some(1)).await);
    let ended = async {
        while nest.machine.is_captured() || nest.ours().await.iter().any(|b| b.1 == 3) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, ended).await.unwrap();
    nest.nothing_is_left().await;
    let third = nest.capture(Some(4), Some(1)).await;
    assert_eq!(changed_of(&nest, &third, 0).await, [(0, KIB64), (MIB, KIB64)]);
    done(third, &[1]).await;
    assert_eq!(nest.ours().await, [(0, 4, 0), (3, 4, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_made_ready_shows_the_later_instant_or_is_undone() {
    let Some(nest) = nest().await else { return };
    let prepared = nest.machine.prepare_capture(nest.request(Some(1), None)).await.unwrap();
    assert!(nest.machine.is_captured());
    nest.guest(0, "write -P 1 0 1M").await;
    let mut capture = prepared.instant().await.unwrap();
    nest.guest(0, "write -P 2 0 1M").await;
    holds(&nest, &capture, 0, 1, "0 1M").await.unwrap();
    capture.finish(&Outcome::Failed).await.unwrap();
    let prepared = nest.machine.prepare_capture(nest.request(Some(2), None)).await.unwrap();
    nest.machine.end_capture("of a test").await.unwrap();
    let ended = prepared.instant().await.unwrap_err();
    assert!(matches!(&ended, CaptureError::Ended { why } if why == "of a test"), "{ended}");
    drop(nest.machine.prepare_capture(nest.request(Some(3), None)).await.unwrap());
    let undone = async {
        while nest.machine.is_captured() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, undone).await.unwrap();
    nest.nothing_is_left().await;
    assert!(nest.ours().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_fleecing_image_ends_the_capture_and_no_write() {
    let Some(nest) = nest().await else { return };
    nest.guest(0, "write -P 1 0 40M").await;
    let mut request = nest.request(Some(1), None);
    request.fleecing.bytes_max = 16 * MIB;
    let mut capture = nest.machine.capture(request).await.unwrap();
    nest.guest(0, "write -P 2 0 8M").await;
    holds(&nest, &capture, 0, 1, "0 40M").await.unwrap();
    let early = capture.whole().await.unwrap();
    for at in (8..40).step_by(2) {
        nest.guest(0, &format!("write -P 2 {at}M 2M")).await;
    }
    let full = capture.whole().await.unwrap_err();
    assert!(matches!(full, CaptureError::Full { disk, .. } if disk == scsi(0)), "{full}");
    holds(&nest, &capture, 3, 0, "0 64M").await.unwrap();
    // What was read before is proven, whatever came after.
    let proven = Outcome::Durable { whole: early, remove: vec![] };
    capture.finish(&proven).await.unwrap();
    nest.nothing_is_left().await;
    let mut next = nest.capture(Some(2), Some(1)).await;
    assert!(matches!(next.finish(&proven).await, Err(CaptureError::OtherProof)));
    next.finish(&Outcome::Failed).await.unwrap();
    assert_eq!(nest.ours().await, [(0, 1, 40 * MIB), (3, 1, 0)]);
    assert_eq!(nest.machine.run_state().await.unwrap(), RunState::Running);
    nest.machine.quit().await.unwrap();
    look(&nest, nest.image(0).to_str().unwrap(), "qcow2", 2, "0 40M").await.unwrap();
}

/// What a node does until it is killed: its tasks and connections go at once, and nothing is undone.
fn node<T: Send + 'static>(life: impl Future<Output = T> + Send + 'static) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(life)
}

#[test]
fn what_a_dead_node_left_is_cleared_when_the_machine_is_found_again() {
    let Some(bench) = node(with_disks()) else { return };
    let bench = node(async {
        let nest = Nest::launch(bench).await;
        done(nest.capture(Some(1), None).await, &[]).await;
        nest.guest(0, "write -P 1 0 64k").await;
        let capture = nest.capture(Some(2), Some(1)).await;
        nest.guest(0, "write -P 2 1M 64k").await;
        std::mem::forget(capture);
        nest.leave()
    });
    // And one that dies in the instant itself.
    let bench = node(async {
        let nest = Nest::attach(bench).await;
        nest.nothing_is_left().await;
        let (all, new) = (2 * KIB64, KIB64);
        assert_eq!(nest.ours().await, [(0, 1, all), (0, 2, new), (3, 1, 0), (3, 2, 0)]);
        std::mem::forget(nest.capture(None, None).await);
        let stopped = json!({"driver": "null-co", "node-name": names::STOPPED, "size": 0});
        nest.machine.execute("blockdev-add", stopped).await.unwrap();
        nest.machine.pause().await.unwrap();
        nest.leave()
    });
    node(async {
        let nest = Nest::attach(bench).await;
        nest.nothing_is_left().await;
        assert_eq!(nest.machine.run_state().await.unwrap(), RunState::Running);
        assert_eq!(nest.machine.clear_captures().await.unwrap(), Cleared::default());
        nest.machine.remove_bitmaps(&[(scsi(0), name(2)), (scsi(3), name(2))]).await.unwrap();
        let capture = nest.capture(Some(3), Some(1)).await;
        assert_eq!(changed_of(&nest, &capture, 0).await, [(0, KIB64), (MIB, KIB64)]);
        done(capture, &[1]).await;
        assert_eq!(nest.ours().await, [(0, 3, 0), (3, 3, 0)]);
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_saved_under_a_capture_and_its_bitmaps_wake_up_with_it() {
    let Some(nest) = nest().await else { return };
    done(nest.capture(Some(1), None).await, &[]).await;
    nest.guest(0, "write -P 1 0 64k").await;
    let mut capture = nest.capture(Some(2), Some(1)).await;
    let outcome = durable(&capture, &[1]).await;
    nest.guest(0, "write -P 2 1M 64k").await;
    let state = nest.bench.dir.path().join("state");
    nest.machine.save_to(&state).await.unwrap();
    let ended = capture.whole().await.unwrap_err();
    assert!(matches!(&ended, CaptureError::Ended { why } if why.contains("saved")), "{ended}");
    assert!(holds(&nest, &capture, 0, 1, "0 64k").await.is_err());
    nest.machine.quit().await.unwrap();
    let gone = capture.finish(&outcome).await.unwrap_err();
    assert!(matches!(gone, CaptureError::Gone(_)), "{gone}");

    let stored = disk::bitmaps(&nest.bench.qemu, nest.image(0)).await.unwrap();
    assert!(stored.iter().all(|b| b.recording && !b.inconsistent), "{stored:?}");
    let mut spec = nest.bench.spec();
    spec.restore_from = Some(state);
    let machine = Guarded(Machine::launch(&nest.bench.qemu, spec).await.unwrap());
    let nest = Nest { machine, ..nest };
    assert_eq!(nest.ours().await, [(0, 1, 2 * KIB64), (0, 2, KIB64), (3, 1, 0), (3, 2, 0)]);
    nest.guest(3, "write -P 1 0 64k").await;
    assert_eq!(nest.ours().await[2..], [(3, 1, KIB64), (3, 2, KIB64)]);
    assert!(nest.machine.bitmaps().await.unwrap()[1].bitmaps.iter().all(|b| b.doubt().is_none()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_ends_under_a_capture_and_its_bitmaps_stay() {
    let Some(nest) = nest().await else { return };
    let capture = nest.capture(Some(1), None).await;
    nest.guest(0, "write -P 2 1M 64k").await;
    assert_eq!(nest.machine.quit().await.unwrap().kind, ExitKind::Asked);
    assert!(matches!(capture.whole().await, Err(CaptureError::Gone(_))));
    assert_eq!(std::fs::read_dir(nest.fleecing().dir).unwrap().count(), 0);
    let stored = disk::bitmaps(&nest.bench.qemu, nest.image(0)).await.unwrap();
    assert!(stored.len() == 1 && stored[0].recording && !stored[0].inconsistent, "{stored:?}");
    let check = disk::check(&nest.bench.qemu, nest.image(0), DiskFormat::Qcow2).await.unwrap();
    assert_eq!((check.corruptions, check.leaks), (0, 0));
    let nest = Nest::launch(nest.bench).await;
    assert_eq!(nest.ours().await, [(0, 1, KIB64), (3, 1, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_engine_leaves_no_file_and_bitmaps_that_nobody_believes() {
    let Some(nest) = nest().await else { return };
    done(nest.capture(Some(1), None).await, &[]).await;
    nest.machine.quit().await.unwrap();
    let nest = Nest::launch(nest.bench).await;
    let mut capture = nest.capture(Some(2), Some(1)).await;
    nest.guest(0, "write -P 2 1M 64k").await;
    nest.machine.kill().await.unwrap();
    assert!(matches!(capture.whole().await, Err(CaptureError::Gone(_))));
    assert!(matches!(capture.finish(&Outcome::Failed).await, Err(CaptureError::Gone(_))));
    assert_eq!(std::fs::read_dir(nest.fleecing().dir).unwrap().count(), 0);
    let stored = disk::bitmaps(&nest.bench.qemu, nest.image(0)).await.unwrap();
    assert!(stored.len() == 1 && stored[0].name == name(1) && stored[0].inconsistent, "{stored:?}");

    let nest = Nest::launch(nest.bench).await;
    let report = nest.machine.bitmaps().await.unwrap();
    let bitmap = &report[0].bitmaps[0];
    assert!(bitmap.name == name(1) && bitmap.inconsistent && bitmap.doubt().is_some(), "{bitmap:?}");
    let refused = nest.machine.capture(nest.request(Some(3), Some(1))).await.unwrap_err();
    assert!(matches!(refused, CaptureError::BadBitmap { .. }), "{refused}");
    nest.nothing_is_left().await;
    let both = [(scsi(0), name(1)), (scsi(3), name(1)), (scsi(3), name(99))];
    nest.machine.remove_bitmaps(&both).await.unwrap();
    done(nest.capture(Some(3), None).await, &[]).await;
    assert_eq!(nest.ours().await, [(0, 3, 0), (3, 3, 0)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_under_a_capture_stay_as_they_are() {
    let Some(mut nest) = nest().await else { return };
    let mut request = nest.request(None, None);
    request.disks.pop();
    let mut capture = nest.machine.capture(request).await.unwrap();
    let again = nest.machine.capture(nest.request(None, None)).await.unwrap_err();
    assert!(matches!(again, CaptureError::Busy), "{again}");
    assert!(matches!(nest.machine.clear_captures().await, Err(CaptureError::Busy)));
    let resized = nest.machine.resize_disk(Controller::Scsi, 0, 2 * DISK_BYTES).await.unwrap_err();
    assert!(matches!(resized, MachineError::Captured { disk } if disk == scsi(0)), "{resized}");
    let removed = nest.machine.remove_disk(Controller::Scsi, 0).await.unwrap_err();
    assert!(matches!(removed, MachineError::Captured { .. }), "{removed}");
    // The others are free.
    nest.machine.resize_disk(Controller::Scsi, 3, 2 * DISK_BYTES).await.unwrap();
    add_disk(&mut nest.bench, 5, DiskFormat::Qcow2).await;
    nest.machine.add_disk(nest.bench.vm.disks.last().unwrap()).await.unwrap();
    nest.machine.reset().await.unwrap();
    nest.machine.pause().await.unwrap();
    nest.machine.cont().await.unwrap();
    holds(&nest, &capture, 0, 0, "0 64M").await.unwrap();
    capture.finish(&Outcome::Failed).await.unwrap();
    nest.machine.resize_disk(Controller::Scsi, 0, 2 * DISK_BYTES).await.unwrap();
    nest.nothing_is_left().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_machine_stays_paused_and_a_raw_disk_forgets() {
    let Some(mut bench) = bench().await else { return };
    add_disk(&mut bench, 0, DiskFormat::Raw).await;
    add_disk(&mut bench, 3, DiskFormat::Qcow2).await;
    bench.vm.disks[1].read_only = true;
    std::fs::create_dir(bench.dir.path().join("f")).unwrap();
    let nest = Nest::launch(bench).await;
    nest.guest(0, "write -P 1 0 1M").await;
    nest.machine.pause().await.unwrap();
    let mut request = nest.request(Some(1), None);
    assert!(matches!(nest.machine.capture(request.clone()).await, Err(CaptureError::ReadOnly { .. })));
    nest.nothing_is_left().await;
    request.disks[1].begin = None;
    let capture = nest.machine.capture(request).await.unwrap();
    assert_eq!(capture.stopped_for(), None);
    assert_eq!(nest.machine.run_state().await.unwrap(), RunState::Paused);
    nest.machine.cont().await.unwrap();
    nest.guest(0, "write -P 2 0 64k").await;
    holds(&nest, &capture, 0, 1, "0 1M").await.unwrap();
    holds(&nest, &capture, 3, 0, "0 64M").await.unwrap();
    done(capture, &[]).await;
    nest.nothing_is_left().await;
    let report = nest.machine.bitmaps().await.unwrap();
    assert!(!report[0].bitmaps[0].persistent && report[0].bitmaps[0].changed_bytes == KIB64);
    assert!(report[1].read_only && report[1].bitmaps.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_cannot_begin_leaves_nothing() {
    let Some(nest) = nest().await else { return };
    let mut request = nest.request(Some(1), None);
    request.fleecing.dir = nest.bench.dir.path().join("absent");
    assert!(matches!(nest.machine.capture(request.clone()).await, Err(CaptureError::Fleecing { .. })));
    request.fleecing = nest.fleecing();
    // Fails in the middle: QEMU has one server, and it is another's.
    let other = nest.bench.dir.path().join("other.sock");
    let addr = json!({"type": "unix", "data": {"path": other}});
    nest.machine.execute("nbd-server-start", json!({"addr": addr})).await.unwrap();
    let refused = nest.machine.capture(request.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("nbd-server-start"), "{refused}");
    nest.nothing_is_left().await;
    assert!(nest.ours().await.is_empty());
    assert_eq!(nest.machine.run_state().await.unwrap(), RunState::Running);
    nest.machine.execute("nbd-server-stop", json!({})).await.unwrap();
    done(nest.machine.capture(request).await.unwrap(), &[]).await;
    nest.machine.quit().await.unwrap();
    let gone = nest.machine.capture(nest.request(None, None)).await.unwrap_err();
    assert!(matches!(gone, CaptureError::Gone(_)), "{gone}");
}
