use nestling_model::{Controller, DiskFormat, Operation};

use super::*;
use crate::{
    ErrorKind, NewDrive, NewVm, NewVmDisk,
    testing::{ME, TestHome, small},
};

fn dynamic(path: PathBuf, size_bytes: u64) -> NewDisk {
    NewDisk { path, kind: NewDiskKind::Dynamic { size_bytes } }
}

fn drive(path: &Path) -> NewDrive {
    NewDrive { path: path.to_owned(), controller: None, location: None, format: None, read_only: false }
}

#[test]
fn disks_of_each_kind_are_made_and_described() {
    let home = TestHome::new();
    home.life(async |node| {
        let dir = node.home.disks();
        let path = |name: &str| dir.join(name);
        let parent = node.create_disk(&ME, dynamic(path("parent.qcow2"), 4 << 20)).await.unwrap();
        assert_eq!((parent.kind, parent.size_bytes, parent.vm), (DiskKind::Dynamic, 4 << 20, None));
        let fixed = NewDiskKind::Fixed { size_bytes: 4 << 20 };
        let fixed = node.create_disk(&ME, NewDisk { path: path("fixed.qcow2"), kind: fixed }).await.unwrap();
        assert_eq!(fixed.kind, DiskKind::Fixed);
        let kind = NewDiskKind::Differencing { parent: path("parent.qcow2"), size_bytes: None };
        let child = node.create_disk(&ME, NewDisk { path: path("child.qcow2"), kind }).await.unwrap();
        assert_eq!((child.kind, child.parent), (DiskKind::Differencing, Some(path("parent.qcow2"))));
        let code = |new| async { node.create_disk(&ME, new).await.unwrap_err().code() };
        assert_eq!(code(dynamic(path("parent.qcow2"), 4 << 20)).await, ErrorKind::Exists);
        assert_eq!(code(dynamic(path("small.qcow2"), 0)).await, ErrorKind::Invalid);
        let kind = NewDiskKind::Differencing { parent: path("nosuch.qcow2"), size_bytes: None };
        assert_eq!(code(NewDisk { path: path("orphan.qcow2"), kind }).await, ErrorKind::NotFound);
        assert_eq!(node.disk(&ME, &path("nosuch.qcow2")).await.unwrap_err().code(), ErrorKind::NotFound);
        let larger = node.resize_disk(&ME, &path("parent.qcow2"), 8 << 20).await.unwrap();
        assert_eq!(larger.size_bytes, 8 << 20);
        let smaller = node.resize_disk(&ME, &path("parent.qcow2"), 4 << 20).await.unwrap_err();
        assert_eq!(smaller.code(), ErrorKind::Invalid);
    });
}

#[test]
fn a_disk_belongs_to_one_machine_and_grows_while_it_runs() {
    let home = TestHome::new();
    home.life(async |node| {
        let path = node.home.disks().join("a.qcow2");
        node.create_disk(&ME, dynamic(path.clone(), 4 << 20)).await.unwrap();
        for vm in ["one", "two"] {
            node.create_vm(&ME, small(vm)).await.unwrap();
        }
        node.operate(&ME, "one", Operation::Start).await.unwrap();
        let added = node.add_drive(&ME, "one", drive(&path)).await.unwrap();
        assert_eq!(
            (added.controller, added.location, added.format),
            (Controller::Scsi, 0, DiskFormat::Qcow2)
        );
        let in_use = node.add_drive(&ME, "two", drive(&path)).await.unwrap_err();
        assert_eq!(
            in_use.message(),
            format!("the disk {} is in use by virtual machine 'one'", path.display())
        );
        assert_eq!(in_use.code(), ErrorKind::InUse);
        let link = node.home.disks().join("link.qcow2");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(node.add_drive(&ME, "two", drive(&link)).await.unwrap_err().code(), ErrorKind::InUse);
        let new = NewVm { disk_path: Some(path.clone()), ..small("three") };
        assert_eq!(node.create_vm(&ME, new).await.unwrap_err().code(), ErrorKind::InUse);
        let grown = node.resize_disk(&ME, &path, 8 << 20).await.unwrap();
        assert_eq!((grown.size_bytes, grown.vm.unwrap().as_str()), (8 << 20, "one"));
        let taken = NewDrive { controller: Some(Controller::Ide), ..drive(&link) };
        assert!(node.add_drive(&ME, "one", taken).await.is_err());
        node.operate(&ME, "one", Operation::TurnOff).await.unwrap();
        node.remove_drive(&ME, "one", Controller::Scsi, 0).await.unwrap();
        let nothing = node.remove_drive(&ME, "one", Controller::Scsi, 0).await.unwrap_err();
        assert_eq!(nothing.code(), ErrorKind::NotFound);
        node.add_drive(&ME, "two", drive(&path)).await.unwrap();
    });
}

