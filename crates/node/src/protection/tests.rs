//! Backups by a node, of machines without a guest: what is decided, and what is left when something goes wrong. What a
//! real guest writes is the story's (`crates/cli/tests/stories/protect.rs`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex, mpsc},
};

use nestling_block::BlockSource;
use nestling_model::{
    Operation, VmState,
    protection::{Consistency, Keep, MachineRun, NotTracked, Reading, Retention, Run, RunState},
};
use nestling_vault::{Job, PointDisk, ReadCache};

use super::*;
use crate::{
    ErrorKind, NewVm, NewVmDisk, Node, Settings,
    testing::{ME, TestHome, settings, small},
};

pub(crate) const MIB: u64 = 1 << 20;

pub(crate) fn new_repository(name: &str, place: &Path, password: &str) -> NewRepository {
    NewRepository {
        name: name.parse().unwrap(),
        location: place.to_str().unwrap().parse().unwrap(),
        secrets: Secrets { password: password.to_owned(), settings: Default::default() },
        upload_bytes_per_second_max: None,
        append_only: false,
    }
}

/// A machine `vm` with a disk of its own, and a repository `R`.
pub(crate) async fn prepare(node: &Node, vaults: &Path) {
    node.add_repository(&ME, new_repository("R", &vaults.join("r"), "hunter2")).await.unwrap();
    node.create_vm(&ME, with_disk(node, "vm")).await.unwrap();
}

pub(crate) fn image(node: &Node) -> PathBuf {
    node.home.disks().join("vm.qcow2")
}

pub(super) fn with_disk(node: &Node, name: &str) -> NewVm {
    let path = node.home.disks().join(format!("{name}.qcow2"));
    NewVm { new_disk: Some(NewVmDisk { size_bytes: 16 * MIB, path: Some(path) }), ..small(name) }
}

pub(crate) fn wish(vm: &str) -> BackupWish {
    BackupWish {
        vms: vec![vm.to_owned()],
        repository: None,
        consistency: Consistency::Crash,
        excluded_disks: Vec::new(),
        full: false,
        tags: Vec::new(),
        keep: Keep::ByRules,
        retention: None,
    }
}

pub(super) async fn ended(node: &Node, view: RunView) -> Run {
    let entry = node.protection.runs.find(&view.run.number.to_string()).unwrap();
    tokio::time::timeout(Duration::from_secs(60), entry.ended.cancelled()).await.expect("it ends");
    entry.run()
}

pub(crate) async fn backed_up(node: &Node, wish: BackupWish) -> Run {
    let begun = node.back_up(&ME, wish).await.unwrap();
    ended(node, begun).await
}

/// The one machine of a run that is good.
#[track_caller]
pub(super) fn good(run: &Run) -> &MachineRun {
    let machine = &run.machines[0];
    assert!(machine.state.is_success(), "{:?}: {:?}", machine.state, machine.reason);
    machine
}

pub(super) fn why(run: &Run) -> Option<NotTracked> {
    good(run).disks[0].reading.unwrap().why_not()
}

