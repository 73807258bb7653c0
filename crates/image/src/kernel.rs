//! The guests' kernel and its modules, taken from the distribution's cloud kernel package.
//!
//! Only modules that a guest loads are copied. Order and dependencies come from depmod, never from a list kept
//! by hand: those go stale with the next kernel.

use crate::ImageError;
use crate::command::Tool;
use crate::cpio::Archive;
use crate::error::IoContext;
use crate::packages::{Quarry, missing};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub const PACKAGE: &str = "linux-image-cloud-amd64";

const LZ4_MAGIC: &[u8] = &[0x02, 0x21, 0x4c, 0x18];

pub struct Kernel<'a, 'b> {
    quarry: &'b Quarry<'a>,
    pub release: String,
    /// Module file (relative to the release's directory) to the files it depends on, all levels.
    dependencies: BTreeMap<String, Vec<String>>,
}

impl<'a, 'b> Kernel<'a, 'b> {
    pub fn open(quarry: &'b Quarry<'a>) -> Result<Self, ImageError> {
        let release = quarry.only_entry(PACKAGE, "usr/lib/modules")?;
        quarry
            .tool("usr/bin/kmod", "depmod", "indexing the kernel's modules")
            .args(["-a", "-b"])
            .arg(quarry.path(""))
            .arg(&release)
            .run()?;
        let text = quarry.read(PACKAGE, &format!("usr/lib/modules/{release}/modules.dep"))?;
        let dependencies = parse_dep(&String::from_utf8_lossy(&text));
        Ok(Self { quarry, release, dependencies })
    }

    pub fn compressed_image(&self) -> std::path::PathBuf {
        self.quarry.path(&format!("boot/vmlinuz-{}", self.release))
    }

    /// The files of the named modules and of all that they depend on. Names that this kernel does not have are
    /// left out when `optional`: kernels differ in what is built in.
    pub fn closure(&self, names: &[&str], optional: bool) -> Result<BTreeSet<String>, ImageError> {
        let mut files = BTreeSet::new();
        for name in names {
            let wanted = name.replace('-', "_");
            let found = self.dependencies.iter().find(|(file, _)| module_name(file) == wanted);
            match found {
                Some((file, dependencies)) => {
                    files.insert(file.clone());
                    files.extend(dependencies.iter().cloned());
                }
                None if optional || self.is_builtin(&wanted)? => {}
                None => return Err(missing(PACKAGE, &format!("the kernel module {name}"))),
            }
        }
        Ok(files)
    }

    fn is_builtin(&self, name: &str) -> Result<bool, ImageError> {
        let text = self.quarry.read(PACKAGE, &format!("usr/lib/modules/{}/modules.builtin", self.release))?;
        Ok(String::from_utf8_lossy(&text).lines().any(|file| module_name(file) == name))
    }

    /// Adds the modules with an index that holds only them, as busybox's modprobe reads it.
    pub fn add_to_archive(&self, archive: &mut Archive, files: &BTreeSet<String>) -> Result<(), ImageError> {
        let dir = format!("usr/lib/modules/{}", self.release);
        let mut index = String::new();
        for file in files {
            let data = self.quarry.read(PACKAGE, &format!("{dir}/{file}"))?;
            archive.file(&format!("{dir}/{file}"), 0o644, without_signature(data));
            let dependencies = self.dependencies.get(file).map(|list| list.join(" ")).unwrap_or_default();
            index.push_str(&format!("{file}: {dependencies}\n"));
        }
        archive.file(&format!("{dir}/modules.dep"), 0o644, index);
        Ok(())
    }

    /// Adds the names by which the kernel asks for these modules.
    pub fn add_aliases(&self, archive: &mut Archive, files: &BTreeSet<String>) -> Result<(), ImageError> {
        let path = format!("usr/lib/modules/{}/modules.alias", self.release);
        let text = self.quarry.read(PACKAGE, &path)?;
        let names: BTreeSet<String> = files.iter().map(|file| module_name(file)).collect();
        let is_ours = |line: &&str| {
            line.rsplit(' ').next().is_some_and(|module| names.contains(&module.replace('-', "_")))
        };
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().filter(is_ours).collect();
        archive.file(&path, 0o644, lines.join("\n") + "\n");
        Ok(())
    }