#[test]
fn a_machines_disks_go_with_it_only_when_asked() {
    let home = TestHome::new();
    home.life(async |node| {
        let with_disk = |vm: &str| {
            let disk = NewVmDisk { size_bytes: 4 << 20, path: None };
            NewVm { new_disk: Some(disk), ..small(vm) }
        };
        let kept = node.create_vm(&ME, with_disk("kept")).await.unwrap().vm.disks[0].clone();
        assert_eq!((kept.controller, kept.location), (Controller::Ide, 0));
        node.operate(&ME, "kept", Operation::Start).await.unwrap();
        node.operate(&ME, "kept", Operation::TurnOff).await.unwrap();
        node.remove_vm(&ME, "kept", false).await.unwrap();
        assert!(kept.path.exists());
        let lost = node.create_vm(&ME, with_disk("lost")).await.unwrap().vm.disks[0].clone();
        node.remove_vm(&ME, "lost", true).await.unwrap();
        assert!(!lost.path.exists());
        let again = NewVm { disk_path: Some(kept.path.clone()), ..small("again") };
        assert_eq!(node.create_vm(&ME, again).await.unwrap().vm.disks[0].path, kept.path);
    });
}

#[test]
fn a_disk_that_is_missing_or_damaged_stops_the_start_with_the_reason() {
    let home = TestHome::new();
    home.life(async |node| {
        let disk = NewVmDisk { size_bytes: 4 << 20, path: None };
        let new = NewVm { new_disk: Some(disk), ..small("vm") };
        let path = node.create_vm(&ME, new).await.unwrap().vm.disks[0].path.clone();
        std::fs::rename(&path, path.with_extension("away")).unwrap();
        let refused = node.operate(&ME, "vm", Operation::Start).await.unwrap_err().message();
        assert!(refused.starts_with("'vm' failed to start.") && refused.contains("disk.qcow2"), "{refused}");
        std::fs::write(&path, "no image at all").unwrap();
        let refused = node.operate(&ME, "vm", Operation::Start).await.unwrap_err().message();
        assert!(refused.contains("disk.qcow2"), "{refused}");
        assert!(home.engines().is_empty());
        std::fs::rename(path.with_extension("away"), &path).unwrap();
        node.operate(&ME, "vm", Operation::Start).await.unwrap();
    });
}