/// Writes into an image as some other program would.
pub(crate) fn write(image: &Path, offset: u64, byte: u8) {
    let command = format!("write -P {byte} {offset} 65536");
    let done = Command::new("qemu-io").args(["-f", "qcow2", "-c", &command]).arg(image).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

pub(crate) fn bitmaps(image: &Path) -> usize {
    let out = Command::new("qemu-img").args(["info", "-U", "--output=json"]).arg(image).output().unwrap();
    let info: serde_json::Value = serde_json::from_slice(&out.stdout).unwrap();
    info["format-specific"]["data"]["bitmaps"].as_array().map_or(0, Vec::len)
}

/// A byte of the newest point's disk.
pub(super) async fn saved_byte(node: &Node, offset: u64) -> u8 {
    saved_byte_of(node, None, offset).await
}

/// The same for one of several disks.
pub(super) async fn saved_byte_of(node: &Node, disk: Option<String>, offset: u64) -> u8 {
    let known = node.protection.repositories.find("R").unwrap();
    let vault = node.protection.repositories.open(&known).await.unwrap();
    tokio::task::spawn_blocking(move || {
        let job = Job::default();
        let point = vault.points(None, &job).unwrap().pop().unwrap();
        let index = Arc::new(vault.load_index(&job).unwrap());
        let disk =
            PointDisk::open(&vault, &index, &point, disk.as_deref(), &ReadCache::new(1 << 20)).unwrap();
        let mut byte = [0];
        disk.read_at(&mut byte, offset).unwrap();
        byte[0]
    })
    .await
    .unwrap()
}

#[test]
fn a_repository_is_made_taken_over_changed_and_forgotten() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let place = vaults.path().join("r");
    home.life(async |node| {
        let added = node.add_repository(&ME, new_repository("R", &place, "hunter2")).await.unwrap();
        assert!(added.created);
        let code = async |name: &str, place: &Path, password: &str| {
            node.add_repository(&ME, new_repository(name, place, password)).await.unwrap_err().code()
        };
        assert_eq!(code("r", &vaults.path().join("other"), "x").await, ErrorKind::Exists);
        assert_eq!(code("Other", &place, "hunter2").await, ErrorKind::Exists);
        let view = node.repository(&ME, "r").await.unwrap();
        assert_eq!(view.contents.unwrap().points, 0);
        let wrong = RepositoryChange { password: Some("wrong".into()), ..Default::default() };
        let refused = node.change_repository(&ME, "R", wrong).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::Denied);
        assert!(!refused.message().contains("hunter"), "{}", refused.message());
        let renamed = RepositoryChange { name: Some("Main".parse().unwrap()), ..Default::default() };
        assert_eq!(node.change_repository(&ME, "R", renamed).await.unwrap().name.as_str(), "Main");
    });
    home.life(async |node| {
        assert!(node.repository(&ME, "Main").await.unwrap().contents.is_ok(), "after a restart");
        node.forget_repository(&ME, "Main").await.unwrap();
        assert_eq!(fs::read_dir(node.home.secrets()).unwrap().count(), 0);
        let wrong = node.add_repository(&ME, new_repository("R", &place, "wrong")).await.unwrap_err();
        assert_eq!(wrong.code(), ErrorKind::Denied, "{}", wrong.message());
        let again = node.add_repository(&ME, new_repository("R", &place, "hunter2")).await.unwrap();
        assert!(!again.created, "the vault itself stayed");
        let away = vaults.path().join("away");
        fs::rename(&place, &away).unwrap();
        assert!(node.repository(&ME, "R").await.unwrap().contents.is_err());
        fs::rename(&away, &place).unwrap();
    });
    for file in ["nestling.db", "node.log", "nestling.db-wal"] {
        let bytes = fs::read(home.path().join(file)).unwrap_or_default();
        assert!(!bytes.windows(7).any(|w| w == b"hunter2"), "{file} has the password");
    }
}

#[test]
fn a_place_that_a_vault_would_take_for_another_is_refused() {
    let home = TestHome::new();
    home.life(async |node| {
        let mut new = new_repository("R", Path::new("/x"), "hunter2");
        new.location = "sftp:backup@host:/srv/vault".parse().unwrap();
        let refused = node.add_repository(&ME, new).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::Invalid);
        assert!(refused.message().contains("SFTP"), "{}", refused.message());
    });
}