    /// Copies the modules below `root` and indexes them with depmod, so that the kernel can ask for them.
    pub fn add_to_root(&self, root: &Path, files: &BTreeSet<String>) -> Result<(), ImageError> {
        let dir = format!("usr/lib/modules/{}", self.release);
        for file in files {
            let path = root.join(&dir).join(file);
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).at("create", parent)?;
            }
            let data = self.quarry.read(PACKAGE, &format!("{dir}/{file}"))?;
            std::fs::write(&path, without_signature(data)).at("write", &path)?;
        }
        for name in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
            let from = self.quarry.path(&format!("{dir}/{name}"));
            let path = root.join(&dir).join(name);
            std::fs::copy(&from, &path).at("copy", &path)?;
        }
        self.quarry
            .tool("usr/bin/kmod", "depmod", "indexing the guest's kernel modules")
            .args(["-a", "-b"])
            .arg(root)
            .arg(&self.release)
            .run()?;
        Ok(())
    }

    /// Writes the kernel into `out` in the form that starts fastest in a guest of a guest, and returns the file's
    /// name. Unpacking lz4 there costs less than reading the four times larger ELF file; any other packing costs more.
    pub fn write_innermost(&self, out: &Path, progress: &dyn crate::Progress) -> Result<String, ImageError> {
        let image = self.compressed_image();
        let data = std::fs::read(&image).at("read", &image)?;
        if payload(&data).is_some_and(|packed| packed.starts_with(LZ4_MAGIC)) {
            let path = out.join("vmlinuz");
            std::fs::write(&path, data).at("write", path)?;
            return Ok("vmlinuz".to_owned());
        }
        self.write_vmlinux(&out.join("vmlinux"), progress)?;
        Ok("vmlinux".to_owned())
    }

    /// Writes the kernel as an ELF file that QEMU starts directly (PVH): nothing is left to unpack in the guest.
    pub fn write_vmlinux(&self, path: &Path, progress: &dyn crate::Progress) -> Result<(), ImageError> {
        let image = self.compressed_image();
        let data = std::fs::read(&image).at("read", &image)?;
        let payload = payload(&data).ok_or_else(|| missing(PACKAGE, "a kernel with a readable header"))?;
        let program = match payload {
            packed if packed.starts_with(LZ4_MAGIC) => "lz4",
            [0xfd, b'7', b'z', ..] => "xz",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
            [0x1f, 0x8b, ..] => "gzip",
            _ => return Err(missing(PACKAGE, "a kernel packed with lz4, xz, zstd or gzip")),
        };
        let packed = path.with_extension("packed");
        std::fs::write(&packed, payload).at("write", &packed)?;
        // The payload ends with its unpacked size, which the tools take for the start of another stream and
        // complain about. What counts is that an ELF file came out, which is checked.
        let script = r#""$1" -dc < "$2" > "$3"; true"#;
        Tool::new("sh", "unpacking the kernel", progress)
            .args(["-c", script, "sh", program])
            .arg(&packed)
            .arg(path)
            .run()?;
        std::fs::remove_file(&packed).at("remove", &packed)?;
        let head = std::fs::read(path).at("read", path)?;
        if head.len() < payload.len() || !head.starts_with(b"\x7fELF") {
            return Err(missing(PACKAGE, "a kernel that unpacks to an ELF file"));
        }
        Ok(())
    }
}

/// The packed kernel inside a bzImage, found as Documentation/x86/boot.rst says.
fn payload(image: &[u8]) -> Option<&[u8]> {
    let u32_at = |at: usize| Some(u32::from_le_bytes(image.get(at..at + 4)?.try_into().ok()?) as usize);
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let sectors = match *image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let start = (sectors + 1) * 512 + u32_at(0x248)?;
    image.get(start..start.checked_add(u32_at(0x24c)?)?)
}

fn parse_dep(text: &str) -> BTreeMap<String, Vec<String>> {
    let words = |list: &str| list.split_whitespace().map(str::to_owned).collect();
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, list)| (file.to_owned(), words(list)))
        .collect()
}

/// `kernel/arch/x86/kvm/kvm-amd.ko.xz` is `kvm_amd`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split(".ko").next().unwrap_or(name).replace('-', "_")
}

/// Checking a signature costs an RSA operation for every module under double emulation; the guest's kernel does
/// not insist on signatures, and a module that differs from the package's would not have passed apt.
fn without_signature(mut module: Vec<u8>) -> Vec<u8> {
    const MAGIC: &[u8] = b"~Module signature appended~\n";
    const INFO_BYTES: usize = 12;
    if let Some(rest) = module.strip_suffix(MAGIC)
        && let Some(info) = rest.len().checked_sub(INFO_BYTES)
        && let Ok(size) = rest[rest.len() - 4..].try_into().map(u32::from_be_bytes)
        && let Some(end) = info.checked_sub(size as usize)
    {
        module.truncate(end);
    }
    module
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_cut_off_and_nothing_else() {
        let mut signed = b"module".to_vec();
        signed.extend(b"sig");
        signed.extend([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 3]);
        signed.extend(b"~Module signature appended~\n");
        assert_eq!(without_signature(signed), b"module");
        assert_eq!(without_signature(b"plain".to_vec()), b"plain");
        let mut wrong = vec![0xff; 12];
        wrong.extend(b"~Module signature appended~\n");
        assert_eq!(without_signature(wrong.clone()), wrong);
    }

    #[test]
    fn module_names() {
        assert_eq!(module_name("kernel/arch/x86/kvm/kvm-amd.ko.xz"), "kvm_amd");
        assert_eq!(module_name("tun.ko"), "tun");
    }

    #[test]
    fn a_damaged_kernel_is_refused() {
        assert_eq!(payload(b""), None);
        let mut image = vec![0; 0x300];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x24c..0x250].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(payload(&image), None);
    }
}
