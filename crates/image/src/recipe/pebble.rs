//! The pebble: the smallest guest that is still of use. Kernel and one uncompressed initramfs, no disk.
//!
//! It runs innermost, under two emulations at once, so every file and every module in it must earn its place.

use super::{AGENT, FAST_BOOT, POWER_BUTTON, POWER_LISTENER, SHUTDOWN, UDHCPC, Workshop};
use crate::ImageError;
use crate::cpio::Archive;
use crate::error::IoContext;
use crate::image::{ImageKind, Manifest};
use crate::kernel::{self, Kernel};
use std::fs::{self, File};
use std::io::{BufWriter, Write};

pub const PACKAGES: &[&str] = &[kernel::PACKAGE, "busybox-static", "qemu-guest-agent", "kmod"];

const INIT: &str = include_str!("../../assets/pebble/init");
const RC: &str = include_str!("../../assets/pebble/rc");
const INITTAB: &str = include_str!("../../assets/pebble/inittab");
pub const SOURCES: &[&str] = &[
    include_str!("pebble.rs"),
    INIT,
    RC,
    INITTAB,
    AGENT,
    POWER_BUTTON,
    POWER_LISTENER,
    SHUTDOWN,
    UDHCPC,
    FAST_BOOT,
];

const MODULES: &[&str] = &["virtio_pci", "virtio_net", "virtio_blk", "virtio_console", "button", "evdev"];
const MEMORY_BYTES: u64 = 128 << 20;

pub fn build(workshop: &Workshop) -> Result<Manifest, ImageError> {
    let quarry = workshop.quarry;
    workshop.steps.next("pebble: writing kernel and initramfs")?;
    let kernel = Kernel::open(quarry)?;
    let mut archive = Archive::default();
    for dir in ["dev", "proc", "sys", "run", "tmp", "root", "mnt", "usr/bin", "usr/sbin", "var/log"] {
        archive.directory(dir);
    }
    for (link, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64")]
    {
        archive.symlink(link, target);
    }
    archive.file("usr/bin/busybox", 0o755, quarry.read("busybox-static", "usr/bin/busybox")?);
    archive.symlink("usr/bin/sh", "busybox");
    archive.symlink("usr/sbin/init", "../bin/busybox");
    archive.symlink("var/run", "/run");
    archive.file("init", 0o755, INIT);
    archive.file("etc/rc", 0o755, RC);
    archive.file("etc/inittab", 0o644, INITTAB);
    archive.file("etc/agent", 0o755, AGENT);
    archive.file("etc/acpi/PWRF/00000080", 0o755, POWER_BUTTON);
    archive.file("etc/power-listener", 0o755, POWER_LISTENER);
    archive.file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\n");
    archive.file("etc/group", 0o644, "root:x:0:\n");
    archive.file("etc/os-release", 0o644, "NAME=pebble\nID=pebble\nPRETTY_NAME=\"Nestling pebble\"\n");
    archive.file("usr/sbin/shutdown", 0o755, SHUTDOWN);
    archive.file("usr/share/udhcpc/default.script", 0o755, UDHCPC);
    kernel.add_to_archive(&mut archive, &kernel.closure(MODULES, false)?)?;
    archive.file("usr/sbin/qemu-ga", 0o755, quarry.read("qemu-guest-agent", "usr/sbin/qemu-ga")?);
    for (path, source) in quarry.libraries(&[quarry.path("usr/sbin/qemu-ga")])? {
        archive.file(&path, 0o755, fs::read(&source).at("read", source)?);
    }
    write_archive(&archive, &workshop.out.join("initrd.cpio"))?;
    let mut manifest = Manifest::new(ImageKind::Pebble);
    manifest.kernel = Some(kernel.write_innermost(workshop.out, workshop.progress())?);
    manifest.initrd = Some("initrd.cpio".to_owned());
    manifest.append = FAST_BOOT.to_owned();
    manifest.default_memory_bytes = MEMORY_BYTES;
    Ok(manifest)
}

pub fn write_archive(archive: &Archive, path: &std::path::Path) -> Result<(), ImageError> {
    let mut out = BufWriter::new(File::create(path).at("create", path)?);
    archive.write(&mut out).and_then(|()| out.flush()).at("write", path)
}
