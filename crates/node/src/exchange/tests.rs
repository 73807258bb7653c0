//! Exchange by a node, of machines without a guest. What a real guest sees is the story's
//! (`crates/cli/tests/stories/exchange.rs`).

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

use nestling_hypervisor::disk::ImageFormat;
use nestling_model::{Controller, DiskFormat, Operation, Vm};

use super::*;
use crate::{
    ErrorKind, NewSwitch, Node, NodeError,
    protection::tests::{MIB, write},
    recovery::{
        RecoveryWish, SwitchMapping, Whereto,
        tests::{as_new, backed_up_vm, bytes, good, recovered},
    },
    testing::{ME, TestHome, eventually, is_root},
};

pub(crate) fn wish(path: &Path) -> ImportWish {
    ImportWish {
        path: path.to_owned(),
        disks: Vec::new(),
        name: None,
        switches: Vec::new(),
        no_switch: false,
        new_identity: false,
        image: None,
    }
}

/// The machine, and what was told of what it lacks.
pub(crate) async fn imported(node: &Node, wish: ImportWish) -> Result<(Vm, Vec<String>), NodeError> {
    let mut steps = node.import_vm(&ME, wish).await?;
    let mut warnings = Vec::new();
    loop {
        match steps.recv().await.expect("it has an end") {
            ExchangeStep::Progress { done, total, .. } => assert!(done <= total),
            ExchangeStep::Warning(warning) => warnings.push(warning),
            ExchangeStep::Done(view) => return Ok((view.vm, warnings)),
            ExchangeStep::Failed(error) => return Err(error),
        }
    }
}

/// How an export ended.
async fn ended(mut steps: tokio::sync::mpsc::Receiver<ExchangeStep>) -> Result<(), NodeError> {
    loop {
        match steps.recv().await.expect("it has an end") {
            ExchangeStep::Done(_) => return Ok(()),
            ExchangeStep::Failed(error) => return Err(error),
            _ => {}
        }
    }
}

/// A folder with a description for libvirt, whose machine has one disk.
pub(crate) fn domain(dir: &Path, disk: &str, format: &str) -> PathBuf {
    let path = dir.join("m.xml");
    let text = format!(
        "<domain><name>theirs</name><uuid>282874fc-59d6-4f30-bc04-5fdd909c82e0</uuid><memory unit='MiB'>32</memory>
        <vcpu>1</vcpu><devices><disk type='file'><driver type='{format}'/><source file='/elsewhere/{disk}'/>
        <target dev='hda' bus='ide'/></disk><interface type='network'><mac address='52:54:00:01:02:03'/>
        <source network='LAN'/></interface><hostdev/></devices></domain>"
    );
    fs::write(&path, text).unwrap();
    path
}

fn qemu_img(args: &[&str]) {
    let ran = Command::new("qemu-img").args(args).output().unwrap();
    assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Nothing but what was there before.
fn nothing_is_left(home: &TestHome) {
    assert_eq!(fs::read_dir(home.path().join("vms")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(home.path().join("read")).unwrap().count(), 0);
}

/// A sample of the collection beside the project, unpacked. None is told as skipped.
fn sample(name: &str, to: &Path) -> Option<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/disk").join(name);
    if !path.exists() {
        let mut error = std::io::stderr();
        let _ = writeln!(error, "skipped: {name} is not there");
        return None;
    }
    if !name.ends_with(".gz") {
        fs::copy(path, to).unwrap();
        return Some(());
    }
    let unpacked = Command::new("gzip").arg("-dc").arg(path).output().unwrap();
    fs::write(to, unpacked.stdout).unwrap();
    Some(())
}

#[test]
fn a_point_goes_out_in_every_format_and_comes_in_again() {
    let (home, vaults, out) = (TestHome::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        let then = backed_up_vm(&node, vaults.path()).await;
        let old = node.vm(&ME, "vm").await.unwrap().vm;
        for format in [ImageFormat::Raw, ImageFormat::Qcow2, ImageFormat::Vhdx, ImageFormat::Vmdk] {
            let folder = out.path().join(format.as_str());
            let whereto = Whereto::Folder { folder: folder.clone(), format };
            let export = || RecoveryWish { whereto: whereto.clone(), ..as_new("vm@newest", None) };
            let done = recovered(&node, export()).await;
            good(&done);
            let disk = folder.join(format!("ide-0.{format}"));
            assert_eq!(done.disks[0].path, disk);
            assert_eq!(bytes(&disk), then, "{format}, as QEMU reads it");
            let twice = node.recover(&ME, export()).await.unwrap_err();
            assert_eq!(twice.code(), ErrorKind::Exists, "{}", twice.message());

            for description in ["machine.ovf", "machine.xml"] {
                let name = Some("back".parse().unwrap());
                let new_identity = true;
                let wish = ImportWish { name, new_identity, ..wish(&folder.join(description)) };
                let (vm, warnings) = imported(&node, wish).await.unwrap();
                assert_eq!(bytes(&vm.disks[0].path), then, "{format}, {description}");
                let what =
                    |vm: &Vm| (vm.memory.clone(), vm.processor.clone(), vm.generation, vm.disks[0].location);
                assert_eq!(what(&vm), what(&old), "{format}, {description}");
                assert!(warnings.is_empty(), "{warnings:?}");
                node.remove_vm(&ME, "back", true).await.unwrap();
            }
        }
        // A folder has both: the one that says more counts, and the machine is here.
        let here = imported(&node, wish(&out.path().join("raw"))).await.unwrap_err();
        assert!(here.message().contains("is here already"), "{}", here.message());
        node.remove_vm(&ME, "vm", true).await.unwrap();
        let (vm, _) = imported(&node, wish(&out.path().join("raw"))).await.unwrap();
        assert_eq!(
            (vm.id, vm.adapters[0].mac, bytes(&vm.disks[0].path) == then),
            (old.id, old.adapters[0].mac, true)
        );
        assert_eq!(fs::read_dir(out.path()).unwrap().count(), 4, "nothing half made");
    });
}