#[test]
fn a_machine_that_is_off_is_read_once_and_then_only_what_changed() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        write(&image(&node), MIB, 7);
        let first = backed_up(&node, wish("vm")).await;
        assert_eq!(why(&first), Some(NotTracked::FirstPoint));
        assert_eq!((bitmaps(&image(&node)), saved_byte(&node, MIB).await), (1, 7));

        let second = backed_up(&node, wish("vm")).await;
        let disk = &good(&second).disks[0];
        assert!(
            matches!(disk.reading, Some(Reading::Changes { since }) if Some(since) == first.machines[0].point)
        );
        assert_eq!((disk.read_bytes, bitmaps(&image(&node))), (0, 1), "the older one went");

        // Somebody writes beside us, through a tool that records it or not.
        write(&image(&node), 2 * MIB, 9);
        let third = backed_up(&node, wish("vm")).await;
        assert_eq!((why(&third), saved_byte(&node, 2 * MIB).await), (Some(NotTracked::BitmapMissing), 9));
        assert_eq!(third.state, RunState::SucceededWithWarnings, "{:?}", third.machines[0].warnings);
        let full = backed_up(&node, BackupWish { full: true, ..wish("vm") }).await;
        assert_eq!(why(&full), Some(NotTracked::Asked));
    });
    // Also by the next node.
    home.life(async |node| {
        let next = backed_up(&node, wish("vm")).await;
        assert_eq!((why(&next), good(&next).disks[0].read_bytes, next.number), (None, 0, 5));
    });
}

#[test]
fn a_machine_that_runs_keeps_its_tracking_through_its_lives() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let operate = async |operation| drop(node.operate(&ME, "vm", operation).await.unwrap());
        operate(Operation::Start).await;
        let first = backed_up(&node, wish("vm")).await;
        assert_eq!(why(&first), Some(NotTracked::FirstPoint));
        assert_eq!(why(&backed_up(&node, wish("vm")).await), None);
        operate(Operation::TurnOff).await;
        assert_eq!(why(&backed_up(&node, wish("vm")).await), None, "off");
        operate(Operation::Start).await;
        assert_eq!(why(&backed_up(&node, wish("vm")).await), None, "on again");
        operate(Operation::Save).await;
        assert_eq!(why(&backed_up(&node, wish("vm")).await), None, "saved");
        operate(Operation::Start).await;
        assert_eq!(why(&backed_up(&node, wish("vm")).await), None, "resumed");
        home.kill_engines();
        crate::testing::reaches(&node, "vm", VmState::Off).await;
        let killed = backed_up(&node, wish("vm")).await;
        assert_eq!(why(&killed), Some(NotTracked::BitmapMissing));
        assert_eq!((why(&backed_up(&node, wish("vm")).await), bitmaps(&image(&node))), (None, 1));
    });
}

#[test]
fn another_machine_of_that_name_begins_anew() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        backed_up(&node, wish("vm")).await;
        node.remove_vm(&ME, "vm", false).await.unwrap();
        let drive = crate::NewVmDisk { size_bytes: 16 * MIB, path: Some(node.home.disks().join("b.qcow2")) };
        node.create_vm(&ME, NewVm { new_disk: Some(drive), ..small("vm") }).await.unwrap();
        let twin = backed_up(&node, wish("vm")).await;
        assert_eq!(why(&twin), Some(NotTracked::FirstPoint), "the other one's points are not its own");
        let of_name = || PointsWish { vm: Some("vm".into()), count_max: 10, ..Default::default() };
        let found = node.points(&ME, of_name()).await.unwrap();
        assert_eq!((found.points.len(), found.earlier), (1, 1));
        let earlier = PointsWish { earlier: true, ..of_name() };
        let found = node.points(&ME, earlier).await.unwrap();
        assert_eq!((found.points.len(), found.earlier, found.points[0].vm), (1, 0, None));
        let id = found.points[0].point.machine_id.unwrap().0.to_string();
        let by_id = PointsWish { vm: Some(id), ..of_name() };
        assert_eq!(node.points(&ME, by_id).await.unwrap().points, found.points);
        let all = PointsWish { count_max: 10, ..Default::default() };
        assert_eq!(node.points(&ME, all).await.unwrap().points.len(), 2);
    });
}

/// Stops at a step until it is told to go on.
pub(crate) fn held_at(step: &'static str) -> (Settings, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (reached, is_reached) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let held = Mutex::new(Some(may_go_on));
    let at_step = move |at: &'static str| {
        if at == step
            && let Some(may_go_on) = held.lock().unwrap().take()
        {
            reached.send(()).unwrap();
            // What else this thread had to do goes to others. An error means that the test is over.
            let _ = tokio::task::block_in_place(|| may_go_on.recv_timeout(Duration::from_secs(60)));
        }
    };
    (Settings { at_step: Some(Arc::new(at_step)), ..settings() }, is_reached, go_on)
}

