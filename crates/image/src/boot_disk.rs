//! A disk that boots with BIOS and with UEFI, written without loop devices.
//!
//! GPT: a BIOS boot partition with GRUB's core image, an EFI system partition with GRUB as the default loader,
//! and the root partition up to the end.

use crate::command::Tool;
use crate::error::IoContext;
use crate::packages::missing;
use crate::recipe::Workshop;
use crate::{ImageError, Progress};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;

const SECTOR_BYTES: u64 = 512;
const BIOS_BOOT_LBA: u64 = 2048;
const BIOS_BOOT_SECTORS: u64 = 2048;
const EFI_LBA: u64 = 4096;
const EFI_SECTORS: u64 = 131_072;
const ROOT_LBA: u64 = EFI_LBA + EFI_SECTORS;
/// The backup partition table takes the last 33 sectors; a whole MiB keeps the end aligned.
const TAIL_SECTORS: u64 = 2048;
/// Constants, so that the same packages give the same disk.
const DISK_UUID: &str = "6E657374-6C69-4E67-A000-000000000010";
const PARTITION_UUIDS: [&str; 3] = [
    "6E657374-6C69-4E67-A000-000000000011",
    "6E657374-6C69-4E67-A000-000000000012",
    "6E657374-6C69-4E67-A000-000000000013",
];
const EFI_VOLUME_ID: &str = "6e657374";

const GRUB_MODULES: &[&str] = &[
    "part_gpt",
    "ext2",
    "fat",
    "search",
    "search_label",
    "normal",
    "configfile",
    "linux",
    "echo",
    "test",
    "all_video",
];

pub struct Layout {
    pub root_offset_bytes: u64,
    pub root_bytes: u64,
}

