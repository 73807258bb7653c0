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
