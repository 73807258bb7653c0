//! The host guest: a small Debian that runs a Nestling node, with KVM, QEMU and the network tools.
//!
//! A small initramfs finds the root disk; the root disk holds only what a node uses, so that little is read
//! under emulation. A VM writes to an overlay on it, which therefore holds the VM's whole state.

use super::pebble::write_archive;
use super::{AGENT, FAST_BOOT, POWER_BUTTON, POWER_LISTENER, SHUTDOWN, UDHCPC, Workshop};
use crate::ImageError;
use crate::boot_disk;
use crate::command::{EPOCH_SECS, Tool};
use crate::cpio::Archive;
use crate::image::{DiskFormat, Image, ImageKind, MANIFEST, Manifest};
use crate::kernel::{self, Kernel};
use crate::root::Root;
use std::path::Path;

pub const PACKAGES: &[&str] = &[
    kernel::PACKAGE,
    "bash",
    "busybox-static",
    "dnsmasq-base",
    "iproute2",
    "kmod",
    "nftables",
    "ovmf",
    "qemu-guest-agent",
    "qemu-system-x86",
    "qemu-utils",
    "seabios",
];

const INIT: &str = include_str!("../../assets/host/init");
const RC: &str = include_str!("../../assets/host/rc");
const RC_SHUTDOWN: &str = include_str!("../../assets/host/rc.shutdown");
const RC_LATE: &str = include_str!("../../assets/host/rc.late");
const FSTAB: &str = include_str!("../../assets/host/fstab");
const LOAD_KVM: &str = include_str!("../../assets/host/load-kvm");
const NODE: &str = include_str!("../../assets/host/node");
const INITTAB: &str = include_str!("../../assets/host/inittab");
const PROFILE: &str = include_str!("../../assets/host/profile");
pub const SOURCES: &[&str] = &[
    include_str!("host.rs"),
    INIT,
    RC,
    RC_LATE,
    RC_SHUTDOWN,
    FSTAB,
    LOAD_KVM,
    NODE,
    INITTAB,
    PROFILE,
    AGENT,
    POWER_BUTTON,
    POWER_LISTENER,
    SHUTDOWN,
    UDHCPC,
    FAST_BOOT,
    APPEND,
];