/// Creates the disk, sparse, with its partition table.
pub fn create(disk: &Path, bytes: u64, progress: &dyn Progress) -> Result<Layout, ImageError> {
    let file = File::create(disk).at("create", disk)?;
    file.set_len(bytes).at("resize", disk)?;
    let root_sectors = bytes / SECTOR_BYTES - ROOT_LBA - TAIL_SECTORS;
    let [bios, efi, root] = PARTITION_UUIDS;
    let table = format!(
        "label: gpt\nlabel-id: {DISK_UUID}\n\
         start={BIOS_BOOT_LBA}, size={BIOS_BOOT_SECTORS}, type=21686148-6449-6E6F-744E-656564454649, uuid={bios}\n\
         start={EFI_LBA}, size={EFI_SECTORS}, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, uuid={efi}\n\
         start={ROOT_LBA}, size={root_sectors}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, uuid={root}\n"
    );
    let script = disk.with_extension("sfdisk");
    fs::write(&script, table).at("write", &script)?;
    Tool::new("sh", "partitioning the disk", progress)
        .args(["-c", r#"exec sfdisk -q "$1" < "$2""#, "sh"])
        .arg(disk)
        .arg(&script)
        .run()?;
    Ok(Layout { root_offset_bytes: ROOT_LBA * SECTOR_BYTES, root_bytes: root_sectors * SECTOR_BYTES })
}

/// Puts GRUB into the boot sector, the BIOS boot partition and the EFI system partition.
pub fn install_grub(workshop: &Workshop, disk: &Path, early_config: &str) -> Result<(), ImageError> {
    let config = workshop.work.join("grub-early.cfg");
    fs::write(&config, early_config).at("write", &config)?;
    let make = |format: &str, extra: &[&str]| -> Result<std::path::PathBuf, ImageError> {
        let core = workshop.work.join(format!("grub-{format}"));
        workshop
            .quarry
            .tool("usr/bin/grub-mkimage", "grub-mkimage", "making the boot loader")
            .args(["-O", format, "-p", "/boot/grub", "-d"])
            .arg(workshop.quarry.path(&format!("usr/lib/grub/{format}")))
            .arg("-c")
            .arg(&config)
            .arg("-o")
            .arg(&core)
            .args(GRUB_MODULES)
            .args(extra)
            .run()?;
        Ok(core)
    };
    let file = OpenOptions::new().write(true).open(disk).at("open", disk)?;
    let core = make("i386-pc", &["biosdisk"])?;
    let boot = workshop.quarry.read("grub-pc-bin", "usr/lib/grub/i386-pc/boot.img")?;
    let (boot, core) = patched(boot, fs::read(&core).at("read", &core)?)
        .ok_or_else(|| missing("grub-pc-bin", "a boot loader that fits its partition"))?;
    file.write_all_at(&boot, 0).at("write", disk)?;
    file.write_all_at(&core, BIOS_BOOT_LBA * SECTOR_BYTES).at("write", disk)?;
    let efi = make("x86_64-efi", &[])?;
    let partition = efi_partition(workshop, &efi)?;
    let bytes = fs::read(&partition).at("read", &partition)?;
    file.write_all_at(&bytes, EFI_LBA * SECTOR_BYTES).at("write", disk)
}

/// Tells the boot sector where the core image is, and the core image where its own rest is.
fn patched(mut boot: Vec<u8>, mut core: Vec<u8>) -> Option<(Vec<u8>, Vec<u8>)> {
    /// From here on the boot sector holds the disk's signature and the partition table.
    const CODE_BYTES: usize = 440;
    boot.get_mut(0x5c..0x64)?.copy_from_slice(&BIOS_BOOT_LBA.to_le_bytes());
    boot.truncate(CODE_BYTES);
    core.get_mut(0x1f4..0x1fc)?.copy_from_slice(&(BIOS_BOOT_LBA + 1).to_le_bytes());
    let fits = core.len() as u64 <= BIOS_BOOT_SECTORS * SECTOR_BYTES;
    fits.then_some((boot, core))
}

fn efi_partition(workshop: &Workshop, loader: &Path) -> Result<std::path::PathBuf, ImageError> {
    let image = workshop.work.join("efi.img");
    let file = File::create(&image).at("create", &image)?;
    file.set_len(EFI_SECTORS * SECTOR_BYTES).at("resize", &image)?;
    Tool::new("mkfs.vfat", "formatting the EFI partition", workshop.progress())
        .args(["-F", "32", "-i", EFI_VOLUME_ID, "-n", "EFI", "--invariant"])
        .arg(&image)
        .run()?;
    let tool = |name| Tool::new(name, "writing the EFI partition", workshop.progress()).arg("-i").arg(&image);
    tool("mmd").args(["::/EFI", "::/EFI/BOOT"]).run()?;
    tool("mcopy").arg(loader).arg("::/EFI/BOOT/BOOTX64.EFI").run()?;
    Ok(image)
}

pub fn to_qcow2(raw: &Path, qcow2: &Path, name: &str, progress: &dyn Progress) -> Result<(), ImageError> {
    Tool::new("qemu-img", format!("writing the disk of '{name}'"), progress)
        .args(["convert", "-f", "raw", "-O", "qcow2"])
        .arg(raw)
        .arg(qcow2)
        .run()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_code_keeps_clear_of_the_partition_table() {
        let (boot, core) = patched(vec![1; 512], vec![2; 1024]).unwrap();
        assert_eq!(boot.len(), 440);
        assert_eq!(boot[0x5c..0x64], 2048_u64.to_le_bytes());
        assert_eq!(core[0x1f4..0x1fc], 2049_u64.to_le_bytes());
        assert_eq!(core[0x1fc], 2);
    }

    #[test]
    fn a_boot_loader_that_is_too_large_or_too_small_is_refused() {
        assert!(patched(vec![0; 512], vec![0; 2048 * 512 + 1]).is_none());
        assert!(patched(vec![0; 10], vec![0; 1024]).is_none());
        assert!(patched(vec![0; 512], vec![0; 100]).is_none());
    }
}
