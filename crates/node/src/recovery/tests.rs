//! Recovery by a node, of machines without a guest. What a real guest sees is the story's
//! (`crates/cli/tests/stories/recover.rs`).

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use nestling_model::{
    DiskFormat, Operation, Vm, VmState,
    protection::{NotTracked, RunState},
};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use super::*;
use crate::{
    AdapterChange, ErrorKind, NewAdapter, NewSwitch, Node,
    protection::tests::{MIB, backed_up, bitmaps, held_at, image, prepare, reached, wish, write},
    testing::{ME, TestHome, is_root},
};

pub(crate) fn as_new(point: &str, name: Option<&str>) -> RecoveryWish {
    let whereto = Whereto::AsNew {
        name: name.map(|name| name.parse().unwrap()),
        switches: Vec::new(),
        no_switch: false,
        format: None,
        new_identity: false,
        instant: false,
        image: None,
    };
    RecoveryWish { point: point.into(), repository: None, disks: Vec::new(), whereto, start: false }
}

pub(crate) fn in_place(point: &str) -> RecoveryWish {
    RecoveryWish { whereto: Whereto::InPlace, ..as_new(point, None) }
}

async fn ended(node: &Node, number: u64) -> Recovery {
    let entry = node.recovery.recoveries.find(&number.to_string()).unwrap();
    tokio::time::timeout(Duration::from_secs(60), entry.ended.cancelled()).await.expect("it ends");
    entry.recovery()
}

pub(crate) async fn recovered(node: &Node, wish: RecoveryWish) -> Recovery {
    let begun = node.recover(&ME, wish).await.unwrap();
    ended(node, begun.number).await
}

#[track_caller]
pub(crate) fn good(recovery: &Recovery) {
    assert!(recovery.state.is_success(), "{:?}: {:?}", recovery.state, recovery.reason);
}

/// All bytes of a disk, as a guest would see them.
pub(crate) fn bytes(image: &Path) -> Vec<u8> {
    let raw = tempfile::NamedTempFile::new().unwrap();
    let done =
        Command::new("qemu-img").args(["convert", "-O", "raw"]).arg(image).arg(raw.path()).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::read(raw.path()).unwrap()
}

async fn vm(node: &Node, name: &str) -> Vm {
    node.vm(&ME, name).await.unwrap().vm
}

/// A machine `vm` with something on its disk, and a point of it.
pub(crate) async fn backed_up_vm(node: &Node, vaults: &Path) -> Vec<u8> {
    prepare(node, vaults).await;
    write(&image(node), MIB, 7);
    write(&image(node), 5 * MIB, 8);
    assert!(backed_up(node, wish("vm")).await.state.is_success());
    bytes(&image(node))
}

