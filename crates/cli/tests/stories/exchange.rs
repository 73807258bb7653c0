//! A machine goes out of a vault to other programs, and comes back in.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::Value;

use crate::nest::Nest;

/// So much of the disk is written and compared.
const HEAD_MB: u32 = 8;

struct Story {
    nest: Nest,
}

impl Story {
    /// A host with a pebble `P` that has a disk with something on it, and a point of it.
    fn begin() -> Self {
        let nest = Nest::new("exchange");
        nest.image("pebble");
        let story = Self { nest };
        let path = |name: &str| story.path(name);
        fs::write(path("password"), "correct horse\n").expect("a file");
        fs::set_permissions(path("password"), PermissionsExt::from_mode(0o600)).expect("a mode");
        let run = |args: &[&str]| story.nest.run(args).ok();
        run(&["repository", "add", "R", &path("vault"), "--password-file", &path("password")]);
        run(&["vm", "create", "P", "--image", "pebble"]);
        run(&["disk", "create", &path("data.qcow2"), "--size", "64MB"]);
        run(&["vm", "drive", "add", "P", &path("data.qcow2")]);
        run(&["vm", "start", "P"]);
        story.answers("P");
        story
    }

    fn path(&self, name: &str) -> String {
        self.nest.home.join(name).display().to_string()
    }

    fn answers(&self, vm: &str) {
        self.nest.wait_ok("agent", &["vm", "exec", vm, "--", "test", "-b", "/dev/vda"]);
    }

    fn head(&self, vm: &str) -> String {
        let line = format!("dd if=/dev/vda bs=1M count={HEAD_MB} 2> /dev/null | md5sum");
        let said = self.nest.run(&["vm", "exec", vm, "--", "sh", "-c", &line]).ok();
        said.chars().take(32).collect()
    }

    /// QEMU's own tool sees the same bytes in both.
    fn same(&self, a: &str, b: &str) {
        self.nest.host(&format!("qemu-img compare -q {a} {b}")).ok();
    }
}

#[test]
fn a_machine_goes_out_in_every_format_and_comes_back() {
    let story = Story::begin();
    let run = |args: &[&str]| story.nest.run(args);
    let write = format!("dd if=/dev/urandom of=/dev/vda bs=1M seek=1 count={} conv=fsync 2>&1", HEAD_MB - 2);
    run(&["vm", "exec", "P", "--", "sh", "-c", &write]).ok();
    let then = story.head("P");
    run(&["backup", "run", "P", "--crash-consistent"]).ok();

    let disk = |format: &str| story.path(&format!("{format}/scsi-0.{format}"));
    for format in ["raw", "qcow2", "vhdx", "vmdk"] {
        let folder = story.path(format);
        let said = run(&["--json", "recover", "export", "P@newest", &folder, "--format", format]).ok();
        let done: Value = serde_json::from_str(&said).expect("a recovery");
        assert_eq!(done["export_folder"], folder, "{done}");
        let mut files: Vec<String> = fs::read_dir(&folder)
            .expect("a folder")
            .map(|entry| entry.expect("a file").file_name().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(files, ["machine.ovf", "machine.xml", &format!("scsi-0.{format}")]);
        story.same(&disk("raw"), &disk(format));
    }
    story.nest.host(&format!("qemu-img check -q {}", disk("qcow2"))).ok();
    story.nest.host(&format!("qemu-img check -q {}", disk("vhdx"))).ok();
    let twice = run(&["recover", "export", "P@newest", &story.path("raw")]).fails();
    assert!(twice.contains("exists already"), "{twice}");

    // A copy, by libvirt's description: it starts as P does.
    let told = run(&["import", &story.path("vhdx"), "--name", "Copy", "--new-identity"]);
    assert!(told.stderr.contains("Copy is imported"), "{}", told.stderr);
    told.ok();
    run(&["vm", "start", "Copy"]).ok();
    story.answers("Copy");
    assert_eq!(story.head("Copy"), then);
    let refused = run(&["import", &story.path("qcow2"), "--name", "Twin"]).fails();
    assert!(refused.contains("is here already"), "{refused}");

    // Itself, by OVF and a cmdlet, once it is gone.
    run(&["vm", "turn-off", "P"]).ok();
    run(&["vm", "remove", "P", "--disks"]).ok();
    let line = format!("(Import-VM {} -Copy).ProcessorCount", story.path("vmdk/machine.ovf"));
    assert_eq!(story.nest.ps(&line).ok().trim(), "1");
    let drive = "(Get-VMHardDiskDrive P | Select-Object -First 1).Path";
    let made = story.nest.ps(drive).ok();
    story.same(&disk("raw"), made.trim());

    // What is cut off or lacks its disk leaves nothing.
    fs::remove_file(disk("vmdk")).expect("removed");
    let lost = run(&["import", &story.path("vmdk"), "--name", "Lost", "--new-identity"]).fails();
    assert!(lost.contains("scsi-0.vmdk") && lost.contains("--disks"), "{lost}");
    assert!(!run(&["--json", "vm", "list"]).ok().contains("Lost"));
}
