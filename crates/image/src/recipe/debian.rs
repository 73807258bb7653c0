//! A usual Debian server: systemd, ssh, guest agent, cloud-init, a login on the serial console.
//!
//! One disk boots with BIOS and with UEFI. It is put together without loop devices and without running
//! grub-install; the kernel's own links stand for a generated GRUB menu, so that kernel updates just work.

use super::Workshop;
use crate::ImageError;
use crate::boot_disk;
use crate::command::{EPOCH_SECS, Tool};
use crate::error::IoContext;
use crate::image::{GENERATIONS, ImageKind, Manifest};
use crate::kernel;
use crate::packages::debian_sources;
use crate::root::Root;
use std::fs;
use std::path::Path;

/// What is installed into the guest.
const INCLUDE: &[&str] = &[
    kernel::PACKAGE,
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "curl",
    "dbus",
    "e2fsprogs",
    "initramfs-tools",
    "iproute2",
    "iputils-ping",
    "kmod",
    "less",
    "nano",
    "netbase",
    "openssh-server",
    "procps",
    "qemu-guest-agent",
    "sudo",
    "systemd",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "zstd",
];
/// Fetched beside them: the essential packages, which no package names as a dependency, and the boot loader, which
/// is used on the build machine only.
const BESIDE: &[&str] = &[
    "apt",
    "base-files",
    "base-passwd",
    "bash",
    "bsdutils",
    "coreutils",
    "dash",
    "debian-archive-keyring",
    "debianutils",
    "diffutils",
    "findutils",
    "grep",
    "grub-common",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "gzip",
    "hostname",
    "init-system-helpers",
    "libc-bin",
    "login",
    "mount",
    "ncurses-base",
    "ncurses-bin",
    "perl-base",
    "sed",
    "sysvinit-utils",
    "tar",
    "util-linux",
];

/// What is installed besides into the guest of a recipe, and what is done with it there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum With {
    Nothing,
    Databases,
}

impl With {
    const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Nothing => &[],
            Self::Databases => &["mariadb-client", "mariadb-server", "postgresql", "postgresql-client"],
        }
    }

    /// Into the guest before any package is configured.
    const fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Nothing => &[],
            Self::Databases => &[
                (
                    "etc/mysql/mariadb.conf.d/90-nestling.cnf",
                    include_str!("../../assets/database/mariadb.cnf"),
                ),
                (
                    "etc/postgresql-common/nestling.conf",
                    include_str!("../../assets/database/postgresql.conf"),
                ),
            ],
        }
    }

    const fn customize(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Databases => Some(include_str!("../../assets/database/customize")),
        }
    }
}

pub fn packages(with: With) -> Vec<&'static str> {
    [INCLUDE, BESIDE, with.packages()].concat()
}

const GRUB_EARLY: &str = include_str!("../../assets/debian/grub-early.cfg");
const GRUB: &str = include_str!("../../assets/debian/grub.cfg");
const CUSTOMIZE: &str = include_str!("../../assets/debian/customize");
const CLOUD: &str = include_str!("../../assets/debian/cloud.cfg");
const SSH_HOST_KEYS: &str = include_str!("../../assets/debian/ssh-host-keys.conf");
/// Into the guest before any package is configured, so that its first initramfs is a small one already.
const FILES: &[(&str, &str)] = &[
    ("boot/grub/grub.cfg", GRUB),
    ("etc/fstab", "LABEL=nestling-debian / ext4 defaults,noatime 0 1\n"),
    ("etc/hostname", "debian\n"),
    ("etc/hosts", "127.0.0.1 localhost\n127.0.1.1 debian\n::1 localhost ip6-localhost ip6-loopback\n"),
    ("etc/initramfs-tools/conf.d/nestling", "MODULES=list\nCOMPRESS=zstd\nCOMPRESSLEVEL=3\n"),
    ("etc/initramfs-tools/modules", "virtio_pci\nvirtio_blk\nvirtio_scsi\nsd_mod\nahci\nvirtio_net\nnvme\n"),
    ("etc/cloud/cloud.cfg.d/90_nestling.cfg", CLOUD),
    ("etc/systemd/network/90-dhcp.network", "[Match]\nName=eth* en*\n\n[Network]\nDHCP=yes\n"),
    ("etc/systemd/system/ssh.service.d/host-keys.conf", SSH_HOST_KEYS),
];

