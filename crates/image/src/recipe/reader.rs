//! The reader: a machine that mounts volumes of others which no reader of ours reads, and gives their files to the node.
//!
//! Kernel and one initramfs with the tools that put volumes together and our own program, which answers on a port. It has
//! no shell on its console and no network: nobody is to get into it, and what it reads is not to get out.

use super::pebble::write_archive;
use super::{FAST_BOOT, Workshop};
use crate::ImageError;
use crate::cpio::Archive;
use crate::error::IoContext;
use crate::image::{ImageKind, Manifest};
use crate::kernel::{self, Kernel};
use std::fs;
use std::path::Path;

pub const PACKAGES: &[&str] =
    &[kernel::PACKAGE, "btrfs-progs", "busybox-static", "cryptsetup-bin", "kmod", "lvm2", "mdadm"];

const INIT: &str = include_str!("../../assets/reader/init");
const LVM: &str = include_str!("../../assets/reader/lvm.conf");
pub const SOURCES: &[&str] = &[include_str!("reader.rs"), INIT, LVM, FAST_BOOT];

const PROGRAMS: &[(&str, &str)] = &[
    ("btrfs-progs", "usr/bin/btrfs"),
    ("cryptsetup-bin", "usr/sbin/cryptsetup"),
    ("lvm2", "usr/sbin/lvm"),
    ("mdadm", "usr/sbin/mdadm"),
];

const MODULES: &[&str] =
    &["virtio_pci", "virtio_blk", "virtio_console", "xfs", "btrfs", "dm-mod", "dm-crypt"];
/// Those that this kernel has.
const MORE_MODULES: &[&str] = &[
    "isofs",
    "squashfs",
    "dm-cache",
    "dm-cache-smq",
    "dm-integrity",
    "dm-mirror",
    "dm-raid",
    "dm-snapshot",
    "dm-thin-pool",
    "dm-writecache",
    "linear",
    "md-mod",
    "raid0",
    "raid1",
    "raid10",
    "raid456",
    // What volumes are encrypted and checked with.
    "af_alg",
    "algif_hash",
    "algif_skcipher",
    "aesni-intel",
    "blake2b_generic",
    "camellia_generic",
    "cbc",
    "crc32c_generic",
    "crc32c-intel",
    "ecb",
    "essiv",
    "serpent_generic",
    "sha1_generic",
    "sha256_generic",
    "sha512_generic",
    "twofish_generic",
    "wp512",
    "xts",
    "xxhash_generic",
];

/// Keys that are made to be slow to guess take up to 1 GiB to be tried.
const MEMORY_BYTES: u64 = 1536 << 20;

pub fn build(workshop: &Workshop, binary: &Path) -> Result<Manifest, ImageError> {
    let quarry = workshop.quarry;
    workshop.steps.next("reader: writing kernel and initramfs")?;
    let kernel = Kernel::open(quarry)?;
    let mut archive = Archive::default();
    for dir in ["dev", "proc", "sys", "run", "tmp", "mnt", "usr/bin", "usr/sbin"] {
        archive.directory(dir);
    }
    for (link, target) in
        [("bin", "usr/bin"), ("sbin", "usr/sbin"), ("lib", "usr/lib"), ("lib64", "usr/lib64"), ("var", "run")]
    {
        archive.symlink(link, target);
    }
    archive.file("usr/bin/busybox", 0o755, quarry.read("busybox-static", "usr/bin/busybox")?);
    archive.symlink("usr/bin/sh", "busybox");
    archive.symlink("usr/sbin/modprobe", "../bin/busybox");
    archive.file("init", 0o755, INIT);
    archive.file("etc/lvm/lvm.conf", 0o644, LVM);
    let mut programs = Vec::new();
    for (package, path) in PROGRAMS {
        archive.file(path, 0o755, quarry.read(package, path)?);
        programs.push(quarry.path(path));
    }
    archive.file("usr/bin/nestling", 0o755, fs::read(binary).at("read", binary)?);
    programs.push(binary.to_owned());
    for (path, source) in quarry.libraries(&programs)? {
        archive.file(&path, 0o755, fs::read(&source).at("read", source)?);
    }
    let mut modules = kernel.closure(MODULES, false)?;
    modules.extend(kernel.closure(MORE_MODULES, true)?);
    kernel.add_to_archive(&mut archive, &modules)?;
    kernel.add_aliases(&mut archive, &modules)?;
    write_archive(&archive, &workshop.out.join("initrd.cpio"))?;
    kernel.write_vmlinux(&workshop.out.join("vmlinux"), workshop.progress())?;
    let mut manifest = Manifest::new(ImageKind::Reader);
    manifest.kernel = Some("vmlinux".to_owned());
    manifest.initrd = Some("initrd.cpio".to_owned());
    manifest.append = FAST_BOOT.to_owned();
    manifest.default_memory_bytes = MEMORY_BYTES;
    Ok(manifest)
}