#[test]
fn a_machine_comes_back_as_a_new_one_and_as_itself_when_it_is_gone() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        let then = backed_up_vm(&node, vaults.path()).await;
        let old = vm(&node, "vm").await;
        let taken = node.recover(&ME, as_new("vm@newest", None)).await.unwrap_err();
        assert_eq!(taken.code(), ErrorKind::Exists, "{}", taken.message());
        let hint = taken.hint().unwrap();
        assert!(hint.contains("--name NAME") && hint.contains("--in-place"), "{hint}");

        let twin = recovered(&node, as_new("vm@newest", Some("twin"))).await;
        good(&twin);
        let made = vm(&node, "twin").await;
        assert_eq!(bytes(&made.disks[0].path), then);
        assert_eq!((twin.disks[0].written_bytes, made.disks.len()), (256 << 10, 1));
        assert_ne!((made.id, made.adapters[0].mac), (old.id, old.adapters[0].mac));
        assert_eq!(
            (made.memory, made.processor, made.generation),
            (old.memory, old.processor, old.generation)
        );

        let removed = node.remove_vm(&ME, "vm", true).await.unwrap();
        assert_eq!(removed.disks, [image(&node)], "what went is told");
        good(&recovered(&node, as_new("vm@newest", None)).await);
        let again = vm(&node, "vm").await;
        assert_eq!((again.id, again.adapters[0].mac), (old.id, old.adapters[0].mac), "they were free");
        assert_eq!(bytes(&again.disks[0].path), then);
        let next = backed_up(&node, wish("vm")).await;
        let reading = next.machines[0].disks[0].reading.unwrap();
        assert_eq!(reading.why_not(), Some(NotTracked::Recovered), "its points are its own");
        assert_eq!(next.state, RunState::Succeeded, "that it was recovered surprises nobody");
        node.operate(&ME, "vm", Operation::Start).await.unwrap();
        node.operate(&ME, "vm", Operation::TurnOff).await.unwrap();

        let mut other = as_new("vm@newest", Some("raw"));
        if let Whereto::AsNew { format, new_identity, .. } = &mut other.whereto {
            (*format, *new_identity) = (Some(DiskFormat::Raw), true);
        }
        good(&recovered(&node, other).await);
        let raw = vm(&node, "raw").await;
        assert_eq!(fs::read(&raw.disks[0].path).unwrap(), then);
        for (name, disks) in [("twin", true), ("raw", true), ("vm", true)] {
            node.remove_vm(&ME, name, disks).await.unwrap();
        }
        assert_eq!(fs::read_dir(home.path().join("vms")).unwrap().count(), 0);
    });
}

#[test]
fn in_place_only_what_differs_is_written_and_nothing_tracked_is_believed() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        let then = backed_up_vm(&node, vaults.path()).await;
        node.operate(&ME, "vm", Operation::Start).await.unwrap();
        let refused = node.recover(&ME, in_place("vm@newest")).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::InvalidState, "{}", refused.message());
        assert_eq!(refused.hint().unwrap(), "'vm' is Running; turn it off first: nestling vm turn-off 'vm'");
        node.operate(&ME, "vm", Operation::TurnOff).await.unwrap();

        write(&image(&node), 2 * MIB, 9);
        write(&image(&node), 5 * MIB, 9);
        assert_eq!(bitmaps(&image(&node)), 1);
        let mut back = in_place("vm@newest");
        back.start = true;
        let done = recovered(&node, back).await;
        good(&done);
        assert_eq!(done.disks[0].written_bytes, 128 << 10, "one chunk differs, and one is zeroes again");
        assert_eq!(vm(&node, "vm").await.state, VmState::Running);
        node.operate(&ME, "vm", Operation::TurnOff).await.unwrap();
        assert_eq!((bytes(&image(&node)), bitmaps(&image(&node))), (then.clone(), 0));

        let next = backed_up(&node, wish("vm")).await;
        let machine = &next.machines[0];
        let why = machine.disks[0].reading.unwrap().why_not();
        assert_eq!((why, machine.new_bytes), (Some(NotTracked::Recovered), 0));
        assert_eq!(next.state, RunState::Succeeded, "{:?}", machine.warnings);
        write(&image(&node), 5 * MIB, 9);
        good(&recovered(&node, in_place(&machine.point.unwrap().to_string()[..8])).await);
        assert_eq!(bytes(&image(&node)), then);
    });
}