pub fn sources(with: With) -> Vec<&'static str> {
    let mut sources = vec![include_str!("debian.rs"), GRUB_EARLY, CUSTOMIZE];
    sources.extend(with.customize());
    sources.extend(FILES.iter().chain(with.files()).flat_map(|(path, text)| [path, text]));
    sources
}

const LABEL: &str = "nestling-debian";
const DISK_BYTES: u64 = 8 << 30;
const MEMORY_BYTES: u64 = 1 << 30;

pub fn build(workshop: &Workshop, with: With) -> Result<Manifest, ImageError> {
    let root_path = workshop.work.join("root");
    workshop.steps.next("debian: installing the packages")?;
    install(workshop, with, &root_path)?;
    workshop.steps.next("debian: writing the disk")?;
    let raw = workshop.work.join("disk.raw");
    let layout = boot_disk::create(&raw, DISK_BYTES, workshop.progress())?;
    let root = Root::existing(&root_path);
    let offset = layout.root_offset_bytes;
    root.write_ext4_at(&raw, offset, layout.root_bytes, LABEL, workshop.progress())?;
    boot_disk::install_grub(workshop, &raw, GRUB_EARLY)?;
    workshop.steps.next("debian: packing the disk")?;
    boot_disk::to_qcow2(&raw, &workshop.out.join("disk.qcow2"), "debian", workshop.progress())?;
    let mut manifest = Manifest::new(ImageKind::Debian);
    manifest.disk = Some("disk.qcow2".to_owned());
    manifest.disk_virtual_bytes = DISK_BYTES;
    manifest.default_memory_bytes = MEMORY_BYTES;
    manifest.generations = GENERATIONS.to_vec();
    manifest.cloud_init = true;
    Ok(manifest)
}

fn install(workshop: &Workshop, with: With, root: &Path) -> Result<(), ImageError> {
    if !rustix::process::geteuid().is_root() {
        return Err(ImageError::NeedsRoot("debian"));
    }
    let files = workshop.work.join("files");
    for (path, text) in FILES.iter().chain(with.files()) {
        let full = files.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent).at("create", parent)?;
        }
        fs::write(&full, text).at("write", &full)?;
    }
    let mut hooks = Vec::new();
    for (number, text) in with.customize().into_iter().chain([CUSTOMIZE]).enumerate() {
        let hook = workshop.work.join(format!("customize-{number}"));
        fs::write(&hook, text).at("write", &hook)?;
        hooks.push(hook);
    }
    let (suite, sources) = debian_sources(workshop.progress())?;
    let sources_path = workshop.work.join("sources.list");
    fs::write(&sources_path, sources).at("write", &sources_path)?;
    let quote = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
    // What is in the cache is not fetched twice; what it lacks is fetched.
    let archives = format!(
        r#"mkdir -p "$1/var/cache/apt/archives" && cp {}/*.deb "$1/var/cache/apt/archives/""#,
        quote(workshop.archives)
    );
    Tool::new("mmdebstrap", "installing Debian", workshop.progress())
        .args(["--mode=root", "--variant=minbase", "--format=directory", "--skip=output/mknod"])
        .arg(format!("--include={}", [INCLUDE, with.packages()].concat().join(",")))
        .arg(format!("--setup-hook={archives}"))
        .arg(format!("--essential-hook=cp -r {}/. \"$1/\"", quote(&files)))
        .args(hooks.iter().map(|hook| format!("--customize-hook=sh {} \"$1\"", quote(hook))))
        .arg(suite)
        .arg(root)
        .arg(&sources_path)
        .run()?;
    Root::existing(root).clamp_times(EPOCH_SECS)
}
