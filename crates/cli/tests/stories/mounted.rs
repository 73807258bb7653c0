//! What only Linux reads: XFS, btrfs, LVM over two disks, arrays, encryption, made by their own tools in a guest that is cut off
//! while everything is mounted. A machine mounts it, and every file is what the guest wrote.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::nest::{Nest, root};

/// A machine that reads is to be ready within this, emulated.
const READY: Duration = Duration::from_secs(15);
const MAKER_DEADLINE: Duration = Duration::from_secs(240);

/// PID 1 of the guest that makes the volumes. Nothing is unmounted at its end: logs are full.
const MAKER: &str = r#"#!/bin/busybox sh
export PATH=/usr/sbin:/usr/bin DM_DISABLE_UDEV=1
/bin/busybox mount -t proc proc /proc
mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs run /run
mkdir -p /run/lock /run/lvm /run/cryptsetup /run/mdadm
echo 1 > /proc/sys/kernel/printk
modprobe -a virtio_pci virtio_blk xfs btrfs dm-mod dm-crypt md-mod raid1
fill() {
    mkdir -p /mnt/$1 && mount -t $2 $3 /mnt/$1 || exit
    [ $2 != btrfs ] || btrfs -q subvolume create /mnt/$1/sub
    mkdir -p /mnt/$1/sub/deep
    head -c ${4:-3000000} /dev/urandom > /mnt/$1/sub/deep/file
    ln -s deep/file /mnt/$1/sub/link
    chmod 640 /mnt/$1/sub/deep/file
    touch -d @1000000000 /mnt/$1/sub/deep/file
    echo "sum $1 $(sha256sum < /mnt/$1/sub/deep/file)"
}
{
mkfs.xfs -q /dev/vda1 && fill xfs xfs /dev/vda1
mkfs.btrfs -q /dev/vdb1 && fill btrfs btrfs /dev/vdb1
lvm pvcreate -q /dev/vda2 /dev/vdb2 && lvm vgcreate -q data /dev/vda2 /dev/vdb2
lvm lvcreate -q -y -i 2 -l 100%FREE -n my-files data && mkfs.xfs -q /dev/data/my-files
fill lvm xfs /dev/data/my-files 9000000
mdadm --create /dev/md/backup --run --level=1 --raid-devices=2 --homehost=guest /dev/vda3 /dev/vdb3
mke2fs -q /dev/md/backup && fill md ext4 /dev/md/backup
printf 'a good key' > /key
cryptsetup luksFormat --type luks2 --batch-mode --pbkdf-memory 32768 --pbkdf-force-iterations 4 /dev/vda4 /key
cryptsetup open --key-file /key /dev/vda4 secret && mkfs.btrfs -q /dev/mapper/secret
fill luks btrfs /dev/mapper/secret
} 2>&1 < /dev/null
sync
echo made
reboot -f
"#;

fn tool(dir: &Path, line: &str) -> String {
    let said = Command::new("sh").current_dir(dir).args(["-ec", line]).output().expect("a shell");
    assert!(said.status.success(), "{line}: {}", String::from_utf8_lossy(&said.stderr));
    String::from_utf8_lossy(&said.stdout).into_owned()
}

/// The kernel and the tools are those of the image `reader`, with what makes file systems added.
fn maker(dir: &Path) -> (PathBuf, PathBuf) {
    let image = root().join("images/reader");
    fs::create_dir_all(dir.join("more")).expect("a directory");
    fs::write(dir.join("more/init"), MAKER).expect("written");
    fs::set_permissions(dir.join("more/init"), PermissionsExt::from_mode(0o755)).expect("a mode");
    let script = "cd more; mkdir -p usr/sbin usr/lib/x86_64-linux-gnu
         for program in mkfs.xfs mkfs.btrfs; do cp \"$(command -v $program || echo /sbin/$program)\" usr/sbin/; done
         cpio --quiet -t < \"$READER\" > ../have
         ldd usr/sbin/mkfs.xfs usr/sbin/mkfs.btrfs | awk '$2 == \"=>\" {print $3}' | sort -u | while read -r library; do
             grep -q \"/${library##*/}$\" ../have || cp -L \"$library\" usr/lib/x86_64-linux-gnu/
         done
         find . | cpio --quiet -o -H newc > ../more.cpio";
    tool(dir, &format!("READER={}/initrd.cpio; {script}", image.display()));
    let initrd = dir.join("maker.cpio");
    let mut out = File::create(&initrd).expect("made");
    for part in [image.join("initrd.cpio"), dir.join("more.cpio")] {
        std::io::copy(&mut File::open(part).expect("a part"), &mut out).expect("copied");
    }
    out.flush().expect("written");
    (image.join("vmlinux"), initrd)
}