#[test]
fn a_machine_of_hyper_v_comes_in() {
    let (home, dir) = (TestHome::new(), tempfile::tempdir().unwrap());
    let (machines, disks) = (dir.path().join("Virtual Machines"), dir.path().join("Virtual Hard Disks"));
    [&machines, &disks].iter().for_each(|dir| fs::create_dir(dir).unwrap());
    let disk = disks.join("Other Location.vhdx");
    let Some(()) = sample("test.vmcx", &machines.join("1.vmcx")) else { return };
    let Some(()) = sample("dynamic.vhdx.gz", &disk) else { return };
    home.life(async |node| {
        let (vm, warnings) = imported(&node, wish(dir.path())).await.unwrap();
        assert_eq!(
            (vm.name.as_str(), vm.processor.count, vm.memory.startup_bytes),
            ("Other Location", 1, 1 << 30)
        );
        assert_eq!(vm.id.0.to_string(), "282874fc-59d6-4f30-bc04-5fdd909c82e0");
        let made = &vm.disks[0];
        assert_eq!((made.controller, made.location, made.format), (Controller::Ide, 0, DiskFormat::Qcow2));
        assert_eq!(bytes(&made.path), bytes(&disk));
        assert_eq!((vm.adapters.len(), warnings), (1, Vec::new()));
        node.remove_vm(&ME, "Other Location", true).await.unwrap();
        // Another checkpoint's disk, whose parent is nowhere.
        sample("differencing.avhdx.gz", &disk).unwrap();
        let lost = imported(&node, wish(dir.path())).await.unwrap_err();
        assert!(lost.message().contains("the parent of"), "{}", lost.message());
        fs::remove_file(&disk).unwrap();
        let absent = imported(&node, wish(dir.path())).await.unwrap_err();
        assert_eq!(absent.code(), ErrorKind::NotFound);
        assert!(absent.message().contains("Other Location.vhdx"), "{}", absent.message());
        nothing_is_left(&home);
    });
}

#[test]
fn chains_become_one_and_lead_nowhere_else() {
    let (home, dir) = (TestHome::new(), tempfile::tempdir().unwrap());
    let path = |name: &str| dir.path().join(name);
    ["in", "out"].iter().for_each(|name| fs::create_dir(path(name)).unwrap());
    for folder in ["in", "out"] {
        let base = path(folder).join("base.qcow2");
        qemu_img(&["create", "-q", "-f", "qcow2", text(&base), "4M"]);
        write(&base, MIB, 7);
    }
    let top = path("in/top.qcow2");
    let over = |base: &Path| {
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", text(base), text(&top)]);
    };
    over(&path("in/base.qcow2"));
    write(&top, 2 * MIB, 8);
    let then = bytes(&top);
    home.life(async |node| {
        let described = domain(&path("in"), "top.qcow2", "qcow2");
        let (vm, warnings) = imported(&node, wish(&described)).await.unwrap();
        assert_eq!(bytes(&vm.disks[0].path), then);
        assert!(warnings.iter().any(|w| w.contains("device hostdev")) && warnings.len() == 2, "{warnings:?}");
        assert!(warnings.iter().any(|w| w.contains("no switch \"LAN\"")), "{warnings:?}");
        node.remove_vm(&ME, "theirs", true).await.unwrap();
        fs::remove_file(&top).unwrap();
        over(&path("out/base.qcow2"));
        fs::remove_file(path("in/base.qcow2")).unwrap();
        let outside = imported(&node, wish(&described)).await.unwrap_err();
        assert_eq!(outside.code(), ErrorKind::Failed, "{}", outside.message());
        assert!(outside.hint().unwrap().contains("--disks"));
        nothing_is_left(&home);
        let allowed = ImportWish { disks: vec![path("out")], ..wish(&described) };
        imported(&node, allowed).await.unwrap();
        // What is only guessed is not followed.
        fs::rename(&top, path("in/disk.img")).unwrap();
        let text = fs::read_to_string(domain(&path("in"), "disk.img", "raw")).unwrap();
        fs::write(&described, text.replace("<driver type='raw'/>", "").replace("theirs", "other")).unwrap();
        let guessed = ImportWish { disks: vec![path("out")], new_identity: true, ..wish(&described) };
        assert!(imported(&node, guessed).await.is_err());
    });
}