const PROGRAMS: &[(&str, &str)] = &[
    ("bash", "usr/bin/bash"),
    ("dnsmasq-base", "usr/sbin/dnsmasq"),
    ("iproute2", "usr/bin/ip"),
    ("iproute2", "usr/sbin/bridge"),
    ("iproute2", "usr/sbin/tc"),
    ("kmod", "usr/bin/kmod"),
    ("nftables", "usr/sbin/nft"),
    ("qemu-guest-agent", "usr/sbin/qemu-ga"),
    ("qemu-system-x86", "usr/bin/qemu-system-x86_64"),
    ("qemu-utils", "usr/bin/qemu-img"),
    ("qemu-utils", "usr/bin/qemu-nbd"),
];
/// Loaded by the programs themselves, so the loader does not list them.
const PLUGINS: &[(&str, &str)] = &[("qemu-system-x86", "usr/lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so")];
const FIRMWARE: &[(&str, &str)] = &[
    ("ovmf", "usr/share/OVMF/OVMF_CODE_4M.fd"),
    ("ovmf", "usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("seabios", "usr/share/seabios/bios-256k.bin"),
    ("seabios", "usr/share/seabios/vgabios-stdvga.bin"),
    ("qemu-system-data", "usr/share/qemu/kvmvapic.bin"),
    ("qemu-system-data", "usr/share/qemu/linuxboot_dma.bin"),
    ("qemu-system-data", "usr/share/qemu/pvh.bin"),
    ("qemu-system-data", "usr/share/qemu/qboot.rom"),
];

const MODULES: &[&str] = &[
    "8021q",
    "bridge",
    "button",
    "dummy",
    "evdev",
    "fuse",
    "ifb",
    "iso9660",
    "isofs",
    "kvm-amd",
    "kvm-intel",
    "loop",
    "macvlan",
    "macvtap",
    "nbd",
    "overlay",
    "squashfs",
    "tap",
    "tun",
    "veth",
    "vfat",
    "nls_cp437",
    "nls_ascii",
    "nls_iso8859-1",
    "vhost_net",
    "virtio_balloon",
    "virtio_blk",
    "virtio_console",
    "virtio_mem",
    "virtio_net",
    "virtio_pci",
    "virtio_rng",
    "virtio_scsi",
    "vxlan",
    "crc32c_generic",
    "i6300esb",
    // Packet filter and NAT.
    "nf_tables",
    "nft_chain_nat",
    "nft_compat",
    "nft_ct",
    "nft_fib",
    "nft_fib_inet",
    "nft_fib_ipv4",
    "nft_fib_ipv6",
    "nft_hash",
    "nft_limit",
    "nft_log",
    "nft_masq",
    "nft_nat",
    "nft_numgen",
    "nft_objref",
    "nft_quota",
    "nft_redir",
    "nft_reject",
    "nft_reject_inet",
    "nft_reject_ipv4",
    "nft_reject_ipv6",
    "nft_reject_bridge",
    "nft_meta_bridge",
    "nf_conntrack_bridge",
    "nft_dup_netdev",
    "nft_fwd_netdev",
    "nft_fib_netdev",
    "nf_log_syslog",
    "nf_conntrack_netlink",
    // Bandwidth limits.
    "sch_ingress",
    "sch_tbf",
    "sch_htb",
    "sch_fq",
    "cls_u32",
    "cls_matchall",
    "cls_flower",
    "act_police",
    "act_mirred",
    "act_gact",
];
const INITRAMFS_MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_net", "virtio_console"];

const MEMORY_BYTES: u64 = 1 << 30;
const DISK_BYTES: u64 = 16 << 30;

/// Memory that is added later must not become unmovable, or it could not be taken away again.
const APPEND: &str = "memhp_default_state=online_movable";

pub fn build(workshop: &Workshop, binary: &Path, pebble: &Image) -> Result<Manifest, ImageError> {
    workshop.steps.next("host: writing kernel and initramfs")?;
    let kernel = Kernel::open(workshop.quarry)?;
    write_initramfs(workshop, &kernel)?;
    kernel.write_vmlinux(&workshop.out.join("vmlinux"), workshop.progress())?;
    workshop.steps.next("host: laying out the root file system")?;
    let root = Root::create(&workshop.work.join("root"))?;
    lay_out(workshop, &kernel, &root, binary)?;
    add_pebble(&root, pebble)?;
    root.clamp_times(EPOCH_SECS)?;
    workshop.steps.next("host: writing the disk")?;
    write_disk(workshop, &root)?;
    let mut manifest = Manifest::new(ImageKind::Host);
    manifest.kernel = Some("vmlinux".to_owned());
    manifest.initrd = Some("initrd.cpio".to_owned());
    manifest.append = format!("{FAST_BOOT} {APPEND}");
    manifest.disk = Some("disk.qcow2".to_owned());
    manifest.disk_format = DiskFormat::Qcow2;
    manifest.disk_virtual_bytes = DISK_BYTES;
    manifest.default_memory_bytes = MEMORY_BYTES;
    Ok(manifest)
}

fn write_initramfs(workshop: &Workshop, kernel: &Kernel) -> Result<(), ImageError> {
    let mut archive = Archive::default();
    for dir in ["dev", "proc", "sys", "root", "usr/sbin", "usr/lib"] {
        archive.directory(dir);
    }
    for (link, target) in [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib")] {
        archive.symlink(link, target);
    }
    archive.file("usr/bin/busybox", 0o755, workshop.quarry.read("busybox-static", "usr/bin/busybox")?);
    archive.symlink("usr/bin/sh", "busybox");
    archive.file("init", 0o755, INIT);
    kernel.add_to_archive(&mut archive, &kernel.closure(INITRAMFS_MODULES, false)?)?;
    write_archive(&archive, &workshop.out.join("initrd.cpio"))
}

fn lay_out(workshop: &Workshop, kernel: &Kernel, root: &Root, binary: &Path) -> Result<(), ImageError> {
    let quarry = workshop.quarry;
    for dir in [
        "boot", "dev", "etc", "mnt", "proc", "root", "run", "srv", "sys", "tmp", "var/lib", "var/log",
        "var/tmp",
    ] {
        root.directory(dir)?;
    }
    root.symlink("var/run", "/run")?;
    root.symlink("var/lock", "/run")?;
    let mut programs = Vec::new();
    for (package, path) in PROGRAMS.iter().chain(PLUGINS) {
        root.file(path, 0o755, quarry.read(package, path)?)?;
        programs.push(quarry.path(path));
    }
    root.copy("usr/bin/nestling", 0o755, binary)?;
    programs.push(binary.to_owned());
    for (path, source) in quarry.libraries(&programs)? {
        root.copy(&path, 0o755, &source)?;
    }
    for (package, path) in FIRMWARE {
        root.file(path, 0o644, quarry.read(package, path)?)?;
    }
    root.file("usr/bin/busybox", 0o755, quarry.read("busybox-static", "usr/bin/busybox")?)?;
    for applet in ["depmod", "insmod", "lsmod", "modinfo", "modprobe", "rmmod"] {
        root.symlink(&format!("usr/sbin/{applet}"), "../bin/kmod")?;
    }
    root.file("usr/sbin/shutdown", 0o755, SHUTDOWN)?;
    install_applets(workshop, root)?;
    kernel.add_to_root(root.path(), &kernel.closure(MODULES, true)?)?;
    configuration(root, &kernel.release)
}

/// Links for those programs that the packages above do not bring.
fn install_applets(workshop: &Workshop, root: &Root) -> Result<(), ImageError> {
    let output = Tool::new(
        &workshop.quarry.path("usr/bin/busybox").to_string_lossy(),
        "listing applets",
        workshop.progress(),
    )
    .arg("--list-full")
    .run()?;
    for path in String::from_utf8_lossy(&output).lines() {
        let path = if path.starts_with("usr/") { path.to_owned() } else { format!("usr/{path}") };
        let directory_fits = path.starts_with("usr/bin/") || path.starts_with("usr/sbin/");
        let other = if path.starts_with("usr/bin/") {
            path.replace("usr/bin/", "usr/sbin/")
        } else {
            path.replace("usr/sbin/", "usr/bin/")
        };
        if directory_fits && !root.contains(&path) && !root.contains(&other) {
            root.symlink(&path, "/usr/bin/busybox")?;
        }
    }
    Ok(())
}

fn configuration(root: &Root, release: &str) -> Result<(), ImageError> {
    root.file("etc/rc", 0o755, RC)?;
    root.file("etc/rc.shutdown", 0o755, RC_SHUTDOWN)?;
    root.file("etc/rc.late", 0o755, RC_LATE)?;
    root.file("etc/fstab", 0o644, FSTAB)?;
    root.file("etc/load-kvm", 0o755, LOAD_KVM)?;
    root.file("etc/modprobe.d/kvm.conf", 0o644, "install kvm /etc/load-kvm\n")?;
    root.file("etc/node", 0o755, NODE)?;
    root.file("etc/agent", 0o755, AGENT)?;
    root.file("etc/inittab", 0o644, INITTAB)?;
    root.file("etc/profile", 0o644, PROFILE)?;
    root.file("etc/acpi/PWRF/00000080", 0o755, POWER_BUTTON)?;
    root.file("etc/power-listener", 0o755, POWER_LISTENER)?;
    root.file("usr/share/udhcpc/default.script", 0o755, UDHCPC)?;
    // The node runs QEMU and dnsmasq under accounts of their own where they exist.
    root.file(
        "etc/passwd",
        0o644,
        "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    )?;
    root.file("etc/shadow", 0o600, "root:*:19000:0:99999:7:::\nnobody:*:19000:0:99999:7:::\n")?;
    root.file("etc/group", 0o644, "root:x:0:\nkvm:x:104:\nnogroup:x:65534:\n")?;
    root.file("etc/hosts", 0o644, "127.0.0.1 localhost\n")?;
    root.file("etc/nsswitch.conf", 0o644, "passwd: files\ngroup: files\nhosts: files dns\n")?;
    root.file("etc/resolv.conf", 0o644, "")?;
    root.file("etc/os-release", 0o644, format!("NAME=\"Nestling host\"\nID=nestling-host\nID_LIKE=debian\nPRETTY_NAME=\"Nestling host ({release})\"\n"))
}

/// The innermost image, in the layout of the store, so that a node here can start guests at once.
fn add_pebble(root: &Root, pebble: &Image) -> Result<(), ImageError> {
    let version = pebble.dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let dir = format!("var/lib/nestling/images/.versions/{version}");
    for file in [&pebble.kernel, &pebble.initrd].into_iter().flatten() {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        root.copy(&format!("{dir}/{name}"), 0o644, file)?;
    }
    // When it was built says nothing here, and would make every host image differ.
    let mut manifest = pebble.manifest()?;
    manifest.built_at_unix_secs = EPOCH_SECS;
    root.file(&format!("{dir}/{MANIFEST}"), 0o644, manifest.to_json(&pebble.name)?)?;
    root.symlink("var/lib/nestling/images/pebble", &format!(".versions/{version}"))
}

fn write_disk(workshop: &Workshop, root: &Root) -> Result<(), ImageError> {
    let raw = workshop.work.join("disk.raw");
    root.write_ext4(&raw, DISK_BYTES, "nestling-host", workshop.progress())?;
    boot_disk::to_qcow2(&raw, &workshop.out.join("disk.qcow2"), "host", workshop.progress())
}
