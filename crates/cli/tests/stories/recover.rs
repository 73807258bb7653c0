//! What was lost comes back: beside what there is, over it, and straight from the vault.

use std::{fs, os::unix::fs::PermissionsExt};

use serde_json::Value;

use crate::nest::{Nest, kill};

/// So much of the disk is written and compared; all of it would take minutes under emulation.
const HEAD_MB: u32 = 12;

struct Story {
    nest: Nest,
}

impl Story {
    /// A host with a pebble `P` that has a disk, and a repository `R`.
    fn begin() -> Self {
        let nest = Nest::new("recover");
        nest.image("pebble");
        let path = |name: &str| nest.home.join(name).display().to_string();
        fs::write(path("password"), "correct horse\n").expect("a file");
        fs::set_permissions(path("password"), PermissionsExt::from_mode(0o600)).expect("a mode");
        nest.run(&["repository", "add", "R", &path("vault"), "--password-file", &path("password")]).ok();
        nest.run(&["vm", "create", "P", "--image", "pebble"]).ok();
        nest.run(&["disk", "create", &path("data.qcow2"), "--size", "64MB"]).ok();
        nest.run(&["vm", "drive", "add", "P", &path("data.qcow2")]).ok();
        nest.run(&["vm", "start", "P"]).ok();
        let story = Self { nest };
        story.answers("P");
        story
    }

    /// Its first userland has come up, and sees the disk.
    fn answers(&self, vm: &str) {
        self.nest.wait_ok("agent", &["vm", "exec", vm, "--", "test", "-b", "/dev/vda"]);
    }

    fn guest(&self, vm: &str, line: &str) -> String {
        self.nest.run(&["vm", "exec", vm, "--", "sh", "-c", line]).ok()
    }

    fn scribble(&self, vm: &str, from: u32, megabytes: u32) {
        let line =
            format!("dd if=/dev/urandom of=/dev/vda bs=1M seek={from} count={megabytes} conv=fsync 2>&1");
        self.guest(vm, &line);
    }

    fn head(&self, vm: &str) -> String {
        let line = format!(
            "echo 3 > /proc/sys/vm/drop_caches; dd if=/dev/vda bs=1M count={HEAD_MB} 2> /dev/null | md5sum"
        );
        self.guest(vm, &line).chars().take(32).collect()
    }

    fn recover(&self, args: &[&str]) -> Value {
        let said = self.nest.run(&[&["--json", "recover"], args].concat()).ok();
        serde_json::from_str(&said).expect("a recovery")
    }
}

#[test]
fn a_machine_comes_back_beside_over_and_instead() {
    let story = Story::begin();
    let run = |args: &[&str]| story.nest.run(args);
    story.scribble("P", 1, 8);
    let then = story.head("P");
    run(&["backup", "run", "P", "--crash-consistent"]).ok();
    story.scribble("P", 4, 2);
    assert_ne!(story.head("P"), then);

    // Beside it, with other addresses, since its own are taken.
    let made = story.recover(&["vm", "P@newest", "--name", "N", "--no-switch", "--start"]);
    assert_eq!(made["disks"][0]["size_bytes"], 64 << 20, "{made}");
    story.answers("N");
    assert_eq!(story.head("N"), then);
    let macs = story.nest.ps("(Get-VMNetworkAdapter *).MacAddress | Sort-Object -Unique").ok();
    assert_eq!(macs.lines().count(), 2, "{macs}");
    run(&["vm", "turn-off", "N"]).ok();

    // Over it, once it is off: two megabytes differ.
    let refused = run(&["recover", "vm", "P@newest", "--in-place"]).fails();
    assert!(refused.contains("'P' is Running"), "{refused}");
    run(&["vm", "turn-off", "P"]).ok();
    let back = story.recover(&["vm", "P@newest", "--in-place", "--start"]);
    let written = back["disks"][0]["written_bytes"].as_u64().expect("a number");
    assert!((2 << 20..=3 << 20).contains(&written), "{back}");
    story.answers("P");
    assert_eq!(story.head("P"), then);
    // What was tracked before is not believed, and the next backup is right.
    let next: Value =
        serde_json::from_str(&run(&["--json", "backup", "run", "P", "--crash-consistent"]).ok())
            .expect("a run");
    assert_eq!(next["machines"][0]["disks"][0]["reading"], "Compared", "{next}");

    // Straight from the vault, within seconds: what it lacks is read when it is asked for.
    let newest = next["machines"][0]["point"].as_str().expect("a point");
    story.recover(&["boot", newest, "--name", "F", "--no-switch"]);
    story.answers("F");
    assert_eq!(story.head("F"), then);
    story.scribble("F", 20, 1);
    let wrote = story.guest("F", "dd if=/dev/vda bs=1M skip=20 count=1 2> /dev/null | md5sum");
    // A node that is killed holds its guest up, and nothing else.
    kill(story.nest.node_pid());
    story.answers("F");
    run(&["recover", "finish", "F"]).ok();
    assert_eq!(run(&["recover", "boots", "--json"]).ok(), "");
    fs::rename(story.nest.home.join("vault"), story.nest.home.join("away")).expect("moved");
    assert_eq!(story.head("F"), then);
    assert_eq!(story.guest("F", "dd if=/dev/vda bs=1M skip=20 count=1 2> /dev/null | md5sum"), wrote);
    fs::rename(story.nest.home.join("away"), story.nest.home.join("vault")).expect("moved");
    run(&["vm", "turn-off", "F"]).ok();
    story.recover(&["boot", newest, "--name", "G", "--no-switch"]);
    run(&["recover", "discard", "G"]).ok();
    assert!(!run(&["--json", "vm", "list"]).ok().contains("\"name\":\"G\""));

    // Instead of it, by cmdlets: with its own id, which is free.
    let id = story.nest.ps("(Get-VM P).Id").ok();
    run(&["vm", "turn-off", "P"]).ok();
    run(&["vm", "remove", "P", "--disks"]).ok();
    let again = story.nest.ps("(Get-VMRecoveryPoint P -Newest 1 | Restore-VMRecoveryPoint).Id").ok();
    assert_eq!(again, id);
    let points = story.nest.ps("(Get-VMRecoveryPoint P).Count").ok();
    assert_eq!(points.trim(), "2");
}