pub(crate) async fn reached(step: mpsc::Receiver<()>) {
    tokio::task::spawn_blocking(move || step.recv_timeout(Duration::from_secs(30)).unwrap()).await.unwrap();
}

#[test]
fn a_start_ends_the_reading_and_the_backup_begins_again() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (settings, step, go_on) = held_at("instant made");
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        let begun = node.back_up(&ME, wish("vm")).await.unwrap();
        reached(step).await;
        node.operate(&ME, "vm", Operation::Start).await.unwrap();
        go_on.send(()).unwrap();
        let run = ended(&node, begun).await;
        assert_eq!(good(&run).consistency, Some(nestling_model::protection::ConsistencyReached::Crash));
        assert_eq!(node.vm(&ME, "vm").await.unwrap().vm.state, VmState::Running);
        node.operate(&ME, "vm", Operation::TurnOff).await.unwrap();
        assert_eq!(bitmaps(&image(&node)), 1, "nothing is left of the first try");
    });
}

#[test]
fn a_machine_is_renamed_and_its_disk_grows_meanwhile() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (settings, step, go_on) = held_at("instant made");
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        let begun = node.back_up(&ME, wish("vm")).await.unwrap();
        reached(step).await;
        let name = crate::VmChange { name: Some("other".parse().unwrap()), ..Default::default() };
        node.change_vm(&ME, "vm", name).await.unwrap();
        node.resize_disk(&ME, &image(&node), 32 * MIB).await.unwrap();
        go_on.send(()).unwrap();
        let run = ended(&node, begun).await;
        assert_eq!(good(&run).disks[0].total_bytes, 32 * MIB, "it began again with what there is");
        let of_name = PointsWish { vm: Some("other".into()), count_max: 10, ..Default::default() };
        assert_eq!(node.points(&ME, of_name).await.unwrap().points.len(), 1);
        assert_eq!(why(&backed_up(&node, wish("other")).await), None);
        node.resize_disk(&ME, &image(&node), 48 * MIB).await.unwrap();
        assert_eq!(why(&backed_up(&node, wish("other")).await), Some(NotTracked::SizeChanged));
    });
}

#[test]
fn what_an_engine_shows_of_an_instant_cannot_be_resized_or_detached() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (settings, step, go_on) = held_at("instant made");
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        let path = node.home.disks().join("b.qcow2");
        let kind = crate::NewDiskKind::Dynamic { size_bytes: MIB };
        node.create_disk(&ME, crate::NewDisk { path: path.clone(), kind }).await.unwrap();
        let drive =
            crate::NewDrive { path, controller: None, location: None, format: None, read_only: false };
        node.add_drive(&ME, "vm", drive).await.unwrap();
        node.operate(&ME, "vm", Operation::Start).await.unwrap();
        let begun = node.back_up(&ME, wish("vm")).await.unwrap();
        reached(step).await;
        let refused = node.resize_disk(&ME, &image(&node), 32 * MIB).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::InUse, "{}", refused.message());
        let controller = nestling_model::Controller::Scsi;
        let refused = node.remove_drive(&ME, "vm", controller, 0).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::InUse, "{}", refused.message());
        // What a machine does as a whole is not kept from it.
        node.operate(&ME, "vm", Operation::Pause).await.unwrap();
        node.operate(&ME, "vm", Operation::TurnOff).await.unwrap();
        go_on.send(()).unwrap();
        let run = ended(&node, begun).await;
        assert_eq!(good(&run).consistency, Some(nestling_model::protection::ConsistencyReached::Off));
        assert_eq!(bitmaps(&image(&node)), 1);
    });
}