/// Two disks, and the sums of what the guest wrote to each volume.
fn make(dir: &Path) -> BTreeMap<String, String> {
    tool(
        dir,
        "truncate -s 900M a.raw; truncate -s 800M b.raw
         sgdisk -n 1:2048:+310M -n 2:0:+220M -n 3:0:+60M -n 4:0:+150M -n 5:0:+20M a.raw
         sgdisk -n 1:2048:+310M -n 2:0:+220M -n 3:0:+60M b.raw
         printf XFSB | dd of=a.raw bs=512 seek=\"$(sgdisk -i 5 a.raw | awk '/First sector/ {print $3}')\" conv=notrunc",
    );
    let (kernel, initrd) = maker(dir);
    let disk = |name: &str| format!("if=virtio,format=raw,cache=unsafe,file={}", dir.join(name).display());
    let mut guest = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-machine", "q35", "-cpu", "EPYC-v1,-svm", "-m", "2048", "-nodefaults", "-display", "none"])
        .args(["-no-reboot", "-serial", "stdio", "-append"])
        .arg("console=ttyS0 quiet panic=-1 tsc=reliable no_timer_check nokaslr pci=lastbus=0 random.trust_cpu=on")
        .args(["-drive", &disk("a.raw"), "-drive", &disk("b.raw"), "-kernel"])
        .arg(kernel)
        .arg("-initrd")
        .arg(initrd)
        .stdin(Stdio::null())
        .stdout(File::create(dir.join("maker.log")).expect("a log"))
        .spawn()
        .expect("QEMU runs");
    let end = Instant::now() + MAKER_DEADLINE;
    while guest.try_wait().expect("waited").is_none() {
        if Instant::now() > end {
            guest.kill().expect("killed");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let log = fs::read_to_string(dir.join("maker.log")).expect("a log");
    let sums = log.lines().filter_map(|line| {
        let mut words = line.trim().strip_prefix("sum ")?.split_whitespace();
        Some((words.next()?.to_owned(), words.next()?.to_owned()))
    });
    let sums: BTreeMap<String, String> = sums.collect();
    assert!(log.contains("made") && sums.len() == 5, "{log}");
    sums
}

/// XFS on a disk in a qcow2, in ext4.
fn make_nested(dir: &Path) {
    tool(
        dir,
        "head -c 2000000 /dev/urandom > innermost; mkdir outer; truncate -s 310M inner.raw
         printf '/nothing\\n0 0\\nd--755 0 0\\nfile ---644 0 0 innermost\\n$\\n' > proto
         mkfs.xfs -q -p proto inner.raw; qemu-img convert -O qcow2 inner.raw outer/inner.qcow2; rm inner.raw
         truncate -s 96M c.raw; mke2fs -q -F -t ext4 -d outer c.raw; rm -r outer",
    );
}

/// A file of the home that only its owner reads.
fn secret(nest: &Nest, name: &str, text: &str) -> String {
    let path = nest.home.join(name);
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("a mode");
    path.display().to_string()
}

fn log(nest: &Nest) -> String {
    fs::read_to_string(nest.home.join("node.log")).expect("a log")
}

const LUKS: &str = "scsi:0/4:/sub/deep/file";

#[test]
fn what_only_linux_reads_comes_out_of_a_backup() {
    let nest = Nest::new("mounted");
    nest.image("reader");
    let sums = make(&nest.home);
    make_nested(&nest.home);
    let path = |name: &str| nest.home.join(name).display().to_string();
    let password = secret(&nest, "password", "correct horse\n");
    nest.run(&["repository", "add", "R", &path("vault"), "--password-file", &password]).ok();
    nest.run(&["vm", "create", "P"]).ok();
    for disk in ["a.raw", "b.raw", "c.raw"] {
        nest.run(&["vm", "drive", "add", "P", &path(disk)]).ok();
    }
    nest.run(&["backup", "run", "P"]).ok();
    what_lies_on_both_disks_is_listed(&nest);
    only_the_right_key_opens(&nest);
    every_file_is_what_was_written(&nest, &sums);
    a_disk_inside_a_disk_is_read_too(&nest);
    what_goes_wrong_costs_one_question(&nest);
    the_machine_ends_with_the_node(&nest);
}

fn what_lies_on_both_disks_is_listed(nest: &Nest) {
    let begun = Instant::now();
    let said = nest.run(&["--json", "recover", "ls", "P@newest"]).ok();
    let took = begun.elapsed();
    let volumes: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let content = |place: &str| {
        volumes.iter().find(|volume| volume["place"] == place).map(|volume| volume["content"].to_string())
    };
    for (place, is) in [
        ("scsi:0/1:/", "XFS"),
        ("scsi:1/1:/", "btrfs"),
        ("lvm/data/my-files:/", "XFS"),
        ("md/backup:/", "ext2"),
        ("scsi:0/4:/", "an encrypted volume (LUKS)"),
    ] {
        assert_eq!(content(place), Some(format!("{is:?}")), "{place} in {said}");
    }
    let log = log(nest);
    let ready = ready(&log).unwrap_or_else(|| panic!("no machine was started: {log}"));
    assert!(ready < READY, "the machine that reads was ready after {ready:?}, the list after {took:?}");
}

fn only_the_right_key_opens(nest: &Nest) {
    let said = nest.run(&["recover", "ls", "P@newest", LUKS]).fails();
    assert!(said.contains("--key-file"), "{said}");
    let (right, wrong) = (secret(nest, "key", "a good key\n"), secret(nest, "wrong", "another key"));
    let said = nest.run(&["recover", "ls", "P@newest", LUKS, "--key-file", &wrong]).fails();
    assert!(said.contains("the key opens nothing"), "{said}");
    nest.run(&["recover", "ls", "P@newest", LUKS, "--key-file", &right]).ok();
}

/// Though nothing was unmounted.
fn every_file_is_what_was_written(nest: &Nest, sums: &BTreeMap<String, String>) {
    for (name, volume) in [
        ("xfs", "scsi:0/1"),
        ("btrfs", "scsi:1/1"),
        ("lvm", "lvm/data/my-files"),
        ("md", "md/backup"),
        ("luks", "scsi:0/4"),
    ] {
        let target = nest.home.join(name);
        fs::create_dir(&target).expect("a directory");
        let place = format!("{volume}:/sub");
        let said = nest.run(&["recover", "get", "P@newest", &place, &target.display().to_string()]);
        assert_eq!(said.status, 0, "{name}: {}", said.stderr);
        let sum = tool(&target, "sha256sum < sub/deep/file");
        assert_eq!(sum.split_whitespace().next(), sums.get(name).map(String::as_str), "{name}");
        let is = tool(&target, "stat -c '%a %Y' sub/deep/file; readlink sub/link");
        assert_eq!(is, "640 1000000000\ndeep/file\n", "{name}");
    }
}

fn a_disk_inside_a_disk_is_read_too(nest: &Nest) {
    let target = nest.home.join("nested");
    fs::create_dir(&target).expect("a directory");
    let place = "scsi:2/0:/inner.qcow2//0:/file";
    nest.run(&["recover", "get", "P@newest", place, &target.display().to_string()]).ok();
    tool(&nest.home, "cmp innermost nested/file");
}

fn what_goes_wrong_costs_one_question(nest: &Nest) {
    let said = nest.run(&["recover", "ls", "P@newest", "scsi:0/5:/"]).fails();
    assert!(said.contains("XFS cannot be mounted"), "{said}");
    let log = log(nest);
    let first = lines(&log).next().and_then(|line| number(line, "pid")).expect("a machine");
    tool(&nest.home, &format!("kill -9 {first}"));
    let said = nest.run(&["recover", "ls", "P@newest", "scsi:0/1:/sub"]).fails();
    assert!(said.contains("signal 9"), "{said}");
    assert!(nest.run(&["recover", "ls", "P@newest", "scsi:0/1:/sub"]).ok().contains("deep"));
    let said = nest.run(&["recover", "ls", "P@newest", LUKS]).fails();
    assert!(said.contains("--key-file"), "the key went with the machine: {said}");
}

fn the_machine_ends_with_the_node(nest: &Nest) {
    let machine = machine_pid(nest);
    tool(&nest.home, &format!("test -e /proc/{machine} && kill -9 {}", nest.node_pid()));
    let end = Instant::now() + Duration::from_secs(10);
    // One that nobody collected has no command line any more.
    while !fs::read(format!("/proc/{machine}/cmdline")).unwrap_or_default().is_empty() {
        assert!(Instant::now() < end, "the machine outlives the node");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The lines that the node writes when a machine that reads is ready.
fn lines(log: &str) -> impl DoubleEndedIterator<Item = &str> {
    log.lines().filter(|line| line.contains("a machine that reads is ready"))
}

fn number(line: &str, field: &str) -> Option<u64> {
    let rest = line.split(field).nth(1)?;
    let digits: String =
        rest.chars().skip_while(|c| !c.is_ascii_digit()).take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn ready(log: &str) -> Option<Duration> {
    number(lines(log).next()?, "millis").map(Duration::from_millis)
}

fn machine_pid(nest: &Nest) -> u64 {
    let log = log(nest);
    let last = lines(&log).next_back().expect("a machine was started");
    number(last, "pid").expect("its number")
}