#[test]
fn only_the_disk_that_is_named_comes_back() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let second = node.home.disks().join("b.qcow2");
        let kind = crate::NewDiskKind::Dynamic { size_bytes: MIB };
        node.create_disk(&ME, crate::NewDisk { path: second.clone(), kind }).await.unwrap();
        let (controller, location, format) = (None, None, None);
        let drive = crate::NewDrive { path: second.clone(), controller, location, format, read_only: false };
        node.add_drive(&ME, "vm", drive).await.unwrap();
        assert!(backed_up(&node, wish("vm")).await.state.is_success());
        for image in [&image(&node), &second] {
            write(image, 0, 9);
        }
        let only = |selector: &str, wish: RecoveryWish| RecoveryWish {
            disks: vec![selector.parse().unwrap()],
            ..wish
        };
        good(&recovered(&node, only("scsi:0", in_place("vm@newest"))).await);
        assert_eq!((bytes(&second)[0], bytes(&image(&node))[0]), (0, 9));
        let one = recovered(&node, only("file:b.*", as_new("vm@newest", Some("one")))).await;
        assert_eq!((one.state, one.disks.len()), (RunState::SucceededWithWarnings, 1), "{:?}", one.warnings);
        assert_eq!(vm(&node, "one").await.disks.len(), 1);
        let none = recovered(&node, only("scsi:7", as_new("vm@newest", Some("none")))).await;
        assert!(none.reason.unwrap().as_str().contains("ide-0, scsi-0"));
        // A disk that grew since is no place for what it was.
        node.resize_disk(&ME, &second, 2 * MIB).await.unwrap();
        let grown = recovered(&node, only("scsi:0", in_place("vm@newest"))).await;
        assert_eq!(grown.state, RunState::Failed);
        node.operate(&ME, "vm", Operation::Start).await.unwrap();
    });
}

#[test]
fn a_machine_whose_recovery_was_cancelled_waits_for_the_next_one() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (settings, step, go_on) = held_at("disks taken");
    home.life_with(settings, async |node| {
        backed_up_vm(&node, vaults.path()).await;
        write(&image(&node), 5 * MIB, 9);
        let begun = node.recover(&ME, in_place("vm@newest")).await.unwrap();
        reached(step).await;
        let refused = node.operate(&ME, "vm", Operation::Start).await;
        node.cancel_recovery(&ME, &begun.number.to_string()).await.unwrap();
        go_on.send(()).unwrap();
        let cancelled = ended(&node, begun.number).await;
        assert_eq!(cancelled.state, RunState::Cancelled, "{:?}", cancelled.reason);
        assert_eq!(refused.unwrap_err().code(), ErrorKind::InUse);
        let refused = node.operate(&ME, "vm", Operation::Start).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::InvalidState, "{}", refused.message());
        assert!(refused.hint().unwrap().contains("recover vm"), "{:?}", refused.hint());
        assert_eq!(backed_up(&node, wish("vm")).await.state, RunState::Failed);
    });
    home.life(async |node| {
        let refused = node.operate(&ME, "vm", Operation::Start).await.unwrap_err();
        assert_eq!(refused.code(), ErrorKind::InvalidState, "after a restart: {}", refused.message());
        good(&recovered(&node, in_place("vm@newest")).await);
        node.operate(&ME, "vm", Operation::Start).await.unwrap();
        node.operate(&ME, "vm", Operation::TurnOff).await.unwrap();
        assert_eq!(bytes(&image(&node))[5 * MIB as usize], 8);
        node.remove_vm(&ME, "vm", true).await.unwrap();
        assert!(node.recoveries(&ME).await.unwrap().len() == 2);
    });
}

/// Files of packs, with their sizes.
fn packs(vaults: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for dir in fs::read_dir(vaults.join("r/data")).unwrap().flatten() {
        found.extend(fs::read_dir(dir.path()).unwrap().flatten().map(|file| file.path()));
    }
    found
}