#[test]
fn a_machine_that_is_removed_ends_its_backup() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (settings, step, go_on) = held_at("instant made");
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        let begun = node.back_up(&ME, wish("vm")).await.unwrap();
        reached(step).await;
        node.remove_vm(&ME, "vm", true).await.unwrap();
        assert!(!image(&node).exists());
        go_on.send(()).unwrap();
        let run = ended(&node, begun).await;
        assert_eq!(run.state, RunState::Failed);
        let reason = run.machines[0].reason.as_ref().unwrap().to_string();
        assert!(reason.contains("unable to find"), "{reason}");
        assert!(node.protection.tracking.get(run.machines[0].id).await.is_none());
    });
}

#[test]
fn a_second_run_is_refused_and_a_cancelled_one_leaves_nothing() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (settings, step, go_on) = held_at("instant made");
    home.life_with(settings, async |node| {
        prepare(&node, vaults.path()).await;
        let begun = node.back_up(&ME, wish("vm")).await.unwrap();
        reached(step).await;
        assert_eq!(node.back_up(&ME, wish("vm")).await.unwrap_err().code(), ErrorKind::InUse);
        assert_eq!(node.forget_repository(&ME, "R").await.unwrap_err().code(), ErrorKind::InUse);
        node.cancel_run(&ME, "1").await.unwrap();
        go_on.send(()).unwrap();
        let run = ended(&node, begun).await;
        assert_eq!((run.state, run.machines[0].state), (RunState::Cancelled, RunState::Cancelled));
        assert_eq!(bitmaps(&image(&node)), 0);
        assert_eq!(node.cancel_run(&ME, "1").await.unwrap_err().code(), ErrorKind::InvalidState);
        good(&backed_up(&node, wish("vm")).await);
    });
}

#[test]
fn a_repository_that_is_away_fails_the_run_and_nothing_else() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let (place, away) = (vaults.path().join("r"), vaults.path().join("away"));
        good(&backed_up(&node, wish("vm")).await);
        fs::rename(&place, &away).unwrap();
        let failed = backed_up(&node, wish("vm")).await;
        assert_eq!(failed.state, RunState::Failed);
        let reason = failed.machines[0].reason.as_ref().unwrap().to_string();
        assert!(reason.contains("repository 'R'"), "{reason}");
        fs::rename(&away, &place).unwrap();
        assert_eq!(why(&backed_up(&node, wish("vm")).await), None, "what was tracked is still known");
    });
}

#[test]
fn points_are_kept_marked_and_removed() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let points = async || {
            let all = PointsWish { count_max: 100, ..Default::default() };
            node.points(&ME, all).await.unwrap().points
        };
        good(
            &backed_up(&node, BackupWish { keep: Keep::Pinned, tags: vec!["mine".into()], ..wish("vm") })
                .await,
        );
        for _ in 0..2 {
            good(&backed_up(&node, wish("vm")).await);
        }
        let retention = Some(Retention { last: 1, ..Retention::default() });
        good(&backed_up(&node, BackupWish { retention, ..wish("vm") }).await);
        let left = points().await;
        assert_eq!(left.len(), 2, "the newest, and the one that is pinned");
        assert!(left[1].point.pinned && left[1].tags.contains(&"mine".to_owned()));

        let pinned = left[1].point.id.to_string();
        let refused = node.remove_point(&ME, &pinned[..8], None).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::InUse, "{}", refused.message());
        let unpin = PointChange { pinned: Some(false), ..PointChange::default() };
        let changed = node.change_point(&ME, &pinned[..8], None, unpin).await.unwrap();
        node.remove_point(&ME, &changed.point.id.to_string(), Some("R")).await.unwrap();
        assert_eq!(points().await.len(), 1);
        assert_eq!(node.remove_point(&ME, "00000000", None).await.unwrap_err().code(), ErrorKind::NotFound);
        for bad in ["", "x", "abc", "../../etc"] {
            assert_eq!(
                node.remove_point(&ME, bad, None).await.unwrap_err().code(),
                ErrorKind::Invalid,
                "{bad}"
            );
        }
    });
}