#[test]
fn adapters_are_plugged_in_where_the_mapping_says() {
    if !is_root() {
        return;
    }
    let (home, dir) = (TestHome::new(), tempfile::tempdir().unwrap());
    fs::write(dir.path().join("d.img"), [1_u8; 4096]).unwrap();
    let described = domain(dir.path(), "d.img", "raw");
    home.life(async |node| {
        let switch = NewSwitch {
            name: "Lab".parse().unwrap(),
            kind: nestling_model::SwitchKind::Private,
            notes: String::new(),
        };
        node.create_switch(&ME, switch).await.unwrap();
        let mapped = |from: &str, to: &str| ImportWish {
            switches: vec![SwitchMapping { from: from.into(), to: to.into() }],
            ..wish(&described)
        };
        for (from, to) in [("LAN", "None"), ("WAN", "Lab")] {
            assert_eq!(imported(&node, mapped(from, to)).await.unwrap_err().code(), ErrorKind::NotFound);
        }
        nothing_is_left(&home);
        let (vm, _) = imported(&node, mapped("lan", "lab")).await.unwrap();
        assert!(vm.adapters[0].switch.is_some());
        assert_eq!(
            (vm.adapters[0].mac.to_string().as_str(), vm.adapters[0].mac_dynamic),
            ("52:54:00:01:02:03", false)
        );
    });
}

#[test]
fn what_nobody_waits_for_leaves_nothing() {
    let (home, dir) = (TestHome::new(), tempfile::tempdir().unwrap());
    fs::write(dir.path().join("d.img"), vec![7_u8; 64 << 20]).unwrap();
    let described = domain(dir.path(), "d.img", "raw");
    home.life(async |node| {
        let steps = node.import_vm(&ME, wish(&described)).await.unwrap();
        drop(steps);
        // The name is taken until the first has ended; had it come to its end, it would stay so.
        eventually(async || imported(&node, wish(&described)).await.is_ok()).await;
        assert_eq!(node.vms(&ME).await.unwrap().len(), 1);
        assert_eq!(fs::read_dir(home.path().join("vms")).unwrap().count(), 1);
    });
}

#[test]
fn a_machine_that_is_off_goes_out_and_a_start_ends_that() {
    let (home, vaults, out) = (TestHome::new(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    home.life(async |node| {
        let now = backed_up_vm(&node, vaults.path()).await;
        let export = |name: &str| ExportWish { folder: out.path().join(name), format: ImageFormat::Vmdk };
        ended(node.export_vm(&ME, "vm", export("a")).await.unwrap()).await.unwrap();
        assert_eq!(bytes(&out.path().join("a/ide-0.vmdk")), now);
        let twin = ImportWish {
            name: Some("twin".parse().unwrap()),
            new_identity: true,
            ..wish(&out.path().join("a/machine.ovf"))
        };
        assert_eq!(bytes(&imported(&node, twin).await.unwrap().0.disks[0].path), now);
        let twice = ended(node.export_vm(&ME, "vm", export("a")).await.unwrap()).await.unwrap_err();
        assert_eq!(twice.code(), ErrorKind::Exists, "{}", twice.message());

        // What holds the disks gives way to whoever needs them.
        let leaving = node.vms.find("vm").unwrap().serve_disks().await.unwrap();
        let busy = ended(node.export_vm(&ME, "vm", export("b")).await.unwrap()).await.unwrap_err();
        assert_eq!(busy.code(), ErrorKind::InUse, "{}", busy.message());
        node.operate(&ME, "vm", Operation::Start).await.unwrap();
        assert!(leaving.reading.ended().is_some());
        let on = ended(node.export_vm(&ME, "vm", export("b")).await.unwrap()).await.unwrap_err();
        assert_eq!(on.code(), ErrorKind::InvalidState, "{}", on.message());
        // Nor is what runs imported.
        fs::copy(domain(out.path(), "vm.qcow2", "qcow2"), home.path().join("disks/m.xml")).unwrap();
        let in_use = imported(&node, wish(&home.path().join("disks/m.xml"))).await.unwrap_err();
        assert_eq!(in_use.code(), ErrorKind::InUse, "{}", in_use.message());
        node.operate(&ME, "vm", Operation::TurnOff).await.unwrap();
        let left: Vec<_> =
            fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "a" || name == "m.xml"), "{left:?}");
    });
}