#[test]
fn a_damaged_point_is_named_and_the_others_come_back() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        backed_up_vm(&node, vaults.path()).await;
        let before = packs(vaults.path());
        write(&image(&node), 9 * MIB, 9);
        let second = backed_up(&node, wish("vm")).await.machines[0].point.unwrap().to_string();
        for pack in packs(vaults.path()).into_iter().filter(|pack| !before.contains(pack)) {
            let length = fs::metadata(&pack).unwrap().len() as usize;
            let mut mode = fs::metadata(&pack).unwrap().permissions();
            std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o600);
            fs::set_permissions(&pack, mode).unwrap();
            fs::write(&pack, vec![0x55; length]).unwrap();
        }
        for wish in [as_new("vm@newest", Some("a")), in_place("vm@newest")] {
            let failed = recovered(&node, wish).await;
            let reason = failed.reason.unwrap().to_string();
            assert!(failed.state == RunState::Failed && reason.contains(&second[..8]), "{reason}");
            assert!(reason.contains("is damaged"), "{reason}");
        }
        assert!(node.vm(&ME, "a").await.is_err());
        let points = crate::PointsWish { count_max: 10, ..Default::default() };
        let first = node.points(&ME, points).await.unwrap().points[1].point.id.to_string();
        good(&recovered(&node, as_new(&format!("vm@{first}"), Some("a"))).await);
        good(&recovered(&node, in_place(&first[..10])).await);
        node.operate(&ME, "vm", Operation::Start).await.unwrap();
    });
}

/// What mounts here is seen by this thread and those that it starts, and by nobody else.
fn small_file_system(dir: &Path) {
    // SAFETY: only this thread changes its namespace; threads that it starts later share the new one.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
    for arguments in
        [vec!["--make-rprivate", "/"], vec!["-t", "tmpfs", "-o", "size=6m", "tmpfs", dir.to_str().unwrap()]]
    {
        assert!(Command::new("mount").args(&arguments).status().unwrap().success(), "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_is_left() {
    if !is_root() {
        return;
    }
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let all =
            Command::new("qemu-io").args(["-c", "write -P 7 0 12M"]).arg(image(&node)).output().unwrap();
        assert!(all.status.success());
        assert!(backed_up(&node, wish("vm")).await.state.is_success());
    });
    let vms = home.path().join("vms");
    small_file_system(&vms);
    home.life(async |node| {
        let failed = recovered(&node, as_new("vm@newest", Some("a"))).await;
        let reason = failed.reason.unwrap().to_string();
        assert!(reason.contains("no space left"), "{reason}");
        assert_eq!(fs::read_dir(&vms).unwrap().count(), 0);
        assert!(node.vm(&ME, "a").await.is_err());
    });
    assert!(Command::new("umount").arg(&vms).status().unwrap().success());
}

#[test]
fn adapters_find_their_switches() {
    if !is_root() {
        return;
    }
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        prepare(&node, vaults.path()).await;
        let switch = async |name: &str| {
            let kind = nestling_model::SwitchKind::Private;
            node.create_switch(&ME, NewSwitch { name: name.parse().unwrap(), kind, notes: String::new() })
                .await
                .unwrap()
        };
        switch("LAN").await;
        switch("Lab").await;
        let lan = NewAdapter { switch: Some("LAN".into()), ..NewAdapter::default() };
        node.add_adapter(&ME, "vm", lan).await.unwrap();
        assert!(backed_up(&node, wish("vm")).await.state.is_success());
        let plugged = async |name: &str, mapped: &[(&str, &str)], none: bool| {
            let mut wish = as_new("vm@newest", Some(name));
            if let Whereto::AsNew { switches, no_switch, .. } = &mut wish.whereto {
                let mapping =
                    |(from, to): &(&str, &str)| SwitchMapping { from: (*from).into(), to: (*to).into() };
                (*switches, *no_switch) = (mapped.iter().map(mapping).collect(), none);
            }
            let done = recovered(&node, wish).await;
            let view = node.vm(&ME, name).await;
            let switches =
                view.map(|v| v.adapters.into_iter().map(|a| a.switch.map(String::from)).collect::<Vec<_>>());
            (done, switches.unwrap_or_default())
        };
        assert_eq!(plugged("same", &[], false).await.1, [None, Some("LAN".to_owned())]);
        assert_eq!(plugged("mapped", &[("lan", "lab")], false).await.1, [None, Some("Lab".to_owned())]);
        assert_eq!(plugged("none", &[], true).await.1, [None, None]);
        let (slip, _) = plugged("slip", &[("wan", "lab")], false).await;
        assert!(slip.reason.unwrap().as_str().contains("plugged into \"wan\""));
        for vm in ["vm", "same"] {
            let id = node.vm(&ME, vm).await.unwrap().adapters[1].adapter.id;
            let out = AdapterChange { switch: Some(None), ..AdapterChange::default() };
            node.change_adapter(&ME, vm, id, out).await.unwrap();
        }
        node.remove_switch(&ME, "LAN").await.unwrap();
        let (gone, switches) = plugged("gone", &[], false).await;
        assert_eq!((gone.state, switches), (RunState::SucceededWithWarnings, vec![None, None]));
        assert!(gone.warnings.messages()[0].as_str().contains("no switch \"LAN\""), "{:?}", gone.warnings);
    });
}