/// A host with images of its own: `mine` is the pebble with so many zeroes behind its initial RAM disk.
fn host_with_image(name: &str, zeroes: usize) -> Nest {
    let nest = Nest::new(name);
    nest.image("pebble");
    let (images, kernel) = (nest.home.join("images"), nest.home.join("kernel"));
    let pebble = fs::canonicalize(images.join("pebble")).expect("it is built");
    fs::create_dir(&kernel).expect("made");
    for entry in fs::read_dir(&pebble).expect("a list").flatten() {
        let mut bytes = fs::read(entry.path()).expect("read");
        let name = entry.file_name();
        let is_initrd = name.to_string_lossy().starts_with("initrd");
        if is_initrd || name.to_string_lossy().starts_with("vmlinu") {
            bytes.resize(bytes.len() + if is_initrd { zeroes } else { 0 }, 0);
            fs::write(kernel.join(name), bytes).expect("written");
        }
    }
    let about: Value =
        serde_json::from_slice(&fs::read(pebble.join("image.json")).expect("read")).expect("an image");
    fs::write(kernel.join("append"), about["append"].as_str().expect("text")).expect("written");
    // The others' are left alone.
    fs::remove_file(&images).expect("a link");
    nest.run(&["image", "import", "mine", &kernel.display().to_string()]).ok();
    nest
}

#[test]
fn a_machine_with_a_kernel_comes_back_on_another_host() {
    let lost = host_with_image("recover-lost", 0);
    let (vault, password) = (lost.home.join("vault"), lost.home.join("password"));
    fs::write(&password, "correct horse\n").expect("a file");
    fs::set_permissions(&password, PermissionsExt::from_mode(0o600)).expect("a mode");
    let add = |nest: &Nest| {
        let (vault, password) = (vault.display().to_string(), password.display().to_string());
        nest.run(&["repository", "add", "R", &vault, "--password-file", &password]).ok();
    };
    add(&lost);
    lost.run(&["vm", "create", "K", "--image", "mine", "--new-disk", "16MB", "--memory", "128MB", "--start"])
        .ok();
    let written = "echo that was it > /dev/vda; sync";
    lost.run(&["vm", "exec", "K", "--wait=240", "--", "sh", "-c", written]).ok();
    lost.run(&["backup", "run", "K", "--crash-consistent"]).ok();

    let new = host_with_image("recover-new", 512);
    add(&new);
    let said = new.run(&["recover", "vm", "K@newest", "--start"]);
    assert!(said.stderr.contains("another version of the image 'mine'"), "{}", said.stderr);
    said.ok();
    let head = new.run(&["vm", "exec", "K", "--wait=240", "--", "head", "-n", "1", "/dev/vda"]).ok();
    assert_eq!(head, "that was it\n");
    let none = new.run(&["recover", "vm", "K@newest", "--name", "N", "--image", "pebble"]).fails();
    assert!(none.contains("nestling image build pebble"), "{none}");
}