/// What a machine writes to a parent destroys every disk on top of it, also while nothing runs.
#[test]
fn nobody_writes_to_the_parent_of_a_disk_in_use() {
    let home = TestHome::new();
    home.life(async |node| {
        let path = |name: &str| node.home.disks().join(name);
        node.create_disk(&ME, dynamic(path("base.qcow2"), 4 << 20)).await.unwrap();
        for (child, parent) in [("a.qcow2", "base.qcow2"), ("b.qcow2", "a.qcow2"), ("c.qcow2", "base.qcow2")]
        {
            let kind = NewDiskKind::Differencing { parent: path(parent), size_bytes: None };
            node.create_disk(&ME, NewDisk { path: path(child), kind }).await.unwrap();
        }
        for vm in ["one", "two"] {
            node.create_vm(&ME, small(vm)).await.unwrap();
        }
        node.add_drive(&ME, "one", drive(&path("b.qcow2"))).await.unwrap();
        std::fs::hard_link(path("base.qcow2"), path("hard.qcow2")).unwrap();
        std::fs::hard_link(path("b.qcow2"), path("again.qcow2")).unwrap();
        let refused = async |name: &str| node.add_drive(&ME, "two", drive(&path(name))).await.unwrap_err();
        let is_parent = refused("base.qcow2").await;
        assert_eq!(
            is_parent.message(),
            format!(
                "the disk {} is a parent of the differencing disk {}, which virtual machine 'one' has; \
                 writing to the parent would destroy it",
                path("base.qcow2").display(),
                path("b.qcow2").display()
            )
        );
        assert_eq!(is_parent.code(), ErrorKind::InUse);
        for linked in ["a.qcow2", "hard.qcow2", "again.qcow2"] {
            assert_eq!(refused(linked).await.code(), ErrorKind::InUse, "{linked}");
        }
        let new = NewVm { disk_path: Some(path("hard.qcow2")), ..small("three") };
        assert_eq!(node.create_vm(&ME, new).await.unwrap_err().code(), ErrorKind::InUse);
        let larger = node.resize_disk(&ME, &path("hard.qcow2"), 8 << 20).await.unwrap_err();
        assert_eq!(larger.code(), ErrorKind::InUse);
        // Siblings share their parent, and it may be read.
        node.add_drive(&ME, "two", drive(&path("c.qcow2"))).await.unwrap();
        let reader = NewDrive { read_only: true, ..drive(&path("base.qcow2")) };
        node.add_drive(&ME, "two", reader).await.unwrap();
        for vm in ["one", "two"] {
            node.operate(&ME, vm, Operation::Start).await.unwrap();
            node.operate(&ME, vm, Operation::TurnOff).await.unwrap();
        }
        // The other way round: who writes comes first.
        node.remove_vm(&ME, "one", false).await.unwrap();
        node.remove_vm(&ME, "two", false).await.unwrap();
        node.create_vm(&ME, NewVm { disk_path: Some(path("base.qcow2")), ..small("writer") }).await.unwrap();
        let new = NewVm { disk_path: Some(path("c.qcow2")), ..small("child") };
        let written = node.create_vm(&ME, new).await.unwrap_err();
        assert_eq!(
            written.message(),
            format!(
                "the disk {} is a differencing disk of {}, which virtual machine 'writer' writes to",
                path("c.qcow2").display(),
                path("base.qcow2").display()
            )
        );
    });
}

#[test]
fn two_machines_that_ask_at_once_cannot_have_both_a_disk_and_its_parent() {
    let home = TestHome::new();
    home.life(async |node| {
        let path = |name: &str| node.home.disks().join(name);
        node.create_disk(&ME, dynamic(path("base.qcow2"), 4 << 20)).await.unwrap();
        let kind = NewDiskKind::Differencing { parent: path("base.qcow2"), size_bytes: None };
        node.create_disk(&ME, NewDisk { path: path("child.qcow2"), kind }).await.unwrap();
        for vm in ["one", "two"] {
            node.create_vm(&ME, small(vm)).await.unwrap();
        }
        let (one, two) = tokio::join!(
            node.add_drive(&ME, "one", drive(&path("base.qcow2"))),
            node.add_drive(&ME, "two", drive(&path("child.qcow2")))
        );
        assert!(!(one.is_ok() && two.is_ok()));
    });
}

/// Definitions from before this was looked at may have both.
#[test]
fn a_disk_that_others_stand_on_stays_when_its_machine_goes() {
    let home = TestHome::new();
    let path = home.life(async |node| {
        let disk = NewVmDisk { size_bytes: 4 << 20, path: None };
        let new = NewVm { new_disk: Some(disk), ..small("vm") };
        let disk = node.create_vm(&ME, new).await.unwrap().vm.disks[0].clone();
        let child = node.home.disks().join("child.qcow2");
        let kind = NewDiskKind::Differencing { parent: disk.path.clone(), size_bytes: None };
        node.create_disk(&ME, NewDisk { path: child.clone(), kind }).await.unwrap();
        let mut other = node.create_vm(&ME, small("other")).await.unwrap().vm;
        other.disks.push(nestling_model::Disk { path: child, ..disk.clone() });
        node.keeper.put(&other).await.unwrap();
        disk.path
    });
    home.life(async |node| {
        let mut events = node.events.subscribe();
        node.remove_vm(&ME, "vm", true).await.unwrap();
        assert!(path.exists());
        let warned = std::iter::from_fn(|| events.try_recv().ok())
            .find(|event| event.kind == nestling_model::EventKind::Warning)
            .unwrap();
        assert!(warned.message.contains("is a parent of the differencing disk"), "{}", warned.message);
    });
}