#[test]
fn a_machine_that_took_the_name_of_another_one_hides_no_points() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        let then = backed_up_vm(&node, vaults.path()).await;
        let anew = async || {
            node.remove_vm(&ME, "vm", true).await.unwrap();
            node.create_vm(&ME, crate::testing::small("vm")).await.unwrap();
        };
        anew().await;
        let refused = node.recover(&ME, as_new("vm@newest", Some("x"))).await.unwrap_err();
        let (message, hint) = (refused.message(), refused.hint().unwrap());
        assert_eq!(message, "there is no recovery point of 'vm'; one is of an earlier machine of that name");
        assert!(refused.code() == ErrorKind::NotFound && hint.contains("vm@earlier"), "{hint}");
        good(&recovered(&node, as_new("vm@earlier", Some("was"))).await);
        let was = vm(&node, "was").await;
        assert_eq!(bytes(&was.disks[0].path), then);
        let (_, point) = node.choose_point("vm@earlier", None).await.unwrap();
        let (_, same) = node.choose_point(&format!("{}@newest", was.id.0), None).await.unwrap();
        let digits = &point.id.to_string()[..8];
        let (_, named) = node.choose_point(&format!("vm@{digits}"), None).await.unwrap();
        assert_eq!((same.id, named.id), (point.id, point.id));

        // Of two earlier ones none is chosen.
        let drive = crate::NewDisk {
            path: node.home.disks().join("c.qcow2"),
            kind: crate::NewDiskKind::Dynamic { size_bytes: MIB },
        };
        node.create_disk(&ME, drive).await.unwrap();
        let (controller, location, format) = (None, None, None);
        let path = node.home.disks().join("c.qcow2");
        let drive = crate::NewDrive { path, controller, location, format, read_only: false };
        node.add_drive(&ME, "vm", drive).await.unwrap();
        assert!(backed_up(&node, wish("vm")).await.state.is_success());
        anew().await;
        let two = node.choose_point("vm@earlier", None).await.err().unwrap();
        assert!(two.message().contains("2 earlier machines"), "{}", two.message());
    });
}

#[test]
fn points_are_named_in_three_ways_and_what_names_none_is_refused() {
    let (home, vaults) = (TestHome::new(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        backed_up_vm(&node, vaults.path()).await;
        let id = backed_up(&node, wish("vm")).await.machines[0].point.unwrap().to_string();
        for text in ["vm@newest", "VM@latest", &id[..6], &format!("vm@{}", &id[..6])] {
            let (_, point) = node.choose_point(text, None).await.unwrap();
            assert_eq!(point.id.to_string(), id, "{text}");
        }
        for (text, code) in [
            ("other@newest", ErrorKind::NotFound),
            (&format!("other@{}", &id[..6]), ErrorKind::NotFound),
            ("vm@00000000", ErrorKind::NotFound),
            ("vm@", ErrorKind::Invalid),
            ("vm", ErrorKind::Invalid),
            ("", ErrorKind::Invalid),
        ] {
            let refused = node.recover(&ME, as_new(text, Some("x"))).await.unwrap_err();
            assert_eq!(refused.code(), code, "{text}: {}", refused.message());
        }
    });
}
